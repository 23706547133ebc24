"""What a stranger's TXT records are: every fault has its name, and nothing raises."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from carbonseal.keys import dns_record, keyring
from carbonseal.keys.publication import faults, judgement
from carbonseal.policies.key_life import ServerState

OTHER, SHOWN = ServerState.OTHER, ServerState.SHOWN
VALUE = dns_record.value(
    keyring.public_octets(rsa.generate_private_key(public_exponent=65537, key_size=2048))
)


def one(value: str) -> judgement.Texts:
    return (tuple(part.encode() for part in dns_record.strings(value)),)


def _pkcs1(key: Any) -> str:
    der = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.PKCS1
    )
    return base64.b64encode(der).decode()


def test_the_key_is_shown(rsa_private: Any, ed25519_private: Any) -> None:
    """In our own form, and in others that verifiers take."""
    for private in (rsa_private, ed25519_private):
        key = keyring.public_octets(private)
        value = dns_record.value(key)
        for text in (value, value + ";", value.replace("; ", ";"), value.replace("h=sha256; ", "")):
            assert judgement.judge(one(text), key).state is SHOWN
            assert judgement.judge(one(text), None).state is SHOWN
    pkcs1 = f"p={_pkcs1(rsa_private)}"
    assert judgement.judge(one(pkcs1), keyring.public_octets(rsa_private)).state is SHOWN


def test_another_key_is_a_mismatch_only_where_one_is_expected(
    rsa_private: Any, rsa_other: Any
) -> None:
    """`keys check` of strangers' keys knows no right key."""
    texts = one(dns_record.value(keyring.public_octets(rsa_other)))
    judged = judgement.judge(texts, keyring.public_octets(rsa_private))
    assert (judged.state, judged.fault) == (OTHER, "mismatch")
    assert judgement.judge(texts, None).state is SHOWN


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        pytest.param(lambda v: "", "not-a-key", id="empty"),
        pytest.param(lambda v: "v=spf1 -all", "not-a-key", id="spf"),
        pytest.param(lambda v: "v=DKIM1", "truncated", id="unquoted-in-a-zone-file"),
        pytest.param(lambda v: "v=DKIM1; k=rsa;", "truncated", id="cut-before-p"),
        pytest.param(lambda v: v[:255], "truncated", id="first-string-only"),
        pytest.param(lambda v: v[:250], "truncated", id="cut-in-p"),
        pytest.param(lambda v: v[:-7], "truncated", id="end-missing"),
        pytest.param(lambda v: f'"{v}"', "quoted", id="quoted-twice"),
        pytest.param(lambda v: v.replace(";", "\\;"), "quoted", id="escaped-semicolons"),
        pytest.param(lambda v: v[:255] + '" "' + v[255:], "quoted", id="quotes-between-strings"),
        pytest.param(lambda v: v[:255] + "\\t" + v[255:], "quoted", id="backslash-t-inside"),
        pytest.param(lambda v: v.replace("k=rsa", "k=r sa"), "split", id="space-in-a-tag"),
        pytest.param(lambda v: v.replace("DKIM1", "DKI\tM1"), "split", id="tab-in-the-version"),
        pytest.param(lambda v: v[:300] + "()" + v[302:], "damaged", id="brackets-inside"),
        pytest.param(lambda v: v + "; v=DKIM1", "damaged", id="tag-twice"),
        pytest.param(lambda v: v.replace("DKIM1", "DKIM2"), "damaged", id="other-version"),
        pytest.param(lambda v: v.replace("rsa", "ed25519"), "wrong-type", id="rsa-as-ed25519"),
        pytest.param(lambda v: v.replace("rsa", "dsa"), "wrong-type", id="unknown-type"),
        pytest.param(lambda v: v + "; t=y", "testing", id="testing"),
        pytest.param(lambda v: v + "; t=s:y", "testing", id="testing-among-flags"),
        pytest.param(lambda v: v.replace("sha256", "sha1"), "no-sha256", id="sha1-only"),
        pytest.param(lambda v: v + "; s=tlsrpt", "not-for-mail", id="not-for-mail"),
        pytest.param(lambda v: v + " " * 9000, "not-a-key", id="endless"),
    ],
)
def test_damage_has_a_name(damage: Any, fault: str) -> None:
    """With the right key known and without, the same fault; and a sentence for it."""
    key = dns_record.parse(VALUE).public_key
    for expected, text in ((key, VALUE), (None, "")):
        judged = judgement.judge(one(damage(VALUE)), expected, text)
        assert (judged.state, judged.fault) == (OTHER, fault)
        assert faults.sentence(judged.fault, place="here", about=judged.about)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param("; t=s", id="strict"),
        pytest.param("; s=*", id="all-services"),
        pytest.param("; s=tlsrpt:email", id="mail-among-services"),
        pytest.param("; n=a note; x=unknown", id="notes"),
        pytest.param("; t=z", id="unknown-flag"),
    ],
)
def test_what_verifiers_accept_is_no_fault(change: str) -> None:
    """Flags and services that do not matter."""
    assert judgement.judge(one(VALUE + change), None).state is SHOWN


def test_what_is_lost_in_the_middle_is_seen_where_the_key_is_known() -> None:
    """As when a string of 256 octets lost its last one."""
    key = dns_record.parse(VALUE).public_key
    assert judgement.judge(one(VALUE[:300] + VALUE[302:]), key).fault == "damaged"


def test_ed25519_as_spki_is_named(ed25519_private: Any) -> None:
    """The commonest mistake with Ed25519; and a raw key without k=."""
    key = keyring.public_octets(ed25519_private)
    spki = base64.b64encode(key).decode()
    for value in (f"v=DKIM1; k=ed25519; p={spki}", f"v=DKIM1; k=rsa; p={spki}"):
        assert judgement.judge(one(value), key).fault == "wrong-ed25519"
    raw = dns_record.value(key)
    assert judgement.judge(one(raw.replace("k=ed25519; ", "")), key).fault == "wrong-type"
    assert judgement.judge(one(raw[:-9]), key).fault == "truncated"


def test_sizes_are_judged_as_verifiers_do() -> None:
    """Under 1,024 bits nobody may accept it; under 2,048 is a note."""
    modulus = {bits: (1 << (bits - 1)) + 0x10001 for bits in (768, 1024, 2048, 8192)}

    def judged(bits: int) -> judgement.Judgement:
        der = (
            rsa.RSAPublicNumbers(65537, modulus[bits])
            .public_key()
            .public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        return judgement.judge(one(f"p={base64.b64encode(der).decode()}"), None)

    assert (judged(768).state, judged(768).fault, judged(768).about) == (OTHER, "weak-key", "768")
    assert (judged(1024).state, judged(1024).note) == (SHOWN, "short-key")
    assert (judged(2048).state, judged(2048).note) == (SHOWN, "")
    assert (judged(8192).state, judged(8192).note) == (SHOWN, "long-key")


def test_revoked_is_a_state_of_its_own() -> None:
    """An empty p=, whatever else is said."""
    for value in ("v=DKIM1; p=", "p=;", "v=DKIM1; k=rsa; t=y; p="):
        assert judgement.judge(one(value), b"key").state is ServerState.REVOKED


def test_strings_that_became_records_are_told_from_two_records(rsa_other: Any) -> None:
    """Each string of a long value as a TXT record of its own, in any order."""
    parts = [(part.encode(),) for part in dns_record.strings(VALUE)]
    assert judgement.judge(tuple(parts[::-1]), None).fault == "split"
    two = (*one(VALUE), *one(dns_record.value(keyring.public_octets(rsa_other))))
    assert judgement.judge(two, None).fault == "two-records"
    assert judgement.judge(two[:1] + one("v=spf1 -all"), None).fault == "two-records"


PIECES = st.sampled_from(
    [
        "v=DKIM1",
        ";",
        " ",
        "p=",
        "k=rsa",
        "k=ed25519",
        VALUE[40:90],
        "=",
        '"',
        "\t",
        "\\",
        "é",
        "MII",
    ]
)


@given(
    texts=st.lists(
        st.lists(
            st.binary(max_size=40)
            | st.lists(PIECES, max_size=8).map(lambda p: "".join(p).encode()),
            max_size=4,
        ).map(tuple),
        max_size=4,
    ).map(tuple),
    known=st.booleans(),
)
def test_whatever_is_published_gets_a_judgement(texts: judgement.Texts, known: bool) -> None:
    """A state, and for all but the key a fault with a sentence that fits on a screen."""
    key = dns_record.parse(VALUE).public_key if known else None
    judged = judgement.judge(texts, key, VALUE if known else "")
    assert (judged.fault == "") == (judged.state is SHOWN)
    if judged.fault:
        sentence = faults.sentence(judged.fault, place="x", about=judged.about)
        assert sentence.isprintable()
        assert len(sentence) < 1500
