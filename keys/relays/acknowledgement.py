"""What each worker may be signing with, in a file of its own: the proof that a key is out of use.

Layout: `<spool>/keys-in-use/<pid>-<token>.json`, locked by its worker (flock) for as long as it
lives.  A file that can be locked is left over from a dead worker; readers ignore and remove it.
The token keeps apart workers with one pid in two containers over one spool.

Promises: at every moment the file names a superset of what its worker signs with.  It says
`is_starting` before the first key is read, the old keys and the new ones before a new keyring is
put in use, and the new ones alone once no message holds the old keyring.  The lock is handed over
without a gap: a new file is written and locked under another name, then renamed over the old one.

Safe direction: a worker that cannot write its file goes on with the mail, and no reader takes its
silence for a proof.  Its old file belongs to an older generation of the keys, and what says so
counts as starting; and a worker that could never write one holds a shared lock on the spool.

Raises: `read` raises `permission.WrongPermission` when it may not look; `Acknowledgement` never
raises, its `problem` is one sentence.

Does not: fsync; after a power cut no worker lives.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import re
import secrets
import stat
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from carbonseal.keys import permission
from carbonseal.keys.keyring import Keyring
from carbonseal.keys.relays import strict
from carbonseal.policies.key_life import WorkerReport

FOLDER: Final = "keys-in-use"
_NAME = re.compile(r"([0-9]{1,10})-[0-9a-f]{8}\.json")
_FIELDS: Final = "v pid relay at is_starting generation signing standby problems".split()
_VERSION: Final = 1
_MAX_FILE: Final = 64 * 1024 * 1024  # octets; a hundred thousand keys come to 8 MB
_MAX_PID: Final = 2**31
_ABANDONED: Final = 60.0  # seconds after which an unlocked file under a temporary name is litter
_ATTEMPTS: Final = 50
_SILENT: Final = "a worker that cannot say which keys it uses runs here; its log says why"


@dataclass(frozen=True, slots=True)
class Worker(WorkerReport):
    """What one living worker says, with what is of no consequence for the life of a key."""

    since: datetime | None = None  # it says so
    problems: tuple[str, ...] = ()  # with keys; a sentence each


def mark_of(generation: bytes) -> str:
    """A generation of the keys directory as the files name it: short, and printable."""
    return hashlib.sha256(generation).hexdigest()[:16]


class Acknowledgement:
    """The file of this process.  All methods are for one thread."""

    def __init__(
        self, spool: Path, relay: str, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        """Say that this worker is starting; to be made before any key is read."""
        self._spool = spool
        self._relay = relay
        self._clock = clock
        self._path = spool / FOLDER / f"{os.getpid()}-{secrets.token_hex(4)}.json"
        self._file: int | None = None  # locked, and under our name
        self._silence: int | None = None  # the spool's directory, locked, while we have no file
        self._rings: list[weakref.ref[Keyring]] = []  # the newest last
        self._topic: tuple[int, tuple[str, ...]] | None = None  # of the file as it is
        self.problem: str | None = None  # why the file may be old or missing
        with contextlib.suppress(OSError):
            _sweep(self._path.parent)
        self._say(())

    def before_use(self, ring: Keyring) -> None:
        """Name a keyring's keys beside those of the rings still held by messages."""
        self._rings.append(weakref.ref(ring))
        self._say((), is_new=True)

    def tend(self, complaint: str | None = None) -> None:
        """Leave out what no message holds any more; try again what failed.

        `complaint` is why the newest keyring may be old.  Costs one stat(2) when all is said.
        """
        self._say(() if complaint is None else (complaint,))

    def _say(self, complaints: tuple[str, ...], *, is_new: bool = False) -> None:
        self._rings = [held for held in self._rings if held() is not None]
        topic = (len(self._rings), complaints)
        if topic == self._topic and not is_new and self._is_in_place():
            return
        try:
            self._replace(self._about(complaints))
        except OSError as error:
            self.problem = (
                f"{self._path}: it cannot be written ({os.strerror(error.errno or 0)}); until it"
                " can, no key is taken for out of use; give the service's user the directory, and"
                " see that the disk has room."
            )
            self._topic = None
            self._be_known()
        else:
            self._topic = topic
            self.problem = None
            self._end_silence()

    def _about(self, complaints: tuple[str, ...]) -> dict[str, object]:
        rings = [ring for ring in (held() for held in self._rings) if ring is not None]
        newest = rings[-1] if rings else None
        sentences = [*complaints, *(_sentences(newest) if newest is not None else ())]
        return {
            "v": _VERSION,
            "pid": os.getpid(),
            "relay": self._relay,
            "at": strict.written(self._clock()),
            "is_starting": newest is None,
            "generation": mark_of(newest.generation) if newest is not None else "",
            "signing": sorted(frozenset[str]().union(*(ring.signing_names for ring in rings))),
            "standby": sorted(newest.standby_names) if newest is not None else [],
            "problems": [one[: strict.MAX_SENTENCE] for one in sentences][: strict.MAX_SENTENCES],
        }

    def _replace(self, about: dict[str, object]) -> None:
        fresh = self._path.with_name("." + self._path.name)
        fresh.unlink(missing_ok=True)  # ours alone; left over if an attempt failed
        handle = self._create(fresh)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            rest = memoryview(json.dumps(about, ensure_ascii=True).encode("ascii") + b"\n")
            while rest:
                rest = rest[os.write(handle, rest) :]
            os.rename(fresh, self._path)
        except OSError:
            os.close(handle)
            with contextlib.suppress(OSError):
                fresh.unlink()
            raise
        old, self._file = self._file, handle
        if old is not None:
            os.close(old)

    def _create(self, path: Path) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            return os.open(path, flags, 0o640)
        except FileNotFoundError:
            path.parent.mkdir(mode=0o750)
            return os.open(path, flags, 0o640)

    def _is_in_place(self) -> bool:
        """Whether our name leads to our file; somebody may have cleared the directory."""
        if self._file is None:
            return False
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._file))
        except OSError:
            return False

    def _be_known(self) -> None:
        """Without a file in place, at least show that somebody is here."""
        if self._silence is None and not self._is_in_place():
            with contextlib.suppress(OSError):
                handle = os.open(self._spool, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                fcntl.flock(handle, fcntl.LOCK_SH)  # readers hold theirs for a moment only
                self._silence = handle

    def _end_silence(self) -> None:
        silence, self._silence = self._silence, None
        if silence is not None:
            os.close(silence)


def _sentences(ring: Keyring) -> Iterator[str]:
    yield from ring.problems.values()
    yield from ring.refused.values()
    yield from ring.standby_problems.values()


def read(spool: Path, generation: bytes | None = None) -> tuple[Worker, ...]:
    """What the living workers say, by pid; the files of dead ones are removed if that is allowed.

    With the `generation` of the keys directory, as it was before this call, a worker that has not
    taken it up counts as starting: it may be about to sign with anything.
    """
    workers = [Worker(0, True, problems=(_SILENT,))] if _is_somebody_silent(spool) else []
    folder = spool / FOLDER
    try:
        # Up to a thousand names come from one getdents(2), which no rename can interrupt: a file
        # that is replaced at this moment is not missed.
        names = sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        names = []  # whoever could not write there is known by the lock above
    except OSError as error:
        raise permission.unreadable(folder, error) from None
    for name in names:
        found = _NAME.fullmatch(name)
        if found is not None:
            said = _listen(folder / name, int(found[1]))
            if said is not None:
                workers.append(_follows(said, generation))
    return tuple(sorted(workers, key=lambda worker: worker.pid))


@dataclass(frozen=True, slots=True)
class _Said:
    worker: Worker
    generation: str


def _follows(said: _Said, generation: bytes | None) -> Worker:
    worker = said.worker
    if generation is None or worker.is_starting or said.generation == mark_of(generation):
        return worker
    late = f"worker {worker.pid} has not taken up the last change of the keys"
    return dataclasses.replace(worker, is_starting=True, problems=(*worker.problems, late))


def _listen(path: Path, pid: int) -> _Said | None:
    """What a living worker says; None if it is dead."""
    for _ in range(_ATTEMPTS):
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None  # another reader removed it
        except OSError as error:
            return _unheard(pid, f"{path}: it cannot be read ({os.strerror(error.errno or 0)})")
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                return None
            if not _is_free(handle):
                return _parse(handle, pid)
            if _is_at(path, handle):
                with contextlib.suppress(OSError):
                    os.unlink(path)  # its name is never used again
                return None
            # It was replaced after we had opened it: its worker lives.
        finally:
            os.close(handle)
    return _unheard(pid, f"{path}: it changes too fast to be read")


def _parse(handle: int, pid: int) -> _Said:
    try:
        if os.fstat(handle).st_size > _MAX_FILE:
            raise ValueError("it is too large")
        content = b"".join(iter(lambda: os.read(handle, 1 << 20), b""))
        about = strict.document(content, _FIELDS)
        if about["v"] != _VERSION:
            raise ValueError("it is of another version of Carbonseal")
        worker = Worker(
            pid=strict.number(about["pid"], _MAX_PID),
            is_starting=strict.truth(about["is_starting"]),
            signing=strict.names(about["signing"]),
            standby=strict.names(about["standby"]),
            since=strict.moment(about["at"]),
            problems=strict.sentences(about["problems"]),
        )
        return _Said(worker, strict.text(about["generation"]))
    except (OSError, ValueError) as error:
        return _unheard(pid, f"worker {pid}: its file in {FOLDER} is damaged ({error})")


def _unheard(pid: int, why: str) -> _Said:
    return _Said(Worker(pid, True, problems=(why[: strict.MAX_SENTENCE],)), "")


def _is_free(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # a file system without locks proves nobody's death
        return False
    return True


def _is_at(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(handle))
    except FileNotFoundError:
        return True
    except OSError:
        return False


def _is_somebody_silent(spool: Path) -> bool:
    try:
        handle = os.open(spool, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False  # no relay ever ran here
    except OSError as error:
        raise permission.unreadable(spool, error) from None
    try:
        for _ in range(_ATTEMPTS):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return False
            except BlockingIOError:
                time.sleep(0.01)  # another reader, if not a silent worker
            except OSError:
                return False  # there are no locks on directories here
    finally:
        os.close(handle)
    return True


def _sweep(folder: Path) -> None:
    """Remove what dead workers left."""
    for entry in _entries(folder):
        found = _NAME.fullmatch(entry.name.removeprefix("."))
        if found is None:
            continue
        if not entry.name.startswith("."):
            _listen(Path(entry.path), int(found[1]))
        elif time.time() - entry.stat(follow_symlinks=False).st_mtime > _ABANDONED:
            # Unlocked for a moment while it is made: its age tells it from litter.
            handle = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                if _is_free(handle):
                    os.unlink(entry.path)
            finally:
                os.close(handle)


def _entries(folder: Path) -> Iterable[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return list(entries)
