"""Where the kernel runs the workers of a real service."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from pathlib import Path

import pytest
from support.carbonseal import Carbonseal
from support.waiting import wait_until

from carbonseal.milter import config, log
from carbonseal.milter.supervision import crew

THERE = os.sched_getaffinity(0)


@pytest.fixture
def service(tmp_path: Path) -> Carbonseal:
    made = Carbonseal(tmp_path / "seal")
    made.make_key("example.com")
    return made


def cores_of_workers(service: Carbonseal) -> list[set[int]]:
    """The workers are started first."""
    *workers, _status, _writer = service.children()
    return [os.sched_getaffinity(pid) for pid in workers]


def started(service: Carbonseal, **milter: object) -> list[set[int]]:
    socket = f"unix:{service.socket}"
    service.configure({"milter": {"socket": socket, "socket_mode": "0666", "drain": 5, **milter}})
    service.start()
    try:
        return cores_of_workers(service)
    finally:
        assert service.stop() == 0


def test_as_many_workers_as_cores_stay_on_one_each(service: Carbonseal) -> None:
    """What is said of `workers: auto` is so; the writer and the rest may go anywhere."""
    assert sorted(started(service, workers="auto"), key=min) == [{core} for core in sorted(THERE)]


def test_workers_that_cannot_be_dealt_out_evenly_are_not_bound(service: Carbonseal) -> None:
    """One more than cores: whoever shared a core would be slower than the others."""
    workers = len(THERE) + 1
    assert started(service, workers=workers) == [THERE] * workers


def test_binding_can_be_switched_off(service: Carbonseal) -> None:
    """Then auto is one worker more."""
    assert started(service, workers="auto", cpu_affinity="none") == [THERE] * (len(THERE) + 1)


def test_libmilter_deals_connections_out_unevenly_and_its_workers_are_not_bound(
    service: Carbonseal,
) -> None:
    """Bound, the worker with few of them would keep its core idle."""
    there = started(service, workers="auto", protocol="libmilter")
    assert there == [THERE] * (len(THERE) + 1)


@pytest.mark.parametrize("forbidden", ["sched_getaffinity", "sched_setaffinity"])
def test_a_sandbox_that_forbids_binding_stops_no_worker(
    forbidden: str, service: Carbonseal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may forbid to ask as well as to bind: one warning, and the worker goes on."""
    said: list[str] = []

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(os, forbidden, refuse)
    monkeypatch.setattr(log, "warning", lambda event, **_: said.append(event))
    crew._bind(0, 2, config.load(service.file))
    assert said == ["worker-not-bound"]


@pytest.mark.skipif(len(THERE) < 2, reason="on a single core everybody is bound to it")
def test_a_reload_and_a_death_bind_the_new_ones_as_well(service: Carbonseal) -> None:
    """The places of workers that leave are not counted."""

    def bound() -> dict[int, int]:
        found = {pid: os.sched_getaffinity(pid) for pid in service.children()}
        return {pid: min(cores) for pid, cores in found.items() if len(cores) == 1}

    def are_dealt_out_without(gone: Iterable[int]) -> bool:
        now = bound()
        return sorted(now.values()) == sorted(THERE) and not now.keys() & set(gone)

    milter = {"socket": f"unix:{service.socket}", "workers": len(THERE), "drain": 5}
    service.configure({"milter": milter})
    service.start()
    before = bound()
    service.reload()
    wait_until(lambda: are_dealt_out_without(before), "the workers of the reload")
    killed = min(bound())
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: are_dealt_out_without([killed]), "the worker that takes its place")
    assert service.stop() == 0


@pytest.mark.skipif(len(THERE) < 2, reason="a single core cannot be restricted further")
def test_a_service_that_may_use_some_cores_only_stays_on_them(service: Carbonseal) -> None:
    """CPUAffinity= of a systemd unit, or a container's cpuset."""
    last = max(THERE)
    os.sched_setaffinity(0, {last})
    try:
        assert started(service, workers="auto") == [{last}]
    finally:
        os.sched_setaffinity(0, THERE)
