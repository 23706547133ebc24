"""Writing a bundle: a directory or a tar file that is there when it is whole, and not before.

Promises: everything goes to a temporary name beside the target, is synced, and gets its name in one
step; nothing that is there already is replaced.  When anything fails the temporary is removed.
Files have mode 0640.  Memory does not grow with what is written.

Raises: BundleUnwritable (disk full, no permission), UsageError when the name is taken, or is that
of a compressed archive, which is not made.

Safe direction: a process that is killed leaves a `.NAME.*.part`, which no one takes for a bundle.

Does not: know what the files hold.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import secrets
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

from carbonseal.keys import durable
from carbonseal.milter.archive.handover.manifest import Content
from carbonseal.policies.errors import TryLater, UsageError

_BLOCK = tarfile.BLOCKSIZE
_BUFFER = 1 << 20
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)  # of file systems that have none


# Whoever types these expects a file, and would get a directory.
_OTHER_ARCHIVES = (
    *(".tgz", ".tbz", ".tbz2", ".txz", ".tzst", ".zip", ".7z", ".rar", ".cpio"),
    *(".gz", ".bz2", ".xz", ".zst", ".lz", ".lz4", ".lzma"),
)


class BundleUnwritable(TryLater):
    """The bundle cannot be written; nothing was left of it."""


class File:
    """A file of the bundle while it is written, hashed on the way."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()
        self._octets = 0

    def write(self, data: bytes) -> None:
        """Append.  Raises: OSError."""
        self._stream.write(data)
        self._hash.update(data)
        self._octets += len(data)

    @property
    def content(self) -> Content:
        """What the manifest says of it."""
        return Content(self._hash.hexdigest(), self._octets)


class Bundle(Protocol):
    """Where files can be put."""

    def file(self, name: str) -> File:
        """A new file, open until the bundle is done."""

    def contents(self) -> dict[str, Content]:
        """All files as they are now."""


@contextmanager
def being_made(path: Path) -> Iterator[Bundle]:
    """A bundle that gets the name `path` when the block ends without an exception.

    Raises: BundleUnwritable, UsageError.
    """
    path = Path(os.path.abspath(path))
    if os.path.lexists(path):
        raise UsageError(f"{path}: is there already; choose another name")
    if path.name.lower().endswith(_OTHER_ARCHIVES):
        raise UsageError(
            f"{path}: no bundle of that kind is made; write a name that ends in .tar and compress "
            "the file afterwards, or one without such an ending for a directory"
        )
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    kind = _Tar if path.suffix.lower() == ".tar" else _Directory
    try:
        made = kind(temporary)
        try:
            yield made
            made.finish()
            _give_name(temporary, path)
        except BaseException:
            made.drop()
            raise
    except OSError as fault:
        raise BundleUnwritable(
            f"{path}: the bundle cannot be written ({fault.strerror}), and nothing was left of it; "
            "make room, or choose another place"
        ) from None


def _give_name(temporary: Path, path: Path) -> None:
    if temporary.is_dir():
        os.rename(temporary, path)  # refused for all but an empty directory
    else:
        try:
            os.link(temporary, path)  # refused for everything
            os.unlink(temporary)
        except OSError as fault:
            if fault.errno not in _NO_LINKS:
                raise
            os.rename(temporary, path)  # a stick that people carry; it was free a moment ago
    durable.sync_directory(path.parent)


class _Directory:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._files: dict[str, tuple[File, IO[bytes]]] = {}
        os.mkdir(path, 0o750)

    def file(self, name: str) -> File:
        path = self._path / name
        if path.parent != self._path:
            path.parent.mkdir(mode=0o750, exist_ok=True)
        stream = _created(path)
        made = File(stream)
        self._files[name] = made, stream
        return made

    def contents(self) -> dict[str, Content]:
        return {name: made.content for name, (made, _) in self._files.items()}

    def finish(self) -> None:
        for _, stream in self._files.values():
            stream.flush()
            os.fsync(stream.fileno())
            stream.close()
        for directory in {self._path, *((self._path / name).parent for name in self._files)}:
            durable.sync_directory(directory)

    def drop(self) -> None:
        for _, stream in self._files.values():
            _let_go(stream)
        shutil.rmtree(self._path, ignore_errors=True)


class _Tar:
    """The first file goes straight into the tar file; the others wait in unnamed files."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream = _created(path)
        self._files: dict[str, tuple[File, IO[bytes]]] = {}

    def file(self, name: str) -> File:
        if not self._files:
            self._stream.write(bytes(_BLOCK))  # its header, once the size is known
            stream: IO[bytes] = self._stream
        else:
            stream = tempfile.TemporaryFile(dir=self._path.parent, buffering=_BUFFER)
        made = File(stream)
        self._files[name] = made, stream
        return made

    def contents(self) -> dict[str, Content]:
        return {name: made.content for name, (made, _) in self._files.items()}

    def finish(self) -> None:
        for name, (made, stream) in self._files.items():
            header = _header(name, made.content.octets)
            if stream is self._stream:
                self._pad()
                self._stream.seek(0)
                self._stream.write(header)
                self._stream.seek(0, io.SEEK_END)
                continue
            self._stream.write(header)
            stream.seek(0)
            shutil.copyfileobj(stream, self._stream, _BUFFER)
            stream.close()
            self._pad()
        self._stream.write(bytes(2 * _BLOCK))
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()

    def _pad(self) -> None:
        self._stream.write(bytes(-self._stream.tell() % _BLOCK))

    def drop(self) -> None:
        for _, stream in self._files.values():
            _let_go(stream)
        _let_go(self._stream)
        self._path.unlink(missing_ok=True)


def _header(name: str, octets: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size = octets
    entry.mode = 0o640
    entry.mtime = int(time.time())
    # GNU: a header stays one block however large the file is.
    return entry.tobuf(tarfile.GNU_FORMAT)


def _created(path: Path) -> IO[bytes]:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    return open(os.open(path, flags, 0o640), "w+b", buffering=_BUFFER)


def _let_go(stream: IO[bytes]) -> None:
    try:
        stream.close()
    except OSError:
        pass  # what could not be written is not wanted any more
