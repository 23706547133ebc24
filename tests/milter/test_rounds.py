"""Connections served in rounds: durable before answered, and nobody held up by another."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from support import milter_protocol as wire
from support.waiting import wait_until

from carbonseal.milter import log, packets
from carbonseal.milter.archive.spool import SpoolUnwritable, Steps
from carbonseal.milter.conversation import Context
from carbonseal.milter.rounds import Rounds

OFFER = wire.framed(b"O", b"".join(n.to_bytes(4) for n in (6, 0x1FF, int(wire.ALL_PROTOCOL))))
BEGIN = OFFER + wire.framed(b"C", b"mx\0004\0\x19192.0.2.1\0")
ENVELOPE = wire.framed(b"M", b"<a@x>\0") + wire.framed(b"R", b"<b@y>\0")
END, QUIT = wire.framed(b"E"), wire.framed(b"Q")
MESSAGE = ENVELOPE + END
ACCEPTED, LATER = wire.framed(b"c"), wire.framed(b"t")
DEFECT, UNLUCKY = b"<defect@x>", b"<unlucky@x>"


class OneSession:
    """A session whose record is its author, and whose answer says whether that was durable."""

    header = None

    def __init__(self, granted: int) -> None:
        self.granted = granted
        self.author = b""

    def reverse_path(self, context: Context, *arguments: bytes) -> None:
        self.author = arguments[0]

    def end_of_message(self, context: Context) -> Steps[int]:
        if self.author == DEFECT:
            raise ZeroDivisionError
        try:
            yield self.author
        except SpoolUnwritable:
            return packets.TEMPFAIL
        if self.author == UNLUCKY:
            raise ZeroDivisionError
        return packets.CONTINUE

    def nothing(self, *_: Any) -> None:
        """What else is told makes no difference here."""

    connect = hello = recipient = body = abort = nothing

    def fail(self, callback: str, fault: BaseException) -> None:
        raise fault


class Sessions:
    """Those of all connections."""

    def __init__(self) -> None:
        self.closed = 0
        self.granted = int(wire.NO_REPLIES)

    def negotiate(self, context: Context, options: list[int]) -> int:
        options[1] &= self.granted
        context.setpriv(OneSession(options[1]))
        return packets.CONTINUE

    def close(self, context: Context) -> int:
        self.closed += 1
        return packets.CONTINUE


class Spool:
    """A disk that one can watch and hold up."""

    def __init__(self) -> None:
        self.syncs: list[list[bytes]] = []
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.fault: Exception | None = None

    def put_all(self, lines: list[bytes]) -> None:
        self.syncs.append(lines)
        assert self.goes_on.wait(30)
        if self.fault is not None:
            raise self.fault


class Place:
    """Rounds with a disk, and MTAs that connect to them."""

    def __init__(self, **more: Any) -> None:
        self.sessions, self.spool = Sessions(), Spool()
        self.rounds = Rounds(self.sessions, self.spool, **more)
        self.ended = 0
        self._stack = contextlib.ExitStack()
        self.rounds.start()

    def connect(self, *, octets: bytes = BEGIN) -> socket.socket:
        ours, theirs = socket.socketpair()
        self._stack.enter_context(ours)
        ours.settimeout(30)
        self.rounds.take(theirs, self._end)
        ours.sendall(octets)
        if octets == BEGIN:
            received(ours, len(packets.agreed(6, 0, 0, [])))
        return ours

    def _end(self) -> None:
        self.ended += 1

    def close(self) -> None:
        """Hang up everywhere."""
        self.spool.goes_on.set()
        self._stack.close()


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    with contextlib.closing(made):
        yield made


def received(one: socket.socket, size: int) -> bytes:
    octets = b""
    while len(octets) < size:
        piece = one.recv(size - len(octets))
        if not piece:
            break
        octets += piece
    return octets


def answer(one: socket.socket) -> bytes:
    return received(one, len(ACCEPTED))


def test_nobody_is_answered_before_the_record_is_durable(place: Place) -> None:
    """While the disk works, not an octet leaves."""
    place.spool.goes_on.clear()
    one = place.connect()
    one.sendall(MESSAGE)
    wait_until(lambda: place.spool.syncs == [[b"<a@x>"]], "the sync")
    one.setblocking(False)
    with pytest.raises(BlockingIOError):
        one.recv(1)
    one.settimeout(30)
    place.spool.goes_on.set()
    assert answer(one) == ACCEPTED


def test_messages_that_wait_share_a_sync(place: Place) -> None:
    """All that came to their end while the disk was at work for another."""
    crew = [place.connect() for _ in range(6)]
    place.spool.goes_on.clear()
    crew[0].sendall(MESSAGE)
    wait_until(lambda: len(place.spool.syncs) == 1, "the first sync")
    for one in crew[1:]:
        one.sendall(MESSAGE)
    place.spool.goes_on.set()
    assert [answer(one) for one in crew] == [ACCEPTED] * 6
    assert [len(lines) for lines in place.spool.syncs] == [1, 5]


def test_several_messages_in_one_piece_are_answered_one_after_the_other(place: Place) -> None:
    """No MTA sends them so; one that does loses none, and its farewell waits for them."""
    one = place.connect()
    one.sendall(3 * MESSAGE + QUIT)
    assert received(one, 1000) == 3 * ACCEPTED
    assert place.spool.syncs == [[b"<a@x>"]] * 3


@pytest.mark.parametrize(
    ("fault", "answered"),
    [
        pytest.param(SpoolUnwritable("full"), LATER, id="what-the-failure-policy-answers"),
        pytest.param(ZeroDivisionError(), b"", id="a-defect-ends-the-connection"),
    ],
)
def test_what_could_not_be_recorded_is_not_accepted(
    place: Place, fault: Exception, answered: bytes
) -> None:
    """None of those that waited for the sync; the next one is tried afresh."""
    crew = [place.connect() for _ in range(3)]
    place.spool.fault = fault
    for one in crew:
        one.sendall(MESSAGE)
    assert [answer(one) for one in crew] == [answered] * 3
    place.spool.fault = None
    fresh = place.connect()
    fresh.sendall(MESSAGE)
    assert answer(fresh) == ACCEPTED


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(wire.framed(b"M", DEFECT + b"\0") + MESSAGE[15:], id="defect-while-sealing"),
        pytest.param(wire.framed(b"M", UNLUCKY + b"\0") + MESSAGE[15:], id="defect-afterwards"),
        pytest.param(MESSAGE[:-5] + b"\0\0\0\1Z", id="not-the-protocol"),
        pytest.param(b"\xff\xff\xff\xff", id="endless"),
        pytest.param(MESSAGE[:-3], id="hung-up"),
        pytest.param(QUIT, id="left"),
    ],
)
def test_what_breaks_one_connection_breaks_no_other(place: Place, octets: bytes) -> None:
    """It ends without an answer, once; the others are answered before and after."""
    other, one = place.connect(), place.connect()
    one.sendall(octets)
    one.shutdown(socket.SHUT_WR)
    assert received(one, 1) == b""
    wait_until(lambda: (place.sessions.closed, place.ended) == (1, 1), "its end")
    other.sendall(MESSAGE)
    assert answer(other) == ACCEPTED
    assert (place.sessions.closed, place.ended) == (1, 1)


def test_an_mta_that_left_before_its_answer_leaves_its_record(place: Place) -> None:
    """It will send the message again: recorded twice is better than not."""
    place.spool.goes_on.clear()
    one, other = place.connect(), place.connect()
    one.sendall(MESSAGE)
    wait_until(lambda: len(place.spool.syncs) == 1, "the sync")
    one.close()
    place.spool.goes_on.set()
    wait_until(lambda: place.ended == 1, "its end")
    other.sendall(MESSAGE)
    assert answer(other) == ACCEPTED


def test_an_mta_that_takes_no_answers_holds_nobody_up_and_loses_none(place: Place) -> None:
    """It is heard no more until it took them, so that they do not fill the memory."""
    place.sessions.granted = 0  # each event is answered
    slow = place.connect()
    fields = wire.framed(b"H", b"x\0") * 1000
    slow.setblocking(False)
    sent = 0
    while True:
        try:
            sent += slow.send(fields[sent % len(fields) :])
        except BlockingIOError:
            # Full: whoever were still heard would take more.
            other = place.connect()
            other.sendall(MESSAGE)
            assert received(other, 3 * len(ACCEPTED)) == 3 * ACCEPTED
            with contextlib.suppress(BlockingIOError):
                sent += slow.send(fields[sent % len(fields) :])
                continue
            break
    slow.settimeout(30)
    whole = sent // len(wire.framed(b"H", b"x\0"))
    # One answer for CONNECT, which nobody fetched yet, and one for each HELO.
    assert received(slow, (whole + 1) * len(ACCEPTED)) == (whole + 1) * ACCEPTED


def test_who_says_nothing_for_too_long_is_left() -> None:
    """Its MTA may be gone without a word; who spoke meanwhile stays."""
    place = Place(silence=0.2)
    with contextlib.closing(place):
        silent = place.connect()
        assert received(silent, 1) == b""
        assert place.ended == 1
        fresh = place.connect()
        fresh.sendall(MESSAGE)
        assert answer(fresh) == ACCEPTED


def test_a_fault_of_the_thread_itself_does_not_end_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process would look alive and serve nobody."""
    said: list[str] = []
    monkeypatch.setattr(log, "internal_error", lambda where, *_, **__: said.append(where))
    one = place.connect()
    guarded = place.rounds._guarded

    def failing(*given: Any) -> None:
        monkeypatch.setattr(place.rounds, "_guarded", guarded)
        raise ZeroDivisionError

    monkeypatch.setattr(place.rounds, "_guarded", failing)
    one.sendall(MESSAGE)
    assert answer(one) == ACCEPTED
    assert said == ["rounds"]
