"""One child of the supervisor: its process, the line to it, and how often it died.

Promises: a process that cannot be made leaves the child as it was.  The new process ends with its
work and never returns into the supervisor's code; it holds no sibling's line open, and learns of
the supervisor's death from its own.

Raises: OSError where there is no memory, process or descriptor for one more.

Does not: know what its work is (`crew`), or when it is to be started or ended (`children`).
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from carbonseal.milter import log
from carbonseal.policies.errors import CarbonsealError

SIGNALS: Final = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
# worker.READY and lookout.READY, worker.LEAVING; importing worker would load libmilter here.
_READY: Final = b"R"
_LEAVING: Final = b"L"
_SERVED: Final = 5.0  # seconds after which a child counts as having served
_MAX_DELAY: Final = 10.0


@dataclass(slots=True)
class Child:
    """One process of ours, or the place of one that is to be started."""

    role: str  # 'worker', 'status' or 'writer'
    main: Callable[[Child, socket.socket], int]
    patience: float  # seconds it has for leaving
    pid: int = 0
    control: socket.socket | None = None
    started_at: float = 0.0
    failures: int = 0  # deaths in a row without having served
    due_at: float = 0.0  # when a dead one is to be started again
    is_ready: bool = False
    leave_by: float = 0.0  # when one that was told to leave and is still there is killed
    place: int | None = None  # of a worker on the board
    number: int = 0  # of a worker in its crew, from 0

    @property
    def is_worker(self) -> bool:
        """Whether it seals mail."""
        return self.role == "worker"

    def fork(self, siblings: Iterable[Child]) -> None:
        """Start the process.  Raises: OSError."""
        ours, theirs = socket.socketpair()
        _flush()
        try:
            self.pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            raise
        if self.pid == 0:
            ours.close()  # held open here, it would hide the supervisor's death from this child
            self._become(theirs, siblings)
        theirs.close()
        self.control = ours
        self.started_at = time.monotonic()
        self.is_ready = False

    def _become(self, control: socket.socket, siblings: Iterable[Child]) -> None:
        """Run in the new process; never returns."""
        status = 70
        try:
            # Ctrl-C in a terminal is for the supervisor; libmilter would take it here and abort.
            os.setpgid(0, 0)
            # A sibling's control socket held open here would hide the supervisor's death from it.
            for other in siblings:
                if other.control is not None:
                    other.control.close()
            if self.is_worker:
                # libmilter waits for these in a thread of its own.
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            else:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
                signal.signal(signal.SIGHUP, signal.SIG_IGN)
                signal.signal(signal.SIGINT, signal.SIG_IGN)
            status = self.main(self, control)
        except CarbonsealError as fault:
            log.error(f"{self.role}-failed", problem=fault.sentence)
            status = fault.exit_code
        except BaseException as fault:
            log.internal_error(self.role, fault)
            if not isinstance(fault, Exception):
                traceback.print_exc()
        finally:
            _flush()
            os._exit(status)

    def await_word(self, patience: float) -> bool:
        """Whether it says within `patience` seconds that it is ready.  Raises: OSError."""
        assert self.control is not None
        self.control.settimeout(patience)
        self.is_ready = self.control.recv(1) == _READY
        return self.is_ready

    def hear(self) -> None:
        """Note whether it has said that it is ready; does not wait."""
        self.is_ready = self._word() == _READY

    def is_leaving(self) -> bool:
        """Whether one that was ready has said that it leaves; does not wait."""
        return self._word() == _LEAVING

    def _word(self) -> bytes:
        """What it says and nobody has heard yet; empty: nothing, or it has died."""
        assert self.control is not None
        # MSG_DONTWAIT would not do: with the patience of `await_word`, Python waits before it asks.
        self.control.setblocking(False)
        try:
            return self.control.recv(1)
        except OSError:
            return b""

    def successor(self) -> Child:
        """One that has not begun yet, for the same work."""
        return Child(self.role, self.main, self.patience, number=self.number)

    def tell(self, word: bytes) -> None:
        """Send it a word; one that died just now is found when it is waited for."""
        assert self.control is not None
        try:
            self.control.send(word)
        except OSError:
            pass

    def is_gone(self) -> None:
        """Its process has ended."""
        self.pid = 0
        self.is_ready = False
        if self.control is not None:
            self.control.close()
            self.control = None

    def put_off(self) -> float:
        """Count a failure; seconds until the next attempt."""
        self.failures += 1
        delay = min(_MAX_DELAY, 0.1 * 2**self.failures) if self.failures > 2 else 0.0
        self.due_at = time.monotonic() + delay
        return delay

    def died(self) -> float:
        """The same for one whose process ended: one that had served begins anew to count."""
        if time.monotonic() - self.started_at >= _SERVED:
            self.failures = 0
        return self.put_off()


def _flush() -> None:
    """Leave nothing in a buffer that a fork would double; what nobody can read is no fault."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass
