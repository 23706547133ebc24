"""What a worker shows of itself beside the mail."""

from __future__ import annotations

from typing import Any

import pytest
from support.waiting import wait_until

from carbonseal.milter import log, worker
from carbonseal.milter.status.board import Board


class Serving:
    """Mail that goes on or does not."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def held_up(self) -> float:
        return self.seconds

    def place(self) -> str:
        return "fdatasync:7"


def test_mail_that_is_held_up_is_said_once_and_is_no_sign_of_death(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A disk may take a while; who looks learns of it when it takes long, and when it is over."""
    said: list[tuple[str, dict[str, Any]]] = []
    for level in ("warning", "event"):
        monkeypatch.setattr(log, level, lambda name, **facts: said.append((name, facts)))
    now = 1000.0
    board = Board(1, lambda: now)
    place = board.take()
    assert place is not None
    board.settle(place, 100)
    board.serves(place)
    serving = Serving()
    pulse = worker._Pulse(board, place, serving)
    words = []
    for seconds, stuck, count in (
        (0.0, 0, 0),
        (9.0, 0, 0),
        (11.0, 1, 1),
        (14.0, 1, 1),
        (0.0, 0, 2),
    ):
        serving.seconds, now = seconds, 1000.0 + seconds
        pulse.beat()
        assert (board.crew().stuck, board.crew().silent) == (stuck, 0)
        # Said by a thread of its own: the log may be on that disk, too.
        wait_until(lambda count=count: len(said) >= count, "the word")  # type: ignore[misc]
        words.append(len(said))
    assert words == [0, 0, 1, 1, 2]
    assert said == [
        ("mail-held-up", {"seconds": 11, "place": "fdatasync:7"}),
        ("mail-goes-on", {"after": "14 s"}),
    ]
