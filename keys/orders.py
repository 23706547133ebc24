"""What a person orders about a key: checked against the rules, written down, then carried out.

Promises: an order that breaks a rule changes nothing and says which rule and what to do instead; an
order that was carried out already says so and does no harm.  The rules: nothing signs that is not
published everywhere; the last key of a domain is not taken away by accident; nothing is revoked or
removed while mail signed with it may be on its way, unless the key is compromised or a person
takes that on, with a reason.

Raises: `life_world.Forbidden` (a rule), `NotYet` (time or a server), `errors.NotFound`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from carbonseal.keys import life_world, lifecycle, standby, store
from carbonseal.keys.key_record import KeyRecord, Publication
from carbonseal.keys.life_world import Forbidden, Report, World
from carbonseal.policies import errors, key_life, rotation, rotation_waits
from carbonseal.policies.key_life import DnsView, Goal, RelayReport, ServerState, Stage
from carbonseal.policies.rotation import Action, Standing


class NotYet(errors.CarbonsealError):
    """It is allowed, but not now: exit status 1."""

    exit_code = int(Standing.NOT_YET)


class Unreachable(errors.CarbonsealError):
    """Somebody who must be asked does not answer: exit status 3."""

    exit_code = int(Standing.UNREACHABLE)


class Mismatch(errors.CarbonsealError):
    """What DNS shows is not what it must be, or the key is held: exit status 2."""

    exit_code = int(Standing.HELD)


_ERRORS = {
    Standing.NOT_YET: NotYet,
    Standing.HELD: Mismatch,
    Standing.UNREACHABLE: Unreachable,
    Standing.REFUSED: Forbidden,
}


@dataclass(frozen=True)
class Order:
    """Which key, by whom and why."""

    world: World
    sdid: str
    selector: str
    why: str

    @functools.cached_property
    def relays(self) -> tuple[RelayReport, ...]:
        """What the relays say; asked once, and only if somebody wants to know."""
        return life_world.gather(self.world)

    @property
    def now(self) -> datetime:
        """The moment of a step."""
        return self.world.clock()

    @property
    def key(self) -> KeyRecord:
        """The key as it is on disk."""
        return self.world.shelf.find(self.sdid, self.selector)

    def look(self, key: KeyRecord) -> DnsView:
        """What every server shows now."""
        return life_world.look(self.world, key, key.publication.text)

    def carry_on(self) -> Report:
        """Take the steps that are due now."""
        return lifecycle.tend(self.world, self.sdid, why=self.why, relays=self.relays, begin=False)


def publish(order: Order, *, adopt: bool, dry_run: bool) -> Report | None:
    """Let the record of a key be made known, and bring it up to ready."""
    key = order.key
    _refuse_held(key)
    if adopt:
        return _adopt(order, key, dry_run=dry_run)
    if key.stage not in key_life.BEFORE_ACTIVE or key.is_cancelled:
        raise Forbidden(
            f"{key.dns_name} is {key.stage.value}; only a key that has not signed yet is published."
        )
    if dry_run:
        return None
    if key.goal is Goal.KEPT:
        with _changing(order, key) as writer:
            fresh = key.noted("publish", at=order.now, why=order.why)
            writer.put(dataclasses.replace(fresh, goal=Goal.READY))
    return order.carry_on()


def _adopt(order: Order, key: KeyRecord, *, dry_run: bool) -> Report | None:
    """Take over a record that somebody else made, as it stands at every server."""
    seen = order.look(key)
    if not seen.is_everywhere(ServerState.SHOWN):
        raise _mismatch(key, seen, "it can be taken over when every server shows this key")
    texts = {view.text for view in seen.servers}
    if len(texts) != 1:
        raise Mismatch(f"{key.dns_name}: its servers show different texts; wait and repeat.")
    if dry_run:
        return None
    with _changing(order, key) as writer:
        fresh = key.noted("adopt", at=order.now, why=order.why)
        if key.stage is Stage.GENERATED:  # its record stands, and is not to be forgotten there
            fresh = fresh.moved(Stage.PUBLISHING, at=order.now, why="its record was taken over")
        place = Publication(seen.target or key.dns_name, texts.pop(), is_ours=True)
        writer.put(dataclasses.replace(fresh, publication=place))
    return order.carry_on()


def activate(
    order: Order, *, assume_published: bool, when_ready: bool, dry_run: bool
) -> Report | None:
    """Let a key sign; its predecessor of the same algorithm is retired in the same step."""
    key = order.key
    _refuse_held(key)
    if key.stage is Stage.ACTIVE:
        return None
    if key.is_compromised or key.is_cancelled or key.stage not in _MAY_BECOME_ACTIVE:
        raise Forbidden(
            f"{key.dns_name} is {_condition(key)} and never signs again; make a new key with"
            f" `carbonseal keys generate {key.sdid}`."
        )
    standby.demand_usable(order.world.shelf, key)
    if assume_published:
        if dry_run:
            return None
        with _changing(order, key) as writer:
            writer.activate(key, at=order.now, why=order.why, assumed=True)
        return None
    if key.stage is Stage.RETIRING:
        raise Forbidden(
            f"{key.dns_name} is retiring; `carbonseal keys rollback {key.sdid}` brings it back."
        )
    if not when_ready:
        _demand_ready(order, key)
    if dry_run:
        return None
    with _changing(order, key) as writer:
        fresh = key.noted("wanted", at=order.now, why=order.why)
        writer.put(dataclasses.replace(fresh, goal=Goal.ACTIVE, activate_from=None))
    return order.carry_on()


_MAY_BECOME_ACTIVE = (*key_life.BEFORE_ACTIVE, Stage.RETIRING)


def _demand_ready(order: Order, key: KeyRecord) -> None:
    """Raise unless the key can sign at this very moment."""
    if key.stage not in (Stage.PUBLISHED, Stage.READY):
        raise NotYet(
            f"{key.dns_name} is {key.stage.value}: it signs after every name server shows its"
            f" record; run `carbonseal keys publish {key.sdid} {key.selector}`, or"
            " `keys activate --when-ready`, which waits for it."
        )
    wanted = dataclasses.replace(key, goal=Goal.ACTIVE, activate_from=None)
    seen = rotation.Seen(order.now, order.look(key), order.relays)
    due = rotation.due(wanted, seen, order.world.rules)
    if due.action is Action.WAIT or due.action is Action.FALL_BACK or due.action is Action.HOLD:
        wrong = seen.dns is not None and ServerState.OTHER in seen.dns.states
        kind = Mismatch if wrong else _ERRORS.get(due.standing, NotYet)
        raise kind(f"{key.dns_name} cannot sign yet: {'; '.join(due.why)}.")


def retire(order: Order, *, leave_unsigned: bool, dry_run: bool) -> None:
    """Sign no more with a key."""
    with _locked_unless(order, dry_run=dry_run) as writer:
        key = order.key
        if key.stage in key_life.BEFORE_ACTIVE:
            raise Forbidden(f"{key.dns_name} does not sign; `carbonseal keys remove` gives it up.")
        if key.stage is not Stage.ACTIVE:
            return
        refuse_gap(order.world.shelf, key, leave_unsigned=leave_unsigned)
        if writer is not None:
            writer.put(key.moved(Stage.RETIRING, at=order.now, why=order.why))


def revoke(order: Order, *, force: bool, dry_run: bool) -> Report | None:
    """Make p= empty once the mail it signed is delivered."""
    key = order.key
    _refuse_held(key)
    if key.stage in (Stage.REVOKING, Stage.REVOKED, Stage.REMOVING, Stage.REMOVED):
        return _report(order, dry_run=dry_run)
    if key.stage is not Stage.RETIRING:
        remedy = (
            f"rotate first (`carbonseal keys rotate {key.sdid}`), or, if strangers may have it,"
            f" `carbonseal keys emergency {key.sdid}`"
            if key.stage is Stage.ACTIVE
            else f"`carbonseal keys remove {key.sdid} {key.selector}` gives it up"
        )
        raise Forbidden(f"{key.dns_name} is {key.stage.value}, not retiring; {remedy}.")
    return _leave(order, key, Stage.REVOKING, force=force, dry_run=dry_run)


def remove(order: Order, *, force: bool, dry_run: bool) -> Report | None:
    """Take the record away and destroy the private key; or give up a key that never signed."""
    key = order.key
    _refuse_held(key)
    if key.stage in (Stage.REMOVING, Stage.REMOVED):
        return _report(order, dry_run=dry_run)
    if key.stage in key_life.BEFORE_ACTIVE:
        if dry_run:
            return None
        with _changing(order, key) as writer:
            fresh = key.noted("cancelled", at=order.now, why=order.why)
            writer.put(dataclasses.replace(fresh, cancelled_at=order.now, goal=Goal.REMOVED))
        return order.carry_on()
    if key.stage is Stage.ACTIVE:
        raise Forbidden(
            f"{key.dns_name} signs; activate another key first, then retire and revoke this one."
        )
    return _leave(order, key, Stage.REMOVING, force=force, dry_run=dry_run)


def _leave(
    order: Order, key: KeyRecord, stage: Stage, *, force: bool, dry_run: bool
) -> Report | None:
    """Go on towards the end; before its time only by force."""
    queued_at = order.world.shelf.observed(key).queued_at
    seen = rotation.Seen(order.now, order.look(key), order.relays, queued_at=queued_at)
    due = rotation.due(key, seen, order.world.rules)
    forward = due.action in (Action.REVOKE, Action.REMOVE)
    if not forward and not force:
        if due.action is Action.CONFIRM_STOPPED or due.standing is Standing.DONE:
            why = "; ".join(due.why)
            raise NotYet(f"{key.dns_name}: {why}; --force with --reason does it now.")
        kind = _ERRORS.get(due.standing, NotYet)
        raise kind(f"{key.dns_name}: {'; '.join(due.why)}; --force with --reason does it now.")
    if due.action is Action.HOLD or ServerState.OTHER in (seen.dns.states if seen.dns else ()):
        raise Mismatch(f"{key.dns_name}: {'; '.join(due.why)}.")
    if dry_run:
        return None
    if forward and due.action is (Action.REVOKE if stage is Stage.REVOKING else Action.REMOVE):
        return order.carry_on()
    with _changing(order, key) as writer:
        writer.put(key.moved(stage, at=order.now, why=f"forced: {order.why}"))
    return order.carry_on()


def rollback(order: Order, *, dry_run: bool) -> tuple[KeyRecord, ...]:
    """Let the predecessor sign again, while its record still stands.

    It is to sign until somebody orders otherwise or its time is over: the successors that were on
    their way stand by from now on, as the key it takes the place of does.  Else the next pass would
    undo the rollback.  Returns those successors.
    """
    key = order.key
    _refuse_held(key)
    if key.stage is Stage.ACTIVE:
        return ()
    if key.stage is not Stage.RETIRING or key.is_compromised:
        raise Forbidden(
            f"{key.dns_name} is {_condition(key)}: there is no way back to it; make a new key with"
            f" `carbonseal keys rotate {key.sdid}`."
        )
    seen = order.look(key)
    if not seen.is_everywhere(ServerState.SHOWN):
        raise _mismatch(key, seen, "it can sign again only when every server shows its record")
    shelf = order.world.shelf
    standby.demand_usable(shelf, key)
    if dry_run:
        return _ordered(order, key.algorithm)
    with _changing(order, key) as writer:
        ordered = _ordered(order, key.algorithm)
        # First, so that no crash leaves a predecessor that signs and a successor that is to.
        for one in ordered:
            fresh = one.noted("stands by", at=order.now, why=f"rolled back: {order.why}")
            writer.put(dataclasses.replace(fresh, goal=Goal.READY, activate_from=None))
        before = [
            one
            for one in store.active(shelf.lineage(order.sdid).records)
            if one.algorithm == key.algorithm
        ]
        writer.activate(key, at=order.now, why=f"rollback: {order.why}", assumed=False)
        for one in before:
            # It is published and well known: it stands by.  A crash before this line leaves it
            # retiring, which is safe as well.
            fresh = shelf.find(one.sdid, one.selector)
            fresh = fresh.moved(Stage.READY, at=order.now, why=f"rolled back: {order.why}")
            writer.put(dataclasses.replace(fresh, goal=Goal.READY, activate_from=None))
        return ordered


def _ordered(order: Order, algorithm: str) -> tuple[KeyRecord, ...]:
    """The keys that were to sign next, the held ones too: they may be released."""
    return tuple(
        one
        for one in order.world.shelf.lineage(order.sdid).records
        if one.algorithm == algorithm
        and one.stage in key_life.BEFORE_ACTIVE
        and one.goal is Goal.ACTIVE
        and not (one.is_cancelled or one.is_compromised)
    )


def predecessor(shelf: store.Store, sdid: str) -> str:
    """The selector that a rollback means when none is named: the key retired last."""
    records = shelf.lineage(sdid).records
    retiring = [key for key in records if key.stage is Stage.RETIRING]
    if not retiring:
        shelf.refuse_hidden(sdid)
        raise Forbidden(
            f"{sdid}: no key is retiring, so there is nothing to go back to;"
            f" `carbonseal keys status {sdid}` shows what there is."
        )
    return max(retiring, key=lambda key: key.since).selector


@dataclass(frozen=True, slots=True)
class Emergency:
    """What an emergency did, and how long the damage lasts."""

    compromised: KeyRecord
    successor: KeyRecord | None  # that signs instead from now on
    is_last: bool  # it signed, and no other key can take its place at once
    exposure: rotation_waits.Wait  # until forgeries verify no more, at worst
    report: Report


def emergency(order: Order, *, leave_unsigned: bool, dry_run: bool) -> Emergency:
    """Sign with the standby from now on, and revoke the compromised record without waiting.

    That the key is compromised is on disk before anything else: whoever comes after a crash goes on
    from there (`lifecycle.tend`).
    """
    with _locked_unless(order, dry_run=dry_run) as writer:
        key = order.key
        if key.stage in (Stage.REMOVED, Stage.REMOVING):
            raise Forbidden(
                f"{key.dns_name} is {key.stage.value} already; nothing is left to revoke."
            )
        successor = None
        if key.stage is Stage.ACTIVE:
            successor = standby.standby_for(order.world, key)
            if successor is None and not leave_unsigned:
                raise Forbidden(
                    f"{key.dns_name} is the only key of {key.sdid} that can sign, and no other is"
                    f" ready: first `carbonseal keys rotate {key.sdid} --wait 1h`, then"
                    f" `carbonseal keys emergency {key.sdid} {key.selector}`, or give"
                    " --leave-unsigned to stop signing at once."
                )
        is_last = key.stage is Stage.ACTIVE and successor is None
        exposure = rotation_waits.exposure(order.look(key), order.now)
        if writer is None:
            return Emergency(key, successor, is_last, exposure, Report(order.sdid))
        fresh = key.noted("compromised", at=order.now, why=order.why)
        fresh = dataclasses.replace(fresh, compromised_at=order.now, held="")
        if successor is None and key.stage in (Stage.ACTIVE, *key_life.BEFORE_ACTIVE):
            fresh = fresh.moved(Stage.RETIRING, at=order.now, why="compromised")
        writer.put(fresh)
        if successor is not None:
            why = f"emergency: {order.why}"
            writer.activate(successor, at=order.now, why=why, assumed=False)
    report = lifecycle.tend(order.world, order.sdid, why=order.why, relays=order.relays, first=True)
    return Emergency(order.key, successor, is_last, exposure, report)


def release(order: Order, *, dry_run: bool) -> Report | None:
    """Let a held key go on, when what it was held for is gone."""
    key = order.key
    if not key.held:
        return _report(order, dry_run=dry_run)
    seen = order.look(key)
    if ServerState.OTHER in seen.states:
        raise _mismatch(key, seen, "it stays held")
    if dry_run:
        return None
    with _changing(order, key) as writer:
        fresh = key.noted("released", at=order.now, why=order.why)
        writer.put(dataclasses.replace(fresh, held=""))
    return order.carry_on()


# --- rules ----------------------------------------------------------------------------------------


def refuse_gap(shelf: store.Store, key: KeyRecord, *, leave_unsigned: bool) -> None:
    """Raise if nobody else could sign for the domain of `key`."""
    signing = store.active(shelf.lineage(key.sdid).records)
    others = [
        one for one in signing if one != key and not one.refused and standby.is_usable(shelf, one)
    ]
    if key in signing and not others and not leave_unsigned:
        raise Forbidden(
            f"{key.dns_name} is the last key that signs for {key.sdid}; activate another"
            " first, or give --leave-unsigned."
        )


def _refuse_held(key: KeyRecord) -> None:
    if key.held:
        raise Mismatch(
            f"{key.dns_name} is held: {key.held}; when that is settled, `carbonseal keys reconcile"
            f" {key.sdid} {key.selector} --release` lets it go on."
        )


def _condition(key: KeyRecord) -> str:
    if key.is_compromised:
        return "compromised"
    return "cancelled" if key.is_cancelled else key.stage.value


def _mismatch(key: KeyRecord, seen: DnsView, what: str) -> errors.CarbonsealError:
    said = "; ".join(seen.complaints) or "its record is not shown everywhere"
    kind = Unreachable if seen.states == {ServerState.UNKNOWN} else Mismatch
    return kind(f"{key.dns_name}: {said}; {what}.")


@contextlib.contextmanager
def _changing(order: Order, key: KeyRecord) -> Iterator[store.Writer]:
    """The right to change a key that is still as it was judged."""
    with order.world.shelf.writing(order.sdid) as writer:
        if order.key != key:
            raise errors.TryLater(
                f"{key.dns_name}: another command has changed it meanwhile; look at"
                f" `carbonseal keys status {key.sdid}`, then give the order again."
            )
        yield writer


def _locked_unless(order: Order, *, dry_run: bool) -> contextlib.AbstractContextManager[Any]:
    return contextlib.nullcontext() if dry_run else order.world.shelf.writing(order.sdid)


def _report(order: Order, *, dry_run: bool) -> Report | None:
    return None if dry_run else order.carry_on()
