"""Is everything on record?  What is missing, and by what cause where that can be told.

Postfix's log and the archive are held against each other: mail that the log shows and nobody
recorded, records that the log does not show, records whose rows are gone, archive copies that did
not arrive.  Each difference has a `Cause`, and each cause a `Kind`: a HOLE needs somebody to look,
what is PENDING may close by itself, what is EXPLAINED is as it should be.

Promises: a cause is named only where what is known proves it or makes it by far the likeliest; all
else is a hole without explanation.  Times are RFC 3339 in UTC with microseconds: they sort as text.

Does not: read logs or the archive (`milter.archive.completeness` does).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from carbonseal.policies import delivery
from carbonseal.policies.delivery import State


class Kind(StrEnum):
    """What a difference asks for."""

    HOLE = "hole"
    PENDING = "pending"
    EXPLAINED = "explained"


class Cause(StrEnum):
    """Why log and archive differ; the order is that of reports."""

    # Mail that Postfix had in its queue and that has no record.
    RECORD_MISSING = "record-missing"
    MILTER_UNREACHABLE = "milter-unreachable"
    LISTENER_WITHOUT_MILTER = "listener-without-milter"
    LOCAL_SUBMISSION = "local-submission"
    RECORD_WAITS = "record-waits"
    BEFORE_RECORDS = "before-records"
    INTERNAL_MAIL = "internal-mail"
    # Records that are gone.
    RECORD_REMOVED = "record-removed"
    RECORDS_UNCOUNTED = "records-uncounted"
    SEAL_MISSING = "seal-missing"
    # Records of accepted mail that the log does not show.
    NOT_IN_LOG = "not-in-log"
    LOG_GAP = "log-gap"
    FOLLOWER_BEHIND = "follower-behind"
    NOT_FOLLOWED = "not-followed"
    BEFORE_FOLLOWER = "before-follower"
    # Archive copies.
    COPY_LOST = "copy-lost"
    COPY_OVERDUE = "copy-overdue"
    COPY_MISSING = "copy-missing"
    COPY_PENDING = "copy-pending"
    NO_COPY_BY_RULE = "no-copy-by-rule"


_HOLE, _PENDING, _EXPLAINED = Kind.HOLE, Kind.PENDING, Kind.EXPLAINED

_ABOUT: Final[Mapping[Cause, tuple[Kind, str]]] = {
    Cause.RECORD_MISSING: (
        _HOLE,
        "Postfix queued it and there is no record; other mail that came the same way has one.",
    ),
    Cause.MILTER_UNREACHABLE: (
        _HOLE,
        "Postfix could not reach the milter then, and was told to accept mail all the same "
        "(milter_default_action).",
    ),
    Cause.LISTENER_WITHOUT_MILTER: (
        _HOLE,
        "No mail that came in there has a record: no_milters in receive_override_options, or "
        "smtpd_milters without us.",
    ),
    Cause.LOCAL_SUBMISSION: (
        _HOLE,
        "No mail of sendmail(1) has a record: non_smtpd_milters is without us.",
    ),
    Cause.RECORD_WAITS: (_PENDING, "Its record may still wait in the spool for the writer."),
    Cause.BEFORE_RECORDS: (_EXPLAINED, "It came before the relay's first record."),
    Cause.INTERNAL_MAIL: (
        _EXPLAINED,
        "Postfix made it itself (a notification, a probe, forwarded mail) and shows it to no "
        "milter.",
    ),
    Cause.RECORD_REMOVED: (
        _HOLE,
        "What the log said of it is in the archive, its record is not, and retention did not "
        "take it.",
    ),
    Cause.RECORDS_UNCOUNTED: (
        _HOLE,
        "The archive holds fewer records of a segment than were sealed; archive verify names them.",
    ),
    Cause.SEAL_MISSING: (_HOLE, "A seal of the relay's sequence is not there; see archive verify."),
    Cause.NOT_IN_LOG: (_HOLE, "It was sealed and accepted, and Postfix's log does not show it."),
    Cause.LOG_GAP: (
        _HOLE,
        "The log shows none of the relay's mail of that span: it was lost, or nobody followed it "
        "before it was deleted.",
    ),
    Cause.FOLLOWER_BEHIND: (
        _HOLE,
        "The follower does not run, or is far behind: the log of then was not read.",
    ),
    Cause.NOT_FOLLOWED: (_PENDING, "The follower has not come so far."),
    Cause.BEFORE_FOLLOWER: (_EXPLAINED, "It was sealed before the relay's log was followed."),
    Cause.COPY_LOST: (_HOLE, "The archive's copy was not delivered, and will not be."),
    Cause.COPY_OVERDUE: (
        _HOLE,
        "The archive's copy waits for longer than Postfix keeps mail: nobody knows what became "
        "of it.",
    ),
    Cause.COPY_MISSING: (_HOLE, "It crossed the boundary; no copy was added and no rule says why."),
    Cause.COPY_PENDING: (_PENDING, "The archive's copy waits in Postfix's queue."),
    Cause.NO_COPY_BY_RULE: (_EXPLAINED, "It crossed the boundary and gets no copy by rule."),
}

# Reasons in a record, each of which explains a crossing message without a copy.
_NO_COPY: Final = frozenset(
    ("copied-by-peer", "copies-switched-off", "no-archive-recipient", "archive-addressed")
)
_NO_COPY_DRY: Final = "dry-run"
_SESSION: Final = 300.0  # seconds that a session without the milter may go on
_RUN: Final = 3  # records in a row that the log does not show are no accident of one

SMTPD: Final = "smtpd"
PICKUP: Final = "pickup"


def kind(cause: Cause) -> Kind:
    """What a cause asks for."""
    return _ABOUT[cause][0]


def sentence(cause: Cause) -> str:
    """The cause in words."""
    return _ABOUT[cause][1]


@dataclass(frozen=True, slots=True)
class Way:
    """How mail came into the queue."""

    entry: str  # smtpd, pickup; empty where Postfix made it itself
    listener: str = ""  # what an smtpd calls itself in the log, beside its service
    is_loopback: bool = False  # a content filter's client, as a rule

    def __str__(self) -> str:
        name = f"{self.listener}/{self.entry}" if self.listener else self.entry
        return f"{name} from this host" if self.is_loopback else name


@dataclass(frozen=True, slots=True)
class Logged:
    """Mail that Postfix's log shows in the queue, and that has no record."""

    at: str
    way: Way


@dataclass(frozen=True, slots=True)
class Outage:
    """A span in which Postfix complained that it could not reach a milter."""

    since: str
    until: str


@dataclass(frozen=True, slots=True)
class Relay:
    """What is known of one relay beside its mail."""

    first_record: str | None = None  # when its first record was made; None: there is none
    first_fact: str | None = None  # when the first line of its log was followed
    loaded_until: str | None = None  # records of later may wait in its spool; None: none waits
    followed_until: str | None = None  # what its log says of later was not read; None: all was
    is_behind: bool = False  # that is long ago
    recorded: Collection[Way] = ()  # ways on which mail came of which there are records
    outages: Sequence[Outage] = ()


def unrecorded(one: Logged, relay: Relay) -> Cause:
    """Why there is no record of what the log shows."""
    if not one.way.entry:
        return Cause.INTERNAL_MAIL
    if relay.loaded_until is not None and one.at >= relay.loaded_until:
        return Cause.RECORD_WAITS
    if relay.first_record is None or one.at < relay.first_record:
        return Cause.BEFORE_RECORDS
    if any(outage.since <= one.at <= outage.until for outage in relay.outages):
        return Cause.MILTER_UNREACHABLE
    if one.way not in relay.recorded:
        is_local = one.way.entry == PICKUP
        return Cause.LOCAL_SUBMISSION if is_local else Cause.LISTENER_WITHOUT_MILTER
    return Cause.RECORD_MISSING


def unseen(recorded_at: str, relay: Relay) -> Cause:
    """Why the log does not show what was sealed and accepted, the record taken by itself."""
    if relay.first_fact is None or recorded_at < relay.first_fact:
        return Cause.BEFORE_FOLLOWER
    if relay.followed_until is not None and recorded_at >= relay.followed_until:
        return Cause.FOLLOWER_BEHIND if relay.is_behind else Cause.NOT_FOLLOWED
    return Cause.NOT_IN_LOG


def is_gap(in_a_row: int) -> bool:
    """Whether so many records in a row that the log does not show are a gap in the log."""
    return in_a_row >= _RUN


def copy(state: State, age: float, longest: float) -> Cause | None:
    """What is wrong with an archive copy; None: nothing.

    `age`: seconds since the message was sealed; `longest`: for which Postfix keeps mail.
    """
    if state is State.DELIVERED:
        return None
    if state in delivery.LOST:
        return Cause.COPY_LOST
    return Cause.COPY_OVERDUE if age > longest else Cause.COPY_PENDING


def uncopied(reasons: Collection[str]) -> Cause:
    """Why a message that crossed the boundary has no copy; `reasons`: codes of its record."""
    explains = _NO_COPY_DRY in reasons or any(one in _NO_COPY for one in reasons)
    return Cause.NO_COPY_BY_RULE if explains else Cause.COPY_MISSING


def session_end(last_complaint: float) -> float:
    """Until when mail may come in a session that began without the milter; Unix time."""
    return last_complaint + _SESSION
