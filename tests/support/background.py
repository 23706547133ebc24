"""One program that runs while a test goes on: started, ready, ended by its pid.

Promises: what it says goes into a file from the first line on; it has a session of its own, all of
which is gone after `stop` or `kill`, and at the end of the `with` block in any case.

Raises: NotRunning, with the end of what it said, when it ends before it is ready, is not ready in
time, or does not stop when it is told to.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from support.waiting import PATIENCE, NotInTime, wait_until

_TAIL = 4_000  # characters of a log in an error


class NotRunning(Exception):
    """A program did not start or stop as it should."""


class Background:
    """One program; a context manager that starts it."""

    def __init__(
        self,
        command: Sequence[str | Path],
        log: Path,
        is_ready: Callable[[], bool],
        *,
        timeout: float = PATIENCE,
        at_the_end: signal.Signals = signal.SIGTERM,
        **how: Any,
    ) -> None:
        """`at_the_end`: KILL for those that take their time and have nothing to lose; `how`: as
        for `subprocess.Popen`.
        """
        self._command = [str(word) for word in command]
        self._log = log
        self._is_ready = is_ready
        self._timeout = timeout
        self._at_the_end = at_the_end
        self._how = how
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if error is not None and self._process is not None:
            error.add_note(f"{self._command[0]} said:\n{self.log()[-_TAIL:]}")
        self.stop(self._at_the_end)

    @property
    def pid(self) -> int:
        """The program's."""
        assert self._process is not None, f"{self._command[0]} is not running"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        """All it said so far."""
        try:
            return self._log.read_text(errors="backslashreplace")
        except FileNotFoundError:
            return ""

    def start(self) -> None:
        """Returns once it is ready."""
        with self._log.open("ab") as said:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
                **self._how,
            )
        try:
            self.wait_until(self._is_ready, "its start")
        except BaseException:
            self.kill()
            raise

    def wait_until(self, is_done: Callable[[], bool], what: str) -> None:
        """Ask until it is so; NotRunning when the program ends or patience does."""

        def look() -> bool:
            assert self._process is not None
            status = self._process.poll()
            if status is not None:
                self._fail(f"has ended with {status}")
            return is_done()

        try:
            wait_until(look, what, self._timeout)
        except NotInTime as fault:
            self._fail(str(fault), fault)

    def kill(self) -> None:
        """kill -9, with all that it started."""
        self.stop(signal.SIGKILL)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int | None:
        """Its exit status, once it is gone; None: it was not running."""
        process, self._process = self._process, None
        if process is None:
            return None
        if process.poll() is None and how != signal.SIGKILL:
            process.send_signal(how)
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired as fault:
                _kill_all(process)
                self._fail(f"did not stop in {PATIENCE:g} s", fault)
        _kill_all(process)
        return process.returncode

    def _fail(self, how: str, cause: Exception | None = None) -> None:
        raise NotRunning(f"{self._command[0]}: {how}\n{self.log()[-_TAIL:]}") from cause


def _kill_all(process: subprocess.Popen[bytes]) -> None:
    """Children that outlived their parent, too."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
