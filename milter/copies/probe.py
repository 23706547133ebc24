"""`carbonseal config check --probe`: does the archive's next hop take copies as they are meant?

Promises: no mail is sent: EHLO, MAIL with a null reverse-path, RCPT for each archive mailbox, RSET,
QUIT.  Each host has so many seconds in all, however slowly it answers, and so many octets.  One of
several hosts that does not answer is a hint; that none does is a complaint.

Raises: nothing; what cannot be asked is a finding.

Does not: speak TLS, or know what a transport of Postfix would do: `archive.next_hop` says that.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from carbonseal.keys.publication import mail_hosts
from carbonseal.milter import socket_address
from carbonseal.milter.config import Configuration
from carbonseal.policies.errors import CarbonsealError

_SECONDS: Final = 20.0  # for one host
_OCTETS: Final = 65_536  # of all its replies
_PORT: Final = 25
_LONGEST: Final = 200  # characters of a reply in a sentence


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found."""

    sentence: str
    is_complaint: bool  # else a hint


@dataclass(frozen=True, slots=True)
class Host:
    """One host to ask; its name for people."""

    name: str
    address: str
    port: int = _PORT


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply of SMTP."""

    code: int
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """For a sentence."""
        return f"{self.code} {' '.join(self.lines)}"[:_LONGEST]


class Unanswered(Exception):
    """The host cannot be asked, or does not speak SMTP."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a host said."""

    extensions: Mapping[str, str]  # in upper case -> parameters
    refusals: Mapping[str, str] = field(default_factory=dict)  # mailbox -> reply; '': to MAIL


def findings(configuration: Configuration, *, size_limit: int) -> Iterator[Finding]:
    """What stands in the way of copies; `size_limit`: octets of the largest mail Postfix takes."""
    by_domain: dict[str, list[str]] = {}
    for mailbox in sorted(configuration.archive.all_recipients(), key=str):
        by_domain.setdefault(mailbox.domain, []).append(str(mailbox))
    for domain, mailboxes in by_domain.items():
        try:
            hosts = _hosts(domain, configuration)
        except CarbonsealError as fault:
            yield Finding(fault.sentence, is_complaint=True)
            continue
        yield from _about(domain, mailboxes, hosts, size_limit)


def _hosts(domain: str, configuration: Configuration) -> list[Host]:
    named = configuration.file.archive.next_hop
    alternates = {one.domain for one in configuration.archive.alternates}
    if named is not None and domain not in alternates:
        where = socket_address.parse(named)
        return [Host(where.host or "", where.host or "", where.port)]
    return [Host(one.name, one.address) for one in mail_hosts.of(domain, configuration.dns)]


def _about(
    domain: str, mailboxes: Sequence[str], hosts: Sequence[Host], size_limit: int
) -> Iterator[Finding]:
    asked: list[list[Finding]] = []
    silent: list[str] = []
    for host in hosts:
        try:
            said = ask(host, mailboxes)
        except Unanswered as fault:
            silent.append(f"{host.name} port {host.port}: {fault}")
        else:
            asked.append(list(judge(host.name, mailboxes, said, size_limit)))
    if not asked:
        yield Finding(
            f"{domain}: no host takes its mail ({'; '.join(silent)}); start the archive's host, let"
            " it through, or set archive.next_hop",
            is_complaint=True,
        )
        return
    for one in silent:
        yield Finding(f"{domain}: {one}; the other hosts take its mail", is_complaint=False)
    for found in asked:
        yield from found


def judge(
    name: str, mailboxes: Iterable[str], said: Capabilities, size_limit: int
) -> Iterator[Finding]:
    """What is wrong with what a host said."""
    offered = said.extensions
    if "DSN" not in offered:
        yield Finding(
            f"{name}: it does not offer DSN, so it does not learn that nobody is to be told when a"
            " copy cannot be delivered: the sender of the mail will be, with the archive's address;"
            " enable DSN there (RFC 3461)",
            is_complaint=True,
        )
    if "SMTPUTF8" not in offered:
        yield Finding(
            f"{name}: it does not offer SMTPUTF8, so copies of mail with addresses that are no"
            " ASCII are lost; enable it there (RFC 6531)",
            is_complaint=True,
        )
    yield from _size(name, offered, size_limit)
    if "8BITMIME" not in offered:
        yield Finding(
            f"{name}: it does not offer 8BITMIME, so copies of 8-bit mail are encoded anew and"
            " their signatures no longer verify; enable it there (RFC 6152)",
            is_complaint=False,
        )
    if "STARTTLS" not in offered:
        yield Finding(
            f"{name}: it does not offer STARTTLS, so copies go there unencrypted; enable it there"
            " unless the way is safe (RFC 3207)",
            is_complaint=False,
        )
    for mailbox in ("", *mailboxes):
        reply = said.refusals.get(mailbox)
        if reply is not None:
            what = f"RCPT TO:<{mailbox}>" if mailbox else "MAIL FROM:<>"
            is_final = reply.startswith("5")
            then = "copies are lost" if is_final else "copies wait"
            yield Finding(
                f"{name}: it answers {what} with {reply!r}, so {then}; let it take mail for the"
                " archive from this relay",
                is_complaint=is_final,
            )


def _size(name: str, offered: Mapping[str, str], limit: int) -> Iterator[Finding]:
    if "SIZE" not in offered:
        yield Finding(
            f"{name}: it does not offer SIZE, so what it takes at most is not known; see that it is"
            f" no less than Postfix's message_size_limit, {limit or 'which is none'}",
            is_complaint=False,
        )
        return
    told = offered["SIZE"]
    most = int(told) if re.fullmatch(r"\d{1,18}", told) else 0  # 0: no limit is told (RFC 1870)
    if most and (limit == 0 or most < limit):
        ours = "has no limit" if limit == 0 else f"is {limit}"
        yield Finding(
            f"{name}: it takes {most} octets at most and Postfix's message_size_limit {ours}, so"
            " copies of the largest messages are lost; raise the one or lower the other",
            is_complaint=True,
        )


def ask(host: Host, mailboxes: Iterable[str], *, seconds: float = _SECONDS) -> Capabilities:
    """Ask one host.  Raises: Unanswered."""
    session = None
    try:
        session = _Session(host, time.monotonic() + seconds)
        greeting = session.reply()
        if greeting.code != 220:
            raise Unanswered(f"it greets with {greeting.text!r}")
        return _dialogue(session, mailboxes)
    except TimeoutError:
        raise Unanswered(f"no answer within {seconds:.0f} s") from None
    except (OSError, ValueError) as fault:
        raise Unanswered(getattr(fault, "strerror", None) or str(fault)) from None
    finally:
        if session is not None:
            session.close()


def _dialogue(session: _Session, mailboxes: Iterable[str]) -> Capabilities:
    said = session.command(f"EHLO {socket.gethostname()}")
    if said.code != 250:
        raise Unanswered(f"it answers EHLO with {said.text!r}")
    extensions = dict(_extension(line) for line in said.lines[1:])
    refusals: dict[str, str] = {}
    answer = session.command("MAIL FROM:<>")
    if answer.code != 250:
        refusals[""] = answer.text
    else:
        notify = " NOTIFY=NEVER" if "DSN" in extensions else ""
        for mailbox in mailboxes:
            if not mailbox.isascii():
                continue  # without SMTPUTF8 on MAIL it could not be said
            answer = session.command(f"RCPT TO:<{mailbox}>{notify}")
            if answer.code // 100 != 2:
                refusals[mailbox] = answer.text
    session.command("RSET")
    session.command("QUIT")
    return Capabilities(extensions, refusals)


def _extension(line: str) -> tuple[str, str]:
    word, _, parameters = line.strip().partition(" ")
    return word.upper(), parameters.strip()


class _Session:
    """A connection that ends at a time, and after so many octets."""

    def __init__(self, host: Host, deadline: float) -> None:
        self._deadline = deadline
        self._left = _OCTETS
        self._unread = b""
        seconds = max(0.1, deadline - time.monotonic())
        self._socket = socket.create_connection((host.address, host.port), seconds)

    def command(self, line: str) -> Reply:
        """Send one and read its reply."""
        self._socket.settimeout(self._seconds())
        self._socket.sendall(line.encode("ascii", "strict") + b"\r\n")
        return self.reply()

    def reply(self) -> Reply:
        """Read one."""
        lines = []
        while True:
            line = self._line()
            found = re.fullmatch(r"(\d{3})([ -]?)(.*)", line)
            if found is None:
                raise ValueError(f"it does not speak SMTP: {line[:80]!r}")
            lines.append(found[3])
            if found[2] != "-":
                return Reply(int(found[1]), tuple(lines))

    def _line(self) -> str:
        while b"\n" not in self._unread:
            self._socket.settimeout(self._seconds())
            piece = self._socket.recv(min(4096, self._left))
            if not piece:
                raise ValueError("it hung up")
            self._left -= len(piece)
            if self._left <= 0:
                raise ValueError("it says too much")
            self._unread += piece
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode("utf-8", "replace").rstrip("\r")

    def _seconds(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def close(self) -> None:
        """Whatever state it is in."""
        self._socket.close()
