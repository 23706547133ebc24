"""The connections that questions go over."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, text
from support.archive import Archive, build_record, build_search

from carbonseal.milter.archive import as_given, database, servers
from carbonseal.milter.archive.search import query, walk


@pytest.fixture(scope="module")
def filled(module_archive: Archive) -> Archive:
    module_archive.fill(*map(build_record, range(5)))
    return module_archive


@pytest.fixture
def reader(filled: Archive) -> Iterator[Engine]:
    engine = database.reading_engine(filled.database_url)
    yield engine
    engine.dispose()


def found(engine: Engine, **wanted: Any) -> list[str]:
    return [one.queue_id for one in query.search(engine, build_search("login:alice", **wanted))]


def test_the_planner_is_told_once(reader: Engine) -> None:
    """A connection for questions keeps what it was told; the second question costs no more."""
    told: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        told.extend([statement] if "set_config" in statement else [])

    event.listen(reader, "before_cursor_execute", note)
    assert found(reader) == found(reader, limit=5) == [f"4XYZ{one}" for one in range(4, -1, -1)]
    assert len(told) == (1 if reader.dialect.name == "postgresql" else 0)


@pytest.mark.parametrize("module_archive", ["postgresql"], indirect=True)
def test_a_writers_connection_forgets_what_the_planner_was_told(filled: Archive) -> None:
    """Its other transactions plan as the server is set up to."""
    engine = database.writing_engine(filled.database_url)
    setting = text("SELECT current_setting('enable_seqscan')")
    with engine.connect() as connection:
        walk.steady(connection)
        assert connection.scalar(setting) == "off"
        connection.rollback()
        assert connection.scalar(setting) == "on"
    engine.dispose()


@pytest.mark.parametrize("module_archive", ["postgresql"], indirect=True)
def test_what_is_asked_again_and_again_is_planned_for_good(reader: Engine) -> None:
    """PostgreSQL remembers from the second page on how pages are found and looked up, makes no
    other plans for them, and remembers nothing of what else it is asked.
    """
    for _ in range(12):
        found(reader)
        list(query.search(reader, build_search("message-id:1@example.com")))
        list(query.search(reader, build_search("login:alice size:>1")))
        query.count(reader, build_search("login:alice"))
    with reader.connect() as connection:
        asked = text("SELECT statement, generic_plans, custom_plans FROM pg_prepared_statements")
        kept = {row[0]: (row[1], row[2]) for row in connection.execute(asked)}
        mode = connection.execute(text("SHOW plan_cache_mode")).scalar_one()
    assert all(generic and not custom for generic, custom in kept.values())
    assert any("terms" in statement for statement in kept)
    assert any("message_id_hash" in statement for statement in kept)
    assert any("recipients" in statement for statement in kept)
    assert not any(re.search(r"count\(|size >", statement) for statement in kept)
    assert mode == "auto"


@pytest.mark.parametrize("module_archive", ["postgresql", "mariadb"], indirect=True)
def test_a_connection_that_died_while_idle_is_replaced(
    filled: Archive, reader: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is told of it."""
    own, ends = ("connection_id()", "KILL CONNECTION {}")
    if reader.dialect.name == "postgresql":
        own, ends = ("pg_backend_pid()", "SELECT pg_terminate_backend({})")
    monkeypatch.setattr(servers, "_FRESH_SECONDS", 0.0)
    before = found(reader)
    with reader.connect() as connection:
        number = connection.scalar(text(f"SELECT {own}"))
    with filled.engine.connect() as connection:
        connection.execute(text(ends.format(int(number or 0))))
    assert found(reader) == before


@pytest.mark.parametrize("module_archive", ["postgresql", "mariadb"], indirect=True)
@pytest.mark.parametrize("number", range(6))
def test_a_connection_that_dies_on_the_way_is_told_in_a_sentence(
    filled: Archive, reader: Engine, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    """Whichever statement of a page it is; and the next question has another connection."""
    sent, left = as_given.sent, [number]
    before = shown(reader)

    def end_at_last(given: str, parameters: Any, connection: Connection) -> Any:
        left[0] -= 1
        if left[0] == -1:
            end(connection, filled.engine)
        return sent(given, parameters, connection)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(as_given, "sent", end_at_last)
        told = None
        try:
            assert shown(reader) == before
        except database.DatabaseUnusable as fault:
            told = str(fault)
    assert (told is None) == (left[0] >= 0)
    assert told is None or re.search(r"; check that the server runs\b.*$", told)
    assert not caplog.records
    assert shown(reader) == before


def shown(engine: Engine) -> list[str]:
    return [one.queue_id for one in query.outlines(engine, build_search("login:alice"))]


def end(connection: Connection, other: Engine) -> None:
    """Have its server close it."""
    driver: Any = connection.connection.driver_connection
    if connection.dialect.name == "postgresql":
        number, ends = driver.pgconn.backend_pid, "SELECT pg_terminate_backend({}, 10000)"
    else:
        number, ends = driver.thread_id(), "KILL CONNECTION {}"
    with other.connect() as beside:
        beside.execute(text(ends.format(int(number))))


def test_what_was_the_newest_record_hides_no_newer_one(filled: Archive, reader: Engine) -> None:
    """A connection remembers where the newest record was, and begins to look there."""
    found(reader)
    later = build_record(99, seconds=400 * 86_400.0)
    earlier = build_record(98, seconds=-400 * 86_400.0)
    filled.fill(later, earlier)
    assert found(reader)[0] == "4XYZ99"
    assert found(reader)[-1] == "4XYZ98"


def test_pages_of_what_came_since_are_whole(filled: Archive, reader: Engine) -> None:
    """Records newer than those that a connection remembers are all found, page by page."""
    found(reader)
    filled.fill(*(build_record(one, seconds=3000.0 * one) for one in range(200, 207)))
    before = [one.record_id for one in query.search(filled.engine, build_search("login:alice"))]
    for size in (1, 2, 3, 100):
        [*pages] = query.pages(reader, build_search("login:alice", limit=None), size=size)
        assert [one for page in pages for one in page] == before
