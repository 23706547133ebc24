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

from carbonseal.policies import key_life, rotation_obstacles, rotation_waits
from carbonseal.policies.key_life import Goal, KeyLife, ServerState, Stage
from carbonseal.policies.rotation_step import Action, Due, Seen, Standing, step, wait
from carbonseal.policies.rotation_waits import FRESH, Rules, stamp

__all__ = ["Action", "Due", "Rules", "Seen", "Standing", "due"]

_NO_RECORD_YET = {ServerState.ABSENT: "does not show the record yet"}
_NOT_REVOKED = {
    ServerState.SHOWN: "still shows the key, not an empty p=",
    ServerState.ABSENT: "shows no record at all, though p= should be empty",
}
_NOT_REMOVED = {
    ServerState.SHOWN: "still shows the record",
    ServerState.REVOKED: "still shows the empty p=",
}


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
        return _held(seen)
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
        return step(Action.FALL_BACK, *why, standing=Standing.NOT_YET)
    return rotation_obstacles.unanswered(seen)


def _given_up(key: KeyLife, seen: Seen) -> Due:
    why = "cancelled" if key.is_cancelled else "compromised"
    if key.stage is Stage.GENERATED:
        return step(Action.CONFIRM_REMOVED, f"{why} before it was published")
    return _away(key, seen, Action.REMOVE, f"{why}; it never signed")


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


# --- Leaving --------------------------------------------------------------------------------------


def _retiring(key: KeyLife, seen: Seen, rules: Rules) -> Due:
    if key.is_compromised:
        return _away(key, seen, Action.REVOKE, "compromised: revoked without waiting")
    if key.stopped_at is None:
        return rotation_obstacles.still_signing(key, seen) or step(
            Action.CONFIRM_STOPPED, "no relay signs with it any more", standing=Standing.NOT_YET
        )
    again = rotation_obstacles.signing(key, seen)
    if again:
        why = f"relay {', '.join(again)} signs with it after all: the drain begins anew"
        return step(Action.DENY_STOPPED, why, standing=Standing.NOT_YET)
    if rules.revoke == "keep":
        return wait(Standing.DONE, "its record stays: rotation.revoke says keep")
    drain = rotation_waits.drain_wait(key.stopped_at, seen.relays, rules)
    if seen.now < drain.until:
        why = f"mail it signed may be in flight: {drain.sentence}"
        why += rotation_obstacles.ages(drain, seen)
        if rotation_obstacles.states(seen) & {ServerState.ABSENT, ServerState.OTHER}:
            # Nothing is sent: who took the record away may have had a reason.
            wrong = ("its record should still stand", *rotation_obstacles.complaints(seen))
            return wait(Standing.HELD, *wrong, why, at=drain.until)
        return wait(Standing.NOT_YET, why, at=drain.until)
    obstacle = rotation_obstacles.undrained(key.stopped_at, seen)
    obstacle = obstacle or rotation_obstacles.still_signing(key, seen)
    if obstacle is not None:
        return obstacle
    if seen.queued_at is not None:
        late = rotation_waits.late_wait(seen.queued_at, rules)
        if seen.now < late.until:
            why = f"mail that it signed left our queues late: {late.sentence}"
            why += rotation_obstacles.ages(late, seen)
            return wait(Standing.NOT_YET, why, at=late.until)
    action = Action.REVOKE if rules.revoke == "empty" else Action.REMOVE
    return _away(key, seen, action, "drained: no relay holds mail it signed")


def _revoking(key: KeyLife, seen: Seen, rules: Rules) -> Due:
    states = rotation_obstacles.states(seen)
    if states == {ServerState.REVOKED}:
        return step(Action.CONFIRM_REVOKED, "every server shows an empty p=")
    if states == {ServerState.ABSENT}:
        return step(Action.REMOVE, "its record has been taken away already")
    return _going(key, seen, Action.REVOKE, ServerState.SHOWN)


def _revoked(key: KeyLife, seen: Seen, rules: Rules) -> Due:
    states = rotation_obstacles.states(seen)
    if ServerState.SHOWN in states:
        why = "a server shows the key again, as one does whose zone came from a backup"
        return step(Action.REVOKE, why, standing=Standing.HELD)
    if states == {ServerState.ABSENT}:
        return step(Action.REMOVE, "its record has been taken away already")
    stands = rotation_waits.revocation_wait(key.revoked_at or key.since, seen.dns, rules)
    if seen.now < stands.until:
        why = f"revoked; the empty p= stands until {stands.sentence}"
        return wait(Standing.DONE, why + rotation_obstacles.ages(stands, seen), at=stands.until)
    return _away(key, seen, Action.REMOVE, "revoked for long enough")


def _removing(key: KeyLife, seen: Seen, rules: Rules) -> Due:
    states = rotation_obstacles.states(seen)
    if states == {ServerState.ABSENT}:
        return step(Action.CONFIRM_REMOVED, "no server shows the record any more")
    still = ServerState.REVOKED if ServerState.REVOKED in states else ServerState.SHOWN
    return _going(key, seen, Action.REMOVE, still)


def _away(key: KeyLife, seen: Seen, action: Action, why: str) -> Due:
    """A step that destroys: only on what is known and expected."""
    states = rotation_obstacles.states(seen)
    # The change is sent with the value that must be there, so that it can hit nothing else; a
    # compromised record is revoked wherever it may stand, though a server is silent or shows
    # something else.
    if key.is_compromised and ServerState.SHOWN in states:
        return step(action, why)
    if rotation_obstacles.is_foreign(seen) or ServerState.OTHER in states:
        return _held(seen)
    if ServerState.UNKNOWN in states and not key.is_compromised:
        return wait(Standing.UNREACHABLE, why, *rotation_obstacles.complaints(seen))
    if states == {ServerState.ABSENT}:
        return step(Action.REMOVE, why, "no server shows its record")
    return step(action, why)


def _held(seen: Seen) -> Due:
    return rotation_obstacles.foreign(seen) or step(
        Action.HOLD, *rotation_obstacles.complaints(seen), standing=Standing.HELD
    )


def _going(key: KeyLife, seen: Seen, action: Action, still: ServerState) -> Due:
    """A record on its way to another value: repeated where a program does it, waited for else."""
    obstacle = rotation_obstacles.unseen(seen)
    if obstacle is not None:
        return obstacle
    states = rotation_obstacles.states(seen)
    if rotation_obstacles.is_foreign(seen) or ServerState.OTHER in states:
        if key.is_compromised:  # nobody should have to release it before it goes on
            return wait(Standing.HELD, *rotation_obstacles.complaints(seen))
        return _held(seen)
    words = _NOT_REVOKED if action is Action.REVOKE else _NOT_REMOVED
    # Where a primary has it and a secondary not, nothing is to be sent again.
    untouched = states <= {still, ServerState.UNKNOWN} and still in states
    if untouched and not seen.by_hand:
        return step(action, f"every server {words[still]}", standing=Standing.NOT_YET)
    if untouched and ServerState.UNKNOWN not in states:
        do = "make its p= empty" if action is Action.REVOKE else "take the record away"
        print_it = f"`carbonseal keys publish {key.sdid} {key.selector}` prints it"
        why = f"every server {words[still]}; {do} by hand, {print_it}"
        return wait(Standing.NOT_YET, why)
    return rotation_obstacles.unanswered(seen) or rotation_obstacles.lagging(key, seen, words)


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
