"""A first upgrade that was interrupted, on a server that commits each table by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import Engine, event
from support import mariadb

from carbonseal.milter.archive import database, half_made


class Cut(Exception):
    """The program's end."""


@pytest.fixture
def engine() -> Iterator[Engine]:
    """A writer's, for an empty database."""
    server = mariadb.shared()
    name = server.create_database()
    made = database.writing_engine(server.url(name))
    yield made
    made.dispose()
    server.drop_database(name)


def statements(engine: Engine, most: int | None = None) -> int:
    """Upgrade, and end after so many statements that make something; how many there were."""
    seen = 0

    def count(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        nonlocal seen
        if statement.lstrip().upper().startswith(("CREATE", "INSERT", "UPDATE")):
            if seen == most:
                raise Cut
            seen += 1

    event.listen(engine, "before_cursor_execute", count)
    try:
        database.upgrade(engine)
    except Cut:
        engine.dispose()
    finally:
        event.remove(engine, "before_cursor_execute", count)
    return seen


def described(engine: Engine) -> dict[str, str]:
    """Each table as the server would make it again."""
    with engine.connect() as connection:
        return {
            name: connection.exec_driver_sql(f"SHOW CREATE TABLE `{name}`").one()[1]
            for name in sqlalchemy.inspect(connection).get_table_names()
        }


def test_the_next_start_makes_half_made_tables_anew(engine: Engine) -> None:
    """Wherever the first one ended, nobody has to do anything."""
    server, name = mariadb.shared(), str(engine.url.database)
    every = statements(engine)
    whole = described(engine)
    for most in (1, 2, every // 2, every - 1):
        server.drop_database(name)
        server.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        engine.dispose()
        assert statements(engine, most) == most
        assert database.schema_version(engine) is None
        database.upgrade(engine)
        assert database.schema_version(engine) == database.NEWEST
        assert described(engine) == whole
        with engine.connect() as connection:
            epochs = connection.exec_driver_sql("SELECT epoch FROM dictionary_epoch").all()
        assert epochs == [(0,)]


@pytest.mark.parametrize(
    "foreign",
    [
        pytest.param("INSERT INTO domain VALUES (1, 'example.com')", id="a-row"),
        pytest.param("UPDATE dictionary_epoch SET epoch = 1", id="a-later-epoch"),
        pytest.param("CREATE TABLE orders (id INTEGER)", id="a-table-of-others"),
    ],
)
def test_tables_that_may_be_of_worth_are_left_alone(engine: Engine, foreign: str) -> None:
    """Without a version, but with something in them: a person has to look."""
    statements(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM alembic_version")
        connection.exec_driver_sql(foreign)
    before = described(engine)
    with pytest.raises((database.DatabaseUnusable, database.WrongDatabase), match="database"):
        database.upgrade(engine)
    assert described(engine) == before


def test_nobody_drops_what_another_is_making(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who does not get the lock of upgrades waits, and says so."""
    statements(engine)
    monkeypatch.setattr(database, "_UPGRADE_SECONDS", 0)
    with engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM alembic_version")
    before = described(engine)
    with (
        engine.connect() as other,
        database._alone(other),
        pytest.raises(database.DatabaseUnusable, match=r"another writer .* wait"),
    ):
        database.upgrade(engine)
    assert described(engine) == before


def test_on_a_cluster_a_person_decides(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock holds on one node, and another one may be making them."""
    statements(engine, 5)
    monkeypatch.setattr(half_made, "_is_galera", lambda _connection: True)
    with pytest.raises(database.DatabaseUnusable, match="half made; if no writer"):
        database.upgrade(engine)
