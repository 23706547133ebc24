"""Bad input at every door: one sentence with place and remedy, the right exit code, no change.

Every case runs the command (most in a forked child, the others as installed) in a copy of a small
world: a configuration, an active key, an archive with two records that share a queue id, a message.
A last test walks the tree of commands, so that no new option stays without a case.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from support import forked
from support.archive import Archive, build_record
from support.carbonseal import COMMAND, Carbonseal

from carbonseal.milter import cli

USAGE, DATA, DEFECT, LATER, CONFIGURATION = 64, 65, 70, 75, 78
NOT_YET, REFUSED = 1, 4  # of the life of a key
CUT_SHORT = 141  # a list whose reader had enough
NOBODY = 65534
NOWHERE = click.Context(cli.carbonseal)
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: other users, mounts")
# /root, say, is closed to everybody else, and a user who cannot reach the command learns nothing.
OPEN_ONLY = pytest.mark.skipif(
    any(not folder.stat().st_mode & 0o001 for folder in COMMAND.parents),
    reason="a folder above the checkout is closed to other users",
)

CONFIGURED = """\
milter: {{socket: "unix:{socket}", workers: 1, drain: 1}}
ours:
  domains: [example.com]
  networks: [192.0.2.0/24]
signing: {{keys: keys}}
archive: {{recipients: [archive@archive.example.net]}}
record: {{spool: spool, database: "sqlite:///archive.db"}}
"""
MESSAGE = b"From: alice@example.com\r\nTo: bob@partner.example\r\nSubject: Hi\r\n\r\nHello\r\n"
EXPLAIN = "policy explain --client 192.0.2.1 --from <a@example.com> --rcpt <b@x.example>".split()
PUBLISHED = "--assume-published"


@dataclass
class World:
    """A directory with everything a command may touch."""

    directory: Path
    ended: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    prefix: list[str] = field(default_factory=list)  # what runs the command, such as setpriv

    @property
    def file(self) -> Path:
        return self.directory / "carbonseal.yaml"

    @property
    def keys(self) -> Path:
        return self.directory / "keys"

    @property
    def database(self) -> Path:
        return self.directory / "archive.db"

    def configure(self, text: str) -> None:
        self.file.write_text(text)

    def change(self, old: str, new: str) -> None:
        text = self.file.read_text()
        assert old in text
        self.file.write_text(text.replace(old, new))

    def run(
        self, *arguments: str, env: dict[str, str] | None = None, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """The installed command with this world's configuration, in its directory."""
        environment = {**os.environ, "CARBONSEAL_CONFIG": str(self.file), **(env or {})}
        environment.pop("CARBONSEAL_DEBUG", None)
        environment |= env or {}
        streams = {
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "stdin": subprocess.DEVNULL,
        }
        return subprocess.run(
            [*self.prefix, str(COMMAND), *arguments],
            cwd=self.directory,
            env=environment,
            encoding="utf-8",
            errors="surrogateescape",
            check=False,
            timeout=60,
            **(streams | options),
        )

    def unread(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """The same, its output going to somebody who reads no more."""
        reading, writing = os.pipe()
        os.close(reading)
        with open(writing, "w") as pipe:
            return self.run(*arguments, stdout=pipe, **options)

    def call(
        self, *arguments: str, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """The same in a forked child, where how the process starts is not what is tried."""
        if self.prefix:
            return self.run(*arguments, env=env)
        environment = {**os.environ, "CARBONSEAL_CONFIG": str(self.file)}
        environment.pop("CARBONSEAL_DEBUG", None)
        return forked.run(arguments, environment | (env or {}), self.directory)

    def content(self) -> dict[str, str]:
        """Every name below the directory with its kind, mode and content.

        Left out: SQLite's -wal and -shm, which readers may make, the lock of the keys, and the
        audit, in which questions stand that have no answer (`audit` has them).
        """
        return {
            str(path.relative_to(self.directory)): _state(path)
            for path in sorted(self.directory.rglob("*"))
            if not path.name.endswith(("-wal", "-shm", ".lock", "-audit.db"))
        }

    def audit(self) -> list[tuple[str, ...]]:
        """Number, action and detail of each event; none where there is no audit to be read."""
        place = self.directory / "archive-audit.db"
        query = "SELECT number, action, detail FROM audit ORDER BY number"
        try:
            with contextlib.closing(sqlite3.connect(f"file:{place}?mode=ro", uri=True)) as opened:
                return opened.execute(query).fetchall()
        except sqlite3.Error:
            return []


def _state(path: Path) -> str:
    about = path.lstat()
    digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    return f"{about.st_mode:o} {about.st_uid} {digest}"


@pytest.fixture(scope="session")
def template() -> Iterator[Path]:
    """The world, made once; tests work on copies.  Not tmp_path,
    which is closed to other users."""
    with tempfile.TemporaryDirectory(prefix="doors-") as base:
        os.chmod(base, 0o755)
        world = World(Path(base) / "template")
        world.directory.mkdir()
        (world.directory / "message.eml").write_bytes(MESSAGE)
        archive = Archive(world.directory)
        archive.fill(build_record(1, queue_id="4TWICE"), build_record(2, queue_id="4TWICE"))
        archive.close()
        shutil.rmtree(world.directory / "spool")
        (world.directory / "spool").mkdir()
        world.configure(CONFIGURED.format(socket=world.directory / "milter.sock"))
        for selector in ("s1", "s2"):
            assert not world.call(
                "keys", "generate", "example.com", "--selector", selector
            ).returncode
        for command in (
            f"keys activate example.com s1 {PUBLISHED}",
            "archive export bundle --all",
            "archive hold taken from:alice@example.com",
            "archive hold gone from:alice@example.com",
            "archive release gone",
        ):
            assert not world.call(*command.split()).returncode
        yield world.directory


@pytest.fixture
def world(template: Path) -> Iterator[World]:
    """A fresh copy."""
    directory = Path(tempfile.mkdtemp(prefix="world-", dir=template.parent))
    directory.chmod(0o755)
    shutil.copytree(template, directory, dirs_exist_ok=True)
    made = World(directory)
    made.configure(CONFIGURED.format(socket=directory / "milter.sock"))
    with made.ended:
        yield made
    shutil.rmtree(directory)


Prepare = Callable[[World], object]


def door(
    name: str,
    call: str | list[str],
    status: int,
    *words: str,
    given: Prepare | None = None,
    **env: str,
) -> Any:
    """One case: what is typed (words split at spaces), the exit code, words of the sentence."""
    arguments = call.split() if isinstance(call, str) else call
    return pytest.param(arguments, status, words, given, env, id=name)


# --- What can be wrong around a command -----------------------------------------------------------


def written(name: str, content: bytes | str) -> Prepare:
    data = content.encode() if isinstance(content, str) else content
    return lambda world: (world.directory / name).write_bytes(data)


def config_is(content: bytes | str) -> Prepare:
    return written("carbonseal.yaml", content)


def added(text: str) -> Prepare:
    """Further lines of the configuration."""
    return lambda world: world.file.write_text(
        "ours: {domains: [example.com]}\n" + text.replace("DIRECTORY", str(world.directory))
    )


def changed(old: str, new: str) -> Prepare:
    return lambda world: world.change(old, new)


def both(*steps: Prepare) -> Prepare:
    return lambda world: [step(world) for step in steps]


def directory_at(name: str) -> Prepare:
    def replace(world: World) -> None:
        path = world.directory / name
        path.unlink(missing_ok=True)
        path.mkdir()

    return replace


def keys_are_a_file(world: World) -> None:
    shutil.rmtree(world.keys)
    world.keys.write_text("no directory")


def no_keys(world: World) -> None:
    shutil.rmtree(world.keys)


def without_example_keys(world: World) -> None:
    shutil.rmtree(world.keys / "example.com")
    world.keys.chmod(0o755)


def as_nobody(world: World) -> None:
    world.prefix = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]


def open_to_nobody(world: World) -> None:
    """All but `closed` and what is in it."""
    as_nobody(world)
    for path in (world.directory, *world.directory.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    (world.directory / "closed").mkdir(mode=0o700)


def mode(name: str, bits: int) -> Prepare:
    return lambda world: (world.directory / name).chmod(bits)


def closed_to_nobody(name: str) -> Prepare:
    def close(world: World) -> None:
        (world.directory / name).chmod(0o600)
        as_nobody(world)

    return close


def database_is(content: bytes) -> Prepare:
    return written("archive.db", content)


def older_schema(world: World) -> None:
    connection = sqlite3.connect(world.database)
    connection.executescript("DELETE FROM alembic_version")
    connection.close()


def newer_schema(world: World) -> None:
    connection = sqlite3.connect(world.database)
    connection.executescript("UPDATE alembic_version SET version_num = '9999'")
    connection.close()


def foreign_tables(world: World) -> None:
    world.database.unlink()
    connection = sqlite3.connect(world.database)
    connection.executescript("PRAGMA journal_mode=WAL; CREATE TABLE message (x)")
    connection.close()


LOCKING = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA locking_mode=EXCLUSIVE")
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""


def locked_database(world: World) -> None:
    """By another process: reading the file here would drop locks of this one."""
    holder = world.ended.enter_context(
        subprocess.Popen(
            [sys.executable, "-c", LOCKING, world.database],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "locked\n"


def cut_database(world: World) -> None:
    with world.database.open("r+b") as stream:
        stream.truncate(6000)


def database_url(url: str) -> Prepare:
    return changed("sqlite:///archive.db", url)


def key_lock_held(world: World) -> None:
    import fcntl  # noqa: PLC0415

    stream = world.ended.enter_context((world.keys / "example.com/.lock").open("w"))
    fcntl.flock(stream, fcntl.LOCK_EX)


def occupied_port(world: World) -> None:
    taken = world.ended.enter_context(socket.socket())
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    world.change(
        f"unix:{world.directory / 'milter.sock'}", f"inet:{taken.getsockname()[1]}@127.0.0.1"
    )


def served_socket(world: World) -> None:
    other = world.ended.enter_context(socket.socket(socket.AF_UNIX))
    other.bind(str(world.directory / "milter.sock"))
    other.listen(1)


def socket_at(text: str) -> Prepare:
    return lambda world: world.change(
        f"unix:{world.directory / 'milter.sock'}", text.replace("DIRECTORY", str(world.directory))
    )


def pem(private: Any, password: bytes | None = None) -> bytes:
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password:
        encryption = serialization.BestAvailableEncryption(password)
    octets: bytes = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )
    return octets


_RSA = rsa.generate_private_key(65537, 2048)
_PUBLIC = _RSA.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)
KEY = pem(_RSA)
BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}, *a{n - 1}]\n" for n in range(1, 30)
)
HUGE = "x" * 100_000
SQL = "x' OR '1'='1'; DROP TABLE message; --"
CERTIFICATE = '{"kind": "carbonseal certificate of erasure", "v": %s}'
HEAD = f"1:{'00' * 32}"
IMPORT = "keys import example.com new --private-key key.pem"

# --- The doors ------------------------------------------------------------------------------------

CONFIGURATIONS = [
    ("missing", lambda world: world.file.unlink(), ["carbonseal.yaml", "CARBONSEAL_CONFIG"]),
    ("directory", directory_at("carbonseal.yaml"), ["directory", "--config"]),
    ("empty", config_is(""), ["ours is missing"]),
    ("only-comments", config_is("# nothing\n"), ["ours is missing"]),
    ("null-sections", config_is("ours:\nlog:\n"), ["ours.domains is missing"]),
    ("null-list", config_is("ours:\n  domains:\n"), ["line 2", "ours.domains", "list", "nothing"]),
    ("list", config_is("- a\n"), ["line 1", "sections"]),
    ("text", config_is("hello"), ["line 1", "sections"]),
    ("number", config_is("7"), ["line 1", "sections"]),
    ("huge", config_is(b"# " + b"x" * 5_000_000), ["larger than", "right file"]),
    ("binary", config_is(bytes(range(256)) * 20), ["UTF-8"]),
    ("elf", lambda world: shutil.copy("/bin/true", world.file), ["UTF-8"]),
    ("nul", config_is("ours:\n  domains: [exa\0mple.com]\n"), ["line 2", "U+0000"]),
    ("escaped-nul", added('record: {spool: "a\\0b"}\n'), ["line 2", "record.spool", "control"]),
    ("latin-1", config_is("ours:\n  domains: [bücher.example]\n".encode("latin-1")), ["line 2",
         "UTF-8"]),
    ("utf-16-without-mark", config_is("ours: {}\n".encode("utf-16-le")), ["line 1", "U+0000"]),
    ("tab", config_is("ours:\n\tdomains: [example.com]\n"), ["line 2", "spaces, not with tabs"]),
    ("duplicate", config_is("log: {}\nours: {domains: [a.example]}\nlog: {}\n"), ["line 3",
         "second time"]),
    ("duplicate-inside", added("log:\n  level: info\n  level: debug\n"), ["line 4", "log.level"]),
    ("two-documents", config_is("ours: {}\n---\nlog: {}\n"), ["line 2", "---"]),
    ("billion-laughs", config_is(BOMB), ["values", "aliases"]),
    ("bomb-as-key", config_is(BOMB + "? *a29\n: 1\n"), ["carbonseal.yaml"]),
    ("list-as-key", config_is("? [a, b]\n: 1\n"), ["line 1", "a list or section"]),
    ("recursive", config_is("ours: &a [*a]\n"), ["line 1", "levels"]),
    ("deep", config_is("[" * 3000 + "]" * 3000), ["right file"]),
    ("unknown-alias", config_is("ours: *none\n"), ["line 1", "quotes"]),
    ("open-quote", config_is('ours: "x\n'), ["line", "quotes"]),
    ("python-object", config_is("ours: !!python/object/apply:os.system [id]\n"), ["line 1",
         "tag"]),
    ("impossible-date", added("log: {level: 2026-99-99}\n"), ["line 2", "2026-99-99", "quotes"]),
    ("impossible-bool", added("log: {level: !!bool perhaps}\n"), ["line 2", "perhaps"]),
    ("infinite-workers", added("milter: {workers: .inf}\n"), ["line 2", "milter.workers"]),
    ("no-workers", added("milter: {workers: 0}\n"), ["milter.workers", "from 1 up"]),
    ("affinity", added("milter: {cpu_affinity: 0-3}\n"), ["cpu_affinity", "'auto' or 'none'"]),
    ("mode", added("milter: {socket_mode: 0999}\n"), ["milter.socket_mode", "0660"]),
    ("mode-as-number", added("milter: {socket_mode: 660}\n"), ["milter.socket_mode", "quotes"]),
    ("bool-in-words", added("ours2: 1\n"), ["ours2", "ours"]),
    ("yes-as-text", config_is("ours: {domains: [a.example], authenticated: 'on'}\n"),
         ["true or false"]),
    ("domains-as-text", config_is("ours: {domains: example.com}\n"), ["ours.domains", "list"]),
    ("section-as-text", added("log: loud\n"), ["line 2: log", "section"]),
    ("keys-as-number", added("signing: {keys: 7}\n"), ["signing.keys", "path"]),
    ("keys-empty", added("signing: {keys: ''}\n"), ["signing.keys", "one line"]),
    ("database-list", added("record: {database: ['x://u:secret@h/d']}\n"), ["record.database",
         "URL"]),
    ("socket-empty-path", added("milter: {socket: 'unix:/'}\n"), ["milter.socket", "file"]),
    ("socket-line-break", added('milter: {socket: "unix:/a\\nb"}\n'), ["milter.socket",
         "line breaks"]),
    ("socket-port-0", added("milter: {socket: 'inet:0@127.0.0.1'}\n"), ["milter.socket",
         "1 to 65535"]),
    ("endless-duration", added("milter: {drain: 99999999w}\n"), ["milter.drain", "up to"]),
    ("key-with-escape", added('"a\\e[31m\\nb": 1\n'), ["\\x1b", "is not a key"]),
    ("many-mistakes", config_is("ours: {domains: [" + "1, " * 20_000 + "]}\n"),
         ["more: carbonseal config check"]),
    ("bad-canonicalization", added("signing: {canonicalization: strict}\n"), ["relaxed/relaxed"]),
    ("bad-field", added("signing: {oversign: ['Sub ject:']}\n"), ["signing.oversign",
         "header field"]),
    ("evidence-as-number", added("record: {evidence: 7}\n"), ["line 2", "record.evidence", "path"]),
    ("timestamp-empty", added("record: {timestamp: {}}\n"), ["record.timestamp.url is missing"]),
    ("timestamp-scheme", added("record: {timestamp: {url: 'ftp://x'}}\n"), ["record.timestamp.url",
         "https://"]),
    ("timestamp-often", added("record: {timestamp: {url: 'http://x/', every: 1}}\n"),
         ["record.timestamp.every", "from 60 up"]),
    ("index-headers", added("record: {index_headers: ['Sub ject']}\n"), ["record.index_headers",
         "header field"]),
    ("index-many", added(f"record: {{index_headers: [{', '.join(['x-a'] * 17)}]}}\n"), [
        "record.index_headers", "at most 16"]),
    ("compare-what", added("archive: {compare: maps}\n"), ["archive.compare", "'bcc_maps'"]),
    ("compare-nothing", added("archive: {compare: bcc_maps}\n"), ["line 2", "archive.bcc_maps",
         "carbonseal postfix bcc-maps"]),
    ("compare-missing", added("archive: {compare: bcc_maps, bcc_maps: {sender: 'hash:none'}}\n"),
         ["line 2", "archive.bcc_maps.sender", "inline:{...}"]),
    ("compare-type", added("archive: {compare: bcc_maps, bcc_maps: {sender: 'ldap:/x'}}\n"),
         ["archive.bcc_maps.sender", "ldap", "inline:{...}"]),
    ("compare-always", added("archive: {bcc_maps: {always: nobody}}\n"),
         ["archive.bcc_maps.always", "user@example.com"]),
    ("retention-number", added("retention: {classes: {a: {keep: 5}}}\n"),
         ["retention.classes.a.keep", "86400"]),
    ("retention-endless", added("retention: {classes: {a: {keep: 99999999y}}}\n"),
         ["retention.classes.a.keep", "7y"]),
    ("retention-unknown", added("retention: {classes: {a: {keep: 1y}}, default: b}\n"),
         ["line 2", "retention", "'b'", "not defined"]),
    ("retention-key", added("retention: {classes: {a: {forever: 1d}}}\n"),
         ["retention.classes.a.forever is not a key", "keep"]),
    ("retention-name", added('retention: {classes: {"a\\nb": {keep: 1y}}}\n'),
         ["retention.classes", "one line"]),
    ("retention-part", added("retention: {classes: {a: {keep: 1d, headers: 2d}}}\n"),
         ["retention.classes.a.headers", "make it shorter"]),
    ("retention-floor", added("retention: {floor: {keep: 10y}, ceiling: {keep: 1y}}\n"),
         ["retention.floor", "lower the floor"]),
    ("audit-word", added("audit: {require_reason: perhaps}\n"), ["audit.require_reason",
         "true or false"]),
    ("audit-key", added("audit: {reason: true}\n"), ["audit.reason", "require_reason"]),
]  # fmt: skip

LIVES = (
    "publish example.com s2",
    "activate example.com s2",
    "retire example.com s1",
    "revoke example.com s1",
    "remove example.com s2",
    "rollback example.com",
    "rotate example.com",
    "reconcile",
    "emergency example.com",
)
DOORS = [
    *(
        door(f"configuration-{name}", "config show", CONFIGURATION, *words, given=given)
        for name, given, words in CONFIGURATIONS
    ),
    door("environment", "config show", CONFIGURATION, "/none.yaml", "cannot read",
         CARBONSEAL_CONFIG="/none.yaml"),
    door("config-option-missing", "--config none.yaml config show", CONFIGURATION, "none.yaml"),
    door("config-option-nul-device", "--config /dev/zero config show", CONFIGURATION, "larger"),
    door("config-option-long", ["--config", HUGE, "config", "show"], CONFIGURATION, "too long"),
    door("config-option-without-value", "--config", USAGE, "--config", "--help"),
    # Usage.
    door("unknown-command", "seal", USAGE, "'seal'", "see carbonseal --help"),
    door("unknown-subcommand", "keys forge", USAGE, "'forge'", "see carbonseal keys --help"),
    door("unknown-option", "keys list --verbose", USAGE, "--verbose", "see carbonseal keys list"),
    door("unknown-option-escape", ["keys", "list", "--\x1b[31m\n"], USAGE, "--\\x1b[31m"),
    door("too-many-arguments", "keys list a.example b.example", USAGE, "b.example"),
    door("no-argument", "keys generate", USAGE, "SDID"),
    door("format", "keys list --format xml", USAGE, "'xml'", "jsonl"),
    door("format-search", "archive search --format xml", USAGE, "'xml'"),
    door("format-show", "archive show 4TWICE --format xml", USAGE, "'xml'"),
    door("format-stats", "archive stats --format xml", USAGE, "'xml'"),
    door("format-generate", "keys generate a.example --format xml", USAGE, "'xml'"),
    door("format-import", f"{IMPORT} --format xml", USAGE, "'xml'"),
    door("format-show-key", "keys show example.com --format xml", USAGE, "'xml'"),
    door("format-activate", f"keys activate example.com s1 {PUBLISHED} --format xml", USAGE,
         "xml"),
    door("format-retire", "keys retire example.com s1 --format xml", USAGE, "'xml'"),
    door("huge-argument", ["keys", "list", "--format", HUGE], USAGE, "--format",
         "keys list --help"),
    door("flag-with-value", "run --no-writer=yes", USAGE, "--no-writer"),
    # Keys.
    door("generate-domain", "keys generate -- -x-.example", DATA, "-x-.example"),
    door("generate-one-label", "keys generate localhost", DATA, "'localhost'", "two labels"),
    door("generate-path", "keys generate ../../etc", DATA, "../../etc"),
    door("generate-huge", ["keys", "generate", HUGE], DATA, "domain"),
    door("generate-octets", ["keys", "generate", "\udcff.example"], DATA, "\\udcff"),
    door("generate-selector", "keys generate example.com --selector a_b", DATA, "'a_b'",
         "letters"),
    door("generate-selector-empty", ["keys", "generate", "example.com", "--selector", ""], DATA,
         "''"),
    door("generate-selector-path", "keys generate example.com --selector ../x", DATA, "'../x'"),
    door("generate-selector-huge", ["keys", "generate", "a.example", "--selector", HUGE], DATA,
         "no selector"),
    door("generate-selector-taken", "keys generate example.com --selector S1", DATA, "never used"),
    door("generate-template", "keys generate example.com --selector-template {day}", USAGE,
         "{date}"),
    door("generate-template-huge", ["keys", "generate", "a.example", "--selector-template", HUGE],
         DATA, "no selector"),
    door("generate-template-path", "keys generate a.example --selector-template ../{date}", DATA),
    door("generate-algorithm", "keys generate example.com --algorithm dsa", USAGE, "'dsa'", "rsa"),
    door("generate-bits", "keys generate example.com --bits 1024", USAGE, "2048"),
    door("generate-bits-negative", "keys generate example.com --bits -1", USAGE, "2048"),
    door("generate-bits-word", "keys generate example.com --bits many", USAGE, "'many'"),
    door("generate-bits-huge", ["keys", "generate", "a.example", "--bits", "9" * 5000], USAGE),
    door("generate-reason-huge", ["keys", "generate", "a.example", "--reason", HUGE], DATA,
         "--reason", "500"),
    door("generate-reason-lines", ["keys", "generate", "a.example", "--reason", "a\nb"], DATA,
         "one line"),
    door("generate-unpublished", "keys generate example.com --activate", USAGE, PUBLISHED),
    door("generate-into-file", "keys generate example.com", CONFIGURATION, "no directory",
         given=keys_are_a_file),
    door("generate-no-parent", "keys generate example.com", CONFIGURATION, "create it",
         given=changed("keys: keys", "keys: none/keys")),
    door("generate-while-locked", "keys generate example.com", LATER, "another command",
         given=key_lock_held),
    door("list-file", "keys list", CONFIGURATION, "no directory", given=keys_are_a_file),
    door("list-none", "keys list", CONFIGURATION, "no such keys directory", given=no_keys),
    door("list-domain", "keys list a..b", DATA, "'a..b'"),
    door("show-unknown", "keys show example.com s9", DATA, "no key s9", "keys list"),
    door("show-unknown-domain", "keys show other.example", DATA, "other.example", "keys list"),
    door("show-path", "keys show example.com ../example.com/s1", DATA, "no selector"),
    door("show-huge", ["keys", "show", "example.com", HUGE], DATA, "no selector"),
    door("show-broken-record", "keys show example.com s1", DATA, "s1.json",
         given=written("keys/example.com/s1.json", b"{")),
    door("activate-unknown", f"keys activate example.com s9 {PUBLISHED}", DATA, "no key s9"),
    door("activate-unpublished", "keys activate example.com s2", NOT_YET,
         "keys publish example.com s2"),
    door("activate-reason", ["keys", "activate", "example.com", "s2", PUBLISHED, "--reason",
         "\udcff"],
         DATA, "--reason"),
    door("activate-without-private", f"keys activate example.com s2 {PUBLISHED}", DATA, "s2.pem",
         given=lambda world: (world.keys / "example.com/s2.pem").unlink()),
    door("activate-damaged", f"keys activate example.com s2 {PUBLISHED}", DATA, "s2.pem",
         "restore",
         given=written("keys/example.com/s2.pem", b"x")),
    door("retire-unknown", "keys retire example.com s9", DATA, "no key s9"),
    door("retire-last", "keys retire example.com s1", REFUSED, "--leave-unsigned"),
    door("retire-reason", ["keys", "retire", "example.com", "s2", "--reason", HUGE], DATA, "500"),
    *(
        door(f"format-keys-{call.split()[0]}", f"keys {call} --format xml", USAGE, "'xml'")
        for call in (*LIVES, "check", "history example.com", "hosts", "plan", "status",
                     "export example.com --to there --form pem", "import-from directory .")
    ),
    *(
        door(f"reason-{call.split()[0]}", ["keys", *call.split(), "--reason", HUGE], DATA, "500")
        for call in (*LIVES, "import-from directory .")
    ),
    *(
        door(f"wait-{call.split()[0]}", f"keys {call} --wait soon", USAGE, "'soon'", "90s")
        for call in LIVES
        if call.split()[0] not in ("emergency", "reconcile", "retire", "rollback")
    ),
    door("publish-form", "keys publish example.com s2 --form txt", USAGE, "'txt'", "octodns"),
    door("publish-unknown", "keys publish example.com s9", DATA, "no key s9"),
    door("publish-active", "keys publish example.com s1", REFUSED, "not signed yet"),
    door("revoke-active", "keys revoke example.com s1", REFUSED, "keys rotate example.com"),
    door("remove-active", "keys remove example.com s1", REFUSED, "activate another"),
    door("remove-forced", "keys remove example.com s1 --force", USAGE, "--reason"),
    door("rollback-nothing", "keys rollback example.com", REFUSED, "no key is retiring"),
    door("emergency-alone", "keys emergency example.com", REFUSED, "--leave-unsigned"),
    door("rotate-what", "keys rotate", USAGE, "--all"),
    door("rotate-both", "keys rotate example.com --all", USAGE, "--all"),
    door("release-what", "keys reconcile --release", USAGE, "SELECTOR"),
    door("history-unknown", "keys history other.example", DATA, "keys list"),
    door("export-form", "keys export example.com --to there --form pgp", USAGE, "'pgp'"),
    door("export-into-full", "keys export example.com --to . --form pem", DATA, "empty"),
    door("export-installed", ["keys", "export", "example.com", "--to", "there", "--form",
                              "opendkim", "--installed-in", "a\nb"], DATA, "--installed-in"),
    door("import-from-what", "keys import-from sendmail .", USAGE, "'sendmail'", "opendkim"),
    door("import-from-nowhere", "keys import-from opendkim none.conf", DATA, "none.conf"),
    door("import-from-table", "keys import-from opendkim message.eml --signing-table none", DATA,
         "none"),
    door("import-without-file", "keys import example.com new", USAGE, "--private-key"),
    door("import-missing", IMPORT, DATA, "key.pem", "no such file"),
    door("import-long-name", ["keys", "import", "example.com", "new", "--private-key", HUGE], DATA,
         "too long"),
    door("import-directory", IMPORT, DATA, "directory", given=directory_at("key.pem")),
    door("import-device", "keys import example.com new --private-key /dev/zero", DATA, "regular"),
    door("import-selector", "keys import example.com -- - --private-key", USAGE),
    door("import-selector-bad", "keys import example.com a..b --private-key message.eml", DATA,
         "'a..b'"),
    door("import-domain", "keys import nonsense new --private-key message.eml", DATA, "nonsense"),
    door("import-taken", "keys import example.com s1 --private-key message.eml", DATA,
         "never used"),
    door("import-reason", [*IMPORT.split(), "--reason", "\x07"], DATA, "--reason"),
    door("import-unpublished", f"{IMPORT} --activate", USAGE, PUBLISHED),
    *(
        door(f"import-{name}", IMPORT, DATA, "key.pem", words, given=written("key.pem", content))
        for name, content, words in (
            ("empty", b"", "empty"),
            ("spaces", b" \n\n", "empty"),
            ("text", b"hello", "neither PEM"),
            ("binary", bytes(range(256)), "neither PEM"),
            ("huge", b"x" * 70_000, "64 KiB"),
            ("cut", KEY[:300], "no complete private key"),
            ("damaged", KEY.replace(KEY[200:210], b"AAAAAAAAAA"), "damaged"),
            ("public", _PUBLIC, "public key"),
            ("encrypted", pem(_RSA, b"secret"), "encrypted"),
            ("elliptic", pem(ec.generate_private_key(ec.SECP256R1())), "RSA or Ed25519"),
            ("dsa", pem(dsa.generate_private_key(1024)), "RSA or Ed25519"),
            ("large", pem(_RSA).replace(b"PRIVATE KEY", b"CERTIFICATE"), "certificate"),
            ("seed-short", b"AAAA", "neither PEM"),
            ("seed-halves", b"A" * 43 + b"B" + b"A" * 42, "neither PEM"),
        )
    ),
    # Policy explain.
    door("explain-nothing", "policy explain", USAGE, "--client"),
    *(
        door(f"explain-client-{name}", [*EXPLAIN, "--client", text], DATA, "--client", "192.0.2.1")
        for name, text in (
            ("name", "localhost"), ("empty", ""), ("number", "192.0.2.300"), ("network", "10/8"),
            ("lines", "192.0.2.1\n"), ("huge", HUGE), ("octets", "\udcff"),
        )
    ),
    *(
        door(f"explain-{option}-{name}", [*EXPLAIN, f"--{option}", text], DATA, f"--{option}",
             words)
        for option in ("from", "rcpt", "author", "login", "listener")
        for name, text, words in (
            ("lines", "a@b.example\r\nRCPT TO:<c@d.example>", "line breaks"),
            ("escape", "\x1b[31m@b.example", "control"),
            ("huge", HUGE, "2048"),
        )
    ),
    door("explain-message-missing", [*EXPLAIN, "none.eml"], DATA, "none.eml", "No such file"),
    door("explain-message-directory", [*EXPLAIN, "keys"], DATA, "keys", "directory"),
    door("explain-message-empty", [*EXPLAIN, "e.eml"], DATA, "empty", given=written("e.eml", b"")),
    door("explain-message-binary", [*EXPLAIN, "b.eml"], DATA, "no header field",
         given=written("b.eml", bytes(range(256)))),
    door("explain-message-database", [*EXPLAIN, "archive.db"], DATA, "no header field"),
    door("explain-message-line", [*EXPLAIN, "l.eml"], DATA, "no header field",
         given=written("l.eml", b"x" * 5_000_000)),
    door("explain-message-fifo", [*EXPLAIN, "f.eml"], DATA, "f.eml", "no regular file",
         given=lambda world: os.mkfifo(world.directory / "f.eml")),
    door("explain-message-nobody", [*EXPLAIN, "-"], DATA, "standard input", "empty"),
    door("config-fifo", "--config f.yaml config show", CONFIGURATION, "f.yaml", "no regular file",
         given=lambda world: os.mkfifo(world.directory / "f.yaml")),
    door("import-fifo", "archive import f.tar", DATA, "f.tar", "no regular file",
         given=lambda world: os.mkfifo(world.directory / "f.tar")),
    door("explain-without-keys", EXPLAIN, CONFIGURATION, "keys directory", given=no_keys),
    # The service.
    door("run-occupied-port", "run", CONFIGURATION, "cannot listen", "stop what uses",
         given=occupied_port),
    door("run-served-socket", "run", LATER, "milter.sock", "another process", given=served_socket),
    door("run-file-at-socket", "run", CONFIGURATION, "no socket", given=socket_at(
        "unix:DIRECTORY/message.eml")),
    door("run-no-directory", "run", CONFIGURATION, "cannot listen", "create",
         given=socket_at("unix:DIRECTORY/none/milter.sock")),
    door("run-group", "run", CONFIGURATION, "milter.socket_group 'nobodies'", "Postfix",
         given=changed("drain: 1", "drain: 1, socket_group: nobodies")),
    door("run-keys-file", "run", CONFIGURATION, "no directory", given=keys_are_a_file),
    door("run-spool-file", "run", CONFIGURATION, "record.spool",
         given=changed("spool: spool", "spool: message.eml")),
    door("run-foreign-address", "run", CONFIGURATION, "cannot listen",
         given=socket_at("inet:18894@192.0.2.1")),
    # The archive.
    *(
        door(f"search-{option}-{name}", ["archive", "search", f"--{option}", text], DATA, words)
        for option in ("sender", "recipient", "participant")
        for name, text, words in (
            ("bare", "bob", "user@example.com"),
            ("empty", "", "user@example.com"),
            ("sql", SQL, "user@example.com"),
            ("huge", HUGE, "shorten"),
        )
    ),
    *(
        door(f"search-{option}-{number}", ["archive", "search", f"--{option}", text], DATA,
             f"--{option}", "2026-11-21")
        for option in ("since", "until")
        for number, text in enumerate(
            ("yesterday", "", "2026-13-01", "21.11.2026", "-7d", "7y", "9999999d", SQL, HUGE)
        )
    ),
    door("stats-by", "archive stats --by moon", USAGE, "'moon'", "day"),
    door("stats-top", "archive stats --top 0", USAGE, "--top"),
    door("stats-plot", "archive stats --plot picture.bmp", DATA, "picture.bmp", ".svg"),
    *(
        door(f"{command.split()[0]}-{option}-wrong",
             ["archive", *command.split(), f"--{option}", text], status, part)
        for command in ("search", "stats", "export there message", "hold case message")
        for option, text, status, part in (
            ("since", "soon", DATA, "2026-11-21"),
            ("until", "soon", DATA, "2026-11-21"),
            ("from", "alice", DATA, "no domain"),
            ("to", "@a..b", DATA, "a..b"),
            ("recipient", "*", DATA, "user@example.com"),
            ("cc", "", DATA, "user@example.com"),
            ("author", "a b", DATA, "user@example.com"),
            ("sender", SQL, DATA, "user@example.com"),
            ("participant", "alice", DATA, "no domain"),
            ("domain", ".org", DATA, "top-level"),
            ("message-id", "<>", DATA, "--message-id"),
            ("queue-id", "*", DATA, "--queue-id"),
            ("client", "300.1.1.1", DATA, "--client"),
            ("login", " ", DATA, "--login"),
            ("relay", "", DATA, "--relay"),
            ("class", "", DATA, "--class"),
            ("size", "big", DATA, "--size"),
            ("subject", "%", DATA, "--subject"),
            ("header", "List-Id", DATA, "--header"),
            ("crossing", "sideways", USAGE, "'sideways'"),
            ("state", "happy", USAGE, "'happy'"),
            ("copy", "burnt", USAGE, "'burnt'"),
            ("reason", "two\nlines", DATA, "reason"),
        )
    ),
    *(
        door(f"search-query-{name}", ["archive", "search", text], DATA, part)
        for name, text, part in (
            ("wildcard", "*", "wildcard"),
            ("quote", 'from:"a', "close it"),
            ("sql", SQL, "quer"),
            ("fields", "x:y", "no field"),
            ("terms", " ".join(map(str, range(10_000))), "make several"),
            ("no-index", "size:>1M", "no index"),
        )
    ),
    door("follow-log", "follow --log there.log", USAGE, "--once"),
    door("format-copies", "archive copies --format xml", USAGE, "'xml'"),
    door("copies-since", "archive copies --since moon", DATA, "--since", "moon"),
    door("copies-until", "archive copies --until moon", DATA, "--until", "moon"),
    door("copies-reversed", "archive copies --since 2026-11-21 --until 2026-11-01", DATA,
         "exchange"),
    door("copies-reason", ["archive", "copies", "--reason", "a\nb"], DATA, "--reason"),
    door("copies-here", "archive copies --here", DATA, "carbonseal-follow"),
    door("copies-two", "archive copies --lost --pending", USAGE, "--lost and --pending"),
    door("copies-three", "archive copies --exits --pending --lost --here", USAGE, "--exits"),
    door("copies-before", "archive copies --until 2020-01-01", DATA, "--until 2020-01-01 lies"),
    door("copies-here-exits", "archive copies --here --exits", USAGE, "--here"),
    door("completeness-yesterday", "archive completeness --yesterday --since 7d", USAGE,
         "--yesterday"),
    door("completeness-since", "archive completeness --since soon", DATA, "--since"),
    door("completeness-until", "archive completeness --until soon", DATA, "--until"),
    door("completeness-future", "archive completeness --until 2100-01-01", DATA, "--until",
         "nothing of that time"),
    door("completeness-ahead", "archive completeness --since 2099-01-01", DATA,
         "--since 2099-01-01: nothing of that time has come so far"),
    door("completeness-relay", "archive completeness --relay none", DATA, "'none'"),
    door("completeness-format", "archive completeness --format xml", USAGE, "'xml'"),
    door("completeness-reason", ["archive", "completeness", "--reason", HUGE], DATA, "500"),
    door("stats-reversed", "archive stats --since 2026-11-21 --until 2026-11-01", DATA,
         "exchange"),
    door("search-reversed", "archive search --since 2026-11-21 --until 2026-11-01", DATA,
         "exchange"),
    *(
        door(f"search-{option}-huge", ["archive", "search", f"--{option}", HUGE], DATA, "shorten")
        for option in ("queue-id", "message-id", "client")
    ),
    door("search-sizes-reversed", "archive search --since 1d --size 5M..1M", DATA,
         "--size '5M..1M' ends before it begins"),
    door("search-domain", "archive search --domain a..b", DATA, "'a..b'"),
    door("search-domain-sql", ["archive", "search", "--domain", SQL], DATA, "domain"),
    door("search-message-id", ["archive", "search", "--message-id", ""], DATA, "--message-id"),
    door("search-subject", ["archive", "search", "--subject", "!!"], DATA, "--subject", "letters"),
    door("search-subject-many", ["archive", "search", "--subject", " ".join(map(str, range(99)))],
         DATA, "50 words"),
    door("search-client", "archive search --client 192.0.2.0/99", DATA, "--client", "192.0.2.1"),
    door("search-client-zone", "archive search --client fe80::1%eth0", DATA, "--client"),
    door("search-crossing", "archive search --crossing sideways", USAGE, "'sideways'", "outbound"),
    door("search-limit-0", "archive search --limit 0", USAGE, "--limit"),
    door("search-limit-negative", "archive search --limit -5", USAGE, "--limit"),
    door("search-limit-word", "archive search --limit all", USAGE, "--limit"),
    *(
        door(f"search-cursor-{name}", ["archive", "search", "--cursor", text], DATA, "--cursor",
             "cursor")
        for name, text in (
            ("word", "next"), ("empty", ""), ("cut", "01KB0000000000000000000"), ("sql", SQL),
            ("high", "Z" * 26), ("huge", HUGE), ("octets", "\udcff" * 26),
        )
    ),
    door("show-record-unknown", "archive show 4NONE", DATA, "4NONE", "archive search"),
    door("show-record-id", f"archive show {'0' * 26}", DATA, "0" * 26),
    door("show-record-sql", ["archive", "show", SQL], DATA, "archive search"),
    door("show-record-huge", ["archive", "show", HUGE], DATA, "archive search"),
    door("show-record-octets", ["archive", "show", "\udcff"], DATA, "archive search"),
    door("show-record-empty", ["archive", "show", ""], DATA, "archive search"),
    *(
        door(f"database-{name}", command, status, words, given=given)
        for command in ("archive search", "archive show 4TWICE", "archive stats")
        for name, status, words, given in (
            ("missing", LATER, "archive.db", lambda world: world.database.unlink()),
            ("garbage", LATER, "backup", database_is(b"garbage" * 1000)),
            ("empty", LATER, "archive write", database_is(b"")),
            ("older", LATER, "archive write", older_schema),
            ("newer", CONFIGURATION, "upgrade carbonseal", newer_schema),
            ("cut", LATER, "archive.db", cut_database),
            ("directory", LATER, "archive.db", directory_at("archive.db")),
            ("locked", LATER, "locked", locked_database),
            ("scheme", CONFIGURATION, "record.database", database_url("archive.db")),
            ("dialect", CONFIGURATION, "record.database", database_url("oracel://u:secret@h/d")),
            ("port", CONFIGURATION, "record.database", database_url("sqlite://h:x/d")),
            ("memory", CONFIGURATION, "memory", database_url("sqlite://")),
            ("driver", CONFIGURATION, "carbonseal[postgresql]",
             database_url("postgresql+pg8000://u:secret@127.0.0.1:1/d")),
            ("server", LATER, "postgresql d at 127.0.0.1:1: ",
             database_url("postgresql+psycopg://u:secret@127.0.0.1:1/d")),
            ("mysql", LATER, "mysql d at 127.0.0.1:1: ",
             database_url("mysql+pymysql://u:secret@127.0.0.1:1/d")),
        )
        if command == "archive search" or name in ("missing", "garbage", "locked")
    ),
    door("write-no-spool", "archive write --once", LATER, "spool", "check record.spool",
         given=lambda world: (world.directory / "spool").rmdir()),
    door("write-foreign", "archive write --once", CONFIGURATION, "another program",
         given=foreign_tables),
    door("write-spool-file", "archive write --once", LATER, "spool",
         given=both(lambda world: (world.directory / "spool").rmdir(), written("spool", b""))),
    door("write-no-directory", "archive write --once", LATER, "create",
         given=database_url("sqlite:///none/archive.db")),
    # Evidence, and what is handed over.
    door("export-what", "archive export there", USAGE, "--all"),
    *(
        door(f"export-{name}", ["archive", "export", path, "--all"], status, *words)
        for name, path, status, words in (
            ("taken", "message.eml", USAGE, ("is there already", "another name")),
            ("directory", "keys", USAGE, ("is there already", "another name")),
            ("empty", "", USAGE, ("is there already",)),
            ("nowhere", "none/there", LATER, ("none/there", "another place")),
            ("below-file", "message.eml/there.tar", LATER, ("another place",)),
            ("huge", HUGE, LATER, ("too long", "another place")),
        )
    ),
    door("export-hold", "archive export there --hold none", DATA, "none", "archive holds"),
    door("export-max", "archive export there --all --max 1", USAGE, "more than 1 records", "--max"),
    door("export-format", "archive export there --all --format xml", USAGE, "'xml'", "both"),
    *(
        door(f"import-bundle-{name}", ["archive", "import", path], DATA, *words, given=given)
        for name, path, words, given in (
            ("missing", "none", ("none", "archive export"), None),
            ("message", "message.eml", ("neither a directory nor a tar file",), None),
            ("keys", "keys", ("manifest.json", "archive export"), None),
            ("huge", HUGE, ("too long",), None),
            ("device", "/dev/zero", ("regular file", "archive export"), None),
            ("no-manifest", "bundle", ("no manifest",),
             written("bundle/manifest.json", "[" * 9999)),
            ("changed", "bundle", ("nothing was imported", "records.jsonl"),
             written("bundle/records.jsonl", "{}")),
        )
    ),
    door("import-bundle-sum", "archive import bundle --manifest-sha256 x", DATA,
         "nothing was imported", "SHA-256"),
    door("import-bundle-key", "archive import bundle --key keys/example.com/s1.pem", DATA, "s1.pem",
         "evidence.pub"),
    door("import-bundle-reason", ["archive", "import", "bundle", "--reason", "a\nb"], DATA,
         "--reason"),
    door("import-bundle-no-spool", "archive import bundle", LATER, "spool", "create",
         given=lambda world: (world.directory / "spool").rmdir()),
    *(
        door(f"verify-{option}-{number}", ["archive", "verify", f"--{option}", text], status, part)
        for number, (option, text, status, part) in enumerate(
            (
                ("since", "soon", DATA, "2026-11-21"),
                ("until", "2026-13-01", DATA, "2026-11-21"),
                ("relay", "none", DATA, "no chain of that name"),
                ("relay", "\udcff", DATA, "record.relay"),
                ("segments", "none", DATA, "loaded segments"),
                ("segments", HUGE, DATA, "loaded segments"),
                ("public-key", "none", DATA, "check the name"),
                ("public-key", "keys/example.com/s1.pem", DATA, "evidence.pub"),
                ("public-key", "/dev/zero", DATA, "evidence.pub"),
                ("expect", "nonsense", DATA, "NUMBER:HASH"),
                ("expect", "1:00", DATA, "NUMBER:HASH"),
                ("expect", "9" * 5000 + HEAD, DATA, "NUMBER:HASH"),
                ("expect-audit", "nonsense", DATA, "NUMBER:HASH"),
                ("expect-audit", "9" * 5000 + HEAD, DATA, "NUMBER:HASH"),
                ("bundle", "none", DATA, "archive export"),
                ("bundle", "message.eml", DATA, "neither a directory nor a tar file"),
                ("bundle", HUGE, DATA, "too long"),
                ("manifest-sha256", "x", USAGE, "--bundle"),
                ("most", "0", USAGE, "--most"),
                ("reason", HUGE, DATA, "500"),
            )
        )
    ),
    door("verify-both", f"archive verify --bundle bundle --expect {HEAD}", USAGE, "--expect",
         "leave out"),
    # Keeping.
    door("hold-what", "archive hold case", USAGE, "after:2000-01-01"),
    *(
        door(f"hold-{name}", ["archive", "hold", text, "from:alice@example.com"], DATA, part)
        for name, text, part in (
            ("space", "a b", "case-2026-17"), ("huge", HUGE, "case-2026-17"),
            ("gone", "gone", "was released"),
        )
    ),
    door("hold-taken", "archive hold taken from:bob@x.example", DATA, "hold taken", "another"),
    door("hold-no-index", ["archive", "hold", "case", "size:>1M"], DATA, "no index"),
    door("holds-format", "archive holds --format xml", USAGE, "'xml'"),
    door("holds-reason", ["archive", "holds", "--reason", HUGE], DATA, "500"),
    *(
        door(f"release-{name}", ["archive", "release", text], DATA, "archive holds")
        for name, text in (("unknown", "none"), ("octets", "\udcff"), ("huge", HUGE),
                           ("again", "gone"))
    ),
    door("release-reason", ["archive", "release", "taken", "--reason", "\x07"], DATA, "--reason"),
    door("retain-now", "archive retain --now soon", DATA, "--now", "2026-11-21"),
    door("retain-ahead", "archive retain --apply --now 2999-01-01", USAGE, "--now", "--apply"),
    door("retain-reason", ["archive", "retain", "--apply", "--reason", "\x07"], DATA, "--reason"),
    door("erase-nobody", ["archive", "erase", "\udcff@b.example"], DATA, "how it is written"),
    door("erase-whom", "archive erase --apply", USAGE, "ADDRESS", "--check"),
    *(
        door(f"erase-{name}", ["archive", "erase", "--apply", text], DATA, "user@example.com")
        for name, text in (("bare", "bob"), ("empty", ""), ("domain", "@x.example"), ("sql", SQL),
                           ("null", "<>"))
    ),
    *(
        door(f"erase-certificate-{name}",
             ["archive", "erase", "--apply", "bob@x.example", "--certificate", text], DATA, part,
             given=given)
        for name, text, part, given in (
            ("kind", "x.txt", ".json", None),
            ("nowhere", "none/x.json", "another file", None),
            ("huge", HUGE + ".json", "another file", None),
            ("taken", "x.json", "exists already", written("x.json", "")),
            ("text-taken", "x.json", "x.txt", written("x.txt", "")),
        )
    ),
    *(
        door(f"erase-check-{name}", ["archive", "erase", "--check", text], DATA, part, given=given)
        for name, text, part, given in (
            ("missing", "none.json", "name a certificate", None),
            ("message", "message.eml", "no certificate of erasure", None),
            ("version", "x.json", "version 1", written("x.json", CERTIFICATE % "null")),
        )
    ),
    door("erase-check-apply", "archive erase --check x.json --apply", USAGE, "leave out"),
    door("erase-reason", ["archive", "erase", "bob@x.example", "--reason", HUGE], DATA, "500"),
    # Looking back.
    door("trace-unknown", ["archive", "trace", "\udcff"], DATA, "archive search"),
    door("trace-format", "archive trace 4TWICE --format xml", USAGE, "'xml'"),
    door("trace-reason", ["archive", "trace", "4TWICE", "--reason", HUGE], DATA, "500"),
    door("show-reason", ["archive", "show", "4TWICE", "--reason", HUGE], DATA, "500"),
    door("reason-required", "archive search", USAGE, "--reason", "audit.require_reason",
         given=changed("ours:", "audit: {require_reason: true}\nours:")),
    *(
        door(f"audit-{option}", ["archive", "audit", f"--{option}", text], status, part)
        for option, text, status, part in (
            ("since", "soon", DATA, "2026-11-21"), ("until", "2026-13-01", DATA, "2026-11-21"),
            ("limit", "0", USAGE, "--limit"), ("format", "xml", USAGE, "'xml'"),
            ("reason", "\x07", DATA, "--reason"),
            ("action", "exports", USAGE, "'export'"), ("action", "", USAGE, "'search'"),
            ("action", HUGE, USAGE, "'search'"), ("actor", "", DATA, "--actor is empty"),
            ("actor", " ", DATA, "--actor is empty"),
        )
    ),
    door("audit-garbage", "archive search", LATER, "the audit cannot be used", "no answer",
         given=written("archive-audit.db", b"garbage" * 1000)),
    *(
        door(f"upgrade-{name}", ["archive", "upgrade", "--database", url], status, part)
        for name, url, status, part in (
            ("empty", "", CONFIGURATION, "database"),
            ("word", "archive", CONFIGURATION, "--database is no database URL"),
            ("dialect", "oracel://u:secret@h/d", CONFIGURATION, "--database: no driver for oracel"),
            ("nowhere", "sqlite:////none/x.db", LATER, "/none"),
            ("port-word", "postgresql+psycopg://u:secret@h:port/d", CONFIGURATION,
             "--database: what stands after host and colon is no port"),
            ("port-huge", "postgresql+psycopg://u:secret@h:99999/d", CONFIGURATION, "no port"),
            ("port-of-six", "mysql+pymysql://u:secret@[::1/d", CONFIGURATION, "in brackets"),
            ("number", "mysql+pymysql://u:secret@h/d?connect_timeout=soon", CONFIGURATION,
             "behind the question mark"),
        )
    ),
    door("upgrade-newer", "archive upgrade", CONFIGURATION, "upgrade carbonseal",
         given=newer_schema),
    door("upgrade-foreign", "archive upgrade", CONFIGURATION, "another program",
         given=foreign_tables),
    # Beside Postfix.
    *(
        door(f"{command}-{name}", ["postfix", command, "--config-directory", text], status, part)
        for command in ("lint", "bcc-maps")
        for name, text, status, part in (
            ("nowhere", "none", LATER, "--config-directory"),
            ("file", "message.eml", USAGE, "--config-directory"),
            ("huge", HUGE, LATER, "--config-directory"),
        )
    ),
    door("lint-format", "postfix lint --format xml", USAGE, "'xml'"),
    *(
        door(f"compare-{name}", ["policy", "compare", text], status, *words)
        for name, text, status, words in (
            ("missing", "none", USAGE, ("'none'",)),
            ("database", "archive.db", DATA, ("line 1",)),
            ("device", "/dev/zero", DATA, ("no file of messages",)),
        )
    ),
    *(
        door(f"migrate-{signer}-{name}", ["migrate", signer, *words], status, *said)
        for signer in ("opendkim", "dkimpy-milter", "rspamd")
        for name, words, status, said in (
            ("from", ["--from", "none.conf"], DATA, ("none.conf", "no such file")),
            ("from-device", ["--from", "/dev/zero"], DATA, ("/dev/zero", "regular")),
            ("from-long", ["--from", HUGE], DATA, ("too long",)),
            ("to", ["--to", "none/there"], USAGE, ("none", "no such directory")),
            ("to-and-config", ["--to", "a", "--config", "b"], USAGE, ("give one",)),
            ("config", ["--config", "carbonseal.yaml"], USAGE, ("is not overwritten",)),
            ("keys", ["--keys", "keys", "--from", "none.conf"], DATA, ("none.conf",)),
            ("domain", ["--domain", "a..b"], USAGE, ("--domain", "a..b")),
            ("archive", ["--archive", "nobody"], DATA, ("nobody",)),
            ("reason", ["--reason", HUGE], DATA, ("500",)),
            ("format", ["--format", "xml"], USAGE, ("'xml'",)),
        )
    ),
    door("compare-anew", "policy compare --anew message.eml", CONFIGURATION, "archive.bcc_maps",
         "postfix bcc-maps"),
    door("compare-format", "policy compare --format xml", USAGE, "'xml'"),
    door("write-newer", "archive write --once", CONFIGURATION, "upgrade carbonseal",
         given=newer_schema),
]  # fmt: skip

AS_NOBODY = [
    door("configuration", "config show", CONFIGURATION, "Permission denied", "--config",
         given=closed_to_nobody("carbonseal.yaml")),
    door("keys", "keys list", CONFIGURATION, "keys", given=closed_to_nobody("keys")),
    door("keys-generate", "keys generate other.example", CONFIGURATION, "keys", given=as_nobody),
    door("keys-activate", f"keys activate example.com s2 {PUBLISHED}", CONFIGURATION, "keys",
         given=as_nobody),
    door("keys-retire", "keys retire example.com s2", CONFIGURATION, "keys", given=as_nobody),
    door("import", "keys import example.com new --private-key message.eml", DATA, "message.eml",
         "may not read", given=both(without_example_keys, closed_to_nobody("message.eml"))),
    door("message", [*EXPLAIN, "message.eml"], DATA, "message.eml", "Permission denied",
         given=closed_to_nobody("message.eml")),
    door("database", "archive search", LATER, "archive.db", "permission",
         given=closed_to_nobody("archive.db")),
    door("audit", "archive search", LATER, "the audit cannot be used", "archive-audit.db",
         given=both(open_to_nobody, mode("archive-audit.db", 0o600))),
    door("audit-read-only", "archive audit", LATER, "the audit cannot be used", "permission",
         given=both(open_to_nobody, mode("archive-audit.db", 0o444))),
    *(
        door(f"{call.split()[1]}-closed{number}", call, status, "ermission denied", part,
             given=open_to_nobody)
        for number, (call, status, part) in enumerate((
            ("archive export closed/there --all", LATER, "another place"),
            ("archive erase a@b.example --apply --certificate closed/x.json", DATA, "another file"),
            ("archive erase --check closed/x.json", DATA, "certificate"),
            ("archive verify --public-key closed/evidence.pub", DATA, "check the name"),
            ("archive verify --bundle closed/bundle", DATA, "archive export"),
            ("policy compare closed/records.jsonl", USAGE, "closed"),
        ))
    ),
    *(
        door(f"verify-segments-{status}", f"archive verify --segments {path}", status, "closed",
             "rea", given=open_to_nobody)
        for path, status in (("closed", USAGE), ("closed/loaded", DATA))
    ),
    door("import-spool", "archive import bundle", LATER, "spool", "permission",
         given=both(open_to_nobody, mode("spool", 0o755))),
    door("erase-spool", "archive erase bob@x.example", LATER, "spool",
         given=both(open_to_nobody, mode("spool", 0o700))),
    door("hold-database", "archive hold case from:bob@x.example", LATER, "archive.db", "permission",
         given=both(open_to_nobody, mode("archive.db", 0o444))),
    door("write", "archive write --once", LATER, "spool", "permissions", given=as_nobody),
    door("run-port", "run", CONFIGURATION, "cannot listen", "Permission denied", given=both(
        socket_at("inet:25@127.0.0.1"), without_example_keys, as_nobody)),
    door("run-directory", "run", CONFIGURATION, "cannot listen", "write permission", given=both(
        without_example_keys, as_nobody)),
]  # fmt: skip


def assert_one_sentence(done: subprocess.CompletedProcess[str], words: tuple[str, ...]) -> None:
    """On standard error, for people; nothing of Python's, and nothing secret."""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr[-3000:]
    sentence = lines[0]
    assert sentence.startswith("carbonseal: "), sentence
    assert len(sentence) < 2000
    for word in words:
        assert word in sentence, sentence
    for word in ("Traceback", "Input should", "<class", "Errno", "0x7f", "secret", "None"):
        assert word not in sentence, sentence
    assert all(one.isprintable() for one in sentence), ascii(sentence)
    assert done.stdout == ""


@pytest.mark.parametrize(("arguments", "status", "words", "given", "env"), DOORS)
def test_bad_input_gets_one_sentence_and_changes_nothing(
    world: World,
    arguments: list[str],
    status: int,
    words: tuple[str, ...],
    given: Prepare | None,
    env: dict[str, str],
) -> None:
    """Whatever is wrong: place and remedy in one line, the exit code of sysexits, no change."""
    if given is not None:
        given(world)
    before, asked = world.content(), world.audit()
    done = world.run(*arguments, env=env) if env else world.call(*arguments)
    assert done.returncode == status, done.stderr[-3000:]
    assert_one_sentence(done, words)
    assert world.content() == before
    assert_only_asked(world.audit(), asked)


def assert_only_asked(events: list[tuple[str, ...]], before: list[tuple[str, ...]]) -> None:
    """The one change that is right: that it was asked, and that there was no answer."""
    assert events[: len(before)] == before
    if added := events[len(before) :]:
        [(_, action, _), (_, answered, detail)] = added
        assert action != "answered"
        assert answered == "answered"
        assert '"outcome":"failed"' in detail.replace(" ", "")


def test_whom_a_hold_covers_is_not_erased_and_the_hold_is_named(world: World) -> None:
    """What was found is shown, as without --apply; the audit says that it was asked."""
    before, asked = world.content(), world.audit()
    done = world.call("archive", "erase", "--apply", "alice@example.com")
    assert done.returncode == DATA
    assert done.stdout.startswith("mailboxes in the dictionary   1\n")
    done.stdout = ""
    assert_one_sentence(done, ("taken", "release"))
    assert world.content() == before
    assert_only_asked(world.audit(), asked)


@pytest.mark.root
@ROOT_ONLY
@OPEN_ONLY
@pytest.mark.parametrize(("arguments", "status", "words", "given", "env"), AS_NOBODY)
def test_a_user_without_permission_is_told_which(
    world: World,
    arguments: list[str],
    status: int,
    words: tuple[str, ...],
    given: Prepare,
    env: dict[str, str],
) -> None:
    """The same, for a user who may not read or write."""
    test_bad_input_gets_one_sentence_and_changes_nothing(
        world, arguments, status, words, given, env
    )


# --- Odd, but good --------------------------------------------------------------------------------

FINE = [
    pytest.param(["config", "check"], {}, id="check"),
    pytest.param(["archive", "search", "--queue-id", "\udcff"], {}, id="queue-id-octets"),
    pytest.param(["archive", "search", "--login", SQL], {}, id="login-sql"),
    pytest.param(["archive", "search", "--login", "\udcff"], {}, id="login-octets"),
    pytest.param(["archive", "search", "--subject", SQL], {}, id="subject-sql"),
    pytest.param(["archive", "search", "--since", "0001-01-01"], {}, id="since-year-1"),
    pytest.param(["archive", "search", "--since", "99999d"], {}, id="since-before-1970"),
    pytest.param(["archive", "search", "--until", "9999-12-30"], {}, id="until-year-9999"),
    pytest.param(["archive", "stats", "--since", "0001-01-01"], {}, id="stats-year-1"),
    pytest.param(["archive", "search", "--limit", "9" * 30], {}, id="limit-huge"),
    pytest.param(["archive", "search", "--cursor", "0" * 26], {}, id="cursor-of-another-query"),
    pytest.param([*"archive search --since 7d --relay".split(), "\udcff"], {}, id="relay-octets"),
    pytest.param(["archive", "audit", "--actor", "\udcff"], {}, id="actor-octets"),
    pytest.param(["archive", "audit", "--limit", "9" * 30], {}, id="audit-limit-huge"),
    pytest.param(["archive", "retain", "--now", "0001-01-01"], {}, id="retain-year-1"),
    pytest.param(["archive", "show", "4TWICE"], {}, id="ambiguous-queue-id"),
    pytest.param(["archive", "search", "--format", "table"], {"COLUMNS": "20"}, id="narrow"),
    pytest.param(["archive", "search"], {"COLUMNS": "0"}, id="no-width"),
    pytest.param(["archive", "search"], {"COLUMNS": "wide"}, id="width-in-words"),
    pytest.param(["keys", "list"], {"COLUMNS": "20", "TERM": "dumb"}, id="narrow-keys"),
    pytest.param(["keys", "show", "example.com"], {"LC_ALL": "C"}, id="locale-c"),
    pytest.param(["keys", "list"], {"PYTHONIOENCODING": "ascii"}, id="ascii"),
    pytest.param(["config", "show"], {"PYTHONIOENCODING": "utf-16"}, id="utf-16-output"),
    pytest.param(["config", "show"], {"LC_ALL": "xx_XX.nonsense"}, id="unknown-locale"),
    pytest.param(["archive", "--help"], {"COLUMNS": "20"}, id="narrow-help"),
    pytest.param([*EXPLAIN, "--author", "\udcff@b.example"], {}, id="author-octets"),
    pytest.param([*EXPLAIN, "--login", "bücher"], {"PYTHONIOENCODING": "ascii"}, id="login-ascii"),
    pytest.param([*EXPLAIN, "--rcpt", "a@b@c"], {}, id="recipient-unparsable"),
    pytest.param(
        [*"keys generate é.example --algorithm ed25519 --dry-run".split()], {}, id="dry-run"
    ),
    pytest.param(["keys", "list", "unknown.example"], {}, id="no-keys-is-no-error"),
]


@pytest.mark.parametrize(("arguments", "env"), FINE)
def test_odd_input_that_means_something_is_answered(
    world: World, arguments: list[str], env: dict[str, str]
) -> None:
    """No complaint, and nothing changes by asking."""
    before = world.content()
    done = world.run(*arguments, env=env) if env else world.call(*arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    assert world.content() == before


def test_a_queue_id_that_came_back_shows_both_records(world: World) -> None:
    """Without long queue ids Postfix reuses them."""
    done = world.call("archive", "show", "4TWICE", "--json")
    assert len(done.stdout.splitlines()) == 2


def test_configuration_in_utf_16_with_its_mark_is_read(world: World) -> None:
    """YAML allows it, and some editors write it."""
    world.file.write_bytes(world.file.read_text().encode("utf-16"))
    assert world.call("config", "show").returncode == 0


def test_config_check_names_every_mistake_on_a_line_of_its_own(world: World) -> None:
    """Three mistakes, three lines; a line break in a key makes no fourth."""
    world.configure('ours: {domains: [1, "a..b"]}\n"x\\ny": 1\n')
    done = world.call("config", "check")
    assert done.returncode == CONFIGURATION
    assert len(done.stderr.splitlines()) == 3
    assert all("carbonseal.yaml, line " in line for line in done.stderr.splitlines())


# --- Output ---------------------------------------------------------------------------------------

PRINTING = [
    pytest.param(["archive", "search", "--json"], id="jsonl"),
    pytest.param(["archive", "search", "--format", "csv"], id="csv"),
    pytest.param(["archive", "search"], id="table"),
    pytest.param(["archive", "show", "4TWICE"], id="show"),
    pytest.param(["keys", "show", "example.com"], id="key"),
    pytest.param(["config", "show"], id="yaml"),
    pytest.param(EXPLAIN, id="explain"),
    pytest.param(["--help"], id="help"),
]


@pytest.mark.parametrize("arguments", PRINTING)
def test_output_to_a_full_disk_is_said_in_one_sentence(world: World, arguments: list[str]) -> None:
    """A short file that looks whole would be worse."""
    with open("/dev/full", "w") as full:
        done = world.run(*arguments, stdout=full)
    assert done.returncode == LATER
    assert done.stderr == (
        "carbonseal: the output cannot be written (No space left on device); make room or send "
        "it elsewhere\n"
    )


@pytest.mark.parametrize("arguments", PRINTING)
def test_a_reader_that_has_enough_is_no_error(world: World, arguments: list[str]) -> None:
    """As in `carbonseal archive search | head -1`: what only lists stops as SIGPIPE would end it,
    and all else ends as it would have."""
    done = world.unread(*arguments)
    is_list = arguments[0] == "archive"
    assert (done.returncode, done.stderr) == (CUT_SHORT if is_list else 0, "")


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["archive", "verify"], id="verify"),
        pytest.param(["archive", "completeness"], id="completeness"),
        pytest.param(["config", "check"], id="config"),
        pytest.param(["status"], id="status"),
    ],
)
def test_a_verdict_stays_the_same_when_nobody_reads_it(world: World, arguments: list[str]) -> None:
    """`set -o pipefail; archive verify | head -1`: what is not true does not become true."""
    world.change("archive@archive.example.net", "")
    with sqlite3.connect(world.database) as archive:
        archive.execute("DELETE FROM header_section")
    told = world.run(*arguments)
    assert told.returncode != 0
    assert told.stdout + told.stderr
    assert world.unread(*arguments).returncode == told.returncode
    quiet = world.unread(*arguments, stderr=subprocess.STDOUT)  # `2>&1 | head -1`
    assert quiet.returncode == told.returncode


@pytest.mark.parametrize("arguments", PRINTING)
def test_output_that_is_closed_does_no_harm(world: World, arguments: list[str]) -> None:
    """`>&-`: a file opened later must not get the output."""
    before = world.content()
    world.prefix = ["sh", "-c", 'exec "$@" >&-', "sh"]
    done = world.run(*arguments)
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr
    assert world.content() == before


@pytest.mark.parametrize("name", ["-", "/dev/stdin", "/proc/self/fd/0"])
def test_a_message_comes_through_a_pipe(world: World, name: str) -> None:
    """As in `... | policy explain ... -` and `policy explain ... <(...)`."""
    reading, writing = os.pipe()
    os.write(writing, b"From: bob@partner.example\r\n\r\nHello\r\n")  # whom we do not sign for
    os.close(writing)
    with open(reading, "rb") as pipe:
        done = world.run(*EXPLAIN, name, stdin=pipe)
    assert (done.returncode, done.stderr) == (0, "")
    assert "signatures   none" in done.stdout


@pytest.mark.parametrize("form", [[], ["--json"], ["--changed"]])
@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://carbonseal:s3cr%2Ft%20@db.example.net:5432/archive?host=a",
        "mysql+pymysql://carbonseal@/archive?host=a&password=s3cr/t&read_timeout=5",
    ],
)
def test_the_configuration_is_shown_without_the_password(
    world: World, url: str, form: list[str]
) -> None:
    """It gets pasted into tickets; all else of the URL is as it was written."""
    world.change("sqlite:///archive.db", url)
    done = world.call("config", "show", *form)
    assert done.returncode == 0, done.stderr
    assert "s3cr" not in done.stdout
    assert url.replace("s3cr%2Ft%20", "***").replace("s3cr/t", "***") in done.stdout


def test_complaints_that_nobody_can_read_keep_their_status(world: World) -> None:
    """Scripts look at the exit code."""
    with open("/dev/full", "w") as full:
        assert world.run("keys", "show", "example.com", "s9", stderr=full).returncode == DATA


def test_an_interrupt_ends_a_command_quietly(world: World) -> None:
    """Ctrl-C while a message is read."""
    reading, writing = os.pipe()
    process = subprocess.Popen(
        # A shell starts what runs in the background with this signal ignored, tests as well.
        ["env", "--default-signal=INT", COMMAND, *EXPLAIN, "-"],
        stdin=reading,
        cwd=world.directory,
        env={**os.environ, "CARBONSEAL_CONFIG": str(world.file)},
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(reading)
    with open(writing, "wb") as message:
        # More than a pipe holds: it is written when the command has read some of it.
        message.write(b"x" * (1 << 20))
        process.send_signal(signal.SIGINT)
    # Closed only now, but before the wait: a signal that came just before read(2) is acted upon
    # when that returns.
    _, complaint = process.communicate(timeout=30)
    assert (process.returncode, complaint.strip()) == (130, "")


# --- Defects --------------------------------------------------------------------------------------

DEFECTIVE = """
from carbonseal.milter import cli, postfix_setup
def snippet(configuration):
    raise KeyError("-----BEGIN PRIVATE KEY-----")
postfix_setup.snippet = snippet
cli.main(["postfix", "snippet"])
"""


@pytest.mark.parametrize("debug", [pytest.param("", id="quiet"), pytest.param("1", id="debug")])
def test_a_defect_is_one_sentence_unless_details_are_asked_for(world: World, debug: str) -> None:
    """A traceback tells an administrator nothing, and may show what a key file held."""
    done = subprocess.run(
        [sys.executable, "-c", DEFECTIVE],
        env={**os.environ, "CARBONSEAL_CONFIG": str(world.file), "CARBONSEAL_DEBUG": debug},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == DEFECT
    *details, sentence = done.stderr.splitlines()
    assert sentence.startswith("carbonseal: internal error (KeyError in ")
    assert "CARBONSEAL_DEBUG=1" in sentence
    assert ("Traceback" in done.stderr) == bool(debug)
    assert ("PRIVATE KEY" in done.stderr) == bool(debug)
    assert bool(details) == bool(debug)


# --- Places that are full or taken ----------------------------------------------------------------

FULL_DISK = """
set -e
mount -t tmpfs -o size=64k,mode=0700 tmpfs keys
mkdir keys/example.com
dd if=/dev/zero of=keys/filler bs=4k 2>/dev/null || true
find keys -type f >../before
carbonseal=$1; shift
set +e
"$carbonseal" "$@"
status=$?
find keys -type f ! -name .lock ! -name .untold >../after
cmp ../before ../after || exit 99
exit $status
"""


@pytest.mark.root
@ROOT_ONLY
def test_a_full_disk_keeps_no_half_of_a_key(world: World) -> None:
    """In a mount namespace of its own, nobody else sees the small disk."""
    world.prefix = ["unshare", "--mount", "sh", "-c", FULL_DISK, "sh"]
    done = world.run("keys", "generate", "example.com", "--algorithm", "ed25519")
    assert done.returncode == LATER, done.stderr
    warning, sentence = done.stderr.splitlines()
    assert warning.startswith("warning: many receivers")
    assert "No space left on device" in sentence


def test_a_second_instance_leaves_the_socket_to_the_first(world: World) -> None:
    """It says so and ends; the first goes on serving under the same name."""
    service = Carbonseal(world.directory / "relay")
    service.command("keys", "generate", "example.com")
    (service.directory / "spool").mkdir(exist_ok=True)
    with service:
        inode = service.socket.stat().st_ino
        done = service.command("run", check=False)
        assert done.returncode == LATER
        assert_one_sentence(done, (str(service.socket), "another process serves it"))
        assert service.socket.stat().st_ino == inode
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(service.socket))
        assert "internal-error" not in service.log()


def test_a_stale_socket_is_no_obstacle(world: World) -> None:
    """What a killed service left behind is replaced."""
    service = Carbonseal(world.directory / "relay")
    service.command("keys", "generate", "example.com")
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(service.socket))
    with service:
        assert service.socket.is_socket()


# --- No door without a case -----------------------------------------------------------------------


def options(command: click.Command, above: str = "") -> Iterator[tuple[str, str]]:
    """Each option with a value, by the words of its command."""
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.is_flag:
            yield above.strip(), parameter.opts[-1]
    if isinstance(command, click.Group):
        for name in command.list_commands(NOWHERE):
            inner = command.get_command(NOWHERE, name)
            assert inner is not None
            yield from options(inner, f"{above} {name}")


@pytest.mark.parametrize(("words", "option"), list(options(cli.carbonseal)))
def test_every_option_with_a_value_has_a_case(words: str, option: str) -> None:
    """A new option comes with what happens when it is wrong."""
    calls = [list(map(str, one.values[0])) for one in (*DOORS, *FINE)]  # type: ignore[arg-type]
    command = words.split()
    assert any(option in call and all(word in call for word in command) for call in calls)


def commands(command: click.Command, above: str = "") -> Iterator[str]:
    """The words of each command that does something."""
    if isinstance(command, click.Group):
        for name in command.list_commands(NOWHERE):
            inner = command.get_command(NOWHERE, name)
            assert inner is not None
            yield from commands(inner, f"{above} {name}")
    else:
        yield above.strip()


@pytest.mark.parametrize("words", list(commands(cli.carbonseal)))
def test_help_fits_a_hundred_columns_and_needs_no_configuration(world: World, words: str) -> None:
    """Help is asked for when nothing works yet."""
    world.file.unlink()
    done = world.call(*words.split(), "--help", env={"COLUMNS": "300"})
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: carbonseal")
    assert max(map(len, done.stdout.splitlines())) <= 100
