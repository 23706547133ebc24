"""When the next key is begun, and who takes the place."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from carbonseal.policies import signing_request, succession
from carbonseal.policies.key_life import Goal, KeyLife, Stage
from carbonseal.policies.rotation_waits import Rules
from carbonseal.policies.succession import Successor

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
RSA, ED = signing_request.RSA, signing_request.ED25519
RULES = Rules()  # 180 days, the successor 14 days before
STANDBY = Rules(standby=True)


def key(selector: str, stage: Stage = Stage.ACTIVE, **about: Any) -> KeyLife:
    """A key; an active one signs for ten days."""
    plain: dict[str, Any] = {"algorithm": RSA, "since": NOW, "goal": Goal.ACTIVE}
    if stage is Stage.ACTIVE:
        plain["activated_at"] = NOW - 10 * DAY
    return KeyLife(sdid="example.com", selector=selector, stage=stage, **{**plain, **about})


YOUNG = key("s1")
LEAD = key("s1", activated_at=NOW - 170 * DAY)  # its successor is due, its end is in ten days
OLD = key("s1", activated_at=NOW - 200 * DAY)
REFUSED = key("s1", refused="no server shows it")
READY = key("s2", Stage.READY, goal=Goal.READY)
UNREADY = key("s0", Stage.PUBLISHING, goal=Goal.READY)
AWAITED = key("s3", Stage.PUBLISHING, activate_from=NOW + 5 * DAY)
AT_ONCE = key("s3", Stage.READY)
Expected = tuple[str | None, Goal, datetime | None, datetime]  # selector, goal, from, at


def brief(found: tuple[Successor, ...]) -> list[Expected]:
    return [(one.selector, one.goal, one.activate_from, one.at) for one in found]


NEW_NOW: Expected = (None, Goal.ACTIVE, None, NOW)
NEW_STANDBY: Expected = (None, Goal.READY, None, NOW)


@pytest.mark.parametrize(
    ("keys", "rules", "forced", "expected"),
    [
        pytest.param((), RULES, False, [], id="no-key-at-all"),
        pytest.param((key("s1", Stage.RETIRING),), RULES, True, [], id="nobody-signs"),
        pytest.param(
            (YOUNG,),
            RULES,
            False,
            [(None, Goal.ACTIVE, NOW + 170 * DAY, NOW + 156 * DAY)],
            id="young-only-a-plan",
        ),
        pytest.param(
            (LEAD,),
            RULES,
            False,
            [(None, Goal.ACTIVE, NOW + 10 * DAY, NOW - 4 * DAY)],
            id="in-its-lead-and-signs-to-its-end",
        ),
        pytest.param(
            (OLD,),
            RULES,
            False,
            [(None, Goal.ACTIVE, None, NOW - 34 * DAY)],
            id="too-old-as-soon-as-ready",
        ),
        pytest.param((LEAD, AWAITED), RULES, False, [], id="one-is-coming"),
        pytest.param(
            (LEAD, dataclasses.replace(AWAITED, held="foreign")),
            RULES,
            False,
            [(None, Goal.ACTIVE, NOW + 10 * DAY, NOW - 4 * DAY)],
            id="one-that-is-held-is-not-coming",
        ),
        pytest.param(
            (LEAD, dataclasses.replace(AWAITED, cancelled_at=NOW)),
            RULES,
            False,
            [(None, Goal.ACTIVE, NOW + 10 * DAY, NOW - 4 * DAY)],
            id="one-that-is-cancelled-is-not-coming",
        ),
        pytest.param((YOUNG,), RULES, True, [NEW_NOW], id="forced"),
        pytest.param(
            (YOUNG, AWAITED), RULES, True, [("s3", Goal.ACTIVE, None, NOW)], id="forced-hastens"
        ),
        pytest.param((YOUNG, AT_ONCE), RULES, True, [], id="forced-twice"),
        pytest.param((YOUNG,), STANDBY, False, [
            (None, Goal.ACTIVE, NOW + 170 * DAY, NOW + 156 * DAY), NEW_STANDBY,
        ], id="standby-wanted"),
        pytest.param((YOUNG, READY), STANDBY, False, [
            ("s2", Goal.ACTIVE, NOW + 170 * DAY, NOW + 156 * DAY),
        ], id="standby-kept-until-it-is-due"),
        pytest.param((LEAD, READY), STANDBY, False, [
            ("s2", Goal.ACTIVE, NOW + 10 * DAY, NOW - 4 * DAY), NEW_STANDBY,
        ], id="standby-takes-the-place-and-another-is-begun"),
        pytest.param((YOUNG, UNREADY, READY), RULES, True, [
            ("s2", Goal.ACTIVE, None, NOW),
        ], id="of-two-standbys-the-one-that-is-ready"),
        pytest.param((REFUSED,), RULES, False, [NEW_NOW], id="refused-a-new-one-at-once"),
        pytest.param((REFUSED, READY), RULES, False, [
            ("s2", Goal.ACTIVE, None, NOW),
        ], id="refused-the-standby-at-once"),
        pytest.param((REFUSED, AWAITED), RULES, False, [
            ("s3", Goal.ACTIVE, None, NOW),
        ], id="refused-the-awaited-need-not-wait"),
        pytest.param((REFUSED, AWAITED, READY), RULES, False, [
            ("s2", Goal.ACTIVE, None, NOW),
        ], id="refused-a-ready-standby-before-one-on-its-way"),
        pytest.param((REFUSED, AT_ONCE, READY), RULES, False, [], id="refused-but-one-is-at-it"),
        pytest.param(
            (key("s1", compromised_at=NOW),), RULES, False, [], id="a-compromised-key-has-no-heir"
        ),
    ],
)  # fmt: skip
def test_who_is_next(
    keys: tuple[KeyLife, ...], rules: Rules, forced: bool, expected: list[Expected]
) -> None:
    """Selector (None: a new key), goal, from when it signs, when it is begun."""
    assert brief(succession.successors(keys, rules, NOW, forced=forced)) == expected


def test_each_algorithm_has_its_own_succession() -> None:
    """An RSA key on its way is no successor of an Ed25519 key; RSA comes first."""
    ed25519 = key("e1", algorithm=ED)
    found = succession.successors((YOUNG, ed25519, AT_ONCE), RULES, NOW, forced=True)
    assert [(one.algorithm, one.selector) for one in found] == [(ED, None)]
    both = succession.successors((YOUNG, ed25519), RULES, NOW, forced=True)
    assert [one.algorithm for one in both] == [RSA, ED]


def test_what_was_asked_for_and_signs_by_now_has_no_successor_begun_beside() -> None:
    """An order that is given again goes on with the key on its way; the next one begins another."""
    ed25519 = key("e1", algorithm=ED)
    assert succession.on_their_way((YOUNG, ed25519, AT_ONCE)) == ("s3",)
    signs = key("s3", activated_at=NOW)
    found = succession.successors((signs, ed25519), RULES, NOW, forced=True, asked_for=("s3",))
    assert [(one.algorithm, one.at > NOW) for one in found] == [(RSA, True), (ED, False)]
    found = succession.successors((signs,), RULES, NOW, forced=True)
    assert [one.at for one in found] == [NOW]
    hastened = succession.successors((LEAD, AWAITED), RULES, NOW, forced=True, asked_for=("s3",))
    assert [(one.selector, one.activate_from) for one in hastened] == [("s3", None)]


@pytest.mark.parametrize(
    "other",
    [READY, key("s4", Stage.READY, held="foreign"), key("s4", Stage.READY, cancelled_at=NOW)],
    ids=["standby", "held", "cancelled"],
)
def test_who_is_not_to_sign_is_not_on_its_way(other: KeyLife) -> None:
    """So a rotation that is asked for then begins a key, or takes the standby."""
    assert succession.on_their_way((YOUNG, other)) == ()


def test_of_two_active_keys_the_one_activated_last_counts() -> None:
    """A crash can leave two."""
    found = succession.successors((OLD, key("s2")), RULES, NOW)
    assert found[0].at > NOW
    assert "s2 signs since" in found[0].why


def test_the_reason_holds_the_arithmetic() -> None:
    """When it began, how long, how long before."""
    (found,) = succession.successors((YOUNG,), RULES, NOW)
    assert found.why == (
        "s1 signs since 2026-02-19T12:00:00Z, for 180d (rotation.lifetime); its successor is begun"
        " 14d before its end (rotation.lead)"
    )


def test_the_first_key_is_rsa_and_signs_as_soon_as_it_is_ready() -> None:
    """Every receiver verifies RSA."""
    found = succession.first(NOW)
    assert (found.algorithm, *brief((found,))[0]) == (RSA, *NEW_NOW)
