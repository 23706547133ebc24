"""The keys directory survives crashes and full disks without losing a key or a signature."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from carbonseal.keys import durable, generate, key_record, keyring, store
from carbonseal.keys.key_record import Origin
from carbonseal.policies import errors, signing_request
from carbonseal.policies.key_life import Stage

from .conftest import NOW, Keep

LATER = NOW + timedelta(days=90)
CALLS = ("open", "write", "fsync", "close", "link", "unlink", "replace", "mkdir", "chmod", "chown")


class Killed(BaseException):
    """The process is gone: nothing after this runs, clean-up included."""


class FailingSystem:
    """`os` for `durable`, whose n-th call fails: killed for good, or one error of the disk."""

    def __init__(self, fail_at: int, *, killed: bool) -> None:
        self.fail_at = fail_at
        self.killed = killed
        self.count = 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in CALLS:
            return real

        def call(*args: Any, **options: Any) -> Any:
            self.count += 1
            if self.killed and self.count >= self.fail_at:
                raise Killed
            if self.count == self.fail_at:
                raise OSError(errno.ENOSPC, "no space")
            return real(*args, **options)

        return call


def counted(monkeypatch: pytest.MonkeyPatch, action: Any) -> int:
    """How many system calls an action makes."""
    system = FailingSystem(10**9, killed=False)
    with monkeypatch.context() as patch:
        patch.setattr(durable, "os", system)
        action()
    return system.count


def rotate(shelf: store.Store, private: keyring.PrivateKey, selector: str) -> None:
    """Add a key and let it sign."""
    record = generate.new_record(
        private, "example.com", selector, origin=Origin.GENERATED, at=LATER, why="test"
    )
    with shelf.writing("example.com") as writer:
        writer.add(record, generate.private_pem(private))
        writer.activate(record, at=LATER, why="test", assumed=True)


def attempts(monkeypatch: pytest.MonkeyPatch, shelf: store.Store, other: Any) -> Iterator[int]:
    """The number of each system call of a rotation."""
    yield from range(1, counted(monkeypatch, lambda: rotate(shelf, other, "count")) + 1)


@pytest.mark.parametrize("killed", [True, False], ids=["killed", "disk-full"])
def test_a_rotation_broken_anywhere_loses_nothing(
    killed: bool,
    shelf: store.Store,
    keep: Keep,
    rsa_private: keyring.PrivateKey,
    rsa_other: keyring.PrivateKey,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the n-th system call, for each n: some key signs, none is gone, the next command works."""
    keep(rsa_private, "old")
    for number in list(attempts(monkeypatch, shelf, rsa_other)):
        selector = f"new{number}"
        before = set(shelf.directory.rglob("*.pem"))
        with monkeypatch.context() as patch:
            patch.setattr(durable, "os", FailingSystem(number, killed=killed))
            with pytest.raises((Killed, errors.TryLater)):
                rotate(shelf, rsa_other, selector)
        assert before <= set(shelf.directory.rglob("*.pem"))
        ring = keyring.load(shelf.directory)
        assert len(ring.signing_keys("example.com")) == 1, number
        assert not ring.problems, number
        try_again(shelf, rsa_other, selector)
        (active,) = store.active(shelf.lineage("example.com").records)
        assert active.selector == selector
        stages = [record.stage for record in shelf.lineage("example.com").records]
        assert stages.count(Stage.ACTIVE) == 1, number
        assert not list(shelf.directory.rglob(".new-*")), number


def try_again(shelf: store.Store, private: keyring.PrivateKey, selector: str) -> None:
    """What a person does after a failure: the same command, or only the activation."""
    try:
        rotate(shelf, private, selector)
    except errors.DataError:
        with shelf.writing("example.com") as writer:
            record = shelf.find("example.com", selector)
            writer.activate(record, at=LATER, why="again", assumed=True)


def test_activation_retires_the_predecessor_of_the_same_algorithm_only(
    shelf: store.Store,
    keep: Keep,
    rsa_private: keyring.PrivateKey,
    rsa_other: keyring.PrivateKey,
    ed25519_private: keyring.PrivateKey,
) -> None:
    """RSA and Ed25519 keys sign side by side; RSA is named first."""
    keep(rsa_private, "r1")
    keep(ed25519_private, "e1")
    keep(rsa_other, "r2", at=LATER)
    records = shelf.lineage("example.com").records
    assert [key.selector for key in store.active(records)] == ["r2", "e1"]
    stages = {record.selector: record.stage for record in records}
    assert stages == {"r1": Stage.RETIRING, "e1": Stage.ACTIVE, "r2": Stage.ACTIVE}
    assert shelf.find("example.com", "r1").history[-1].why == "superseded by r2"


def test_a_clock_that_was_set_back_does_not_bring_the_old_key_back(
    shelf: store.Store, keep: Keep, rsa_private: Any, rsa_other: Any
) -> None:
    """The order of activations counts, not what the clock says about it."""
    keep(rsa_private, "s1", at=LATER)
    keep(rsa_other, "s2", at=NOW)
    (active,) = store.active(shelf.lineage("example.com").records)
    assert active.selector == "s2"


def test_a_selector_never_comes_back(
    shelf: store.Store, keep: Keep, rsa_private: Any, rsa_other: Any
) -> None:
    """Not even after the key has been retired."""
    keep(rsa_private, "s1")
    keep(rsa_other, "s2", at=LATER)
    with pytest.raises(errors.DataError, match="never used again"):
        keep(rsa_other, "s1", at=LATER)
    keep(rsa_other, "s1", sdid="example.net")


def test_an_interrupted_import_can_be_repeated_but_not_with_another_key(
    shelf: store.Store, keep: Keep, rsa_private: Any, rsa_other: Any
) -> None:
    """A private key without a record is the trace of an interruption."""
    keep(rsa_private, "s1")
    shelf.record_path("example.com", "s1").unlink()
    with pytest.raises(errors.DataError, match="interrupted command left this other key"):
        keep(rsa_other, "s1")
    assert keep(rsa_private, "s1").selector == "s1"


def test_two_writers_do_not_meet(shelf: store.Store, keep: Keep, rsa_private: Any) -> None:
    """The second is told to try later, at once."""
    with shelf.writing("example.com"), pytest.raises(errors.TryLater, match="another command"):
        keep(rsa_private, "s1")


def test_files_are_private(shelf: store.Store, keep: Keep, rsa_private: Any) -> None:
    """0600 in a directory of 0700; where the directory is shared with a group, 0640."""
    keep(rsa_private, "s1")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in shelf.directory.rglob("*")}
    assert modes == {
        ".lock": 0o600,
        "generation": 0o600,
        "example.com": 0o700,
        "s1.pem": 0o600,
        "s1.json": 0o600,
    }
    shelf.directory.chmod(0o750)
    keep(rsa_private, "s2")
    assert stat.S_IMODE(shelf.private_path("example.com", "s2").stat().st_mode) == 0o640


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, because files are given to other users")
def test_files_made_by_root_belong_to_the_owner_of_the_directory(
    shelf: store.Store, keep: Keep, rsa_private: Any
) -> None:
    """So that a key made with sudo can be read by the service."""
    shelf.directory.mkdir(mode=0o700)
    os.chown(shelf.directory, 12345, 12346)
    keep(rsa_private, "s1")
    for path in (shelf.private_path("example.com", "s1"), shelf.directory / "generation"):
        assert (path.stat().st_uid, path.stat().st_gid) == (12345, 12346)


def test_every_change_makes_a_new_generation(
    shelf: store.Store, keep: Keep, rsa_private: Any
) -> None:
    """And a command that changes nothing does not."""
    keep(rsa_private, "s1")
    first = shelf.generation()
    with shelf.writing("example.com"):
        pass
    assert shelf.generation() == first
    keep(rsa_private, "s2")
    assert shelf.generation() != first


def test_workers_hear_of_a_key_that_signs_before_anything_else_is_done(
    shelf: store.Store, keep: Keep, rsa_private: Any
) -> None:
    """Its predecessor is retired: whoever waited for name servers first would keep them behind."""
    record = keep(rsa_private, "s1", active=False)
    before = shelf.generation()
    with shelf.writing("example.com") as writer:
        fresh = writer.activate(record, at=NOW, why="test", assumed=True)
        told = shelf.generation()
        assert told != before
        writer.put(fresh.noted("test", at=NOW, why="test"))
    assert shelf.generation() not in (before, told), "what came after it is told as well"


def test_a_record_that_was_moved_is_a_problem(
    shelf: store.Store, keep: Keep, rsa_private: Any
) -> None:
    """Copying one domain's files to another name does not make a key of that domain."""
    keep(rsa_private, "s1")
    (shelf.directory / "example.com").rename(shelf.directory / "example.net")
    lineage = shelf.lineage("example.net")
    assert not lineage.records
    assert "record of s1 for example.com" in lineage.problems[0]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        pytest.param(lambda text: b"", "no key record", id="empty"),
        pytest.param(lambda text: text[:-30], "no key record", id="cut-short"),
        pytest.param(lambda text: b"[" * 50000, "no key record", id="deeply-nested"),
        pytest.param(lambda text: text.replace(b'"v": 2', b'"v": 9'), "version 9", id="newer"),
        pytest.param(lambda text: text.replace(b'"active"', b'"shiny"'), "shiny", id="stage"),
        pytest.param(
            lambda text: text.replace(b"MIIB", b"MIIC"), "do not belong", id="key-changed"
        ),
        pytest.param(
            lambda text: text.replace(b"example.com", b"../x"), "signing domain", id="path"
        ),
        pytest.param(lambda text: b"null", "no key record", id="null"),
        pytest.param(
            lambda text: text.replace(b'"bits": 2048', b'"bits": 1e999'), "Overflow", id="infinite"
        ),
        pytest.param(
            lambda text: text.replace(b"2026-11-21T12:00:00Z", b"0001-01-01T00:00:00+23:59"),
            "Overflow",
            id="before-time",
        ),
        pytest.param(
            lambda text: text.replace(b"2026-11-21T12:00:00Z", b"9999-12-31T23:59:59Z"),
            "no time of our era",
            id="end-of-time",
        ),
    ],
)
def test_a_damaged_record_is_one_sentence(
    damage: Any, says: str, shelf: store.Store, keep: Keep, rsa_private: Any
) -> None:
    """It names the file and never raises from `lineage`."""
    keep(rsa_private, "s1")
    path = shelf.record_path("example.com", "s1")
    path.write_bytes(damage(path.read_bytes()))
    (problem,) = shelf.lineage("example.com").problems
    assert problem.startswith(str(path))
    assert says in problem


def test_records_come_back_as_they_were(keep: Keep, rsa_private: Any, shelf: store.Store) -> None:
    """JSON and record are two forms of one thing."""
    record = keep(rsa_private, "s1")
    assert key_record.from_json(key_record.to_json(record)) == record
    assert shelf.find("example.com", "s1") == record
    assert record.algorithm == signing_request.RSA
    assert record.bits == 2048


def test_write_new_never_replaces(tmp_path: Path) -> None:
    """The one promise on which lineage rests."""
    path = tmp_path / "file"
    durable.write_new(path, b"first")
    with pytest.raises(FileExistsError):
        durable.write_new(path, b"second")
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["file"]


NO_FILE = [
    pytest.param(os.mkfifo, id="fifo"),
    pytest.param(os.mkdir, id="directory"),
    pytest.param(lambda path: path.symlink_to("/dev/zero"), id="endless"),
    pytest.param(lambda path: path.symlink_to(path.name), id="loop"),
]


@pytest.mark.parametrize("make", NO_FILE)
def test_what_is_no_file_neither_hangs_nor_takes_other_keys_away(
    make: Any, shelf: store.Store, keep: Keep, rsa_private: Any
) -> None:
    """A worker that opened a FIFO would wait for ever, and all mail with it."""
    keep(rsa_private, "s1")
    make(shelf.directory / "example.com" / "s2.json")
    make(shelf.directory / "example.net")
    ring = keyring.load(shelf.directory)
    assert [key.facts.selector for key in ring.signing_keys("example.com")] == ["s1"]
    assert "s2.json" in ring.problems["example.com"]


@pytest.mark.parametrize("make", NO_FILE)
def test_a_generation_that_is_no_file_is_one_sentence(
    make: Any, shelf: store.Store, keep: Keep, rsa_private: Any
) -> None:
    """Running workers keep their keys and complain; the next change mends it, or says why not."""
    keep(rsa_private, "s1")
    watch = keyring.Watch(shelf.directory, iter(range(1000)).__next__)
    (shelf.directory / "generation").unlink()
    make(shelf.directory / "generation")
    watch.look()
    assert watch.current().sdids == {"example.com"}
    assert "generation" in (watch.complaint or "")


def test_an_interrupted_import_does_not_wait_for_a_fifo(
    shelf: store.Store, keep: Keep, rsa_private: Any
) -> None:
    """What stands in the place of a private key is compared, and only a file can be."""
    keep(rsa_private, "s1")
    os.mkfifo(shelf.private_path("example.com", "s2"))
    with pytest.raises(errors.CarbonsealError, match=r"example\.com"):
        keep(rsa_private, "s2")


def test_a_long_history_does_not_cost_the_key(
    shelf: store.Store, keep: Keep, rsa_private: Any
) -> None:
    """Each change adds to the record; it stays readable, or the change is refused."""
    record = keep(rsa_private, "s1")
    why = "\U0001f511" * 500  # the longest reason the command line takes, twelve octets each
    for _ in range(60):
        record = record.moved(Stage.ACTIVE, at=LATER, why=why)
    with shelf.writing("example.com") as writer:
        writer.put(record)
    assert shelf.find("example.com", "s1") == record
    for _ in range(200):
        record = record.moved(Stage.ACTIVE, at=LATER, why=why)
    with (
        pytest.raises(errors.DataError, match="history is full"),
        shelf.writing("example.com") as writer,
    ):
        writer.put(record)
    assert keyring.load(shelf.directory).sdids == {"example.com"}


def test_a_folder_left_closed_by_a_crash_is_opened_to_the_service(shelf: store.Store) -> None:
    """Killed between mkdir and chmod: the service's group must be able to read the keys again."""
    shelf.directory.mkdir(mode=0o750)
    folder = shelf.directory / "example.com"
    folder.mkdir(mode=0o700)
    with shelf.writing("example.com"):
        pass
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750


def test_what_a_killed_command_changed_is_told_by_the_next(
    monkeypatch: pytest.MonkeyPatch, shelf: store.Store, keep: Keep, rsa_private: Any
) -> None:
    """A worker looks at the generation alone; without this, it would sign with the old key."""
    record = keep(rsa_private, "s1")
    before = shelf.generation()
    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(store.Writer, "tell_workers", _die)
        with shelf.writing("example.com") as writer:
            writer.put(record.noted("test", at=NOW, why="test"))
    assert shelf.generation() == before
    with shelf.writing("example.com"):
        pass
    assert shelf.generation() != before


def _die(_writer: store.Writer) -> None:
    raise Killed
