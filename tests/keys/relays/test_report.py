"""What relays say of their keys: honest about what is not known, strict with what others send."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbonseal.keys import keyring
from carbonseal.keys.relays import acknowledgement, report
from carbonseal.keys.relays.acknowledgement import Acknowledgement, Worker
from carbonseal.policies.key_life import QueueReport, RelayReport, RelayState, Stage

NOW = datetime(2026, 11, 21, 12, 0, 0, 123456, tzinfo=UTC)
WORKER = Worker(
    42, False, frozenset({"example.com/a"}), frozenset({"example.com/b"}), NOW, ("a sentence",)
)
REPORT = RelayReport(
    relay="relay2",
    at=NOW,
    workers=(WORKER, Worker(43, True)),
    loadable=frozenset({"example.com/a"}),
    queue=QueueReport(3, NOW - timedelta(days=2), 432000, 86400),
)


@dataclasses.dataclass
class Settings:
    """A relay in a temporary directory."""

    keys_directory: Path
    spool_directory: Path
    relay: str = "relay1"
    postfix_directory: Path | None = None
    relay_commands: Mapping[str, list[str]] = dataclasses.field(default_factory=dict)


@pytest.fixture
def settings(shelf: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """One whose Postfix holds one message."""
    spool, programs = tmp_path / "spool", tmp_path / "bin"
    spool.mkdir()
    programs.mkdir()
    line = (
        '{"queue_name": "hold", "queue_id": "A1", "arrival_time": 1000000000,'
        ' "sender": "a@example.com", "recipients": [{"address": "b@example.net"}]}'
    )
    for name, text in (
        ("postqueue", f"echo {shlex.quote(line)}"),
        ("postconf", "echo maximal_queue_lifetime = 5d; echo bounce_queue_lifetime = 5d"),
    ):
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return Settings(shelf.directory, spool)


def says(text: str) -> list[str]:
    """A relay's command that prints this."""
    return [sys.executable, "-c", f"print({text!r})"]


def fresh(**changes: Any) -> str:
    """A report of relay2 made now."""
    return report.to_json(dataclasses.replace(REPORT, at=datetime.now(UTC), **changes))


# --- this host ------------------------------------------------------------------------------------


def test_where_no_worker_lives_what_would_load_counts(
    settings: Settings, shelf: Any, keep: Any, rsa_private: Any, rsa_other: Any
) -> None:
    """Nobody signs there, and whoever starts will load what passes the self-test now."""
    keep(rsa_private, "a")
    ready = keep(rsa_other, "b", active=False)
    with shelf.writing("example.com") as writer:
        writer.put(ready.moved(Stage.READY, at=NOW, why="test"))
    damaged = keep(rsa_private, "c", sdid="example.net")
    shelf.private_path(damaged.sdid, damaged.selector).write_bytes(b"")
    said = report.local_report(settings)
    assert (said.relay, said.workers, said.problem) == ("relay1", (), "")
    assert said.loadable == {"example.com/a", "example.com/b"}
    assert said.state_of("example.com", "b") is RelayState.LOADED
    assert said.state_of("example.net", "c") is RelayState.STOPPED
    assert said.queue == QueueReport(1, datetime.fromtimestamp(10**9, UTC), 432000, 432000)


def test_where_a_worker_lives_its_word_counts_alone(
    settings: Settings, shelf: Any, keep: Any, rsa_private: Any
) -> None:
    """What would load from disk is no proof of what it holds."""
    worker = Acknowledgement(settings.spool_directory, "relay1")
    keep(rsa_private, "a")
    watch = keyring.Watch(shelf.directory, lambda: 0.0, worker.before_use)
    keep(rsa_private, "a", sdid="example.net")
    assert report.local_report(settings).state_of("example.com", "a") is RelayState.UNKNOWN
    watch.look()
    worker.tend()
    said = report.local_report(settings)
    assert said.loadable == frozenset()
    assert said.state_of("example.com", "a") is RelayState.SIGNING
    assert said.state_of("example.net", "a") is RelayState.SIGNING


def test_a_report_is_of_a_time_after_the_workers_were_heard_and_before_the_queue_was_read(
    settings: Settings, keep: Any, rsa_private: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a worker signed before it was heard has arrived before the report's time."""
    keep(rsa_private, "a")
    order: list[tuple[str, datetime]] = []

    def noting(name: str, function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            before = datetime.now(UTC)
            answer = function(*arguments)
            order.append((name, datetime.now(UTC) if name == "workers" else before))
            return answer

        return call

    monkeypatch.setattr(acknowledgement, "read", noting("workers", acknowledgement.read))
    monkeypatch.setattr(report, "_queue", noting("queue", report._queue))
    said = report.local_report(settings)
    (first, heard), (second, listed) = order
    assert (first, second) == ("workers", "queue")
    assert heard <= said.at <= listed


def test_keys_that_cannot_be_read_are_a_problem(settings: Settings) -> None:
    """Then nothing is known of the relay."""
    said = report.local_report(settings)
    assert "signing.keys" in said.problem
    assert said.state_of("example.com", "a") is RelayState.UNKNOWN


def test_a_queue_that_cannot_be_read_leaves_the_rest_known(
    settings: Settings, keep: Any, rsa_private: Any, tmp_path: Path
) -> None:
    """The drain waits for it; activation does not."""
    keep(rsa_private, "a")
    (tmp_path / "bin" / "postqueue").write_text("#!/bin/sh\necho no >&2; exit 69\n")
    said = report.local_report(settings)
    assert said.queue is None
    assert said.queue_problem.endswith("names its configuration.")
    assert said.problem == ""
    assert said.loadable == {"example.com/a"}


# --- the line of JSON -----------------------------------------------------------------------------

texts = st.text(st.characters(categories=("L", "N", "P", "S")), max_size=40)
keys = st.frozensets(st.from_regex(r"[a-z0-9.]{1,20}/[a-z0-9.]{1,20}", fullmatch=True), max_size=4)
moments = st.datetimes(
    datetime(2000, 1, 1),
    datetime(2100, 1, 1),
    timezones=st.just(UTC),
)
counts = st.integers(0, 2**53)
workers = st.builds(
    Worker, counts, st.booleans(), keys, keys, moments | st.none(), st.tuples() | st.tuples(texts)
)
queues = st.builds(QueueReport, counts.filter(bool), moments, counts, counts) | st.builds(
    QueueReport, st.just(0), st.none(), counts, counts
)


@given(texts, moments, st.lists(workers, max_size=3).map(tuple), keys, queues | st.none(), texts)
def test_a_report_survives_its_way(
    relay: str, at: datetime, working: Any, loadable: Any, queue: Any, why: str
) -> None:
    """One line of ASCII, read back as it was."""
    one = RelayReport(relay, at, working, loadable, queue, why or "unknown")
    line = report.to_json(one)
    assert line.isascii()
    assert line.isprintable()
    assert report.from_json(line) == one


def changed(**changes: Any) -> str:
    return json.dumps({**json.loads(report.to_json(REPORT)), **changes})


def changed_worker(**changes: Any) -> str:
    worker = json.loads(report.to_json(REPORT))["workers"][0]
    return changed(workers=[{**worker, **changes}])


NO_REPORTS = [
    pytest.param("", id="nothing"),
    pytest.param("Welcome to relay2!\n" + report.to_json(REPORT), id="a-greeting-before"),
    pytest.param(report.to_json(REPORT)[:-5], id="cut"),
    pytest.param("[" * 200_000, id="deep"),
    pytest.param(b"\xff\xfe", id="no-text"),
    pytest.param("null", id="null"),
    pytest.param(changed(v=2), id="another-version"),
    pytest.param(changed(extra=1), id="unknown-field"),
    pytest.param(changed(at=12), id="number-for-time"),
    pytest.param(changed(at="2026-11-21T12:00:00"), id="time-without-zone"),
    pytest.param(changed(at="9999-12-31T23:59:59-23:59"), id="after-all-time"),
    pytest.param(changed(workers={}), id="workers-no-list"),
    pytest.param(changed(workers=[0]), id="worker-no-object"),
    pytest.param(changed(workers=[{}] * 5000), id="too-many-workers"),
    pytest.param(changed(loadable=["a"]), id="no-key-name"),
    pytest.param(changed(loadable=["example.com/a/b"]), id="two-slashes"),
    pytest.param(changed(loadable=["x/" * 300]), id="long-key-name"),
    pytest.param(changed(queue=[]), id="queue-no-object"),
    pytest.param(changed(queue=None), id="neither-queue-nor-why"),
    pytest.param(changed(relay=1), id="number-for-name"),
    pytest.param(changed_worker(pid=True), id="truth-for-pid"),
    pytest.param(changed_worker(pid=10**400), id="huge-pid"),
    pytest.param(changed_worker(is_starting="no"), id="text-for-truth"),
    pytest.param(changed_worker(problems=["x"] * 100), id="many-problems"),
    pytest.param(changed().replace('"pid": 42', '"pid": NaN'), id="not-a-number"),
    pytest.param(changed().replace('"count": 3', '"count": 0'), id="oldest-of-none"),
]


@pytest.mark.parametrize("content", NO_REPORTS)
def test_what_is_no_report_is_refused(content: Any) -> None:
    """With a reason; what comes from another host is never half believed."""
    with pytest.raises(ValueError, match=r"\w"):
        report.from_json(content)


def test_a_report_of_a_problem_says_nothing_else() -> None:
    """Whatever else stands in it."""
    said = report.from_json(changed(problem="no\x1b[2J way"))
    assert said == RelayReport("relay2", NOW, problem="no\\x1b[2J way")


# --- the other relays -----------------------------------------------------------------------------


def ask(text: str) -> RelayReport:
    return report.ask("relay2", says(text))


def test_a_fresh_report_under_the_right_name_is_believed() -> None:
    """As it is."""
    said = ask(fresh())
    assert not said.problem
    assert dataclasses.replace(said, at=NOW) == REPORT


def test_an_old_report_is_not_believed() -> None:
    """Or its clock is wrong, and then its queue's times are too."""
    for hours in (-1, 1):
        at = datetime.now(UTC) + timedelta(hours=hours)
        said = ask(report.to_json(dataclasses.replace(REPORT, at=at)))
        assert "clocks" in said.problem
        assert said.state_of("example.com", "a") is RelayState.UNKNOWN


def test_a_report_of_another_relay_is_not_believed() -> None:
    """Two entries that lead to one host would hide the other."""
    assert "record.relay" in ask(fresh(relay="relay3")).problem


FAILURES = [
    pytest.param("exit 255", "status 255", id="fails"),
    pytest.param("echo 'ssh: no route to host' >&2; exit 255", "no route to host", id="says-why"),
    pytest.param("echo hello", "keys hosts --report", id="prints-something-else"),
    pytest.param("exec sleep 60", "no complete answer in 0.5 s", id="hangs"),
    pytest.param("exec yes", "more than it should", id="never-ends"),
    pytest.param("exec yes >&2", "no complete answer", id="complains-for-ever"),
    pytest.param("printf 'bad\\033[2J\\n' >&2; exit 1", r"bad\\x1b", id="plays-with-the-terminal"),
]


@pytest.mark.parametrize(("script", "why"), FAILURES)
def test_a_relay_that_gives_no_report_is_a_problem(script: str, why: str) -> None:
    """One sentence with the relay's name and the setting to look at."""
    said = report.ask("relay2", ["sh", "-c", script], timeout=0.5 if "exec" in script else 20)
    assert said.problem.startswith("relay relay2: ")
    assert "rotation.relays" in said.problem
    assert said.problem.isprintable()
    assert re.search(why, said.problem)


def test_a_command_that_is_not_there() -> None:
    """A mistyped program."""
    assert "not installed" in report.ask("relay2", ["/nonexistent/ssh"]).problem


def test_what_ssh_leaves_in_the_background_is_not_waited_for() -> None:
    """A master connection that persists keeps standard error open."""
    line = shlex.quote(fresh())
    said = report.ask("relay2", ["sh", "-c", f"sleep 30 >/dev/null & echo {line}"], timeout=10)
    assert not said.problem


def test_relays_are_asked_at_once_and_one_failure_is_its_own(
    settings: Settings, keep: Any, rsa_private: Any, tmp_path: Path
) -> None:
    """Two that wait for each other both answer; this relay comes first."""
    keep(rsa_private, "a")
    there, here = tmp_path / "there", tmp_path / "here"
    os.mkfifo(there)
    os.mkfifo(here)
    second, third = (shlex.quote(fresh(relay=name)) for name in ("relay2", "relay3"))
    settings.relay_commands = {
        "relay2": ["sh", "-c", f"echo x >{there}; read -r y <{here}; echo {second}"],
        "relay3": ["sh", "-c", f"read -r y <{there}; echo x >{here}; echo {third}"],
        "relay4": ["false"],
    }
    reports = report.gather(settings)
    assert [one.relay for one in reports] == ["relay1", "relay2", "relay3", "relay4"]
    assert [bool(one.problem) for one in reports] == [False, False, False, True]
