"""Is every record in SQL the one that was sealed, and is every one there that was?

Records are read once in the order of their ids, and beside them the seals in the order of their
last record; the leaves of a segment are in memory from its first record that comes by to its last.

Promises: says which records were changed (their header section, or the rest of them), removed,
added or moved.  What retention took out and erasure redacted is told from loss by its tombstones
and redactions, and what came back as an erasure had left it by its note (`rewriting`); their audit
events are handed on to be looked up.  What SQL has changed while it was read is read again before
anything is said of it.

Does not: look at signatures (`chain_check`): leaves are held against the root in the entry.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, Engine, select

from carbonseal.milter.archive import merkle, retrieve, schema, terms
from carbonseal.milter.archive.dictionary import chunks
from carbonseal.milter.archive.evidence import (
    absence,
    derived_check,
    index_check,
    leaf,
    reckoning,
    rewriting,
    seal,
    sealed_segment,
)
from carbonseal.milter.archive.evidence.finding import Finding
from carbonseal.milter.archive.evidence.reckoning import BROKEN
from carbonseal.milter.archive.evidence.record_scan import EVERYTHING, Scan, Span
from carbonseal.milter.archive.evidence.rewriting import Erasure, Rewritten
from carbonseal.milter.archive.evidence.seal import BadEntry
from carbonseal.milter.archive.evidence.sealed_segment import SealedSegment
from carbonseal.milter.archive.rows import Rows
from carbonseal.policies import quantity

_PATIENCE_MS = 24 * 3600 * 1000  # after that a record should have been sealed
_message, _seal = schema.message.c, schema.seal.c

Explain = Callable[[str, int, Rows], str | None]


@dataclass(slots=True)
class Counts:
    """What was looked at."""

    records: int = 0
    without_header: int = 0
    redacted: int = 0
    segments: int = 0
    lines: int = 0
    gone: int = 0  # lines that retention took out
    aside: int = 0
    repeated: int = 0
    waiting: int = 0  # records of segments that are not sealed yet
    deliveries: int = 0  # event lines
    deliveries_gone: int = 0
    events: set[int] = field(default_factory=set)  # audit events of tombstones and redactions
    # Lines that came back as an erasure had left them in loaded/.
    rewritten: dict[Erasure, int] = field(default_factory=dict)
    # What tombstones and redactions say was taken out: audit event, part, how many records.
    taken: dict[tuple[int, str], int] = field(default_factory=dict)

    def take(self, event: int, part: str, count: int = 1) -> None:
        """So many more were taken out by an event."""
        self.events.add(event)
        self.taken[event, part] = self.taken.get((event, part), 0) + count

    def take_rewritten(self, by: Erasure) -> None:
        """One more line is as that erasure has left it."""
        self.rewritten[by] = self.rewritten.get(by, 0) + 1


class RecordCheck:
    """One look at all records of a span."""

    def __init__(
        self,
        engine: Engine,
        counts: Counts,
        *,
        span: Span = EVERYTHING,
        relay: str | None = None,
        explain: Explain = lambda segment, position, one: None,
        rewritten: Rewritten = rewriting.NOTHING,
        now: float | None = None,
    ) -> None:
        self._engine = engine
        self._counts = counts
        self._scan = Scan(engine, span, relay)
        self._explain = explain
        self._rewritten = rewritten
        self._patience = int((time.time() if now is None else now) * 1000) - _PATIENCE_MS
        self._active: dict[int, SealedSegment] = {}
        # Of the page at hand: records as stored, as they would be made now, and where they are.
        self._complete: dict[str, tuple[Rows, Rows, SealedSegment, int]] = {}
        self.with_events: set[int] = set()  # segments that were seen to have event lines
        self._waiting: dict[int, tuple[int, str, str]] = {}  # count, first and last record

    def total(self) -> int:
        """How many segments there are to be looked at."""
        return self._scan.total()

    def run(self) -> Iterator[Finding | int]:
        """Findings, and between them the number of seals that were done with since the last."""
        seals = self._scan.seals()
        ahead = next(seals, None)
        for page in self._scan.pages():
            yield from self._look_at(page)
            done = 0
            while ahead is not None and ahead[0] <= page[-1]:
                yield from self._close(ahead[1])
                done += 1
                ahead = next(seals, None)
            yield done
        while ahead is not None:
            yield from self._close(ahead[1])
            yield 1
            ahead = next(seals, None)
        yield from self._never_sealed()

    def _look_at(self, record_ids: list[str]) -> Iterator[Finding]:
        for one, redaction, fault in self._fetched(record_ids):
            yield from self._check(one, redaction, fault)
        yield from self._check_indexes()

    def _fetched(
        self, record_ids: Sequence[str]
    ) -> Iterator[tuple[Rows | str, tuple[str, int] | None, str | None]]:
        """Each record that is there, with its redaction; or its id, and why it cannot be read."""
        try:
            with self._engine.connect() as connection:
                found = retrieve.retrieve(record_ids, connection, with_fields=True)
                redactions = absence.redactions(record_ids, connection)
        except BROKEN as fault:
            if len(record_ids) == 1:
                yield record_ids[0], None, f"{type(fault).__name__}"
                return
            middle = len(record_ids) // 2
            yield from self._fetched(record_ids[:middle])
            yield from self._fetched(record_ids[middle:])
            return
        for one in found:
            yield one, redactions.get(one.record_id), None

    def _check(
        self, one: Rows | str, redaction: tuple[str, int] | None, fault: str | None
    ) -> Iterator[Finding]:
        record_id = one if isinstance(one, str) else one.record_id
        segment_id, position = self._line_of(one)
        segment = self._segment(segment_id)
        if segment is None:
            self._wait(segment_id, record_id)
            return
        if not self._scan.reaches(segment.relay, segment.first, segment.last):
            self._forget(segment)
            return
        self._counts.records += 1
        if not segment.first <= record_id <= segment.last:
            what = "no record of that time was sealed in its segment"
            yield segment.finding("added", what, position, record_id)
            self._forget(segment)
            return
        if not 0 <= position < segment.lines:
            what = f"its segment has no line of that number, only {segment.lines}"
            yield segment.finding("added", what, position, record_id)
            return
        if segment.seen[position]:
            what = "another record stands at the same place of the segment"
            yield segment.finding("added", what, position, record_id)
            return
        segment.seen[position] = 1
        if isinstance(one, str):
            what = f"the row cannot be read back ({fault})"
            yield segment.finding("changed", what, position, record_id)
            return
        yield from self._compare(one, redaction, segment, position)

    def _line_of(self, one: Rows | str) -> tuple[int, int]:
        if isinstance(one, Rows):
            return one.message["segment_id"], one.message["position"]
        query = select(_message.segment_id, _message.position).where(_message.record_id == one)
        with self._engine.connect() as connection:
            row = connection.execute(query).one()
        return row.segment_id, row.position

    def _compare(
        self, one: Rows, redaction: tuple[str, int] | None, segment: SealedSegment, position: int
    ) -> Iterator[Finding]:
        problem, found, content = reckoning.reckoned(one, redaction)
        entry = segment.entry(position)
        if found is not None and self._fits(found, segment, position):
            self._note_gone(one, redaction, segment, position)
            made = derived_check.made_anew(one, content, is_redacted=redaction is not None)
            if made is not None:
                yield from self._check_derived(one, made, segment, position)
            return
        again = self._again(one.record_id)
        if again is not None and again[0].message["position"] == position:
            one, redaction = again
            problem, found = reckoning.evidence_of(one, redaction)
            if found is not None and self._fits(found, segment, position):
                self._note_gone(one, redaction, segment, position)
                return
        if found is None:
            yield segment.finding("changed", problem or "", position, one.record_id)
            return
        place = None if found.header is None else segment.place_of(found.entry)
        if place is not None:
            what = f"stands at place {position} and was sealed at place {place}"
            yield segment.finding("moved", what, position, one.record_id)
            return
        part = "all but its header section"
        if found.rest == entry[: leaf.DIGEST]:
            part = "its header section"
        elif found.header is not None and found.header != entry[leaf.DIGEST :]:
            part = "it or its salts"
        detail = self._explain(segment.name, position, one)
        what = f"{part} is not what was sealed" if detail is None else f"changed in {detail}"
        yield segment.finding("changed", what, position, one.record_id)

    def _fits(self, found: leaf.Commitments, segment: SealedSegment, position: int) -> bool:
        """Whether it is what was sealed, or what an erasure has left of that."""
        if reckoning.fits(found, segment.entry(position)):
            return True
        for entry, by in segment.left(self._rewritten).line(position).items():
            if reckoning.fits(found, entry):
                self._counts.take_rewritten(by)
                return True
        return False

    def _again(self, record_id: str) -> tuple[Rows, tuple[str, int] | None] | None:
        for one, redaction, _ in self._fetched([record_id]):
            if isinstance(one, Rows):
                return one, redaction
        return None

    def _note_gone(
        self, one: Rows, redaction: tuple[str, int] | None, segment: SealedSegment, position: int
    ) -> None:
        """Remember what is not there any more, to be held against the tombstones."""
        if redaction is not None:
            self._counts.redacted += 1
            self._counts.take(redaction[1], absence.REDACTION)
        elif reckoning.is_subject_gone(one):
            segment.unheaded.add(position)
        if "fields" not in one.header_section:
            self._counts.without_header += 1
            segment.bare.add(position)

    def _check_derived(
        self, one: Rows, made: Rows, segment: SealedSegment, position: int
    ) -> Iterator[Finding]:
        """What searches go by has to follow from the record."""
        self._complete[one.record_id] = (one, made, segment, position)
        wrong = derived_check.wrong_columns(one, made)
        if wrong:
            what = f"the record is what was sealed, and {', '.join(wrong)} does not follow from it"
            yield segment.finding("changed", what, position, one.record_id)

    def _check_indexes(self) -> Iterator[Finding]:
        """The records of the page have to be found by what they say."""
        complete, self._complete = self._complete, {}
        with self._engine.connect() as connection:
            hidden = index_check.hidden([made for _, made, _, _ in complete.values()], connection)
        for record_id, names in hidden.items():
            one, _, segment, position = complete[record_id]
            again = self._again(record_id)
            if again is None or again[0] != one:
                continue  # retention was at it just now
            what = f"searches do not find it by all that it says: {', '.join(names)}"
            yield segment.finding("hidden", what, position, record_id)

    def _segment(self, segment_id: int) -> SealedSegment | None:
        """The segment, from now on remembered; None when it was not sealed."""
        found = self._active.get(segment_id)
        if found is not None or segment_id in self._waiting:
            return found
        segment = sealed_segment.fetch(self._engine, segment_id)
        if segment is not None:
            self._active[segment_id] = segment
        return segment

    def _forget(self, segment: SealedSegment) -> None:
        """Drop a segment that was opened for a record outside of its time."""
        if not any(segment.seen):
            self._active.pop(segment.segment_id, None)

    def _wait(self, segment_id: int, record_id: str) -> None:
        count, first, _ = self._waiting.get(segment_id, (0, record_id, record_id))
        self._waiting[segment_id] = (count + 1, first, record_id)

    def _close(self, segment_id: int) -> Iterator[Finding]:
        """All records of a segment have come by."""
        segment = self._segment(segment_id)
        if segment is None:
            return
        del self._active[segment_id]
        self._counts.segments += 1
        self._counts.lines += segment.lines
        yield from self._check_leaves(segment)
        with self._engine.connect() as connection:
            gone = absence.tombstones(segment_id, connection)
            aside = absence.aside(segment_id, connection)
            repeats = absence.repeats(segment_id, connection)
        events = segment.event_lines  # which `delivery_check` looks after
        for (event, part), places in gone.places.items():
            if told := len(places & events):
                self._counts.take(event, absence.LINE, told)
            name = absence.PARTS.get(part, absence.PARTS[absence.SUBJECT])
            self._counts.take(event, name, len(places) - told)
        missing = {place for place in range(segment.lines) if not segment.seen[place]}
        for place in sorted(gone.records - missing):
            what = "retention had taken it out, and it is here again"
            yield segment.finding("added", what, place)
        self._counts.gone += len((missing & gone.records) - events)
        missing -= gone.records
        yield from self._check_aside(segment, aside)
        missing -= aside
        if events:
            self.with_events.add(segment_id)
        repeated = {p: r for p, r in repeats.items() if p in missing and p not in events}
        yield from self._check_repeats(segment, repeated)
        missing -= repeats.keys()
        if missing:
            missing -= segment.without_record
        for place in sorted(missing):
            yield segment.finding("removed", "the record is missing", place)
        for place in sorted(segment.bare - gone.headers - gone.records):
            yield segment.finding("removed", "the header section is missing", place)
        for place in sorted(segment.unheaded - gone.subjects - gone.headers):
            yield segment.finding("removed", "the subject is missing", place)

    def _check_leaves(self, segment: SealedSegment) -> Iterator[Finding]:
        with self._engine.connect() as connection:
            entry = connection.execute(
                select(_seal.entry).where(
                    _seal.relay == segment.relay, _seal.number == segment.number
                )
            ).scalar_one()
        try:
            facts = seal.read(entry)
        except BadEntry:
            return  # said by `chain_check`
        tree = merkle.Tree()
        for start in range(0, len(segment.leaves), leaf.ENTRY):
            tree.add(segment.leaves[start : start + leaf.ENTRY])
        if tree.root() != facts.root or tree.leaves != facts.lines:
            yield segment.finding("leaves", "the leaves are not those whose root was signed")

    def _check_aside(self, segment: SealedSegment, aside: set[int]) -> Iterator[Finding]:
        self._counts.aside += len(aside)
        if len(aside) != segment.aside:
            said = quantity.of(len(aside), "line is", "lines are")
            what = f"{said} said to be set aside, and {segment.aside} by the seal"
            yield segment.finding("aside", what)
        for place in sorted(aside):
            if place < segment.lines and segment.seen[place]:
                what = "was set aside, and yet a record stands at its place"
                yield segment.finding("added", what, place)

    def _check_repeats(self, segment: SealedSegment, repeats: dict[int, str]) -> Iterator[Finding]:
        """A repeated line is there if the very line is there elsewhere, or was taken out there."""
        self._counts.repeated += len(repeats)
        with self._engine.connect() as connection:
            lost = absence.not_elsewhere(repeats, segment.segment_id, segment.leaves, connection)
        for place, record_id in lost:
            what = "is said to be a repetition, and what it repeats is not there"
            yield segment.finding("removed", what, place, record_id)

    def _never_sealed(self) -> Iterator[Finding]:
        """Records of segments without a seal: still being written, or put in by somebody."""
        with self._engine.connect() as connection:
            sealed: set[int] = set()
            for chunk in chunks(sorted(self._waiting)):
                query = select(_seal.segment_id).where(_seal.segment_id.in_(chunk))
                sealed.update(connection.execute(query).scalars())  # meanwhile
            names = _names(sorted(self._waiting), connection)
        for segment_id, (count, first, last) in sorted(self._waiting.items()):
            if segment_id in sealed:
                continue
            name = names.get(segment_id)
            number = quantity.of(count, "record from here on is", "records from here on are")
            if name is None:
                what = f"{number} of no segment that was ever loaded"
                yield Finding("added", what, record_id=first)
            elif _milliseconds(last) < self._patience:
                what = f"{number} of a segment that was never sealed"
                yield Finding("added", what, segment=name, record_id=first)
            else:
                self._counts.waiting += count


def _names(segment_ids: list[int], connection: Connection) -> dict[int, str]:
    columns = schema.segment.c
    query = select(columns.segment_id, columns.name)
    return {
        segment_id: name
        for chunk in chunks(segment_ids)
        for segment_id, name in connection.execute(query.where(columns.segment_id.in_(chunk)))
    }


def _milliseconds(record_id: str) -> int:
    return int.from_bytes(terms.pack_record_id(record_id)[:6], "big")
