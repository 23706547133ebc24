"""An archive whose records are sealed, and what verify says of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, text

from carbonseal.milter.archive import audit, database
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
    engine = database.reading_engine(archive.database_url)
    try:
        with audit.opened(archive.database_url) as audit_engine:
            return list(
                verify.verify(
                    engine,
                    audit_engine,
                    question(archive) if asked is None else asked,
                    verify.Report() if report is None else report,
                    lambda what, done, total: None,
                )
            )
    finally:
        engine.dispose()


@contextmanager
def tampering(archive: Archive) -> Iterator[Connection]:
    """The database as somebody who may write anything has it."""
    engine = database.writing_engine(archive.database_url)
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


@contextmanager
def kept(archive: Archive, *tables: Table) -> Iterator[None]:
    """Whatever is done to these tables inside is undone afterwards."""
    with tampering(archive) as connection:
        for name in tables:
            connection.execute(text(f"DROP TABLE IF EXISTS kept_{name}"))
            connection.execute(text(f"CREATE TABLE kept_{name} AS SELECT * FROM {name}"))
    try:
        yield
    finally:
        with tampering(archive) as connection:
            for name in tables:
                connection.execute(text(f"DELETE FROM {name}"))
                connection.execute(text(f"INSERT INTO {name} SELECT * FROM kept_{name}"))
                connection.execute(text(f"DROP TABLE kept_{name}"))


def file_line(path: Path, number: int) -> bytes:
    """One line of a file, from 0."""
    return path.read_bytes().splitlines(keepends=True)[number]
