"""Read a small file that holds a secret: a TSIG key, a provider's credentials.

Promises: only a regular file of at most 16 KiB is read, one that belongs to root or to the user
this process runs as (for root: also to the owner of its directory), that others cannot touch and a
group at most read.  Owner and mode are those of the file that is then read, not of a name looked
at before.

Raises: `errors.ConfigurationError` with the path and the command that mends it; nothing of the
content ever appears in it.
"""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path
from typing import Final

from carbonseal.policies import errors

MAX_SIZE: Final = 16_384


def read(path: Path) -> bytes:
    """The content of a secret file."""
    try:
        # O_NONBLOCK: a FIFO in its place would otherwise hold us until somebody writes.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise _wrong(path, f"it cannot be read ({reason}); check its name and access") from None
    try:
        _check(path, os.fstat(handle))
        content = os.read(handle, MAX_SIZE + 1)
    finally:
        os.close(handle)
    if len(content) > MAX_SIZE:
        raise _wrong(path, "it is larger than 16 KiB, so it is no such file; check its name")
    return content


def _check(path: Path, about: os.stat_result) -> None:
    quoted = shlex.quote(str(path))
    if not stat.S_ISREG(about.st_mode):
        raise _wrong(path, "it is no regular file; name the file itself")
    if about.st_uid not in _trusted_owners(path):
        raise _wrong(path, f"it belongs to another user; run: chown {os.geteuid()} {quoted}")
    if about.st_mode & 0o027:
        raise _wrong(
            path,
            f"too many may use it (mode {stat.S_IMODE(about.st_mode):04o}); run: chmod"
            f" {'640' if about.st_mode & stat.S_IRGRP else '600'} {quoted}",
        )


def _trusted_owners(path: Path) -> set[int]:
    own = os.geteuid()
    return {0, own} if own else {0, os.stat(path.parent).st_uid}


def _wrong(path: Path, what: str) -> errors.ConfigurationError:
    return errors.ConfigurationError(f"{path}: {what}.")
