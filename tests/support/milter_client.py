"""The MTA's side of a milter conversation, octet by octet as Postfix leads it.

Promises: nothing is waited for that was negotiated away (NR_*), and nothing is sent that the milter
declined (NO*), save the macros of declined commands.  Macro lists are Postfix's defaults, or the
milter's own for a stage where it set one (SETSYMLIST).  Without HDR_LEADSPC a header value loses
one space after the colon.  The queue id is held back until a recipient was accepted, as smtpd does.
The order of packets was recorded from Postfix 3.7: macros also before each field and each chunk,
an empty end of message, ABORT after each message and once more before QUIT.

Raises: TimeoutError and MilterGone from the wire; ProtocolBroken when the milter asks for what was
not offered, changes the message before its end, or speaks when it must not.

Does not: apply the changes to the message; speak TLS; keep a milter's late words apart from an
answer that is being waited for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Self

from support import milter_protocol as wire
from support.milter_protocol import (
    Actions,
    Channel,
    MilterGone,
    Packet,
    Protocol,
    ProtocolBroken,
    SocketAddress,
    Stage,
)

__all__ = ["Answer", "Client", "Conversation", "Envelope", "MilterGone", "Negotiated", "Outcome"]
__all__ += ["ProtocolBroken", "Recipient", "Reply", "Edits", "POSTFIX_MACROS", "CLIENT"]

POSTFIX_MACROS: Mapping[Stage, tuple[str, ...]] = MappingProxyType(
    {
        Stage.CONNECT: ("j", "{daemon_name}", "{daemon_addr}", "v", "_"),
        Stage.HELO: (
            "{tls_version}",
            "{cipher}",
            "{cipher_bits}",
            "{cert_subject}",
            "{cert_issuer}",
        ),
        Stage.MAIL: (
            "i",
            "{auth_type}",
            "{auth_authen}",
            "{auth_author}",
            "{mail_addr}",
            "{mail_host}",
            "{mail_mailer}",
        ),
        Stage.RCPT: ("i", "{rcpt_addr}", "{rcpt_host}", "{rcpt_mailer}"),
        Stage.DATA: ("i",),
        Stage.EOH: ("i",),
        Stage.EOM: ("i",),
    }
)
_CHANGES_OF_MESSAGE = frozenset(b"+ - 2 b e h i m q".split())  # SMFIR_*, at end of message only
_PROGRESS = b"p"


class Answer(StrEnum):
    """What a milter says to an event."""

    CONTINUE = "continue"
    ACCEPT = "accept"
    TEMPFAIL = "tempfail"
    REJECT = "reject"
    DISCARD = "discard"
    SKIP = "skip"  # no more of the body, please
    SHUTDOWN = "shutdown"  # 421 for the client
    CONNECTION_FAILURE = "connection-failure"


_ANSWERS = {
    b"c": Answer.CONTINUE,
    b"a": Answer.ACCEPT,
    b"t": Answer.TEMPFAIL,
    b"r": Answer.REJECT,
    b"d": Answer.DISCARD,
    b"s": Answer.SKIP,
    b"4": Answer.SHUTDOWN,
    b"f": Answer.CONNECTION_FAILURE,
}
_REPLY_CODE = b"y"


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer with the SMTP reply it came with."""

    answer: Answer
    text: str = ""  # '451 4.3.0 try later', '' when the MTA chooses the words

    @property
    def is_final(self) -> bool:
        """Whether no further event of this command's scope is wanted."""
        return self.answer not in (Answer.CONTINUE, Answer.SKIP)


UNASKED = Reply(Answer.CONTINUE)  # of events that are not answered


@dataclass(frozen=True, slots=True)
class Negotiated:
    """What the milter asked for and was given."""

    version: int
    actions: Actions
    protocol: Protocol
    macro_lists: Mapping[Stage, tuple[str, ...]]  # only the stages that the milter set


@dataclass(slots=True)
class Edits:
    """The changes that a milter asked for at end of message, each list in order."""

    inserted: list[tuple[int, str, bytes]] = field(default_factory=list)  # position, name, value
    added: list[tuple[str, bytes]] = field(default_factory=list)  # fields at the end
    changed: list[tuple[int, str, bytes]] = field(default_factory=list)  # n-th of a name; b'' drops
    added_recipients: list[tuple[str, str]] = field(default_factory=list)  # address, parameters
    deleted_recipients: list[str] = field(default_factory=list)
    reverse_paths: list[tuple[str, str]] = field(default_factory=list)  # address, parameters
    body: bytes | None = None  # the new one, None when it stays
    quarantine: str | None = None  # the reason
    progress: int = 0  # how often the milter asked for patience


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one message."""

    final: Answer  # ACCEPT also stands for "continue" at end of message
    reply_text: str
    edits: Edits
    ended_at: str  # the event that decided: 'mail', 'rcpt', 'data', 'header', 'eoh', 'body', 'eom'
    refused: tuple[tuple[str, Reply], ...] = ()  # recipients that the milter refused

    @property
    def inserted(self) -> list[tuple[int, str, bytes]]:
        """Inserted header fields: position (0 is above all), name, value."""
        return self.edits.inserted

    @property
    def added_recipients(self) -> list[tuple[str, str]]:
        """Added recipients: address, ESMTP parameters ('' for none)."""
        return self.edits.added_recipients


@dataclass(frozen=True, slots=True)
class Client:
    """The SMTP client that the MTA tells of."""

    name: str = "desk.example.com"
    address: str = "192.0.2.10"  # IPv4, IPv6, '/path' of a UNIX socket, '' when unknown
    port: int = 40_000
    helo: str = "desk.example.com"


CLIENT = Client()


@dataclass(frozen=True, slots=True)
class Recipient:
    """One RCPT command; a plain '<b@example.org>' does for most tests."""

    argument: str
    parameters: tuple[str, ...] = ()
    mailer: str = "smtp"  # {rcpt_mailer}
    host: str = ""  # {rcpt_host}; the domain of the argument when empty
    resolved: str = ""  # {rcpt_addr}; the argument without <> when empty


@dataclass(frozen=True, slots=True)
class Envelope:
    """One message's envelope as smtpd passes it on."""

    reverse_path: str = "<alice@example.com>"
    recipients: Sequence[Recipient | str] = ("<bob@example.org>",)
    parameters: tuple[str, ...] = ()  # of MAIL
    queue_id: str = "4TESTQ1"


class Conversation:
    """One connection of the MTA to a milter; a context manager that ends with QUIT.

    `macros` are the values of the whole connection by name with braces ('{daemon_name}', 'j');
    `offered_*` limit what the milter may ask for.
    """

    def __init__(
        self,
        address: SocketAddress,
        *,
        offered_actions: Actions = wire.ALL_ACTIONS,
        offered_protocol: Protocol = wire.ALL_PROTOCOL,
        version: int = 6,
        macros: Mapping[str, str] | None = None,
        timeout: float = 10.0,
    ) -> None:
        """Connect and negotiate."""
        self.macros: dict[str, str] = {
            "j": "mx.example.com",
            "{daemon_name}": "mx.example.com",
            "{daemon_addr}": "192.0.2.1",
            "v": "Postfix 3.7.11",
            **(macros or {}),
        }
        self._channel = Channel(address, timeout)
        self._quit = False
        try:
            self.negotiated = self._negotiate(version, offered_actions, offered_protocol)
        except BaseException:
            self._channel.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self.quit()
        finally:
            self._channel.close()

    # --- events -----------------------------------------------------------------------------------

    def connect(self, client: Client = CLIENT, macros: Mapping[str, str] | None = None) -> Reply:
        """A client connected."""
        origin = {"_": f"{client.name} [{client.address}]", **(macros or {})}
        return self._tell(wire.CONNECT, _connection(client), origin)

    def helo(self, name: str = CLIENT.helo, macros: Mapping[str, str] | None = None) -> Reply:
        """HELO or EHLO."""
        return self._tell(wire.HELO, wire.packed(_octets(name)), macros)

    def mail(
        self,
        reverse_path: str,
        parameters: Iterable[str] = (),
        macros: Mapping[str, str] | None = None,
    ) -> Reply:
        """MAIL FROM; the reverse-path with its <>."""
        path = _octets(reverse_path)
        address = _bare(reverse_path)
        known = {
            "{mail_addr}": address,
            "{mail_host}": address.rpartition("@")[2],
            "{mail_mailer}": "smtp",
            **(macros or {}),
        }
        return self._tell(wire.MAIL, wire.packed(path, *map(_octets, parameters)), known)

    def rcpt(self, recipient: Recipient | str, macros: Mapping[str, str] | None = None) -> Reply:
        """RCPT TO."""
        one = Recipient(recipient) if isinstance(recipient, str) else recipient
        resolved = one.resolved or _bare(one.argument)
        known = {
            "{rcpt_addr}": resolved,
            "{rcpt_host}": one.host or resolved.rpartition("@")[2],
            "{rcpt_mailer}": one.mailer,
            **(macros or {}),
        }
        arguments = wire.packed(_octets(one.argument), *map(_octets, one.parameters))
        return self._tell(wire.RCPT, arguments, known)

    def data(self, macros: Mapping[str, str] | None = None) -> Reply:
        """DATA."""
        return self._tell(wire.DATA, b"", macros)

    def unknown(self, command: str) -> Reply:
        """A command that the MTA does not know."""
        return self._tell(wire.UNKNOWN, wire.packed(_octets(command)))

    def header(
        self, name: str | bytes, value: bytes, macros: Mapping[str, str] | None = None
    ) -> Reply:
        """One header field; the value as it stands after the colon, folded with LF or CRLF."""
        value = value.replace(b"\r\n", b"\n")
        if Protocol.HDR_LEADSPC not in self.negotiated.protocol:
            value = value.removeprefix(b" ")
        return self._tell(wire.HEADER, wire.packed(_octets(name), value), macros)

    def eoh(self, macros: Mapping[str, str] | None = None) -> Reply:
        """End of the header section."""
        return self._tell(wire.EOH, b"", macros)

    def body(self, chunk: bytes, macros: Mapping[str, str] | None = None) -> Reply:
        """A piece of the body, at most 65,535 octets."""
        if len(chunk) > wire.CHUNK_SIZE:
            raise ValueError(f"a chunk of {len(chunk)} octets is longer than {wire.CHUNK_SIZE}")
        return self._tell(wire.BODY, chunk, macros)

    def end_of_message(
        self, last: bytes = b"", macros: Mapping[str, str] | None = None
    ) -> tuple[Reply, Edits]:
        """End of message; the answer and the wanted changes.

        The protocol allows a `last` piece of the body here; Postfix sends none, and libmilter never
        answers when it gets one while NR_BODY is agreed.
        """
        self._check_silence()
        self._channel.send(self._macro_packet(wire.EOM, macros) + wire.framed(b"E", last))
        edits = Edits()
        while (packet := self._channel.receive()).command in _CHANGES_OF_MESSAGE | {_PROGRESS}:
            self._check_granted(packet)
            _note(edits, packet)
        return _reply(packet), edits

    def abort(self) -> None:
        """The message is over or given up; Postfix says so after each one.  Never answered."""
        self._channel.send(wire.framed(wire.ABORT))

    def quit(self) -> None:
        """End the connection; never answered."""
        if not self._quit:
            self._quit = True
            self._channel.send(wire.framed(wire.ABORT) + wire.framed(wire.QUIT))

    def quit_nc(self) -> None:
        """This client is gone, another one follows on the same socket; never answered."""
        self._channel.send(wire.framed(wire.QUIT_NC))

    def wait_for_end(self) -> None:
        """Wait until the milter has closed its side, as it does after QUIT."""
        try:
            packet = self._channel.receive()
        except MilterGone:
            return
        raise ProtocolBroken(f"the milter sent {packet} instead of closing")

    # --- whole messages ---------------------------------------------------------------------------

    def open(self, client: Client = CLIENT, macros: Mapping[str, str] | None = None) -> Reply:
        """CONNECT and HELO; the first answer that is not "continue", else the last."""
        reply = self.connect(client, macros)
        return reply if reply.is_final else self.helo(client.helo, macros)

    def send_message(
        self,
        envelope: Envelope,
        fields: Sequence[tuple[str | bytes, bytes]],
        body: bytes,
        macros: Mapping[Stage, Mapping[str, str]] | None = None,
        *,
        chunk_size: int = wire.CHUNK_SIZE,
    ) -> Outcome:
        """One message from MAIL to ABORT; `macros` overrides values of single stages.

        Lines of `body` end in CRLF.  Ends early where Postfix would: a refusal of the message, an
        early "accept", or no recipient left.
        """
        sending = _Sending(self, envelope, macros or {})
        try:
            return sending.run(fields, body, chunk_size)
        finally:
            # Also after "accept": it is how Postfix ends every message.
            if not self._quit:
                self.abort()

    # --- the wire ---------------------------------------------------------------------------------

    def _negotiate(self, version: int, actions: Actions, protocol: Protocol) -> Negotiated:
        offer = b"".join(number.to_bytes(4) for number in (version, actions, protocol))
        self._channel.send(wire.framed(wire.OPTNEG, offer))
        packet = self._channel.receive()
        if packet.command != wire.OPTNEG:
            raise ProtocolBroken(f"the milter answered the negotiation with {packet}")
        asked = Negotiated(
            packet.number(0), Actions(packet.number(4)), Protocol(packet.number(8)), _lists(packet)
        )
        if asked.version > version:
            raise ProtocolBroken(f"the milter wants version {asked.version}")
        # As plain numbers: the complement of a flag knows only the bits that have names.
        for kind, wanted, offered in (
            ("actions", asked.actions, actions),
            ("protocol", asked.protocol, protocol),
        ):
            if excess := int(wanted) & ~int(offered):
                raise ProtocolBroken(f"the milter wants {kind} not offered: {excess:#x}")
        if asked.macro_lists and Actions.SETSYMLIST not in actions:
            raise ProtocolBroken("the milter set macro lists, which was not offered")
        return asked

    def _tell(
        self, event: wire.Event, payload: bytes, macros: Mapping[str, str] | None = None
    ) -> Reply:
        self._check_silence()
        omitted = bool(event.omitted_by & self.negotiated.protocol)
        if not omitted:
            octets = self._macro_packet(event, macros) + wire.framed(event.command, payload)
            self._channel.send(octets)
        elif event not in wire.CONTENT:
            self._channel.send(self._macro_packet(event, macros))
        if omitted or event.unanswered_by & self.negotiated.protocol:
            return UNASKED
        packet = self._channel.receive()
        if packet.command in _CHANGES_OF_MESSAGE:
            raise ProtocolBroken(f"a change before the end of the message: {packet}")
        return _reply(packet)

    def _macro_packet(self, event: wire.Event, macros: Mapping[str, str] | None) -> bytes:
        if event.stage is None:
            return b""
        wanted = self.negotiated.macro_lists.get(event.stage, POSTFIX_MACROS[event.stage])
        known = {**self.macros, **(macros or {})}
        pairs = [_octets(text) for name in wanted if name in known for text in (name, known[name])]
        return wire.framed(wire.MACRO, event.command + wire.packed(*pairs))

    def _check_silence(self) -> None:
        if self._channel.is_readable():
            raise ProtocolBroken(f"the milter spoke unasked: {self._channel.receive()}")

    def _check_granted(self, packet: Packet) -> None:
        needed = _NEEDED.get(packet.command)
        if needed is not None and needed not in self.negotiated.actions:
            raise ProtocolBroken(f"{packet} without having asked for {needed!r}")


@dataclass(slots=True)
class _Sending:
    """One message under way."""

    conversation: Conversation
    envelope: Envelope
    macros: Mapping[Stage, Mapping[str, str]]
    refused: list[tuple[str, Reply]] = field(default_factory=list)
    accepted: int = 0  # recipients

    def run(
        self, fields: Sequence[tuple[str | bytes, bytes]], body: bytes, chunk_size: int
    ) -> Outcome:
        return self._envelope() or self._header_section(fields) or self._body(body, chunk_size)

    def _envelope(self) -> Outcome | None:
        speak = self.conversation
        reply = speak.mail(
            self.envelope.reverse_path, self.envelope.parameters, self._values(Stage.MAIL)
        )
        if reply.is_final:
            return self._ended("mail", reply)
        for recipient in self.envelope.recipients:
            reply = speak.rcpt(recipient, self._values(Stage.RCPT))
            if reply.answer in (Answer.TEMPFAIL, Answer.REJECT):
                argument = recipient if isinstance(recipient, str) else recipient.argument
                self.refused.append((argument, reply))
            elif reply.is_final:
                return self._ended("rcpt", reply)
            else:
                self.accepted += 1
        if not self.accepted:
            return self._ended("rcpt", reply)
        reply = speak.data(self._values(Stage.DATA))
        return self._ended("data", reply) if reply.is_final else None

    def _header_section(self, fields: Sequence[tuple[str | bytes, bytes]]) -> Outcome | None:
        macros = self._values(Stage.EOH)
        for name, value in fields:
            reply = self.conversation.header(name, value, macros)
            if reply.is_final:
                return self._ended("header", reply)
        reply = self.conversation.eoh(macros)
        return self._ended("eoh", reply) if reply.is_final else None

    def _body(self, body: bytes, chunk_size: int) -> Outcome:
        speak = self.conversation
        macros = self._values(Stage.EOM)
        for start in range(0, len(body), chunk_size):
            reply = speak.body(body[start : start + chunk_size], macros)
            if reply.answer == Answer.SKIP:
                break
            if reply.is_final:
                return self._ended("body", reply)
        reply, edits = speak.end_of_message(macros=macros)
        return self._ended("eom", reply, edits)

    def _values(self, stage: Stage) -> dict[str, str]:
        held_back = stage is Stage.MAIL or (stage is Stage.RCPT and not self.accepted)
        queue_id = {} if held_back else {"i": self.envelope.queue_id}
        return {**queue_id, **self.macros.get(stage, {})}

    def _ended(self, event: str, reply: Reply, edits: Edits | None = None) -> Outcome:
        final = Answer.ACCEPT if reply.answer == Answer.CONTINUE else reply.answer
        return Outcome(final, reply.text, edits or Edits(), event, tuple(self.refused))


_NEEDED: Mapping[bytes, Actions] = {
    b"+": Actions.ADDRCPT,
    b"2": Actions.ADDRCPT_PAR,
    b"-": Actions.DELRCPT,
    b"b": Actions.CHGBODY,
    b"e": Actions.CHGFROM,
    b"h": Actions.ADDHDRS,
    b"i": Actions.ADDHDRS,
    b"m": Actions.CHGHDRS,
    b"q": Actions.QUARANTINE,
}


def _note(edits: Edits, packet: Packet) -> None:
    """Put one SMFIR_* change into the list it belongs to."""
    match packet.command:
        case b"i":
            name, value = _strings(packet, 2, skip=4)
            edits.inserted.append((packet.number(), _text(name), value))
        case b"m":
            name, value = _strings(packet, 2, skip=4)
            edits.changed.append((packet.number(), _text(name), value))
        case b"h":
            name, value = _strings(packet, 2)
            edits.added.append((_text(name), value))
        case b"+":
            edits.added_recipients.append((_text(_strings(packet, 1)[0]), ""))
        case b"2":
            edits.added_recipients.append(_with_parameters(packet))
        case b"-":
            edits.deleted_recipients.append(_text(_strings(packet, 1)[0]))
        case b"e":
            edits.reverse_paths.append(_with_parameters(packet))
        case b"b":
            edits.body = (edits.body or b"") + packet.payload
        case b"q":
            edits.quarantine = _text(_strings(packet, 1)[0])
        case _:
            edits.progress += 1


def _with_parameters(packet: Packet) -> tuple[str, str]:
    """An address and its ESMTP parameters, which are left out when there are none."""
    address, *parameters = packet.strings()
    if len(parameters) > 1:
        raise ProtocolBroken(f"one address and one list of parameters were due: {packet}")
    return _text(address), _text(parameters[0]) if parameters else ""


def serves(socket: Path) -> bool:
    """Whether a milter answers there; nobody else's says when it does."""
    try:
        with Conversation(socket, timeout=1.0):
            return True
    except (OSError, MilterGone):  # TimeoutError is an OSError
        return False


def _strings(packet: Packet, count: int, *, skip: int = 0) -> list[bytes]:
    found = packet.strings(skip=skip)
    if len(found) != count:
        raise ProtocolBroken(f"{count} strings were due: {packet}")
    return found


def _reply(packet: Packet) -> Reply:
    if packet.command == _REPLY_CODE:
        # '%%' is sendmail's quoting of a single '%'.
        text = _text(b"".join(packet.strings())).replace("%%", "%")
        if text[:1] not in ("4", "5"):
            raise ProtocolBroken(f"a reply that is neither 4yz nor 5yz: {text!r}")
        return Reply(Answer.TEMPFAIL if text.startswith("4") else Answer.REJECT, text)
    answer = _ANSWERS.get(packet.command)
    if answer is None or packet.payload:
        raise ProtocolBroken(f"this is no answer: {packet}")
    return Reply(answer)


def _lists(packet: Packet) -> dict[Stage, tuple[str, ...]]:
    """The macro lists behind the three numbers: stage, 'name name ...' NUL, and so on."""
    lists: dict[Stage, tuple[str, ...]] = {}
    position = 12
    while position < len(packet.payload):
        stage = Stage(packet.number(position))
        end = packet.payload.index(b"\0", position + 4)
        names = _text(packet.payload[position + 4 : end])
        lists[stage] = tuple(names.replace(",", " ").split())
        position = end + 1
    return lists


def _connection(client: Client) -> bytes:
    name = wire.packed(_octets(client.name))
    if not client.address:
        return name + b"U"
    family, port = b"4", client.port
    if client.address.startswith("/"):
        family, port = b"L", 0
    elif ":" in client.address:
        family = b"6"
    return name + family + port.to_bytes(2) + wire.packed(_octets(client.address))


def _bare(argument: str) -> str:
    return argument.removeprefix("<").removesuffix(">")


def _octets(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "surrogateescape")
