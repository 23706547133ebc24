"""When the writer is to stop: told by an event, by the supervisor, or never.

Promises: what has answered once that it is time goes on answering so.
"""

from __future__ import annotations

import socket
from typing import Protocol

from carbonseal.milter import readable


class Stop(Protocol):
    """When to stop: a threading.Event, or anything that waits and answers like one."""

    def is_set(self) -> bool:
        """Whether to stop."""

    def wait(self, timeout: float) -> bool:
        """Wait for it at most that many seconds."""


class SupervisorsStop:
    """Set once the other end of a socket sends anything or closes."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._is_set = False

    def is_set(self) -> bool:
        """Whether to stop."""
        return self.wait(0)

    def wait(self, timeout: float) -> bool:
        """Wait for it at most that many seconds."""
        if not self._is_set:
            self._is_set = readable.wait(self._control, timeout)
        return self._is_set


class Never:
    """For work that is done to its end; nobody waits with it."""

    def is_set(self) -> bool:
        """Not ever."""
        return False

    def wait(self, timeout: float) -> bool:
        """At once: there is nothing to wait for."""
        return False
