"""Private name servers: BIND, Knot, NSD, Unbound and PowerDNS, each in a directory of its own.

Promises: every server is a context manager, listens on 127.0.0.1 with a port that is fixed when it
is constructed (so that primary and secondary can name each other before either runs), answers when
`start` returns, dies with the test process, and takes its directory with it.  Waiting is asking:
nothing sleeps for a fixed time.  When the body of a `with` fails, the end of the server's log is
added to the error as a note.

Times in the zones are a few seconds, so that tests can wait for a negative answer to run out.

Raises: NameServerMissing without the Debian package; NameServerFailed with the log's tail when a
server does not start, stop or follow in time.

Notes: BIND binds only addresses that an interface has, hence one address and many ports.  The
servers run as whoever runs the tests.  Where AppArmor is enforced, Debian's profiles confine named
and unbound; directories below /tmp are then refused, and the log says so.
"""

from __future__ import annotations

import abc
import base64
import contextlib
import dataclasses
import os
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import dns.rdtypes.ANY.TXT
import dns.tsig
import dns.update

from carbonseal.keys import dns_record
from carbonseal.keys.publication.settings import ServerAddress
from support import ports
from support.waiting import NotInTime, wait_until
from support.watcher import Watcher

_POLL = 0.02  # seconds between two questions
_BRIEF = 0.2  # seconds for an answer while a server starts: a question before that is lost
_TAIL = 4_000  # characters of a log in an error
TXT = "TXT"


class NameServerMissing(Exception):
    """A Debian package is not installed."""


class NameServerFailed(Exception):
    """A private name server did not do what was asked; the text carries the tail of its log."""


# --- what is served -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Zone:
    """A zone as text: SOA, name servers with addresses, and what the test adds."""

    name: str  # without the last dot
    records: tuple[str, ...] = ()  # lines of a zone file, names relative to the zone
    servers: tuple[str, ...] = ("ns1",)  # labels in the zone, all at 127.0.0.1
    serial: int = 1
    ttl: int = 60  # of records that name none
    soa_ttl: int = 2
    minimum: int = 2  # with soa_ttl: how long "no such name" is kept
    refresh: int = 1  # how often a secondary asks by itself
    retry: int = 1
    expire: int = 600

    def text(self) -> str:
        """The zone file."""
        times = f"{self.serial} {self.refresh} {self.retry} {self.expire} {self.minimum}"
        lines = [
            f"$ORIGIN {self.name}.",
            f"$TTL {self.ttl}",
            f"@ {self.soa_ttl} IN SOA {self.servers[0]} hostmaster {times}",
            *(f"@ IN NS {server}" for server in self.servers),
            *(f"{server} IN A {ports.LOOPBACK}" for server in self.servers),
            *self.records,
        ]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class TsigKey:
    """A shared secret for updates; a fresh one each time."""

    name: str = "dkim-key"
    secret: str = dataclasses.field(
        default_factory=lambda: base64.b64encode(secrets.token_bytes(32)).decode()
    )
    algorithm: str = "hmac-sha256"

    def text(self) -> str:
        """As tsig-keygen prints it."""
        return (
            f'key "{self.name}" {{\n\talgorithm {self.algorithm};\n\tsecret "{self.secret}";\n}};\n'
        )

    def write(self, path: Path) -> Path:
        """A key file that only its owner may read."""
        path.touch(mode=0o600)
        path.write_text(self.text())
        return path

    @property
    def key(self) -> dns.tsig.Key:
        """For dnspython."""
        return dns.tsig.Key(self.name, self.secret, self.algorithm)


# --- asking -------------------------------------------------------------------------------------


def ask(
    address: ServerAddress,
    name: str,
    kind: str = TXT,
    *,
    recursive: bool = False,
    timeout: float = 5.0,
) -> dns.message.Message:
    """One answer, over UDP and, where it is cut, over TCP."""
    question = dns.message.make_query(name, kind, use_edns=0, payload=1232)
    if not recursive:
        question.flags &= ~dns.flags.RD
    answer, _ = dns.query.udp_with_fallback(
        question, address.host, timeout=timeout, port=address.port
    )
    return answer


def txt_at(address: ServerAddress, name: str, *, recursive: bool = False) -> list[str]:
    """The TXT values at a name, strings joined, sorted; empty when there is none."""
    answer = ask(address, name, recursive=recursive)
    return sorted(
        b"".join(record.strings).decode("utf-8", "surrogateescape")
        for rdataset in answer.answer
        if rdataset.rdtype == dns.rdatatype.TXT
        for record in rdataset
    )


def rcode_at(address: ServerAddress, name: str, kind: str = TXT, *, recursive: bool = False) -> str:
    """'NOERROR', 'NXDOMAIN', 'SERVFAIL', 'REFUSED' ..."""
    return dns.rcode.to_text(ask(address, name, kind, recursive=recursive).rcode())


def txt(text: str) -> dns.rdtypes.ANY.TXT.TXT:
    """A TXT record of a value."""
    parts = [part.encode() for part in dns_record.strings(text)]
    return dns.rdtypes.ANY.TXT.TXT(dns.rdataclass.IN, dns.rdatatype.TXT, parts)


def put_txt(
    address: ServerAddress, zone: str, key: TsigKey, name: str, *values: str, ttl: int = 60
) -> None:
    """Make these the TXT records at a name whatever stood there; none takes them away."""
    update = dns.update.UpdateMessage(zone + ".", keyring=key.key)
    update.delete(name + ".", TXT)
    for value in values:
        update.add(name + ".", ttl, txt(value))
    answer = dns.query.tcp(update, address.host, timeout=10, port=address.port)
    if answer.rcode() != dns.rcode.NOERROR:
        raise NameServerFailed(f"update of {name}: {dns.rcode.to_text(answer.rcode())}")


def wait_for_txt(address: ServerAddress, name: str, *values: str, timeout: float = 30.0) -> None:
    """Wait until a server shows exactly these values."""
    wanted = sorted(values)
    wait_until(lambda: txt_at(address, name) == wanted, f"{values} at {address}", timeout)


def free_port() -> int:
    """A port of 127.0.0.1 that is free for TCP and UDP."""
    for _ in range(100):
        port = ports.free_port()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((ports.LOOPBACK, port))
            except OSError:
                continue
            return port
    raise OSError("no port is free for TCP and UDP")


# --- servers ------------------------------------------------------------------------------------


class NameServer(abc.ABC):
    """What all four have in common; a subclass writes the configuration and names the program."""

    package: ClassVar[str]
    program: ClassVar[str]

    def __init__(self, zones: Iterable[Zone] = ()) -> None:
        """Describe a server of these zones; `start` writes and runs it."""
        self.zones = {zone.name: zone for zone in zones}
        self.address = ServerAddress(ports.LOOPBACK, free_port())
        self._directory: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: Watcher | None = None

    def __enter__(self) -> Self:
        self._directory = Path(tempfile.mkdtemp(prefix="ns"))
        try:
            self.start()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if error is not None:
            error.add_note(f"{type(self).__name__} at {self.address} said:\n{self._tail()}")
        self._close()

    def __str__(self) -> str:
        return str(self.address)

    # --- life

    def start(self, timeout: float = 30.0) -> None:
        """Write what is not there, run the program, return when it answers."""
        if shutil.which(self.program, path="/usr/sbin:/usr/bin") is None:
            raise NameServerMissing(
                f"{self.program} is missing; install it with: apt-get install {self.package}"
            )
        self._write()
        with (self.directory / "log").open("ab") as log:
            # A session of its own: NSD forks, and pausing must reach all of its processes.
            self._process = subprocess.Popen(
                self._command(),
                start_new_session=True,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "TZ": "UTC"},
            )
        # The whole session; dash takes no other form.
        ending = 'kill -s KILL -- "-$0"; rm -rf -- "$1"'
        self._watcher = Watcher(ending, self._process.pid, self.directory)
        try:
            self._wait(self._is_ready, "start", timeout)
        except NameServerFailed:
            self.stop()
            raise

    def stop(self) -> None:
        """End it as the machine would; what it keeps stays for the next `start`."""
        process, self._process = self._process, None
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.dismiss()
        if process is None:
            return
        for number in (signal.SIGCONT, signal.SIGTERM):
            _signal_group(process.pid, number)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            _signal_group(process.pid, signal.SIGKILL)
            process.wait()
            raise NameServerFailed(f"{self.program} did not stop\n{self._tail()}") from None
        _signal_group(process.pid, signal.SIGKILL)  # children that outlived their parent

    def pause(self) -> None:
        """Stand still: connections are taken by the kernel, nobody answers."""
        _signal_group(self._running.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after `pause`."""
        _signal_group(self._running.pid, signal.SIGCONT)

    @property
    def pid(self) -> int:
        """The program's."""
        return self._running.pid

    # --- what a test looks at

    @property
    def directory(self) -> Path:
        """Its files; there from `__enter__` to `__exit__`."""
        assert self._directory is not None, "use it in a with statement"
        return self._directory

    def log(self) -> str:
        """All it said so far."""
        try:
            return (self.directory / "log").read_text(errors="backslashreplace")
        except FileNotFoundError:
            return ""

    def serial(self, zone: str) -> int:
        """The zone's serial here; NameServerFailed when it has none."""
        for rdataset in ask(self.address, zone, "SOA").answer:
            for record in rdataset:
                return int(record.serial)
        raise NameServerFailed(f"{self.address} has no SOA of {zone}\n{self._tail()}")

    # --- inside

    @abc.abstractmethod
    def _write(self) -> None:
        """Write the configuration and the zones."""

    @abc.abstractmethod
    def _command(self) -> list[str]:
        """The program with its arguments, in the foreground."""

    def _is_ready(self) -> bool:
        """Whether it answers with authority for every zone it has."""
        return all(_is_served(self.address, zone) for zone in self.zones)

    def _write_zones(self) -> None:
        """Zone files that are not there yet: what a server has rewritten is its own."""
        for zone in self.zones.values():
            path = self._zone_file(zone.name)
            if not path.exists():
                path.write_text(zone.text())

    def _zone_file(self, zone: str) -> Path:
        return self.directory / f"{zone}.zone"

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise NameServerFailed(f"{self.program} is not running; start it first")
        return self._process

    def _wait(self, is_done: Callable[[], bool], what: str, timeout: float) -> None:
        def look() -> bool:
            if self._running.poll() is not None:
                raise NameServerFailed(f"{self.program} ended\n{self._tail()}")
            return is_done()

        try:
            wait_until(look, f"{self.program}: {what}", timeout, told=self._tail)
        except NotInTime as error:
            raise NameServerFailed(str(error)) from None

    def _tail(self) -> str:
        return self.log()[-_TAIL:]

    def _close(self) -> None:
        try:
            self.stop()
        finally:
            shutil.rmtree(self.directory)
            self._directory = None


class Bind(NameServer):
    """named: a primary, or with `primary` a secondary of another `Bind` or `Knot`."""

    package = "bind9"
    program = "named"

    def __init__(
        self,
        zones: Iterable[Zone] = (),
        *,
        keys: Iterable[TsigKey] = (),
        primary: NameServer | None = None,
        allow_transfer: bool = True,
        notify: bool = True,
        grant: str = "wildcard *._domainkey.{zone}. TXT",
    ) -> None:
        """Describe the server; attributes may be changed later, followed by `reconfigure`.

        keys: may update every zone as far as `grant` allows (a template of update-policy);
            without keys no update is allowed.
        primary: whose zones to serve; it is told whom to notify, so construct both before
            either starts.
        notify: whether this primary tells its secondaries of changes; without, they follow after
            the SOA's refresh time.
        """
        super().__init__(primary.zones.values() if primary is not None else zones)
        self.keys = tuple(keys)
        self.primary = primary
        self.allow_transfer = allow_transfer
        self.notify = notify
        self.grant = grant
        self.secondaries: list[ServerAddress] = []
        self._control = free_port()
        self._control_key = TsigKey("control")
        if isinstance(primary, Bind | Knot):
            primary.secondaries.append(self.address)

    def reconfigure(self) -> None:
        """Take up changed attributes without a restart."""
        self._write()
        self.control("reconfig")

    def control(self, *words: str) -> str:
        """rndc: 'freeze', 'thaw', 'retransfer', 'reload', 'notify' and a zone, among others."""
        where = ["-s", ports.LOOPBACK, "-p", str(self._control)]
        done = subprocess.run(
            ["/usr/sbin/rndc", "-k", self.directory / "control.key", *where, *words],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise NameServerFailed(f"rndc {' '.join(words)}: {done.stderr}\n{self._tail()}")
        return done.stdout

    def freeze(self, zone: str) -> None:
        """Refuse updates of a zone until `thaw`."""
        self.control("freeze", zone)

    def thaw(self, zone: str) -> None:
        """Take updates again, and read the zone file anew."""
        self.control("thaw", zone)

    def replace(self, zone: Zone) -> None:
        """Serve another text of a zone, with a higher serial; changes by update are lost."""
        serial = self.serial(zone.name) + 1
        text = dataclasses.replace(zone, serial=serial).text()

        def is_read() -> bool:
            # What BIND has in memory may be written to the file after it said that it is frozen.
            if self.keys:
                self.freeze(zone.name)
            self._zone_file(zone.name).write_text(text)
            self.control(*(("thaw",) if self.keys else ("reload",)), zone.name)
            with contextlib.suppress(NameServerFailed):
                self._wait(lambda: self.serial(zone.name) >= serial, "read the zone", 1.0)
            return self.serial(zone.name) >= serial

        self._wait(is_read, "read the zone", 30.0)

    def _is_ready(self) -> bool:
        if self.primary is None:
            if "not loaded due to errors" in self.log():
                raise NameServerFailed("a zone cannot be loaded")
            return super()._is_ready()
        may_follow = getattr(self.primary, "allow_transfer", True) and all(
            _is_served(self.primary.address, zone) for zone in self.zones
        )
        # Where the primary stands still or gives nothing, being there is all that can be awaited.
        return super()._is_ready() if may_follow else _answers(self.address)

    def _command(self) -> list[str]:
        return ["named", "-g", "-4", "-n", "1", "-c", str(self.directory / "named.conf")]

    def _write(self) -> None:
        if self.primary is None:
            self._write_zones()
        self._control_key.write(self.directory / "control.key")
        lines = [*self._options(), *(key.text() for key in (*self.keys, self._control_key))]
        for zone in self.zones:
            lines += self._zone(zone)
        (self.directory / "named.conf").write_text("\n".join(lines))

    def _options(self) -> list[str]:
        also = "".join(f" {one.host} port {one.port};" for one in self.secondaries)
        return [
            "options {",
            f'  directory "{self.directory}"; pid-file none; lock-file none;',
            f'  session-keyfile "{self.directory}/session.key";',
            f'  managed-keys-directory "{self.directory}";',
            f"  listen-on port {self.address.port} {{ {self.address.host}; }};",
            "  listen-on-v6 { none; };",
            "  recursion no; dnssec-validation no; empty-zones-enable no; minimal-responses no;",
            "  allow-query { any; }; masterfile-format text; check-names primary ignore;",
            f"  allow-transfer {{ {'any' if self.allow_transfer else 'none'}; }};",
            f"  notify {'explicit' if self.notify and also else 'no'}; notify-delay 0;",
            f"  also-notify {{{also} }};" if also else "",
            # A thousand zones are taken over at once, and the times of the SOA count as they stand.
            "  min-refresh-time 1; min-retry-time 1; serial-query-rate 1000;",
            "  notify-rate 1000; startup-notify-rate 1000; transfers-in 200; transfers-out 200;",
            "  transfers-per-ns 200; tcp-clients 1000;",
            "};",
            f"controls {{ inet {ports.LOOPBACK} port {self._control} allow {{ {ports.LOOPBACK}; }}"
            ' keys { "control"; }; };',
        ]

    def _zone(self, zone: str) -> list[str]:
        file = f'file "{self._zone_file(zone)}";'
        if self.primary is not None:
            where = f"{self.primary.address.host} port {self.primary.address.port}"
            return [f'zone "{zone}" {{ type secondary; {file} primaries {{ {where}; }}; }};']
        grants = "".join(
            f' grant "{key.name}" {self.grant.format(zone=zone)};' for key in self.keys
        )
        policy = f"update-policy {{{grants} }};" if grants else "allow-update { none; };"
        return [f'zone "{zone}" {{ type primary; {file} {policy} }};']


class Knot(NameServer):
    """knotd, a primary that takes updates of TXT records below _domainkey."""

    package = "knot"
    program = "knotd"

    def __init__(
        self,
        zones: Iterable[Zone],
        *,
        keys: Iterable[TsigKey] = (),
        owner: str | None = "_domainkey",
    ) -> None:
        """keys: may update TXT records below `owner`, a label of the zone; None: the whole zone."""
        super().__init__(zones)
        self.keys = tuple(keys)
        self.owner = owner
        self.secondaries: list[ServerAddress] = []

    def control(self, *words: str) -> str:
        """knotc: 'zone-freeze', 'zone-thaw', 'zone-reload', 'zone-flush' and a zone."""
        done = subprocess.run(
            ["/usr/sbin/knotc", "-s", self.directory / "knot.sock", "-b", *words],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise NameServerFailed(f"knotc {' '.join(words)}: {done.stderr}\n{self._tail()}")
        return done.stdout

    def freeze(self, zone: str) -> None:
        """Refuse updates of a zone until `thaw`."""
        self.control("zone-freeze", zone)

    def thaw(self, zone: str) -> None:
        """Take updates again."""
        self.control("zone-thaw", zone)

    def _command(self) -> list[str]:
        return ["knotd", "-c", str(self.directory / "knot.conf")]

    def _write(self) -> None:
        self._write_zones()
        (self.directory / "db").mkdir(exist_ok=True)  # knotd makes none, and then no journal
        (self.directory / "knot.conf").write_text("\n".join(self._configuration()) + "\n")

    def _configuration(self) -> Iterator[str]:
        yield "server:"
        yield f'    rundir: "{self.directory}"'
        yield f"    listen: {self.address}"
        yield "    udp-workers: 1\n    tcp-workers: 1\n    background-workers: 1"
        yield f'control:\n    listen: "{self.directory}/knot.sock"'
        yield "log:\n  - target: stderr\n    any: info"
        yield f'database:\n    storage: "{self.directory}/db"\n    journal-db-max-size: 64M'
        if self.keys:
            yield "key:"
        for key in self.keys:
            yield f"  - id: {key.name}\n    algorithm: {key.algorithm}\n    secret: {key.secret}"
        if self.secondaries:
            yield "remote:"
        for number, one in enumerate(self.secondaries):
            yield f"  - id: secondary{number}\n    address: {one}"
        yield "acl:"
        yield f"  - id: transfer\n    address: {ports.LOOPBACK}\n    action: transfer"
        if self.keys:
            names = ", ".join(key.name for key in self.keys)
            yield f"  - id: update\n    key: [{names}]\n    action: update\n    update-type: TXT"
        if self.keys and self.owner is not None:
            yield "    update-owner: name\n    update-owner-match: sub"
            yield f"    update-owner-name: [{self.owner}]"
        yield "template:\n  - id: default"
        yield f'    storage: "{self.directory}"\n    file: "%s.zone"\n    zonefile-load: whole'
        yield f"    acl: [{'update, ' if self.keys else ''}transfer]"
        if self.secondaries:
            names = ", ".join(f"secondary{number}" for number in range(len(self.secondaries)))
            yield f"    notify: [{names}]"
        yield "zone:"
        for zone in self.zones:
            yield f"  - domain: {zone}"


class Nsd(NameServer):
    """nsd: serves what is in its files, or follows a primary; takes no updates (NOTIMP)."""

    package = "nsd"
    program = "nsd"

    def __init__(self, zones: Iterable[Zone] = (), *, primary: Bind | Knot | None = None) -> None:
        """zones, or those of `primary`, which is to be constructed, not started, before."""
        super().__init__(primary.zones.values() if primary is not None else zones)
        self.primary = primary
        if primary is not None:
            primary.secondaries.append(self.address)

    def _command(self) -> list[str]:
        return ["nsd", "-d", "-c", str(self.directory / "nsd.conf")]

    def _write(self) -> None:
        if self.primary is None:
            self._write_zones()
        lines = [
            "server:",
            f"    ip-address: {self.address}",
            '    username: ""\n    chroot: ""\n    database: ""\n    server-count: 1',
            f'    zonesdir: "{self.directory}"\n    xfrdir: "{self.directory}"',
            f'    pidfile: "{self.directory}/nsd.pid"',
            f'    zonelistfile: "{self.directory}/zone.list"',
            f'    xfrdfile: "{self.directory}/xfrd.state"',
            "    xfrd-reload-timeout: 0\n    verbosity: 2",
            "remote-control:\n    control-enable: no",
        ]
        for zone in self.zones:
            lines.append(f'zone:\n    name: "{zone}"\n    zonefile: "{self._zone_file(zone)}"')
            if self.primary is not None:
                lines.append(f"    request-xfr: {self.primary.address} NOKEY")
                lines.append(f"    allow-notify: {ports.LOOPBACK} NOKEY")
        (self.directory / "nsd.conf").write_text("\n".join(lines) + "\n")


class Unbound(NameServer):
    """unbound: a caching resolver that knows no servers but those of its stub zones."""

    package = "unbound"
    program = "unbound"

    def __init__(
        self, stubs: Mapping[str, Iterable[ServerAddress]], *, shows_cache: bool = False
    ) -> None:
        """stubs: zone -> the servers to ask for it and what is below.

        shows_cache: whether questions without RD are answered from the cache, not refused.
        """
        super().__init__()
        self.shows_cache = shows_cache
        self.stubs = {zone: tuple(addresses) for zone, addresses in stubs.items()}
        self._nowhere = ServerAddress(ports.LOOPBACK, free_port())

    def _is_ready(self) -> bool:
        return _answers(self.address)

    def _command(self) -> list[str]:
        return ["unbound", "-d", "-p", "-c", str(self.directory / "unbound.conf")]

    def _write(self) -> None:
        lines = [
            "server:",
            f"    interface: {self.address}",
            f'    directory: "{self.directory}"',
            '    username: ""\n    chroot: ""\n    use-syslog: no\n    logfile: ""',
            '    do-daemonize: no\n    num-threads: 1\n    module-config: "iterator"',
            "    do-not-query-localhost: no\n    do-ip6: no\n    qname-minimisation: no",
            "    infra-host-ttl: 1\n    access-control: 127.0.0.0/8 "
            + ("allow_snoop" if self.shows_cache else "allow"),
            '    local-zone: "test." nodefault',
            "remote-control:\n    control-enable: no",
        ]
        # Questions about anything else end at a closed port instead of the Internet.
        for zone, addresses in {".": (self._nowhere,), **self.stubs}.items():
            lines.append(f'stub-zone:\n    name: "{zone}"')
            lines += [f"    stub-addr: {address}" for address in addresses]
        (self.directory / "unbound.conf").write_text("\n".join(lines) + "\n")


class PowerDns(NameServer):
    """pdns_server with its HTTP API: the one HTTP provider that can run here."""

    package = "pdns-server pdns-backend-sqlite3"
    program = "pdns_server"
    _SCHEMA: ClassVar = Path("/usr/share/pdns-backend-sqlite3/schema/schema.sqlite3.sql")

    def __init__(self, zones: Iterable[Zone]) -> None:
        """The API listens at `api`, http://127.0.0.1:PORT, and wants `token`."""
        super().__init__(zones)
        self._api_port = free_port()
        self.api = f"http://{ports.LOOPBACK}:{self._api_port}"
        self.token = secrets.token_hex(16)

    def start(self, timeout: float = 30.0) -> None:
        """As for the others; the API listens as well."""
        super().start(timeout)
        self._wait(self._api_listens, "open its API", timeout)

    def _api_listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((ports.LOOPBACK, self._api_port)) == 0

    def _command(self) -> list[str]:
        return ["pdns_server", f"--config-dir={self.directory}"]

    def _write(self) -> None:
        lines = [
            f"local-address={self.address.host}\nlocal-port={self.address.port}",
            f"launch=gsqlite3\ngsqlite3-database={self.directory}/zones.db",
            f"socket-dir={self.directory}\nsecurity-poll-suffix=\nwrite-pid=no",
            f"api=yes\napi-key={self.token}\nwebserver=yes\nwebserver-port={self._api_port}",
            # What the API changes is to be seen at once.
            "cache-ttl=0\nquery-cache-ttl=0\nnegquery-cache-ttl=0\nzone-cache-refresh-interval=0",
        ]
        (self.directory / "pdns.conf").write_text("\n".join(lines) + "\n")
        if not (self.directory / "zones.db").exists():
            self._load_zones()

    def _load_zones(self) -> None:
        with contextlib.closing(sqlite3.connect(self.directory / "zones.db")) as database:
            database.executescript(self._SCHEMA.read_text())
        self._write_zones()
        for zone in self.zones:
            tool = ["/usr/bin/pdnsutil", f"--config-dir={self.directory}", "load-zone"]
            done = subprocess.run(
                [*tool, zone, self._zone_file(zone)], capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise NameServerFailed(f"pdnsutil: {done.stderr}")


@contextlib.contextmanager
def primary_and_secondary(
    zones: Iterable[Zone], *, keys: Iterable[TsigKey] = (), notify: bool = True
) -> Iterator[tuple[Bind, Bind]]:
    """Two BINDs, the second following the first."""
    primary = Bind(zones, keys=keys, notify=notify)
    secondary = Bind(primary=primary)
    with primary, secondary:
        yield primary, secondary


def _is_served(address: ServerAddress, zone: str) -> bool:
    try:
        answer = ask(address, zone, "SOA", timeout=_BRIEF)
    except (OSError, dns.exception.DNSException):
        return False
    return bool(answer.flags & dns.flags.AA and answer.answer)


def _answers(address: ServerAddress) -> bool:
    """Whether anything comes back; version.bind is answered or refused from no cache."""
    question = dns.message.make_query("version.bind", TXT, "CH")
    try:
        dns.query.udp(question, address.host, timeout=_BRIEF, port=address.port)
    except (OSError, dns.exception.DNSException):
        return False
    return True


def _signal_group(leader: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, number)
