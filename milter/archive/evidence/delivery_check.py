"""Is every event line in SQL the one that was sealed, and is every one there that was?

Rows of `delivery` are read record by record, then those that wait; of each sealed segment with
event lines a bit a line is kept in memory.  A row is held to the leaf of its line, and what it is
found by to what it says.

Promises: says which event lines were changed, removed, or added, to which record no line gives
them, and which searches by state do not find.  What retention took out and erasure redacted is
told from loss, as with records.  What SQL has changed while it was read is read again before
anything is said of it.

Does not: look at records (`record_check` does, and says which segments have event lines).
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple

from sqlalchemy import Engine, select

from carbonseal.milter.archive import delivery_facts, event_line, retrieve, schema, terms
from carbonseal.milter.archive.dictionary import chunks
from carbonseal.milter.archive.event_line import EventLine
from carbonseal.milter.archive.evidence import absence, event_leaf, rewriting, sealed_segment
from carbonseal.milter.archive.evidence.finding import Finding
from carbonseal.milter.archive.evidence.reckoning import BROKEN
from carbonseal.milter.archive.evidence.record_check import Counts
from carbonseal.milter.archive.evidence.record_scan import EVERYTHING, Span
from carbonseal.milter.archive.evidence.rewriting import Rewritten
from carbonseal.milter.archive.evidence.sealed_segment import SealedSegment
from carbonseal.policies import quantity

_PAGE = 1000
_OPEN = 16  # sealed segments in memory
_PATIENCE = 24 * 3600 * 1_000_000  # microseconds; after that a line should have been sealed
_LONGEST_QUEUE = 60 * 86_400_000  # milliseconds
# Microseconds; no line that shows a message come in is attached to a record so much later.
_BEFORE = 7 * 3600 * 1_000_000
_CLOCK = 1_000_000  # microseconds that a syslog cuts off
_delivery, _waiting, _message = (
    schema.delivery.c,
    schema.delivery_waiting.c,
    schema.message.c,
)


class _Name(NamedTuple):
    """What a record says of its message."""

    relay: str
    queue_id: str


class DeliveryCheck:
    """One look at all event lines of a span."""

    def __init__(
        self,
        engine: Engine,
        counts: Counts,
        with_events: Collection[int],
        *,
        span: Span = EVERYTHING,
        relay: str | None = None,
        rewritten: Rewritten = rewriting.NOTHING,
        now: float | None = None,
    ) -> None:
        """`with_events`: segments whose event lines must be there; those of the relay, if any."""
        self._engine = engine
        self._counts = counts
        self._wanted = with_events
        self._span = span
        self._relay = relay
        self._rewritten = rewritten
        moment = time.time() if now is None else now
        self._patience = int(moment * 1_000_000) - _PATIENCE
        self._open: OrderedDict[int, SealedSegment | None] = OrderedDict()
        self._mailboxes: dict[int, str] = {}  # of the page at hand
        self._seen: dict[int, bytearray] = {}
        self._unsealed: dict[int, tuple[int, str | None, int]] = {}  # count, record, oldest

    def run(self) -> Iterator[Finding | int]:
        """Findings, and 1 for each segment that was done with."""
        for page in self._pages():
            yield from self._look_at(page)
        for row in self._waiting_rows():
            yield from self._check(row, None, _Name(row.relay, row.queue_id))
        for segment_id in sorted(self._wanted):
            yield from self._close(segment_id)
            yield 1
        yield from self._never_sealed()

    def _pages(self) -> Iterator[list[Any]]:
        """Rows of whole records."""
        query = select(schema.delivery).order_by(
            _delivery.record_id, _delivery.segment_id, _delivery.position
        )
        # Lines of the span may be of messages that were in the queue long before.
        last = None
        if self._span.first is not None:
            begin = terms.millisecond(self._span.first) - _LONGEST_QUEUE
            query = query.where(_delivery.record_id >= terms.first_record_id(begin))
        if self._span.last is not None:
            query = query.where(_delivery.record_id <= self._span.last)
        most = _PAGE
        while True:
            after = query if last is None else query.where(_delivery.record_id > last)
            with self._engine.connect() as connection:
                page = list(connection.execute(after.limit(most)).all())
            if len(page) < most:
                if page:
                    yield page
                return
            whole = [row for row in page if row.record_id != page[-1].record_id]
            if whole:
                last, most = whole[-1].record_id, _PAGE
                yield whole
            else:
                most *= 2  # one message with more lines than a page

    def _waiting_rows(self) -> Iterator[Any]:
        query = select(schema.delivery_waiting).order_by(_waiting.segment_id, _waiting.position)
        last: Any = None
        while True:
            after = query
            if last is not None:
                after = query.where(
                    (_waiting.segment_id > last.segment_id)
                    | (
                        (_waiting.segment_id == last.segment_id)
                        & (_waiting.position > last.position)
                    )
                )
            with self._engine.connect() as connection:
                page = connection.execute(after.limit(_PAGE)).all()
            self._mailboxes = self._named(page)
            yield from page
            if len(page) < _PAGE:
                return
            last = page[-1]

    def _look_at(self, page: list[Any]) -> Iterator[Finding]:
        record_ids = sorted({row.record_id for row in page})
        self._mailboxes = self._named(page)
        names = self._names(record_ids)
        found_by = self._found_by(record_ids)
        for record_id, rows in itertools.groupby(page, lambda row: row.record_id):
            name = names.get(record_id)
            some = list(rows)
            if name is None:
                where = self._segment(some[0].segment_id)
                if where is None or self._is_wanted(where):
                    what = "the log tells of a record that is not there"
                    yield Finding("removed", what, record_id=record_id)
            lines: list[tuple[Any, EventLine]] = []
            for row in some:
                own = None if name is None else _Name(name.relay, row.queue_id or name.queue_id)
                yield from self._check(row, record_id, own, lines)
            yield from self._check_kin(some, lines, record_id)
            if name is not None:
                yield from self._check_time(lines, record_id, name.recorded_at)
            yield from self._check_states(some, lines, record_id, found_by.get(record_id, set()))

    def _check(
        self,
        row: Any,
        record_id: str | None,
        name: _Name | None,
        lines: list[tuple[Any, EventLine]] | None = None,
    ) -> Iterator[Finding]:
        """One row against its leaf; what it says is added to `lines`."""
        segment = self._segment(row.segment_id)
        if segment is None:
            self._wait(row, record_id)
            return
        if not self._is_wanted(segment):
            return
        self._counts.deliveries += 1
        position = row.position
        if not 0 <= position < segment.lines or not event_leaf.is_marked(segment.entry(position)):
            what = "no event line was sealed at its place of the segment"
            yield segment.finding("added", what, position, record_id)
            return
        seen = self._seen.setdefault(row.segment_id, bytearray((segment.lines >> 3) + 1))
        if seen[position >> 3] >> (position & 7) & 1:
            what = "another event line stands at the same place of the segment"
            yield segment.finding("added", what, position, record_id)
            return
        seen[position >> 3] |= 1 << (position & 7)
        if name is None:
            return
        problem, line, event = self._reckoned(row, name, segment)
        if problem is not None:
            again = self._again(row, record_id)
            if again is not None:
                self._mailboxes |= self._named([again])
                problem, line, event = self._reckoned(again, name, segment)
        if event is not None:
            self._counts.events.add(event)
            self._counts.redacted += 1
        if problem is not None:
            yield segment.finding("changed", problem, position, record_id)
        elif line is not None and lines is not None:
            lines.append((row, line))

    def _named(self, page: Iterable[Any]) -> dict[int, str]:
        """The addresses in these rows."""
        ids: set[int] = set()
        for row in page:
            with contextlib.suppress(ValueError):  # said of the row itself
                ids.update(delivery_facts.unpack(bytes(row.facts)).address_ids)
        with self._engine.connect() as connection:
            return retrieve.mailboxes(ids, connection)

    def _is_wanted(self, segment: SealedSegment) -> bool:
        return self._relay in (None, segment.relay)

    def _reckoned(
        self, row: Any, name: _Name, segment: SealedSegment
    ) -> tuple[str | None, EventLine | None, int | None]:
        """What is wrong with a row, what it says, and the audit event that redacted it."""
        event = None
        try:
            values = delivery_facts.unpack(bytes(row.facts))
            facts = delivery_facts.facts(values, self._mailboxes)
            salt = None if row.salt is None else bytes(row.salt)
            salts, event = event_leaf.stored(salt, row.redaction)
            content = event_line.content(*name, facts, values.rest)
            if not self._fits(event_leaf.entry(content, salts), segment, row.position):
                return "the event line is not what was sealed", None, event
            line = event_line.stored(*name, facts, salt, values.rest)
        except BROKEN as fault:
            return f"the event line cannot be read back ({type(fault).__name__})", None, event
        if row.removed_at != line.removed_at:
            what = "the event line is what was sealed, and removed_at does not follow from it"
            return what, line, event
        return None, line, event

    def _fits(self, found: bytes, segment: SealedSegment, position: int) -> bool:
        """Whether it is what was sealed, or what an erasure has left of that."""
        if found == segment.entry(position):
            return True
        by = segment.left(self._rewritten).line(position).get(found)
        if by is not None:
            self._counts.take_rewritten(by)
        return by is not None

    def _again(self, row: Any, record_id: str | None) -> Any:
        table = schema.delivery_waiting if record_id is None else schema.delivery
        query = select(table).where(
            table.c.segment_id == row.segment_id, table.c.position == row.position
        )
        if record_id is not None:
            query = query.where(table.c.record_id == record_id)
        with self._engine.connect() as connection:
            return connection.execute(query).one_or_none()

    def _check_kin(
        self, rows: list[Any], lines: list[tuple[Any, EventLine]], record_id: str
    ) -> Iterator[Finding]:
        """Lines of other queue ids need a line that tells that they belong to the record."""
        if all(row.queue_id is None for row in rows) or len(lines) < len(rows):
            return  # what could not be read is said
        told = {one.queue_id for _, line in lines for one in line.children}
        told |= {line.queue_id for _, line in lines if line.parents}
        for row, _ in lines:
            segment = self._segment(row.segment_id)
            if row.queue_id is not None and row.queue_id not in told and segment is not None:
                what = f"no line tells that {row.queue_id} was made from the message"
                yield segment.finding("added", what, row.position, record_id)

    def _check_time(
        self, lines: list[tuple[Any, EventLine]], record_id: str, recorded_at: int
    ) -> Iterator[Finding]:
        """A line from before a record is not of it if an earlier message had its queue id.

        The other way round nothing is certain: the log may not have told of the earlier one's end.
        """
        for row, line in lines:
            segment = self._segment(row.segment_id)
            if row.queue_id is not None or line.at + _BEFORE > recorded_at or segment is None:
                continue
            owner = self._owner(line)
            if owner is not None:
                what = f"the line is older than its message, and is of an earlier one: {owner}"
                yield segment.finding("moved", what, row.position, record_id)

    def _owner(self, line: EventLine) -> str | None:
        """The newest record of that relay and queue id from before the line."""
        common = schema.circumstance.c
        query = (
            select(_message.record_id)
            .join(schema.circumstance, common.circumstance_id == _message.circumstance_id)
            .where(
                _message.queue_id == line.queue_id,
                common.relay == line.relay,
                _message.recorded_at <= line.at + _CLOCK,
            )
            .order_by(_message.recorded_at.desc())
            .limit(1)
        )
        with self._engine.connect() as connection:
            found: str | None = connection.execute(query).scalar_one_or_none()
        return found

    def _check_states(
        self,
        rows: list[Any],
        lines: list[tuple[Any, EventLine]],
        record_id: str,
        found_by: set[int],
    ) -> Iterator[Finding]:
        wanted = {
            state
            for row, line in lines
            if row.kinship != schema.NOTIFICATION
            for state in line.states
        }
        lacking = wanted - found_by
        if lacking and not lacking <= self._found_by([record_id]).get(record_id, set()):
            names = ", ".join(schema.DELIVERY_STATES[state] for state in sorted(lacking))
            what = f"searches do not find it by all that the log told: {names}"
            yield Finding("hidden", what, record_id=record_id)

    def _names(self, record_ids: list[str]) -> dict[str, Any]:
        """Rows with relay, queue_id and recorded_at by record id."""
        query = select(
            _message.record_id, schema.circumstance.c.relay, _message.queue_id, _message.recorded_at
        ).join(
            schema.circumstance, schema.circumstance.c.circumstance_id == _message.circumstance_id
        )
        with self._engine.connect() as connection:
            return {
                row.record_id: row
                for chunk in chunks(record_ids)
                for row in connection.execute(query.where(_message.record_id.in_(chunk)))
            }

    def _found_by(self, record_ids: list[str]) -> dict[str, set[int]]:
        columns = schema.delivery_state.c
        found: dict[str, set[int]] = {}
        with self._engine.connect() as connection:
            for chunk in chunks(record_ids):
                query = select(schema.delivery_state).where(columns.record_id.in_(chunk))
                for row in connection.execute(query):
                    found.setdefault(row.record_id, set()).add(row.state)
        return found

    def _segment(self, segment_id: int) -> SealedSegment | None:
        if segment_id in self._open:
            self._open.move_to_end(segment_id)
            return self._open[segment_id]
        found = self._open[segment_id] = sealed_segment.fetch(self._engine, segment_id)
        while len(self._open) > _OPEN:
            self._open.popitem(last=False)
        return found

    def _wait(self, row: Any, record_id: str | None) -> None:
        try:
            at = delivery_facts.unpack(bytes(row.facts)).base
        except ValueError:
            at = 0
        count, first, oldest = self._unsealed.get(row.segment_id, (0, record_id, at))
        self._unsealed[row.segment_id] = (count + 1, first, min(at, oldest))

    def _close(self, segment_id: int) -> Iterator[Finding]:
        """All rows of a segment have come by."""
        segment = self._segment(segment_id)
        if segment is None:
            return
        seen = self._seen.pop(segment_id, b"")
        there = {place for place in range(8 * len(seen)) if seen[place >> 3] >> (place & 7) & 1}
        with self._engine.connect() as connection:
            gone = absence.tombstones(segment_id, connection)
            aside = absence.aside(segment_id, connection)
            repeats = absence.repeats(segment_id, connection)
        events = segment.event_lines
        self._counts.deliveries_gone += len(gone.records & events)
        for place in sorted(gone.records & there):
            yield segment.finding(
                "added", "retention had taken it out, and it is here again", place
            )
        missing = events - there - gone.records - aside
        repeated = {place: repeats[place] for place in missing & repeats.keys()}
        self._counts.repeated += len(repeated)
        for place in self._not_elsewhere(segment, repeated):
            what = "is said to be a repetition, and what it repeats is not there"
            yield segment.finding("removed", what, place, repeats[place])
        for place in sorted(missing - repeated.keys()):
            yield segment.finding("removed", "the event line is missing", place)

    def _not_elsewhere(self, segment: SealedSegment, repeats: dict[int, str]) -> Iterator[int]:
        for place, record_id in sorted(repeats.items()):
            wanted = segment.entry(place)
            line = (segment.segment_id, place)
            if not any(one == wanted for one in self._entries(record_id, line)):
                yield place

    def _entries(self, record_id: str, line: tuple[int, int]) -> Iterator[bytes]:
        """What was sealed of a record's lines; then of lines that were taken out."""
        query = select(_delivery.segment_id, _delivery.position).where(
            _delivery.record_id == record_id
        )
        tombs = select(schema.tombstone.c.segment_id).distinct()
        with self._engine.connect() as connection:
            found = [(row.segment_id, row.position) for row in connection.execute(query)]
        yield from self._sealed(found, line)
        with self._engine.connect() as connection:
            segment_ids = list(connection.scalars(tombs))
        for segment_id in segment_ids:
            with self._engine.connect() as connection:
                gone = absence.tombstones(segment_id, connection)
            yield from self._sealed(((segment_id, place) for place in gone.records), line)

    def _sealed(self, lines: Iterable[tuple[int, int]], line: tuple[int, int]) -> Iterator[bytes]:
        for segment_id, place in lines:
            segment = self._segment(segment_id)
            if segment is not None and (segment_id, place) != line:
                yield segment.entry(place)

    def _never_sealed(self) -> Iterator[Finding]:
        """Lines of segments without a seal: still being written, or put in by somebody."""
        columns = schema.segment.c
        query = select(columns.segment_id, columns.name)
        with self._engine.connect() as connection:
            names = {
                row.segment_id: row.name
                for chunk in chunks(sorted(self._unsealed))
                for row in connection.execute(query.where(columns.segment_id.in_(chunk)))
            }
        for segment_id, (count, record_id, oldest) in sorted(self._unsealed.items()):
            if sealed_segment.fetch(self._engine, segment_id) is not None:
                continue  # meanwhile
            name = names.get(segment_id)
            number = quantity.of(count, "event line is", "event lines are")
            if name is None:
                what = f"{number} of no segment that was ever loaded"
                yield Finding("added", what, record_id=record_id)
            elif oldest < self._patience:
                what = f"{number} of a segment that was never sealed"
                yield Finding("added", what, segment=name, record_id=record_id)
            else:
                self._counts.waiting += count
