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
TROUBLES = ("silent", "lags", "holds", "returns")
SHOWN, ABSENT, OTHER = ServerState.SHOWN, ServerState.ABSENT, ServerState.OTHER
REVOKED, UNKNOWN = ServerState.REVOKED, ServerState.UNKNOWN
TTL = {SHOWN: 300, REVOKED: 300, OTHER: 4 * HOUR}
DESTROYING = (Action.REVOKE, Action.REMOVE, Action.CONFIRM_REMOVED)


@dataclass
class Server:
    """One name server: what it shows by selector, and what has still to reach it."""

    shows: dict[str, ServerState] = field(default_factory=dict)
    silent: bool = False
    lags: bool = False  # takes nothing from its primary


@dataclass
class Relay:
    """One relay: what it signs with, what it loaded, and its queue, a selector and time a mail."""

    signing: frozenset[str] = frozenset()
    standby: frozenset[str] = frozenset()
    silent: bool = False
    lags: bool = False  # its workers do not read their keys
    holds: bool = False  # its mail is held
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
        self.missed_until: dict[str, datetime] = {}  # by selector: some cache may lack it so long
        self.signed_at: dict[str, datetime] = {}  # by selector: the last time
        self.relays = {name: Relay() for name in RELAYS}
        self.may_be_unsigned = True  # before the first key, and after an order
        self.tend(forced=True)
        self.time_passes(20, 30)

    # --- the world --------------------------------------------------------------------------------

    def shown(self, server: str, selector: str) -> ServerState:
        return self.servers[server].shows.get(selector, ABSENT)

    def a_secondary_follows(self, server: str) -> None:
        if not self.servers[server].lags:
            self.servers[server].shows = dict(self.servers[SERVERS[0]].shows)

    @rule(server=st.sampled_from(SERVERS), lags=st.booleans())
    def a_server_is_in_trouble(self, server: str, lags: bool) -> None:
        self.servers[server].lags = lags
        self.servers[server].silent = not lags

    @rule(relay=st.sampled_from(RELAYS), trouble=st.sampled_from(TROUBLES))
    def a_relay_is_in_trouble(self, relay: str, trouble: str) -> None:
        if trouble == "returns":  # from a backup, with the keys of that time
            retiring = [key.selector for key in self.keys.values() if key.stage is Stage.RETIRING]
            self.relays[relay].signing |= frozenset(retiring)
            trouble = "lags"
        setattr(self.relays[relay], trouble, True)

    @rule()
    def all_trouble_ends(self) -> None:
        for server in self.servers.values():
            server.silent = server.lags = False
        for relay in self.relays.values():
            relay.silent = relay.lags = relay.holds = False

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

    @invariant()
    def resolvers_ask_for_everything(self) -> None:
        """The worst of all resolvers: at each moment, one asks each server for each name.

        RFC 8198: they learn of names that nobody asked for.
        """
        for name in SERVERS:
            for selector in self.keys:
                state = self.shown(name, selector)
                if state is not SHOWN:
                    ttl = TTL.get(state, self.negative_ttl)
                    until = self.now + timedelta(seconds=ttl)
                    self.missed_until[selector] = max(until, self.missed_until.get(selector, until))

    @rule(ttl=st.sampled_from((60, HOUR, 3 * HOUR)))
    def the_negative_ttl_changes(self, ttl: int) -> None:
        # We look at the zone at least once before it is lowered; what nobody saw cannot be known.
        self.tend()
        self.negative_ttl = ttl

    def a_relay_reads_its_keys(self, relay: str) -> None:
        if self.relays[relay].lags:
            return
        signing = [key.selector for key in self.active()]
        ready = [key.selector for key in self.keys.values() if key.stage in _IN_ADVANCE]
        self.relays[relay].signing = frozenset(signing)
        self.relays[relay].standby = frozenset(ready)

    def mail_comes_and_goes(self, relay: str) -> None:
        if not self.relays[relay].holds:
            self.relays[relay].queue.clear()
        for selector in self.relays[relay].signing:
            self.relays[relay].queue.append((self.now, selector))
            self.signed_at[selector] = self.now

    @rule(steps=st.sampled_from((1, 2, 5, 30)), minutes=st.sampled_from((7, 40, 240)))
    def time_passes(self, steps: int, minutes: int) -> None:
        """Who is in no trouble follows, reads and delivers; the timer runs."""
        for _ in range(steps):
            self.resolvers_ask_for_everything()  # before the secondaries follow, and after
            for name in SERVERS[1:]:
                self.a_secondary_follows(name)
            for name in RELAYS:
                self.mail_comes_and_goes(name)
                self.a_relay_reads_its_keys(name)
                self.mail_comes_and_goes(name)
            self.resolvers_ask_for_everything()
            self.now += timedelta(minutes=minutes)
            self.tend()

    @rule(days=st.sampled_from((3, 7, 15)))
    def days_pass(self, days: int) -> None:
        """The same for so long that drains end."""
        self.time_passes(4 * days, 6 * 60)

    # --- orders -----------------------------------------------------------------------------------

    @rule()
    def somebody_rotates_now(self) -> None:
        self.tend(forced=True)

    @rule(
        server=st.sampled_from(SERVERS),
        shows=st.sampled_from((SHOWN, ABSENT, OTHER)),
        ttl=st.sampled_from((60, HOUR, 5 * HOUR)),
        relay=st.sampled_from(RELAYS),
        trouble=st.sampled_from(TROUBLES),
        minutes=st.sampled_from((20, 50)),
        days=st.sampled_from((0, 1, 6)),
        is_early=st.booleans(),
    )
    def somebody_rotates_amid_trouble(
        self,
        server: str,
        shows: ServerState,
        ttl: int,
        relay: str,
        trouble: str,
        minutes: int,
        days: int,
        is_early: bool,
    ) -> None:
        """A server shows something else for a moment while a wait runs; a relay is in trouble."""
        self.negative_ttl = ttl
        if is_early:
            self.a_relay_is_in_trouble(relay, trouble)
        self.tend(forced=True)
        newest = f"s{len(self.keys) - 1}"
        self.time_passes(1, minutes)
        self.negative_ttl = HOUR
        self.time_passes(1, 20)
        is_on_its_way = self.keys[newest].stage in (Stage.PUBLISHED, Stage.READY)
        if is_on_its_way and shows is not SHOWN:
            self.servers[server].shows[newest] = shows
            self.resolvers_ask_for_everything()
            self.tend()
            self.servers[server].shows[newest] = SHOWN
        self.time_passes(6, minutes)
        self.a_relay_is_in_trouble(relay, trouble)
        self.time_passes(4 * days, 6 * 60)

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
            assert self.now >= self.missed_until.get(key.selector, BEGIN), "a cache lacks it"
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
                signed = self.signed_at.get(key.selector, BEGIN)
                assert self.now - signed >= timedelta(days=4), "mail may be in flight"

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
        self.all_trouble_ends()
        self.held_keys_are_released()
        self.somebody_rotates_now()
        newest = max(self.keys.values(), key=lambda key: int(key.selector[1:])).selector
        for _ in range(24 * 12):
            for at in range(len(self.keys)):
                if OTHER in self.look(self.keys[f"s{at}"]).states or self.is_lost(f"s{at}"):
                    self.a_record_is_mended_everywhere(f"s{at}")
            self.held_keys_are_released()
            self.time_passes(1, 60)
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
    max_examples=120,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
