"""Carry out what `policies.rotation` names as due: one SDID at a time, under its lock.

Promises: the intent is on disk before DNS is asked to change anything, and the result after every
server was asked what it shows, so that a crash at any moment leaves a state from which the same
call goes on; each step can be repeated.  What is wrong with one key stops no other.

Raises: `errors.CarbonsealError`; `errors.TryLater` while another command changes the same SDID.

Does not: decide (`policies.rotation`), or speak to DNS itself (`publication`).

See also: `life_looking`, `life_steps`, `life_beginning`, in the order in which a pass needs them.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Final

from carbonseal.keys import life_beginning, standby, store
from carbonseal.keys.key_record import KeyRecord
from carbonseal.keys.life_looking import Looking
from carbonseal.keys.life_steps import Steps
from carbonseal.keys.life_world import KeyReport, Report, Step, World
from carbonseal.keys.observed import Observed
from carbonseal.policies import errors, succession
from carbonseal.policies.key_life import RelayReport, Stage
from carbonseal.policies.rotation import Action, Due, Standing
from carbonseal.policies.succession import Successor

_MOST_STEPS: Final = 12  # of one key in one walk; its whole life has fewer


def tend(
    world: World,
    sdid: str,
    *,
    why: str,
    relays: tuple[RelayReport, ...],
    forced: bool = False,
    first: bool = False,
    begin: bool = True,
) -> Report:
    """Take every step that is due for an SDID.

    `begin`: also begin keys that are due (`succession.successors`); `forced` begins now what would
    be begun later, unless a key was on its way before this call, which then only goes on with it;
    `first` begins a key where none signs and none is on its way.
    """
    with world.shelf.writing(sdid) as writer:
        walk = _Walk(Steps(Looking(world, writer, relays), writer, why), first=first)
        return walk.report(forced=forced, begin=begin)


def preview(
    world: World,
    sdid: str,
    *,
    relays: tuple[RelayReport, ...],
    forced: bool = False,
    first: bool = False,
    begin: bool = True,
) -> Report:
    """What `tend` would do first; asks DNS, changes nothing and needs no right to write."""
    foreseeing = _Foreseeing(Looking(world, None, relays), first=first)
    return foreseeing.report(sdid, forced=forced, begin=begin)


def from_memory(world: World, sdid: str) -> Report:
    """How it stands, by what was last seen; asks nobody."""
    foreseeing = _Foreseeing(Looking(world, None, (), from_memory=True))
    return foreseeing.report(sdid, forced=False, begin=True)


@dataclass(frozen=True, slots=True)
class _Foreseeing:
    """What would be done first; nothing is written down."""

    looking: Looking
    first: bool = False

    def report(self, sdid: str, *, forced: bool, begin: bool) -> Report:
        looking, steps, reports = self.looking, [], []
        for key in _keys(looking.world, sdid):
            seen = _seen(looking, key)
            due = looking.due(key, seen)
            if looking.from_memory and seen.trouble:
                due = Due(Action.WAIT, seen.trouble_standing, (seen.trouble,))
            if due.action is not Action.WAIT:
                steps.append(_step(key, due))
            reports.append(KeyReport(key, due, seen))
        coming: tuple[Successor, ...] = ()
        if begin:
            coming = life_beginning.successors(looking.world, sdid, forced=forced, first=self.first)
        for one in coming:
            if one.at <= looking.world.clock():
                steps.append(Step(one.selector or "(new)", Action.PUBLISH, one.why))
        return Report(sdid, tuple(steps), tuple(reports), coming, _problems(looking.world, sdid))


@dataclass(frozen=True, slots=True)
class _Walk:
    """One pass over the keys of one SDID, under its lock."""

    steps: Steps
    first: bool
    taken: list[Step] = field(default_factory=list)

    @property
    def world(self) -> World:
        return self.steps.looking.world

    @property
    def looking(self) -> Looking:
        return self.steps.looking

    @property
    def writer(self) -> store.Writer:
        return self.steps.writer

    def report(self, *, forced: bool, begin: bool) -> Report:
        sdid = self.writer.sdid
        self.finish_emergency()
        # What strangers have comes first: trouble with another key must not stand in its way.
        keys = sorted(_keys(self.world, self.writer.sdid), key=lambda key: not key.is_compromised)
        asked_for = succession.on_their_way(keys)
        reports = [self.guarded(key) for key in keys]
        coming: tuple[Successor, ...] = ()
        if begin:
            coming, fresh = self.begin(forced=forced, asked_for=asked_for)
            reports = [
                *(one for one in reports if one.record.selector not in fresh),
                *fresh.values(),
            ]
        # An activation retires its predecessor: what the first pass said of that one is old.
        reports = [self.renewed(one) for one in reports]
        return Report(sdid, tuple(self.taken), tuple(reports), coming, _problems(self.world, sdid))

    def finish_emergency(self) -> None:
        """Do what an emergency ordered and did not live to do: let the standby sign."""
        for key in _keys(self.world, self.writer.sdid):
            if key.stage is Stage.ACTIVE and key.is_compromised:
                successor = standby.standby_for(self.world, key)
                if successor is not None:
                    because = f"{key.selector} is compromised ({self.steps.why})"
                    self.taken.append(Step(successor.selector, Action.ACTIVATE, because))
                    self.writer.activate(
                        successor, at=self.world.clock(), why=because, assumed=False
                    )

    def renewed(self, one: KeyReport) -> KeyReport:
        fresh = self.world.shelf.find(one.record.sdid, one.record.selector)
        if fresh == one.record:
            return one
        return KeyReport(fresh, self.looking.due(fresh, one.seen), one.seen)

    def guarded(self, record: KeyRecord) -> KeyReport:
        """As `follow`; what is wrong with one key, or with who publishes it, stops no other."""
        try:
            return self.follow(record)
        except errors.TryLater:
            raise  # a full disk, a lock: no key can go on
        except errors.CarbonsealError as error:
            shelf = self.world.shelf
            record, seen = shelf.find(record.sdid, record.selector), shelf.observed(record)
            return self.troubled(record, seen, Due(Action.WAIT, Standing.HELD, (error.sentence,)))

    def troubled(self, record: KeyRecord, seen: Observed, trouble: Due) -> KeyReport:
        """What hinders a key, written down for those who ask later."""
        said = dataclasses.replace(
            seen, trouble="; ".join(trouble.why), trouble_standing=trouble.standing
        )
        self.writer.put_observed(record, said)
        return KeyReport(record, trouble, said)

    def follow(self, record: KeyRecord) -> KeyReport:
        """Take the steps of one key, one after the other, until none is due."""
        seen = self.looking.observe(record)
        record = self.looking.remember(record, seen)
        done: set[tuple[Stage, Action]] = set()
        for _ in range(_MOST_STEPS):
            due = self.looking.due(record, seen)
            if due.action is Action.WAIT or (record.stage, due.action) in done:
                break
            done.add((record.stage, due.action))
            self.taken.append(_step(record, due))
            record, trouble = self.steps.take(record, due, seen)
            if trouble is not None:
                return self.troubled(record, seen, trouble)
            if due.action in (Action.PUBLISH, Action.REVOKE, Action.REMOVE):
                seen = self.looking.observe(record)
                record = self.looking.remember(record, seen)
        due = self.looking.due(record, seen)
        if due.action is not Action.WAIT:  # sent just now, and not shown yet
            due = Due(Action.WAIT, Standing.NOT_YET, (*due.why, "sent; asked again next time"))
        return KeyReport(record, due, seen)

    def begin(
        self, *, forced: bool, asked_for: tuple[str, ...]
    ) -> tuple[tuple[Successor, ...], dict[str, KeyReport]]:
        """Begin the keys that are due; the rest, and the reports of those begun."""
        fresh: dict[str, KeyReport] = {}
        due = life_beginning.successors(
            self.world, self.writer.sdid, forced=forced, first=self.first, asked_for=asked_for
        )
        for one in due:
            if one.at <= self.world.clock():
                record = life_beginning.begun(self.world, self.writer, one, self.steps.why)
                fresh[record.selector] = self.guarded(record)
        return tuple(one for one in due if one.at > self.world.clock()), fresh


def _step(record: KeyRecord, due: Due) -> Step:
    return Step(record.selector, due.action, "; ".join(due.why))


def _seen(looking: Looking, record: KeyRecord) -> Observed:
    if looking.from_memory:
        return looking.world.shelf.observed(record)
    return looking.observe(record)


def _keys(world: World, sdid: str) -> tuple[KeyRecord, ...]:
    return world.shelf.lineage(sdid).records


def _problems(world: World, sdid: str) -> str:
    return " ".join(world.shelf.lineage(sdid).problems)
