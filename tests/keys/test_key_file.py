"""Every form of private key people have is read; everything else gets one sentence."""

from __future__ import annotations

import base64
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carbonseal.keys import key_file, keyring
from carbonseal.policies import errors

PKCS1 = serialization.PrivateFormat.TraditionalOpenSSL
PKCS8 = serialization.PrivateFormat.PKCS8
OPENSSH = serialization.PrivateFormat.OpenSSH


def pem(private: Any, form: Any = PKCS8, password: bytes | None = None) -> bytes:
    hidden = (
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption()
    )
    octets: bytes = private.private_bytes(serialization.Encoding.PEM, form, hidden)
    return octets


@pytest.mark.parametrize("form", [PKCS1, PKCS8], ids=["pkcs1", "pkcs8"])
@pytest.mark.parametrize(
    "disguise",
    [
        pytest.param(lambda text: text, id="as-it-is"),
        pytest.param(lambda text: text.replace(b"\n", b"\r\n"), id="crlf"),
        pytest.param(lambda text: b"\n \n" + text + b"\n\n\t", id="white-space-around"),
        pytest.param(lambda text: b"\xef\xbb\xbf" + text, id="byte-order-mark"),
        pytest.param(lambda text: text.replace(b"\n", b" \n    "), id="indented"),
        pytest.param(lambda text: text.rstrip(), id="no-final-line-end"),
        pytest.param(lambda text: b"notes first\n" + text + b"and after\n", id="text-around"),
    ],
)
def test_rsa_pem_is_read_in_any_dress(
    form: Any, disguise: Any, tmp_path: Path, rsa_private: rsa.RSAPrivateKey
) -> None:
    """PKCS#1 (openssl genrsa, opendkim-genkey) and PKCS#8."""
    path = tmp_path / "key"
    path.write_bytes(disguise(pem(rsa_private, form)))
    assert keyring.fingerprint(key_file.read(path)) == keyring.fingerprint(rsa_private)


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(pem, id="pkcs8"),
        pytest.param(lambda key: base64.b64encode(key.private_bytes_raw()), id="seed"),
        pytest.param(
            lambda key: base64.b64encode(key.private_bytes_raw()) + b"\r\n", id="seed-crlf"
        ),
        pytest.param(
            lambda key: base64.b64encode(
                key.private_bytes_raw() + key.public_key().public_bytes_raw()
            ),
            id="seed-and-public",
        ),
    ],
)
def test_ed25519_is_read_as_pem_and_as_seed(
    form: Any, tmp_path: Path, ed25519_private: Any
) -> None:
    """The seed in base64 is what dkimpy's dknewkey writes."""
    path = tmp_path / "key"
    path.write_bytes(form(ed25519_private))
    assert keyring.fingerprint(key_file.read(path)) == keyring.fingerprint(ed25519_private)


def _directory(path: Path) -> None:
    path.mkdir()


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _small_key() -> bytes:
    """Our own library refuses to make it."""
    command = ["openssl", "genrsa", "768"]
    return subprocess.run(command, capture_output=True, check=True).stdout


BAD: list[Any] = [
    pytest.param(lambda p, r: None, "no such file", id="missing"),
    pytest.param(lambda p, r: _directory(p), "is a directory", id="directory"),
    pytest.param(lambda p, r: _fifo(p), "no regular file", id="fifo"),
    pytest.param(lambda p, r: p.write_bytes(b""), "is empty", id="empty"),
    pytest.param(lambda p, r: p.write_bytes(b"\xef\xbb\xbf \n"), "is empty", id="only-white-space"),
    pytest.param(lambda p, r: p.write_bytes(b"x" * 65537), "larger than 64 KiB", id="too-large"),
    pytest.param(
        lambda p, r: p.write_bytes(pem(r, PKCS8, b"secret")), "openssl pkey", id="encrypted-pkcs8"
    ),
    pytest.param(
        lambda p, r: p.write_bytes(pem(r, PKCS1, b"secret")), "openssl pkey", id="encrypted-pkcs1"
    ),
    pytest.param(lambda p, r: p.write_bytes(pem(r, OPENSSH)), "ssh-keygen", id="openssh"),
    pytest.param(
        lambda p, r: p.write_bytes(
            r.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        ),
        "public key; give the private one",
        id="public-key",
    ),
    pytest.param(
        lambda p, r: p.write_bytes(pem(ec.generate_private_key(ec.SECP256R1()))),
        "no algorithm",
        id="ec-pkcs8",
    ),
    pytest.param(
        lambda p, r: p.write_bytes(pem(ec.generate_private_key(ec.SECP256R1()), PKCS1)),
        "elliptic-curve",
        id="ec-sec1",
    ),
    pytest.param(
        lambda p, r: p.write_bytes(pem(dsa.generate_private_key(1024), PKCS1)), "DSA", id="dsa"
    ),
    pytest.param(lambda p, r: p.write_bytes(pem(r)[:600]), "no complete private key", id="cut"),
    pytest.param(
        lambda p, r: p.write_bytes(pem(r) + pem(ed25519.Ed25519PrivateKey.generate())),
        "several private keys",
        id="two-keys",
    ),
    pytest.param(
        lambda p, r: p.write_bytes(pem(r)[:300] + pem(r)[364:]), "damaged", id="line-missing"
    ),
    pytest.param(lambda p, r: p.write_bytes(b"hello"), "neither PEM nor", id="some-text"),
    pytest.param(lambda p, r: p.write_bytes(bytes(range(256))), "neither PEM nor", id="binary"),
    pytest.param(
        lambda p, r: p.write_bytes(base64.b64encode(bytes(64))), "two halves", id="halves-differ"
    ),
    pytest.param(
        lambda p, r: p.write_bytes(_small_key()),
        "768 bits",
        id="rsa-too-small",
    ),
]


@pytest.mark.parametrize(("make", "says"), BAD)
def test_what_is_no_usable_key_gets_one_sentence(
    make: Any, says: str, tmp_path: Path, rsa_private: rsa.RSAPrivateKey
) -> None:
    """Path first, then what is wrong, then the remedy; nothing of the content."""
    path = tmp_path / "key"
    make(path, rsa_private)
    with pytest.raises(errors.DataError) as refusal:
        key_file.read(path)
    sentence = refusal.value.sentence
    assert sentence.startswith(f"{path}: ")
    assert says in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert refusal.value.__cause__ is None


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, which becomes another user for a moment")
def test_an_unreadable_file_names_the_component_that_bars(tmp_path: Path) -> None:
    """Here the directory of the file: closed to the user who runs the command."""
    path = tmp_path / "closed" / "key"
    path.parent.mkdir(mode=0o700)
    path.write_text("x")
    os.chmod(tmp_path, 0o755)
    os.seteuid(65534)
    try:
        with pytest.raises(errors.DataError) as refusal:
            key_file.read(path)
    finally:
        os.seteuid(0)
    assert "may not read it" in refusal.value.sentence
    assert "chmod" in refusal.value.sentence


@given(content=st.binary(max_size=300) | st.text(max_size=200).map(lambda t: t.encode("utf-8")))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_content_gives_anything_but_a_key_or_a_sentence(tmp_path: Path, content: bytes) -> None:
    """The reader never raises what is not for an operator."""
    path = tmp_path / "key"
    sentences: set[str] = set()
    for text in (
        content,
        b"-----BEGIN PRIVATE KEY-----\n" + content + b"\n-----END PRIVATE KEY-----",
    ):
        path.write_bytes(text)
        try:
            key_file.read(path)
        except errors.DataError as refusal:
            sentences.add(refusal.sentence)
    assert all(sentence.startswith(str(path)) for sentence in sentences)
