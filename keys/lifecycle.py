"""Carry out what `policies.rotation` names as due: one SDID at a time, under its lock.

Promises: the intent is on disk before DNS is asked to change anything, and the result after every
server was asked what it shows, so that a crash at any moment leaves a state from which the same
call goes on; each step can be repeated.  Whatever a publisher answers, only what the authoritative
servers show moves a key.  A name is changed only if Carbonseal made it, and only from the value it
expects there (`publication.publisher`).

Raises: `errors.CarbonsealError`; `errors.TryLater` while another command changes the same SDID.

Does not: decide (`policies.rotation`), or speak to DNS itself (`publication`).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from carbonseal.keys import dns_record, generate, keyring, observed, selector_names, store
from carbonseal.keys.key_record import KeyRecord, Origin, Publication
from carbonseal.keys.life_world import (
    Forbidden,
    KeyReport,
    Report,
    Step,
    World,
    gather,
    gravest,
    look,
)
from carbonseal.keys.observed import Observed, RelayView
from carbonseal.keys.publication.publisher import Outcome, OutcomeKind
from carbonseal.policies import (
    errors,
    key_life,
    rotation,
    rotation_obstacles,
    rotation_waits,
    succession,
)
from carbonseal.policies.key_life import (
    DnsView,
    Goal,
    RelayReport,
    RelayState,
    ServerState,
    Stage,
    WorkerReport,
)
from carbonseal.policies.rotation import Action, Due, Seen, Standing
from carbonseal.policies.succession import Successor

__all__ = [
    "Forbidden",
    "KeyReport",
    "Report",
    "Step",
    "World",
    "demand_usable",
    "from_memory",
    "gather",
    "gravest",
    "is_usable",
    "look",
    "preview",
    "standby_for",
    "tend",
]

_MOST_STEPS: Final = 12  # of one key in one walk; its whole life has fewer
_PATIENCE: Final = 600  # seconds in which a hidden primary's secondaries surely follow
_BEFORE_PUBLISHING = (Stage.GENERATED, Stage.PUBLISHING)


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
    be begun later; `first` begins a key where none signs and none is on its way.
    """
    with world.shelf.writing(sdid) as writer:
        walk = _Walk(world, writer, relays, why, first=first)
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
    walk = _Walk(world, None, relays, "dry run", first=first)
    return walk.foresee(sdid, forced=forced, begin=begin)


def from_memory(world: World, sdid: str) -> Report:
    """How it stands, by what was last seen; asks nobody."""
    walk = _Walk(world, None, (), "", from_memory=True)
    return walk.foresee(sdid, forced=False, begin=True)


@dataclass(slots=True)
class _Walk:
    """One pass over the keys of one SDID; without a writer it only foresees."""

    world: World
    writer: store.Writer | None
    relays: tuple[RelayReport, ...]
    why: str
    from_memory: bool = False
    first: bool = False
    steps: list[Step] = field(default_factory=list)

    # --- the pass ---------------------------------------------------------------------------------

    def report(self, *, forced: bool, begin: bool) -> Report:
        assert self.writer is not None
        sdid = self.writer.sdid
        self.finish_emergency(sdid)
        # What strangers have comes first: trouble with another key must not stand in its way.
        keys = sorted(self.keys(sdid), key=lambda key: not key.is_compromised)
        reports = [self.guarded(key) for key in keys]
        coming: tuple[Successor, ...] = ()
        if begin:
            coming, fresh = self.begin(sdid, forced=forced)
            reports = [
                *(one for one in reports if one.record.selector not in fresh),
                *fresh.values(),
            ]
        # An activation retires its predecessor: what the first pass said of that one is old.
        reports = [self.renewed(one) for one in reports]
        return Report(sdid, tuple(self.steps), tuple(reports), coming, self.problems(sdid))

    def finish_emergency(self, sdid: str) -> None:
        """Do what an emergency ordered and did not live to do: let the standby sign."""
        assert self.writer is not None
        for key in self.keys(sdid):
            if key.stage is Stage.ACTIVE and key.is_compromised:
                successor = standby_for(self.world, key)
                if successor is not None:
                    because = f"{key.selector} is compromised ({self.why})"
                    self.note(successor, Action.ACTIVATE, (because,))
                    self.writer.activate(
                        successor, at=self.world.clock(), why=because, assumed=False
                    )

    def foresee(self, sdid: str, *, forced: bool, begin: bool) -> Report:
        reports = []
        for key in self.keys(sdid):
            seen = self.world.shelf.observed(key) if self.from_memory else self.observe(key)
            due = self.due(key, seen)
            if self.from_memory and seen.trouble:
                due = Due(Action.WAIT, seen.trouble_standing, (seen.trouble,))
            if due.action is not Action.WAIT:
                self.note(key, due.action, due.why)
            reports.append(KeyReport(key, due, seen))
        coming = self.successors(sdid, forced=forced) if begin else ()
        for one in coming:
            if one.at <= self.world.clock():
                self.steps.append(Step(one.selector or "(new)", Action.PUBLISH, one.why))
        return Report(sdid, tuple(self.steps), tuple(reports), coming, self.problems(sdid))

    def keys(self, sdid: str) -> tuple[KeyRecord, ...]:
        return self.world.shelf.lineage(sdid).records

    def problems(self, sdid: str) -> str:
        return " ".join(self.world.shelf.lineage(sdid).problems)

    def renewed(self, one: KeyReport) -> KeyReport:
        fresh = self.world.shelf.find(one.record.sdid, one.record.selector)
        if fresh == one.record:
            return one
        return KeyReport(fresh, self.due(fresh, one.seen), one.seen)

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
        if self.writer is not None:
            self.writer.put_observed(record, said)
        return KeyReport(record, trouble, said)

    def follow(self, record: KeyRecord) -> KeyReport:
        """Take the steps of one key, one after the other, until none is due."""
        seen = self.observe(record)
        record = self.remember(record, seen)
        done: set[tuple[Stage, Action]] = set()
        for _ in range(_MOST_STEPS):
            due = self.due(record, seen)
            if due.action is Action.WAIT or (record.stage, due.action) in done:
                break
            done.add((record.stage, due.action))
            self.note(record, due.action, due.why)
            record, trouble = self.take(record, due, seen)
            if trouble is not None:
                return self.troubled(record, seen, trouble)
            if due.action in (Action.PUBLISH, Action.REVOKE, Action.REMOVE):
                seen = self.observe(record)
                record = self.remember(record, seen)
        due = self.due(record, seen)
        if due.action is not Action.WAIT:  # sent just now, and not shown yet
            due = Due(Action.WAIT, Standing.NOT_YET, (*due.why, "sent; asked again next time"))
        return KeyReport(record, due, seen)

    # --- looking ----------------------------------------------------------------------------------

    def due(self, record: KeyRecord, seen: Observed) -> Due:
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
        return self.put(dataclasses.replace(record, cache_ttl=longest))

    def note(self, record: KeyRecord, action: Action, why: tuple[str, ...]) -> None:
        self.steps.append(Step(record.selector, action, "; ".join(why)))

    # --- the steps --------------------------------------------------------------------------------

    def take(self, record: KeyRecord, due: Due, seen: Observed) -> tuple[KeyRecord, Due | None]:
        """One step; the record after it, and what hinders the next one."""
        now, because = self.world.clock(), self.because(due)
        match due.action:
            case Action.PUBLISH:
                return self.publish(record, seen, because)
            case Action.REVOKE:
                return self.revoke(record, because)
            case Action.REMOVE:
                return self.remove(record, seen, because)
            case Action.ACTIVATE:
                return self.activate(record, because), None
            case Action.CONFIRM_PUBLISHED:
                fresh = record.moved(Stage.PUBLISHED, at=now, why=because)
                fresh = dataclasses.replace(fresh, published_at=now, assumed_published=False)
            case Action.FALL_BACK:
                fresh = record.moved(Stage.PUBLISHING, at=now, why=because)
                fresh = dataclasses.replace(fresh, published_at=None)
            case Action.MAKE_READY:
                demand_usable(self.world.shelf, record)
                fresh = record.moved(Stage.READY, at=now, why=because)
            case Action.REFUSE:
                fresh = record.noted("refused", at=now, why=because)
                fresh = dataclasses.replace(fresh, refused=because)
            case Action.ALLOW:
                fresh = record.noted("allowed", at=now, why=because)
                fresh = dataclasses.replace(fresh, refused="")
            case Action.CONFIRM_STOPPED:
                stopped = max((one.at for one in self.relays), default=now)
                fresh = record.noted("stopped", at=now, why=because)
                fresh = dataclasses.replace(fresh, stopped_at=max(stopped, record.since))
            case Action.DENY_STOPPED:
                fresh = record.noted("not stopped", at=now, why=because)
                fresh = dataclasses.replace(fresh, stopped_at=None)
            case Action.CONFIRM_REVOKED:
                text = dns_record.revocation(record.public_key)
                fresh = record.moved(Stage.REVOKED, at=now, why=because)
                fresh = dataclasses.replace(
                    fresh,
                    revoked_at=now,
                    publication=dataclasses.replace(record.publication, text=text),
                )
            case Action.CONFIRM_REMOVED:
                fresh = record.moved(Stage.REMOVED, at=now, why=because)
                self.put(fresh)
                assert self.writer is not None
                self.writer.destroy(fresh)
                return fresh, None
            case _:
                fresh = record.noted("held", at=now, why=because)
                fresh = dataclasses.replace(fresh, held=because)
        return self.put(fresh), None

    def because(self, due: Due) -> str:
        return "; ".join(due.why) + (f" ({self.why})" if self.why else "")

    def put(self, record: KeyRecord) -> KeyRecord:
        assert self.writer is not None
        self.writer.put(record)
        return record

    def publish(
        self, record: KeyRecord, seen: Observed, because: str
    ) -> tuple[KeyRecord, Due | None]:
        if record.stage is Stage.GENERATED and seen.dns is not None:
            found = [one.text for one in seen.dns.servers if one.state is ServerState.SHOWN]
            if found:  # before we ever sent it: somebody else made it, and it is not ours
                record = record.moved(Stage.PUBLISHING, at=self.world.clock(), why=because)
                place = Publication(seen.dns.target or record.dns_name, found[0], is_ours=False)
                return self.put(dataclasses.replace(record, publication=place)), None
        publisher, now = self.world.publisher_for(record.sdid), self.world.clock()
        text = dns_record.value(record.public_key)
        target = self.world.target_for(record.sdid, record.selector)
        if record.stage is not Stage.PUBLISHING:
            record = record.moved(Stage.PUBLISHING, at=now, why=because)
        record = dataclasses.replace(
            record,
            sent_at=now,
            publication=Publication(target, text, is_ours=not publisher.is_manual),
        )
        self.put(record)
        return record, self.trouble(record, publisher.add(target, text, self.world.ttl))

    def revoke(self, record: KeyRecord, because: str) -> tuple[KeyRecord, Due | None]:
        now = self.world.clock()
        if record.stage is not Stage.REVOKING:
            record = record.moved(Stage.REVOKING, at=now, why=because)
        record = self.put(dataclasses.replace(record, sent_at=now))
        if not record.publication.is_ours:
            return record, self.by_hand(record, "make its p= empty")
        publisher = self.world.publisher_for(record.sdid)
        place, text = record.publication, dns_record.revocation(record.public_key)
        # The key came back after it was revoked, as with a zone that was restored from a backup.
        old = dns_record.value(record.public_key) if place.text == text else place.text
        return record, self.trouble(record, publisher.change(place.name, old, text, self.world.ttl))

    def remove(
        self, record: KeyRecord, seen: Observed, because: str
    ) -> tuple[KeyRecord, Due | None]:
        now = self.world.clock()
        if record.stage is not Stage.REMOVING:
            record = record.moved(Stage.REMOVING, at=now, why=because)
        record = self.put(dataclasses.replace(record, sent_at=now))
        if not record.publication.is_ours:
            if seen.dns is not None and seen.dns.is_everywhere(ServerState.ABSENT):
                return record, None  # nothing to take away
            return record, self.by_hand(record, "take it away")
        # Sent even if no server shows it: a hidden primary may have it, and give it to them later.
        text = record.publication.text
        if seen.dns is not None and ServerState.REVOKED in seen.dns.states:
            text = dns_record.revocation(record.public_key)
        publisher = self.world.publisher_for(record.sdid)
        return record, self.trouble(record, publisher.delete(record.publication.name, text))

    def trouble(self, record: KeyRecord, outcome: Outcome) -> Due | None:
        """What a publisher's answer means; whether a sent change arrived, only a look can tell."""
        standing = _STANDINGS.get(outcome.kind)
        if outcome.kind is OutcomeKind.CONFLICT:
            # The update server holds another value than we expect.  It may be a hidden primary that
            # did the change when it was asked the first time: then the others will follow.
            seen = self.observe(record).dns
            wanted = _SHOWN_AFTER[record.stage]
            if seen is not None and wanted in seen.states:
                return None
            patience = timedelta(seconds=max(_PATIENCE, seen.refresh if seen else 0))
            late = self.world.clock() > record.since + patience
            standing = Standing.HELD if late else Standing.NOT_YET
            return Due(Action.WAIT, standing, _conflict(record, outcome.sentence, seen))
        return None if standing is None else Due(Action.WAIT, standing, (outcome.sentence,))

    def by_hand(self, record: KeyRecord, what: str) -> Due | None:
        name = record.publication.name or record.dns_name
        if self.world.is_by_hand(record.sdid):
            why = f"the record at {name}: {what} by hand; `keys publish` prints it"
        else:
            why = (
                f"the record at {name} was not made by Carbonseal, so it is not touched: {what} by"
                " hand, or let it be taken over with `keys publish --adopt`"
            )
        return Due(Action.WAIT, Standing.NOT_YET, (why,))

    def activate(self, record: KeyRecord, because: str) -> KeyRecord:
        assert self.writer is not None
        demand_usable(self.world.shelf, record)
        return self.writer.activate(
            record, at=self.world.clock(), why=because, assumed=record.assumed_published
        )

    # --- successors -------------------------------------------------------------------------------

    def successors(self, sdid: str, *, forced: bool) -> tuple[Successor, ...]:
        keys, now = self.keys(sdid), self.world.clock()
        due = succession.successors(keys, self.world.rules, now, forced=forced)
        is_wanted = self.first or _was_left_by_an_emergency(keys)
        if is_wanted and not due and not any(map(_is_alive, keys)):
            return (succession.first(now),)
        return due

    def begin(
        self, sdid: str, *, forced: bool
    ) -> tuple[tuple[Successor, ...], dict[str, KeyReport]]:
        """Begin the keys that are due; the rest, and the reports of those begun."""
        fresh: dict[str, KeyReport] = {}
        due = self.successors(sdid, forced=forced)
        for one in due:
            if one.at <= self.world.clock():
                record = self.make(sdid, one) if one.selector is None else self.promote(sdid, one)
                fresh[record.selector] = self.guarded(record)
        return tuple(one for one in due if one.at > self.world.clock()), fresh

    def make(self, sdid: str, wanted: Successor) -> KeyRecord:
        """A new key with a goal; its private half is on disk before anybody hears of it."""
        assert self.writer is not None
        shelf, now = self.world.shelf, self.world.clock()
        selector = selector_names.choose_selector(
            self.world.selectors,
            wanted.algorithm,
            now,
            lambda name: shelf.is_taken(sdid, name),
        )
        private = generate.generate(wanted.algorithm, self.world.bits)
        why = f"{wanted.why} ({self.why})"
        record = generate.new_record(
            private, sdid, selector, origin=Origin.GENERATED, at=now, why=why
        )
        record = dataclasses.replace(record, goal=wanted.goal, activate_from=wanted.activate_from)
        self.writer.add(record, generate.private_pem(private))
        return record

    def promote(self, sdid: str, wanted: Successor) -> KeyRecord:
        """Let a standby take the place."""
        assert wanted.selector is not None
        record = self.world.shelf.find(sdid, wanted.selector)
        record = record.noted("wanted", at=self.world.clock(), why=f"{wanted.why} ({self.why})")
        return self.put(
            dataclasses.replace(record, goal=wanted.goal, activate_from=wanted.activate_from)
        )


def standby_for(world: World, key: KeyRecord) -> KeyRecord | None:
    """A key that may take the place of another at once, in an emergency.

    It is ready, usable, and shown just now by every server that answers: it was shown by all of
    them before, and a leaked key must not go on signing because one server is silent.
    """
    for one in world.shelf.lineage(key.sdid).records:
        is_ready = one.algorithm == key.algorithm and one.stage is Stage.READY
        if is_ready and not (one.held or one.is_compromised or one.is_cancelled):
            states = look(world, one, one.publication.text).states
            is_shown = ServerState.SHOWN in states and states <= _AS_FAR_AS_KNOWN
            if is_shown and is_usable(world.shelf, one):
                return one
    return None


def is_usable(shelf: store.Store, key: KeyRecord) -> bool:
    """Whether the private half is there and is the one its record is about."""
    try:
        demand_usable(shelf, key)
    except errors.CarbonsealError:
        return False
    return True


def demand_usable(shelf: store.Store, key: KeyRecord) -> None:
    """A key that cannot sign must not take the place of one that can."""
    place = str(shelf.private_path(key.sdid, key.selector))
    keyring.parse(key, shelf.private_key(key), place)


def _is_queued(report: RelayReport, record: KeyRecord) -> bool | None:
    """Whether a relay holds mail from before a key stopped; None if its queue is unknown."""
    if record.stopped_at is None:
        return False
    if report.queue is None:
        return None
    return rotation_obstacles.holds_mail(report, record.stopped_at)


def _is_alive(record: KeyRecord) -> bool:
    """Whether a key signs or is on its way to."""
    if record.stage is Stage.ACTIVE:
        return True
    return record.stage in key_life.BEFORE_ACTIVE and record.goal in (Goal.READY, Goal.ACTIVE)


def _was_left_by_an_emergency(keys: tuple[KeyRecord, ...]) -> bool:
    """Whether the key that signed last leaked, so that nobody chose to sign no more."""
    signed = [(key.activated_at, key.is_compromised) for key in keys if key.activated_at]
    return bool(signed) and max(signed)[1]


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


def _conflict(record: KeyRecord, sentence: str, seen: DnsView | None) -> tuple[str, ...]:
    """Why the update server holds something else than we expect, and what may be done."""
    place = record.publication.name
    if seen is not None and place not in (record.dns_name, seen.target):
        # The record may stand there rightly; nobody must be told to take it away.
        why = f"{record.dns_name} must be a CNAME for {place}: have that made in its zone"
        return (why, *seen.complaints)
    if seen is not None and ServerState.SHOWN in seen.states:
        name = f"{record.sdid} {record.selector}"
        adopt = f"if it is right as it is, `carbonseal keys publish {name} --adopt` takes it over"
        return (f"{sentence.rstrip('.')}; {adopt}",)
    return (sentence,)


_AS_FAR_AS_KNOWN = frozenset((ServerState.SHOWN, ServerState.UNKNOWN))
_SHOWN_AFTER = {
    Stage.PUBLISHING: ServerState.SHOWN,
    Stage.REVOKING: ServerState.REVOKED,
    Stage.REMOVING: ServerState.ABSENT,
}
_STANDINGS = {
    OutcomeKind.REFUSED: Standing.HELD,
    OutcomeKind.UNREACHABLE: Standing.UNREACHABLE,
}
