"""The life of keys in a simulated world with late servers, caches, relays, queues and faults.

A tiny model of `keys.lifecycle` carries out what `rotation.due` and `succession.successors` name.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from carbonseal.policies import key_life, rotation, rotation_waits, succession
from carbonseal.policies.key_life import (
    DnsView,
    Goal,
    KeyLife,
    QueueReport,
    RelayReport,
    ServerState,
    ServerView,
    Stage,
    WorkerReport,
)
from carbonseal.policies.rotation import Action, Rules, Seen

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
HOUR, DAY = 3600, 86400
RULES = Rules(
    lifetime=20 * DAY,
    lead=4 * DAY,
    safety=60,
    downstream_queue=DAY,
    verifier_slack=DAY,
    queue_lifetime=2 * DAY,
    keep_revoked=2 * DAY,
)
SERVERS = ("ns1", "ns2", "ns3")  # the first is the primary
RELAYS = ("mx1", "mx2")
SHOWN, ABSENT, OTHER = ServerState.SHOWN, ServerState.ABSENT, ServerState.OTHER
REVOKED, UNKNOWN = ServerState.REVOKED, ServerState.UNKNOWN
TTL = {SHOWN: 300, REVOKED: 300, OTHER: 4 * HOUR}
DESTROYING = (Action.REVOKE, Action.REMOVE, Action.CONFIRM_REMOVED)


@dataclass
class Server:
    """One name server: what it shows by selector, and what has still to reach it."""

    shows: dict[str, ServerState] = field(default_factory=dict)
    silent: bool = False
    foreign: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Cached:
    """One resolver's answer about one key."""

    state: ServerState
    until: datetime


@dataclass
class Relay:
    """One relay: what it signs with, what it loaded, and its queue, a selector and time a mail."""

    signing: frozenset[str] = frozenset()
    standby: frozenset[str] = frozenset()
    silent: bool = False
    queue: list[tuple[datetime, str]] = field(default_factory=list)


class World(RuleBasedStateMachine):
    """One signing domain."""

    by_hand = False

    def __init__(self) -> None:
        super().__init__()
        self.now = BEGIN
        self.negative_ttl = HOUR
        self.keys: dict[str, KeyLife] = {}
        self.servers = {name: Server() for name in SERVERS}
        self.caches: dict[tuple[str, str], Cached] = {}  # resolver, selector
        self.relays = {name: Relay() for name in RELAYS}
        self.may_be_unsigned = True  # before the first key, and after an order
        self.signed_late: list[str] = []
        self.tend(forced=True)

    # --- the world --------------------------------------------------------------------------------

    def shown(self, server: str, selector: str) -> ServerState:
        return self.servers[server].shows.get(selector, ABSENT)

    @rule(server=st.sampled_from(SERVERS[1:]))
    def a_secondary_follows(self, server: str) -> None:
        self.servers[server].shows = dict(self.servers[SERVERS[0]].shows)
        self.servers[server].foreign = set(self.servers[SERVERS[0]].foreign)

    @rule(server=st.sampled_from(SERVERS))
    def a_server_falls_silent_or_answers_again(self, server: str) -> None:
        self.servers[server].silent = not self.servers[server].silent

    @rule(server=st.sampled_from(SERVERS), state=st.sampled_from((ABSENT, OTHER)), at=st.integers())
    def a_server_loses_or_damages_a_record(self, server: str, state: ServerState, at: int) -> None:
        selectors = sorted(self.keys)
        self.servers[server].shows[selectors[at % len(selectors)]] = state

    @rule(at=st.integers(), server=st.sampled_from(SERVERS))
    def a_record_is_mended(self, at: int, server: str) -> None:
        key = self.keys[sorted(self.keys)[at % len(self.keys)]]
        right = SHOWN if key.stage in _STANDS else ABSENT
        if key.stage in (Stage.REVOKING, Stage.REVOKED):
            right = REVOKED
        for name in (SERVERS[0], server):
            self.servers[name].shows[key.selector] = right

    @rule(resolver=st.sampled_from(("r1", "r2")), server=st.sampled_from(SERVERS))
    def a_resolver_asks(self, resolver: str, server: str) -> None:
        """RFC 8198: it learns of names that nobody asked for."""
        if self.servers[server].silent:
            return
        for selector in self.keys:
            cached = self.caches.get((resolver, selector))
            if cached is None or cached.until <= self.now:
                state = self.shown(server, selector)
                ttl = TTL.get(state, self.negative_ttl)
                self.caches[resolver, selector] = Cached(state, self.now + timedelta(seconds=ttl))

    @rule(ttl=st.sampled_from((60, HOUR, 3 * HOUR)))
    def the_negative_ttl_changes(self, ttl: int) -> None:
        # We look at the zone at least once before it is lowered; what nobody saw cannot be known.
        self.tend()
        self.negative_ttl = ttl

    @rule(relay=st.sampled_from(RELAYS))
    def a_relay_reads_its_keys(self, relay: str) -> None:
        signing = [key.selector for key in self.active()]
        ready = [key.selector for key in self.keys.values() if key.stage in _IN_ADVANCE]
        self.relays[relay].signing = frozenset(signing)
        self.relays[relay].standby = frozenset(ready)

    @rule(relay=st.sampled_from(RELAYS))
    def a_relay_falls_silent_or_answers_again(self, relay: str) -> None:
        self.relays[relay].silent = not self.relays[relay].silent

    @rule(relay=st.sampled_from(RELAYS))
    def mail_comes(self, relay: str) -> None:
        for selector in self.relays[relay].signing:
            self.relays[relay].queue.append((self.now, selector))

    @rule(relay=st.sampled_from(RELAYS))
    def a_queue_is_delivered(self, relay: str) -> None:
        self.relays[relay].queue.clear()

    @rule(seconds=st.sampled_from((30, 600, HOUR, 5 * HOUR, DAY, 6 * DAY, 17 * DAY)))
    def time_goes_on(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    # --- orders -----------------------------------------------------------------------------------

    @rule()
    def somebody_rotates_now(self) -> None:
        self.tend(forced=True)

    @rule(at=st.integers())
    def a_key_is_cancelled(self, at: int) -> None:
        before = [key for key in self.keys.values() if key.stage in key_life.BEFORE_ACTIVE]
        if before:
            self.put(before[at % len(before)], cancelled_at=self.now, goal=Goal.REMOVED)

    @precondition(lambda self: len(self.active()) == 1)
    @rule()
    def the_signing_key_leaks(self) -> None:
        ready = [key for key in self.keys.values() if key.stage is Stage.READY]
        key = self.active()[0]
        if ready and self.look(ready[0]).is_everywhere(SHOWN):
            self.put(ready[0], stage=Stage.ACTIVE, activated_at=self.now, since=self.now)
        else:
            self.may_be_unsigned = True
        self.put(key, stage=Stage.RETIRING, since=self.now, goal=Goal.REMOVED, stopped_at=None)
        self.put(self.keys[key.selector], compromised_at=self.now)
        self.tend()

    @rule()
    def held_keys_are_released(self) -> None:
        for key in list(self.keys.values()):
            if key.held:
                self.put(key, held="")

    # --- the tiny life cycle ----------------------------------------------------------------------

    @rule()
    def the_timer_runs(self) -> None:
        self.tend()

    def active(self) -> list[KeyLife]:
        return [key for key in self.keys.values() if key.stage is Stage.ACTIVE]

    def put(self, key: KeyLife, **about: object) -> KeyLife:
        fresh = dataclasses.replace(key, **about)  # type: ignore[arg-type]
        self.keys[key.selector] = fresh
        return fresh

    def look(self, key: KeyLife) -> DnsView:
        views = []
        for name, server in self.servers.items():
            state = UNKNOWN if server.silent else self.shown(name, key.selector)
            views.append(ServerView(name, name, state, self.now, about="x", ttl=TTL.get(state)))
        return DnsView("n", self.now, tuple(views), negative_ttl=self.negative_ttl, refresh=HOUR)

    def reports(self) -> tuple[RelayReport, ...]:
        found = []
        for name, relay in self.relays.items():
            if relay.silent:
                found.append(RelayReport(name, self.now, problem="silent"))
                continue
            said = [frozenset(f"d/{one}" for one in s) for s in (relay.signing, relay.standby)]
            worker = WorkerReport(1, is_starting=False, signing=said[0], standby=said[1])
            oldest = min((at for at, _ in relay.queue), default=None)
            queue = QueueReport(len(relay.queue), oldest, 2 * DAY, DAY)
            found.append(RelayReport(name, self.now, (worker,), queue=queue))
        return tuple(found)

    def tend(self, *, forced: bool = False) -> None:
        for selector in list(self.keys):
            self.follow(selector)
        due = succession.successors(tuple(self.keys.values()), RULES, self.now, forced=forced)
        alive = [key for key in self.keys.values() if key.stage in _ALIVE and not key.is_cancelled]
        if forced and not due and not alive:
            due = (succession.first(self.now),)
        for one in due:
            if one.at <= self.now:
                self.begin(one)

    def begin(self, wanted: succession.Successor) -> None:
        selector = wanted.selector or f"s{len(self.keys)}"
        known = self.keys.get(selector) or KeyLife(
            sdid="d", selector=selector, algorithm="rsa-sha256", stage=Stage.GENERATED,
            since=self.now,
        )  # fmt: skip
        self.put(known, goal=wanted.goal, activate_from=wanted.activate_from)
        self.follow(selector)

    def follow(self, selector: str) -> None:
        done = set()
        for _ in range(12):
            key = self.keys[selector]
            dns = self.look(key)
            if key.stage in key_life.BEFORE_ACTIVE:
                longest = max(key.cache_ttl, rotation_waits.cache_ttl(dns))
                key = self.put(key, cache_ttl=longest)
            seen = Seen(self.now, dns, self.reports(), self.by_hand)
            due = rotation.due(key, seen, RULES)
            assert due.why
            assert due.at is None or due.at >= self.now
            if due.action is Action.WAIT or (key.stage, due.action) in done:
                return
            done.add((key.stage, due.action))
            self.judge(key, due.action, dns)
            self.take(key, due.action)

    def take(self, key: KeyLife, action: Action) -> None:
        now, primary = self.now, self.servers[SERVERS[0]]
        stands = self.shown(SERVERS[0], key.selector)
        match action:
            case Action.PUBLISH:
                if key.stage is Stage.GENERATED:
                    key = self.put(key, stage=Stage.PUBLISHING, since=now)
                self.put(key, sent_at=now)
                if stands is ABSENT and not primary.silent:  # compare and swap
                    primary.shows[key.selector] = SHOWN
            case Action.CONFIRM_PUBLISHED:
                self.put(key, stage=Stage.PUBLISHED, since=now, published_at=now)
            case Action.FALL_BACK:
                self.put(key, stage=Stage.PUBLISHING, since=now, published_at=None)
            case Action.MAKE_READY:
                self.put(key, stage=Stage.READY, since=now)
            case Action.ACTIVATE:
                for other in self.active():
                    self.put(other, stage=Stage.RETIRING, since=now, goal=Goal.REMOVED, refused="")
                self.put(key, stage=Stage.ACTIVE, since=now, activated_at=now, goal=Goal.ACTIVE)
                self.may_be_unsigned = False
            case Action.REFUSE:
                self.put(key, refused="wrong")
            case Action.ALLOW:
                self.put(key, refused="")
            case Action.CONFIRM_STOPPED:
                self.put(key, stopped_at=now)
            case Action.DENY_STOPPED:
                self.put(key, stopped_at=None)
            case Action.REVOKE:
                if key.stage is not Stage.REVOKING:
                    key = self.put(key, stage=Stage.REVOKING, since=now)
                self.put(key, sent_at=now)
                if stands is SHOWN and not primary.silent:
                    primary.shows[key.selector] = REVOKED
            case Action.CONFIRM_REVOKED:
                self.put(key, stage=Stage.REVOKED, since=now, revoked_at=now)
            case Action.REMOVE:
                if key.stage is not Stage.REMOVING:
                    key = self.put(key, stage=Stage.REMOVING, since=now)
                self.put(key, sent_at=now)
                if stands in (SHOWN, REVOKED) and not primary.silent:
                    primary.shows[key.selector] = ABSENT
            case Action.CONFIRM_REMOVED:
                self.put(key, stage=Stage.REMOVED, since=now)
            case _:
                self.put(key, held="somebody else's data")

    # --- what must always be true -----------------------------------------------------------------

    def judge(self, key: KeyLife, action: Action, dns: DnsView) -> None:
        """At the moment of a step, by what the world really is."""
        really = {self.shown(name, key.selector) for name in SERVERS}
        if action is Action.ACTIVATE:
            assert really == {SHOWN}
            for (resolver, selector), cached in self.caches.items():
                if selector == key.selector and cached.until > self.now:
                    assert cached.state is SHOWN, f"{resolver} still has {cached}"
            assert all(key.selector in relay.standby for relay in self.relays.values())
        if action in _FORWARD:
            assert UNKNOWN not in dns.states
        if action in DESTROYING and not key.is_compromised:
            first_time = key.stage not in (Stage.REVOKING, Stage.REMOVING)
            if key.stage is not Stage.GENERATED:
                assert OTHER not in dns.states or SHOWN in dns.states
            if first_time and key.activated_at is not None and key.stage is Stage.RETIRING:
                for relay in self.relays.values():
                    assert key.selector not in relay.signing, "a relay still signs"
                    assert all(name != key.selector for _, name in relay.queue), "mail is queued"

    @invariant()
    def a_domain_that_signed_signs(self) -> None:
        assert self.may_be_unsigned or self.active()

    @invariant()
    def at_most_one_key_signs(self) -> None:
        assert len(self.active()) <= 1

    @invariant()
    def at_most_one_successor_is_on_its_way(self) -> None:
        coming = [
            key
            for key in self.keys.values()
            if key.stage in key_life.BEFORE_ACTIVE and not (key.is_cancelled or key.held)
        ]
        assert len(coming) <= 1 + sum(bool(key.held) for key in self.keys.values())

    def teardown(self) -> None:
        """When all faults are mended, what is wanted comes about, in a bounded number of hours."""
        for server in self.servers.values():
            server.silent = False
        for relay in self.relays.values():
            relay.silent = False
            relay.queue.clear()
        self.held_keys_are_released()
        self.somebody_rotates_now()
        newest = max(self.keys.values(), key=lambda key: int(key.selector[1:])).selector
        for _ in range(24 * 12):
            for at in range(len(self.keys)):
                if OTHER in self.look(self.keys[f"s{at}"]).states or self.is_lost(f"s{at}"):
                    self.a_record_is_mended_everywhere(f"s{at}")
            for name in SERVERS[1:]:
                self.a_secondary_follows(name)
            self.held_keys_are_released()
            for name in RELAYS:
                self.a_relay_reads_its_keys(name)
            self.the_timer_runs()
            self.now += timedelta(hours=1)
        assert [key.selector for key in self.active()] == [newest]
        leaving = [key for key in self.keys.values() if key.selector != newest]
        assert {key.stage for key in leaving} <= {Stage.REMOVED}

    def is_lost(self, selector: str) -> bool:
        stands = self.keys[selector].stage in (Stage.ACTIVE, Stage.RETIRING)
        return stands and self.shown(SERVERS[0], selector) is ABSENT

    def a_record_is_mended_everywhere(self, selector: str) -> None:
        key = self.keys[selector]
        right = SHOWN if key.stage in _STANDS else ABSENT
        if key.stage in (Stage.REVOKING, Stage.REVOKED):
            right = REVOKED
        for server in self.servers.values():
            server.shows[selector] = right


_STANDS = (Stage.PUBLISHING, Stage.PUBLISHED, Stage.READY, Stage.ACTIVE, Stage.RETIRING)
_IN_ADVANCE = key_life.LOADED_IN_ADVANCE
_ALIVE = (*key_life.BEFORE_ACTIVE, Stage.ACTIVE)
_FORWARD = (
    Action.CONFIRM_PUBLISHED,
    Action.MAKE_READY,
    Action.ACTIVATE,
    Action.CONFIRM_REVOKED,
    Action.CONFIRM_REMOVED,
)

TestWorld = World.TestCase
TestWorld.settings = settings(
    max_examples=150,
    stateful_step_count=50,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
