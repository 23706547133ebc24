"""Where the audit is kept, and an engine for it.

Promises: on a server the audit is a table of the archive's database.  Beside an SQLite archive it
is a file of its own (`archive.db`: `archive-audit.db`), mode 0660 and of the archive's group, so
that officers can add to it who may not write to the archive.  Its journal is a file that stays:
who adds to the audit needs no right to make files in the directory.  A commit is on disk when it
returns.

Not WAL: its files vanish with the last user and come back as files of whoever is next, which
shuts the others out.

Raises: AuditUnusable.

See also: `audit` (what is kept).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy
from sqlalchemy import URL, Connection, Engine, event
from sqlalchemy.exc import SQLAlchemyError

from carbonseal.milter.archive import database, schema
from carbonseal.policies.errors import TryLater

_BUSY_SECONDS = 30.0  # events are short; whoever waits longer waits for a process that was stopped
_MODE = 0o660
_SUFFIX = "-audit.db"


class AuditUnusable(TryLater):
    """The audit cannot be written or read; without it there is no answer."""


@contextmanager
def opened(url: str) -> Iterator[Engine]:
    """An engine for the audit of the archive at `url`; an SQLite file is made where it is missing.

    Raises: AuditUnusable, database.WrongDatabase.
    """
    archive = file_of_archive(url)
    if archive is None:
        engine = database.writing_engine(url)
    else:
        path = audit_file(archive)
        _make_file(path, archive)
        engine = _sqlite_engine(path)
    try:
        if archive is not None:
            _make_table(engine)
        yield engine
    finally:
        engine.dispose()


def file_of_archive(url: str) -> Path | None:
    """The SQLite file of an archive; None when it is on a server.  Raises: WrongDatabase."""
    try:
        parsed = sqlalchemy.make_url(url)
    except (SQLAlchemyError, ValueError):
        return None  # the engine says what is wrong with it
    return Path(database.place(parsed)) if parsed.get_backend_name() == "sqlite" else None


def audit_file(archive: Path) -> Path:
    """The audit's file beside the archive's."""
    return archive.with_name(archive.stem + _SUFFIX)


def unusable(engine: Engine, fault: SQLAlchemyError) -> AuditUnusable:
    """The sentence for an audit that cannot be used."""
    cause = database.unusable(engine.url, fault).sentence
    return AuditUnusable(f"the audit cannot be used, so there is no answer: {cause}")


def _make_file(path: Path, archive: Path) -> None:
    """Make the file and its journal, empty, before SQLite makes them with other permissions."""
    for wanted in (path, path.with_name(path.name + "-journal")):
        try:
            handle = os.open(wanted, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
        except FileExistsError:
            continue
        except OSError as fault:
            raise AuditUnusable(
                f"{wanted}: the audit cannot be made, so there is no answer ({fault.strerror}); "
                "let the writer's user make it (carbonseal archive audit), and ask as one of its "
                "group"
            ) from None
        try:
            _share(handle, archive)
        finally:
            os.close(handle)


def _share(handle: int, archive: Path) -> None:
    """Give the file the archive's group (and owner, where root makes it) and let it write."""
    with contextlib.suppress(OSError):  # not our group: the directory's stays
        # Root may come before there is an archive; the writer has to get on with the file.
        status = os.stat(archive if archive.exists() else archive.parent)
        os.fchown(handle, status.st_uid if os.geteuid() == 0 else -1, status.st_gid)
    os.fchmod(handle, _MODE)  # whatever the umask is


def _make_table(engine: Engine) -> None:
    try:
        with engine.connect() as connection:
            if sqlalchemy.inspect(connection).has_table(schema.audit.name):
                return
        with engine.begin() as connection:  # immediate: nobody else is at it
            schema.audit_metadata.create_all(connection)
    except SQLAlchemyError as fault:
        raise unusable(engine, fault) from fault


def _sqlite_engine(path: Path) -> Engine:
    location = str(path.absolute()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    engine = sqlalchemy.create_engine(
        URL.create(
            "sqlite+pysqlite",
            database=f"file:{location}",
            query={"mode": "rw", "uri": "true"},
        ),
        connect_args={"timeout": _BUSY_SECONDS},
    )

    def set_up(connection: sqlite3.Connection, _record: object) -> None:
        # None: the driver begins no transaction on its own; `start` does.
        connection.isolation_level = None
        for pragma in ("journal_mode=TRUNCATE", "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}").close()

    def start(connection: Connection) -> None:
        # Who reads the last number is the one who adds the next.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(engine, "connect", set_up)
    event.listen(engine, "begin", start)
    return engine
