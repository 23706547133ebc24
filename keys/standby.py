"""Which key can sign at once: whether its private half serves, and who may take another's place.

Promises: a key is usable only if its private half is there, can be read, and is the one that its
record is about.  A standby for an emergency was shown just now by every server that answers.

Raises: `errors.CarbonsealError` from `demand_usable`, with what is wrong.

Does not: change a key or its record (`lifecycle`, `orders`).
"""

from __future__ import annotations

from typing import Final

from carbonseal.keys import keyring, store
from carbonseal.keys.key_record import KeyRecord
from carbonseal.keys.life_world import World, look
from carbonseal.policies import errors
from carbonseal.policies.key_life import ServerState, Stage

_AS_FAR_AS_KNOWN: Final = frozenset((ServerState.SHOWN, ServerState.UNKNOWN))


def standby_for(world: World, key: KeyRecord) -> KeyRecord | None:
    """A key that may take the place of another at once, in an emergency.

    It is ready, usable, and shown just now by every server that answers: it was shown by all of
    them before, and a leaked key must not go on signing because one server is silent.
    """
    for one in world.shelf.lineage(key.sdid).records:
        is_ready = one.algorithm == key.algorithm and one.stage is Stage.READY
        if is_ready and not (one.held or one.is_compromised or one.is_cancelled):
            states = look(world, one, one.publication.text).states
            is_shown = ServerState.SHOWN in states and states <= _AS_FAR_AS_KNOWN
            if is_shown and is_usable(world.shelf, one):
                return one
    return None


def is_usable(shelf: store.Store, key: KeyRecord) -> bool:
    """Whether the private half is there and is the one its record is about."""
    try:
        demand_usable(shelf, key)
    except errors.CarbonsealError:
        return False
    return True


def demand_usable(shelf: store.Store, key: KeyRecord) -> None:
    """A key that cannot sign must not take the place of one that can."""
    place = str(shelf.private_path(key.sdid, key.selector))
    keyring.parse(key, shelf.private_key(key), place)
