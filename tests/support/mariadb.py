"""A private MariaDB, and a fresh database in it for each test.

Promises: `shared()` starts one server per test process, when it is first asked for.  It listens on
a loopback port; the user `carbonseal` may do everything in the databases that `create_database`
makes, and nothing elsewhere.  Nothing is synced to the disk.  Strict mode, as MariaDB has it by
default.
"""

from __future__ import annotations

import functools
import itertools
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pymysql

from support import ports
from support.private_server import OWNER, PrivateServer, program

_PLACES = ("/usr/sbin", "/usr/bin", "/usr/local/bin")
_numbers = itertools.count(1)

_HASTY = {
    "innodb-flush-log-at-trx-commit": "0",
    "innodb-flush-method": "nosync",
    "sync-binlog": "0",
}
_SMALL = {
    "innodb-buffer-pool-size": "64M",
    "innodb-log-file-size": "32M",
    "innodb-fast-shutdown": "2",
    "max-connections": "50",
    "character-set-server": "utf8mb4",
    "skip-name-resolve": "ON",
    "default-time-zone": "+00:00",
    "bind-address": ports.LOOPBACK,
}


@functools.cache
def shared() -> MariaDB:
    """The one of this test process, running."""
    server = MariaDB()
    server.initialise()
    server.start()
    return server


class MariaDB(PrivateServer):
    """One server; `initialise`, then `start`."""

    program = "mariadbd"
    dialect = "mysql+pymysql"

    def __init__(
        self, settings: Mapping[str, str] | None = None, *, kept_in: Path | None = None
    ) -> None:
        self._mariadbd = program("mariadbd", _PLACES, "mariadb-server")
        how = signal.SIGKILL if kept_in is None else signal.SIGTERM
        super().__init__(user="mysql", end_at_once=how, kept_in=kept_in)
        self.port = ports.free_port()
        self.data = self.directory / "data"
        self.socket = self.directory / "socket"
        self.users = self.directory / "users.sql"
        self.settings = {**_SMALL, **_HASTY, **(settings or {})}

    def initialise(self) -> None:
        """Empty system tables, and no user but the administrator on the UNIX socket."""
        install = program("mariadb-install-db", _PLACES, "mariadb-server")
        self.run(
            [
                *(install, "--no-defaults", f"--datadir={self.data}", "--skip-test-db"),
                *("--auth-root-authentication-method=normal", "--skip-name-resolve"),
                *("--innodb-log-file-size=32M", "--innodb-flush-method=nosync"),
                # A server that starts removes what others have begun in /tmp.
                f"--tmpdir={self.directory}",
            ]
        )
        # Read before the first connection: at no time can a stranger log in as administrator.
        self.users.write_text(
            "DELETE FROM mysql.global_priv WHERE User = 'root' AND Host <> 'localhost';\n"
            "FLUSH PRIVILEGES;\n"
            f"CREATE USER IF NOT EXISTS {OWNER}@'{ports.LOOPBACK}' "
            f"IDENTIFIED BY '{self.password}';\n"
            f"GRANT ALL ON `{OWNER}\\_%`.* TO {OWNER}@'{ports.LOOPBACK}';\n"
        )
        self.users.chmod(0o644)  # the directory is 0700

    def start(self, *more: str) -> None:
        """Run; returns when it takes connections."""
        options = [f"--{name}={value}" for name, value in self.settings.items()]
        self.launch(
            [
                *(self._mariadbd, "--no-defaults", f"--datadir={self.data}"),
                *(f"--socket={self.socket}", f"--port={self.port}", f"--tmpdir={self.directory}"),
                *(f"--pid-file={self.directory / 'pid'}", f"--init-file={self.users}"),
                *options,
                *more,
            ],
            self._answers,
        )

    def stop(self) -> None:
        """Shut down in order."""
        self.end(signal.SIGTERM)

    def create_database(self) -> str:
        """A fresh, empty database; its name."""
        name = f"{OWNER}_{next(_numbers)}"
        self.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        return name

    def drop_database(self, name: str) -> None:
        self.execute(f"DROP DATABASE IF EXISTS {name}")

    def execute(self, statement: str, database: str | None = None) -> None:
        """As administrator."""
        with self._connect(database) as connection, connection.cursor() as cursor:
            cursor.execute(statement)

    def ask(self, query: str, database: str | None = None) -> Any:
        """The last column of the first row of an administrator's query; None without a row."""
        with self._connect(database) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            row = cursor.fetchone()
        return None if row is None else row[-1]

    def run_file(self, path: Path, database: str) -> None:
        """A file of SQL through the client, as administrator."""
        copy = self.directory / path.name
        copy.write_bytes(path.read_bytes())
        copy.chmod(0o644)  # the directory is 0700
        client = program("mariadb", _PLACES, "mariadb-client")
        where = ["--no-defaults", f"--socket={self.socket}", "--user=root", database]
        self.run([client, *where, "-e", f"source {copy}"])

    def make_login(self, name: str, *, member_of: str) -> None:
        """A user in one role, with the password of all here; made where it is missing."""
        who = f"{name}@'{ports.LOOPBACK}'"
        self.execute(f"CREATE USER IF NOT EXISTS {who} IDENTIFIED BY '{self.password}'")
        self.execute(f"GRANT {member_of} TO {who}")
        self.execute(f"SET DEFAULT ROLE {member_of} FOR {who}")

    def _connect(self, database: str | None) -> Any:
        # By UNIX socket, which only this directory's owner and root can reach.
        return pymysql.connect(
            unix_socket=str(self.socket), user="root", database=database, autocommit=True
        )

    def _answers(self) -> bool:
        try:
            self._connect(None).close()
        except pymysql.err.OperationalError:
            return False
        return True
