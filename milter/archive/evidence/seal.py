"""The signed entry for one sealed segment, and how a segment is read for it.

An entry is canonical JSON (see `leaf.canonical`) of
    v 1 · relay (name of the chain) · number (from 1 without a gap) · segment (its name) ·
    lines (of records, what was no record included) · first (number of its first line among all
    lines of the relay, from 1) · aside (how many of its lines no database would take) ·
    first_record_id, last_record_id (none of its records is older or newer; of event lines the
    time alone) · root (Merkle root
    over its leaves, hex) · previous (digest of the entry before, hex; zeros before the first) ·
    audit (number and digest of the audit's last event) · sealed_at (RFC 3339) · key (public
    Ed25519 key that signed, hex) · findings (only where the segment was not as it should have
    been: sentences).
The digest of an entry is SHA-256(entry | signature); the signature is over the entry's octets.

Promises: `survey` reads a segment once; who reads it anyway has `Surveying` for that.

Does not: keep entries (`chain` does) or judge them (`verify` does).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from carbonseal.milter.archive import merkle, record, segments, terms
from carbonseal.milter.archive.evidence import event_leaf, leaf
from carbonseal.milter.archive.segments import Entry, Segment

BEGINNING = bytes(32)  # stands for the digest before the first entry
VERSION = 1
_TIME = 10  # characters of an id that tell its time


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
    as_sealed: Any = None  # what the footer of a rewritten one says; see `rewriting`

    @property
    def lines(self) -> int:
        """How many lines there are."""
        return len(self.leaves) // leaf.ENTRY


class Surveying:
    """A survey of a segment whose lines come by one after the other.

    Takes 96 octets a line.
    """

    def __init__(self) -> None:
        self.end = 0  # octets of the segment that it has seen
        self._evidence = bytearray()
        self._digests = bytearray()  # over which the footer has its root
        self._broken: list[int] = []  # lines whose checksum does not fit
        self._first: str | None = None
        self._last: str | None = None
        self._footer: dict[str, Any] | None = None

    def add(self, one: Entry) -> None:
        """The next line.  Its content has to be whole."""
        self.end = one.end
        if one.position is None:
            if one.is_footer:
                self._footer = one.content
            return
        if one.apart is not None:
            self._take_id(one.content.get("record_id"))
            self._digests += one.apart.digest
            self._evidence += one.apart.evidence
            return
        content = None if one.fault is not None else one.content
        if content is None:
            self._broken.append(len(self._digests) // leaf.DIGEST)
        else:
            self._take_ids(content)
        self._digests += merkle.quick_leaf_hash(one.line)
        if content is not None and record.is_event(content):
            self._evidence += event_leaf.evidence_of(one.line, content)
        else:
            self._evidence += leaf.evidence_of(one.line, content)

    def add_records(
        self, end: int, record_ids: Sequence[str], evidence: bytes, digests: bytes
    ) -> None:
        """The next lines up to `end`, all of them records; what is said of each, in a row."""
        self.end = end
        self._digests += digests
        self._evidence += evidence
        self._take_id(min(record_ids))
        self._take_id(max(record_ids))

    def _take_ids(self, content: Mapping[str, Any]) -> None:
        event_id = _usable_id(content.get("event_id"))
        if event_id is None:
            self._take_id(content.get("record_id"))
            return
        # The rest of it is made from names, and a seal stays when they are erased.
        self._take_id(event_id[:_TIME] + "0" * (terms.RECORD_ID_LENGTH - _TIME))
        self._take_id(event_id[:_TIME] + "Z" * (terms.RECORD_ID_LENGTH - _TIME))

    def _take_id(self, value: Any) -> None:
        record_id = _usable_id(value)
        if record_id is None:
            return
        if self._last is None or record_id > self._last:
            self._last = record_id
        if self._first is None or record_id < self._first:
            self._first = record_id

    def survey(self, segment: Segment) -> Survey:
        """What was found, when all of the segment has come by."""
        named = _usable_id(segment.name[: terms.RECORD_ID_LENGTH]) or terms.first_record_id(0)
        evidence = bytes(self._evidence)
        return Survey(
            segment=segment.name,
            leaves=evidence,
            root=merkle.root(evidence, leaf.ENTRY),
            first_record_id=self._first or named,
            last_record_id=self._last or named,
            findings=_compare(self._footer, bytes(self._digests), self._broken),
            as_sealed=_said(self._footer).get("as_sealed"),
        )


def survey(segment: Segment) -> Survey:
    """Read a closed segment.  Raises: OSError."""
    surveying = Surveying()
    for one in segments.read(segment, 0):
        surveying.add(one)
    return surveying.survey(segment)


def _usable_id(value: Any) -> str | None:
    if not terms.is_record_id(value):
        return None
    found: str = value.upper()  # texts of ids are in the order of ids
    return found


def _said(footer: dict[str, Any] | None) -> dict[str, Any]:
    said = (footer or {}).get("footer")
    return said if isinstance(said, dict) else {}


def _compare(
    footer: dict[str, Any] | None, digests: bytes, broken: Sequence[int]
) -> tuple[str, ...]:
    """What the footer says otherwise than the lines."""
    if footer is None:
        return ("the segment has no footer: lines may be missing at its end",)
    said = _said(footer)
    count, root = said.get("records"), said.get("merkle_root")
    size = leaf.DIGEST
    lines = len(digests) // size
    # What recovery counts: lines whose checksum fits.
    gone = frozenset(broken)
    places = [place for place in range(lines) if place not in gone] if broken else []
    intact = b"".join(digests[size * place : size * (place + 1)] for place in places)
    for leaves in (digests, intact) if broken else (digests,):
        if count == len(leaves) // size and root == merkle.root(leaves, 0).hex():
            return ()
    if isinstance(count, int) and count != lines:
        return (f"the footer counts {count} lines and there are {lines}",)
    return ("the lines are not those over which the footer has its Merkle root",)
