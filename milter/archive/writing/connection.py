"""The writer's connection to the archive: opened, looked after, given up when it does not serve.

Promises: what is connected to has the schema of this version, and tables for the months to come.  A
connection to an SQLite file that was removed, or whose log was, is found out by `is_removed`.  Each
transaction is bounded in time (`servers`).

Raises: `database.DatabaseUnusable` and `database.WrongDatabase` from `open`; what the database
raises from all others but `close`.

Does not: connect again; who gives it up makes another one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from carbonseal.milter.archive import database, inserting, partitions, servers
from carbonseal.milter.archive.beside import Beside

_AHEAD_SECONDS: Final = 3600.0  # between two looks whether the months to come have their tables


class WriterConnection:
    """One, from `open` to `close`."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._engine: Engine | None = None
        self._connection: Connection | None = None
        self._file: tuple[int, int] | None = None
        self._log: tuple[int, int] | None = None
        self._takes_packs = False
        self._ahead_at = 0.0  # by the monotonic clock

    def open(self, check: Callable[[Engine], None], at_first: Callable[[], None]) -> None:
        """Connect; `at_first` is the first that is done in transactions, one at least.

        `check` sees the database before tables are made in it, and raises where none are to be.
        """
        self._engine = database.writing_engine(self._url)
        self._file = database.file_of(self._engine)
        check(self._engine)
        database.upgrade(self._engine)
        self._connection = self._engine.connect()
        with self.transaction() as connection:
            self._takes_packs = inserting.takes_packs(connection)
        at_first()
        self._log = database.log_of(self._engine)  # the first transaction has begun it

    def is_removed(self) -> bool:
        """Whether an SQLite archive, or its log, is another than the one that is written to."""
        engine = self._engine
        return database.file_of(engine) != self._file or database.log_of(engine) != self._log

    @property
    def takes_packs(self) -> bool:
        """Whether rows can be given to it as packs; see `inserting`."""
        return self._takes_packs

    @contextmanager
    def transaction(self, meanwhile: Callable[[], None] | None = None) -> Iterator[Connection]:
        """A transaction; `meanwhile` is done while its commit waits for the disk."""
        assert self._connection is not None
        with servers.bounded(self._connection), self._connection.begin() as transaction:
            yield self._connection
            if meanwhile is not None:
                with Beside[None]() as committing:
                    committing.do(transaction.commit)
                    meanwhile()
                    committing.wait()

    def look_ahead(self) -> None:
        """Prepare the database for the months to come, if it is time."""
        if time.monotonic() >= self._ahead_at:
            with self.transaction() as connection:
                partitions.make_ahead(connection)
            self._ahead_at = time.monotonic() + _AHEAD_SECONDS

    def close(self) -> None:
        """Let go of the database."""
        self._disconnect()
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

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
