"""A condition into leaves: what each field means on each engine.

Promises: `compiled` gives the tree of `conditions` for what people asked.  What no index decides
exactly has a `Check` beside the leaf that finds candidates.  Everything a person typed is a bound
parameter.

Raises: DataError for a field whose meaning nobody told.

Does not: plan or run searches (`walk`), or read values as people type them (`fields`).
"""

from __future__ import annotations

import functools
import ipaddress
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Connection,
    Select,
    Text,
    and_,
    any_,
    bindparam,
    cast,
    func,
    null,
    select,
    text,
    union_all,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import TypeEngine

from carbonseal.milter.archive import (
    as_given,
    postings,
    retrieve,
    role_sets,
    rows,
    schema,
    terms,
)
from carbonseal.milter.archive.as_given import AsGiven
from carbonseal.milter.archive.role_sets import RoleSets
from carbonseal.milter.archive.search import checks, conditions, estimate, fields
from carbonseal.milter.archive.search.conditions import (
    FALSE,
    MESSAGE,
    SECTION,
    TRUE,
    Check,
    Every,
    Holds,
    Leaf,
    Negated,
    Node,
    Some,
)
from carbonseal.milter.archive.search.wanted import All, Condition, Either, Is, Not, leaves
from carbonseal.policies.delivery import State
from carbonseal.policies.errors import DataError

_MOST_CLIENTS = 256  # of a network that are looked up one by one
_FEW = 15_000  # messages of a network: as quickly sorted as its clients are looked up
_BY_CLIENT = "message_by_client"


def _clients() -> Select[Any]:
    """The clients of a network, each by one step down the index; one more than are looked up."""
    address = schema.message.c.client_address
    first, last = (bindparam(name, type_=address.type) for name in ("first", "last"))
    least = select(func.min(address)).where(address <= last)
    present = least.where(address >= first).cte("present", recursive=True)
    known = present.columns[0]
    following = least.where(address > known).correlate(present).scalar_subquery()
    present = present.union_all(select(following).where(known.is_not(None)))
    known = present.columns[0]
    return select(known).where(known.is_not(None)).limit(_MOST_CLIENTS + 1)


_CLIENTS = _clients()
# The same for MariaDB, which would look through its whole index for each step of that.
_LEAPT = text(
    "SELECT DISTINCT client_address FROM message WHERE client_address BETWEEN :first AND :last "
    "LIMIT :most"
)


def _are_few(network: Mapping[str, bytes], connection: Connection) -> bool:
    message = schema.message
    some = select(message.c.record_id).where(
        message.c.client_address.between(network["first"], network["last"])
    )
    some = some.with_hint(message, f"FORCE INDEX ({_BY_CLIENT})", connection.dialect.name)
    return estimate.rows(some, connection) <= _FEW


def compiled(
    condition: Condition | None,
    connection: Connection,
    indexed: frozenset[str],
    is_ours: checks.IsOurs | None = None,
) -> Node:
    """The tree for this engine; `indexed`: names in lower case of the fields that have terms.

    `is_ours`: whether an address is ours; None where nobody asks what left late.
    Raises: DataError where somebody does.
    """
    if condition is None:
        return TRUE
    return conditions.simplified(_Compiler(condition, connection, indexed, is_ours).node(condition))


class _Compiler:
    """Fields and values into leaves of one engine."""

    def __init__(
        self,
        condition: Condition,
        connection: Connection,
        indexed: frozenset[str],
        is_ours: checks.IsOurs | None,
    ) -> None:
        self._connection = connection
        self._is_ours = is_ours
        self._indexed = indexed
        people = list(_people(condition))
        self._indexes: _Indexes
        if connection.dialect.name == "postgresql":
            self._addresses, sets = _known_to_arrays(people, connection)
            self._indexes = _Arrays(sets)
        else:
            self._addresses = _known(people, connection)
            self._indexes = _IndexTables()

    def node(self, condition: Condition) -> Node:
        pairs = _crossings(condition)
        if pairs is not None:
            return self._crossed(pairs)
        if isinstance(condition, All):
            return Every(tuple(self._every(condition)))
        if isinstance(condition, Either):
            return Some(tuple(map(self.node, condition.of)))
        if isinstance(condition, Not):
            return Negated(self.node(condition.of))
        return self._is(condition.field, condition.value)

    def _every(self, condition: All) -> Iterator[Node]:
        """What is asked of crossings and signatures together: one index has both."""
        left = _EACH
        for one in condition.of:
            pairs = _crossings(one)
            if pairs is None:
                yield self.node(one)
            else:
                left &= pairs
        if left != _EACH:
            yield self._crossed(left)

    def _crossed(self, pairs: Pairs) -> Node:
        return TRUE if pairs == _EACH else self._indexes.crossed(sorted(pairs))

    def _is(self, name: str, value: str) -> Node:
        if name.startswith(fields.HEADER):
            return self._header(name.removeprefix(fields.HEADER), value)
        roles = fields.FIELDS[name].roles
        if name == "domain":
            return self._domain(value, roles)
        if roles:
            return self._participant(value, roles)
        known: Mapping[str, Callable[[str], Node]] = {
            "subject": self._subject,
            "message-id": self._message_id,
            "queue-id": self._queue_id,
            "record-id": lambda text: Leaf(None, lambda c: c.record_id == text, 0),
            "client": self._client,
            "login": lambda text: self._indexes.login(rows.login_hash(text)),
            "after": lambda text: _since(_bound(text)),
            "before": lambda text: _until(_bound(text)),
            "relay": self._relay,
            "size": _size,
            "class": self._retention,
            "disposition": _disposition,
            "state": _state,
            "copy": _copy,
            "left": self._left,
        }
        return known[name](value)

    def _participant(self, value: str, roles: int) -> Node:
        if value == "<>":
            return Leaf(MESSAGE, lambda c: c.reverse_path_id.is_(None), 90, leads=False)
        if value.startswith("@"):
            return self._domain(value[1:], roles)
        mailbox, indirect = _base(value)
        who = _person(mailbox)
        identifier = self._addresses.get(who.digest)
        if identifier is None:
            return FALSE
        roles = _with_indirect(roles, is_wanted=indirect)
        return self._indexes.address(identifier, who.domain_id, roles)

    def _domain(self, value: str, roles: int) -> Node:
        name = value.removeprefix(".")
        return self._indexes.domain(
            terms.term(name), _with_indirect(roles, is_wanted=name != value)
        )

    def _subject(self, value: str) -> Node:
        words = value.split(" ")
        found: list[Node] = [
            self._indexes.term(terms.word_term(word)) for word in dict.fromkeys(words)
        ]
        if len(words) > 1:
            found.append(Check(checks.says(words)))
        return Every(tuple(found))

    def _header(self, name: str, value: str) -> Node:
        if name in self._indexed and not value.endswith("*"):
            return self._indexes.term(terms.field_term(name, value))
        return Check(checks.has_field(name, value))

    def _message_id(self, value: str) -> Node:
        found = terms.found_by(value)
        return Leaf(MESSAGE, lambda c: c.message_id_hash == found, 1)

    def _queue_id(self, value: str) -> Node:
        text = terms.storable(value).rstrip("*")
        if not value.endswith("*"):
            return Leaf(MESSAGE, lambda c: c.queue_id == text, 1)
        last = text + "\U0010ffff"
        return Leaf(
            MESSAGE, lambda c: and_(c.queue_id >= text, c.queue_id < last), 2, is_range=True
        )

    def _client(self, value: str) -> Node:
        network = ipaddress.ip_network(value)
        first, last = terms.client_bounds(network)
        if first == last:
            return Leaf(MESSAGE, lambda c: c.client_address == first, 20)
        if self._connection.dialect.name == "postgresql":  # where each month has its own index
            return Leaf(
                MESSAGE, lambda c: c.client_address.between(first, last), 60, is_windowed=True
            )
        return self._network(first, last)

    def _network(self, first: bytes, last: bytes) -> Leaf:
        """Each client is in order of time, but not all of them together."""
        network: dict[str, Any] = {"first": first, "last": last}
        is_in: Holds = lambda c: c.client_address.between(first, last)  # noqa: E731
        asked: Any = _CLIENTS
        if self._connection.dialect.name != "sqlite":
            if _are_few(network, self._connection):
                return Leaf(MESSAGE, is_in, 60, is_range=True, index=_BY_CLIENT)
            asked, network["most"] = _LEAPT, _MOST_CLIENTS + 1
        some = list(self._connection.scalars(asked, network))
        if len(some) > _MOST_CLIENTS:
            return Leaf(MESSAGE, is_in, 60, is_range=True)
        has_one: Holds = lambda c: c.client_address.in_(some)  # noqa: E731
        return Leaf(MESSAGE, has_one, 60, is_windowed=True, index=_BY_CLIENT)

    def _relay(self, value: str) -> Node:
        columns = schema.circumstance.c
        query = select(columns.circumstance_id).where(columns.relay == terms.storable(value))
        found = list(self._connection.scalars(query))
        if not found:
            return FALSE
        return Leaf(MESSAGE, lambda c: c.circumstance_id.in_(found), 90, leads=False)

    def _left(self, value: str) -> Node:
        if self._is_ours is None:
            raise DataError(f"left:{value} asks which domains are ours, and that is not known here")
        return Every((_happened(schema.REDIRECTED), Check(checks.left_late(self._is_ours))))

    def _retention(self, value: str) -> Node:
        stamp, columns = schema.retention.c, schema.circumstance.c
        query = select(columns.circumstance_id).where(
            columns.retention_id == stamp.retention_id, stamp.name == terms.storable(value)
        )
        found = list(self._connection.scalars(query))
        if not found:
            return FALSE
        return Leaf(MESSAGE, lambda c: c.circumstance_id.in_(found), 90, leads=False)


class _IndexTables:
    """SQLite and MariaDB: tables and column indexes that end in the record id."""

    def address(self, identifier: int, _domain_id: int | None, roles: int) -> Node:
        return Leaf(
            schema.participant,
            lambda c: and_(c.address_id == identifier, c.roles.bitwise_and(roles) != 0),
            10,
        )

    def domain(self, identifier: int, roles: int) -> Node:
        return Leaf(
            schema.participant_domain,
            lambda c: and_(c.domain_id == identifier, c.roles.bitwise_and(roles) != 0),
            50,
        )

    def term(self, identifier: int) -> Node:
        return Leaf(schema.header_term, lambda c: c.term_id == identifier, 40)

    def login(self, digest: int) -> Node:
        return Leaf(MESSAGE, lambda c: c.login_hash == digest, 30)

    def crossed(self, pairs: Sequence[tuple[int, bool]]) -> Node:
        return Some(tuple(_crossed(number, is_signed) for number, is_signed in pairs))


def _crossed(number: int, is_signed: bool) -> Leaf:
    """One index has both: each pair of them is in order of time."""
    return Leaf(
        MESSAGE,
        lambda c: and_(c.crossing == number, c.is_signed == is_signed),
        70,
        crossed=(number, is_signed),
    )


class _Arrays:
    """PostgreSQL: elements of the arrays of terms."""

    def __init__(self, sets: RoleSets) -> None:
        self._sets = sets

    def address(self, identifier: int, domain_id: int | None, roles: int) -> Node:
        possible = self._sets.of_address(domain_id)
        return _of_any(postings.with_address(identifier, roles, possible), 10)

    def domain(self, identifier: int, roles: int) -> Node:
        possible = self._sets.of_domain(identifier)
        return _of_any(postings.with_domain(identifier, roles, possible), 50)

    def term(self, identifier: int) -> Node:
        return conditions.of_array(SECTION, postings.with_word(identifier), 40)

    def login(self, digest: int) -> Node:
        return conditions.of_array(MESSAGE, postings.with_login(digest), 30)

    def crossed(self, pairs: Sequence[tuple[int, bool]]) -> Node:
        if not pairs:
            return FALSE
        return conditions.of_array(MESSAGE, postings.with_crossed(pairs), 60 + 5 * len(pairs))


def _of_any(elements: Sequence[int], rank: int) -> Node:
    return conditions.of_array(MESSAGE, elements, rank) if elements else FALSE


_Indexes: TypeAlias = "_IndexTables | _Arrays"


Pairs: TypeAlias = frozenset[tuple[int, bool]]  # of a crossing's number, and signed or not
_EACH: Pairs = frozenset(itertools.product(range(len(schema.CROSSINGS)), (False, True)))


def _crossings(condition: Condition) -> Pairs | None:
    """The crossings, signed and unsigned, that meet it; None where it asks for something else."""
    match condition:
        case Is("crossing", value):
            return frozenset(one for one in _EACH if schema.CROSSINGS[one[0]] == value)
        case Is("signed", value):
            return frozenset(one for one in _EACH if one[1] == (value == "yes"))
        case Not(of):
            pairs = _crossings(of)
            return None if pairs is None else _EACH - pairs
        case All(of) | Either(of):
            found = [pairs for one in of if (pairs := _crossings(one)) is not None]
            if not of or len(found) < len(of):
                return None
            start, merge = (
                (_EACH, frozenset.intersection)
                if isinstance(condition, All)
                else (frozenset[tuple[int, bool]](), frozenset.union)
            )
            return functools.reduce(merge, found, start)
    return None


class _Who(NamedTuple):
    """An address, or everybody of a domain."""

    digest: bytes | None  # of the address
    domain_id: int | None  # None: the address has no domain


def _people(condition: Condition) -> Iterator[_Who]:
    """Everybody who is asked for."""
    for one in leaves(condition):
        value = one.value
        if one.field not in fields.FIELDS or not fields.FIELDS[one.field].roles or value == "<>":
            continue
        if one.field == "domain" or value.startswith("@"):
            name = value if one.field == "domain" else value[1:]
            yield _Who(None, terms.term(name.removeprefix(".")))
        else:
            yield _person(_base(value)[0])


def _person(address: str) -> _Who:
    mailbox = terms.mailbox(address)
    _, at, domain = mailbox.rpartition("@")
    return _Who(terms.mailbox_hash(mailbox), terms.term(domain) if at and domain else None)


def _known(people: Iterable[_Who], connection: Connection) -> dict[bytes | None, int]:
    """The dictionary ids of all addresses asked for, by their hash."""
    hashes = {one.digest for one in people if one.digest is not None}
    found = _ADDRESSES.as_given(sorted(hashes), connection) if hashes else ()
    return {bytes(digest): identifier for digest, identifier in found}


def _known_to_arrays(
    people: Sequence[_Who], connection: Connection
) -> tuple[dict[bytes | None, int], RoleSets]:
    """The same in one statement with what roles they may hold."""
    hashes = {one.digest for one in people if one.digest is not None}
    holders = {one.domain_id for one in people if one.domain_id is not None}
    known: dict[bytes | None, int] = {}
    sets = []
    if people:
        given = {
            "hashes": as_given.array_text(sorted(hashes)) if hashes else "{}",
            "holders": as_given.array_text(sorted(holders | {role_sets.ANY_ADDRESS})),
        }
        for identifier, digest, roles in _WITH_ROLE_SETS.rows(given, connection):
            if digest is None:
                sets.append((identifier, roles))
            else:
                known[bytes(digest)] = identifier
    return known, role_sets.told(sets)


_ADDRESSES = retrieve.ByKey(
    select(schema.address.c.address_hash, schema.address.c.address_id),
    schema.address.c.address_hash,
)


def _array(name: str, kind: TypeEngine[Any]) -> ColumnElement[Any]:
    return cast(bindparam(name, type_=Text()), postgresql.ARRAY(kind))


def _with_role_sets() -> CompoundSelect[Any]:
    address, held = schema.address.c, schema.role_set.c
    hashes = _array("hashes", address.address_hash.type)
    holders = _array("holders", held.holder_id.type)
    return union_all(
        select(address.address_id, address.address_hash, null()).where(
            address.address_hash == any_(hashes)
        ),
        select(held.holder_id, null(), held.roles).where(held.holder_id == any_(holders)),
    )


_WITH_ROLE_SETS = AsGiven(_with_role_sets())


def _base(value: str) -> tuple[str, bool]:
    """The mailbox that is asked for, and whether with its extensions."""
    local_part, at, domain = value.rpartition("@")
    if at and local_part.endswith("+*"):
        return f"{local_part[:-2]}@{domain}", True
    return value, False


def _with_indirect(roles: int, *, is_wanted: bool) -> int:
    return roles | roles << schema.INDIRECT if is_wanted else roles


def _bound(text: str) -> str:
    return record_id_at(datetime.fromisoformat(text))


def record_id_at(moment: datetime) -> str:
    """The smallest record id of that millisecond."""
    return terms.first_record_id(int(moment.timestamp() * 1000))


def _since(first: str) -> Leaf:
    return Leaf(None, lambda c: c.record_id >= first, 85)


def _until(last: str) -> Leaf:
    return Leaf(None, lambda c: c.record_id < last, 90, leads=False)


def _size(value: str) -> Leaf:
    first, dots, last = value.partition("..")
    if dots:
        return _column(lambda c: c.size.between(int(first), int(last)))
    number = int(value.lstrip("<>="))
    if value.startswith(">="):
        return _column(lambda c: c.size >= number)
    if value.startswith(">"):
        return _column(lambda c: c.size > number)
    if value.startswith("<="):
        return _column(lambda c: c.size <= number)
    if value.startswith("<"):
        return _column(lambda c: c.size < number)
    return _column(lambda c: c.size == number)


def _disposition(value: str) -> Leaf:
    number = schema.DISPOSITIONS.index(value)
    return _column(lambda c: c.disposition == number)


def _state(value: str) -> Node:
    return Every((*_possible({State(value)}), Check(checks.has_recipient(State(value)))))


def _copy(value: str) -> Node:
    states = checks.COPY_STATES[value]
    has_copies = _column(lambda c: c.copy_count > 0)
    return Every((has_copies, *_possible(states), Check(checks.has_copy(states))))


# What becomes of most messages, or is seen only by what the log does not say, has no index.
_INDEXED_STATES = frozenset(
    (State.DEFERRED, State.BOUNCED, State.EXPIRED, State.HELD, State.DELETED, State.REFUSED)
)


def _possible(states: Iterable[State]) -> Iterator[Node]:
    """What an index says of messages that may stand so; nothing where none does."""
    if _INDEXED_STATES.issuperset(states):
        yield Some(tuple(_happened(one) for one in sorted(states)))


def _happened(what: str) -> Leaf:
    """The log has told that, at some time."""
    number = schema.DELIVERY_STATES.index(what)
    return Leaf(schema.delivery_state, lambda c: c.state == number, 25)


def _column(holds: Holds) -> Leaf:
    """A column without an index."""
    return Leaf(MESSAGE, holds, 90, leads=False)
