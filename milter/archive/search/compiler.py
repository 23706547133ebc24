"""A condition into leaves: what each field means on each engine.

Promises: `compiled` gives the tree of `conditions` for what people asked.  What no index decides
exactly has a `Check` beside the leaf that finds candidates.  Everything a person typed is a bound
parameter.

Raises: DataError for a field whose meaning nobody told.

Does not: plan or run searches (`walk`), read values as people type them (`fields`), or know what
the indexes of an engine are like (`indexes`, `networks`).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime

from sqlalchemy import Connection, and_, select

from carbonseal.milter.archive import rows, schema, terms
from carbonseal.milter.archive.search import (
    checks,
    conditions,
    fields,
    indexes,
    networks,
    people,
)
from carbonseal.milter.archive.search.conditions import (
    FALSE,
    MESSAGE,
    TRUE,
    Check,
    Every,
    Holds,
    Leaf,
    Negated,
    Node,
    Some,
)
from carbonseal.milter.archive.search.wanted import All, Condition, Either, Not
from carbonseal.policies.delivery import State
from carbonseal.policies.errors import DataError


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
        who = list(people.asked_for(condition))
        self._indexes: indexes.Indexes
        if connection.dialect.name == "postgresql":
            self._addresses, sets = people.known_with_roles(who, connection)
            self._indexes = indexes.Arrays(sets)
        else:
            self._addresses = people.known(who, connection)
            self._indexes = indexes.IndexTables(connection)

    def node(self, condition: Condition) -> Node:
        pairs = indexes.crossings(condition)
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
        left = indexes.EACH
        for one in condition.of:
            pairs = indexes.crossings(one)
            if pairs is None:
                yield self.node(one)
            else:
                left &= pairs
        if left != indexes.EACH:
            yield self._crossed(left)

    def _crossed(self, pairs: indexes.Pairs) -> Node:
        return TRUE if pairs == indexes.EACH else self._indexes.crossed(sorted(pairs))

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
        mailbox, indirect = people.base(value)
        who = people.person(mailbox)
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
            is_in: Holds = lambda c: c.client_address.between(first, last)  # noqa: E731
            return Leaf(MESSAGE, is_in, 60, is_windowed=True, clients=(first, last))
        return networks.leaf(first, last, self._connection)

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
