"""One file of the spool that is being appended to, locked for as long as its owner lives.

Promises: `append` returns when its lines are on disk (fdatasync).  What was written is never
written over, whatever failed after it: a reader may have seen it.  Behind the last line the file
may have *room*, zeros that are on disk already: the sync of a line that falls into it has neither
a size nor new blocks to put into the file system's journal (measured on ext4: 300 microseconds in
place of 440 to 680, of CPU 110 in place of 170, the kernel's threads included).  A closed segment
has none.

Raises: OSError where lines could not be made durable; `Taken`, `Vanished` and `Unsynced` are such.

`append_plainly` has a compiled twin, which runs wherever a compiler was at hand: between two of its
three system calls a worker's other threads would each time take the interpreter over.

Does not: decide when a segment is old or large enough (`spool` does), or read (`segments` does).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from carbonseal.keys import durable
from carbonseal.milter.archive import merkle, record

try:
    from carbonseal.milter.archive import _open_segment as compiled
except ImportError:
    compiled = None  # type: ignore[assignment]

OPEN_SUFFIX: Final = ".open.jsonl"
CLOSED_SUFFIX: Final = ".jsonl"
# As much as there is already, so that a relay of few messages writes few zeros; no more than a
# reader passes over in no time.
_LEAST_ROOM: Final = 32 * 1024
_MOST_ROOM: Final = 256 * 1024
# A write ends with a page of its room, whose zeros are zeros then as before: of a page that was
# dropped from the cache meanwhile the kernel would have to read the rest first.
_PAGE: Final = 4096
_REST_OF_A_PAGE: Final = bytes(_PAGE)
# Not the line end alone: the torn line may lack nothing else and would become an intact record.
_TORN_END: Final = record.TORN_MARK + b"\n"
# What came of an append.
_DONE, _VANISHED, _UNWRITTEN, _UNSYNCED = range(4)


class Taken(OSError):
    """Recovery took a new segment for an orphan before it was locked."""


class Vanished(OSError):
    """The name no longer leads to our file (removed, or the directory was replaced)."""


class Unsynced(OSError):
    """fdatasync failed: the file's content is in doubt."""


def append_plainly(
    place: tuple[bytes, int, int, int],
    octets: bytes,
    needed: int,
    lines: list[bytes],
    meanwhile: Callable[[], None] | None,
    /,
) -> tuple[int, int, int, list[bytes]]:
    """Write `octets`, the first `needed` of them for certain, and sync.

    `place` is a path, an inode, an open file and an offset in it: nothing is written unless the
    path leads to the file.
    `meanwhile` is done between the two, while the disk writes already (which only the compiled twin
    can have it do), unless something is wrong before.  Returns what came of it, errno of the fault,
    how many octets were written, and the leaves of `lines` if all went well.
    """
    path, inode, file, offset = place
    if not _leads_to(path, inode):
        return _VANISHED, 0, 0, []
    written, rest = 0, octets
    while written < needed:
        try:
            written += os.pwrite(file, rest, offset + written)
        except OSError as fault:
            if written + len(rest) <= needed:
                return _UNWRITTEN, fault.errno or 0, written, []
        # Room that there is no space for is gone without.
        rest = octets[written:needed]
    if meanwhile is not None:
        with contextlib.suppress(Exception):
            meanwhile()
    try:
        os.fdatasync(file)
    except OSError as fault:
        return _UNSYNCED, fault.errno or 0, written, []
    return _DONE, 0, written, list(map(merkle.leaf_hash, lines))


def _leads_to(path: bytes, inode: int) -> bool:
    try:
        return os.stat(path).st_ino == inode
    except OSError:
        return False


_append = append_plainly if compiled is None else compiled.append


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
        self._path = os.fsencode(directory / (self.name + OPEN_SUFFIX))
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
        if not _leads_to(self._path, self._inode):
            # Closed under its other name already, with a footer: nothing may follow that.
            raise Taken

    def is_due(self, now: float, seconds: float) -> bool:
        """Whether it has lines, and is that old."""
        return now - self.opened_at >= seconds and self._tree.leaves > 0

    def append(self, lines: list[bytes], meanwhile: Callable[[], None] | None = None) -> None:
        """Write and sync, with `meanwhile` in between, which raises nothing.

        OSError: nothing is promised, the segment stays usable.

        Raises: Vanished (nothing was written), Unsynced; after these two it does not.
        """
        # A torn line of an earlier fault is ended first; readers skip it by its missing checksum.
        data = b"".join([_TORN_END, *lines] if self._torn else lines)
        needed = len(data)
        octets = data
        if self._has_room:
            end = self.size + needed
            if end > self._reach:
                reach = end + min(max(self.size, _LEAST_ROOM), _MOST_ROOM)
                octets += bytes((reach & -_PAGE) - end)
            else:
                octets += _REST_OF_A_PAGE[: -end % _PAGE]
        place = (self._path, self._inode, self._file, self.size)
        outcome, fault, written, leaves = _append(place, octets, needed, lines, meanwhile)
        if outcome == _VANISHED:
            raise Vanished(errno.ENOENT, os.strerror(errno.ENOENT))
        if outcome == _UNWRITTEN:
            self._account_for_part(data[:written])
            raise OSError(fault, os.strerror(fault))
        self._torn = False
        self._reach = max(self._reach, self.size + written)
        self.size += needed
        if outcome == _UNSYNCED:
            raise Unsynced(fault, os.strerror(fault))
        for leaf in leaves:
            self._tree.add_leaf(leaf)

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


def footer(name: str, tree: merkle.Tree, as_sealed: Mapping[str, str] | None = None) -> bytes:
    """The last line of a closed segment; `as_sealed`: see `evidence.rewriting`."""
    said = {"segment": name, "records": tree.leaves, "merkle_root": tree.root().hex()}
    more = {} if as_sealed is None else {"as_sealed": as_sealed}
    return record.encode({"footer": said | more})
