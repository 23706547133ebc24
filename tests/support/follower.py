"""The follower as its users run it: `carbonseal follow` as a process of its own."""

from __future__ import annotations

from support.background import Background
from support.carbonseal import COMMAND, Carbonseal


class FollowerProcess(Background):
    """One follower beside a service; a context manager."""

    def __init__(self, service: Carbonseal) -> None:
        self._mark = 0  # where in the log its last start begins
        super().__init__(
            [COMMAND, "--config", service.file, "follow"],
            service.directory / "follow.log",
            lambda: "follow-begins" in self.log()[self._mark :],
        )

    def start(self) -> None:
        """Start it and wait until it follows."""
        self._mark = len(self.log())
        super().start()
