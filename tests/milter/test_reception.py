"""Workers share the connections, and stop taking them at once."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.waiting import wait_until

from carbonseal.milter import log, reception
from carbonseal.milter.reception import Reception
from carbonseal.milter.rounds import Rounds
from carbonseal.milter.status.board import Board
from carbonseal.policies import fair_share

ENDLESS = 3600.0  # seconds


class Nobody:
    """Sessions of an MTA that says nothing."""

    def negotiate(self, context: Any, options: list[int]) -> int:
        """No offer comes."""
        raise AssertionError(options)

    def close(self, context: Any) -> int:
        """The connection ended."""
        return 0


class NoSpool:
    """For connections on which no message comes."""

    def put_all(self, lines: list[bytes], meanwhile: Callable[[], None] = lambda: None) -> None:
        """There are none."""
        raise AssertionError(lines)


def rounds() -> Rounds:
    return Rounds(Nobody(), NoSpool())


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(tmp_path / "socket"))
        one.listen(128)
        one.setblocking(False)
        yield one


def connected(listener: socket.socket) -> socket.socket:
    one = socket.socket(socket.AF_UNIX)
    one.connect(listener.getsockname())
    return one


def workers(listener: socket.socket, board: Board, count: int) -> list[Reception]:
    """As many as the processes of a relay would have, in one."""
    places = [board.take() for _ in range(count)]
    return [Reception(listener, rounds(), board, place, patience=ENDLESS) for place in places]


def test_connections_that_come_at_once_are_dealt_out_evenly(listener: socket.socket) -> None:
    """Whoever wakes first takes one, not all."""
    crew = workers(listener, Board(3), 3)
    for one in crew:
        one.start()
    with ExitStack() as stack:
        for _ in range(30):
            stack.enter_context(connected(listener))
        wait_until(lambda: sum(one.connections for one in crew) == 30, "all connections")
        counts = [one.connections for one in crew]
        assert max(counts) - min(counts) <= fair_share.LEEWAY + 1
    wait_until(lambda: not any(one.connections for one in crew), "the end of all")
    for one in crew:
        one.stop()


def test_what_one_has_taken_is_no_turn_of_those_who_left(listener: socket.socket) -> None:
    """A worker that takes no more, and one whose process died, are not waited for."""
    board = Board(3)
    first, second, third = workers(listener, board, 3)
    for one in (first, second, third):
        one.start()
    second.stop()
    third.stop()
    board.settle(2, 4711)  # a successor that has not begun yet
    with ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(connected(listener))
        wait_until(lambda: first.connections == 5, "all with the one that is left")
    first.stop()


def test_one_that_hangs_holds_nobody_up(listener: socket.socket) -> None:
    """It has the fewest connections and takes none."""
    board = Board(2)
    place, other = board.take(), board.take()
    board.has_connections(other, 0)
    reception = Reception(listener, rounds(), board, place, patience=0.001)
    reception.start()
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(connected(listener))
        wait_until(lambda: reception.connections == 3, "all with the one that lives")
    reception.stop()


def test_after_stop_the_next_connection_is_for_somebody_else(listener: socket.socket) -> None:
    """Those that were taken go on."""
    board = Board(2)
    old, fresh = workers(listener, board, 2)
    old.start()
    with connected(listener):
        wait_until(lambda: old.connections == 1, "the first")
        old.stop()
        with connected(listener):
            assert listener.accept()  # nobody was quicker
        fresh.start()
        with connected(listener):
            wait_until(lambda: fresh.connections == 1, "the next")
        assert old.connections == 1
    fresh.stop()


def test_one_that_leaves_is_not_waited_for_while_its_connections_end(
    listener: socket.socket,
) -> None:
    """Each end changes its count, and it takes none all the same."""
    board = Board(2, lambda: 0.0)  # where no time passes, nobody counts as stuck
    old, fresh = workers(listener, board, 2)
    old.start()
    with connected(listener):
        wait_until(lambda: old.connections == 1, "the first")
        old.stop()
    wait_until(lambda: old.connections == 0, "its end")
    fresh.start()
    with ExitStack() as stack:
        for _ in range(fair_share.LEEWAY + 3):
            stack.enter_context(connected(listener))
        wait_until(lambda: fresh.connections == fair_share.LEEWAY + 3, "all with the fresh one")
    fresh.stop()


def test_one_that_has_more_than_its_share_wakes_who_has_less(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel thinks of that one first, which waits, and wakes no other."""
    monkeypatch.setattr(reception, "_LOOK_ANYWAY", ENDLESS)
    first, second = crew = workers(listener, Board(2), 2)
    first.start()
    with ExitStack() as stack:
        for mine in range(1, 6):
            stack.enter_context(connected(listener))
            wait_until(lambda mine=mine: first.connections == mine, "one for who is alone")
        second.start()  # behind the first in the kernel's queue
        for taken in range(1, 6 - fair_share.LEEWAY):
            stack.enter_context(connected(listener))
            wait_until(lambda taken=taken: second.connections == taken, "one for the other")
        assert first.connections == 5
    wait_until(lambda: not any(one.connections for one in crew), "the end of all")
    for one in crew:
        one.stop()


class Failing(Board):
    """Its first looks fail as nobody foresaw."""

    def connections_elsewhere(self, place: int | None) -> list[int]:
        if self.left:
            self.left -= 1
            raise ValueError("a defect")
        return super().connections_elsewhere(place)

    left = 2


def test_a_defect_does_not_end_the_taking_of_connections(listener: socket.socket) -> None:
    """The process would look alive and serve nobody."""
    (one,) = workers(listener, Failing(1), 1)
    one.start()
    with connected(listener):
        wait_until(lambda: one.connections == 1, "the connection")
    one.stop()


class Scarce:
    """A listener for which there is no descriptor now and then."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.lacks = 0

    @property
    def family(self) -> int:
        return self.listener.family

    def fileno(self) -> int:
        return self.listener.fileno()

    def accept(self) -> Any:
        if self.lacks:
            self.lacks -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return self.listener.accept()


def test_a_lack_of_descriptors_is_said_once_and_passes(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection waits meanwhile; the next lack is said again."""
    said: list[str] = []
    monkeypatch.setattr(log, "warning", lambda name, **_: said.append(name))
    scarce: Any = Scarce(listener)
    one = Reception(scarce, rounds(), Board(1), 0)
    scarce.lacks = 3
    one.start()
    for lack in (1, 2):
        with connected(listener):
            wait_until(lambda: one.connections == 1, "the connection")
            assert said == ["connection-not-taken"] * lack
            scarce.lacks = 3
        wait_until(lambda: one.connections == 0, "its end")
    one.stop()


class Rejecting(Rounds):
    """Has no room for the first that is brought, and keeps the others as they came."""

    def __init__(self) -> None:
        super().__init__(Nobody(), NoSpool())
        self.brought: list[socket.socket] = []

    def take(self, connection: socket.socket, ended: Callable[[], None]) -> None:
        """The first in vain."""
        self.brought.append(connection)
        if len(self.brought) == 1:
            raise OSError(errno.ENOSPC, "No room for one more")


def test_who_cannot_be_served_is_left_at_once(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts as no connection, and its MTA need not wait; the next one is served."""
    said: list[str] = []
    monkeypatch.setattr(log, "warning", lambda name, **_: said.append(name))
    one = Reception(listener, Rejecting(), Board(1), 0)
    one.start()
    with connected(listener) as first:
        first.settimeout(30)
        assert first.recv(1) == b""
        with connected(listener):
            wait_until(lambda: one.connections == 1, "the next")
    assert said == ["connection-not-taken"]
    one.stop()


def test_a_connection_from_afar_is_asked_after_and_answered_at_once() -> None:
    """An MTA whose machine is gone says nothing more; an answer waits for no other packet."""
    crew = Rejecting()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        one = Reception(listener, crew, Board(1), 0)
        one.start()
        with ExitStack() as stack:
            for _ in range(2):
                stack.enter_context(socket.create_connection(listener.getsockname()))
            wait_until(lambda: one.connections == 1, "the one that is taken")
            taken = crew.brought[1]
            assert taken.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            taken.close()
        one.stop()


def test_what_cannot_wait_for_connections_says_so_at_the_start() -> None:
    """An exception in the thread would be nobody's."""
    with socket.socket() as gone:
        reception = Reception(gone, rounds(), Board(1), 0)
    with pytest.raises((OSError, ValueError)):
        reception.start()
