"""The part with a whole Postfix: the same places for everyone, and what came out is counted."""

from __future__ import annotations

import pytest

from benchmarks import goals, through_postfix
from benchmarks.goals import OURS
from benchmarks.through_postfix import WITHOUT

NAMES = (WITHOUT, OURS, "OpenDKIM", "rspamd")


def test_each_contestant_is_once_at_each_place_of_a_round() -> None:
    """As many rounds as contestants: nobody always follows the same burst, or is always first."""
    rounds = [through_postfix.in_turn(NAMES, number) for number in range(len(NAMES))]

    for place in zip(*rounds, strict=True):
        assert sorted(place) == sorted(NAMES)
    assert all(sorted(order) == sorted(NAMES) for order in rounds)


def test_the_goals_judge_by_mail_that_was_delivered() -> None:
    """What Postfix accepted and left in its queue for later is no rate of a relay."""
    found = {
        WITHOUT: {"rate": 900.0, "delivered_rate": 600.0},
        OURS: {"rate": 400.0, "delivered_rate": 390.0},
        "OpenDKIM": {"rate": 400.0, "delivered_rate": 300.0},
    }

    judged = {one.figure: one.found for one in goals.judge({"postfix": {"contestants": found}})}

    assert judged["through Postfix: delivered, against no milter"] == pytest.approx(65.0)
    assert judged["through Postfix: delivered, against OpenDKIM"] == pytest.approx(1.3)
