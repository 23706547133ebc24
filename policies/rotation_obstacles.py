"""What stands in the way of a step: servers, relays, queues; each as a sentence with a remedy.

Promises: unknown is told from absent, and a report that is too old is unknown.  Each function gives
what is waited for, or None if nothing stands in the way.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from carbonseal.policies import rotation_step, rotation_waits
from carbonseal.policies.key_life import KeyLife, RelayReport, RelayState, ServerState
from carbonseal.policies.rotation_step import Action, Due, Seen, Standing
from carbonseal.policies.rotation_waits import FRESH, span, stamp

# Faults that mean another party's data, not our own record badly copied.
FOREIGN: Final = frozenset(("mismatch", "two-records", "cname-beside-others"))
_PATIENCE: Final = 3600  # seconds at least, before a secondary that lags is somebody's trouble


# --- DNS ------------------------------------------------------------------------------------------


def states(seen: Seen) -> frozenset[ServerState]:
    """All that servers show; UNKNOWN where nobody was asked."""
    return frozenset((ServerState.UNKNOWN,)) if seen.dns is None else seen.dns.states


def complaints(seen: Seen) -> tuple[str, ...]:
    """What is wrong in DNS."""
    if seen.dns is None:
        return ("DNS was not asked",)
    return seen.dns.complaints or ("its record is not as it should be",)


def staleness(seen: Seen) -> str:
    """How old a look at DNS is that must be made again; '' for a fresh one, or none.

    A look from the future was dated by a clock that was wrong since, or is wrong now.
    """
    if seen.dns is None:
        return ""
    age = (seen.now - seen.dns.at).total_seconds()
    if age > FRESH:
        return f"DNS was asked {span(int(age))} ago"
    return "DNS was asked when the clock was ahead" if age < -FRESH else ""


def is_foreign(seen: Seen) -> bool:
    """Whether a server shows another party's data."""
    return seen.dns is not None and any(view.fault in FOREIGN for view in seen.dns.servers)


def foreign(seen: Seen) -> Due | None:
    """Another party's data: the key is held until a person has settled it."""
    if seen.dns is None or not is_foreign(seen):
        return None
    found = [view.about for view in seen.dns.servers if view.fault in FOREIGN]
    why = tuple(dict.fromkeys(found))
    return rotation_step.step(Action.HOLD, *why, standing=Standing.HELD)


def unseen(seen: Seen) -> Due | None:
    """When nothing at all is known."""
    if seen.dns is None or seen.dns.problem or not seen.dns.servers:
        return rotation_step.wait(Standing.UNREACHABLE, *complaints(seen))
    return None


def unanswered(seen: Seen) -> Due | None:
    """When a server did not answer."""
    if ServerState.UNKNOWN in states(seen):
        return rotation_step.wait(Standing.UNREACHABLE, *complaints(seen))
    return None


def lagging(key: KeyLife, seen: Seen, words: Mapping[ServerState, str]) -> Due:
    """Servers that do not show yet what others show; `words` for each state that is behind."""
    assert seen.dns is not None
    late = [
        (f"{view.server} ({view.address})" if view.server else view.address)
        + f" {words[view.state]}"
        + (f" (serial {view.serial})" if view.serial is not None else "")
        for view in seen.dns.servers
        if view.state in words
    ]
    since = max(key.since, key.sent_at or key.since)
    bound = max(seen.dns.refresh, _PATIENCE)
    if seen.now > since + timedelta(seconds=bound):
        overdue = (
            f"it should have followed within {span(bound)}: see that it gets zone transfers and"
            " NOTIFY from its primary"
        )
        return rotation_step.wait(Standing.HELD, *late, overdue)
    if seen.dns.refresh:
        within = span(seen.dns.refresh)
        late.append(
            f"a secondary follows within {within} (refresh + retry of the SOA), if it gets zone"
            " transfers and NOTIFY from its primary"
        )
    return rotation_step.wait(Standing.NOT_YET, *late)


# --- Relays ---------------------------------------------------------------------------------------

_WORKS = (RelayState.SIGNING, RelayState.LOADED)
_SILENT = (RelayState.STOPPED, RelayState.LOADED)


def unloaded(key: KeyLife, seen: Seen) -> Due | None:
    """Relays that could not sign with the key if it were activated now."""
    what = "has not loaded the key, or its self-test failed; see its log"
    return _wanting(key, seen, _WORKS, what)


def still_signing(key: KeyLife, seen: Seen) -> Due | None:
    """Relays that may sign with a key that is retiring."""
    return _wanting(key, seen, _SILENT, "may still sign with it")


def signing(key: KeyLife, seen: Seen) -> tuple[str, ...]:
    """The relays that certainly sign with the key."""
    return tuple(
        report.relay
        for report in seen.relays
        if report.state_of(key.sdid, key.selector) is RelayState.SIGNING
    )


def _wanting(key: KeyLife, seen: Seen, wanted: tuple[RelayState, ...], what: str) -> Due | None:
    if not seen.relays:
        return rotation_step.wait(Standing.UNREACHABLE, "no relay was asked")
    silent: list[str] = []
    late: list[str] = []
    for report in seen.relays:
        state = report.state_of(key.sdid, key.selector)
        if report.problem or state is RelayState.UNKNOWN or _is_old(report, seen):
            silent.append(_silence(report, seen))
        elif state not in wanted:
            late.append(f"relay {report.relay} {what}")
    if not late and not silent:
        return None
    # A worker that starts, or an old report, takes only time; a relay in trouble needs somebody.
    in_trouble = not late and any(report.problem for report in seen.relays)
    standing = Standing.UNREACHABLE if in_trouble else Standing.NOT_YET
    return rotation_step.wait(standing, *late, *silent)


def _silence(report: RelayReport, seen: Seen) -> str:
    why = report.problem or "it has not said yet what it signs with"
    if not report.problem and _is_old(report, seen):
        why = f"it was asked at {stamp(report.at)}, which is too long ago"
    return f"relay {report.relay}: {why}"


def _is_old(report: RelayReport, seen: Seen) -> bool:
    return abs((seen.now - report.at).total_seconds()) > FRESH


def holds_mail(report: RelayReport, stopped_at: datetime) -> bool:
    """Whether a relay is known to hold mail from before a key stopped."""
    oldest = None if report.queue is None else report.queue.oldest
    # Both are times of our clock (`lifecycle.gather`); those of a queue are in whole seconds.
    return oldest is not None and oldest <= stopped_at + timedelta(seconds=1)


def undrained(stopped_at: datetime, seen: Seen) -> Due | None:
    """Queues that hold mail from before the key stopped, or that nobody can see into."""
    blind: list[str] = []
    older: list[str] = []
    for report in seen.relays:
        if report.queue is None or _is_old(report, seen):
            why = report.problem or report.queue_problem or "what is in its queue is unknown"
            blind.append(f"relay {report.relay}: {why}")
        elif report.queue.oldest is not None and holds_mail(report, stopped_at):
            older.append(
                f"relay {report.relay} still holds mail of {stamp(report.queue.oldest)}, perhaps"
                f" signed with it before it stopped at {stamp(stopped_at)}; look at `postqueue -p`,"
                " for held mail too"
            )
    if older:
        return rotation_step.wait(Standing.NOT_YET, *older, *blind)
    if blind or not seen.relays:
        return rotation_step.wait(Standing.UNREACHABLE, *(blind or ["no relay was asked"]))
    return None


def ages(wait: rotation_waits.Wait, seen: Seen) -> str:
    """A hint where a wait began in the future, because a clock was wrong then or is wrong now."""
    ahead = (wait.since - seen.now).total_seconds()
    return f"; that begins {span(int(ahead))} from now: see to the clock" if ahead > FRESH else ""
