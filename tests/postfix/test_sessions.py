"""Many messages on one connection: nothing of one reaches the next."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from support.relay import Relay, relay

pytestmark = [
    pytest.mark.postfix,
    pytest.mark.root,
    pytest.mark.skipif(
        os.geteuid() != 0, reason="a private Postfix needs root, because master(8) changes users"
    ),
]


@pytest.fixture(scope="module")
def running() -> Iterator[Relay]:
    networks = ["192.0.2.0/24", "2001:db8::/32"]
    with relay(
        {"ours": {"domains": ["example.com"], "networks": networks}},
        parameters={"message_size_limit": "65536"},
    ) as started:
        yield started


def message(mark: str, *fields: str) -> bytes:
    head = "".join(f"{field}\r\n" for field in (*fields, f"Message-ID: <{mark}@session>"))
    return f"{head}\r\n{mark}\r\n".encode()


OURS = "From: alice@example.com"


def record_of(running: Relay, mark: str) -> dict[str, object]:
    (record,) = running.service.wait_for_records(1, "--message-id", f"{mark}@session")
    return record


def test_an_author_of_one_message_does_not_sign_the_next(running: Relay) -> None:
    """A message without a usable author after a signed one stays unsigned."""
    with running.client("inside") as client:
        client.send("a@example.com", ["b@remote.test"], message("carry-1", OURS))
        client.send("a@example.com", ["b@remote.test"], message("carry-2", "From: MAILER-DAEMON"))
        client.send(
            "a@example.com", ["b@remote.test"], message("carry-3", "From: x@elsewhere.example")
        )
        client.send("a@example.com", ["b@remote.test"], message("carry-4", OURS))
    signed = [bool(record_of(running, f"carry-{n}")["signatures"]) for n in (1, 2, 3, 4)]
    assert signed == [True, False, False, True]


def test_recipients_before_a_reset_are_forgotten(running: Relay) -> None:
    """RSET ends a transaction; its outside recipient proves nothing about the next."""
    with running.client("inside") as client:
        client.mail("a@example.com")
        client.rcpt("outside@remote.test")
        client.rset()
        client.send("a@example.com", ["b@example.com"], message("reset", OURS))
    record = record_of(running, "reset")
    assert record["crossing"] == "internal"
    assert record["recipients"] == ["b@example.com"]


def test_a_message_that_postfix_refuses_after_data_leaves_nothing_behind(running: Relay) -> None:
    """Too large: Postfix aborts the transaction in the middle of the content."""
    with running.client("inside") as client:
        too_large = message("too-large", OURS) + b"x" * 70 + b"\r\n" * 40_000
        sending = client.send("a@example.com", ["outside@remote.test"], too_large)
        assert sending.end.code == 552
        client.send("a@example.com", ["b@example.com"], message("after-too-large", OURS))
    record = record_of(running, "after-too-large")
    assert record["crossing"] == "internal"
    assert running.service.search("--message-id", "too-large@session") == []


def test_a_client_that_vanishes_in_the_middle_leaves_nothing_behind(running: Relay) -> None:
    """No record, no copy, and the worker goes on."""
    client = running.client("inside")
    client.mail("a@example.com")
    client.rcpt("outside@remote.test")
    client.command(b"DATA")
    client.send_octets(b"From: alice@example.com\r\nMessage-ID: <vanished@session>\r\n\r\nhalf")
    client.close()
    running.send("inside", "a@example.com", ["b@example.com"], message("after-vanishing", OURS))
    record_of(running, "after-vanishing")
    assert running.service.search("--message-id", "vanished@session") == []


def test_the_identity_after_xclient_is_the_one_that_counts(running: Relay) -> None:
    """Postfix opens a new milter session for it."""
    with running.mta.client("inside") as client:
        client.xclient(address="198.51.100.99")
        client.send("a@example.com", ["b@remote.test"], message("xclient-1", OURS))
    with running.mta.client("inside") as client:
        client.xclient(address="192.0.2.10")
        client.send("a@example.com", ["b@remote.test"], message("xclient-2", OURS))
    assert not record_of(running, "xclient-1")["signatures"]
    assert record_of(running, "xclient-2")["signatures"]


def test_ipv6_clients_are_known_by_their_address(running: Relay) -> None:
    """A listed IPv6 network proves the origin like any other."""
    for number, address in enumerate(("2001:db8::5", "2001:db9::5")):
        with running.mta.client("inside", address=address) as client:
            client.send("a@example.com", ["b@remote.test"], message(f"ipv6-{number}", OURS))
    ours, theirs = record_of(running, "ipv6-0"), record_of(running, "ipv6-1")
    assert ours["client_address"] == "2001:db8::5"
    assert ours["signatures"]
    assert not theirs["signatures"]


def test_a_hundred_connections_at_once_are_served(running: Relay) -> None:
    """Every session keeps to itself."""
    clients = [running.client("inside" if n % 2 else "outside") for n in range(100)]
    for number, client in enumerate(clients):
        client.mail("a@example.com")
        client.rcpt("b@remote.test" if number % 3 else "c@example.com")
    for number, client in enumerate(clients):
        assert client.data(message(f"parallel-{number}", OURS, "Subject: parallel")).code == 250
        client.close()
    running.mta.wait_until_empty()
    found = {
        one["message_id"]: one
        for one in running.service.wait_for_records(100, "--subject", "parallel")
    }
    for number in range(100):
        record = found[f"parallel-{number}@session"]
        assert bool(record["signatures"]) == bool(number % 2)
        assert record["recipients"] == ["b@remote.test" if number % 3 else "c@example.com"]
