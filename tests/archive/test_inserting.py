"""Many rows by the quickest way that the driver has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, func, select
from sqlalchemy.exc import IntegrityError, OperationalError

from carbonseal.milter.archive import database, inserting, schema
from carbonseal.milter.archive.dictionary import insert_missing


class WithoutExtensions:
    """A driver's connection of an interpreter that was built without."""


@pytest.fixture(params=["packs", "no helper", "no reader", "no extensions", "refused"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How rows come to SQLite: in packs, and why not."""
    found = str(request.param)
    if found == "no helper":
        monkeypatch.setattr(inserting, "PACK", None)
        monkeypatch.setattr(inserting, "READER", None)
    elif found == "no reader":
        monkeypatch.setattr(inserting, "READER", None)
    elif found == "refused":  # it is no library
        monkeypatch.setattr(inserting, "READER", __file__)
    elif found == "no extensions":
        load = inserting._load_reader
        monkeypatch.setattr(inserting, "_load_reader", lambda _raw: load(WithoutExtensions()))
    return found


@pytest.fixture
def engine(database_url: str) -> Engine:
    made = database.writing_engine(database_url)
    database.upgrade(made)
    return made


def _domains(numbers: range) -> list[tuple[int, str]]:
    return [(number, f"d{number}.example") for number in numbers]


def _count(engine: Engine) -> int:
    with engine.begin() as connection:
        return connection.execute(select(func.count()).select_from(schema.domain)).scalar_one()


@pytest.mark.parametrize("count", [0, 1, 19, 20, 21, 40, 45])
def test_as_many_rows_arrive_as_were_given(tmp_path: Path, count: int, way: str) -> None:
    """However many go into one statement, each arrives once, its values in their columns."""
    made = database.writing_engine(f"sqlite:///{tmp_path / 'archive.db'}")
    database.upgrade(made)
    with made.begin() as connection:
        if way != "packs":
            assert not inserting.takes_packs(connection)
        inserting.insert(schema.domain, _domains(range(count)), connection)
    with made.begin() as connection:
        found = connection.execute(select(schema.domain).order_by(schema.domain.c.domain_id)).all()
    made.dispose()
    assert [tuple(row) for row in found] == _domains(range(count))


def test_what_no_pack_takes_the_driver_is_asked_about(tmp_path: Path) -> None:
    """A text that it cannot bind fails as it would alone, and other values arrive."""
    made = database.writing_engine(f"sqlite:///{tmp_path / 'archive.db'}")
    database.upgrade(made)
    rows: list[tuple[Any, ...]] = [*_domains(range(30)), (30, "\ud800")]
    with pytest.raises(UnicodeEncodeError), made.begin() as connection:
        inserting.insert(schema.domain, rows, connection)
    rows[-1] = (30, bytearray(b"octets"))
    with made.begin() as connection:
        inserting.insert(schema.domain, rows, connection)
    assert _count(made) == 31
    made.dispose()


@pytest.mark.usefixtures("way")
def test_a_failure_is_one_of_sqlalchemy(tmp_path: Path) -> None:
    """On SQLite, whichever way the rows come."""
    made = database.writing_engine(f"sqlite:///{tmp_path / 'archive.db'}")
    database.upgrade(made)
    rows = [*_domains(range(30)), *_domains(range(5))]
    with pytest.raises(IntegrityError), made.begin() as connection:
        inserting.insert(schema.domain, rows, connection)
    assert _count(made) == 0
    made.dispose()


def test_the_extension_is_loaded_once_and_no_other_can_be(tmp_path: Path) -> None:
    """Statements cannot load libraries into the writer."""
    made = database.writing_engine(f"sqlite:///{tmp_path / 'archive.db'}")
    with made.begin() as connection:
        takes = inserting.takes_packs(connection)
        with pytest.raises(OperationalError, match=r"not authorized|no such function"):
            connection.exec_driver_sql("SELECT load_extension('x')")
        assert inserting.takes_packs(connection) is takes
    made.dispose()


def test_a_row_that_is_there_already_fails_as_sqlalchemy_fails(engine: Engine) -> None:
    """Whatever way the rows take, who loads sees one kind of exception, and a rollback leaves
    nothing of them.
    """
    rows = [*_domains(range(30)), *_domains(range(5))]
    with pytest.raises(IntegrityError), engine.begin() as connection:
        inserting.insert(schema.domain, rows, connection)
    assert _count(engine) == 0
    engine.dispose()


@pytest.mark.usefixtures("way")
def test_rows_that_are_there_are_left_as_they_are_if_that_is_wanted(engine: Engine) -> None:
    """Of what is missing or not, only what is missing is inserted, in any number at once."""
    with engine.begin() as connection:
        inserting.insert(schema.domain, [(3, "first.example"), (25, "other.example")], connection)
    with engine.begin() as connection:
        statement = insert_missing(schema.domain, connection)
        inserting.execute(statement, _domains(range(45)), connection)
    with engine.begin() as connection:
        query = select(schema.domain.c.name).where(schema.domain.c.domain_id.in_([3, 25]))
        found = set(connection.execute(query).scalars())
    assert found == {"first.example", "other.example"}
    assert _count(engine) == 45
    engine.dispose()
