"""What is due while a key leaves: drained, revoked, removed.

Promises: nothing is revoked or removed while a relay may sign with the key, a queue holds mail that
it signed, or such mail can be on its way; nothing but what we expect is changed.  A compromised key
is the exception: its record is revoked wherever it may still stand.
"""

from __future__ import annotations

from carbonseal.policies import rotation_obstacles, rotation_waits
from carbonseal.policies.key_life import KeyLife, ServerState
from carbonseal.policies.rotation_step import Action, Due, Seen, Standing, step, wait
from carbonseal.policies.rotation_waits import Rules

_NOT_REVOKED = {
    ServerState.SHOWN: "still shows the key, not an empty p=",
    ServerState.ABSENT: "shows no record at all, though p= should be empty",
}
_NOT_REMOVED = {
    ServerState.SHOWN: "still shows the record",
    ServerState.REVOKED: "still shows the empty p=",
}


def retiring(key: KeyLife, seen: Seen, rules: Rules) -> Due:
    """Its record stays until no mail with its signature can be on its way."""
    if key.is_compromised:
        return away(key, seen, Action.REVOKE, "compromised: revoked without waiting")
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
    return away(key, seen, action, "drained: no relay holds mail it signed")


def revoking(key: KeyLife, seen: Seen, rules: Rules) -> Due:
    """`p=` is being emptied."""
    states = rotation_obstacles.states(seen)
    if states == {ServerState.REVOKED}:
        return step(Action.CONFIRM_REVOKED, "every server shows an empty p=")
    if states == {ServerState.ABSENT}:
        return step(Action.REMOVE, "its record has been taken away already")
    return _going(key, seen, Action.REVOKE, ServerState.SHOWN)


def revoked(key: KeyLife, seen: Seen, rules: Rules) -> Due:
    """An empty `p=` stands for those who look late."""
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
    return away(key, seen, Action.REMOVE, "revoked for long enough")


def removing(key: KeyLife, seen: Seen, rules: Rules) -> Due:
    """The record is being taken away."""
    states = rotation_obstacles.states(seen)
    if states == {ServerState.ABSENT}:
        return step(Action.CONFIRM_REMOVED, "no server shows the record any more")
    still = ServerState.REVOKED if ServerState.REVOKED in states else ServerState.SHOWN
    return _going(key, seen, Action.REMOVE, still)


def away(key: KeyLife, seen: Seen, action: Action, why: str) -> Due:
    """A step that destroys: only on what is known and expected."""
    states = rotation_obstacles.states(seen)
    # The change is sent with the value that must be there, so that it can hit nothing else; a
    # compromised record is revoked wherever it may stand, though a server is silent or shows
    # something else.
    if key.is_compromised and ServerState.SHOWN in states:
        return step(action, why)
    if rotation_obstacles.is_foreign(seen) or ServerState.OTHER in states:
        return held(seen)
    if ServerState.UNKNOWN in states and not key.is_compromised:
        return wait(Standing.UNREACHABLE, why, *rotation_obstacles.complaints(seen))
    if states == {ServerState.ABSENT}:
        return step(Action.REMOVE, why, "no server shows its record")
    return step(action, why)


def held(seen: Seen) -> Due:
    """What stands there is not what we expect: a person must settle it."""
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
        return held(seen)
    words = _NOT_REVOKED if action is Action.REVOKE else _NOT_REMOVED
    # Where a primary has it and a secondary not, nothing is to be sent again.
    untouched = states <= {still, ServerState.UNKNOWN} and still in states
    if untouched and not seen.by_hand:
        return step(action, f"every server that answers {words[still]}", standing=Standing.NOT_YET)
    if untouched and ServerState.UNKNOWN not in states:
        do = "make its p= empty" if action is Action.REVOKE else "take the record away"
        print_it = f"`carbonseal keys publish {key.sdid} {key.selector}` prints it"
        why = f"every server {words[still]}; {do} by hand, {print_it}"
        return wait(Standing.NOT_YET, why)
    return rotation_obstacles.unanswered(seen) or rotation_obstacles.lagging(key, seen, words)
