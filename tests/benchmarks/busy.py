"""Whether a measurement had the machine to itself: what others used of it meanwhile.

Promises: what this process, its children and the server that is measured have used is not counted
as others'.  Counted are whole cores: 1.0 is one core all the time.

Does not: see what others took from the caches and the disk.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TICK = 1 / os.sysconf("SC_CLK_TCK")  # seconds
_LITTLE = 0.15  # cores; housekeeping of the system takes some
_IDLE = (3, 4)  # idle and waiting for the disk, among the figures of /proc/stat
_COUNTED = 8  # the figures after it are part of the first ones
_STEAL = 7


class Watch:
    """From its making to `facts`."""

    def __init__(self, server_seconds: Callable[[], float]) -> None:
        self._server_seconds = server_seconds
        self._server = server_seconds()
        self._own, self._all = _own(), used()
        self._begun = time.perf_counter()

    def facts(self) -> dict[str, float]:
        """Seconds of CPU time of the server, and the cores that others used."""
        seconds = time.perf_counter() - self._begun
        server = max(self._server_seconds() - self._server, 0.0)
        others = used() - self._all - (_own() - self._own) - server
        return {
            "server_cpu_seconds": round(server, 2),
            "others": round(max(others, 0.0) / seconds, 2),
        }


def stolen() -> int:
    """Ticks during which the host of this virtual machine ran others instead, all cores (proc(5)).

    Compared before and after: whether what lies between was disturbed, as far as ticks tell.
    """
    return int(_figures()[_STEAL])


def is_busy(facts: dict[str, Any]) -> bool:
    """Whether others used more than a little of the machine."""
    return bool(facts["others"] > _LITTLE)


def _own() -> float:
    """This process and its children that have ended."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def used() -> float:
    """Seconds that all cores have worked so far, for whomever."""
    return sum(int(one) for place, one in enumerate(_figures()) if place not in _IDLE) * TICK


def _figures() -> list[str]:
    return Path("/proc/stat").read_text().partition("\n")[0].split()[1 : 1 + _COUNTED]
