"""What comes of a message whose counting fails: its answer, and one line in the log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import milter as libmilter
import pytest
from support.sealing import recorded, services

from carbonseal.milter import edits, log, seal, session
from carbonseal.milter.session import Session, Sessions
from carbonseal.milter.status import counters


class Context:
    """What libmilter gives a callback, without an MTA behind it."""

    session: Session | None = None

    def setsymlist(self, stage: int, names: str) -> None:
        """Every macro is there."""

    def getsymval(self, name: str) -> str | None:
        return None

    def addheader(self, *_: Any) -> None:
        """Nobody sees the message."""

    addrcpt = setreply = addheader

    answer: Any = None

    def finish(self, code: int) -> None:
        self.answer = code

    def setpriv(self, session: Session | None) -> None:
        self.session = session

    def getpriv(self) -> Session | None:
        return self.session


def broken_services(directory: Path) -> seal.Services:
    """Services that cannot count."""
    broken = counters.nowhere()
    broken._cells.release()
    return services(directory, {"failure": {"internal_error": "tempfail"}}, tally=broken)


def test_a_defect_in_counting_changes_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record says that the message was accepted, so it is; said once, not for each message."""
    said: list[str] = []
    monkeypatch.setattr(log, "internal_error", lambda where, fault, **_: said.append(where))
    monkeypatch.setattr(session, "_MISCOUNTED", set())
    spool = tmp_path / "spool"
    given = broken_services(tmp_path)
    for _ in range(3):
        one = Session(given, 0, edits.asked)
        one.connect(Context(), "mx.example.net", 2, ("198.51.100.7", 25_000))
        one.reverse_path(Context(), b"<a@example.net>")
        one.recipient(Context(), b"<b@example.org>")
        context = Context()
        recorded(one.end_of_message(context), spool)
        assert isinstance(context.answer, tuple)  # edits, and that it is accepted
    without_mail, context = Session(given, 0), Context()
    recorded(without_mail.end_of_message(context), spool)
    assert context.answer == libmilter.TEMPFAIL
    assert said == ["count", "end_of_message"]


def test_a_connection_that_cannot_be_counted_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its opening and its end are no reason to turn it away or to leave libmilter a fault."""
    said: list[str] = []
    monkeypatch.setattr(log, "internal_error", lambda where, fault, **_: said.append(where))
    monkeypatch.setattr(session, "_MISCOUNTED", set())
    sessions = Sessions(broken_services(tmp_path))
    context = Context()
    assert sessions.negotiate(context, [~0, ~0, 0, 0]) == libmilter.CONTINUE
    assert context.session is not None
    assert sessions.close(context) == libmilter.CONTINUE
    assert context.session is None
    assert said == ["count"]
