"""Telling systemd how it goes (sd_notify(3)), without a library for ten lines.

Promises: does nothing when no service manager asked to be told, and never raises.
"""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from typing import Final

from carbonseal.milter.status.board import Board
from carbonseal.policies import quantity

_READINESS: Final = {
    True: "ready",
    False: "not ready: see carbonseal status",
    None: "readiness unknown",
}


@dataclass(slots=True)
class Notices:
    """What the supervisor tells; it remembers what was told last."""

    _said: str = ""

    def ready(self) -> None:
        """It serves, with the old configuration or with a new one."""
        _notify("READY=1")

    def reloading(self) -> None:
        """It reads the configuration again; `ready` must follow."""
        _notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """It lets its children leave."""
        _notify("STOPPING=1")

    def alive(self, board: Board) -> None:
        """How it goes, where that has changed; and that we live, as long as a worker does."""
        crew = board.crew()
        workers = f"{crew.serving} of {quantity.of(crew.wanted, 'worker')}"
        said = f"{workers}, {_READINESS[board.is_ready]}"
        states = [f"STATUS={said}"] if said != self._said else []
        self._said = said
        # Not "all": one that hangs is no reason to stop the others.  Nor "stuck": most likely the
        # disk makes the mail wait, which would be no quicker for new workers.
        if crew.serving > crew.silent:
            states.append("WATCHDOG=1")
        if states:
            _notify(*states)


@dataclass(slots=True)
class WriterNotices:
    """What a writer tells that is a service of its own; it remembers what was told last."""

    _said: str = ""
    _is_ready: bool = False

    def loads(self) -> None:
        """The spool is its own, and the database serves."""
        self._tell("loads the spool")

    def waits(self, problem: str) -> None:
        """The spool is its own, and the database cannot serve for now."""
        # A line end would begin another assignment.
        self._tell(" ".join(f"waits: {problem}".split()))

    def stopping(self) -> None:
        """It loads what is there, and leaves."""
        _notify("STOPPING=1")

    def _tell(self, said: str) -> None:
        states = [] if self._is_ready else ["READY=1"]
        if said != self._said:
            states.append(f"STATUS={said}")
        self._is_ready, self._said = True, said
        if states:
            _notify(*states)


def _notify(*states: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.sendto("\n".join(states).encode(), address)
    except OSError:
        pass  # the service manager will see a start that takes too long; mail matters more
