r"""The examples of the man pages, and a directory in which they can be run as they stand.

An example is what stands between `.EX` and `.EE`: commands as a person types them, or, after a
line `.\" configuration`, a piece of carbonseal.yaml.  Further lines before `.EX` say what a block
needs that this directory has not (`.\" needs: dns`: its commands are parsed only) and how its
commands end (`.\" exits: 1`).

Promises: a `World` is the root of a relay: configuration, an active key, an archive with records,
the files of other signers and of Postfix; paths in examples are taken below it.  `as_typed` takes
shell words apart without a shell.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from support import archive, forked, manual_pages
from support.archive import build_record, headers

# Programs in examples that are not ours, and not run.
OTHERS = {"systemctl", "journalctl"}

# What a block may need, and what of it can be had here.
NEEDS = {"dns", "journal", "a terminal", "postconf", "postfix", "service", "smtp"}
GIVEN = {"postconf", "service"}

_EXAMPLE = re.compile(r'(?ms)^((?:\.\\"[^\n]*\n)*)\.EX\n(.*?)\n\.EE$')
_WORDS_FOR_SUDO = re.compile(r"^sudo -u \S+ ")


@dataclass(frozen=True)
class Example:
    """A block of a page."""

    page: str
    text: str
    needs: frozenset[str]
    exits: int
    is_configuration: bool

    def commands(self) -> list[list[str]]:
        """The words of each line, without prompt and sudo."""
        return [as_typed(line) for line in self.text.splitlines()]


def as_typed(line: str) -> list[str]:
    """The words of a line as the shell would give them."""
    prompt, _, rest = line.partition(" ")
    assert prompt in ("$", "#"), f"an example begins with $ or #: {line}"
    assert not re.search(r"[|;&$`]", rest), f"an example is one plain command: {line}"
    return shlex.split(_WORDS_FOR_SUDO.sub("", rest))


def examples(page: Path) -> list[Example]:
    """All of a page, in their order."""
    found = []
    for marks, body in _EXAMPLE.findall(page.read_text()):
        needs = {one.strip() for one in re.findall(r'(?m)^\.\\" needs: (.*)$', marks)}
        exits = re.search(r'(?m)^\.\\" exits: (\d+)$', marks)
        found.append(
            Example(
                page.name,
                "\n".join(map(manual_pages.plain, body.splitlines())),
                frozenset(needs),
                int(exits[1]) if exits else 0,
                '.\\" configuration' in marks,
            )
        )
    return found


# --- A relay in a directory -----------------------------------------------------------------------

_QUEUE_ID = "4jWgr24Qd6zJ9LL"

_CONFIGURATION: dict[str, dict[str, Any]] = {
    "milter": {"socket": "unix:/run/carbonseal/milter.sock", "workers": 1, "drain": "1s"},
    "ours": {"domains": ["example.com"], "networks": ["192.0.2.0/24"]},
    "signing": {"keys": "/var/lib/carbonseal/keys"},
    "archive": {"recipients": ["archive@archive.example.net"]},
    "record": {
        "spool": "/var/spool/carbonseal",
        "database": "sqlite:////var/lib/carbonseal/archive/archive.db",
        "relay": "mx1.example.com",
    },
    "follow": {"log": "/var/log/mail.log"},
}

_OPENDKIM = """\
KeyTable /etc/opendkim.keytable
SigningTable refile:/etc/opendkim.signingtable
InternalHosts /etc/opendkim.hosts
Canonicalization relaxed/simple
"""

_FILES = {
    "etc/opendkim.conf": _OPENDKIM,
    "etc/opendkim.keytable": "one example.net:mail:/etc/dkimkeys/mail.private\n",
    "etc/opendkim.signingtable": "*@example.net one\n",
    "etc/opendkim.hosts": "192.0.2.0/24\n",
    "etc/dkimpy-milter/dkimpy-milter.conf": (
        "Domain example.net\nSelector mail\nKeyFile /etc/dkimkeys/mail.private\n"
    ),
    "etc/rspamd/local.d/dkim_signing.conf": (
        'domain { example.net { selector = "mail"; path = "/etc/dkimkeys/mail.private"; } }\n'
    ),
    "etc/postfix-out/main.cf": (
        "compatibility_level = 3.6\nmyhostname = mx1.example.com\nmydestination = example.com\n"
        "mynetworks = 192.0.2.0/24\n"
        "sender_bcc_maps = inline:{alice@example.com=archive@archive.example.net}\n"
    ),
    "etc/postfix-out/master.cf": "smtp inet n - n - - smtpd\ncleanup unix n - n - 0 cleanup\n",
    "etc/postfix/archive.pcre": "/./ archive@archive.example.net\n",
    "tmp/message.eml": (
        "From: Alice <alice@example.com>\nTo: bob@partner.example\nSubject: Report\n\nText\n"
    ),
    "srv/outgoing.mbox": (
        "From carol@partner.example Sat Nov 21 05:00:00 2026\n"
        "From: Carol <carol@partner.example>\nTo: alice@example.com\nSubject: Report\n\nText\n\n"
    ),
    "etc/carbonseal/tsa.pem": "",
}

_SECRETS = {
    "etc/carbonseal/tsig.key": (
        'key "carbonseal-key" { algorithm hmac-sha256;'
        ' secret "c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0IHNlY3JldCE="; };\n'
    ),
    "etc/carbonseal/credentials.yaml": "auth_token: secret\n",
}

_DIRECTORIES = (
    "srv",
    "run/carbonseal",
    "var/spool/carbonseal",
    "var/spool/postfix/carbonseal",
    "var/lib/carbonseal/keys",
    "var/lib/carbonseal/archive",
)


class World:
    """The root of a relay in `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.file = root / "etc/carbonseal/carbonseal.yaml"

    def build(self) -> World:
        """Fill it."""
        for name in _DIRECTORIES:
            (self.root / name).mkdir(parents=True)
        (self.root / "var/lib/carbonseal/keys").chmod(0o700)
        for name, content in {**_FILES, **_SECRETS}.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.below(content))
            path.chmod(0o600 if name in _SECRETS else 0o644)
        self.configure(self.file, {})
        self.configure(self.file.with_name("new.yaml"), {})
        self._key("etc/dkimkeys/mail.private")
        self._run("keys generate example.com --selector s2026a --activate --assume-published")
        self._records()
        return self

    def _key(self, name: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True)
        command = ["openssl", "genrsa", "-out", str(path), "2048"]
        subprocess.run(command, check=True, capture_output=True)
        path.chmod(0o600)

    def _records(self) -> None:
        one = archive.Archive(self.root / "tmp")
        one.spool_directory = self.root / "var/spool/carbonseal"
        third = headers(From="Carol <carol@partner.example>", To="alice@example.com")
        ago = time.time() - archive.START - 3600  # retention wants records that are new
        one.put(
            build_record(0, seconds=ago, queue_id=_QUEUE_ID),
            build_record(1, seconds=ago + 1),
            build_record(
                2, seconds=ago + 2, header_fields=third, signatures=[], crossing="inbound"
            ),
        )
        self._mail_log(time.time() - 3590)
        self._run("follow --once")
        self._run("archive write --once")

    def _mail_log(self, now: float) -> None:
        """One message of those was delivered, and its copy; the log says nothing of the others."""
        said = [
            f"{time.strftime('%b %e %H:%M:%S', time.localtime(now))} mx1 postfix/smtp[77]:"
            f" {_QUEUE_ID}: to=<{to}>, relay=mx.partner.example[203.0.113.5]:25, delay=1,"
            f" delays=0.1/0/0.4/0.5, dsn=2.0.0, status=sent (250 ok)\n"
            for to in ("bob@partner.example", "archive@archive.example.net")
        ]
        (self.root / "var/log").mkdir()
        for name in ("mail.log", "mail.log.1"):
            (self.root / "var/log" / name).write_text("".join(said))

    def _run(self, line: str) -> None:
        done = self.command(["carbonseal", *line.split()])
        assert done.returncode == 0, f"{line}: {done.stderr}"

    def below(self, text: str) -> str:
        """The text with each absolute path moved below the root."""
        return re.sub(r"(^|[\s=:\"'\[(,]|sqlite:///)(/(?=[a-z]))", rf"\1{self.root}\2", text)

    def configure(self, path: Path, changes: Mapping[str, Any]) -> None:
        """Write a configuration; `changes` are laid over its sections."""
        sections = {name: {**section} for name, section in _CONFIGURATION.items()}
        for name, change in changes.items():
            sections[name] = {**sections.get(name, {}), **change}
        path.write_text(yaml.safe_dump(_below(sections, self), sort_keys=False))

    def environment(self) -> Mapping[str, str]:
        """For commands that are run here."""
        return {**os.environ, "CARBONSEAL_CONFIG": str(self.file), "COLUMNS": "120"}

    def command(self, words: list[str]) -> subprocess.CompletedProcess[str]:
        """A command, `carbonseal` mostly; paths are taken below the root."""
        moved = [re.sub(r"^(/[a-z])", rf"{self.root}\1", word) for word in words]
        if words[0] != "carbonseal":
            return subprocess.run(moved, capture_output=True, text=True, check=False)
        return forked.run(moved[1:], self.environment(), self.root / "srv")

    def copy(self, root: Path) -> World:
        """The same in another directory."""
        shutil.copytree(self.root, root)
        for path in filter(Path.is_file, (root / "etc").rglob("*")):
            path.write_text(path.read_text().replace(str(self.root), str(root)))
        return World(root)


def _below(value: Any, world: World) -> Any:
    if isinstance(value, dict):
        return {key: _below(one, world) for key, one in value.items()}
    if isinstance(value, list):
        return [_below(one, world) for one in value]
    return world.below(value) if isinstance(value, str) else value


def ours(example: Example) -> Iterator[list[str]]:
    """The commands that can be run here: ours, and moves of files."""
    for words in example.commands():
        assert words[0] in {"carbonseal", "mv"} | OTHERS, f"{example.page}: {words[0]}"
        if words[0] not in OTHERS:
            yield words
