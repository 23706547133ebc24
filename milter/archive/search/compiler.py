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
from typing import Any, TypeAlias

from sqlalchemy import Connection, Select, and_, bindparam, func, select

from carbonseal.milter.archive import postings, retrieve, rows, schema, terms
from carbonseal.milter.archive.search import checks, conditions, fields
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
        self._indexes: _Indexes = (
            _Arrays() if connection.dialect.name == "postgresql" else _IndexTables()
        )
        self._addresses = _address_ids(condition, connection)

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
        identifier = self._addresses.get(terms.mailbox_hash(terms.mailbox(mailbox)))
        if identifier is None:
            return FALSE
        return self._indexes.address(identifier, _with_indirect(roles, is_wanted=indirect))

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
        # MariaDB would look through its whole index for each client; SQLite goes down once.
        is_sqlite = self._connection.dialect.name == "sqlite"
        bounds = {"first": first, "last": last}
        some = list(self._connection.scalars(_CLIENTS, bounds)) if is_sqlite else []
        if is_sqlite and len(some) <= _MOST_CLIENTS:
            return Leaf(MESSAGE, lambda c: c.client_address.in_(some), 60, is_windowed=True)
        return Leaf(MESSAGE, lambda c: c.client_address.between(first, last), 60, is_range=True)

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

    def address(self, identifier: int, roles: int) -> Node:
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

    def address(self, identifier: int, roles: int) -> Node:
        return conditions.of_array(MESSAGE, postings.with_address(identifier, roles), 10)

    def domain(self, identifier: int, roles: int) -> Node:
        return conditions.of_array(MESSAGE, postings.with_domain(identifier, roles), 50)

    def term(self, identifier: int) -> Node:
        return conditions.of_array(SECTION, postings.with_word(identifier), 40)

    def login(self, digest: int) -> Node:
        return conditions.of_array(MESSAGE, postings.with_login(digest), 30)

    def crossed(self, pairs: Sequence[tuple[int, bool]]) -> Node:
        if not pairs:
            return FALSE
        return conditions.of_array(MESSAGE, postings.with_crossed(pairs), 60 + 5 * len(pairs))


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


def _address_ids(condition: Condition, connection: Connection) -> dict[bytes, int]:
    """The dictionary ids of all addresses asked for, by their hash."""
    hashes = {
        terms.mailbox_hash(terms.mailbox(_base(one.value)[0]))
        for one in leaves(condition)
        if one.field in fields.FIELDS and fields.FIELDS[one.field].roles
    }
    found = _ADDRESSES.rows(sorted(hashes), connection) if hashes else ()
    return {bytes(digest): identifier for digest, identifier in found}


_ADDRESSES = retrieve.ByKey(
    select(schema.address.c.address_hash, schema.address.c.address_id),
    schema.address.c.address_hash,
)


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
