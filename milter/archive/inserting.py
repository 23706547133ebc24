"""Many rows into one table, by the quickest way that the driver has.

Promises: all rows or an exception of SQLAlchemy, whichever way is taken; after the exception some
of them may be there until the caller rolls back.

The values go to the driver as they are: they are numbers, texts and octets already, and looking at
each of them again would cost as much as the insert itself.  To SQLite they go as packs, many rows
in one value, where the compiled helpers are there and the interpreter's SQLite takes extensions;
else several rows are bound together.  Either way leaves the same rows.

Does not: leave out what is there already (`dictionary.insert_missing` does).
"""

from __future__ import annotations

import functools
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import chain
from typing import Any, Protocol

import sqlalchemy
from sqlalchemy import Connection, Dialect, Insert, Table
from sqlalchemy.exc import DBAPIError

from carbonseal.milter.archive import schema

Row = tuple[Any, ...]


class _Pack(Protocol):
    def __call__(self, rows: list[Row], /) -> list[bytes] | None: ...


PACK: _Pack | None = None  # None where it could not be built
READER: str | None = None  # what SQLite loads; None where that is not to be had, either
try:
    from carbonseal.milter.archive import _many_rows
except ImportError:
    pass
else:
    PACK, READER = _many_rows.pack, _many_rows.__file__ if _many_rows.CAN_READ else None
_TAKES_PACKS = "carbonseal takes packs"  # what is known of a connection
# Without a condition SQLite would take ON CONFLICT for that of a join.
_FROM_PACK = " FROM carbonseal_rows(?) WHERE true"

# Rows in one statement of SQLite.  What it does for each statement (locks, the interpreter's among
# them) takes as long as a row in a small index.  With more rows it becomes no quicker, and old
# builds take no more than 999 values.
_TOGETHER = 20
_VALUES = re.compile(r" VALUES (\([?, ]+\))")


def insert(
    table: Table, rows: Sequence[Row], connection: Connection, *, with_terms: bool = False
) -> None:
    """Insert rows, their values in the order of the table's columns; the terms come last."""
    if not rows:
        return
    if connection.dialect.driver == "psycopg":
        _copy(table, rows, connection, with_terms=with_terms)
        return
    _execute(*_inserting(table, connection.dialect), rows, connection)


def takes_packs(connection: Connection) -> bool:
    """Whether rows can be given to the database as packs (see _many_rows.c)."""
    known = connection.info
    if _TAKES_PACKS not in known:
        is_sqlite = connection.dialect.driver == "pysqlite"
        known[_TAKES_PACKS] = is_sqlite and _load_reader(connection.connection.driver_connection)
    return bool(known[_TAKES_PACKS])


def can_read_packs() -> bool:
    """Whether the SQLite of this interpreter can: the helper was built, and it takes extensions."""
    with closing(sqlite3.connect(":memory:")) as raw:
        return _load_reader(raw)


def _load_reader(raw: Any) -> bool:
    # Interpreters can be built without extensions for SQLite.
    if READER is None or not hasattr(raw, "enable_load_extension"):
        return False
    try:
        raw.enable_load_extension(True)
        try:
            raw.load_extension(READER)
        finally:
            raw.enable_load_extension(False)
    except sqlite3.Error:
        return False
    return True


def insert_packs(table: Table, packs: Sequence[bytes], connection: Connection) -> None:
    """Insert the rows of packs, for whoever `takes_packs`."""
    statement, _ = _inserting(table, connection.dialect)
    _execute_packs(statement, packs, connection)


def execute(statement: Insert, rows: Sequence[Row], connection: Connection) -> None:
    """An insert of all columns of a table, with what is to become of rows that are there."""
    _execute(*_compiled(statement, connection.dialect), rows, connection)


def _execute(
    statement: str, names: list[str] | None, rows: Sequence[Row], connection: Connection
) -> None:
    if names is not None:
        named = [dict(zip(names, row, strict=True)) for row in rows]
        connection.exec_driver_sql(statement, named)
        return
    if PACK is not None and takes_packs(connection):
        packs = PACK(rows if isinstance(rows, list) else list(rows))
        if packs is not None:  # else the driver has to see what is wrong with a value
            _execute_packs(statement, packs, connection)
            return
    together = len(rows) - len(rows) % _TOGETHER
    if together:
        _insert_together(statement, rows, together, connection)
    if together < len(rows):
        connection.exec_driver_sql(statement, list(rows[together:]))


def _execute_packs(statement: str, packs: Sequence[bytes], connection: Connection) -> None:
    raw = _raw(connection)
    packed = _packed(statement)
    with _explained(packed, raw, connection):
        for pack in packs:
            raw.execute(packed, (pack,)).close()


@functools.lru_cache(maxsize=64)
def _packed(statement: str) -> str:
    """An insert of one row as one of the rows of a pack."""
    before, values, rest = _VALUES.split(_without_undoing(statement))
    columns = ", ".join(f"c{number}" for number in range(values.count("?")))
    return f"{before} SELECT {columns}{_FROM_PACK}{rest}"


def _raw(connection: Connection) -> Any:
    """The driver's connection, for statements past SQLAlchemy in its transaction."""
    if not connection.in_transaction():
        connection.begin()  # SQLAlchemy would have done so
    return connection.connection.driver_connection


def _insert_together(statement: str, rows: Sequence[Row], end: int, connection: Connection) -> None:
    """Those before `end`, past SQLAlchemy, which takes as long for a statement as SQLite."""
    raw = _raw(connection)
    several, flat = _several(statement), chain.from_iterable
    with _explained(several, raw, connection):
        cursor = raw.cursor()
        values = (tuple(flat(rows[at : at + _TOGETHER])) for at in range(0, end, _TOGETHER))
        cursor.executemany(several, values)
        cursor.close()


@functools.lru_cache(maxsize=64)
def _several(statement: str) -> str:
    """An insert of one row as one of many."""
    before, values, rest = _VALUES.split(_without_undoing(statement))
    return f"{before} VALUES {', '.join([values] * _TOGETHER)}{rest}"


def _without_undoing(statement: str) -> str:
    # Who calls rolls back in any case.  To be able to undo one statement alone, SQLite would copy
    # each page that it changes: twice the time, for tables with indexes.
    return statement.replace("INSERT INTO", "INSERT OR FAIL INTO")


@functools.lru_cache(maxsize=64)
def _inserting(table: Table, dialect: Dialect) -> tuple[str, list[str] | None]:
    return _compiled(sqlalchemy.insert(table), dialect)


def _compiled(insert: Insert, dialect: Dialect) -> tuple[str, list[str] | None]:
    """The statement, and the names of its parameters unless they stand in the table's order."""
    statement = insert.compile(dialect=dialect)
    names = list(insert.table.c.keys())
    if not statement.positional:
        return str(statement), names
    assert statement.positiontup == names
    return str(statement), None


def _copy(table: Table, rows: Sequence[Row], connection: Connection, *, with_terms: bool) -> None:
    """By COPY, in binary form.

    Measured with batches of 500 messages and their header sections, into tables without indexes:
    27 microseconds each, where `executemany` takes 120.
    """
    statement, types = _copying(table, with_terms)
    raw: Any = connection.connection.driver_connection
    with (
        _explained(statement, raw, connection),
        raw.cursor() as cursor,
        cursor.copy(statement) as copy,
    ):
        copy.set_types(types)
        for row in rows:
            copy.write_row(row)


@contextmanager
def _explained(statement: str, raw: Any, connection: Connection) -> Iterator[None]:
    """Let what the driver raises be what SQLAlchemy would raise."""
    try:
        yield
    except connection.dialect.loaded_dbapi.Error as fault:
        raise DBAPIError.instance(
            statement,
            None,
            fault,
            connection.dialect.loaded_dbapi.Error,
            dialect=connection.dialect,
            connection_invalidated=connection.dialect.is_disconnect(fault, raw, None),
        ) from fault


@functools.cache
def _copying(table: Table, with_terms: bool) -> tuple[str, list[str]]:
    names, types = list(table.c.keys()), [_type(column.type) for column in table.c]
    if with_terms:
        names.append("terms")
        types.append("int8[]")
    columns = ", ".join(names)
    return f"COPY {table.name} ({columns}) FROM STDIN (FORMAT BINARY)", types


def _type(kind: Any) -> str:
    """PostgreSQL's name of a type that we use."""
    for known, name in (
        (schema.RecordId, "uuid"),
        (sqlalchemy.BigInteger, "int8"),
        (sqlalchemy.SmallInteger, "int2"),
        (sqlalchemy.Integer, "int4"),
        (sqlalchemy.Boolean, "bool"),
        (sqlalchemy.LargeBinary, "bytea"),
    ):
        if isinstance(kind, known):
            return name
    # String(255) is varchar, which is text on the wire.
    return "text"
