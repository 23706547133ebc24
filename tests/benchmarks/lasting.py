"""What only shows while load lasts: the writer's lag, and memory.

The lag is measured as a queue's: when the writer has loaded so many octets of the spool, how long
ago had the workers written them?

Does not: look into the product; what it learns it reads from the spool, the database and /proc.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from benchmarks import processes
from benchmarks.contestants import Carbonseal, Contestant
from benchmarks.points import HEADLINE, MIB

_SAMPLE = 0.1  # seconds
# A footer of a finished segment is in the file but not among the octets loaded.
_FOOTERS = 4_096


class _Lag(threading.Thread):
    """Samples until told to stop."""

    def __init__(self, service: Carbonseal) -> None:
        super().__init__(daemon=True)
        self._service = service
        self._stop_asked = threading.Event()
        self._written: list[tuple[float, int]] = []
        self.lags: list[float] = []
        self.behind: list[int] = []

    def run(self) -> None:
        while not self._stop_asked.wait(_SAMPLE):
            self._written.append((time.monotonic(), self._service.spooled()))
            _, loaded = self._service.progress()
            now = time.monotonic()
            since = [when for when, octets in self._written if octets > loaded + _FOOTERS]
            self.lags.append(now - since[0] if since else 0.0)
            self.behind.append(max(0, self._written[-1][1] - loaded))

    def finish(self) -> None:
        self._stop_asked.set()
        self.join()


def writer_under_load(service: Carbonseal, seconds: float) -> dict[str, Any]:
    """How far the writer falls behind while the headline's load lasts."""
    lag = _Lag(service)
    lag.start()
    try:
        burst = service.send(*HEADLINE.words(), "--seconds", seconds)
    finally:
        lag.finish()
    return {
        "messages": burst.messages,
        "rate": round(burst.rate, 1),
        "largest_lag_s": round(max(lag.lags, default=0.0), 2),
        "largest_octets_behind": max(lag.behind, default=0),
        "settled_s": round(service.settle(), 3),
    }


def memory(contestant: Contestant) -> list[dict[str, Any]]:
    """What each of its processes holds now, in megabytes."""
    found = []
    for pid in processes.tree(contestant.pid):
        if (held := processes.memory(pid)) is not None:
            found.append(
                {
                    "role": contestant.role(pid),
                    "rss_mb": round(held.resident / MIB, 1),
                    "pss_mb": round(held.proportional / MIB, 1),
                }
            )
    return found


def growth_by_a_large_message(contestant: Contestant, octets: int = 50 * MIB) -> dict[str, Any]:
    """The most that any of its processes grew by while such messages passed."""
    before = {}
    for pid in processes.tree(contestant.pid):
        processes.forget_peak(pid)
        before[pid] = processes.memory(pid)
    contestant.send("--size", octets, "--messages", 3, "--connections", 1)
    grown = {}
    for pid, held in before.items():
        now = processes.memory(pid)
        if held is not None and now is not None:
            grown[pid] = now.peak - held.resident
    pid = max(grown, key=lambda one: grown[one])
    return {
        "octets": octets,
        "role": contestant.role(pid),
        "grown_mb": round(grown[pid] / MIB, 2),
    }
