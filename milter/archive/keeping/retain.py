"""What is past its time goes: first the subject, then the header section, then the record.

Promises: only what carries a stamp of its own goes, and not before that stamp allows; what a legal
hold covers stays whole.  Work is done in bounded batches, each a transaction of its own in which
holds are looked at again and tombstones are written, so whoever is interrupted has lost nothing and
goes on next time.  On PostgreSQL a month of which nothing but held records is left to keep goes as
a whole, the held ones carried over in the same transaction (`months`).

Raises: DataError for a clock that cannot be right.

Does not: write the audit or ask anybody (`commands` does); the number of the audit event that
allows it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import Connection, Engine, and_, case, func, or_, select

from carbonseal.milter.archive import schema, terms
from carbonseal.milter.archive.keeping import (
    cleaning,
    delivery_taking,
    holds,
    months,
    taking,
    transactions,
)
from carbonseal.milter.archive.keeping.holds import Find, Hold
from carbonseal.milter.archive.keeping.taking import Held
from carbonseal.policies.errors import DataError

BATCH = 500  # records in one transaction
_MICROSECONDS = 1_000_000
_SILENCE = timedelta(days=90)  # without any mail; more looks like a clock that is wrong
_NAMES = {taking.RECORD: "record", taking.HEADER: "header section", taking.SUBJECT: "subject"}
_SALT = 16  # octets of header_section.salt while the subject is there


@dataclass(frozen=True, slots=True)
class Due:
    """One part of one retention class whose time is past before a certain moment."""

    retention_id: int
    name: str  # of the class
    part: int  # taking.RECORD, HEADER or SUBJECT
    before: int  # microseconds: what was recorded earlier is past its time

    @property
    def what(self) -> str:
        """The part in words."""
        return _NAMES[self.part]


@dataclass(frozen=True, slots=True)
class Count:
    """How much of a class is past its time."""

    due: Due
    expired: int  # held ones included
    held: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run would do."""

    now: datetime
    counts: tuple[Count, ...]
    by_hold: dict[str, int]  # records past their time, by the name of the hold that keeps them
    months: tuple[months.Month, ...]  # that go as a whole; their records are counted above


@dataclass(slots=True)
class Done:
    """What a run did."""

    taken: dict[tuple[str, str], int] = field(default_factory=dict)  # (class, what): how many
    months: list[str] = field(default_factory=list)
    lines: int = 0  # of the mail log, in all
    waiting_lines: int = 0  # of them, of messages without a record
    addresses: int = 0
    domains: int = 0
    refused: list[tuple[str, str]] = field(default_factory=list)  # record id and why it stays

    def add(self, due: Due, count: int) -> None:
        """Count what was taken."""
        key = (due.name, due.what)
        self.taken[key] = self.taken.get(key, 0) + count


def due(connection: Connection, now: datetime) -> list[Due]:
    """Every part of every class that can be past its time by now; records first."""
    moment = int(now.timestamp() * _MICROSECONDS)
    found: list[Due] = []
    for row in connection.execute(select(schema.retention).order_by(schema.retention.c.name)):
        for part, seconds in (
            (taking.RECORD, row.keep),
            (taking.HEADER, row.headers),
            (taking.SUBJECT, row.subject),
        ):
            if seconds is not None:
                before = moment - seconds * _MICROSECONDS
                found.append(Due(row.retention_id, row.name, part, before))
    # What goes as a whole need not go in parts before.
    return sorted(found, key=lambda one: one.part)


def check_clock(engine: Engine, now: datetime) -> None:
    """Refuse a time long after the last mail: a clock that is wrong would take everything.

    Raises: DataError.
    """
    with engine.connect() as connection:
        newest = connection.execute(select(func.max(schema.message.c.recorded_at))).scalar_one()
    if newest is not None and int(now.timestamp() * _MICROSECONDS) - newest > _SILENCE / timedelta(
        microseconds=1
    ):
        last = datetime.fromtimestamp(newest / _MICROSECONDS, UTC)
        raise DataError(
            f"the newest record is of {last:%Y-%m-%d} and it is {now:%Y-%m-%d} now: check the "
            "clock, and if it is right say so with --now"
        )


def plan(engine: Engine, now: datetime) -> Plan:
    """What is past its time, and what of it is held; live holds as they were looked up last."""
    with engine.connect() as connection:
        dues = due(connection, now)
        counts = tuple(_count(one, dues, connection) for one in dues)
        by_hold: dict[str, int] = {}
        for one in dues:
            for name, count in _by_hold(one, dues, connection):
                by_hold[name] = by_hold.get(name, 0) + count
        whole = tuple(months.whole(connection, _of_records(dues)))
    return Plan(now, tuple(one for one in counts if one.expired), by_hold, whole)


def _of_records(dues: Sequence[Due]) -> dict[int, int]:
    """By retention class: before which moment whole records go."""
    return {one.retention_id: one.before for one in dues if one.part == taking.RECORD}


def _expired(one: Due, dues: Sequence[Due]) -> Any:
    """The condition on a message (joined with its header section) that this part is to go."""
    columns = schema.message.c
    found = [
        columns.circumstance_id.in_(months.of_class(one.retention_id)),
        # The key is in order of time, so only what is old is looked at.
        columns.record_id < terms.first_record_id(one.before // 1000 + 1),
        columns.recorded_at <= one.before,
    ]
    if one.part != taking.RECORD:
        # What goes with its whole is counted there.
        for other in dues:
            if other.retention_id == one.retention_id and other.part < one.part:
                found.append(columns.recorded_at > other.before)
    if one.part == taking.SUBJECT:
        section = schema.header_section.c
        found.append(or_(section.has_subject, func.length(section.salt) == _SALT))
    return and_(*found)


def _source(one: Due) -> Any:
    if one.part == taking.RECORD:
        return schema.message
    return schema.message.join(
        schema.header_section, schema.header_section.c.record_id == schema.message.c.record_id
    )


def _count(one: Due, dues: Sequence[Due], connection: Connection) -> Count:
    held = case((holds.is_held(schema.message.c.record_id), 1), else_=0)
    query = (
        select(func.count(), func.coalesce(func.sum(held), 0))
        .select_from(_source(one))
        .where(_expired(one, dues))
    )
    expired, kept = connection.execute(query).one()
    return Count(one, expired, int(kept))


def _by_hold(one: Due, dues: Sequence[Due], connection: Connection) -> Iterator[tuple[str, int]]:
    member, hold = schema.hold_member.c, schema.hold.c
    query = (
        select(hold.name, func.count())
        .select_from(
            _source(one)
            .join(schema.hold_member, member.record_id == schema.message.c.record_id)
            .join(schema.hold, hold.hold_id == member.hold_id)
        )
        .where(_expired(one, dues), hold.released_at.is_(None))
        .group_by(hold.name)
    )
    yield from connection.execute(query)


class Run:
    """One run of retention; `apply` does it."""

    def __init__(
        self,
        engine: Engine,
        now: datetime,
        *,
        event: int,
        find: Find,
        indexed: frozenset[str],
        protected: frozenset[str] = frozenset(),
        progress: Callable[[int], None] = lambda count: None,
        batch: int = BATCH,
    ) -> None:
        """`protected`: mailboxes that stay in the dictionary, used or not (archive recipients)."""
        self._engine = engine
        self._now = now
        self._event = event
        self._find = find
        self._indexed = indexed
        self._progress = progress
        self._batch = batch
        self._ids = taking.Ids()
        self._cleaning = cleaning.Cleaning(engine, protected)
        self._known: frozenset[int] = frozenset()
        self._noted: set[int] = set()  # addresses in lines of the mail log that went
        self._lines = 0  # how many that were
        self.done = Done()

    def apply(self) -> Done:
        """Take out what is past its time and not held."""
        with self._engine.connect() as connection:
            dues = due(connection, self._now)
        self._look_up_holds(dues)
        self._whole_months(dues)
        for one in dues:
            for record_ids in self._batches(one, dues):
                self._take(one, dues, record_ids)
                self._progress(len(record_ids))
            self._cleaning.sweep()
        self._take_waiting(dues)
        self.done.addresses, self.done.domains = self._cleaning.addresses, self._cleaning.domains
        holds.forget_released(self._engine)
        return self.done

    def _take_waiting(self, dues: Sequence[Due]) -> None:
        """Lines of the mail log without a record go when the last record of their time would.

        They carry no stamp: while a class keeps records for ever, or nothing is stamped, they stay.
        """
        with self._engine.connect() as connection:
            query = select(schema.retention.c.keep)
            keeps = list(connection.scalars(query))
        if not keeps or None in keeps:
            return
        before = min(one.before for one in dues if one.part == taking.RECORD)
        while True:
            lines, addresses = transactions.run(self._engine, partial(self._waiting, before))
            self._cleaning.note_addresses(addresses)
            self.done.lines += len(lines)
            self.done.waiting_lines += len(lines)
            if len(lines) < self._batch:
                break
        self._cleaning.sweep()

    def _waiting(self, before: int, connection: Connection) -> tuple[list[taking.Line], set[int]]:
        lines, addresses = delivery_taking.remove_waiting(before, connection, self._batch)
        taking.bury(lines, taking.RECORD, self._event, connection)
        return lines, addresses

    def _look_up_holds(self, dues: Sequence[Due]) -> None:
        """Find again what live holds cover, among what could go."""
        if not dues:
            return
        latest = datetime.fromtimestamp(max(one.before for one in dues) / _MICROSECONDS, UTC)
        with self._engine.connect() as connection:
            in_force = holds.in_force(connection)
        for hold in in_force:
            if hold.is_live:
                self._extend(hold, latest + timedelta(seconds=1))
        self._known = holds.ids(in_force)

    def _extend(self, hold: Hold, until: datetime) -> None:
        holds.extend(self._engine, hold, self._find, until=until, progress=lambda count: None)

    def _whole_months(self, dues: Sequence[Due]) -> None:
        with self._engine.connect() as connection:
            whole = list(months.whole(connection, _of_records(dues)))
        for month in whole:
            taken = self._guarded(
                dues, partial(months.empty, month, _of_records(dues), self._event)
            )
            if taken is None:
                continue  # something in it has been held, or has come, in the meantime
            self.done.months.append(month.name)
            self.done.lines += taken.lines
            for one in dues:
                if one.part == taking.RECORD and taken.by_class.get(one.retention_id):
                    self.done.add(one, taken.by_class[one.retention_id])
            self._cleaning.note_terms(taken.elements)
            self._cleaning.note_addresses(taken.addresses)
            self._cleaning.sweep()
            self._progress(sum(taken.by_class.values()))

    def _guarded(self, dues: Sequence[Due], work: Callable[[Connection], Any]) -> Any:
        """Do work in a transaction that no new hold can get ahead of."""
        while True:
            result = transactions.run(self._engine, lambda connection: self._once(connection, work))
            if result is not _HELD_ANEW:
                return result
            self._look_up_holds(dues)

    def _once(self, connection: Connection, work: Callable[[Connection], Any]) -> Any:
        if not holds.locked(connection) <= self._known:
            return _HELD_ANEW
        try:
            result = work(connection)
        except Exception:
            self._ids.forget()
            raise
        return result

    def _batches(self, one: Due, dues: Sequence[Due]) -> Iterator[list[str]]:
        """Ids of records of which this part is to go, oldest first."""
        last = "0" * terms.RECORD_ID_LENGTH
        columns = schema.message.c
        query = (
            select(columns.record_id)
            .select_from(_source(one))
            .where(_expired(one, dues), ~holds.is_held(columns.record_id))
            .order_by(columns.record_id)
            .limit(self._batch)
        )
        while True:
            with self._engine.connect() as connection:
                record_ids = list(connection.scalars(query.where(columns.record_id > last)))
            if not record_ids:
                return
            yield record_ids
            last = record_ids[-1]

    def _take(self, one: Due, dues: Sequence[Due], record_ids: list[str]) -> None:
        """Take one batch; a record that cannot be read stays, and is named."""

        def work(connection: Connection) -> list[Held]:
            return self._taken(one, dues, record_ids, connection)

        try:
            gone = self._guarded(dues, work)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as fault:
            if len(record_ids) == 1:
                self.done.refused.append((record_ids[0], f"{type(fault).__name__}: {fault}"))
                return
            middle = len(record_ids) // 2
            self._take(one, dues, record_ids[:middle])
            self._take(one, dues, record_ids[middle:])
            return
        self._ids.keep()
        self._cleaning.note_addresses(self._noted)
        self.done.add(one, len(gone))
        self.done.lines += self._lines
        if one.part == taking.RECORD:
            self._cleaning.note_records(gone)

    def _taken(
        self, one: Due, dues: Sequence[Due], record_ids: list[str], connection: Connection
    ) -> list[Held]:
        columns = schema.message.c
        query = (
            select(columns.record_id)
            .select_from(_source(one))
            # Asked again: since the batch was listed, one may have been held, or gone.
            .where(
                columns.record_id.in_(record_ids),
                _expired(one, dues),
                ~holds.is_held(columns.record_id),
            )
        )
        records = taking.fetch(sorted(connection.scalars(query)), connection)
        self._lines = 0
        taking.bury([held.line for held in records], one.part, self._event, connection)
        if one.part == taking.RECORD:
            taking.remove(records, connection)
            record_ids = [held.record_id for held in records]
            lines, self._noted = delivery_taking.remove(record_ids, connection)
            self._lines = len(lines)
            if lines:
                taking.bury(lines, taking.RECORD, self._event, connection)
        else:
            change = taking.without_header if one.part == taking.HEADER else taking.without_subject
            changes = [change(held, self._event, connection) for held in records]
            taking.replace(changes, connection, self._ids, indexed=self._indexed)
        return records


_HELD_ANEW = object()
