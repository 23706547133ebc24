"""On which cores a worker runs.

Python's threads of one process run one at a time, so a process gains nothing from a second core but
for signing, and pays for it: what it has at hand lies in the caches of the core it left.  What it
gains to have a worker for each core that stays there: docs/benchmarks.

Promises: no core gets a worker more than another.  Where that cannot be, nobody is bound.

Does not: ask or tell the kernel (`crew` does).
"""

from __future__ import annotations

from collections.abc import Iterable


def workers_wanted(cores: int, *, are_bound: bool) -> int:
    """How many workers make use of so many cores.

    Bound, one for each: while it waits for a sync, Postfix has work for its core.  Unbound one
    more, because two may be found on one core.  Not many more: each finds less of its memory in
    the caches.
    """
    return cores if are_bound else cores + 1


def of_worker(number: int, workers: int, cores: Iterable[int]) -> frozenset[int]:
    """The cores for worker `number` (from 0) of `workers`; `cores` are those there are."""
    there = sorted(cores)
    if not there or workers % len(there):
        return frozenset(there)
    return frozenset((there[number % len(there)],))
