"""When mail comes: by the hour of the week, a little more of it every year.

Promises: `Calendar` gives every message of an archive its moment, in order, for any stretch of
them, without going through those before.
"""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Iterator

HOUR = 3600.0
SINCE = 1_672_531_200.0  # 2023-01-01T00:00:00Z, a Sunday
YEARS = 3
UNTIL = 1_767_225_600.0  # 2026-01-01T00:00:00Z
_GROWTH = 0.25  # more mail at the end than at the beginning

# Of one working day, by the hour; machines write at night, too.
_DAY = (2, 2, 2, 2, 3, 5, 12, 35, 70, 95, 100, 90, 65, 85, 92, 85, 70, 45, 22, 14, 10, 8, 5, 3)
_WEEK = (0.06, 0.97, 1.05, 1.04, 1.0, 0.83, 0.09)  # from Sunday, as SINCE is one


class Calendar:
    """The moments of `count` messages between SINCE and UNTIL."""

    def __init__(self, count: int) -> None:
        hours = int((UNTIL - SINCE) / HOUR)
        weights = (
            (_DAY[hour % 24] * _WEEK[hour // 24 % 7] + 3) * (1 + _GROWTH * hour / hours)
            for hour in range(hours)
        )
        sums = list(itertools.accumulate(weights))
        # How many messages there were at the end of each hour.
        self._until = [round(count * one / sums[-1]) for one in sums]

    def moments(self, first: int, last: int, rng: random.Random) -> Iterator[float]:
        """Unix times of the messages from number `first` to before `last`, in order."""
        hour = bisect.bisect_right(self._until, first)
        while first < last:
            end = min(self._until[hour], last)
            yield from sorted(SINCE + (hour + rng.random()) * HOUR for _ in range(end - first))
            first = max(first, end)
            hour += 1
