"""Many rows by the quickest way that the driver has."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select
from sqlalchemy.exc import IntegrityError

from carbonseal.milter.archive import database, inserting, schema
from carbonseal.milter.archive.dictionary import insert_missing


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
def test_as_many_rows_arrive_as_were_given(tmp_path: Path, count: int) -> None:
    """However many go into one statement, each arrives once, its values in their columns."""
    made = database.writing_engine(f"sqlite:///{tmp_path / 'archive.db'}")
    database.upgrade(made)
    with made.begin() as connection:
        inserting.insert(schema.domain, _domains(range(count)), connection)
    with made.begin() as connection:
        found = connection.execute(select(schema.domain).order_by(schema.domain.c.domain_id)).all()
    made.dispose()
    assert [tuple(row) for row in found] == _domains(range(count))


def test_a_row_that_is_there_already_fails_as_sqlalchemy_fails(engine: Engine) -> None:
    """Whatever way the rows take, who loads sees one kind of exception, and a rollback leaves
    nothing of them.
    """
    rows = [*_domains(range(30)), *_domains(range(5))]
    with pytest.raises(IntegrityError), engine.begin() as connection:
        inserting.insert(schema.domain, rows, connection)
    assert _count(engine) == 0
    engine.dispose()


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
