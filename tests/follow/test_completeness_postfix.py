"""A real Postfix that lets mail past the milter: each hole and its cause."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from support.carbonseal import Carbonseal
from support.postfix import INSIDE, Listener, PrivatePostfix, private_directory
from support.sink import Sink

pytestmark = [pytest.mark.root, pytest.mark.postfix]

CONTENT = b"From: a@example.com\r\nSubject: x\r\n\r\nhi\r\n"
BARE = Listener("bare", {"receive_override_options": "no_milters"})


def test_each_way_past_the_milter_is_named() -> None:
    """no_milters, sendmail(1) without non_smtpd_milters, a service down; a bounce is no hole."""
    with private_directory() as directory, Sink() as sink:
        sink.reply("@bounce.example", "550 5.1.1 nobody")
        mta_directory = directory / "mta"
        mta_directory.mkdir(mode=0o755)
        record = {"spool": "spool", "database": "sqlite:///archive.db", "relay": "mx1.example.com"}
        service = Carbonseal(
            directory / "seal", {"record": record, "follow": {"log": str(mta_directory / "log")}}
        )
        service.make_key("example.com")
        mta = PrivatePostfix(
            mta_directory,
            remote=sink.port,
            milters=[f"unix:{service.socket}"],
            non_smtpd_milters=[],
            milter_default_action="accept",
            listeners=(INSIDE, BARE),
        )
        with mta:
            with service:
                send(mta, "inside", "b@out.example", "x@bounce.example")
                send(mta, "bare", "c@out.example", "y@bounce.example")
                mta.sendmail("s@example.com", ["d@out.example"], b"Subject: s\n\nhi\n")
                mta.wait_for_log(r"to=<d@out.example>.*status=sent")
            send(mta, "inside", "e@out.example")
            mta.wait_until_empty()
        service.command("follow", "--once")
        service.command("archive", "write", "--once")
        done = service.command("archive", "completeness", "--each", "--json", check=False)
        totals = service.command("archive", "completeness", "--json", check=False)
    assert done.returncode == 1, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert Counter(one["cause"] for one in found) == {
        "listener-without-milter": 2,
        "local-submission": 1,
        "milter-unreachable": 1,
    }
    counts = {one["cause"]: one["count"] for one in map(json.loads, totals.stdout.splitlines())}
    assert counts["internal-mail"] == 1, counts  # the bounce of what has no record


def send(mta: PrivatePostfix, listener: str, *recipients: str) -> None:
    """One message for each, from the inside."""
    for recipient in recipients:
        with mta.client(listener, address="192.0.2.10", name="desk.example.com") as client:
            assert client.send("a@example.com", [recipient], CONTENT).queue_id
