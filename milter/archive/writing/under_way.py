"""Segments under way: how far each is loaded, what came by of it, and what comes next.

Promises: `reading` begins where the database says that the segment is loaded to.  What came by of a
segment is there for its seal only if all of it came by here, each line once.

Raises: what the database raises where a segment is met for the first time; OSError.

Does not: load anything; `committing` notes in `progress` what it has committed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Set
from itertools import islice

from carbonseal.milter.archive import batch as batches
from carbonseal.milter.archive import derive, progress, segments, spool_line, usual_lines
from carbonseal.milter.archive.batch import Batch
from carbonseal.milter.archive.evidence.seal import Surveying
from carbonseal.milter.archive.header_learning import CompressTexts
from carbonseal.milter.archive.progress import Progress
from carbonseal.milter.archive.segments import Segment
from carbonseal.milter.archive.usual_lines import Lines
from carbonseal.milter.archive.writing.connection import WriterConnection


class UnderWay:
    """Those of one spool, as one database has them."""

    def __init__(
        self, database: WriterConnection, indexed: frozenset[str], compress: CompressTexts
    ) -> None:
        self._database = database
        self._indexed = indexed
        self._compress = compress
        self._take = spool_line.taking(derive.wanted(indexed), flat=True)
        self._make_run = usual_lines.making(indexed)
        self._seen: dict[str, Surveying] = {}
        self.progress: dict[str, Progress] = {}  # by the names of segments

    def reading(self, segment: Segment, size: int) -> Callable[[], Batch | None] | None:
        """What reads the next lines, so many at a time; None: there are none to be read.

        A closed segment without a footer is read in any case.
        """
        known = self.progress.get(segment.name) or self._recall(segment)
        if known.is_complete:
            return None
        if not (segment.is_closed or segments.has_more(segment, known.offset)):
            return None
        seen = self._seen_until(segment, known.offset)
        indexed, compress = self._indexed, self._compress
        if self._make_run is not None and self._database.takes_packs:
            lines = Lines(segment, known.offset, known.lines, self._take, self._make_run)
            return lambda: batches.read_runs(lines, size, indexed, seen, compress)
        entries = segments.read(segment, known.offset, known.lines, self._take)
        return lambda: batches.read(segment, islice(entries, size), indexed, seen, compress)

    def seen_whole(self, segment: Segment) -> Surveying | None:
        """All lines of a segment that is loaded to its end; None unless they came all by here."""
        done = self.progress[segment.name].offset
        return self._seen_until(segment, done) if done == _size(segment) else None

    def let_go_of_lines(self, segment: Segment) -> None:
        """What came by of it is not needed any more."""
        self._seen.pop(segment.name, None)

    def forget(self, segment: Segment) -> None:
        """Ask the database again how far it is, when it is read next."""
        del self.progress[segment.name]
        self._seen.pop(segment.name, None)

    def forget_others(self, names: Set[str]) -> None:
        """Forget all but these."""
        for name in self.progress.keys() - names:
            del self.progress[name]
            self._seen.pop(name, None)

    def _recall(self, segment: Segment) -> Progress:
        with self._database.transaction() as connection:
            found = self.progress[segment.name] = progress.recall(segment, connection)
        return found

    def _seen_until(self, segment: Segment, offset: int) -> Surveying | None:
        """What came by of a segment that is loaded up to there; None unless it came all by here.

        What was read and could not be loaded is beyond that, and comes again.
        """
        seen = self._seen.get(segment.name)
        if seen is None and offset == 0:
            seen = self._seen[segment.name] = Surveying()
        if seen is not None and seen.end != offset:
            del self._seen[segment.name]
            return None
        return seen


def _size(segment: Segment) -> int:
    try:
        return os.stat(segment.path).st_size
    except FileNotFoundError:
        return -1
