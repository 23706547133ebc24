"""Conditions as SQL: which index finds them, and how another index is asked about a candidate.

Promises: `compiled` turns a condition into a tree of leaves; each leaf is one index (or one column,
which cannot lead).  `leads` names the leaves whose walks together meet every record wanted;
`predicate` is the rest, asked of each candidate by primary key.  What SQL cannot decide exactly
(the order of words, fields that are not indexed) is a `Check`: `predicate` lets its candidates
pass, and `walk` decides on the stored text.  Everything a person typed is a bound parameter.

Does not: run the searches (`walk`), or know arrays (`postings`).
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Connection,
    FromClause,
    Select,
    and_,
    column,
    false,
    func,
    not_,
    or_,
    select,
    table,
    true,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import BigInteger

from carbonseal.milter.archive import postings, rows, schema, terms
from carbonseal.milter.archive.dictionary import chunks
from carbonseal.milter.archive.search import fields
from carbonseal.milter.archive.search.wanted import All, Condition, Either, Is, Not, leaves
from carbonseal.policies import header_fields

Columns: TypeAlias = Any  # the columns of a table or of its alias
Fields: TypeAlias = Sequence[tuple[str, str]]  # the header section of a candidate
Holds: TypeAlias = Callable[[Columns], ColumnElement[bool]]

_CHUNK = 500
_TERMS = column("terms", postgresql.ARRAY(BigInteger()))
# With the arrays that only PostgreSQL has, so that all conditions on a row are asked of one table.
MESSAGE = table("message", *(column(one.name, one.type) for one in schema.message.c), _TERMS)
SECTION = table(
    "header_section",
    *(column(one.name, one.type) for one in schema.header_section.c),
    column("terms", postgresql.ARRAY(BigInteger())),
)
_ONE_ROW = (MESSAGE, SECTION)  # tables with one row per record


@dataclass(frozen=True, slots=True, eq=False)
class Leaf:
    """What one index or column says."""

    table: FromClause | None  # None: the record id itself
    holds: Holds
    rank: int  # the smaller, the rarer it is as a rule
    leads: bool = True  # an index finds its records in order of time
    elements: tuple[int, ...] = ()  # PostgreSQL: of the table's array
    is_range: bool = False  # its index is in order of time for each value only
    crossed: tuple[int, bool] | None = None  # crossing and signed: what meets one meets no other


@dataclass(frozen=True, slots=True, eq=False)
class Check:
    """What only the stored header section says."""

    is_so: Callable[[Fields], bool]


@dataclass(frozen=True, slots=True, eq=False)
class Every:
    """Each of them; none at all is true."""

    of: tuple[Node, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Some:
    """At least one of them; none at all is false."""

    of: tuple[Node, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Negated:
    """Not that."""

    of: Node


Node: TypeAlias = "Leaf | Check | Every | Some | Negated"
TRUE, FALSE = Every(()), Some(())


def compiled(condition: Condition | None, connection: Connection, indexed: frozenset[str]) -> Node:
    """The tree for this engine; `indexed`: names in lower case of the fields that have terms."""
    if condition is None:
        return TRUE
    return simplified(_Compiler(condition, connection, indexed).node(condition))


def simplified(node: Node, known: Leaf | None = None) -> Node:
    """Flat, without constants, with `known` taken as true."""
    if node is known:
        return TRUE
    if known and known.crossed and isinstance(node, Leaf) and node.crossed:
        return TRUE if node.crossed == known.crossed else FALSE
    if isinstance(node, Negated):
        inner = simplified(node.of, known)
        if isinstance(inner, Negated):
            return inner.of
        return FALSE if _is(inner, Every) else TRUE if _is(inner, Some) else Negated(inner)
    if not isinstance(node, (Every, Some)):
        return node
    kind, other = (Every, Some) if isinstance(node, Every) else (Some, Every)
    flat: list[Node] = []
    for one in node.of:
        part = simplified(one, known)
        if _is(part, other):
            return part
        flat += part.of if isinstance(part, kind) else (part,)
    return flat[0] if len(flat) == 1 else kind(tuple(flat))


def is_true(node: Node) -> bool:
    """Whether nothing is demanded."""
    return _is(node, Every)


def _is(node: Node, kind: type[Every] | type[Some]) -> bool:
    return isinstance(node, kind) and not node.of


def leads(node: Node, cost: Callable[[Leaf], int]) -> list[Leaf] | None:
    """Leaves one of which each record meets, cheapest first; None when there are no such."""
    if isinstance(node, Leaf):
        return [node] if node.leads else None
    if isinstance(node, Some):
        found = [leads(one, cost) for one in node.of]
        return None if None in found else [leaf for one in found if one for leaf in one]
    if isinstance(node, Every):
        ways = [way for one in node.of if (way := leads(one, cost)) is not None]
        if len(ways) < 2:
            return ways[0] if ways else None
        return min(ways, key=lambda way: sum(map(cost, way)))
    return None


def predicate(
    node: Node,
    walked: FromClause,
    source: FromClause,
    within: Holds | None,
    *,
    is_positive: bool = True,
) -> ColumnElement[bool]:
    """That the candidate in a row of `walked` (an alias of `source`) meets it, or may meet it.

    `within` bounds the look-ups in other tables, where that helps an engine.
    """
    if isinstance(node, Leaf):
        return _asked(node, walked, source, within, is_positive=is_positive)
    if isinstance(node, Check):
        return true() if is_positive else false()
    if isinstance(node, Negated):
        return not_(predicate(node.of, walked, source, within, is_positive=not is_positive))
    parts = [predicate(one, walked, source, within, is_positive=is_positive) for one in node.of]
    return and_(true(), *parts) if isinstance(node, Every) else or_(false(), *parts)


def _asked(
    leaf: Leaf, walked: FromClause, source: FromClause, within: Holds | None, *, is_positive: bool
) -> ColumnElement[bool]:
    if leaf.table is None:
        return leaf.holds(walked.c)
    if leaf.table is source and source in _ONE_ROW:
        holds = leaf.holds(walked.c)
        return holds if is_positive else func.coalesce(holds, false(), type_=Boolean())
    other = leaf.table.alias()
    query: Select[Any] = select(1).select_from(other)
    query = query.where(other.c.record_id == walked.c.record_id, leaf.holds(other.c))
    return (query if within is None else query.where(within(other.c))).exists()


def sql_leaves(node: Node) -> Iterator[Leaf]:
    """Every leaf."""
    if isinstance(node, Leaf):
        yield node
    elif isinstance(node, Negated):
        yield from sql_leaves(node.of)
    elif not isinstance(node, Check):
        for one in node.of:
            yield from sql_leaves(one)


def has_checks(node: Node) -> bool:
    """Whether stored text must be looked at."""
    if isinstance(node, Negated):
        return has_checks(node.of)
    if isinstance(node, (Every, Some)):
        return any(has_checks(one) for one in node.of)
    return isinstance(node, Check)


def unchecked(node: Node) -> Node:
    """The part that `predicate` leaves open; TRUE where it decides everything."""
    if isinstance(node, Every):
        return simplified(Every(tuple(one for one in node.of if has_checks(one))))
    return node if has_checks(node) else TRUE


def is_met(node: Node, truth: Mapping[Leaf, bool], header: Fields) -> bool:
    """Whether a candidate meets it; `truth` is what SQL said of each leaf."""
    if isinstance(node, Leaf):
        return truth[node]
    if isinstance(node, Check):
        return node.is_so(header)
    if isinstance(node, Negated):
        return not is_met(node.of, truth, header)
    some = (is_met(one, truth, header) for one in node.of)
    return all(some) if isinstance(node, Every) else any(some)


class _Compiler:
    """Fields and values into leaves of one engine."""

    def __init__(
        self, condition: Condition, connection: Connection, indexed: frozenset[str]
    ) -> None:
        self._connection = connection
        self._indexed = indexed
        self._indexes: _Indexes = (
            _Arrays() if connection.dialect.name == "postgresql" else _IndexTables()
        )
        self._addresses = _address_ids(condition, connection)

    def node(self, condition: Condition) -> Node:
        if isinstance(condition, All):
            return Every(tuple(map(self.node, condition.of)))
        if isinstance(condition, Either):
            return Some(tuple(map(self.node, condition.of)))
        if isinstance(condition, Not):
            return self._not(condition.of)
        return self._is(condition.field, condition.value)

    def _not(self, condition: Condition) -> Node:
        if isinstance(condition, Is) and condition.field == "crossing":  # an index finds the others
            others = (one for one in schema.CROSSINGS if one != condition.value)
            return Some(tuple(self._is("crossing", one) for one in others))
        if isinstance(condition, Is) and condition.field == "signed":
            return self._is("signed", "no" if condition.value == "yes" else "yes")
        return Negated(self.node(condition))

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
            "crossing": lambda text: self._indexes.crossing(schema.CROSSINGS.index(text)),
            "signed": lambda text: self._indexes.signed(text == "yes"),
            "after": lambda text: _since(_bound(text)),
            "before": lambda text: _until(_bound(text)),
            "relay": self._relay,
            "size": _size,
            "class": self._retention,
            "disposition": _disposition,
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
            found.append(Check(functools.partial(_says, words)))
        return Every(tuple(found))

    def _header(self, name: str, value: str) -> Node:
        if name in self._indexed and not value.endswith("*"):
            return self._indexes.term(terms.field_term(name, value))
        return Check(functools.partial(_has_field, name, value))

    def _message_id(self, value: str) -> Node:
        found = terms.term(value)
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
        return Leaf(MESSAGE, lambda c: c.client_address.between(first, last), 60, is_range=True)

    def _relay(self, value: str) -> Node:
        columns = schema.circumstance.c
        query = select(columns.circumstance_id).where(columns.relay == terms.storable(value))
        found = list(self._connection.scalars(query))
        if not found:
            return FALSE
        return Leaf(MESSAGE, lambda c: c.circumstance_id.in_(found), 90, leads=False)

    def _retention(self, value: str) -> Node:
        columns = schema.retention.c
        query = select(columns.retention_id).where(columns.name == terms.storable(value))
        found = list(self._connection.scalars(query))
        if not found:
            return FALSE
        return Leaf(MESSAGE, lambda c: c.retention_id.in_(found), 90, leads=False)


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

    def crossing(self, number: int) -> Node:
        return Some(tuple(_crossed(number, is_signed) for is_signed in (False, True)))

    def signed(self, is_signed: bool) -> Node:
        return Some(tuple(_crossed(number, is_signed) for number in range(len(schema.CROSSINGS))))


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
        return of_array(MESSAGE, postings.with_address(identifier, roles), 10)

    def domain(self, identifier: int, roles: int) -> Node:
        return of_array(MESSAGE, postings.with_domain(identifier, roles), 50)

    def term(self, identifier: int) -> Node:
        return of_array(SECTION, postings.with_word(identifier), 40)

    def login(self, digest: int) -> Node:
        return of_array(MESSAGE, postings.with_login(digest), 30)

    def crossing(self, number: int) -> Node:
        return of_array(MESSAGE, postings.with_crossing(number), 70)

    def signed(self, is_signed: bool) -> Node:
        return of_array(MESSAGE, postings.with_signed(is_signed), 80)


_Indexes: TypeAlias = "_IndexTables | _Arrays"


def of_array(source: FromClause, elements: Sequence[int], rank: int) -> Leaf:
    """Any of these elements of the array of a table."""
    found = tuple(elements)
    return Leaf(source, lambda c: c.terms.overlap(list(found)), rank, elements=found)


def _address_ids(condition: Condition, connection: Connection) -> dict[bytes, int]:
    """The dictionary ids of all addresses asked for, by their hash."""
    hashes = {
        terms.mailbox_hash(terms.mailbox(_base(one.value)[0]))
        for one in leaves(condition)
        if one.field in fields.FIELDS and fields.FIELDS[one.field].roles
    }
    columns = schema.address.c
    query = select(columns.address_hash, columns.address_id)
    return {
        bytes(digest): identifier
        for chunk in chunks(sorted(hashes), _CHUNK)
        for digest, identifier in connection.execute(query.where(columns.address_hash.in_(chunk)))
    }


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


def _column(holds: Holds) -> Leaf:
    """A column without an index."""
    return Leaf(MESSAGE, holds, 90, leads=False)


def _says(words: Sequence[str], header: Fields) -> bool:
    """Whether a subject holds these words in this order."""
    wanted = f" {' '.join(words)} "
    return any(
        wanted in f" {' '.join(terms.sequence(value))} " for value in _values("subject", header)
    )


def _has_field(name: str, value: str, header: Fields) -> bool:
    """Whether a field has this value, or begins with it, as `terms.field_terms` reads values."""
    wanted, is_beginning = terms.field_text(value.removesuffix("*")), value.endswith("*")
    for one in _values(name, header):
        found = terms.field_texts(one)
        if wanted in found or (is_beginning and any(some.startswith(wanted) for some in found)):
            return True
    return False


def _values(name: str, header: Fields) -> Iterator[str]:
    for one, value in header:
        if one.strip().lower() == name:
            yield terms.storable(header_fields.decode_text(terms.octets(value)))
