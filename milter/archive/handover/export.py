"""From the archive to a bundle: records, their proofs, and the manifest.

Promises: streams; the manifest says of every file what it is, and of the records what was asked
for, by whom and under which number of the audit, how many there are and of which relays and
configurations.  JSON Lines is exact; CSV is for people, and no spreadsheet takes a cell of it for
a formula.

Raises: bundle.BundleUnwritable, UsageError (the name is taken, too many records),
database.DatabaseUnusable; then nothing is left.

Does not: choose (`search`), audit (`commands`) or check (`check`).
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from carbonseal.keys import evidence_key, tables
from carbonseal.milter.archive import derive
from carbonseal.milter.archive.evidence import chain, leaf, rewriting
from carbonseal.milter.archive.evidence.rewriting import Rewritten
from carbonseal.milter.archive.handover import bundle, manifest
from carbonseal.milter.archive.handover import proof as proofs
from carbonseal.milter.archive.handover.bundle import Bundle, File
from carbonseal.milter.archive.handover.given import Given, Source
from carbonseal.milter.archive.handover.manifest import Head, Manifest
from carbonseal.policies.errors import UsageError

_COLUMNS = (
    "record_id recorded_at relay queue_id crossing disposition reverse_path author recipients "
    "archive_recipients signed_by message_id subject client_address login size reasons"
).split()


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be handed over, and what the manifest says of the asking."""

    query: Mapping[str, Any]  # a Search as JSON
    made_at: str  # RFC 3339
    made_by: str
    reason: str
    audit: Mapping[str, Any]  # number and digest of the event
    with_table: bool = False  # records.csv
    most: int | None = None  # records; more are refused
    rewritten: Rewritten = rewriting.NOTHING  # what the audit says of that


@dataclass(slots=True)
class Sums:
    """What was given."""

    records: int = 0
    without_header_section: int = 0
    redacted: int = 0
    unsealed: int = 0
    event_lines: int = 0
    first_record_id: str | None = None
    last_record_id: str | None = None
    relays: set[str] = field(default_factory=set)
    config_versions: set[str] = field(default_factory=set)
    manifest_sha256: str = ""

    def add(self, one: Given) -> None:
        """Count a record."""
        self.records += 1
        self.without_header_section += one.content["header_fields"] is None
        self.redacted += bool(one.proof.gone)
        self.unsealed += one.proof.relay is None
        self.event_lines += len(one.told)
        self.last_record_id = self.last_record_id or one.proof.record_id
        self.first_record_id = one.proof.record_id
        self.relays.add(one.content["relay"])
        self.config_versions.add(one.content["config_version"])


def export(
    path: Path,
    engine: Engine,
    pages: Iterable[Sequence[str]],
    order: Order,
    watch: Callable[[Iterable[Given]], Iterable[Given]] = iter,
) -> Sums:
    """Write the bundle `path` with the records in `pages`, newest first.

    `watch` hands on every record, and may show how far it is.  Raises: see above.
    """
    sums = Sums()
    source = Source(engine, order.rewritten)
    with bundle.being_made(path) as made:
        files = _Files(made, with_table=order.with_table)
        for one in watch(source.records(pages)):
            sums.add(one)
            if order.most is not None and sums.records > order.most:
                raise UsageError(
                    f"{path}: there are more than {order.most} records; narrow the query, or raise "
                    "--max"
                )
            files.add(one)
        heads = files.finish(source)
        made.file(manifest.README).write(manifest.README_TEXT.encode("ascii"))
        text = manifest.to_json(_manifest(order, sums, heads, made))
        made.file(manifest.MANIFEST).write(text)
        made.file(manifest.DIGEST).write(manifest.digest_line(text))
        sums.manifest_sha256 = sha256(text).hexdigest()
    return sums


class _Files:
    """The files that grow with the records."""

    def __init__(self, made: Bundle, *, with_table: bool) -> None:
        self._records = made.file(manifest.RECORDS)
        self._proofs = made.file(manifest.PROOFS)
        self._told: File | None = None  # where nobody follows a log there is no such file
        self._table = _Table(made.file(manifest.TABLE)) if with_table else None
        self._made = made

    def add(self, one: Given) -> None:
        """One more record."""
        self._records.write(leaf.canonical(one.content) + b"\n")
        self._proofs.write(leaf.canonical(one.said) + b"\n")
        for told in one.told:
            if self._told is None:
                self._told = self._made.file(manifest.DELIVERIES)
            self._told.write(leaf.canonical(told) + b"\n")
        if self._table is not None:
            self._table.add(proofs.put_together(one.content))

    def finish(self, source: Source) -> dict[str, Head]:
        """What is known when all records are there; returns the last seal of each relay."""
        seals, keys = self._made.file(manifest.SEALS), set()
        heads = source.heads()
        for sealed in source.seals(heads):
            seals.write(chain.to_line(sealed))
            keys.add(sealed.facts.key)
        stamps = self._made.file(manifest.STAMPS)
        for relay, number, token in source.stamps():
            text = base64.b64encode(token).decode("ascii")
            said = {"relay": relay, "number": number, "token": text}
            stamps.write(leaf.canonical(said) + b"\n")
        for public in sorted(keys):
            name = manifest.key_name(evidence_key.key_id(public))
            self._made.file(name).write(evidence_key.to_pem(public))
        return {one.facts.relay: Head(one.facts.number, one.digest.hex()) for one in heads}


class _Table:
    def __init__(self, file: File) -> None:
        self._file = file
        self._line = io.StringIO()
        self._writer = csv.writer(self._line)
        self._put(_COLUMNS)

    def add(self, content: Mapping[str, Any]) -> None:
        row = _row(content)
        self._put([tables.csv_cell(row[column]) for column in _COLUMNS])

    def _put(self, cells: Sequence[str]) -> None:
        self._writer.writerow(cells)
        self._file.write(self._line.getvalue().encode("utf-8"))
        self._line.seek(0)
        self._line.truncate()


def _row(content: Mapping[str, Any]) -> dict[str, Any]:
    derived = derive.derive(content["header_fields"] or [])
    path = content["reverse_path"]["address"]
    return {
        **{name: content.get(name) for name in _COLUMNS},
        "reverse_path": path or "<>",
        "author": ", ".join(derived.authors),
        "recipients": [one["address"] for one in content["recipients"]],
        "signed_by": [f"{one['sdid']}/{one['selector']}" for one in content["signatures"]],
        "message_id": derived.message_id,
        "subject": derived.subject,
        "client_address": content["client"]["address"],
    }


def _manifest(order: Order, sums: Sums, heads: Mapping[str, Head], made: Bundle) -> Manifest:
    return Manifest(
        made_at=order.made_at,
        made_by=order.made_by,
        program=f"carbonseal {metadata.version('carbonseal')}",
        reason=order.reason,
        query=order.query,
        audit=order.audit,
        records=sums.records,
        without_header_section=sums.without_header_section,
        redacted=sums.redacted,
        unsealed=sums.unsealed,
        event_lines=sums.event_lines,
        first_record_id=sums.first_record_id,
        last_record_id=sums.last_record_id,
        relays=tuple(sorted(sums.relays)),
        config_versions=tuple(sorted(sums.config_versions)),
        heads=heads,
        files=made.contents(),
    )
