"""Lines of a segment on their way to rows: usual ones many at once, all others one by one.

Where the compiled helpers are there, lines that follow one another and are all usual come as a
`Run`: one call takes them apart and makes their rows, and no object stands for a single line.  The
first line that is not usual ends it, and comes as a `segments.Entry`, as all lines do where a
helper is missing.

Promises: a run says what its lines would say one by one: `Run.entries` and `Run.arrivals` are what
`segments.read` and `usual_rows` make of them.

Raises: OSError.

Does not: touch the database, or judge what is not usual (`batch` does).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from carbonseal.milter.archive import derive, segments, spool_line, terms, usual_rows
from carbonseal.milter.archive.rows import Rows
from carbonseal.milter.archive.segments import Entry, Segment
from carbonseal.milter.archive.usual_rows import Values

_READ = 256 * 1024  # octets of whole lines at a time: some hundred of them
_QUEUE_ID, _CIRCUMSTANCE = (
    usual_rows.MESSAGE.index(name) if usual_rows.MESSAGE else 0
    for name in ("queue_id", "circumstance")
)


@dataclass(slots=True)
class Run:
    """Usual lines that follow one another."""

    segment_id: int
    position: int  # of the first, among the lines of the segment
    offset: int  # where the first begins
    end: int  # where the last one ends
    lines: list[bytes]
    rows: list[Values]  # of each line
    sections: list[bytes]  # header sections: as they are compressed, then as they are stored
    evidence: bytes  # of all lines; see `leaf.evidence_of`
    digests: bytes  # by which the lines stand in the tree of their segment

    def record_ids(self) -> list[str]:
        """Of its records in order; all are usable."""
        return [one[usual_rows.ID_AT] for one in self.rows]

    def queue_ids(self) -> list[str]:
        """Of its records in order."""
        return [one[usual_rows.MESSAGE_AT][_QUEUE_ID] for one in self.rows]

    @property
    def relay(self) -> str:
        """Whose records they are."""
        relay: str = self.rows[0][usual_rows.MESSAGE_AT][_CIRCUMSTANCE].relay
        return relay

    def store(self, compress: Callable[[list[bytes]], list[bytes]]) -> None:
        """Make header sections what is stored of them."""
        self.sections = compress(self.sections)

    def entries(self) -> Iterator[Entry]:
        """Its lines one by one, without their content."""
        offset = self.offset
        for position, line in enumerate(self.lines, self.position):
            end = offset + len(line)
            yield Entry(offset, end, line, position, None, False, False, {})
            offset = end

    def made(self) -> Iterator[tuple[int, Rows]]:
        """Positions and rows of its records."""
        return ((self.position + at, self.made_of(at)) for at in range(len(self.rows)))

    def made_of(self, at: int) -> Rows:
        """The rows of one of its records."""
        return usual_rows.named(self.rows[at], self.sections[at])


def making(indexed: frozenset[str]) -> spool_line.TakeRun | None:
    """What makes a run of those of some lines that are usual; None where a helper is missing."""
    make = usual_rows.MAKE
    return None if make is None else spool_line.running(derive.wanted(indexed), make, indexed)


class Lines:
    """What a segment has from `offset` on; `position`: lines of records before it."""

    def __init__(
        self,
        segment: Segment,
        offset: int,
        position: int,
        take: spool_line.Take | None,
        make: spool_line.TakeRun,
    ) -> None:
        self.segment = segment
        self._segment_id = terms.term(segment.name)
        self._offset, self._position = offset, position
        self._take, self._make = take, make
        self._stream: BinaryIO | None = None
        self._lines: list[bytes] = []
        self._at = 0
        self._is_done = False

    def next(self, most: int) -> Run | Entry | None:
        """Some usual lines, `most` at the most, or one of any kind; None: there are no more."""
        if self._is_done or not self._has_lines():
            return None
        first, offset, position = self._at, self._offset, self._position
        rows, texts, evidence, digests, octets = self._make(self._lines, first, first + most)
        if not rows:
            return self._entry()
        self._at, self._position = first + len(rows), position + len(rows)
        self._offset = offset + octets
        lines = self._lines[first : self._at]
        return Run(self._segment_id, position, offset, self._offset, lines, rows, texts, evidence,
                   digests)  # fmt: skip

    def _has_lines(self) -> bool:
        if self._at < len(self._lines):
            return True
        if self._stream is None:
            try:
                self._stream = segments.opened(self.segment, self._offset)
            except FileNotFoundError:
                self._is_done = True
                return False
        self._lines, self._at = self._stream.readlines(_READ), 0
        if not self._lines:
            self._close()
        return bool(self._lines)

    def _entry(self) -> Entry | None:
        """The next line as `segments.read` has it."""
        line = self._lines[self._at]
        found = segments.entry(self.segment, line, self._offset, self._position, self._take)
        if found is None or found.end == found.offset:  # there is no whole line any more
            self._close()
            return found
        self._at += 1
        self._offset = found.end
        self._position += found.position is not None
        return found

    def _close(self) -> None:
        self._is_done = True
        self._lines = []
        if self._stream is not None:
            self._stream.close()
            self._stream = None
