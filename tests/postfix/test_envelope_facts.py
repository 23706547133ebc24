"""What the record knows of the envelope: TLS, login, HELO, parameters, raw arguments."""

from __future__ import annotations

import json
import os
import smtplib
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.relay import Relay, relay

pytestmark = [
    pytest.mark.postfix,
    pytest.mark.root,
    pytest.mark.skipif(
        os.geteuid() != 0, reason="a private Postfix needs root, because master(8) changes users"
    ),
]

MESSAGE = b"From: alice@example.com\r\nSubject: facts\r\n\r\ntext\r\n"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    certificate = tmp_path_factory.mktemp("tls") / "cert.pem"
    make_certificate(certificate)
    changes = {
        "signing": {"keys": "keys", "logins": {"alice": ["alice@example.com"], "*": []}},
    }
    with relay(
        changes,
        parameters={
            "smtpd_tls_security_level": "may",
            "smtpd_tls_chain_files": str(certificate),
        },
    ) as started:
        yield started


def make_certificate(path: Path) -> None:
    """A self-signed certificate with its key in one file, as smtpd_tls_chain_files wants it."""
    key = path.with_name("key.pem")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=mx1.example.com", "-keyout", key, "-out", path),
        ],
        check=True,
        capture_output=True,
    )
    path.write_bytes(key.read_bytes() + path.read_bytes())


def shown(running: Relay, queue_id: str) -> dict[str, Any]:
    running.service.wait_for_records(1, "--queue-id", queue_id)
    text = running.service.command("archive", "show", queue_id, "--json").stdout
    content: dict[str, Any] = json.loads(text.splitlines()[0])
    return content


def test_tls_is_on_record(running: Relay) -> None:
    """Version and cipher of the session, asked for at the right stage."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with smtplib.SMTP("127.0.0.1", running.mta.port("inside")) as client:
        client.starttls(context=context)
        client.ehlo("tls.example")
        client.mail("alice@example.com")
        client.rcpt("bob@remote.test")
        _, answer = client.data(MESSAGE)
    record = shown(running, answer.decode().rpartition(" ")[2])
    assert record["tls"]["version"].startswith("TLSv1.")
    assert record["tls"]["cipher"]
    assert int(record["tls"]["bits"]) >= 128
    assert record["client"]["helo"] == "tls.example"


def test_envelope_and_parameters_are_on_record_as_typed(running: Relay) -> None:
    """Raw arguments, ESMTP parameters, login, listener and what Postfix resolved."""
    with running.client("submission") as client:
        sending = client.send(
            "Alice@Example.COM",
            ["<bob%remote.test@example.com> NOTIFY=FAILURE,DELAY"],
            MESSAGE,
            parameters=["SIZE=200", "BODY=8BITMIME", "RET=HDRS", "ENVID=abc"],
        )
    record = shown(running, sending.queue_id)
    assert record["tls"] is None
    assert record["login"] == "alice"
    assert record["listener"] == "submission"
    assert record["client"]["address"] == "198.51.100.7"
    assert record["reverse_path"]["raw"] == "<Alice@Example.COM>"
    assert record["reverse_path"]["esmtp"] == ["SIZE=200", "BODY=8BITMIME", "RET=HDRS", "ENVID=abc"]
    (recipient,) = record["recipients"]
    assert recipient["raw"] == "<bob%remote.test@example.com>"
    assert recipient["resolved"] == "bob@remote.test"
    assert recipient["esmtp"] == ["NOTIFY=FAILURE,DELAY"]
    assert record["body_hash"]["canonicalization"] == "relaxed"
    assert [name for name, _ in record["header_fields"]][:2] == ["From", "Subject"]


@pytest.mark.parametrize(
    ("author", "is_signed"),
    [("alice@example.com", True), ("bob@example.com", False)],
    ids=["own-author", "a-colleague"],
)
def test_a_login_signs_only_for_its_own_authors(
    running: Relay, author: str, is_signed: bool
) -> None:
    """The refusal is on record, the mail is not held up."""
    content = MESSAGE.replace(b"alice@example.com", author.encode())
    sending = running.send("submission", "alice@example.com", ["x@remote.test"], content)
    assert sending.end.code == 250
    record = shown(running, sending.queue_id)
    assert bool(record["signatures"]) == is_signed
    if not is_signed:
        assert f"author-not-allowed(alice as {author})" in record["reasons"]
