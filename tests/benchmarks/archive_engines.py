"""Archives to measure: an SQLite file, a private PostgreSQL, a private MariaDB.

Promises: as an operator of a small machine would run them: every commit is on the disk, memory is
modest and said in `settings`.  `make_cold` leaves nothing of the database in any cache of ours or
of the kernel.  The servers listen on loopback and end, in order, with the program; opened again on
the same directory, every archive is as it was left.
"""

from __future__ import annotations

import abc
import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Protocol

from support.mariadb import MariaDB
from support.postgresql import PostgreSQL

from benchmarks import processes

_POSTGRESQL = {
    "shared_buffers": "2GB",
    "effective_cache_size": "4GB",
    "work_mem": "16MB",
    "maintenance_work_mem": "64MB",
    "max_wal_size": "2GB",
    "random_page_cost": "1.1",
}
_MARIADB = {
    "innodb-buffer-pool-size": "2G",
    "innodb-log-file-size": "512M",
    "innodb-flush-log-at-trx-commit": "1",
    "innodb-flush-method": "fsync",
    "innodb-fast-shutdown": "1",
    # What a server reads of its own accord when it starts would make some of it warm.
    "innodb-buffer-pool-load-at-startup": "OFF",
}
_PASSABLE = 0o711  # for the server's user; what it keeps there is for itself only
# MariaDB's trees of which every record that is shown needs a page.
_LAST = (("message", "PRIMARY"), ("header_section", "PRIMARY"))
Sizes = dict[str, int]  # 'table' or 'table.index': octets


class Store(Protocol):
    """One archive."""

    name: str
    url: str
    settings: dict[str, str]

    def settle(self) -> None:
        """What the engine's own housekeeping would have done some minutes later."""

    def sizes(self) -> Sizes:
        """Octets of each table and index, all parts of a table together."""

    def total(self) -> int:
        """Octets of the whole archive."""

    def make_cold(self) -> None:
        """Empty all caches."""

    def cpu_seconds(self) -> float:
        """What the server has spent since it started; nothing where there is none."""

    def copy(self, target: Path) -> None:
        """Put the archive as it is now into a directory that is not there yet."""

    def close(self) -> None:
        """End what was started."""


class SQLite:
    """A file."""

    name = "sqlite"

    def __init__(self, directory: Path) -> None:
        self._file = directory / "archive.db"
        self.url = f"sqlite:///{self._file}"
        self.settings = {"journal_mode": "WAL", "synchronous": "FULL"}

    def settle(self) -> None:
        with closing(sqlite3.connect(self._file)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def sizes(self) -> Sizes:
        with closing(sqlite3.connect(self._file)) as connection:
            query = (
                "SELECT m.type, m.tbl_name, m.name, sum(s.pgsize) FROM dbstat('main', 1) s "
                "JOIN sqlite_schema m ON m.name = s.name GROUP BY 1, 2, 3"
            )
            return {
                table if kind == "table" else f"{table}.{name}": octets
                for kind, table, name, octets in connection.execute(query)
            }

    def total(self) -> int:
        return self._file.stat().st_size

    def make_cold(self) -> None:
        self.settle()
        _evict([self._file])

    def cpu_seconds(self) -> float:
        return 0.0

    def copy(self, target: Path) -> None:
        self.settle()
        _copy([self._file], target)

    def close(self) -> None:
        pass


_COMPLETE = "complete"  # a file beside the data, once database and user are there


class _PrivateServer(abc.ABC):
    """What both servers have in common."""

    _server: MariaDB | PostgreSQL

    def __init__(self, directory: Path) -> None:
        self._place = directory / "server"
        complete = self._place / _COMPLETE
        if not complete.exists():
            shutil.rmtree(self._place, ignore_errors=True)
        self._server = self._make(self._place)
        try:
            if not complete.exists():
                self._server.initialise()
            self._server.start()
            if not complete.exists():
                complete.write_text(self._server.create_database())
        except BaseException:
            self._server.close()
            raise
        self._database = complete.read_text()
        self.url = self._server.url(self._database)

    @abc.abstractmethod
    def _make(self, place: Path) -> MariaDB | PostgreSQL:
        """A server whose data is kept there."""

    def make_cold(self) -> None:
        self._server.stop()
        _evict(_files(self._server.data))
        self._server.start()

    def cpu_seconds(self) -> float:
        return processes.cpu_seconds(self._server.pid)

    def copy(self, target: Path) -> None:
        self._server.stop()
        _copy([self._place], target)
        self._server.start()

    def close(self) -> None:
        self._server.close()


class PrivatePostgreSQL(_PrivateServer):
    """A server of its own."""

    name = "postgresql"

    def _make(self, place: Path) -> PostgreSQL:
        self.settings = {**_POSTGRESQL, "fsync": "on", "synchronous_commit": "on"}
        return PostgreSQL(is_durable=True, settings=_POSTGRESQL, kept_in=place)

    def settle(self) -> None:
        self._server.execute("VACUUM (ANALYZE)", self._database)
        self._server.execute("CHECKPOINT", self._database)
        # As a server is that has run for a day; the other engines' pages are warm by now, too.
        self._server.execute("CREATE EXTENSION pg_prewarm", self._database)
        self._server.ask(
            "SELECT sum(pg_prewarm(oid)) FROM pg_class "
            "WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'i')",
            self._database,
        )
        self._server.execute("DROP EXTENSION pg_prewarm", self._database)

    def sizes(self) -> Sizes:
        # What belongs to one parent counts together, whatever its partitions are called.
        query = """
            SELECT coalesce(json_object_agg(name, octets)::text, '{}') FROM (
              SELECT CASE WHEN i.indexrelid IS NULL THEN t.relname
                     ELSE t.relname || '.' || coalesce(pi.relname, c.relname) END AS name,
                     sum(pg_relation_size(c.oid)
                         + CASE WHEN i.indexrelid IS NULL
                           THEN pg_table_size(c.oid) - pg_relation_size(c.oid) ELSE 0 END)::bigint
                     AS octets
              FROM pg_class c
              LEFT JOIN pg_index i ON i.indexrelid = c.oid
              LEFT JOIN pg_inherits ih ON ih.inhrelid = coalesce(i.indrelid, c.oid)
              JOIN pg_class t ON t.oid = coalesce(ih.inhparent, i.indrelid, c.oid)
              LEFT JOIN pg_inherits ii ON ii.inhrelid = c.oid AND i.indexrelid IS NOT NULL
              LEFT JOIN pg_class pi ON pi.oid = ii.inhparent
              WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'i')
              GROUP BY 1) sized"""
        found: Sizes = json.loads(self._server.ask(query, self._database))
        return found

    def total(self) -> int:
        octets: int = self._server.ask(
            "SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class "
            "WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'",
            self._database,
        )
        return octets


class PrivateMariaDB(_PrivateServer):
    """A server of its own."""

    name = "mariadb"

    def _make(self, place: Path) -> MariaDB:
        self.settings = dict(_MARIADB)
        return MariaDB(settings=_MARIADB, kept_in=place)

    def settle(self) -> None:
        tables = str(
            self._server.ask(
                "SELECT group_concat(table_name) FROM information_schema.tables "
                f"WHERE table_schema = '{self._database}'"
            )
        )
        self._server.execute(f"ANALYZE TABLE {tables}", self._database)
        self._read_all()

    def _read_all(self) -> None:
        """As a server has its archive that has run for a day; it begins with an empty pool.

        What does not fit is what was read first.  Each record that is shown is a page of the last
        two, so that these are what would stay: of the others a look-up reads one or two.
        """
        for table, index in self._indexes():
            self._server.ask(f"SELECT count(*) FROM {table} FORCE INDEX ({index})", self._database)

    def _indexes(self) -> list[tuple[str, str]]:
        found = str(
            self._server.ask(
                "SELECT group_concat(DISTINCT concat(table_name, ' ', index_name) SEPARATOR '\\n') "
                f"FROM information_schema.statistics WHERE table_schema = '{self._database}'"
            )
        )
        pairs = ((table, index) for table, index in map(str.split, found.splitlines()))
        return sorted(pairs, key=lambda one: _LAST.index(one) if one in _LAST else -1)

    def sizes(self) -> Sizes:
        found: Sizes = {}
        text = self._server.ask(
            "SELECT group_concat("
            "concat_ws(' ', table_name, index_name, stat_value * @@innodb_page_size) "
            "SEPARATOR '\\n') FROM mysql.innodb_index_stats "
            f"WHERE stat_name = 'size' AND database_name = '{self._database}'"
        )
        for line in str(text).splitlines():
            table, index, octets = line.split()
            name = table if index in ("PRIMARY", "GEN_CLUST_INDEX") else f"{table}.{index}"
            found[name] = int(octets)
        return found

    def total(self) -> int:
        octets = self._server.ask(
            "SELECT sum(file_size) FROM information_schema.innodb_sys_tablespaces "
            f"WHERE name LIKE '{self._database}/%'"
        )
        return int(octets)


def _files(directory: Path) -> Iterator[Path]:
    return (path for path in directory.rglob("*") if path.is_file())


def _evict(files: Iterator[Path] | list[Path]) -> None:
    """Ask the kernel to forget what it has read of these files."""
    for path in files:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)


def _copy(files: list[Path], target: Path) -> None:
    """With owners and modes, and all or nothing."""
    partial = target.with_suffix(".part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    partial.chmod(_PASSABLE)
    command = ["cp", "-a", "--reflink=auto", *map(str, files), str(partial)]
    subprocess.run(command, check=True)
    partial.rename(target)


def open_store(name: str, directory: Path) -> Store:
    """The archive of that engine in `directory`, empty or as an earlier run left it."""
    directory.chmod(_PASSABLE)
    if name == "sqlite":
        return SQLite(directory)
    return PrivatePostgreSQL(directory) if name == "postgresql" else PrivateMariaDB(directory)
