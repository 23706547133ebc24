"""milter.dry_run on the wire: no mail is changed or refused, and all that was decided is on record.

Each test speaks to the real service through real libmilter.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.carbonseal import ARCHIVE, Carbonseal
from support.milter_client import CLIENT, Answer, Conversation, Envelope, Outcome
from support.milter_protocol import Actions

Fields = list[tuple[str | bytes, bytes]]
FIELDS: Fields = [("From", b" alice@example.com"), ("To", b" bob@example.org")]
DOUBLED: Fields = [*FIELDS, ("From", b" eve@example.com")]


@pytest.fixture
def beside(tmp_path: Path) -> Iterator[Carbonseal]:
    """A service that runs dry, with a key, and that would refuse what has no single author."""
    one = Carbonseal(
        tmp_path / "seal",
        {"milter": {"workers": 1, "dry_run": True}, "failure": {"unusable_author": "reject"}},
    )
    one.make_key("example.com")
    with one:
        yield one


def send(service: Carbonseal, fields: Fields = FIELDS) -> tuple[Outcome, Actions]:
    """One message, and the actions that were asked for in the negotiation."""
    with Conversation(service.socket) as talk:
        talk.open(CLIENT)
        return talk.send_message(Envelope(), fields, b"text\r\n"), talk.negotiated.actions


def record(service: Carbonseal) -> dict[str, Any]:
    """The one record, from SQL."""
    (found,) = service.wait_for_records(1)
    shown = service.command("archive", "show", found["record_id"], "--format", "jsonl").stdout
    return {**found, "whole": json.loads(shown)}


def test_a_message_is_not_changed_and_the_record_says_what_would_have_been_done(
    beside: Carbonseal,
) -> None:
    """No field, no recipient, not even the right to add them; the record is no lie."""
    outcome, actions = send(beside)
    assert outcome.final is Answer.ACCEPT
    assert not outcome.inserted
    assert not outcome.added_recipients
    assert actions & ~Actions.SETSYMLIST == 0
    found = record(beside)
    assert (found["signatures"], found["archive_recipients"]) == ([], [])
    assert found["reasons"][0] == "dry-run"
    assert not [one for one in found["reasons"] if one.startswith(("signed", "archive-copy"))]
    wanted = found["whole"]["dry_run"]
    assert wanted["signatures"][0]["sdid"] == "example.com"
    assert wanted["archive_recipients"] == [ARCHIVE]
    assert beside.search("signed:yes") == []


def test_what_would_have_been_refused_passes(beside: Carbonseal) -> None:
    """The failure policy is on record, not in force."""
    outcome, _ = send(beside, DOUBLED)
    assert outcome.final is Answer.ACCEPT
    found = record(beside)
    assert found["whole"]["dry_run"]["disposition"] == "reject"
    assert found["whole"]["disposition"] == "accept"


def test_a_record_that_cannot_be_written_stops_no_mail(beside: Carbonseal) -> None:
    """Beside the old signer, even our own failure is no reason to have mail come again."""
    # In one step: workers write there what keys they hold, between any two steps of a removal.
    beside.spool.rename(beside.spool.with_name("taken-away"))
    outcome, _ = send(beside)
    assert "record-not-writable" in beside.wait_for_log("would_sign")
    assert outcome.final is Answer.ACCEPT
    assert not outcome.inserted
    assert not outcome.added_recipients


def test_everybody_is_told_that_it_is_a_dry_run(beside: Carbonseal) -> None:
    """config check, the lines for Postfix, the start and the line of each message say it."""
    send(beside)
    assert "DRY RUN" in beside.command("config", "check").stdout
    snippet = beside.command("postfix", "snippet").stdout
    assert "default_action=accept" in snippet
    assert "DRY RUN" in snippet
    beside.wait_for_records(1)
    lines = [line for line in beside.log().splitlines() if " dry-run " in line]
    assert len(lines) == 2
    assert "would_sign=example.com/" in lines[1]
    assert 'signed=""' in lines[1]
