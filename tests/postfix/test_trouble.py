"""Trouble with the disk and the database: mail flows where it may, and waits where it must."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.relay import Relay, relay
from support.waiting import wait_until

pytestmark = [
    pytest.mark.postfix,
    pytest.mark.root,
    pytest.mark.skipif(
        os.geteuid() != 0, reason="a private Postfix needs root, because master(8) changes users"
    ),
]


def content(number: int) -> bytes:
    return (
        f"From: alice@example.com\r\nTo: bob@partner.example\r\nSubject: trouble {number}\r\n"
        f"Message-ID: <trouble-{number}@example.com>\r\n\r\n" + "text\r\n" * 10
    ).encode()


def send(running: Relay, number: int) -> tuple[int, str]:
    """Reply code and queue id."""
    sending = running.send("inside", "alice@example.com", ["bob@partner.example"], content(number))
    return sending.end.code, sending.queue_id


@pytest.fixture
def running() -> Iterator[Relay]:
    with relay() as started:
        yield started


def assert_recorded_once(running: Relay, queue_ids: list[str]) -> None:
    found = running.service.wait_for_records(len(queue_ids))
    recorded = [one["queue_id"] for one in found]
    assert sorted(queue_id for queue_id in recorded if queue_id in queue_ids) == sorted(queue_ids)


def test_a_locked_database_holds_up_no_mail_and_loses_nothing(running: Relay) -> None:
    """Another program holds the SQLite file locked; records wait in the spool."""
    first = send(running, 0)
    running.service.wait_for_records(1)
    locker = sqlite3.connect(running.service.database, isolation_level=None)
    locker.execute("BEGIN EXCLUSIVE")
    mark = running.service.mark()
    sent = [send(running, number) for number in range(1, 30)]
    assert {code for code, _ in sent} == {250}
    running.service.wait_for_log("database-waits", since=mark, timeout=30)
    sent += [send(running, number) for number in range(30, 40)]
    assert {code for code, _ in sent} == {250}
    locker.execute("ROLLBACK")
    locker.close()
    running.service.wait_for_log("database-serves-again", since=mark)
    assert_recorded_once(running, [queue_id for _, queue_id in [first, *sent]])
    running.mta.wait_until_empty()
    assert len(running.archive.deliveries) == 40


def test_an_unwritable_database_holds_up_no_mail_and_loses_nothing(running: Relay) -> None:
    """The database's directory cannot be used for a while; the writer goes on when it can."""
    first = send(running, 0)
    running.service.wait_for_records(1)
    home = running.service.database.parent
    hidden = home / "hidden"
    hidden.mkdir()
    mark = running.service.mark()
    names = [one.name for one in home.glob("archive.db*")]
    for name in names:
        (home / name).rename(hidden / name)
    (home / "archive.db").mkdir()  # so that no new database can be made in its place
    sent = [send(running, number) for number in range(1, 20)]
    assert {code for code, _ in sent} == {250}
    running.service.wait_for_log("database-waits", since=mark)
    (home / "archive.db").rmdir()
    for name in names:
        (hidden / name).rename(home / name)
    running.service.wait_for_log("database-serves-again", since=mark)
    assert_recorded_once(running, [queue_id for _, queue_id in [first, *sent]])


@contextmanager
def small_file_system(path: Path, size: str) -> Iterator[None]:
    path.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", path], check=True)


@pytest.fixture
def on_small_disk(tmp_path: Path) -> Iterator[Relay]:
    spool = tmp_path / "spool"
    with (
        small_file_system(spool, "512k"),
        relay({"record": {"spool": str(spool)}}) as started,
    ):
        yield started


def test_a_full_spool_refuses_with_4yz_and_recovers_by_itself(
    on_small_disk: Relay, tmp_path: Path
) -> None:
    """No record, no acceptance; with space again, acceptance again, without a restart."""
    running, spool = on_small_disk, tmp_path / "spool"
    assert send(running, 0)[0] == 250
    filler = spool / "filler"
    mark = running.service.mark()
    with filler.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(b"x" * 4096)
        except OSError:
            pass
    sent = [send(running, number) for number in range(1, 40)]
    refused = [code for code, _ in sent if code != 250]
    assert refused, "the disk was never full"
    assert {code // 100 for code in refused} == {4}
    line = running.service.wait_for_log("record-not-writable", since=mark)
    assert re.search(r"free space", line)
    filler.unlink()
    wait_until(lambda: send(running, 99)[0] == 250, "acceptance after the disk was freed")
    accepted = [queue_id for code, queue_id in sent if code == 250]
    assert_recorded_once(running, accepted)
    running.mta.wait_until_empty()


def test_a_read_only_spool_refuses_with_4yz_and_recovers_by_itself(
    on_small_disk: Relay, tmp_path: Path
) -> None:
    """A file system that the kernel has remounted read-only after an error, for example."""
    running, spool = on_small_disk, tmp_path / "spool"
    assert send(running, 0)[0] == 250
    running.service.wait_for_records(1)
    mark = running.service.mark()
    # The open segment keeps a writable descriptor, with which the kernel refuses a remount; a
    # read-only bind mount over it shows the same to everybody who opens anew.
    subprocess.run(["mount", "--bind", spool, spool], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", spool], check=True)
    try:
        for segment in spool.glob("*.open.jsonl"):
            assert segment.exists()
        codes = {send(running, number)[0] for number in range(1, 10)}
    finally:
        subprocess.run(["umount", "-l", spool], check=True)
    assert codes <= {250, 451}
    assert send(running, 50)[0] == 250
    if 451 in codes:
        running.service.wait_for_log("remount its file system writable", since=mark)


def test_a_missing_spool_directory_refuses_and_recovers(running: Relay) -> None:
    """Removed by accident: nothing is written into a place that nobody can find."""
    assert send(running, 0)[0] == 250
    running.service.wait_for_records(1)
    spool = running.service.spool
    moved = spool.with_name("moved")
    spool.rename(moved)
    mark = running.service.mark()
    assert send(running, 1)[0] == 451
    running.service.wait_for_log("create the directory", since=mark)
    moved.rename(spool)
    code, queue_id = send(running, 2)
    assert code == 250
    assert running.service.search("--queue-id", queue_id) or running.service.wait_for_records(2)
