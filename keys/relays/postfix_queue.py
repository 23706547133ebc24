"""What waits in Postfix's queue here, held mail included, and how long it may wait.

Promises: `read` and `messages` count every message that postqueue(1) shows, or raise; a line that
cannot be understood is no message less.  The queue is streamed: neither 100,000 messages nor one
with 100,000 recipients fill memory.  Addresses come with what cannot be shown escaped.

Raises: `QueueUnreadable`, one sentence.

Does not: see a message that cleanup(8) has not finished, or one that is moved from queue to queue
at this moment; both have arrived at a time that the waits of `policies.rotation` cover.  Senders
and arrival times are as Postfix states them: a null reverse-path is MAILER-DAEMON.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from carbonseal.keys.relays import program, strict
from carbonseal.policies import errors
from carbonseal.policies.key_life import QueueReport

TIMEOUT: Final = 15.0  # seconds for a listing; less than a relay has for its whole report
_MAX_OUTPUT: Final = 1 << 32  # octets; it is never held in memory
_LONGEST: Final = 1 << 20  # octets of a line that are looked at together
_LATEST: Final = 1 << 40  # seconds; an arrival time beyond is none
# Quotes inside a JSON text are escaped, so that neither can be part of an address.
_RECIPIENTS = re.compile(rb'"recipients":\s*\[')
_RECIPIENT: Final = b'{"address":'
_QUEUE_ID = re.compile(r"[0-9A-Za-z]{1,64}")
_LIFETIMES: Final = ("maximal_queue_lifetime", "bounce_queue_lifetime")
_LIFETIME = re.compile(r"([0-9]{1,9}) *([smhdw]?)")
# postconf(5): the time unit of both is days if none is written.
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "": 86400}


class QueueUnreadable(errors.TryLater):
    """Nobody knows what is in the queue."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message in the queue."""

    queue_id: str
    arrival: datetime
    sender: str
    queue: str  # active, incoming, deferred, hold, maildrop
    recipients: int  # still to be delivered to


def read(postfix_directory: Path | None, *, timeout: float = TIMEOUT) -> QueueReport:
    """Count and oldest arrival of the queue, and the lifetimes from the configuration.

    `postfix_directory` is Postfix's configuration directory; None means its default.
    """
    lifetimes = _lifetimes(postfix_directory, timeout)
    count = 0
    oldest: datetime | None = None
    for message in messages(postfix_directory, timeout=timeout):
        count += 1
        if oldest is None or message.arrival < oldest:
            oldest = message.arrival
    return QueueReport(count, oldest, *lifetimes)


def messages(postfix_directory: Path | None, *, timeout: float = TIMEOUT) -> Iterator[Message]:
    """Each message in the queue, in Postfix's order."""
    listing = program.lines(
        _command("postqueue", postfix_directory, "-j"),
        timeout=timeout,
        limit=_MAX_OUTPUT,
        longest=_LONGEST,
        environment=_environment(),
    )
    try:
        yield from _parse(listing)
    except program.ProgramFailed as failure:
        raise _unreadable(failure) from None
    except ValueError as fault:
        raise QueueUnreadable(
            f"postqueue -j says what is no queue listing ({fault}); run it by hand."
        ) from None


def _parse(pieces: Iterator[bytes]) -> Iterator[Message]:
    about: bytes | None = None
    count = 0
    carried = b""
    for piece in pieces:
        if about is None:
            found = _RECIPIENTS.search(piece)
            if found is None:
                raise ValueError("a line without recipients")
            about, carried, count = piece[: found.end()], b"", 0
            whole = piece[found.end() :]
        else:
            whole = carried + piece
        count += whole.count(_RECIPIENT)
        carried = whole[-(len(_RECIPIENT) - 1) :]
        if piece.endswith(b"\n"):
            yield _message(json.loads(about + b"]}"), count)
            about = None
    if about is not None:
        raise ValueError("a line that does not end")


def _message(about: object, recipients: int) -> Message:
    if not isinstance(about, dict):
        raise ValueError("a line that is no object")
    queue_id = about.get("queue_id")
    if not isinstance(queue_id, str) or not _QUEUE_ID.fullmatch(queue_id):
        raise ValueError("a message without queue id")
    arrival = strict.number(about.get("arrival_time"), _LATEST)
    try:
        moment = datetime.fromtimestamp(arrival, UTC)
    except (OverflowError, OSError):
        raise ValueError("an arrival time that is none") from None
    return Message(
        queue_id=queue_id,
        arrival=moment,
        sender=strict.text(about.get("sender")),
        queue=strict.text(about.get("queue_name")),
        recipients=recipients,
    )


def _lifetimes(postfix_directory: Path | None, timeout: float) -> tuple[int, int]:
    command = _command("postconf", postfix_directory, "-x", *_LIFETIMES)
    try:
        said = program.output(
            command, timeout=timeout, limit=1 << 16, environment=_environment()
        ).decode("utf-8", "replace")
    except program.ProgramFailed as failure:
        raise _unreadable(failure) from None
    values = dict(line.split(" = ", 1) for line in said.splitlines() if " = " in line)
    maximal, bounce = (_seconds(name, values.get(name, "")) for name in _LIFETIMES)
    return maximal, bounce


def _seconds(name: str, value: str) -> int:
    found = _LIFETIME.fullmatch(value.strip())
    if found is None:
        shown = strict.text(value, 60)
        raise QueueUnreadable(f"postconf: {name} is {shown!r}, which is no time; correct main.cf.")
    return int(found[1]) * _UNITS[found[2]]


def _command(name: str, directory: Path | None, *arguments: str) -> list[str]:
    return [name, *(() if directory is None else ("-c", str(directory))), *arguments]


def _environment() -> Mapping[str, str]:
    # Not the caller's: MAIL_CONFIG or LD_PRELOAD in it are not meant for this.
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))
    return {"PATH": path, "LC_ALL": "C", "TZ": "UTC"}


def _unreadable(failure: program.ProgramFailed) -> QueueUnreadable:
    said = failure.sentence.rstrip(".")
    return QueueUnreadable(
        f"the queue of Postfix is unknown: {said}; see that Postfix is installed and runs, that"
        " this user may list its queue, and that `rotation.postfix` names its configuration."
    )
