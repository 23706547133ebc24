"""A name server that answers what a test says, however wrong: for faults no real server has.

Promises: UDP and, unless told otherwise, TCP on one free port of 127.0.0.1; `asked` holds every
question that came, in order; everything ends with the `with` block.  A script takes the question
(parsed) and whether it came over TCP and returns the messages to send, as they go on the wire.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

from carbonseal.keys.publication.settings import ServerAddress

Script = Callable[[dns.message.Message, bool], Iterable[bytes]]
_HOST = "127.0.0.1"


class BrokenServer:
    """Serves a script in two threads."""

    def __init__(self, script: Script, *, tcp: bool = True) -> None:
        """Bind the port; with `tcp` false nothing listens there for TCP."""
        self.script = script
        self.asked: list[tuple[dns.message.Message, bool]] = []
        self._udp, self._tcp = _bound()
        self.address = ServerAddress(_HOST, self._udp.getsockname()[1])
        if tcp:
            self._tcp.listen(16)
        else:
            self._tcp.close()
        self._loops = [threading.Thread(target=self._serve_udp, daemon=True)]
        if tcp:
            self._loops.append(threading.Thread(target=self._serve_tcp, daemon=True))

    def __enter__(self) -> Self:
        for loop in self._loops:
            loop.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        # A shut socket wakes its thread; closing alone would not.
        for one in (self._udp, self._tcp):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for loop in self._loops:
            loop.join(10)

    def _serve_udp(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                wire, client = self._udp.recvfrom(65535)
                if not client:  # shut
                    return
                for message in self._answers(wire, over_tcp=False):
                    self._udp.sendto(message, client)

    def _serve_tcp(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                link, _ = self._tcp.accept()
                with link, contextlib.suppress(OSError, struct.error):
                    (length,) = struct.unpack("!H", link.recv(2))
                    wire = link.recv(length)
                    for message in self._answers(wire, over_tcp=True):
                        link.sendall(message)

    def _answers(self, wire: bytes, *, over_tcp: bool) -> Iterable[bytes]:
        question = dns.message.from_wire(wire)
        self.asked.append((question, over_tcp))
        return self.script(question, over_tcp)


def _bound() -> tuple[socket.socket, socket.socket]:
    """A UDP and a TCP socket at the same port."""
    while True:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        udp.bind((_HOST, 0))
        try:
            tcp.bind(udp.getsockname())
        except OSError:
            udp.close()
            tcp.close()
            continue
        return udp, tcp


def reply(
    question: dns.message.Message,
    *records: str,
    authority: Iterable[str] = (),
    additional: Iterable[str] = (),
    rcode: dns.rcode.Rcode = dns.rcode.NOERROR,
    flags: int = dns.flags.AA,
) -> dns.message.Message:
    """An answer; records as lines of a zone file with absolute names, TTL, class and type."""
    message = dns.message.make_response(question)
    message.flags |= flags
    message.set_rcode(rcode)
    for section, lines in (
        (message.answer, records),
        (message.authority, authority),
        (message.additional, additional),
    ):
        section += [_rrset(line) for line in lines]
    return message


def _rrset(line: str) -> dns.rrset.RRset:
    name, ttl, rdclass, kind, content = line.split(None, 4)
    return dns.rrset.from_text(name, int(ttl), rdclass, kind, content)


def framed(wire: bytes) -> bytes:
    """A message as TCP carries it."""
    return struct.pack("!H", len(wire)) + wire
