"""What people read counts one record, and two records."""

from __future__ import annotations

import pytest

from carbonseal.policies import quantity


@pytest.mark.parametrize(
    ("count", "words", "expected"),
    [
        pytest.param(0, ("record",), "0 records", id="none-of-them"),
        pytest.param(1, ("record",), "1 record", id="one"),
        pytest.param(2, ("record",), "2 records", id="several"),
        pytest.param(1, ("line is new", "lines are new"), "1 line is new", id="one-with-a-verb"),
        pytest.param(3, ("address", "addresses"), "3 addresses", id="another-plural"),
        pytest.param(21, ("record",), "21 records", id="ends-in-one"),
    ],
)
def test_a_count_agrees_with_its_noun(count: int, words: tuple[str, ...], expected: str) -> None:
    """Only one thing is a thing; none of them, and all other numbers, are things."""
    assert quantity.of(count, *words) == expected
