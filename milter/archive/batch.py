"""A batch: some lines of one segment, taken apart, before they go to SQL in one transaction.

Promises: every line of the batch is in a run of usual lines or in `entries`; of the latter those
that are records in `arrivals`, those that should be and are not in `refused`, each with why; event
lines in `events`.  Of events of a later kind nothing is made; the relays that they name are in
`others`.  A defect of ours while one record is taken apart costs that record only.

Does not: touch the database, or decide what becomes of a refused line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice

from carbonseal.milter import log
from carbonseal.milter.archive import (
    derive,
    event_line,
    header_store,
    record,
    rows,
    terms,
    usual_rows,
)
from carbonseal.milter.archive.delivery_loading import EventArrival
from carbonseal.milter.archive.evidence.seal import Surveying
from carbonseal.milter.archive.header_learning import CompressTexts
from carbonseal.milter.archive.loader import Arrival
from carbonseal.milter.archive.segments import Entry, Segment
from carbonseal.milter.archive.usual_lines import Lines, Run

_TOGETHER = 100  # lines read, and header sections compressed, before anything else is done


@dataclass(frozen=True, slots=True)
class Batch:
    """Lines that follow one another."""

    segment: Segment
    entries: list[Entry]
    arrivals: list[Arrival]
    refused: list[tuple[Entry, str]]
    events: list[EventArrival] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)  # lines that are neither entries nor arrivals

    @property
    def count(self) -> int:
        """How many lines there are."""
        return len(self.entries) + sum(len(run.lines) for run in self.runs)

    @property
    def end(self) -> int:
        """Where the next one begins."""
        return max(one[-1].end for one in (self.entries, self.runs) if one)

    def line_by_line(self) -> Batch:
        """The same without runs."""
        if not self.runs:
            return self
        segment_id, arrivals, entries = (
            terms.term(self.segment.name),
            [*self.arrivals],
            [*self.entries],
        )
        for run in self.runs:
            entries += run.entries()
            arrivals += (Arrival(segment_id, at, made) for at, made in run.made())
        entries.sort(key=lambda one: one.offset)
        arrivals.sort(key=lambda one: one.position)
        return replace(self, entries=entries, arrivals=arrivals, runs=[])

    def halves(self) -> Iterator[Batch]:
        """Two that together are this one."""
        whole = self.line_by_line()
        middle = len(whole.entries) // 2
        for part in (whole.entries[:middle], whole.entries[middle:]):
            positions = {entry.position for entry in part}
            yield Batch(
                whole.segment,
                part,
                [one for one in whole.arrivals if one.position in positions],
                [one for one in whole.refused if one[0].position in positions],
                [one for one in whole.events if one.position in positions],
            )


def read(
    segment: Segment,
    entries: Iterable[Entry],
    indexed: frozenset[str] = derive.INDEXED,
    seen: Surveying | None = None,
    compress: CompressTexts = header_store.compress_texts,
) -> Batch | None:
    """All of `entries`; None when there are none.  `compress` makes the stored header sections.

    They are compressed together, which takes half the time.  `indexed`: header fields to be found.
    `seen` is shown every line on the way, since reading it again would cost as much as taking it
    apart.
    """
    batch = Batch(segment, [], [], [])
    segment_id = terms.term(segment.name)
    left = iter(entries)
    # What reads lines and what makes rows push each other out of the processor's cache: in
    # turns of a hundred lines both take a tenth less time.
    while some := list(islice(left, _TOGETHER)):
        before = len(batch.arrivals)
        for entry in some:
            _take_apart(entry, batch, segment_id, indexed, seen)
        _store_sections(batch.arrivals[before:], compress)
    return batch if batch.entries else None


def read_runs(
    lines: Lines,
    size: int,
    indexed: frozenset[str] = derive.INDEXED,
    seen: Surveying | None = None,
    compress: CompressTexts = header_store.compress_texts,
) -> Batch | None:
    """The next `size` lines, usual ones in runs; else as `read`."""
    batch = Batch(lines.segment, [], [], [])
    segment_id = terms.term(lines.segment.name)
    left, stored = size, 0  # lines to come; arrivals whose header sections are stored
    while left and (some := lines.next(left)) is not None:
        if isinstance(some, Run):
            batch.runs.append(some)
            left -= len(some.lines)
            if seen is not None:
                seen.add_records(some.end, some.record_ids(), some.evidence, some.digests)
            some.store(compress)
            continue
        left -= 1
        _take_apart(some, batch, segment_id, indexed, seen)
        if len(batch.arrivals) - stored >= _TOGETHER:
            _store_sections(batch.arrivals[stored:], compress)
            stored = len(batch.arrivals)
    _store_sections(batch.arrivals[stored:], compress)
    return batch if batch.entries or batch.runs else None


def _store_sections(arrivals: list[Arrival], compress: CompressTexts) -> None:
    sections = [one.rows.header_section for one in arrivals]
    stored = compress([section["fields"] for section in sections])
    for section, octets in zip(sections, stored, strict=True):
        section["fields"] = octets


def _take_apart(
    entry: Entry, batch: Batch, segment_id: int, indexed: frozenset[str], seen: Surveying | None
) -> None:
    """Add what a line holds to the batch."""
    batch.entries.append(entry)
    if seen is not None:
        seen.add(entry)
    if entry.position is None:
        return  # the footer; or a torn line, which was never acknowledged to anybody
    if entry.fault is not None:
        batch.refused.append((entry, entry.fault))
        return
    try:
        if entry.apart is not None:
            if entry.apart.flat is None:
                made = rows.split_apart(entry.apart, indexed, _as_it_is)
            else:
                made = usual_rows.split(entry.apart, entry.line, indexed, _as_it_is)
            batch.arrivals.append(Arrival(segment_id, entry.position, made))
        elif not record.is_event(entry.content):
            made = rows.split(entry.content, indexed, _as_it_is)
            batch.arrivals.append(Arrival(segment_id, entry.position, made))
        elif event_line.is_delivery(entry.content):
            line = event_line.read(entry.content)
            batch.events.append(EventArrival(segment_id, entry.position, line))
        else:
            batch.others.append(str(entry.content.get("relay", "")))
    except ValueError as fault:
        batch.refused.append((entry, str(fault)))
    except Exception as fault:
        # A defect of ours while reading one record must not stop the others.
        log.internal_error("writer", fault)
        batch.refused.append((entry, f"{type(fault).__name__}: {fault}"))
    # The rows say it all.  Its memory serves the next line while it is still in the
    # processor's cache: a batch of contents would be twice as slow to make, and large.
    entry.content.clear()
    batch.entries[-1] = Entry(*entry[:-1])  # without the pieces, 4 KB of them


class Ahead:
    """Batches that are read one after the other, the next one before it is asked for."""

    def __init__(self, read_one: Callable[[], Batch | None]) -> None:
        self._read = read_one
        self._has_next = False
        self._next: Batch | None = None
        self._fault: Exception | None = None

    def prepare(self) -> None:
        """Read the next one, unless that is done; raises nothing."""
        if not self._has_next:
            self._has_next = True
            try:
                self._next = self._read()
            except Exception as fault:
                self._fault = fault

    def take(self) -> Batch | None:
        """The next one; None when there are no more.  Raises: what reading it raised."""
        self.prepare()
        found, fault = self._next, self._fault
        self._has_next, self._next, self._fault = False, None, None
        if fault is not None:
            raise fault
        return found


def _as_it_is(text: bytes) -> bytes:
    return text
