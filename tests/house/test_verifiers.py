"""The judges of signatures do judge: what is right passes, one changed octet fails."""

from __future__ import annotations

import base64
import hashlib

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from support import verifiers
from support.verifiers import JUDGES, Judgement, Result

RSA_NAME = "r._domainkey.example.com"
ED25519_NAME = "e._domainkey.example.com"
UNSIGNED = (
    b"From: Alice <alice@example.com>\r\n"
    b"To: bob@example.org\r\n"
    b"Subject: Quarterly\r\n\tfigures\r\n"
    b"Date: Sat, 21 Nov 2026 12:00:00 +0000\r\n"
    b"\r\n"
    b"Hello Bob,\r\n\r\n  here they are.\r\n"
)
FIELDS = [b"from", b"to", b"subject", b"date"]


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    """An RSA-2048 key."""
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture(scope="module")
def ed25519_key() -> ed25519.Ed25519PrivateKey:
    """An Ed25519 key."""
    return ed25519.Ed25519PrivateKey.generate()


@pytest.fixture(scope="module")
def records(rsa_key: rsa.RSAPrivateKey, ed25519_key: ed25519.Ed25519PrivateKey) -> dict[str, bytes]:
    """What DNS would say about both keys."""
    spki = rsa_key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    raw = ed25519_key.public_key().public_bytes_raw()
    return {
        RSA_NAME: b"v=DKIM1; k=rsa; p=" + base64.b64encode(spki),
        ED25519_NAME: b"v=DKIM1; k=ed25519; p=" + base64.b64encode(raw),
    }


@pytest.fixture(scope="module")
def signed(rsa_key: rsa.RSAPrivateKey) -> bytes:
    """UNSIGNED with dkimpy's own RSA signature on top, relaxed/relaxed."""
    pem = rsa_key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    field: bytes = dkim.sign(
        UNSIGNED,
        b"r",
        b"example.com",
        pem,
        canonicalize=(b"relaxed", b"relaxed"),
        include_headers=list(FIELDS),
    )
    return field + UNSIGNED


@pytest.fixture(scope="module")
def signed_ed25519(ed25519_key: ed25519.Ed25519PrivateKey) -> bytes:
    """UNSIGNED with a simple/simple Ed25519 signature made by hand (RFC 8463, section 3).

    Under `simple` the octets are signed as they stand, so no canonicalization code is involved.
    """
    head, _, body = UNSIGNED.partition(b"\r\n\r\n")
    digest = base64.b64encode(hashlib.sha256(body).digest())
    field = (
        b"DKIM-Signature: v=1; a=ed25519-sha256; c=simple/simple; d=example.com; s=e;\r\n"
        b"\th=" + b":".join(FIELDS) + b"; bh=" + digest + b";\r\n\tb="
    )
    text = head + b"\r\n" + field
    signature = ed25519_key.sign(hashlib.sha256(text).digest())
    return field + base64.b64encode(signature) + b"\r\n" + UNSIGNED


def results(judgements: list[Judgement]) -> list[Result]:
    return [judgement.result for judgement in judgements]


@pytest.mark.parametrize("judge", JUDGES)
def test_a_right_signature_passes(judge: str, signed: bytes, records: dict[str, bytes]) -> None:
    """A message that dkimpy signed with RSA is accepted, and its signature is named."""
    (judgement,) = verifiers.verify(judge, signed, records)
    assert (judgement.result, judgement.detail) == (Result.PASS, "")
    assert judgement.judge == judge
    assert (judgement.sdid, judgement.selector) == ("example.com", "r")
    assert judgement.algorithm == "rsa-sha256"


@pytest.mark.parametrize("judge", JUDGES)
@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(b"here they are", b"here they arE", id="body-octet"),
        pytest.param(b"Quarterly", b"QuarterlY", id="header-octet"),
        pytest.param(b"\r\n\r\n  here", b"\r\n\r\n\r\n  here", id="empty-line-more"),
        pytest.param(b"To: bob@", b"To: eve@", id="recipient"),
    ],
)
def test_one_changed_octet_fails(
    judge: str, before: bytes, after: bytes, signed: bytes, records: dict[str, bytes]
) -> None:
    """`fail`, and nothing vaguer."""
    changed = signed.replace(before, after)
    assert changed != signed
    assert results(verifiers.verify(judge, changed, records)) == [Result.FAIL]


@pytest.mark.parametrize("judge", JUDGES)
@pytest.mark.parametrize(
    "record",
    [
        pytest.param(None, id="no-record"),
        pytest.param(b"v=DKIM1; k=rsa; p=", id="revoked"),
    ],
)
def test_a_missing_key_is_told_apart(judge: str, record: bytes | None, signed: bytes) -> None:
    """A rotation test needs to see that the key was the reason."""
    known = {} if record is None else {RSA_NAME: record}
    (judgement,) = verifiers.verify(judge, signed, known)
    assert judgement.result == Result.NO_KEY
    assert judgement.detail


@pytest.mark.parametrize("judge", JUDGES)
def test_another_key_at_the_name_fails(
    judge: str, signed: bytes, records: dict[str, bytes]
) -> None:
    """The key is taken from the mapping, not from anywhere else."""
    other = rsa.generate_private_key(65537, 2048).public_key()
    spki = other.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    wrong = {**records, RSA_NAME: b"v=DKIM1; k=rsa; p=" + base64.b64encode(spki)}
    assert results(verifiers.verify(judge, signed, wrong)) == [Result.FAIL]


@pytest.mark.parametrize(
    ("judge", "expected"),
    [
        pytest.param("dkimpy", Result.PASS, id="dkimpy"),
        pytest.param("opendkim", Result.PASS, id="opendkim"),
        pytest.param("mail-dkim", Result.UNSUPPORTED, id="mail-dkim"),
    ],
)
def test_ed25519_where_it_is_supported(
    judge: str, expected: Result, signed_ed25519: bytes, records: dict[str, bytes]
) -> None:
    """Mail::DKIM of Debian 12 says so; a newer one may pass."""
    (judgement,) = verifiers.verify(judge, signed_ed25519, records)
    assert judgement.algorithm == "ed25519-sha256"
    assert judgement.result == expected


@pytest.mark.parametrize("judge", ["dkimpy", "opendkim"])
@pytest.mark.parametrize("octet", [b"here", b"Quarterly"], ids=["body", "header"])
def test_a_changed_ed25519_message_fails(
    judge: str, octet: bytes, signed_ed25519: bytes, records: dict[str, bytes]
) -> None:
    """The two that know the algorithm do compute it."""
    changed = signed_ed25519.replace(octet, octet.swapcase())
    assert results(verifiers.verify(judge, changed, records)) == [Result.FAIL]


@pytest.mark.parametrize("judge", JUDGES)
def test_each_signature_gets_its_own_judgement_in_order(
    judge: str, signed: bytes, signed_ed25519: bytes, records: dict[str, bytes]
) -> None:
    """A broken one above a good one, and the Ed25519 one in between."""
    good = signed.removesuffix(UNSIGNED)
    between = signed_ed25519.removesuffix(UNSIGNED)
    broken = good.replace(b"s=r;", b"s=gone;")
    judged = verifiers.verify(judge, broken + between + good + UNSIGNED, records)
    assert [(one.selector, one.algorithm) for one in judged] == [
        ("gone", "rsa-sha256"),
        ("e", "ed25519-sha256"),
        ("r", "rsa-sha256"),
    ]
    middle = Result.UNSUPPORTED if judge == "mail-dkim" else Result.PASS
    assert results(judged) == [Result.NO_KEY, middle, Result.PASS]


@pytest.mark.parametrize("judge", JUDGES)
def test_a_batch_is_judged_message_by_message(
    judge: str, signed: bytes, records: dict[str, bytes]
) -> None:
    """A hundred messages in one call; the bad one does not touch its neighbours."""
    batch = [signed] * 100
    batch[40] = signed.replace(b"Hello", b"HELLO")
    batch[41] = UNSIGNED
    batch[42] = b" no header field\r\n" + signed
    judged = verifiers.verify_many(judge, batch, records)
    assert results(judged[40]) == [Result.FAIL]
    assert judged[41] == []
    good = judged[:40] + judged[43:]
    assert [results(one) for one in good] == [[Result.PASS]] * 97


@pytest.mark.parametrize("judge", JUDGES)
@pytest.mark.parametrize(
    "field",
    [
        pytest.param(b"DKIM-Signature: \r\n", id="empty"),
        pytest.param(b"DKIM-Signature: v=1; a=rsa-sha256\r\n", id="tags-missing"),
        pytest.param(b"DKIM-Signature: ;;;=\x00\xff\r\n", id="rubbish"),
        pytest.param(
            b"DKIM-Signature: v=1; d=\xc3\xbc.example; s=\xff; a=x; b=; bh=\r\n", id="8-bit"
        ),
    ],
)
def test_a_malformed_signature_never_passes_and_hides_nothing(
    judge: str, field: bytes, signed: bytes, records: dict[str, bytes]
) -> None:
    """One judgement for each field, the malformed one included."""
    judged = verifiers.verify(judge, field + signed, records)
    assert len(judged) == 2
    assert judged[0].result not in (Result.PASS, Result.FAIL)
    assert judged[1].selector == "r"
