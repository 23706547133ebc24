"""Measuring in turns: every contestant gets short bursts of each load, one after the other.

Promises: within a point the contestants take turns, so that whatever else the machine does falls on
all alike; medians are given.  Before its first burst each must send one message whose signature a
verifier of other people finds good; a peer that cannot, or not in time, is reported as such and
left out of the point.  Carbonseal's turn ends, for CPU time too, when the last of its
records is in the database.  Whoever needs more than `_TOO_SLOW` for a burst is not asked again.

Raises: LoadFailed when any message comes back other than it must, BadSignature, NotRunning.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support import verifiers

from benchmarks import processes
from benchmarks.contestants import Carbonseal, Contestant, Key, PymilterAlone
from benchmarks.load import Burst, LoadFailed
from benchmarks.points import Growth, Point

_TOO_SLOW = 5.0  # seconds of one burst
_PATIENCE = 10.0  # seconds for a single message
_TOO_LONG = 2.0  # seconds for a single message: eight at once would take a minute
# An even number: half of the rounds go up the steps, half come down.
_GROWTH_ROUNDS = 8
_PEERS_EVERY = 3  # of these rounds, since only ours is judged: 0, 3 and 6
Say = Callable[[str], None]
Rounds = tuple[list[int], list[list[float]]]  # steps, and the milliseconds there in each round


class BadSignature(Exception):
    """A milter's signature does not verify: its rate would mean nothing."""


class OutOfTime(Exception):
    """The bound on the whole run is reached."""


@dataclass(slots=True)
class Turns:
    """One contestant's bursts at one point."""

    bursts: list[Burst] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)  # seconds per message
    settled: list[float] = field(default_factory=list)  # seconds until all records were loaded

    def summary(self) -> dict[str, Any]:
        """Medians, for the JSON."""
        middle = statistics.median
        return {
            "rate": round(middle(one.rate for one in self.bursts), 2),
            "rates": [round(one.rate, 2) for one in self.bursts],
            "p50_ms": round(middle(one.p50_ms for one in self.bursts), 4),
            "p99_ms": round(middle(one.p99_ms for one in self.bursts), 4),
            "cpu_ms_per_message": round(middle(self.cpu) * 1e3, 4),
            "load_cpu_us_per_message": round(
                middle(one.own_cpu_seconds / one.messages for one in self.bursts) * 1e6, 1
            ),
            "messages": sum(one.messages for one in self.bursts),
            "answers_awaited": self.bursts[0].answers_awaited,
            "settled_s": round(max(self.settled), 3),
        }


@dataclass(slots=True)
class Referee:
    """Who gives the turns, and when time is up."""

    contestants: Sequence[Contestant]
    key: Key
    directory: Path
    say: Say
    deadline: float  # on time.monotonic()

    def check_time(self) -> None:
        """OutOfTime when the deadline has passed."""
        if time.monotonic() > self.deadline:
            raise OutOfTime

    def measure(self, point: Point, *, with_openssl: bool = False) -> dict[str, Any]:
        """All rounds of a point."""
        self.check_time()
        taking_part = [one for one in self.contestants if _takes_part(one, point)]
        failures = {one.name: self._failure(one, point) for one in taking_part}
        taking_part = [one for one in taking_part if not failures[one.name]]
        found = {one.name: Turns() for one in taking_part}
        signatures: list[float] = []
        for round_number in range(point.rounds):
            for one in taking_part:
                turns = found[one.name]
                if round_number and turns.bursts[0].seconds > _TOO_SLOW:
                    continue
                take_turn(one, point, turns)
            if with_openssl:
                signatures.append(openssl_signatures())
            if time.monotonic() > self.deadline:
                break
        summary: dict[str, Any] = {
            "name": point.name,
            "title": point.title,
            "options": dict(point.options),
            "is_unsignable": point.is_unsignable,
            "contestants": {name: turns.summary() for name, turns in found.items()},
            "failures": {name: failure for name, failure in failures.items() if failure},
        }
        if signatures:
            summary["openssl"] = round(statistics.median(signatures), 1)
        self.say(_progress(summary))
        return summary

    def grow(self, growth: Growth) -> dict[str, Any]:
        """The p50 of each contestant at each step (median of the rounds), and the curve's `line`.

        `rounds_ms` in the answer are the single rounds, each in the order of the steps.
        """
        contestants = [one for one in self.contestants if not isinstance(one, PymilterAlone)]
        found: dict[int, dict[str, Turns]] = {step: {} for step in growth.steps}
        slow: set[str] = set()
        # All steps in each round: a slow minute of the machine is no bend of the curve.
        for round_number in range(_GROWTH_ROUNDS):
            # Down again every other time, or a machine that slows steadily would bend each round
            # alike.  The first goes up: who is slow at one step is not asked at the next.
            for step in growth.steps[:: -1 if round_number % 2 else 1]:
                self.check_time()
                measured = found[step]
                for one in contestants:
                    if round_number == 0 and self._is_asked(one, growth, step, slow):
                        measured[one.name] = Turns()
                    is_due = isinstance(one, Carbonseal) or round_number % _PEERS_EVERY == 0
                    if one.name in measured and is_due:
                        take_turn(one, growth.point(step), measured[one.name])
                slow |= {name for name, turns in measured.items() if _takes_long(turns)}
        curves = {one.name: _rounds(found, one.name) for one in contestants}
        self.say(f"  {growth.title.lower()}: {_ends(curves)}")
        return {
            "name": growth.name,
            "title": growth.title,
            "per": growth.per[1],
            "contestants": {
                name: {
                    "p50_ms": _medians(steps, rounds),
                    **line(steps, rounds, growth.per[0]),
                    "rounds_ms": rounds,
                }
                for name, (steps, rounds) in curves.items()
                if len(steps) > 1
            },
        }

    def _is_asked(self, one: Contestant, growth: Growth, step: int, slow: set[str]) -> bool:
        is_ours = isinstance(one, Carbonseal)
        return is_ours or (step in growth.few and one.name not in slow)

    def _failure(self, one: Contestant, point: Point) -> str:
        """Why a peer cannot take part; '' when it can."""
        try:
            seconds = self._prove(one, point)
        except LoadFailed as failure:
            if isinstance(one, Carbonseal):
                raise
            # It may still be at work on that message, at the expense of the others.
            one.__exit__()
            one.__enter__()
            return str(failure).rpartition(": ")[2]
        is_ours = isinstance(one, Carbonseal)
        return "" if is_ours or seconds < _TOO_LONG else f"{seconds:.1f} s for a single message"

    def _prove(self, one: Contestant, point: Point) -> float:
        """One message that a verifier must find signed as it should be; seconds that it took."""
        words = [*point.words(), "--messages", 1, "--connections", 1, "--warm-up", 0]
        words += ["--patience", _PATIENCE]
        if point.is_unsignable and isinstance(one, Carbonseal):
            return one.send(*words, "--unsigned").seconds
        sample = self.directory / "sample"
        burst = one.send(*words, "--sample", sample)
        verify(one.name, sample.read_bytes(), self.key)
        return burst.seconds


def verify(name: str, message: bytes, key: Key) -> None:
    """BadSignature unless libopendkim finds the only signature good."""
    judgements = verifiers.verify(verifiers.OPENDKIM, message, key.dns)
    if [one.result for one in judgements] != [verifiers.Result.PASS]:
        raise BadSignature(f"{name}: {judgements}")


def _takes_long(turns: Turns) -> bool:
    return turns.bursts[0].seconds > _TOO_SLOW / 3


def take_turn(one: Contestant, point: Point, turns: Turns) -> None:
    """One burst, and what it cost."""
    words = list(point.words())
    if point.is_unsignable and isinstance(one, Carbonseal):
        words.append("--unsigned")
    before = processes.cpu_seconds(one.pid)
    burst = one.send(*words)
    turns.settled.append(one.settle())
    turns.cpu.append((processes.cpu_seconds(one.pid) - before) / burst.messages)
    turns.bursts.append(burst)


def openssl_signatures(seconds: int = 1) -> float:
    """RSA-2048 signatures a second on all cores, by OpenSSL's own measurement."""
    words = ["openssl", "speed", "-multi", str(os.cpu_count() or 1), "-seconds", str(seconds)]
    done = subprocess.run([*words, "rsa2048"], capture_output=True, text=True, check=True)
    found = re.search(r"^rsa 2048 bits\s+\S+s\s+\S+s\s+([\d.]+)", done.stdout, re.MULTILINE)
    if not found:
        raise ValueError(f"openssl speed says nothing of rsa2048: {done.stdout[-500:]}")
    return float(found[1])


def line(steps: Sequence[int], rounds: Sequence[Sequence[float]], per: float) -> dict[str, float]:
    """The least-squares slope (ms for so many), and how straight the curve is.

    `rounds` holds the milliseconds at each of two or more `steps`, round by round.  Both figures
    are found for each round by itself and their medians given: one round is over within seconds,
    so that a clock which another round finds slower stretches it as a whole and bends nothing.
    """
    slopes = [statistics.linear_regression(steps, times).slope for times in rounds]
    bends = [straightness(steps, times) for times in rounds]
    return {
        "slope_ms": round(statistics.median(slopes) * per, 4),
        "straightness": round(statistics.median(bends), 2),
    }


def straightness(steps: Sequence[int], times: Sequence[float]) -> float:
    """The slope over the upper half divided by that over the whole, of the fitted parabola.

    1 is a line, a quadratic curve gives 1.5, and at 1.25 half of the growth is quadratic, however
    the steps are spaced.  Slopes fitted to the points themselves hang on the two or three uppermost
    and give a quadratic curve 1.13 to 1.63, depending on the steps.  All points weigh the same:
    with less weight for longer times there would be less noise, but a curve that only bends far up
    would pass.

    Two steps are always a line, and so is what does not grow at all.
    """
    if len(steps) < 3:
        return 1.0
    fit = statistics.linear_regression(steps, times)
    squares = [float(step) ** 2 for step in steps]
    chord = statistics.linear_regression(steps, squares)
    # What of the square is no line, so that its share can be read off by itself.
    bows = [
        square - chord.slope * step - chord.intercept
        for step, square in zip(steps, squares, strict=True)
    ]
    square = sum(bow * time for bow, time in zip(bows, times, strict=True)) / sum(
        bow**2 for bow in bows
    )
    linear = fit.slope - square * chord.slope
    low, high = steps[0], steps[-1]
    whole = linear + square * (low + high)
    upper = linear + square * ((low + high) / 2 + high)
    rises = whole * (high - low) > 1e-6  # ms: less is what rounding leaves
    return upper / whole if rises else 1.0


def _takes_part(one: Contestant, point: Point) -> bool:
    if isinstance(one, PymilterAlone):
        return point.has_floor
    return isinstance(one, Carbonseal) or point.peers is None or one.name in point.peers


def _progress(summary: dict[str, Any]) -> str:
    rates = ", ".join(
        f"{name} {facts['rate']:,.0f}/s" for name, facts in summary["contestants"].items()
    )
    failures = "".join(f"; {name}: {why}" for name, why in summary["failures"].items())
    return f"  {summary['title']}: {rates}{failures}"


def _rounds(found: dict[int, dict[str, Turns]], name: str) -> Rounds:
    """The steps that one of the contestants was measured at, and its p50 there round by round."""
    turns = {step: measured[name] for step, measured in found.items() if name in measured}
    bursts = zip(*(one.bursts for one in turns.values()), strict=True)
    return list(turns), [[one.p50_ms for one in burst] for burst in bursts]


def _medians(steps: Sequence[int], rounds: Sequence[Sequence[float]]) -> list[tuple[int, float]]:
    times = (round(statistics.median(one), 4) for one in zip(*rounds, strict=True))
    return list(zip(steps, times, strict=True))


def _ends(curves: dict[str, Rounds]) -> str:
    ends = {name: _medians(*curve) for name, curve in curves.items() if curve[0]}
    return ", ".join(
        f"{name} {curve[0][1]:.2f} to {curve[-1][1]:.1f} ms" for name, curve in ends.items()
    )
