"""How long the steps of sealing took lately: quantiles from two readings of a histogram.

Does not: know more than the buckets tell: a quantile is exact to a part of its bucket, whose end is
twice its beginning.
"""

from __future__ import annotations

from dataclasses import dataclass

from carbonseal.milter.status.counters import BOUNDS, Histogram


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds."""

    mean: float
    half: float  # the median
    most: float  # 99 of 100 took no longer


def between(before: Histogram, after: Histogram) -> Times | None:
    """What was added from one reading to the next; None if nothing was."""
    counts = [late - early for early, late in zip(before.buckets, after.buckets, strict=True)]
    total = sum(counts)
    if total <= 0:
        return None
    mean = (after.micros - before.micros) / total / 1e6
    return Times(mean, _quantile(counts, 0.5), _quantile(counts, 0.99))


def _quantile(counts: list[int], share: float) -> float:
    wanted = share * sum(counts)
    passed = 0
    for number, count in enumerate(counts[:-1]):
        if count and passed + count >= wanted:
            begin = BOUNDS[number - 1] if number else 0.0
            return begin + (BOUNDS[number] - begin) * (wanted - passed) / count
        passed += count
    return BOUNDS[-1]
