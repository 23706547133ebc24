"""The tables: what every engine can take, and what the migrations make."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Dialect, Index, LargeBinary, Table, Text
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.schema import CreateIndex, CreateTable
from support import mariadb
from support.archive import Archive, build_record

from carbonseal.milter.archive import database, migrations, schema
from carbonseal.policies.errors import CarbonsealError

TABLES = [
    pytest.param(table, id=name)
    for name, table in (schema.metadata.tables | schema.array_metadata.tables).items()
]
FACTS = [
    schema.message,
    schema.header_section,
    schema.participant,
    schema.participant_domain,
    schema.header_term,
]
DIALECTS = [
    pytest.param(sqlite.dialect(), id="sqlite"),
    pytest.param(postgresql.dialect(), id="postgresql"),
    pytest.param(mysql.dialect(), id="mysql"),
]


@pytest.mark.parametrize("table", TABLES)
def test_every_column_is_explained(table: Table) -> None:
    """A person who reads the database finds the meaning beside the name."""
    assert table.comment
    assert [column.name for column in table.c if not column.comment] == []


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("table", TABLES)
def test_every_engine_can_make_the_table(table: Table, dialect: Dialect) -> None:
    """The same tables compile for SQLite, PostgreSQL and MariaDB."""
    assert str(CreateTable(table).compile(dialect=dialect))
    for index in table.indexes:
        assert str(CreateIndex(index).compile(dialect=dialect))


def indexed_columns(table: Table) -> list[Index]:
    return sorted(table.indexes, key=lambda index: str(index.name))


@pytest.mark.parametrize("table", FACTS, ids=lambda table: str(table.name))
def test_facts_can_be_partitioned_by_time(table: Table) -> None:
    """Every unique key of a fact holds the record id, and nothing refers to another table."""
    assert "record_id" in table.primary_key.columns
    assert not table.foreign_keys
    assert not [index for index in table.indexes if index.unique]


@pytest.mark.parametrize("table", FACTS, ids=lambda table: str(table.name))
def test_indexes_are_in_order_of_time(table: Table) -> None:
    """Each index of facts is (what, record id), so that the newest come first without sorting.

    Queue ids and Message-IDs have few records each: those are sorted, and not stored twice.
    """
    for index in indexed_columns(table):
        if index.name in {"message_by_queue_id", "message_by_message_id"}:
            continue
        assert [column.name for column in index.columns][-1] == "record_id"


@pytest.mark.parametrize("table", TABLES)
def test_nothing_long_is_indexed(table: Table) -> None:
    """PostgreSQL refuses rows of an index beyond 2,700 octets: only short or hashed ones."""
    for index in indexed_columns(table):
        for column in index.columns:
            assert not isinstance(column.type, Text)
            assert not isinstance(column.type, LargeBinary) or column.type.length


INDEX_TABLES = {"participant", "participant_domain", "header_term"}
ONLY_WITHOUT_ARRAYS = INDEX_TABLES | {
    "message_by_login",
    "message_by_crossing",
}


def differences(connection: Connection) -> list[Any]:
    """What migrations have made and `schema` says, where the two differ."""
    has_arrays = connection.dialect.name == "postgresql"
    absent = ONLY_WITHOUT_ARRAYS if has_arrays else set(schema.array_metadata.tables)
    described = [schema.metadata, schema.array_metadata]

    def is_compared(_object: Any, name: str | None, kind: str, reflected: bool, _: Any) -> bool:
        if kind == "table" and reflected:  # partitions, the audit, Alembic's own
            return any(name in one.tables for one in described)
        if reflected and name in {"terms", "message_by_term", "header_section_by_term"}:
            return not has_arrays
        return name not in absent

    options = {"compare_type": True, "include_object": is_compared}
    context = MigrationContext.configure(connection, opts=options)
    found: list[Any] = compare_metadata(context, described)  # type: ignore[arg-type]
    return found


def test_migrations_make_the_schema(database_url: str) -> None:
    """What the migrations build on each engine is what the program believes it has."""
    engine = database.writing_engine(database_url)
    database.upgrade(engine)
    with engine.connect() as connection:
        assert differences(connection) == []
        made = set(sqlalchemy.inspect(connection).get_table_names())
    engine.dispose()
    has_arrays = engine.dialect.name == "postgresql"
    assert schema.metadata.tables.keys() - made == (INDEX_TABLES if has_arrays else set())
    assert (schema.array_metadata.tables.keys() <= made) is has_arrays
    assert ("audit" in made) is (engine.dialect.name != "sqlite")


def test_readers_ask_for_the_newest_schema() -> None:
    """They do not load the migrations, and know what the last of them makes."""
    assert migrations.newest() == database.NEWEST


def test_a_search_loads_no_migrations(archive: Archive) -> None:
    """Alembic takes longer to load than a search to answer."""
    archive.fill(build_record(1))
    code = (
        "import sys\n"
        "from carbonseal.milter.archive import database\n"
        "from carbonseal.milter.archive.search import commands, query, wanted\n"
        "found = list(query.search(database.reading_engine(sys.argv[1]), wanted.Search()))\n"
        "print(len(found), 'alembic' in sys.modules)"
    )
    command = [sys.executable, "-c", code, archive.database_url]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["1", "False"], done.stderr


def test_small_tables_of_sqlite_are_their_own_index(tmp_path: Path) -> None:
    """A table whose rows are hardly more than its key has no second tree for the key."""
    engine = database.writing_engine(f"sqlite:///{tmp_path}/archive.db")
    database.upgrade(engine)
    with engine.connect() as connection:
        made = connection.exec_driver_sql(
            "SELECT name FROM sqlite_master WHERE sql LIKE '%WITHOUT ROWID%'"
        ).scalars()
        assert set(made) == {
            table.name
            for table in schema.metadata.tables.values()
            if table.dialect_options["sqlite"]["with_rowid"] is False
        }
    engine.dispose()


def test_mariadb_keeps_what_it_is_given(tmp_path: Path) -> None:
    """Transactions, all of Unicode, and no value cut to fit."""
    server = mariadb.shared()
    name = server.create_database()
    engine = database.writing_engine(server.url(name))
    database.upgrade(engine)
    with engine.connect() as connection:
        tables = connection.exec_driver_sql(
            "SELECT engine, table_collation FROM information_schema.tables"
            " WHERE table_schema = database()"
        ).all()
        assert {one for one, _ in tables} == {"InnoDB"}
        assert all(str(one).startswith("utf8mb4") for _, one in tables)
        assert "STRICT_ALL_TABLES" in connection.exec_driver_sql("SELECT @@sql_mode").scalar_one()
    engine.dispose()
    server.drop_database(name)


def test_upgrading_again_changes_nothing(archive: Archive) -> None:
    """The writer upgrades at every start; that is quick and harmless."""
    archive.fill(build_record(1))
    engine = database.writing_engine(archive.database_url)
    database.upgrade(engine)
    engine.dispose()
    assert archive.rows("message") == 1


def test_commits_outlive_a_power_failure(tmp_path: Path) -> None:
    """The writer's connection runs in WAL mode and syncs every commit."""
    engine = database.writing_engine(f"sqlite:///{tmp_path}/archive.db")
    with engine.connect() as connection:
        answers = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    engine.dispose()
    assert answers == ["wal", 2, 1]
    assert stat.S_IMODE((tmp_path / "archive.db").stat().st_mode) == 0o640


def test_readers_cannot_write(archive: Archive) -> None:
    """A query engine opens the file read-only."""
    archive.fill(build_record(1))
    with (
        archive.engine.connect() as connection,
        pytest.raises(sqlalchemy.exc.OperationalError, match="readonly"),
    ):
        connection.exec_driver_sql("DELETE FROM message")


def test_readers_do_not_wait_for_the_writer(archive: Archive) -> None:
    """A search answers while a batch is being loaded."""
    archive.fill(build_record(1))
    holder = sqlite3.connect(archive.file, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    holder.execute("DELETE FROM message")
    assert len(archive.search()) == 1
    holder.execute("ROLLBACK")
    holder.close()


def change_version(file: Path, version: str) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", [version])


def add_version(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("INSERT INTO alembic_version VALUES ('other')")


def forget_version(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("DROP TABLE alembic_version")


UNUSABLE: list[object] = [
    pytest.param(Path.unlink, "no archive database there", 75, id="missing"),
    pytest.param(lambda file: change_version(file, "9999"), "upgrade carbonseal", 78, id="newer"),
    pytest.param(
        lambda file: change_version(file, "0001"), "before the first release", 78, id="unreleased"
    ),
    pytest.param(add_version, "archive_5, other, which .* upgrade carbonseal", 78, id="several"),
    pytest.param(forget_version, "archive write", 75, id="no-version"),
    pytest.param(lambda file: file.write_bytes(b""), "archive write", 75, id="empty"),
    pytest.param(lambda file: file.write_bytes(b"x" * 9999), "not a database", 75, id="garbage"),
]


@pytest.mark.parametrize(("damage", "sentence", "exit_code"), UNUSABLE)
def test_an_unusable_database_is_one_sentence(
    archive: Archive, damage: Callable[[Path], object], sentence: str, exit_code: int
) -> None:
    """The sentence names the file and the remedy, and nothing is changed."""
    archive.fill(build_record(1))
    damage(archive.file)
    with pytest.raises(CarbonsealError, match=sentence) as fault:
        database.reading_engine(archive.database_url)
    assert str(archive.file) in str(fault.value)
    assert "\n" not in str(fault.value)
    assert fault.value.exit_code == exit_code


@pytest.mark.parametrize("table", ["message", "users"])
def test_a_database_of_others_is_left_alone(tmp_path: Path, table: str) -> None:
    """Tables of another program are not mixed with ours."""
    file = tmp_path / "other.db"
    with sqlite3.connect(file) as connection:
        connection.execute(f"CREATE TABLE {table} (id INTEGER)")
    engine = database.writing_engine(f"sqlite:///{file}")
    with pytest.raises(database.WrongDatabase, match="another program"):
        database.upgrade(engine)
    engine.dispose()


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("not a url", id="no-url"),
        pytest.param("sqlite://", id="memory"),
        pytest.param("sqlite:///:memory:", id="memory-by-name"),
        pytest.param("oracle://scott:tiger@db/x", id="no-driver"),
        pytest.param("nonsense://user:tiger@db/x", id="no-dialect"),
    ],
)
def test_a_url_that_cannot_be_meant_is_refused(url: str) -> None:
    """Without the password in the sentence."""
    with pytest.raises(database.WrongDatabase, match=r"record\.database") as fault:
        database.writing_engine(url)
    assert "tiger" not in str(fault.value)


def test_a_directory_that_is_missing_is_named(tmp_path: Path) -> None:
    """The remedy is about the directory."""
    with pytest.raises(database.DatabaseUnusable, match="no such directory"):
        database.writing_engine(f"sqlite:///{tmp_path}/missing/archive.db")


def test_a_file_name_may_hold_anything(tmp_path: Path) -> None:
    """Percent, question mark and hash in the path are the path."""
    directory = tmp_path / "100% sure? #1"
    directory.mkdir()
    archive = Archive(directory)
    archive.database_url = f"sqlite:///{archive.file}".replace("%", "%25").replace("?", "%3f")
    archive.fill(build_record(1))
    assert archive.file.exists()
    archive.close()
