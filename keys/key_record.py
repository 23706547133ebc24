"""The file about one key: what it is, how it came, and how far it is in its life.

Promises: `to_json` and `from_json` are inverse; a record that exists is consistent (A-label SDID,
known algorithm and stage, fingerprint of the public key it carries).  The private key is never
in it: the record may be read by everybody who may read the key directory's names.

Raises: `errors.DataError` from `from_json`, with what is wrong.

See also: `store`, which keeps the files, and `policies.key_life`, which names the stages.  Files of
version 1, which knew no DNS, are read as well; what is written is version 2.
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
from carbonseal.policies.key_life import Goal, KeyLife, Stage
from carbonseal.policies.signing_request import KeyFacts

VERSION = 2
_RETIRED_IN_VERSION_1 = "retired"
_TIMES = (
    "activated_at",
    "activate_from",
    "published_at",
    "stopped_at",
    "revoked_at",
    "sent_at",
    "compromised_at",
    "cancelled_at",
)


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
class Publication:
    """The TXT record of a key, as far as we know what stands there by our doing."""

    name: str = ""  # where it stands; '' as long as nothing was published
    text: str = ""  # the value that we expect there
    is_ours: bool = False  # Carbonseal made it, or was told to take it over: it may be changed


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord(KeyLife):
    """All that is known about one key, but for its private half."""

    bits: int  # of the modulus; 256 for Ed25519
    public_key: bytes  # DER SubjectPublicKeyInfo
    origin: Origin
    created_at: datetime  # aware, UTC
    publication: Publication = Publication()
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
        """The record after a change of stage; what follows from the stage follows."""
        fresh = dataclasses.replace(self.noted(stage.value, at=at, why=why), stage=stage, since=at)
        if stage is Stage.ACTIVE:
            return dataclasses.replace(
                fresh, activated_at=at, activate_from=None, stopped_at=None, goal=Goal.ACTIVE
            )
        if stage is Stage.RETIRING:
            return dataclasses.replace(fresh, goal=Goal.REMOVED, stopped_at=None, refused="")
        return fresh

    def noted(self, what: str, *, at: datetime, why: str) -> KeyRecord:
        """The record with one more line of history."""
        return dataclasses.replace(self, history=(*self.history, HistoryEntry(at, what, why)))


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
        "goal": record.goal.value,
        "since": _text(record.since),
        "origin": record.origin.value,
        "created_at": _text(record.created_at),
        **{name: _text_or_none(getattr(record, name)) for name in _TIMES},
        "cache_ttl": record.cache_ttl,
        "assumed_published": record.assumed_published,
        "held": record.held,
        "refused": record.refused,
        "publication": dataclasses.asdict(record.publication),
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
        if about["v"] == 1:
            about = _upgraded(about)
        if about["v"] != VERSION:
            raise errors.DataError(
                f"it has version {about['v']!r} and this Carbonseal reads versions up to"
                f" {VERSION};"
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


def _upgraded(about: dict[str, Any]) -> dict[str, Any]:
    """The content of version 1, which had three stages and asked no DNS, as version 2."""
    stage = about["stage"]
    history = about["history"]
    return {
        **dict.fromkeys(_TIMES),
        **about,
        "v": VERSION,
        "stage": "retiring" if stage == _RETIRED_IN_VERSION_1 else stage,
        "goal": {"active": "active", _RETIRED_IN_VERSION_1: "removed"}.get(stage, "kept"),
        "since": history[-1]["at"] if history else about["created_at"],
        "held": "",
        "refused": "",
        "publication": {},
    }


def _record(about: dict[str, Any]) -> KeyRecord:
    times = {name: None if about[name] is None else _time(about[name]) for name in _TIMES}
    return KeyRecord(
        sdid=signing_request.check_sdid(about["sdid"]),
        selector=signing_request.check_selector(about["selector"], about["sdid"]),
        algorithm=signing_request.check_algorithm(about["algorithm"]),
        bits=int(about["bits"]),
        public_key=_octets(about["public_key"]),
        stage=Stage(about["stage"]),
        goal=Goal(about["goal"]),
        since=_time(about["since"]),
        origin=Origin(about["origin"]),
        created_at=_time(about["created_at"]),
        **times,
        cache_ttl=int(about.get("cache_ttl", 0)),
        assumed_published=about["assumed_published"] is True,
        held=str(about["held"]),
        refused=str(about["refused"]),
        publication=_publication(about["publication"]),
        history=tuple(
            HistoryEntry(_time(entry["at"]), str(entry["what"]), str(entry["why"]))
            for entry in about["history"]
        ),
    )


def _publication(about: dict[str, Any]) -> Publication:
    return Publication(
        str(about.get("name", "")), str(about.get("text", "")), about.get("is_ours") is True
    )


def _octets(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"public_key: {error}") from None


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _text_or_none(moment: datetime | None) -> str | None:
    return None if moment is None else _text(moment)


def _time(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    if moment.year == datetime.max.year:  # the next activation must come after it
        raise ValueError(f"{text!r} is no time of our era")
    return moment.astimezone(UTC)
