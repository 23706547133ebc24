"""A private PostgreSQL, and a fresh database in it for each test.

Promises: `shared()` starts one server per test process, when it is first asked for.  It listens on
a loopback port; the role `carbonseal`, no superuser, owns the databases that `create_database`
makes.  Nothing is synced to the disk unless `is_durable`.

`base_backup` makes a streaming standby of a server that was made with `sends_wal`.
"""

from __future__ import annotations

import functools
import itertools
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from support import ports
from support.private_server import OWNER, PrivateServer, program

SUPERUSER = "postgres"
_VERSIONS = Path("/usr/lib/postgresql")
_numbers = itertools.count(1)

_HASTY = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
_SMALL = {
    "shared_buffers": "32MB",
    "max_connections": "50",
    "listen_addresses": ports.LOOPBACK,
    "log_min_messages": "warning",
    "timezone": "UTC",
}


@functools.cache
def shared() -> PostgreSQL:
    """The one of this test process, running."""
    server = PostgreSQL()
    server.initialise()
    server.start()
    return server


class PostgreSQL(PrivateServer):
    """One server; `initialise` or `base_backup`, then `start`."""

    program = "postgres"
    dialect = "postgresql+psycopg"

    def __init__(
        self,
        *,
        is_durable: bool = False,
        sends_wal: bool = False,
        settings: Mapping[str, str] | None = None,
        kept_in: Path | None = None,
    ) -> None:
        self._postgres = _program("postgres")
        how = signal.SIGQUIT if kept_in is None else signal.SIGINT
        super().__init__(user="postgres", end_at_once=how, kept_in=kept_in)
        self.port = ports.free_port()
        self.data = self.directory / "data"
        wal = {} if sends_wal else {"wal_level": "minimal", "max_wal_senders": "0"}
        self.settings = {
            **_SMALL,
            **({} if is_durable else _HASTY),
            **wal,
            "unix_socket_directories": str(self.directory),
            **(settings or {}),
        }

    def initialise(self) -> None:
        """An empty cluster."""
        secret = self.directory / "password"
        secret.write_text(self.password + "\n")
        secret.chmod(0o644)  # the directory is 0700
        self.run(
            [
                *(_program("initdb"), "-D", self.data, "-U", SUPERUSER, f"--pwfile={secret}"),
                *("--auth-local=trust", "--auth-host=scram-sha-256", "--no-sync"),
                *("-E", "UTF8", "--locale=C.UTF-8", "--no-instructions"),
            ]
        )

    def base_backup(self, primary: PostgreSQL, *, name: str) -> None:
        """Become a streaming standby of `primary`, which knows us as `name`."""
        self.password = primary.password
        source = (
            f"host={ports.LOOPBACK} port={primary.port} user={SUPERUSER} application_name={name}"
        )
        source += f" password={self.password}"
        self.run(
            [
                *(_program("pg_basebackup"), "-D", self.data, "-d", source),
                *("--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync"),
            ]
        )

    def start(self) -> None:
        """Run; returns when it takes connections."""
        options = [f"-c{name}={value}" for name, value in self.settings.items()]
        self.launch(
            [self._postgres, "-D", self.data, "-p", str(self.port), *options], self._answers
        )
        if self.is_primary():
            self._make_owner()

    def stop(self) -> None:
        """End every connection and shut down in order."""
        self.end(signal.SIGINT)

    def promote(self) -> None:
        """A standby becomes the primary."""
        self.execute("SELECT pg_promote(true, 60)")

    def is_primary(self) -> bool:
        return not self.ask("SELECT pg_is_in_recovery()")

    def create_database(self) -> str:
        """A fresh, empty database; its name."""
        name = f"carbonseal_{next(_numbers)}"
        self.execute(f"CREATE DATABASE {name} OWNER {OWNER}")
        return name

    def drop_database(self, name: str) -> None:
        self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def execute(self, statement: str, database: str = "postgres") -> None:
        """As superuser, each statement a transaction of its own."""
        with self._connect(database) as connection:
            connection.execute(statement.encode())

    def ask(self, query: str, database: str = "postgres") -> Any:
        """The first value that a superuser's query returns; None without a row."""
        with self._connect(database) as connection:
            row = connection.execute(query.encode()).fetchone()
        return None if row is None else row[0]

    def run_file(self, path: Path, database: str, user: str = SUPERUSER) -> None:
        """A file of SQL through psql, from this server's own host."""
        copy = self.directory / path.name
        copy.write_bytes(path.read_bytes())
        copy.chmod(0o644)  # the directory is 0700
        where = ["-h", self.directory, "-p", str(self.port), "-U", user, "-d", database]
        self.run([_program("psql"), "--no-psqlrc", "--quiet", *where, "-f", copy])

    def _connect(self, database: str) -> psycopg.Connection[Any]:
        # By UNIX socket, which only this directory's owner and root can reach: trusted.
        return psycopg.connect(
            host=str(self.directory),
            port=self.port,
            user=SUPERUSER,
            dbname=database,
            autocommit=True,
            connect_timeout=10,
        )

    def _answers(self) -> bool:
        try:
            self._connect("postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    def _make_owner(self) -> None:
        if self.ask(f"SELECT 1 FROM pg_roles WHERE rolname = '{OWNER}'") is None:
            self.make_login(OWNER)

    def make_login(self, name: str, *, member_of: str | None = None) -> None:
        """Let a role log in with the password of all here; made where it is missing."""
        is_there = self.ask(f"SELECT 1 FROM pg_roles WHERE rolname = '{name}'") is not None
        verb = sql.SQL("ALTER" if is_there else "CREATE")
        with self._connect("postgres") as connection:
            connection.execute(
                sql.SQL("{} ROLE {} LOGIN PASSWORD {}").format(
                    verb, sql.Identifier(name), sql.Literal(self.password)
                )
            )
            if member_of is not None:
                connection.execute(
                    sql.SQL("GRANT {} TO {}").format(
                        sql.Identifier(member_of), sql.Identifier(name)
                    )
                )


def _program(name: str) -> Path:
    # Debian keeps the servers of each version apart, off the path.
    places = _VERSIONS.glob("[0-9]*/bin")
    newest = sorted(places, key=lambda place: float(place.parent.name), reverse=True)
    return program(name, [*map(str, newest), "/usr/local/bin", "/usr/bin"], "postgresql")
