"""What is seen of a relay at one moment, and how it is shown."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import ports
from support.carbonseal import READY, Carbonseal
from support.counting import count
from support.milter_client import Answer, Conversation, Envelope
from support.waiting import wait_until

from carbonseal.milter import config
from carbonseal.milter.status import lookout, state_files, times
from carbonseal.milter.status import page as pages
from carbonseal.milter.status.board import Board
from carbonseal.milter.status.counters import BOUNDS, Facts, Histogram, add_up, nowhere
from carbonseal.milter.status.page import Looker
from carbonseal.policies import readiness

FIELDS: list[tuple[str | bytes, bytes]] = [("From", b" alice@example.com")]


@pytest.mark.parametrize("kind", ["missing", "file", "closed"])
def test_a_spool_that_cannot_be_written_is_said(kind: str, tmp_path: Path) -> None:
    """Whatever the reason; and the probe leaves nothing."""
    spool = tmp_path / "spool"
    if kind == "file":
        spool.write_text("no directory")
    if kind == "closed":
        spool = Path("/proc")  # closed to root as well
    assert pages.probe(spool).startswith(f"{spool}: nothing can be written there (")
    assert pages.probe(tmp_path) == ""
    assert [path.name for path in tmp_path.iterdir()] == ([spool.name] if kind == "file" else [])


def test_a_probe_that_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    """Only what is old and has the name of a probe; another may be at work now."""
    made = Carbonseal(tmp_path / "seal")
    made.spool.mkdir()
    kept = {".status-probe-00000001", ".status-probe-old", "status-probe-00000002"}
    for name in kept | {".status-probe-00000003"}:
        (made.spool / name).touch()
        if name != ".status-probe-00000001":
            os.utime(made.spool / name, (1, 1))
    (made.spool / ".status-probe-00000004").symlink_to("status-probe-00000002")
    Looker(config.load(made.file), Board(1))
    assert {path.name for path in made.spool.iterdir()} == kept | {".status-probe-00000004"}


@pytest.mark.parametrize("trouble", ["no-spool", "no-keys", "state-is-a-file", "nonsense"])
def test_a_look_never_raises(trouble: str, tmp_path: Path) -> None:
    """What cannot be seen stands on the page as a sentence, and the relay is not ready."""
    made = Carbonseal(
        tmp_path / "seal", {"signing": {"rules": [{"author": "*", "sdid": "a.example"}]}}
    )
    (made.directory / "keys").mkdir()
    made.spool.mkdir()
    match trouble:
        case "no-spool":
            made.spool.rmdir()
        case "no-keys":
            (made.directory / "keys").rmdir()
        case "state-is-a-file":
            (made.spool / "state").write_text("")
        case "nonsense":
            for name in ("writer", "follow", "copies", "completeness"):
                state_files.write(made.spool, name, {key: [1] for key in NONSENSE})
    page = Looker(config.load(made.file), Board(1)).look()
    found = page.checks(0.0)
    assert not readiness.is_ready(found)
    assert {"workers"} <= {one.name for one in found if not one.is_ok}
    json.dumps(page.as_json())


NONSENSE = ("trouble", "progress", "evidence_problem", "problem", "lag", "recipients", "loaded")


def test_rates_are_those_of_the_time_between_two_looks(tmp_path: Path) -> None:
    """Not of what was counted before the first."""
    made = Carbonseal(tmp_path / "seal")
    (made.directory / "keys").mkdir()
    made.spool.mkdir()
    board = Board(1)
    board.settle(0, 1)
    tally = board.tally(0)

    def seal(disposition: str, seconds: float) -> None:
        facts = Facts("outbound", disposition, "example.com", sdids=("example.com",))
        count(tally, facts, octets=10, times=(0.0, 0.0, 0.0, seconds))

    looker = Looker(config.load(made.file), board)
    for disposition in ("accept", "accept", "tempfail"):
        seal(disposition, 0.010)
    assert looker.look().rates.messages == 0
    for _ in range(10):
        seal("tempfail", 0.020)
    rates = looker.look().rates
    assert rates.messages == rates.refused == rates.signed > 0
    assert rates.octets == pytest.approx(10 * rates.messages, rel=0.01)
    assert rates.phases["whole"].mean == pytest.approx(0.020)


@given(st.lists(st.floats(0, 16), min_size=1, max_size=300), st.sampled_from([0.5, 0.99]))
def test_a_quantile_is_right_to_its_bucket(values: list[float], share: float) -> None:
    """The true one lies in the same bucket."""
    tally = nowhere()
    for value in values:
        count(tally, Facts(), times=(0.0, 0.0, 0.0, value))
    found = times.between(Histogram(), add_up([tally.memory]).phases["whole"])
    assert found is not None
    wanted = sorted(values)[max(0, -(-len(values) * int(share * 100) // 100) - 1)]
    shown = found.half if share == 0.5 else found.most
    upper = next(bound for bound in BOUNDS if wanted < bound)
    assert upper / 2 - 1e-9 <= shown <= upper + 1e-9 or shown <= BOUNDS[0]


def test_one_screen_holds_the_worst_there_is(tmp_path: Path) -> None:
    """80 columns and 24 lines, with the reasons first."""
    made = Carbonseal(tmp_path / "seal")
    (made.directory / "keys").mkdir()
    made.spool.mkdir()
    page = Looker(config.load(made.file), Board(1)).look()
    about = page.as_json() | {"at": time.time()}
    state_files.write(made.spool, "status", about)
    done = made.command("status", check=False, columns=80)
    lines = done.stdout.rstrip().splitlines()
    assert done.returncode == 1
    assert lines[0] == "NOT READY"
    assert lines[1].startswith("  ! workers: ")
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("is_dry", [True, False])
def test_a_dry_run_is_said(is_dry: bool, tmp_path: Path) -> None:
    """Ready it is; that it does nothing, nobody must have to guess from a rate of 0."""
    made = Carbonseal(tmp_path / "seal", {"milter": {"dry_run": is_dry}})
    (made.directory / "keys").mkdir()
    made.spool.mkdir()
    about = Looker(config.load(made.file), Board(1)).look().as_json()
    state_files.write(made.spool, "status", about | {"at": time.time()})
    assert about["dry_run"] is is_dry
    assert ("DRY RUN" in made.command("status", check=False).stdout) is is_dry


def test_status_needs_no_listener_and_a_port_that_is_taken_is_tried_again(tmp_path: Path) -> None:
    """Mail flows meanwhile, the command reads the file, and later the endpoint is there."""
    port = ports.free_port()
    service = Carbonseal(
        tmp_path / "seal",
        {"milter": {"workers": 1}, "status": {"listen": f"inet:{port}@127.0.0.1"}},
    )
    service.make_key("example.com")
    with socket.create_server(("127.0.0.1", port)) as other, service:
        service.wait_for_log("status-endpoint-failed.*already in use")
        with Conversation(service.socket) as conversation:
            conversation.open()
            outcome = conversation.send_message(Envelope(), FIELDS, b"text\r\n")
        assert outcome.final is Answer.ACCEPT
        other.close()
        wait_until(lambda: answers(port), "the endpoint, once the port is free")
    service.configure({"milter": {"workers": 1}})
    with service:
        status = service.spool / "state/status.json"
        wait_until(lambda: is_ready(service), "the first page")
        assert service.command("status").stdout.startswith("READY")
        assert status.stat().st_uid == os.geteuid()
        service.configure(
            {"milter": {"workers": 1}, "status": {"listen": f"inet:{port}@127.0.0.1"}}
        )
        service.reload()
        wait_until(lambda: answers(port), "the endpoint after the reload")


def is_ready(service: Carbonseal) -> bool:
    return bool((state_files.read(service.spool, "status") or {}).get("ready"))


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def test_a_page_grows_old(tmp_path: Path) -> None:
    """A check of the same page is made anew with its age."""
    made = Carbonseal(tmp_path / "seal")
    page = Looker(config.load(made.file), Board(1)).look()
    assert [one.is_ok for one in (page.checks(0.0)[0], page.checks(readiness.SIGHT + 1)[0])] == [
        True,
        False,
    ]
    assert dataclasses.replace(page, at=0).lag == 0


def test_ready_is_what_status_says_from_the_first_moment_on(tmp_path: Path) -> None:
    """After a start, and through a reload, which is no end of the service for anybody who looks."""
    service = Carbonseal(tmp_path / "seal")
    service.make_key("example.com")
    with service:
        page = state_files.read(service.spool, lookout.NAME)
        assert page is not None
        assert [one["name"] for one in page["checks"] if not one["ok"] and one["needed"]] == []
        assert service.command("status").stdout.startswith("READY\n")
        service.reload()
        seen = []
        while len(re.findall(READY, service.log())) < 2:
            seen.append(json.loads(service.command("status", "--json", check=False).stdout))
        assert seen
        assert [one["checks"] for one in seen if not one["ready"]] == []
    assert "the service has stopped" in service.command("status", check=False).stdout


def seen(made: Carbonseal) -> tuple[lookout._Lookout, Board]:
    """One that looks, at a relay with a worker that serves."""
    (made.directory / "keys").mkdir()
    made.spool.mkdir()
    board = Board(1)
    board.expect(1, with_writer=False)
    board.settle(0, 1)
    board.serves(0)
    return lookout._Lookout(config.load(made.file), board), board


def test_a_full_disk_does_not_hide_that_it_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`status` says so at once, though its page is a file on that disk, and says it was ready."""
    made = Carbonseal(tmp_path / "seal")
    looking, _ = seen(made)
    looking._look(write=True)
    assert made.command("status").stdout.splitlines()[0] == "READY"

    def full(path: Path) -> int:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(state_files, "_create", full)
    monkeypatch.setattr(pages, "probe", lambda spool: f"{spool}: its file system is full")
    looking._look(write=False)
    done = made.command("status", check=False)
    assert (done.returncode, done.stdout.splitlines()[0]) == (1, "NOT READY")
    assert "its file system is full" in done.stdout
    monkeypatch.undo()
    looking._look(write=True)
    assert made.command("status").returncode == 0
    room = made.spool / "state" / ".status-room"
    assert room.stat().st_size == state_files.ROOM  # for the next time


def test_a_page_that_is_not_new_says_so(tmp_path: Path) -> None:
    """On the first line: ready is what it was then."""
    made = Carbonseal(tmp_path / "seal")
    looking, _ = seen(made)
    looking._look(write=True)
    about = state_files.read(made.spool, "status")
    assert about is not None
    state_files.write(made.spool, "status", about | {"at": time.time() - 8})
    first = made.command("status", check=False).stdout.splitlines()[0]
    assert re.fullmatch(r"(NOT )?READY as seen \d+ s ago", first)


@pytest.mark.parametrize(
    ("outcomes", "is_wrong"),
    [
        pytest.param([False, False], True, id="all-refused"),
        pytest.param([False, True], False, id="one-recorded"),
        pytest.param([True], False, id="all-recorded"),
        pytest.param([], False, id="no-mail"),
    ],
)
def test_mail_that_is_refused_for_want_of_a_record_is_seen(
    outcomes: list[bool], is_wrong: bool, tmp_path: Path
) -> None:
    """The workers may be unable to write where the probe is not; it lasts as long as that is so."""
    made = Carbonseal(tmp_path / "seal")
    looking, board = seen(made)
    tally = board.tally(0)
    count(tally, Facts(disposition="tempfail", is_recorded=False))
    looking._look(write=True)  # what was before the first look is nobody's news
    assert state_files.read(made.spool, "status")["ready"]  # type: ignore[index]
    for is_recorded in outcomes:
        disposition = "accept" if is_recorded else "tempfail"
        count(tally, Facts(disposition=disposition, is_recorded=is_recorded))
    looking._look(write=True)
    done = made.command("status", check=False)
    assert done.returncode == is_wrong
    assert ("the last 2 messages could not be recorded" in done.stdout) is is_wrong
    looking._look(write=True)
    assert made.command("status").returncode == 0
