"""Connections to PostgreSQL and MariaDB: which of several servers, how long to wait, and how.

Several servers stand in one URL, in the order of preference, the same way for both engines:
`postgresql+psycopg://carbonseal@/carbonseal?host=db1&host=db2:5433` and
`mysql+pymysql://carbonseal@/carbonseal?host=db1&host=db2:3307`.  (libpq's own form,
`?host=db1,db2&port=5432,5433`, means the same.)  A writer takes the first that is there and takes
writes: no standby, and on Galera a node that belongs to the cluster.  A reader takes the first that
is there.

Promises: nothing waits for ever.  The server ends a statement after `_STATEMENT_SECONDS`, a wait
for a lock after `_LOCK_SECONDS`, and a transaction whose client has gone after `_IDLE_SECONDS`;
and where the server itself says nothing any more, `bounded` cuts the connection.

Raises: `NoServer` (one sentence with what each server said) when none will do.

Does not: retry, or say what errors mean (`faults`).
"""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import sqlalchemy
from sqlalchemy import URL, Connection, Engine, event
from sqlalchemy.exc import DisconnectionError

from carbonseal.milter.archive import faults
from carbonseal.policies import quantity
from carbonseal.policies.errors import ConfigurationError, TryLater

# Each less than the next, so that who knows most speaks first.
_LOCK_SECONDS = 20
_STATEMENT_SECONDS = 40
_IDLE_SECONDS = 60
ANSWER_SECONDS = 60.0
_CONNECT_SECONDS = 5
_FRESH_SECONDS = 1.0  # a connection used since then is taken to be alive
_PORTS = {"postgresql": 5432, "mysql": 3306, "mariadb": 3306}


_LEFT = "carbonseal left"


class NoServer(TryLater):
    """None of the servers in the URL will do now."""


class NoAnswer(TryLater):
    """The server has the connection open and says nothing."""


class Host(NamedTuple):
    """One server of a URL; an empty name is the driver's default."""

    name: str
    port: int | None

    def __str__(self) -> str:
        if not self.name:
            return "the local server"
        name = f"[{self.name}]" if ":" in self.name else self.name
        return name if self.port is None else f"{name}:{self.port}"


def hosts(url: URL) -> tuple[Host, ...]:
    """The servers that a URL names, in order.  Raises: ConfigurationError."""
    listed = _listed(url, "host")
    if not listed:
        return (Host(url.host or "", url.port),)
    ports = _listed(url, "port")
    if ports and len(ports) not in (1, len(listed)):
        raise ConfigurationError(
            f"record.database: {quantity.of(len(listed), 'host')} and {len(ports)} ports; give one "
            "port, or one for each host"
        )
    if len(ports) == 1:
        ports = ports * len(listed)
    found = [_host(text) for text in listed]
    if ports:
        found = [Host(one.name, _port(text)) for one, text in zip(found, ports, strict=True)]
    return tuple(found)


def _listed(url: URL, name: str) -> list[str]:
    given = url.query.get(name, ())
    texts = (given,) if isinstance(given, str) else given
    return [part.strip() for text in texts for part in text.split(",") if part.strip()]


def _host(text: str) -> Host:
    if text.startswith("/"):
        return Host(text, None)  # the directory of a UNIX socket
    if text.startswith("["):
        name, _, rest = text[1:].partition("]")
        return Host(name, _port(rest[1:]) if rest else None)
    name, colon, port = text.partition(":")
    if ":" in port:
        return Host(text, None)  # an IPv6 address without brackets
    return Host(name, _port(port) if colon else None)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65_536):
        raise ConfigurationError(f"record.database: {text!r} is no port; write host=db1:5433")
    return int(text)


def engine(url: URL, *, is_writer: bool, patience: float | None = ANSWER_SECONDS) -> Engine:
    """An engine that finds its server among those of the URL whenever it connects.

    `patience` seconds are given to each answer of a writer's server; None for ever (upgrades).
    Raises: ImportError, sqlalchemy errors for a URL that no driver takes, ConfigurationError.
    """
    candidates = hosts(url)
    first = candidates[0]
    # A writer looks for itself whether it may write, with a sentence for each server.
    ours = ["host", "port", *(["target_session_attrs"] if is_writer else [])]
    plain = url.difference_update_query(ours)
    plain = plain.set(host=first.name or None, port=first.port)
    is_mariadb = url.get_backend_name() in ("mysql", "mariadb")
    # The connection used last is awake, and knows plans.
    options: dict[str, Any] = {"pool_use_lifo": True}
    if not is_writer:
        # Every statement sees what is there when it begins, as in a transaction of READ COMMITTED;
        # but nothing has to be begun and ended, each of which takes as long as a look-up.
        options["isolation_level"] = "AUTOCOMMIT"
    elif is_mariadb:
        # No gap locks, which two writers would lock each other out with; and what another writer
        # has added to a dictionary in the meantime is seen.
        options["isolation_level"] = "READ COMMITTED"
    made = sqlalchemy.create_engine(plain, **options)
    if not is_writer:
        # Nor rolled back, which is a question to MariaDB all the same.  SQLAlchemy before 2.0.43
        # does not know the word, and asks.
        made.dialect.skip_autocommit_rollback = True
    is_bounded = is_writer and patience is not None
    set_up = _set_up_mariadb if is_mariadb else _set_up_postgresql

    def connect(_dialect: object, _record: object, args: Any, given: dict[str, Any]) -> Any:
        defaults = _defaults(is_mariadb, patience if is_bounded else None)
        return _first_that_does(candidates, made, args, {**defaults, **given}, is_writer=is_writer)

    def after_connect(connection: Any, _record: object) -> None:
        set_up(connection)

    event.listen(made, "do_connect", connect)
    if not is_writer:
        _replace_the_dead(made)
    if is_bounded:
        event.listen(made, "connect", after_connect)
    return made


def _replace_the_dead(engine: Engine) -> None:
    """Try connections that have been idle for long enough to have died, before they are used."""

    def note(_connection: object, record: Any) -> None:
        record.info[_LEFT] = time.monotonic()

    def check(connection: Any, record: Any, _proxy: object) -> None:
        if time.monotonic() - record.info.get(_LEFT, math.inf) < _FRESH_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as fault:
            raise DisconnectionError from fault  # the pool connects again

    event.listen(engine, "checkin", note)
    event.listen(engine, "checkout", check)


def _defaults(is_mariadb: bool, patience: float | None) -> dict[str, Any]:
    if not is_mariadb:
        return {
            "connect_timeout": _CONNECT_SECONDS,
            "application_name": "carbonseal",
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
        }
    if patience is None:
        return {"connect_timeout": _CONNECT_SECONDS}
    # The handshake is an answer, too.
    return {
        "connect_timeout": _CONNECT_SECONDS,
        "read_timeout": patience,
        "write_timeout": patience,
    }


def _first_that_does(
    candidates: Sequence[Host],
    engine: Engine,
    args: Any,
    given: dict[str, Any],
    *,
    is_writer: bool,
) -> Any:
    """A connection of the driver to the first server that will do."""
    said: list[str] = []
    error = engine.dialect.loaded_dbapi.Error
    for host in candidates:
        where: dict[str, Any] = {"host": host.name} if host.name else {}
        if host.port is not None:
            where["port"] = host.port
        try:
            made = engine.dialect.connect(*args, **{**given, **where})
            why_not = _why_not(made, engine) if is_writer else None
        except error as fault:
            if len(candidates) == 1:
                raise
            said.append(f"{host}: {_brief(fault)}")
            continue
        if why_not is None:
            return made
        made.close()
        said.append(f"{host}: {why_not}")
    raise NoServer("; ".join(said) + "; start or promote one of them, or correct record.database")


def _brief(fault: Exception) -> str:
    cause = fault.args[-1] if fault.args else fault
    return " ".join(str(cause).split())


def _why_not(connection: Any, engine: Engine) -> str | None:
    """Why a writer cannot work there; None when it can."""
    if engine.dialect.name == "postgresql":
        [read_only] = _row(connection, "SHOW transaction_read_only")
        connection.rollback()
        return None if read_only == "off" else "takes no writes (a standby, or set read-only)"
    [read_only, is_cluster] = _row(connection, "SELECT @@global.read_only, @@global.wsrep_on")
    if read_only:
        return "takes no writes (a replica, or set read_only)"
    if is_cluster:
        _, is_ready = _row(connection, "SHOW GLOBAL STATUS LIKE 'wsrep_ready'")
        if is_ready != "ON":
            return "has left its Galera cluster"
    return None


def _row(connection: Any, query: str) -> Any:
    cursor = connection.cursor()
    try:
        cursor.execute(query)
        return cursor.fetchone()
    finally:
        cursor.close()


def _set_up_postgresql(connection: Any) -> None:
    _run(
        connection,
        f"SET lock_timeout = '{_LOCK_SECONDS}s'",
        f"SET statement_timeout = '{_STATEMENT_SECONDS}s'",
        f"SET idle_in_transaction_session_timeout = '{_IDLE_SECONDS}s'",
    )


def _set_up_mariadb(connection: Any) -> None:
    _run(
        connection,
        # Whatever the server thinks of values that do not fit: an error, never a warning.
        "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'",
        f"SET SESSION innodb_lock_wait_timeout = {_LOCK_SECONDS}",
        f"SET SESSION max_statement_time = {_STATEMENT_SECONDS}",
        f"SET SESSION idle_transaction_timeout = {_IDLE_SECONDS}",
    )


def _run(connection: Any, *statements: str) -> None:
    cursor = connection.cursor()
    try:
        for statement in statements:
            cursor.execute(statement)
    finally:
        cursor.close()
    connection.commit()


@contextmanager
def bounded(connection: Connection, seconds: float | None = None) -> Iterator[None]:
    """Cut the connection if what is done with it takes longer than `ANSWER_SECONDS`.

    A server that hangs keeps its connections open, and no time limit of its own ends anything.
    Nothing happens on SQLite.
    Raises: NoAnswer instead of what the driver says then.
    """
    wire = _wire(connection)
    if wire is None:
        yield
        return
    is_cut = threading.Event()
    seconds = ANSWER_SECONDS if seconds is None else seconds

    def cut() -> None:
        is_cut.set()
        try:
            wire.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it is closed already

    clock = threading.Timer(seconds, cut)
    clock.daemon = True
    clock.start()
    try:
        yield
    except Exception as fault:
        if is_cut.is_set():
            raise NoAnswer(
                f"{place(connection.engine.url)}: no answer for {seconds:g} s; see whether the "
                "server hangs, or waits for a standby that is gone"
            ) from fault
        raise
    finally:
        clock.cancel()
        clock.join()
        wire.close()


def _wire(connection: Connection) -> socket.socket | None:
    """The connection's socket under a number of its own, so that nobody can reuse that."""
    if connection.dialect.name == "sqlite":
        return None
    driver: Any = connection.connection.driver_connection
    number = driver._sock.fileno() if hasattr(driver, "_sock") else driver.fileno()
    return socket.socket(fileno=os.dup(number))


def place(url: URL) -> str:
    """Which servers and which database, for people; never a password."""
    names = ",".join(map(str, hosts(url)))
    return f"{url.get_backend_name()} {url.database or ''} at {names}".replace("  ", " ")


def sentence(url: URL, fault: Exception) -> str:
    """What is wrong with a server, for people."""
    return f"{place(url)}: {faults.plain(fault)}; {faults.remedy(fault)}"
