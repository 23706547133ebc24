"""One signed question to a name server over TCP, and what its answer is worth.

Promises: at most `timeout` seconds pass, whatever the server does; an answer without a valid
signature is kept apart (`is_credible`), because its refusal still helps a person while its consent
must not be believed.  An answer to another question is none.

Raises: `NoAnswer`, which says whether the question may have arrived.

Does not: try again, or fall back to UDP: an update over UDP may arrive twice.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from dataclasses import dataclass

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdtypes.ANY.TSIG
import dns.tsig

from carbonseal.keys.publication.settings import ServerAddress


class NoAnswer(Exception):
    """Nothing came back that can be read; the text is the predicate of a sentence."""

    def __init__(self, why: str, *, may_have_arrived: bool) -> None:
        super().__init__(why)
        self.may_have_arrived = may_have_arrived


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said."""

    message: dns.message.Message
    is_credible: bool  # signed with our key, over this very question
    tsig_error: int = 0  # dns.rcode.BADSIG, BADKEY, BADTIME or BADTRUNC
    skew: int | None = None  # seconds by which its clock is ahead of ours, where it told

    @property
    def rcode(self) -> dns.rcode.Rcode:
        """The response code."""
        return self.message.rcode()


def ask(question: dns.message.Message, server: ServerAddress, timeout: float) -> Answer:
    """Send `question`, which may carry a key (`use_tsig`), and judge the answer."""
    wire = question.to_wire()
    reply = _exchange(wire, server, timeout)
    try:
        message = dns.message.from_wire(
            reply, keyring=question.keyring or False, request_mac=question.mac
        )
        credible = question.keyring is None or message.had_tsig
    except dns.exception.DNSException:
        message, credible = _read_unverified(reply), False
    _check_belongs(question, message)
    error, skew = _complaint(question, message)
    return Answer(message, credible, error, skew)


def _read_unverified(reply: bytes) -> dns.message.Message:
    try:
        return dns.message.from_wire(reply, keyring=False)
    except dns.exception.DNSException:
        raise NoAnswer("sent back what is no DNS message", may_have_arrived=True) from None


def _check_belongs(question: dns.message.Message, message: dns.message.Message) -> None:
    if (
        message.id != question.id
        or not message.flags & dns.flags.QR
        or message.opcode() != question.opcode()
    ):
        raise NoAnswer("answered another question than ours", may_have_arrived=True)


def _complaint(
    question: dns.message.Message, message: dns.message.Message
) -> tuple[int, int | None]:
    """The TSIG error, and for BADTIME the difference of the clocks (RFC 8945 section 5.2.3)."""
    if not message.tsig or not question.tsig:
        return 0, None
    theirs, ours = message.tsig[0], question.tsig[0]
    assert isinstance(theirs, dns.rdtypes.ANY.TSIG.TSIG)
    assert isinstance(ours, dns.rdtypes.ANY.TSIG.TSIG)
    if theirs.error == dns.rcode.BADTIME and len(theirs.other) == 6:
        return theirs.error, int.from_bytes(theirs.other) - int(ours.time_signed)
    return theirs.error, None


def _exchange(wire: bytes, server: ServerAddress, timeout: float) -> bytes:
    """RFC 1035 section 4.2.2: messages with their length in front."""
    deadline = time.monotonic() + timeout
    try:
        stream = socket.create_connection((server.host, server.port), timeout)
    except OSError as error:
        raise NoAnswer(_reason(error, timeout), may_have_arrived=False) from None
    with contextlib.closing(stream):
        try:
            stream.sendall(struct.pack("!H", len(wire)) + wire)
            (length,) = struct.unpack("!H", receive(stream, 2, deadline))
            return receive(stream, length, deadline)
        except OSError as error:
            raise NoAnswer(_reason(error, timeout), may_have_arrived=True) from None


def receive(stream: socket.socket, length: int, deadline: float) -> bytes:
    """Exactly so many octets of a stream until a moment of the monotonic clock.

    Raises: OSError; TimeoutError when the time is over, ConnectionResetError at an early end.
    """
    parts = bytearray()
    while len(parts) < length:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        stream.settimeout(left)
        part = stream.recv(length - len(parts))
        if not part:
            raise ConnectionResetError
        parts += part
    return bytes(parts)


def _reason(error: OSError, timeout: float) -> str:
    if isinstance(error, TimeoutError):
        return f"did not answer within {timeout:g} s"
    if isinstance(error, ConnectionRefusedError):
        return "refuses connections: no name server runs there, or a firewall is in between"
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return "closed the connection without an answer"
    return f"cannot be reached ({os.strerror(error.errno or 0)})"
