"""One writer on a spool at a time: the lock, which goes with the process that has it.

Raises: SpoolTaken when another writer has it; TryLater where the directory cannot be used.

Does not: wait.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from carbonseal.policies.errors import TryLater

_LOCK = "writer.lock"


class SpoolTaken(TryLater):
    """Another writer loads this spool."""


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """Have the lock of this spool until the block ends."""
    try:
        handle = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as fault:
        raise TryLater(
            f"{directory}: cannot open the spool ({fault.strerror}); check record.spool and its "
            "permissions"
        ) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SpoolTaken(
                f"{directory}: another writer loads this spool; stop it first, or leave it to it"
            ) from None
        yield
    finally:
        os.close(handle)
