"""The relay's own copy of its sealed segments: `chain.jsonl` in the evidence directory.

Promises: an entry is on disk here before SQL hears of it; a segment gets one entry, however often
it is sealed again (a crash, a database filled anew from loaded/).  One line holds one entry:
`{"entry":ENTRY,"signature":"BASE64"}`, ENTRY being the very text that was signed.  A torn last
line, which a crash can leave and SQL has never seen, is cut; anything else that is wrong is left as
it is and refused.

Safe direction: whoever restores an old database finds here what it lacks, and `verify` says so.

Raises: `ChainUnusable` (a sentence), OSError.

Does not: know SQL.  One process at a time appends: the writer, which holds the spool's lock.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from carbonseal.keys import durable, evidence_key
from carbonseal.keys.evidence_key import EvidenceKey
from carbonseal.milter.archive import terms
from carbonseal.milter.archive.evidence import seal
from carbonseal.milter.archive.evidence.seal import BadEntry, Facts, Sealed, Survey
from carbonseal.policies.errors import TryLater

FILE = "chain.jsonl"
_START, _MIDDLE, _END = b'{"entry":', b',"signature":"', b'"}'
_SIGNATURE = 88  # characters of base64
_RECENT = 4 * 1024 * 1024  # octets at the end that are remembered: some 6,000 entries
_MOST_RECENT = 8_000
_LONGEST = 64 * 1024  # octets of one line


class ChainUnusable(TryLater):
    """The chain cannot be continued as it is."""


def to_line(sealed: Sealed) -> bytes:
    """One line of chain.jsonl, and of a bundle's seals."""
    signature = base64.b64encode(sealed.signature)
    return _START + sealed.entry.encode("ascii") + _MIDDLE + signature + _END + b"\n"


def from_line(line: bytes) -> Sealed:
    """What `to_line` made a line of.  Raises: BadEntry."""
    body = line.rstrip(b"\n")
    tail = len(_MIDDLE) + _SIGNATURE + len(_END)
    entry, rest = body[len(_START) : -tail], body[-tail:]
    if not (body.startswith(_START) and rest.startswith(_MIDDLE) and rest.endswith(_END)):
        raise BadEntry("the line is no entry with a signature")
    try:
        signature = base64.b64decode(rest[len(_MIDDLE) : -len(_END)], validate=True)
        return Sealed(entry.decode("ascii"), signature)
    except ValueError:
        raise BadEntry("the line is no entry with a signature") from None


def entries(directory: Path) -> Iterator[tuple[int, Sealed | BadEntry]]:
    """Every line of a chain file with its number from 1; a torn last line is passed over.

    Raises: OSError (FileNotFoundError where there is no chain).
    """
    with (directory / FILE).open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield number, from_line(line)
            except BadEntry as fault:
                yield number, fault


class Chain:
    """The chain of one relay, open for continuation."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE
        _make_directory(directory)
        self.head: Sealed | None = None
        self._head_facts: Facts | None = None
        self._recent: dict[str, Sealed] = {}  # by segment
        self._reaches_back_to = ""  # when the oldest of them was sealed; "": to the beginning
        self._places: dict[int, int] | None = None  # where each entry begins, by its segment
        self._read_tail()
        self._key = self._own_key(directory)

    @property
    def name(self) -> str | None:
        """The relay's name in its entries; None before the first."""
        return None if self._head_facts is None else self._head_facts.relay

    @property
    def number(self) -> int:
        """Of the last entry; 0 before the first."""
        return 0 if self._head_facts is None else self._head_facts.number

    @property
    def key(self) -> EvidenceKey:
        """What signs."""
        return self._key

    def find(self, segment: str) -> Sealed | None:
        """The entry of a segment that was sealed before."""
        found = self._recent.get(segment)
        if found is not None or not self._reaches_back_to:
            return found
        begun = _begun_at(segment)
        if begun is not None and begun > self._reaches_back_to:
            return None  # it was not there yet when the entries before these were made
        return self._find_long_ago(segment)

    def append(
        self,
        survey: Survey,
        *,
        relay: str,
        aside: int,
        audit: tuple[int, bytes],
        sealed_at: str,
    ) -> Sealed:
        """Seal a segment that `find` does not know; returns when its entry is on disk.

        `relay` is the chain's name if this is its first entry; `aside`: lines that were set aside.
        """
        last = self._head_facts
        facts = Facts(
            relay=relay if last is None else last.relay,
            number=1 if last is None else last.number + 1,
            segment=survey.segment,
            lines=survey.lines,
            first=1 if last is None else last.first + last.lines,
            first_record_id=survey.first_record_id,
            last_record_id=survey.last_record_id,
            aside=aside,
            root=survey.root,
            previous=seal.BEGINNING if self.head is None else self.head.digest,
            audit_number=audit[0],
            audit_digest=audit[1],
            sealed_at=sealed_at,
            key=self._key.public,
            findings=survey.findings,
        )
        entry = facts.text()
        sealed = Sealed(entry, self._key.sign(entry.encode("ascii")))
        self._write(to_line(sealed))
        self._remember(sealed, facts)
        return sealed

    def adopt(self, sealed: Sealed) -> None:
        """Take back the next entry, which this chain had and lost.  Raises: ChainUnusable."""
        previous = seal.BEGINNING if self.head is None else self.head.digest
        try:
            facts = sealed.facts
            is_ours = evidence_key.verify(
                self._key.public, sealed.signature, sealed.entry.encode("ascii")
            )
        except (BadEntry, UnicodeEncodeError):
            facts, is_ours = None, False
        if facts is None or not is_ours:
            raise ChainUnusable(
                f"{self._path}: the archive has entries beyond the end of this chain that its key "
                "has not signed; run carbonseal archive verify"
            )
        if facts.previous != previous or facts.number != self.number + 1:
            raise ChainUnusable(
                f"{self._path}: the archive has entry {facts.number} and it does not follow from "
                f"entry {self.number} here; restore the newest copy of the file"
            )
        self._write(to_line(sealed))
        self._remember(sealed, facts)

    def _write(self, line: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        handle = os.open(self._path, flags, 0o600)
        try:
            size = os.fstat(handle).st_size
            try:
                if os.write(handle, line) != len(line):
                    raise OSError(28, "the entry could not be written as a whole")
                os.fdatasync(handle)
            except OSError:
                os.ftruncate(handle, size)  # nobody has heard of it
                raise
            if size == 0:
                durable.sync_directory(self._path.parent)
        finally:
            os.close(handle)

    def _remember(self, sealed: Sealed, facts: Facts) -> None:
        self.head, self._head_facts = sealed, facts
        self._recent[facts.segment] = sealed
        if len(self._recent) > _MOST_RECENT:
            for segment in list(self._recent)[: _MOST_RECENT // 2]:
                del self._recent[segment]
            self._reaches_back_to = next(iter(self._recent.values())).facts.sealed_at
            self._places = None  # it lacks those

    def _read_tail(self) -> None:
        try:
            handle = os.open(self._path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return
        with os.fdopen(handle, "r+b") as stream:
            size = stream.seek(0, os.SEEK_END)
            start = max(0, size - _RECENT)
            stream.seek(start)
            tail = stream.read()
            whole = tail.rfind(b"\n") + 1
            if whole != len(tail):
                # A crash while it was written: SQL comes after, so nobody has seen it.
                stream.truncate(start + whole)
                os.fsync(stream.fileno())
        lines = tail[:whole].splitlines(keepends=True)
        for line in lines[1:] if start else lines:
            sealed = self._sound(line)
            facts = sealed.facts
            if start and not self._recent:
                self._reaches_back_to = facts.sealed_at
            self._remember(sealed, facts)

    def _sound(self, line: bytes) -> Sealed:
        try:
            sealed = from_line(line)
            _ = sealed.facts
        except BadEntry as fault:
            raise ChainUnusable(
                f"{self._path}: a line of the chain is damaged ({fault}); restore the file from a "
                "backup, or move the directory away to begin a new chain"
            ) from None
        return sealed

    def _own_key(self, directory: Path) -> EvidenceKey:
        key = evidence_key.load(directory)
        if key is None:
            if self.head is not None:
                raise ChainUnusable(
                    f"{directory / evidence_key.PRIVATE}: the key that signed this chain is "
                    "missing; restore it, or move the directory away to begin a new chain"
                )
            key = evidence_key.make(directory)
        if self._head_facts is not None and self._head_facts.key != key.public:
            raise ChainUnusable(
                f"{directory / evidence_key.PRIVATE}: this is not the key that signed the chain; "
                "restore it, or move the directory away to begin a new chain"
            )
        evidence_key.publish(directory, key)
        return key

    def _find_long_ago(self, segment: str) -> Sealed | None:
        if self._places is None:
            self._places = self._reckon_places()
        place = self._places.get(terms.term(segment))
        if place is None:
            return None
        with self._path.open("rb") as stream:
            stream.seek(place)
            return self._sound(stream.readline(_LONGEST))

    def _reckon_places(self) -> dict[int, int]:
        """Costs some hundred octets for each entry; needed when a database is filled anew."""
        places, place = {}, 0
        with self._path.open("rb") as stream:
            for line in stream:
                places[terms.term(self._sound(line).facts.segment)] = place
                place += len(line)
        return places


def _begun_at(segment: str) -> str | None:
    """When a segment was opened, as its name says; None where it does not."""
    try:
        packed = terms.pack_record_id(segment[: terms.RECORD_ID_LENGTH])
        moment = datetime.fromtimestamp(int.from_bytes(packed[:6], "big") / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return moment.isoformat(timespec="microseconds")[:26] + "Z"


def _make_directory(directory: Path) -> None:
    try:
        durable.make_directory(directory, durable.Access(mode=0o700))
    except FileExistsError:
        pass
    except OSError as fault:
        raise ChainUnusable(
            f"{directory}: cannot create the directory for the evidence ({fault.strerror}); check "
            "record.evidence and its permissions"
        ) from None
