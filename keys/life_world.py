"""Whom the life of a key depends on, what was done, and how it stands.

Promises: whatever is observed is dated by our own clock and with the moment it was asked for, so
that no other machine's clock decides what may be done.

Does not: decide or do anything (`policies.rotation`, `lifecycle`).
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from carbonseal.keys import key_size, selector_names, store
from carbonseal.keys.key_record import KeyRecord
from carbonseal.keys.observed import Observed
from carbonseal.keys.publication.publisher import Publisher
from carbonseal.policies import errors, rotation
from carbonseal.policies.key_life import DnsView, RelayReport
from carbonseal.policies.rotation import Action, Due, Standing
from carbonseal.policies.succession import Successor


@dataclass(frozen=True, slots=True)
class World:
    """Whom the life of a key depends on."""

    shelf: store.Store
    rules: rotation.Rules
    look: Callable[[str, bytes | None, str], DnsView]  # name, public key, expected text
    is_by_hand: Callable[[str], bool]  # whether a person publishes for an SDID
    publisher_for: Callable[[str], Publisher]  # of an SDID; may raise where it is set up wrongly
    target_for: Callable[[str, str], str]  # SDID, selector -> the name its TXT record is written at
    ask_relays: Callable[[], tuple[RelayReport, ...]]
    clock: Callable[[], datetime]  # aware, UTC
    ttl: int = 3600  # seconds, of the records that are published
    selectors: str = selector_names.SELECTOR_TEMPLATE  # how new ones are named
    bits: int = key_size.DEFAULT_BITS  # of new RSA keys
    forget: Callable[[], None] = lambda: None  # ask anew who is to be asked, before a new look


@dataclass(frozen=True, slots=True)
class Step:
    """One step that was taken, or in a dry run would be."""

    selector: str
    action: Action
    why: str


@dataclass(frozen=True, slots=True)
class KeyReport:
    """How it stands with one key after the walk."""

    record: KeyRecord
    due: Due  # what is waited for
    seen: Observed


@dataclass(frozen=True, slots=True)
class Report:
    """What was done for one SDID, and what is open."""

    sdid: str
    steps: tuple[Step, ...] = ()
    keys: tuple[KeyReport, ...] = ()
    coming: tuple[Successor, ...] = ()  # to be begun later
    problem: str = ""  # why the SDID could not be looked after; then nothing else is known
    problem_standing: Standing = Standing.HELD

    @property
    def standing(self) -> Standing:
        """The gravest of all: what needs a person before what needs time."""
        if self.problem:
            return self.problem_standing
        return gravest(key.due.standing for key in self.keys)


def gravest(standings: Iterable[Standing]) -> Standing:
    """A held key before an unreachable server before something that only takes time."""
    present = set(standings)
    for standing in (Standing.REFUSED, Standing.HELD, Standing.UNREACHABLE, Standing.NOT_YET):
        if standing in present:
            return standing
    return Standing.DONE


def gather(world: World) -> tuple[RelayReport, ...]:
    """What the relays say, in times of our own clock: dated with the moment they were asked at.

    A report proves that a key is stopped only if it is younger than the order to stop; the clock of
    another relay must not decide that.
    """
    asked_at = world.clock()
    return tuple(_by_our_clock(report, asked_at) for report in world.ask_relays())


def _by_our_clock(report: RelayReport, asked_at: datetime) -> RelayReport:
    """The same report, by a clock that said `asked_at` no later than when it was made.

    What waits in its queue comes out older by the time that the asking took, never younger.
    """
    queue = report.queue
    if queue is not None and queue.oldest is not None:
        with contextlib.suppress(OverflowError):  # it is of no time that mail comes from
            queue = dataclasses.replace(queue, oldest=queue.oldest + (asked_at - report.at))
    return dataclasses.replace(report, at=asked_at, queue=queue)


def look(world: World, record: KeyRecord, expected: str) -> DnsView:
    """What every server shows now, dated by our own clock, as in `gather`."""
    asked_at = world.clock()
    seen = world.look(record.dns_name, record.public_key, expected)
    return dataclasses.replace(seen, at=asked_at)


class Forbidden(errors.CarbonsealError):
    """A rule of the life cycle forbids it: exit status 4."""

    exit_code = int(Standing.REFUSED)
