"""What is missing has a cause, where that can be told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from carbonseal.policies import completeness
from carbonseal.policies.completeness import Cause, Kind, Logged, Outage, Relay, Way
from carbonseal.policies.delivery import State

INSIDE, PICKUP = Way("smtpd", "inside"), Way("pickup")
FILTER = Way("smtpd", "inside", is_loopback=True)
RELAY = Relay(
    first_record="2026-11-21T05:00:00.000000Z",
    first_fact="2026-11-21T06:00:00.000000Z",
    recorded={INSIDE, Way("smtpd")},
)
NOON = "2026-11-21T12:00:00.000000Z"
OUTAGE = Outage("2026-11-21T11:50:00.000000Z", "2026-11-21T12:10:00.000000Z")


@pytest.mark.parametrize(
    ("way", "at", "relay", "expected"),
    [
        pytest.param(INSIDE, NOON, RELAY, Cause.RECORD_MISSING, id="others-of-its-way-have-one"),
        pytest.param(
            Way("smtpd", "filter"), NOON, RELAY, Cause.LISTENER_WITHOUT_MILTER, id="no-milters"
        ),
        pytest.param(FILTER, NOON, RELAY, Cause.LISTENER_WITHOUT_MILTER, id="from-this-host"),
        pytest.param(PICKUP, NOON, RELAY, Cause.LOCAL_SUBMISSION, id="no-non-smtpd-milters"),
        pytest.param(
            PICKUP,
            NOON,
            replace(RELAY, recorded={PICKUP}),
            Cause.RECORD_MISSING,
            id="sendmail-whose-other-mail-is-recorded",
        ),
        pytest.param(Way(""), NOON, RELAY, Cause.INTERNAL_MAIL, id="made-by-postfix"),
        pytest.param(
            INSIDE,
            "2026-11-21T04:59:59.999999Z",
            RELAY,
            Cause.BEFORE_RECORDS,
            id="before-the-first-record",
        ),
        pytest.param(
            INSIDE, NOON, Relay(first_fact=NOON), Cause.BEFORE_RECORDS, id="no-record-at-all"
        ),
        pytest.param(
            INSIDE,
            NOON,
            replace(RELAY, loaded_until="2026-11-21T11:59:00.000000Z"),
            Cause.RECORD_WAITS,
            id="in-the-spool",
        ),
        pytest.param(
            INSIDE,
            NOON,
            replace(RELAY, outages=[OUTAGE]),
            Cause.MILTER_UNREACHABLE,
            id="service-down",
        ),
        pytest.param(
            INSIDE,
            "2026-11-21T12:10:00.000001Z",
            replace(RELAY, outages=[OUTAGE]),
            Cause.RECORD_MISSING,
            id="service-up-again",
        ),
    ],
)
def test_why_there_is_no_record(way: Way, at: str, relay: Relay, expected: Cause) -> None:
    """The likeliest cause that what is known allows, else none."""
    assert completeness.unrecorded(Logged(at, way), relay) is expected


@pytest.mark.parametrize(
    ("relay", "expected"),
    [
        pytest.param(RELAY, Cause.NOT_IN_LOG, id="nothing-explains-it"),
        pytest.param(replace(RELAY, first_fact=None), Cause.BEFORE_FOLLOWER, id="never-followed"),
        pytest.param(
            replace(RELAY, first_fact="2026-11-21T13:00:00.000000Z"),
            Cause.BEFORE_FOLLOWER,
            id="before-the-follower",
        ),
        pytest.param(replace(RELAY, followed_until=NOON), Cause.NOT_FOLLOWED, id="follower-lags"),
        pytest.param(
            replace(RELAY, followed_until=NOON, is_behind=True),
            Cause.FOLLOWER_BEHIND,
            id="follower-gone",
        ),
    ],
)
def test_why_the_log_does_not_show_a_record(relay: Relay, expected: Cause) -> None:
    """Each span that nobody followed is told from a loss."""
    assert completeness.unseen(NOON, relay) is expected


@pytest.mark.parametrize(
    ("state", "age", "expected"),
    [
        pytest.param(State.DELIVERED, 9e9, None, id="delivered"),
        pytest.param(State.DEFERRED, 10.0, Cause.COPY_PENDING, id="deferred"),
        pytest.param(State.HELD, 10.0, Cause.COPY_PENDING, id="held"),
        pytest.param(State.QUEUED, 1e6, Cause.COPY_OVERDUE, id="queued-for-weeks"),
        pytest.param(State.BOUNCED, 1.0, Cause.COPY_LOST, id="bounced"),
        pytest.param(State.UNKNOWN, 1.0, Cause.COPY_LOST, id="gone-without-a-word"),
    ],
)
def test_a_copy_arrives_or_is_told(state: State, age: float, expected: Cause | None) -> None:
    """Lost, waiting, or waiting for longer than Postfix keeps mail."""
    assert completeness.copy(state, age, 500_000.0) is expected


def test_every_cause_is_said_in_words() -> None:
    """A kind and a sentence for each; a rule explains what has no copy."""
    for cause in Cause:
        assert completeness.kind(cause) in Kind
        assert completeness.sentence(cause).endswith(".")
    assert completeness.uncopied({"dry-run"}) is Cause.NO_COPY_BY_RULE
    assert completeness.uncopied({"copied-by-peer", "x"}) is Cause.NO_COPY_BY_RULE
    assert completeness.uncopied({"origin-login"}) is Cause.COPY_MISSING
    assert completeness.is_gap(3)
    assert not completeness.is_gap(2)
