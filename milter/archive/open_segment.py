"""One file of the spool that is being appended to, locked for as long as its owner lives.

Promises: `append` returns when its lines are on disk (fdatasync).  What was written is never
written over, whatever failed after it: a reader may have seen it.  Behind the last line the file
may have *room*, zeros that are on disk already: the sync of a line that falls into it has neither
a size nor new blocks to put into the file system's journal (measured on ext4: 300 microseconds in
place of 440 to 680, of CPU 110 in place of 170, the kernel's threads included).  A closed segment
has none.

Raises: OSError where lines could not be made durable; `Taken` and `Unsynced` are such.

Does not: decide when a segment is old or large enough (`spool` does), or read (`segments` does).
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

from carbonseal.keys import durable
from carbonseal.milter.archive import merkle, record

OPEN_SUFFIX: Final = ".open.jsonl"
CLOSED_SUFFIX: Final = ".jsonl"
# As much as there is already, so that a relay of few messages writes few zeros; no more than a
# reader passes over in no time.
_LEAST_ROOM: Final = 32 * 1024
_MOST_ROOM: Final = 256 * 1024
# Not the line end alone: the torn line may lack nothing else and would become an intact record.
_TORN_END: Final = record.TORN_MARK + b"\n"


class Taken(OSError):
    """Recovery took a new segment for an orphan before it was locked."""


class Unsynced(OSError):
    """fdatasync failed: the file's content is in doubt."""


class OpenSegment:
    """The file, its lines so far and their Merkle tree."""

    def __init__(self, directory: Path, now: float, suffix: str, *, has_room: bool) -> None:
        # The record id alphabet sorts by time; pid and randomness keep workers apart.
        self.name = f"{record.new_record_id(int(now * 1000))}-{os.getpid()}{suffix}"
        self.opened_at = now
        self.size = 0  # of the lines, without the room behind them
        self._reach = 0  # where the room ends
        self._has_room = has_room
        self._tree = merkle.Tree()
        self._torn = False
        self._directory = directory
        self._path = os.fspath(directory / (self.name + OPEN_SUFFIX))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._file = os.open(self._path, flags, 0o640)
        try:
            self._lock()
            durable.sync_directory(directory)
        except Taken:
            os.close(self._file)  # recovery ends what it has begun
            raise
        except OSError:
            self.abandon()
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Taken from None
        self._inode = os.fstat(self._file).st_ino
        if self.has_vanished():
            # Closed under its other name already, with a footer: nothing may follow that.
            raise Taken

    def is_due(self, now: float, seconds: float) -> bool:
        """Whether it has lines, and is that old."""
        return now - self.opened_at >= seconds and self._tree.leaves > 0

    def has_vanished(self) -> bool:
        """Whether the name no longer leads to our file (removed, or the directory was replaced)."""
        try:
            return os.stat(self._path).st_ino != self._inode
        except OSError:
            return True

    def append(self, lines: list[bytes]) -> None:
        """Write and sync.  OSError: nothing is promised, the segment stays usable."""
        # A torn line of an earlier fault is ended first; readers skip it by its missing checksum.
        data = b"".join([_TORN_END, *lines] if self._torn else lines)
        room = 0
        if self._has_room and self.size + len(data) > self._reach:
            room = min(max(self.size, _LEAST_ROOM), _MOST_ROOM)
        self._write(data, room)
        try:
            os.fdatasync(self._file)
        except OSError as fault:
            raise Unsynced(fault.errno, fault.strerror) from fault
        for line in lines:
            self._tree.add(line)

    def _write(self, data: bytes, room: int) -> None:
        written = 0
        rest = data + bytes(room) if room else data
        try:
            while written < len(data):
                written += os.pwrite(self._file, rest, self.size + written)
                # Room that there is no space for is gone without.
                rest = data[written:]
        except OSError:
            self._account_for_part(data[:written])
            raise
        self._torn = False
        self._reach = max(self._reach, self.size + written)
        self.size += len(data)

    def _account_for_part(self, data: bytes) -> None:
        """Count what a failed write left in the file: whole lines are records to any reader."""
        if not data:
            return
        self.size += len(data)
        *whole, rest = data.split(b"\n")
        for line in whole[1:] if self._torn else whole:  # the first ends the torn line before
            self._tree.add(line + b"\n")
        self._torn = bool(rest)

    def close(self) -> None:
        """Cut off the room, write the footer and rename to the closed name."""
        # In this order: the sync of the footer makes the new size durable as well.
        os.ftruncate(self._file, self.size)
        self._has_room = False
        self.append([footer(self.name, self._tree)])
        os.rename(self._path, self._directory / (self.name + CLOSED_SUFFIX))
        durable.sync_directory(self._directory)
        os.close(self._file)

    def abandon(self) -> None:
        """Let go of the file; an empty one is removed, any other is left to recovery."""
        if self._tree.leaves == 0 and self.size == 0:
            try:
                os.unlink(self._path)
            except OSError:
                pass  # it is empty: whoever recovers the spool will close it
        os.close(self._file)


def footer(name: str, tree: merkle.Tree) -> bytes:
    """The last line of a closed segment."""
    return record.encode(
        {"footer": {"segment": name, "records": tree.leaves, "merkle_root": tree.root().hex()}}
    )
