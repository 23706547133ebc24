"""A log that is rotated while it is read: every line once, in order."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from carbonseal.milter.follow.log_file import LogFile
from carbonseal.milter.follow.log_line import Framing, Services
from carbonseal.milter.follow.taken import LogUnreadable


class Reader:
    """Reads a log, may be stopped and goes on from its position."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.said: list[str] = []
        self.gaps: list[str] = []
        self.position: dict[str, Any] | None = None
        self._log: LogFile | None = None

    @property
    def log(self) -> LogFile:
        """Open, now at the latest."""
        if self._log is None:
            self._log = LogFile(
                self.path,
                Framing(Services("postfix")),
                position=self.position,
                report=lambda event, **facts: self.gaps.append(facts["problem"]),
            )
        return self._log

    def read(self) -> None:
        """One look, which may take something."""
        taken = self.log.take()
        if taken is not None:
            self.said += [text.decode() for _, _, _, text in taken.entries]
            self.position = taken.place.source(taken.end)

    def drain(self) -> None:
        """All there is."""
        idle = 0
        while idle < 4:  # a file that ended is looked at twice
            before = len(self.said)
            self.read()
            idle = idle + 1 if len(self.said) == before else 0

    def stop(self) -> None:
        """As by kill -9: nothing is left but the position of what was taken."""
        if self._log is not None:
            self._log.close()
            self._log = None


class Writer:
    """A syslogd with one log."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.said: list[str] = []
        self._stream = open(path, "ab", buffering=0)
        self._clock = 1_700_000_000_000_000_000

    def write(self, count: int = 1) -> None:
        """So many lines."""
        for _ in range(count):
            text = f"line {len(self.said)}"
            self._stream.write(f"Nov 21 17:16:47 h postfix/smtp[1]: {text}\n".encode())
            self.said.append(text)
        # A time of its own for each file, which a quick test would not have.
        self._clock += 1_000_000_000
        os.utime(self.path if self.is_at_path() else self._stream.fileno(), ns=(self._clock,) * 2)

    def is_at_path(self) -> bool:
        """Whether it writes to the file that has the log's name."""
        try:
            return os.stat(self.path).st_ino == os.fstat(self._stream.fileno()).st_ino
        except FileNotFoundError:
            return False

    def reopen(self) -> None:
        """As on HUP."""
        self._stream.close()
        self._stream = open(self.path, "ab", buffering=0)

    def close(self) -> None:
        """The end."""
        self._stream.close()


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    """A log with three lines."""
    made = Writer(tmp_path / "mail.log")
    made.write(3)
    yield made
    made.close()


def _shift(path: Path) -> None:
    for number in range(8, 0, -1):
        for suffix in ("", ".gz"):
            old = path.with_name(f"{path.name}.{number}{suffix}")
            if old.exists():
                old.rename(path.with_name(f"{path.name}.{number + 1}{suffix}"))


def _rename(writer: Writer, *, reopen: bool = True) -> None:
    _shift(writer.path)
    writer.path.rename(f"{writer.path}.1")
    writer.path.touch()
    if reopen:
        writer.reopen()


def _truncate(writer: Writer) -> None:
    _shift(writer.path)
    shutil.copy2(writer.path, f"{writer.path}.1")
    os.truncate(writer.path, 0)


def test_a_renamed_log_is_finished_first(writer: Writer) -> None:
    """What was written before syslogd reopened its log is in the old file, and counts."""
    reader = Reader(writer.path)
    reader.drain()
    _rename(writer, reopen=False)
    reader.drain()
    writer.write(2)
    reader.drain()
    writer.reopen()
    writer.write(2)
    reader.drain()
    assert reader.said == writer.said
    assert reader.gaps == []


def test_a_renamed_log_is_looked_at_once_more(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines that come after our last look and before the new log's first line are read."""
    reader = Reader(writer.path)
    reader.drain()
    is_followed = LogFile._is_followed

    def late(self: LogFile, file: Any) -> bool:
        monkeypatch.undo()
        _rename(writer, reopen=False)
        writer.write(2)
        writer.reopen()
        writer.write(2)
        return is_followed(self, file)

    monkeypatch.setattr(LogFile, "_is_followed", late)
    reader.drain()
    assert reader.said == writer.said


def test_the_rest_of_a_truncated_log_is_read_from_its_copy(writer: Writer) -> None:
    """copytruncate: unread lines are in the copy only, even when the new log is longer already."""
    reader = Reader(writer.path)
    reader.drain()
    writer.write(2)
    _truncate(writer)
    writer.write(20)
    reader.drain()
    assert reader.said == writer.said
    assert reader.gaps == []


@pytest.mark.parametrize(
    ("suffix", "opener"), [(".gz", gzip.open), (".xz", lzma.open), (".bz2", bz2.open)]
)
def test_what_was_compressed_meanwhile_is_read_all_the_same(
    writer: Writer, suffix: str, opener: Any
) -> None:
    """Stopped for two rotations: the rest of the old file, the one between, and the present."""
    reader = Reader(writer.path)
    reader.drain()
    reader.stop()
    for _ in range(2):
        writer.write(2)
        _rename(writer)
    writer.write(2)
    plain = writer.path.with_name("mail.log.2")
    stat = plain.stat()
    with opener(f"{plain}{suffix}", "wb") as stream:
        stream.write(plain.read_bytes())
    os.utime(f"{plain}{suffix}", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    plain.unlink()
    reader.drain()
    assert reader.said == writer.said
    assert reader.gaps == []


def test_a_lost_file_is_said_and_all_that_is_left_is_read(writer: Writer) -> None:
    """Where our place is gone, lines are read twice rather than passed over."""
    reader = Reader(writer.path)
    reader.drain()
    reader.stop()
    _rename(writer)
    writer.write(2)
    _rename(writer)
    writer.write(2)
    writer.path.with_name("mail.log.2").unlink()
    reader.drain()
    assert reader.said == writer.said
    assert reader.gaps == ["the file that was read last is gone; all that is left is read again"]


def test_a_line_is_taken_when_it_is_whole(writer: Writer) -> None:
    """Half a line stays where it is until its end is there."""
    reader = Reader(writer.path)
    reader.drain()
    with open(writer.path, "ab", buffering=0) as stream:
        stream.write(b"Nov 21 17:16:47 h postfix/smtp[1]: ha")
        reader.drain()
        assert len(reader.said) == 3
        stream.write(b"lf\n")
    reader.drain()
    assert reader.said[3:] == ["half"]


def test_what_is_longer_than_any_line_is_passed_over(writer: Writer) -> None:
    """Memory holds one chunk, whatever was written there."""
    reader = Reader(writer.path)
    with open(writer.path, "ab") as stream:
        stream.write(b"\0" * 1_000_000 + b"\n")
    writer.write()
    reader.drain()
    assert reader.said == writer.said


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        pytest.param("missing", "postconf maillog_file", id="not-there"),
        pytest.param("directory", "see follow.log", id="a-directory"),
        pytest.param("garbage.gz", "it is damaged", id="damaged"),
    ],
)
def test_an_unreadable_log_has_its_remedy(tmp_path: Path, kind: str, remedy: str) -> None:
    """One sentence says which file, why, and what to do."""
    path = tmp_path / kind
    if kind == "directory":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes(b"\x1f\x8b" + b"x" * 100)
    with pytest.raises(LogUnreadable) as caught:
        Reader(path).drain()
    assert str(path) in caught.value.sentence
    assert remedy in caught.value.sentence


class Rotations(RuleBasedStateMachine):
    """Whatever happens to the log, and however often the reader is killed."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.writer = Writer(self.directory / "mail.log")
        self.reader = Reader(self.writer.path)
        # The reader's first start is on a log that nobody rotated yet.
        self.writer.write()
        self.reader.read()

    @rule(count=st.integers(1, 5))
    def write(self, count: int) -> None:
        """Somebody sends mail."""
        self.writer.write(count)

    @rule()
    def read(self) -> None:
        """The follower looks."""
        self.reader.read()

    @rule()
    def kill(self) -> None:
        """The follower is killed."""
        self.reader.stop()

    @precondition(lambda self: self.writer.is_at_path() and self._has_lines())
    @rule(reopen=st.booleans())
    def rename(self, reopen: bool) -> None:
        """Rename and create; HUP may come later."""
        _rename(self.writer, reopen=reopen)

    @precondition(lambda self: not self.writer.is_at_path())
    @rule()
    def hup(self) -> None:
        """Now it comes."""
        self.writer.reopen()

    @precondition(lambda self: self.writer.is_at_path() and self._has_lines())
    @rule()
    def truncate(self) -> None:
        """Copy and truncate."""
        _truncate(self.writer)

    @precondition(lambda self: (self.directory / "mail.log.2").exists())
    @rule()
    def compress(self) -> None:
        """The older files, as delaycompress has it."""
        plain = self.directory / "mail.log.2"
        stat = plain.stat()
        packed = self.directory / "mail.log.2.gz"
        packed.write_bytes(gzip.compress(plain.read_bytes()))
        os.utime(packed, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        plain.unlink()

    def _has_lines(self) -> bool:
        # logrotate's notifempty, and one rotation of one kind at a time before the reader looks at
        # an empty file: of that only the inode is known.
        return self.writer.path.stat().st_size > 0

    @invariant()
    def in_order(self) -> None:
        """What was read is what was written, as far as it goes."""
        assert self.reader.said == self.writer.said[: len(self.reader.said)]

    def teardown(self) -> None:
        """In the end all of it was read."""
        self.writer.reopen()
        self.writer.write()
        self.reader.drain()
        self.reader.stop()
        self.writer.close()
        shutil.rmtree(self.directory)
        assert self.reader.said == self.writer.said
        assert self.reader.gaps == []


Rotations.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestRotations = Rotations.TestCase


def test_a_gap_is_said_once_and_not_with_every_attempt(tmp_path: Path) -> None:
    """While what stands in the log's place cannot be read, nothing is read again."""
    reader = Reader(tmp_path / "mail.log")
    writer = Writer(reader.path)
    writer.write(3)
    reader.drain()
    reader.stop()
    reader.path.unlink()
    reader.path.mkdir()
    for _ in range(3):
        with pytest.raises(LogUnreadable):
            reader.read()
    assert reader.gaps == []
    reader.path.rmdir()
    Writer(reader.path).write(2)
    reader.drain()
    assert len(reader.gaps) == 1
