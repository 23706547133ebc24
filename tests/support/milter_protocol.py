"""The milter protocol's numbers and packets, version 6, written from its description.

A packet is a 32-bit length in network order, one command octet and a payload; the length counts the
command octet.  Names follow mfdef.h without the prefix: SMFIP_NR_HDR is Protocol.NR_HDR.

Promises: every read has a deadline; a packet is complete or an exception.

Raises: TimeoutError, MilterGone when the peer closed, ProtocolBroken when it sent what it may not.

Does not: know the order of commands (`milter_client` does).
"""

from __future__ import annotations

import select
import socket
import time
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from pathlib import Path
from typing import Self

CHUNK_SIZE = 65_535  # octets of body in one packet (MILTER_CHUNK_SIZE)
_LONGEST_PACKET = 1 << 24  # a longer one is a stream out of step

SocketAddress = Path | str | tuple[str, int]  # a UNIX socket's path, or host and port


class MilterGone(Exception):
    """The milter closed the connection, or does not listen."""


class ProtocolBroken(Exception):
    """The milter sent what it may not send, or when it may not."""


class Actions(IntFlag):
    """SMFIF_*: changes that the MTA offers and the milter asks for."""

    ADDHDRS = 0x001  # add or insert header fields
    CHGBODY = 0x002
    ADDRCPT = 0x004
    DELRCPT = 0x008
    CHGHDRS = 0x010
    QUARANTINE = 0x020
    CHGFROM = 0x040
    ADDRCPT_PAR = 0x080  # add a recipient with ESMTP parameters
    SETSYMLIST = 0x100  # choose the macros of each stage


class Protocol(IntFlag):
    """SMFIP_*: what is left out or added, once both sides agree."""

    NOCONNECT = 0x00_0001
    NOHELO = 0x00_0002
    NOMAIL = 0x00_0004
    NORCPT = 0x00_0008
    NOBODY = 0x00_0010
    NOHDRS = 0x00_0020
    NOEOH = 0x00_0040
    NR_HDR = 0x00_0080
    NOUNKNOWN = 0x00_0100
    NODATA = 0x00_0200
    SKIP = 0x00_0400  # the milter may answer a body chunk with "no more of it"
    RCPT_REJ = 0x00_0800  # refused recipients are shown as well
    NR_CONN = 0x00_1000
    NR_HELO = 0x00_2000
    NR_MAIL = 0x00_4000
    NR_RCPT = 0x00_8000
    NR_DATA = 0x01_0000
    NR_UNKN = 0x02_0000
    NR_EOH = 0x04_0000
    NR_BODY = 0x08_0000
    HDR_LEADSPC = 0x10_0000  # header values keep the space after the colon


ALL_ACTIONS = Actions(0x1FF)
ALL_PROTOCOL = Protocol(0x1F_FFFF)
NO_REPLIES = Protocol(
    Protocol.NR_CONN
    | Protocol.NR_HELO
    | Protocol.NR_MAIL
    | Protocol.NR_RCPT
    | Protocol.NR_DATA
    | Protocol.NR_UNKN
    | Protocol.NR_HDR
    | Protocol.NR_EOH
    | Protocol.NR_BODY
)


class Stage(IntEnum):
    """SMFIM_*: the stages that have a macro list of their own."""

    CONNECT = 0
    HELO = 1
    MAIL = 2
    RCPT = 3
    DATA = 4
    EOM = 5
    EOH = 6


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that the MTA tells, and the flags that silence it or its answer."""

    command: bytes  # SMFIC_*
    stage: Stage | None  # whose macros go before it
    omitted_by: Protocol  # the event itself is not sent
    unanswered_by: Protocol  # no answer is waited for


NEVER = Protocol(0)
CONNECT = Event(b"C", Stage.CONNECT, Protocol.NOCONNECT, Protocol.NR_CONN)
HELO = Event(b"H", Stage.HELO, Protocol.NOHELO, Protocol.NR_HELO)
MAIL = Event(b"M", Stage.MAIL, Protocol.NOMAIL, Protocol.NR_MAIL)
RCPT = Event(b"R", Stage.RCPT, Protocol.NORCPT, Protocol.NR_RCPT)
DATA = Event(b"T", Stage.DATA, Protocol.NODATA, Protocol.NR_DATA)
UNKNOWN = Event(b"U", None, Protocol.NOUNKNOWN, Protocol.NR_UNKN)
HEADER = Event(b"L", Stage.EOH, Protocol.NOHDRS, Protocol.NR_HDR)
EOH = Event(b"N", Stage.EOH, Protocol.NOEOH, Protocol.NR_EOH)
BODY = Event(b"B", Stage.EOM, Protocol.NOBODY, Protocol.NR_BODY)
EOM = Event(b"E", Stage.EOM, NEVER, NEVER)

# Postfix tells the macros of a declined command all the same, but not those of declined content.
CONTENT = (HEADER, EOH, BODY)

OPTNEG, MACRO, ABORT, QUIT, QUIT_NC = b"O", b"D", b"A", b"Q", b"K"


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet without its length."""

    command: bytes  # one octet
    payload: bytes

    def strings(self, *, skip: int = 0) -> list[bytes]:
        """The NUL-terminated strings from octet `skip` on."""
        *found, rest = self.payload[skip:].split(b"\0")
        if rest:
            raise ProtocolBroken(f"{self.command!r} carries a string without its NUL: {rest!r}")
        return found

    def number(self, position: int = 0) -> int:
        """The 32-bit number at an octet."""
        octets = self.payload[position : position + 4]
        if len(octets) < 4:
            raise ProtocolBroken(f"{self.command!r} is too short: {self.payload!r}")
        return int.from_bytes(octets)


def packed(*strings: bytes) -> bytes:
    """Strings with their NULs; ValueError when one holds a NUL itself."""
    if any(b"\0" in one for one in strings):
        raise ValueError(f"a NUL cannot be sent within {strings!r}")
    return b"".join(one + b"\0" for one in strings)


def framed(command: bytes, payload: bytes = b"") -> bytes:
    """A packet as it goes over the wire."""
    return (len(payload) + 1).to_bytes(4) + command + payload


class Channel:
    """Packets to and from one milter over one socket."""

    def __init__(self, address: SocketAddress, timeout: float) -> None:
        """Connect; `timeout` in seconds holds for the connection and for each packet."""
        self.timeout = timeout
        self._unread = bytearray()
        family = socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX
        if isinstance(address, tuple) and ":" in address[0]:
            family = socket.AF_INET6
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect(address if isinstance(address, tuple) else str(address))
        except OSError as error:
            self._socket.close()
            raise MilterGone(f"nobody answers at {address}: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket; twice does no harm."""
        self._socket.close()

    def send(self, octets: bytes) -> None:
        """Send framed packets."""
        try:
            self._socket.sendall(octets)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise MilterGone(f"the milter closed the connection: {error}") from error

    def receive(self) -> Packet:
        """The next packet, within the timeout."""
        deadline = time.monotonic() + self.timeout
        length = int.from_bytes(self._exactly(4, deadline))
        if not 1 <= length <= _LONGEST_PACKET:
            raise ProtocolBroken(f"a packet claims {length} octets")
        content = self._exactly(length, deadline)
        return Packet(content[:1], content[1:])

    def is_readable(self) -> bool:
        """Whether the milter has sent something, or closed, without being asked."""
        if self._unread:
            return True
        poll = select.poll()  # select() knows no descriptor over 1023
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def _exactly(self, count: int, deadline: float) -> bytes:
        while len(self._unread) < count:
            self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                received = self._socket.recv(65_536)
            except TimeoutError as error:
                raise TimeoutError(f"the milter said nothing for {self.timeout} s") from error
            except ConnectionResetError as error:
                raise MilterGone("the milter reset the connection") from error
            if not received:
                raise MilterGone("the milter closed the connection")
            self._unread += received
        taken = bytes(self._unread[:count])
        del self._unread[:count]
        return taken
