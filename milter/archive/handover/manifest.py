"""What a bundle says about itself: its manifest, and the names of its files.

A bundle is a directory or a tar file with
    manifest.json            this, as indented JSON
    manifest.sha256          its SHA-256, as `sha256sum -c` reads it
    records.jsonl            complete records, newest first, one canonical JSON object a line
    records.csv              the same for people; may be missing
    deliveries.jsonl         what the mail log told of them, with proofs; missing where it told
                             nothing
    evidence/proofs.jsonl    for each of these lines, how it is in a sealed segment
    evidence/seals.jsonl     the seals of these segments, and the last seal of each relay
    evidence/stamps.jsonl    time stamps of these seals
    evidence/KEYID.pub       the keys that signed them
    README.txt               how to check it

Promises: `parse` accepts what `to_json` gave, and nothing that would surprise who reads it.

Raises: DataError from `parse`.

Does not: read or write files (`bundle`, `reading`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from typing import Any

from carbonseal.policies.errors import DataError

FORMAT = "carbonseal-export"
VERSION = 1

MANIFEST = "manifest.json"
RECORDS = "records.jsonl"
TABLE = "records.csv"
DELIVERIES = "deliveries.jsonl"
PROOFS = "evidence/proofs.jsonl"
SEALS = "evidence/seals.jsonl"
STAMPS = "evidence/stamps.jsonl"
README = "README.txt"
DIGEST = "manifest.sha256"
_ALWAYS = frozenset((RECORDS, PROOFS, SEALS, STAMPS, README))
_KEY = re.compile(r"evidence/[0-9a-f]{16}\.pub", re.ASCII)

README_TEXT = """\
Records of sealed mail, exported from a Carbonseal archive.

  manifest.json   what was asked for, by whom, when; how many records; SHA-256 of every file
  records.jsonl   the records, newest first, one JSON object a line
  records.csv     the same as a table, where it was wanted
  deliveries.jsonl  what the mail log told of them, each line with its proof
  evidence/       for each record, how it is part of a segment that its relay has signed

To check the bundle, without a database or a configuration:

  python -m carbonseal.milter.archive.handover.check PATH

What was changed, added or swapped is found even where the manifest was made to fit.  What was left
out is found by the SHA-256 of manifest.json alone: ask whoever made the bundle for it (it stands in
the audit of the archive), and whether the fingerprints of the keys are those of the relays.
"""


@dataclass(frozen=True, slots=True)
class Content:
    """One file of the bundle."""

    sha256: str  # hexadecimal
    octets: int


@dataclass(frozen=True, slots=True)
class Head:
    """The last seal of a relay when the bundle was made."""

    number: int
    digest: str  # SHA-256 of entry and signature, hexadecimal


@dataclass(frozen=True, slots=True)
class Manifest:
    """What was asked for, and what was given."""

    made_at: str  # RFC 3339
    made_by: str
    program: str  # name and version
    reason: str
    query: Mapping[str, Any]  # a Search as JSON
    audit: Mapping[str, Any]  # number and digest of the audit event
    records: int
    without_header_section: int  # retention has taken it out
    redacted: int  # a person, or the subject, was taken out
    event_lines: int  # of the mail log, about these records
    unsealed: int  # their segment was not sealed yet: nothing proves them
    first_record_id: str | None  # the oldest
    last_record_id: str | None  # the newest
    relays: tuple[str, ...]
    config_versions: tuple[str, ...]
    heads: Mapping[str, Head]  # by relay
    files: Mapping[str, Content]


def to_json(manifest: Manifest) -> bytes:
    """The file."""
    content = {"format": FORMAT, "version": VERSION, **asdict(manifest)}
    return json.dumps(content, indent=2).encode("ascii") + b"\n"


def key_name(key_id: str) -> str:
    """Where the public key of that name stands."""
    return f"evidence/{key_id}.pub"


def is_listed(name: str) -> bool:
    """Whether a bundle's manifest may list a file of that name."""
    return name in _ALWAYS or name in (TABLE, DELIVERIES) or _KEY.fullmatch(name) is not None


def digest_line(text: bytes) -> bytes:
    """manifest.sha256, for the manifest in `text`."""
    return f"{sha256(text).hexdigest()}  {MANIFEST}\n".encode("ascii")


def parse(text: bytes) -> Manifest:
    """The manifest in that file.  Raises: DataError."""
    try:
        content = json.loads(text)
        if content.pop("format") != FORMAT:
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DataError(
            f"{MANIFEST} is no manifest of an export of records; name what archive export has made"
        ) from None
    version = content.pop("version", None)
    if version != VERSION:
        raise DataError(f"{MANIFEST} is of another version than {VERSION}; upgrade carbonseal")
    try:
        return _manifest(content)
    except (ValueError, KeyError, TypeError, AttributeError) as fault:
        raise DataError(
            f"{MANIFEST} lacks something or has a wrong value: {fault}; ask for the bundle again"
        ) from None


def _manifest(content: dict[str, Any]) -> Manifest:
    if content.keys() != {one.name for one in fields(Manifest)}:
        raise ValueError("its keys")
    numbers = ("records", "without_header_section", "redacted", "event_lines", "unsealed")
    for name in numbers:
        if type(content[name]) is not int or content[name] < 0:
            raise ValueError(name)
    for name in ("made_at", "made_by", "program", "reason"):
        if not isinstance(content[name], str):
            raise ValueError(name)
    content["relays"] = _texts(content["relays"])
    content["config_versions"] = _texts(content["config_versions"])
    content["heads"] = {str(name): Head(**head) for name, head in content["heads"].items()}
    content["files"] = {str(name): _content(one) for name, one in content["files"].items()}
    if foreign := [name for name in content["files"] if not is_listed(name)]:
        raise ValueError(f"files {sorted(foreign)}")
    if missing := _ALWAYS.difference(content["files"]):
        raise ValueError(f"files, without {sorted(missing)}")
    return Manifest(**content)


def _content(given: Mapping[str, Any]) -> Content:
    found = Content(**given)
    if not isinstance(found.sha256, str) or type(found.octets) is not int:
        raise ValueError("files")
    return found


def _texts(given: Any) -> tuple[str, ...]:
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
        raise ValueError("a list of texts")
    return tuple(given)
