"""Read the text files of other signers: bounded, and whatever an editor did to them.

Promises: takes regular files only, of at most `MAX_FILE` octets, `MAX_LINES` lines and `MAX_LINE`
characters a line; LF and CRLF, a byte order mark, tabs and octets that are no UTF-8 are all right.
A FIFO or device is refused at once where opening it would wait.

Raises: `errors.DataError` with the path, the reason and the remedy, and nothing of the content.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from carbonseal.policies import errors

MAX_FILE: Final = 8 * 1024 * 1024  # octets; a KeyTable with ten thousand keys in it
MAX_LINES: Final = 200_000
MAX_LINE: Final = 16 * 1024  # characters; an RSA key of 4096 bits in one line has 3,200


@dataclass(frozen=True, slots=True)
class Line:
    """One line that says something."""

    source: str  # file:line
    text: str  # without white space around


def read(path: Path, comment: str = "#") -> list[Line]:
    """The lines of a file; what follows `comment` is cut off, empty lines are left out."""
    numbered = enumerate(text(path).split("\n"), start=1)
    lines = []
    for number, content in numbered:
        if number > MAX_LINES:
            raise unusable(path, f"it has more than {MAX_LINES} lines; divide it")
        if len(content) > MAX_LINE:
            raise unusable(path, f"its line {number} is too long for a table; correct it")
        said = content.partition(comment)[0].strip()
        if said:
            lines.append(Line(f"{path}:{number}", said))
    return lines


def text(path: Path) -> str:
    """The whole file; octets that are no UTF-8 as lone surrogates."""
    content = octets(path, MAX_FILE)
    return content.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")


def octets(path: Path, limit: int) -> bytes:
    """A regular file of at most `limit` octets."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise unusable(path, "there is no such file; check the name") from None
    except (OSError, ValueError) as error:
        raise unusable(path, f"it cannot be read ({_reason(error)}); check its name") from None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise unusable(path, "it is no regular file; give a file")
        with open(fd, "rb", closefd=False) as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise unusable(path, f"it cannot be read ({_reason(error)}); check the disk") from None
    finally:
        os.close(fd)
    if len(content) > limit:
        raise unusable(path, f"it is larger than {limit} octets; check whether it is the right one")
    return content


def _reason(error: OSError | ValueError) -> str:
    return os.strerror(error.errno or 0) if isinstance(error, OSError) else "no file name"


def unusable(path: object, what: str) -> errors.DataError:
    """The error about a file."""
    return errors.DataError(f"{path}: {what}.")
