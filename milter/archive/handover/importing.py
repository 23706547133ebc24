"""From a bundle into the spool, where the writer takes the records up like any others.

Promises: the bundle is checked before anything is written, and read again from the same files.
The records are durable in closed segments when `put` returns.  Their ids are those they had: what
the archive has already is passed over, so that importing twice changes nothing.

Records of which parts were taken out are no records that can be sealed again; they are left out
and counted.

Raises: DataError for a bundle that is damaged, spool.SpoolUnwritable.

Safe direction: what a failure leaves in the spool are whole records; importing again adds the rest.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carbonseal.milter.archive import record
from carbonseal.milter.archive.handover import check, manifest, reading, told
from carbonseal.milter.archive.handover import proof as proofs
from carbonseal.milter.archive.spool import Spool
from carbonseal.policies.errors import DataError

_BATCH = 500  # records that share a sync
_BATCH_BYTES = 8 << 20
_UNSEALED = "nothing proves it"


@dataclass(slots=True)
class Sums:
    """What became of the records."""

    records: int = 0
    event_lines: int = 0
    left_out: int = 0  # parts of them were taken out


def refuse_damaged(
    path: Path,
    *,
    trusted: Collection[bytes] | None = None,
    manifest_sha256: str | None = None,
) -> check.Outcome:
    """What a check of the bundle saw.  Raises: DataError with the first thing that is not true.

    Records that were not sealed yet are taken: whoever imports decides whom to trust.
    """
    outcome = check.Outcome()
    for finding in check.check(path, outcome, trusted=trusted, manifest_sha256=manifest_sha256):
        if not finding.what.startswith((_UNSEALED, proofs.REWRITTEN)):
            raise DataError(f"{path}: nothing was imported, since the bundle is damaged: {finding}")
    return outcome


def contents(path: Path, sums: Sums) -> Iterator[dict[str, Any]]:
    """The whole records of a bundle that was found true, oldest last; then the event lines."""
    with (
        reading.opened(path) as opened,
        opened.open(manifest.RECORDS) as records,
        opened.open(manifest.PROOFS) as beside,
    ):
        for line, evidence in zip(
            reading.lines(records, manifest.RECORDS),
            reading.lines(beside, manifest.PROOFS),
            strict=True,
        ):
            content: dict[str, Any] = json.loads(line)
            proof = proofs.read(json.loads(evidence))
            if (
                not proof.is_whole
                or proof.rewritten is not None
                or content["header_fields"] is None
            ):
                sums.left_out += 1
                continue
            sums.records += 1
            yield content
        if manifest.DELIVERIES in opened.names():
            yield from _event_lines(opened, sums)


def _event_lines(opened: reading.Bundle, sums: Sums) -> Iterator[dict[str, Any]]:
    with opened.open(manifest.DELIVERIES) as stream:
        for line in reading.lines(stream, manifest.DELIVERIES):
            said: dict[str, Any] = json.loads(line)
            if told.is_whole(said):
                sums.event_lines += 1
                yield said["line"]
            else:
                sums.left_out += 1


def put(found: Iterable[dict[str, Any]], directory: Path) -> None:
    """Put records into the spool `directory`, durably.  Raises: spool.SpoolUnwritable."""
    spool = Spool(directory)
    try:
        batch: list[bytes] = []
        size = 0
        for content in found:
            line = record.encode(content)
            batch.append(line)
            size += len(line)
            if len(batch) >= _BATCH or size >= _BATCH_BYTES:
                spool.put_all(batch)
                batch, size = [], 0
        if batch:
            spool.put_all(batch)
    finally:
        spool.close()
