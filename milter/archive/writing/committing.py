"""Batches into SQL, each transaction with how far their segments are loaded by it.

Promises: a batch is committed with its progress or not at all.  One that met another transaction is
loaded again as it is, a bounded number of times.  A record that the database refuses is found by
halving its batch and set aside with the reason, and the others go on.

Safe direction: what is set aside is on disk before the progress beyond it is committed; set aside
twice is better than passed over.

Raises: `progress.Moved`; what the database raises that a smaller transaction would meet as well;
OSError where a line cannot be set aside.

Does not: read the spool.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Final

from carbonseal.milter.archive import faults, loader, progress, segments, terms
from carbonseal.milter.archive.batch import Batch
from carbonseal.milter.archive.dictionary import Dictionary
from carbonseal.milter.archive.progress import Moved, Progress
from carbonseal.milter.archive.segments import Entry, Segment
from carbonseal.milter.archive.writing.account import Account
from carbonseal.milter.archive.writing.connection import WriterConnection
from carbonseal.milter.archive.writing.cycles import Cycles
from carbonseal.milter.archive.writing.under_way import UnderWay

# Longest waits before a batch is tried again that met another transaction.
_COLLISION_WAITS: Final = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
# What a smaller transaction may not meet, or tells apart.
_MET_AGAIN: Final = (faults.Kind.POISON, faults.Kind.COLLISION)
_random = random.SystemRandom()


class Committing:
    """Into one database, with what was learned of its dictionaries."""

    def __init__(
        self,
        directory: Path,
        database: WriterConnection,
        under_way: UnderWay,
        cycles: Cycles,
        account: Account,
    ) -> None:
        self._directory = directory
        self._database = database
        self._under_way = under_way
        self._cycles = cycles
        self._account = account
        self._report = account.report
        self._dictionary = Dictionary()

    def commit(self, batch: Batch, meanwhile: Callable[[], None] | None = None) -> None:
        """Records and progress in one transaction, again where another was in its way.

        A batch with a refused record is halved.  `meanwhile` is done while the commit waits for
        the disk.
        """
        for wait in (*_COLLISION_WAITS, None):
            try:
                self._commit_once([batch], meanwhile)
                return
            except Exception as fault:
                self._dictionary.forget()
                self._cycles.failed()
                kind = faults.kind(fault)
                if kind is faults.Kind.POISON and (batch.arrivals or batch.runs or batch.events):
                    self._halve(batch, f"the database refuses it: {faults.plain(fault)}")
                    return
                if kind is not faults.Kind.COLLISION or wait is None:
                    raise
                self._report("batch-collided", problem=faults.plain(fault))
            # Not all of those that met must try again at the same moment.
            time.sleep(_random.uniform(0.0, wait))

    def commit_together(self, some: Sequence[Batch]) -> bool:
        """Whether all of them were loaded, in one transaction; else none was."""
        try:
            self._commit_once(some, None)
        except Exception as fault:
            self._dictionary.forget()
            self._cycles.failed()
            is_met_again = isinstance(fault, Moved) or faults.kind(fault) in _MET_AGAIN
            if not is_met_again:
                raise
            return False
        return True

    def set_aside(self, segment: Segment, entry: Entry, why: str) -> None:
        """Keep a refused line with its reason; before the progress beyond it is committed."""
        path = segments.set_aside(self._directory, segment, entry, why)
        self._account.has_set_aside()
        self._report("record-set-aside", file=str(path), problem=why)

    def _commit_once(self, some: Sequence[Batch], meanwhile: Callable[[], None] | None) -> None:
        known = self._under_way.progress
        reached: dict[str, Progress] = {}
        with self._database.transaction(meanwhile) as connection:
            for batch in some:
                progress.hold(batch.segment, known[batch.segment.name], connection)
            arrivals = [*chain.from_iterable(batch.arrivals for batch in some)]
            events = [*chain.from_iterable(batch.events for batch in some)]
            runs = [*chain.from_iterable(batch.runs for batch in some)]
            counts = loader.load_counting(arrivals, connection, self._dictionary, events, runs)
            for batch in some:
                name = batch.segment.name
                reached[name] = known[name].after(batch, counts[terms.term(name)])
                progress.note_refused(batch, connection)
                progress.keep(batch.segment, reached[name], connection)
        self._dictionary.keep()
        known.update(reached)
        self._cycles.committed()
        self._account.has_loaded(counts.total(), known)

    def _halve(self, batch: Batch, why: str) -> None:
        if batch.count > 1:
            for half in batch.halves():
                self.commit(half)
            return
        [entry] = batch.line_by_line().entries
        self.set_aside(batch.segment, entry, why)
        self.commit(Batch(batch.segment, [entry], [], [(entry, why)]))
