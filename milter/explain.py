"""`policy explain`: what would be decided about a message, and why, without sending it.

Promises: asks the very policies the mail path asks (`decisions.decide`), with the keys that are
active now; changes nothing, records nothing.

Raises: DataError for an address or message file that cannot be used.

Does not: know what Postfix would resolve an address to; addresses that only Postfix can resolve are
reported as such.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from carbonseal.keys import keyring
from carbonseal.milter import decisions, named_file, seal
from carbonseal.milter.config import Configuration
from carbonseal.milter.transaction import Connection, Transaction
from carbonseal.policies import disposition
from carbonseal.policies.envelope import Client
from carbonseal.policies.errors import DataError
from carbonseal.policies.reason import Reason
from carbonseal.policies.retention import Stamp

STANDARD_INPUT: Final = Path("-")
_MAX_MESSAGE = 256 * 1024 * 1024
_MAX_ADDRESS = 2048  # Postfix's line_length_limit: no longer one arrives


@dataclass(frozen=True, slots=True)
class Question:
    """One message that might be sent."""

    client: str
    reverse_path: str
    recipients: Sequence[str]
    login: str = ""
    listener: str = ""
    author: str = ""
    message: Path | None = None  # STANDARD_INPUT: that


@dataclass(frozen=True, slots=True)
class Explanation:
    """The answer: what would happen, and each step that leads there."""

    crossing: str
    would_sign: tuple[str, ...]  # sdid/selector
    would_copy: tuple[str, ...]
    would_keep: Stamp | None  # None: for ever
    disposition: str
    reasons: tuple[Reason, ...]


def explain(question: Question, configuration: Configuration) -> Explanation:
    """Ask the policies about `question`."""
    transaction = _transaction(question, configuration)
    ring = keyring.load(configuration.keys_directory)
    archive = configuration.archive.all_recipients()
    decided = decisions.decide(decisions.Said.by(transaction), configuration, ring, archive)
    breaker = seal.breaks_on_its_way(decided.signing, transaction)
    requests = () if breaker else decided.signing.requests
    failure = disposition.FailureClass.TRANSFORMATION if breaker else decided.signing.failure
    return Explanation(
        crossing=decided.crossing.crossing,
        would_sign=tuple(f"{one.sdid}/{one.selector}" for one in requests),
        would_copy=decided.copy.add,
        would_keep=decided.retention,
        disposition=configuration.failure.dispose(failure).answer,
        reasons=(
            *decided.reasons_before,
            *((breaker,) if breaker else decided.signing.reasons),
            *decided.reasons_after,
        ),
    )


def _transaction(question: Question, configuration: Configuration) -> Transaction:
    transaction = Transaction(
        Connection(
            Client(_checked_client(question.client), 1, "unknown", ""),
            _one_line(question.listener, "--listener"),
            "",
        ),
        (_raw(question.reverse_path, "--from"),),
        resolved=None,
        body_canonicalization=configuration.signing.body_canonicalization,
    )
    transaction.login = _one_line(question.login, "--login")
    for recipient in question.recipients:
        raw = _raw(recipient, "--rcpt")
        transaction.add_recipient((raw,), resolved=None, mailer=None, host=None)
    if question.message is not None:
        _read_message(question.message, transaction)
    elif question.author or question.reverse_path.strip("<>"):
        author = _one_line(question.author, "--author") or question.reverse_path.strip("<>")
        transaction.add_field("From", b" " + author.encode("utf-8", "surrogateescape"))
    return transaction


def _raw(argument: str, option: str) -> bytes:
    inner = _one_line(argument, option).removeprefix("<").removesuffix(">")
    return f"<{inner}>".encode("utf-8", "surrogateescape")


def _one_line(argument: str, option: str) -> str:
    """What could have come in one line of SMTP; odd octets may, control characters may not."""
    if any(ord(character) < 32 or character == "\x7f" for character in argument):
        raise DataError(f"{option} {argument[:80]!r}: leave out line breaks and control characters")
    if len(argument) > _MAX_ADDRESS:
        raise DataError(
            f"{option} {argument[:40]!r}...: longer than the {_MAX_ADDRESS} characters that "
            f"Postfix takes; shorten it"
        )
    return argument


def _checked_client(client: str) -> str:
    try:
        return str(ipaddress.ip_address(client))
    except ValueError:
        raise DataError(
            f"--client {client[:80]!r}: write the client's IP address, such as 192.0.2.1"
        ) from None


def _read_message(path: Path, transaction: Transaction) -> None:
    try:
        with _opened(path) as stream:
            raw = stream.read(_MAX_MESSAGE + 1)
    except OSError as fault:
        raise DataError(
            f"{path}: cannot read the message ({fault.strerror}); name a message file"
        ) from None
    if len(raw) > _MAX_MESSAGE:
        raise DataError(f"{path}: larger than {_MAX_MESSAGE} octets; is it one message?")
    place = "standard input" if path == STANDARD_INPUT else str(path)
    add_message(raw, place, transaction)


def _opened(path: Path) -> BinaryIO:
    return open(0, "rb", closefd=False) if path == STANDARD_INPUT else named_file.opened(path)


def add_message(raw: bytes, place: str, transaction: Transaction) -> None:
    """Header section and body of a message as it lies in a file.  Raises: DataError."""
    if not raw.strip():
        raise DataError(f"{place}: it is empty; name a message file")
    raw = re.sub(rb"\r?\n", b"\n", raw)
    header, _, body = raw.partition(b"\n\n") if not raw.startswith(b"\n") else (b"", b"", raw[1:])
    for line in re.split(rb"\n(?![ \t])", header.rstrip(b"\n")):
        name, colon, value = line.partition(b":")
        if colon and re.fullmatch(rb"[!-9;-~]+[ \t]*", name):
            transaction.add_field(name.rstrip().decode("ascii"), value)
        elif line and not line.startswith(b"From "):
            shown = line[:40].decode("utf-8", "backslashreplace")
            raise DataError(f"{place}: {shown!r} is no header field; is it a message file?")
    transaction.body.update(body.replace(b"\n", b"\r\n"))
