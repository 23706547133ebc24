"""Look at one key: what its servers and relays show of it, and what is due by that.

Promises: what was seen is written down before anything is done on it, and dated by our own clock.
Who was asked before and is silent now keeps the past that he had (`observed`).  A relay's report
from before the order to stop proves nothing.

Raises: what the store raises.

Does not: take a step (`life_steps`), or decide which is due (`policies.rotation`).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Final

from carbonseal.keys import dns_record, observed, store
from carbonseal.keys.key_record import KeyRecord
from carbonseal.keys.life_world import World, look
from carbonseal.keys.observed import Observed, RelayView
from carbonseal.policies import key_life, rotation, rotation_obstacles, rotation_waits
from carbonseal.policies.key_life import Goal, RelayReport, RelayState, Stage, WorkerReport
from carbonseal.policies.rotation import Due, Seen

_BEFORE_PUBLISHING: Final = (Stage.GENERATED, Stage.PUBLISHING)


@dataclass(frozen=True, slots=True)
class Looking:
    """Looks at the keys of one SDID; without a writer nothing is written down."""

    world: World
    writer: store.Writer | None
    relays: tuple[RelayReport, ...]  # what they said when this pass began
    from_memory: bool = False  # by what was last seen; nobody is asked

    def due(self, record: KeyRecord, seen: Observed) -> Due:
        """The step that is due by what was seen."""
        by_hand = self.world.is_by_hand(record.sdid)
        if record.stage not in _BEFORE_PUBLISHING:
            by_hand = by_hand or not record.publication.is_ours
        relays = _remembered(record, seen.relays) if self.from_memory else self.relays
        if record.stage is Stage.RETIRING:
            relays = tuple(one if one.at >= record.since else _outdated(one) for one in relays)
        about = Seen(self.world.clock(), seen.dns, relays, by_hand, seen.queued_at)
        return rotation.due(record, about, self.world.rules)

    def observe(self, record: KeyRecord) -> Observed:
        """Ask every server about a key, and write down what was seen."""
        before = self.world.shelf.observed(record)
        if record.stage is Stage.REMOVED:
            return before
        dns = before.dns
        if record.stage is not Stage.GENERATED or record.goal is not Goal.KEPT:
            expected = record.publication.text or dns_record.value(record.public_key)
            dns = look(self.world, record, expected)
        now = self.world.clock()  # after the queues were read
        relays = tuple(
            observed.follow(
                before,
                one.relay,
                one.state_of(record.sdid, record.selector),
                one.at,
                is_queued=_is_queued(one, record),
                now=now,
            )
            for one in self.relays
        )
        seen = Observed(dns, relays)
        if self.writer is not None:
            self.writer.put_observed(record, seen)
        return seen

    def remember(self, record: KeyRecord, seen: Observed) -> KeyRecord:
        """Keep the longest time for which caches may hold what stood there before the record.

        If the zone's TTLs are lowered meanwhile, older answers still live as long.
        """
        longest = rotation_waits.cache_ttl(seen.dns)
        if self.writer is None or record.stage not in key_life.BEFORE_ACTIVE:
            return record
        if longest <= record.cache_ttl:
            return record
        return put(self.writer, dataclasses.replace(record, cache_ttl=longest))


def put(writer: store.Writer, record: KeyRecord) -> KeyRecord:
    """The record, once it is on disk."""
    writer.put(record)
    return record


def _is_queued(report: RelayReport, record: KeyRecord) -> bool | None:
    """Whether a relay holds mail from before a key stopped; None if its queue is unknown."""
    if record.stopped_at is None:
        return False
    if report.queue is None:
        return None
    return rotation_obstacles.holds_mail(report, record.stopped_at)


def _outdated(report: RelayReport) -> RelayReport:
    """A report older than the order to stop proves nothing."""
    nobody = WorkerReport(0, is_starting=True)
    return dataclasses.replace(report, workers=(*report.workers, nobody))


def _remembered(record: KeyRecord, views: tuple[RelayView, ...]) -> tuple[RelayReport, ...]:
    """What was last seen of the relays, in the form in which they say it."""
    name = frozenset((f"{record.sdid}/{record.selector}",))
    workers = {
        RelayState.SIGNING: WorkerReport(0, is_starting=False, signing=name),
        RelayState.LOADED: WorkerReport(0, is_starting=False, standby=name),
        RelayState.STOPPED: WorkerReport(0, is_starting=False),
    }
    return tuple(
        RelayReport(view.relay, view.at, (workers[view.state],))
        if view.state in workers
        else RelayReport(view.relay, view.at, problem="it gave no report when it was last asked")
        for view in views
    )
