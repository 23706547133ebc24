"""The child in which a dictionary is made: an answer, or none, and the writer as it was."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.archive import Archive, build_record
from support.waiting import wait_until

from carbonseal.milter.archive import database, header_learning, header_store, header_training

PATIENCE = 60.0


def until_done(work: Callable[[], bytes]) -> header_training.Child:
    child = header_training.Child(work)
    assert child.is_done(PATIENCE)
    return child


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def forever() -> bytes:
    while True:
        time.sleep(PATIENCE)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"dictionary", id="short"),
        pytest.param(bytes(range(256)) * 4096, id="longer-than-a-pipe-holds"),
    ],
)
def test_the_answer_comes_whole(answer: bytes) -> None:
    """What the work gives is the answer, and the child is gone and waited for."""
    child = until_done(lambda: answer)
    assert child.answer == answer
    assert is_gone(child.pid)


def raising() -> bytes:
    raise ValueError("no dictionary")


def killed() -> bytes:
    os.kill(os.getpid(), signal.SIGKILL)
    return b"never"


def swelling() -> bytes:
    return bytes(2 * header_training._MEMORY)


@pytest.mark.parametrize("work", [raising, killed, swelling])
def test_a_child_that_dies_has_no_answer(work: Callable[[], bytes]) -> None:
    """Neither its exception nor its end is the writer's."""
    child = until_done(work)
    assert child.answer is None
    assert is_gone(child.pid)


def test_a_part_of_an_answer_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that dies while it answers has not answered."""
    write = os.write

    def die(handle: int, octets: memoryview) -> int:
        write(handle, octets[:100])
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    monkeypatch.setattr(os, "write", die)
    assert until_done(lambda: b"x" * 1000).answer is None


def test_one_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks never waits for it longer than told to, nor for ever."""
    child = header_training.Child(forever)
    assert not child.is_done()
    child.close()
    assert is_gone(child.pid)
    monkeypatch.setattr(header_training, "_PATIENCE", 0.0)
    late = header_training.Child(forever)
    assert late.is_done()
    assert late.answer is None
    assert is_gone(late.pid)


def test_the_child_holds_nothing_of_the_writer(tmp_path: Path) -> None:
    """A lock is free and a connection is closed as soon as the writer itself lets go of them."""
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    ours, theirs = socket.socketpair()
    about = until_done(lambda: " ".join(sorted(os.listdir("/proc/self/fd"))).encode())
    assert about.answer is not None
    assert len(about.answer.split()) <= 5  # three, the pipe, and the listing itself
    child = header_training.Child(forever)
    try:
        facts = Path(f"/proc/{child.pid}/fd")
        wait_until(lambda: len(os.listdir(facts)) <= 4, "the child to let go of all", PATIENCE)
        os.close(lock)
        ours.close()
        again = os.open(tmp_path / "lock", os.O_RDWR)
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(again)
        assert theirs.recv(1) == b""
    finally:
        child.close()
        theirs.close()


def test_the_child_is_bounded_and_lesser() -> None:
    """Low priority, an end of its processor time and memory, and no dump of what it has read."""

    def limits() -> bytes:
        cpu, memory = (resource.getrlimit(one) for one in (resource.RLIMIT_CPU, resource.RLIMIT_AS))
        has_alarm = signal.alarm(0) > 0
        return f"{os.nice(0)} {cpu[0]} {cpu[0] == cpu[1]} {memory[0] > 0} {has_alarm}".encode()

    answer = until_done(limits).answer
    assert answer == f"{os.nice(0) + 10} 60 True True True".encode()


def test_a_priority_that_may_not_be_changed_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit of systemd without @resources answers so."""

    def forbidden(_increment: int) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "nice", forbidden)
    assert until_done(lambda: b"made").answer == b"made"


def test_the_writer_loads_on_while_a_dictionary_is_made(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asking whether it is there does not wait, and a child that is killed is no dictionary."""
    monkeypatch.setattr(header_learning, "SAMPLE", 5)
    monkeypatch.setattr(header_learning, "HELD_OUT", 2)
    monkeypatch.setattr(header_learning, "_made_of", lambda _gathered: forever())
    archive.fill(build_record(99))
    engine = database.writing_engine(archive.database_url)
    learning = header_learning.Learning()
    with engine.begin() as connection:
        learning.recall(connection)
    fields = [("Subject", " x")]
    for _ in range(7):
        learning.compress_text(header_store.text(fields))
    learning.learn(engine.begin)
    child = learning._child
    assert child is not None
    learning.learn(engine.begin)
    assert learning._child is child
    os.kill(child.pid, signal.SIGKILL)
    learning.learn(engine.begin, wait=PATIENCE)
    assert learning._child is None
    assert learning.compress_text(header_store.text(fields))[0] == 1
    assert archive.rows("header_dictionary") == 0
    engine.dispose()
