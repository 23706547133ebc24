"""What is due in the life of a key, and why.

Promises: `due` looks at one key, what was seen of it, and the time, and names the one step that may
be taken now, or what is waited for, with the arithmetic in words.  No step towards signing is named
on something unknown, none that destroys on anything but a fresh, complete and expected observation,
and a key becomes active only after every authoritative server showed its record, without a break,
for as long as caches can hold an older answer.  An order to publish may go out unseen: it is sent
so that it cannot hit what stands there.

A compromised key is the exception: its record is revoked though a queue holds mail or a server is
silent, as long as some server may show it.

Sources: RFC 7583 section 3.2.1 (the states), RFC 6376 sections 3.1 and 3.6.1 (selectors, empty p=),
RFC 9077 and RFC 5321 for the waits (`rotation_waits`).

Does not: ask, wait or write; `keys.lifecycle` carries out what is named here.
"""

from __future__ import annotations

from datetime import timedelta

from carbonseal.policies import key_life, rotation_leaving, rotation_obstacles, rotation_waits
from carbonseal.policies.key_life import Goal, KeyLife, ServerState, Stage
from carbonseal.policies.rotation_step import Action, Due, Seen, Standing, step, wait
from carbonseal.policies.rotation_waits import FRESH, Rules, stamp

__all__ = ["Action", "Due", "Rules", "Seen", "Standing", "due"]

_NO_RECORD_YET = {ServerState.ABSENT: "does not show the record yet"}


def due(key: KeyLife, seen: Seen, rules: Rules) -> Due:
    """The step that is due for one key."""
    if key.stage is Stage.REMOVED:
        return wait(Standing.DONE, "removed; the selector is never used again")
    if key.held:
        return wait(Standing.HELD, f"held: {key.held}")
    if key.stage in key_life.BEFORE_ACTIVE and (key.is_cancelled or key.is_compromised):
        return _dated(_given_up(key, seen), seen)
    return _dated(_STAGES[key.stage](key, seen, rules), seen)


def _dated(found: Due, seen: Seen) -> Due:
    """What follows from an old look is only a plan, and says so."""
    stale = rotation_obstacles.staleness(seen)
    if not stale:
        return found
    if found.action is Action.WAIT:
        return Due(found.action, found.standing, (*found.why, stale), found.at)
    why = f"{found.action.value} seems due, but {stale}: it is asked again first"
    return wait(Standing.NOT_YET, *found.why, why, at=seen.now)


# --- Towards signing ------------------------------------------------------------------------------


def _generated(key: KeyLife, seen: Seen, rules: Rules) -> Due:
    if key.goal not in (Goal.READY, Goal.ACTIVE):
        return wait(Standing.DONE, "kept; `keys publish` or `keys activate --when-ready` go on")
    if rotation_obstacles.is_foreign(seen) or (not seen.by_hand and _is_taken(seen)):
        return rotation_leaving.held(seen)
    return step(Action.PUBLISH, f"it is to become {key.goal.value}")


def _is_taken(seen: Seen) -> bool:
    """Whether a text stands at the name that is none of ours: no program has written there yet."""
    wrong = (ServerState.OTHER, ServerState.REVOKED)
    return seen.dns is not None and any(
        view.text and view.state in wrong for view in seen.dns.servers
    )


def _publishing(key: KeyLife, seen: Seen, rules: Rules) -> Due:
    obstacle = rotation_obstacles.foreign(seen) or rotation_obstacles.unseen(seen)
    if obstacle is not None:
        return obstacle
    states = rotation_obstacles.states(seen)
    if states == {ServerState.SHOWN}:
        return step(Action.CONFIRM_PUBLISHED, "every server shows the record")
    if states & {ServerState.REVOKED, ServerState.OTHER}:
        return wait(Standing.HELD, *rotation_obstacles.complaints(seen))
    if ServerState.SHOWN in states or ServerState.ABSENT not in states:
        return rotation_obstacles.unanswered(seen) or rotation_obstacles.lagging(
            key, seen, _NO_RECORD_YET
        )
    if not seen.by_hand:
        return step(Action.PUBLISH, "no server shows the record", standing=Standing.NOT_YET)
    # All that were asked have nothing: even where one is silent, it is the person's turn.
    return wait(
        Standing.NOT_YET,
        f"no server shows the record; publish it, `carbonseal keys publish {key.sdid}"
        f" {key.selector}` prints it",
    )


def _published(key: KeyLife, seen: Seen, rules: Rules) -> Due:
    obstacle = _not_shown(key, seen)
    if obstacle is not None:
        return obstacle
    ipub = rotation_waits.publication_wait(key, seen.dns, rules)
    if ipub.since > seen.now + timedelta(seconds=FRESH):
        why = f"it was seen everywhere at {stamp(ipub.since)}, by a clock that was ahead: anew"
        return step(Action.FALL_BACK, why, standing=Standing.NOT_YET)
    if seen.now < ipub.until:
        why = f"until older answers leave caches: {ipub.sentence}"
        return wait(Standing.NOT_YET, why, at=ipub.until)
    return rotation_obstacles.unloaded(key, seen) or step(
        Action.MAKE_READY, "shown everywhere, waited, loaded by every relay"
    )


def _ready(key: KeyLife, seen: Seen, rules: Rules) -> Due:
    obstacle = _not_shown(key, seen)
    if obstacle is not None:
        return obstacle
    if key.goal is not Goal.ACTIVE:
        return wait(Standing.DONE, "stands by; it can sign at any moment")
    if key.activate_from is not None and seen.now < key.activate_from:
        why = f"ready; its predecessor signs until {stamp(key.activate_from)}"
        return wait(Standing.NOT_YET, why, at=key.activate_from)
    return rotation_obstacles.unloaded(key, seen) or step(
        Action.ACTIVATE, "shown everywhere just now, loaded by every relay"
    )


def _not_shown(key: KeyLife, seen: Seen) -> Due | None:
    """A key on its way to sign whose record is not, or no longer, shown by every server.

    Whatever a server shows in its place can be in caches from now on: the wait begins anew, even if
    that is mended at once.
    """
    obstacle = rotation_obstacles.unseen(seen)
    if obstacle is not None:
        return obstacle
    if rotation_obstacles.states(seen) - {ServerState.SHOWN, ServerState.UNKNOWN}:
        why = rotation_obstacles.complaints(seen)
        anew = "the wait for caches begins anew"
        return step(Action.FALL_BACK, *why, anew, standing=Standing.NOT_YET)
    return rotation_obstacles.unanswered(seen)


def _given_up(key: KeyLife, seen: Seen) -> Due:
    why = "cancelled" if key.is_cancelled else "compromised"
    if key.stage is Stage.GENERATED:
        return step(Action.CONFIRM_REMOVED, f"{why} before it was published")
    return rotation_leaving.away(key, seen, Action.REMOVE, f"{why}; it never signed")


# --- Signing --------------------------------------------------------------------------------------


def _active(key: KeyLife, seen: Seen, rules: Rules) -> Due:
    states = rotation_obstacles.states(seen)
    if ServerState.SHOWN in states and key.refused:
        return step(Action.ALLOW, "its record is shown again")
    if seen.dns is None:
        return wait(Standing.DONE, "signs; DNS was not asked")
    if states == {ServerState.SHOWN}:
        return wait(Standing.DONE, "signs")
    wrong = rotation_obstacles.complaints(seen)
    if not states & {ServerState.SHOWN, ServerState.UNKNOWN} and not key.refused:
        # As long as one server still shows the record, some receivers verify; unsigned mail would
        # help nobody.  When none does, every signature is a failure.
        return step(Action.REFUSE, *wrong, standing=Standing.HELD)
    how = "may not sign" if key.refused else "signs"
    if states <= {ServerState.SHOWN, ServerState.UNKNOWN}:
        return wait(Standing.UNREACHABLE, how, *wrong)
    return wait(Standing.HELD, how, *wrong)


_STAGES = {
    Stage.GENERATED: _generated,
    Stage.PUBLISHING: _publishing,
    Stage.PUBLISHED: _published,
    Stage.READY: _ready,
    Stage.ACTIVE: _active,
    Stage.RETIRING: rotation_leaving.retiring,
    Stage.REVOKING: rotation_leaving.revoking,
    Stage.REVOKED: rotation_leaving.revoked,
    Stage.REMOVING: rotation_leaving.removing,
}
