"""Does a DKIM-Signature verify, with a public key that we hold?  No DNS, and no body needed.

The body counts through its hash, which the mail path has computed anyway: where the signature was
made under another canonicalization of the body, or over a part of it, only its header is judged.

Promises: one of `Outcome` for any field, never an error.

Does not: follow dkimpy or the signer in what it computes, but for `canonical_header`, which both
are compared with.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from carbonseal.keys import canonical_header
from carbonseal.keys.canonical_header import Disputed, Field, NoFrom, Selection
from carbonseal.policies import signature_facts

_B_VALUE = re.compile(rb"((?:^|;)[ \t\r\n]*b[ \t\r\n]*=)[^;]*")


class Outcome(StrEnum):
    """What became of one signature."""

    PASS = "pass"  # noqa: S105 - no password
    HEADER_PASSES = "header passes"  # the body could not be judged
    BODY_DIFFERS = "body differs"
    FAIL = "fail"
    UNREADABLE = "unreadable"
    NO_KEY = "no key"  # we do not hold its public key
    NOT_JUDGED = "not judged"  # another hash than SHA-256, or octets that verifiers dispute


def verify(
    fields: Sequence[Field],
    value: bytes,
    body_digests: Mapping[str, bytes],
    public_key: bytes | None,
    *,
    name: bytes = b"DKIM-Signature",
) -> Outcome:
    """Judge the field `name: value` over `fields` (top to bottom, values as on the wire).

    `body_digests`: SHA-256 of the body by canonicalization; `public_key`: DER
    SubjectPublicKeyInfo, None if it is not known.
    """
    text = value.decode("utf-8", "surrogateescape")
    facts = signature_facts.parse(text)
    tags = signature_facts.tags(text)
    if facts is None:
        return Outcome.UNREADABLE
    if public_key is None:
        return Outcome.NO_KEY
    if not facts.algorithm.endswith("-sha256"):
        return Outcome.NOT_JUDGED
    header_form, _, body_form = facts.canonicalization.partition("/")
    kind = facts.algorithm.partition("-")[0]
    try:
        signed = canonical_header.canonical(fields, Selection.of(facts.fields, header_form))
        signature = base64.b64decode(tags["b"], validate=True)
        body_hash = base64.b64decode(tags["bh"], validate=True)
    except Disputed:
        return Outcome.NOT_JUDGED
    except (NoFrom, binascii.Error, ValueError):
        return Outcome.UNREADABLE
    own = _own(name, value, is_relaxed=header_form == "relaxed")
    if not _is_signed(public_key, kind, hashlib.sha256(signed + own).digest(), signature):
        return Outcome.FAIL
    digest = None if facts.has_length else body_digests.get(body_form)
    if digest is None:
        return Outcome.HEADER_PASSES
    return Outcome.PASS if digest == body_hash else Outcome.BODY_DIFFERS


def _own(name: bytes, value: bytes, *, is_relaxed: bool) -> bytes:
    """The field itself with an empty b=, without its line end (RFC 6376 section 3.7)."""
    bare = _B_VALUE.sub(rb"\1", value, count=1)
    if is_relaxed:
        return name.lower() + b":" + canonical_header.relaxed(bare)
    return name + b":" + canonical_header.crlf(bare)


def _is_signed(public_key: bytes, kind: str, digest: bytes, signature: bytes) -> bool:
    try:
        key = serialization.load_der_public_key(public_key)
        if isinstance(key, rsa.RSAPublicKey) and kind == "rsa":
            key.verify(signature, digest, padding.PKCS1v15(), Prehashed(hashes.SHA256()))
        elif isinstance(key, ed25519.Ed25519PublicKey) and kind == "ed25519":
            key.verify(signature, digest)
        else:
            return False
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        return False
    return True
