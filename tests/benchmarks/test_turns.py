"""The benchmark's own arithmetic: how time grows is judged by the curve, not by the machine."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from benchmarks import goals, points, turns
from benchmarks.contestants import Carbonseal, Contestant, Key, OpenDkim
from benchmarks.load import Burst

EVERY_STEP = [pytest.param(one.steps, id=one.name) for one in points.GROWTHS]
FEW_STEPS = [pytest.param(one.few, id=f"{one.name}-of-peers") for one in points.GROWTHS]
POWERS = [pytest.param(1, 1.0, id="line"), pytest.param(2, 1.5, id="square")]
ROUNDS = 8


def curve(steps: Sequence[int], power: int) -> list[float]:
    """What takes 0.9 ms at first and 50 ms more at last."""
    return [0.9 + 50 * (step / steps[-1]) ** power for step in steps]


def is_met(straightness: float) -> bool:
    """What the goal says to it."""
    growth = {"name": "headers", "contestants": {goals.OURS: {"straightness": straightness}}}
    (goal,) = goals.judge({"growth": [growth]})
    return goal.is_met


@pytest.mark.parametrize("steps", EVERY_STEP + FEW_STEPS)
@pytest.mark.parametrize(("power", "straightness"), POWERS)
def test_a_bend_in_a_curve_shows(steps: Sequence[int], power: int, straightness: float) -> None:
    """Linear growth is told from quadratic growth, at whatever steps either was measured."""
    assert turns.straightness(steps, curve(steps, power)) == pytest.approx(straightness, abs=0.005)


@pytest.mark.parametrize("steps", EVERY_STEP)
def test_a_bend_counts_wherever_it_is(steps: Sequence[int]) -> None:
    """Growth that triples at two fifths of the way gives what its slopes say: 3 to 2.2."""
    kink = 2 * steps[-1] // 5
    times = [0.9 + (step + 2 * max(0, step - kink)) / steps[-1] for step in steps]
    assert turns.straightness(steps, times) == pytest.approx(3 / 2.2, abs=0.02)


@pytest.mark.parametrize("steps", EVERY_STEP)
@pytest.mark.parametrize(("power", "straightness"), POWERS)
def test_a_clock_that_differs_between_rounds_bends_nothing(
    steps: Sequence[int], power: int, straightness: float
) -> None:
    """Each round has its own clock; the slope is that of the middle one."""
    clocks = (1.0, 0.6, 1.2, 1.8, 0.9)
    rounds = [[clock * time for time in curve(steps, power)] for clock in clocks]
    found = turns.line(steps, rounds, steps[-1])
    assert found["straightness"] == pytest.approx(straightness, abs=0.005)
    assert found["slope_ms"] == turns.line(steps, rounds[:1], steps[-1])["slope_ms"]


def test_a_spoilt_round_changes_neither_figure() -> None:
    """The median asks how most rounds were."""
    steps = points.GROWTHS[0].steps
    rounds = [curve(steps, 1)] * 5
    spoilt = [*rounds[:-2], [9.0, *rounds[0][1:]], [*rounds[0][:-1], 900.0]]
    assert turns.line(steps, spoilt, 1_000) == turns.line(steps, rounds, 1_000)


@pytest.mark.parametrize("times", [(3.0, 3.0), (3.0, 4.0), (3.0, 3.0, 3.0), (3.0, 2.0, 1.0)])
def test_what_does_not_grow_or_has_two_points_is_a_line(times: Sequence[float]) -> None:
    """There is a figure for everybody who could be measured twice."""
    assert turns.straightness((10, 1_000, 5_000)[: len(times)], times) == 1.0


@pytest.mark.parametrize("steps", EVERY_STEP)
@pytest.mark.parametrize(("power", "straightness"), POWERS)
def test_the_goal_is_met_or_missed_by_the_curve_and_not_by_chance(
    steps: Sequence[int], power: int, straightness: float
) -> None:
    """Rounds a fifth apart and points off by a tenth: each of 40 runs judges rightly."""
    chance = random.Random(1)
    for _ in range(40):
        rounds = []
        for _ in range(ROUNDS):
            clock = chance.lognormvariate(0, 0.2)
            rounds.append(
                [clock * chance.lognormvariate(0, 0.1) * time for time in curve(steps, power)]
            )
        found = turns.line(steps, rounds, 1_000)["straightness"]
        assert is_met(found) == (straightness < 1.25), found


class Named:
    """A contestant that is never started."""

    def __init__(self) -> None:
        pass


class Ours(Named, Carbonseal):
    """The one that is judged."""


class Peer(Named, OpenDkim):
    """One of the others."""


Measured = list[tuple[str, int]]


@pytest.fixture
def grown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[float], tuple[goals.Results, Measured]]:
    """Measures a line while the clock slows from turn to turn; the answer, and all turns."""

    def grow(slower: float) -> tuple[goals.Results, Measured]:
        asked: Measured = []

        def take_turn(one: Contestant, point: points.Point, of: turns.Turns) -> None:
            step = int(point.options["headers"])
            milliseconds = (1 + step / 100) * slower ** len(asked)
            asked.append((one.name, step))
            burst = dict.fromkeys(Burst.__dataclass_fields__, 0.1) | {"p50_ms": milliseconds}
            of.bursts.append(Burst(**burst))  # type: ignore[arg-type]

        monkeypatch.setattr(turns, "take_turn", take_turn)
        key = Key(tmp_path, b"")
        referee = turns.Referee([Ours(), Peer()], key, tmp_path, lambda _: None, float("inf"))
        return referee.grow(points.GROWTHS[0]), asked

    return grow


def test_a_machine_that_slows_all_the_while_bends_nothing(
    grown: Callable[[float], tuple[goals.Results, Measured]],
) -> None:
    """Rounds go up the steps and down again, so that a steady trend cancels out."""
    found, _ = grown(1.01)
    assert found["contestants"]["Carbonseal"]["straightness"] == pytest.approx(1, abs=0.02)


def test_each_round_has_every_step_and_the_peers_have_fewer_rounds(
    grown: Callable[[float], tuple[goals.Results, Measured]],
) -> None:
    """A round is measured in one go, whatever is not judged takes little of the time."""
    growth = points.GROWTHS[0]
    found, asked = grown(1.0)
    ours = [step for name, step in asked if name == "Carbonseal"]
    up_and_down = [*growth.steps, *growth.steps[::-1]]
    assert ours == up_and_down * (len(ours) // len(up_and_down))
    for name, steps in (("Carbonseal", growth.steps), ("OpenDKIM", growth.few)):
        facts = found["contestants"][name]
        expected = [1 + step / 100 for step in steps]
        assert facts["p50_ms"] == list(zip(steps, expected, strict=True))
        assert facts["rounds_ms"] == [expected] * len(facts["rounds_ms"])
        assert (facts["slope_ms"], facts["straightness"]) == (10.0, 1.0)
    rounds = {name: len(one["rounds_ms"]) for name, one in found["contestants"].items()}
    assert rounds == {"Carbonseal": ROUNDS, "OpenDKIM": 3}
