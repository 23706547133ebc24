"""A process of our own that is killed (SIGKILL, no clean-up) at its n-th call to the system.

Promises: counted is every call that leaves a trace outside the process, as Python makes it: files
opened for writing, written, synced, linked, renamed, unlinked, made, given modes and owners, locks,
and sockets connected, sent to and read from.  The process is a fork of the test, and never comes
back into it (`os._exit`).

`Moment.BEFORE` dies instead of the call, `AFTER` at once after it; `TORN` dies when half of what
is written or sent is out, and like AFTER where nothing is.

Raises: `Failed` with the traceback, when a process ended by an error of its own.

Does not: see calls made below Python (SQLite, OpenSSL); the keys make none that write.
"""

from __future__ import annotations

import fcntl
import functools
import os
import signal
import socket
import threading
import traceback
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

_FILES = "open write fsync link unlink rename replace mkdir rmdir chmod fchmod chown fchown".split()
_SOCKETS = "connect send sendto sendall recv recvfrom recv_into recvfrom_into".split()
TEARABLE = ("write", "send", "sendall")


class Failed(Exception):
    """The process did not do what it was for; the text is its traceback."""


class Moment(StrEnum):
    """When a process dies, as seen from the call."""

    BEFORE = "before"
    AFTER = "after"
    TORN = "torn"


class _Counter:
    """Counts calls, and dies at one of them."""

    def __init__(self, at: int, moment: Moment) -> None:
        self.at = at
        self.moment = moment
        self.names: list[str] = []
        self._lock = threading.Lock()

    def wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def call(*args: Any, **options: Any) -> Any:
            if name == "open" and not args[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return real(*args, **options)
            with self._lock:
                self.names.append(name)
                is_last = len(self.names) == self.at
            if not is_last:
                return real(*args, **options)
            if self.moment is Moment.TORN and name in TEARABLE:
                target, content, *rest = args
                real(target, bytes(content)[: len(bytes(content)) // 2], *rest, **options)
            elif self.moment is not Moment.BEFORE:
                real(*args, **options)
            os.kill(os.getpid(), signal.SIGKILL)
            signal.pause()  # in a thread, until the signal has been taken
            return None

        return call

    def install(self) -> None:
        for name in _FILES:
            setattr(os, name, self.wrap(name, getattr(os, name)))
        fcntl.flock = self.wrap("flock", fcntl.flock)
        for name in _SOCKETS:
            setattr(socket.socket, name, self.wrap(name, getattr(socket.socket, name)))


def run(work: Callable[[], object], faults: Path) -> None:
    """Do `work` in a process of its own, to its end."""
    _demand_well(_status_of(_start(work, faults)), faults)


def run_all(works: Sequence[Callable[[], object]], faults: Path) -> list[int]:
    """Do several at once, each in a process of its own; their exit statuses."""
    pids = [_start(work, faults.with_name(f"{faults.name}-{at}")) for at, work in enumerate(works)]
    return [_status_of(pid) for pid in pids]


def calls_of(work: Callable[[], object], folder: Path) -> list[str]:
    """The calls that `work` makes, counted in a process of its own that lives."""

    def counted() -> None:
        counter = _Counter(0, Moment.BEFORE)
        write, path = os.write, folder / "calls"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        counter.install()
        work()
        write(fd, "\n".join(counter.names).encode())

    run(counted, folder / "fault")
    return (folder / "calls").read_text().split()


def killed_at(number: int, moment: Moment, work: Callable[[], object], faults: Path) -> bool:
    """Do `work` and die at call `number`; whether it came so far."""

    def doomed() -> None:
        _Counter(number, moment).install()
        work()

    status = _status_of(_start(doomed, faults))
    if status == -signal.SIGKILL:
        return True
    _demand_well(status, faults)
    return False


def _start(work: Callable[[], object], faults: Path) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        faults.write_text(traceback.format_exc())
    finally:
        os._exit(status)


def _status_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _demand_well(status: int, faults: Path) -> None:
    if status:
        raise Failed(faults.read_text() if faults.exists() else f"status {status}")
