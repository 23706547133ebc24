"""The edge cases of NOT (local AND local) through a real Postfix, seen from outside.

What counts is what the sinks got: one archive copy or none, with NOTIFY=NEVER, and every recipient
served; and what the record says about it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from support import boundary_cases
from support.boundary_cases import CASES, BoundaryCase
from support.relay import Relay, copy_parameters, relay

pytestmark = [
    pytest.mark.postfix,
    pytest.mark.root,
    pytest.mark.skipif(
        os.geteuid() != 0, reason="a private Postfix needs root, because master(8) changes users"
    ),
]

OURS = {
    "ours": {
        "domains": list(boundary_cases.OUR_DOMAINS),
        "networks": [boundary_cases.OUR_NETWORK],
        "peers": [boundary_cases.PEER_NETWORK],
        "listeners": [],
    }
}


@pytest.fixture(scope="module")
def running() -> Iterator[Relay]:
    with relay(
        OURS,
        maps={
            "virtual_alias_maps": {
                "info@valias.example.com": "someone@gmail.test",
                "fw@example.com": "ext@remote.test",
            },
            "virtual_mailbox_domains": {"vmb.example.com": "x"},
            "relay_domains": {"relay.example.org": "x"},
            "canonical_maps": {"old-name@example.com": "new-name@example.com"},
            "recipient_bcc_maps": {"bccmap@remote.test": boundary_cases.ARCHIVE},
        },
        parameters={
            "virtual_alias_domains": "valias.example.com",
            "myorigin": "example.com",
            "smtpd_recipient_restrictions": (
                "check_recipient_access inline:{refused@remote.test=REJECT}"
            ),
        },
    ) as started:
        yield started


def content(case: BoundaryCase) -> bytes:
    return (
        f"From: <someone@elsewhere.example>\r\nSubject: {case.id}\r\n"
        f"Message-ID: <{case.number}-{case.id}@test>\r\n\r\n{case.id}\r\n"
    ).encode()


def submit(running: Relay, case: BoundaryCase) -> str:
    """Send it as its client would; returns the queue id ('' for sendmail)."""
    if case.client == "sendmail":
        running.mta.sendmail(
            case.reverse_path, [to.raw for to in case.to], content(case).replace(b"\r\n", b"\n")
        )
        return ""
    is_eai = not case.reverse_path.isascii() or any(not to.raw.isascii() for to in case.to)
    with running.client(case.client) as client:
        sending = client.send(
            case.reverse_path.encode(),
            [to.raw.encode() for to in case.to],
            content(case),
            parameters=["SMTPUTF8"] if is_eai else [],
        )
    assert sending.end.code == 250, sending
    return sending.queue_id


SENT = [case for case in CASES if case.in_postfix]


@pytest.fixture(scope="module")
def records(running: Relay) -> dict[str, dict[str, Any]]:
    """Send every case; its record by its Message-ID, once all is delivered."""
    for case in SENT:
        submit(running, case)
    running.mta.wait_until_empty(timeout=60)
    return {one["message_id"]: one for one in running.service.wait_for_records(len(SENT))}


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=f"{case.number:02}-{case.id}") for case in SENT]
)
def test_the_copy_is_made_exactly_when_it_must_be(
    running: Relay, records: dict[str, dict[str, Any]], case: BoundaryCase
) -> None:
    """One copy or none at the archive's sink, and the record names the deciding reason."""
    mark = f"<{case.number}-{case.id}@test>".encode()
    copies = running.copies(mark)
    was_addressed = case.reason == "archive-addressed"
    assert len(copies) == int(case.copy or was_addressed)
    for copy in copies if case.copy else []:
        assert ["NOTIFY=NEVER" in parameters for parameters in copy_parameters(copy)] == [True]
    record = records[mark.decode().strip("<>")]
    assert record["crossing"] == case.crossing
    assert bool(record["archive_recipients"]) == case.copy
    assert any(reason.startswith(case.reason) for reason in record["reasons"]), record["reasons"]


def test_requeued_mail_gets_no_second_copy(running: Relay) -> None:
    """postsuper -r does not show the message to milters again (measured on 3.7)."""
    running.sink.reply("@later.example", "450 4.2.0 not now")
    sending = running.send(
        "inside",
        "a@example.com",
        ["x@later.example"],
        b"From: a@example.com\r\nMessage-ID: <requeue@test>\r\n\r\nx\r\n",
    )
    running.mta.wait_for_log(rf"{sending.queue_id}: to=<x@later.example>.*status=deferred")
    running.mta.requeue()
    running.sink.reply("@later.example", "")
    # pickup(8) looks once a minute, and whenever something is submitted.
    running.mta.sendmail("a@example.com", ["b@example.com"], b"Subject: wake up\n\nx\n")
    running.mta.wait_for_log(r"from=<a@example.com> orig_id=" + sending.queue_id)
    running.mta.flush()
    running.mta.wait_until_empty()
    assert len(running.copies(b"<requeue@test>")) == 1
    assert len(running.delivered(b"<requeue@test>")) == 1


def test_five_hundred_recipients_get_one_copy(running: Relay) -> None:
    """However many recipients, the archive is added once."""
    running.send(
        "inside",
        "a@example.com",
        [f"user{number}@remote.test" for number in range(500)],
        b"From: a@example.com\r\nMessage-ID: <many@test>\r\n\r\nx\r\n",
    )
    running.mta.wait_until_empty(timeout=60)
    assert len(running.copies(b"<many@test>")) == 1
    addressed = [
        one for delivery in running.delivered(b"<many@test>") for one in delivery.addresses
    ]
    assert len(addressed) == len(set(addressed)) == 500


def test_a_refused_recipient_says_nothing_about_the_boundary(running: Relay) -> None:
    """Recipients that Postfix refused are not recipients."""
    with running.client("inside") as client:
        client.mail("a@example.com")
        assert client.rcpt("b@example.com").code == 250
        assert client.rcpt("refused@remote.test").code // 100 == 5
        reply = client.data(b"From: a@example.com\r\nMessage-ID: <refused@test>\r\n\r\nx\r\n")
    assert reply.code == 250
    (record,) = running.service.wait_for_records(1, "--message-id", "refused@test")
    assert record["crossing"] == "internal"
    assert record["recipients"] == ["b@example.com"]


def test_a_copy_that_cannot_be_delivered_does_not_bounce_to_the_author(running: Relay) -> None:
    """NOTIFY=NEVER: the author must not learn of the archive from a bounce."""
    running.archive.reply(boundary_cases.ARCHIVE, "550 5.1.1 no such mailbox")
    sending = running.send(
        "inside",
        "a@example.com",
        ["x@remote.test"],
        b"From: a@example.com\r\nMessage-ID: <lost-copy@test>\r\n\r\nx\r\n",
    )
    running.mta.wait_for_log(rf"{sending.queue_id}: to=<archive@.*status=bounced")
    running.mta.wait_until_empty()
    running.archive.reply(boundary_cases.ARCHIVE, "")
    assert len(running.delivered(b"<lost-copy@test>")) == 1
    assert not [one for one in running.sink.deliveries if b"MAILER-DAEMON" in one.content]
