"""A private Postfix: the machine's binaries, everything else in one temporary directory.

Promises: own main.cf, master.cf, queue, data directory, log and maps; listeners on loopback high
ports only; no chroot, no DNS, no port 25, nothing read from or written to /etc/postfix but the list
of its loadable map types; no mail ever reaches a mailbox of the machine.  The master is a child of
the test process, dies with it, and takes its whole session with it when stopped.

Mail goes to sinks: the archive domain over the transport `archive`, local domains through the real
local(8) (alias_maps apply), virtual mailbox domains over `virtual`, relay domains over `relay`, all
else over `smtp`; thus {rcpt_mailer} and {rcpt_host} are what a real relay shows.

Raises: PostfixMissing without the Debian package, PostfixFailed with the log's tail when it does
not start, stop or finish in time.

Does not: run without root (master(8) changes users).
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from support import ports, sasl, smtp_client
from support.waiting import NotInTime, wait_until
from support.watcher import Watcher

COMMANDS = Path("/usr/sbin")
DAEMONS = Path("/usr/lib/postfix/sbin")
LOCAL_DOMAIN = "example.com"
ARCHIVE_DOMAIN = "archive.example.net"
INSTALL = "install it with: apt-get install --no-install-recommends postfix postfix-pcre"

# A UNIX socket's address has 108 octets with its final NUL; the longest below a queue directory is
# about 'queue/private/' and a service name of 20.
_LONGEST_DIRECTORY = 60
_POLL = 0.02  # seconds between two looks at something that Postfix announces nowhere


class PostfixMissing(Exception):
    """The Debian package postfix is not installed."""


class PostfixFailed(Exception):
    """The private Postfix did not do what was asked; the text carries the tail of its log."""


@dataclass(frozen=True, slots=True)
class Listener:
    """One smtpd service with a port of its own."""

    name: str  # how the test calls it
    overrides: Mapping[str, str] = field(default_factory=dict)  # -o of master.cf
    port: int = 0  # 0: a free one


INSIDE = Listener("inside", {"milter_macro_daemon_name": "inside"})
OUTSIDE = Listener("outside", {"milter_macro_daemon_name": "outside"})
# Logins come through XCLIENT LOGIN= ({auth_type} is then XCLIENT), or through AUTH PLAIN with
# sasl.PASSWORD.
SUBMISSION = Listener(
    "submission",
    {"milter_macro_daemon_name": "submission", "smtpd_sasl_auth_enable": "yes"},
)
REINJECTION = Listener(
    "reinjection",
    {
        "milter_macro_daemon_name": "reinjection",
        "receive_override_options": "no_address_mappings",
        "content_filter": "",
    },
)
LISTENERS = (INSIDE, SUBMISSION, OUTSIDE)


@contextlib.contextmanager
def private_directory(base: str = "/tmp") -> Iterator[Path]:
    """A short directory that the user postfix may enter, removed at the end (tmp_path is 0700).

    `/dev/shm` as base spares Postfix its fsyncs, where a test is about numbers of messages.
    """
    directory = Path(tempfile.mkdtemp(prefix="pf", dir=base))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


class PrivatePostfix:
    """One Postfix instance; `with PrivatePostfix(directory, remote=sink.port) as mta:` runs it."""

    def __init__(
        self,
        directory: Path,
        *,
        remote: int,
        local: int | None = None,
        archive: int | None = None,
        milters: Sequence[str] = (),
        non_smtpd_milters: Sequence[str] | None = None,
        milter_default_action: str = "tempfail",
        listeners: Iterable[Listener] = LISTENERS,
        parameters: Mapping[str, str] | None = None,
        maps: Mapping[str, Mapping[str, str]] | None = None,
        services: Iterable[str] = (),
    ) -> None:
        """Describe the instance; `start` writes it.

        remote, local, archive: TCP ports of sinks; the latter two default to `remote`.
        milters: for smtpd_milters ('inet:127.0.0.1:8894', '{ unix:/path, default_action=accept }');
            non_smtpd_milters defaults to the same list.
        parameters: main.cf, over every default here.
        maps: parameter -> {key: value}, each written as a texthash file ('alias_maps',
            'virtual_alias_maps', 'relay_domains', 'virtual_mailbox_domains' ...; 'transport_maps'
            adds to the archive's entry).  For regexp: or inline: write the parameter instead.
        services: further master.cf lines.
        """
        self.directory = directory
        self.remote = remote
        self.local = remote if local is None else local
        self.archive = remote if archive is None else archive
        self.parameters = dict(parameters or {})
        self.maps = {name: dict(entries) for name, entries in (maps or {}).items()}
        self._milters = ", ".join(milters)
        self._non_smtpd = (
            self._milters if non_smtpd_milters is None else ", ".join(non_smtpd_milters)
        )
        self._default_action = milter_default_action
        self._services = tuple(services)
        self._listeners = {
            one.name: Listener(one.name, one.overrides, one.port or ports.free_port())
            for one in listeners
        }
        self._master: subprocess.Popen[bytes] | None = None
        self._watcher: Watcher | None = None
        self._logins: sasl.LoginServer | None = None

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

    # --- life -----------------------------------------------------------------------------------

    def start(self, timeout: float = 30.0) -> None:
        """Write the configuration, start the master, return when every listener is open."""
        _refuse_without_postfix()
        _refuse_closed_or_long(self.directory)
        self._make_directories()
        self.write_configuration()
        self._logins = sasl.LoginServer(self.directory / "queue/private/auth")
        already = len(self.log())
        # A session of its own: the master signals its process group when it is told to stop.
        with (self.directory / "stderr").open("ab") as complaints:
            self._master = subprocess.Popen(
                [DAEMONS / "master", "-c", self.configuration, "-d"],
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=complaints,
                env=self._environment(),
            )
        self._watcher = Watcher('kill -TERM "$0"', self._master.pid)
        try:
            self._wait(
                lambda: "daemon started" in self.log()[already:],
                "start its services",
                timeout,
            )
        except PostfixFailed:
            self.stop()
            raise

    def _environment(self) -> dict[str, str]:
        # Without POSTLOG_SERVICE the complaints of a master that cannot start go to /dev/log.
        return {
            "PATH": os.defpath,
            "LC_ALL": "C",
            "TZ": "UTC",
            "POSTLOG_SERVICE": str(self.directory / "queue/public/postlog"),
            "POSTLOG_HOSTNAME": "mx1.example.com",
        }

    def stop(self, timeout: float = 30.0) -> None:
        """Stop the master and all its services; a second call does nothing."""
        master, self._master = self._master, None
        logins, self._logins = self._logins, None
        if logins is not None:
            logins.close()
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.dismiss()
        if master is None:
            return
        if master.poll() is None:
            master.terminate()
        try:
            master.wait(timeout)
            wait_until(lambda: not _session(master.pid), "the end of all services", timeout)
        except (subprocess.TimeoutExpired, TimeoutError) as error:
            left = _session(master.pid)
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            master.wait()
            raise PostfixFailed(
                f"Postfix left {sorted(left)} running {timeout} s after TERM\n{self._tail()}"
            ) from error

    def reload(self, **parameters: str) -> None:
        """Change main.cf and let running services pick it up with their next client.

        Returns when the master has reread its files; a process with a client finishes that first.
        """
        self.parameters.update(parameters)
        self.write_configuration()
        already = len(self.log())
        self._running.send_signal(signal.SIGHUP)
        self._wait(lambda: "reload -- version" in self.log()[already:], "reload", 30.0)

    def processes(self) -> set[int]:
        """Pids of the master and everything that it started; empty when stopped."""
        return _session(self._master.pid) if self._master else set()

    @property
    def pid(self) -> int:
        """The master's."""
        return self._running.pid

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        if self._master is None:
            raise PostfixFailed("this Postfix is not running; start it first")
        return self._master

    # --- what a test does with it ---------------------------------------------------------------

    @property
    def configuration(self) -> Path:
        """config_directory: main.cf, master.cf and the maps."""
        return self.directory / "etc"

    def port(self, listener: str) -> int:
        """The port of a listener by its name."""
        return self._listeners[listener].port

    def client(self, listener: str, **identity: Any) -> smtp_client.SmtpClient:
        """A client that has greeted; with arguments of `SmtpClient.xclient` it is somebody else."""
        try:
            client = smtp_client.SmtpClient(self.port(listener))
        except OSError as error:
            raise PostfixFailed(f"{listener} does not greet: {error}\n{self._tail()}") from error
        reply = client.ehlo()
        if identity:
            reply = client.xclient(**identity)
        if not reply.is_positive:
            client.close()
            raise PostfixFailed(f"Postfix refused EHLO or XCLIENT: {reply}\n{self._tail()}")
        return client

    def sendmail(
        self,
        reverse_path: str,
        recipients: Sequence[str],
        content: bytes,
        *options: str,
    ) -> None:
        """Submit with sendmail(1), lines ending in LF: the mail that non_smtpd_milters see."""
        self._command(
            "sendmail",
            *options,
            "-i",
            "-f",
            reverse_path,
            "--",
            *recipients,
            input=content,
        )

    def queue(self) -> list[dict[str, Any]]:
        """postqueue -j: for each message queue_name, queue_id, sender, recipients and more."""
        return [json.loads(line) for line in self._command("postqueue", "-j").splitlines()]

    def flush(self) -> None:
        """Try every deferred message now."""
        self._command("postqueue", "-f")

    def requeue(self) -> None:
        """postsuper -r ALL: every queued message goes through cleanup again."""
        self._command("postsuper", "-r", "ALL")

    def hold(self, queue_id: str) -> None:
        """postsuper -h: keep a message back until somebody releases it."""
        self._command("postsuper", "-h", queue_id)

    def release(self, queue_id: str) -> None:
        """postsuper -H: deliver a held message."""
        self._command("postsuper", "-H", queue_id)

    def wait_until_empty(self, timeout: float = 30.0) -> None:
        """Wait until nothing is queued, deferred mail included."""
        self._wait(lambda: not self.queue(), "empty its queue", timeout)

    def log(self) -> str:
        """The whole log so far."""
        try:
            return (self.directory / "log").read_text(errors="backslashreplace")
        except FileNotFoundError:
            return ""

    def wait_for_log(self, pattern: str, timeout: float = 30.0) -> re.Match[str]:
        """The first match of a regular expression (one line) in the log, as soon as it is there."""
        found: list[re.Match[str]] = []

        def search() -> bool:
            found.extend(re.finditer(pattern, self.log(), re.MULTILINE))
            return bool(found)

        self._wait(search, f"log {pattern!r}", timeout)
        return found[0]

    def postconf(self, name: str) -> str:
        """The effective value of a main.cf parameter."""
        return self._command("postconf", "-x", "-h", name).strip()

    def _command(self, name: str, *arguments: str, input: bytes = b"") -> str:
        # sendmail reads -C, all others -c.
        flag = "-C" if name == "sendmail" else "-c"
        done = subprocess.run(
            [COMMANDS / name, flag, self.configuration, *arguments],
            input=input,
            capture_output=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            said = done.stderr.decode(errors="backslashreplace")
            raise PostfixFailed(f"{name} ended with {done.returncode}: {said}\n{self._tail()}")
        return done.stdout.decode("utf-8", "surrogateescape")

    def _wait(self, is_done: Callable[[], bool], what: str, timeout: float) -> None:
        def done_or_dead() -> bool:
            if self._running.poll() is not None:
                raise PostfixFailed(
                    f"Postfix ended with {self._running.returncode} and did not {what}"
                    f"\n{self._tail()}"
                )
            return is_done()

        try:
            wait_until(done_or_dead, what, timeout)
        except NotInTime as error:
            raise PostfixFailed(f"Postfix did not {what} in {timeout} s\n{self._tail()}") from error

    def _tail(self) -> str:
        stderr = self.directory / "stderr"
        said = stderr.read_text(errors="backslashreplace") if stderr.exists() else ""
        return "\n".join([*said.splitlines()[-10:], *self.log().splitlines()[-30:]])

    # --- what Postfix reads ---------------------------------------------------------------------

    def write_configuration(self) -> None:
        """main.cf, master.cf and the maps, from what this object says now."""
        for name, entries in self._all_maps().items():
            _write_map(self.configuration / name, entries)
        main = self._defaults() | self._map_parameters() | self.parameters
        text = "".join(f"{name} = {value}\n" for name, value in main.items())
        _write_settled(self.configuration / "main.cf", text)
        (self.configuration / "master.cf").write_text("\n".join(self._master_lines()) + "\n")

    def _all_maps(self) -> dict[str, dict[str, str]]:
        transport = {ARCHIVE_DOMAIN: f"archive:[{ports.LOOPBACK}]:{self.archive}"}
        given = self.maps.get("transport_maps", {})
        return self.maps | {"transport_maps": transport | given}

    def _map_parameters(self) -> dict[str, str]:
        return {name: f"texthash:{self.configuration / name}" for name in self._all_maps()}

    def _defaults(self) -> dict[str, str]:
        local = f"[{ports.LOOPBACK}]:{self.local}"
        remote = f"[{ports.LOOPBACK}]:{self.remote}"
        return {
            "compatibility_level": "3.6",
            "queue_directory": str(self.directory / "queue"),
            "data_directory": str(self.directory / "data"),
            "command_directory": str(COMMANDS),
            "daemon_directory": str(DAEMONS),
            "maillog_file": str(self.directory / "log"),
            "maillog_file_prefixes": str(self.directory),
            "import_environment": "MAIL_CONFIG TZ LC_ALL",
            # Loopback only, no DNS: a message that escaped its sink has nowhere to go.
            "inet_interfaces": ports.LOOPBACK,
            "inet_protocols": "all",  # XCLIENT takes IPv6 addresses only then
            "smtp_dns_support_level": "disabled",
            "smtp_host_lookup": "native",
            "smtp_tls_security_level": "none",
            "myhostname": "mx1.example.com",
            "mynetworks": f"{ports.LOOPBACK}/32",
            "mydestination": f"{LOCAL_DOMAIN}, $myhostname, localhost",
            "local_recipient_maps": "",
            # The real local(8), so that aliases expand; it hands every mailbox to the sink and can
            # neither follow a .forward file nor write a file nor run a command.
            "mailbox_transport": f"smtp:{local}",
            "alias_maps": "",
            "alias_database": "",
            "forward_path": "",
            "allow_mail_to_commands": "",
            "allow_mail_to_files": "",
            "virtual_transport": f"virtual:{local}",
            "relayhost": remote,
            "smtpd_authorized_xclient_hosts": ports.LOOPBACK,
            # Who may relay is another test's matter: this one accepts all that the milter accepts
            # (smtpd does not start with a plain permit; it wants a reject that looks reachable).
            "smtpd_relay_restrictions": "check_client_access static:OK, reject",
            "smtpd_client_event_limit_exceptions": "static:all",
            "smtpd_error_sleep_time": "0",
            "smtpd_soft_error_limit": "10000",
            "smtpd_hard_error_limit": "10000",
            "in_flow_delay": "0",
            "biff": "no",
            "smtpd_sasl_type": "dovecot",
            "smtpd_sasl_path": "private/auth",
            "smtputf8_enable": "yes",
            "enable_long_queue_ids": "yes",
            "smtpd_milters": self._milters,
            "non_smtpd_milters": self._non_smtpd,
            "milter_default_action": self._default_action,
        }

    def _master_lines(self) -> list[str]:
        lines = [
            "pickup unix n - n 60 1 pickup",
            "cleanup unix n - n - 0 cleanup",
            "qmgr unix n - n 300 1 qmgr",
            "rewrite unix - - n - - trivial-rewrite",
            "bounce unix - - n - 0 bounce",
            "defer unix - - n - 0 bounce",
            "trace unix - - n - 0 bounce",
            "verify unix - - n - 1 verify",
            "flush unix n - n 1000? 0 flush",
            "proxymap unix - - n - - proxymap",
            "showq unix n - n - - showq",
            "error unix - - n - - error",
            "retry unix - - n - - error",
            "discard unix - - n - - discard",
            "anvil unix - - n - 1 anvil",
            "scache unix - - n - 1 scache",
            "tlsmgr unix - - n 1000? 1 tlsmgr",
            "local unix - n n - - local",
            "smtp unix - - n - - smtp",
        ]
        # The syslog names tell transports and listeners apart in the log.
        for name in ("relay", "virtual", "archive"):
            lines += [f"{name} unix - - n - - smtp", f"    -o syslog_name=postfix/{name}"]
        for one in self._listeners.values():
            lines.append(f"{ports.LOOPBACK}:{one.port} inet n - n - - smtpd")
            overrides = {"syslog_name": f"postfix/{one.name}", **one.overrides}
            lines += [f"    -o {{ {name} = {value} }}" for name, value in overrides.items()]
        # Last: until its socket is there, the master writes its complaints to the log itself.
        return [*lines, *self._services, "postlog unix-dgram n - n - 1 postlogd"]

    def _make_directories(self) -> None:
        """What post-install would make, without its dependence on /etc/postfix."""
        owner = pwd.getpwnam("postfix").pw_uid
        for path, mode, user, group in _DIRECTORIES:
            place = self.directory / path
            place.mkdir(exist_ok=True)
            shutil.chown(place, owner if user else 0, group or 0)
            place.chmod(mode)


# path, mode, owned by postfix, group other than root's
_DIRECTORIES: tuple[tuple[str, int, bool, str], ...] = (
    ("etc", 0o755, False, ""),
    ("data", 0o700, True, ""),
    ("queue", 0o755, False, ""),
    ("queue/pid", 0o755, False, ""),
    *(
        (f"queue/{name}", 0o700, True, "")
        for name in (
            *("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold"),
            *("incoming", "private", "saved", "trace"),
        )
    ),
    ("queue/public", 0o710, True, "postdrop"),
    ("queue/maildrop", 0o730, True, "postdrop"),
)


def _refuse_without_postfix() -> None:
    if not (DAEMONS / "master").exists():
        raise PostfixMissing(f"{DAEMONS / 'master'} is missing; {INSTALL}")


def _refuse_closed_or_long(directory: Path) -> None:
    if len(str(directory)) > _LONGEST_DIRECTORY:
        raise PostfixFailed(
            f"{directory} has over {_LONGEST_DIRECTORY} characters, too many for UNIX sockets below"
            " it; use support.postfix.private_directory()"
        )
    for place in (directory, *directory.parents):
        if not place.stat().st_mode & 0o001:
            raise PostfixFailed(
                f"the user postfix may not enter {place}; use support.postfix.private_directory()"
            )


def _write_map(path: Path, entries: Mapping[str, str]) -> None:
    bad = [key for key in entries if not key or key.startswith("#") or re.search(r"\s", key)]
    if bad:
        raise ValueError(f"texthash cannot hold the keys {bad}; use a regexp: or inline: table")
    lines = [f"{key} {value}\n" for key, value in entries.items()]
    _write_settled(path, "".join(lines))


def _write_settled(path: Path, text: str) -> None:
    # Postfix reads a file that is younger than a second or two again and again until it is older.
    path.write_text(text, encoding="utf-8")
    settled = time.time() - 60
    os.utime(path, (settled, settled))


def _session(leader: int) -> set[int]:
    """Pids of the processes of a session, from /proc, without the dead that nobody waited for."""
    pids = (int(entry.name) for entry in Path("/proc").glob("[0-9]*"))
    return {pid for pid in pids if _living_session(pid) == leader}


def _living_session(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None  # it ended while we looked
    # The command name is in parentheses and may hold anything, parentheses included.
    state, _, _, session = stat.rpartition(")")[2].split()[:4]
    return None if state in "ZX" else int(session)


def is_running(pid: int) -> bool:
    """Whether the process lives; one that has ended and that nobody waited for does not."""
    return _living_session(pid) is not None
