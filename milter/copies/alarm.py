"""Who is told that archive copies do not arrive: a command, a mailbox, or both.

Promises: a thread of its own, so the log is followed meanwhile.  The command gets the facts as one
JSON object on standard input, nothing of them in its arguments or environment, no other file of
ours, and so many seconds; then it and its children are killed.  It runs as the follower does, and
as nobody where the follower is root.  The mail goes over SMTP to this host with a null
reverse-path, `NOTIFY=NEVER` where that is known, and a header that says a program wrote it: it can
cause neither a bounce nor an answer, nor another alarm, for one incident has one.

What fails is logged and not tried again before `repeat`.

Does not: decide when (`watching` does).
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import selectors
import signal
import smtplib
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email import policy
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from typing import Any, Final

from carbonseal.milter import log
from carbonseal.milter.socket_address import SocketAddress

_MOST: Final = 100  # alarms that wait for their turn
_SECONDS: Final = 30.0  # for a command, and for a mail
_SAID: Final = 400  # characters of what a command complains that are logged
_KEPT: Final = 4096  # octets of it that are kept; the rest is read and dropped
_SUBJECTS: Final = {
    "archive-copy-failing": "archive copies do not arrive",
    "archive-copy-still-failing": "archive copies still do not arrive",
    "archive-copy-recovered": "archive copies arrive again",
}
_DROP_IN: Final = (
    "as a service it may reach this host only, and gain no rights (docs/operations.md)"
)


@dataclass(slots=True)
class Bell:
    """Where alarms go."""

    command: Sequence[str] = ()
    mail: str | None = None
    smtp: SocketAddress | None = None
    repeat: float = 3600.0
    _waiting: queue.Queue[Mapping[str, Any]] = field(
        default_factory=lambda: queue.Queue(maxsize=_MOST)
    )
    _thread: threading.Thread | None = None

    def ring(self, about: Mapping[str, Any]) -> None:
        """Tell whoever is to be told; returns at once."""
        if not self.command and self.mail is None:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="alarm", daemon=True)
            self._thread.start()
        try:
            self._waiting.put_nowait(about)
        except queue.Full:
            log.error("alarm-dropped", remedy="archive.alarm.command takes too long")

    def settle(self, seconds: float) -> None:
        """Wait until what was rung is told, or so long."""
        done = self._waiting.all_tasks_done
        with done:
            done.wait_for(lambda: not self._waiting.unfinished_tasks, seconds)

    def _serve(self) -> None:
        while True:
            about = self._waiting.get()
            try:
                self._tell(about)
            except Exception as fault:  # an edge: the next alarm must find somebody
                log.internal_error("alarm", fault)
            self._waiting.task_done()

    def _tell(self, about: Mapping[str, Any]) -> None:
        if self.command:
            problem = run(self.command, about)
            if problem:
                log.error("alarm-command-failed", problem=problem, remedy=_DROP_IN)
        if self.mail is not None and self.smtp is not None:
            try:
                send(about, self.mail, self.smtp)
            except (OSError, smtplib.SMTPException) as fault:
                log.error("alarm-mail-failed", problem=str(fault)[:_SAID], remedy=_DROP_IN)


def run(command: Sequence[str], about: Mapping[str, Any], *, seconds: float = _SECONDS) -> str:
    """Run the command; what went wrong, or ''."""
    try:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
            cwd="/",
            start_new_session=True,
            umask=0o077,
            **_as_nobody(),
        )
    except (OSError, ValueError, KeyError) as fault:
        return f"{command[0]}: {getattr(fault, 'strerror', None) or fault}"
    try:
        said = _converse(process, json.dumps(about).encode("ascii") + b"\n", seconds)
    except subprocess.TimeoutExpired:
        return f"{command[0]}: it was killed, because it took more than {seconds:.0f} s"
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        _reap(process)
    if process.returncode == 0:
        return ""
    complaint = said.decode("utf-8", "replace").strip()[:_SAID]
    return f"{command[0]}: exit status {process.returncode} {complaint}".rstrip()


def _converse(process: subprocess.Popen[bytes], told: bytes, seconds: float) -> bytes:
    """Like `communicate`, but for how much of its complaints is kept.  Raises: TimeoutExpired."""
    assert process.stdin is not None
    assert process.stderr is not None
    deadline = time.monotonic() + seconds
    said = bytearray()
    os.set_blocking(process.stdin.fileno(), False)
    with selectors.DefaultSelector() as open_ends:
        for stream, event in (
            (process.stdin, selectors.EVENT_WRITE),
            (process.stderr, selectors.EVENT_READ),
        ):
            open_ends.register(stream, event, data=stream)
        while open_ends.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                raise subprocess.TimeoutExpired(process.args, seconds)
            for key, _ in open_ends.select(left):
                if key.fileobj is process.stdin:
                    told = told[_written(key.fd, told) :]
                    is_open = bool(told)
                else:
                    heard = os.read(key.fd, 1 << 16)
                    said += heard[: _KEPT - len(said)]
                    is_open = bool(heard)
                if not is_open:
                    open_ends.unregister(key.fileobj)
                    key.data.close()
    process.wait(max(0.0, deadline - time.monotonic()))
    return bytes(said)


def _written(handle: int, data: bytes) -> int:
    """Octets that went; all of them where nobody reads any more."""
    try:
        return os.write(handle, data)
    except BrokenPipeError:
        return len(data)


def _reap(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    process.wait()


def _as_nobody() -> dict[str, Any]:
    return {} if os.geteuid() else {"user": "nobody", "group": "nogroup", "extra_groups": []}


def send(about: Mapping[str, Any], to: str, smtp: SocketAddress) -> None:
    """Hand the mail to the MTA.  Raises: OSError, SMTPException."""
    content = message(about, to).as_bytes(policy=policy.SMTP)
    with _connected(smtp) as session:
        session.ehlo()
        is_silent = session.has_extn("dsn")
        session.sendmail("", [to], content, rcpt_options=["NOTIFY=NEVER"] if is_silent else [])


def _connected(smtp: SocketAddress) -> smtplib.SMTP:
    # Its own name would be looked up in the DNS, which may be down as well.
    name = socket.gethostname()
    return smtplib.SMTP(smtp.host or "", smtp.port, local_hostname=name, timeout=_SECONDS)


def message(about: Mapping[str, Any], to: str) -> EmailMessage:
    """The mail: plain ASCII, whatever a stranger's host replied."""
    made = EmailMessage()
    relay = _plain(about["relay"])
    made["From"] = f"Carbonseal <postmaster@{relay}>"
    made["To"] = to
    made["Subject"] = f"{relay}: {_SUBJECTS[about['event']]}"
    made["Date"] = format_datetime(datetime.fromtimestamp(about["at"], UTC))
    made["Message-ID"] = make_msgid(domain=relay)
    made["Auto-Submitted"] = "auto-generated"
    made.set_content("".join(f"{name}: {_plain(value)}\n" for name, value in _lines(about)))
    return made


def _lines(about: Mapping[str, Any]) -> list[tuple[str, Any]]:
    begun = about["since"]
    since = "" if begun is None else datetime.fromtimestamp(begun, UTC).isoformat(" ", "seconds")
    return [
        ("mailbox", about["mailbox"]),
        ("since", since),
        ("next hop", about["next_hop"]),
        ("reply", about["reply"]),
        ("failures in a row", about["failures"]),
        ("copies lost", about["lost"]),
        ("copies that wait in the queue", about["waiting"]),
        ("alternate in use", "yes" if about["is_alternate_in_use"] else "no"),
        ("queue ids", " ".join(about["queue_ids"])),
        ("more", "carbonseal status; carbonseal archive copies"),
    ]


def _plain(value: Any) -> str:
    text = str(value)
    return "".join(one if " " <= one <= "~" else "?" for one in text)
