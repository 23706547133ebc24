"""Mail goes first: the writer leaves the cores to those who carry mail, until it lags.

With all at the same priority a writer that has something to do takes a core from a worker, and when
it has nothing to do, cores idle while workers wait for their disk.  At a lower one its work fills
these gaps (`docs/benchmarks`).  What may come of that is bounded: lagging by `_LONGEST` seconds, it
is like all others until it has caught up.

Promises: nothing is changed where what is given up could not be taken back (RLIMIT_NICE, a
sandbox).  Raises nothing.

Does not: measure the lag (`writer` does), or touch other processes or threads.
"""

from __future__ import annotations

import os
import threading
from typing import Final

_LONGEST: Final = 0.8  # seconds; searches may lag by that, and by what a piece of work takes
_LESS: Final = 10  # nice levels: a tenth of the share of one that wants the same core


class Precedence:
    """That of the calling thread."""

    def __init__(self) -> None:
        self._usual = os.getpriority(os.PRIO_PROCESS, 0)
        self._is_less = False
        self._may_change = _may_come_back(self._usual)

    def yield_to_mail(self, lag: float) -> None:
        """Set it for one who may lag by so many seconds."""
        self._set(is_less=lag < _LONGEST)

    def restore(self) -> None:
        """As it was in the beginning."""
        self._set(is_less=False)

    def _set(self, *, is_less: bool) -> None:
        if not self._may_change or is_less is self._is_less:
            return
        try:
            os.setpriority(os.PRIO_PROCESS, 0, self._usual + _LESS * is_less)
        except OSError:
            self._may_change = False
        else:
            self._is_less = is_less


def _may_come_back(usual: int) -> bool:
    """Tried in a thread that ends with it; limits and capabilities together are not to be read."""
    tried: list[bool] = []

    def trial() -> None:
        try:
            os.setpriority(os.PRIO_PROCESS, 0, usual + 1)
            os.setpriority(os.PRIO_PROCESS, 0, usual)
        except OSError:
            return
        tried.append(True)

    try:
        thread = threading.Thread(target=trial, name="precedence")
        thread.start()
        thread.join()
    except RuntimeError:  # no thread is to be had
        return False
    return bool(tried)
