"""A raw SMTP client: it sends the octets it is given, also the ones no mail library would.

Promises: paths, parameters and content go out as they are (NUL, 8-bit, bare CR and LF included);
`data` stuffs dots after CRLF only and ends the content with CRLF when it has none; `raw_data` sends
what it is given.  Every command returns its `Reply`; nothing raises because of a code.

Raises: OSError when the connection fails or times out, ConnectionError when the server hangs up.

Does not: TLS.  AUTH is one command: `client.command(b"AUTH PLAIN ...")`.
"""

from __future__ import annotations

import base64
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from support import ports

_QUEUED = re.compile(r"queued as ([0-9A-Za-z]+)")


@dataclass(frozen=True, slots=True)
class Reply:
    """A server's answer to one command."""

    code: int  # 250
    lines: tuple[str, ...]  # the texts without code, surrogateescape

    @property
    def text(self) -> str:
        """All lines, joined by LF."""
        return "\n".join(self.lines)

    @property
    def is_positive(self) -> bool:
        """2yz or 3yz."""
        return 200 <= self.code < 400

    @property
    def queue_id(self) -> str:
        """The queue id of '250 2.0.0 Ok: queued as ID', or ''."""
        found = _QUEUED.search(self.text)
        return found.group(1) if found else ""

    def __str__(self) -> str:
        return f"{self.code} {self.text}"


@dataclass(frozen=True, slots=True)
class Sending:
    """All replies of one transaction."""

    mail: Reply
    recipients: tuple[Reply, ...]
    end: Reply  # to the content; else to DATA or MAIL, whichever refused

    @property
    def queue_id(self) -> str:
        return self.end.queue_id


class SmtpClient:
    """One SMTP connection; a context manager that says QUIT."""

    def __init__(self, port: int, *, host: str = ports.LOOPBACK, timeout: float = 30.0) -> None:
        self._socket = socket.create_connection((host, port), timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream = self._socket.makefile("rb")
        self.greeting = self.reply()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.quit()
        except OSError:
            pass  # the test has had its replies; a server that hung up first is no failure
        finally:
            self.close()

    def close(self) -> None:
        """Close without QUIT: how a client dies."""
        self._stream.close()
        self._socket.close()

    def reply(self) -> Reply:
        """Read one reply, of one or several lines."""
        lines: list[str] = []
        while True:
            line = self._stream.readline(65_536)
            if not line.endswith(b"\n"):
                raise ConnectionError(f"the server hung up after {lines!r} {line!r}")
            text = line.decode("utf-8", "surrogateescape").rstrip("\r\n")
            lines.append(text[4:])
            if text[3:4] != "-":
                return Reply(int(text[:3]), tuple(lines))

    def send_octets(self, octets: bytes) -> None:
        """Send as it is, wait for nothing."""
        self._socket.sendall(octets)

    def command(self, line: bytes) -> Reply:
        """Send the line with CRLF after it, return the reply."""
        self.send_octets(line + b"\r\n")
        return self.reply()

    def ehlo(self, name: bytes = b"client.example") -> Reply:
        return self.command(b"EHLO " + name)

    def helo(self, name: bytes = b"client.example") -> Reply:
        return self.command(b"HELO " + name)

    def xclient(
        self,
        *,
        address: str = "",
        name: str = "",
        helo: str = "",
        login: str = "",
        client_port: int = 0,
        ehlo: bool = True,
    ) -> Reply:
        """Be another client from now on (Postfix XCLIENT), then greet again unless `ehlo` is false.

        A new address without a name has the name [UNAVAILABLE]; IPv6 addresses get their prefix.
        Returns the refusing reply, or the one to the last command.
        """
        attributes = []
        if address:
            attributes.append(("NAME", name or "[UNAVAILABLE]"))
            attributes.append(("ADDR", f"IPV6:{address}" if ":" in address else address))
        elif name:
            attributes.append(("NAME", name))
        if client_port:
            attributes.append(("PORT", str(client_port)))
        if helo:
            attributes.append(("HELO", helo))
        if login:
            attributes.append(("LOGIN", login))
        words = b" ".join(key.encode() + b"=" + xtext(value) for key, value in attributes)
        reply = self.command(b"XCLIENT " + words)
        return (
            self.ehlo(helo.encode() or b"client.example") if reply.is_positive and ehlo else reply
        )

    def auth_plain(self, login: str, password: str) -> Reply:
        """AUTH PLAIN with an initial response (RFC 4616)."""
        secret = base64.b64encode(f"\0{login}\0{password}".encode())
        return self.command(b"AUTH PLAIN " + secret)

    def mail(self, path: bytes | str, *parameters: bytes | str) -> Reply:
        """MAIL FROM; a path without angle brackets gets them, '' is the null reverse-path."""
        return self.command(
            b" ".join([b"MAIL FROM:" + _bracketed(path), *map(_octets, parameters)])
        )

    def rcpt(self, path: bytes | str, *parameters: bytes | str) -> Reply:
        """RCPT TO; a path without angle brackets gets them."""
        return self.command(b" ".join([b"RCPT TO:" + _bracketed(path), *map(_octets, parameters)]))

    def data(self, content: bytes) -> Reply:
        """DATA and the content; the refusal of DATA, or the reply to the terminating dot."""
        return self.raw_data(stuffed(content) + b".\r\n")

    def raw_data(self, octets: bytes) -> Reply:
        """DATA and these octets; the caller has stuffed and terminated them."""
        reply = self.command(b"DATA")
        if reply.code != 354:
            return reply
        self.send_octets(octets)
        return self.reply()

    def bdat(self, *chunks: bytes) -> Reply:
        """The content in BDAT chunks (RFC 3030), the last one marked; the last reply."""
        reply = Reply(0, ())
        for number, chunk in enumerate(chunks, start=1):
            last = b" LAST" if number == len(chunks) else b""
            self.send_octets(b"BDAT %d%s\r\n" % (len(chunk), last) + chunk)
            reply = self.reply()
        return reply

    def rset(self) -> Reply:
        return self.command(b"RSET")

    def quit(self) -> Reply:
        return self.command(b"QUIT")

    def send(
        self,
        reverse_path: bytes | str,
        recipients: Iterable[bytes | str],
        content: bytes,
        *,
        parameters: Iterable[bytes | str] = (),
    ) -> Sending:
        """One transaction: MAIL with `parameters`, each RCPT, DATA.

        An element of `recipients` may carry RCPT parameters after its closing bracket
        ('<b@example.com> NOTIFY=NEVER').  A transaction that ends early is reset.
        """
        mail = self.mail(reverse_path, *parameters)
        if not mail.is_positive:
            return Sending(mail, (), mail)
        replies = tuple(self.rcpt(recipient) for recipient in recipients)
        end = self.data(content)
        # A refused DATA leaves the transaction open; a refused content has ended it already.
        if not any(reply.is_positive for reply in replies):
            self.rset()
        return Sending(mail, replies, end)


def stuffed(content: bytes) -> bytes:
    """The content with CRLF at its end and its leading dots doubled (RFC 5321, 4.5.2)."""
    ended = content if content.endswith(b"\r\n") or not content else content + b"\r\n"
    return (b"." if ended.startswith(b".") else b"") + ended.replace(b"\r\n.", b"\r\n..")


def xtext(value: str) -> bytes:
    """RFC 3461, 4: octets outside '!'..'~', and '+' and '=', as '+XX'."""
    return b"".join(
        bytes([octet]) if 33 <= octet <= 126 and octet not in b"+=" else b"+%02X" % octet
        for octet in value.encode("utf-8", "surrogateescape")
    )


def _octets(text: bytes | str) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")


def _bracketed(path: bytes | str) -> bytes:
    octets = _octets(path)
    return octets if octets.startswith(b"<") else b"<" + octets + b">"
