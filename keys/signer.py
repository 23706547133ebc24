"""Make one DKIM-Signature field.

The body hash comes streamed (`body_hash`), the signed header fields from `canonical_header`, the
private-key operation is OpenSSL's (`held_key`, which makes the whole field of the fields where the
key is held by its compiled half and nothing in them is odd: what is here is the twin of that), and
the tag list is ours: t= from the clock passed in, x=, no l=, i= only where it differs from its
default '@' + d=, lines of at most 78 octets, folded between tags, between names of h= and anywhere
in b=, never inside a token.

Promises: a `Signature` that is returned was taken from the finished field, hashed again over its
folded bytes, and verified with the public half of the key; where the last may be left for later,
it says what is left (`proofs`).  For the first message with a request,
all tags are parsed back too, and the field is verified once more over what dkimpy makes of the
header section: both canonicalizations must agree.
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
    """A finished DKIM-Signature field, verified but for what is `unproven`."""

    field_value: str  # begins with a space, folds with LF SP, no line end at the end
    request: SignatureRequest
    body_hash_b64: str
    signed_at: int  # t=, seconds since the epoch
    expires_at: int | None  # x=
    # Not to be inserted before this was verified, see `proofs`; empty: it was.
    unproven: bytes = b""


def sign(
    fields: Sequence[Given],
    body_digest: bytes,
    request: SignatureRequest,
    key: SigningKey,
    now: float,
    *,
    is_left: bool = False,
) -> Signature:
    """Sign a message, given as its header fields and the digest of its canonical body.

    `fields` are (name, value) top to bottom, the value with its leading space and with LF or CRLF
    folding; `body_digest` are the 32 octets of `BodyHash(request.body_canonicalization)`; `now` is
    in seconds since the epoch, of which t= says the whole ones.  `is_left`: to verify it may be
    left to the caller (`Signature.unproven`).
    """
    _, plan = _plans.get(id(request)) or _planned(request)
    if key.facts != plan.key:
        raise SignatureFailed(
            "wrong-key",
            request.selector,
            f"the key {key!r} is not the one the request names ({request.selector}).",
        )
    try:
        make = key.make_unproven if is_left else key.make_signature
        made: Signature | None = make(fields, plan.form, request, body_digest, now)
        if made and plan.was_compared:
            return made
        if made is None:
            made = _by_python(fields, plan, request, body_digest, key=key, now=int(now))
        if made and not plan.was_compared:
            _compare(made, fields, key, plan)
            plan.was_compared = True
    except SignatureFailed:
        raise
    # OpenSSL's errors have many classes, and none of them may stop the mail.
    except Exception as error:
        raise SignatureFailed(
            "signing-failed",
            request.selector,
            f"{key!r} cannot sign: {type(error).__name__}.",
        ) from None
    if not made:
        raise refuted(plan.tags["d"], plan.tags["s"])
    return made


def refuted(sdid: str, selector: str) -> SignatureFailed:
    """Of a signature that does not verify, at once or later."""
    return _self_check_failed(sdid, selector, "the signature does not verify; check the machine.")


class Form(NamedTuple):
    """What is the same in all fields of a plan; the compiled half takes it in this order."""

    text: bytes  # the field up to and with the h= tag and the fold after it
    beginning: bytes  # the same in canonical form, name and all
    name: bytes  # of the field in canonical form, with its colon
    is_relaxed: bool
    # The rest is for the compiled half alone, so that it can begin with the fields as they came and
    # end with what is returned.
    places: bytes = b""  # as in `Selection`; so is `order`
    order: bytes = b""
    expires_after: int | None = None
    kind: type[Signature] = Signature


@dataclass(slots=True)
class _Plan:
    """All that is the same for every message with one request."""

    key: KeyFacts  # the one that must sign
    form: Form
    selection: Selection
    tags: dict[str, str]  # what the verified field must say
    was_compared: bool = False  # the first field made with this plan was read back in full

    def refused(self, fault: str) -> SignatureFailed:
        """What was made with this plan must not be inserted."""
        return _self_check_failed(self.tags["d"], self.tags["s"], fault)


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
    ).encode()
    is_relaxed = request.header_canonicalization == "relaxed"
    # The fold is followed by a space, which is what is left of both in relaxed form.
    name = f"{FIELD_NAME}:".encode()
    name, fold = (name.lower(), b" ") if is_relaxed else (name, b"\r\n")
    canonical = _canonical(is_relaxed)
    selection = Selection.of(request.fields, request.header_canonicalization)
    return _Plan(
        key=request.key,
        form=Form(
            text + b"\n",
            name + canonical(text) + fold,
            name,
            is_relaxed,
            selection.places,
            selection.order,
            request.expires_after,
        ),
        selection=selection,
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


def _canonical(is_relaxed: bool) -> Callable[[bytes], bytes]:
    return canonical_header.relaxed if is_relaxed else canonical_header.crlf


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


def _by_python(
    fields: Sequence[Given],
    plan: _Plan,
    request: SignatureRequest,
    body_digest: bytes,
    *,
    key: SigningKey,
    now: int,
) -> Signature | None:
    """As `held_key.Held.make_signature`, but None for what does not verify.

    Raises: `SignatureFailed` for fields that must not be signed, and as `make_plainly`.
    """
    try:
        signed = canonical_header.canonical(fields, plan.selection)
    except (Disputed, NoFrom) as fault:
        raise _unsignable(fault) from None
    expires_at = None if request.expires_after is None else now + request.expires_after
    made = make_plainly(key, signed, plan.form, body_digest, (now, expires_at))
    return None if made is None else Signature(made[0], request, made[1], now, expires_at)


def make_plainly(
    key: SigningKey, signed: bytes, form: Form, body_digest: bytes, times: tuple[int, int | None], /
) -> tuple[str, str] | None:
    """A finished field and its bh=; None: it does not verify as it will be inserted.

    The Python that `_held_key.c` has a twin of.  `signed` are the canonical fields that are hashed
    before it; `times` are t= and x= in seconds since the epoch, which fit into 64 bits.  Raises
    what the key raises, and ValueError for a digest that has not 32 octets.
    """
    if len(body_digest) != _EMPTY.digest_size:
        raise ValueError("a digest has 32 octets")
    body_hash = _base64(body_digest)
    now, expires_at = times
    expiry = "" if expires_at is None else f"; x={expires_at}"
    tail = f" t={now}{expiry}; bh={body_hash}{_B_TAG}"
    # What verifies below canonicalizes the finished field whole and anew.
    own = form.beginning + _canonical(form.is_relaxed)(tail.encode())
    signature = key.sign_digest(_digest(signed, own))
    value = form.text.decode() + tail + _folded(_base64(signature))
    is_valid = verifies_plainly(key, signed, form.name, value, form.is_relaxed)
    return (value, body_hash) if is_valid else None


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
    own = name + _canonical(is_relaxed)(octets[:start])
    return key.verifies(_digest(signed, own), signature)


def _compare(made: Signature, fields: Sequence[Given], key: SigningKey, plan: _Plan) -> None:
    """Read the field as a verifier does, which has dkimpy canonicalize what it signs.

    Once for each plan: what differs between two fields of one plan are numbers and base64.
    """
    value = made.field_value
    parts = [part.partition("=") for part in value.split(";")]
    tags = {name.strip(): content.strip() for name, _, content in parts}
    # White space is allowed around the colons of h=, but nowhere inside a name.
    tags["h"] = ":".join(map(str.strip, tags.get("h", "").split(":")))
    if not plan.tags.items() <= tags.items() or tags.get("bh") != made.body_hash_b64:
        raise plan.refused("the field does not verify as it is folded.")
    signed = canonical_header.by_dkimpy(fields, plan.selection)
    if not verifies_plainly(key, signed, plan.form.name, value, plan.form.is_relaxed):
        raise plan.refused("two canonicalizations of the header section disagree.")


def _self_check_failed(sdid: str, selector: str, fault: str) -> SignatureFailed:
    return SignatureFailed("self-check-failed", selector, f"{sdid}/{selector}: {fault}")
