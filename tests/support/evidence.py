"""An archive whose records are sealed, and what verify says of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, bindparam, inspect, text

from carbonseal.milter.archive import audit, database, schema
from carbonseal.milter.archive.evidence import verify
from carbonseal.milter.archive.evidence.finding import Finding
from carbonseal.milter.archive.evidence.settings import Settings, beside
from support.archive import Archive, Record, build_record


def salted(number: int, **changes: Any) -> Record:
    """A record with a salt of its own."""
    return build_record(number, **{"salt": f"{number:032x}", **changes})


def question(archive: Archive, **changes: Any) -> verify.Question:
    """Everything that the relay has at hand, unless changed."""
    settings: Settings = beside(archive.spool_directory)
    asked = verify.Question(
        evidence=settings.directory, segments=archive.spool_directory / "loaded"
    )
    return replace(asked, **changes)


def alone(archive: Archive) -> verify.Question:
    """The database and nothing else, as an officer elsewhere sees it."""
    return question(archive, evidence=None, segments=None)


def verified(
    archive: Archive, asked: verify.Question | None = None, report: verify.Report | None = None
) -> list[Finding]:
    """What verify finds."""
    with audit.opened(archive.database_url) as audit_engine:
        return found_by(archive.engine, audit_engine, asked or question(archive), report)


def found_by(
    engine: Engine,
    audit_engine: Engine,
    asked: verify.Question,
    report: verify.Report | None = None,
) -> list[Finding]:
    """What verify finds, with engines that are open already."""
    return list(
        verify.verify(
            engine, audit_engine, asked, report or verify.Report(), lambda what, done, total: None
        )
    )


@contextmanager
def tampering(archive: Archive) -> Iterator[Connection]:
    """The database as somebody who may write anything has it."""
    engine = database.writing_engine(archive.database_url)
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


class Sealed:
    """An archive that tests change and that is as before afterwards."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.writing = database.writing_engine(archive.database_url)
        self._audit = audit.opened(archive.database_url)
        self.audit_engine = self._audit.__enter__()
        with self.writing.begin() as connection:
            there = inspect(connection).get_table_names()
            known = schema.metadata.tables.keys() | schema.array_metadata.tables.keys()
            for name in sorted(known & set(there)):
                connection.execute(text(f"CREATE TABLE kept_{name} AS SELECT * FROM {name}"))

    def close(self) -> None:
        """Let go of everything."""
        self._audit.__exit__(None, None, None)
        self.writing.dispose()
        self.archive.close()

    @contextmanager
    def tampering(self, *tables: Table) -> Iterator[Connection]:
        """Change these tables inside; what is changed stays until `restore`."""
        self._touched = tables
        with self.writing.begin() as connection:
            yield connection

    def restore(self) -> None:
        """Undo the changes."""
        with self.writing.begin() as connection:
            for table in self._touched:
                connection.execute(table.delete())
                connection.execute(text(f"INSERT INTO {table} SELECT * FROM kept_{table}"))
        self._touched = ()

    _touched: tuple[Table, ...] = ()

    def found(
        self, asked: verify.Question | None = None, report: verify.Report | None = None
    ) -> list[Finding]:
        """What verify finds with all that the relay has at hand, unless `asked` says otherwise."""
        asked = asked or question(self.archive)
        return found_by(self.archive.engine, self.audit_engine, asked, report)

    def found_alone(self) -> list[Finding]:
        """What verify finds with the database alone."""
        return self.found(alone(self.archive))

    def insert_copy(self, connection: Connection, table: Table, of: str, **changes: Any) -> None:
        """Insert a row like that of a record, with other values in some columns."""
        names = [one["name"] for one in inspect(connection).get_columns(table.name)]
        picked = [f":{name}" if name in changes else name for name in names]
        statement = text(
            f"INSERT INTO {table} ({', '.join(names)}) "
            f"SELECT {', '.join(picked)} FROM {table} WHERE record_id = :victim"
        ).bindparams(
            bindparam("victim", type_=schema.RecordId()),
            *(bindparam(name, type_=table.c[name].type) for name in changes),
        )
        connection.execute(statement, {"victim": of, **changes})


def file_line(path: Path, number: int) -> bytes:
    """One line of a file, from 0."""
    return path.read_bytes().splitlines(keepends=True)[number]
