"""How far the log was read: found in the follower's own event lines, and in a small file.

Promises: whichever of the two is further counts.  The event lines are durable before anything else
knows of them; the file (`state/follow.json` in the spool, which `status` reads as well) is replaced
atomically, and takes over where lines brought no facts for long, or loaded segments were deleted
or are closed to the follower's user.

Raises: OSError from `write`.

Does not: judge whether the log still has the position (`log_file`, `journal` do).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from carbonseal.keys import durable
from carbonseal.milter.archive import record, segments
from carbonseal.milter.follow import gathering
from carbonseal.milter.status import state_files

SUFFIX: Final = "-follow"  # of the names of the follower's segments
_NAME: Final = "follow"
_TAIL: Final = 4 << 20  # octets; an event line has 100 log lines of 2,000 octets at most
_SEGMENTS: Final = 3  # that are looked at: the newest may be empty, a clock may have gone back


@dataclass(frozen=True, slots=True)
class Position:
    """Where to go on."""

    turn: int  # flushes until then: of two positions the one with more is further
    source: Mapping[str, Any]

    def of_file(self, path: Path) -> Mapping[str, Any] | None:
        """The position in this log file; None when it is one of something else."""
        fields = {"file": str, "inode": int, "head": str, "head_octets": int, "offset": int}
        if not self._has(fields) or self.source["file"] != str(path) or self.source["offset"] < 0:
            return None
        return self.source

    def of_journal(self, directory: str) -> Mapping[str, Any] | None:
        """The position in the journal; None when it is one of something else."""
        is_it = self._has({"journal": str, "cursor": str})
        return self.source if is_it and self.source["journal"] == (directory or "system") else None

    def _has(self, fields: Mapping[str, type]) -> bool:
        return all(type(self.source.get(name)) is kind for name, kind in fields.items())


def newest(spool_directory: Path) -> Position | None:
    """The furthest position there is."""
    found = [*_in_segments(spool_directory)]
    state = _position(read(spool_directory).get("position"))
    # Last: of the same turn it is the later one, for it is written after the lines.
    if state is not None:
        found.append(state)
    furthest: Position | None = None
    for one in found:
        if furthest is None or one.turn >= furthest.turn:
            furthest = one
    return furthest


def _in_segments(directory: Path) -> Iterator[Position]:
    every = segments.pending(directory)
    try:
        every += segments.loaded(directory)
    except PermissionError:
        pass  # the directory is the writer's, where another user made it: then the file counts
    mine = sorted((one for one in every if one.name.endswith(SUFFIX)), key=lambda one: one.name)
    for segment in mine[-_SEGMENTS:]:
        found = _last_in(segment.path)
        if found is not None:
            yield found


def _last_in(path: Path) -> Position | None:
    try:
        with open(path, "rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - _TAIL))
            data = stream.read(_TAIL)
    except OSError:
        return None  # the writer moved it away just now: then it is read under its next name
    for line in reversed(data.split(b"\n")):
        try:
            content = record.parse(line)
        except ValueError:
            continue
        if content.get("event") == gathering.EVENT:
            return _position(content.get("source"))
    return None


def _position(source: Any) -> Position | None:
    if not isinstance(source, dict) or type(source.get("turn")) is not int:
        return None
    return Position(source["turn"], {key: one for key, one in source.items() if key != "turn"})


def read(spool_directory: Path) -> dict[str, Any]:
    """What the file says; empty where there is none, or none of ours."""
    return state_files.read(spool_directory, _NAME) or {}


def tidy(spool_directory: Path) -> None:
    """Remove what a killed `write` left behind."""
    durable.sweep(spool_directory / state_files.FOLDER)


def write(spool_directory: Path, content: Mapping[str, Any]) -> None:
    """Replace the file.  Raises: OSError."""
    directory = spool_directory / state_files.FOLDER
    state_files.make_folder(directory)
    data = record.ascii_json(content) + b"\n"
    durable.replace(directory / f"{_NAME}.json", data, durable.Access(0o640))
