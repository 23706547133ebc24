"""What processes cost: CPU time and memory of a process and all its descendants, from /proc.

Promises: CPU time includes descendants that have ended and were waited for.  A process that ends
while it is looked at counts as gone.

Does not: tell shared from private memory better than the kernel's PSS does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_TICK = 1 / os.sysconf("SC_CLK_TCK")  # seconds
_KIB = 1024


@dataclass(frozen=True, slots=True)
class Memory:
    """Octets of one process."""

    resident: int  # RSS: pages shared with others count in full
    proportional: int  # PSS: a page shared by three counts a third
    peak: int  # VmHWM: the most RSS so far


def tree(pid: int) -> list[int]:
    """The process and its descendants, parents first."""
    found = [pid]
    for parent in found:
        found += _children(parent)
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of the tree, in ticks of the kernel (10 ms as a rule)."""
    return sum(_ticks(one) for one in tree(pid)) * _TICK


def memory(pid: int) -> Memory | None:
    """Of one process; None when it is gone."""
    try:
        rollup = _pairs(Path(f"/proc/{pid}/smaps_rollup"))
        status = _pairs(Path(f"/proc/{pid}/status"))
    except OSError:
        return None
    return Memory(rollup["Rss"], rollup["Pss"], status.get("VmHWM", 0))


def forget_peak(pid: int) -> None:
    """Let `Memory.peak` begin anew from what is resident now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def has_open(pid: int, path: Path) -> bool:
    """Whether the process holds a descriptor of that file."""
    try:
        numbers = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return False
    return any(_target(pid, number) == str(path) for number in numbers)


def _target(pid: int, number: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/fd/{number}")
    except OSError:
        return ""


def _children(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            yield from map(int, task.read_text().split())
        except OSError:
            continue


def _ticks(pid: int) -> int:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    # utime, stime, cutime, cstime: fields 14 to 17; the name before them may hold spaces.
    return sum(int(number) for number in stat.rpartition(")")[2].split()[11:15])


def _pairs(path: Path) -> dict[str, int]:
    """'Rss:   123 kB' lines as octets."""
    found = {}
    for line in path.read_text().splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if len(words) == 2 and words[1] == "kB":
            found[name] = int(words[0]) * _KIB
    return found
