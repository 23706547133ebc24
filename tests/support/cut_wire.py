"""A wire to a server that can be cut at a moment of the test's choice.

Promises: what a client sends to `port` goes to the server, and back.  `cut_at(n, moment)` cuts all
connections at the n-th piece that a client sends from then on: BEFORE it reaches the server, or
AFTER, as soon as the server has begun to answer, its answer being lost.  Later connections live.

Does not: know what is in the pieces.  A piece is what one read brings: a request, mostly.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from enum import StrEnum
from types import TracebackType
from typing import Self

from support.ports import LOOPBACK

_PIECE = 1 << 20


class Moment(StrEnum):
    """On which side of the server's work the cut is."""

    BEFORE = "before"
    AFTER = "after"


class CutWire:
    """A listener before a server."""

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._left = 0
        self._moment = Moment.BEFORE
        self._is_drawn = False
        self.was_cut = False

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.close()
        self.cut()

    def cut_at(self, number: int, moment: Moment) -> None:
        """Cut once, at the `number`-th piece from now."""
        with self._lock:
            self._left, self._moment, self._is_drawn, self.was_cut = number, moment, False, False

    def cut(self) -> None:
        """Cut all connections now."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection((LOOPBACK, self._server_port))
            except OSError:
                client.close()
                continue
            for end in (client, server):  # a small piece must not wait for the receipt of the last
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._pairs.append((client, server))
            for work, ends in ((self._there, (client, server)), (self._back, (server, client))):
                threading.Thread(target=work, args=ends, daemon=True).start()

    def _there(self, client: socket.socket, server: socket.socket) -> None:
        while piece := _received(client):
            with self._lock:
                self._left -= 1
                is_last = self._left == 0
                self._is_drawn = is_last and self._moment is Moment.AFTER
            if is_last and self._moment is Moment.BEFORE:
                self.was_cut = True
                self.cut()
                return
            with contextlib.suppress(OSError):
                server.sendall(piece)
        _half_close(server)

    def _back(self, server: socket.socket, client: socket.socket) -> None:
        while piece := _received(server):
            if self._is_drawn:
                self._is_drawn, self.was_cut = False, True
                self.cut()
                return
            with contextlib.suppress(OSError):
                client.sendall(piece)
        _half_close(client)


def _received(end: socket.socket) -> bytes:
    try:
        return end.recv(_PIECE)
    except OSError:
        return b""


def _half_close(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_WR)
