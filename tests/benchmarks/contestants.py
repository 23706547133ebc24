"""Who is measured: Carbonseal as its users run it, and the signing milters of Debian.

Promises: each runs privately, with a UNIX socket and a configuration in one temporary directory;
all sign for `DOMAIN` with the same RSA-2048 key, relaxed/relaxed, for the same clients; every
process started here is gone at the end.

Choices that matter for the figures:
* opendkim and dkimpy-milter write no log (they know syslog only, which belongs to the machine);
  rspamd and Carbonseal write their usual lines into a file.  That favours the former.
* rspamd runs as its proxy with self-scan, one process for each core, signing being the only module:
  how its manual describes a signing relay.  Its limits on time, size and recipients are raised.
* opendkim has a thread for each connection and no limit on the header section, or it would refuse
  the longest ones.
* Carbonseal has everything on: as many workers as `auto` gives, a signature, the archive recipient,
  a record synced to disk before each answer, and the writer loading SQLite at the same time.

Beside them runs `PymilterAlone`, which is no peer: it shows what is left when nothing is recorded.
"""

from __future__ import annotations

import abc
import contextlib
import importlib.metadata
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from support.carbonseal import ARCHIVE, COMMAND

from benchmarks import load, processes
from benchmarks.load import Burst
from carbonseal.milter.archive import segments

DOMAIN = "example.com"
SELECTOR = "bench"
CLIENTS = ("192.0.2.0/24", "127.0.0.0/8")  # whose mail is signed
FLOOR = "pymilter alone"  # signs and adds the recipient, records nothing
_PATIENCE = 60.0  # seconds until a milter must answer
_STOPPING = 5.0  # until it is killed


class NotRunning(Exception):
    """A milter did not start, or did not stop; the text carries the end of its log."""


@dataclass(frozen=True, slots=True)
class Key:
    """The one key with which all sign."""

    file: Path
    dns_value: bytes  # TXT record

    @classmethod
    def make(cls, directory: Path) -> Key:
        """Generate one."""
        private = rsa.generate_private_key(65537, 2048)
        file = directory / "key.pem"
        file.touch(mode=0o600)
        file.write_bytes(
            private.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.TraditionalOpenSSL,
                serialization.NoEncryption(),
            )
        )
        public = private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        encoded = b"".join(public.splitlines()[1:-1])
        return cls(file, b"v=DKIM1; k=rsa; p=" + encoded)

    @property
    def dns(self) -> dict[str, bytes]:
        """As the verifiers want it."""
        return {f"{SELECTOR}._domainkey.{DOMAIN}": self.dns_value}


class Contestant(abc.ABC):
    """One milter; a context manager that runs it."""

    name = ""  # in tables
    package = ""  # Debian's, for the version
    expectations: tuple[str, ...] = ()  # options of the load

    def __init__(self, directory: Path, key: Key) -> None:
        directory.mkdir(mode=0o755)
        self.directory = directory
        self.socket = directory / "milter.sock"
        self.log = directory / "output"
        self._key = key
        self._process: subprocess.Popen[bytes] | None = None

    @abc.abstractmethod
    def configure(self) -> Sequence[str | Path]:
        """Write the configuration; returns the command."""

    def version(self) -> str:
        """For the report."""
        words = ["dpkg-query", "-W", "-f", "${Version}", self.package]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout

    def send(self, *options: str | int | float | Path) -> Burst:
        """One burst of messages through it."""
        return load.send(self.socket, *self.expectations, *options)

    def settle(self) -> float:
        """Wait until nothing of what was accepted is left to do; seconds that it took."""
        return 0.0

    def role(self, pid: int) -> str:
        """What one of its processes does."""
        return "main" if pid == self.pid else "child"

    @property
    def pid(self) -> int:
        """Of the first process."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Contestant:
        words = self.configure()
        with self.log.open("ab") as output:
            for left in (self.socket, self.directory / "pid"):
                left.unlink(missing_ok=True)  # by one that was killed
            self._process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        try:
            self._await_answer()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        family = processes.tree(process.pid)
        process.terminate()
        try:
            process.wait(_STOPPING)
        except subprocess.TimeoutExpired:
            for pid in family:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()

    def _await_answer(self) -> None:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                self.send("--messages", 1, "--connections", 1)
                return
            except load.LoadFailed as fault:
                assert self._process is not None
                if time.monotonic() > deadline or self._process.poll() is not None:
                    said = self.log.read_text(errors="backslashreplace")[-1000:]
                    raise NotRunning(f"{self.name} does not serve: {fault}\n{said}") from fault
            time.sleep(0.1)  # nobody else's milter says when it serves


class OpenDkim(Contestant):
    """OpenDKIM: C, libmilter, a thread for each connection."""

    name = "OpenDKIM"
    package = "opendkim"

    def configure(self) -> Sequence[str | Path]:
        clients = self.directory / "clients"
        clients.write_text("".join(f"{one}\n" for one in CLIENTS))
        file = self.directory / "opendkim.conf"
        file.write_text(
            f"""Mode s
Syslog no
Domain {DOMAIN}
Selector {SELECTOR}
KeyFile {self._key.file}
RequireSafeKeys no
Canonicalization relaxed/relaxed
SignatureAlgorithm rsa-sha256
OversignHeaders From
MaximumHeaders 0
InternalHosts {clients}
Socket local:{self.socket}
PidFile {self.directory / "pid"}
UMask 000
Background no
AutoRestart no
"""
        )
        return ["/usr/sbin/opendkim", "-f", "-x", file]


class Rspamd(Contestant):
    """rspamd: C and Lua, event driven; signing only."""

    name = "rspamd"
    package = "rspamd"

    def configure(self) -> Sequence[str | Path]:
        here = self.directory
        clients = ", ".join(f'"{one}"' for one in CLIENTS)
        file = here / "rspamd.conf"
        file.write_text(
            f"""options {{
  pidfile = "{here}/pid"; tempdir = "{here}"; hs_cache_dir = "{here}/";
  control_socket = "{here}/control mode=0600"; cache_file = "{here}/cache";
  history_file = "{here}/history"; stats_file = "{here}/stats";
  url_tld = "/usr/share/rspamd/effective_tld_names.dat";
  dns {{ nameserver = ["127.0.0.1:9"]; }}  # nothing is looked up when mail is signed
  filters = "dkim"; local_addrs = [{clients}];
  task_timeout = 120s; max_recipients = 100000; max_message = 200mb;
}}
logging {{ type = "file"; filename = "{here}/log"; level = "info"; }}
modules {{ path = "/usr/share/rspamd/plugins/"; }}
dkim {{ }}
dkim_signing {{
  sign_local = true; sign_authenticated = true; allow_username_mismatch = true; use_esld = false;
  domain {{ {DOMAIN} {{ path = "{self._key.file}"; selector = "{SELECTOR}"; }} }}
}}
worker "rspamd_proxy" {{
  bind_socket = "{self.socket} mode=0666"; milter = yes; timeout = 120s;
  count = {os.cpu_count() or 1};
  upstream "local" {{ default = yes; self_scan = yes; }}
}}
"""
        )
        return ["/usr/bin/rspamd", "-f", "-i", *_as_ourselves(), "-c", file]


def _as_ourselves() -> list[str]:
    """-u and -g: rspamd refuses to be root unless told so."""
    return ["-u", "root", "-g", "root"] if os.geteuid() == 0 else []


class DkimpyMilter(Contestant):
    """dkimpy-milter: Python, libmilter, one process."""

    name = "dkimpy-milter"
    package = "dkimpy-milter"

    def configure(self) -> Sequence[str | Path]:
        file = self.directory / "dkimpy-milter.conf"
        file.write_text(
            f"""Syslog no
Mode s
Domain {DOMAIN}
Selector {SELECTOR}
KeyFile {self._key.file}
Canonicalization relaxed/relaxed
InternalHosts {",".join(CLIENTS)}
Socket local:{self.socket}
PidFile {self.directory / "pid"}
UMask 000
UserID root
"""
        )
        return ["/usr/bin/dkimpy-milter", file]


class PymilterAlone(Contestant):
    """A signing milter of two pages that records nothing; see `pymilter_alone`.

    Two processes for each core: with what it does beside RSA, more were no quicker.
    """

    name = FLOOR
    expectations = ("--archive", ARCHIVE)

    def configure(self) -> Sequence[str | Path]:
        program = Path(__file__).with_name("pymilter_alone.py")
        processes_wanted = str(2 * (os.cpu_count() or 1))
        about = (self._key.file, DOMAIN, SELECTOR, ARCHIVE, processes_wanted)
        return [sys.executable, program, self.socket, *about]

    def version(self) -> str:
        return importlib.metadata.version("pymilter")


class Carbonseal(Contestant):
    """The product: the installed command and a configuration file."""

    name = "Carbonseal"
    expectations = ("--archive", ARCHIVE)

    def __init__(self, directory: Path, key: Key) -> None:
        super().__init__(directory, key)
        self.accepted = 0  # messages so far
        self.spool = directory / "spool"
        self.database = directory / "archive.db"
        self._file = directory / "carbonseal.yaml"

    def configure(self) -> Sequence[str | Path]:
        sections = {
            "milter": {"socket": f"unix:{self.socket}", "socket_mode": "0666"},
            "ours": {"domains": [DOMAIN], "networks": list(CLIENTS)},
            "signing": {"keys": "keys"},
            "archive": {"recipients": [ARCHIVE]},
            "record": {"spool": "spool", "database": f"sqlite:///{self.database}"},
        }
        self._file.write_text(yaml.safe_dump(sections, sort_keys=False))
        self._command(
            *("keys", "import", DOMAIN, SELECTOR, "--private-key", self._key.file),
            *("--activate", "--assume-published"),
        )
        return [COMMAND, "--config", self._file, "run"]

    def version(self) -> str:
        return self._command("--version").split()[-1]

    def send(self, *options: str | int | float | Path) -> Burst:
        burst = super().send(*options)
        self.accepted += burst.messages
        return burst

    def settle(self, patience: float = _PATIENCE) -> float:
        begun = time.monotonic()
        while self.loaded() < self.accepted:
            if time.monotonic() > begun + patience:
                raise NotRunning(f"{self.loaded()} of {self.accepted} records in the database")
            time.sleep(0.01)  # the database announces nothing
        return time.monotonic() - begun

    def loaded(self) -> int:
        """Records in the database by the writer's own count."""
        return self.progress()[0]

    def progress(self) -> tuple[int, int]:
        """Records and octets of the spool that the database has; none while it is being made."""
        question = "SELECT coalesce(sum(records), 0), coalesce(sum(progress), 0) FROM segment"
        with contextlib.suppress(sqlite3.OperationalError), self._connected() as connection:
            found: tuple[int, int] = connection.execute(question).fetchone()
            return found
        return (0, 0)

    def recorded(self) -> int:
        """Messages in the database, counted one by one."""
        with self._connected() as connection:
            count: int = connection.execute("SELECT count(*) FROM message").fetchone()[0]
        return count

    def spooled(self) -> int:
        """Octets written to the spool so far, loaded or not."""
        total = 0
        for place in (self.spool, self.spool / "loaded"):
            with contextlib.suppress(OSError), os.scandir(place) as entries:
                for entry in entries:
                    with contextlib.suppress(OSError):
                        if entry.name.endswith(".jsonl"):
                            total += segments.end_of(Path(entry.path))  # not its room
        return total

    def role(self, pid: int) -> str:
        if pid == self.pid:
            return "supervisor"
        # Its lock, not the database, which it opens later: until then it would pass for a worker.
        return "writer" if processes.has_open(pid, self.spool / "writer.lock") else "worker"

    @contextlib.contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=10)
        try:
            yield connection
        finally:
            connection.close()

    def _command(self, *words: str | Path) -> str:
        done = subprocess.run(
            [COMMAND, "--config", self._file, *words], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise NotRunning(f"carbonseal {' '.join(map(str, words))}: {done.stderr}")
        return done.stdout


ALL = (Carbonseal, OpenDkim, Rspamd, DkimpyMilter, PymilterAlone)
