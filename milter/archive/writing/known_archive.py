"""Which archive a spool is loaded into, so that an empty one in its place is not taken for it.

A file that was removed, a file system that is not mounted, a database that was made anew: all look
like an archive that nothing was loaded into yet.  So the writer keeps a mark beside its lock: where
the archive is, and one segment that it has.

Promises: where the mark says that this spool was loaded into the archive at that place, and nothing
of it is there, `check_is_there`, `check_is_made` or `check` raises before anything is made or
changed.  An archive that has any segment of this spool, an old backup even, is the one that is
meant, and one at another place was chosen in the configuration: `archive-changed` says it to the
log where nothing of this spool is in it, and `other_place` to whoever asks before.  Removing the
mark is how an administrator says that a new archive is to be begun.

Safe direction: records wait in the spool, as in any outage, rather than going into an archive that
has lost its legal holds and that nobody asked for.

Raises: `ArchiveLost`; OSError where the mark cannot be read; what the database raises.

Does not: fail where the mark cannot be written; that is tried again.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import sqlalchemy
from sqlalchemy import Connection, Engine, select

from carbonseal.keys import durable
from carbonseal.milter.archive import audit_place, database, schema, segments, terms
from carbonseal.milter.archive.dictionary import chunks
from carbonseal.milter.archive.evidence import chain
from carbonseal.milter.archive.evidence.seal import BadEntry
from carbonseal.milter.archive.writing.account import Report

MARK: Final = "writer.archive"
_ACCESS: Final = durable.Access(mode=0o640)
_LONGEST: Final = 64 * 1024  # octets of a mark that makes sense
_CHANGED: Final = (
    "nothing of this relay is in it yet, and the legal holds are in the one before; if that is not "
    "meant, correct record.database: what is loaded meanwhile comes there again from loaded/"
)
_columns = schema.segment.c


class ArchiveLost(database.DatabaseUnusable):
    """Nothing is left of the archive that this spool was loaded into."""


class _Mark(NamedTuple):
    place: str
    segment: str


class KnownArchive:
    """The archive of one spool."""

    def __init__(self, spool: Path, evidence: Path, url: str, report: Report) -> None:
        self._spool = spool
        self._evidence = evidence
        self._url = url
        self._report = report
        self._path = spool / MARK
        self._mark: _Mark | None = None

    def check_is_there(self) -> None:
        """Before anything is opened: a file that was loaded into is not made again."""
        self._mark = self._read()
        file = audit_place.file_of_archive(self._url)
        if file is None or not self._is_expected():
            return
        try:
            file.stat()
        except (FileNotFoundError, NotADirectoryError):
            raise self._lost("the archive is gone") from None

    def check_is_made(self, engine: Engine) -> None:
        """Before tables are made: a database that was loaded into has them."""
        if self._is_expected() and database.is_empty(engine):
            raise self._lost("there is no archive any more, only an empty database")

    def check(self, connection: Connection) -> None:
        """Before anything is loaded: what was loaded into has a segment of this spool."""
        mark = self._mark
        if mark is not None and _first(connection, [mark.segment]) == mark.segment:
            known: str | None = mark.segment
        else:
            known = _first(connection, self._candidates())
        if known is not None:
            self._keep(known)
        elif self._is_expected():
            raise self._lost("the archive has nothing of what this relay has loaded into it")
        elif mark is not None:
            self._report(
                "archive-changed", database=self._place(), before=mark.place, problem=_CHANGED
            )

    def remember(self, loaded: Iterable[str]) -> None:
        """Mark the archive by one of these segments, which it has, unless that is done."""
        if not self._is_expected():
            for segment in loaded:
                self._keep(segment)
                return

    def _is_expected(self) -> bool:
        return self._mark is not None and self._mark.place == self._place()

    def _place(self) -> str:
        return _place(self._url)

    def _candidates(self) -> Iterator[str]:
        """Segments of this spool that an archive of it may have, the oldest first."""
        with contextlib.suppress(OSError):
            for _, sealed in chain.entries(self._evidence):
                with contextlib.suppress(BadEntry):
                    if not isinstance(sealed, BadEntry):
                        yield sealed.facts.segment
        for segment in (*segments.loaded(self._spool), *segments.pending(self._spool)):
            yield segment.name

    def _read(self) -> _Mark | None:
        return _read(self._path, self._place())

    def _keep(self, segment: str) -> None:
        mark = _Mark(self._place(), segment)
        if mark == self._mark:
            return
        content = json.dumps({"database": mark.place, "segment": mark.segment}) + "\n"
        with contextlib.suppress(OSError):
            durable.replace(self._path, content.encode("ascii"), _ACCESS)
            self._mark = mark

    def _lost(self, what: str) -> ArchiveLost:
        return ArchiveLost(
            f"{self._place()}: {what}; mount its file system, or restore the newest backup, which "
            f"alone has the legal holds. To begin a new archive instead, remove {self._path}"
        )


def other_place(spool: Path, url: str) -> str | None:
    """What to think of before this URL is used, where the spool's archive is at another place.

    None where it is not, or where this user cannot see that.  Nothing is opened but the mark.
    """
    place = _place(url)
    try:
        mark = _read(spool / MARK, place)
    except OSError:
        return None
    if mark is None or mark.place == place:
        return None
    file = audit_place.file_of_archive(url)
    is_new = file is not None and not file.exists()
    what = "where nothing is: an empty archive is begun there" if is_new else "another place"
    return (
        f"what this relay has recorded is in the archive at {mark.place}, and this names {place}, "
        f"{what}; unless that is the same archive moved, it has neither the records nor the legal "
        "holds of before"
    )


def _place(url: str) -> str:
    return database.place(sqlalchemy.make_url(url))


def _read(path: Path, place: str) -> _Mark | None:
    """The mark; `place`: what one that makes no sense is taken for.  OSError."""
    try:
        with open(path, "rb") as stream:
            about = json.loads(stream.read(_LONGEST))
        return _Mark(str(about["database"]), str(about["segment"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, RecursionError):
        # Somebody was here, and whatever archive has a segment of this spool is the one.
        return _Mark(place, "")


def _first(connection: Connection, names: Iterable[str]) -> str | None:
    """One of these segments that the database has."""
    for chunk in chunks(list(dict.fromkeys(names))):
        by_id = {terms.term(name): name for name in chunk}
        query = select(_columns.segment_id).where(_columns.segment_id.in_(by_id)).limit(1)
        found = connection.execute(query).scalar()
        if found is not None:
            return by_id[found]
    return None
