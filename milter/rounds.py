"""All connections of a worker, served by one thread in rounds: hear, make durable, answer.

In a round, connections that have something to say are heard, and a second time those that spoke
while others were sealed; the records of all messages that came to their end are made durable with
one sync, and their signatures verified while the disk writes; then these are answered.  With a
thread for each connection, threads wait for the interpreter's lock and wake each other: 7 context
switches a message where it is 4 now, a tenth of all CPU, and twice as many syncs
(`docs/benchmarks`).  Signatures are made one after the other; a worker has one core anyway.

Promises: no message is answered before its record is durable, or known not to be.  A connection is
heard for one read at a time, and of several messages in it for one, so that it holds nobody up; an
MTA that does not take its answers is heard no more until it did, and nobody waits for it.  What
breaks one connection breaks no other, and nothing ends the thread.  Of a connection that ended
nothing stays.

While the disk works at a sync, nobody is heard; the longer it takes, the more share the next one.
Whoever asks learns how long no round has ended (`held_up`), and where the thread is meanwhile.

Does not: take connections (`reception` does), speak the protocol (`conversation` does).
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from operator import attrgetter
from typing import Final, Protocol

from carbonseal.milter import log
from carbonseal.milter.conversation import Broken, Conversation, Sessions

_SHORT: Final = 16 * 1024  # octets of a read: a message of a few kilobytes
_LONG: Final = 65_540  # a whole piece of the body; longer reads keep the MTA waiting
# Connections that are heard in one round: beyond that, another message costs those that wait for
# the sync more than it saves.  Where a sync takes long, as many as can be heard meanwhile.
_AT_ONCE: Final = 16
_AT_MOST: Final = 4096
_EACH: Final = 0.0005  # seconds that one takes, about
_QUICK: Final = _AT_ONCE * _EACH
_SILENCE: Final = 7210.0  # seconds after which a connection counts as dead: libmilter's number
_LOOK: Final = 60.0  # seconds between two looks for such
_PAUSE: Final = 0.1  # seconds after a fault that is no connection's
_ASK_EVERY: Final = 1.0  # seconds between two questions whether it goes round
_FRAMES: Final = 5  # of the place in the code where it is
_record: Final = attrgetter("conversation.record")


class Spool(Protocol):
    """Where the records go."""

    def put_all(self, lines: list[bytes], meanwhile: Callable[[], None] | None) -> None:
        """Returns when they are durable; `meanwhile` is done before.  Raises: SpoolUnwritable."""


class _Wire:
    """A connection: its socket, what is said over it, and who wants to know of its end."""

    __slots__ = ("conversation", "ended", "heard_at", "is_leaving", "number", "socket", "unsent")

    def __init__(
        self, connection: socket.socket, conversation: Conversation, ended: Callable[[], None]
    ) -> None:
        self.socket = connection
        self.number = connection.fileno()
        self.conversation = conversation
        self.ended = ended
        self.unsent = b""
        self.heard_at = time.monotonic()
        self.is_leaving = False  # the MTA said farewell and has not taken all answers yet


class Rounds:
    """Serves connections until the process ends."""

    def __init__(
        self,
        sessions: Sessions,
        spool: Spool,
        meanwhile: Callable[[], None] | None = None,
        *,
        silence: float = _SILENCE,
    ) -> None:
        """`silence`: seconds after which an MTA that says nothing, or takes nothing, is left.

        `meanwhile` is done while the disk writes what a round has; it raises nothing.
        """
        self._sessions = sessions
        self._spool = spool
        self._meanwhile = meanwhile
        self._silence = silence
        self._patience = min(_LOOK, silence)
        self._wires: dict[int, _Wire] = {}  # by the number of the socket
        self._waiting = select.epoll()
        self._faults = log.Recurring("rounds")
        self._ended: list[_Wire] = []  # with a message at its end, which waits for its record
        self._at_once = _AT_ONCE
        self._look_at = 0.0
        self._thread = threading.Thread(target=self._serve, name="rounds", daemon=True)
        # A question among the connections: to note each round would cost every message.
        self._question = os.eventfd(0, os.EFD_CLOEXEC)
        self._waiting.register(self._question, select.EPOLLIN | select.EPOLLET)
        self._asked_at = -_ASK_EVERY
        self._is_answered = True

    def start(self) -> None:
        """Serve from now on.  Raises: RuntimeError where there is no thread to be had."""
        self._thread.start()

    def held_up(self) -> float:
        """Seconds for which no round has ended, 0.0 where they go on; to be asked again and again.

        To be asked by one thread, and by another one than that which serves.
        """
        now = time.monotonic()
        if not self._is_answered:
            return now - self._asked_at
        if now - self._asked_at >= _ASK_EVERY:
            self._asked_at, self._is_answered = now, False
            os.eventfd_write(self._question, 1)
        return 0.0

    def place(self) -> str:
        """Where in the code the serving thread is at this moment, innermost first."""
        frame = sys._current_frames().get(self._thread.ident or 0)
        found: list[str] = []
        while frame is not None and len(found) < _FRAMES:
            found.append(f"{frame.f_code.co_name}:{frame.f_lineno}")
            frame = frame.f_back
        return " < ".join(found)

    def take(self, connection: socket.socket, ended: Callable[[], None]) -> None:
        """Serve this one, and call `ended` when that is over; from any thread.  Raises: OSError."""
        connection.setblocking(False)
        wire = _Wire(connection, Conversation(self._sessions), ended)
        self._wires[wire.number] = wire
        try:
            self._waiting.register(wire.number, select.EPOLLIN)
        except BaseException:
            del self._wires[wire.number]
            raise

    def _serve(self) -> None:
        while True:
            try:
                self._round()
            except Exception as fault:  # an edge: without this thread nobody is served
                self._note(fault)
                time.sleep(_PAUSE)

    def _round(self) -> None:
        now = self._listen(0 if self._ended else self._patience)
        if self._ended:
            # Sealing takes longer than it takes MTAs to send the next message: who spoke meanwhile
            # shares the sync.
            waiting = len(self._ended)
            if waiting < self._at_once and waiting < len(self._wires):
                self._listen(0)
            now = self._answer()
        if now >= self._look_at:
            self._leave_silent(now)

    def _listen(self, patience: float) -> float:
        """Hear those who have something to say, waiting so many seconds for the first.

        Returns when that came.
        """
        ready = self._waiting.poll(patience, self._at_once)
        now = time.monotonic()
        wire_of, ended = self._wires.get, self._ended
        # Here and in `_answer` nothing is a method that can be done without: most messages come in
        # one read, with nothing to be said before their end, and their answers are taken whole.
        for number, _ in ready:
            wire = wire_of(number)
            if wire is None:
                if number == self._question:  # edge-triggered: there is nothing to be read
                    self._is_answered = True
                continue
            conversation = wire.conversation
            if conversation.record is not None:
                continue  # the next message waits for the answer to this one
            wire.heard_at = now
            try:
                if wire.unsent:
                    self._write(wire)
                    continue
                try:
                    octets = wire.socket.recv(_LONG if conversation.rest else _SHORT)
                except BlockingIOError:
                    continue
                if not (octets and conversation.hear(octets)):
                    self._part(wire)
                elif conversation.said:
                    self._say(wire)
            except Exception as fault:
                self._break_off(wire, fault)
            if conversation.record is not None:
                ended.append(wire)
        return now

    def _answer(self) -> float:
        """Make the records of the messages that ended durable, and answer these.

        Those of the same connections that come to their end by this are for the next round.
        Returns when they were durable.
        """
        ended, self._ended = self._ended, []
        fault = None
        began = time.monotonic()
        try:
            self._spool.put_all([*map(_record, ended)], self._meanwhile)
        except Exception as unwritten:  # whatever it is, it is each message's to answer
            fault = unwritten
        now = time.monotonic()
        took = now - began
        self._at_once = _AT_ONCE if took < _QUICK else min(int(took / _EACH), _AT_MOST)
        for wire in ended:
            conversation = wire.conversation
            try:
                octets = conversation.go_on(fault)
                if conversation.rest or wire.unsent or not octets:
                    self._go_on(wire, octets)
                    continue
                try:
                    sent = wire.socket.send(octets)
                except BlockingIOError:
                    sent = 0
                if sent < len(octets):
                    self._keep(wire, octets[sent:])
            except Exception as broken:
                self._break_off(wire, broken)
        fault = None  # it knows this frame by its traceback, and would keep all that it was told
        return now

    def _go_on(self, wire: _Wire, octets: bytes) -> None:
        """Say this, and hear what came behind the message that it answers."""
        try:
            is_going_on = wire.conversation.hear(b"")
        finally:
            # What went before counts, whatever came after it.
            self._say(wire, octets)
        if not is_going_on:
            self._part(wire)
        if wire.conversation.record is not None:
            self._ended.append(wire)

    def _break_off(self, wire: _Wire, fault: Exception) -> None:
        """Never raises: others wait for their answer in the same round."""
        # Not even where there is no memory left to say so.
        with contextlib.suppress(Exception):
            try:
                self._say(wire)
            except Exception as later:
                _tell(later)
            else:
                _tell(fault)
        self._leave(wire)

    def _leave_silent(self, now: float) -> None:
        self._look_at = now + self._patience
        for wire in list(self._wires.values()):
            # Who waits for its answer is not silent.
            if now - wire.heard_at > self._silence and wire.conversation.record is None:
                self._leave(wire)

    def _part(self, wire: _Wire) -> None:
        """The MTA has nothing more to say."""
        self._say(wire)
        wire.is_leaving = True
        if not wire.unsent:
            self._leave(wire)

    def _write(self, wire: _Wire) -> None:
        wire.unsent = wire.unsent[self._sent(wire, wire.unsent) :]
        if not wire.unsent:
            if wire.is_leaving:
                self._leave(wire)
            else:
                self._waiting.modify(wire.number, select.EPOLLIN)

    def _say(self, wire: _Wire, first: bytes = b"") -> None:
        """Say what is to be said, and this before it."""
        octets = first + wire.conversation.to_say()
        if wire.unsent:
            wire.unsent += octets
        elif octets:
            sent = self._sent(wire, octets)
            if sent < len(octets):
                self._keep(wire, octets[sent:])

    def _keep(self, wire: _Wire, octets: bytes) -> None:
        """These the MTA did not take yet; until it does it is not heard."""
        wire.unsent = octets
        self._waiting.modify(wire.number, select.EPOLLOUT)

    def _sent(self, wire: _Wire, octets: bytes) -> int:
        try:
            return wire.socket.send(octets)
        except BlockingIOError:
            return 0

    def _leave(self, wire: _Wire) -> None:
        """Never raises."""
        # Out of the table before its number can be another's.
        if self._wires.pop(wire.number, None) is None:
            return
        wire.conversation.record = None
        for do in (wire.conversation.close, wire.socket.close, wire.ended):
            try:
                do()
            except Exception as fault:  # an edge: what is left out here is never made up for
                self._note(fault)

    def _note(self, fault: Exception) -> None:
        with contextlib.suppress(Exception):
            self._faults.failed(fault)


def _tell(fault: Exception) -> None:
    if isinstance(fault, Broken):
        log.warning("connection-broken-off", problem=str(fault))
    elif not isinstance(fault, OSError):
        log.internal_error("conversation", fault)
    # Else the MTA left; what it did not finish is not on record.
