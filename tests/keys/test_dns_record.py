"""The record to publish: what is built is read back, what is damaged is named."""

from __future__ import annotations

import base64
from typing import Any

import dns.rdataclass
import dns.rdatatype
import dns.zone
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from carbonseal.keys import dns_record, generate, key_record, keyring
from carbonseal.policies import errors

NAME = "s1._domainkey.example.com"


@pytest.mark.parametrize("bits", [2048, 3072, 4096, 0], ids=["2048", "3072", "4096", "ed25519"])
def test_zone_text_is_read_by_a_dns_library_as_the_same_key(bits: int) -> None:
    """Quotes and strings of at most 255 octets survive the zone file."""
    private = generate.generate("rsa-sha256" if bits else "ed25519-sha256", bits)
    value = dns_record.value(keyring.public_octets(private))
    text = dns_record.zone_text(NAME, value, ttl=3600)
    apex = "@ IN SOA ns.example.com. x.example.com. 1 1 1 1 1\n@ IN NS ns.example.com."
    zone = dns.zone.from_text(
        f"$TTL 60\n{apex}\n{text}\n",
        origin="example.com.",
        relativize=False,
    )
    rdata = zone.find_rdataset(NAME + ".", dns.rdatatype.TXT)[0]
    assert all(len(part) <= 255 for part in rdata.strings)
    record = dns_record.parse(b"".join(rdata.strings).decode())
    assert record.fingerprint == keyring.fingerprint(private)
    assert record.bits == (bits or 256)
    assert record.hashes == ("sha256",)


def test_the_value_is_exactly_what_the_field_publishes(
    rsa_private: Any, ed25519_private: Any
) -> None:
    """RSA as SubjectPublicKeyInfo, Ed25519 as the raw 32 octets."""
    rsa_value = dns_record.value(keyring.public_octets(rsa_private))
    assert rsa_value.startswith("v=DKIM1; k=rsa; h=sha256; p=MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A")
    assert len(rsa_value) == 420
    assert [len(part) for part in dns_record.strings(rsa_value)] == [255, 165]
    ed_value = dns_record.value(keyring.public_octets(ed25519_private))
    raw = base64.b64encode(ed25519_private.public_key().public_bytes_raw()).decode()
    assert ed_value == f"v=DKIM1; k=ed25519; h=sha256; p={raw}"


def test_the_form_of_the_rfc_text_is_read_too(rsa_private: Any) -> None:
    """RFC 6376 says RSAPublicKey; some publish that."""
    der = rsa_private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.PKCS1
    )
    record = dns_record.parse("p=" + base64.b64encode(der).decode())
    assert record.fingerprint == keyring.fingerprint(rsa_private)


@pytest.mark.parametrize(
    "dress",
    [
        pytest.param(lambda v: v + ";", id="trailing-semicolon"),
        pytest.param(lambda v: v.replace("; ", ";"), id="no-spaces"),
        pytest.param(lambda v: v.replace("; ", " ;\r\n\t"), id="folding-white-space"),
        pytest.param(lambda v: v[:300] + " \t" + v[300:], id="white-space-in-p"),
        pytest.param(lambda v: v + "; x=unknown; n=a note", id="unknown-tags"),
        pytest.param(lambda v: v.rstrip("="), id="no-padding"),
        pytest.param(lambda v: v.replace("v=DKIM1; ", ""), id="no-version"),
    ],
)
def test_records_of_others_are_read_where_the_rfc_allows_it(dress: Any, rsa_private: Any) -> None:
    """Tolerance where RFC 6376 section 3.2 has it, none elsewhere."""
    value = dress(dns_record.value(keyring.public_octets(rsa_private)))
    assert dns_record.parse(value).fingerprint == keyring.fingerprint(rsa_private)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        pytest.param(lambda v: "v=DKIM1", "no p= tag", id="cut-at-first-semicolon"),
        pytest.param(lambda v: v[:255], "cut short", id="only-the-first-string"),
        pytest.param(lambda v: v.replace("DKIM1", "DKIM2"), "not v=DKIM1", id="version"),
        pytest.param(lambda v: v + "; v=DKIM1", "twice", id="tag-twice"),
        pytest.param(lambda v: "k=rsa; v=DKIM1; p=", "must come first", id="version-not-first"),
        pytest.param(lambda v: f'"{v}"', "quotation marks", id="quoted-twice"),
        pytest.param(lambda v: v.replace("; ", "\\; "), "backslashes", id="escaped"),
        pytest.param(lambda v: v.replace("k=rsa", "k=dsa"), "no key type", id="key-type"),
        pytest.param(
            lambda v: v.replace("k=rsa", "k=ed25519"), "raw 32 octets", id="spki-as-ed25519"
        ),
        pytest.param(lambda v: v.replace("p=", "p=!"), "not base64", id="not-base64"),
        pytest.param(lambda v: "", "no p= tag", id="empty"),
        pytest.param(lambda v: "hello", "no tag=value", id="text"),
        pytest.param(lambda v: "x" * 9000, "9000 octets", id="too-long"),
    ],
)
def test_a_damaged_record_is_named(damage: Any, says: str, rsa_private: Any) -> None:
    """The damages that DNS editors and copying really do."""
    with pytest.raises(errors.DataError, match=says):
        dns_record.parse(damage(dns_record.value(keyring.public_octets(rsa_private))))


def test_an_empty_key_means_revoked() -> None:
    """RFC 6376 section 3.6.1; flags and services are read as lists."""
    record = dns_record.parse("v=DKIM1; t=y:s; s=email; p=")
    assert record.is_revoked
    assert (record.flags, record.services, record.bits) == (("y", "s"), ("email",), 0)


@given(text=st.text(max_size=300) | st.from_regex(r"(\s*[a-z]=[^;]*;)*p=[A-Za-z0-9+/=]{0,80}"))
def test_any_text_is_a_record_or_a_sentence(text: str) -> None:
    """Nothing a name server may answer raises anything else."""
    try:
        record = dns_record.parse(text)
    except errors.DataError:
        return
    assert record.is_revoked or key_record.fingerprint_of(record.public_key)


@pytest.mark.parametrize(
    "public_key",
    [
        pytest.param(b"no key", id="garbage"),
        pytest.param(
            keyring.public_octets(ec.generate_private_key(ec.SECP256R1())),  # type: ignore[arg-type]
            id="elliptic-curve",
        ),
    ],
)
def test_a_key_that_is_none_is_not_published(public_key: bytes) -> None:
    """A damaged key record must not become a DNS record, nor a traceback."""
    with pytest.raises(errors.DataError, match="no RSA or Ed25519"):
        dns_record.value(public_key)
