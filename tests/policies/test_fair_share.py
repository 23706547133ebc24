"""Connections are dealt out evenly."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from carbonseal.policies import fair_share


@given(st.lists(st.integers(0, 4), max_size=200), st.integers(1, 5))
def test_none_gets_many_more_than_another(willing: list[int], workers: int) -> None:
    """Whoever asks, in whatever order: nobody takes what is another's turn."""
    counts = [0] * workers
    for one in willing:
        mine = one % workers
        others = counts[:mine] + counts[mine + 1 :]
        if fair_share.may_take(counts[mine], others):
            counts[mine] += 1
        assert max(counts) - min(counts) <= fair_share.LEEWAY + 1


@given(st.lists(st.integers(0, 9), min_size=1, max_size=9))
def test_somebody_may_always_take_the_next(counts: list[int]) -> None:
    """No connection is nobody's."""
    assert any(
        fair_share.may_take(mine, counts[:at] + counts[at + 1 :]) for at, mine in enumerate(counts)
    )


def test_who_is_alone_takes_everything() -> None:
    """One worker, or the others gone."""
    assert fair_share.may_take(1_000, [])
