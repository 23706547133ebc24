"""What systemd is told: how it goes, and that all is well only while a worker lives."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from carbonseal.milter.status import board as boards
from carbonseal.milter.status.board import Board
from carbonseal.milter.supervision.child import Child
from carbonseal.milter.supervision.children import Children
from carbonseal.milter.supervision.service_manager import Notices


class Manager:
    """systemd's end of the socket, and what is told there of two workers on a board."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.now = 1000.0
        self.board = Board(2, lambda: self.now)
        self.children = Children(self.board)
        self.notices = Notices()
        self.board.expect(2, with_writer=False)
        self.places = [
            place for place in (self.board.take(), self.board.take()) if place is not None
        ]
        for place in self.places:
            self.board.settle(place, 100 + place)
            self.board.serves(place)

    def heard(self) -> list[str]:
        """What is told now."""
        self.children.count_placeless()
        self.notices.alive(self.board)
        try:
            return self.channel.recv(4096).decode().splitlines()
        except BlockingIOError:
            return []


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as channel:
        channel.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield Manager(channel)


def test_the_watchdog_is_fed_while_a_worker_lives(manager: Manager) -> None:
    """One that hangs is no reason to stop the others; all of them are."""
    assert "WATCHDOG=1" in manager.heard()
    manager.now += boards.SILENT_AFTER + 1
    assert manager.board.crew().stuck == 2
    assert "WATCHDOG=1" not in manager.heard()
    manager.board.beat(manager.places[1])
    assert manager.board.crew().stuck == 1
    assert "WATCHDOG=1" in manager.heard()


def test_the_watchdog_is_fed_while_the_disk_holds_the_mail_up(manager: Manager) -> None:
    """New workers would wait for the same disk, and what these have under way would be cut off."""
    manager.now += boards.SILENT_AFTER + 1
    manager.board.beat(manager.places[0], is_held_up=True)
    crew = manager.board.crew()
    assert (crew.stuck, crew.silent) == (2, 1)
    assert "WATCHDOG=1" in manager.heard()
    manager.board.beat(manager.places[0])
    assert manager.board.crew().stuck == 1


def test_a_worker_without_a_place_feeds_the_watchdog(manager: Manager) -> None:
    """After a reload to far more workers, or many reloads in a row, some are on no board."""
    for place in manager.places:
        manager.board.leave(place)
    assert "WATCHDOG=1" not in manager.heard()
    made = Child("worker", lambda child, control: 0, patience=1.0)
    manager.children.present.append(made)
    assert "WATCHDOG=1" not in manager.heard()
    made.is_ready = True
    heard = manager.heard()
    assert "WATCHDOG=1" in heard
    assert "STATUS=1 of 2 workers, readiness unknown" in heard


def test_the_word_about_the_service_is_told_when_it_changes(manager: Manager) -> None:
    """How many workers serve, and whether the relay is ready."""
    assert "STATUS=2 of 2 workers, readiness unknown" in manager.heard()
    assert not [one for one in manager.heard() if one.startswith("STATUS")]
    manager.board.looked(is_ready=False)
    assert "STATUS=2 of 2 workers, not ready: see carbonseal status" in manager.heard()
    manager.board.rests(manager.places[0])
    manager.board.looked(is_ready=True)
    assert "STATUS=1 of 2 workers, ready" in manager.heard()
    manager.now += boards.SILENT_AFTER + 1
    assert manager.board.is_ready is None
