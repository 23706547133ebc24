"""The writer and database servers: every record once, whatever becomes of the connections."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import Engine
from support import mariadb, postgresql
from support.archive import Archive, build_recipient, build_record, build_reverse_path
from support.cut_wire import CutWire, Moment
from support.mariadb import MariaDB
from support.ports import LOOPBACK
from support.postgresql import PostgreSQL
from support.relays import wait_for

from carbonseal.milter.archive import database, schema, segments, servers, terms, writer
from carbonseal.milter.archive.writing import passes

PATIENCE = 60.0
# `make test` takes a sample.
STEP = 1 if os.environ.get("CRASH") == "all" else 9
Server = PostgreSQL | MariaDB


@pytest.fixture(params=["postgresql", "mariadb"])
def server(request: pytest.FixtureRequest) -> Server:
    """The shared server of each kind."""
    return postgresql.shared() if request.param == "postgresql" else mariadb.shared()


@pytest.fixture
def name(server: Server) -> Iterator[str]:
    """A database of its own there."""
    made = server.create_database()
    yield made
    server.drop_database(made)


@pytest.fixture
def relay(tmp_path: Path, server: Server, name: str) -> Iterator[Archive]:
    """A relay's spool and the archive on a server."""
    made = Archive(tmp_path, server.url(name))
    yield made
    made.close()


@contextmanager
def writing(*relays: Archive) -> Iterator[None]:
    """The writer's loop for each, in threads."""
    stop = threading.Event()

    def run(one: Archive) -> None:
        writer.run(one.spool_directory, one.database_url, stop=stop, report=one.report)

    threads = [threading.Thread(target=run, args=[one]) for one in relays]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()


def said(relay: Archive, event: str) -> list[dict[str, Any]]:
    return [facts for name, facts in relay.events if name == event]


def is_empty(relay: Archive) -> bool:
    """Whether the spool's segments are all loaded."""
    return not segments.pending(relay.spool_directory)


def facts(engine: Engine) -> tuple[int, int, int, int]:
    """Messages, header sections, records as the segments count them, seals."""
    message, header_section = schema.message, schema.header_section
    with engine.connect() as connection:

        def asked(query: Any) -> int:
            return int(connection.execute(query).scalar_one() or 0)

        count = sqlalchemy.func.count
        return (
            asked(sqlalchemy.select(count()).select_from(message)),
            asked(sqlalchemy.select(count()).select_from(header_section)),
            asked(sqlalchemy.select(sqlalchemy.func.sum(schema.segment.c.records))),
            asked(sqlalchemy.select(count()).select_from(schema.seal)),
        )


def check_whole(engine: Engine, records: int, seals: int) -> None:
    """Everything is there once, and everybody counts the same."""
    assert facts(engine) == (records, records, records, seals)
    with engine.connect() as connection:
        for table in (schema.repeated, schema.set_aside):
            assert connection.execute(sqlalchemy.select(table)).all() == []
        numbers = sqlalchemy.select(schema.seal.c.number).order_by(schema.seal.c.number)
        assert list(connection.execute(numbers).scalars()) == list(range(1, seals + 1))


def test_loading_again_changes_nothing(relay: Archive) -> None:
    """A segment that is put back into the spool brings nothing new."""
    relay.fill(*(build_record(number) for number in range(30)))
    [loaded] = segments.loaded(relay.spool_directory)
    segments.bring_back(loaded)
    assert relay.load() == 0
    check_whole(relay.engine, 30, 1)


@pytest.mark.chaos
@pytest.mark.parametrize("moment", list(Moment), ids=str)
def test_a_connection_may_be_lost_at_any_moment(
    relay: Archive, server: Server, name: str, moment: Moment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request of a load in turn is the last, its answer lost or never reaching the server.

    Among them are the commits: whether they were done is found out by looking, so that no record is
    there twice, none is missing, and none is counted or set aside because it was there already.
    """
    monkeypatch.setattr(writer, "_POLL_SECONDS", 0.001)
    relay.load()  # the tables
    segments_loaded = records = cuts = 0
    with CutWire(server.port) as wire:
        url = sqlalchemy.make_url(server.url(name)).set(host=LOOPBACK, port=wire.port)
        relay.database_url = url.render_as_string(hide_password=False)
        for number in range(random.randint(1, STEP), 400, STEP):
            relay.put(*(one_of_many(number, index) for index in range(3)))
            segments_loaded, records = segments_loaded + 1, records + 3
            wire.cut_at(number, moment)
            load_whatever_comes(relay)
            cuts += wire.was_cut
            if not wire.was_cut:
                break
        assert not wire.was_cut, "a load has more requests than were tried"
    relay.database_url = server.url(name)
    assert cuts > 15 / STEP  # handshake, dictionaries, facts, commits, seal
    check_whole(relay.engine, records, segments_loaded)


def one_of_many(number: int, index: int) -> dict[str, Any]:
    """A record with addresses that no other has: every statement of a load is needed."""
    who = f"p{number}.{index}"
    return build_record(
        number * 10 + index,
        reverse_path=build_reverse_path(f"{who}@d{number}.example"),
        recipients=[build_recipient(f"{who}@partner{number}.example")],
    )


def load_whatever_comes(relay: Archive) -> None:
    """Load until the spool is empty, as the writer's loop does, without its waits."""
    loading = writer.Writer(relay.spool_directory, relay.database_url, relay.report, None)
    never = threading.Event()
    try:
        wait_for(lambda: loading.advance(never) >= 0 and is_empty(relay), "the load")
    finally:
        loading.close()


def test_a_lost_connection_is_told_once_and_again_when_it_is_back(
    relay: Archive, server: Server, name: str
) -> None:
    """People read one line for the loss, and one for the return."""
    with CutWire(server.port) as wire:
        url = sqlalchemy.make_url(relay.database_url).set(port=wire.port)
        relay.database_url = url.render_as_string(hide_password=False)
        with writing(relay):
            relay.put(build_record(1))
            wait_for(lambda: is_empty(relay), "the load")
            wire.cut()
            relay.put(build_record(2))
            wait_for(lambda: is_empty(relay), "the load")
    [waits] = said(relay, "database-waits")
    assert waits["problem"].startswith(f"{relay_place(url)}: ")
    assert len(said(relay, "database-serves-again")) == 1
    relay.database_url = server.url(name)
    check_whole(relay.engine, 2, 2)


def relay_place(url: sqlalchemy.URL) -> str:
    return f"{url.get_backend_name()} {url.database} at {LOOPBACK}:{url.port}"


@pytest.mark.chaos
def test_two_relays_that_write_the_same_addresses(
    tmp_path: Path, relay: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two writers learn the same dictionary at the same time: they collide, and nobody notices."""
    monkeypatch.setattr(passes, "BATCH", 20)
    (tmp_path / "second").mkdir()
    other = Archive(tmp_path / "second", relay.database_url)
    for index in range(10):
        for one, name in ((relay, "mx1.example.com"), (other, "mx2.example.com")):
            one.put(*(of_relay(name, index * 40 + number) for number in range(40)))
    with writing(relay, other):
        wait_for(lambda: is_empty(relay) and is_empty(other), "both loads")
    assert facts(relay.engine) == (800, 800, 800, 20)
    assert not said(relay, "record-set-aside")
    assert not said(other, "record-set-aside")


def of_relay(name: str, number: int) -> dict[str, Any]:
    """Its addresses come in an order of the relay's own."""
    turned = number if name.startswith("mx1") else 400 - number
    return build_record(
        number,
        relay=name,
        reverse_path=build_reverse_path(f"a{turned}@d{turned % 7}.example"),
        recipients=[build_recipient(f"b{turned}@e{turned % 11}.example")],
    )


def test_a_collision_is_tried_again(
    relay: Archive, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another transaction holds what the batch needs: the batch is done again, and said."""
    monkeypatch.setattr(servers, "_LOCK_SECONDS", 1)
    relay.load()
    other = database.writing_engine(relay.database_url)
    domain = {"domain_id": terms.term("partner.example"), "name": "partner.example"}
    with other.connect() as holder:
        transaction = holder.begin()
        holder.execute(sqlalchemy.insert(schema.domain), domain)
        with writing(relay):
            relay.put(build_record(1))
            wait_for(lambda: bool(said(relay, "batch-collided")), "a collision")
            transaction.rollback()
            wait_for(lambda: is_empty(relay), "the load")
    other.dispose()
    check_whole(relay.engine, 1, 1)
    assert not said(relay, "database-waits")


def test_a_server_that_takes_no_writes_is_waited_for(relay: Archive, server: Server) -> None:
    """A primary is demoted in the middle, and promoted again."""
    with writing(relay):
        relay.put(build_record(1))
        wait_for(lambda: is_empty(relay), "the load")
        set_read_only(server, relay, "on")
        relay.put(build_record(2))
        wait_for(lambda: "standby" in str(said(relay, "database-waits")), "the standby's refusal")
        relay.put(build_record(3))
        set_read_only(server, relay, "off")
        wait_for(lambda: is_empty(relay), "the load")
    assert not said(relay, "record-set-aside")
    check_whole(relay.engine, 3, 3)


def set_read_only(server: Server, relay: Archive, value: str) -> None:
    if isinstance(server, PostgreSQL):
        database_name = sqlalchemy.make_url(relay.database_url).database
        server.execute(
            f"ALTER DATABASE {database_name} SET default_transaction_read_only = {value}"
        )
        # It holds for connections made from now on.
        server.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            f"WHERE datname = '{database_name}'"
        )
    else:
        server.execute(f"SET GLOBAL read_only = {value}")


def test_a_commit_that_hangs_is_not_done_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The primary waits for a standby that is gone: commits hang, and are decided much later.

    The writer gives up the connection and finds its own transaction in the way until the standby is
    let go; then it sees that the commit was done after all.
    """
    monkeypatch.setattr(servers, "ANSWER_SECONDS", 1.5)
    monkeypatch.setattr(servers, "_LOCK_SECONDS", 1)
    server = PostgreSQL(sends_wal=True, settings={"synchronous_commit": "on"})
    try:
        server.initialise()
        server.start()
        relay = Archive(tmp_path, server.url(server.create_database()))
        relay.fill(build_record(0))
        server.execute("ALTER SYSTEM SET synchronous_standby_names = 'gone'")
        server.execute("SELECT pg_reload_conf()")
        with writing(relay):
            relay.put(*(build_record(number) for number in range(1, 21)))
            wait_for(lambda: "no answer" in str(said(relay, "database-waits")), "giving up")
            wait_for(lambda: bool(said(relay, "batch-collided")), "a collision")
            server.execute("ALTER SYSTEM RESET synchronous_standby_names")
            server.execute("SELECT pg_reload_conf()")
            wait_for(lambda: is_empty(relay), "the load")
        check_whole(relay.engine, 21, 2)
        relay.close()
    finally:
        server.close()


def test_what_a_database_has_lost_is_brought_back(relay: Archive) -> None:
    """A standby that lacks the last commits, a backup of yesterday: loaded/ fills the gap."""
    relay.fill(*(build_record(number) for number in range(10)))
    relay.fill(*(build_record(number) for number in range(10, 30)))
    lost = segments.loaded(relay.spool_directory)[-1]
    engine = database.writing_engine(relay.database_url)
    lose(engine, lost.name)
    assert facts(engine)[0] == 10
    engine.dispose()
    relay.put(build_record(30))
    relay.load()
    check_whole(relay.engine, 31, 3)
    assert said(relay, "segments-brought-back") == [{"count": 1, "first": lost.name}]


def lose(engine: Engine, segment: str) -> None:
    """As if the segment had never come."""
    identifier = terms.term(segment)
    with engine.begin() as connection:
        ids = sqlalchemy.select(schema.message.c.record_id).where(
            schema.message.c.segment_id == identifier
        )
        found = list(connection.execute(ids).scalars())
        for table in (schema.message, schema.header_section):
            connection.execute(sqlalchemy.delete(table).where(table.c.record_id.in_(found)))
        if engine.dialect.name != "postgresql":
            for table in (schema.participant, schema.participant_domain, schema.header_term):
                connection.execute(sqlalchemy.delete(table).where(table.c.record_id.in_(found)))
        for table in (schema.segment, schema.seal):
            connection.execute(sqlalchemy.delete(table).where(table.c.segment_id == identifier))


def test_two_relays_make_the_tables_at_the_same_time(tmp_path: Path, relay: Archive) -> None:
    """The first writers of a new archive do not stand in each other's way."""
    others = []
    for number in range(3):
        (tmp_path / str(number)).mkdir()
        others.append(Archive(tmp_path / str(number), relay.database_url))
    for index, one in enumerate((relay, *others)):
        one.put(build_record(index, relay=f"mx{index}.example.com"))
    with writing(relay, *others):
        wait_for(lambda: all(is_empty(one) for one in (relay, *others)), "all loads")
    assert facts(relay.engine) == (4, 4, 4, 4)
