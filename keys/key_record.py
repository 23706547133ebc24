"""The file about one key: what it is, how it came, and how far it is in its life.

Promises: `to_json` and `from_json` are inverse; a record that exists is consistent (A-label SDID,
known algorithm and stage, fingerprint of the public key it carries).  The private key is never
in it: the record may be read by everybody who may read the key directory's names.

Raises: `errors.DataError` from `from_json`, with what is wrong.

See also: `store`, which keeps the files; the life cycle with DNS adds stages later, with a new
version number.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from carbonseal.policies import errors, signing_request
from carbonseal.policies.signing_request import KeyFacts

VERSION = 1


class Stage(StrEnum):
    """How far a key is in its life."""

    GENERATED = "generated"  # on disk, signs nothing
    ACTIVE = "active"  # signs
    RETIRED = "retired"  # signs no more; its DNS record must stay for mail in flight


class Origin(StrEnum):
    """How a key came here."""

    GENERATED = "generated"
    IMPORTED = "imported"


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One thing that happened to a key."""

    at: datetime  # aware, UTC
    what: str  # a stage or a command
    why: str  # the person's or the program's reason


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """All that is known about one key, but for its private half."""

    sdid: str  # A-label
    selector: str
    algorithm: str  # signing_request.RSA or .ED25519
    bits: int  # of the modulus; 256 for Ed25519
    public_key: bytes  # DER SubjectPublicKeyInfo
    stage: Stage
    origin: Origin
    created_at: datetime  # aware, UTC
    activated_at: datetime | None = None
    assumed_published: bool = False  # a person said so; DNS was not asked
    history: tuple[HistoryEntry, ...] = ()

    @property
    def facts(self) -> KeyFacts:
        """Name and algorithm, for the policies."""
        return KeyFacts(self.sdid, self.selector, self.algorithm)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the SubjectPublicKeyInfo, hexadecimal."""
        return fingerprint_of(self.public_key)

    @property
    def dns_name(self) -> str:
        """Where the public key is published (RFC 6376 section 3.6.2.1)."""
        return f"{self.selector}._domainkey.{self.sdid}"

    def moved(self, stage: Stage, *, at: datetime, why: str) -> KeyRecord:
        """The record after a change of stage; `activated_at` follows."""
        entry = HistoryEntry(at, stage.value, why)
        activated_at = at if stage is Stage.ACTIVE else self.activated_at
        return dataclasses.replace(
            self, stage=stage, activated_at=activated_at, history=(*self.history, entry)
        )


def fingerprint_of(public_key: bytes) -> str:
    """SHA-256 of a DER SubjectPublicKeyInfo, hexadecimal."""
    return hashlib.sha256(public_key).hexdigest()


def to_json(record: KeyRecord) -> bytes:
    """The record as the content of its file."""
    about = {
        "v": VERSION,
        "sdid": record.sdid,
        "selector": record.selector,
        "algorithm": record.algorithm,
        "bits": record.bits,
        "fingerprint": record.fingerprint,
        "public_key": base64.b64encode(record.public_key).decode("ascii"),
        "stage": record.stage.value,
        "origin": record.origin.value,
        "created_at": _text(record.created_at),
        "activated_at": _text(record.activated_at) if record.activated_at else None,
        "assumed_published": record.assumed_published,
        "history": [
            {"at": _text(entry.at), "what": entry.what, "why": entry.why}
            for entry in record.history
        ],
    }
    return (json.dumps(about, indent=1, ensure_ascii=True) + "\n").encode("ascii")


def from_json(content: bytes) -> KeyRecord:
    """The record in a file's content."""
    try:
        about = json.loads(content)
        if about["v"] != VERSION:
            raise errors.DataError(
                f"it has version {about['v']!r} and this Carbonseal reads version {VERSION};"
                " upgrade Carbonseal"
            )
        record = _record(about)
        stated = about["fingerprint"]
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise errors.DataError(
            f"it is no key record ({type(error).__name__}: {error}); restore it from a backup"
        ) from None
    if record.fingerprint != stated:
        raise errors.DataError(
            "its public key and its fingerprint do not belong together; restore it from a backup"
        )
    return record


def _record(about: dict[str, Any]) -> KeyRecord:
    activated_at = about["activated_at"]
    return KeyRecord(
        sdid=signing_request.check_sdid(about["sdid"]),
        selector=signing_request.check_selector(about["selector"], about["sdid"]),
        algorithm=signing_request.check_algorithm(about["algorithm"]),
        bits=int(about["bits"]),
        public_key=_octets(about["public_key"]),
        stage=Stage(about["stage"]),
        origin=Origin(about["origin"]),
        created_at=_time(about["created_at"]),
        activated_at=None if activated_at is None else _time(activated_at),
        assumed_published=about["assumed_published"] is True,
        history=tuple(
            HistoryEntry(_time(entry["at"]), str(entry["what"]), str(entry["why"]))
            for entry in about["history"]
        ),
    )


def _octets(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"public_key: {error}") from None


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _time(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    if moment.year == datetime.max.year:  # the next activation must come after it
        raise ValueError(f"{text!r} is no time of our era")
    return moment.astimezone(UTC)
