"""Who is told, when, and how often; and what the files say meanwhile."""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.carbonseal import ARCHIVE, Carbonseal
from support.follower import FollowerProcess
from support.ports import LOOPBACK
from support.postfix import private_directory
from support.sink import EXTENSIONS, Sink
from support.waiting import wait_until

from carbonseal.milter import log, socket_address
from carbonseal.milter.copies import alarm, outages, state, watching
from carbonseal.milter.copies.alarm import Bell
from carbonseal.milter.copies.outages import Outages
from carbonseal.milter.copies.watching import Rules, Watching
from carbonseal.milter.follow import postfix_line
from carbonseal.policies.archive_outage import WELL

SPARE = "spare@archive.example.org"
_RESULT = "relay=mx[192.0.2.80]:25, delay=1, delays=0/0/0/1, dsn=4.0.0, status="


class Rung(Bell):
    """Nobody is told; what would have been is kept."""

    def ring(self, about: Any) -> None:
        self.rung.append(about)

    rung: list[Any]


@pytest.fixture(autouse=True)
def _every_look_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_LOOK_SECONDS", "_WRITE_SECONDS", "_LIST_SECONDS"):
        monkeypatch.setattr(watching, name, 0.0)


class Watch:
    """A watch whose clock the test turns."""

    def __init__(self, spool: Path, *, alternates: tuple[str, ...] = (SPARE,)) -> None:
        self.now = 1_795_000_000.0
        self.spool = spool
        self.alternates = alternates
        self.bell = Rung()
        self.bell.rung = []
        self.count = 0
        self.watching = self.begin()

    def begin(self) -> Watching:
        rules = Rules((ARCHIVE,), self.alternates, limit=3, retry=300.0)
        return Watching(self.spool, "mx1", rules, self.bell, clock=lambda: self.now)

    def tell(self, *statuses: str, to: str = ARCHIVE) -> None:
        for status in statuses:
            self.now += 1
            self.count += 1
            text = f"4C{self.count:05}: to=<{to}>, {_RESULT}{status} (no)"
            at = log.record.timestamp(self.now)
            self.watching.take(postfix_line.read(at, "smtp", text))
            self.watching.tend(is_behind=False)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.watching.tend(is_behind=False)

    @property
    def events(self) -> list[str]:
        return [one["event"].removeprefix("archive-copy-") for one in self.bell.rung]


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    return Watch(tmp_path)


def test_one_alarm_for_an_incident_and_one_notice(watch: Watch) -> None:
    """Not one for each copy, nor for each time that one gets through in between."""
    watch.tell("sent", "bounced")
    assert watch.events == ["failing"]
    watch.tell("deferred", "sent", "bounced", "sent", *["bounced"] * 5)
    assert watch.events == ["failing"]
    watch.tell("sent")
    watch.wait(298)
    assert watch.events == ["failing"]
    watch.wait(2)
    assert watch.events == ["failing", "recovered"]
    watch.tell("bounced")
    assert watch.events == ["failing", "recovered", "failing"]
    first, notice, _ = watch.bell.rung
    assert (first["failures"], first["lost"], first["queue_ids"]) == (1, 1, ["4C00002"])
    assert (notice["mailbox"], notice["lost"]) == (ARCHIVE, 7)


def test_a_long_incident_is_told_again(watch: Watch) -> None:
    """Every `repeat`, as long as copies fail."""
    watch.tell("deferred")
    for _ in range(2):
        watch.wait(3599)
        watch.tell("deferred")
    assert watch.events == ["failing", "still-failing", "still-failing"]


def test_a_follower_that_is_started_again_tells_nobody_twice(watch: Watch) -> None:
    """And whoever got the copies still gets them."""
    watch.tell(*["bounced"] * 3, "deferred")
    before = watch.watching.book
    watch.watching = watch.begin()
    watch.wait(1)
    assert watch.events == ["failing"]
    assert watch.watching.book.standings == before.standings
    assert watch.watching.book.waiting == before.waiting
    assert watch.watching.book.lost == before.lost
    watch.tell("sent")
    watch.wait(301)
    assert watch.events == ["failing", "recovered"]


def test_while_a_log_is_caught_up_with_nobody_is_told_of_its_middle(watch: Watch) -> None:
    """What is over when the end is reached is told as over."""
    watch.watching._looked_at = time.monotonic()
    for number, status in enumerate(("bounced", "sent")):
        text = f"4CAAAA{number}: to=<{ARCHIVE}>, {_RESULT}{status} (no)"
        watch.watching.take(postfix_line.read(log.record.timestamp(watch.now), "smtp", text))
        watch.watching.tend(is_behind=True)
    assert watch.events == []
    watch.wait(301)
    assert watch.events == ["failing"]
    watch.wait(1)
    assert watch.events == ["failing", "recovered"]


_FAILING = b'{"at":1,"recipients":{"%s":{"state":"failing","failures":1,"since":%%b}}}' % (
    ARCHIVE.encode()
)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"[]", id="no-object"),
        pytest.param(b"{}", id="no-time"),
        pytest.param(b'{"at":1,"recipients":[1]}', id="no-mailboxes"),
        pytest.param(b"\xff", id="no-text"),
        pytest.param(_FAILING % (b"9" * 400), id="a-whole-number-that-no-float-holds"),
        pytest.param(_FAILING % b"1e999", id="an-infinite-number"),
        pytest.param(_FAILING % b"NaN", id="no-number"),
    ],
)
def test_damaged_files_are_as_good_as_none(content: bytes, tmp_path: Path) -> None:
    """The follower begins anew, the workers send every copy where it belongs."""
    for name in (state.NAME, state.LISTS):
        path = state.path(tmp_path, name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    watch = Watch(tmp_path)
    watch.tell("sent")
    known = Outages(tmp_path, retry=300)
    known.look()
    assert known.outlook(watch.now) == WELL


def test_a_state_that_cannot_be_written_is_said_once(
    watch: Watch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the log is followed all the same."""
    (watch.spool / "state").write_text("no directory")
    for _ in range(2):
        watch.tell("bounced")
        watch.watching.save()
    said = capsys.readouterr()  # where the log goes hangs on who configured it
    assert (said.out + said.err).count("copies-state-unwritten") == 1
    assert watch.events == ["failing"]


def test_the_files_are_closed_to_others(watch: Watch) -> None:
    """They name mailboxes and messages."""
    watch.tell("bounced")
    for name in (state.NAME, state.LISTS):
        assert stat.S_IMODE(state.path(watch.spool, name).stat().st_mode) == 0o640


# --- what a worker knows --------------------------------------------------------------------------


def test_a_worker_sees_who_fails_without_asking_the_disk(watch: Watch) -> None:
    """One look a second, by somebody else; what it knows is in memory."""
    known = Outages(watch.spool, retry=300.0)
    known.look()
    assert known.outlook(watch.now) is WELL
    watch.tell(*["bounced"] * 3)
    assert known.outlook(watch.now) is WELL
    known.look()
    assert known.outlook(watch.now).diverted == {ARCHIVE}
    state.path(watch.spool).unlink()
    assert known.outlook(watch.now).diverted == {ARCHIVE}
    known.look()
    assert known.outlook(watch.now) is WELL


def test_a_worker_sends_one_copy_now_and_then(watch: Watch) -> None:
    """To the mailbox that fails, to see whether it is well again."""
    watch.tell(*["bounced"] * 3)
    known = Outages(watch.spool, retry=300.0)
    known.look()
    assert not known.outlook(watch.now + 200).tried
    assert known.outlook(watch.now + 290).tried == frozenset()
    assert known.outlook(watch.now + 299.5).diverted == {ARCHIVE}
    later = watch.now + 299.9
    state.write(watch.spool, state.NAME, {**state.read(watch.spool), "at": later})
    known.look()
    assert known.outlook(later + 1).tried == {ARCHIVE}
    known.sent((ARCHIVE, SPARE), later + 1)
    assert not known.outlook(later + 2).tried


def test_when_nobody_follows_the_log_both_get_copies(watch: Watch) -> None:
    """The mailbox, because it may be well by now; the alternate, because it may be not."""
    watch.tell(*["bounced"] * 3)
    known = Outages(watch.spool, retry=10_000.0)
    known.look()
    assert not known.outlook(watch.now + outages.STALE - 1).tried
    stale = known.outlook(watch.now + outages.STALE + 1)
    assert stale.diverted == stale.tried == {ARCHIVE}
    assert known.outlook(watch.now - outages.STALE - 1).tried == {ARCHIVE}


# --- who is told ----------------------------------------------------------------------------------


ABOUT = {
    "event": "archive-copy-failing",
    "v": 1,
    "at": 1_795_000_000.0,
    "relay": "mx1.example.com",
    "mailbox": ARCHIVE,
    "since": 1_795_000_000.0,
    "failures": 1,
    "lost": 1,
    "waiting": 0,
    "is_alternate_in_use": False,
    "next_hop": "mx.example.net[192.0.2.80]:25",
    "reply": "550 no\r\nBcc: x@example.org \x1b[31m ü \udcff $(reboot)",
    "queue_ids": ["4CAAAA1"],
}


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A directory that every user may enter."""
    with private_directory() as directory:
        yield directory


def test_the_command_gets_facts_on_its_input_and_nothing_else(
    tmp_path: Path, open_to_all: Path
) -> None:
    """No argument or variable that a stranger could have written; no file of ours."""
    path = open_to_all / "said"
    path.touch(mode=0o666)
    path.chmod(0o666)
    script = (
        "import json,os,sys;"
        "open(sys.argv[1],'w').write(json.dumps([sys.argv, dict(os.environ), os.getcwd(),"
        " os.geteuid(), sorted(os.listdir('/proc/self/fd')), json.load(sys.stdin)]))"
    )
    with open(tmp_path / "open", "w") as kept:
        os.set_inheritable(kept.fileno(), True)
        assert alarm.run([sys.executable, "-c", script, str(path)], ABOUT) == ""
    argv, environment, directory, user, files, told = json.loads(path.read_text())
    assert argv == ["-c", str(path)]
    assert environment.keys() <= {"PATH", "LC_ALL"}
    assert (directory, told) == ("/", ABOUT)
    assert user != 0
    assert len(files) <= 5  # input, output, errors, its own file, and the listing


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        pytest.param(["/nowhere/at/all"], "No such file", id="no-such-command"),
        pytest.param(["/bin/sh", "-c", "echo bad >&2; exit 3"], "exit status 3 bad", id="fails"),
        pytest.param(["/bin/sh", "-c", "sleep 60 & sleep 60"], "killed", id="hangs"),
        pytest.param(["/bin/sh", "-c", "exec <&-; exit 0"], "", id="reads-nothing"),
    ],
)
def test_a_command_that_fails_is_said(command: list[str], problem: str) -> None:
    """One that hangs is killed, with its children; nothing is raised."""
    said = alarm.run(command, ABOUT, seconds=0.5)
    assert problem in said
    assert bool(said) is bool(problem)


@pytest.mark.parametrize("status", [0, 3])
def test_of_what_a_command_says_little_is_kept(status: int) -> None:
    """All of it is read, so that the command gets to its end; 64 MiB of it are held by nobody."""
    script = "import sys; [sys.stderr.write('x' * 2**20) for _ in range(64)]; "
    script += f"sys.exit({status})"
    tracemalloc.start()
    said = alarm.run([sys.executable, "-c", script], ABOUT | {"more": "y" * 200_000})
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert said.endswith(f"exit status {status} {'x' * 400}" if status else "")
    assert bool(said) is bool(status)
    assert most < 2 * 2**20


def test_a_command_that_complains_without_end_is_killed() -> None:
    """Like one that hangs."""
    assert "killed" in alarm.run(["/bin/sh", "-c", "exec yes >&2"], ABOUT, seconds=0.5)


@pytest.mark.parametrize("extensions", [EXTENSIONS, ()], ids=["dsn", "no-dsn"])
def test_the_mail_can_cause_no_other(extensions: tuple[str, ...]) -> None:
    """Null reverse-path, a header that says so, and no octet of a stranger's that is no ASCII."""
    with Sink(extensions=extensions) as sink:
        where = socket_address.parse(f"inet:{sink.port}@{LOOPBACK}")
        alarm.send(ABOUT, "postmaster@example.com", where)
        [mail] = sink.wait_for(1)
    assert (mail.reverse_path, mail.addresses) == ("", ("postmaster@example.com",))
    assert mail.recipients[0].parameters == (("NOTIFY=NEVER",) if extensions else ())
    assert b"Auto-Submitted: auto-generated\r\n" in mail.header_section
    assert b"Bcc:" not in mail.header_section
    assert b"reply: 550 no??Bcc: x@example.org ?[31m ? ? $(reboot)\r\n" in mail.body
    assert mail.content.isascii()


def test_an_alarm_nobody_takes_stops_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """It is logged; the next one is tried anew."""
    with socket.create_server((LOOPBACK, 0)) as server:
        port = server.getsockname()[1]
    where = socket_address.parse(f"inet:{port}@{LOOPBACK}")
    log.configure(form="text", level="info")
    bell = Bell(command=["/nowhere"], mail="postmaster@example.com", smtp=where)
    bell.ring(ABOUT)
    bell.settle(10)
    said = capfd.readouterr().err
    assert "alarm-command-failed" in said
    assert "alarm-mail-failed" in said


# --- the whole follower ---------------------------------------------------------------------------


@pytest.fixture
def service(tmp_path: Path) -> Carbonseal:
    made = Carbonseal(
        tmp_path / "seal",
        {
            "follow": {"log": "mail.log"},
            "record": {"relay": "mx1.example.com"},
            "archive": {"recipients": [ARCHIVE], "alternate": [SPARE], "retry": "1s"},
        },
    )
    made.spool.mkdir()
    (made.directory / "mail.log").touch()
    return made


def logged(service: Carbonseal, status: str, number: int) -> None:
    now = log.record.timestamp(time.time())
    text = f"4C{number:05}: to=<{ARCHIVE}>, {_RESULT}{status} (no)"
    with (service.directory / "mail.log").open("a") as stream:
        stream.write(f"{now[:-1]}+00:00 mx1 postfix/smtp[1]: {text}\n")


def test_a_follower_that_is_killed_again_and_again_loses_no_copy(service: Carbonseal) -> None:
    """Each line is in the list of lost copies once, and there was one alarm."""
    stop = threading.Event()

    def write() -> None:
        for number in range(60):
            logged(service, "bounced", number)
            stop.wait(0.05)

    writer = threading.Thread(target=write)
    with FollowerProcess(service) as follower:
        writer.start()
        for _ in range(2):
            wait_until(lambda: state.path(service.spool).exists(), "a first look")
            follower.kill()
            follower.start()
        writer.join()
        for name in (state.NAME, state.LISTS):  # which are written one after the other
            wait_until(
                lambda name=name: state.read(service.spool, name).get("lost_in_all") == 60,
                "the last copy",
            )
        assert len(state.read(service.spool, state.LISTS)["lost"]) == 60
        assert follower.log().count("archive-alternate-takes-over") >= 1
        logged(service, "sent", 99)
        wait_until(lambda: "archive-copies-arrive" in follower.log(), "the notice")
    # Killed between the alarm and the note that it was raised, it may raise it once more.
    assert 1 <= follower.log().count("archive-copy-failing") <= 2
    done = service.command("archive", "copies", "--here", "--format", "jsonl", check=False)
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 60
