"""Begin the next keys of an SDID: make a new one, or let a standby take the place.

Promises: a private half is on disk before anybody hears of the key.  What is begun has a goal, so
that a crash right after it leaves a key that the next pass goes on with.

Raises: `errors.CarbonsealError`.

Does not: decide when a successor is due (`policies.succession`), or take the key's steps
(`life_steps`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from carbonseal.keys import generate, selector_names, store
from carbonseal.keys.key_record import KeyRecord, Origin
from carbonseal.keys.life_looking import put
from carbonseal.keys.life_world import World
from carbonseal.policies import key_life, succession
from carbonseal.policies.key_life import Goal, Stage
from carbonseal.policies.succession import Successor


def successors(
    world: World, sdid: str, *, forced: bool, first: bool, asked_for: Collection[str] = ()
) -> tuple[Successor, ...]:
    """Keys that are to be begun, now or later; `first`: one where none signs, too.

    `asked_for`: the selectors that were on their way when the call began; it begins none beside.
    """
    keys, now = world.shelf.lineage(sdid).records, world.clock()
    due = succession.successors(keys, world.rules, now, forced=forced, asked_for=asked_for)
    is_wanted = first or _was_left_by_an_emergency(keys)
    if is_wanted and not due and not any(map(_is_alive, keys)):
        return (succession.first(now),)
    return due


def begun(world: World, writer: store.Writer, wanted: Successor, why: str) -> KeyRecord:
    """The record of a key that is on its way from now on."""
    if wanted.selector is None:
        return _made(world, writer, wanted, why)
    return _promoted(world, writer, wanted, why)


def _made(world: World, writer: store.Writer, wanted: Successor, why: str) -> KeyRecord:
    """A new key with a goal; its private half is on disk before anybody hears of it."""
    shelf, now, sdid = world.shelf, world.clock(), writer.sdid
    selector = selector_names.choose_selector(
        world.selectors,
        wanted.algorithm,
        now,
        lambda name: shelf.is_taken(sdid, name),
    )
    private = generate.generate(wanted.algorithm, world.bits)
    record = generate.new_record(
        private, sdid, selector, origin=Origin.GENERATED, at=now, why=f"{wanted.why} ({why})"
    )
    record = dataclasses.replace(record, goal=wanted.goal, activate_from=wanted.activate_from)
    writer.add(record, generate.private_pem(private))
    return record


def _promoted(world: World, writer: store.Writer, wanted: Successor, why: str) -> KeyRecord:
    """Let a standby take the place."""
    assert wanted.selector is not None
    record = world.shelf.find(writer.sdid, wanted.selector)
    record = record.noted("wanted", at=world.clock(), why=f"{wanted.why} ({why})")
    return put(
        writer, dataclasses.replace(record, goal=wanted.goal, activate_from=wanted.activate_from)
    )


def _is_alive(record: KeyRecord) -> bool:
    """Whether a key signs or is on its way to."""
    if record.stage is Stage.ACTIVE:
        return True
    return record.stage in key_life.BEFORE_ACTIVE and record.goal in (Goal.READY, Goal.ACTIVE)


def _was_left_by_an_emergency(keys: tuple[KeyRecord, ...]) -> bool:
    """Whether the key that signed last leaked, so that nobody chose to sign no more."""
    signed = [(key.activated_at, key.is_compromised) for key in keys if key.activated_at]
    return bool(signed) and max(signed)[1]
