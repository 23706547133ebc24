"""What a look at servers and a relay's report mean, before anybody decides anything."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from carbonseal.policies.key_life import (
    DnsView,
    RelayReport,
    RelayState,
    ServerState,
    ServerView,
    WorkerReport,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEY = frozenset(("example.com/s1",))
OTHER = frozenset(("example.com/s2",))
NONE: frozenset[str] = frozenset()


def worker(
    *, signing: frozenset[str] = NONE, standby: frozenset[str] = NONE, starting: bool = False
) -> WorkerReport:
    return WorkerReport(7, is_starting=starting, signing=signing, standby=standby)


@pytest.mark.parametrize(
    ("report", "state"),
    [
        pytest.param(
            RelayReport("r", NOW, (worker(signing=KEY),)), RelayState.SIGNING, id="one-worker-signs"
        ),
        pytest.param(
            RelayReport("r", NOW, (worker(), worker(signing=KEY))),
            RelayState.SIGNING,
            id="one-of-two-workers-still-signs",
        ),
        pytest.param(
            RelayReport("r", NOW, (worker(signing=OTHER, standby=KEY), worker(standby=KEY))),
            RelayState.LOADED,
            id="every-worker-has-it-ready",
        ),
        pytest.param(
            RelayReport("r", NOW, (worker(standby=KEY), worker())),
            RelayState.STOPPED,
            id="one-worker-lacks-it",
        ),
        pytest.param(
            RelayReport("r", NOW, (worker(signing=OTHER),)),
            RelayState.STOPPED,
            id="signs-with-another-key",
        ),
        pytest.param(
            RelayReport("r", NOW, (worker(standby=KEY), worker(starting=True))),
            RelayState.UNKNOWN,
            id="a-worker-is-starting-and-may-load-anything",
        ),
        pytest.param(
            RelayReport("r", NOW, loadable=KEY), RelayState.LOADED, id="no-worker-runs-but-it-loads"
        ),
        pytest.param(
            RelayReport("r", NOW), RelayState.STOPPED, id="no-worker-runs-and-it-does-not-load"
        ),
        pytest.param(
            RelayReport("r", NOW, loadable=KEY, problem="ssh: no route to host"),
            RelayState.UNKNOWN,
            id="a-report-with-a-problem-says-nothing",
        ),
    ],
)
def test_what_a_relay_does_with_a_key(report: RelayReport, state: RelayState) -> None:
    """Signing if any worker may, loaded only if all have it, unknown while anybody starts."""
    assert report.state_of("example.com", "s1") is state


def test_a_selector_of_another_domain_is_another_key() -> None:
    """`example.com/s1` says nothing about `example.org/s1`."""
    report = RelayReport("r", NOW, (worker(signing=KEY),))
    assert report.state_of("example.org", "s1") is RelayState.STOPPED


def view(state: ServerState, about: str = "") -> ServerView:
    return ServerView("ns", "192.0.2.1@53", state, NOW, about=about)


@pytest.mark.parametrize(
    ("dns", "states"),
    [
        pytest.param(DnsView("n", NOW), {ServerState.UNKNOWN}, id="no-server-known"),
        pytest.param(
            DnsView("n", NOW, problem="no zone"), {ServerState.UNKNOWN}, id="no-zone-found"
        ),
        pytest.param(
            DnsView("n", NOW, (view(ServerState.SHOWN),), problem="the alias leads nowhere"),
            {ServerState.SHOWN, ServerState.UNKNOWN},
            id="a-problem-beside-answers-is-never-everywhere",
        ),
        pytest.param(
            DnsView("n", NOW, (view(ServerState.SHOWN), view(ServerState.ABSENT))),
            {ServerState.SHOWN, ServerState.ABSENT},
            id="servers-differ",
        ),
    ],
)
def test_unknown_is_never_absent_and_never_everywhere(
    dns: DnsView, states: set[ServerState]
) -> None:
    """Where somebody could not be asked, nothing is everywhere."""
    assert dns.states == states
    assert not any(dns.is_everywhere(state) for state in ServerState if state.value != "unknown")


def test_each_complaint_is_said_once_and_the_whole_before_the_parts() -> None:
    """Ten servers with the same fault are one sentence."""
    servers = (view(ServerState.OTHER, "bad"), view(ServerState.OTHER, "bad"))
    assert DnsView("n", NOW, servers, problem="no zone").complaints == ("no zone", "bad")
