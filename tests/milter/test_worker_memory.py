"""A worker moves its heap into large pages: its own memory only, and nothing in it changes."""

from __future__ import annotations

import ctypes
import mmap
import subprocess
import sys
from pathlib import Path

from carbonseal.milter import worker

_LARGE = 2 * 1024 * 1024
_GATHER = """
import re
from pathlib import Path
from carbonseal.milter import worker
held = [bytes([n % 251]) * 1000 for n in range(20_000)]
worker._gather_in_large_pages()
assert held == [bytes([n % 251]) * 1000 for n in range(20_000)]
print(re.search(r"AnonHugePages: +([0-9]+)", Path("/proc/self/smaps_rollup").read_text())[1])
"""


def address(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def test_only_memory_of_its_own_is_moved() -> None:
    """Neither the counters, which all workers share, nor a stack, which is mostly empty."""
    own = mmap.mmap(-1, 3 * _LARGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    shared = mmap.mmap(-1, 3 * _LARGE)
    maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    (stack,) = [int(line.partition("-")[0], 16) for line in maps if line.endswith("[stack]")]
    heap = list(worker._heap())

    def is_heap(place: int) -> bool:
        return any(begin <= place < end for begin, end in heap)

    assert is_heap(address(own))
    assert not is_heap(address(shared))
    assert not is_heap(stack)


def test_what_is_moved_stays_as_it_is() -> None:
    """Where the kernel has large pages some are used; where it has none, nothing happens."""
    done = subprocess.run(
        [sys.executable, "-c", _GATHER], capture_output=True, text=True, check=True
    )
    if Path("/sys/kernel/mm/transparent_hugepage/khugepaged").exists() and _has_collapse():
        assert int(done.stdout) > 0


def _has_collapse() -> bool:
    """Linux 6.1 or newer."""
    release = Path("/proc/sys/kernel/osrelease").read_text(encoding="ascii").split(".")
    return (int(release[0]), int(release[1])) >= (6, 1)
