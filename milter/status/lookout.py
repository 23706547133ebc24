"""The status process: looks at the relay every second, writes down what it sees, and serves it.

Promises: looking goes on in a thread of its own, so that a disk that hangs cannot silence the
endpoint, which then says how old its page is.  Mail never waits for this process, and its end is no
reason for anything but its restart.

Writes `<spool>/state/status.json` every two seconds, for `carbonseal status` and for whoever comes
later; a file that is old, or that says so, means that nobody looks.  That the relay is not ready is
said on a full disk as well, in room that was kept for it.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Any, Final

from carbonseal.milter import log, readable, socket_address
from carbonseal.milter.config import Configuration
from carbonseal.milter.status import state_files
from carbonseal.milter.status.board import Board
from carbonseal.milter.status.page import Looker, Page
from carbonseal.policies import readiness

NAME: Final = "status"
READY: Final = b"R"  # to the supervisor, once there is a page
MAKE_WAY: Final = b"N"  # from him: leave, the next one is about to look
LOOK_EVERY: Final = 1.0  # seconds
_WRITE_EVERY: Final = 2  # looks


def serve(configuration: Configuration, board: Board, control: socket.socket) -> int:
    """Look and serve until the supervisor at the other end of `control` says so or is gone."""
    lookout = _Lookout(configuration, board)
    looking = threading.Thread(
        target=lookout.look_for_ever, args=(control,), name="looking", daemon=True
    )
    looking.start()
    listen = configuration.file.status.listen
    if listen is None:
        readable.wait(control)
    else:
        # Loads an HTTP server and what writes metrics: only where somebody may ask.
        from carbonseal.milter.status import endpoint  # noqa: PLC0415

        endpoint.serve(socket_address.parse(listen), control, lambda: lookout.page)
    if not _makes_way(control):
        lookout.leave()
    return 0


def _makes_way(control: socket.socket) -> bool:
    try:
        return control.recv(1, socket.MSG_DONTWAIT) == MAKE_WAY
    except OSError:
        return False


class _Lookout:
    def __init__(self, configuration: Configuration, board: Board) -> None:
        self._looker = Looker(configuration, board)
        self._board = board
        self._spool = configuration.spool_directory
        self.page: Page | None = None  # the newest
        self._was_ready: bool | None = None

    def look_for_ever(self, control: socket.socket) -> None:
        """Every second; the supervisor is told of the first look, whatever came of it."""
        turn = 0
        faults = log.Recurring("status")
        while True:
            try:
                self._look(write=turn % _WRITE_EVERY == 0)
            except Exception as fault:  # an edge: the thread must not end while the process lives
                faults.failed(fault)
            else:
                faults.succeeded()
            if turn == 0:
                with contextlib.suppress(OSError):  # the supervisor is gone; so are we soon
                    control.send(READY)
            turn += 1
            time.sleep(LOOK_EVERY)

    def _look(self, *, write: bool) -> None:
        page = self._looker.look()
        self.page = page
        found = page.checks(0.0)
        is_ready = readiness.is_ready(found)
        self._board.looked(is_ready=is_ready)
        if is_ready is not self._was_ready:
            wrong = [one for one in found if one.is_needed and not one.is_ok]
            if wrong:
                log.error("not-ready", problem=f"{wrong[0].why}; {wrong[0].remedy}")
            elif self._was_ready is not None:
                log.event("ready-again")
            self._was_ready = is_ready
            write = True
        if write:
            self._write(page, page.as_json(), is_well=is_ready)

    def _write(self, page: Page, about: dict[str, Any], *, is_well: bool) -> None:
        """What is not well must not wait until the last page, which knew better days, is old."""
        if state_files.write(self._spool, NAME, about, now=page.at):
            state_files.keep_room(self._spool, NAME)
        elif not is_well:
            state_files.write_into_room(self._spool, NAME, about, now=page.at)

    def leave(self) -> None:
        """Say that nobody looks from now on."""
        page = self.page
        newest = state_files.read(self._spool, NAME)
        if page is not None and (newest is None or newest["at"] <= page.at):
            about = page.as_json() | {"ready": False, "has_left": True}
            self._write(page, about, is_well=False)
