"""What is due in the life of a key, and why.

Promises: `due` looks at one key, what was seen of it, and the time, and names the one step that may
be taken now, or what is waited for, with the arithmetic in words.  No step forward is named on
something unknown, none that destroys on anything but a fresh, complete and expected observation,
and a key becomes active only after every authoritative server showed its record and all older
negative answers ran out.  `successor` says when the next key is to be begun.

Sources: RFC 7583 section 3.1 (Ipub = Dprp + TTL), RFC 2308 section 5 and RFC 9077 (how long a
negative answer lives), RFC 5321 section 4.5.4.1 (queues), RFC 6376 sections 3.1 and 3.6.1.

Does not: ask, wait or write; `keys.lifecycle` carries out what is named here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum, StrEnum
from typing import Literal

from carbonseal.policies import key_life, signing_request
from carbonseal.policies.key_life import (
    DnsView,
    Goal,
    KeyLife,
    RelayReport,
    RelayState,
    ServerState,
    Stage,
)

# Faults that mean another party's data, not our own record badly copied.
_FOREIGN = frozenset(("mismatch", "two-records", "cname-beside-others"))
_SIGNING = (RelayState.SIGNING, RelayState.LOADED)


@dataclass(frozen=True, slots=True)
class Rules:
    """The section `rotation` of the configuration; all times in seconds."""

    lifetime: int = 180 * 86400  # a key signs so long
    lead: int = 14 * 86400  # its successor is begun so long before
    standby: bool = False  # keep one more key ready, for an emergency
    safety: int = 600  # added to waits for DNS: anycast hides servers from us
    downstream_queue: int = 5 * 86400  # other people's queues, RFC 5321 section 4.5.4.1
    verifier_slack: int = 4 * 86400  # who verifies late, perhaps when the message is read
    queue_lifetime: int = 5 * 86400  # our own queue at least; the relays' own word if longer
    revoke: Literal["empty", "remove", "keep"] = "empty"
    keep_revoked: int = 30 * 86400  # an empty p= stands so long
    fresh: int = 3600  # an observation older than this is made again


class Action(StrEnum):
    """The steps; all but `WAIT` change the key's record, some of them DNS as well."""

    WAIT = "wait"
    PUBLISH = "publish"  # write down the intent, then let the record be made known
    CONFIRM_PUBLISHED = "confirm-published"  # publishing -> published
    FALL_BACK = "fall-back"  # published or ready -> publishing: a server lost the record
    MAKE_READY = "make-ready"  # published -> ready
    ACTIVATE = "activate"  # ready -> active, and its predecessor -> retiring
    REFUSE = "refuse"  # active: sign no more, the record is wrong everywhere
    ALLOW = "allow"  # active: sign again
    CONFIRM_STOPPED = "confirm-stopped"  # retiring: the last relay stopped at ...
    REVOKE = "revoke"  # -> revoking: empty p=
    CONFIRM_REVOKED = "confirm-revoked"  # revoking -> revoked
    REMOVE = "remove"  # -> removing: take the record away
    CONFIRM_REMOVED = "confirm-removed"  # removing -> removed; the private key is destroyed
    HOLD = "hold"  # somebody else's data is at the name


class Standing(IntEnum):
    """How it stands with a key; the number is the exit status of a command about it."""

    DONE = 0  # nothing is open
    NOT_YET = 1  # time, a server or a relay is waited for
    HELD = 2  # something is wrong that a person must look at
    UNREACHABLE = 3  # somebody who must be asked does not answer
    REFUSED = 4  # a rule forbids what was asked for


@dataclass(frozen=True, slots=True)
class Due:
    """The step that is due, or what is waited for."""

    action: Action
    standing: Standing
    why: tuple[str, ...]
    at: datetime | None = None  # WAIT: when time alone will have brought it; None: not time alone


@dataclass(frozen=True, slots=True)
class Wait:
    """A time to wait, as the sum it is."""

    since: datetime
    terms: tuple[tuple[str, int], ...]  # what for, seconds

    @property
    def seconds(self) -> int:
        """The whole wait."""
        return sum(seconds for _, seconds in self.terms)

    @property
    def until(self) -> datetime:
        """Its end."""
        return self.since + timedelta(seconds=self.seconds)

    @property
    def sentence(self) -> str:
        """The arithmetic."""
        terms = " + ".join(f"{span(seconds)} {what}" for what, seconds in self.terms)
        return f"{stamp(self.since)} + {terms} = {stamp(self.until)}"


@dataclass(frozen=True, slots=True)
class Seen:
    """All that was observed, and by whom its record is published."""

    now: datetime
    dns: DnsView | None = None  # None: nobody asked
    relays: tuple[RelayReport, ...] = ()
    by_hand: bool = True  # a person publishes


def due(key: KeyLife, seen: Seen, rules: Rules) -> Due:
    """The step that is due for one key."""
    if key.stage is Stage.REMOVED:
        return Due(Action.WAIT, Standing.DONE, ("removed; the selector is never used again",))
    if key.held:
        return Due(Action.WAIT, Standing.HELD, (f"held: {key.held}",))
    if key.is_cancelled and key.stage in key_life.BEFORE_ACTIVE:
        return _cancelled(key, seen)
    return _STAGES[key.stage](key, seen, rules)


def _cancelled(key: KeyLife, seen: Seen) -> Due:
    if key.stage is Stage.GENERATED:
        return Due(Action.CONFIRM_REMOVED, Standing.DONE, ("cancelled before it was published",))
    return _away(key, seen, Action.REMOVE, ("cancelled; it never signed",))


def _generated(key: KeyLife, seen: Seen, rules: Rules) -> Due:
    if key.goal not in (Goal.READY, Goal.ACTIVE):
        return Due(Action.WAIT, Standing.DONE, ("kept; `keys publish` or `keys rotate` go on",))
    obstacle = _foreign(seen)
    if obstacle is not None:
        return obstacle
    return Due(Action.PUBLISH, Standing.DONE, (f"it is to become {key.goal.value}",))


def _publishing(key: KeyLife, seen: Seen, rules: Rules) -> Due:
    obstacle = _foreign(seen) or _unseen(seen)
    if obstacle is not None:
        return obstacle
    states = _states(seen)
    if states == {ServerState.SHOWN}:
        return Due(Action.CONFIRM_PUBLISHED, Standing.DONE, ("every server shows the record",))
    if ServerState.REVOKED in states or ServerState.OTHER in states:
        return Due(Action.WAIT, Standing.HELD, _complaints(seen))
    if ServerState.SHOWN in states or ServerState.ABSENT not in states:
        return _unanswered(seen) or _lagging(seen, "does not show the record yet")
    if not seen.by_hand:
        return Due(Action.PUBLISH, Standing.NOT_YET, ("no server shows the record",))
    # All that were asked have nothing: even where one is silent, it is the person's turn.
    return Due(
        Action.WAIT,
        Standing.NOT_YET,
        ("no server shows the record; publish it, `keys publish` prints it",),
    )


def _published(key: KeyLife, seen: Seen, rules: Rules) -> Due:
    obstacle = _not_shown(key, seen)
    if obstacle is not None:
        return obstacle
    wait = publication_wait(key, seen.dns, rules)
    if seen.now < wait.until:
        why = f"old negative answers run out: {wait.sentence}"
        return Due(Action.WAIT, Standing.NOT_YET, (why,), wait.until)
    return _unloaded(key, seen) or Due(
        Action.MAKE_READY, Standing.DONE, ("shown everywhere, waited, loaded by every relay",)
    )


def _ready(key: KeyLife, seen: Seen, rules: Rules) -> Due:
    obstacle = _not_shown(key, seen)
    if obstacle is not None:
        return obstacle
    if key.goal is not Goal.ACTIVE:
        return Due(Action.WAIT, Standing.DONE, ("stands by; it can sign at any moment",))
    if key.activate_from is not None and seen.now < key.activate_from:
        why = f"its predecessor signs until {stamp(key.activate_from)}"
        return Due(Action.WAIT, Standing.NOT_YET, (why,), key.activate_from)
    return _unloaded(key, seen) or Due(
        Action.ACTIVATE, Standing.DONE, ("shown everywhere just now, loaded by every relay",)
    )


def _active(key: KeyLife, seen: Seen, rules: Rules) -> Due:
    states = _states(seen)
    if ServerState.SHOWN in states and key.refused:
        return Due(Action.ALLOW, Standing.DONE, ("its record is shown again",))
    if seen.dns is None:
        return Due(Action.WAIT, Standing.DONE, ("signs; DNS was not asked",))
    if states == {ServerState.SHOWN}:
        return Due(Action.WAIT, Standing.DONE, ("signs",))
    known_wrong = states and not states & {ServerState.SHOWN, ServerState.UNKNOWN}
    if known_wrong and not key.refused:
        # As long as one server still shows the record, some receivers verify; unsigned mail would
        # help nobody.  When none does, every signature is a failure.
        return Due(Action.REFUSE, Standing.HELD, _complaints(seen))
    if ServerState.UNKNOWN in states and states <= {ServerState.SHOWN, ServerState.UNKNOWN}:
        return Due(Action.WAIT, Standing.UNREACHABLE, ("signs", *_complaints(seen)))
    return Due(Action.WAIT, Standing.HELD, _complaints(seen))


def _retiring(key: KeyLife, seen: Seen, rules: Rules) -> Due:
    if key.is_compromised:
        return _away(key, seen, Action.REVOKE, ("compromised: revoked without waiting",))
    if key.stopped_at is None:
        return _still_signing(key, seen) or Due(
            Action.CONFIRM_STOPPED, Standing.NOT_YET, ("no relay signs with it any more",)
        )
    if rules.revoke == "keep":
        return Due(Action.WAIT, Standing.DONE, ("its record stays: rotation.revoke says keep",))
    wait = drain_wait(key.stopped_at, seen.relays, rules)
    if seen.now < wait.until:
        why = f"mail it signed may be in flight: {wait.sentence}"
        return Due(Action.WAIT, Standing.NOT_YET, (why,), wait.until)
    obstacle = _undrained(key.stopped_at, seen)
    if obstacle is not None:
        return obstacle
    action = Action.REVOKE if rules.revoke == "empty" else Action.REMOVE
    return _away(key, seen, action, ("drained: no relay holds mail it signed",))


def _revoking(key: KeyLife, seen: Seen, rules: Rules) -> Due:
    states = _states(seen)
    if states == {ServerState.REVOKED}:
        return Due(Action.CONFIRM_REVOKED, Standing.DONE, ("every server shows an empty p=",))
    if states == {ServerState.ABSENT}:
        return Due(Action.REMOVE, Standing.DONE, ("its record has been taken away already",))
    return _going(seen, Action.REVOKE, ServerState.SHOWN, "still shows the key, not an empty p=")


def _revoked(key: KeyLife, seen: Seen, rules: Rules) -> Due:
    since = key.revoked_at or seen.now
    wait = Wait(
        since,
        (
            ("old answers live", record_ttl(seen.dns)),
            ("for those who look up late (rotation.keep_revoked)", rules.keep_revoked),
        ),
    )
    if seen.now < wait.until:
        why = f"the empty p= stands until {wait.sentence}"
        return Due(Action.WAIT, Standing.DONE, (why,), wait.until)
    return _away(key, seen, Action.REMOVE, ("revoked for long enough",))


def _removing(key: KeyLife, seen: Seen, rules: Rules) -> Due:
    if _states(seen) == {ServerState.ABSENT}:
        return Due(Action.CONFIRM_REMOVED, Standing.DONE, ("no server shows the record any more",))
    states = _states(seen)
    still = ServerState.REVOKED if ServerState.REVOKED in states else ServerState.SHOWN
    return _going(seen, Action.REMOVE, still, "still shows the record")


_STAGES = {
    Stage.GENERATED: _generated,
    Stage.PUBLISHING: _publishing,
    Stage.PUBLISHED: _published,
    Stage.READY: _ready,
    Stage.ACTIVE: _active,
    Stage.RETIRING: _retiring,
    Stage.REVOKING: _revoking,
    Stage.REVOKED: _revoked,
    Stage.REMOVING: _removing,
}


# --- Waits ----------------------------------------------------------------------------------------


def publication_wait(key: KeyLife, dns: DnsView | None, rules: Rules) -> Wait:
    """From the moment the last server showed a new record until nobody can miss it any more.

    RFC 7583: Ipub = Dprp + TTL.  Dprp is measured (every server was asked); the TTL is that of
    negative answers, which resolvers may hold even for a name nobody asked for (RFC 8198).
    """
    terms = [("for negative answers", dns.negative_ttl if dns else 0)]
    if dns and dns.alias_ttl:
        terms.append(("for its aliases", dns.alias_ttl))
    if dns and dns.wildcard_ttl:
        terms.append(("for the wildcard", dns.wildcard_ttl))
    terms.append(("safety", rules.safety))
    return Wait(key.published_at or (dns.at if dns else _LONG_AGO), tuple(terms))


def drain_wait(stopped_at: datetime, relays: Iterable[RelayReport], rules: Rules) -> Wait:
    """From the last signature until no mail that carries it can still be verified."""
    queues = [report.queue for report in relays if report.queue is not None]
    lifetimes = [max(queue.queue_lifetime, queue.bounce_lifetime) for queue in queues]
    return Wait(
        stopped_at,
        (
            ("in our queues", max([rules.queue_lifetime, *lifetimes])),
            ("in other people's queues", rules.downstream_queue),
            ("until it is verified", rules.verifier_slack),
        ),
    )


def record_ttl(dns: DnsView | None) -> int:
    """How long an answer with this record lives in caches, in seconds."""
    return max([view.ttl for view in dns.servers if view.ttl is not None] if dns else [], default=0)


def exposure(dns: DnsView | None, now: datetime) -> Wait:
    """Until when, at worst, a forgery still verifies if `p=` is made empty now."""
    return Wait(
        now,
        (
            ("until the slowest secondary follows", dns.refresh if dns else 0),
            ("TTL of the old record", record_ttl(dns)),
        ),
    )


# --- Successors -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Successor:
    """A key that is to be begun, or one that is there and is to be given a goal."""

    algorithm: str
    goal: Goal
    activate_from: datetime | None
    why: str
    at: datetime  # when it is due; in the future: only a plan
    selector: str | None = None  # of the standby that takes the place; None: a new key


def first(now: datetime) -> Successor:
    """The first key of an SDID: RSA, which every receiver verifies (RFC 8301 section 3.1)."""
    why = "no key signs yet, and somebody asked for one"
    return Successor(signing_request.RSA, Goal.ACTIVE, None, why, now)


def successors(
    keys: Sequence[KeyLife], rules: Rules, now: datetime, *, forced: bool = False
) -> tuple[Successor, ...]:
    """The next keys of one SDID, for each algorithm it signs with.

    `forced` begins now what would be begun later.
    """
    signing: dict[str, KeyLife] = {}
    for key in keys:
        if key.stage is Stage.ACTIVE and not key.is_compromised:
            other = signing.get(key.algorithm)
            if other is None or _activation(key) >= _activation(other):
                signing[key.algorithm] = key
    found: list[Successor] = []
    for algorithm in sorted(signing, reverse=True):
        coming = [key for key in keys if key.algorithm == algorithm and _is_coming(key)]
        found += _next(signing[algorithm], coming, rules, now, forced=forced)
    return tuple(found)


def _next(
    signing: KeyLife, coming: Sequence[KeyLife], rules: Rules, now: datetime, *, forced: bool
) -> list[Successor]:
    found: list[Successor] = []
    standbys = [key for key in coming if key.goal is Goal.READY]
    awaited = [key for key in coming if key.goal is Goal.ACTIVE]
    if forced and awaited and awaited[0].activate_from is not None:
        why = "somebody asked for it not to wait for its predecessor's end"
        return [Successor(signing.algorithm, Goal.ACTIVE, None, why, now, awaited[0].selector)]
    if not awaited:
        ends = _activation(signing) + timedelta(seconds=rules.lifetime)
        at = now if forced or signing.refused else ends - timedelta(seconds=rules.lead)
        if forced:
            why = f"somebody asked for it; {signing.selector} signs now"
        elif signing.refused:
            why = f"{signing.selector} may not sign: {signing.refused}"
        else:
            why = (
                f"{signing.selector} signs since {stamp(_activation(signing))}, for"
                f" {span(rules.lifetime)} (rotation.lifetime); its successor is begun"
                f" {span(rules.lead)} before (rotation.lead)"
            )
        start = None if forced or signing.refused or ends <= now else ends
        chosen = standbys[0].selector if standbys else None
        found.append(Successor(signing.algorithm, Goal.ACTIVE, start, why, at, chosen))
        if standbys and at <= now:
            standbys = standbys[1:]
    if rules.standby and not standbys:
        why = "rotation.standby keeps one ready"
        found.append(Successor(signing.algorithm, Goal.READY, None, why, now))
    return found


def _is_coming(key: KeyLife) -> bool:
    return (
        key.stage in key_life.BEFORE_ACTIVE
        and key.goal in (Goal.READY, Goal.ACTIVE)
        and not (key.held or key.is_cancelled or key.is_compromised)
    )


def _activation(key: KeyLife) -> datetime:
    return key.activated_at or _LONG_AGO


# --- What stands in the way -----------------------------------------------------------------------


def _states(seen: Seen) -> frozenset[ServerState]:
    return frozenset((ServerState.UNKNOWN,)) if seen.dns is None else seen.dns.states


def _complaints(seen: Seen) -> tuple[str, ...]:
    if seen.dns is None:
        return ("DNS was not asked",)
    return seen.dns.complaints or ("its record is not as it should be",)


def _foreign(seen: Seen) -> Due | None:
    if seen.dns is None:
        return None
    found = [view.about for view in seen.dns.servers if view.fault in _FOREIGN]
    if not found:
        return None
    return Due(Action.HOLD, Standing.HELD, tuple(dict.fromkeys(found)))


def _unseen(seen: Seen) -> Due | None:
    """When nothing at all is known."""
    if seen.dns is None or seen.dns.problem or not seen.dns.servers:
        return Due(Action.WAIT, Standing.UNREACHABLE, _complaints(seen))
    return None


def _unanswered(seen: Seen) -> Due | None:
    if ServerState.UNKNOWN in _states(seen):
        return Due(Action.WAIT, Standing.UNREACHABLE, _complaints(seen))
    return None


def _lagging(seen: Seen, what: str, *, right: ServerState = ServerState.SHOWN) -> Due:
    assert seen.dns is not None
    late = [
        f"{view.server or view.address} ({view.address}) {what}"
        + (f" (serial {view.serial})" if view.serial is not None else "")
        for view in seen.dns.servers
        if view.state not in (right, ServerState.UNKNOWN)
    ]
    hint = f"a secondary asks its primary at the latest every {span(seen.dns.refresh)}"
    return Due(Action.WAIT, Standing.NOT_YET, (*late, hint) if seen.dns.refresh else tuple(late))


def _not_shown(key: KeyLife, seen: Seen) -> Due | None:
    """A key on its way to sign whose record is not, or no longer, shown by every server."""
    obstacle = _foreign(seen) or _unseen(seen)
    if obstacle is not None:
        return obstacle
    states = _states(seen)
    if states == {ServerState.SHOWN}:
        return None
    if ServerState.ABSENT in states:
        why = _complaints(seen)
        return Due(Action.FALL_BACK, Standing.NOT_YET, why)
    if states & {ServerState.OTHER, ServerState.REVOKED}:
        return Due(Action.WAIT, Standing.HELD, _complaints(seen))
    return _unanswered(seen)


def _unloaded(key: KeyLife, seen: Seen) -> Due | None:
    return _relays_wanting(
        key, seen, _SIGNING, "has not loaded the key, or its self-test failed; see its log"
    )


def _still_signing(key: KeyLife, seen: Seen) -> Due | None:
    stopped = (RelayState.STOPPED, RelayState.LOADED)
    return _relays_wanting(key, seen, stopped, "may still sign with it")


def _relays_wanting(
    key: KeyLife, seen: Seen, wanted: tuple[RelayState, ...], what: str
) -> Due | None:
    if not seen.relays:
        return Due(Action.WAIT, Standing.UNREACHABLE, ("no relay was asked",))
    states = [(report, report.state_of(key.sdid, key.selector)) for report in seen.relays]
    silent = tuple(
        f"relay {report.relay}: {report.problem or 'it has not said yet what it signs with'}"
        for report, state in states
        if state is RelayState.UNKNOWN
    )
    open_ = tuple(
        f"relay {report.relay} {what}"
        for report, state in states
        if state is not RelayState.UNKNOWN and state not in wanted
    )
    if open_:
        return Due(Action.WAIT, Standing.NOT_YET, (*open_, *silent))
    if silent:
        starting = all(
            not report.problem for report, state in states if state is RelayState.UNKNOWN
        )
        standing = Standing.NOT_YET if starting else Standing.UNREACHABLE
        return Due(Action.WAIT, standing, silent)
    return None


def _undrained(stopped_at: datetime, seen: Seen) -> Due | None:
    blind = tuple(
        f"relay {report.relay}: {report.problem or report.queue_problem or 'its queue is unknown'}"
        for report in seen.relays
        if report.queue is None
    )
    older = tuple(
        f"relay {report.relay} still holds mail that came at {stamp(report.queue.oldest)}, before"
        f" the key stopped; see `postqueue -p` for held and deferred mail"
        for report in seen.relays
        if report.queue is not None
        and report.queue.oldest is not None
        and report.queue.oldest <= stopped_at
    )
    if older:
        return Due(Action.WAIT, Standing.NOT_YET, (*older, *blind))
    if blind or not seen.relays:
        return Due(Action.WAIT, Standing.UNREACHABLE, blind or ("no relay was asked",))
    return None


def _away(key: KeyLife, seen: Seen, action: Action, why: tuple[str, ...]) -> Due:
    """A step that destroys: only on what is known and expected."""
    obstacle = _foreign(seen)
    if obstacle is not None:
        return obstacle
    states = _states(seen)
    if ServerState.OTHER in states:
        return Due(Action.HOLD, Standing.HELD, _complaints(seen))
    # A compromised record is revoked though a server is silent: the change is sent with the value
    # that must be there, so that it cannot hit anything else.
    if ServerState.UNKNOWN in states and not key.is_compromised:
        return Due(Action.WAIT, Standing.UNREACHABLE, _complaints(seen))
    if states == {ServerState.ABSENT}:
        return Due(Action.REMOVE, Standing.DONE, (*why, "no server shows its record"))
    return Due(action, Standing.DONE, why)


def _going(seen: Seen, action: Action, still: ServerState, what: str) -> Due:
    """A record on its way to another value: repeated where a program does it, waited for else."""
    obstacle = _foreign(seen) or _unseen(seen)
    if obstacle is not None:
        return obstacle
    states = _states(seen)
    if ServerState.OTHER in states:
        return Due(Action.HOLD, Standing.HELD, _complaints(seen))
    # Where a primary has it and a secondary not, nothing is to be sent again.
    untouched = states <= {still, ServerState.UNKNOWN} and still in states
    if untouched and not seen.by_hand:
        return Due(action, Standing.NOT_YET, (f"every server {what}",))
    if untouched and ServerState.UNKNOWN not in states:
        do = "make its p= empty" if action is Action.REVOKE else "take the record away"
        why = f"every server {what}; {do} by hand, `keys publish` prints it"
        return Due(Action.WAIT, Standing.NOT_YET, (why,))
    right = ServerState.REVOKED if action is Action.REVOKE else ServerState.ABSENT
    return _unanswered(seen) or _lagging(seen, what, right=right)


# --- Words ----------------------------------------------------------------------------------------

_LONG_AGO = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


def stamp(moment: datetime) -> str:
    """A time for people, in UTC, to the second."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def span(seconds: int) -> str:
    """A time to wait for people: 14d, 1h30m, 5s."""
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        number, seconds = divmod(seconds, size)
        if number:
            parts.append(f"{number}{unit}")
    return "".join(parts[:2]) or "0s"
