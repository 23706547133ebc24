"""Put found keys into the keys directory: each by itself, none over another.

Promises: a key that is there stays as it is; the same key under the same name is 'here already', so
that a second run changes nothing.  A key that cannot be read or kept is a refused row, and the next
one is tried all the same.  With `dry_run` everything is checked and nothing is written.

Activation: a key starts to sign only if it never signed here and was not retired, and takes the
place of another active key of its SDID and algorithm only if the tables say it is the one that
signs.  Of several such keys the first is activated.

Raises: `errors.ConfigurationError` if the keys directory itself cannot be used.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from carbonseal.keys import generate, key_size, keyring, permission, store
from carbonseal.keys.key_record import KeyRecord, Origin
from carbonseal.keys.takeover import private
from carbonseal.keys.takeover.found import Findings, Found, Signs
from carbonseal.policies import errors, key_life
from carbonseal.policies.key_life import Stage


class Outcome(StrEnum):
    """What became of one entry."""

    TAKEN = "taken"
    ALREADY_HERE = "already here"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Row:
    """One entry and what became of it."""

    outcome: Outcome
    source: str  # file:line
    sdid: str = ""
    selector: str = ""
    algorithm: str = ""
    bits: int = 0
    fingerprint: str = ""
    is_activated: bool = False  # now, by this command
    sentences: tuple[str, ...] = ()  # why it was refused, or what to know about it


@dataclass(frozen=True, slots=True)
class Report:
    """All rows, keys first, then what was refused unread."""

    rows: tuple[Row, ...] = field(default=())

    @property
    def is_complete(self) -> bool:
        """Whether nothing was refused."""
        return all(row.outcome is not Outcome.REFUSED for row in self.rows)


def take(
    shelf: store.Store,
    findings: Findings,
    *,
    at: datetime,
    why: str,
    activate: bool = False,
    dry_run: bool = False,
    watched: Callable[[Sequence[Found]], Iterable[Found]] = iter,
) -> Report:
    """Take every found key over; the report has a row for each, and for each refusal.

    `watched` hands the keys out one by one, for a progress bar.
    """
    taking = _Taking(shelf, at, why, activate=activate, dry_run=dry_run)
    rows = [taking.row(found) for found in watched(_signing_first(findings.found))]
    rows += [
        Row(Outcome.REFUSED, refusal.source, sentences=(refusal.sentence,))
        for refusal in findings.refusals
    ]
    return Report(tuple(rows))


def _signing_first(found: Iterable[Found]) -> list[Found]:
    """Those that sign come before those that might, or the latter would be activated first."""
    return sorted(found, key=lambda one: one.signs is not Signs.YES)


@dataclass(slots=True)
class _Taking:
    """One run of the command."""

    shelf: store.Store
    at: datetime
    why: str
    activate: bool
    dry_run: bool
    activated: dict[tuple[str, str], str] = field(default_factory=dict)  # SDID, algorithm: selector
    names: dict[tuple[str, str], str] = field(default_factory=dict)  # SDID, selector: fingerprint

    def row(self, found: Found) -> Row:
        """Take one key, or say why not."""
        try:
            key = private.read(found)
            record = generate.new_record(
                key,
                found.sdid,
                found.selector,
                origin=Origin.IMPORTED,
                at=self.at,
                why=f"{self.why}, from {found.source}" if self.why else f"from {found.source}",
            )
            return self._keep(found, record, key)
        except errors.CarbonsealError as error:
            if _concerns_all(error):
                raise
            return Row(
                Outcome.REFUSED,
                found.source,
                found.sdid,
                found.selector,
                sentences=(error.sentence,),
            )

    def _keep(self, found: Found, record: KeyRecord, key: keyring.PrivateKey) -> Row:
        here = self._here(record)
        may_sign, remarks = self._may_sign(found, here or record)
        if not self.dry_run and (here is None or may_sign):
            _write(
                self.shelf,
                here or record,
                private_pem=generate.private_pem(key) if here is None else None,
                at=self.at,
                why=self.why,
                activate=may_sign,
            )
        self.names[record.sdid, record.selector] = record.fingerprint
        if may_sign:
            self.activated[record.sdid, record.algorithm] = record.selector
        warning = key_size.size_warning(record.algorithm, record.bits)
        return Row(
            Outcome.TAKEN if here is None else Outcome.ALREADY_HERE,
            found.source,
            record.sdid,
            record.selector,
            record.algorithm,
            record.bits,
            record.fingerprint,
            may_sign,
            (*found.notes, *remarks, *_open_to_all(found), *((warning,) if warning else ())),
        )

    def _here(self, record: KeyRecord) -> KeyRecord | None:
        """The key of this name, if it is the same one; `errors.DataError` if it is another."""
        taken = self.names.get((record.sdid, record.selector))
        if taken is not None and taken != record.fingerprint:
            raise self._other_key(record)
        try:
            here = self.shelf.find(record.sdid, record.selector) if self.shelf.exists() else None
        except errors.NotFound:
            here = None
        if here is None:
            return record if taken is not None else None  # taken before, in a dry run
        if here.fingerprint != record.fingerprint:
            raise self._other_key(record)
        return here

    def _other_key(self, record: KeyRecord) -> errors.DataError:
        return errors.DataError(
            f"another key has the name {record.dns_name} here already; find out which one is"
            " published, and leave it at that."
        )

    def _may_sign(self, found: Found, record: KeyRecord) -> tuple[bool, list[str]]:
        """Whether the key is to be activated, and what to say if it is not."""
        if not self.activate or record.stage is Stage.ACTIVE:
            return False, []
        if record.stage not in key_life.BEFORE_ACTIVE or record.is_cancelled:
            return False, [f"not activated: it is {record.stage} here; see its history"]
        if record.held or record.is_compromised:
            return False, ["not activated: it is held or compromised here; see its history"]
        if found.signs is Signs.NO:
            return False, ["kept, not activated"]
        first = self.activated.get((record.sdid, record.algorithm))
        if first == record.selector:
            return False, []
        if first is not None:
            return False, [f"kept, not activated: {first} was activated for {record.sdid}"]
        signing = [
            key.selector
            for key in store.active(self.shelf.lineage(record.sdid).records)
            if key.algorithm == record.algorithm
        ]
        if signing and found.signs is not Signs.YES:
            return False, [f"kept, not activated: {signing[0]} signs for {record.sdid}"]
        return True, [f"it takes the place of {signing[0]}"] if signing else []


def _open_to_all(found: Found) -> list[str]:
    """A key that strangers could copy signs for them as well."""
    try:
        mode = 0 if found.path is None else found.path.stat().st_mode
    except OSError:  # it was there a moment ago
        return []
    if not mode & stat.S_IROTH:
        return []
    return [f"everybody on this machine could read {found.path}; plan to replace the key"]


def _write(
    shelf: store.Store,
    record: KeyRecord,
    *,
    private_pem: bytes | None,
    at: datetime,
    why: str,
    activate: bool,
) -> None:
    """The one place that changes the keys directory."""
    with shelf.writing(record.sdid) as writer:
        if private_pem is not None:
            writer.add(record, private_pem)
        if activate:
            writer.activate(shelf.find(record.sdid, record.selector), at=at, why=why, assumed=True)


def _concerns_all(error: errors.CarbonsealError) -> bool:
    """Whether every other key would meet the same error."""
    return isinstance(error, errors.ConfigurationError) and not isinstance(
        error, permission.WrongPermission
    )
