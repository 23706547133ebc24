"""How much waits in the spool, and for how long.

Promises: looks at file sizes, at the ends of closed segments and, once, at those lines of open ones
that the writer has not loaded by then; what was counted is not read again, and one look reads no
more than `MOST_READ` octets (beyond it the number of records is estimated).  The writer's own word
says how far it is; without it all that is there counts as waiting.

Raises: OSError where the directory itself cannot be read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from carbonseal.milter.archive import segments, terms
from carbonseal.milter.archive.segments import Segment

MOST_READ: Final = 32 * 1024 * 1024  # octets in one look
_CHUNK: Final = 64 * 1024  # octets in one read: of more, the memory would be cold each time
_FOOTER: Final = 512  # octets from the end in which a closed segment's footer begins
_HEAD: Final = 64 * 1024  # of a line, in which its time is looked for
_FOOTER_RECORDS = re.compile(rb'\{"footer":\{"segment":"[^"]*","records":(\d{1,12}),')
_RECORD_ID = re.compile(rb'"record_id":"([0-9A-HJKMNP-TV-Z]{26})"')
_TIME: Final = 10  # characters of a record id that tell its time
_LEAST_LINE: Final = 400  # octets; what a line is thought to have before one was seen


@dataclass(frozen=True, slots=True)
class Depth:
    """What waits."""

    octets: int  # of all segments that are not in loaded/, as record.spool_limit counts them
    segments: int
    records: int  # not in the database yet
    oldest: float | None  # Unix time of the oldest of these; None: none waits

    def lag(self, now: float) -> float:
        """Seconds for which the oldest one has waited."""
        return 0.0 if self.oldest is None else max(0.0, now - self.oldest)


@dataclass(slots=True)
class _Counted:
    octets: int = 0
    lines: int = 0


class SpoolDepth:
    """Looks again and again."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._counted: dict[str, _Counted] = {}

    def look(self, progress: Mapping[str, tuple[int, int]]) -> Depth:
        """`progress`: octets and lines of each segment that the writer has loaded."""
        pending = segments.pending(self._directory)
        self._counted = {one.name: self._counted.get(one.name, _Counted()) for one in pending}
        octets = records = 0
        budget = MOST_READ
        oldest: float | None = None
        for segment in pending:
            try:
                size = os.stat(segment.path).st_size
                octets += size
                loaded, loaded_lines = progress.get(segment.name, (0, 0))
                if loaded >= size or loaded >= (size := _end(segment, size)):
                    continue
                lines, read = self._lines(segment, size, budget, (loaded, loaded_lines))
            except FileNotFoundError:
                continue  # closed or loaded just now: the next look finds it
            except PermissionError:
                lines, read = size // _LEAST_LINE, 0  # of another user, the follower perhaps
            budget -= read
            waiting = max(0, lines - loaded_lines)
            records += waiting
            # No record is older than its segment, and they come in the order of their age.
            if waiting and (oldest is None or _begun(segment) < oldest):
                found = _time_at(segment, loaded)
                oldest = found if oldest is None else min(oldest, found)
        return Depth(octets, len(pending), records, oldest)

    def _lines(
        self, segment: Segment, size: int, budget: int, loaded: tuple[int, int]
    ) -> tuple[int, int]:
        """How many records a segment holds, and how much was read to find out.

        `loaded`: octets and lines that need not be counted any more.
        """
        counted = self._counted[segment.name]
        if segment.is_closed:
            found = _records_of_closed(segment, size)
            if found is not None:
                return found, 0
        if loaded[0] > counted.octets:
            counted.octets, counted.lines = loaded
        read = _count(segment, counted, min(size, counted.octets + max(0, budget)))
        rest = size - counted.octets
        if rest <= 0:
            return counted.lines, read
        usual = counted.octets / counted.lines if counted.lines else _LEAST_LINE
        return counted.lines + int(rest / usual), read


def _count(segment: Segment, counted: _Counted, end: int) -> int:
    """Go on counting line ends up to an offset; how much was read."""
    begin = counted.octets
    chunk = bytearray(max(0, min(_CHUNK, end - begin)))
    with open(segment.path, "rb", buffering=0) as stream:
        stream.seek(begin)
        while counted.octets < end:
            got = stream.readinto(memoryview(chunk)[: end - counted.octets])
            if not got:
                break
            counted.lines += _line_ends(chunk, got)
            counted.octets += got
    return counted.octets - begin


def _line_ends(chunk: bytearray, end: int) -> int:
    """How many lines end before an offset.

    Each is searched for: `count` looks at every single octet, and takes ten times as long for lines
    of three thousand.
    """
    found, at = 0, chunk.find(b"\n", 0, end)
    while at >= 0:
        found += 1
        at = chunk.find(b"\n", at + 1, end)
    return found


def _end(segment: Segment, size: int) -> int:
    """Where its lines end: an open segment has room behind them."""
    return size if segment.is_closed else segments.end_of(segment.path)


def _records_of_closed(segment: Segment, size: int) -> int | None:
    with open(segment.path, "rb", buffering=0) as stream:
        stream.seek(max(0, size - _FOOTER))
        found = _FOOTER_RECORDS.search(stream.read(_FOOTER))
    return None if found is None else int(found[1])


def _time_at(segment: Segment, offset: int) -> float:
    """When the record at an offset was made; where that cannot be seen, its segment."""
    try:
        with open(segment.path, "rb", buffering=0) as stream:
            stream.seek(offset)
            line = stream.read(_HEAD).partition(b"\n")[0]
    except (FileNotFoundError, PermissionError):
        return _begun(segment)
    found = _RECORD_ID.search(line)
    return _begun(segment) if found is None else _moment(found[1].decode("ascii"))


def _begun(segment: Segment) -> float:
    return _moment(segment.name)


def _moment(name: str) -> float:
    """Unix time in a record id, or a segment's name; 0 where there is none."""
    try:
        return int(name[:_TIME].translate(terms.TO_BASE32), 32) / 1000
    except ValueError:
        return 0.0
