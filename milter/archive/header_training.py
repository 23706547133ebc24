"""Work of seconds in a child of the writer, which goes on loading meanwhile.

Promises: what the child does costs the writer neither time nor memory, and whatever becomes of the
child (killed, out of memory, stuck) changes nothing but that there is no answer.  The child has low
priority, an end (of processor time, of memory, and by the clock), none of the writer's files and
sockets, and no memory of its own but what it writes.

Raises: OSError where no child can be made.

Does not: know what the work is (`header_learning` does), or wait unless told to.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
import time
from collections.abc import Callable

from carbonseal.milter import readable

_PRIORITY = 10  # below the writer and the mail
_CPU_SECONDS = 60
_MEMORY = 512 << 20  # octets on top of what the writer has
_PATIENCE = 600.0  # seconds by the clock
_PIECE = 65_536  # octets


class Child:
    """One piece of work, `work() -> bytes`, from its beginning to its answer."""

    def __init__(self, work: Callable[[], bytes]) -> None:
        reading, writing = os.pipe()
        try:
            self.pid = os.fork()
        except OSError:
            os.close(reading)
            os.close(writing)
            raise
        if self.pid == 0:
            _be_the_child(work, writing)
        os.close(writing)
        self._reading: int | None = reading
        self._said = bytearray()
        self._deadline = time.monotonic() + _PATIENCE
        self.answer: bytes | None = None  # None where the child came to nothing

    def is_done(self, wait: float = 0.0) -> bool:
        """Whether there is an answer, or will be none; waits for that so many seconds at most."""
        until = time.monotonic() + wait
        while self._reading is not None:
            left = max(0.0, until - time.monotonic())
            if readable.wait(self._reading, left):
                piece = os.read(self._reading, _PIECE)
                self._said += piece
                if not piece and self._leave() == 0:
                    self.answer = bytes(self._said)
            elif time.monotonic() >= self._deadline:
                self.close()
            elif time.monotonic() >= until:
                return False
        return True

    def close(self) -> None:
        """End the child, whatever it is at."""
        if self._reading is not None:
            os.kill(self.pid, signal.SIGKILL)  # it is ours until it has been waited for
            self._leave()

    def _leave(self) -> int:
        """Wait for the child, which is about to end; its exit status."""
        if self._reading is not None:
            os.close(self._reading)
            self._reading = None
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def _be_the_child(work: Callable[[], bytes], writing: int) -> None:
    """Never returns, so that nothing of the writer's runs in it: no handler, no `finally`."""
    try:
        gc.disable()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        _let_go(writing)
        _be_bounded()
        answer = memoryview(work())
        while answer:
            answer = answer[os.write(writing, answer) :]
        os._exit(0)
    finally:
        os._exit(1)


def _let_go(writing: int) -> None:
    """Close what was the writer's: its lock, its database, its line to the supervisor."""
    most = os.sysconf("SC_OPEN_MAX")
    os.closerange(3, writing)
    os.closerange(writing + 1, most)


def _be_bounded() -> None:
    with contextlib.suppress(PermissionError):  # a unit may forbid it, and it is a courtesy
        os.nice(_PRIORITY)
    signal.alarm(int(_PATIENCE) + 1)  # should the writer be gone by then
    # One limit for soft and hard is a kill without a dump of the memory.
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
    with open("/proc/self/statm", encoding="ascii") as facts:
        now = int(facts.read().split()[0]) * resource.getpagesize()
    most = resource.getrlimit(resource.RLIMIT_AS)[1]
    wanted = now + _MEMORY
    if most == resource.RLIM_INFINITY or wanted < most:
        resource.setrlimit(resource.RLIMIT_AS, (wanted, wanted))
