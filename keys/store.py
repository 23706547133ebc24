"""The keys directory: every key an SDID ever had, on disk, and what is true about each.

Layout: `<keys dir>/<sdid>/<selector>.pem` (PKCS#8, unencrypted), `<selector>.json` (`key_record`)
and `<selector>.observed` (`observed`); `<keys dir>/generation`, replaced after every change, is
what running workers watch; `<keys dir>/<sdid>/.lock` is held by whoever changes keys of that SDID,
and `.untold` beside it says that something changed of which the workers have not been told.

Promises: a private key is never overwritten, and deleted only when its key is removed; a selector
never comes back for the same SDID.  Writing is crash-safe: the private key is on disk before its
record, and the record of a newly active key before its predecessor is retired, so at no moment is
there an SDID that signed before and has no active key.  Two active keys of one algorithm can be
left by a crash: the one activated last counts (`active`), and the next writer retires the other.

Raises: `permission.WrongPermission`, `errors.DataError`, `errors.TryLater` while another
command writes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from carbonseal.keys import durable, key_record, observed, permission
from carbonseal.keys.key_record import KeyRecord
from carbonseal.keys.observed import Observed
from carbonseal.policies import errors
from carbonseal.policies.key_life import Stage

_UNTOLD = ".untold"
MAX_FILE = 64 * 1024  # octets; no key comes near it
MAX_RECORD = (
    1024 * 1024
)  # octets; thousands of changes, or 170 with the longest reasons there can be


@dataclass(frozen=True, slots=True)
class Lineage:
    """All keys of one SDID, and one sentence for each file that could not be used."""

    sdid: str
    records: tuple[KeyRecord, ...] = ()  # oldest first
    problems: tuple[str, ...] = ()


def active(records: Iterable[KeyRecord]) -> tuple[KeyRecord, ...]:
    """The keys that sign: for each algorithm the one activated last, RSA first."""
    latest: dict[str, KeyRecord] = {}
    for record in sorted(records, key=_activation):
        if record.stage is Stage.ACTIVE:
            latest[record.algorithm] = record
    return tuple(latest[name] for name in sorted(latest, reverse=True))


def _activation(record: KeyRecord) -> tuple[datetime, datetime, str]:
    return (
        record.activated_at or record.created_at,
        record.created_at,
        record.selector,
    )


@dataclass(frozen=True, slots=True)
class Store:
    """The keys directory, for reading; `writing` gives the right to change it."""

    directory: Path

    def generation(self) -> bytes:
        """A token that differs after each change; b'' before the first."""
        try:
            return _read_plain(self.directory / "generation")
        except FileNotFoundError:
            if self.directory.is_dir():
                return b""
            raise self._missing() from None
        except OSError as error:
            raise permission.unreadable(self.directory / "generation", error) from None

    def lineages(self) -> Iterator[Lineage]:
        """Each SDID with what is known of its keys; a bad file becomes a sentence, not an error."""
        for name in self.sdids():
            yield self.lineage(name)

    def lineage(self, sdid: str) -> Lineage:
        """The keys of one SDID, none if it has none; see also `refuse_hidden`."""
        records, faults = self._read_records(sdid)
        records.sort(key=lambda record: (record.created_at, record.selector))
        return Lineage(sdid, tuple(records), tuple(fault.sentence for fault in faults))

    def exists(self) -> bool:
        """Whether there is anything at all, or the first key is still to be made."""
        return _exists(self.directory)

    def refuse_hidden(self, sdid: str) -> None:
        """Raise what bars the sight of a key of `sdid`, before anybody says that there is none.

        To be called before every such sentence: who looks without the right to, or in the wrong
        place, must hear that, and not a denial that sends him astray.
        """
        self.sdids()  # the directory as a whole is there and can be read
        for fault in self._read_records(sdid)[1]:
            raise fault

    def _read_records(self, sdid: str) -> tuple[list[KeyRecord], list[errors.CarbonsealError]]:
        """What could be read, and why the rest could not."""
        records: list[KeyRecord] = []
        faults: list[errors.CarbonsealError] = []
        try:
            paths = sorted((self.directory / sdid).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            paths = []
        except OSError as error:
            return [], [permission.unreadable(self.directory / sdid, error)]
        for path in paths:
            if path.name.endswith(".json") and not path.name.startswith("."):
                try:
                    records.append(self._read_record(path))
                except errors.CarbonsealError as error:
                    faults.append(error)
        return records, faults

    def is_taken(self, sdid: str, selector: str) -> bool:
        """Whether a key with this name exists or existed; no selector is used twice."""
        return any(
            _exists(path)
            for path in (self.record_path(sdid, selector), self.private_path(sdid, selector))
        )

    def find(self, sdid: str, selector: str) -> KeyRecord:
        """One key; `errors.NotFound` if there is none."""
        path = self.record_path(sdid, selector)
        if not _exists(path):
            if not self.exists():
                raise self._missing()
            raise errors.NotFound(
                f"{self.directory}: there is no key {selector} for {sdid};"
                " `carbonseal keys list` shows what there is."
            )
        return self._read_record(path)

    def record_path(self, sdid: str, selector: str) -> Path:
        """Where the record of a key is."""
        return self.directory / sdid / f"{selector}.json"

    def private_path(self, sdid: str, selector: str) -> Path:
        """Where the private half of a key is."""
        return self.directory / sdid / f"{selector}.pem"

    def private_key(self, record: KeyRecord) -> bytes:
        """The PEM of a private key, if nobody but us and root can have read or written it."""
        path = self.private_path(record.sdid, record.selector)
        permission.check_directories(path.parent)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise errors.DataError(f"{path}: the private key is gone; restore it.") from None
        except OSError as error:
            raise permission.unreadable(path, error) from None
        try:
            permission.check_private_file(path, os.fstat(fd), self.directory)
            return os.read(fd, MAX_FILE)
        except OSError as error:
            raise permission.unreadable(path, error) from None
        finally:
            os.close(fd)

    def refuse_taken(self, sdid: str, selector: str) -> None:
        """Raise `errors.DataError` if the selector cannot be given to a new key."""
        path = self.record_path(sdid, selector)
        if _exists(path):
            raise errors.DataError(
                f"{path}: the selector {selector} has been used for {sdid} and is never used"
                " again; choose another."
            )

    def observed_path(self, sdid: str, selector: str) -> Path:
        """Where it is written down what DNS and relays showed of a key."""
        return self.directory / sdid / f"{selector}.observed"

    def orphans(self, sdid: str) -> tuple[str, ...]:
        """A sentence for each file of an SDID that belongs to nothing; none is ever deleted."""
        lineage = self.lineage(sdid)
        known = {record.selector: record for record in lineage.records}
        found = list(lineage.problems)
        try:
            names = sorted(os.listdir(self.directory / sdid))
        except OSError as error:
            raise permission.unreadable(self.directory / sdid, error) from None
        for name in names:
            path = self.directory / sdid / name
            if name.endswith(".pem") and not _exists(path.with_name(name[:-4] + ".json")):
                found.append(
                    f"{path}: a private key without a record, left by an interrupted command;"
                    " `carbonseal keys import` takes it, or delete it if it was never published."
                )
        for selector, record in known.items():
            path = self.private_path(sdid, selector)
            if record.stage is not Stage.REMOVED and not _exists(path):
                found.append(f"{path}: the private key of {record.dns_name} is gone; restore it.")
        return tuple(found)

    def observed(self, record: KeyRecord) -> Observed:
        """What was last seen of a key; nothing, where that cannot be read."""
        try:
            path = self.observed_path(record.sdid, record.selector)
            return observed.from_json(_read_plain(path, observed.MAX_FILE))
        except OSError:
            return observed.NOTHING

    @contextlib.contextmanager
    def writing(self, sdid: str) -> Iterator[Writer]:
        """The right to change the keys of one SDID; one process at a time has it.

        Makes the directories (mode 0700) if they are missing, finishes what a crash interrupted,
        and on the way out tells the workers by a new generation if anything changed.
        """
        self._make()
        folder = self.directory / sdid
        try:
            _make_folder(self.directory, folder)
        except OSError as error:
            raise _unwritable(folder, error) from None
        with _locked(folder / ".lock", f"another command is changing keys of {sdid} now"):
            writer = Writer(self, sdid)
            try:
                writer.finish_interrupted()
                yield writer
            except BaseException:
                # This is what the caller is to hear; if the workers cannot be told either, the
                # mark stays, and the next writer tells them.
                with contextlib.suppress(errors.CarbonsealError):
                    writer.close()
                raise
            writer.close()

    def _make(self) -> None:
        if not (_exists(self.directory.parent) and self.directory.parent.is_dir()):
            raise errors.ConfigurationError(
                f"{self.directory.parent}: there is no such directory to hold the keys; create it."
            )
        if _exists(self.directory) and not self.directory.is_dir():
            raise self._no_directory()
        try:
            durable.make_directory(self.directory, durable.Access(0o700))
            permission.check_directories(self.directory)
        except OSError as error:
            raise _unwritable(self.directory, error) from None

    def sdids(self) -> list[str]:
        """Every SDID that has or had a key."""
        try:
            return sorted(
                entry.name
                for entry in os.scandir(self.directory)
                if _is_directory(entry) and not entry.name.startswith(".")
            )
        except FileNotFoundError:
            raise self._missing() from None
        except NotADirectoryError:
            raise self._no_directory() from None
        except OSError as error:
            raise permission.unreadable(self.directory, error) from None

    def _no_directory(self) -> errors.ConfigurationError:
        return errors.ConfigurationError(
            f"{self.directory}: it is no directory; correct `signing.keys` in the configuration,"
            " or move away what stands there."
        )

    def _missing(self) -> errors.ConfigurationError:
        return errors.ConfigurationError(
            f"{self.directory}: there is no such keys directory; correct `signing.keys` in the"
            " configuration or make a key with `carbonseal keys generate`."
        )

    def _read_record(self, path: Path) -> KeyRecord:
        try:
            record = key_record.from_json(_read_plain(path, MAX_RECORD))
        except OSError as error:
            raise permission.unreadable(path, error) from None
        except errors.DataError as error:
            raise errors.DataError(f"{path}: {error.sentence.rstrip('.')}.") from None
        if path != self.record_path(record.sdid, record.selector):
            raise errors.DataError(
                f"{path}: it is the record of {record.selector} for {record.sdid};"
                " move it back to where its name belongs."
            )
        return record


@dataclass(slots=True)
class Writer:
    """The changes one may make while holding the lock."""

    store: Store
    sdid: str
    changed: bool = False

    def begin_change(self) -> None:
        """Note that workers will have to be told, should we die before we can do it.

        Not synced: no worker outlives a power cut.
        """
        if not self.changed:
            path = self.store.directory / self.sdid / _UNTOLD
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
            self.changed = True

    def add(self, record: KeyRecord, private_pem: bytes) -> None:
        """Keep a new key; `errors.DataError` if the selector was ever used for this SDID.

        A private key without a record is what an interrupted `add` leaves: the same key may be
        added again, another one may not take its place.
        """
        self.store.refuse_taken(record.sdid, record.selector)
        private_path = self.store.private_path(record.sdid, record.selector)
        record_path = self.store.record_path(record.sdid, record.selector)
        access = permission.access_for(self.store.directory)
        try:
            self.begin_change()
            if not private_path.exists():
                durable.write_new(private_path, private_pem, access)
            elif _read_plain(private_path) != private_pem:
                raise errors.DataError(
                    f"{private_path}: an interrupted command left this other key; choose another"
                    " selector, or move the file away if its key was never published."
                )
            durable.write_new(record_path, key_record.to_json(record), access)
        except OSError as error:
            raise _unwritable(private_path.parent, error) from None

    def activate(self, record: KeyRecord, *, at: datetime, why: str, assumed: bool) -> KeyRecord:
        """Let a key sign, retire its predecessor of the same algorithm, and tell the workers.

        The one step that decides is the replacement of the new key's record: from then on it is
        the key activated last.  What follows is book-keeping a later writer can finish.  The
        workers hear of it at once: what the caller does next may take as long as name servers do.
        """
        lineage = self.store.lineage(record.sdid)
        # A clock that was set back must not make the new key look older than its predecessor.
        before = [key.activated_at for key in lineage.records if key.activated_at is not None]
        at = max([at, *(moment + timedelta(microseconds=1) for moment in before)])
        fresh = record.moved(Stage.ACTIVE, at=at, why=why)
        fresh = dataclasses.replace(fresh, assumed_published=assumed)
        self.put(fresh)
        self._retire_superseded(self.store.lineage(record.sdid), at=at)
        self.close()
        return fresh

    def put(self, record: KeyRecord) -> None:
        """Replace what is known about a key that is there."""
        path = self.store.record_path(record.sdid, record.selector)
        content = key_record.to_json(record)
        if len(content) > MAX_RECORD:  # it could not be read any more, and the key not be used
            raise errors.DataError(f"{path}: its history is full; make a new key.")
        try:
            self.begin_change()
            durable.replace(path, content, permission.access_for(self.store.directory))
        except OSError as error:
            raise _unwritable(path, error) from None

    def put_observed(self, record: KeyRecord, seen: Observed) -> None:
        """Replace what was observed of a key; workers need not know."""
        path = self.store.observed_path(record.sdid, record.selector)
        content = observed.to_json(seen)
        if len(content) > observed.MAX_FILE:
            return  # hundreds of servers; it is asked again
        try:
            durable.replace(path, content, permission.access_for(self.store.directory))
        except OSError as error:
            raise _unwritable(path, error) from None

    def destroy(self, record: KeyRecord) -> None:
        """Delete the private half of a removed key; its record stays as a tombstone."""
        if self.store.find(record.sdid, record.selector).stage is not Stage.REMOVED:
            raise ValueError("only a removed key is destroyed")
        path = self.store.private_path(record.sdid, record.selector)
        try:
            path.unlink(missing_ok=True)
            self.store.observed_path(record.sdid, record.selector).unlink(missing_ok=True)
            durable.sync_directory(path.parent)
        except OSError as error:
            raise _unwritable(path, error) from None

    def finish_interrupted(self) -> None:
        """Retire what a crash left active; remove half-written files and keys of the removed."""
        self.changed = _exists(self.store.directory / self.sdid / _UNTOLD)
        try:
            durable.sweep(self.store.directory / self.sdid)
        except OSError as error:
            raise _unwritable(self.store.directory / self.sdid, error) from None
        lineage = self.store.lineage(self.sdid)
        self._retire_superseded(lineage, at=None)
        for record in lineage.records:
            paths = (
                self.store.private_path(record.sdid, record.selector),
                self.store.observed_path(record.sdid, record.selector),
            )
            if record.stage is Stage.REMOVED and any(map(_exists, paths)):
                self.destroy(record)

    def close(self) -> None:
        """Tell the workers, if there is anything to tell."""
        if self.changed:
            self.tell_workers()
            _forget(self.store.directory / self.sdid / _UNTOLD)
            self.changed = False

    def tell_workers(self) -> None:
        """Replace `generation`; running workers look at it several times a second."""
        path = self.store.directory / "generation"
        token = secrets.token_hex(16).encode("ascii") + b"\n"
        try:
            with _locked(self.store.directory / ".lock"):  # for a moment; writers of other SDIDs
                durable.sweep(self.store.directory)
                durable.replace(path, token, permission.access_for(self.store.directory))
        except OSError as error:
            raise errors.TryLater(
                f"{path}: keys were changed, but running workers could not be told"
                f" ({os.strerror(error.errno or 0)}); make room, then reload the service."
            ) from None

    def _retire_superseded(self, lineage: Lineage, *, at: datetime | None) -> None:
        signing: Mapping[str, KeyRecord] = {key.algorithm: key for key in active(lineage.records)}
        for record in lineage.records:
            successor = signing.get(record.algorithm)
            if record.stage is Stage.ACTIVE and successor is not None and record != successor:
                moment = at or successor.activated_at or successor.created_at
                why = f"superseded by {successor.selector}"
                self.put(record.moved(Stage.RETIRING, at=moment, why=why))


def _forget(path: Path) -> None:
    """What is left only makes the next writer tell the workers once more."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _make_folder(directory: Path, folder: Path) -> None:
    access = permission.access_for(directory, is_directory=True)
    try:
        durable.make_directory(folder, access)
    except FileExistsError:  # another command made it just now
        pass
    _give_as_left(folder, access)
    permission.check_directories(folder)


def _give_as_left(folder: Path, access: durable.Access) -> None:
    """Finish what a crash left between making a directory and giving it its owner and mode."""
    about = os.stat(folder)
    if about.st_uid != os.geteuid() or stat.S_IMODE(about.st_mode) != 0o700:
        return
    uid = -1 if access.uid is None else access.uid
    gid = -1 if access.gid is None else access.gid
    if uid not in (-1, about.st_uid) or gid not in (-1, about.st_gid):
        os.chown(folder, uid, gid)
    if access.mode != 0o700:
        os.chmod(folder, access.mode)


@contextlib.contextmanager
def _locked(path: Path, busy: str = "") -> Iterator[None]:
    """Hold a lock; where somebody else has it, wait, or raise `busy` if that is a sentence."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError:
            raise errors.TryLater(f"{path}: {busy}; try again when it is done.") from None
        yield
    finally:
        os.close(fd)


def _exists(path: Path) -> bool:
    """Whether there is such a name; `permission.WrongPermission` if that cannot be told."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise permission.unreadable(path, error) from None
    return True


def _is_directory(entry: os.DirEntry[str]) -> bool:
    """One name that leads nowhere (a loop of links) must not bar the way to all other keys."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _read_plain(path: Path, limit: int = MAX_FILE) -> bytes:
    """A file up to `limit` octets; OSError at once for what is none, where a FIFO would wait."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        return os.read(fd, limit)
    finally:
        os.close(fd)


def _unwritable(path: Path, error: OSError) -> errors.CarbonsealError:
    reason = os.strerror(error.errno or 0)
    return errors.TryLater(
        f"{path}: it cannot be written ({reason}); run the command as root or as the owner of"
        " the keys directory, and see that the disk has room."
    )
