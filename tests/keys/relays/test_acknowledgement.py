"""What a worker's file says is never less than what it signs with, whenever somebody looks."""

from __future__ import annotations

import contextlib
import gc
import json
import multiprocessing
import os
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from carbonseal.keys import keyring
from carbonseal.keys.relays import acknowledgement
from carbonseal.keys.relays.acknowledgement import Acknowledgement, Worker
from carbonseal.policies.signing_request import KeyFacts

_FORK = multiprocessing.get_context("fork")


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    directory = tmp_path / "spool"
    directory.mkdir()
    return directory


def ring(
    signing: str = "", standby: str = "", generation: bytes = b"1", **more: Any
) -> keyring.Keyring:
    """A keyring with keys of example.com by their selectors."""
    # Only the names matter here; a real private half would cost a second each.
    held = [
        tuple(
            keyring.SigningKey(KeyFacts("example.com", name, "rsa-sha256"), _NoKey())  # type: ignore[arg-type]
            for name in names.split()
        )
        for names in (signing, standby)
    ]
    return keyring.Keyring(
        keys={"example.com": held[0]},
        standby={"example.com": held[1]},
        generation=generation,
        **more,
    )


class _NoKey:
    def public_key(self) -> None:
        return None


def names(*selectors: str) -> frozenset[str]:
    return frozenset(f"example.com/{selector}" for selector in selectors)


def only(spool: Path, generation: bytes | None = None) -> Worker:
    (worker,) = acknowledgement.read(spool, generation)
    return worker


@contextlib.contextmanager
def other_process(work: Callable[[Connection], None]) -> Iterator[tuple[int, Connection]]:
    """Run `work` in a process of its own; it must wait for the end of the connection itself."""
    ours, theirs = _FORK.Pipe()
    process = _FORK.Process(target=work, args=(theirs,))
    process.start()
    theirs.close()
    try:
        assert process.pid is not None
        yield process.pid, ours
    finally:
        process.kill()
        process.join()


# --- the order ------------------------------------------------------------------------------------


def test_a_worker_says_that_it_starts_before_it_reads_a_key(spool: Path) -> None:
    """Until the first ring, it may be loading anything."""
    worker = Acknowledgement(spool, "relay1")
    assert only(spool).is_starting
    first = ring("a", "b")
    worker.before_use(first)
    said = only(spool)
    assert not said.is_starting
    assert (said.pid, said.signing, said.standby) == (os.getpid(), names("a"), names("b"))


def test_old_keys_are_named_until_the_last_message_that_holds_them_is_done(spool: Path) -> None:
    """The union first, the new ring alone when nobody holds the old one."""
    worker = Acknowledgement(spool, "relay1")
    current = ring("a", "b")
    worker.before_use(current)
    message = current
    newer = ring("b", "c")
    worker.before_use(newer)
    assert only(spool).signing == names("a", "b")
    assert only(spool).standby == names("c")
    current = newer
    worker.tend()
    assert only(spool).signing == names("a", "b")
    del message
    worker.tend()
    assert only(spool).signing == names("b")
    del current


def test_several_old_rings_are_named_together(spool: Path) -> None:
    """Changes may come faster than the slowest message."""
    worker = Acknowledgement(spool, "relay1")
    rings = [ring(name) for name in "abc"]
    for one in rings:
        worker.before_use(one)
    assert only(spool).signing == names("a", "b", "c")
    del rings[1]
    del one
    worker.tend()
    assert only(spool).signing == names("a", "c")


def test_a_watch_acknowledges_a_ring_before_anybody_gets_it(
    spool: Path, shelf: Any, keep: Any, rsa_private: Any, rsa_other: Any
) -> None:
    """At every moment, what `current` gives is named by the file, and while it loads, all is."""
    keep(rsa_private, "a")
    worker = Acknowledgement(spool, "relay1")
    seen: list[tuple[frozenset[str], frozenset[str]]] = []

    def before_use(fresh: keyring.Keyring) -> None:
        said_before = only(spool)
        assert said_before.is_starting or watch.current().signing_names <= said_before.signing
        worker.before_use(fresh)
        current = watch.current().signing_names if seen else frozenset()
        seen.append((current, only(spool).signing))

    watch = keyring.Watch(shelf.directory, lambda: 0.0, before_use)
    keep(rsa_other, "b")
    watch.look()
    worker.tend()
    # While the second ring is told, the first is still the one in use, and both are named.
    assert seen == [(frozenset(), names("a")), (names("a"), names("a", "b"))]
    assert only(spool).signing == watch.current().signing_names == names("b")


def test_whoever_reads_while_rings_change_never_sees_too_little(spool: Path) -> None:
    """A reader as fast as it can be, against a worker that changes rings without a pause."""
    worker = Acknowledgement(spool, "relay1")
    current = ring("k0")
    worker.before_use(current)
    in_use = [names("k0")]
    is_over = threading.Event()
    failures: list[str] = []

    def look() -> None:
        while not is_over.is_set():
            before = in_use[0]
            said = acknowledgement.read(spool)
            after = in_use[0]
            # What was in use during the whole of a look must be named by it.
            if len(said) != 1 or (before == after and not before <= said[0].signing):
                failures.append(f"{before} in use and {said} read")

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(1, 400):
        fresh = ring(f"k{number}")
        worker.before_use(fresh)
        current, in_use[0] = fresh, names(f"k{number}")
        worker.tend()
    is_over.set()
    reader.join()
    assert not failures
    assert only(spool).signing == current.signing_names


# --- who lives ------------------------------------------------------------------------------------


def _serve(spool: Path, connection: Connection) -> None:
    worker = Acknowledgement(spool, "relay1")
    current = ring("a", "b")
    worker.before_use(current)
    connection.send(os.getpid())
    connection.recv()


def test_a_killed_worker_counts_no_more_and_its_file_is_removed(spool: Path) -> None:
    """The lock dies with its process, whatever it was doing."""
    with other_process(lambda connection: _serve(spool, connection)) as (pid, connection):
        assert connection.recv() == pid
        assert only(spool).signing == names("a")
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert acknowledgement.read(spool) == ()
    assert not list((spool / acknowledgement.FOLDER).iterdir())


def test_a_stopped_worker_still_counts(spool: Path) -> None:
    """It may go on with its message at any time."""
    with other_process(lambda connection: _serve(spool, connection)) as (pid, connection):
        connection.recv()
        os.kill(pid, signal.SIGSTOP)
        assert only(spool).signing == names("a")


def test_two_workers_with_one_pid_are_two(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two containers over one spool: neither may hide the other's keys."""
    workers = []
    for selector in "ab":
        worker, current = Acknowledgement(spool, "relay1"), ring(selector)
        worker.before_use(current)
        workers.append((worker, current))
    assert [said.signing for said in acknowledgement.read(spool)] in (
        [names("a"), names("b")],
        [names("b"), names("a")],
    )


def test_a_new_worker_removes_what_dead_ones_left(spool: Path) -> None:
    """Where no reader may, or none comes."""
    folder = spool / acknowledgement.FOLDER
    folder.mkdir()
    for name in ("123-00000000.json", ".124-00000000.json", "foreign", ".125-11111111.json"):
        (folder / name).write_text("{")
    os.utime(folder / ".124-00000000.json", (0, 0))
    worker = Acknowledgement(spool, "relay1")
    left = {path.name for path in folder.iterdir()}
    assert len(left) == 3
    assert {"foreign", ".125-11111111.json"} < left
    assert worker.problem is None


# --- what cannot be written -----------------------------------------------------------------------


def test_a_worker_that_never_could_write_is_known_to_be_there(spool: Path) -> None:
    """The directory belongs to somebody else, say: mail goes on, nothing is taken for proven."""
    (spool / acknowledgement.FOLDER).write_text("no directory")
    worker = Acknowledgement(spool, "relay1")
    current = ring("a")
    worker.before_use(current)
    assert worker.problem is not None
    assert str(spool / acknowledgement.FOLDER) in worker.problem
    (spool / acknowledgement.FOLDER).unlink()
    assert only(spool).is_starting
    worker.tend()
    assert worker.problem is None
    assert only(spool).signing == names("a")


def test_a_worker_that_cannot_write_any_more_is_not_believed(spool: Path) -> None:
    """It follows an activation all the same; its file belongs to the keys before."""
    worker = Acknowledgement(spool, "relay1")
    current = ring("a", "b", generation=b"1")
    worker.before_use(current)
    worker.tend()
    (path,) = (spool / acknowledgement.FOLDER).iterdir()
    bar = path.with_name("." + path.name)
    bar.mkdir()
    newer = ring("b", generation=b"2")
    worker.before_use(newer)
    current = newer
    worker.tend()
    assert worker.problem is not None
    said = only(spool, b"2")
    assert said.is_starting
    assert "has not taken up" in said.problems[-1]
    bar.rmdir()
    worker.tend()
    assert not only(spool, b"2").is_starting
    assert only(spool, b"2").signing == current.signing_names == names("b")


def test_a_cleared_directory_is_filled_again(spool: Path) -> None:
    """Somebody tidied up under a running worker."""
    worker = Acknowledgement(spool, "relay1")
    current = ring("a")
    worker.before_use(current)
    (path,) = (spool / acknowledgement.FOLDER).iterdir()
    path.unlink()
    path.parent.rmdir()
    worker.tend()
    assert only(spool).signing == current.signing_names


# --- what is read ---------------------------------------------------------------------------------


def test_nothing_was_ever_here(tmp_path: Path) -> None:
    """No spool, no directory in it: no workers."""
    assert acknowledgement.read(tmp_path / "nowhere") == ()
    assert acknowledgement.read(tmp_path) == ()


DAMAGE = [
    pytest.param(b"", id="empty"),
    pytest.param(b'{"v": 1, "pid"', id="torn"),
    pytest.param(b"[" * 100_000, id="deep"),
    pytest.param(b"\xff\xfe\x00", id="no-text"),
    pytest.param(b'{"v": NaN}', id="not-a-number"),
    pytest.param({"v": 2}, id="other-version"),
    pytest.param({"is_starting": 0}, id="number-for-truth"),
    pytest.param({"signing": "example.com/a"}, id="text-for-list"),
    pytest.param({"signing": ["a"]}, id="no-sdid"),
    pytest.param({"signing": ["example.com/a\x1b[2J"]}, id="control-characters"),
    pytest.param({"pid": -1}, id="negative-pid"),
    pytest.param({"at": "yesterday"}, id="no-time"),
    pytest.param({"at": "0001-01-01T00:00:00+23:00"}, id="before-all-time"),
    pytest.param({"extra": 1}, id="unknown-field"),
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_living_worker_with_a_damaged_file_counts_as_starting(damage: Any, spool: Path) -> None:
    """What cannot be understood proves nothing."""
    worker = Acknowledgement(spool, "relay1")
    current = ring("a")
    worker.before_use(current)
    (path,) = (spool / acknowledgement.FOLDER).iterdir()
    if isinstance(damage, dict):
        damage = json.dumps({**json.loads(path.read_bytes()), **damage}).encode()
    path.write_bytes(damage)
    said = only(spool)
    assert said.is_starting
    assert said.signing == frozenset()
    assert "damaged" in said.problems[0]
    assert said.problems[0].isprintable()


def test_what_is_no_file_of_a_worker_is_left_alone(spool: Path) -> None:
    """Nor does a FIFO let a reader wait."""
    folder = spool / acknowledgement.FOLDER
    folder.mkdir()
    (folder / "README").write_text("")
    os.mkfifo(folder / "1-00000000.json")
    (folder / "2-00000000.json").mkdir()
    assert acknowledgement.read(spool) == ()
    assert len(list(folder.iterdir())) == 3


def test_problems_with_keys_are_told_and_bounded(spool: Path) -> None:
    """Those of standby keys and refused ones too; with the complaint of the watch."""
    worker = Acknowledgement(spool, "relay1")
    current = ring(
        "a",
        problems={"example.com": "one"},
        refused={"example.com": "two"},
        standby_problems={f"d{number}.example": "x" * 2000 for number in range(100)},
    )
    worker.before_use(current)
    worker.tend("the disk is gone")
    said = only(spool)
    assert said.problems[:3] == ("the disk is gone", "one", "two")
    assert len(said.problems) == 20
    assert max(map(len, said.problems)) == 600


def test_the_file_is_for_the_group_and_nobody_else(spool: Path) -> None:
    """The directory takes the spool's group, as its set-group-ID bit says."""
    before = os.umask(0)
    try:
        spool.chmod(0o2770)
        worker = Acknowledgement(spool, "relay1")
    finally:
        os.umask(before)
    assert worker.problem is None
    folder = spool / acknowledgement.FOLDER
    (path,) = folder.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o2750
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_nothing_is_written_while_nothing_changes(spool: Path) -> None:
    """Five rounds a second for months."""
    worker = Acknowledgement(spool, "relay1")
    current = ring("a")
    worker.before_use(current)
    worker.tend()
    before = os.stat(next((spool / acknowledgement.FOLDER).iterdir())).st_ino
    gc.collect()
    for _ in range(10):
        worker.tend()
    assert os.stat(next((spool / acknowledgement.FOLDER).iterdir())).st_ino == before
