"""Signing and verifying with the compiled half: as cryptography does, and nothing leaks."""

from __future__ import annotations

import base64
import concurrent.futures
import copy
import hashlib
import itertools
import os
import pickle
import pty
import re
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from support import faulty_rsa, sanitizers

from carbonseal.keys import canonical_header, generate, held_key, keyring, signer
from carbonseal.keys.canonical_header import Disputed, NoFrom, Selection
from carbonseal.policies.signing_request import RSA, KeyFacts, SignatureRequest

pytestmark = pytest.mark.skipif(held_key.compiled is None, reason="no compiler was at hand")
SOURCE = sanitizers.ROOT / "keys/_held_key.c"
EXAMPLES = settings(max_examples=100 if sanitizers.are_at_work() else 400, deadline=None)
DIGEST = bytes(range(32))
NOW = 1795262400
SIGNED = ("from", "from", "to")
SELECTIONS = {form == "relaxed": Selection.of(SIGNED, form) for form in ("relaxed", "simple")}
REQUEST = SignatureRequest("example.com", "r", RSA, fields=SIGNED)
FIELDS: list[tuple[str | bytes, bytes]] = [("From", b" a@example.com"), ("To", b" two\n  lines")]
_TEXT_OF_FORM = b" v=1; a=rsa-sha256; c=relaxed/simple; d=example.com;\n s=r; h=from:from:to;"


def form_of(
    text: bytes, beginning: bytes, name: bytes, is_relaxed: bool, expires_after: int | None = None
) -> signer.Form:
    """Of a plan that signs `SIGNED`."""
    selection = SELECTIONS[is_relaxed]
    return signer.Form(
        text, beginning, name, is_relaxed, selection.places, selection.order, expires_after
    )


FORM = form_of(
    _TEXT_OF_FORM + b"\n",
    b"dkim-signature:" + canonical_header.relaxed(_TEXT_OF_FORM) + b" ",
    b"dkim-signature:",
    True,
)
SIMPLE_FORM = form_of(
    _TEXT_OF_FORM + b"\n",
    b"DKIM-Signature:" + canonical_header.crlf(_TEXT_OF_FORM) + b"\r\n",
    b"DKIM-Signature:",
    False,
)
_PLAIN = serialization.NoEncryption()


def in_pem(private: Any, form: str, encryption: Any = _PLAIN) -> bytes:
    return bytes(
        private.private_bytes(
            serialization.Encoding.PEM, getattr(serialization.PrivateFormat, form), encryption
        )
    )


def halves(private: rsa.RSAPrivateKey) -> tuple[Any, held_key.Plain]:
    """The same key in both."""
    held = held_key.hold(private, generate.private_pem(private))
    assert not isinstance(held, held_key.Plain)
    return held, held_key.Plain(private)


def in_python(
    key: keyring.SigningKey,
    fields: list[tuple[str | bytes, bytes]],
    form: signer.Form,
    digest: bytes = DIGEST,
    now: int = NOW,
) -> signer.Signature | bool | None:
    """What the compiled half must make of these; None: the fields must not be signed."""
    try:
        signed = canonical_header.plainly(fields, SELECTIONS[form.is_relaxed])
    except (Disputed, NoFrom):
        return None
    expires_at = None if form.expires_after is None else now + form.expires_after
    made = signer.make_plainly(key, signed, form, digest, (now, expires_at))
    return made is not None and signer.Signature(made[0], REQUEST, made[1], now, expires_at)


@pytest.fixture(scope="module")
def both(rsa_private: rsa.RSAPrivateKey) -> tuple[Any, held_key.Plain]:
    """The key of example.com in both halves."""
    return halves(rsa_private)


@pytest.fixture(scope="module")
def plain_key(rsa_private: rsa.RSAPrivateKey) -> keyring.SigningKey:
    """The key of example.com as the plain twin is called with it."""
    return keyring.SigningKey(KeyFacts("example.com", "r", RSA), rsa_private)


@pytest.mark.parametrize("form", ["PKCS8", "TraditionalOpenSSL"])
@pytest.mark.parametrize("bits", [1024, 2047, 2048, 3072, 4096])
def test_both_halves_make_the_same_signatures(bits: int, form: str) -> None:
    """RSASSA-PKCS1-v1_5 leaves nothing to choose; each half takes what the other made."""
    private = rsa.generate_private_key(65537, bits)
    held = held_key.hold(private, in_pem(private, form))
    plain = held_key.Plain(private)
    assert not isinstance(held, held_key.Plain)
    signature = held.sign(DIGEST)
    assert signature == plain.sign(DIGEST)
    assert held.verifies(DIGEST, signature)
    assert plain.verifies(DIGEST, signature)
    plain_key = keyring.SigningKey(KeyFacts("example.com", "r", RSA), private)
    for form in (FORM._replace(expires_after=1), SIMPLE_FORM):
        made = held.make_signature(FIELDS, form, REQUEST, DIGEST, NOW)
        assert isinstance(made, signer.Signature)
        assert made == in_python(plain_key, FIELDS, form)
        assert made.request is REQUEST


def test_both_halves_refuse_the_same_signatures(
    both: tuple[Any, held_key.Plain], rsa_other: rsa.RSAPrivateKey
) -> None:
    """One wrong bit anywhere, other lengths, another key, another digest."""
    good = both[0].sign(DIGEST)
    wrong = [
        *(good[:at] + bytes([good[at] ^ 1 << at % 8]) + good[at + 1 :] for at in range(len(good))),
        *(good[:size] for size in (0, 1, 255)),
        *(good + bytes(size) for size in (1, 256, 2000)),
        b"\0" + good,
        bytes(256),
        b"\xff" * 256,
        held_key.Plain(rsa_other).sign(DIGEST),
    ]
    for key in both:
        assert not any(key.verifies(DIGEST, one) for one in wrong)
        assert not key.verifies(bytes(32), good)
        assert key.verifies(DIGEST, good)


_SHA256_INFO = bytes.fromhex("3031300d060960864801650304020105000420")
_ENCODED = {
    "as it should be": b"\0\1" + b"\xff" * 202 + b"\0" + _SHA256_INFO + DIGEST,
    "for encryption": b"\0\2" + b"\xff" * 202 + b"\0" + _SHA256_INFO + DIGEST,
    "one more before": b"\1\1" + b"\xff" * 202 + b"\0" + _SHA256_INFO + DIGEST,
    "fewer ones and more behind": b"\0\1"
    + b"\xff" * 8
    + b"\0"
    + _SHA256_INFO
    + DIGEST
    + bytes(194),
    "fewer ones": b"\0" * 5 + b"\1" + b"\xff" * 198 + b"\0" + _SHA256_INFO + DIGEST,
    "another one": b"\0\1" + b"\xff" * 201 + b"\xfe\0" + _SHA256_INFO + DIGEST,
    "no end of the ones": b"\0\1" + b"\xff" * 203 + _SHA256_INFO + DIGEST,
    "without NULL": b"\0\1"
    + b"\xff" * 204
    + b"\0"
    + bytes.fromhex("302f300b0609608648016503040201")
    + b"\4\x20"
    + DIGEST,
    "another algorithm": b"\0\1"
    + b"\xff" * 202
    + b"\0"
    + _SHA256_INFO.replace(b"\x02\x01\x05", b"\x02\x02\x05")
    + DIGEST,
    "the bare digest": b"\0\1" + b"\xff" * 221 + b"\0" + DIGEST,
    "nothing": bytes(256),
    "one": bytes(255) + b"\1",
}


@pytest.mark.parametrize("case", _ENCODED)
def test_both_halves_take_one_encoding_of_a_digest(
    both: tuple[Any, held_key.Plain], rsa_private: rsa.RSAPrivateKey, case: str
) -> None:
    """Nothing that a lax verifier was ever made to accept by whoever has no key."""
    numbers = rsa_private.private_numbers()
    n = numbers.public_numbers.n
    power = pow(int.from_bytes(_ENCODED[case], "big"), numbers.d, n)
    for key in both:
        assert key.verifies(DIGEST, power.to_bytes(256, "big")) is (case == "as it should be")


def test_both_halves_take_one_number_for_a_signature(
    both: tuple[Any, held_key.Plain], rsa_private: rsa.RSAPrivateKey
) -> None:
    """The same plus the modulus has the same power, and is not the signature."""
    n = rsa_private.private_numbers().public_numbers.n
    for number in itertools.count():
        digest = hashlib.sha256(b"%d" % number).digest()
        signature = both[0].sign(digest)
        other = int.from_bytes(signature, "big") + n
        if other < 1 << 2048:
            break
    for key in both:
        assert key.verifies(digest, signature)
        assert not key.verifies(digest, other.to_bytes(256, "big"))


def test_keys_with_another_exponent_sign_and_verify(
    rsa_other: rsa.RSAPrivateKey,
) -> None:
    """Few are left; both halves take them."""
    held, plain = halves(rsa.generate_private_key(3, 1024))
    signature = held.sign(DIGEST)
    assert signature == plain.sign(DIGEST)
    for key in (held, plain):
        assert key.verifies(DIGEST, signature)
        assert not key.verifies(DIGEST, signature[:-1] + bytes([signature[-1] ^ 1]))
        assert not key.verifies(DIGEST, held_key.Plain(rsa_other).sign(DIGEST))


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_only_digests_are_signed(
    both: tuple[Any, held_key.Plain], plain_key: keyring.SigningKey, size: int
) -> None:
    """What is no digest of SHA-256 is a mistake of the caller, in both halves."""
    for key in both:
        with pytest.raises(ValueError, match=r"."):
            key.sign(bytes(size))
        with pytest.raises(ValueError, match=r"."):
            key.verifies(bytes(size), bytes(256))
    with pytest.raises(ValueError, match="32 octets"):
        both[0].make_signature(FIELDS, FORM, REQUEST, bytes(size), NOW)
    with pytest.raises(ValueError, match="32 octets"):
        signer.make_plainly(plain_key, b"", FORM, bytes(size), (NOW, None))


def test_the_compiled_half_takes_no_other_types(both: tuple[Any, held_key.Plain]) -> None:
    """And says so, whatever it is called with."""
    held = both[0]
    calls: list[Callable[[], object]] = [
        lambda: held.sign("x" * 32),
        lambda: held.verifies(DIGEST),
        lambda: held.verifies(DIGEST, None),
        lambda: held.verifies("x" * 32, b""),
        lambda: held.verifies_field(b"", b"", ""),
        lambda: held.verifies_field("", b"", "", True),
        lambda: held.verifies_field(b"", None, "", True),
        lambda: held.verifies_field(b"", b"", b"", True),
        lambda: held.make_signature(FIELDS, FORM, REQUEST, DIGEST),
        lambda: held.make_signature(FIELDS, list(FORM), REQUEST, DIGEST, NOW),
        lambda: held.make_signature(FIELDS, FORM[:-1], REQUEST, DIGEST, NOW),
        *(
            lambda at=at: held.make_signature(
                FIELDS, (*FORM[:at], "", *FORM[at + 1 :]), REQUEST, DIGEST, NOW
            )
            for at in range(len(FORM))
            if signer.Form._fields[at] != "is_relaxed"
        ),
        lambda: held.make_signature(FIELDS, FORM._replace(kind=list), REQUEST, DIGEST, NOW),
        lambda: held.make_signature(FIELDS, FORM._replace(expires_after=0.5), REQUEST, DIGEST, NOW),
        lambda: held.make_signature(FIELDS, FORM, REQUEST, "x" * 32, NOW),
        lambda: held.make_signature(FIELDS, FORM, REQUEST, DIGEST, None),
        lambda: held.make_signature(FIELDS, FORM, REQUEST, DIGEST, "1"),
        lambda: held.make_signature(FIELDS, FORM, REQUEST, DIGEST, (NOW, None)),
        type(held),
        lambda: type(held)("PEM"),
        lambda: type(held)(b"PEM", key=b"PEM"),
    ]
    for call in calls:
        with pytest.raises(TypeError):
            call()


def test_many_threads_may_use_one_key(both: tuple[Any, held_key.Plain]) -> None:
    """The interpreter lock is not held while it signs: nothing of one gets into another."""
    held, plain = both
    digests = [hashlib.sha256(bytes([number])).digest() for number in range(64)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        signatures = list(pool.map(held.sign, digests * 4))
    assert signatures[:64] == [plain.sign(one) for one in digests]
    assert signatures == signatures[:64] * 4


def test_many_threads_may_make_fields_with_one_key(
    both: tuple[Any, held_key.Plain], plain_key: keyring.SigningKey
) -> None:
    """All that it takes for a field is its own."""
    messages = [[("From", b" %d@example.com" % number), *FIELDS] for number in range(64)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        calls = [
            pool.submit(both[0].make_signature, one, FORM, REQUEST, DIGEST, NOW)
            for one in messages * 4
        ]
        made = [call.result() for call in calls]
    plainly = [in_python(plain_key, one, FORM) for one in messages]
    assert all(plainly)
    assert made == plainly * 4


# --- a finished field -----------------------------------------------------------------------------

_TOKENS = st.sampled_from([*" \t\r\n\x0b\x0c;=b:aZ\x00\x7fé", "\r\n ", "\n ", ";\n b="])
_TEXT = st.lists(_TOKENS, max_size=40).map("".join)
_NAMES = {True: b"dkim-signature:", False: b"DKIM-Signature:"}


def _folded(text: str, piece: int) -> str:
    return "\n ".join(text[at : at + piece] for at in range(0, len(text), piece))


@st.composite
def damaged(draw: st.DrawFn, text: str) -> str:
    """Folded base64, most often with something done to it."""
    text = _folded(text, draw(st.integers(1, 100)))
    for _ in range(draw(st.integers(0, 2))):
        at, until = sorted(draw(st.tuples(*(st.integers(0, len(text)),) * 2)))
        new = draw(st.sampled_from(["", " ", "\n ", "\n", "=", "==", "A", "/", "-", "é", ";\n b="]))
        text = text[:at] + new + text[draw(st.sampled_from([at, min(at + 1, until), until])) :]
    return text


@EXAMPLES
@given(data=st.data(), before=_TEXT, signed=st.binary(max_size=100), is_relaxed=st.booleans())
def test_both_halves_judge_a_field_alike(
    both: tuple[Any, held_key.Plain],
    plain_key: keyring.SigningKey,
    data: st.DataObject,
    before: str,
    signed: bytes,
    is_relaxed: bool,
) -> None:
    """Right ones are accepted by both; of those that are not, none is by either alone."""
    name, start = _NAMES[is_relaxed], f"{before};\n b="
    canonical = canonical_header.relaxed if is_relaxed else canonical_header.crlf
    # Of the first tag of that form, where there are two.
    own = name + canonical(start[: start.index(";\n b=") + 5].encode())
    signature = both[0].sign(hashlib.sha256(signed + own).digest())
    text = base64.b64encode(signature).decode()
    values = [start + _folded(text, 72), start + data.draw(damaged(text)), before]
    answers = [both[0].verifies_field(signed, name, value, is_relaxed) for value in values]
    assert answers == [
        signer.verifies_plainly(plain_key, signed, name, value, is_relaxed) for value in values
    ]
    assert answers[0] == (";\n b=" not in before)


@pytest.mark.parametrize("text", ["", "=", "====", "A===", "AA=A", "AB==", "AAB=", "AAAA====", "A"])
def test_what_is_no_base64_is_no_signature(
    both: tuple[Any, held_key.Plain], plain_key: keyring.SigningKey, text: str
) -> None:
    """Verifiers differ in what they make of it; the right signature before it does not help."""
    name = _NAMES[True]
    good = both[0].sign(hashlib.sha256(name + b"; b=").digest())
    whole = base64.b64encode(good).decode()
    assert both[0].verifies_field(b"", name, f";\n b={whole}", True)
    for value in (f";\n b={text}", f";\n b={whole}{text}" if text else ""):
        assert not both[0].verifies_field(b"", name, value, True)
        assert not signer.verifies_plainly(plain_key, b"", name, value, True)


def test_what_is_longer_than_any_signature_is_none(
    both: tuple[Any, held_key.Plain], plain_key: keyring.SigningKey
) -> None:
    """Those of RSA-8192 have 1,024 octets; what follows them is not kept anywhere."""
    name = _NAMES[True]
    for size in (*range(1020, 1030), 5000):
        for piece in (72, 70):
            value = ";\n b=" + _folded(base64.b64encode(bytes(size)).decode(), piece)
            assert not both[0].verifies_field(b"", name, value, True)
            assert not signer.verifies_plainly(plain_key, b"", name, value, True)


@pytest.mark.parametrize(
    ("bits", "cut", "more"), [(2048, 3, "{}=="), (3072, 0, "A"), (3088, 2, "{}=")]
)
def test_a_signature_has_one_form_in_base64(bits: int, cut: int, more: str) -> None:
    """Bits and letters that a decoder would drop are as wrong as any others."""
    private = rsa.generate_private_key(65537, bits)
    held, plain = halves(private)[0], keyring.SigningKey(KeyFacts("a.test", "r", RSA), private)
    good = held.sign(hashlib.sha256(b"name:; b=").digest())
    whole = base64.b64encode(good).decode()
    end = len(whole) - cut
    other = whole[:end] + more.format(chr(ord(whole[end]) + 1) if cut else "")
    assert base64.b64decode(other[: len(other) // 4 * 4]) == good
    for text, is_valid in ((whole, True), (other, False)):
        value = f";\n b={text}"
        assert held.verifies_field(b"", b"name:", value, True) is is_valid
        assert signer.verifies_plainly(plain, b"", b"name:", value, True) is is_valid


def test_a_field_that_is_no_text_is_a_fault_in_both_halves(
    both: tuple[Any, held_key.Plain], plain_key: keyring.SigningKey
) -> None:
    """A lone surrogate has no octets that could be hashed."""
    with pytest.raises(UnicodeEncodeError):
        both[0].verifies_field(b"", b"", "\udcff;\n b=", True)
    with pytest.raises(UnicodeEncodeError):
        signer.verifies_plainly(plain_key, b"", b"", "\udcff;\n b=", True)


# --- a field that is made -------------------------------------------------------------------------

_NUMBERS = st.integers(-(2**63), 2**63 - 1)
_VALUES = st.lists(
    st.sampled_from([" ", "\t", "a", "b c", ":", "\n ", "\n\t", "é", "\xff"]), max_size=8
)
_ODD = st.sampled_from(["\0", "\r", "\n", "\r\n ", "\x0b", "\x0c"])
_FIELDS = st.lists(
    st.tuples(
        st.sampled_from(
            ["From", "FROM", "to", "To", "Fro", "X", "To ", "é", "\udcff", "", "F" * 300]
        ),
        st.one_of(_VALUES, _VALUES, st.lists(_ODD, max_size=3)).map("".join).map(str.encode),
    ),
    max_size=6,
)


@st.composite
def forms(draw: st.DrawFn) -> tuple[signer.Form, bool]:
    """What a plan may hold, and whether it says the same twice: any text, and some damage."""
    is_relaxed, text = draw(st.booleans()), " " + draw(_TEXT)
    octets = text.encode() + b"\n"
    canonical = canonical_header.relaxed if is_relaxed else canonical_header.crlf
    # A letter in place of what follows shows what is left of the white space before it.
    beginning = _NAMES[is_relaxed] + canonical(octets + b" x")[:-2] + b" " * is_relaxed
    if is_relaxed and not octets.strip():
        beginning = _NAMES[is_relaxed]
    form = form_of(octets, beginning, _NAMES[is_relaxed], is_relaxed)
    at = draw(st.integers(0, 5))
    if at > 2:
        return form, ";\n b=" not in text
    parts: list[Any] = list(form)
    parts[at] = parts[at] + b"x" if draw(st.booleans()) else b"x" + parts[at]
    return signer.Form(*parts), False


def is_odd(fields: list[tuple[str | bytes, bytes]], form: signer.Form) -> bool:
    """Whether the compiled half leaves these to Python."""
    return canonical_header.compiled(fields, form.places, form.order, form.is_relaxed) is None


@EXAMPLES
@given(
    made_of=forms(),
    fields=_FIELDS,
    digest=st.binary(min_size=32, max_size=32),
    now=_NUMBERS,
    expires_at=st.none() | _NUMBERS,
)
def test_both_halves_make_the_same_field(
    both: tuple[Any, held_key.Plain],
    plain_key: keyring.SigningKey,
    made_of: tuple[signer.Form, bool],
    fields: list[tuple[str | bytes, bytes]],
    digest: bytes,
    now: int,
    expires_at: int | None,
) -> None:
    """Octet by octet; and neither makes one whose canonical form was not what was signed.

    Whatever the fields are: what the compiled half does not read it leaves alone.
    """
    form, is_sound = made_of
    form = form._replace(expires_after=None if expires_at is None else expires_at - now)
    for message in (fields, [("From", b" a"), *fields]):
        made = both[0].make_signature(message, form, REQUEST, digest, now)
        if is_odd(message, form):
            assert made is None
            continue
        assert made == in_python(plain_key, message, form, digest, now)
        assert bool(made) == is_sound
        if made:
            signed = canonical_header.canonical(message, SELECTIONS[form.is_relaxed])
            value = made.field_value
            assert signer.verifies_plainly(plain_key, signed, form.name, value, form.is_relaxed)


@pytest.mark.parametrize("form", [FORM, SIMPLE_FORM], ids=["relaxed", "simple"])
def test_a_header_section_may_be_as_long_as_it_likes(
    both: tuple[Any, held_key.Plain], plain_key: keyring.SigningKey, form: signer.Form
) -> None:
    """Beyond what is usual it is the same, at each octet and each field around that border."""
    for count in (31, 32, 33, 1000):
        fields = [*FIELDS, *((("To", "X")[at % 2], b" %d" % at) for at in range(count - 2))]
        made = both[0].make_signature(fields, form, REQUEST, DIGEST, NOW)
        assert made
        assert made == in_python(plain_key, fields, form)
    for value in (
        *(b" \n" * size + b" a" for size in (*range(1000, 1030), 2731, 100_000)),
        *(b"a" * size for size in (*range(2000, 2030), *range(4000, 4100), 20_000)),
    ):
        fields = [*FIELDS, ("to", value)]
        made = both[0].make_signature(fields, form, REQUEST, DIGEST, NOW)
        assert made
        assert made == in_python(plain_key, fields, form)


def test_of_the_time_whole_seconds_are_said(both: tuple[Any, held_key.Plain]) -> None:
    """As int() cuts them off."""
    for now in (NOW + 0.999, -1.5, 0.0):
        made = both[0].make_signature(FIELDS, FORM, REQUEST, DIGEST, now)
        assert made == both[0].make_signature(FIELDS, FORM, REQUEST, DIGEST, int(now))
        assert type(made.signed_at) is int
    for now in (float("nan"), float("inf")):
        with pytest.raises((ValueError, OverflowError)):
            both[0].make_signature(FIELDS, FORM, REQUEST, DIGEST, now)


def test_a_field_may_become_longer_in_its_canonical_form(
    both: tuple[Any, held_key.Plain], plain_key: keyring.SigningKey
) -> None:
    """Of many lines, each of which is one octet longer in simple form."""
    for text in (b"\n" * 9000, b"\n " * 3000, b" \n" + b"x" * 9000):
        for name, is_relaxed in ((b"name:", True), (b"Name:", False)):
            canonical = canonical_header.relaxed if is_relaxed else canonical_header.crlf
            beginning = name + canonical(text + b"\nx")[:-1]
            form = form_of(text + b"\n", beginning, name, is_relaxed)
            made = both[0].make_signature(FIELDS, form, REQUEST, DIGEST, NOW)
            assert made
            assert made == in_python(plain_key, FIELDS, form)


@pytest.mark.parametrize("form", [FORM, SIMPLE_FORM], ids=["relaxed", "simple"])
@pytest.mark.parametrize("part", range(3))
def test_no_octet_of_a_field_may_differ_from_what_was_signed(
    both: tuple[Any, held_key.Plain],
    plain_key: keyring.SigningKey,
    form: signer.Form,
    part: int,
) -> None:
    """Memory that lost a bit, in the text or in its canonical form: no field, from neither half."""
    octets: Any = form[part]
    for at in range(len(octets)):
        lost = octets[:at] + bytes([octets[at] ^ 0x40]) + octets[at + 1 :]
        damaged_form = signer.Form(*form[:part], lost, *form[part + 1 :])
        assert both[0].make_signature(FIELDS, damaged_form, REQUEST, DIGEST, NOW) is False
        assert in_python(plain_key, FIELDS, damaged_form) is False


def test_what_is_left_to_be_verified_is_all_that_is_left(
    both: tuple[Any, held_key.Plain], rsa_other: rsa.RSAPrivateKey
) -> None:
    """The same field; what was read from it is a digest and a signature, and both halves accept."""
    for form in (FORM, SIMPLE_FORM):
        made = both[0].make_unproven(FIELDS, form, REQUEST, DIGEST, NOW)
        proven = both[0].make_signature(FIELDS, form, REQUEST, DIGEST, NOW)
        assert not proven.unproven
        assert made == proven._replace(unproven=made.unproven)
        digest, signature = made.unproven[:32], made.unproven[32:]
        folded = made.field_value.partition("b=")[2]
        assert base64.b64decode(folded.rpartition("b=")[2].replace("\n ", "")) == signature
        assert both[0].verifies(digest, signature)
        assert both[1].verifies(digest, signature)
        assert not held_key.Plain(rsa_other).verifies(digest, signature)
    for odd in ([("From", b" a\0@example.com")], []):
        assert both[0].make_unproven(odd, FORM, REQUEST, DIGEST, NOW) is None
    with pytest.raises(TypeError):
        both[0].make_unproven(FIELDS, FORM, REQUEST, DIGEST)


@pytest.mark.skipif(sanitizers.are_at_work(), reason="this has a build of its own")
@pytest.mark.parametrize("fault", ["signature", "digest", "first octet", "length"])
def test_a_fault_of_the_machine_is_found_in_the_compiled_half(
    rsa_private: rsa.RSAPrivateKey, tmp_path: Path, fault: str
) -> None:
    """The same code around an RSA operation that goes wrong says that the field is not sound."""
    faulty = faulty_rsa.build(SOURCE, tmp_path, fault)
    key = faulty.Key(generate.private_pem(rsa_private))
    for form in (FORM, SIMPLE_FORM):
        assert key.make_signature(FIELDS, form, REQUEST, DIGEST, NOW) is False
        left = key.make_unproven(FIELDS, form, REQUEST, DIGEST, NOW).unproven
        assert not key.verifies(left[:32], left[32:])


@pytest.mark.skipif(sanitizers.are_at_work(), reason="this has a build of its own")
def test_without_a_signature_there_is_no_field(
    rsa_private: rsa.RSAPrivateKey, tmp_path: Path
) -> None:
    """OpenSSL refused (no memory, no randomness): an error, which does not say why."""
    faulty = faulty_rsa.build(SOURCE, tmp_path, "refusal")
    key = faulty.Key(generate.private_pem(rsa_private))
    with pytest.raises(RuntimeError, match=r"^OpenSSL made no signature$"):
        key.make_signature(FIELDS, FORM, REQUEST, DIGEST, NOW)


def test_times_beyond_64_bits_are_refused(both: tuple[Any, held_key.Plain]) -> None:
    """No clock and no configuration gets there."""
    for now, expires_after in ((2**63, None), (NOW, 2**63 - NOW), (-(2**63) - 1, None), (0, 2**99)):
        form = FORM._replace(expires_after=expires_after)
        with pytest.raises(OverflowError):
            both[0].make_signature(FIELDS, form, REQUEST, DIGEST, now)


def test_a_form_that_is_no_text_is_a_fault_in_both_halves(
    both: tuple[Any, held_key.Plain], plain_key: keyring.SigningKey
) -> None:
    """A field that cannot be handed on as text."""
    form = form_of(b"\xff\n", b"name:\xff ", b"name:", True)
    with pytest.raises(UnicodeDecodeError):
        both[0].make_signature(FIELDS, form, REQUEST, DIGEST, NOW)
    with pytest.raises(UnicodeDecodeError):
        in_python(plain_key, FIELDS, form)


# --- what is held, and what is shown --------------------------------------------------------------


def test_what_only_cryptography_reads_it_holds(
    rsa_private: rsa.RSAPrivateKey,
    rsa_other: rsa.RSAPrivateKey,
    ed25519_private: ed25519.Ed25519PrivateKey,
) -> None:
    """No PEM, one of another key, one that OpenSSL does not read; and Ed25519 always."""
    for pem in (b"", b"x", generate.private_pem(rsa_other)):
        assert isinstance(held_key.hold(rsa_private, pem), held_key.Plain)
    pem = generate.private_pem(ed25519_private)
    assert isinstance(held_key.hold(ed25519_private, pem), held_key.Plain)


def test_what_is_no_rsa_key_is_refused(
    rsa_private: rsa.RSAPrivateKey, ed25519_private: ed25519.Ed25519PrivateKey
) -> None:
    """Whatever else a PEM may hold, or however it is damaged."""
    assert held_key.compiled is not None
    secret = serialization.BestAvailableEncryption(b"secret")
    good = generate.private_pem(rsa_private)
    other = subprocess.run(  # RSA of another kind, whose signatures are other ones
        ["openssl", "genpkey", "-algorithm", "RSA-PSS"], check=True, capture_output=True
    ).stdout
    public = rsa_private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    for pem in (
        b"",
        b"\0" * 100,
        public,
        other,
        good[: len(good) // 2],
        good.replace(b"\nMII", b"\nMIJ", 1),
        b" " * 70_000 + good,
        good.replace(b"PRIVATE", b"RSA PRIVATE"),
        in_pem(rsa_private, "TraditionalOpenSSL").replace(b"RSA ", b""),
        in_pem(rsa_private, "PKCS8", secret),
        in_pem(rsa_private, "TraditionalOpenSSL", secret),
        generate.private_pem(ed25519_private),
        in_pem(ec.generate_private_key(ec.SECP256R1()), "PKCS8"),
        in_pem(ec.generate_private_key(ec.SECP256R1()), "TraditionalOpenSSL"),
    ):
        with pytest.raises(ValueError, match=r"^it is no RSA key$"):
            held_key.compiled.Key(pem)


_READ_IT = """
import sys
from carbonseal.keys import _held_key
try:
    _held_key.Key(bytes.fromhex(sys.argv[1]))
except ValueError as error:
    print(error)
"""


@pytest.mark.skipif(sanitizers.are_at_work(), reason="the other process has the usual module")
@pytest.mark.parametrize("form", ["PKCS8", "TraditionalOpenSSL"])
def test_nobody_is_asked_for_a_password(rsa_private: rsa.RSAPrivateKey, form: str) -> None:
    """A worker that is started from a terminal would wait for it there."""
    pem = in_pem(rsa_private, form, serialization.BestAvailableEncryption(b"secret")).hex()
    pid, terminal = pty.fork()
    if not pid:
        os.execv(sys.executable, [sys.executable, "-c", _READ_IT, pem])
    try:
        assert os.read(terminal, 1000).startswith(b"it is no RSA key")
    finally:
        os.close(terminal)  # and it gets a SIGHUP, should it wait
        os.waitpid(pid, 0)


def test_a_held_key_does_not_leave_its_object(
    both: tuple[Any, held_key.Plain], rsa_private: rsa.RSAPrivateKey
) -> None:
    """Not by copy, pickle, repr, traceback or attribute; its type cannot be changed."""
    held = both[0]
    for leave in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="does not leave"):
            leave(held)
    try:
        raise ValueError(held)
    except ValueError as error:
        shown = f"{held}{held!r}" + "".join(traceback.format_exception(error))
    assert (
        re.findall(r"_held_key\.Key[^>]*", shown) == [f"_held_key.Key object at {id(held):#x}"] * 3
    )
    assert not hasattr(held, "__dict__")
    with pytest.raises(TypeError, match="immutable"):
        type(held).sign = None
    with pytest.raises(TypeError, match="not an acceptable base"):
        type("Other", (type(held),), {})
    given = {name for name in dir(held) if not name.startswith("__")}
    assert given == {
        *("make_signature", "make_unproven", "public_octets"),
        *("sign", "verifies", "verifies_field"),
    }
    assert held.public_octets() == keyring.public_octets(rsa_private)


_LOOK_FOR_IT = """
import re, sys
from carbonseal.keys import _held_key

masked, other = bytes.fromhex(sys.argv[1]), bytes.fromhex(sys.argv[2])
mask = bytes(octet ^ 0x5A for octet in range(256))


def is_there(looked_for):
    for line in open("/proc/self/maps"):
        found = re.match("([0-9a-f]+)-([0-9a-f]+) rw", line)
        if found and "[v" not in line:
            start, end = (int(place, 16) for place in found.groups())
            memory.seek(start)
            if looked_for in memory.read(end - start).translate(mask):
                return True
    return False


memory = open("/proc/self/mem", "rb", 0)
pem = sys.stdin.buffer.read()
key = _held_key.Key(pem)
print(is_there(masked), is_there(other))
"""


@pytest.mark.skipif(sanitizers.are_at_work(), reason="the other process has the usual module")
@pytest.mark.parametrize("form", ["PKCS8", "TraditionalOpenSSL"])
def test_reading_a_key_leaves_no_copy_in_memory(rsa_private: rsa.RSAPrivateKey, form: str) -> None:
    """What the file holds in base64 was overwritten: no prime is there with its octets in order.

    The file itself is, which shows that a prime would have been found.
    """
    prime = rsa_private.private_numbers().p.to_bytes(128, "big")[40:80]
    file = in_pem(rsa_private, form)[300:340]
    masked = [bytes(octet ^ 0x5A for octet in part).hex() for part in (prime, file)]
    done = subprocess.run(
        [sys.executable, "-c", _LOOK_FOR_IT, *masked],
        input=in_pem(rsa_private, form),
        capture_output=True,
        check=True,
        cwd=Path("/"),
    )
    assert done.stdout.split() == [b"False", b"True"]


@pytest.mark.skipif(sanitizers.are_at_work(), reason="this is the run that it starts")
def test_the_compiled_half_stays_within_its_memory(tmp_path: Path) -> None:
    """All of this once more under the sanitizers."""
    sanitizers.run(SOURCE, __file__, tmp_path, "-lcrypto")
