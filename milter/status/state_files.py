"""Small files in which one process of a relay says how it is: `<spool>/state/NAME.json`.

Promises: `write` replaces the file in one step for everybody who reads it and never raises: what it
is about goes on without it.  `read` takes what it can read: a file that is missing, damaged, larger
than `MAX_FILE` or no object is as good as none, and so is one with a number that no float holds.
Every file says when it was written (`at`, Unix time in seconds).  Room that was kept by `keep_room`
takes what has to be said on a disk that is full (`write_into_room`).

Does not: fsync; after a power cut nobody is as he was.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

FOLDER: Final = "state"
MAX_FILE: Final = 4 * 1024 * 1024  # octets
ROOM: Final = 128 * 1024  # octets; the page of a relay of a thousand domains has 60,000
_SUFFIX: Final = ".json"
_MOST: Final = 1 << 100  # an inode's number has 64 bits


def write(spool: Path, name: str, facts: Mapping[str, Any], *, now: float | None = None) -> bool:
    """Say how `name` is; whether that could be written."""
    folder = spool / FOLDER
    content = _content(facts, now)
    fresh = folder / f".{name}-{secrets.token_hex(4)}"
    try:
        handle = _create(fresh)
        try:
            # Writer, milter and follower are several users: the folder says who may read.
            os.fchmod(handle, 0o644)
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
            os.replace(fresh, folder / (name + _SUFFIX))
        except OSError:
            with contextlib.suppress(OSError):
                fresh.unlink()
            raise
    except OSError:
        return False
    return True


def keep_room(spool: Path, name: str) -> None:
    """Take room on the disk for a time when there is none; what cannot be had is tried again."""
    path = _room(spool, name)
    if os.path.exists(path):
        return
    with contextlib.suppress(OSError):
        handle = _create(path)
        try:
            # Octets, no hole: only what was written has its room.
            if os.write(handle, bytes(ROOM)) < ROOM:
                os.unlink(path)
        except OSError:
            os.unlink(path)
        finally:
            os.close(handle)


def write_into_room(
    spool: Path, name: str, facts: Mapping[str, Any], *, now: float | None = None
) -> bool:
    """Say how `name` is in the room that was kept for it, and use that up; whether it was there."""
    path, content = _room(spool, name), _content(facts, now)
    if len(content) > ROOM:
        return False
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.write(handle, content)
            os.ftruncate(handle, len(content))
            os.fchmod(handle, 0o644)
        finally:
            os.close(handle)
        os.replace(path, spool / FOLDER / (name + _SUFFIX))
    except OSError:
        return False
    return True


def _room(spool: Path, name: str) -> Path:
    return spool / FOLDER / f".{name}-room"


def _content(facts: Mapping[str, Any], now: float | None) -> bytes:
    about = {"at": time.time() if now is None else now, **facts}
    return json.dumps(about, separators=(",", ":")).encode("ascii")


def _create(path: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags, 0o640)
    except FileNotFoundError:
        make_folder(path.parent)
        return os.open(path, flags, 0o640)


def make_folder(folder: Path) -> None:
    """As open as the spool is: writer and milter may be two users of one group."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o750)
        mode = stat.S_IMODE(os.stat(folder.parent).st_mode) & 0o2770
        with contextlib.suppress(PermissionError):
            os.chmod(folder, mode | 0o700)


def read(spool: Path, name: str) -> dict[str, Any] | None:
    """What `name` said last; None where that cannot be read or makes no sense."""
    path = spool / FOLDER / (name + _SUFFIX)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        with os.fdopen(handle, "rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                return None
            content = stream.read(MAX_FILE + 1)
        about = parse(content) if len(content) <= MAX_FILE else None
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(about, dict) or not isinstance(about.get("at"), int | float):
        return None
    return about


def parse(content: bytes) -> Any:
    """JSON whose numbers all fit a float.  Raises: ValueError, RecursionError."""
    return json.loads(content, parse_constant=_no_number, parse_float=_finite, parse_int=_no_giant)


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value


def _no_giant(text: str) -> int:
    value = int(text)
    if abs(value) >= _MOST:
        raise ValueError("a number is too large")
    return value


def exists(spool: Path, name: str) -> bool:
    """Whether somebody of that name ever spoke, in whatever words."""
    return os.path.exists(spool / FOLDER / (name + _SUFFIX))  # Path.exists raises on a closed door


class Reporter:
    """Says how one process is: at once when something is new, else every few seconds."""

    def __init__(
        self,
        spool: Path,
        name: str,
        *,
        every: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spool = spool
        self._name = name
        self._every = every
        self._clock = clock
        self._next = 0.0

    def is_due(self) -> bool:
        """Whether it is time to speak again."""
        return self._clock() >= self._next

    def say(self, facts: Mapping[str, Any]) -> None:
        """Write it down; what cannot be written is tried again the next time."""
        self._next = self._clock() + self._every
        write(self._spool, self._name, facts)
