"""The follower as its users run it: `carbonseal follow` as a process of its own.

Promises: its log is in a file from the first line on; the process is gone at the end.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from support.carbonseal import COMMAND, Carbonseal, ServiceFailed, wait_until


class FollowerProcess:
    """One follower beside a service; a context manager."""

    def __init__(self, service: Carbonseal) -> None:
        self._service = service
        self._path: Path = service.directory / "follow.log"
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
        self.stop()

    def start(self) -> None:
        """Start it and wait until it follows."""
        mark = len(self.log())
        with self._path.open("ab") as said:
            self._process = subprocess.Popen(
                [COMMAND, "--config", self._service.file, "follow"],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )
        wait_until(lambda: "follow-begins" in self.log()[mark:], f"the follower: {self.log()}")

    def log(self) -> str:
        """What it said."""
        try:
            return self._path.read_text(errors="backslashreplace")
        except FileNotFoundError:
            return ""

    def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """TERM and wait."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            raise ServiceFailed(f"the follower did not stop:\n{self.log()}") from None
