"""The follower: every fact once in the spool, whatever happens to it, the log and the spool."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import killed
from support.waiting import wait_until

from carbonseal.milter import config
from carbonseal.milter.archive import segments, spool
from carbonseal.milter.follow import follow_command, follower, gathering, log_file, position
from carbonseal.policies.errors import TryLater

_RELAY = "mx1.example.com"


def _line(number: int, said: str, service: str = "smtp") -> str:
    return f"2026-11-21T17:16:47.{number:06d}+01:00 mx1 postfix/{service}[7]: {said}\n"


def _delivery(number: int) -> str:
    queue_id = f"4jWzgV1kV9z{number % 7:04d}"
    return _line(
        number,
        f"{queue_id}: to=<r{number}@out.example>, relay=mx[192.0.2.1]:25, delay=1, delays=0/0/0/1, "
        "dsn=2.0.0, status=sent (250 Ok)",
    )


def _other(number: int) -> str:
    return _line(number, "connect from a.example[192.0.2.1]", "smtpd")


def _lines(count: int, start: int = 0) -> str:
    """Deliveries, and between them what says nothing."""
    return "".join((_delivery if n % 3 else _other)(n) for n in range(start, start + count))


def _expected(count: int) -> set[str]:
    return {f"r{number}@out.example" for number in range(count) if number % 3}


class Place:
    """A log, a spool, and a configuration that names both."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.spool = directory / "spool"
        self.spool.mkdir(parents=True)
        self.log = directory / "mail.log"
        self.log.touch()
        self.file = directory / "carbonseal.yaml"
        self.write_configuration()

    def write_configuration(self, **record: Any) -> None:
        """With further keys of `record`."""
        content = {
            "ours": {"domains": ["example.com"]},
            "record": {"spool": str(self.spool), "relay": _RELAY, **record},
            "follow": {"log": "mail.log"},
        }
        self.file.write_text(json.dumps(content))

    def append(self, text: str) -> None:
        """As syslogd does."""
        with open(self.log, "a") as stream:
            stream.write(text)

    def rotate(self) -> None:
        """Rename and create."""
        for number in range(30, 0, -1):
            old = self.log.with_name(f"mail.log.{number}")
            if old.exists():
                old.rename(self.log.with_name(f"mail.log.{number + 1}"))
        self.log.rename(self.log.with_name("mail.log.1"))
        self.log.touch()

    def follow(self) -> follower.Follower:
        """Read what is there, once."""
        with follower.alone(self.spool):
            made = follow_command.make(config.load(self.file), once=True)
            made.run(threading.Event())
        return made

    def events(self) -> list[dict[str, Any]]:
        """All event lines in the spool, in order."""
        every = [*segments.loaded(self.spool), *segments.pending(self.spool)]
        return [
            entry.content
            for segment in sorted(every, key=lambda one: one.name)
            for entry in segments.read(segment, 0)
            if entry.fault is None and not entry.is_footer
        ]

    def told(self) -> Counter[str]:
        """How often each delivery stands in the spool, by its recipient."""
        return Counter(fact["to"] for event in self.events() for fact in event["facts"])


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """An empty log."""
    return Place(tmp_path)


def test_facts_of_one_message_share_an_event_line(place: Place) -> None:
    """The line names relay, queue id and where to go on; it is a line of the spool like others."""
    place.append(_lines(30))
    place.follow()
    events = place.events()
    assert len(events) == 7
    assert {event["relay"] for event in events} == {_RELAY}
    assert all(event["event"] == "delivery" and event["v"] == 1 for event in events)
    assert events[-1]["source"]["offset"] == place.log.stat().st_size
    offsets = [event["source"]["offset"] for event in events]
    assert offsets == sorted(offsets)
    assert set(place.told()) == _expected(30)


def test_it_goes_on_where_it_stopped(place: Place) -> None:
    """Neither a second run nor new lines bring a fact again, with rotation between."""
    for start in range(0, 60, 10):
        place.append(_lines(10, start))
        place.follow()
        place.follow()
        if start % 20:
            place.rotate()
    assert place.told() == Counter(_expected(60))


def test_a_log_that_is_read_twice_says_the_same(place: Place) -> None:
    """Facts depend on their lines only: whoever has them by their hash has them once."""
    place.append(_lines(40))
    place.follow()
    first = [(one["queue_id"], one["facts"]) for one in place.events()]
    for path in place.spool.rglob("*.json*"):
        path.unlink()
    place.follow()
    assert [(one["queue_id"], one["facts"]) for one in place.events()] == first


@pytest.mark.parametrize("lost", ["state", "segments"])
def test_each_of_the_two_places_of_the_position_is_enough(place: Place, lost: str) -> None:
    """The event lines tell where to go on without the file, and the file without them."""
    place.append(_lines(20))
    place.follow()
    if lost == "state":
        (place.spool / "state/follow.json").unlink()
        for segment in segments.pending(place.spool):
            segments.finish(segment)
    else:
        before = place.told()
        for path in place.spool.glob("*.jsonl"):
            path.unlink()
    place.append(_lines(10, 20))
    place.follow()
    told = place.told() if lost == "state" else before + place.told()
    assert told == Counter(_expected(30))


def test_the_further_position_counts(place: Place) -> None:
    """A file of the position that is older than the event lines does not take us back."""
    place.append(_lines(20))
    place.follow()
    state = place.spool / "state/follow.json"
    older = state.read_bytes()
    place.append(_lines(10, 20))
    place.follow()
    state.write_bytes(older)
    place.follow()
    assert place.told() == Counter(_expected(30))


def test_a_position_is_in_the_file_that_was_read(place: Place) -> None:
    """Across a rotation, each event line leads to the file its facts come from."""
    place.append(_lines(3))
    place.follow()
    place.append(_lines(10, 3))
    place.rotate()
    place.append(_lines(10, 13))
    place.follow()
    by_inode = {path.stat().st_ino: path for path in (place.log, place.log.with_name("mail.log.1"))}
    for event in place.events():
        path = by_inode[event["source"]["inode"]]
        assert event["source"]["offset"] <= path.stat().st_size
        assert all(fact["to"] in path.read_text() for fact in event["facts"])


def test_killed_at_any_call_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 before, in or after every call that leaves a trace, and a rotation while it is dead.

    Facts may stand there twice only where a flush was torn.
    """
    monkeypatch.setattr(gathering, "_FACTS", 8)
    monkeypatch.setattr(log_file, "CHUNK", 700)
    sample = Place(tmp_path / "sample")
    sample.append(_lines(24))
    count = len(killed.calls_of(sample.follow, tmp_path))
    assert count > 20
    for moment in killed.Moment:
        step = 1 if os.environ.get("CRASH") == "all" else 2
        for number in range(1 + moment.value.count("e") % step, count + 1, step):
            place = Place(tmp_path / f"{moment}-{number}")
            place.append(_lines(24))
            killed.killed_at(number, moment, place.follow, tmp_path / "fault")
            if position.newest(place.spool) is not None:  # else it has never been there
                place.rotate()
            place.append(_lines(6, 24))
            place.follow()
            told = place.told()
            assert set(told) == _expected(30), (moment, number)
            assert max(told.values()) <= 2, (moment, number)


@pytest.fixture
def process(place: Place) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Followers that are running; ended in any case."""
    running: list[subprocess.Popen[bytes]] = []
    yield running
    for one in running:
        one.kill()
        one.wait()


def _start(place: Place) -> subprocess.Popen[bytes]:
    program = Path(sys.executable).with_name("carbonseal")
    return subprocess.Popen([program, "--config", place.file, "follow"], stderr=subprocess.PIPE)


def _await(place: Place, wanted: set[str]) -> None:
    wait_until(
        lambda: set(place.told()) == wanted,
        f"facts about {len(wanted)} deliveries",
        told=lambda: f"missing: {sorted(wanted - set(place.told()))[:5]}",
    )


def _await_state(place: Place) -> None:
    """Until it has begun with this log, and not with what rotation makes of it."""
    wait_until(lambda: position.newest(place.spool) is not None, "its first position", 60)


@pytest.mark.chaos
def test_killed_under_load_with_rotation(
    place: Place, process: list[subprocess.Popen[bytes]]
) -> None:
    """A log that grows and is rotated, a follower that is killed at random: each fact is there."""
    dice = random.Random(6)
    written = 0
    process.append(_start(place))
    _await_state(place)
    for turn in range(60):
        place.append(_lines(50, written))
        written += 50
        if dice.random() < 0.15:
            place.rotate()
        if turn % 12 == 6:
            _await(place, _expected(written))  # it is at work when it is killed
            place.append(_lines(50, written))
            written += 50
            process[-1].kill()
            process[-1].wait()
            process.append(_start(place))
        time.sleep(0.01)
    _await(place, _expected(written))
    process[-1].terminate()
    assert process[-1].wait(20) == 0
    assert max(place.told().values()) <= 2
    assert all(one.is_closed for one in segments.pending(place.spool))


def test_a_living_follower_keeps_its_segment(
    place: Place, process: list[subprocess.Popen[bytes]]
) -> None:
    """The supervisor's recovery leaves it alone, and a second follower is told to go away."""
    place.append(_lines(10))
    process.append(_start(place))
    _await(place, _expected(10))
    assert segments.recover(place.spool) == []
    with pytest.raises(follower.FollowerRuns, match="stop it first"):
        place.follow()
    process[-1].send_signal(signal.SIGKILL)
    process[-1].wait()
    assert len(segments.recover(place.spool)) == 1
    place.append(_lines(5, 10))
    place.follow()
    assert place.told() == Counter(_expected(15))


def test_what_cannot_be_read_is_counted(place: Place) -> None:
    """The first example is kept, for whoever mends it; the rest of the log is read."""
    place.append(_line(1, "4jWzgV1kV9zcbwh: to=<a@b.example>, relay=cut\udc80"[:-1]))
    place.append(_line(2, "4jWzgV1kV9zcbwh: to=<" + "x" * 20_000))
    place.append(_lines(3, 3))
    made = place.follow()
    state = position.read(place.spool)
    assert made.counts.unread == state["unread"] == 2
    assert state["unread_example"].startswith("smtp: 4jWzgV1kV9zcbwh: to=<a@b.example>, relay=cut")
    assert (state["lines"], state["facts"], state["lag"]) == (5, 2, 0.0)
    assert state["last_queue_id"] == place.events()[-1]["queue_id"]


def test_text_that_is_no_utf8_comes_back_as_it_was(place: Place) -> None:
    """Octets of a log line are kept as records keep theirs."""
    with open(place.log, "ab") as stream:
        stream.write(_line(1, "4jWzgV1kV9zcbwh: message-id=<", "cleanup").rstrip().encode())
        stream.write(b"\xff\xc3\xa4@x>\n")
    place.follow()
    [event] = place.events()
    assert event["facts"][0]["message_id"].encode("utf-8", "surrogateescape") == b"<\xff\xc3\xa4@x>"


def test_it_leaves_the_spool_to_the_mail(place: Place) -> None:
    """Half full of what waits for the database, it waits: the log keeps its lines."""
    place.write_configuration(spool_limit=1000)
    (place.spool / "01ARZ3NDEKTSV4RRFFQ69G5FAV-1.jsonl").write_bytes(b"x" * 600)
    place.append(_lines(3))
    with pytest.raises(spool.SpoolUnwritable, match="half full"):
        place.follow()
    place.write_configuration()
    place.follow()
    assert set(place.told()) == _expected(3)


def test_a_state_that_cannot_be_written_is_said_once(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the log is followed all the same."""
    (place.spool / "state").write_text("no directory")
    place.append(_lines(3))
    place.follow()
    assert set(place.told()) == _expected(3)
    said = capsys.readouterr()
    assert (said.out + said.err).count("follow-state-unwritten") == 1


def test_a_log_that_goes_away_is_waited_for(
    place: Place, process: list[subprocess.Popen[bytes]]
) -> None:
    """A running follower outlives a log that is replaced by something unreadable for a while."""
    place.append(_lines(3))
    process.append(_start(place))
    _await(place, _expected(3))
    hidden = place.log.rename(place.directory / "hidden")
    place.log.mkdir()
    stream = process[-1].stderr
    assert stream is not None
    while b"follow-waits" not in (said := stream.readline()):
        assert said
    assert b"Is a directory" in said
    place.log.rmdir()
    hidden.rename(place.log)
    place.append(_lines(3, 3))
    _await(place, _expected(6))


def test_an_unreadable_log_ends_it_at_once(place: Place) -> None:
    """At the start nobody waits in silence: one sentence and exit status 75."""
    place.log.unlink()
    program = Path(sys.executable).with_name("carbonseal")
    done = subprocess.run(
        [program, "--config", place.file, "follow"], capture_output=True, check=False
    )
    assert done.returncode == TryLater.exit_code
    assert b"the log cannot be read (No such file or directory); see where Postfix" in done.stderr


def test_a_relay_without_a_name_says_what_to_set(place: Place, tmp_path: Path) -> None:
    """Event lines carry the name that records carry; without one there is nothing to write."""
    content = json.loads(place.file.read_text())
    del content["record"]["relay"]
    place.file.write_text(json.dumps({**content, "rotation": {"postfix": str(tmp_path / "none")}}))
    with pytest.raises(TryLater, match=r"set record\.relay"):
        place.follow()


def test_an_older_log_is_read_beside(place: Place) -> None:
    """`--log` neither moves the position nor needs the running follower to stop."""
    place.append(_lines(3, 30))
    place.follow()
    before = position.newest(place.spool)
    older = place.directory / "old.log"
    older.write_text(_lines(30))
    program = Path(sys.executable).with_name("carbonseal")
    with follower.alone(place.spool):
        done = subprocess.run(
            [program, "--config", place.file, "follow", "--once", "--log", older],
            capture_output=True,
            check=True,
        )
    assert done.stdout == b"30 lines read: 20 facts, 0 not readable\n"
    assert set(place.told()) == _expected(33)
    assert position.newest(place.spool) == before
