"""What Carbonseal is held to, judged on the results of one run.

Every goal is a ratio within the run, or a bound on memory or lag; no absolute rate is promised.
The only exception, records a second into SQLite, is what a large relay can need at its worst.

Does not: measure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.through_postfix import WITHOUT

OURS = "Carbonseal"
Results = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Goal:
    """One figure, and what it must be."""

    figure: str
    found: float
    bound: float
    is_least: bool  # the bound is the least, not the most
    unit: str  # after the number: ' x', ' %', ' MB'

    @property
    def is_met(self) -> bool:
        """Whether it is as it must be."""
        return self.found >= self.bound if self.is_least else self.found <= self.bound

    @property
    def wanted(self) -> str:
        """'≥ 3 x'."""
        return f"{'≥' if self.is_least else '≤'} {self.bound:g}{self.unit}"

    @property
    def measured(self) -> str:
        """'3.42 x'."""
        return f"{self.found:,.3g}{self.unit}" if self.found < 1000 else f"{self.found:,.0f}"

    def as_object(self) -> dict[str, Any]:
        """For the JSON."""
        facts = {"figure": self.figure, "found": round(self.found, 3), "wanted": self.wanted}
        return facts | {"is_met": self.is_met}


def judge(results: Results) -> list[Goal]:
    """Every goal whose figures were measured."""
    points = {point["name"]: point for point in results.get("points", ())}
    found = [*_against_peers(points), *_ours(points), *_lasting(results)]
    return [*found, *_growth(results), *_postfix(results)]


# point, peer, least ratio of rates
_RATIOS = (
    ("4K", "OpenDKIM", 3.0),
    ("4K", "rspamd", 2.0),
    ("4K", "dkimpy-milter", 25.0),
    ("64K", "OpenDKIM", 3.0),
    ("1M", "OpenDKIM", 3.0),
    ("10M", "OpenDKIM", 3.0),
    ("1M-html", "OpenDKIM", 2.0),
)


def _against_peers(points: dict[str, Any]) -> Iterator[Goal]:
    for name, peer, least in _RATIOS:
        found = points.get(name, {}).get("contestants", {})
        if peer in found:
            ratio = found[OURS]["rate"] / found[peer]["rate"]
            yield Goal(f"{points[name]['title']}: rate against {peer}", ratio, least, True, " x")
    for name, fact, most in (("4K-1", "p50_ms", 0.5), ("4K-32", "p99_ms", 1.0)):
        found = points.get(name, {}).get("contestants", {})
        if "OpenDKIM" in found:
            ratio = found[OURS][fact] / found["OpenDKIM"][fact]
            what = f"{points[name]['title']}: {fact[:3]} against OpenDKIM"
            yield Goal(what, ratio, most, False, " x")


def _ours(points: dict[str, Any]) -> Iterator[Goal]:
    ours = {name: point["contestants"][OURS] for name, point in points.items()}
    if "openssl" in points.get("4K", {}):
        share = ours["4K"]["rate"] / points["4K"]["openssl"] * 100
        yield Goal("4 KB, 8 connections: share of openssl speed", share, 45, True, " %")
    if {"4K", "4K-32"} <= set(ours):
        share = ours["4K-32"]["rate"] / ours["4K"]["rate"] * 100
        yield Goal("4 KB: rate at 32 connections against 8", share, 80, True, " %")
    if {"1M", "1M-spaces"} <= set(ours):
        cost = ours["1M-spaces"]["cpu_ms_per_message"] / ours["1M"]["cpu_ms_per_message"]
        yield Goal("1 MB of spaces on one line: CPU against text", cost, 2, False, " x")


def _lasting(results: Results) -> Iterator[Goal]:
    if workers := [
        one for one in results.get("memory", {}).get(OURS, ()) if one["role"] == "worker"
    ]:
        largest = max(one["rss_mb"] for one in workers)
        yield Goal("memory of a worker", largest, 60, False, " MB")
    if OURS in (large := results.get("large_message", {})):
        yield Goal("what a 50 MB message adds to it", large[OURS]["grown_mb"], 2, False, " MB")
    writer = results.get("writer", {})
    if "alone" in writer:
        rate = writer["alone"]["records_per_second"]
        yield Goal("writer alone, records/s into SQLite", rate, 5_000, True, "")
    if "under_load" in writer:
        lag = writer["under_load"]["largest_lag_s"]
        yield Goal("lag of the writer at full load", lag, 2, False, " s")


def _growth(results: Results) -> Iterator[Goal]:
    for growth in results.get("growth", ()):
        # A line gives 1, a quadratic curve 1.5; halfway, half of the growth is quadratic.
        straightness = growth["contestants"][OURS]["straightness"]
        yield Goal(f"growth with {growth['name']}: straightness", straightness, 1.25, False, "")


def _postfix(results: Results) -> Iterator[Goal]:
    found = results.get("postfix", {}).get("contestants", {})
    if "OpenDKIM" in found:
        ratio = found[OURS]["delivered_rate"] / found["OpenDKIM"]["delivered_rate"]
        yield Goal("through Postfix: delivered, against OpenDKIM", ratio, 1.25, True, " x")
    if WITHOUT in found:
        share = found[OURS]["delivered_rate"] / found[WITHOUT]["delivered_rate"] * 100
        yield Goal("through Postfix: delivered, against no milter", share, 60, True, " %")
