"""The TXT record that publishes a key: build it, show it as zone text, read one strictly.

Promises: what `value` builds, `parse` reads back to the same public key.  `zone_text` can be pasted
into a zone file: strings of at most 255 octets, each quoted (an unquoted value would be cut at its
first semicolon).

Form of p=: RSA as base64 of the DER SubjectPublicKeyInfo, as everybody publishes and reads it
(RFC 6376 section 3.6.1 says RSAPublicKey; `parse` takes both); Ed25519 as base64 of the raw 32
octets (RFC 8463 section 4).

Raises: `errors.DataError` from `parse`, naming the tag, and from `value`.

Does not: ask DNS.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from carbonseal.keys import key_record
from carbonseal.policies import errors

STRING: Final = 255  # octets of one character-string, RFC 1035 section 3.3
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")
_WHITE_SPACE = re.compile(r"[ \t\r\n]+")
_MAX_RECORD = 8192


@dataclass(frozen=True, slots=True)
class DnsKeyRecord:
    """A published key record, RFC 6376 section 3.6.1."""

    key_type: str  # k=: 'rsa' or 'ed25519', or one we do not know
    public_key: bytes  # DER SubjectPublicKeyInfo; b'' when p= is empty: revoked
    bits: int  # 0 when revoked
    hashes: tuple[str, ...] = ()  # h=; empty means all
    flags: tuple[str, ...] = ()  # t=: 'y' testing, 's' no subdomains in i=
    services: tuple[str, ...] = ()  # s=; empty means '*'
    notes: str = ""  # n=

    @property
    def is_revoked(self) -> bool:
        """RFC 6376: "An empty value means that this public key has been revoked"."""
        return not self.public_key

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the SubjectPublicKeyInfo, hexadecimal; compare with the key record's."""
        return key_record.fingerprint_of(self.public_key)


def value(public_key: bytes) -> str:
    """The TXT value for a DER SubjectPublicKeyInfo; `errors.DataError` if no DKIM key is in it."""
    try:
        key = serialization.load_der_public_key(public_key)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if isinstance(key, ed25519.Ed25519PublicKey):
        raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        return f"v=DKIM1; k=ed25519; h=sha256; p={_base64(raw)}"
    if not isinstance(key, rsa.RSAPublicKey):
        raise errors.DataError(
            "the key's record holds no RSA or Ed25519 public key; restore it from a backup."
        )
    return f"v=DKIM1; k=rsa; h=sha256; p={_base64(public_key)}"


def revocation(public_key: bytes) -> str:
    """The TXT value that revokes a key: as `value`, with an empty p= (RFC 6376 section 3.6.1)."""
    return value(public_key).partition("p=")[0] + "p="


def strings(text: str) -> tuple[str, ...]:
    """A TXT value as the character-strings it is published in."""
    return tuple(text[at : at + STRING] for at in range(0, len(text), STRING)) or ("",)


def zone_text(name: str, text: str, ttl: int | None = None) -> str:
    """The record as lines of a zone file; `name` is absolute, without the last dot."""
    quoted = ['"' + part.replace("\\", "\\\\").replace('"', '\\"') + '"' for part in strings(text)]
    head = f"{name}. {f'{ttl} ' if ttl is not None else ''}IN TXT"
    if len(quoted) == 1:
        return f"{head} {quoted[0]}"
    return "\n".join([f"{head} (", *(f"    {part}" for part in quoted), "    )"])


def parse(text: str) -> DnsKeyRecord:
    """Read a TXT value (its strings joined without anything between)."""
    if len(text) > _MAX_RECORD:
        raise errors.DataError(f"the record has {len(text)} octets; no key record is so long.")
    if '"' in text or "\\" in text:
        raise errors.DataError(
            "the record holds quotation marks or backslashes: it was quoted twice; publish the"
            " bare value."
        )
    tags = _tags(text)
    key_type = tags.get("k", "rsa")
    public_key, bits = _public_key(key_type, tags["p"])
    return DnsKeyRecord(
        key_type=key_type,
        public_key=public_key,
        bits=bits,
        hashes=_list(tags.get("h", "")),
        flags=_list(tags.get("t", "")),
        services=_list(tags.get("s", "")),
        notes=tags.get("n", ""),
    )


def _tags(text: str) -> dict[str, str]:
    """RFC 6376 section 3.2: duplicates make the list invalid, unknown tags are kept."""
    tags: dict[str, str] = {}
    for position, part in enumerate(_parts(text)):
        name, equals, content = part.partition("=")
        name = name.strip(" \t\r\n")
        if not equals or not _NAME.match(name):
            raise errors.DataError(f"{part.strip()[:40]!r} in the record is no tag=value.")
        if name in tags:
            raise errors.DataError(f"the record has the tag {name}= twice; leave one.")
        if name == "v" and position:
            raise errors.DataError("v= must come first in the record; put v=DKIM1 there.")
        tags[name] = content.strip(" \t\r\n")
    if tags.get("v", "DKIM1") != "DKIM1":
        raise errors.DataError(f"the record says v={tags['v'][:20]}, not v=DKIM1.")
    if "p" not in tags:
        raise errors.DataError("the record has no p= tag, so no key; publish the whole value.")
    return tags


def _parts(text: str) -> list[str]:
    parts = text.split(";")
    if not parts[-1].strip():
        parts.pop()
    return parts


def _public_key(key_type: str, text: str) -> tuple[bytes, int]:
    """SubjectPublicKeyInfo and size of what p= holds."""
    octets = _octets(text)
    if not octets:
        return b"", 0
    if key_type == "ed25519":
        if len(octets) != 32:
            raise errors.DataError(
                f"p= holds {len(octets)} octets; an Ed25519 key is published as its raw 32 octets."
            )
        return _spki(ed25519.Ed25519PublicKey.from_public_bytes(octets)), 256
    if key_type != "rsa":
        raise errors.DataError(f"k={key_type[:20]} is no key type we know; use rsa or ed25519.")
    try:
        key = serialization.load_der_public_key(octets)
    except (ValueError, UnsupportedAlgorithm):
        raise errors.DataError(
            "p= is no RSA public key, perhaps cut short; publish the whole value."
        ) from None
    if not isinstance(key, rsa.RSAPublicKey):
        raise errors.DataError("p= holds a key that is not RSA, but k= says rsa.")
    return _spki(key), key.key_size


def _octets(text: str) -> bytes:
    bare = _WHITE_SPACE.sub("", text).rstrip("=")
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise errors.DataError(
            "p= is not base64, perhaps cut short or broken by a copy; publish the whole value."
        ) from None


def _spki(key: rsa.RSAPublicKey | ed25519.Ed25519PublicKey) -> bytes:
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _list(text: str) -> tuple[str, ...]:
    return tuple(item.strip(" \t\r\n") for item in text.split(":") if item.strip(" \t\r\n"))


def _base64(octets: bytes) -> str:
    return base64.b64encode(octets).decode("ascii")
