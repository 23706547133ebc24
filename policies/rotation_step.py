"""A step in the life of a key, or what is waited for; and what was observed before.

Does not: decide (`rotation`) or carry out (`keys.lifecycle`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum, StrEnum

from carbonseal.policies.key_life import DnsView, RelayReport


class Action(StrEnum):
    """The steps; all but `WAIT` change the key's record, some of them DNS as well."""

    WAIT = "wait"
    PUBLISH = "publish"  # write down the intent, then let the record be made known
    CONFIRM_PUBLISHED = "confirm-published"  # publishing -> published
    FALL_BACK = "fall-back"  # published or ready -> publishing: a server shows it no more
    MAKE_READY = "make-ready"  # published -> ready
    ACTIVATE = "activate"  # ready -> active, and its predecessor -> retiring
    REFUSE = "refuse"  # active: sign no more, the record is wrong everywhere
    ALLOW = "allow"  # active: sign again
    CONFIRM_STOPPED = "confirm-stopped"  # retiring: the last relay stopped at ...
    DENY_STOPPED = "deny-stopped"  # retiring: a relay signs after all; the drain begins anew
    REVOKE = "revoke"  # -> revoking: empty p=
    CONFIRM_REVOKED = "confirm-revoked"  # revoking -> revoked
    REMOVE = "remove"  # -> removing: take the record away
    CONFIRM_REMOVED = "confirm-removed"  # removing -> removed; the private key is destroyed
    HOLD = "hold"  # somebody else's data is at the name


class Standing(IntEnum):
    """How it stands with a key; the number is the exit status of a command about it."""

    DONE = 0  # nothing is open
    NOT_YET = 1  # time, a server or a relay is waited for
    HELD = 2  # something is wrong that a person must look at
    UNREACHABLE = 3  # somebody who must be asked does not answer
    REFUSED = 4  # a rule forbids what was asked for

    @property
    def word(self) -> str:
        """For tables and data: done, not-yet, held, unreachable, refused."""
        return self.name.lower().replace("_", "-")


@dataclass(frozen=True, slots=True)
class Due:
    """The step that is due, or what is waited for."""

    action: Action
    standing: Standing
    why: tuple[str, ...]
    at: datetime | None = None  # WAIT: when time alone will have brought it; None: not time alone

    def __post_init__(self) -> None:
        # They are joined by semicolons, and stand in the midst of other sentences.
        object.__setattr__(self, "why", tuple(one.removesuffix(".") for one in self.why))


@dataclass(frozen=True, slots=True)
class Seen:
    """All that was observed, and by whom its record is published."""

    now: datetime
    dns: DnsView | None = None  # None: nobody asked
    relays: tuple[RelayReport, ...] = ()
    by_hand: bool = True  # a person publishes
    queued_at: datetime | None = None  # the last mail that it may have signed left our queues


def wait(standing: Standing, *why: str, at: datetime | None = None) -> Due:
    """Nothing can be done now."""
    return Due(Action.WAIT, standing, why, at)


def step(action: Action, *why: str, standing: Standing = Standing.DONE) -> Due:
    """Something is to be done."""
    return Due(action, standing, why)
