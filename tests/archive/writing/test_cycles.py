"""Cycles are looked for where transactions have left many, and after a fault."""

from __future__ import annotations

import gc

import pytest

from carbonseal.milter.archive.writing.cycles import COMMITS, Cycles


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The generations that were looked at."""
    found: list[int] = []
    monkeypatch.setattr(gc, "collect", found.append)
    return found


def test_a_look_comes_after_many_transactions(looks: list[int]) -> None:
    """Not after each: a look at every young object takes longer than most batches."""
    cycles = Cycles()
    for _ in range(COMMITS):
        cycles.collect_if_due()
        assert not looks
        cycles.committed()
    cycles.collect_if_due()
    cycles.collect_if_due()
    assert looks == [1]


def test_a_look_comes_after_one_fault(looks: list[int]) -> None:
    """It holds a whole batch."""
    cycles = Cycles()
    cycles.failed()
    cycles.collect_if_due()
    cycles.collect_if_due()
    assert looks == [1]


def test_a_look_that_was_asked_for_counts(looks: list[int]) -> None:
    """The next one is due as many transactions later."""
    cycles = Cycles()
    cycles.failed()
    cycles.collect()
    cycles.collect_if_due()
    assert looks == [1]
