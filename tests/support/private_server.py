"""A database server of our own: a process, its directory, and the certainty that both go.

Promises: the server runs as an unprivileged user (tests may run as root, database servers must
not), in a directory below /tmp that only that user may enter.  It ends with `close`, at the latest
when Python ends, and also when the test process is killed: a watcher then ends it by its pid and
removes the directory.  One that is `kept_in` a directory ends in order instead, and starts again
from there, with its data and its password.

Raises: `ServerMissing` without the Debian package; `ServerFailed` with the tail of the log when a
server does not do what was asked.

Does not: know any database; `postgresql` and `mariadb` do.
"""

from __future__ import annotations

import atexit
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from sqlalchemy import URL

from support import ports
from support.watcher import Watcher

_POLL = 0.02  # seconds between two looks
_TAIL = 4_000  # characters of a log in an error
PATIENCE = 60.0
_LONG_PATIENCE = 900.0  # large archives are recovered at the start and written out at the end
OWNER = "carbonseal"
_PASSWORD, _PID = "password-of-all", "pid-of-last"  # in the directory of a server that is kept
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}


class ServerMissing(Exception):
    """A Debian package is not installed."""


class ServerFailed(Exception):
    """A private server did not do what was asked; the text carries the tail of its log."""


class PrivateServer:
    """One server process in a directory of its own."""

    program = "the server"
    data: Path
    dialect = ""  # of SQLAlchemy
    port = 0

    def __init__(
        self, *, user: str, end_at_once: signal.Signals, kept_in: Path | None = None
    ) -> None:
        """For a server that is `kept_in` a directory, `end_at_once` has to let it end in order."""
        self._user = _unprivileged(user)
        self._end_at_once = end_at_once
        self._is_kept = kept_in is not None
        self._patience = _LONG_PATIENCE if self._is_kept else PATIENCE
        self.password = secrets.token_hex(8)  # loopback is open to everybody on the machine
        if kept_in is None:
            self.directory = Path(tempfile.mkdtemp(prefix="cs-db-", dir="/tmp"))
        else:
            self.directory = kept_in
            self._recall()
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: Watcher | None = None
        self._closed = False
        if self._user is not None:
            os.chown(self.directory, self._user.pw_uid, self._user.pw_gid)
        atexit.register(self.close)

    def _recall(self) -> None:
        """What an earlier run has left: its password, and perhaps a server that is about to end."""
        self.directory.mkdir(mode=0o700, exist_ok=True)
        kept = self.directory / _PASSWORD
        if kept.exists():
            self.password = kept.read_text().strip()
        else:
            kept.touch(mode=0o600)
            kept.write_text(self.password + "\n")
        last = self.directory / _PID
        deadline = time.monotonic() + self._patience
        while last.exists() and _is_of(last.read_text().strip(), self.directory):
            if time.monotonic() > deadline:
                raise ServerFailed(f"{self.directory}: the server of an earlier run does not end")
            time.sleep(_POLL)

    @property
    def pid(self) -> int:
        """Of the running server."""
        assert self._process is not None, f"{self.program} is not running"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def run(self, command: Sequence[str | Path], *, patience: float = PATIENCE) -> str:
        """A program to its end, as the server's user; what it printed."""
        done = subprocess.run(
            self._as_user(command),
            cwd=self.directory,
            env=_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=patience,
            check=False,
        )
        said = done.stdout.decode(errors="replace")
        if done.returncode:
            raise ServerFailed(f"{command[0]} ended with {done.returncode}:\n{said[-_TAIL:]}")
        return said

    def launch(self, command: Sequence[str | Path], is_ready: Callable[[], bool]) -> None:
        """Start the server; returns once it is ready."""
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._as_user(command),
                cwd=self.directory,
                env=_ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if self._is_kept:
            (self.directory / _PID).write_text(str(self.pid))
        self._watch()
        self.wait_for(is_ready, "did not start")

    def wait_for(
        self, is_done: Callable[[], bool], what: str, patience: float | None = None
    ) -> None:
        """Ask until it is so; ServerFailed when the server ends or patience does."""
        deadline = time.monotonic() + (patience or self._patience)
        while not is_done():
            if not self.is_running:
                raise ServerFailed(f"{self.program} has ended:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise ServerFailed(f"{self.program} {what}:\n{self.tail()}")
            time.sleep(_POLL)

    def end(self, how: signal.Signals) -> None:
        """Send a signal and wait for the end, by pid."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.send_signal(how)
            try:
                process.wait(self._patience)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.dismiss()

    def kill(self) -> None:
        """SIGKILL: nothing is written any more, nobody is told."""
        self.end(signal.SIGKILL)

    def freeze(self) -> None:
        """Stop answering without closing any connection."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on after `freeze`."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """End the server at once and remove its directory; one that is kept ends in order."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        if self.is_running:
            self.thaw()
        self.end(self._end_at_once)
        if not self._is_kept:
            shutil.rmtree(self.directory, ignore_errors=True)

    def url(self, database: str, user: str = OWNER, **query: str) -> str:
        """For SQLAlchemy."""
        made = URL.create(
            self.dialect,
            username=user,
            password=self.password,
            host=ports.LOOPBACK,
            port=self.port,
            database=database,
            query=query,
        )
        return made.render_as_string(hide_password=False)

    def tail(self) -> str:
        """The end of the server's log."""
        try:
            return (self.directory / "log").read_text(errors="replace")[-_TAIL:]
        except OSError:
            return "(no log)"

    def _as_user(self, command: Sequence[str | Path]) -> list[str]:
        words = [str(word) for word in command]
        if self._user is None:
            return words
        ids = [f"--reuid={self._user.pw_uid}", f"--regid={self._user.pw_gid}", "--clear-groups"]
        return ["setpriv", *ids, *words]

    def _watch(self) -> None:
        """Have somebody clean up when this process is killed."""
        ending = f'kill -CONT "$0"; kill -{self._end_at_once.name.removeprefix("SIG")} "$0"'
        if not self._is_kept:
            ending += '; sleep 1; kill -KILL "$0"; rm -rf -- "$1"'
        self._watcher = Watcher(ending, self.pid, self.directory)


def program(name: str, places: Sequence[str], package: str) -> Path:
    """Where a program is.  Raises: ServerMissing."""
    found = shutil.which(name, path=":".join(places))
    if found is None:
        raise ServerMissing(f"{name} is missing; apt-get install {package}")
    return Path(found)


def _is_of(pid: str, directory: Path) -> bool:
    """Whether that process is a server in that directory."""
    try:
        return os.fsencode(directory) in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _unprivileged(name: str) -> pwd.struct_passwd | None:
    """Whom to become; None when the tests are no root's anyway."""
    if os.getuid():
        return None
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return pwd.getpwnam("nobody")
