"""Months of PostgreSQL's archive: made when they are needed, by who may not make tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy.exc import ProgrammingError
from support import event_lines, postgresql
from support.archive import Archive, build_record

from carbonseal.milter.archive import database, record

DAY = 86_400.0


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    """An archive in PostgreSQL."""
    server = postgresql.shared()
    name = server.create_database()
    made = Archive(tmp_path, server.url(name))
    yield made
    made.close()
    server.drop_database(name)


def places(archive: Archive, table: str = "message") -> dict[str, int]:
    """How many rows stand in which partition."""
    with archive.engine.connect() as connection:
        query = f"SELECT tableoid::regclass::text, count(*) FROM {table} GROUP BY 1"
        return dict(tuple(one) for one in connection.exec_driver_sql(query))


@pytest.mark.parametrize("table", ["message", "header_section", "delivery"])
def test_each_record_stands_in_its_month(archive: Archive, table: str) -> None:
    """Also long ago, and the first and last moment of a month are on their side of it."""
    archive.put(
        *(event_lines.build(f"4XYZ{one}", event_lines.active(one + 0.5)) for one in (1, 3, 4)),
        event_lines.build("4XYZ2", event_lines.active(-2000 * DAY + 0.5)),
    )
    archive.fill(
        build_record(1),
        build_record(2, seconds=-2000 * DAY),
        # 2026-12-01T00:00:00Z and a millisecond before it.
        build_record(3, record_id=record.new_record_id(1_796_083_200_000)),
        build_record(4, record_id=record.new_record_id(1_796_083_199_999)),
    )
    assert places(archive, table) == {
        f"{table}_2021_05": 1,
        f"{table}_2026_11": 2,
        f"{table}_2026_12": 1,
    }


def test_a_wrong_clock_makes_no_tables(archive: Archive) -> None:
    """Such records are kept, and found, in the partition for all the rest."""
    archive.fill(
        build_record(1, record_id=record.new_record_id(0)),
        build_record(2, record_id="7" + "Z" * 25),
    )
    assert places(archive) == {"message_other": 2}


def test_records_that_were_early_move_to_their_month(archive: Archive) -> None:
    """Where a month could not be made in time, its records go there when it is."""
    archive.fill(build_record(1))
    early = build_record(2, seconds=-2000 * DAY)
    archive.fill(early)
    with archive.engine.connect() as connection, connection.begin():
        for table in ("message", "header_section", "delivery"):
            connection.exec_driver_sql(
                f"ALTER TABLE {table} DETACH PARTITION {table}_2021_05;"
                f"INSERT INTO {table}_other SELECT * FROM {table}_2021_05;"
                f"DROP TABLE {table}_2021_05"
            )
    assert places(archive) == {"message_other": 1, "message_2026_11": 1}
    with archive.engine.connect() as connection, connection.begin():
        made = "SELECT carbonseal_partition('2021-05-31T23:00:00Z')"
        assert connection.exec_driver_sql(made).scalar_one() is True
        assert connection.exec_driver_sql(made).scalar_one() is False
    assert places(archive) == {"message_2021_05": 1, "message_2026_11": 1}
    assert archive.show(early["record_id"]) == early


def test_the_writer_makes_months_and_nothing_else(archive: Archive) -> None:
    """By a function that has the owner's rights for this alone."""
    server = postgresql.shared()
    if server.ask("SELECT 1 FROM pg_roles WHERE rolname = 'only_writes'") is None:
        server.make_login("only_writes")
    archive.fill(build_record(1))
    url = sqlalchemy.make_url(archive.database_url)
    assert url.database is not None
    server.execute(
        "GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA public TO only_writes;"
        "GRANT UPDATE ON segment TO only_writes;"
        "GRANT EXECUTE ON FUNCTION carbonseal_partition, carbonseal_partitions TO only_writes",
        url.database,
    )
    owner, archive.database_url = archive.database_url, server.url(url.database, "only_writes")
    archive.fill(build_record(2, seconds=-1000 * DAY))
    engine = database.writing_engine(archive.database_url)
    with engine.connect() as connection:
        for forbidden in (
            "CREATE TABLE mine (a int)",
            "DROP TABLE message_2026_11",
            "DELETE FROM message",
            "SELECT carbonseal_drop_partition('2026_11')",
        ):
            with pytest.raises(ProgrammingError, match=r"permission denied|must be owner"):
                connection.exec_driver_sql(forbidden)
            connection.rollback()
    engine.dispose()
    archive.database_url = owner
    assert places(archive) == {"message_2026_11": 1, "message_2024_02": 1}
