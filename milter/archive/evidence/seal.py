"""The signed entry for one sealed segment, and how a segment is read for it.

An entry is canonical JSON (see `leaf.canonical`) of
    v 1 · relay (name of the chain) · number (from 1 without a gap) · segment (its name) ·
    lines (of records, what was no record included) · first (number of its first line among all
    lines of the relay, from 1) · aside (how many of its lines no database would take) ·
    first_record_id, last_record_id (none of its records is older or newer) · root (Merkle root
    over its leaves, hex) · previous (digest of the entry before, hex; zeros before the first) ·
    audit (number and digest of the audit's last event) · sealed_at (RFC 3339) · key (public
    Ed25519 key that signed, hex) · findings (only where the segment was not as it should have
    been: sentences).
The digest of an entry is SHA-256(entry | signature); the signature is over the entry's octets.

Promises: `survey` reads a segment once, with memory for 64 octets a line.

Does not: keep entries (`chain` does) or judge them (`verify` does).
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from carbonseal.milter.archive import merkle, segments, terms
from carbonseal.milter.archive.evidence import leaf
from carbonseal.milter.archive.segments import Segment

BEGINNING = bytes(32)  # stands for the digest before the first entry
VERSION = 1


class BadEntry(ValueError):
    """Text that is no entry; says why."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """An entry and its signature, both as they were signed."""

    entry: str
    signature: bytes

    @property
    def facts(self) -> Facts:
        """What it says.  Raises: BadEntry."""
        return read(self.entry)

    @property
    def digest(self) -> bytes:
        """By which the next entry, a time stamp and people know it."""
        return sha256(self.entry.encode("utf-8", "surrogatepass") + self.signature).digest()


@dataclass(frozen=True, slots=True)
class Facts:
    """An entry as values."""

    relay: str
    number: int
    segment: str
    lines: int
    first: int
    first_record_id: str
    last_record_id: str
    aside: int
    root: bytes
    previous: bytes
    audit_number: int
    audit_digest: bytes
    sealed_at: str
    key: bytes
    findings: tuple[str, ...] = ()

    def text(self) -> str:
        """The entry to be signed."""
        content: dict[str, Any] = {
            "v": VERSION,
            "relay": self.relay,
            "number": self.number,
            "segment": self.segment,
            "lines": self.lines,
            "first": self.first,
            "first_record_id": self.first_record_id,
            "last_record_id": self.last_record_id,
            "aside": self.aside,
            "root": self.root.hex(),
            "previous": self.previous.hex(),
            "audit": {"number": self.audit_number, "digest": self.audit_digest.hex()},
            "sealed_at": self.sealed_at,
            "key": self.key.hex(),
        }
        if self.findings:
            content["findings"] = list(self.findings)
        return leaf.canonical(content).decode("ascii")


def read(entry: str) -> Facts:
    """What an entry says.  Raises: BadEntry."""
    try:
        said = json.loads(entry)
        if said["v"] != VERSION:
            raise BadEntry(f"it is of version {said['v']}, which this program does not know")
        facts = Facts(
            relay=_text(said["relay"]),
            number=_count(said["number"]),
            segment=_text(said["segment"]),
            lines=_count(said["lines"]),
            first=_count(said["first"]),
            first_record_id=_record_id(said["first_record_id"]),
            last_record_id=_record_id(said["last_record_id"]),
            aside=_count(said["aside"]),
            root=_digest(said["root"]),
            previous=_digest(said["previous"]),
            audit_number=_count(said["audit"]["number"]),
            audit_digest=_digest(said["audit"]["digest"]),
            sealed_at=_text(said["sealed_at"]),
            key=_digest(said["key"]),
            findings=tuple(map(_text, said.get("findings", ()))),
        )
    except BadEntry:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BadEntry("it is no entry of ours") from None
    if facts.text() != entry:
        raise BadEntry("it says more, or says it otherwise, than entries do")
    return facts


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
        raise TypeError
    return value


def _digest(value: Any) -> bytes:
    digest = bytes.fromhex(value)
    if len(digest) != 32:
        raise ValueError
    return digest


def _record_id(value: Any) -> str:
    return terms.unpack_record_id(terms.pack_record_id(_text(value)))


@dataclass(frozen=True, slots=True)
class Survey:
    """What a closed segment holds, as far as evidence goes."""

    segment: str
    leaves: bytes  # 64 octets a line; see `leaf`
    root: bytes
    first_record_id: str
    last_record_id: str
    findings: tuple[str, ...]

    @property
    def lines(self) -> int:
        """How many lines there are."""
        return len(self.leaves) // leaf.ENTRY


def survey(segment: Segment) -> Survey:
    """Read a closed segment.  Raises: OSError."""
    entries, tree, whole = bytearray(), merkle.Tree(), merkle.Tree()
    intact: merkle.Tree | None = None  # what recovery counts: lines whose checksum fits
    first = last = None
    footer: dict[str, Any] | None = None
    for one in segments.read(segment, 0):
        if one.is_footer:
            footer = one.content
            continue
        if one.position is None:
            continue
        content = None if one.fault is not None else one.content
        if content is None and intact is None:
            intact = copy.deepcopy(whole)
        whole.add(one.line)
        if content is not None:
            if intact is not None:
                intact.add(one.line)
            record_id = _usable_id(content.get("record_id"))
            if record_id is not None:
                first = record_id if first is None else min(first, record_id)
                last = record_id if last is None else max(last, record_id)
        evidence = leaf.evidence_of(one.line, content)
        entries += evidence
        tree.add(evidence)
    named = _usable_id(segment.name[: terms.RECORD_ID_LENGTH]) or terms.first_record_id(0)
    return Survey(
        segment=segment.name,
        leaves=bytes(entries),
        root=tree.root(),
        first_record_id=first or named,
        last_record_id=last or named,
        findings=_compare(footer, whole, intact or whole),
    )


def _usable_id(value: Any) -> str | None:
    try:
        terms.pack_record_id(value)
    except (ValueError, TypeError):
        return None
    found: str = value.upper()  # texts of ids are in the order of ids
    return found


def _compare(
    footer: dict[str, Any] | None, whole: merkle.Tree, intact: merkle.Tree
) -> tuple[str, ...]:
    """What the footer says otherwise than the lines."""
    if footer is None:
        return ("the segment has no footer: lines may be missing at its end",)
    said = footer.get("footer")
    said = said if isinstance(said, dict) else {}
    if any(
        (said.get("records"), said.get("merkle_root")) == (tree.leaves, tree.root().hex())
        for tree in (whole, intact)
    ):
        return ()
    count, ours = said.get("records"), whole.leaves
    if isinstance(count, int) and count != ours:
        return (f"the footer counts {count} lines and there are {ours}",)
    return ("the lines are not those over which the footer has its Merkle root",)
