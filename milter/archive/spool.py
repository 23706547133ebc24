"""The writing half of the spool: one open segment per worker, durable before anybody is answered.

Promises: when `Spool.put` returns, the line is on disk (fdatasync of the file, fsync of its
directory).  Lines of all threads that wait at the same moment share one fdatasync.  A segment is
only ever appended to; what follows a fault never overwrites what a reader may have seen.  A closed
segment ends in a footer with its number of records and their Merkle root.  "Better recorded twice
than not recorded": a line whose put failed may still be found in the segment.

Raises: `SpoolUnwritable` (a sentence for the operator) when the line could not be made durable; the
next `put` tries afresh, so the spool recovers by itself.

Does not: read segments (`segments` does), know what a line means, or delete anything but an empty
segment of its own.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from carbonseal.keys import durable
from carbonseal.milter.archive import merkle, record
from carbonseal.policies.errors import TryLater

OPEN_SUFFIX = ".open.jsonl"
CLOSED_SUFFIX = ".jsonl"
SEGMENT_BYTES = 64 * 1024 * 1024
SEGMENT_SECONDS = 60.0
_ATTEMPTS = 10  # at making a new segment
# Not the line end alone: the torn line may lack nothing else and would become an intact record.
_TORN_END = record.TORN_MARK + b"\n"


class SpoolUnwritable(TryLater):
    """The record could not be made durable; the message must not be accepted."""


class _Batch:
    """The lines that will share one fdatasync, and the threads that wait for it."""

    __slots__ = ("fault", "followers", "lines")

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        # One lock, taken, for each thread but the first: an Event costs ten times as much, and most
        # batches of a relay that is not overloaded have no followers.
        self.followers: list[threading.Lock] = []
        # Until the leader says otherwise the batch counts as failed.
        self.fault: SpoolUnwritable | None = SpoolUnwritable("the record was not written")


class Spool:
    """Appends lines durably; safe to call from many threads of one process.

    Each process opens its own: the file lock that tells a live segment from an orphan belongs to
    the process that opened it.
    """

    def __init__(
        self,
        directory: Path,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        segment_seconds: float = SEGMENT_SECONDS,
        limit_bytes: int | None = None,
        clock: Callable[[], float] = time.time,
        suffix: str = "",
    ) -> None:
        """Write to `directory`; `suffix` ends the names of segments that are to be told apart."""
        self._directory = directory
        self._suffix = suffix
        self._segment_bytes = segment_bytes
        self._segment_seconds = segment_seconds
        self._limit_bytes = limit_bytes
        self._clock = clock
        self._gate = threading.Lock()  # guards _next; held for an append only
        self._flush_turn = threading.Lock()  # guards the segment; held for a write and a sync
        self._next = _Batch()
        self._segment: _OpenSegment | None = None
        self._overfull: str | None = None

    def put(self, line: bytes) -> None:
        """Make `line` (from `record.encode`) durable; blocks for one fdatasync or a part of one.

        The first thread to arrive leads: it waits for the flush that is under way, and everybody
        who arrives meanwhile joins its batch.  No thread of ours runs in the background for this.
        """
        if self._overfull is not None:
            raise SpoolUnwritable(self._overfull)
        with self._gate:
            batch = self._next
            batch.lines.append(line)
            turn = None
            if len(batch.lines) > 1:
                turn = threading.Lock()
                turn.acquire()
                batch.followers.append(turn)
        if turn is None:
            with self._flush_turn:
                with self._gate:
                    self._next = _Batch()
                try:
                    batch.fault = self._flushed(batch.lines)
                finally:
                    # Released whatever happened to their leader.
                    for follower in batch.followers:
                        follower.release()
        else:
            turn.acquire()
        if batch.fault is not None:
            raise batch.fault

    def put_all(self, lines: list[bytes]) -> None:
        """Make several lines durable with one fdatasync: for those who bring many at once."""
        with self._flush_turn:
            fault = self._flushed(lines)
        if fault is not None:
            raise fault

    def tend(self) -> None:
        """Housekeeping, once a second or so: close an old segment, measure the spool's size."""
        with self._flush_turn:
            segment = self._segment
            if segment is not None and segment.is_due(self._clock(), self._segment_seconds):
                self._close_segment()
        self._measure()

    def close(self) -> None:
        """Close the open segment with its footer; further puts open a new one."""
        with self._flush_turn:
            self._close_segment()

    def _flushed(self, lines: list[bytes]) -> SpoolUnwritable | None:
        try:
            self._flush(lines)
        except OSError as fault:
            return self._explain(fault)
        return None

    def _flush(self, lines: list[bytes]) -> None:
        segment = self._segment
        if segment is not None and segment.has_vanished():
            segment.abandon()
            segment = self._segment = None
        if segment is not None and segment.size >= self._segment_bytes:
            self._close_segment()
            segment = None
        if segment is None:
            segment = self._segment = self._new_segment()
        try:
            segment.append(lines)
        except _Unsynced:
            # After a failed fsync the kernel may call the lost pages clean, so that a later fsync
            # of the same file would lie: nothing more may be promised on this file.
            segment.abandon()
            self._segment = None
            raise

    def _new_segment(self) -> _OpenSegment:
        for _ in range(_ATTEMPTS):
            try:
                return _OpenSegment(self._directory, self._clock(), self._suffix)
            except _Taken:
                continue  # recovery will not be quicker than us every time
        raise OSError(errno.EAGAIN, "recovery takes every new segment for an orphan")

    def _close_segment(self) -> None:
        segment, self._segment = self._segment, None
        if segment is None:
            return
        try:
            segment.close()
        except OSError:
            # Not lost: an open segment without owner is closed by segments.recover().
            segment.abandon()

    def _measure(self) -> None:
        if self._limit_bytes is None:
            return
        waiting = waiting_bytes(self._directory)
        self._overfull = (
            f"{self._directory}: {waiting} bytes of records wait for the database, the limit is "
            f"{self._limit_bytes}; mend the writer or raise record.spool_limit"
            if waiting > self._limit_bytes
            else None
        )

    def _explain(self, fault: OSError) -> SpoolUnwritable:
        remedy = {
            errno.ENOSPC: "free space on its file system",
            errno.EDQUOT: "raise the quota",
            errno.EROFS: "remount its file system writable",
            errno.EACCES: "give the service's user write permission",
            errno.ENOENT: "create the directory",
        }.get(fault.errno or 0, "look at its file system and disk")
        return SpoolUnwritable(
            f"{self._directory}: cannot write the record ({fault.strerror}); {remedy}"
        )


def waiting_bytes(directory: Path) -> int:
    """Octets of records that no writer has finished; 0 when the directory cannot be read."""
    waiting = 0
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name.endswith(CLOSED_SUFFIX):
                    waiting += _size(entry)
    except OSError:
        return 0
    return waiting


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except FileNotFoundError:
        return 0  # the writer moved it away just now


class _Taken(OSError):
    """Recovery took a new segment for an orphan before it was locked."""


class _Unsynced(OSError):
    """fdatasync failed: the file's content is in doubt."""


class _OpenSegment:
    """One file that is being appended to, locked for as long as its owner lives."""

    def __init__(self, directory: Path, now: float, suffix: str) -> None:
        # The record id alphabet sorts by time; pid and randomness keep workers apart.
        self.name = f"{record.new_record_id(int(now * 1000))}-{os.getpid()}{suffix}"
        self.opened_at = now
        self.size = 0
        self._tree = merkle.Tree()
        self._torn = False
        self._directory = directory
        self._path = os.fspath(directory / (self.name + OPEN_SUFFIX))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(self._path, flags, 0o640)
        try:
            self._lock()
            durable.sync_directory(directory)
        except _Taken:
            os.close(self._file)  # recovery ends what it has begun
            raise
        except OSError:
            self.abandon()
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _Taken from None
        self._inode = os.fstat(self._file).st_ino
        if self.has_vanished():
            # Closed under its other name already, with a footer: nothing may follow that.
            raise _Taken

    def is_due(self, now: float, seconds: float) -> bool:
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
        written = 0
        try:
            while written < len(data):
                written += os.write(self._file, data[written:] if written else data)
        except OSError:
            self._account_for_part(data[:written])
            raise
        self._torn = False
        self.size += written
        try:
            os.fdatasync(self._file)
        except OSError as fault:
            raise _Unsynced(fault.errno, fault.strerror) from fault
        for line in lines:
            self._tree.add(line)

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
        """Write the footer and rename to the closed name."""
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
