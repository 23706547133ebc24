"""Bundles of exported records: made, read, and changed as somebody might change them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from carbonseal.milter.archive.evidence import leaf
from carbonseal.milter.archive.handover import check, manifest
from carbonseal.milter.archive.handover.manifest import Content
from support.archive import Archive
from support.command_context import call

Lines = list[dict[str, Any]]


def export(archive: Archive, path: Path, *arguments: str) -> Path:
    """A bundle of what the arguments ask for; of everything where they ask for nothing."""
    result = call(archive, "export", str(path), *(arguments or ("--all",)))
    assert result.exit_code == 0, (result.output, result.exception)
    return path


def findings(path: Path, **known: Any) -> list[str]:
    return [str(one) for one in check.check(path, **known)]


def lines(bundle: Path, name: str) -> Lines:
    return [json.loads(line) for line in (bundle / name).read_bytes().splitlines()]


def change(bundle: Path, how: Callable[[Lines, Lines], None]) -> None:
    """Change records and proofs, and make the manifest fit as well as can be."""
    records, proofs = lines(bundle, manifest.RECORDS), lines(bundle, manifest.PROOFS)
    how(records, proofs)
    for name, content in ((manifest.RECORDS, records), (manifest.PROOFS, proofs)):
        (bundle / name).write_bytes(b"".join(leaf.canonical(one) + b"\n" for one in content))
    make_fit(bundle)


def make_fit(bundle: Path) -> None:
    """Write a manifest that fits the files."""
    said = manifest.parse((bundle / manifest.MANIFEST).read_bytes())
    files = {}
    for name in said.files:
        content = (bundle / name).read_bytes()
        files[name] = Content(hashlib.sha256(content).hexdigest(), len(content))
    outcome = check.Outcome()
    list(check.check(bundle, outcome))
    counts = ("records", "without_header_section", "redacted", "event_lines", "unsealed")
    ends = ("first_record_id", "last_record_id")
    fitting = replace(
        said,
        files=files,
        **{name: getattr(outcome, name) for name in (*counts, *ends)},
        relays=tuple(sorted(outcome.relays)),
        config_versions=tuple(sorted(outcome.config_versions)),
    )
    text = manifest.to_json(fitting)
    (bundle / manifest.MANIFEST).write_bytes(text)
    (bundle / manifest.DIGEST).write_bytes(manifest.digest_line(text))
