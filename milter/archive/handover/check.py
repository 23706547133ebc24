"""Is an exported bundle what the relays have sealed?  Without database and configuration:
`python -m carbonseal.milter.archive.handover.check PATH`.

Promises: found are a changed octet of any file (SHA-256), a record that was changed, added or
swapped even where manifest and hashes were made to fit (proofs and the relays' signatures), records
out of order, and proofs or seals of something else.  Read once, with memory for the seals alone.

What the bundle alone cannot tell: whether records were left out, and whether the keys are those of
the relays.  Give the SHA-256 of manifest.json from the audit, and the relays' evidence.pub.

Raises: DataError where there is no bundle to check.

Does not: import SQLAlchemy, or anything that needs it.
"""

from __future__ import annotations

import base64
import itertools
import json
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any, NamedTuple

import click

from carbonseal.keys import evidence_key, tables
from carbonseal.milter.archive.evidence import chain, leaf, stamp
from carbonseal.milter.archive.evidence.seal import BadEntry, Facts, Sealed
from carbonseal.milter.archive.handover import manifest as manifests
from carbonseal.milter.archive.handover import proof as proofs
from carbonseal.milter.archive.handover import reading
from carbonseal.milter.archive.handover import told as tolds
from carbonseal.milter.archive.handover.manifest import (
    MANIFEST,
    PROOFS,
    RECORDS,
    SEALS,
    STAMPS,
    Manifest,
)
from carbonseal.milter.archive.handover.reading import Bundle
from carbonseal.policies import quantity
from carbonseal.policies.errors import CarbonsealError, DataError

_BROKEN = (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError)


class Finding(NamedTuple):
    """Something that is not true."""

    what: str
    where: str  # file, and line where there is one
    record_id: str | None = None

    def __str__(self) -> str:
        of = f" (record {self.record_id})" if self.record_id else ""
        return f"{self.where}{of}: {self.what}"


@dataclass(slots=True)
class Outcome:
    """What was seen while checking."""

    records: int = 0
    proven: int = 0
    without_header_section: int = 0
    redacted: int = 0
    unsealed: int = 0
    event_lines: int = 0
    event_lines_proven: int = 0
    first_record_id: str | None = None
    last_record_id: str | None = None
    relays: set[str] = field(default_factory=set)
    config_versions: set[str] = field(default_factory=set)
    keys: dict[str, set[str]] = field(default_factory=dict)  # relay: ids of keys that signed
    stamps: int = 0  # that are of a seal of the bundle
    manifest_sha256: str = ""


@dataclass(slots=True)
class _Seals:
    """The seals that are signed as they should be."""

    facts: dict[tuple[str, int], Facts] = field(default_factory=dict)
    digests: dict[tuple[str, int], bytes] = field(default_factory=dict)


def check(
    path: Path,
    outcome: Outcome | None = None,
    *,
    trusted: Collection[bytes] | None = None,
    manifest_sha256: str | None = None,
) -> Iterator[Finding]:
    """What is not true of the bundle at `path`; `outcome` is filled on the way.

    `trusted`: public keys of the relays, 32 octets each; None: whatever key has signed.
    `manifest_sha256`: what the audit of the archive says of it, hexadecimal.
    Raises: DataError where there is no bundle to check.
    """
    outcome = Outcome() if outcome is None else outcome
    with reading.opened(path) as bundle:
        manifest, text = reading.manifest(bundle)
        outcome.manifest_sha256 = sha256(text).hexdigest()
        yield from _check_manifest(bundle, manifest, text, manifest_sha256)
        intact = True
        for finding in _check_files(bundle, manifest):
            intact = False
            yield finding
        try:
            seals = _Seals()
            yield from _check_seals(bundle, seals, outcome, trusted)
            # A removed line would make every later proof a finding: the hash has said enough.
            yield from _check_records(bundle, seals, outcome)
            if manifests.DELIVERIES in bundle.names():
                yield from _check_deliveries(bundle, seals, outcome)
            if intact:
                yield from _check_sums(manifest, outcome, seals)
        except DataError as fault:
            yield Finding(fault.sentence, str(path))


def _check_manifest(
    bundle: Bundle, manifest: Manifest, text: bytes, expected: str | None
) -> Iterator[Finding]:
    found = sha256(text).hexdigest()
    if expected is not None and found != expected.strip().lower():
        yield Finding(f"its SHA-256 is {found}, and not the one that was told", MANIFEST)
    if manifests.to_json(manifest) != text:
        yield Finding("is not written as exports write it", MANIFEST)
    try:
        with bundle.open(manifests.DIGEST) as stream:
            is_so = stream.read(1000) == manifests.digest_line(text)
    except DataError:
        is_so = False
    if not is_so:
        yield Finding("is not the one that manifest.sha256 names", MANIFEST)


def _check_files(bundle: Bundle, manifest: Manifest) -> Iterator[Finding]:
    names = bundle.names()
    for name in sorted(names - set(manifest.files) - {MANIFEST, manifests.DIGEST}):
        yield Finding("is not in the manifest", tables.escape(name))
    for name, said in manifest.files.items():
        if name not in names:
            yield Finding("is missing", name)
            continue
        with bundle.open(name) as stream:
            found = file_digest(stream, sha256).hexdigest()  # type: ignore[arg-type]
        if found != said.sha256:
            yield Finding("was changed: it has not the SHA-256 of the manifest", name)


def _check_seals(
    bundle: Bundle, seals: _Seals, outcome: Outcome, trusted: Collection[bytes] | None
) -> Iterator[Finding]:
    stamps, findings = _stamps(bundle)
    yield from findings
    with bundle.open(SEALS) as stream:
        for number, line in enumerate(reading.lines(stream, SEALS), 1):
            where = f"{SEALS} line {number}"
            try:
                sealed = chain.from_line(line)
                facts = sealed.facts
            except BadEntry as fault:
                yield Finding(str(fault), where)
                continue
            if not evidence_key.verify(facts.key, sealed.signature, sealed.entry.encode("ascii")):
                yield Finding("the signature does not fit the entry", where)
                continue
            name = evidence_key.key_id(facts.key)
            outcome.keys.setdefault(facts.relay, set()).add(name)
            if trusted is not None and facts.key not in trusted:
                yield Finding(f"was signed by the key {name}, which is none of those given", where)
                continue
            seals.facts[facts.relay, facts.number] = facts
            seals.digests[facts.relay, facts.number] = sealed.digest
            if (token := stamps.pop((facts.relay, facts.number), None)) is not None:
                yield from _check_stamp(token, sealed, outcome)
    for relay, number in stamps:
        yield Finding(f"the stamped seal {number} of {relay} is not there", STAMPS)
    for (relay, number), facts in seals.facts.items():
        if seals.digests.get((relay, number - 1), facts.previous) != facts.previous:
            what = f"seal {number} of {relay} does not follow from the one before"
            yield Finding(what, SEALS)


def _stamps(bundle: Bundle) -> tuple[dict[tuple[str, int], bytes], list[Finding]]:
    """Time stamps by the seal that they are said to stamp."""
    found, findings = {}, []
    with bundle.open(STAMPS) as stream:
        for number, line in enumerate(reading.lines(stream, STAMPS), 1):
            try:
                said = json.loads(line)
                key = str(said["relay"]), int(said["number"])
                found[key] = base64.b64decode(said["token"], validate=True)
            except _BROKEN:
                findings.append(Finding("is no time stamp", f"{STAMPS} line {number}"))
    return found, findings


def _check_stamp(token: bytes, sealed: Sealed, outcome: Outcome) -> Iterator[Finding]:
    """The imprint; whose stamp it is, `openssl ts -verify` tells with the authority's root."""
    try:
        problem = stamp.check(token, sealed, None)
    except stamp.StampFailed:
        return  # the library that reads them is optional
    if problem is None:
        outcome.stamps += 1
    else:
        yield Finding(problem, STAMPS)


def _check_records(bundle: Bundle, seals: _Seals, outcome: Outcome) -> Iterator[Finding]:
    with bundle.open(RECORDS) as records, bundle.open(PROOFS) as beside:
        pairs = itertools.zip_longest(
            reading.lines(records, RECORDS), reading.lines(beside, PROOFS)
        )
        before: str | None = None
        for number, (line, evidence) in enumerate(pairs, 1):
            if line is None:
                yield Finding("proves a record that is not there", f"{PROOFS} line {number}")
                continue
            outcome.records += 1
            where = f"{RECORDS} line {number}"
            try:
                content = json.loads(line)
                record_id = str(content["record_id"])
                if leaf.canonical(content) + b"\n" != line:
                    yield Finding("is not written as exports write it", where, record_id)
                _count(content, record_id, outcome)
            except _BROKEN:
                yield Finding("is no record", where)
                continue
            if before is not None and record_id >= before:
                yield Finding("is not older than the record before it", where, record_id)
            before = record_id
            what = "has no proof" if evidence is None else _judge(content, evidence, seals, outcome)
            if what is not None:
                yield Finding(what, where, record_id)


def _check_deliveries(bundle: Bundle, seals: _Seals, outcome: Outcome) -> Iterator[Finding]:
    """Event lines stand in the order of their records, which are read beside them."""
    with bundle.open(RECORDS) as records, bundle.open(manifests.DELIVERIES) as told:
        beside = reading.lines(records, RECORDS)
        content: Any = None
        for number, line in enumerate(reading.lines(told, manifests.DELIVERIES), 1):
            outcome.event_lines += 1
            where, record_id = f"{manifests.DELIVERIES} line {number}", None
            try:
                said = json.loads(line)
                record_id = str(said["record_id"])
                if leaf.canonical(said) + b"\n" != line:
                    yield Finding("is not written as exports write it", where, record_id)
                while content is None or content["record_id"] != record_id:
                    content = json.loads(next(beside))
                what = tolds.not_of(said, content) or _judge_line(said, seals)
            except StopIteration:
                yield Finding("is about no record of the bundle, or out of order", where, record_id)
                return
            except _BROKEN:
                what = "is no event line"
            if what is None:
                outcome.event_lines_proven += 1
            else:
                yield Finding(what, where, record_id)


def _judge_line(said: Any, seals: _Seals) -> str | None:
    name = tolds.seal_of(said)
    if name is None:
        return "nothing proves it: its segment was not sealed when the bundle was made"
    facts = seals.facts.get(name)
    if facts is None:
        return f"the seal {name[1]} of {name[0][:80]} is missing, or cannot be trusted"
    return tolds.fault(said, facts)


def _count(content: Any, record_id: str, outcome: Outcome) -> None:
    outcome.last_record_id = outcome.last_record_id or record_id
    outcome.first_record_id = record_id
    outcome.relays.add(str(content["relay"]))
    outcome.config_versions.add(str(content["config_version"]))


def _judge(content: Any, evidence: bytes, seals: _Seals, outcome: Outcome) -> str | None:
    try:
        proof = proofs.read(json.loads(evidence))
        if proof.record_id != content["record_id"]:
            return f"stands beside the proof of record {proof.record_id[:40]!r}"
        outcome.without_header_section += content["header_fields"] is None
        outcome.redacted += bool(proof.gone)
        if proof.relay is None:
            outcome.unsealed += 1
            return "nothing proves it: its segment was not sealed when the bundle was made"
        facts = seals.facts.get((proof.relay, proof.number))
        if facts is None:
            return f"the seal {proof.number} of {proof.relay[:80]} is missing, or cannot be trusted"
        what = proofs.fault(content, proof, facts)
    except _BROKEN:
        return "the record or its proof cannot be read"
    outcome.proven += what is None
    return what


def _check_sums(manifest: Manifest, outcome: Outcome, seals: _Seals) -> Iterator[Finding]:
    """What the manifest says in words of what is there."""
    for name in ("records", "without_header_section", "redacted", "event_lines", "unsealed"):
        yield from _compare(name, getattr(manifest, name), getattr(outcome, name))
    for name in ("first_record_id", "last_record_id"):
        yield from _compare(name, getattr(manifest, name), getattr(outcome, name))
    for name in ("relays", "config_versions"):
        yield from _compare(name, sorted(getattr(manifest, name)), sorted(getattr(outcome, name)))
    for relay, head in manifest.heads.items():
        found = seals.digests.get((relay, head.number))
        if found is None or found.hex() != head.digest:
            yield Finding(f"the last seal of {relay}, number {head.number}, is not there", MANIFEST)


def _compare(name: str, said: object, found: object) -> Iterator[Finding]:
    if said != found:
        yield Finding(f"{name} is {said!r} there, and there are {found!r}", MANIFEST)


def report(path: Path, *, trusted: Collection[bytes] | None, manifest_sha256: str | None) -> bool:
    """Check, and say on standard output what was found; whether all is true.

    Raises: DataError.
    """
    outcome, findings = Outcome(), 0
    for finding in check(path, outcome, trusted=trusted, manifest_sha256=manifest_sha256):
        click.echo(tables.presentable(str(finding)))
        findings += 1
    click.echo(f"{quantity.of(outcome.records, 'record')}, {outcome.proven} of them proven")
    if outcome.event_lines:
        lines = quantity.of(outcome.event_lines, "line")
        click.echo(f"{lines} of the mail log, {outcome.event_lines_proven} of them proven")
    for relay, names in sorted(outcome.keys.items()):
        click.echo(tables.presentable(f"signed by {relay} with key {', '.join(sorted(names))}"))
    if outcome.without_header_section or outcome.redacted:
        click.echo(
            f"{outcome.without_header_section} without their header section, {outcome.redacted} "
            "of which parts were taken out: what is under 'unproven' is not proven"
        )
    if outcome.stamps:
        stamps = quantity.of(outcome.stamps, "time stamp is", "time stamps are")
        click.echo(f"{stamps} of these seals, or of seals that follow them")
    if trusted is None:
        click.echo("no key was given: compare the fingerprints with those of the relays")
    if manifest_sha256 is None:
        click.echo(
            f"SHA-256 of {MANIFEST} is {outcome.manifest_sha256}: compare it with the audit, which "
            "alone tells whether records were left out"
        )
    click.echo(quantity.of(findings, "finding") if findings else "all is true")
    return not findings


def trusted_keys(paths: Collection[Path]) -> set[bytes] | None:
    """The public keys in these files; None where there are none.  Raises: DataError."""
    return {evidence_key.read_public(path) for path in paths} or None


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--key",
    "keys",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A relay's evidence.pub; repeat it for each relay.",
)
@click.option("--manifest-sha256", metavar="HEX", help="What the archive's audit says of it.")
def main(path: Path, keys: tuple[Path, ...], manifest_sha256: str | None) -> None:
    """Check an exported bundle: status 0 if all is true, 1 if something is not."""
    try:
        is_true = report(path, trusted=trusted_keys(keys), manifest_sha256=manifest_sha256)
    except CarbonsealError as fault:
        click.echo(f"check: {tables.presentable(fault.sentence)}", err=True)
        sys.exit(fault.exit_code)
    sys.exit(0 if is_true else 1)


if __name__ == "__main__":
    main()
