"""The arithmetic of waiting: what is added up, from when, and how it is said."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbonseal.policies import rotation_waits
from carbonseal.policies.key_life import (
    DnsView,
    KeyLife,
    QueueReport,
    RelayReport,
    ServerState,
    ServerView,
    Stage,
)
from carbonseal.policies.rotation_waits import Rules, Wait

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
RULES = Rules()
KEY = KeyLife(
    sdid="example.com",
    selector="s1",
    algorithm="rsa-sha256",
    stage=Stage.PUBLISHED,
    since=NOW - timedelta(hours=1),
    published_at=NOW,
)


def view(state: ServerState, ttl: int | None) -> ServerView:
    return ServerView("ns", "192.0.2.1@53", state, NOW, ttl=ttl)


PLAIN = DnsView("n", NOW, (view(ServerState.SHOWN, 300),), negative_ttl=3600, refresh=4500)


@pytest.mark.parametrize(
    ("dns", "cached"),
    [
        pytest.param(PLAIN, 3600, id="negative-answers"),
        pytest.param(dataclasses.replace(PLAIN, negative_ttl=0), 0, id="none-are-kept"),
        pytest.param(
            dataclasses.replace(PLAIN, alias_ttl=600), 4200, id="an-alias-leads-to-the-record"
        ),
        pytest.param(
            dataclasses.replace(PLAIN, wildcard_ttl=86400), 90000, id="a-wildcard-answered-before"
        ),
        pytest.param(
            dataclasses.replace(PLAIN, servers=(view(ServerState.OTHER, 86400),)),
            86400,
            id="a-damaged-record-lives-longer",
        ),
        pytest.param(
            dataclasses.replace(PLAIN, servers=(view(ServerState.REVOKED, 60),)),
            3600,
            id="a-wrong-record-lives-shorter",
        ),
        pytest.param(
            dataclasses.replace(PLAIN, servers=(view(ServerState.SHOWN, 86400),)),
            3600,
            id="the-right-record-does-no-harm-in-caches",
        ),
        pytest.param(None, 0, id="not-asked"),
    ],
)
def test_how_long_caches_can_lack_a_record(dns: DnsView | None, cached: int) -> None:
    """Negative answers and what stood there instead; aliases and wildcards come on top."""
    assert rotation_waits.cache_ttl(dns) == cached
    wait = rotation_waits.publication_wait(KEY, dns, RULES)
    assert wait.until == NOW + timedelta(seconds=cached + RULES.safety)


@pytest.mark.parametrize(
    ("remembered", "seconds"),
    [
        pytest.param(60, 3600, id="shorter-before"),
        pytest.param(3600, 3600, id="the-same"),
        pytest.param(86400, 86400, id="longer-before"),
    ],
)
def test_a_lowered_ttl_does_not_shorten_a_wait(remembered: int, seconds: int) -> None:
    """What is in caches already lives as long as it was told; a raised one counts at once."""
    key = dataclasses.replace(KEY, cache_ttl=remembered)
    wait = rotation_waits.publication_wait(key, PLAIN, RULES)
    assert wait.seconds == seconds + RULES.safety


def test_a_publication_without_a_date_counts_from_the_stage() -> None:
    """Not from each look, which would never end."""
    key = dataclasses.replace(KEY, published_at=None)
    assert rotation_waits.publication_wait(key, PLAIN, RULES).since == KEY.since


def relay(name: str, queue_lifetime: int, bounce_lifetime: int) -> RelayReport:
    return RelayReport(name, NOW, queue=QueueReport(0, None, queue_lifetime, bounce_lifetime))


@pytest.mark.parametrize(
    ("relays", "days"),
    [
        pytest.param((), 5, id="the-rule-alone"),
        pytest.param((relay("a", 86400, 86400),), 5, id="relays-with-shorter-queues"),
        pytest.param((relay("a", 7 * 86400, 0), relay("b", 86400, 0)), 7, id="the-longest-relay"),
        pytest.param((relay("a", 86400, 9 * 86400),), 9, id="bounces-live-longer"),
        pytest.param((RelayReport("a", NOW, problem="silent"),), 5, id="a-silent-relay"),
    ],
)
def test_a_drain_lasts_as_long_as_the_longest_queue(
    relays: tuple[RelayReport, ...], days: int
) -> None:
    """Then other people's queues (5 d), and those who verify late (4 d)."""
    wait = rotation_waits.drain_wait(NOW, relays, RULES)
    assert wait.until == NOW + timedelta(days=days + 5 + 4)


def test_the_exposure_is_said_with_its_sum() -> None:
    """Until the slowest secondary follows and the old record leaves caches."""
    assert rotation_waits.exposure(PLAIN, NOW).sentence == (
        "2026-03-01T12:00:00Z + 1h15m until the slowest secondary follows + 5m TTL of the old"
        " record = 2026-03-01T13:20:00Z"
    )


@pytest.mark.parametrize("dns", [None, DnsView("n", NOW, (view(ServerState.UNKNOWN, None),))])
def test_an_exposure_nobody_told_is_assumed_to_be_a_week(dns: DnsView | None) -> None:
    """A silent server must not make a leak look harmless."""
    wait = rotation_waits.exposure(dns, NOW)
    assert wait.until == NOW + timedelta(days=7)
    assert "no server told the TTL" in wait.sentence


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59, "59s"), (5400, "1h30m"), (86399, "23h59m59s"), (14 * 86400, "14d")],
)
def test_a_span_is_exact(seconds: int, text: str) -> None:
    """Nothing is rounded, so that the sum in a sentence adds up."""
    assert rotation_waits.span(seconds) == text


@given(st.lists(st.tuples(st.sampled_from(("a", "b")), st.integers(0, 10**8)), min_size=1))
def test_the_terms_of_a_sentence_add_up(terms: list[tuple[str, int]]) -> None:
    """A reader who adds up what is written comes to the end that is written."""
    wait = Wait(NOW, tuple(terms))
    left, end = wait.sentence.rsplit(" = ", 1)
    start, *written = left.split(" + ")
    units = {"d": 86400, "h": 3600, "m": 60, "s": 1}
    total, number = 0, ""
    for term in written:
        for letter in term.split(" ")[0]:
            if letter.isdigit():
                number += letter
            else:
                total, number = total + int(number) * units[letter], ""
    form = "%Y-%m-%dT%H:%M:%SZ"
    assert datetime.strptime(end, form) - datetime.strptime(start, form) == timedelta(seconds=total)
