"""Where a worker takes its connections: as many as the others have.

All workers of a relay wait at one socket, and who wakes first could take whatever is there: of 32
connections that an MTA opened at once, one of five workers got 30, and its threads waited for each
other while the others had nothing to do.  So each says on the board how many it has, and one that
has more than another wakes the others, of which the kernel did not think, and waits a moment.

Promises: after `stop` no connection is taken, and those there are go on.  A worker that does not
take what it should holds nobody up for longer than `_PATIENCE`.

Does not: serve them (`rounds` does), or close the listening socket.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from typing import Final

from carbonseal.milter import log
from carbonseal.milter.rounds import Rounds
from carbonseal.milter.status.board import Board
from carbonseal.policies import fair_share

_PATIENCE: Final = 0.005  # seconds
_LOOK_AGAIN: Final = 0.001  # seconds between two looks at it
_LOOK_ANYWAY: Final = 0.2  # seconds until one looks who was not woken
_SCARCE: Final = 0.1  # seconds until the next try when there is no descriptor

# Waking all workers for each connection would cost more than the connection.
_ONE_AT_A_TIME: Final = select.EPOLLIN | select.EPOLLEXCLUSIVE


class Reception:
    """Takes connections from a listening socket."""

    def __init__(
        self,
        listener: socket.socket,
        rounds: Rounds,
        board: Board,
        place: int | None,
        *,
        patience: float = _PATIENCE,
    ) -> None:
        """`listener` does not block; `place` is the worker's on the board.

        `patience`: seconds that others have for taking what is theirs.
        """
        self._listener = listener
        self._rounds = rounds
        self._board = board
        self._place = place
        self._patience = patience
        self._gate = threading.Lock()  # guards _open and _is_counted
        self._open = 0
        self._is_counted = True  # on the board
        self._stopped, self._stop = os.pipe()
        self._waiting = select.epoll()
        self._is_remote = listener.family != socket.AF_UNIX
        self._taker = threading.Thread(target=self._take, name="reception", daemon=True)
        self._faults = log.Recurring("reception")

    @property
    def connections(self) -> int:
        """How many there are."""
        return self._open

    def start(self) -> None:
        """Take connections from now on.  Raises: OSError, RuntimeError where it cannot."""
        # Not in the thread, where nobody would learn that it failed.
        self._waiting.register(self._stopped, select.EPOLLIN)
        self._waiting.register(self._listener, _ONE_AT_A_TIME)
        self._waiting.register(self._board.call, select.EPOLLIN | select.EPOLLET)
        self._rounds.start()
        self._taker.start()
        self._count(0)

    def stop(self) -> None:
        """Take no more; returns when none can come."""
        os.write(self._stop, b"x")
        self._taker.join()
        with self._gate:
            # Else the end of each connection would put it back.
            self._is_counted = False
            self._board.takes_no_more(self._place)

    def _take(self) -> None:
        said = ""  # ten lines a second would tell no more than one
        with self._waiting as waiting:
            while True:
                try:
                    if not self._wait(waiting):
                        return
                    if self._take_one():
                        said = ""
                        # To the end of the queue of those that the kernel wakes.
                        waiting.unregister(self._listener)
                        waiting.register(self._listener, _ONE_AT_A_TIME)
                except OSError as fault:
                    known, said = said, str(fault)
                    if said != known:
                        log.warning("connection-not-taken", problem=said)
                    time.sleep(_SCARCE)
                except Exception as fault:  # an edge: without this thread nobody is served here
                    self._faults.failed(fault)
                    time.sleep(_SCARCE)

    def _wait(self, waiting: select.epoll) -> bool:
        """Until there may be a connection for us; False: it is time to stop."""
        deadline = None
        while True:
            # In vain after a while: who was woken for a connection may have died since.  At once
            # where one is waited for: if it is not there any more, another took it.
            ready = dict(waiting.poll(_LOOK_ANYWAY if deadline is None else 0))
            if self._stopped in ready:
                return False
            others = self._board.connections_elsewhere(self._place)
            if not ready or fair_share.may_take(self._open, others):
                return True
            if self._listener.fileno() not in ready:
                deadline = None
                continue  # called, and it is another's turn
            now = time.monotonic()
            if deadline is None:
                deadline = now + self._patience
                self._board.call_others()
            if now >= deadline:
                return True
            time.sleep(_LOOK_AGAIN)

    def _take_one(self) -> bool:
        """Whether there was one.  Raises: OSError."""
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return False  # somebody else was quicker
        self._count(1)
        try:
            if self._is_remote:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._rounds.take(connection, self._ended)
        except BaseException:
            self._count(-1)
            connection.close()
            raise
        return True

    def _ended(self) -> None:
        self._count(-1)

    def _count(self, more: int) -> None:
        with self._gate:
            self._open += more
            if self._is_counted:
                self._board.has_connections(self._place, self._open)
