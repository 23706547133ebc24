"""A log file that is written by others and rotated under our feet.

Promises: every line once, in order, whatever rotation does: rename and create (the old file is
finished before the new one is begun, once the new one has something in it), copy and truncate (the
rest of what was truncated is read from the copy), files that were compressed meanwhile (gzip, xz,
bzip2), several rotations while nobody read.  A file is known again by its first octets, and by its
inode where it has none yet.  Memory holds one chunk.

Safe direction: where the file of a position cannot be found, all that is left of the log is read
again, and `report` is told; facts that are known already change nothing.

Raises: LogUnreadable.

Does not: see what was lost between a copy and its truncation, which is why rename is the better way
to rotate.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import hashlib
import lzma
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from carbonseal.milter.follow.log_line import Framing
from carbonseal.milter.follow.taken import Entry, LogUnreadable, Mark, Place, Taken

CHUNK: Final = 1 << 18  # octets read at once
_LONGEST: Final = 1 << 16  # octets of a line; more is no line
_HEAD: Final = 256  # octets by which a file is known again
_SECOND: Final = 1 << 20  # octets of log that are looked at for the beginning of a second
_SIBLINGS: Final = 1000  # rotated files that are looked at
_COMPRESSED: Final[Mapping[str, Callable[[Path], Any]]] = {
    ".gz": gzip.open,
    ".xz": lzma.open,
    ".bz2": bz2.open,
}

Report = Callable[..., None]


class LogFile:
    """The log at `path`, from a position on, or from the beginning of the present file.

    `once`: what is there now and no more.  `alone`: it is no log that is rotated any more.
    """

    def __init__(
        self,
        path: Path,
        framing: Framing,
        *,
        position: Mapping[str, Any] | None = None,
        once: bool = False,
        alone: bool = False,
        report: Report = lambda event, **facts: None,
    ) -> None:
        self._path = path
        self._alone = alone
        self._framing = framing
        self._once = once
        self._report = report
        self._file: _File | None = None
        self._heads: list[bytes] = []  # of files that were read on the way to the present one
        self._is_at_end = False  # the file has been read to its end, and another one follows
        self.is_finished = False
        self.is_behind = True
        self._start(position)

    def _start(self, position: Mapping[str, Any] | None) -> None:
        if position is None:
            self._begin(self._open(self._path))
            return
        found = self._find(position)
        if found is None:
            self._go_on()  # where it cannot be read, there will be another attempt, and another
            self._report(
                "log-gap",
                log=str(self._path),
                problem="the file that was read last is gone; all that is left is read again",
            )
            return
        found.offset = int(position["offset"])
        self._begin(found)

    def _begin(self, file: _File) -> None:
        """Read this file from its offset on."""
        self._file = file
        self._framing.renew(file.changed)
        # So that a line is told from others of its second in the same way whenever it is read.
        start = max(0, file.offset - _SECOND)
        before = file.octets(file.offset - start, start)
        is_whole = start == 0
        before = before if is_whole else before.partition(b"\n")[2]
        self._framing.begin(before, is_whole=is_whole)

    def where(self) -> tuple[Place, Mark] | None:
        """The present file and its offset."""
        return None if self._file is None else (self._file, self._file.offset)

    def lost_name(self) -> str:
        """The path, where nothing is any more, and an open file without a name is read; or ''."""
        return "" if self._file is None or os.path.lexists(self._path) else str(self._path)

    def take(self) -> Taken | None:
        """The next lines of one file; None when there are none now.  Raises: LogUnreadable."""
        file = self._file
        if file is None:
            self._begin(self._open(self._path))
            return None
        try:
            data = file.read()
            if not file.is_same():
                self._truncated(file)
                return None
        except (OSError, EOFError, lzma.LZMAError) as fault:
            raise _unreadable(file.path, fault) from None
        end = data.rfind(b"\n") + 1
        if not end and len(data) >= _LONGEST:
            end = len(data)  # nothing that syslog writes
        if not end:
            self._at_end(file)
            return None
        self._is_at_end = False
        self.is_behind = len(data) == CHUNK
        self._framing.renew(file.changed)
        return self._taken(file, data[:end])

    def _taken(self, file: _File, data: bytes) -> Taken:
        entries: list[Entry] = []
        offset, split = file.offset, self._framing.split
        lines = data.split(b"\n")
        if not lines[-1]:
            lines.pop()
        for line in lines:
            framed = split(line)
            if framed is not None:
                entries.append((offset, *framed))
            offset += len(line) + 1
        file.offset += len(data)
        return Taken(file, entries, file.offset, len(lines))

    def wait(self, seconds: float) -> None:
        """Sleep: a poll costs three calls to the system."""
        time.sleep(seconds)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _at_end(self, file: _File) -> None:
        """Nothing more in this file now: stay, or go on with the one that follows it."""
        self.is_behind = False
        if not self._is_followed(file):
            self.is_finished = self._once
            return
        if not self._is_at_end:
            # The last lines may have come between our last look and the other's first line.
            self._is_at_end = True
            return
        self._is_at_end = False
        file.close()
        self._go_on(file)

    def _younger(self, file: _File | None) -> _File | None:
        """The oldest rotated file that was written after this one; None: it is the present one's
        turn.  Looked for each time anew, since names change with every rotation."""
        for path in _siblings(self._path):
            stat = _stat(path)
            if stat is None or (file is not None and stat.st_mtime_ns < file.changed_ns):
                continue
            found = self._matching(path, b"", 0)
            if found is None:
                continue
            # The same log may be there twice, copied or compressed.
            done = self._heads if file is None else [*self._heads, file.head]
            if not any(found.head.startswith(head) for head in done if head):
                return found
            found.close()
        return None

    def _is_followed(self, file: _File) -> bool:
        if self._alone:
            return False
        try:
            present = os.stat(self._path)
        except FileNotFoundError:
            return False  # in the middle of a rotation
        except OSError as fault:
            raise _unreadable(self._path, fault) from None
        if (present.st_dev, present.st_ino) == file.identity:
            return False
        # Until the new file has a line, the writer may still have the old one open.
        if present.st_size > 0 or self._once or file.is_compressed:
            return True
        younger = self._younger(file)
        if younger is not None:
            younger.close()
        return younger is not None

    def _go_on(self, last: _File | None = None) -> None:
        """Open the file that follows `last`; the oldest, without one."""
        self._file = None
        if last is not None:
            self._heads.append(last.head)
        following = self._younger(last)
        if following is None:
            self._heads.clear()
            following = self._open(self._path)
        self._begin(following)
        self.is_behind = True

    def _truncated(self, file: _File) -> None:
        """The file was cut under us: read the rest from the copy that was made of it, if any."""
        copy = self._copy_of(file)
        if copy is None:
            self._report(
                "log-gap",
                log=str(self._path),
                problem="it was truncated, and no copy of what it held is left; rotate by renaming",
            )
        file.close()
        self._is_at_end = False
        self._file = None
        if copy is None:
            self._begin(self._open(self._path))
        else:
            self._begin(copy)

    def _copy_of(self, file: _File) -> _File | None:
        if file.head:
            for path in reversed(_siblings(self._path)):
                copy = self._matching(path, file.head, file.offset)
                if copy is not None:
                    copy.offset = file.offset
                    return copy
        return None

    def _find(self, position: Mapping[str, Any]) -> _File | None:
        """The file that a position is in, wherever rotation has put it; the present one first."""
        offset, octets = int(position["offset"]), int(position["head_octets"])
        for path in (self._path, *reversed(_siblings(self._path))):
            try:
                file = _File(path, self._path)
            except (OSError, EOFError, lzma.LZMAError):
                continue
            is_it = (
                _digest(file.head[:octets]) == position["head"]
                if octets
                else file.identity[1] == position["inode"]
            )
            if is_it and len(file.head) >= octets and file.has(offset):
                return file
            file.close()
        if not self._path.exists():
            self._open(self._path)  # says what is wrong with it
        return None

    def _matching(self, path: Path, head: bytes, offset: int) -> _File | None:
        try:
            file = _File(path, self._path)
        except (OSError, EOFError, lzma.LZMAError):
            return None
        if file.head.startswith(head) and file.has(offset):
            return file
        file.close()
        return None

    def _open(self, path: Path) -> _File:
        try:
            return _File(path, self._path)
        except (OSError, EOFError, lzma.LZMAError) as fault:
            raise _unreadable(path, fault) from None


class _File:
    """One file, open, and how far it was read.  A `Place` whose marks are offsets."""

    def __init__(self, path: Path, log: Path) -> None:
        self.path = path
        self._log = log
        self.offset = 0
        opener = _COMPRESSED.get(path.suffix)
        self.is_compressed = opener is not None
        # O_NONBLOCK: what is no file (a FIFO) must not hold us up.
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self._stat = os.fstat(self._fd)
            self._stream = None if opener is None else cast(BinaryIO, opener(path))
            self.head = self.octets(_HEAD, 0)
        except BaseException:
            os.close(self._fd)
            raise

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode."""
        return self._stat.st_dev, self._stat.st_ino

    @property
    def changed(self) -> float:
        """When it was last written, Unix time."""
        return self._stat.st_mtime

    @property
    def changed_ns(self) -> int:
        """The same in nanoseconds."""
        return self._stat.st_mtime_ns

    def read(self) -> bytes:
        """The octets that follow what was read."""
        return self.octets(CHUNK, self.offset)

    def octets(self, count: int, offset: int) -> bytes:
        """At most `count` octets from `offset` on."""
        if self._stream is None:
            return os.pread(self._fd, count, offset)
        self._stream.seek(offset)
        return self._stream.read(count)

    def is_same(self) -> bool:
        """Whether it still begins as it did and is as long as was read; asked after a read."""
        if self._stream is not None:
            return True
        self._stat = os.fstat(self._fd)
        if self._stat.st_size < self.offset:
            return False
        head = os.pread(self._fd, _HEAD, 0)
        if not head.startswith(self.head):
            return False
        self.head = head
        return True

    def has(self, offset: int) -> bool:
        """Whether it is at least that long."""
        if self._stream is None:
            return self._stat.st_size >= offset
        return offset == 0 or len(self.octets(1, offset - 1)) == 1

    def source(self, mark: Mark) -> dict[str, Any]:
        """A position in this file."""
        return {
            "file": str(self._log),
            "inode": self._stat.st_ino,
            "head": _digest(self.head),
            "head_octets": len(self.head),
            "offset": mark,
        }

    def close(self) -> None:
        """Let go of it."""
        if self._stream is not None:
            self._stream.close()
        os.close(self._fd)


def _digest(head: bytes) -> str:
    return hashlib.sha256(head).hexdigest()[:32]


def _siblings(path: Path) -> list[Path]:
    """What rotation has made of earlier logs, oldest first."""
    present = _stat(path)
    found = []
    try:
        with os.scandir(path.parent) as entries:
            for entry in entries:
                rest = entry.name.removeprefix(path.name)
                if rest != entry.name and rest[:1] in (".", "-", "_") and entry.is_file():
                    found.append((entry.stat(), path.parent / entry.name))
    except OSError:
        return []
    found = sorted(found, key=lambda one: one[0].st_mtime_ns)[-_SIBLINGS:]
    return [sibling for stat, sibling in found if present is None or stat.st_ino != present.st_ino]


def _stat(path: Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


def _unreadable(path: Path, fault: BaseException) -> LogUnreadable:
    number = fault.errno if isinstance(fault, OSError) else None
    said = (fault.strerror if isinstance(fault, OSError) else None) or "it is damaged"
    remedy = {
        errno.EACCES: "let the follower's user read it: usermod --append --groups adm carbonseal,"
        " or SupplementaryGroups= in its unit, and see that the unit does not hide it",
        errno.ENOENT: "see where Postfix logs (postconf maillog_file, rsyslog's mail.*) and set"
        " follow.log, or follow.log: journal",
    }.get(number or 0, "see follow.log")
    return LogUnreadable(f"{path}: the log cannot be read ({said}); {remedy}")
