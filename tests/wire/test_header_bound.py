"""A header section without end: refused, recorded, and not kept in memory."""

from __future__ import annotations

from pathlib import Path

from support.carbonseal import Carbonseal
from support.milter_client import Conversation, Envelope

from carbonseal.milter.header_section import MAX_FIELDS


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
