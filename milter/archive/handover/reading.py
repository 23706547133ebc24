"""Reading a bundle, a directory or a tar file, that somebody else may have made.

Promises: only plain files of names that a bundle has are opened; nothing is unpacked to the disk;
links and devices are refused; a line has a bound, so that memory has one.

Raises: DataError, a sentence.

Does not: know whether what it reads is true (`check` does).
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

from carbonseal.milter.archive.handover.manifest import DIGEST, MANIFEST, Manifest, is_listed, parse
from carbonseal.policies.errors import DataError

# A header section ends at 8 MiB; as JSON an octet may take six.
LONGEST = 64 << 20
_MANIFEST_BYTES = 16 << 20
_MOST_FILES = 10_000  # a relay may have had several keys
# gzip, zip, xz, bzip2, Zstandard, 7-Zip
_COMPRESSED = (b"\x1f\x8b", b"PK", b"\xfd7zXZ", b"BZh", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf")
_REMEDY = "name what archive export has made"


class Bundle(Protocol):
    """A bundle that is there."""

    def names(self) -> set[str]:
        """Names of its files."""

    def open(self, name: str) -> IO[bytes]:
        """A file from its beginning.  Raises: DataError."""


@contextmanager
def opened(path: Path) -> Iterator[Bundle]:
    """The bundle at `path`.  Raises: DataError."""
    if os.path.isdir(path):  # False, too, for a name that cannot be
        yield _Directory(path)
        return
    with _plain(path) as stream:
        try:
            archive = tarfile.open(fileobj=stream, mode="r:")
        except OSError as fault:
            raise DataError(f"{path}: cannot be read ({fault.strerror}); {_REMEDY}") from None
        except tarfile.TarError:
            stream.seek(0)
            if stream.read(6).startswith(_COMPRESSED):
                raise DataError(
                    f"{path}: is compressed; uncompress it first, and name the directory or the "
                    "tar file that comes out"
                ) from None
            raise DataError(f"{path}: is neither a directory nor a tar file; {_REMEDY}") from None
        with archive:
            yield _Tar(path, archive)


def _plain(path: Path) -> IO[bytes]:
    """A plain file; anything else may let us wait for ever.  Raises: DataError."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as fault:
        raise DataError(f"{path}: cannot be read ({fault.strerror}); {_REMEDY}") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise DataError(f"{path}: is no regular file; {_REMEDY}")
    return open(handle, "rb")


def manifest(bundle: Bundle) -> tuple[Manifest, bytes]:
    """The manifest, and the octets it was read from.  Raises: DataError."""
    with bundle.open(MANIFEST) as stream:
        text = stream.read(_MANIFEST_BYTES + 1)
    if len(text) > _MANIFEST_BYTES:
        raise DataError(f"{MANIFEST} is too long for a manifest")
    return parse(text), text


def lines(stream: IO[bytes], name: str) -> Iterator[bytes]:
    """The lines with their ends.  Raises: DataError for one without end or beyond all measure."""
    number = 0
    while line := stream.readline(LONGEST):
        number += 1
        if not line.endswith(b"\n"):
            raise DataError(f"{name} line {number} has no end")
        yield line


class _Directory:
    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self) -> set[str]:
        found = set()
        for directory, _, files in os.walk(self._path):
            found |= {os.path.relpath(os.path.join(directory, name), self._path) for name in files}
        return found

    def open(self, name: str) -> IO[bytes]:
        path = self._path / _known(name)
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as fault:
            raise DataError(f"{path}: cannot be read ({fault.strerror}); {_REMEDY}") from None
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise DataError(f"{path}: is no plain file")
        return open(handle, "rb")


class _Tar:
    def __init__(self, path: Path, archive: tarfile.TarFile) -> None:
        self._path = path
        self._archive = archive
        self._members: dict[str, tarfile.TarInfo] = {}
        try:
            for member in archive:
                self._add(member)
        except (tarfile.TarError, OSError):
            raise DataError(f"{path}: the tar file is damaged") from None

    def _add(self, member: tarfile.TarInfo) -> None:
        name = member.name.removeprefix("./")
        if member.isdir():
            return
        if not member.isreg() or member.issparse() or name in self._members:
            raise DataError(f"{self._path}: {member.name[:80]!r} is no part of an export")
        if len(self._members) > _MOST_FILES:
            raise DataError(f"{self._path}: has more files than an export")
        self._members[name] = member

    def names(self) -> set[str]:
        return set(self._members)

    def open(self, name: str) -> IO[bytes]:
        member = self._members.get(_known(name))
        stream = None if member is None else self._archive.extractfile(member)
        if stream is None:
            raise DataError(f"{self._path}: lacks {name}; {_REMEDY}")
        return stream


def _known(name: str) -> str:
    assert is_listed(name) or name in (MANIFEST, DIGEST)
    return name
