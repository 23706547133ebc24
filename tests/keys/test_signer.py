"""What the DKIM-Signature field says and how it is folded; when none is made."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st
from support import faulty_rsa, sanitizers

from carbonseal.keys import body_hash, generate, held_key, keyring, signer
from carbonseal.policies import signing_request
from carbonseal.policies.signing_request import KeyFacts, SignatureRequest

NOW = 1795262400
FIELDS = [(b"From", b" alice@example.com"), (b"Subject", b" hi")]
DIGEST = body_hash.BodyHash("relaxed").digest()


def request_for(**changes: object) -> SignatureRequest:
    given_values: dict[str, object] = {
        "sdid": "example.com",
        "selector": "r",
        "algorithm": signing_request.RSA,
        "fields": ("from", "from", "subject", "subject"),
    }
    return SignatureRequest(**(given_values | changes))  # type: ignore[arg-type]


def key_for(request: SignatureRequest, private: keyring.PrivateKey) -> keyring.SigningKey:
    return keyring.SigningKey(request.key, private)


def tags(value: str) -> dict[str, str]:
    parts = (part.split("=", 1) for part in value.split(";"))
    return {name.strip(): "".join(content.split()) for name, content in parts}


def test_the_tags_say_what_was_asked(signing_keys: Mapping[str, keyring.SigningKey]) -> None:
    """All tags, in the words of the request; i= left out where it is the default; no l=."""
    request = request_for(expires_after=604800, body_canonicalization="simple")
    made = signer.sign(FIELDS, DIGEST, request, signing_keys[signing_request.RSA], now=NOW)
    said = tags(made.field_value)
    assert len(said.pop("b")) == 344
    assert said == {
        "v": "1",
        "a": "rsa-sha256",
        "c": "relaxed/simple",
        "d": "example.com",
        "s": "r",
        "h": "from:from:subject:subject",
        "t": "1795262400",
        "x": "1795867200",
        "bh": "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
    }
    assert (made.signed_at, made.expires_at) == (NOW, NOW + 604800)
    assert made.body_hash_b64 == said["bh"]


def test_the_same_message_gives_the_same_field(
    signing_keys: Mapping[str, keyring.SigningKey],
) -> None:
    """Time comes only from the argument, and nothing is random: a golden field is possible."""
    for key in signing_keys.values():
        request = request_for(selector=key.facts.selector, algorithm=key.facts.algorithm)
        fields = [signer.sign(FIELDS, DIGEST, request, key, now=NOW) for _ in range(2)]
        assert fields[0] == fields[1]


def test_without_a_compiler_the_same_field_is_made(
    signing_keys: Mapping[str, keyring.SigningKey], rsa_private: rsa.RSAPrivateKey
) -> None:
    """Whoever holds the key: field by field the same, in both canonicalizations."""
    plain = key_for(request_for(), rsa_private)
    assert plain.make_signature(FIELDS, None, None, DIGEST, NOW) is None
    for form in ("relaxed", "simple"):
        request = request_for(header_canonicalization=form)
        made = [
            signer.sign(FIELDS, DIGEST, request, key, now=NOW)
            for key in (plain, signing_keys[signing_request.RSA])
        ]
        assert made[0] == made[1]


def test_no_request_is_signed_with_the_plan_of_one_that_is_gone(
    ed25519_private: ed25519.Ed25519PrivateKey,
) -> None:
    """Requests come and go, one often where another was in memory: each field says its own."""
    for number in range(2 * signer._MOST_PLANS):
        request = request_for(selector=f"s{number}", algorithm=signing_request.ED25519)
        made = signer.sign(FIELDS, DIGEST, request, key_for(request, ed25519_private), now=NOW)
        assert tags(made.field_value)["s"] == f"s{number}"
        assert len(signer._plans) <= signer._MOST_PLANS


def test_what_was_read_back_once_is_not_again_for_a_request_that_says_the_same(
    ed25519_private: ed25519.Ed25519PrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With many domains a kind of mail has many requests in turn, all equal."""
    compared: list[object] = []
    compare = signer._compare
    monkeypatch.setattr(signer, "_compare", lambda *given: compared.append(compare(*given)))
    for _ in range(3):
        request = request_for(selector="again", algorithm=signing_request.ED25519)
        signer.sign(FIELDS, DIGEST, request, key_for(request, ed25519_private), now=NOW)
        signer._plans.clear()
    assert len(compared) == 1


_LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)


@given(
    labels=st.lists(_LABEL, min_size=2, max_size=8),
    selector=st.lists(_LABEL, min_size=1, max_size=3),
    local_part=st.from_regex(r"[a-z.]{0,100}", fullmatch=True),
    names=st.lists(st.from_regex(r"[a-z][a-z-]{0,60}", fullmatch=True), max_size=60),
)
def test_folding_never_cuts_a_token(
    ed25519_private: object,
    labels: list[str],
    selector: list[str],
    local_part: str,
    names: list[str],
) -> None:
    """Lines are at most 78 octets unless one token is longer; every token is found whole."""
    sdid = ".".join(labels)
    fields = tuple(name for name in names if name != "dkim-signature")
    request = SignatureRequest(
        sdid,
        ".".join(selector),
        signing_request.ED25519,
        auid=f"{local_part}@{sdid}",
        fields=("from", *fields),
    )
    key = key_for(request, ed25519_private)  # type: ignore[arg-type]
    field = "DKIM-Signature:" + signer.sign(FIELDS, DIGEST, request, key, now=NOW).field_value
    lines = field.split("\n")
    assert all(line.startswith(" ") and line.strip() for line in lines[1:])
    for line in lines:
        one_token = not re.search(r"[ :]", line.strip().rstrip(":"))
        assert len(line) <= 78 or one_token, line
    words = re.sub(r"\s", " ", field)
    for token in (f"d={sdid};", f"s={request.selector};", *(f"{n}" for n in fields)):
        assert token in words
    assert f"i={request.auid};" in words or request.auid == f"@{sdid}"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        pytest.param([(b"Subject", b" hi")], "no-from", id="message-without-from"),
        pytest.param([*FIELDS, (b"Subject ", b" x")], "disputed-octets", id="space-before-colon"),
        pytest.param([*FIELDS, (b"Subject", b" x\ny")], "disputed-octets", id="fold-without-space"),
        pytest.param([*FIELDS, (b"Subject", b" x\x00")], "disputed-octets", id="nul"),
    ],
)
def test_some_messages_are_not_signed(
    fields: list[tuple[bytes, bytes]], code: str, signing_keys: Mapping[str, keyring.SigningKey]
) -> None:
    """The refusal has a code for the record and names no key material."""
    with pytest.raises(signer.SignatureFailed) as refusal:
        signer.sign(fields, DIGEST, request_for(), signing_keys[signing_request.RSA], now=NOW)
    assert refusal.value.code == code


def test_control_characters_in_fields_that_are_not_signed_do_not_matter(
    signing_keys: Mapping[str, keyring.SigningKey],
) -> None:
    """Only what is signed can be read differently."""
    fields = [*FIELDS, (b"X-Spam", b" \x0b\x00")]
    assert signer.sign(fields, DIGEST, request_for(), signing_keys[signing_request.RSA], now=NOW)


def test_a_key_signs_only_requests_that_name_it(
    signing_keys: Mapping[str, keyring.SigningKey],
) -> None:
    """A mix-up of keys is an error here, not a signature of the wrong domain."""
    with pytest.raises(signer.SignatureFailed, match="not the one"):
        signer.sign(
            FIELDS,
            DIGEST,
            request_for(sdid="example.net"),
            signing_keys[signing_request.RSA],
            now=NOW,
        )


class _Faulty(keyring.SigningKey):
    """A key on a machine whose arithmetic went wrong once."""

    def sign_digest(self, digest: bytes) -> bytes:
        good = super().sign_digest(digest)
        return good[:-1] + bytes([good[-1] ^ 1])


def test_a_faulty_signature_is_found_before_it_leaves(
    rsa_private: rsa.RSAPrivateKey, ed25519_private: ed25519.Ed25519PrivateKey
) -> None:
    """One wrong bit (a fault that can also give the key away) means no signature."""
    for algorithm, private in (
        (signing_request.RSA, rsa_private),
        (signing_request.ED25519, ed25519_private),
    ):
        request = request_for(algorithm=algorithm)
        with pytest.raises(signer.SignatureFailed) as refusal:
            signer.sign(FIELDS, DIGEST, request, _Faulty(request.key, private), now=NOW)
        assert refusal.value.code == "self-check-failed"


@pytest.mark.skipif(held_key.compiled is None, reason="no compiler was at hand")
@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("signature", "self-check-failed"),
        ("digest", "self-check-failed"),
        ("refusal", "signing-failed"),
    ],
)
def test_a_fault_in_the_compiled_half_is_a_refusal(
    rsa_private: rsa.RSAPrivateKey,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    fault: str,
    code: str,
) -> None:
    """The same words for the record as without it."""
    faulty = faulty_rsa.build(sanitizers.ROOT / "keys/_held_key.c", tmp_path, fault)
    monkeypatch.setattr(held_key, "compiled", faulty)
    pem = generate.private_pem(rsa_private)
    key = keyring.SigningKey(request_for().key, rsa_private, pem=pem)
    assert key.make_signature.__self__.__class__ is faulty.Key
    for _ in range(2):
        with pytest.raises(signer.SignatureFailed) as refusal:
            signer.sign(FIELDS, DIGEST, request_for(), key, now=NOW)
        assert refusal.value.code == code


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda text: text.replace("d=example.com", "d=exa mple.com"), id="fold-in-d"),
        pytest.param(
            lambda text: text.replace("from:subject", "from:\n subj\n ect"), id="fold-in-h"
        ),
        pytest.param(lambda text: text.replace("s=r;", "s=q;"), id="other-selector"),
    ],
)
def test_a_badly_folded_field_is_found_before_it_leaves(  # type: ignore[no-untyped-def]
    damage,
    monkeypatch: pytest.MonkeyPatch,
    signing_keys: Mapping[str, keyring.SigningKey],
) -> None:
    """The finished field is parsed back: what a verifier would not read as meant is refused."""
    packed = signer._packed
    monkeypatch.setattr(signer, "_packed", lambda tokens: damage(packed(tokens)))
    signer._plans.clear()
    signer._plan.cache_clear()
    try:
        with pytest.raises(signer.SignatureFailed, match="does not verify"):
            signer.sign(FIELDS, DIGEST, request_for(), signing_keys[signing_request.RSA], now=NOW)
    finally:
        signer._plans.clear()
        signer._plan.cache_clear()


def test_an_error_of_openssl_becomes_a_refusal(rsa_private: object) -> None:
    """Whatever the C library raises, the mail path gets a `SignatureFailed`."""

    class Broken(keyring.SigningKey):
        def sign_digest(self, digest: bytes) -> bytes:
            raise MemoryError

    key = Broken(KeyFacts("example.com", "r", signing_request.RSA), rsa_private)  # type: ignore[arg-type]
    with pytest.raises(signer.SignatureFailed) as refusal:
        signer.sign(FIELDS, DIGEST, request_for(), key, now=NOW)
    assert refusal.value.code == "signing-failed"
