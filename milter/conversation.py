"""One connection of the MTA, from its offer to its end: the protocol without libmilter.

What came is heard, what is to be said is left to be fetched: it knows no socket, waits for nobody,
and a message that came in one piece is answered in one piece, edits and all (libmilter: 60 read(2)
and 90 poll(2)).

Promises: callbacks of a connection run in order, and what MTAs send is answered as libmilter
answers it (the tests hold one against the other).  After the end of a message nothing more is heard
until that is answered.  What is not the protocol ends the connection, without an answer that could
be taken for a yes.  A connection keeps what came of one packet, at most a read beyond it, and the
macros of each stage; all are bounded.

Raises: Broken when the MTA sent what it may not, or when it may not.

Does not: decide anything (`session` does), read and write sockets or wait (`rounds` does).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from carbonseal.milter import log, packets, usual_message
from carbonseal.milter.archive.spool import Steps
from carbonseal.milter.header_section import HeaderSection, fields
from carbonseal.milter.incoming import NOTHING, Incoming
from carbonseal.milter.usual_message import Means

_NR_CONN, _NR_HELO, _NR_MAIL, _NR_RCPT = 0x1000, 0x2000, 0x4000, 0x8000  # SMFIP_NR_*
_NR_FIELD, _NR_BODY = 0x80, 0x80000
# Where the MTA waits for none of these answers, messages are taken in runs of packets.
_SILENT = _NR_MAIL | _NR_RCPT | _NR_FIELD | _NR_BODY
# What has come of a message so far.
_NOTHING = usual_message.NOTHING
_REVERSE_PATH = usual_message.REVERSE_PATH
_RECIPIENT = usual_message.RECIPIENT
_ENDED = usual_message.ENDED
_NO_STEPS: Steps[None] = (_ for _ in ())


class Broken(Exception):
    """The MTA does not speak the protocol."""


class Session(Protocol):
    """What `session.Session` does with events; `context` is a `Context`."""

    granted: int
    header: HeaderSection | None  # of the message it is at
    # How messages are gathered by `usual_message`; None: each event is told.
    usual: Means | None

    def connect(self, context: Any, name: str, family: int, peer: Any) -> None:
        """A client connected to the MTA."""

    def hello(self, context: Any, name: str) -> None:
        """HELO or EHLO."""

    def reverse_path(self, context: Any, *arguments: bytes) -> None:
        """MAIL FROM."""

    def recipient(self, context: Any, *arguments: bytes) -> None:
        """RCPT TO."""

    def body(self, context: Any, chunk: bytes) -> None:
        """A piece of the body."""

    def end_of_message(self, context: Any) -> Steps[None]:
        """Seal; what is answered is in `context` then."""

    def abort(self, context: Any) -> None:
        """Nothing comes of the message."""

    def fail(self, callback: str, fault: BaseException) -> None:
        """One of the others failed."""


class Sessions(Protocol):
    """What `session.Sessions` does with connections."""

    def negotiate(self, context: Any, options: list[int]) -> int:
        """Keep a session in `context`; put actions and protocol to ask for into `options`."""

    def close(self, context: Any) -> int:
        """The connection ended."""


class Context:
    """What a callback may ask and do: the part of pymilter's context that sessions use."""

    __slots__ = ("answer", "getsymval", "incoming", "lists", "private", "reply")

    def __init__(self) -> None:
        self.private: Any = None
        self.incoming = Incoming()
        # A macro's value, None where the MTA gave none.  Raises: UnicodeDecodeError.
        self.getsymval = self.incoming.macro
        self.lists: list[tuple[int, str]] = []
        self.reply: bytes | None = None  # to the message that is refused
        # At the end of a message: the packets of it, edits and all.
        self.answer = b""

    def setpriv(self, session: Any) -> None:
        """Keep what belongs to this connection."""
        self.private = session

    def getpriv(self) -> Any:
        """What was kept."""
        return self.private

    def setsymlist(self, stage: int, names: str) -> None:
        """Ask for macros; at the negotiation only."""
        self.lists.append((stage, names))

    def setreply(self, code: str, enhanced: str, text: str) -> None:
        """What the client is told with the next refusal."""
        # Made here, where a fault in it still ends in the failure policy.
        self.reply = packets.reply(code, enhanced, text)

    def finish(self, code: int) -> None:
        """At the end of a message that is not changed: SMFIS_*."""
        self.answer = packets.answer(code, self.reply)
        self.reply = None


class Conversation:
    """The state of one connection."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._context = Context()
        self._incoming = self._context.incoming
        self._session: Session | None = None
        self._is_connected = False  # CONNECT came
        self._is_silent = False  # the MTA waits for no answer to a header field
        self._usual: Session | None = None  # where messages may be taken in runs of packets
        self._gathering: Session | None = None  # the same, as long as there is a client
        self._stage = _NOTHING
        self.said: list[bytes] = []  # see `to_say`
        self._steps: Steps[None] = _NO_STEPS  # of a message at its end
        self.rest = b""  # what came and could not be heard yet: a part of a packet, mostly
        # The line of one that must be durable before the message it is of is answered.
        self.record: bytes | None = None

    def _agree(self, session: Session) -> None:
        self._incoming.open()
        self._session = session
        self._is_silent = bool(session.granted & _NR_FIELD)
        is_silent = session.granted & _SILENT == _SILENT
        self._usual = session if is_silent and session.usual is not None else None

    def hear(self, octets: bytes) -> bool:
        """Take what came, up to the end of a message; False: the MTA has nothing more to say."""
        data = self.rest + octets if self.rest else octets
        at = 0
        while self.record is None:
            session = self._gathering
            if session is not None:
                at, stage = usual_message.take(session, self._incoming, data, at, self._stage)
                if stage == _ENDED:
                    self._begin_sealing(session)
                    continue
                self._stage = stage
                if at == len(data):
                    break
            try:
                command, at, payload = self._incoming.next(data, at)
            except ValueError as fault:
                raise Broken(str(fault)) from None
            take = None if self._session is None else _EVENTS.get(command)
            if take is not None:
                take(self, payload)
                if command == packets.FIELD and self._is_silent:
                    # The others come with it, and macros that nobody can ask for.
                    at = fields(self._session, data, at)
            elif command == NOTHING:
                break
            elif not self._is_going_on(command, payload):
                return False
        self.rest = data[at:]
        return True

    def go_on(self, fault: Exception | None) -> bytes:
        """The record is durable, or it is not for this reason.

        Returns what the MTA is to be told of the message; nothing where that has another record.
        """
        if fault is not None:
            return self._go_on_without(fault)
        self.record = record = next(self._steps, None)
        return self._context.answer if record is None else b""

    def _go_on_without(self, fault: Exception) -> bytes:
        try:
            self.record = self._steps.throw(fault)
        except StopIteration:
            self.record = None
            return self._context.answer
        return b""

    def to_say(self) -> bytes:
        """What the MTA is to be told, once."""
        said = self.said
        if not said:
            return b""
        if len(said) == 1:  # as after most messages
            return said.pop()
        octets = b"".join(said)
        said.clear()
        return octets

    def close(self) -> None:
        """The connection ended, whoever ended it; nothing more may be heard."""
        self._sessions.close(self._context)

    def _is_going_on(self, command: int, payload: bytes) -> bool:
        """What is no event: the offer, the end, and what may not be."""
        if self._session is None:
            self._negotiate(command, payload)
            return True
        if command != packets.QUIT:
            raise Broken(f"command {command}")
        return False

    def _negotiate(self, command: int, payload: bytes) -> None:
        offered = packets.offer(payload) if command == packets.OFFER else None
        if offered is None:
            raise Broken("no offer, or one of an MTA that is too old")
        version, actions, protocol = offered
        options = [actions, protocol, 0, 0]
        if self._sessions.negotiate(self._context, options) != packets.CONTINUE:
            raise Broken("refused")  # and `session` has said why
        self._agree(self._context.getpriv())
        self.said.append(packets.agreed(version, options[0], options[1], self._context.lists))

    def _tell(self, name: str, no_reply: int, *arguments: Any) -> None:
        """Call the session; a fault is its own until the end of the message."""
        session = self._session
        assert session is not None
        try:
            getattr(session, name)(self._context, *arguments)
        except Exception as fault:
            session.fail(name, fault)
        if not session.granted & no_reply:
            self.said.append(packets.answer(packets.CONTINUE, None))

    def _expect(self, is_expected: bool) -> None:
        if not is_expected:
            raise Broken("an event out of order")

    def _connect(self, payload: bytes) -> None:
        self._incoming.forget_after(packets.CONNECT)
        peer = packets.peer(payload)
        if peer is None:
            raise Broken("CONNECT without an address")
        self._is_connected = True
        self._gathering = self._usual
        self._stage = _NOTHING
        self._tell("connect", _NR_CONN, _text(peer[0]), *peer[1:])

    def _hello(self, payload: bytes) -> None:
        self._expect(self._is_connected and payload[-1:] == b"\0")
        self._incoming.forget_after(packets.HELO)
        self._stage = _NOTHING
        self._tell("hello", _NR_HELO, _text(payload[:-1]))

    def _reverse_path(self, payload: bytes) -> None:
        arguments = packets.strings(payload)
        if not self._is_connected or arguments is None:
            raise Broken("MAIL")
        self._incoming.forget_after(packets.MAIL)
        self._stage = _REVERSE_PATH
        self._tell("reverse_path", _NR_MAIL, *arguments)

    def _recipient(self, payload: bytes) -> None:
        arguments = packets.strings(payload)
        if self._stage == _NOTHING or arguments is None:
            raise Broken("RCPT")
        self._incoming.forget_after(packets.RCPT)
        self._stage = _RECIPIENT
        self._tell("recipient", _NR_RCPT, *arguments)

    def _field(self, payload: bytes) -> None:
        # The first field of a run, or each where the MTA waits: `fields` does the same for the
        # others, and leaves what is broken to this one.
        session = self._session
        name, _, value = payload.partition(b"\0")
        if self._stage != _RECIPIENT or value[-1:] != b"\0" or session is None:
            raise Broken("a header field")
        try:
            text = name.decode()
        except UnicodeDecodeError:
            raise Broken("a field's name is no text") from None
        try:
            if session.header is not None:
                session.header.add(text, value[:-1])
        except Exception as fault:
            session.fail("field", fault)
        if not self._is_silent:
            self.said.append(packets.answer(packets.CONTINUE, None))

    def _body(self, payload: bytes) -> None:
        self._expect(self._stage == _RECIPIENT)
        self._tell("body", _NR_BODY, payload)

    def _end(self, payload: bytes) -> None:
        self._expect(self._stage == _RECIPIENT)
        session = self._session
        assert session is not None
        if payload:
            try:
                session.body(self._context, payload)
            except Exception as fault:
                session.fail("body", fault)
        self._begin_sealing(session)

    def _begin_sealing(self, session: Session) -> None:
        """The message came to its end."""
        context = self._context
        context.answer = b""  # whatever happens, not that to the message before
        self._stage = _NOTHING
        self._steps = steps = session.end_of_message(context)
        # Of steps that return nothing there is no StopIteration to be made and caught.
        self.record = record = next(steps, None)
        if record is None:
            self.said.append(context.answer)

    def _abort(self, _payload: bytes) -> None:
        assert self._session is not None
        self._stage = _NOTHING
        self._session.abort(self._context)

    def _next_client(self, payload: bytes) -> None:
        self._abort(payload)
        self._is_connected = False
        self._gathering = None
        self._incoming.forget_all()

    def _unasked(self, _payload: bytes) -> None:
        # An old MTA cannot be told to leave it out, and waits for an answer.
        self.said.append(packets.answer(packets.CONTINUE, None))


# No methods of one conversation: what has them would know itself, and stay with a message that did
# not come to its end, and that message's keys, until somebody collects garbage.
_EVENTS: Final[dict[int, Callable[[Conversation, bytes], None]]] = {
    packets.CONNECT: Conversation._connect,
    packets.HELO: Conversation._hello,
    packets.MAIL: Conversation._reverse_path,
    packets.RCPT: Conversation._recipient,
    packets.FIELD: Conversation._field,
    packets.BODY: Conversation._body,
    packets.END: Conversation._end,
    packets.ABORT: Conversation._abort,
    packets.DATA: Conversation._unasked,
    packets.END_OF_HEADER: Conversation._unasked,
    packets.UNKNOWN: Conversation._unasked,
    packets.QUIT_NC: Conversation._next_client,
}


def _text(octets: bytes) -> str:
    """A name that is no text proves nothing and stays unknown; mail is not held up for it."""
    try:
        return octets.decode()
    except UnicodeDecodeError as fault:
        log.warning("callback-argument-unreadable", fault=type(fault).__name__, text=str(fault))
        return ""
