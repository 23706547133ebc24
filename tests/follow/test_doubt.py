"""A log that is not the one that is meant: somebody is told, and nobody without reason."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support.waiting import wait_until

from carbonseal.milter import cli, config
from carbonseal.milter.follow import follow_command, follower
from carbonseal.milter.follow.doubt import LEAST_LINES, LOST_FOR, Doubt
from carbonseal.milter.follow.log_file import LogFile
from carbonseal.milter.follow.log_line import Framing, Services

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def line(at: datetime, number: int, program: str = "postfix/smtp") -> str:
    said = f"4jWzgV1kV9z{number:04d}: to=<r@out.example>, relay=mx[192.0.2.1]:25, delay=1, "
    return f"{at.isoformat()} mx1 {program}[7]: {said}delays=0/0/0/1, dsn=2.0.0, status=sent (Ok)\n"


@pytest.fixture
def relay(tmp_path: Path) -> Path:
    """A configuration that follows mail.log beside it."""
    (tmp_path / "spool").mkdir()
    (tmp_path / "mail.log").touch()
    file = tmp_path / "carbonseal.yaml"
    file.write_text(
        "ours: {domains: [example.com]}\nrecord: {spool: spool, relay: mx1.example.com}\n"
        "follow: {log: mail.log}\n"
    )
    return file


def once(file: Path, *options: str) -> Any:
    return CliRunner().invoke(cli.carbonseal, ["--config", str(file), "follow", "--once", *options])


@pytest.mark.parametrize(
    ("lines", "entries", "facts", "is_doubted"),
    [
        pytest.param(LEAST_LINES, 0, 0, True, id="nothing-of-postfix"),
        pytest.param(LEAST_LINES - 1, 0, 0, False, id="too-early-to-say"),
        pytest.param(10 * LEAST_LINES, 1, 0, False, id="one-line-of-postfix"),
        pytest.param(10**6, 0, 1, False, id="a-quiet-night-in-a-log-of-everybody"),
    ],
)
def test_a_log_without_postfix(lines: int, entries: int, facts: int, is_doubted: bool) -> None:
    """After enough lines, and never where the log once told of a message."""
    doubt = Doubt()
    doubt.take(lines, entries)
    assert bool(doubt.sentence(facts)) is is_doubted


@pytest.mark.parametrize(
    ("ahead", "word"),
    [
        pytest.param(timedelta(hours=9), "9.0 h ahead of", id="tokyo"),
        pytest.param(timedelta(hours=-1), "1.0 h behind", id="london-in-summer"),
        pytest.param(timedelta(minutes=-30), "0.5 h behind", id="half-an-hour"),
        pytest.param(timedelta(seconds=-300), None, id="a-syslog-server-that-is-late"),
        pytest.param(timedelta(0), None, id="as-it-should-be"),
    ],
)
def test_a_log_in_another_time_zone(ahead: timedelta, word: str | None) -> None:
    """Its newest line tells, and the next one that is right takes it back."""
    doubt = Doubt()
    doubt.take(1, 1)
    doubt.is_fresh((NOW + ahead).isoformat(), NOW.timestamp())
    said = doubt.sentence(1)
    assert (said is None) if word is None else (word in str(said))
    doubt.is_fresh(NOW.isoformat(), NOW.timestamp())
    assert doubt.sentence(1) is None


def test_a_log_that_was_deleted_is_missed_after_a_while(tmp_path: Path) -> None:
    """Not at once: between the two steps of a rotation there is none."""
    path = tmp_path / "mail.log"
    path.touch()
    log, doubt = LogFile(path, Framing(Services("postfix"))), Doubt()
    said = []
    for now, is_there in ((0, True), (5, False), (5 + LOST_FOR, False), (70, True), (80, False)):
        if is_there is not path.exists():
            path.touch() if is_there else path.unlink()
        doubt.name(log.lost_name(), now)
        said.append(doubt.sentence(1))
    log.close()
    assert [one is not None for one in said] == [False, False, True, False, False]
    assert str(path) in str(said[2])


@pytest.mark.parametrize("program", ["postfix-out/smtp", "postfix/smtp"])
def test_one_reading_of_a_log_says_that_nothing_in_it_is_postfix(relay: Path, program: str) -> None:
    """As after a syslog_name that the configuration does not know."""
    relay.write_text(relay.read_text().replace("log: mail.log", "log: mail.log, syslog_name: mx"))
    (relay.parent / "mail.log").write_text(line(NOW, 1, program))
    done = once(relay)
    assert done.exit_code == 0
    assert "none of 1 line of the log is Postfix's" in done.stderr
    (relay.parent / "mail.log").write_text(line(NOW, 2, "mx/smtp"))
    assert "none of" not in once(relay, "--log", str(relay.parent / "mail.log")).stderr


def test_the_state_says_it_while_the_log_is_followed(relay: Path) -> None:
    """For `carbonseal status`; an old line that waited for us is no sign, a fresh one is."""
    log = relay.parent / "mail.log"
    yesterday = datetime.now(UTC) - timedelta(days=1)
    log.write_text(line(yesterday, 1))
    stop = threading.Event()
    made = follow_command.make(config.load(relay), once=False)
    thread = threading.Thread(target=made.run, args=(stop,))
    thread.start()
    try:
        wait_until(lambda: made.counts.lines == 1 and made._was_idle, "the end of the log")
        assert made._doubt.sentence(1) is None
        with log.open("a") as stream:
            stream.write(line(datetime.now(UTC) + timedelta(hours=9), 2))
        wait_until(lambda: "9.0 h ahead" in str(made._state()["problem"]), "the doubt")
        with log.open("a") as stream:
            stream.write(line(datetime.now(UTC), 3))
        wait_until(lambda: made._state()["problem"] is None, "its end")
    finally:
        stop.set()
        thread.join()
    assert isinstance(made, follower.Follower)
