"""The writer: takes records from the spool to SQL, in a process of its own.

Promises: each record of the spool reaches the database exactly once, whatever happens to the writer
or to the database, because the records and how far the spool was read are committed together.  One
writer works on a spool at a time.  A database that cannot serve is tried again for ever, said once,
and said once more when it serves again.  A record that the database refuses is found by halving its
batch, set aside with the reason, and the others go on; a batch that met another transaction is
loaded again as it is.  Open segments are read as they grow.  What a database has lost (a standby
that lagged, an old backup) is loaded again from loaded/ when the writer connects.

Safe direction: where both are possible, a record stays in the spool rather than counting as loaded.

Raises: `SpoolTaken` when another writer has the spool; `database.WrongDatabase` when waiting cannot
help.

See also: `segments` (reading the spool), `loader` (one batch into SQL).
"""

from __future__ import annotations

import enum
import fcntl
import gc
import os
import random
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from carbonseal.milter import log, readable
from carbonseal.milter.archive import batch as batches
from carbonseal.milter.archive import (
    database,
    derive,
    faults,
    header_learning,
    inserting,
    loader,
    partitions,
    progress,
    segments,
    servers,
    spool_line,
    terms,
    usual_rows,
)
from carbonseal.milter.archive.batch import Batch
from carbonseal.milter.archive.beside import Beside
from carbonseal.milter.archive.dictionary import Dictionary
from carbonseal.milter.archive.evidence import sealing, settings
from carbonseal.milter.archive.evidence.chain import ChainUnusable
from carbonseal.milter.archive.evidence.seal import Surveying
from carbonseal.milter.archive.evidence.stamp import StampFailed
from carbonseal.milter.archive.progress import Moved, Progress
from carbonseal.milter.archive.segments import Entry, Segment
from carbonseal.milter.status.writer_report import WriterReport
from carbonseal.policies.errors import TryLater

# Records in one transaction.  Twice as many were no quicker, and took 8 MB more memory.
BATCH = 500
# Those of several segments.  Each transaction writes every page anew that it has changed, and the
# indexes of two thousand records are on few more pages than those of three hundred.  As many as
# come between two looks at full load; each takes 10 KB of memory until it is loaded.
TOGETHER = 2000
_POLL_SECONDS = 0.1
# While much mail comes, records are gathered: of 300 a second each costs a third of what it costs
# when it is loaded as soon as it is seen.  A search can wait half a second for them.
_MUCH = 20  # records in one pass
_GATHER_SECONDS = 0.5
_LONGEST_WAIT = 5.0
# Longest waits before a batch is tried again that met another transaction.
_COLLISION_WAITS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
_LOCK_SECONDS = 0.5  # between two looks whether the last writer has let go
_TIDY_SECONDS = 3600.0  # between two looks for old segments in loaded/
_LOCK = "writer.lock"
_AHEAD_SECONDS = 3600.0  # between two looks whether the months to come have their tables
_LEARNING_SECONDS = 60.0  # that a writer who would be done waits for a dictionary
_random = random.SystemRandom()
# Objects between two looks for cycles that nobody asked for.  Each of those looks at the batches
# that are under way, object by object: at every hundred thousand they took a tenth of all the time.
_ALLOCATIONS = 2_000_000
_COMMITS = 50  # between two looks for the cycles that transactions leave


class _Left(enum.Enum):
    """What stands for lines that are left to be loaded with those of their segment only."""

    LEFT = enum.auto()


_LEFT = _Left.LEFT
# What a smaller transaction may not meet, or tells apart.
_MET_AGAIN = (faults.Kind.POISON, faults.Kind.COLLISION)


class SpoolTaken(TryLater):
    """Another writer loads this spool."""


class Stop(Protocol):
    """When to stop: a threading.Event, or anything that waits and answers like one."""

    def is_set(self) -> bool:
        """Whether to stop."""

    def wait(self, timeout: float) -> bool:
        """Wait for it at most that many seconds."""


Report = Callable[..., None]


_GRAVE = {
    "database-waits": log.warning,
    "segments-brought-back": log.warning,
    "record-set-aside": log.error,
    "segment-damaged": log.error,
    "stamp-failed": log.warning,
}


def to_log(event: str, **facts: Any) -> None:
    """A report that goes to the log, each event at its level."""
    _GRAVE.get(event, log.event)(event, **facts)


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
    stop = _ControlStop(control)
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


class _ControlStop:
    """Set once the other end of a socket sends anything or closes."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._is_set = False

    def is_set(self) -> bool:
        return self.wait(0)

    def wait(self, timeout: float) -> bool:
        if not self._is_set:
            self._is_set = readable.wait(self._control, timeout)
        return self._is_set


def run(
    spool_directory: Path,
    url: str,
    *,
    stop: Stop,
    report: Report,
    keep_loaded: int | None = None,
    evidence: settings.Settings | None = None,
    indexed: frozenset[str] = derive.INDEXED,
) -> None:
    """Load the spool until `stop`; what is in the spool by then is still loaded, if that can be.

    `report(event, **facts)` is told what an operator may want to know.  Loaded segments are deleted
    after `keep_loaded` seconds; never when it is None.  `evidence` None: in the spool's own.
    `indexed`: names in lower case of the header fields by whose values records are to be found.
    """
    _spare_the_collector()
    with _locked(spool_directory):
        if missing := missing_helpers(url):
            report("writer-without-helper", missing=" ".join(missing))
        writer = _Writer(spool_directory, url, report, evidence, indexed)
        try:
            tidy_at = 0.0
            while not stop.is_set():
                wait = writer.advance(stop)
                if keep_loaded is not None and time.monotonic() >= tidy_at:
                    tidy_at = time.monotonic() + _TIDY_SECONDS
                    _tidy(spool_directory, keep_loaded, report)
                if wait:
                    stop.wait(wait)
            writer.advance(_Never())
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
    _spare_the_collector()
    with _locked(spool_directory):
        writer = _Writer(spool_directory, url, report, evidence, indexed)
        try:
            writer.load_pending(_Never())
            writer.learn_to_the_end()
            return writer.loaded
        except (SQLAlchemyError, OSError) as fault:
            raise TryLater(writer.sentence(fault)) from fault
        finally:
            writer.close()


def _spare_the_collector() -> None:
    """Look for cycles rarely: a batch is many objects and none of them is in one.

    What is in cycles goes with each finished segment.
    """
    gc.freeze()
    gc.set_threshold(_ALLOCATIONS, 20, 20)


class _Never:
    def is_set(self) -> bool:
        return False

    def wait(self, timeout: float) -> bool:
        return False


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
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


class _Writer:
    """One spool, one database, and what is known about both."""

    def __init__(
        self,
        directory: Path,
        url: str,
        report: Report,
        evidence: settings.Settings | None = None,
        indexed: frozenset[str] = derive.INDEXED,
    ) -> None:
        self._directory = directory
        self._indexed = indexed
        self._take = spool_line.taking(derive.wanted(indexed), flat=True)
        self._evidence = evidence or settings.beside(directory)
        self._said = WriterReport(directory, self._evidence.directory)
        self._sealer: sealing.Sealer | None = None
        self._url = url
        self._report = report
        self._engine: Engine | None = None
        self._connection: Connection | None = None
        self._file: tuple[int, int] | None = None
        self._log: tuple[int, int] | None = None
        self._dictionary = Dictionary()
        self._learning = header_learning.Learning()
        self._progress: dict[str, Progress] = {}
        self._seen: dict[str, Surveying] = {}
        self._ahead_at = 0.0
        self._trouble: str | None = None
        self._failures = 0
        self._commits = 0  # since the last look for cycles
        self.loaded = 0

    def advance(self, stop: Stop) -> float:
        """Load what is pending; returns the seconds to wait before the next call."""
        self._collect_if_due()  # what failed last is let go of before it is read again
        try:
            count = self.load_pending(stop)
        except database.WrongDatabase:
            raise
        except (TryLater, SQLAlchemyError, OSError) as fault:
            return self._back_off(fault)
        if self._trouble is not None:
            self._report("database-serves-again", after=self._trouble)
            self._trouble = None
        self._failures = 0
        self._said.pulse(self.loaded, None, self._progress)
        if count >= _MUCH:
            return _GATHER_SECONDS
        return 0.0 if count else _POLL_SECONDS

    def close(self) -> None:
        """Let go of the database, and of all that was known about it.

        The next connection may lead to another one, restored from a backup, say.
        """
        self._dictionary = Dictionary()
        self._learning.close()
        self._learning = header_learning.Learning()
        self._progress.clear()
        self._seen.clear()
        self._sealer = None
        self._disconnect()
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    def learn_to_the_end(self) -> None:
        """Wait for a dictionary that is being made: it would be lost with this process."""
        self._learning.learn(self._transaction, wait=_LEARNING_SECONDS)

    def load_pending(self, stop: Stop) -> int:
        """One pass over the spool, to its present end; how many records were loaded."""
        self._connect()
        self._look_ahead()
        before = self.loaded
        pending = segments.pending(self._directory)
        trouble: OSError | ChainUnusable | None = None
        done: set[str] = set()
        if not self._failures:  # after one, less is asked of the database at once
            done = self._load_together([one for one in pending if not one.is_closed], stop)
        for segment in pending:
            if stop.is_set():
                break
            if segment.name in done:
                continue
            try:
                self._load_segment(segment, stop)
            except (OSError, ChainUnusable) as fault:
                trouble = trouble or fault  # one bad file must not hold up all that come after it
        for name in self._progress.keys() - {segment.name for segment in pending}:
            del self._progress[name]
            self._seen.pop(name, None)
        if trouble is not None:
            raise trouble
        self._collect_if_due()
        return self.loaded - before

    def _back_off(self, fault: Exception) -> float:
        """Forget the connection, say what is wrong if that is new, and how long to wait."""
        self.close()
        self._collect_soon()
        sentence = self.sentence(fault)
        if sentence != self._trouble:
            self._report("database-waits", problem=sentence)
            self._trouble = sentence
        self._said.pulse(self.loaded, sentence, self._progress)
        self._failures += 1
        return float(min(_LONGEST_WAIT, _POLL_SECONDS * 2 ** min(self._failures, 10)))

    def sentence(self, fault: Exception) -> str:
        """What is wrong, for people."""
        if isinstance(fault, SQLAlchemyError):
            return database.unusable(sqlalchemy.make_url(self._url), fault).sentence
        if isinstance(fault, OSError):
            return f"{fault.filename or self._directory}: {fault.strerror}; mend the file system"
        return str(fault)

    def _connect(self) -> None:
        if self._connection is None or self._is_removed():
            self.close()
            self._engine = database.writing_engine(self._url)
            self._file = database.file_of(self._engine)
            database.upgrade(self._engine)
            self._connection = self._engine.connect()
            self._bring_back()
            with self._transaction() as connection:
                self._learning.recall(connection)
            self._log = database.log_of(self._engine)  # the first transaction has begun it
            self._ahead_at = 0.0

    def _is_removed(self) -> bool:
        """Whether an SQLite archive, or its log, is another than the one that is written to."""
        engine = self._engine
        return database.file_of(engine) != self._file or database.log_of(engine) != self._log

    def _bring_back(self) -> None:
        """Load again what this database has lost, or never had.

        A standby that took over may lack the last commits of its primary, a restored backup the
        last days: what they lack is still in loaded/.
        """
        with self._transaction() as connection:
            lost = progress.unsealed(segments.loaded(self._directory), connection)
        for segment in lost:
            segments.bring_back(segment)
        if lost:
            self._report("segments-brought-back", count=len(lost), first=lost[0].name)

    def _look_ahead(self) -> None:
        """Prepare the database for the months to come."""
        if time.monotonic() >= self._ahead_at:
            with self._transaction() as connection:
                partitions.make_ahead(connection)
            self._ahead_at = time.monotonic() + _AHEAD_SECONDS

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            if not connection.closed:
                # Not back to the pool: that would roll back where nobody listens any more, and log
                # the failure with its traceback.
                connection.invalidate()
            connection.close()
        except SQLAlchemyError:
            pass  # it is being given up because it does not work

    def _load_segment(self, segment: Segment, stop: Stop) -> None:
        try:
            is_read = self._load_lines(segment, stop)
        except Moved:
            # A commit that was given up for lost was done after all.
            del self._progress[segment.name]
            self._seen.pop(segment.name, None)
            is_read = self._load_lines(segment, stop)
        if is_read and segment.is_closed:
            self._seal(segment)
            segments.finish(segment)
            self._said.segments += 1
            self._seen.pop(segment.name, None)
            self._collect()
            done = self._progress[segment.name]
            facts = {} if done.is_complete else {"problem": "without footer: lines may be missing"}
            self._report("segment-loaded", segment=segment.name, records=done.records, **facts)

    def _collect(self) -> None:
        """Look for cycles where there is no batch to be looked at.

        Each transaction leaves a few with all they hold, far below the threshold: without this
        240,000 records took the writer from 95 to 129 MB.  They are young: those that lasted are
        left to the collector.
        """
        gc.collect(1)
        self._commits = 0

    def _collect_if_due(self) -> None:
        if self._commits >= _COMMITS:
            self._collect()

    def _collect_soon(self) -> None:
        """After a fault of the database.

        SQLAlchemy's faults are in cycles, with the frames that they came through, and with the
        batch that these hold: ten megabytes each time that 1,400 records were refused.
        """
        self._commits = _COMMITS

    def _load_together(self, growing: Sequence[Segment], stop: Stop) -> set[str]:
        """Load what several open segments have gained, in one transaction.

        Returns those that are loaded to their ends.  Whatever is in the way of that is left to be
        met, and said, with one segment at a time.
        """
        done: set[str] = set()
        while len(growing) > 1 and not stop.is_set():
            size = max(TOGETHER // len(growing), 1)
            read = {one: self._read_some(one, size) for one in growing}
            some = [batch for batch in read.values() if isinstance(batch, Batch)]
            if some and not self._commit_together(some):
                break
            self._learning.learn(self._transaction)
            growing = [one.segment for one in some if len(one.entries) == size]
            # Those that may have more are done for only by a later turn, or one at a time.
            is_left = {*growing, *(one for one, batch in read.items() if batch is _LEFT)}
            done.update(one.name for one in read.keys() - is_left)
        return done

    def _read_some(self, segment: Segment, size: int) -> Batch | _Left | None:
        """The next lines of an open segment; None: there are none."""
        try:
            known = self._progress.get(segment.name) or self._recall(segment)
            if known.is_complete or not segments.has_more(segment, known.offset):
                return None
            seen = self._seen_until(segment, known.offset)
            entries = segments.read(segment, known.offset, known.lines, self._take)
            compress = self._learning.compress_texts
            found = batches.read(segment, islice(entries, size), self._indexed, seen, compress)
        except OSError:
            return _LEFT
        return _LEFT if found is not None and found.refused else found

    def _commit_together(self, some: Sequence[Batch]) -> bool:
        """Whether all of them were loaded, in one transaction; else none was."""
        try:
            self._commit_once(some, None)
        except Exception as fault:
            self._dictionary.forget()
            self._collect_soon()
            is_met_again = isinstance(fault, Moved) or faults.kind(fault) in _MET_AGAIN
            if not is_met_again:
                raise
            return False
        return True

    def _load_lines(self, segment: Segment, stop: Stop) -> bool:
        """Load what there is of a segment; whether that was all, and no stop came between."""
        known = self._progress.get(segment.name) or self._recall(segment)
        if known.is_complete:
            return True
        if not (segment.is_closed or segments.has_more(segment, known.offset)):
            return True
        entries = segments.read(segment, known.offset, known.lines, self._take)
        seen = self._seen_until(segment, known.offset)

        def read() -> Batch | None:
            some, compress = islice(entries, BATCH), self._learning.compress_texts
            return batches.read(segment, some, self._indexed, seen, compress)

        ahead = batches.Ahead(read)
        while (batch := ahead.take()) is not None:
            for entry, why in batch.refused:
                self._set_aside(segment, entry, why)
            # More than fits into a batch is there, most likely.
            is_full = len(batch.entries) == BATCH
            self._commit(batch, ahead.prepare if is_full else None)
            self._collect_if_due()
            self._learning.learn(self._transaction)
            if stop.is_set():
                return False
        return True

    def _seen_until(self, segment: Segment, offset: int) -> Surveying | None:
        """What came by of a segment that is loaded up to there; None unless it came all by here.

        What was read and could not be loaded is beyond that, and comes again.
        """
        seen = self._seen.get(segment.name)
        if seen is None and offset == 0:
            seen = self._seen[segment.name] = Surveying()
        if seen is not None and seen.end != offset:
            del self._seen[segment.name]
            return None
        return seen

    def _seal(self, segment: Segment) -> None:
        if self._sealer is None:
            self._sealer = sealing.Sealer(self._evidence, self._url)
        relay = self._progress[segment.name].relay
        done = self._progress[segment.name].offset
        seen = self._seen_until(segment, done) if done == _size(segment) else None
        outcome = self._sealer.seal(segment, relay, self._transaction, seen)
        if outcome is None:
            return
        self._report("segment-sealed", segment=segment.name, seal=outcome.head)
        for problem in outcome.findings:
            self._report("segment-damaged", segment=segment.name, problem=problem)
        self._stamp()

    def _stamp(self) -> None:
        """Have the chain stamped, if an authority is configured and it is time; else never mind."""
        assert self._sealer is not None
        try:
            stamped = self._sealer.stamp_if_due(self._transaction)
        except StampFailed as fault:
            self._report("stamp-failed", problem=fault.sentence)
        else:
            if stamped is not None:
                self._report("chain-stamped", seal=stamped)

    def _recall(self, segment: Segment) -> Progress:
        with self._transaction() as connection:
            found = self._progress[segment.name] = progress.recall(segment, connection)
        return found

    @contextmanager
    def _transaction(self, meanwhile: Callable[[], None] | None = None) -> Iterator[Connection]:
        """A transaction; `meanwhile` is done while its commit waits for the disk."""
        assert self._connection is not None
        with servers.bounded(self._connection), self._connection.begin() as transaction:
            yield self._connection
            if meanwhile is not None:
                with Beside[None]() as committing:
                    committing.do(transaction.commit)
                    meanwhile()
                    committing.wait()

    def _set_aside(self, segment: Segment, entry: Entry, why: str) -> None:
        # Before the progress is committed: set aside twice is better than passed over.
        path = segments.set_aside(self._directory, segment, entry, why)
        self._said.set_aside += 1
        self._report("record-set-aside", file=str(path), problem=why)

    def _commit(self, batch: Batch, meanwhile: Callable[[], None] | None = None) -> None:
        """Records and progress in one transaction, again where another was in its way.

        A batch with a refused record is halved.  `meanwhile`: see `_transaction`.
        """
        for wait in (*_COLLISION_WAITS, None):
            try:
                self._commit_once([batch], meanwhile)
                return
            except Exception as fault:
                self._dictionary.forget()
                self._collect_soon()
                kind = faults.kind(fault)
                if kind is faults.Kind.POISON and (batch.arrivals or batch.events):
                    self._halve(batch, f"the database refuses it: {faults.plain(fault)}")
                    return
                if kind is not faults.Kind.COLLISION or wait is None:
                    raise
                self._report("batch-collided", problem=faults.plain(fault))
            # Not all of those that met must try again at the same moment.
            time.sleep(_random.uniform(0.0, wait))

    def _commit_once(self, some: Sequence[Batch], meanwhile: Callable[[], None] | None) -> None:
        reached: dict[str, Progress] = {}
        with self._transaction(meanwhile) as connection:
            for batch in some:
                progress.hold(batch.segment, self._progress[batch.segment.name], connection)
            arrivals = [*chain.from_iterable(batch.arrivals for batch in some)]
            events = [*chain.from_iterable(batch.events for batch in some)]
            counts = loader.load_counting(arrivals, connection, self._dictionary, events)
            for batch in some:
                name = batch.segment.name
                reached[name] = self._progress[name].after(batch, counts[terms.term(name)])
                progress.note_refused(batch, connection)
                progress.keep(batch.segment, reached[name], connection)
        self._dictionary.keep()
        self._progress.update(reached)
        self.loaded += counts.total()
        self._commits += 1
        self._said.pulse(self.loaded, self._trouble, self._progress)

    def _halve(self, batch: Batch, why: str) -> None:
        if len(batch.entries) > 1:
            for half in batch.halves():
                self._commit(half)
            return
        [entry] = batch.entries
        self._set_aside(batch.segment, entry, why)
        self._commit(Batch(batch.segment, batch.entries, [], [(entry, why)]))


def _size(segment: Segment) -> int:
    try:
        return os.stat(segment.path).st_size
    except FileNotFoundError:
        return -1
