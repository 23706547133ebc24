"""Do the copies for an archive mailbox arrive, and since when not: what each attempt changes.

Promises: the same attempts in the same order give the same `Standing`.  An incident begins with the
first attempt that does not deliver, and is over when copies have arrived for a while without a
failure; so a mailbox that fails now and then is one incident, not many.  After `after` failures in
a row somebody else gets the copies; a delivery gives them back at once, and until the incident is
over one more failure is enough to take them away again.

Who gets them is decided in `archiving`, from the `Outlook` that is made of the standings.

Does not: read logs, know the time, or tell anybody.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from carbonseal.policies.delivery import State

# An attempt that is told this much late (a log that is read again, lines that overtook each other)
# is no news; one that is older still means that a clock was set back.
_LATE = 30.0  # seconds


class Outcome(StrEnum):
    """What an attempt means for a copy."""

    DELIVERED = "delivered"
    DEFERRED = "deferred"  # it waits in the queue
    LOST = "lost"  # nobody will try again, and NOTIFY=NEVER tells nobody


def outcome(state: State) -> Outcome:
    """What it means for a copy that its mailbox was left in this state."""
    if state is State.DELIVERED:
        return Outcome.DELIVERED
    return Outcome.DEFERRED if state is State.DEFERRED else Outcome.LOST


@dataclass(frozen=True, slots=True)
class Standing:
    """How the copies for one mailbox fare.  Times are Unix times of the log, in seconds."""

    failures: int = 0  # attempts in a row that did not deliver
    since: float | None = None  # the first of these
    failed_at: float | None = None  # the last failure
    tried_at: float | None = None
    delivered_at: float | None = None
    incident: float | None = None  # when the one that is not over began
    lost: int = 0  # copies, in this incident
    is_diverted: bool = False  # others get its copies
    was_diverted: bool = False  # in this incident
    reply: str = ""  # to the last attempt that failed
    next_hop: str = ""

    @property
    def is_failing(self) -> bool:
        """Whether the last attempt did not deliver."""
        return self.failures > 0


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt to deliver one copy, or the end of one without any."""

    at: float
    outcome: Outcome
    reply: str = ""
    next_hop: str = ""


def after(standing: Standing, attempt: Attempt, *, limit: int) -> Standing:
    """The standing after one more attempt; `limit`: failures in a row until others take over."""
    lost = standing.lost + (attempt.outcome is Outcome.LOST)
    if standing.tried_at is not None and 0 < standing.tried_at - attempt.at < _LATE:
        is_news = attempt.outcome is Outcome.LOST
        began = attempt.at if is_news and standing.incident is None else standing.incident
        failed = standing.failed_at
        if is_news:
            failed = attempt.at if failed is None else max(failed, attempt.at)
        return dataclasses.replace(standing, lost=lost, incident=began, failed_at=failed)
    if attempt.outcome is Outcome.DELIVERED:
        return dataclasses.replace(
            standing,
            failures=0,
            since=None,
            tried_at=attempt.at,
            delivered_at=attempt.at,
            is_diverted=False,
        )
    failures = standing.failures + 1
    is_diverted = standing.is_diverted or failures >= limit or standing.was_diverted
    return dataclasses.replace(
        standing,
        failures=failures,
        since=attempt.at if standing.since is None else standing.since,
        failed_at=attempt.at,
        tried_at=attempt.at,
        incident=attempt.at if standing.incident is None else standing.incident,
        lost=lost,
        is_diverted=is_diverted,
        was_diverted=is_diverted,
        reply=attempt.reply,
        next_hop=attempt.next_hop,
    )


def is_over(standing: Standing, now: float, *, quiet: float) -> bool:
    """Whether the incident is over: copies arrived, and none failed for `quiet` seconds."""
    if standing.incident is None or standing.is_failing:
        return False
    return standing.failed_at is None or not 0 <= now - standing.failed_at < quiet


def over(standing: Standing) -> Standing:
    """The standing once the incident is over."""
    return Standing(tried_at=standing.tried_at, delivered_at=standing.delivered_at)


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is known of archive mailboxes while a message is sealed; addresses in lower case."""

    failing: frozenset[str] = frozenset()
    diverted: frozenset[str] = frozenset()  # of these, those whose copies go elsewhere
    tried: frozenset[str] = frozenset()  # of these, those that get this one as well, as a trial


WELL = Outlook()


def outlook(
    standings: Mapping[str, Standing],
    now: float,
    *,
    retry: float,
    is_stale: bool,
    tried_by_us: Mapping[str, float],
) -> Outlook:
    """What to go by now.

    Every `retry` seconds one copy is sent where copies do not arrive: of a mailbox that bounced
    everything nothing waits in the queue, and without a trial nobody would learn that it is well
    again.  While nobody follows the log (`is_stale`) what was bad may be well: then both get it.
    """
    failing = {mailbox for mailbox, one in standings.items() if one.is_failing}
    diverted = {mailbox for mailbox in failing if standings[mailbox].is_diverted}
    tried = set()
    for mailbox in diverted:
        last = max(standings[mailbox].tried_at or 0.0, tried_by_us.get(mailbox, 0.0))
        if is_stale or not 0 <= now - last < retry:
            tried.add(mailbox)
    return Outlook(frozenset(failing), frozenset(diverted), frozenset(tried))
