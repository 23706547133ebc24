"""Connections served in rounds: durable before answered, and nobody held up by another."""

from __future__ import annotations

import contextlib
import errno
import gc
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from support import milter_protocol as wire
from support.waiting import wait_until

from carbonseal.milter import log, packets, rounds
from carbonseal.milter.archive.spool import SpoolUnwritable, Steps
from carbonseal.milter.conversation import Context
from carbonseal.milter.rounds import Rounds

OFFER = wire.framed(b"O", b"".join(n.to_bytes(4) for n in (6, 0x1FF, int(wire.ALL_PROTOCOL))))
BEGIN = OFFER + wire.framed(b"C", b"mx\0004\0\x19192.0.2.1\0")
ENDLESS = b"\xff\xff\xff\xffB"  # the beginning of a packet
END, QUIT = wire.framed(b"E"), wire.framed(b"Q")
ACCEPTED, LATER, REFUSAL = wire.framed(b"c"), wire.framed(b"t"), wire.framed(b"r")
DEFECT, UNLUCKY, REFUSED, TWICE = b"<defect@x>", b"<unlucky@x>", b"<refused@x>", b"<twice@x>"
HELLO = wire.framed(b"H", b"x\0")


def message_of(author: bytes) -> bytes:
    return wire.framed(b"M", author + b"\0") + wire.framed(b"R", b"<b@y>\0") + END


MESSAGE = message_of(b"<a@x>")


class OneSession:
    """A session whose record is its author, and whose answer says whether that was durable."""

    header = None
    usual = None  # each event is told

    def __init__(self, granted: int) -> None:
        self.granted = granted
        self.author = b""

    def reverse_path(self, context: Context, *arguments: bytes) -> None:
        self.author = arguments[0]

    def end_of_message(self, context: Context) -> Steps[None]:
        if self.author == DEFECT:
            raise ZeroDivisionError
        if self.author == REFUSED:
            context.finish(packets.REJECT)
            return
        try:
            yield self.author
        except SpoolUnwritable:
            context.finish(packets.TEMPFAIL)
            return
        if self.author == TWICE:
            yield self.author
        if self.author == UNLUCKY:
            raise ZeroDivisionError
        context.finish(packets.CONTINUE)

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
        self.living: list[weakref.ref[OneSession]] = []

    def negotiate(self, context: Context, options: list[int]) -> int:
        options[1] &= self.granted
        session = OneSession(options[1])
        self.living.append(weakref.ref(session))
        context.setpriv(session)
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
        self.fault: Callable[[], Exception] | None = None

    def put_all(self, lines: list[bytes], meanwhile: Callable[[], None] | None) -> None:
        self.syncs.append(lines)
        if meanwhile is not None:
            meanwhile()
        assert self.goes_on.wait(30)
        if self.fault is not None:
            raise self.fault()


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

    def connect_narrowly(self, octets: bytes) -> socket.socket:
        """An MTA that sends this at once, and as little room for answers as the kernel gives."""
        ours, theirs = socket.socketpair()
        self._stack.enter_context(ours)
        ours.settimeout(30)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        ours.sendall(octets)
        self.rounds.take(theirs, self._end)
        return ours

    def whom_the_disk_holds_up(self) -> socket.socket:
        """One whose message is on its way to the disk, so that the next round has to wait."""
        one, before = self.connect(), len(self.spool.syncs)
        self.spool.goes_on.clear()
        one.sendall(MESSAGE)
        wait_until(lambda: len(self.spool.syncs) > before, "the sync")
        return one

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
        pytest.param(SpoolUnwritable, LATER, id="what-the-failure-policy-answers"),
        pytest.param(ZeroDivisionError, b"", id="a-defect-ends-the-connection"),
    ],
)
def test_what_could_not_be_recorded_is_not_accepted(
    place: Place, fault: type[Exception], answered: bytes
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
    ("octets", "told"),
    [
        pytest.param(message_of(DEFECT), ["conversation"], id="defect-while-sealing"),
        pytest.param(message_of(UNLUCKY), ["conversation"], id="defect-afterwards"),
        pytest.param(MESSAGE[:-5] + b"\0\0\0\1Z", ["connection-broken-off"], id="not-the-protocol"),
        pytest.param(ENDLESS, ["connection-broken-off"], id="endless"),
        pytest.param(MESSAGE[:-3], [], id="hung-up"),
        pytest.param(QUIT, [], id="left"),
    ],
)
def test_what_breaks_one_connection_breaks_no_other(
    place: Place, monkeypatch: pytest.MonkeyPatch, octets: bytes, told: list[str]
) -> None:
    """It ends without an answer, once; the others are answered before and after."""
    said: list[str] = []
    monkeypatch.setattr(log, "warning", lambda name, **_: said.append(name))
    monkeypatch.setattr(log, "internal_error", lambda where, _: said.append(where))
    other, one = place.connect(), place.connect()
    one.sendall(octets)
    one.shutdown(socket.SHUT_WR)
    assert received(one, 1) == b""
    wait_until(lambda: (place.sessions.closed, place.ended) == (1, 1), "its end")
    other.sendall(MESSAGE)
    assert answer(other) == ACCEPTED
    assert (place.sessions.closed, place.ended) == (1, 1)
    assert said == told


def test_what_went_before_something_broken_is_answered(place: Place) -> None:
    """As it is where both come apart."""
    place.sessions.granted = 0
    one = place.connect()
    one.sendall(HELLO + MESSAGE + HELLO + ENDLESS)
    assert received(one, 1000) == 6 * ACCEPTED


class Clock:
    """Goes when it is told."""

    sleep = staticmethod(time.sleep)

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    one = Clock()
    monkeypatch.setattr(rounds, "time", one)
    return one


@pytest.mark.parametrize(
    ("syncs", "sizes"),
    [
        pytest.param([0.001], [1, 16, 16, 8], id="quick-disk"),
        pytest.param([60.0, 0.001], [1, 40, 1, 16, 16, 8], id="slow-disk-that-is-quick-again"),
    ],
)
def test_the_slower_the_disk_the_more_share_a_sync(
    clock: Clock, place: Place, syncs: list[float], sizes: list[int]
) -> None:
    """Few where it is quick: who came first would wait for those that came last."""
    crew = [place.connect() for _ in range(40)]
    for seconds in syncs:
        held_up = place.whom_the_disk_holds_up()
        for one in crew:
            one.sendall(MESSAGE)
        clock.now += seconds
        place.spool.goes_on.set()
        assert [answer(one) for one in (held_up, *crew)] == [ACCEPTED] * 41
    assert [len(lines) for lines in place.spool.syncs] == sizes


def test_who_sends_many_messages_in_one_piece_holds_nobody_up(place: Place) -> None:
    """One of them in each round, beside those of the others."""
    many, other = place.connect(), place.connect()
    place.spool.goes_on.clear()
    many.sendall(3 * MESSAGE)
    wait_until(lambda: len(place.spool.syncs) == 1, "the sync")
    other.sendall(message_of(b"<other@x>"))
    place.spool.goes_on.set()
    assert (received(many, 3 * len(ACCEPTED)), answer(other)) == (3 * ACCEPTED, ACCEPTED)
    first, second, third = place.spool.syncs
    assert (first, sorted(second), third) == ([b"<a@x>"], [b"<a@x>", b"<other@x>"], [b"<a@x>"])


def test_each_answer_belongs_to_its_message(place: Place) -> None:
    """Also to those that came before an earlier one was answered, in one piece or in several."""
    refused = message_of(REFUSED)
    one = place.whom_the_disk_holds_up()
    one.sendall(refused + MESSAGE)
    one.sendall(refused + MESSAGE[:-3])
    place.spool.goes_on.set()
    assert received(one, 4 * len(REFUSAL)) == 2 * (ACCEPTED + REFUSAL)
    one.sendall(MESSAGE[-3:])
    assert answer(one) == ACCEPTED


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


def _full(place: Place) -> tuple[socket.socket, int]:
    """One that takes no answers and is heard no more; how many octets of answers there are."""
    place.sessions.granted = 0  # each event is answered
    slow = place.connect()
    slow.setblocking(False)
    octets, sent = 1000 * HELLO, 0
    while True:
        try:
            sent += slow.send(octets[sent % len(octets) :])
        except BlockingIOError:
            # Full: whoever were still heard would take more.
            other = place.connect()
            other.sendall(MESSAGE)
            assert received(other, 4 * len(ACCEPTED)) == 4 * ACCEPTED
            with contextlib.suppress(BlockingIOError):
                sent += slow.send(octets[sent % len(octets) :])
                continue
            break
    slow.settimeout(30)
    rest = -sent % len(HELLO)
    if rest:
        threading.Thread(target=slow.sendall, args=(HELLO[-rest:],)).start()
    place.sessions.granted = int(wire.NO_REPLIES)
    # And one to CONNECT.
    return slow, (1 + (sent + rest) // len(HELLO)) * len(ACCEPTED)


def test_answers_that_go_out_in_parts_are_whole_and_in_order(place: Place) -> None:
    """However many there are when the farewell comes, and whatever else is answered meanwhile."""
    place.sessions.granted = 0
    octets = BEGIN + 2000 * HELLO + MESSAGE + message_of(REFUSED) + QUIT
    one = place.connect_narrowly(octets)
    wait_until(lambda: place.spool.syncs == [[b"<a@x>"]], "the message")
    received(one, len(packets.agreed(6, 0, 0, [])))
    whole = (1 + 2000 + 3 + 2) * ACCEPTED + REFUSAL
    assert received(one, len(whole) + 1) == whole
    wait_until(lambda: place.ended == 1, "its end")


def test_a_long_message_is_heard_a_piece_at_a_time(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others have their turn between two pieces, and what was not heard yet is not in memory."""
    heard: list[tuple[bytes, int]] = []

    def body(session: OneSession, _context: Context, chunk: bytes) -> None:
        heard.append((session.author, len(chunk)))

    monkeypatch.setattr(OneSession, "body", body)
    long, short = place.connect(), place.connect()
    held_up = place.whom_the_disk_holds_up()
    for one, author, pieces in ((long, b"<long@x>", 200), (short, b"<short@x>", 1)):
        octets = message_of(author)
        one.sendall(octets[: -len(END)] + pieces * wire.framed(b"B", bytes(500)) + END)
    place.spool.goes_on.set()
    assert [answer(one) for one in (held_up, long, short)] == [ACCEPTED] * 3
    authors = [author for author, _ in heard]
    assert len(authors) == 201
    assert authors.index(b"<short@x>") < 100


def test_messages_without_end_are_answered_in_their_order(place: Place) -> None:
    """More of them than one read takes, and nobody waits for an answer."""
    one = place.connect()
    octets = 500 * (MESSAGE + message_of(REFUSED)) + QUIT
    threading.Thread(target=one.sendall, args=(octets,)).start()
    assert received(one, 10_000) == 500 * (ACCEPTED + REFUSAL)
    assert place.spool.syncs == 500 * [[b"<a@x>"]]


def test_a_message_of_two_records_waits_for_both(place: Place) -> None:
    """And the next message for its answer."""
    one = place.connect()
    one.sendall(message_of(TWICE) + message_of(REFUSED))
    assert received(one, 2 * len(ACCEPTED)) == ACCEPTED + REFUSAL
    assert place.spool.syncs == [[TWICE], [TWICE]]


def test_a_connection_that_was_called_ready_and_is_not_stays(place: Place) -> None:
    """The kernel may be wrong about that, as select(2) says; nobody is left for it."""
    one = place.connect()
    (there,) = place.rounds._wires.values()
    real = there.socket

    class Mistaken:
        def recv(self, _size: int) -> bytes:
            there.socket = real
            raise BlockingIOError

    there.socket = cast(socket.socket, Mistaken())
    one.sendall(MESSAGE)
    assert answer(one) == ACCEPTED


def test_an_mta_that_takes_no_answers_holds_nobody_up_and_loses_none(place: Place) -> None:
    """It is heard no more until it took them, so that they do not fill the memory."""
    slow, whole = _full(place)
    slow.settimeout(30)
    assert received(slow, whole) == whole // len(ACCEPTED) * ACCEPTED
    slow.sendall(message_of(REFUSED) + QUIT)
    assert received(slow, 1000) == 2 * ACCEPTED + REFUSAL


def test_who_says_nothing_for_too_long_is_left() -> None:
    """Its MTA may be gone without a word, and nobody else speaks."""
    place = Place(silence=0.2)
    with contextlib.closing(place):
        silent = place.connect()
        assert received(silent, 1) == b""
        wait_until(lambda: (place.sessions.closed, place.ended) == (1, 1), "its end")
        fresh = place.connect()
        fresh.sendall(MESSAGE)
        assert answer(fresh) == ACCEPTED


def test_who_spoke_meanwhile_is_not_left(clock: Clock) -> None:
    """However long it is connected; who said nothing since is."""
    place = Place(silence=100.0)
    with contextlib.closing(place):
        silent, speaker = place.connect(), place.connect()
        for now in (60.0, 130.0):
            clock.now = now
            speaker.sendall(MESSAGE)
            assert answer(speaker) == ACCEPTED
        assert received(silent, 1) == b""
        speaker.sendall(MESSAGE)
        assert answer(speaker) == ACCEPTED


def test_who_waits_for_its_answer_is_not_left(clock: Clock) -> None:
    """However long the disk takes: it says nothing because it has to wait for us."""
    place = Place(silence=100.0)
    with contextlib.closing(place):
        one = place.connect()
        place.spool.goes_on.clear()
        one.sendall(message_of(TWICE))
        wait_until(lambda: len(place.spool.syncs) == 1, "the first sync")
        clock.now = 200.0
        place.spool.goes_on.set()
        assert answer(one) == ACCEPTED
        assert place.spool.syncs == [[TWICE]] * 2


def test_who_takes_its_answers_slowly_is_not_left(clock: Clock) -> None:
    """It says nothing for a long time, because it is still busy with what it was told."""
    place = Place(silence=100.0)
    with contextlib.closing(place):
        place.sessions.granted = 0  # each event is answered
        slow = place.connect_narrowly(BEGIN + 2000 * HELLO)
        (wire_of_slow,) = place.rounds._wires.values()
        wait_until(lambda: bool(wire_of_slow.unsent), "more answers than it takes")
        whole = len(packets.agreed(6, 0, 0, [])) + 2001 * len(ACCEPTED)
        sent = whole - len(wire_of_slow.unsent)
        clock.now = 60.0
        assert len(received(slow, sent + 1)) == sent + 1  # the last of these was sent just now
        clock.now = 130.0
        place.sessions.granted = int(wire.NO_REPLIES)
        other = place.connect()
        for _ in range(2):  # with the second one, the round of the first one is over
            other.sendall(MESSAGE)
            assert answer(other) == ACCEPTED
        slow.sendall(MESSAGE)
        rest = received(slow, whole - sent - 1 + 3 * len(ACCEPTED))
        assert rest.endswith(3 * ACCEPTED)
        assert len(rest) == whole - sent - 1 + 3 * len(ACCEPTED)


def test_rounds_that_the_disk_holds_up_are_known_to_be(clock: Clock) -> None:
    """For how long and where; rounds that have nothing to do go on all the same."""
    place = Place()
    with contextlib.closing(place):
        assert place.rounds.held_up() == 0.0  # a question
        clock.now = 0.5
        wait_until(lambda: place.rounds.held_up() == 0.0, "its answer")
        one = place.whom_the_disk_holds_up()
        clock.now = 10.0
        assert place.rounds.held_up() == 0.0  # the next question
        clock.now = 22.0
        assert place.rounds.held_up() == 12.0
        assert "put_all:" in place.rounds.place()
        place.spool.goes_on.set()
        assert answer(one) == ACCEPTED
        wait_until(lambda: place.rounds.held_up() == 0.0, "the next round")


def test_a_fault_of_the_thread_itself_does_not_end_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process would look alive and serve nobody; not even where it cannot be said."""
    said: list[str] = []

    def say(where: str, *_: Any, **__: Any) -> None:
        said.append(where)
        raise MemoryError

    monkeypatch.setattr(log, "internal_error", say)
    one = place.connect()
    answer_all = place.rounds._answer

    def failing(*given: Any) -> None:
        monkeypatch.setattr(place.rounds, "_answer", answer_all)
        raise ZeroDivisionError

    monkeypatch.setattr(place.rounds, "_answer", failing)
    one.sendall(MESSAGE)
    assert answer(one) == ACCEPTED
    assert said == ["rounds"]


@pytest.mark.parametrize("breaks", ["the-word", "the-session", "the-count"])
def test_what_fails_at_the_end_of_one_connection_reaches_no_other(
    place: Place, monkeypatch: pytest.MonkeyPatch, breaks: str
) -> None:
    """Those of the same round are recorded and answered, and all else of that end is done."""

    def failing(*_: Any, **__: Any) -> int:
        raise MemoryError

    if breaks == "the-word":
        monkeypatch.setattr(log, "warning", failing)
    before, broken, after = (place.connect() for _ in range(3))
    if breaks == "the-count":
        monkeypatch.setattr(place.rounds._wires[broken_number(place, 1)], "ended", failing)
    held_up = place.whom_the_disk_holds_up()
    if breaks == "the-session":
        monkeypatch.setattr(place.sessions, "close", failing)
    for one, octets in ((before, MESSAGE), (broken, ENDLESS), (after, MESSAGE)):
        one.sendall(octets)
    place.spool.goes_on.set()
    assert [answer(one) for one in (held_up, before, after)] == [ACCEPTED] * 3
    assert received(broken, 1) == b""
    assert [len(lines) for lines in place.spool.syncs] == [1, 2]
    if breaks != "the-count":
        wait_until(lambda: place.ended == 1, "its end")


def broken_number(place: Place, position: int) -> int:
    """Of the connection that came so many others later."""
    return list(place.rounds._wires)[position]


@pytest.mark.parametrize("is_shut", [False, True], ids=["closed", "shut"])
def test_an_mta_that_leaves_its_answers_is_gone(place: Place, is_shut: bool) -> None:
    """While nothing can be sent there, so that nothing but its leaving is heard."""
    slow, _ = _full(place)
    if is_shut:
        slow.shutdown(socket.SHUT_RDWR)
    else:
        slow.close()
    wait_until(lambda: place.ended == 1, "its end")


def test_what_is_done_while_the_disk_writes_is_done_before_anybody_is_answered() -> None:
    """Once for each sync, with the messages that wait for it."""
    seen: list[int] = []
    place = Place(meanwhile=lambda: seen.append(len(place.spool.syncs)))
    with contextlib.closing(place):
        one = place.whom_the_disk_holds_up()
        wait_until(lambda: seen == [1], "what is done meanwhile")
        place.spool.goes_on.set()
        assert answer(one) == ACCEPTED
        one.sendall(MESSAGE)
        assert answer(one) == ACCEPTED
        assert seen == [1, 2]


def test_a_message_whose_mta_left_before_it_was_recorded_is_not(place: Place) -> None:
    """It cannot be answered any more; nothing else goes to the disk in its place."""
    place.sessions.granted = 0
    gone = place.connect()
    gone.shutdown(socket.SHUT_RD)  # so that the answer to MAIL cannot be sent
    gone.sendall(MESSAGE)
    wait_until(lambda: place.ended == 1, "its end")
    other = place.connect()
    other.sendall(MESSAGE)
    assert received(other, 4 * len(ACCEPTED)) == 4 * ACCEPTED
    assert place.spool.syncs == [[b"<a@x>"]]


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Nobody collects garbage."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(MESSAGE + QUIT, id="left"),
        pytest.param(MESSAGE[:-1], id="hung-up"),
        pytest.param(MESSAGE + ENDLESS, id="broken"),
        pytest.param(message_of(UNLUCKY), id="defect"),
    ],
)
def test_of_a_connection_that_ended_nothing_stays(place: Place, octets: bytes) -> None:
    """A message that stayed would keep its keys: who revokes one waits until nobody has it."""
    one = place.connect()
    one.sendall(octets)
    one.shutdown(socket.SHUT_WR)
    wait_until(lambda: [each() for each in place.sessions.living] == [None], "the session's end")


@pytest.mark.usefixtures("uncollected")
def test_of_one_that_breaks_and_cannot_be_answered_nothing_stays(place: Place) -> None:
    """Two faults at once, each with the way by which it came."""
    place.sessions.granted = 0  # each event is answered
    one = place.connect()
    one.shutdown(socket.SHUT_RD)
    one.sendall(HELLO + ENDLESS)
    wait_until(lambda: [each() for each in place.sessions.living] == [None], "the session's end")


@pytest.mark.usefixtures("uncollected")
def test_what_was_told_of_a_fault_is_not_kept_by_it(place: Place) -> None:
    """It was thrown into each message of the round, and knows where it came by."""
    made: list[weakref.ref[Exception]] = []

    def fault() -> Exception:
        one = SpoolUnwritable("full")
        made.append(weakref.ref(one))
        return one

    crew = [place.connect() for _ in range(3)]
    place.spool.fault = fault
    for one in crew:
        one.sendall(MESSAGE)
    assert [answer(one) for one in crew] == [LATER] * 3
    wait_until(lambda: not any(one() for one in made), "the fault's end")


def test_a_connection_that_cannot_be_waited_for_is_not_taken(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has it closes it; what stayed here would answer for the next one of its number."""

    class Full:
        def register(self, *_: Any) -> None:
            raise OSError(errno.ENOSPC, "no more watches")

    ours, theirs = socket.socketpair()
    with ours, theirs, monkeypatch.context() as meanwhile:
        meanwhile.setattr(place.rounds, "_waiting", Full())
        with pytest.raises(OSError, match="no more watches"):
            place.rounds.take(theirs, place._end)
        assert not place.rounds._wires
    assert place.ended == 0
