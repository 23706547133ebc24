"""The product as its users run it: the installed command, a configuration file, real processes.

Promises: everything lives in one directory; every process that was started is gone at the end.
With a `user`, and where the tests are root's, the service is that user's: root reads and writes
what nobody may, and a test about what is closed would see nothing.

Raises: ServiceFailed with the log when the service does not become ready or does not stop.

Does not: reach into the product; what it learns it reads from the log, /proc and the commands.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from support import forked
from support.waiting import wait_until

COMMAND = Path(sys.executable).with_name("carbonseal")
ARCHIVE = "archive@archive.example.net"
READY = r"[ \"]ready[ \"]"  # in a text or a JSON line


class ServiceFailed(Exception):
    """The service did not do what was asked; the text carries its log."""


class Carbonseal:
    """One relay's service and its command line."""

    def __init__(
        self,
        directory: Path,
        changes: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        user: str | None = None,
    ) -> None:
        """`changes` are laid over the sections of the test world's configuration.

        `user`: whose the service is, and from its start all that is in the directory.
        """
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self.file = directory / "carbonseal.yaml"
        self.socket = directory / "milter.sock"
        self.spool = directory / "spool"
        self.database = directory / "archive.db"
        self._user = pwd.getpwnam(user) if user is not None and os.geteuid() == 0 else None
        self._lines: list[str] = []
        self._heard = threading.Condition()
        self._process: subprocess.Popen[str] | None = None
        self.configure(changes or {})

    def configure(self, changes: Mapping[str, Mapping[str, Any]]) -> None:
        """Write the configuration file."""
        sections: dict[str, dict[str, Any]] = {
            "milter": {
                "socket": f"unix:{self.socket}",
                "socket_mode": "0666",
                "workers": 2,
                "drain": 5,
            },
            "ours": {
                "domains": ["example.com", ".corp.example.com", "xn--bcher-kva.example"],
                "networks": ["192.0.2.0/24"],
                "listeners": ["submission"],
                "authenticated": True,
            },
            "signing": {"keys": "keys"},
            "archive": {"recipients": [ARCHIVE]},
            "record": {"spool": "spool", "database": f"sqlite:///{self.database}"},
        }
        for name, change in changes.items():
            sections[name] = {**sections.get(name, {}), **change}
        self.file.write_text(yaml.safe_dump(sections, sort_keys=False, allow_unicode=True))

    # --- commands -------------------------------------------------------------------------------

    def command(
        self, *arguments: str, check: bool = True, columns: int = 200, installed: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run `carbonseal …` with this configuration, on a terminal of that width.

        In a forked child: the same code, without the second that an interpreter takes to start;
        `installed`: as a process of its own, for tests with busy threads, which no fork may copy.
        """
        environment = {**os.environ, "COLUMNS": str(columns)}
        line = ["--config", str(self.file), *arguments]
        if installed:
            done = subprocess.run(
                [COMMAND, *line], capture_output=True, text=True, check=False, env=environment
            )
        else:
            done = forked.run(line, environment)
        if check and done.returncode:
            raise ServiceFailed(f"carbonseal {' '.join(arguments)}: {done.stderr}{done.stdout}")
        return done

    def make_key(self, sdid: str, *options: str) -> None:
        """Generate a key that signs at once."""
        self.command("keys", "generate", sdid, "--activate", "--assume-published", *options)

    def dns_records(self) -> dict[str, bytes]:
        """'selector._domainkey.sdid' -> TXT value, as the verifiers want them."""
        listed = self.command("keys", "list", "--format", "jsonl").stdout.splitlines()
        records = {}
        for key in map(json.loads, listed):
            shown = self.command("keys", "show", key["sdid"], key["selector"], "--json").stdout
            facts = json.loads(shown)
            records[facts["dns_name"]] = facts["dns_value"].encode()
        return records

    def search(self, *options: str) -> list[dict[str, Any]]:
        """`archive search` as objects, newest first."""
        found = self.command("archive", "search", "--format", "jsonl", *options).stdout
        return [json.loads(line) for line in found.splitlines()]

    def wait_for_records(
        self, count: int, *options: str, timeout: float = 30
    ) -> list[dict[str, Any]]:
        """Search until `count` records are found; the writer gives no other sign."""
        search = ["archive", "search", "--format", "jsonl", "--limit", "100000", *options]
        found: list[dict[str, Any]] = []
        complaints = ""

        def are_there() -> bool:
            nonlocal complaints
            done = self.command(*search, check=False)
            found[:] = [json.loads(line) for line in done.stdout.splitlines()]
            complaints = done.stderr
            return done.returncode == 0 and len(found) >= count

        def told() -> str:
            return f"{len(found)} are there; {complaints}\n{self.log()}"

        wait_until(are_there, f"{count} records", timeout, told=told)
        return found

    # --- the service ----------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self, *options: str, timeout: float = 30) -> None:
        """Start `carbonseal run` and wait until it says ready."""
        mark = len(self._lines)
        self._process = subprocess.Popen(
            [COMMAND, "--config", self.file, "run", *options],
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="backslashreplace",
            **self._become(),
        )
        threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()
        try:
            self.wait_for_log(READY, since=mark, timeout=timeout)
        except ServiceFailed:
            self.stop()
            raise

    def _become(self) -> dict[str, Any]:
        """What makes a process the user's, once all that it works with is."""
        user = self._user
        if user is None:
            return {}
        for path in (self.directory, *self.directory.rglob("*")):
            os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)
        return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            with self._heard:
                self._lines.append(line)
                self._heard.notify_all()
        with self._heard:
            self._heard.notify_all()

    def wait_for_log(self, pattern: str, *, since: int = 0, timeout: float = 30) -> str:
        """The first log line from number `since` on that holds `pattern` (a regular expression)."""
        found: list[str] = []

        def is_heard() -> bool:
            found[:] = [one for one in self._lines[since:] if re.search(pattern, one)]
            return bool(found) or self._process is None or self._process.poll() is not None

        with self._heard:
            self._heard.wait_for(is_heard, timeout)
        if not found:
            raise ServiceFailed(f"no log line with {pattern!r}:\n{self.log()}")
        return found[0]

    def mark(self) -> int:
        """A place in the log, for `since`."""
        return len(self._lines)

    def log(self) -> str:
        """Everything logged so far."""
        return "".join(self._lines[-200:])

    @property
    def pid(self) -> int:
        """Of the supervisor."""
        assert self._process is not None
        return self._process.pid

    def children(self) -> list[int]:
        """Process ids of the supervisor's children, workers and writer."""
        try:
            text = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        except OSError:
            return []
        return [int(pid) for pid in text.split()]

    def reload(self) -> None:
        """HUP to the supervisor; does not wait."""
        os.kill(self.pid, signal.SIGHUP)

    def kill_supervisor(self) -> None:
        """kill -9; its workers notice and leave by themselves."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self, timeout: float = 30) -> int | None:
        """TERM and wait; returns the exit status."""
        process, self._process = self._process, None
        if process is None:
            return None
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise ServiceFailed(f"did not stop in {timeout} s:\n{self.log()}") from None
