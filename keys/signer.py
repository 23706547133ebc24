"""Make one DKIM-Signature field.

The body hash comes streamed (`body_hash`), the signed header fields from `canonical_header`, the
private-key operation is OpenSSL's (`held_key`), and the tag list is ours: t= from the
clock passed in, x=, no l=, i= only where it differs from its default '@' + d=, lines of at most 78
octets, folded between tags, between names of h= and anywhere in b=, never inside a token.

Promises: a `Signature` that is returned was taken from the finished field, hashed again over its
folded bytes, and verified with the public half of the key.  For the first message with a request,
all tags are parsed back too, and dkimpy canonicalizes the header section as well: both must agree.
A message whose signed fields verifiers are known to read differently is refused, not signed.

Raises: `SignatureFailed` with a reason code; nothing else leaves this module.

Does not: choose the request, hash the body, insert the field.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Final, NamedTuple

from carbonseal.keys import canonical_header
from carbonseal.keys.canonical_header import Disputed, Given, NoFrom, Selection
from carbonseal.keys.keyring import SigningKey
from carbonseal.policies import errors
from carbonseal.policies.signing_request import KeyFacts, SignatureRequest

FIELD_NAME: Final = "DKIM-Signature"
_LINE = 78  # RFC 5322 section 2.1.1: "SHOULD be no more than 78 characters"
_PIECE = 72  # octets of b= on a line
_B_TAG: Final = ";\n b="
_B_TAG_OCTETS: Final = _B_TAG.encode()
_EMPTY = sha256()  # to be copied: OpenSSL looks its algorithm up for each that is made anew


class SignatureFailed(errors.CarbonsealError):
    """No signature was made; `code` is a stable word for the record, `about` the field or key."""

    def __init__(self, code: str, about: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code
        self.about = about


# A tuple: each message makes a new one, and a frozen dataclass takes twice as long.
class Signature(NamedTuple):
    """A finished, verified DKIM-Signature field."""

    field_value: str  # begins with a space, folds with LF SP, no line end at the end
    request: SignatureRequest
    body_hash_b64: str
    signed_at: int  # t=, seconds since the epoch
    expires_at: int | None  # x=


def sign(
    fields: Sequence[Given],
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
    _, plan = _plans.get(id(request)) or _planned(request)
    if key.facts is not plan.key and key.facts != plan.key:
        raise SignatureFailed(
            "wrong-key",
            request.selector,
            f"the key {key!r} is not the one the request names ({request.selector}).",
        )
    try:
        signed = canonical_header.canonical(fields, plan.selection)
    except (Disputed, NoFrom) as fault:
        raise _unsignable(fault) from None
    body_hash = _base64(body_digest)
    expires_at = None
    tail = f" t={now}; bh={body_hash}{_B_TAG}"
    if request.expires_after is not None:
        expires_at = now + request.expires_after
        tail = f" t={now}; x={expires_at}; bh={body_hash}{_B_TAG}"
    # What verifies below canonicalizes the finished field whole and anew.
    digest = _digest(signed, plan.beginning + plan.canonical(tail.encode()))
    try:
        signature = key.sign_digest(digest)
    # OpenSSL's errors have many classes, and none of them may stop the mail.
    except Exception as error:
        raise SignatureFailed(
            "signing-failed",
            request.selector,
            f"{key!r} cannot sign: {type(error).__name__}.",
        ) from None
    value = plan.text + tail + _folded(_base64(signature))
    _verify(value, signed, plan, key)
    if not plan.was_compared:
        _compare(value, fields, signed, body_hash, plan)
        plan.was_compared = True
    return Signature(value, request, body_hash, now, expires_at)


@dataclass(slots=True)
class _Plan:
    """All that is the same for every message with one request."""

    key: KeyFacts  # the one that must sign
    text: str  # the field up to and with the h= tag and the fold after it
    beginning: bytes  # the same in canonical form, name and all
    name: bytes  # of the field in canonical form, with its colon
    canonical: Callable[[bytes], bytes]  # form of a value
    selection: Selection
    tags: dict[str, str]  # what the verified field must say
    was_compared: bool = False  # the first field made with this plan was read back in full


# By the identity of the request, which is kept alive beside its plan: a request is mostly one
# object for all messages of a kind (`signing.plan`), and to hash it is to hash forty words.
_plans: dict[int, tuple[SignatureRequest, _Plan]] = {}
_MOST_PLANS: Final = 256


def _planned(request: SignatureRequest) -> tuple[SignatureRequest, _Plan]:
    """The plan of a request that is new; all others go when they become too many."""
    if len(_plans) >= _MOST_PLANS:
        _plans.clear()
    found = _plans[id(request)] = request, _plan(request)
    return found


# Where there are many domains, requests are made anew that equal an earlier one: to compare the
# first field of a plan with dkimpy costs a third of a signature.
@lru_cache(_MOST_PLANS)
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
    is_relaxed = request.header_canonicalization == "relaxed"
    # The fold is followed by a space, which is what is left of both in relaxed form.
    name = f"{FIELD_NAME}:".encode()
    name, canonical, fold = (
        (name.lower(), canonical_header.relaxed, b" ")
        if is_relaxed
        else (name, canonical_header.crlf, b"\r\n")
    )
    return _Plan(
        key=request.key,
        text=text + "\n",
        beginning=name + canonical(text.encode()) + fold,
        name=name,
        canonical=canonical,
        selection=Selection.of(request.fields, request.header_canonicalization),
        tags={**tags, "h": ":".join(request.fields)},
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


def _folded(text: str) -> str:
    return "\n ".join([text[at : at + _PIECE] for at in range(0, len(text), _PIECE)])


def _base64(octets: bytes) -> str:
    return binascii.b2a_base64(octets, newline=False).decode("ascii")


def _unsignable(fault: Disputed | NoFrom) -> SignatureFailed:
    if isinstance(fault, NoFrom):
        sentence = "the message has no From field, which must be signed."
        return SignatureFailed("no-from", "", sentence)
    return SignatureFailed(
        "disputed-octets",
        str(fault),
        f"the field {fault} holds control characters that verifiers read differently.",
    )


def _digest(signed: bytes, own: bytes) -> bytes:
    """The digest with our own field (its b= empty) at the end, without CRLF: section 3.7."""
    # In two pieces that are usually below the 2,047 octets from which hashlib gives up the
    # interpreter lock: getting it back costs more than hashing them.
    digest = _EMPTY.copy()
    digest.update(signed)
    digest.update(own)
    return digest.digest()


def _verify(value: str, signed: bytes, plan: _Plan, key: SigningKey) -> None:
    """Verify the finished field as it will be inserted."""
    is_relaxed = plan.selection.is_relaxed
    compiled = key.verifies_field
    if compiled is None:
        is_valid = verifies_plainly(key, signed, plan.name, value, is_relaxed)
    else:
        is_valid = compiled(signed, plan.name, value, is_relaxed)
    if not is_valid:
        raise _self_check_failed(plan, "the signature does not verify; check the machine.")


def verifies_plainly(
    key: SigningKey, signed: bytes, name: bytes, value: str, is_relaxed: bool, /
) -> bool:
    """Whether a finished field verifies: the Python that `_held_key.c` has a twin of.

    `signed` are the canonical fields that are hashed before it, `name` is its own in canonical
    form, with its colon.  Its b= must be the last tag, and hold base64 and folds only.
    """
    octets = value.encode()
    # A verifier takes the value of b= out of the field and nothing else.
    start = octets.find(_B_TAG_OCTETS) + len(_B_TAG_OCTETS)
    if start < len(_B_TAG_OCTETS):
        return False
    text = octets[start:].replace(b"\n ", b"")
    try:
        signature = binascii.a2b_base64(text)
    except binascii.Error:
        return False
    if base64.b64encode(signature) != text:
        return False
    canonical = canonical_header.relaxed if is_relaxed else canonical_header.crlf
    return key.verifies(_digest(signed, name + canonical(octets[:start])), signature)


def _compare(
    value: str, fields: Sequence[Given], signed: bytes, body_hash: str, plan: _Plan
) -> None:
    """Read the field as a verifier does, and have dkimpy canonicalize what it signs.

    Once for each plan: what differs between two fields of one plan are numbers and base64.
    """
    parts = [part.partition("=") for part in value.split(";")]
    tags = {name.strip(): content.strip() for name, _, content in parts}
    # White space is allowed around the colons of h=, but nowhere inside a name.
    tags["h"] = ":".join(map(str.strip, tags.get("h", "").split(":")))
    if not plan.tags.items() <= tags.items() or tags.get("bh") != body_hash:
        raise _self_check_failed(plan, "the field does not verify as it is folded.")
    if signed != canonical_header.by_dkimpy(fields, plan.selection):
        raise _self_check_failed(plan, "two canonicalizations of the header section disagree.")


def _self_check_failed(plan: _Plan, fault: str) -> SignatureFailed:
    about = f"{plan.tags['d']}/{plan.tags['s']}"
    return SignatureFailed("self-check-failed", plan.tags["s"], f"{about}: {fault}")
