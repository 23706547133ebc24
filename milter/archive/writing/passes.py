"""Passes over the spool: what its segments have gained since the last one, into one database.

What open segments have gained comes in one transaction for all of them, as long as nothing is in
the way; whatever is left is loaded one segment after the other.

Promises: a pass loads each segment to what is its end when it is read, and a segment that cannot be
read keeps no other from that.  All that is known about the database goes with `close`: the next
connection may lead to another one, restored from a backup, say.

Raises: `database.DatabaseUnusable` (`ArchiveLost` is one), `database.WrongDatabase`, OSError,
ChainUnusable, and what the database raises; after any of these it is to be closed.

Does not: try again; `writer` does, with new ones.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from carbonseal.milter.archive import batch as batches
from carbonseal.milter.archive import header_learning, segments
from carbonseal.milter.archive.batch import Batch
from carbonseal.milter.archive.evidence import sealing, settings
from carbonseal.milter.archive.evidence.chain import ChainUnusable
from carbonseal.milter.archive.progress import Moved, Progress
from carbonseal.milter.archive.segments import Segment
from carbonseal.milter.archive.writing import bringing_back
from carbonseal.milter.archive.writing.account import Account
from carbonseal.milter.archive.writing.committing import Committing
from carbonseal.milter.archive.writing.connection import WriterConnection
from carbonseal.milter.archive.writing.cycles import Cycles
from carbonseal.milter.archive.writing.finishing import Finishing
from carbonseal.milter.archive.writing.known_archive import KnownArchive
from carbonseal.milter.archive.writing.stopping import Stop
from carbonseal.milter.archive.writing.under_way import UnderWay

# Records in one transaction.  Twice as many were no quicker, and took 8 MB more memory.
BATCH = 500
# Those of several segments.  Each transaction writes every page anew that it has changed, and the
# indexes of two thousand records are on few more pages than those of three hundred.  As many as
# come between two looks at full load; each takes 10 KB of memory until it is loaded.
TOGETHER = 2000
_LEARNING_SECONDS: Final = 60.0  # that a writer who would be done waits for a dictionary


class _Left(enum.Enum):
    """What stands for lines that are left to be loaded with those of their segment only."""

    LEFT = enum.auto()


_LEFT: Final = _Left.LEFT


class Passes:
    """Over one spool, into one database, from `connect` to `close`."""

    def __init__(
        self,
        directory: Path,
        url: str,
        *,
        evidence: settings.Settings,
        indexed: frozenset[str],
        cycles: Cycles,
        account: Account,
    ) -> None:
        self._directory = directory
        self._cycles = cycles
        self._account = account
        self._known = KnownArchive(directory, evidence.directory, url, account.report)
        self._database = WriterConnection(url)
        self._learning = header_learning.Learning()
        self._under_way = UnderWay(self._database, indexed, self._learning.compress_texts)
        parts = (self._database, self._under_way, cycles, account)
        self._committing = Committing(directory, *parts)
        self._finishing = Finishing(sealing.Sealer(evidence, url), *parts)

    @property
    def progress(self) -> Mapping[str, Progress]:
        """How far each segment is loaded that is under way."""
        return self._under_way.progress

    def connect(self) -> None:
        """Connect to the database, and have what it lacks of loaded/ back in the spool."""
        self._known.check_is_there()
        self._database.open(self._known.check_is_made, self._catch_up)

    def is_removed(self) -> bool:
        """Whether the database is another than the one that is connected."""
        return self._database.is_removed()

    def close(self) -> None:
        """Let go of the database, and of what is being learned of it."""
        self._learning.close()
        self._database.close()

    def load_pending(self, stop: Stop, *, is_together: bool) -> int:
        """One pass over the spool, to its present end; how many records were loaded.

        `is_together`: whether open segments may share a transaction.
        """
        self._database.look_ahead()
        before = self._account.loaded
        pending = segments.pending(self._directory)
        trouble: OSError | ChainUnusable | None = None
        done: set[str] = set()
        if is_together:
            done = self._load_together([one for one in pending if not one.is_closed], stop)
        for segment in pending:
            if stop.is_set():
                break
            if segment.name in done:
                continue
            try:
                self._load_segment(segment, stop)
            except (OSError, ChainUnusable) as fault:
                trouble = trouble or fault  # one bad file must not hold up all that come after it
        self._known.remember(name for name, one in self.progress.items() if not one.is_new)
        self._under_way.forget_others({segment.name for segment in pending})
        if trouble is not None:
            raise trouble
        self._cycles.collect_if_due()
        return self._account.loaded - before

    def learn_to_the_end(self) -> None:
        """Wait for a dictionary that is being made: it would be lost with this process."""
        self._learning.learn(self._database.transaction, wait=_LEARNING_SECONDS)

    def _catch_up(self) -> None:
        with self._database.transaction() as connection:
            self._known.check(connection)
        bringing_back.bring_back(self._directory, self._database, self._account.report)
        with self._database.transaction() as connection:
            self._learning.recall(connection)

    def _load_together(self, growing: Sequence[Segment], stop: Stop) -> set[str]:
        """Load what several open segments have gained, in one transaction.

        Returns those that are loaded to their ends.  Whatever is in the way of that is left to be
        met, and said, with one segment at a time.
        """
        done: set[str] = set()
        while len(growing) > 1 and not stop.is_set():
            size = max(TOGETHER // len(growing), 1)
            read = {one: self._read_some(one, size) for one in growing}
            some = [batch for batch in read.values() if isinstance(batch, Batch)]
            if some and not self._committing.commit_together(some):
                break
            self._learning.learn(self._database.transaction)
            growing = [one.segment for one in some if one.count == size]
            # Those that may have more are done for only by a later turn, or one at a time.
            is_left = {*growing, *(one for one, batch in read.items() if batch is _LEFT)}
            done.update(one.name for one in read.keys() - is_left)
        return done

    def _read_some(self, segment: Segment, size: int) -> Batch | _Left | None:
        """The next lines of an open segment; None: there are none."""
        try:
            read = self._under_way.reading(segment, size)
            found = None if read is None else read()
        except OSError:
            return _LEFT
        return _LEFT if found is not None and found.refused else found

    def _load_segment(self, segment: Segment, stop: Stop) -> None:
        try:
            is_read = self._load_lines(segment, stop)
        except Moved:
            # A commit that was given up for lost was done after all.
            self._under_way.forget(segment)
            is_read = self._load_lines(segment, stop)
        if is_read and segment.is_closed:
            self._finishing.finish(segment)

    def _load_lines(self, segment: Segment, stop: Stop) -> bool:
        """Load what there is of a segment; whether that was all, and no stop came between."""
        read = self._under_way.reading(segment, BATCH)
        if read is None:
            return True
        ahead = batches.Ahead(read)
        while (batch := ahead.take()) is not None:
            for entry, why in batch.refused:
                self._committing.set_aside(segment, entry, why)
            # More than fits into a batch is there, most likely.
            is_full = batch.count == BATCH
            self._committing.commit(batch, ahead.prepare if is_full else None)
            self._cycles.collect_if_due()
            self._learning.learn(self._database.transaction)
            if stop.is_set():
                return False
        return True
