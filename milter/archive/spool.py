"""The writing half of the spool: one open segment per worker, durable before anybody is answered.

Promises: when `Spool.put` or `put_all` returns, its lines are on disk (fdatasync of the file, fsync
of its directory).  Lines of all threads that wait at the same moment share one fdatasync.  A
segment is only ever appended to; what follows a fault never overwrites what a reader may have seen.
A closed segment ends in a footer with its number of records and their Merkle root.  "Better
recorded twice than not recorded": a line whose put failed may still be found in the segment.

Raises: `SpoolUnwritable` (a sentence for the operator) when the line could not be made durable; the
next one tries afresh, so the spool recovers by itself.

Does not: read segments (`segments` does), know what a line means, or delete anything but an empty
segment of its own.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TypeVar

from carbonseal.milter.archive import open_segment
from carbonseal.policies.errors import TryLater

# What is done with a message by one who does not wait: it hands out a line and goes on when that is
# durable; if it is not, the fault is thrown in there.
T = TypeVar("T")
Steps = Generator[bytes, None, T]

SEGMENT_BYTES = 64 * 1024 * 1024
SEGMENT_SECONDS = 60.0
_ATTEMPTS = 10  # at making a new segment


class SpoolUnwritable(TryLater):
    """The record could not be made durable; the message must not be accepted."""


def taken(steps: Steps[T], put: Callable[[bytes], None]) -> T:
    """Take steps to their end, by `put` (of `Spool`) where they wait; returns what they return."""
    try:
        line = next(steps)
        while True:
            try:
                put(line)
            except Exception as fault:  # whatever it is, it is theirs to answer
                line = steps.throw(fault)
            else:
                line = next(steps)
    except StopIteration as end:
        value: T = end.value
        return value


class _Batch:
    """The lines that will share one fdatasync, and the threads that wait for it."""

    __slots__ = ("fault", "followers", "is_over", "lines")

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        # One lock, taken, for each thread but the first: an Event costs ten times as much, and most
        # batches of a relay that is not overloaded have no followers.
        self.followers: list[threading.Lock] = []
        self.fault: SpoolUnwritable | None = None
        self.is_over = False  # until its leader says so, it counts as failed


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
        has_room: bool = False,
    ) -> None:
        """Write to `directory`; `suffix` ends the names of segments that are to be told apart.

        `has_room`: prepare the file ahead, for those whose every sync somebody waits for.
        """
        self._directory = directory
        self._suffix = suffix
        self._has_room = has_room
        self._segment_bytes = segment_bytes
        self._segment_seconds = segment_seconds
        self._limit_bytes = limit_bytes
        self._clock = clock
        self._gate = threading.Lock()  # guards _next; held for an append only
        self._flush_turn = threading.Lock()  # guards the segment; held for a write and a sync
        self._next = _Batch()
        self._segment: open_segment.OpenSegment | None = None
        self._overfull: str | None = None

    def put(self, line: bytes) -> None:
        """Make `line` (from `record.encode`) durable; blocks for one fdatasync or a part of one.

        The first thread to arrive leads: it waits for the flush that is under way, and everybody
        who arrives meanwhile joins its batch.  No thread of ours runs in the background for this.
        """
        self._keep_within_the_limit()
        turn = None
        with self._gate:
            batch = self._next
            batch.lines.append(line)
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
                    batch.is_over = True
                finally:
                    # Released whatever happened to their leader.
                    for follower in batch.followers:
                        follower.release()
        else:
            turn.acquire()
        if batch.fault is not None:
            raise batch.fault
        if not batch.is_over:
            raise SpoolUnwritable("the record was not written")

    def put_all(self, lines: list[bytes], meanwhile: Callable[[], None] | None = None) -> None:
        """Make several lines durable with one fdatasync: for those who bring many at once.

        `meanwhile` is done while the disk writes, once or not at all; it raises nothing.
        """
        self._keep_within_the_limit()
        with self._flush_turn:
            fault = self._flushed(lines, meanwhile)
        if fault is not None:
            try:
                raise fault
            finally:
                # It knows this frame by its traceback, and would keep it, itself and all those into
                # which it is thrown until somebody collects garbage.
                del fault

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

    def _keep_within_the_limit(self) -> None:
        if self._overfull is not None:
            raise SpoolUnwritable(self._overfull)

    def _flushed(
        self, lines: list[bytes], meanwhile: Callable[[], None] | None = None
    ) -> SpoolUnwritable | None:
        try:
            self._flush(lines, meanwhile)
        except OSError as fault:
            return self._explain(fault)
        return None

    def _flush(self, lines: list[bytes], meanwhile: Callable[[], None] | None) -> None:
        try:
            self._append(lines, meanwhile)
        except open_segment.Vanished:
            self._append(lines, meanwhile)  # to a new one, if there is still a place for it

    def _append(self, lines: list[bytes], meanwhile: Callable[[], None] | None) -> None:
        segment = self._segment
        if segment is not None and segment.size >= self._segment_bytes:
            self._close_segment()
            segment = None
        if segment is None:
            segment = self._segment = self._new_segment()
        try:
            segment.append(lines, meanwhile)
        except (open_segment.Vanished, open_segment.Unsynced):
            # After a failed fsync the kernel may call the lost pages clean, so that a later fsync
            # of the same file would lie: nothing more may be promised on this file.
            segment.abandon()
            self._segment = None
            raise

    def _new_segment(self) -> open_segment.OpenSegment:
        for _ in range(_ATTEMPTS):
            try:
                return open_segment.OpenSegment(
                    self._directory, self._clock(), self._suffix, has_room=self._has_room
                )
            except open_segment.Taken:
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
                if entry.name.endswith(open_segment.CLOSED_SUFFIX):
                    waiting += _size(entry)
    except OSError:
        return 0
    return waiting


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except FileNotFoundError:
        return 0  # the writer moved it away just now
