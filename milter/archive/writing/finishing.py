"""A closed segment that is loaded to its end: sealed, stamped if it is time, and moved to loaded/.

Promises: a segment is in loaded/ only when its seal is in SQL.  What is wrong with it is said, and
so is a stamp that was not to be had, for which nothing waits.

Raises: ChainUnusable, AuditUnusable, OSError, and what the database raises.

See also: `evidence.sealing`.
"""

from __future__ import annotations

from carbonseal.milter.archive import segments
from carbonseal.milter.archive.evidence import sealing
from carbonseal.milter.archive.evidence.stamp import StampFailed
from carbonseal.milter.archive.segments import Segment
from carbonseal.milter.archive.writing.account import Account
from carbonseal.milter.archive.writing.connection import WriterConnection
from carbonseal.milter.archive.writing.cycles import Cycles
from carbonseal.milter.archive.writing.under_way import UnderWay


class Finishing:
    """With the chain of this relay, which is read when the first segment comes to its end."""

    def __init__(
        self,
        sealer: sealing.Sealer,
        database: WriterConnection,
        under_way: UnderWay,
        cycles: Cycles,
        account: Account,
    ) -> None:
        self._sealer = sealer
        self._database = database
        self._under_way = under_way
        self._cycles = cycles
        self._account = account
        self._report = account.report

    def finish(self, segment: Segment) -> None:
        """Seal it and move it away."""
        self._seal(segment)
        segments.finish(segment)
        self._account.has_finished()
        self._under_way.let_go_of_lines(segment)
        self._cycles.collect()
        done = self._under_way.progress[segment.name]
        facts = {} if done.is_complete else {"problem": "without footer: lines may be missing"}
        self._report("segment-loaded", segment=segment.name, records=done.records, **facts)

    def _seal(self, segment: Segment) -> None:
        relay = self._under_way.progress[segment.name].relay
        seen = self._under_way.seen_whole(segment)
        outcome = self._sealer.seal(segment, relay, self._database.transaction, seen)
        if outcome is None:
            return
        self._report("segment-sealed", segment=segment.name, seal=outcome.head)
        if outcome.rewritten is not None:
            self._report("segment-rewritten", segment=segment.name, by=outcome.rewritten)
        for problem in outcome.findings:
            self._report("segment-damaged", segment=segment.name, problem=problem)
        self._stamp()

    def _stamp(self) -> None:
        """Have the chain stamped, if an authority is configured and it is time; else never mind."""
        try:
            stamped = self._sealer.stamp_if_due(self._database.transaction)
        except StampFailed as fault:
            self._report("stamp-failed", problem=fault.sentence)
        else:
            if stamped is not None:
                self._report("chain-stamped", seal=stamped)
