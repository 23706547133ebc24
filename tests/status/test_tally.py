"""Counting one message: the compiled half against plain Python, cell by cell."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import sanitizers

from carbonseal.milter.status import counters
from carbonseal.milter.status.counters import BUCKETS, add_plainly, compiled

SOURCE = Path(__file__).resolve().parents[2] / "milter/status/_tally.c"
CELLS = 200  # more than all histograms have
PLACE = 20
pytestmark = pytest.mark.skipif(compiled is None, reason="no compiler was at hand")

# Around the borders of the buckets, beyond the last one, and what a clock may say on a bad day.
BORDERS = [bound + off for bound in counters.BOUNDS for off in (-1.5e-6, -1e-9, 0.0, 1e-9, 1.5e-6)]
SECONDS = st.sampled_from([*BORDERS, 0.0, -1.0, 1e5, 5e-7]) | st.floats(-1, 100)


@given(
    before=st.lists(st.integers(0, 2**40), min_size=CELLS, max_size=CELLS),
    ones=st.lists(st.integers(0, CELLS - 1), max_size=6),
    where=st.integers(0, CELLS - 1),
    octets=st.integers(0, 2**50),
    times=st.tuples(SECONDS, SECONDS),
    steps=st.tuples(*[SECONDS] * 3),
    ended=SECONDS,
    last=SECONDS,
)
def test_both_count_alike(
    before: list[int],
    ones: list[int],
    where: int,
    octets: int,
    times: tuple[float, float],
    steps: tuple[float, float, float],
    ended: float,
    last: float,
) -> None:
    """Whatever came of a message and however long it took."""
    counted = []
    for add in (compiled.add, add_plainly):
        cells = memoryview(bytearray(CELLS * 8)).cast("Q")
        for number, value in enumerate(before):
            cells[number] = value
        add(cells, (where, PLACE), (ones, (octets, *times, steps)), ended, last)
        counted.append(cells.tolist())
    assert counted[0] == counted[1]


@pytest.mark.parametrize(
    ("ones", "where", "place"),
    [
        pytest.param([CELLS], 0, PLACE, id="a-one-beyond"),
        pytest.param([-CELLS - 1], 0, PLACE, id="a-one-before"),
        pytest.param([], CELLS, PLACE, id="octets-beyond"),
        pytest.param([], 0, CELLS - BUCKETS, id="a-histogram-beyond"),
    ],
)
def test_nothing_is_counted_outside(ones: list[int], where: int, place: int) -> None:
    """The memory next to it is another worker's."""
    for add in (compiled.add, add_plainly):
        cells = memoryview(bytearray(CELLS * 8)).cast("Q")
        with pytest.raises(IndexError):
            add(cells, (where, place), (ones, (1, 0.0, 0.0, (0.0, 0.0, 0.0))), 0.0, 1.0)


@pytest.mark.skipif(sanitizers.are_at_work(), reason="this is that run")
def test_no_test_here_makes_the_compiled_half_misbehave(tmp_path: Path) -> None:
    """The same tests, with its memory and its arithmetic watched."""
    sanitizers.run(SOURCE, __file__, tmp_path)
