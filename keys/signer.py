"""Make one DKIM-Signature field.  The only module that knows dkimpy.

dkimpy canonicalizes and selects the header fields; the body hash comes streamed (`body_hash`), the
private-key operation is OpenSSL's (`keyring.SigningKey`), and the tag list is ours: t= from the
clock passed in, x=, no l=, i= only where it differs from its default '@' + d=, lines of at most 78
octets, folded between tags, between names of h= and anywhere in b=, never inside a token.

Promises: a `Signature` that is returned was parsed back from the finished field, hashed again
over its folded bytes, and verified with the public half of the key.  A message whose signed fields
verifiers are known to read differently is refused, not signed.

Raises: `SignatureFailed` with a reason code; nothing else leaves this module.

Does not: choose the request, hash the body, insert the field.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import dkim
from dkim import canonicalization

from carbonseal.keys.keyring import SigningKey
from carbonseal.policies import errors
from carbonseal.policies.signing_request import SignatureRequest

FIELD_NAME: Final = "DKIM-Signature"
_LINE = 78  # RFC 5322 section 2.1.1: "SHOULD be no more than 78 characters"
_PIECE = 72  # octets of b= on a line

# NUL, bare CR and a fold without white space do not survive transport in one piece.  VT and FF do,
# but under relaxed OpenDKIM takes them for white space anywhere, dkimpy at the end of a field, and
# Mail::DKIM nowhere; all agree under simple (tests/keys/test_signer_judges.py has the table).
_BROKEN = re.compile(rb"\x00|\r(?!\n)|\n(?![ \t])")
_DISPUTED = re.compile(rb"[\x0b\x0c]|" + _BROKEN.pattern)
_TAG = re.compile(rb"\s*([a-z]+)\s*=\s*([^;]*?)\s*(?:;|\Z)")
_B_VALUE = re.compile(rb"(;\s*b=)[A-Za-z0-9+/=\s]*\Z")


class SignatureFailed(errors.CarbonsealError):
    """No signature was made; `code` is a stable word for the record, `about` the field or key."""

    def __init__(self, code: str, about: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code
        self.about = about


@dataclass(frozen=True, slots=True)
class Signature:
    """A finished, verified DKIM-Signature field."""

    field_value: str  # begins with a space, folds with LF SP, no line end at the end
    request: SignatureRequest
    body_hash_b64: str
    signed_at: int  # t=, seconds since the epoch
    expires_at: int | None  # x=


def sign(
    fields: Sequence[tuple[bytes, bytes]],
    body_digest: bytes,
    request: SignatureRequest,
    key: SigningKey,
    *,
    now: int,
) -> Signature:
    """Sign a message, given as its header fields and the digest of its canonical body.

    `fields` are (name, value) top to bottom, the value with its leading space and with LF or CRLF
    folding; `body_digest` are the 32 octets of `BodyHash(request.body_canonicalization)`; `now` is
    in seconds since the epoch.
    """
    if key.facts != request.key:
        raise SignatureFailed(
            "wrong-key",
            request.selector,
            f"the key {key!r} is not the one the request names ({request.selector}).",
        )
    plan = _plan(request)
    header_hash = hashlib.sha256(_canonical_fields(fields, plan))
    expires_at = None if request.expires_after is None else now + request.expires_after
    body_hash = base64.b64encode(body_digest).decode("ascii")
    unsigned = plan.text + _times(now, expires_at) + f" bh={body_hash};\n b="
    digest = _finish(header_hash, unsigned.encode(), plan)
    value = unsigned + _folded(base64.b64encode(_sign_digest(key, digest)).decode("ascii"))
    _verify(value, header_hash, body_hash, plan, key)
    return Signature(value, request, body_hash, now, expires_at)


@dataclass(frozen=True, slots=True)
class _Plan:
    """All that is the same for every message with one request."""

    request: SignatureRequest
    text: str  # the field up to and with the h= tag and the fold after it
    names: tuple[bytes, ...]  # the h= list
    wanted: frozenset[bytes]
    rules: canonicalization.CanonicalizationPolicy
    tags: dict[bytes, bytes]  # what the verified field must say


@lru_cache(maxsize=256)
def _plan(request: SignatureRequest) -> _Plan:
    tags = {
        "v": "1",
        "a": request.algorithm,
        "c": request.canonicalization,
        "d": request.sdid,
        "s": request.selector,
    }
    if request.auid != "@" + request.sdid:
        # RFC 6376 section 3.5: without i= the AUID is '@' and the value of d=.
        tags["i"] = _quoted_printable(request.auid)
    tokens = [f"{tag}={value};" for tag, value in tags.items()]
    names = [name + ":" for name in request.fields[:-1]] + [request.fields[-1] + ";"]
    text = _packed(
        [
            *((" ", token) for token in tokens),
            (" ", "h=" + names[0]),
            *(("", name) for name in names[1:]),
        ]
    )
    return _Plan(
        request=request,
        text=text + "\n",
        names=tuple(name.encode() for name in request.fields),
        wanted=frozenset(name.encode() for name in request.fields),
        rules=canonicalization.CanonicalizationPolicy.from_c_value(
            request.canonicalization.encode()
        ),
        tags={tag.encode(): value.encode() for tag, value in tags.items()},
    )


def _packed(tokens: Sequence[tuple[str, str]]) -> str:
    """Tokens (each with the gap before it) on lines of at most 78 octets where that is possible."""
    lines = [f"{FIELD_NAME}:"]
    for gap, token in tokens:
        if len(lines[-1]) + len(gap) + len(token) <= _LINE:
            lines[-1] += gap + token
        else:
            lines.append(" " + token)
    return "\n".join(lines)[len(FIELD_NAME) + 1 :]


def _quoted_printable(auid: str) -> str:
    """RFC 6376 section 2.11, dkim-quoted-printable: all but VCHAR without "=" and ";" as =XX."""
    return "".join(
        chr(octet) if 0x21 <= octet <= 0x7E and octet not in b"=;" else f"={octet:02X}"
        for octet in auid.encode("utf-8", "surrogateescape")
    )


def _times(now: int, expires_at: int | None) -> str:
    return f" t={now};" if expires_at is None else f" t={now}; x={expires_at};"


def _folded(text: str) -> str:
    return "\n ".join(text[at : at + _PIECE] for at in range(0, len(text), _PIECE))


def _canonical_fields(fields: Sequence[tuple[bytes, bytes]], plan: _Plan) -> bytes:
    """The signed fields in canonical form, in the order of h=, as they are hashed."""
    present = []
    for name, value in fields:
        if name.rstrip(b" \t").lower() in plan.wanted:
            _refuse_disputed(name, value, plan)
            present.append((name, value.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") + b"\r\n"))
    if not any(name.lower() == b"from" for name, _ in present):
        raise SignatureFailed("no-from", "", "the message has no From field, which must be signed.")
    chosen = dkim.select_headers(present, plan.names)
    return b"".join(b"%b:%b" % field for field in plan.rules.canonicalize_headers(chosen))


def _refuse_disputed(name: bytes, value: bytes, plan: _Plan) -> None:
    pattern = _DISPUTED if plan.request.header_canonicalization == "relaxed" else _BROKEN
    if pattern.search(value) or name[-1:] in b" \t":
        about = name.decode("ascii", "replace").strip()
        raise SignatureFailed(
            "disputed-octets",
            about,
            f"the field {about} holds control characters that verifiers read differently.",
        )


def _finish(header_hash: hashlib._Hash, field_value: bytes, plan: _Plan) -> bytes:
    """The digest with our own field (its b= empty) at the end, without CRLF: section 3.7."""
    own = (FIELD_NAME.encode(), field_value.replace(b"\n", b"\r\n") + b"\r\n")
    ((name, value),) = plan.rules.canonicalize_headers([own])
    digest = header_hash.copy()
    digest.update(b"%b:%b" % (name, value.removesuffix(b"\r\n")))
    return digest.digest()


def _sign_digest(key: SigningKey, digest: bytes) -> bytes:
    try:
        return key.sign_digest(digest)
    # OpenSSL's errors have many classes, and none of them may stop the mail.
    except Exception as error:
        raise SignatureFailed(
            "signing-failed",
            key.facts.selector,
            f"{key!r} cannot sign: {type(error).__name__}.",
        ) from None


def _verify(
    value: str, header_hash: hashlib._Hash, body_hash: str, plan: _Plan, key: SigningKey
) -> None:
    """Read the finished field as a verifier does, and verify it."""
    field = value.encode()
    tags = dict(_TAG.findall(field))
    stated = {tag: tags.get(tag) for tag in plan.tags}
    named = tuple(name.strip() for name in tags.get(b"h", b"").split(b":"))
    digest = _finish(header_hash, _B_VALUE.sub(rb"\1", field), plan)
    if (
        stated != plan.tags
        or named != plan.names
        or tags.get(b"bh") != body_hash.encode()
        or not key.verifies(digest, base64.b64decode(b"".join(tags.get(b"b", b"").split())))
    ):
        raise SignatureFailed(
            "self-check-failed",
            key.facts.selector,
            f"the signature made with {key!r} does not verify; check the key and the machine.",
        )
