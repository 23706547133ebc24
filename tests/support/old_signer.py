"""OpenDKIM as the signer that was there before: a private process, asked who signs what.

Promises: the daemon serves on a UNIX socket in its own directory and is ended by pid.

Raises: AssertionError with the daemon's output when it does not serve.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from support.milter_client import Client, Conversation, Envelope, MilterGone
from support.milter_protocol import Stage

_PATIENCE = 60.0  # seconds
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
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            ["/usr/sbin/opendkim", "-f", "-x", run],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + _PATIENCE
        while not _answers(socket):
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError((folder / "output").read_text(errors="replace"))
            time.sleep(0.02)  # it says nowhere when it serves
        yield OldSigner(socket)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(socket: Path) -> bool:
    try:
        with Conversation(socket, timeout=1.0):
            return True
    except (OSError, MilterGone):
        return False
