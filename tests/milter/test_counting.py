"""What comes of a message whose counting fails: its answer, and one line in the log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import milter as libmilter
import pytest
from support.carbonseal import Carbonseal

from carbonseal.keys.keyring import Keyring
from carbonseal.milter import config, log, seal, session
from carbonseal.milter.archive.spool import Spool
from carbonseal.milter.session import Session
from carbonseal.milter.status import counters


class Context:
    """What libmilter gives a callback, without an MTA behind it."""

    def getsymval(self, name: str) -> str | None:
        return None

    def addheader(self, *_: Any) -> None:
        """Nobody sees the message."""

    addrcpt = setreply = addheader


def test_a_defect_in_counting_changes_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record says that the message was accepted, so it is; said once, not for each message."""
    said: list[str] = []
    monkeypatch.setattr(log, "internal_error", lambda where, fault, **_: said.append(where))
    monkeypatch.setattr(session, "_MISCOUNTED", set())
    made = Carbonseal(tmp_path / "seal", {"failure": {"internal_error": "tempfail"}})
    made.spool.mkdir()
    spool = Spool(made.spool)
    broken = counters.nowhere()
    broken._cells.release()
    configuration = config.load(made.file)
    services = seal.Services(
        configuration=configuration,
        keyring=Keyring,
        key_complaint=lambda: None,
        spool=spool,
        relay="mx1",
        archive_addresses=configuration.archive.all_recipients(),
        tally=broken,
    )
    for _ in range(3):
        one = Session(services, 0)
        one.connect(Context(), "mx.example.net", 2, ("198.51.100.7", 25_000))
        one.reverse_path(Context(), b"<a@example.net>")
        one.recipient(Context(), b"<b@example.org>")
        assert one.end_of_message(Context()) == libmilter.CONTINUE
    assert Session(services, 0).end_of_message(Context()) == libmilter.TEMPFAIL  # without MAIL
    spool.close()
    assert said == ["count", "end_of_message"]
