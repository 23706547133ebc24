"""OpenDKIM as the signer that was there before: a private process, asked who signs what.

Promises: the daemon serves on a UNIX socket in its own directory and is ended by pid.

Raises: AssertionError with the daemon's output when it does not serve.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.background import Background
from support.milter_client import Client, Conversation, Envelope, serves
from support.milter_protocol import Stage

_PATIENCE = 120.0  # seconds
_FIELDS: list[tuple[str | bytes, bytes]] = [
    ("To", b" bob@partner.example"),
    ("Subject", b" hello"),
    ("Date", b" Sat, 21 Nov 2026 12:00:00 +0000"),
    ("Message-ID", b" <1@example.com>"),
]


@dataclass(frozen=True, slots=True)
class Case:
    """One message: who hands it over, as whom."""

    author: str
    client: str = "192.0.2.10"
    login: str = ""
    listener: str = "smtpd"


@dataclass(frozen=True, slots=True)
class OldSigner:
    """A daemon that serves."""

    socket: Path

    def signs(self, case: Case) -> list[tuple[str, str]]:
        """d= and s= (in lower case) of each signature it puts on a message."""
        macros: Mapping[Stage, Mapping[str, str]] = {
            Stage.MAIL: {"{auth_type}": "PLAIN", "{auth_authen}": case.login} if case.login else {}
        }
        fields = [("From", f" {case.author}".encode()), *_FIELDS]
        with Conversation(self.socket, macros={"{daemon_name}": case.listener}) as talk:
            talk.open(Client("desk.example.com", case.client, 25_000, "desk"))
            outcome = talk.send_message(
                Envelope(f"<{case.author}>"), fields, b"Hello.\r\n", macros=macros
            )
        return sorted(
            _names(value) for _, name, value in outcome.inserted if name == "DKIM-Signature"
        )


def _names(value: bytes) -> tuple[str, str]:
    tags = dict(part.strip().split("=", 1) for part in value.decode().split(";") if "=" in part)
    return tags["d"].strip().lower(), tags["s"].strip().lower()


@contextmanager
def opendkim(configuration: Path, folder: Path) -> Iterator[OldSigner]:
    """The real daemon with a configuration file, but for its socket and process settings."""
    run = folder / "run.conf"
    socket = folder / "socket"
    kept = [
        line
        for line in configuration.read_text().splitlines()
        if line.split(None, 1)[:1]
        not in (["Socket"], ["UserID"], ["PidFile"], ["Syslog"], ["SyslogSuccess"], ["UMask"])
    ]
    run.write_text(
        "\n".join(kept) + f"\nSocket local:{socket}\nUMask 000\nSyslog no\nBackground no\n"
        "AutoRestart no\nRequireSafeKeys no\n"
    )
    with running(["/usr/sbin/opendkim", "-f", "-x", run], folder):
        yield OldSigner(socket)


def running(command: Sequence[str | Path], folder: Path) -> Background:
    """A milter of others that serves at `folder`/socket.

    They take seconds to end by themselves, and have nothing to lose.
    """
    return Background(
        command,
        folder / "output",
        lambda: serves(folder / "socket"),
        timeout=_PATIENCE,
        at_the_end=signal.SIGKILL,
    )
