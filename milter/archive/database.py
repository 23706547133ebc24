"""Engines for the archive, and its schema version.

Promises: an SQLite archive is one file of mode 0640 in WAL mode with synchronous=FULL, so that a
commit outlives a power failure; readers open it read-only and never wait for the writer.
`upgrade` brings any older schema to this version in one transaction; nothing else ever changes the
schema.  Where there is no such transaction (MariaDB), what a first upgrade left half made is made
anew (`half_made`).

Raises: `DatabaseUnusable` (a sentence with the place and the remedy) for a URL, a directory, a file
or a schema that cannot serve; it is a `TryLater`, because the writer waits for such things.
`WrongDatabase` for what waiting cannot mend.

Does not: retry; the writer does.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy
from sqlalchemy import URL, Connection, Engine, column, event, select, table
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from carbonseal.milter.archive import as_given, faults, half_made, header_dictionaries, servers
from carbonseal.policies.errors import ConfigurationError, TryLater

NEWEST = "archive_5"  # the last of `migrations`; readers need not load Alembic to know it
_VERSIONS = table("alembic_version", column("version_num"))
_NEVER_RELEASED = ("0001", "archive_1", "archive_2")
_BUSY_SECONDS = 5.0
_UPGRADE_SECONDS = 20  # for another writer's upgrade to be done
# The writer shares its machine with the milter, and the kernel caches the file as well.
_CACHE_KIB = 16 * 1024


_NO_PORT = (
    "record.database: what stands after host and colon is no port; write a number, and an IPv6 "
    "address in brackets"
)


class DatabaseUnusable(TryLater):
    """The database cannot serve now."""


class WrongDatabase(ConfigurationError):
    """The URL names something that is no archive of ours."""


def writing_engine(url: str, *, patience: float | None = servers.ANSWER_SECONDS) -> Engine:
    """An engine for the writer; creates the SQLite file.

    `patience`: seconds for each answer of a server; None for work that may take hours.
    Raises: DatabaseUnusable, WrongDatabase.
    """
    parsed = _parsed(url)
    if parsed.get_backend_name() != "sqlite":
        return header_dictionaries.announce(_engine(parsed, is_writer=True, patience=patience))
    path = _sqlite_path(parsed)
    _create_file(path)
    # Header sections of some 700 octets fill pages of 8 KiB better than those of 4 (6 % less in
    # all), and nothing fills larger ones.  A file that has tables keeps the size that it has.
    pragmas = ("page_size=8192", "journal_mode=WAL", "synchronous=FULL")
    # mode=rw: a file that vanished later is an error, not an empty archive.
    return header_dictionaries.announce(_sqlite_engine(path, "rw", pragmas, "BEGIN IMMEDIATE"))


def reading_engine(url: str) -> Engine:
    """An engine that cannot change anything, its schema checked.

    Raises: DatabaseUnusable, WrongDatabase.
    """
    parsed = _parsed(url)
    if parsed.get_backend_name() == "sqlite":
        path = _sqlite_path(parsed)
        _check_is_there(path)
        engine = _sqlite_engine(path, "ro", ("query_only=ON",), "BEGIN")
    else:
        engine = _engine(parsed, is_writer=False)
        as_given.watch(engine)
    header_dictionaries.announce(engine)  # before its first connection
    check_version(engine)
    return engine


def check_url(url: str) -> None:
    """Refuse a URL that can never serve, without asking whether anything is there.

    Raises: ConfigurationError: no URL, no driver for it, no file, or its directory is missing.
    """
    parsed = _parsed(url)
    if parsed.get_backend_name() != "sqlite":
        _engine(parsed, is_writer=False).dispose()
        return
    directory = _sqlite_path(parsed).parent
    try:
        directory.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise WrongDatabase(
            f"record.database: {directory}: no such directory; create it for the writer's user"
        ) from None
    except OSError:
        pass  # closed to whoever asks, as it should be to all but the writer and officers


def upgrade(engine: Engine) -> None:
    """Bring the schema to this version; quick when it is there already.

    Raises: DatabaseUnusable, WrongDatabase.
    """
    version = None
    try:
        with engine.begin() as connection:
            version = _version(connection)
            if version == NEWEST:
                return
            with _alone(connection):
                _upgrade(connection, engine)
    except SQLAlchemyError as fault:
        if faults.is_forbidden(fault):
            raise DatabaseUnusable(
                f"{place(engine.url)}: the archive has schema {version or 'none'} and this program "
                f"needs {NEWEST}, which this login may not make; run `carbonseal archive "
                "upgrade` as the owner of the tables (--database URL says how to log in as such), "
                "and grant the rights of the roles after it (packaging/)"
            ) from fault
        raise unusable(engine.url, fault) from fault


def schema_version(engine: Engine) -> str | None:
    """The schema that the archive has; None where there is none.  Raises: DatabaseUnusable."""
    try:
        with engine.connect() as connection:
            return _version(connection)
    except SQLAlchemyError as fault:
        raise unusable(engine.url, fault) from fault


def is_empty(engine: Engine) -> bool:
    """Whether it has no table at all, of whomever.  Raises: DatabaseUnusable."""
    try:
        with engine.connect() as connection:
            return not sqlalchemy.inspect(connection).get_table_names()
    except SQLAlchemyError as fault:
        raise unusable(engine.url, fault) from fault


def _upgrade(connection: Connection, engine: Engine) -> None:
    version = _version(connection)
    if version == NEWEST:
        return  # another relay's writer was first
    if version is None:
        half_made.clear(connection)
    _refuse_unknown(connection, engine)
    from carbonseal.milter.archive import migrations  # noqa: PLC0415  Alembic is slow

    migrations.upgrade(connection, is_new=version is None)


@contextmanager
def _alone(connection: Connection) -> Iterator[None]:
    """Keep the writers of other relays from upgrading at the same time.  (SQLite has one writer.)

    On Galera this holds for one node; what two nodes begin at once, one of them gives up, and finds
    done when it tries again.
    """
    if connection.dialect.name == "postgresql":
        # Building an index of a large archive may take hours.
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('carbonseal upgrade'))")
        yield
    elif connection.dialect.name in ("mysql", "mariadb"):
        name = "concat(database(), ' carbonseal upgrade')"
        got = connection.exec_driver_sql(f"SELECT get_lock({name}, {_UPGRADE_SECONDS})").scalar()
        if got != 1:
            raise DatabaseUnusable(
                f"{place(connection.engine.url)}: another writer makes or upgrades the archive's "
                "tables; wait until it is done"
            )
        limit = connection.exec_driver_sql("SELECT @@max_statement_time").scalar_one()
        connection.exec_driver_sql("SET @@max_statement_time = 0")
        try:
            yield
        finally:
            connection.exec_driver_sql(f"SELECT release_lock({name})")
            connection.exec_driver_sql(f"SET @@max_statement_time = {limit}")
    else:
        yield


def check_version(engine: Engine) -> None:
    """Refuse any schema but this program's.  Raises: DatabaseUnusable, WrongDatabase."""
    try:
        with engine.connect() as connection:
            version = _version(connection)
            if version is not None:
                _refuse_unknown(connection, engine)
    except SQLAlchemyError as fault:
        raise unusable(engine.url, fault) from fault
    if version != NEWEST:
        raise DatabaseUnusable(
            f"{place(engine.url)}: the archive has schema {version or 'none'} and this program "
            f"needs {NEWEST}; start the writer (carbonseal archive write), which upgrades it, "
            "or run carbonseal archive upgrade as the owner of the tables and grant the rights of "
            "the roles after it"
        )


def file_of(engine: Engine | None) -> tuple[int, int] | None:
    """Device and inode of an SQLite archive; None when it is gone, or no file.

    SQLite would go on writing into a file that somebody has removed.
    """
    return None if (path := _file_path(engine)) is None else _identity(path)


def log_of(engine: Engine | None) -> tuple[int, int] | None:
    """Device and inode of the write-ahead log beside it; None when it has none.

    What goes into a log that was removed, nobody else sees, and whoever comes next begins another:
    two logs of one file can corrupt it (sqlite.org/howtocorrupt, part 2).
    """
    path = _file_path(engine)
    return None if path is None else _identity(path.with_name(path.name + "-wal"))


def _file_path(engine: Engine | None) -> Path | None:
    if engine is None or engine.url.get_backend_name() != "sqlite":
        return None
    return _sqlite_path(engine.url)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def unusable(url: URL, fault: SQLAlchemyError) -> DatabaseUnusable:
    """The sentence for a database error."""
    if url.get_backend_name() != "sqlite":
        return DatabaseUnusable(servers.sentence(url, fault))
    cause = str(fault.orig) if isinstance(fault, DBAPIError) and fault.orig else str(fault)
    cause = " ".join(cause.split())
    is_reader = url.query.get("mode") == "ro"
    return DatabaseUnusable(f"{place(url)}: {cause}; {_remedy(cause, is_reader=is_reader)}")


def place(url: URL) -> str:
    """Which database, for people; never its password."""
    if url.get_backend_name() == "sqlite":
        return str(_sqlite_path(url))
    return servers.place(url)


def _remedy(cause: str, *, is_reader: bool) -> str:
    # A reader makes SQLite's -shm file where no other process has it open.
    may_not_write = (
        "who may not write to its directory can read only while the writer runs; start it "
        "(carbonseal archive write)"
        if is_reader
        else "run this as the writer's user or as root, or give the service's user write "
        "permission on the file and its directory"
    )
    for part, remedy in (
        ("locked", "another program holds it; it should be done soon"),
        ("unable to open", "check its directory and permissions"),
        ("readonly", may_not_write),
        ("full", "free space on its file system"),
        ("not a database", "check record.database, or restore the file from a backup"),
        ("malformed", "restore the file from a backup, or load it again from spool/loaded"),
    ):
        if part in cause:
            return remedy
    return "check the file and its directory"


def _parsed(url: str) -> URL:
    # The text is not repeated: it may hold a password.
    try:
        parsed = sqlalchemy.make_url(url)
    except SQLAlchemyError:
        raise WrongDatabase(
            "record.database is no database URL; write it like "
            "sqlite:////var/lib/carbonseal/archive.db"
        ) from None
    except ValueError:
        raise WrongDatabase(_NO_PORT) from None
    if parsed.port is not None and not 0 < parsed.port < 65_536:
        raise WrongDatabase(_NO_PORT)
    return parsed


def _sqlite_path(url: URL) -> Path:
    name = url.database or ""
    if name.startswith("file:"):
        name = name[len("file:") :].partition("?")[0]
    if not name or name == ":memory:":
        raise WrongDatabase("record.database: an archive in memory would be lost; name a file")
    return Path(name)


def _check_is_there(path: Path) -> None:
    try:
        path.stat()
    except PermissionError:
        raise DatabaseUnusable(
            f"{path}: user {os.geteuid()} may not enter the directory; whoever asks the archive "
            "has to be in its group, or root"
        ) from None
    except OSError:
        raise DatabaseUnusable(
            f"{path}: no archive database there; check record.database, or start the writer "
            "(carbonseal archive write), which creates it or says why not"
        ) from None


def _create_file(path: Path) -> None:
    """Make an empty file with our permissions, which SQLite's -wal and -shm files inherit."""
    directory = path.parent
    if not directory.is_dir():
        raise DatabaseUnusable(
            f"{directory}: no such directory for the archive database; create it for the "
            "service's user"
        )
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640))
    except FileExistsError:
        pass
    except OSError as fault:
        raise DatabaseUnusable(
            f"{directory}: cannot create the archive database there ({fault.strerror}); let the "
            "service's user write to the directory"
        ) from None


def _sqlite_engine(path: Path, mode: str, pragmas: tuple[str, ...], begin: str) -> Engine:
    query = {"mode": mode, "uri": "true"}
    location = f"file:{_escaped(path)}"
    engine = sqlalchemy.create_engine(
        URL.create("sqlite+pysqlite", database=location, query=query),
        connect_args={"timeout": _BUSY_SECONDS},
    )

    def set_up(connection: sqlite3.Connection, _record: object) -> None:
        # None: the driver begins no transaction on its own; `begin` below does.
        connection.isolation_level = None
        for pragma in (*pragmas, "foreign_keys=ON", f"cache_size=-{_CACHE_KIB}"):
            connection.execute(f"PRAGMA {pragma}").close()

    def start(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    event.listen(engine, "connect", set_up)
    event.listen(engine, "begin", start)
    return engine


def _escaped(path: Path) -> str:
    return str(path.absolute()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def _engine(url: URL, *, is_writer: bool, patience: float | None = None) -> Engine:
    try:
        return servers.engine(url, is_writer=is_writer, patience=patience)
    except (SQLAlchemyError, ImportError) as fault:
        raise WrongDatabase(
            f"record.database: no driver for {url.drivername} ({fault}); write sqlite:, "
            "postgresql+psycopg: or mysql+pymysql:, with carbonseal[postgresql] or "
            "carbonseal[mysql] installed"
        ) from None
    except ValueError:
        raise WrongDatabase(
            "record.database: the driver cannot read a value behind the question mark; write "
            "numbers where it wants them, as in connect_timeout=5"
        ) from None


def _version(connection: Connection) -> str | None:
    if not sqlalchemy.inspect(connection).has_table(_VERSIONS.name):
        return None
    # Several: of another program, whose migrations branched.
    found = connection.execute(select(_VERSIONS.c.version_num)).scalars().all()
    return ", ".join(sorted(found)) or None


def _refuse_unknown(connection: Connection, engine: Engine) -> None:
    """Keep away from schemas of a later program and from databases of others."""
    version = _version(connection)
    if version == NEWEST:
        return
    if version in _NEVER_RELEASED:
        raise WrongDatabase(
            f"{place(engine.url)}: the archive was made before the first release, with tables that "
            "this program cannot upgrade; move it away, and put the segments in loaded/ back into "
            "the spool, from which the writer makes a new one"
        )
    if version is not None:
        from carbonseal.milter.archive import migrations  # noqa: PLC0415  Alembic is slow

        if not migrations.is_known(version):
            raise WrongDatabase(
                f"{place(engine.url)}: the archive has schema {version}, which this program does "
                "not know; upgrade carbonseal"
            )
        return
    # Any table at all: what is not ours is not ours to put tables beside.
    tables = set(sqlalchemy.inspect(connection).get_table_names())
    if half_made.is_half_made(tables):
        raise DatabaseUnusable(
            f"{place(engine.url)}: the archive's tables are being made, or were left half made; if "
            "no writer is at it now, drop the database and create it again"
        )
    if tables - {"alembic_version"}:
        raise WrongDatabase(
            f"{place(engine.url)}: holds tables of another program; give the archive a database "
            "of its own"
        )
