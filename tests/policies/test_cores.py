"""Workers are bound to cores evenly, or not at all."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbonseal.policies import cores


@given(st.integers(1, 64), st.sets(st.integers(0, 255), min_size=1, max_size=64))
def test_no_core_gets_more_workers_than_another(workers: int, there: set[int]) -> None:
    """However many of both: a core without a worker of its own is one that all may use."""
    bound = [cores.of_worker(number, workers, there) for number in range(workers)]
    assert all(one <= there and one for one in bound)
    load = Counter(core for one in bound for core in one)
    assert len({load[core] for core in there}) == 1


@pytest.mark.parametrize(
    ("workers", "there", "expected"),
    [
        pytest.param(2, {0, 1}, [{0}, {1}], id="one-for-each-core"),
        pytest.param(4, {0, 1}, [{0}, {1}, {0}, {1}], id="two-for-each-core"),
        pytest.param(2, {3, 5}, [{3}, {5}], id="only-cores-that-the-service-may-use"),
        pytest.param(1, {0, 1}, [{0, 1}], id="one-worker-signs-on-both-cores"),
        pytest.param(3, {0, 1}, [{0, 1}] * 3, id="three-workers-on-two-cores-share-them"),
        pytest.param(1, {0}, [{0}], id="one-core"),
    ],
)
def test_who_runs_where(workers: int, there: set[int], expected: list[set[int]]) -> None:
    """By number of workers and by the cores there are."""
    assert [cores.of_worker(number, workers, there) for number in range(workers)] == expected


def test_automatic_workers_can_be_bound() -> None:
    """As many as there are cores; where they are not bound, one more."""
    assert cores.workers_wanted(4, are_bound=True) == 4
    assert cores.workers_wanted(4, are_bound=False) == 5
