"""A mail sink: an SMTP server that keeps every message exactly as it came.

Promises: one `Delivery` for each message that got a 250 after its data, with the octets after
dot-unstuffing, the MAIL and RCPT parameters, and the client.  Lines end where CRLF ends them; a
bare CR or LF, NUL and 8-bit octets are kept.  `wait_for` sleeps on a condition, not on a clock.
Announced extensions, and replies to single recipients or to the data, can be changed while it runs.

Raises: TimeoutError from `wait_for`, with what had arrived until then.

Does not: check addresses, relay, write to disk, offer TLS or AUTH.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import BinaryIO, Self

from support import ports

EXTENSIONS = (
    "PIPELINING",
    "SIZE 0",
    "8BITMIME",
    "DSN",
    "SMTPUTF8",
    "ENHANCEDSTATUSCODES",
)
DROP = "drop the connection"  # a reply that is none


@dataclass(frozen=True, slots=True)
class Recipient:
    """One accepted RCPT command."""

    address: str  # without <>, surrogateescape
    parameters: tuple[str, ...]  # 'NOTIFY=NEVER', 'ORCPT=rfc822;a@example.com'


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message that the sink has taken."""

    client: tuple[str, int]  # address and port of the peer
    helo: str  # argument of EHLO or HELO
    reverse_path: str  # without <>, '' when null
    parameters: tuple[str, ...]  # of MAIL: 'SIZE=100', 'BODY=8BITMIME', 'SMTPUTF8'
    recipients: tuple[Recipient, ...]  # accepted ones, in order
    content: bytes  # dot-unstuffed, final CRLF included, terminating dot not

    @property
    def addresses(self) -> tuple[str, ...]:
        """Addresses of the accepted recipients."""
        return tuple(recipient.address for recipient in self.recipients)

    @property
    def header_section(self) -> bytes:
        """All octets up to the empty line, which is not included."""
        return self.content.partition(b"\r\n\r\n")[0] + b"\r\n"

    @property
    def body(self) -> bytes:
        """All octets after the empty line."""
        return self.content.partition(b"\r\n\r\n")[2]


class Sink:
    """An SMTP server on a port of its own, in background threads; a context manager."""

    def __init__(self, *, extensions: Iterable[str] = EXTENSIONS, port: int = 0) -> None:
        """Listen at once.  `extensions` are EHLO lines as they stand; port 0 picks a free one."""
        self.extensions = tuple(extensions)
        self.data_reply = ""  # instead of 250 after the data: '451 4.3.0 later', DROP
        self._replies: dict[str, str] = {}
        self._first_replies: dict[str, str] = {}
        self._seen: set[str] = set()
        self._deliveries: list[Delivery] = []
        self._changed = threading.Condition()
        self._connections: set[socket.socket] = set()
        self._closing = False
        self._listener = socket.create_server((ports.LOOPBACK, port), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, name="sink", daemon=True)
        self._acceptor.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening and cut the open connections; what was taken stays readable."""
        with self._changed:
            self._closing = True
            open_connections = list(self._connections)
        # shutdown wakes the thread that is blocked in accept(); close alone would not.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join()
        for connection in open_connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def reply(self, recipient: str, text: str) -> None:
        """Answer RCPT for an address or '@domain' with `text` ('550 5.1.1 no', DROP); '' undoes."""
        with self._changed:
            self._replies[recipient.lower()] = text

    def reply_first(self, domain: str, text: str) -> None:
        """Answer the first RCPT for each address of '@domain' with `text`, as greylisting does."""
        with self._changed:
            self._first_replies[domain.lower()] = text

    @property
    def count(self) -> int:
        """How many deliveries there are so far."""
        return len(self._deliveries)

    @property
    def deliveries(self) -> list[Delivery]:
        """A copy of what has arrived so far, in order of arrival."""
        with self._changed:
            return list(self._deliveries)

    def clear(self) -> None:
        """Forget what has arrived."""
        with self._changed:
            self._deliveries.clear()

    def wait_for(
        self, wanted: int | Callable[[list[Delivery]], bool], timeout: float = 30.0
    ) -> list[Delivery]:
        """Wait until so many deliveries, or the predicate on all of them, is met; return all."""

        def arrived() -> bool:
            if isinstance(wanted, int):
                return len(self._deliveries) >= wanted
            return wanted(self._deliveries)

        with self._changed:
            if not self._changed.wait_for(arrived, timeout):
                got = [(one.reverse_path, one.addresses) for one in self._deliveries[-10:]]
                raise TimeoutError(
                    f"the sink on port {self.port} waited {timeout} s for {wanted!r}; it has"
                    f" {len(self._deliveries)} deliveries, the last: {got}"
                )
            return list(self._deliveries)

    def _accept(self) -> None:
        while True:
            try:
                connection, peer = self._listener.accept()
            except OSError:
                return
            with self._changed:
                if self._closing:
                    connection.close()
                    return
                self._connections.add(connection)
            threading.Thread(
                target=self._serve,
                args=(connection, peer),
                name=f"sink-{peer[1]}",
                daemon=True,
            ).start()

    def _serve(self, connection: socket.socket, peer: tuple[str, int]) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            with connection, connection.makefile("rb") as stream:
                _Dialogue(self, connection, stream, peer).run()
        except OSError:
            pass  # the client went away, or close() cut the line
        finally:
            with self._changed:
                self._connections.discard(connection)

    def _keep(self, delivery: Delivery) -> None:
        with self._changed:
            self._deliveries.append(delivery)
            self._changed.notify_all()

    def _reply_for(self, address: str) -> str:
        with self._changed:
            folded = address.lower()
            domain = "@" + folded.rpartition("@")[2]
            if domain in self._first_replies and folded not in self._seen:
                self._seen.add(folded)
                return self._first_replies[domain]
            return self._replies.get(folded) or self._replies.get(domain) or ""


class _Hangup(Exception):
    """The dialogue is over without a further reply."""


@dataclass(slots=True)
class _Dialogue:
    """One connection to the sink, from greeting to QUIT."""

    sink: Sink
    connection: socket.socket
    stream: BinaryIO
    peer: tuple[str, int]
    helo: str = ""
    reverse_path: str | None = None  # None before MAIL
    parameters: tuple[str, ...] = ()
    recipients: list[Recipient] = field(default_factory=list)

    def run(self) -> None:
        self._say("220 sink.example ESMTP")
        with contextlib.suppress(_Hangup):
            while line := self.stream.readline(65_536):
                self._obey(line.decode("utf-8", "surrogateescape").rstrip("\r\n"))

    def _obey(self, line: str) -> None:
        verb, _, argument = line.partition(" ")
        match verb.upper():
            case "EHLO":
                self._reset(helo=argument)
                self._say(*(f"250-{one}" for one in ("sink.example", *self.sink.extensions)))
            case "HELO":
                self._reset(helo=argument)
                self._say("250 sink.example")
            case "MAIL":
                self._mail(argument)
            case "RCPT":
                self._rcpt(argument)
            case "DATA":
                self._data()
            case "RSET":
                self._reset(helo=self.helo)
                self._say("250 2.0.0 Ok")
            case "NOOP":
                self._say("250 2.0.0 Ok")
            case "QUIT":
                self._say("221 2.0.0 Bye")
                raise _Hangup
            case _:
                self._say("502 5.5.2 Command not implemented")

    def _mail(self, argument: str) -> None:
        self.reverse_path, self.parameters = _path_and_parameters(argument)
        self.recipients.clear()
        self._say("250 2.1.0 Ok")

    def _rcpt(self, argument: str) -> None:
        address, parameters = _path_and_parameters(argument)
        if self.reverse_path is None:
            self._say("503 5.5.1 MAIL first")
        elif reply := self.sink._reply_for(address):
            self._say(reply)
        else:
            self.recipients.append(Recipient(address, parameters))
            self._say("250 2.1.5 Ok")

    def _data(self) -> None:
        if self.reverse_path is None or not self.recipients:
            self._say("554 5.5.1 No valid recipients")
            return
        self._say("354 End data with <CR><LF>.<CR><LF>")
        content = _read_content(self.stream)
        if self.sink.data_reply:
            self._say(self.sink.data_reply)
        else:
            # Kept before the reply: whoever sees the client's success also finds the delivery.
            self.sink._keep(
                Delivery(
                    client=self.peer,
                    helo=self.helo,
                    reverse_path=self.reverse_path,
                    parameters=self.parameters,
                    recipients=tuple(self.recipients),
                    content=content,
                )
            )
            self._say("250 2.0.0 Ok")
        self._reset(helo=self.helo)

    def _reset(self, *, helo: str) -> None:
        self.helo = helo
        self.reverse_path = None
        self.parameters = ()
        self.recipients = []

    def _say(self, *lines: str) -> None:
        """Send one reply; the last line of several gets its space instead of the hyphen."""
        if DROP in lines:
            self.connection.shutdown(socket.SHUT_RDWR)
            raise _Hangup
        last = lines[-1]
        ended = (*lines[:-1], last[:3] + " " + last[4:])
        self.connection.sendall("".join(f"{line}\r\n" for line in ended).encode())


def _path_and_parameters(argument: str) -> tuple[str, tuple[str, ...]]:
    """'FROM:<a@b> SIZE=1' -> ('a@b', ('SIZE=1',)); a quoted local part may hold '>' and spaces."""
    text = argument.partition(":")[2].lstrip()
    quoted = False
    position = 1
    while position < len(text) and (quoted or text[position] != ">"):
        if quoted and text[position] == "\\":
            position += 1
        elif text[position] == '"':
            quoted = not quoted
        position += 1
    return text[1:position], tuple(text[position + 1 :].split())


def _read_content(stream: BinaryIO) -> bytes:
    """Octets up to CRLF '.' CRLF, dot-unstuffed (RFC 5321, 4.5.2)."""
    lines: list[bytes] = []
    at_line_start = True  # only CRLF starts a line: a dot after a bare LF is content
    while line := stream.readline():
        if at_line_start and line == b".\r\n":
            return b"".join(lines)
        if at_line_start and line.startswith(b"."):
            line = line[1:]
        lines.append(line)
        at_line_start = line.endswith(b"\r\n")
    raise ConnectionError("the client went away within the data")
