"""The times in the life of a key: the rules for them, and each wait as the sum it is.

Promises: a `Wait` says in words what it is made of, and the terms of the sentence add up.  What the
zone says now can lengthen a wait that began, never shorten it: `cache_ttl` of a look is kept with
the key, the longest counts.  Where a time is not known, the longest that is usual is assumed.

Sources: RFC 7583 section 3.1 (Ipub = Dprp + TTL); RFC 2308 section 5, RFC 8020, RFC 8198 and RFC
9077 (how long negative answers live, and that they are held for names nobody asked for); RFC 5321
section 4.5.4.1 (queues).  Resolvers that answer from stale caches (RFC 8767) do so only while they
cannot reach a server; no wait covers that.

Does not: know the clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from carbonseal.policies.key_life import DnsView, KeyLife, RelayReport, ServerState

FRESH: Final = 7200  # seconds; an older observation is shown with its age and decides nothing
_LONGEST_TTL: Final = 7 * 86400  # BIND's max-cache-ttl; other resolvers keep answers a day
Term = tuple[str, int]  # what for, seconds


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


@dataclass(frozen=True, slots=True)
class Wait:
    """A time to wait, as the sum it is."""

    since: datetime
    terms: tuple[Term, ...]

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


def publication_wait(key: KeyLife, dns: DnsView | None, rules: Rules) -> Wait:
    """From the moment the last server showed a new record until nobody can miss it any more.

    Dprp of RFC 7583 is measured, because every server was asked; the TTL is that of answers without
    the record.  A TTL that was lowered since does not shorten the life of what is in caches already
    (`KeyLife.cache_ttl`).
    """
    terms = _cached(dns)
    if key.cache_ttl > sum(seconds for _, seconds in terms):
        terms = [("for the longest-lived answer without it", key.cache_ttl)]
    return Wait(key.published_at or key.since, (*terms, ("for safety", rules.safety)))


def cache_ttl(dns: DnsView | None) -> int:
    """Seconds for which caches may hold an answer of this moment without the right record."""
    return sum(seconds for _, seconds in _cached(dns))


def _cached(dns: DnsView | None) -> list[Term]:
    if dns is None:
        return [("for negative answers", 0)]
    wrong = [
        view.ttl or 0
        for view in dns.servers
        if view.state in (ServerState.OTHER, ServerState.REVOKED)
    ]
    terms = [("for negative answers", dns.negative_ttl)]
    if max(wrong, default=0) > dns.negative_ttl:
        terms = [("for the wrong record", max(wrong))]
    # A cached alias leads to a negative answer that is asked for at the end of the alias's own TTL.
    if dns.alias_ttl:
        terms.append(("for aliases", dns.alias_ttl))
    if dns.wildcard_ttl:
        terms.append(("for the wildcard", dns.wildcard_ttl))
    return terms


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


def late_wait(queued_at: datetime, rules: Rules) -> Wait:
    """For mail that left our queues only now, as held mail does: what `drain_wait` adds to them."""
    return Wait(
        queued_at,
        (
            ("in other people's queues", rules.downstream_queue),
            ("until it is verified", rules.verifier_slack),
        ),
    )


def revocation_wait(since: datetime, dns: DnsView | None, rules: Rules) -> Wait:
    """How long an empty `p=` stands."""
    return Wait(
        since,
        (
            ("for older answers", record_ttl(dns) or 0),
            ("for those who look late (rotation.keep_revoked)", rules.keep_revoked),
        ),
    )


def record_ttl(dns: DnsView | None) -> int | None:
    """How long an answer with this record lives in caches, in seconds; None if nobody told."""
    told = [view.ttl for view in dns.servers if view.ttl is not None] if dns else []
    return max(told, default=None)


def exposure(dns: DnsView | None, now: datetime) -> Wait:
    """Until when, at worst, a forgery still verifies if `p=` is made empty now."""
    ttl = record_ttl(dns)
    what = "TTL of the old record"
    if ttl is None:
        ttl, what = _LONGEST_TTL, "in caches, as no server told the TTL of the old record"
    return Wait(
        now, (("until the slowest secondary follows", dns.refresh if dns else 0), (what, ttl))
    )


def stamp(moment: datetime) -> str:
    """A time for people, in UTC, to the second."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def span(seconds: int) -> str:
    """A time to wait for people, exact: 14d, 1h30m, 23h59m59s."""
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        number, seconds = divmod(seconds, size)
        if number:
            parts.append(f"{number}{unit}")
    return "".join(parts) or "0s"
