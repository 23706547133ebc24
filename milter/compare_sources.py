"""What `policy compare` is given: messages in files, mboxes and maildirs, and lines of records.

Promises: streams; memory is that of one message or line, both bounded.  The first octets of a file
say what it is: `From ` begins an mbox, a header field one message, and all else JSON Lines, of
which those that the follower of Postfix's log wrote are passed over.

Raises: `DataError` with the place for what cannot be read.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from carbonseal.policies.errors import DataError

MAX_MESSAGE: Final = 256 * 1024 * 1024
# A header section ends at 8 MiB; as JSON an octet may take six.
MAX_LINE: Final = 64 << 20
_MAX_FILES: Final = 10_000_000
_SEPARATOR = b"From "
_SEGMENT = ".jsonl"
_EVENT = b'{"event":'  # a line of the follower, in segments of its own
_FIELD = re.compile(rb"[!-9;-~]{1,998}[ \t]*:")
_QUOTED = re.compile(rb"^>(>*From )", re.M)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of records."""

    place: str
    octets: bytes


@dataclass(frozen=True, slots=True)
class Mail:
    """One message as it lies in a file."""

    place: str
    octets: bytes


def read(paths: Sequence[Path | BinaryIO]) -> Iterator[Line | Mail]:
    """Everything in files and directories, in order; directories sorted by name."""
    for path in paths:
        if not isinstance(path, Path):
            yield from _stream(path, "standard input")
        elif path.is_dir():
            yield from _folder(path)
        else:
            yield from _file(path)


def _folder(folder: Path) -> Iterator[Line | Mail]:
    """A maildir (new, cur), or any directory of messages or of spool segments, to any depth."""
    for number, path in enumerate(_files(folder)):
        if number >= _MAX_FILES:
            raise DataError(f"{folder}: it holds more than {_MAX_FILES} files; divide it")
        yield from _file(path)


def _files(folder: Path) -> Iterator[Path]:
    for where, folders, names in os.walk(folder):
        folders.sort()
        wanted = [name for name in sorted(names) if not name.startswith(".")]
        if "cur" in folders and "tmp" in folders:
            folders.remove("tmp")  # not delivered yet
        if "loaded" in folders or any(name.endswith(_SEGMENT) for name in wanted):
            # A spool: its segments, and nothing else of what is in it.
            folders[:] = [name for name in folders if name == "loaded"]
            wanted = [name for name in wanted if name.endswith(_SEGMENT)]
        yield from (Path(where, name) for name in wanted)


def _file(path: Path) -> Iterator[Line | Mail]:
    try:
        # A FIFO would let us wait for ever.
        if not path.is_file():
            raise DataError(f"{path}: it is no file of messages or records; check the name")
        with open(path, "rb") as stream:
            yield from _stream(stream, str(path))
    except OSError as fault:
        raise DataError(f"{path}: it cannot be read ({fault.strerror}); check its mode") from None


def _stream(stream: BinaryIO, place: str) -> Iterator[Line | Mail]:
    first = stream.readline(MAX_LINE)
    if first.startswith(b"{"):
        yield from _lines(first, stream, place)
    elif first.startswith(_SEPARATOR):
        yield from _mbox(stream, place)
    elif first and not _FIELD.match(first):
        yield from _lines(first, stream, place)  # whoever reads them says that they are no records
    elif first:
        yield Mail(place, _bounded([first, stream.read(MAX_MESSAGE + 1)], place))


def _lines(first: bytes, stream: BinaryIO, place: str) -> Iterator[Line]:
    rest = iter(lambda: stream.readline(MAX_LINE), b"")
    for number, given in enumerate(itertools.chain((first,), rest), start=1):
        line = given.lstrip(b"\0")  # the room of an open segment, and what somebody put behind it
        if line and not line.startswith(_EVENT):
            yield Line(f"{place}: line {number}", line)


def _mbox(stream: BinaryIO, place: str) -> Iterator[Mail]:
    """Messages after `From ` lines (mboxrd: a line that begins so is written with > before it)."""
    number = 1
    lines: list[bytes] = []
    size = 0
    for line in iter(lambda: stream.readline(MAX_LINE), b""):
        is_border = line.startswith(_SEPARATOR) and (not lines or not lines[-1].strip(b"\r\n"))
        if is_border:
            yield _of_mbox(lines, f"{place}: message {number}")
            number, lines, size = number + 1, [], 0
            continue
        size += len(line)
        if size > MAX_MESSAGE:
            raise DataError(f"{place}: message {number} is larger than {MAX_MESSAGE} octets")
        lines.append(line)
    yield _of_mbox(lines, f"{place}: message {number}")


def _of_mbox(lines: list[bytes], place: str) -> Mail:
    if lines and not lines[-1].strip(b"\r\n"):
        lines.pop()  # the empty line before the next border is the mbox's
    return Mail(place, _QUOTED.sub(rb"\1", b"".join(lines)))


def _bounded(pieces: Sequence[bytes], place: str) -> bytes:
    whole = b"".join(pieces)
    if len(whole) > MAX_MESSAGE:
        raise DataError(f"{place}: larger than {MAX_MESSAGE} octets; is it one message?")
    return whole
