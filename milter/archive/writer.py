"""The writer: takes records from the spool to SQL, in a process of its own.

Promises: each record of the spool reaches the database exactly once, whatever happens to the writer
or to the database, because the records and how far the spool was read are committed together.  One
writer works on a spool at a time.  A database that cannot serve is tried again for ever, said once,
and said once more when it serves again.  A record that the database refuses is found by halving its
batch, set aside with the reason, and the others go on; a batch that met another transaction is
loaded again as it is.  Open segments are read as they grow.  What a database has lost (a standby
that lagged, an old backup) is loaded again from loaded/ when the writer connects.  Where nothing
is left of the archive (a file that was removed, a mount that is missing) none is made in
its place: that is waited for as well, until an administrator says that a new one is to be begun.

Safe direction: where both are possible, a record stays in the spool rather than counting as loaded.

Raises: `SpoolTaken` when another writer has the spool; `database.WrongDatabase` when waiting cannot
help.

See also: `writing.passes` (what is done between two looks at the spool), `segments` (reading the
spool), `loader` (one batch into SQL).
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

import sqlalchemy
from sqlalchemy.exc import SQLAlchemyError

from carbonseal.milter import log
from carbonseal.milter.archive import (
    database,
    derive,
    inserting,
    loader,
    segments,
    spool_line,
    usual_rows,
)
from carbonseal.milter.archive.evidence import settings
from carbonseal.milter.archive.writing import cycles, spool_lock
from carbonseal.milter.archive.writing.account import Account, Report, to_log
from carbonseal.milter.archive.writing.known_archive import ArchiveLost
from carbonseal.milter.archive.writing.passes import Passes
from carbonseal.milter.archive.writing.spool_lock import SpoolTaken
from carbonseal.milter.archive.writing.stopping import Never, Stop, SupervisorsStop
from carbonseal.policies.errors import TryLater

_POLL_SECONDS = 0.1
# While much mail comes, records are gathered: of 300 a second each costs a third of what it costs
# when it is loaded as soon as it is seen.  A search can wait half a second for them.
_MUCH = 20  # records in one pass
_GATHER_SECONDS = 0.5
_LONGEST_WAIT = 5.0
_LOCK_SECONDS = 0.5  # between two looks whether the last writer has let go
_TIDY_SECONDS = 3600.0  # between two looks for old segments in loaded/


def serve(
    spool_directory: Path,
    url: str,
    control: socket.socket,
    *,
    keep_loaded: int | None = None,
    evidence: settings.Settings | None = None,
    indexed: frozenset[str] = derive.INDEXED,
) -> int:
    """Load until the supervisor at the other end of `control` says so or is gone."""
    stop = SupervisorsStop(control)
    while True:
        try:
            run(
                spool_directory,
                url,
                stop=stop,
                report=to_log,
                keep_loaded=keep_loaded,
                evidence=evidence,
                indexed=indexed,
            )
            return 0
        except SpoolTaken as fault:
            # On reload and after a crash of the supervisor the last writer may still be leaving.
            log.warning("writer-waits", problem=fault.sentence)
            if stop.wait(_LOCK_SECONDS):
                return 0


def run(
    spool_directory: Path,
    url: str,
    *,
    stop: Stop,
    report: Report,
    opened: Callable[[], None] = lambda: None,
    keep_loaded: int | None = None,
    evidence: settings.Settings | None = None,
    indexed: frozenset[str] = derive.INDEXED,
) -> None:
    """Load the spool until `stop`; what is in the spool by then is still loaded, if that can be.

    `report(event, **facts)` is told what an operator may want to know, `opened` each time that the
    archive is open, with all its tables.  Loaded segments are deleted
    after `keep_loaded` seconds; never when it is None.  `evidence` None: in the spool's own.
    `indexed`: names in lower case of the header fields by whose values records are to be found.
    """
    cycles.spare_the_collector()
    with spool_lock.held(spool_directory):
        if missing := missing_helpers(url):
            report("writer-without-helper", missing=" ".join(missing))
        writer = Writer(spool_directory, url, report, evidence, indexed)
        writer.opened = opened
        try:
            tidy_at = 0.0
            while not stop.is_set():
                wait = writer.advance(stop)
                if keep_loaded is not None and time.monotonic() >= tidy_at:
                    tidy_at = time.monotonic() + _TIDY_SECONDS
                    _tidy(spool_directory, keep_loaded, report)
                if wait:
                    stop.wait(wait)
            writer.advance(Never())
        finally:
            writer.close()


def run_once(
    spool_directory: Path,
    url: str,
    *,
    report: Report,
    evidence: settings.Settings | None = None,
    indexed: frozenset[str] = derive.INDEXED,
) -> int:
    """Load what the spool holds now; returns the number of records.

    Raises: SpoolTaken, database.DatabaseUnusable, database.WrongDatabase.
    """
    cycles.spare_the_collector()
    with spool_lock.held(spool_directory):
        writer = Writer(spool_directory, url, report, evidence, indexed)
        try:
            return writer.load_all()
        except (SQLAlchemyError, OSError) as fault:
            raise TryLater(writer.sentence(fault)) from fault
        finally:
            writer.close()


def missing_helpers(url: str) -> list[str]:
    """Names of the compiled helpers that a writer into this database has to do without.

    Its work is done without them as well, and takes up to twice as long.
    """
    found = {
        "_spool_line": spool_line.COMPILED is not None,
        "_usual_rows": usual_rows.COMPILED is not None,
        "_loading": loader.COMPILED is not None,
        "_many_rows": not url.startswith("sqlite") or inserting.can_read_packs(),
    }
    return [name for name, is_there in found.items() if not is_there]


def _tidy(spool_directory: Path, keep_loaded: int, report: Report) -> None:
    try:
        removed = segments.remove_loaded(spool_directory, before=time.time() - keep_loaded)
    except OSError as fault:
        report("tidying-failed", problem=f"{fault.filename}: {fault.strerror}")
    else:
        if removed:
            report("segments-removed", count=removed, older_than=f"{keep_loaded} s")


class Writer:
    """One spool and one database: when to look again, and what to do when it does not serve."""

    def __init__(
        self,
        directory: Path,
        url: str,
        report: Report,
        evidence: settings.Settings | None = None,
        indexed: frozenset[str] = derive.INDEXED,
    ) -> None:
        self.opened: Callable[[], None] = lambda: None  # told when the archive is open
        self._directory = directory
        self._url = url
        self._evidence = evidence or settings.beside(directory)
        self._indexed = indexed
        self._account = Account(report, directory, self._evidence.directory)
        self._cycles = cycles.Cycles()
        self._passes: Passes | None = None  # None: not connected
        self._failures = 0  # since the last pass that came to its end

    def advance(self, stop: Stop) -> float:
        """Load what is pending; returns the seconds to wait before the next call."""
        self._cycles.collect_if_due()  # what failed last is let go of before it is read again
        try:
            passes = self._connected()
            # After a failure less is asked of the database at once.
            count = passes.load_pending(stop, is_together=not self._failures)
        except database.WrongDatabase:
            raise
        except (TryLater, SQLAlchemyError, OSError) as fault:
            return self._back_off(fault)
        self._failures = 0
        self._account.serves(passes.progress)
        if count >= _MUCH:
            return _GATHER_SECONDS
        return 0.0 if count else _POLL_SECONDS

    def load_all(self) -> int:
        """Load what is pending, and learn from it; how many records.  Raises what is in the way."""
        passes = self._connected()
        count = passes.load_pending(Never(), is_together=True)
        passes.learn_to_the_end()
        return count

    def close(self) -> None:
        """Let go of the database, and of all that was known about it."""
        if self._passes is not None:
            self._passes.close()
            self._passes = None

    def sentence(self, fault: Exception) -> str:
        """What is wrong, for people."""
        if isinstance(fault, SQLAlchemyError):
            return database.unusable(sqlalchemy.make_url(self._url), fault).sentence
        if isinstance(fault, OSError):
            return f"{fault.filename or self._directory}: {fault.strerror}; mend the file system"
        return str(fault)

    def _connected(self) -> Passes:
        if self._passes is None or self._passes.is_removed():
            self.close()
            self._passes = Passes(
                self._directory,
                self._url,
                evidence=self._evidence,
                indexed=self._indexed,
                cycles=self._cycles,
                account=self._account,
            )
            self._passes.connect()
            self.opened()
        return self._passes

    def _back_off(self, fault: Exception) -> float:
        """Forget the connection, say what is wrong if that is new, and how long to wait."""
        self.close()
        self._cycles.failed()
        self._account.waits(self.sentence(fault), is_lost=isinstance(fault, ArchiveLost))
        self._failures += 1
        return float(min(_LONGEST_WAIT, _POLL_SECONDS * 2 ** min(self._failures, 10)))
