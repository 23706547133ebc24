"""Event lines into SQL, beside the records they are about, in the transaction of the caller.

Promises: a line arrives once however often it is loaded, and with the record it belongs to,
whichever of the two comes first: a line whose record is unknown waits in `delivery_waiting`, and
what waited for a record moves when it comes.  So do the lines of what Postfix made from its
message.  A batch of records for which nothing waits costs one query.  Nobody comes in again who was
erased from the record of a new line (`keeping.told_afterwards`).

Raises: what the database raises.

Does not: decide which record a line belongs to (`matching` does), or end transactions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from sqlalchemy import Connection, Table, any_, bindparam, delete, select
from sqlalchemy.dialects import postgresql

from carbonseal.milter.archive import (
    delivery_facts,
    event_line,
    inserting,
    matching,
    packed,
    retrieve,
    schema,
    terms,
)
from carbonseal.milter.archive.dictionary import Dictionary, chunks, insert_missing
from carbonseal.milter.archive.event_line import EventLine
from carbonseal.milter.archive.keeping import told_afterwards
from carbonseal.milter.archive.keeping.told_afterwards import Erasure
from carbonseal.milter.archive.matching import Candidate

_LONGEST_QUEUE = 60 * 86_400_000  # milliseconds: no line is of an older record
_message, _forwarded = schema.message.c, schema.forwarded.c
_waiting, _delivery = schema.delivery_waiting.c, schema.delivery.c

Line = tuple[int, int]  # segment id and position


class EventArrival(NamedTuple):
    """An event line and where in the spool it came from."""

    segment_id: int
    position: int
    line: EventLine


@dataclass(frozen=True, slots=True)
class _Item:
    """An event line, new or waiting."""

    where: Line
    line: EventLine
    facts: bytes = b""  # once it is packed
    address_ids: frozenset[int] = frozenset()
    pseudonyms: Mapping[str, int] = field(default_factory=dict)  # ids of those in the line
    redaction: str | None = None
    is_new: bool = True


@dataclass(slots=True)
class _Home:
    """A record that may have deliveries."""

    queue_id: str
    known: set[int]  # addresses by which it is found anyway
    removed_at: int | None = None
    salts: dict[bytes, Line] = field(default_factory=dict)  # of its lines
    lines: set[Line] = field(default_factory=set)


def load(
    events: Sequence[EventArrival],
    fresh: Iterable[str],
    connection: Connection,
    dictionary: Dictionary,
) -> None:
    """Insert what is not there yet.

    `fresh`: queue ids of records just inserted; gone through only where something waits.
    """
    items = [_Item((one.segment_id, one.position), one.line) for one in events]
    waiting = _which_wait(fresh, connection)
    if items or waiting:
        _Loading(connection, dictionary).run(items, waiting)


def _packed(
    items: Sequence[_Item], connection: Connection, dictionary: Dictionary
) -> dict[Line, _Item]:
    """With the ids of their addresses, which are learned where they are new."""
    named = [
        {terms.mailbox(text) for text in delivery_facts.addresses(one.line.facts)} for one in items
    ]
    unknown = {
        text
        for one, texts in zip(items, named, strict=True)
        for text in texts
        if text not in one.pseudonyms
    }
    ids = dictionary.ids("address", unknown, connection) if unknown else {}
    packed = {}
    for one, texts in zip(items, named, strict=True):
        own = {**ids, **one.pseudonyms} if one.pseudonyms else ids
        packed[one.where] = replace(
            one,
            facts=delivery_facts.pack(one.line.facts, one.line.rest, own),
            address_ids=frozenset(own[text] for text in texts),
        )
    return packed


def _which_wait(some: Iterable[str], connection: Connection) -> list[_Item]:
    """What waits for these queue ids, which are not gone through where nothing waits at all."""
    if connection.execute(select(_waiting.position).limit(1)).first() is None:
        return []
    queue_ids = set(some)
    if not queue_ids:
        return []
    found = list(_keyed(_WAITING, queue_ids, connection))
    read = [delivery_facts.unpack(bytes(row.facts)) for row in found]
    mailboxes = retrieve.mailboxes({one for some in read for one in some.address_ids}, connection)
    return [
        _Item(
            (row.segment_id, row.position),
            event_line.stored(
                row.relay,
                row.queue_id,
                delivery_facts.facts(values, mailboxes),
                None if row.salt is None else bytes(row.salt),
                values.rest,
            ),
            bytes(row.facts),
            frozenset(values.address_ids),
            redaction=row.redaction,
            is_new=False,
        )
        for row, values in zip(found, read, strict=True)
    ]


class _Loading:
    """One batch of lines on their way to their records."""

    def __init__(self, connection: Connection, dictionary: Dictionary) -> None:
        self._connection = connection
        self._dictionary = dictionary
        self._erasures: dict[str, list[Erasure]] = {}  # by record id
        self._attached: list[tuple[_Item, Candidate, str | None]] = []  # with their queue id
        self._candidates: dict[tuple[str, str], list[Candidate]] = {}  # by relay and queue id
        self._homes: dict[str, _Home] = {}
        self._rows: list[tuple[Any, ...]] = []
        self._moved: dict[Line, frozenset[int]] = {}  # with the addresses in them
        self._children: dict[tuple[str, str, str], tuple[int, int]] = {}
        self._states: set[tuple[int, str]] = set()
        self._addresses: set[tuple[int, str]] = set()
        self._repeated: list[dict[str, Any]] = []

    def run(self, items: list[_Item], waiting: list[_Item]) -> None:
        """Attach what can be, let the others wait."""
        left: dict[Line, _Item] = {one.where: one for one in (*items, *waiting)}
        queue_ids = {name for one in left.values() for name in _names(one)}
        while queue_ids:
            self._look_up(queue_ids, min((one.line.at for one in left.values()), default=0))
            told: set[str] = set()
            for one in sorted(left.values(), key=lambda one: (one.line.at, one.where)):
                if queue_ids.isdisjoint(_names(one)):
                    continue
                found = self._match(one)
                if found is not None:
                    del left[one.where]
                    told |= self._attach(self._without_erased(one, found), found)
            for one in _which_wait(told, self._connection) if told else ():
                if one.where not in self._moved:
                    left.setdefault(one.where, one)
            queue_ids = told
        self._store([one for one in left.values() if one.is_new])

    def _match(self, one: _Item) -> Candidate | None:
        line = one.line
        found = self._of(line.relay, line.queue_id, line.at, line.entered_at)
        if found is None or found.kinship != schema.OWN:
            for name in line.parents:
                parent = self._of(line.relay, name, line.at, None)
                if parent is not None:
                    return parent._replace(kinship=max(parent.kinship, schema.REQUEUED))
        return found

    def _of(self, relay: str, queue_id: str, at: int, entered_at: int | None) -> Candidate | None:
        known = self._candidates.get((relay, queue_id))
        if not known:
            return None
        now = [
            one._replace(removed_at=self._homes[one.record_id].removed_at)
            if one.kinship == schema.OWN
            else one
            for one in known
        ]
        return matching.match(queue_id, at, entered_at, now)

    def _without_erased(self, one: _Item, found: Candidate) -> _Item:
        known = self._erasures.get(found.record_id)
        if not (known and one.is_new):
            return one
        taking_part = self._homes[found.record_id].known
        made = told_afterwards.without(
            one.line, found.record_id, taking_part, known, self._connection
        )
        if made is None:
            return one
        line = made.line
        return replace(one, line=line, redaction=made.redaction, pseudonyms=made.ids)

    def _attach(self, one: _Item, found: Candidate) -> set[str]:
        """Put a line to its record; the queue ids that it tells to be of the same."""
        line, home = one.line, self._homes[found.record_id]
        if not one.is_new:
            self._moved[one.where] = one.address_ids
        if one.where in home.lines:
            return set()
        if line.salt is not None and line.salt in home.salts:
            self._repeated.append(
                {
                    "segment_id": one.where[0],
                    "position": one.where[1],
                    "record_id": found.record_id,
                }
            )
            return set()
        home.lines.add(one.where)
        if line.salt is not None:
            home.salts[line.salt] = one.where
        is_own = line.queue_id == home.queue_id
        if is_own and line.removed_at is not None:
            home.removed_at = max(line.removed_at, home.removed_at or 0)
        self._attached.append((one, found, None if is_own else line.queue_id))
        if found.kinship != schema.NOTIFICATION:
            self._states.update((state, found.record_id) for state in line.states)
        return self._tell(line, found)

    def _add_row(self, one: _Item, found: Candidate, queue_id: str | None) -> None:
        known = self._homes[found.record_id].known
        self._addresses.update(
            (identifier, found.record_id) for identifier in one.address_ids - known
        )
        key = schema.RecordId().process_bind_param(found.record_id, self._connection.dialect)
        line = one.line
        self._rows.append(
            (
                key,
                *one.where,
                line.removed_at,
                line.salt,
                one.facts,
                found.kinship,
                queue_id,
                one.redaction,
            )
        )

    def _tell(self, line: EventLine, found: Candidate) -> set[str]:
        """Note which queue ids lead to the same record."""
        told = {one.queue_id: (one.at, max(one.kinship, found.kinship)) for one in line.children}
        if line.parents and found.kinship != schema.OWN:
            told[line.queue_id] = (line.at, found.kinship)
        fresh = set()
        for queue_id, (at, kinship) in told.items():
            key = (line.relay, queue_id, found.record_id)
            if key not in self._children:
                self._children[key] = (at, kinship)
                fresh.add(queue_id)
        return fresh

    def _look_up(self, queue_ids: set[str], since: int) -> None:
        """Whom these queue ids lead to."""
        bound = {"since": terms.first_record_id(since // 1000 - _LONGEST_QUEUE)}
        fresh = []
        for row in _keyed(_MESSAGES, queue_ids, self._connection, bound):
            some = self._candidates.setdefault((row.relay, row.queue_id), [])
            candidate = Candidate(row.record_id, row.recorded_at, schema.OWN)
            if candidate not in some:
                some.append(candidate)
            if row.record_id not in self._homes:
                self._homes[row.record_id] = _home(row)
                fresh.append(row.record_id)
        kin: dict[str, list[tuple[tuple[str, str], Candidate]]] = defaultdict(list)
        for row in _keyed(_FORWARDED, queue_ids, self._connection):
            candidate = Candidate(row.record_id, row.at, row.kinship)
            kin[row.record_id].append(((row.relay, row.queue_id), candidate))
        for (relay, queue_id, record_id), (at, kinship) in self._children.items():
            if queue_id in queue_ids:
                kin[record_id].append(((relay, queue_id), Candidate(record_id, at, kinship)))
        fresh += self._meet(kin.keys() - self._homes.keys())
        for record_id, named in kin.items():
            if record_id in self._homes:  # retention may have taken it
                for name, candidate in named:
                    known = self._candidates.setdefault(name, [])
                    if candidate not in known:
                        known.append(candidate)
        self._recall(fresh)

    def _meet(self, record_ids: Iterable[str]) -> list[str]:
        """Records that are known by name only."""
        found = []
        for row in _HOMES.rows(sorted(record_ids), self._connection):
            self._homes[row.record_id] = _home(row)
            found.append(row.record_id)
        return found

    def _recall(self, record_ids: Sequence[str]) -> None:
        """What these records have been told before, and whom they must not be told of."""
        self._erasures |= told_afterwards.erasures(record_ids, self._connection)
        for row in _LINES.rows(record_ids, self._connection):
            home = self._homes[row.record_id]
            where = (row.segment_id, row.position)
            home.lines.add(where)
            if row.salt is not None:
                home.salts[bytes(row.salt)] = where
            if row.queue_id is None and row.removed_at is not None:
                home.removed_at = max(row.removed_at, home.removed_at or 0)

    def _store(self, left: Sequence[_Item]) -> None:
        connection = self._connection
        fresh = [one for one, _, _ in self._attached if one.is_new]
        packed = _packed([*fresh, *left], connection, self._dictionary)
        for one, found, queue_id in self._attached:
            self._add_row(packed.get(one.where, one), found, queue_id)
        left = [packed[one.where] for one in left]
        unwait(self._moved, connection)
        inserting.insert(schema.delivery, self._rows, connection)
        self._wait(left)
        names = ("relay", "queue_id", "record_id")
        for table, rows in (
            (
                schema.forwarded,
                [
                    dict(zip(names, key, strict=True)) | {"at": at, "kinship": kinship}
                    for key, (at, kinship) in sorted(self._children.items())
                ],
            ),
            (
                schema.delivery_state,
                [{"state": state, "record_id": one} for state, one in sorted(self._states)],
            ),
            (
                schema.delivery_address,
                [{"address_id": who, "record_id": one} for who, one in sorted(self._addresses)],
            ),
            (schema.repeated, self._repeated),
        ):
            if rows:
                connection.execute(insert_missing(table, connection), rows)

    def _wait(self, left: Sequence[_Item]) -> None:
        if not left:
            return
        # What another database of this spool had told to wait is there already.
        rows = [
            {
                "segment_id": one.where[0],
                "position": one.where[1],
                "removed_at": one.line.removed_at,
                "salt": one.line.salt,
                "facts": one.facts,
                "at": one.line.at,
                "relay": one.line.relay,
                "queue_id": one.line.queue_id,
                "redaction": None,
            }
            for one in left
        ]
        self._connection.execute(insert_missing(schema.delivery_waiting, self._connection), rows)
        named = [
            {"address_id": who, "segment_id": one.where[0], "position": one.where[1]}
            for one in left
            for who in sorted(one.address_ids)
        ]
        if named:
            table = schema.waiting_address
            self._connection.execute(insert_missing(table, self._connection), named)


def unwait(lines: Mapping[Line, Iterable[int]], connection: Connection) -> None:
    """Take these lines, with the addresses in them, out of those that wait."""
    # One statement for many; a comparison of pairs finds no index on MariaDB.
    if lines:
        connection.execute(
            delete(schema.delivery_waiting).where(*_line_is(schema.delivery_waiting)),
            [{"b_segment": segment, "b_position": position} for segment, position in lines],
        )
    named = [
        {"b_address": who, "b_segment": line[0], "b_position": line[1]}
        for line, some in lines.items()
        for who in some
    ]
    if named:
        is_who = schema.waiting_address.c.address_id == bindparam("b_address")
        connection.execute(
            delete(schema.waiting_address).where(is_who, *_line_is(schema.waiting_address)), named
        )


def _line_is(table: Table) -> tuple[Any, Any]:
    return (
        table.c.segment_id == bindparam("b_segment"),
        table.c.position == bindparam("b_position"),
    )


def _names(one: _Item) -> tuple[str, ...]:
    return (one.line.queue_id, *one.line.parents)


def _home(row: Any) -> _Home:
    try:
        known = {one.address_id for one in packed.unpack_recipients(bytes(row.recipients))}
    except ValueError:  # damaged: an index row too many is no harm
        known = set()
    return _Home(row.queue_id, {one for one in (*known, row.reverse_path_id) if one is not None})


def _key_list(column: Any) -> tuple[Any, Any]:
    """A condition on many values, for engines without arrays and for PostgreSQL."""
    listed = column.in_(bindparam("keys", expanding=True))
    return listed, column == any_(bindparam("keys", type_=postgresql.ARRAY(column.type)))


def _keyed(
    query: Sequence[Any],
    keys: set[str],
    connection: Connection,
    bound: Mapping[str, Any] | None = None,
) -> Iterable[Any]:
    statement = query[1] if connection.dialect.name == "postgresql" else query[0]
    for chunk in chunks(sorted(keys)):
        yield from connection.execute(statement, {"keys": chunk, **(bound or {})}).all()


_WAITING = tuple(select(schema.delivery_waiting).where(one) for one in _key_list(_waiting.queue_id))
_FORWARDED = tuple(select(schema.forwarded).where(one) for one in _key_list(_forwarded.queue_id))
_HOME = (_message.record_id, _message.queue_id, _message.reverse_path_id, _message.recipients)
_MESSAGES = tuple(
    select(*_HOME, _message.recorded_at, schema.circumstance.c.relay)
    .join(schema.circumstance, schema.circumstance.c.circumstance_id == _message.circumstance_id)
    .where(one, _message.record_id >= bindparam("since", type_=_message.record_id.type))
    for one in _key_list(_message.queue_id)
)
_HOMES = retrieve.ByRecord(lambda within: select(*_HOME), _message.record_id)
_LINES = retrieve.ByRecord(
    lambda within: select(
        _delivery.record_id,
        _delivery.segment_id,
        _delivery.position,
        _delivery.salt,
        _delivery.removed_at,
        _delivery.queue_id,
    ),
    _delivery.record_id,
    most=None,
)
