"""What the TXT records at a key's name are: the key, or which fault.

Promises: `judge` never fails, whatever a stranger published; SHOWN means that a verifier who
follows RFC 6376, RFC 8301 and RFC 8463 accepts mail signed with the key.  A key that would be the
right one but for a tag (t=y, h=, s=) or its size is OTHER with that fault.

Does not: ask DNS.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import re
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from carbonseal.keys import dns_record, key_record
from carbonseal.policies import errors
from carbonseal.policies.key_life import ServerState

Texts = tuple[tuple[bytes, ...], ...]  # the character-strings of each TXT record

MIN_BITS: Final = 1024  # RFC 8301 section 3.2: verifiers MUST NOT accept less
GOOD_BITS: Final = 2048  # the same: signers SHOULD use at least this
MAX_BITS: Final = 4096  # the same: verifiers need not take more
_MAX_PARTS: Final = 4  # TXT records that may be pieces of one
_MAX_TEXT: Final = 8192  # characters; what is longer is no key record
_WHITE_SPACE = re.compile(r"[ \t\r\n]+")
_KEY = re.compile(r"(?:^|;)\s*p\s*=([^;]*)")
_TYPE = re.compile(r"(?:^|;)\s*k\s*=\s*([^\s;]*)\s*(?:;|$)")
_BEGUN = re.compile(r"\s*(?:v\s*=\s*DKIM1|k\s*=\s*(?:rsa|ed25519)|h\s*=\s*sha)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What stands at a name."""

    state: ServerState
    fault: str = ""  # a code of `faults`
    about: str = ""  # what the fault is about
    note: str = ""  # a code of `faults` that is no fault
    bits: int = 0


def joined(strings: tuple[bytes, ...]) -> str:
    """The value of a TXT record."""
    return b"".join(strings).decode("utf-8", "surrogateescape")


def judge(texts: Texts, public_key: bytes | None, expected_text: str = "") -> Judgement:
    """All TXT records at the name, with the DER SPKI that should be there, or None for any."""
    if not texts:
        return Judgement(ServerState.ABSENT, "missing")
    if len(texts) > 1:
        return _several(texts, public_key)
    value = joined(texts[0])
    try:
        record = dns_record.parse(value)
    except errors.DataError as error:
        expected = expected_text or _value(public_key)
        return _unreadable(value, error.sentence, public_key, expected)
    return _readable(record, public_key)


def _several(texts: Texts, public_key: bytes | None) -> Judgement:
    """More than one record: perhaps a long value of which each string became a record."""
    if len(texts) <= _MAX_PARTS:
        for order in itertools.permutations(texts):
            if _is_key(joined(tuple(itertools.chain(*order))), public_key):
                about = f"each of its {len(texts)} strings is a record of its own"
                return Judgement(ServerState.OTHER, "split", about)
    return Judgement(ServerState.OTHER, "two-records", str(len(texts)))


def _readable(record: dns_record.DnsKeyRecord, public_key: bytes | None) -> Judgement:
    if record.is_revoked:
        return Judgement(ServerState.REVOKED, "revoked")
    fault, about = _fault(record, public_key)
    if fault:
        return Judgement(ServerState.OTHER, fault, about, bits=record.bits)
    return Judgement(ServerState.SHOWN, note=_note(record), bits=record.bits)


def _fault(record: dns_record.DnsKeyRecord, public_key: bytes | None) -> tuple[str, str]:
    if public_key is not None and record.public_key != public_key:
        found = record.fingerprint[:16]
        return (
            "mismatch",
            f"SHA-256 {found}..., not {key_record.fingerprint_of(public_key)[:16]}...",
        )
    if record.key_type == "rsa" and record.bits < MIN_BITS:
        return "weak-key", str(record.bits)
    if record.hashes and "sha256" not in record.hashes:
        return "no-sha256", ":".join(record.hashes)
    if record.services and not {"*", "email"} & set(record.services):
        return "not-for-mail", ":".join(record.services)
    if "y" in record.flags:
        return "testing", ""
    return "", ""


def _note(record: dns_record.DnsKeyRecord) -> str:
    if record.key_type != "rsa":
        return ""
    if record.bits < GOOD_BITS:
        return "short-key"
    return "long-key" if record.bits > MAX_BITS else ""


# --- what happened to a value that cannot be read


def _unreadable(
    value: str, complaint: str, public_key: bytes | None, expected_text: str
) -> Judgement:
    if len(value) > _MAX_TEXT:
        return Judgement(ServerState.OTHER, "not-a-key", f"it has {len(value)} octets")
    fault, about = (
        _quoted(value)
        or _cut_before_key(value)
        or _divided(value, public_key)
        or _wrong_type(value)
        or _cut_in_key(value, expected_text)
        or ("damaged", complaint)
    )
    return Judgement(ServerState.OTHER, fault, about)


def _quoted(value: str) -> tuple[str, str] | None:
    return ("quoted", "") if '"' in value or "\\" in value else None


def _cut_before_key(value: str) -> tuple[str, str] | None:
    """No p= at all: a key record of which the first part is left, or something else."""
    if _KEY.search(value):
        return None
    if _BEGUN.match(value):
        end = "before p="
        if ";" not in value:
            end = "at the first semicolon, as unquoted text in a zone file is"
        return "truncated", f"{len(value)} octets, {end}"
    return "not-a-key", f"it begins with {value[:20]!r}" if value.strip() else "it is empty"


def _wrong_type(value: str) -> tuple[str, str] | None:
    """A whole key, but in a form that does not go with k=."""
    octets = _octets(value)
    if octets is None:
        return None
    try:
        key = serialization.load_der_public_key(octets)
    except (ValueError, UnsupportedAlgorithm):
        if len(octets) == 32 and not _is_ed25519(value):
            return "wrong-type", "p= has the size of an Ed25519 key, but k= does not say so"
        return None
    if isinstance(key, ed25519.Ed25519PublicKey):
        return "wrong-ed25519", ""
    said = _TYPE.search(value)
    if said is None or said.group(1) == "rsa":
        return None
    return "wrong-type", f"k={said.group(1)} and another key"


def _divided(value: str, public_key: bytes | None) -> tuple[str, str] | None:
    """White space where it hurts, as from strings that were joined by spaces or tabs."""
    bare = _WHITE_SPACE.sub("", value)
    if bare != value and _is_key(bare, public_key):
        return "split", "spaces or tabs stand where they hurt"
    return None


def _cut_in_key(value: str, expected_text: str) -> tuple[str, str] | None:
    """A key of which the end is missing."""
    have, want = (_WHITE_SPACE.sub("", text).rstrip("=") for text in (_p(value), _p(expected_text)))
    length = f"{len(value)} octets"
    if len(value) == dns_record.STRING:
        length += ", one string of a TXT record"
    if want and have:
        # What is not its beginning lost something in the middle.
        is_cut = len(have) < len(want) and want.startswith(have)
        return ("truncated", f"{length} of {len(expected_text)}") if is_cut else None
    octets = _octets(value, cut=True)
    if octets is not None and not _is_ed25519(value):
        return ("truncated", length) if _is_beginning(octets) else None
    if octets is not None and 0 < len(octets) < 32:
        return "truncated", length
    return None


def _is_beginning(der: bytes) -> bool:
    """Whether octets begin as a DER SEQUENCE that says it is longer."""
    if len(der) < 4 or der[0] != 0x30:
        return False
    if der[1] == 0x82:
        return len(der) < 4 + int.from_bytes(der[2:4], "big")
    if der[1] == 0x81:
        return len(der) < 3 + der[2]
    return der[1] < 0x80 and len(der) < 2 + der[1]


def _is_key(value: str, public_key: bytes | None) -> bool:
    try:
        record = dns_record.parse(value)
    except errors.DataError:
        return False
    if public_key is None:
        return not record.is_revoked
    return record.public_key == public_key


def _value(public_key: bytes | None) -> str:
    """What should stand there; '' if nobody knows."""
    try:
        return dns_record.value(public_key) if public_key is not None else ""
    except errors.DataError:
        return ""


def _p(value: str) -> str:
    found = _KEY.search(value)
    return found.group(1) if found else ""


def _is_ed25519(value: str) -> bool:
    said = _TYPE.search(value)
    return said is not None and said.group(1) == "ed25519"


def _octets(value: str, *, cut: bool = False) -> bytes | None:
    """What p= holds; with `cut`, as far as it can be read."""
    bare = _WHITE_SPACE.sub("", _p(value)).rstrip("=")
    if cut:
        bare = bare[: len(bare) // 4 * 4]
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
