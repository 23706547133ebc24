"""8-bit content and next hops that take 7 bits only: signed with a warning on record."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from support import verifiers
from support.relay import Relay, relay
from support.sink import EXTENSIONS

pytestmark = [
    pytest.mark.postfix,
    pytest.mark.root,
    pytest.mark.skipif(
        os.geteuid() != 0, reason="a private Postfix needs root, because master(8) changes users"
    ),
]

# SMTPUTF8 implies 8BITMIME (RFC 6531), so a 7-bit next hop offers neither.
EIGHT_BIT = ("8BITMIME", "SMTPUTF8")
MESSAGE = (
    "From: alice@example.com\r\nTo: bob@remote.test\r\nSubject: umlauts\r\n"
    "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
    "Content-Transfer-Encoding: 8bit\r\n\r\nSchöne Grüße\r\n"
).encode()


@pytest.fixture
def running() -> Iterator[Relay]:
    with relay() as started:
        yield started


def deliver(running: Relay) -> tuple[bytes, dict[str, object]]:
    running.send("inside", "alice@example.com", ["bob@remote.test"], MESSAGE)
    running.mta.wait_until_empty()
    (record,) = running.service.wait_for_records(1)
    return running.sink.deliveries[0].content, record


def test_an_eight_bit_next_hop_gets_a_signature_that_verifies(running: Relay) -> None:
    """The warning is on record although nothing went wrong."""
    delivered, record = deliver(running)
    assert "eight-bit-content" in record["reasons"]  # type: ignore[operator]
    records = running.service.dns_records()
    for judge in verifiers.JUDGES:
        assert [one.result for one in verifiers.verify(judge, delivered, records)] == ["pass"]


def test_a_seven_bit_next_hop_breaks_it_as_the_record_warned(running: Relay) -> None:
    """Postfix re-encodes after the milter; the record says beforehand that this may happen."""
    running.sink.extensions = tuple(one for one in EXTENSIONS if one not in EIGHT_BIT)
    delivered, record = deliver(running)
    assert b"quoted-printable" in delivered
    assert "eight-bit-content" in record["reasons"]  # type: ignore[operator]
    records = running.service.dns_records()
    assert verifiers.verify("dkimpy", delivered, records)[0].result == "fail"


def test_without_mime_conversion_the_signature_stays_whole(running: Relay) -> None:
    """disable_mime_output_conversion, as the Postfix snippets advise for such hops."""
    running.mta.stop()
    running.mta.parameters["disable_mime_output_conversion"] = "yes"
    running.mta.start()
    running.sink.extensions = tuple(one for one in EXTENSIONS if one not in EIGHT_BIT)
    delivered, _ = deliver(running)
    records = running.service.dns_records()
    assert verifiers.verify("dkimpy", delivered, records)[0].result == "pass"
