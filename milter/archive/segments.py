"""The reading half of the spool: what waits for the database, in order, and what owners left open.

Promises: `read` yields only whole lines (and what a damaged disk or a broken copy left of the last
line of a closed segment, as a fault) and never moves backwards; `recover` closes the segments
whose owner died (a torn tail is cut, whole lines never are); `finish` keeps a loaded segment in
`loaded/`; `set_aside` keeps a line that no database would take, with the reason, in `set-aside/`.

Raises: OSError where the directory itself cannot be used.

Does not: append records (`spool` does) or know what a record means.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from carbonseal.keys import durable
from carbonseal.milter.archive import merkle, open_segment, record
from carbonseal.milter.archive.spool_line import Apart, Take

LOADED = "loaded"
SET_ASIDE = "set-aside"
_CHUNK = 64 * 1024  # octets in one read, a power of two
_ROOM = [bytes(_CHUNK >> halved) for halved in range(_CHUNK.bit_length())]
_CUT = "the closed segment ends in the middle of this line"


@dataclass(frozen=True, slots=True)
class Segment:
    """One spool file as it was when the directory was listed."""

    name: str  # without suffix: the key under which progress is kept
    path: Path
    is_closed: bool


class Entry(NamedTuple):
    """One whole line of a segment."""

    offset: int  # where it begins
    end: int  # where the next one begins
    line: bytes  # newline included
    position: int | None  # place among the lines of records; null for the footer and torn lines
    fault: str | None  # why the line is no intact record
    is_torn: bool  # the fault is a write that was cut short and never acknowledged
    is_footer: bool
    content: dict[str, Any]  # what the line says; empty where there is a fault
    apart: Apart | None = None  # if it was taken apart; its content is then that one's


def pending(directory: Path) -> list[Segment]:
    """Segments not yet moved to `loaded/`, oldest first.  Empty when there is no directory.

    What is no file (a directory, a FIFO that would let its reader wait for ever) is no segment.
    """
    try:
        names = sorted(entry.name for entry in os.scandir(directory) if entry.is_file())
    except FileNotFoundError:
        return []
    return [
        _segment(directory / name) for name in names if name.endswith(open_segment.CLOSED_SUFFIX)
    ]


def _segment(path: Path) -> Segment:
    is_open = path.name.endswith(open_segment.OPEN_SUFFIX)
    suffix = open_segment.OPEN_SUFFIX if is_open else open_segment.CLOSED_SUFFIX
    return Segment(name=path.name[: -len(suffix)], path=path, is_closed=not is_open)


def read(
    segment: Segment, offset: int, position: int = 0, take: Take | None = None
) -> Iterator[Entry]:
    """The whole lines from `offset` on; `position`: lines of records before it.

    With `take`, records are taken apart where that can be done.

    A segment that was renamed (closed) since it was listed is found under its new name; one that
    was moved away yields nothing.
    """
    try:
        stream = opened(segment, offset)
    except FileNotFoundError:
        return
    with stream:
        for line in stream:
            found = entry(segment, line, offset, position, take)
            if found is None:
                return
            yield found
            if found.end == offset:
                return
            position += found.position is not None
            offset = found.end


def opened(segment: Segment, offset: int) -> BinaryIO:
    """A segment from there on, under whichever name it has now.  Raises: OSError."""
    stream = _open(segment)
    stream.seek(offset)
    return stream


def entry(
    segment: Segment, line: bytes, offset: int, position: int, take: Take | None = None
) -> Entry | None:
    """A line as it was read from there; None where there is none yet.  See `read`.

    What is cut off at the end of a closed segment comes as a line without octets of its own.
    """
    if not segment.is_closed and b"\0" in line:
        # Room that nothing stands in yet, or a line that is being written into it: its end
        # may be seen before its beginning.  No line has such an octet, it is JSON.
        return None
    if not line.endswith(b"\n"):
        if segment.is_closed:
            # It does not count as read: the whole segment may come back from a copy.
            return Entry(offset, offset, line, position, _CUT, False, False, {})
        return None  # still being written, or torn: recovery decides
    end = offset + len(line)
    apart = None if take is None else take(line)
    if apart is not None:
        return Entry(offset, end, line, position, None, False, False, apart.content, apart)
    return _entry(line, offset, end, position)


def has_more(segment: Segment, offset: int) -> bool:
    """Whether anything stands at an offset of an open segment: a size says nothing, it has room."""
    try:
        with open(segment.path, "rb", buffering=0) as stream:
            stream.seek(offset)
            return stream.read(1) not in (b"", b"\0")
    except FileNotFoundError:
        return True  # closed meanwhile


def end_of(path: Path) -> int:
    """Where the last line of a segment ends, and the room of an open one begins.  OSError."""
    with open(path, "rb", buffering=0) as stream:
        end = stream.seek(0, os.SEEK_END)
        while end:
            begin = max(0, end - _CHUNK)
            stream.seek(begin)
            written = _written(stream.read(end - begin))
            end = begin + written
            if written:
                break
    return end


def _written(chunk: bytes) -> int:
    """How much of it stands before the room at its end.

    As `rstrip` would have it, which looks at every single octet: half at a time.
    """
    end = len(chunk)
    for room in _ROOM:
        if chunk.endswith(room, 0, end):
            end -= len(room)
    return end


def _open(segment: Segment) -> BinaryIO:
    try:
        return open(segment.path, "rb", buffering=_CHUNK)
    except FileNotFoundError:
        closed = segment.path.with_name(segment.name + open_segment.CLOSED_SUFFIX)
        return open(closed, "rb", buffering=_CHUNK)


def _entry(line: bytes, offset: int, end: int, position: int) -> Entry:
    try:
        content = record.parse(line)
    except record.BadLine as fault:
        place = None if fault.torn else position
        return Entry(offset, end, line, place, str(fault), fault.torn, False, {})
    except ValueError as fault:
        return Entry(offset, end, line, position, str(fault), False, False, {})
    if line.startswith(b'{"footer":'):
        return Entry(offset, end, line, None, None, False, True, content)
    return Entry(offset, end, line, position, None, False, False, content)


def finish(segment: Segment) -> None:
    """Move a closed, completely loaded segment to `loaded/`.

    Safe direction: if the move is lost, the segment is read again and found already loaded.
    """
    target = segment.path.parent / LOADED
    target.mkdir(mode=0o750, exist_ok=True)
    os.rename(segment.path, target / segment.path.name)
    durable.sync_directory(target)
    durable.sync_directory(segment.path.parent)


def loaded(directory: Path) -> list[Segment]:
    """Segments in `loaded/`, oldest first."""
    return pending(directory / LOADED)


def bring_back(segment: Segment) -> None:
    """Move a segment from `loaded/` to where it is loaded again."""
    directory = segment.path.parent.parent
    os.rename(segment.path, directory / segment.path.name)
    durable.sync_directory(directory)


def remove_loaded(directory: Path, *, before: float) -> int:
    """Delete segments in `loaded/` that were last written before `before` (Unix time); how many.

    Until then they are the copy from which a lost database can be filled again.
    """
    removed = 0
    try:
        entries = list(os.scandir(directory / LOADED))
    except FileNotFoundError:
        return 0
    for entry in entries:
        if entry.name.endswith(open_segment.CLOSED_SUFFIX) and entry.stat().st_mtime < before:
            os.unlink(entry.path)
            removed += 1
    return removed


def set_aside(directory: Path, segment: Segment, entry: Entry, why: str) -> Path:
    """Keep a refused line with its reason; returns the file.  Repeating it changes nothing."""
    target = directory / SET_ASIDE
    target.mkdir(mode=0o750, exist_ok=True)
    path = target / f"{segment.name}-{entry.offset}.json"
    content = {
        "why": why,
        "segment": segment.name,
        "offset": entry.offset,
        "line": entry.line.decode("ascii", "surrogateescape"),
    }
    temporary = path.with_suffix(".tmp")
    with open(temporary, "w", encoding="ascii") as stream:
        json.dump(content, stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)
    durable.sync_directory(target)
    return path


def recover(directory: Path) -> list[Segment]:
    """Close every open segment whose owner is gone; returns them under their closed names.

    The owner's lock dies with its process, so a lock that can be taken means an orphan.
    """
    recovered = []
    for segment in pending(directory):
        if segment.is_closed:
            continue
        try:
            handle = os.open(segment.path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # its owner closed it just now
        try:
            if _is_orphan(handle, segment.path):
                recovered.append(_close_orphan(handle, segment))
        finally:
            os.close(handle)
    return recovered


def _is_orphan(handle: int, path: Path) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    # Whoever held the lock until now may have closed and renamed the file in the meantime.
    return path.exists()


def _close_orphan(handle: int, segment: Segment) -> Segment:
    tree = merkle.Tree()
    end = 0
    has_footer = False
    # As if it were closed: only its end may be cut, whatever a disk has left of a line before it.
    for entry in read(replace(segment, is_closed=True), 0):
        if entry.fault == _CUT:
            break
        end = entry.end
        has_footer = entry.is_footer
        if entry.fault is None and not entry.is_footer:
            tree.add(entry.line)
    os.ftruncate(handle, end)
    if not has_footer:  # it has one when the owner died between footer and rename
        os.pwrite(handle, open_segment.footer(segment.name, tree), end)
    os.fdatasync(handle)
    closed = segment.path.with_name(segment.name + open_segment.CLOSED_SUFFIX)
    os.rename(segment.path, closed)
    durable.sync_directory(segment.path.parent)
    return Segment(segment.name, closed, True)
