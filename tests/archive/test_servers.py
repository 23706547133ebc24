"""Connections to servers: which one of several, how long to wait, and what their errors mean."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator

import pytest
import sqlalchemy
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError
from support import mariadb, postgresql
from support.mariadb import MariaDB
from support.ports import LOOPBACK, free_port
from support.postgresql import PostgreSQL

from carbonseal.milter.archive import database, faults, servers
from carbonseal.milter.archive.faults import Kind
from carbonseal.milter.archive.servers import Host
from carbonseal.policies.errors import CarbonsealError, ConfigurationError

PATIENCE = 30.0
Server = PostgreSQL | MariaDB


@pytest.fixture(params=["postgresql", "mariadb"])
def server(request: pytest.FixtureRequest) -> Server:
    """The shared server of each kind."""
    return postgresql.shared() if request.param == "postgresql" else mariadb.shared()


@pytest.fixture
def server_url(server: Server) -> Iterator[str]:
    """A database of its own there."""
    name = server.create_database()
    yield server.url(name)
    server.drop_database(name)


@pytest.fixture
def engine(server_url: str) -> Iterator[Engine]:
    """A writer's engine for it, with a table."""
    made = database.writing_engine(server_url)
    with made.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE fact (number INTEGER PRIMARY KEY, word CHAR(4))")
        connection.exec_driver_sql("INSERT INTO fact VALUES (1, 'one'), (2, 'two')")
    yield made
    made.dispose()


# --- the URL --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        pytest.param("postgresql+psycopg:///carbonseal", [Host("", None)], id="local-by-peer"),
        pytest.param("postgresql+psycopg://u@db1/c", [Host("db1", None)], id="one"),
        pytest.param("mysql+pymysql://u@db1:3307/c", [Host("db1", 3307)], id="one-with-port"),
        pytest.param(
            "mysql+pymysql://u@/c?host=db1&host=db2:3307",
            [Host("db1", None), Host("db2", 3307)],
            id="two-one-with-port",
        ),
        pytest.param(
            "postgresql+psycopg://u@/c?host=db1,db2&port=5432,5433",
            [Host("db1", 5432), Host("db2", 5433)],
            id="as-libpq-writes-it",
        ),
        pytest.param(
            "postgresql+psycopg://u@/c?host=db1,db2&port=5433",
            [Host("db1", 5433), Host("db2", 5433)],
            id="one-port-for-all",
        ),
        pytest.param(
            "mysql+pymysql://u@/c?host=[2001:db8::1]:3307&host=2001:db8::2",
            [Host("2001:db8::1", 3307), Host("2001:db8::2", None)],
            id="ipv6",
        ),
        pytest.param(
            "postgresql+psycopg://u@/c?host=/run/postgresql",
            [Host("/run/postgresql", None)],
            id="unix-socket",
        ),
    ],
)
def test_the_servers_of_a_url(url: str, expected: list[Host]) -> None:
    """One way of writing several servers, for both engines."""
    assert list(servers.hosts(sqlalchemy.make_url(url))) == expected


@pytest.mark.parametrize(
    ("query", "message"),
    [
        pytest.param("host=a,b&port=1,2,3", "2 hosts and 3 ports", id="ports-do-not-match"),
        pytest.param("host=a:x", "'x' is no port", id="port-is-a-word"),
        pytest.param("host=a:0", "'0' is no port", id="port-zero"),
        pytest.param("host=a&port=65536", "'65536' is no port", id="port-too-high"),
    ],
)
def test_servers_that_cannot_be_read(query: str, message: str) -> None:
    """One sentence says what is wrong with the list."""
    with pytest.raises(ConfigurationError, match=message):
        database.writing_engine(f"postgresql+psycopg://u@/c?{query}")


def test_a_password_is_never_shown() -> None:
    """What is said about a database names servers and database, and nothing else of its URL."""
    url = sqlalchemy.make_url(
        "mysql+pymysql://u:s3cret@/c?host=db1&host=[::1]:3307&password=s3cret"
    )
    assert servers.place(url) == "mysql c at db1,[::1]:3307"


# --- choosing -------------------------------------------------------------------------------------


def several(url: str, *hosts: str) -> str:
    """The URL with these servers in place of its one."""
    parsed = sqlalchemy.make_url(url)
    made = parsed.set(host=None, port=None).update_query_dict({"host": hosts})
    return made.render_as_string(hide_password=False)


def test_the_first_server_that_is_there_is_taken(server: Server, server_url: str) -> None:
    """A server that is down is passed over."""
    url = several(server_url, f"{LOOPBACK}:{free_port()}", f"{LOOPBACK}:{server.port}")
    made = database.writing_engine(url)
    with made.connect() as connection:
        assert connection.exec_driver_sql("SELECT 1").scalar_one() == 1
    made.dispose()


def test_each_server_says_why_it_will_not_do(server_url: str) -> None:
    """When none will do, the sentence names them all."""
    places = [f"{LOOPBACK}:{free_port()}" for _ in range(2)]
    made = database.writing_engine(several(server_url, *places))
    with pytest.raises(servers.NoServer) as caught, made.connect():
        pass
    for place in places:
        assert place in caught.value.sentence
    assert "refused" in caught.value.sentence


def test_a_single_server_that_is_down_has_its_sentence(server_url: str) -> None:
    """Place, what is wrong, and what to do; no password."""
    url = sqlalchemy.make_url(server_url).set(port=free_port())
    made = database.writing_engine(url.render_as_string(hide_password=False))
    with pytest.raises(CarbonsealError) as caught:
        database.upgrade(made)
    assert "refused" in caught.value.sentence
    assert caught.value.sentence.endswith(
        "; check that the server runs and that record.database is right"
    )
    assert url.password is not None
    assert url.password not in caught.value.sentence
    assert "\n" not in caught.value.sentence


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        pytest.param({"password": "wrong"}, "check the user and the password file", id="password"),
        pytest.param({"database": "carbonseal_none"}, "create the database", id="no-database"),
        pytest.param({"username": "nobody_we_know"}, "check the user", id="user"),
    ],
)
def test_what_is_refused_at_the_door(server_url: str, change: dict[str, str], advice: str) -> None:
    """Each refusal comes with its own remedy."""
    url = sqlalchemy.make_url(server_url).set(**change)  # type: ignore[arg-type]
    made = database.writing_engine(url.render_as_string(hide_password=False))
    with pytest.raises(CarbonsealError, match=advice):
        database.upgrade(made)


def test_a_reader_takes_a_server_that_a_writer_does_not(server: Server, server_url: str) -> None:
    """What takes no writes is good enough for questions, and is named to the writer."""
    set_read_only(server, "on")
    try:
        made = database.writing_engine(server_url)
        with pytest.raises(servers.NoServer, match="takes no writes"), made.connect():
            pass
        reader = servers.engine(sqlalchemy.make_url(server_url), is_writer=False)
        with reader.connect() as connection:
            assert connection.exec_driver_sql("SELECT 1").scalar_one() == 1
        reader.dispose()
    finally:
        set_read_only(server, "off")


def set_read_only(server: Server, value: str) -> None:
    if isinstance(server, PostgreSQL):
        server.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
        server.execute("SELECT pg_reload_conf()")
        server.wait_for(
            lambda: server.ask("SHOW default_transaction_read_only") == value, "did not reload"
        )
    else:
        server.execute(f"SET GLOBAL read_only = {value}")


# --- what errors mean -----------------------------------------------------------------------------


def failing(connection: Connection, *statements: str) -> Exception:
    """The error of the last statement."""
    for statement in statements[:-1]:
        connection.exec_driver_sql(statement)
    with pytest.raises(DBAPIError) as caught:
        connection.exec_driver_sql(statements[-1])
    return caught.value


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        pytest.param("INSERT INTO fact VALUES (1, 'x')", Kind.POISON, id="key-there-already"),
        pytest.param("INSERT INTO fact VALUES (NULL, 'x')", Kind.POISON, id="null"),
        pytest.param("INSERT INTO fact VALUES (3, 'longer')", Kind.POISON, id="too-long"),
        pytest.param("INSERT INTO fact VALUES (99999999999, 'x')", Kind.POISON, id="too-large"),
        pytest.param("INSERT INTO nothing VALUES (1)", Kind.TROUBLE, id="no-such-table"),
        pytest.param("INSERT INTO", Kind.TROUBLE, id="no-statement"),
    ],
)
def test_faults_of_values_are_told_from_faults_of_the_place(
    engine: Engine, statement: str, kind: Kind
) -> None:
    """Only what a record itself is to blame for is ever set aside."""
    with engine.connect() as connection:
        assert faults.kind(failing(connection, statement)) is kind


def test_a_read_only_transaction_is_recognised(engine: Engine) -> None:
    """A primary that was demoted under our hands."""
    begin = "SET TRANSACTION READ ONLY"
    with engine.connect() as connection:
        fault = failing(connection, begin, "INSERT INTO fact VALUES (3, 'x')")
    assert faults.kind(fault) is Kind.READ_ONLY
    assert "standby" in faults.remedy(fault)


def test_a_deadlock_is_a_collision(engine: Engine) -> None:
    """Two transactions that wait for each other: one of them is told, and can do it again."""
    update = "UPDATE fact SET word = 'new' WHERE number = "
    both = threading.Barrier(2, timeout=PATIENCE)
    met: list[Kind | None] = []

    def meet(first: int, second: int) -> None:
        try:
            with engine.begin() as connection:
                connection.exec_driver_sql(update + str(first))
                both.wait()
                connection.exec_driver_sql(update + str(second))
        except DBAPIError as fault:
            met.append(faults.kind(fault))
        else:
            met.append(None)

    threads = [threading.Thread(target=meet, args=order) for order in ((1, 2), (2, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(met, key=str) == [None, Kind.COLLISION]


def test_a_lock_that_is_not_given_back_is_a_collision(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiting for somebody else's transaction ends."""
    monkeypatch.setattr(servers, "_LOCK_SECONDS", 1)
    other = database.writing_engine(engine.url.render_as_string(hide_password=False))
    update = "UPDATE fact SET word = 'new' WHERE number = 1"
    with engine.begin() as holder, other.connect() as waiting:
        holder.exec_driver_sql(update)
        assert faults.kind(failing(waiting, update)) is Kind.COLLISION
    other.dispose()


def test_a_statement_that_never_ends_is_ended(
    server: Server, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the server itself, and that is no fault of a record."""
    monkeypatch.setattr(servers, "_STATEMENT_SECONDS", 1)
    made = database.writing_engine(server_url)
    endless = (
        "SELECT pg_sleep(600)"
        if isinstance(server, PostgreSQL)
        else "SELECT count(*) FROM seq_1_to_1000000 a, seq_1_to_1000000 b"
    )
    with made.connect() as connection:
        fault = failing(connection, endless)
    assert faults.kind(fault) is Kind.TROUBLE
    assert "overloaded" in faults.remedy(fault)
    made.dispose()


def test_a_connection_that_is_ended_is_lost(server: Server, engine: Engine) -> None:
    """The administrator ends it, or the server goes down."""
    with engine.connect() as connection:
        if isinstance(server, PostgreSQL):
            number = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
            server.execute(f"SELECT pg_terminate_backend({number}, 10000)")
        else:
            number = connection.exec_driver_sql("SELECT connection_id()").scalar_one()
            server.execute(f"KILL {number}")
        assert faults.kind(failing(connection, "SELECT 1")) is Kind.LOST


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(OSError("gone"), id="file-system"),
        pytest.param(servers.NoServer("none"), id="no-server"),
        pytest.param(sqlalchemy.exc.ResourceClosedError(), id="connection-closed"),
    ],
)
def test_what_does_not_come_from_the_values_is_trouble(fault: Exception) -> None:
    """It waits; no record is set aside for it."""
    assert faults.kind(fault) is Kind.TROUBLE


# --- a server that hangs --------------------------------------------------------------------------


class Mute:
    """A listener that takes connections and says nothing."""

    def __init__(self) -> None:
        self._listener = socket.create_server((LOOPBACK, 0))
        self.place = f"{LOOPBACK}:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def mute() -> Iterator[Mute]:
    made = Mute()
    yield made
    made.close()


def test_a_server_that_says_nothing_at_the_door_is_passed_over(
    server: Server, server_url: str, mute: Mute, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that hangs keeps its port open; the next server is asked."""
    monkeypatch.setattr(servers, "_CONNECT_SECONDS", 1)
    url = several(server_url, mute.place, f"{LOOPBACK}:{server.port}")
    made = database.writing_engine(url, patience=1.0)
    with made.connect() as connection:
        assert connection.exec_driver_sql("SELECT 1").scalar_one() == 1
    made.dispose()


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_a_server_that_hangs_is_given_up(kind: str) -> None:
    """Frozen in the middle of a transaction: the connection is cut, and that is said."""
    made: Server = PostgreSQL() if kind == "postgresql" else MariaDB()
    try:
        made.initialise()
        made.start()
        engine = database.writing_engine(made.url(made.create_database()))
        frozen = engine.connect()
        number = server_process(made, frozen)
        os.kill(number, signal.SIGSTOP)
        with (
            pytest.raises(servers.NoAnswer, match="no answer for"),
            servers.bounded(frozen, 0.5),
        ):
            frozen.exec_driver_sql("SELECT 1")
        os.kill(number, signal.SIGCONT)
        frozen.close()
        engine.dispose()
    finally:
        made.close()


def server_process(server: Server, connection: Connection) -> int:
    """The process that serves a connection: PostgreSQL has one for each."""
    if isinstance(server, MariaDB):
        return server.pid
    number: int = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    return number
