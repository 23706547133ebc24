"""What can be seen of the signing keys without holding one: records, files, what workers hold.

Promises: opens no private key: of their files it looks at existence, size, owner and mode.  Never
raises.  With a thousand domains a look costs a good part of a second of the processor, so the next
one comes the later the longer the last one took.

What workers hold is read before the records: a key can then be active and not held because it was
activated in between or moments ago (`Signers.fresh`), but none seems lost that was retired.
"""

from __future__ import annotations

import errno
import math
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from carbonseal.keys import permission, store
from carbonseal.keys.key_record import KeyRecord
from carbonseal.keys.relays import acknowledgement
from carbonseal.policies.errors import CarbonsealError
from carbonseal.policies.key_life import Stage
from carbonseal.policies.readiness import TAKE_UP, Signers

_LEAST_WAIT: Final = 1.0  # seconds between two looks
_SHARE: Final = 50  # of the time goes by between looks, for each part that one took
MAX_KEYS: Final = 4000  # that are shown


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """One key, as it is shown."""

    sdid: str
    selector: str
    algorithm: str
    stage: str
    created_at: float  # Unix time
    due_at: float | None  # when it should have a successor; None: it does not sign


@dataclass(frozen=True, slots=True)
class KeysSeen:
    """What one look found."""

    signers: Signers
    keys: tuple[KeyFacts, ...] = ()
    problem: str = ""  # the directory as a whole cannot be read


class KeyLook:
    """Looks again and again."""

    def __init__(
        self,
        directory: Path,
        spool: Path,
        *,
        by_rule: frozenset[str],
        lifetime: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`lifetime`: seconds for which a key signs (rotation.lifetime)."""
        self._shelf = store.Store(directory)
        self._spool = spool
        self._by_rule = by_rule
        self._lifetime = lifetime
        self._clock = clock
        self._next = 0.0
        self._active_since: dict[str, float] = {}  # by our clock; -inf: already at the first look
        self._has_looked = False
        self._seen = KeysSeen(Signers(by_rule, {}, frozenset()))

    def look(self) -> KeysSeen:
        """What is known now, from a new look if it is time for one."""
        began = self._clock()
        if began >= self._next:
            self._seen = self._look()
            ended = self._clock()
            self._next = ended + max(_LEAST_WAIT, _SHARE * (ended - began))
        return self._seen

    def _look(self) -> KeysSeen:
        held = self._held()
        try:
            sdids = self._shelf.sdids()
            lineages = [self._shelf.lineage(sdid) for sdid in sdids]
        except (CarbonsealError, OSError) as fault:
            return KeysSeen(Signers(self._by_rule, {}, frozenset()), (), str(fault))
        signing = {one.sdid: store.active(one.records) for one in lineages}
        active = {sdid: records for sdid, records in signing.items() if records}
        named = {sdid: tuple(one.selector for one in records) for sdid, records in active.items()}
        names = frozenset(_name(one) for records in active.values() for one in records)
        return KeysSeen(
            Signers(
                by_rule=self._by_rule,
                active=named,
                held=names if held is None else held,
                problems={
                    _name(record): problem
                    for records in active.values()
                    for record in records
                    if (problem := self._file_problem(record))
                },
                refused={
                    _name(record): record.refused
                    for records in active.values()
                    for record in records
                    if record.refused
                },
                records={one.sdid: " ".join(one.problems) for one in lineages if one.problems},
                fresh=self._fresh(names),
            ),
            tuple(self._shown(record) for one in lineages for record in one.records)[:MAX_KEYS],
        )

    def _fresh(self, active: frozenset[str]) -> frozenset[str]:
        """The keys that were not active a moment ago, by what was seen here.

        Not by the records' own times: the keys may have been copied from another relay since, and
        its clock may differ.
        """
        now, before = self._clock(), self._active_since
        new = now if self._has_looked else -math.inf
        self._active_since = {name: before.get(name, new) for name in active}
        self._has_looked = True
        return frozenset(name for name, at in self._active_since.items() if now - at < TAKE_UP)

    def _held(self) -> frozenset[str] | None:
        """What the workers sign with; None as long as none has spoken."""
        try:
            workers = acknowledgement.read(self._spool)
        except (CarbonsealError, OSError):
            workers = ()
        spoken = [one.signing for one in workers if not one.is_starting]
        return frozenset[str]().union(*spoken) if spoken else None

    def _file_problem(self, record: KeyRecord) -> str:
        path = self._shelf.private_path(record.sdid, record.selector)
        try:
            permission.check_directories(path.parent)
            found = os.stat(path, follow_symlinks=False)
            if not stat.S_ISREG(found.st_mode) or not found.st_size:
                return f"{path}: it is no private key any more; restore it"
            permission.check_private_file(path, found, self._shelf.directory)
        except FileNotFoundError:
            return f"{path}: the private key is gone; restore it"
        except OSError as fault:
            return str(permission.unreadable(path, fault))
        except CarbonsealError as fault:
            return fault.sentence
        if not os.access(path, os.R_OK):
            return str(permission.unreadable(path, PermissionError(errno.EACCES, "")))
        return ""

    def _shown(self, record: KeyRecord) -> KeyFacts:
        since = record.activated_at or record.created_at
        due = since.timestamp() + self._lifetime if record.stage is Stage.ACTIVE else None
        return KeyFacts(
            record.sdid,
            record.selector,
            record.algorithm,
            record.stage.value,
            record.created_at.timestamp(),
            due,
        )


def _name(record: KeyRecord) -> str:
    return f"{record.sdid}/{record.selector}"
