"""Write small files so that a crash leaves the old content or the new, never a mixture.

Promises: `write_new` and `replace` return only after content, name and directory are on disk;
`write_new` never touches a file that is there already.  Files are born with mode 0600, so that
no moment exists in which others can read them; the wanted mode and owner come after.

Safe direction: what a crash can leave behind is a `.new-*` file beside the target, never a
partial target; `sweep` removes such files.

Raises: OSError; FileExistsError from `write_new` when the name is taken.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

_PREFIX = ".new-"


@dataclass(frozen=True, slots=True)
class Access:
    """Mode and owner of a new file; None leaves the owner as the process makes it."""

    mode: int = 0o600
    uid: int | None = None
    gid: int | None = None


PRIVATE = Access()


def write_new(path: Path, content: bytes, access: Access = PRIVATE) -> None:
    """Create `path` with `content`; FileExistsError if it exists."""
    fresh = _write_beside(path, content, access)
    try:
        # link(2) refuses an existing name, which rename(2) would silently replace.
        os.link(fresh, path)
    finally:
        os.unlink(fresh)
    sync_directory(path.parent)


def replace(path: Path, content: bytes, access: Access = PRIVATE) -> None:
    """Let `path` hold `content`, in one step for everybody who reads it."""
    fresh = _write_beside(path, content, access)
    try:
        os.replace(fresh, path)
    except OSError:
        os.unlink(fresh)
        raise
    sync_directory(path.parent)


def make_directory(path: Path, access: Access) -> None:
    """Create the directory `path` if it is missing, and let its name be on disk."""
    if path.is_dir():
        return
    os.mkdir(path, 0o700)
    _give(path, access)
    sync_directory(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Put the names in a directory on disk (fsync of the file alone does not)."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sweep(directory: Path) -> None:
    """Remove what a crash left; the caller holds the lock, so nobody is writing now."""
    for leftover in directory.glob(_PREFIX + "*"):
        leftover.unlink(missing_ok=True)


def _write_beside(path: Path, content: bytes, access: Access) -> Path:
    fresh = path.parent / (_PREFIX + secrets.token_hex(8))
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            _write_all(fd, content)
            _give(fd, access)
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError:
        os.unlink(fresh)
        raise
    return fresh


def _write_all(fd: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _give(target: int | Path, access: Access) -> None:
    """Owner first, then mode: chown clears bits, and until then nobody else may read."""
    if access.uid is not None or access.gid is not None:
        uid = -1 if access.uid is None else access.uid
        gid = -1 if access.gid is None else access.gid
        os.chown(target, uid, gid)
    os.chmod(target, access.mode)
