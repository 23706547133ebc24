"""One question to one name server, over UDP and, where the answer is cut, over TCP.

Promises: `ask` always returns an `Answer`, whatever comes back, within `2 * tries * timeout`
seconds and twice that for TCP; a question that got no usable answer has a `trouble`.  It
goes out with RD cleared (no server may ask others for us) and EDNS with 1,232 octets, a size that
crosses networks in one piece; a server that refuses EDNS is asked without.  Only an answer from the
address asked, with our id and our question, counts; other datagrams are read past until the time is
up, so that a stranger who guesses cannot answer first.

`Asker` adds a circuit breaker: an address that let three questions in a row run out of time is not
asked any more, so that one dead server does not cost a thousand domains their patience.

Does not: raise for anything the network does, follow aliases or referrals, cache, check DNSSEC.
"""

from __future__ import annotations

import errno
import secrets
import socket
import struct
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from carbonseal.keys.publication import exchange
from carbonseal.keys.publication.settings import DnsSettings, ServerAddress

PAYLOAD: Final = 1232  # octets of UDP; DNS flag day 2020
_HEADER: Final = 12  # octets, RFC 1035 section 4.1.1
_MAX_DATAGRAMS: Final = 64  # read for one question
_MAX_TIMEOUTS: Final = 3  # in a row, then an address is given up
_UNROUTED = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_WITHOUT_QUESTION = (
    dns.rcode.FORMERR,
    dns.rcode.SERVFAIL,
    dns.rcode.NOTIMP,
    dns.rcode.REFUSED,
)
_NO_EDNS = (dns.rcode.FORMERR, dns.rcode.NOTIMP, dns.rcode.BADVERS)


class Trouble(StrEnum):
    """Why a question got no usable answer."""

    TIMEOUT = "timeout"  # nothing came
    GIVEN_UP = "given-up"  # not asked: it timed out too often before
    CLOSED = "connection-refused"  # nothing listens at the port
    UNREACHABLE = "unreachable"  # the network says there is no way
    MALFORMED = "malformed"  # what came is no DNS message, or broken off
    WRONG_ID = "wrong-id"  # only answers to other questions came
    WRONG_QUESTION = "wrong-question"  # our id, but another question is echoed
    TRUNCATED = "truncated-udp"  # cut over UDP, and TCP did not work


# Each of these is known only when the time is up.
_WAITED = (Trouble.TIMEOUT, Trouble.MALFORMED, Trouble.WRONG_ID, Trouble.WRONG_QUESTION)


@dataclass(frozen=True, slots=True)
class RecordSet:
    """All records of one type at one name in one section of an answer."""

    name: dns.name.Name
    kind: dns.rdatatype.RdataType
    ttl: int  # seconds
    records: tuple[dns.rdata.Rdata, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; all but `trouble` is empty if there is one."""

    trouble: Trouble | None = None
    rcode: str = ""  # 'NOERROR', 'NXDOMAIN', ...
    is_authoritative: bool = False  # the flag AA
    is_recursive: bool = False  # the flag RA: a resolver
    over_tcp: bool = False  # cut over UDP, so asked again over TCP
    answer: tuple[RecordSet, ...] = ()
    authority: tuple[RecordSet, ...] = ()
    additional: tuple[RecordSet, ...] = ()

    def at(self, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> RecordSet | None:
        """The records of a type at a name in the answer section."""
        return _find(self.answer, name, kind)


class Asker:
    """Asks for one run, with the timeout and the tries of the settings; thread-safe."""

    def __init__(self, settings: DnsSettings) -> None:
        """Begin a run in which every address may be asked."""
        self._settings = settings
        self._timeouts: dict[ServerAddress, int] = {}
        self._lock = threading.Lock()

    def ask(
        self,
        name: dns.name.Name,
        kind: dns.rdatatype.RdataType,
        address: ServerAddress,
        *,
        recursive: bool = False,
    ) -> Answer:
        """As `ask`, unless the address is given up."""
        with self._lock:
            if self._timeouts.get(address, 0) >= _MAX_TIMEOUTS:
                return Answer(Trouble.GIVEN_UP)
        answer = ask(
            name,
            kind,
            address,
            timeout=self._settings.timeout,
            tries=self._settings.tries,
            recursive=recursive,
        )
        self._count(address, answer.trouble in _WAITED)
        return answer

    def forget(self) -> None:
        """Begin a new run."""
        with self._lock:
            self._timeouts.clear()

    def _count(self, address: ServerAddress, has_waited: bool) -> None:
        with self._lock:
            if has_waited:
                self._timeouts[address] = self._timeouts.get(address, 0) + 1
            else:
                self._timeouts.pop(address, None)


def ask(
    name: dns.name.Name,
    kind: dns.rdatatype.RdataType,
    address: ServerAddress,
    *,
    timeout: float,
    tries: int,
    recursive: bool = False,
) -> Answer:
    """Ask one server; `timeout` in seconds for each of `tries`, `recursive` for a resolver only."""
    answer = _ask(_question(name, kind, recursive, edns=True), address, timeout, tries)
    if answer.rcode in map(dns.rcode.to_text, _NO_EDNS):
        # RFC 6891 section 7: an old server answers FORMERR or NOTIMP to what it does not know.
        plain = _ask(_question(name, kind, recursive, edns=False), address, timeout, tries)
        return answer if plain.trouble else plain
    return answer


def _question(
    name: dns.name.Name, kind: dns.rdatatype.RdataType, recursive: bool, *, edns: bool
) -> dns.message.QueryMessage:
    return dns.message.make_query(
        name,
        kind,
        use_edns=0 if edns else False,
        payload=PAYLOAD if edns else None,
        flags=dns.flags.RD if recursive else 0,
        id=secrets.randbits(16),
    )


def _ask(
    question: dns.message.QueryMessage, address: ServerAddress, timeout: float, tries: int
) -> Answer:
    answer = Answer(Trouble.TIMEOUT)
    for _ in range(tries):
        answer = _over_udp(question, address, timeout)
        if answer.trouble is Trouble.TRUNCATED:
            return _over_tcp(question, address, timeout)
        if answer.trouble not in (Trouble.TIMEOUT, Trouble.MALFORMED, Trouble.WRONG_ID):
            break
    return answer


def _over_udp(question: dns.message.QueryMessage, address: ServerAddress, timeout: float) -> Answer:
    try:
        with _socket(address, socket.SOCK_DGRAM) as link:
            # A connected socket takes datagrams of this address only, and hears of closed ports.
            link.connect(_place(address))
            link.send(question.to_wire())
            return _await_datagram(link, question, time.monotonic() + timeout)
    except OSError as error:
        return Answer(_trouble(error))


def _await_datagram(
    link: socket.socket, question: dns.message.QueryMessage, deadline: float
) -> Answer:
    """The first usable datagram; else what was wrong with the last one."""
    answer = Answer(Trouble.TIMEOUT)
    for _ in range(_MAX_DATAGRAMS):
        left = deadline - time.monotonic()
        if left <= 0:
            break
        link.settimeout(left)
        try:
            wire = link.recv(65535)
        except TimeoutError:
            break
        answer = _read(wire, question)
        if answer.trouble in (None, Trouble.TRUNCATED):
            break
    return answer


def _over_tcp(question: dns.message.QueryMessage, address: ServerAddress, timeout: float) -> Answer:
    """Ask again over TCP; whatever goes wrong there is TRUNCATED: over UDP the server lives."""
    deadline = time.monotonic() + timeout
    try:
        with _socket(address, socket.SOCK_STREAM) as link:
            link.settimeout(timeout)
            link.connect(_place(address))
            wire = question.to_wire()
            link.sendall(struct.pack("!H", len(wire)) + wire)
            (length,) = struct.unpack("!H", exchange.receive(link, 2, deadline))
            answer = _read(exchange.receive(link, length, deadline), question, over_tcp=True)
    except OSError:
        return Answer(Trouble.TRUNCATED)
    return Answer(Trouble.TRUNCATED) if answer.trouble else answer


def _socket(address: ServerAddress, kind: socket.SocketKind) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    return socket.socket(family, kind)


def _place(address: ServerAddress) -> Any:
    """The address as the socket wants it; only getaddrinfo knows the zone index of fe80::1%eth0."""
    found = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST
    )
    return found[0][4]


def _trouble(error: OSError) -> Trouble:
    if isinstance(error, TimeoutError):
        return Trouble.TIMEOUT
    if isinstance(error, ConnectionError):
        return Trouble.CLOSED
    # What getaddrinfo cannot read and what a filter on this host forbids lead nowhere either.
    return Trouble.UNREACHABLE


def has_route(address: ServerAddress) -> bool:
    """Whether this host has any way to the address; nothing is sent."""
    try:
        with _socket(address, socket.SOCK_DGRAM) as link:
            link.connect(_place(address))
    except OSError as error:
        return error.errno not in _UNROUTED
    return True


def _read(wire: bytes, question: dns.message.QueryMessage, *, over_tcp: bool = False) -> Answer:
    """A message as an answer to the question; anything may stand in it."""
    if len(wire) < _HEADER:
        return Answer(Trouble.MALFORMED)
    number, flags = struct.unpack("!HH", wire[:4])
    if number != question.id:
        return Answer(Trouble.WRONG_ID)
    if not flags & dns.flags.QR or dns.opcode.from_flags(flags) != dns.opcode.QUERY:
        return Answer(Trouble.MALFORMED)
    if flags & dns.flags.TC:
        # The rest may break off anywhere, so it is not read.
        return Answer(Trouble.TRUNCATED)
    try:
        # Together, a second CNAME would take the place of the first.
        message = dns.message.from_wire(wire, one_rr_per_rrset=True)
    except (dns.exception.DNSException, ValueError, LookupError, TypeError, struct.error):
        # dnspython names its own errors, but values of record types we never asked for are parsed
        # by a hundred modules.
        return Answer(Trouble.MALFORMED)
    if not _is_our_question(message, question):
        return Answer(Trouble.WRONG_QUESTION)
    return Answer(
        rcode=dns.rcode.to_text(message.rcode()),
        is_authoritative=bool(flags & dns.flags.AA),
        is_recursive=bool(flags & dns.flags.RA),
        over_tcp=over_tcp,
        answer=_record_sets(message.answer),
        authority=_record_sets(message.authority),
        additional=_record_sets(message.additional),
    )


def _is_our_question(message: dns.message.Message, question: dns.message.Message) -> bool:
    if not message.question and message.rcode() in _WITHOUT_QUESTION:
        return True  # who could not read the question need not repeat it
    ours = question.question[0]
    return [(one.name, one.rdtype, one.rdclass) for one in message.question] == [
        (ours.name, ours.rdtype, ours.rdclass)
    ]


def _record_sets(section: Iterable[dns.rrset.RRset]) -> tuple[RecordSet, ...]:
    """Records of one name and type together; of TTLs that differ, the longest."""
    found: dict[tuple[dns.name.Name, dns.rdatatype.RdataType], list[dns.rrset.RRset]] = {}
    for single in section:
        if single.rdclass == dns.rdataclass.IN and len(single):
            found.setdefault((single.name, single.rdtype), []).append(single)
    return tuple(
        RecordSet(name, kind, max(one.ttl for one in singles), tuple(one[0] for one in singles))
        for (name, kind), singles in found.items()
    )


def _find(
    section: tuple[RecordSet, ...], name: dns.name.Name, kind: dns.rdatatype.RdataType
) -> RecordSet | None:
    for records in section:
        if records.kind == kind and records.name == name:
            return records
    return None
