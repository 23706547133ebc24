"""The life of a key as values: stages and goals, and what was seen of it in DNS and on the relays.

Promises: what somebody wants (`Goal`), how far a key is (`Stage`) and what was observed (`DnsView`,
`RelayReport`) are kept apart; a stage moves only when observations allow it (`rotation`).  Unknown
is a value of its own and never means absent.

Does not: ask anybody, or decide; times are given to it and are aware, in UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Stage(StrEnum):
    """How far a key is in its life; only an `ACTIVE` key signs."""

    GENERATED = "generated"  # on disk
    PUBLISHING = "publishing"  # its record is being made known
    PUBLISHED = "published"  # every server shows it; old negative answers still run out
    READY = "ready"  # may sign at once
    ACTIVE = "active"  # signs
    RETIRING = "retiring"  # signs no more; its record stays for mail in flight
    REVOKING = "revoking"  # p= is being emptied
    REVOKED = "revoked"  # every server shows an empty p=
    REMOVING = "removing"  # the record is being taken away
    REMOVED = "removed"  # a tombstone: the selector is never used again


class Goal(StrEnum):
    """What somebody, or the timer, wants of a key."""

    KEPT = "kept"  # nothing by itself
    READY = "ready"  # a standby: published and ready to sign
    ACTIVE = "active"  # sign as soon as that is safe
    REMOVED = "removed"  # leave, in order


BEFORE_ACTIVE = frozenset((Stage.GENERATED, Stage.PUBLISHING, Stage.PUBLISHED, Stage.READY))
LOADED_IN_ADVANCE = frozenset((Stage.PUBLISHED, Stage.READY))  # by the relays, as a self-test


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLife:
    """How far one key is, what is wanted of it, and when it came there; times aware, in UTC."""

    sdid: str  # A-label
    selector: str
    algorithm: str  # signing_request.RSA or .ED25519
    stage: Stage
    goal: Goal = Goal.KEPT
    since: datetime  # in this stage
    activated_at: datetime | None = None  # last time
    activate_from: datetime | None = None  # not before; None: as soon as it is ready
    published_at: datetime | None = None  # the last server showed the record
    stopped_at: datetime | None = None  # the last relay stopped signing with it
    revoked_at: datetime | None = None  # the last server showed an empty p=
    sent_at: datetime | None = None  # the last change was sent to DNS
    cache_ttl: int = 0  # seconds: the longest life in caches of an answer without the record
    assumed_published: bool = False  # a person answered for it; DNS was not asked
    held: str = ""  # why a person must look before it goes on
    refused: str = ""  # why it may not sign though it is active: its record is wrong everywhere
    compromised_at: datetime | None = None
    cancelled_at: datetime | None = None  # given up before it signed

    @property
    def is_compromised(self) -> bool:
        """Whether strangers may have the private half."""
        return self.compromised_at is not None

    @property
    def is_cancelled(self) -> bool:
        """Whether it was given up before it signed."""
        return self.cancelled_at is not None


class ServerState(StrEnum):
    """What one name server shows at the name of a key."""

    SHOWN = "shown"  # one TXT record with this very key, usable for mail
    REVOKED = "revoked"  # one key record with an empty p=
    ABSENT = "absent"  # an authoritative answer: nothing there
    OTHER = "other"  # an authoritative answer: something else, or a damaged record
    UNKNOWN = "unknown"  # no authoritative answer


@dataclass(frozen=True, slots=True)
class ServerView:
    """What one address of one name server said."""

    server: str  # the name server's name; '' if only an address is configured
    address: str  # 192.0.2.53@53, or 2001:db8::53@53
    state: ServerState
    at: datetime
    text: str = ""  # the TXT value, strings joined, cut at 2,048 characters
    fault: str = ""  # a code of publication.faults; '' if nothing is wrong
    about: str = ""  # the fault in one sentence, with what to do
    ttl: int | None = None  # seconds, of the TXT records
    serial: int | None = None  # of the zone's SOA at this server


@dataclass(frozen=True, slots=True)
class DnsView:
    """What all authoritative servers said about one key, and what its zone says about waiting."""

    name: str  # the name asked for: selector._domainkey.sdid
    at: datetime
    servers: tuple[ServerView, ...] = ()
    zone: str = ""  # the zone in which the TXT record stands or would stand
    target: str = ""  # the end of the chain of CNAMEs; the name itself if there is none
    negative_ttl: int = 0  # seconds: greatest min(SOA TTL, SOA minimum) of the zones crossed
    alias_ttl: int = 0  # seconds: sum of the TTLs of the CNAMEs crossed
    wildcard_ttl: int = 0  # seconds: TTL of a wildcard TXT that answers in the place of the name
    refresh: int = 0  # seconds: SOA refresh + retry, by which the slowest secondary follows
    problem: str = ""  # why zone or servers could not be found; then nothing is known

    @property
    def states(self) -> frozenset[ServerState]:
        """All states seen; UNKNOWN among them when somebody could not be asked."""
        seen = {view.state for view in self.servers}
        if self.problem or not self.servers:
            seen.add(ServerState.UNKNOWN)
        return frozenset(seen)

    def is_everywhere(self, state: ServerState) -> bool:
        """Whether every server was asked and shows this."""
        return self.states == {state}

    @property
    def complaints(self) -> tuple[str, ...]:
        """What is wrong, a sentence each, no sentence twice."""
        said = [view.about for view in self.servers if view.about]
        return tuple(dict.fromkeys([*([self.problem] if self.problem else []), *said]))


class RelayState(StrEnum):
    """What one relay does with one key."""

    SIGNING = "signing"  # a worker may sign with it
    LOADED = "loaded"  # every worker has it and it passed the self-test
    STOPPED = "stopped"  # no worker signs with it or has it ready
    UNKNOWN = "unknown"  # no report


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """What one living worker says of its keys, each as 'sdid/selector'."""

    pid: int
    is_starting: bool  # it may be loading anything just now
    signing: frozenset[str] = frozenset()  # what its messages may be signed with
    standby: frozenset[str] = frozenset()  # loaded and self-tested, not signing


@dataclass(frozen=True, slots=True)
class QueueReport:
    """Postfix's queue on one relay, held mail included."""

    count: int
    oldest: datetime | None  # arrival of the oldest message
    queue_lifetime: int  # seconds, maximal_queue_lifetime
    bounce_lifetime: int  # seconds, bounce_queue_lifetime


@dataclass(frozen=True, slots=True)
class RelayReport:
    """One relay at one moment."""

    relay: str
    at: datetime
    workers: tuple[WorkerReport, ...] = ()
    loadable: frozenset[str] = frozenset()  # self-tested on disk; counts where no worker runs
    queue: QueueReport | None = None
    queue_problem: str = ""  # why the queue is unknown
    problem: str = ""  # why nothing is known; then all else is empty

    def state_of(self, sdid: str, selector: str) -> RelayState:
        """What this relay does with a key."""
        if self.problem:
            return RelayState.UNKNOWN
        name = f"{sdid}/{selector}"
        if any(worker.is_starting for worker in self.workers):
            return RelayState.UNKNOWN
        if any(name in worker.signing for worker in self.workers):
            return RelayState.SIGNING
        if self.workers:
            loaded = all(name in worker.standby for worker in self.workers)
        else:
            loaded = name in self.loadable
        return RelayState.LOADED if loaded else RelayState.STOPPED
