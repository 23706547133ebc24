"""A header section or an envelope without end: refused, and not kept in memory."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.carbonseal import Carbonseal
from support.milter_client import Answer, Conversation, Envelope, Recipient

from carbonseal.milter.header_section import MAX_FIELDS
from carbonseal.milter.transaction import MAX_RECIPIENT_OCTETS

FIELDS: list[tuple[str | bytes, bytes]] = [("From", b" alice@example.com")]


def test_a_header_section_without_end_is_refused_and_on_record(tmp_path: Path) -> None:
    """5yz with a reason; the next message on the connection is not touched by it."""
    service = Carbonseal(tmp_path / "seal")
    service.make_key("example.com")
    envelope = Envelope("<alice@example.com>", ("<bob@remote.test>",))
    fields = [("From", b" alice@example.com")] + [("X", b" y")] * MAX_FIELDS
    with service, Conversation(service.socket) as conversation:
        conversation.open()
        refused = conversation.send_message(envelope, fields, b"x\r\n")
        accepted = conversation.send_message(envelope, fields[:1], b"x\r\n")
        found = service.wait_for_records(2)
    assert refused.final == "reject"
    assert refused.reply_text.startswith("550 5.3.4")
    assert accepted.final in ("accept", "continue")
    assert f"header-too-large({MAX_FIELDS})" in found[1]["reasons"]


@pytest.mark.parametrize("answer", ["reject", "tempfail"])
def test_recipients_without_end_are_refused_and_on_record(answer: str, tmp_path: Path) -> None:
    """Not all are known, so nobody can say that none is outside; no defect of ours is reported.

    By default its sender hears of it: the same message would come again and again otherwise.  The
    next message on the connection is not touched by it.
    """
    failure = {} if answer == "reject" else {"failure": {"too_many_recipients": answer}}
    service = Carbonseal(tmp_path / "seal", failure)
    service.make_key("example.com")
    long = "ORCPT=rfc822;" + "x" * 60_000
    many = [Recipient("<u@remote.test>", (long,))] * (MAX_RECIPIENT_OCTETS // len(long) + 10)
    with service, Conversation(service.socket) as conversation:
        conversation.open()
        refused = conversation.send_message(Envelope(recipients=many), FIELDS, b"x\r\n")
        accepted = conversation.send_message(Envelope(), FIELDS, b"x\r\n")
        last, first = service.wait_for_records(2)
    assert refused.final == answer
    assert refused.reply_text.startswith("550 5.5.3" if answer == "reject" else "451 4.5.3")
    assert (refused.inserted, refused.added_recipients) == ([], [])
    assert accepted.final == Answer.ACCEPT
    assert len(last["recipients"]) == 1
    kept = len(first["recipients"])
    assert 500 < kept < len(many)
    assert f"too-many-recipients({kept})" in first["reasons"]
    assert (first["disposition"], first["signatures"]) == (answer, [])
    assert service.log().count(f"too-many-recipients({kept})") == 1
    assert "internal-error" not in service.log()
