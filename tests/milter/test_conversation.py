"""The protocol without libmilter: what comes in pieces, out of order or not at all.

What whole messages come to is tested on the wire, against libmilter.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import milter_protocol as wire

from carbonseal.milter import conversation, packets
from carbonseal.milter.archive.spool import Steps
from carbonseal.milter.conversation import Context, Conversation

ALL = int(wire.ALL_PROTOCOL)
OFFER = wire.framed(b"O", b"".join(number.to_bytes(4) for number in (6, 0x1FF, ALL)))
CONNECT = wire.framed(b"C", b"mx\0004\0\x19192.0.2.1\0")
ENVELOPE = wire.framed(b"M", b"<a@x>\0SIZE=3\0") + wire.framed(b"R", b"<b@y>\0")
FIELD = wire.framed(b"L", b"From\0 a\0")
MESSAGE = ENVELOPE + FIELD + wire.framed(b"B", b"text") + b"\0\0\0\1E"


class Seen:
    """A session that notes what it is told; each answer is a field and "continue"."""

    usual = None  # each event is told; see `test_usual_message` for messages that are gathered

    def __init__(self, granted: int) -> None:
        self.granted = granted
        self.events: list[Any] = []
        self.header: Any = self
        self.is_mute = False  # at the end of a message

    def add(self, name: str, value: bytes) -> None:
        self.events.append((name, value))

    def connect(self, context: Context, name: str, family: int, peer: Any) -> None:
        self.events.append((name, family, peer))

    def hello(self, context: Context, name: str) -> None:
        self.events.append(name)

    def reverse_path(self, context: Context, *arguments: bytes) -> None:
        self.events.append(arguments)

    def recipient(self, context: Context, *arguments: bytes) -> None:
        self.events.append((*arguments, context.getsymval("{rcpt_addr}"), context.getsymval("i")))

    def body(self, context: Context, chunk: bytes) -> None:
        self.events.append(chunk)

    def end_of_message(self, context: Context) -> Steps[None]:
        self.events.append("end")
        yield b"record"
        if self.is_mute:
            return
        context.answer = b"".join(
            (
                packets.inserted_field("X", " y", 0),
                packets.added_recipient("<c@z>", "NOTIFY=NEVER"),
                packets.answer(packets.CONTINUE, None),
            )
        )

    def abort(self, context: Context) -> None:
        self.events.append("abort")

    def fail(self, callback: str, fault: BaseException) -> None:
        raise fault


class OneSession:
    """Grants what is offered, as far as it silences answers."""

    def __init__(self) -> None:
        self.session = Seen(0)
        self.is_closed = False

    def negotiate(self, context: Context, options: list[int]) -> int:
        self.session.granted = options[1] = options[1] & int(wire.NO_REPLIES)
        context.setpriv(self.session)
        context.setsymlist(2, "i")
        return packets.CONTINUE

    def close(self, context: Context) -> int:
        self.is_closed = True
        return packets.CONTINUE


def spoken(*pieces: bytes) -> tuple[OneSession, bytes, BaseException | None]:
    """The session, what was answered, and what the conversation raised."""
    sessions = OneSession()
    one = Conversation(sessions)
    answers = b""
    raised = None
    try:
        for piece in pieces:
            is_going_on = one.hear(piece)
            answers += one.to_say()
            while one.record is not None:
                sessions.session.events.append(one.record)
                answers += one.go_on(None)
                is_going_on = one.hear(b"")
                answers += one.to_say()
            if not is_going_on:
                break
    except conversation.Broken as fault:
        raised = fault
    finally:
        answers += one.to_say()
        one.close()
    return sessions, answers, raised


WHOLE = spoken(OFFER + CONNECT + MESSAGE + MESSAGE + b"\0\0\0\1Q")


def test_one_message_in_one_piece_is_answered_in_one() -> None:
    """Edits and answer, and nothing for events whose answer nobody waits for."""
    sessions, answers, raised = WHOLE
    sent = [(b"<a@x>", b"SIZE=3"), (b"<b@y>", None, None), ("From", b" a"), b"text"]
    message = [*sent, "end", b"record"]
    assert sessions.session.events == [("mx", 2, ("192.0.2.1", 25)), *message, *message]
    agreed = b"".join(n.to_bytes(4) for n in (6, 0x1FF, int(wire.NO_REPLIES), 2)) + b"i\0"
    edits = wire.framed(b"i", b"\0\0\0\0X\0 y\0") + wire.framed(b"2", b"<c@z>\0NOTIFY=NEVER\0")
    assert answers == wire.framed(b"O", agreed) + 2 * (edits + wire.framed(b"c"))
    assert raised is None
    assert sessions.is_closed


def test_an_answer_is_that_to_its_own_message() -> None:
    """A defect that leaves one message without an answer does not repeat that to the one before."""
    sessions = OneSession()
    one = Conversation(sessions)
    said = []
    for is_mute in (False, True):
        sessions.session.is_mute = is_mute
        one.hear(MESSAGE if is_mute else OFFER + CONNECT + MESSAGE)
        one.to_say()
        said.append(one.go_on(None))
    assert said[0]
    assert said[1] == b""


@given(st.lists(st.integers(1, 40), max_size=20))
def test_where_the_stream_is_cut_makes_no_difference(sizes: list[int]) -> None:
    """A packet may come in any number of pieces, and several in one."""
    rest = OFFER + CONNECT + MESSAGE + MESSAGE + b"\0\0\0\1Q"
    pieces = []
    for size in sizes:
        pieces.append(rest[:size])
        rest = rest[size:]
    sessions, answers, raised = spoken(*pieces, rest)
    assert (sessions.session.events, answers, raised) == (WHOLE[0].session.events, *WHOLE[1:])


def test_the_longest_packet_is_taken_and_a_longer_one_is_not() -> None:
    """The bound is the only thing between a stranger and all memory."""
    longest = b"x" * packets.LONGEST
    begin = OFFER + CONNECT + ENVELOPE
    sessions, _, raised = spoken(begin + wire.framed(b"B", longest))
    assert (sessions.session.events[-1], raised) == (longest, None)
    sessions, _, raised = spoken(begin + wire.framed(b"B", longest + b"x"))
    assert raised is not None
    assert len(sessions.session.events) == 3


def test_the_next_client_of_a_connection_inherits_nothing() -> None:
    """After QUIT_NC there is neither a macro nor a connection of the last one."""
    told = wire.framed(b"D", b"C{rcpt_addr}\0b@y\0i\0Q1\0")
    first = OFFER + told + CONNECT + ENVELOPE + wire.framed(b"K")
    sessions, _, raised = spoken(first + CONNECT + ENVELOPE)
    recipients = [event for event in sessions.session.events if event[0] == b"<b@y>"]
    assert recipients == [(b"<b@y>", "b@y", "Q1"), (b"<b@y>", None, None)]
    assert raised is None
    assert isinstance(spoken(first + ENVELOPE)[2], conversation.Broken)


def test_macros_belong_to_their_message() -> None:
    """Those of an earlier recipient or message are gone; `i` is `{i}`."""
    told = wire.framed(b"D", b"R{rcpt_addr}\0b@y\0{i}\0Q1\0")
    again = wire.framed(b"A") + ENVELOPE
    sessions, _, _ = spoken(OFFER + CONNECT + ENVELOPE[:18] + told + ENVELOPE[18:] + again)
    recipients = [event for event in sessions.session.events if event[0] == b"<b@y>"]
    assert recipients == [(b"<b@y>", "b@y", "Q1"), (b"<b@y>", None, None)]


@pytest.mark.parametrize(
    ("macros", "too_much"),
    [
        pytest.param(b"i\0" + b"v" * (packets.MOST_OF_MACROS - 4) + b"\0", b"v", id="octets"),
        pytest.param(b"i\0Q\0" * packets.MOST_MACROS, b"i\0Q\0", id="number"),
    ],
)
def test_macros_without_end_are_not_kept(macros: bytes, too_much: bytes) -> None:
    """As many as no MTA has are taken, and one more ends the connection before the recipient."""
    for stage in b"CHMRTE":
        begin = OFFER + CONNECT + ENVELOPE[:18] + wire.framed(b"D", bytes((stage,)) + macros)
        sessions, _, raised = spoken(begin + ENVELOPE[18:])
        assert (len(sessions.session.events), raised) == (3, None)
        more = wire.framed(b"D", bytes((stage,)) + too_much + macros)
        sessions, answers, raised = spoken(begin + more + ENVELOPE[18:] + FIELD + b"\0\0\0\1E")
        assert isinstance(raised, conversation.Broken)
        assert len(sessions.session.events) == 2
        assert wire.framed(b"c") not in answers


def test_an_mta_that_waits_for_answers_gets_them() -> None:
    """One that cannot be told to leave DATA and the end of the header out, either."""
    offer = wire.framed(b"O", b"".join(number.to_bytes(4) for number in (2, 0x1FF, 0)))
    events = CONNECT + wire.framed(b"H", b"x\0") + ENVELOPE + wire.framed(b"T")
    events += wire.framed(b"L", b"From\0 a\0") + wire.framed(b"N") + wire.framed(b"B", b"x")
    _, answers, raised = spoken(offer + events)
    agreed = b"".join(n.to_bytes(4) for n in (2, 0x1FF, 0, 2)) + b"i\0"
    assert answers == wire.framed(b"O", agreed) + 8 * wire.framed(b"c")
    assert raised is None


FIELDS = [
    wire.framed(b"D", b"L"),
    FIELD,
    wire.framed(b"D", b"Li\0Q1\0"),
    wire.framed(b"L", b"To\0 b\n c\0"),
    wire.framed(b"D", b"Ni\0Q1\0"),
    wire.framed(b"L", b"X\0\0"),
    wire.framed(b"L", b"X\0a\0b\0"),
]


@pytest.mark.parametrize("protocol", [pytest.param(ALL, id="silent"), pytest.param(0, id="waits")])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_header_fields_are_taken_alike_one_by_one_and_in_runs(protocol: int, size: int) -> None:
    """Whether or not the MTA waits at each, and however they come."""
    offer = wire.framed(b"O", b"".join(number.to_bytes(4) for number in (6, 0x1FF, protocol)))
    octets = ENVELOPE + b"".join(FIELDS) + wire.framed(b"R", b"<c@y>\0") + FIELD
    pieces = [octets[at : at + size] for at in range(0, len(octets), size)]
    sessions, answers, raised = spoken(offer + CONNECT, *pieces)
    assert raised is None
    assert sessions.session.events[3:] == [
        ("From", b" a"),
        ("To", b" b\n c"),
        ("X", b""),
        ("X", b"a\0b"),
        (b"<c@y>", None, None),
        ("From", b" a"),
    ]
    assert answers.count(wire.framed(b"c")) == (0 if protocol else 9)


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(wire.framed(b"C", b"mx\0U"), id="connect-before-the-offer"),
        pytest.param(wire.framed(b"O", b"\0\0\0\1" + bytes(8)), id="too-old"),
        pytest.param(OFFER + OFFER, id="two-offers"),
        pytest.param(OFFER + ENVELOPE, id="mail-before-connect"),
        pytest.param(OFFER + wire.framed(b"C", b"mx\0Xabc\0"), id="unknown-family"),
        pytest.param(OFFER + wire.framed(b"C", b"mx"), id="no-family"),
        pytest.param(OFFER + CONNECT + wire.framed(b"H", b"x"), id="hello-without-nul"),
        pytest.param(OFFER + CONNECT + wire.framed(b"R", b"<b@y>\0"), id="rcpt-before-mail"),
        pytest.param(OFFER + CONNECT + FIELD, id="field-before-mail"),
        pytest.param(OFFER + CONNECT + ENVELOPE[:18] + FIELD, id="field-before-rcpt"),
        pytest.param(OFFER + CONNECT + MESSAGE + FIELD, id="field-after-the-end"),
        pytest.param(OFFER + CONNECT + ENVELOPE + FIELD + OFFER, id="offer-after-a-field"),
        pytest.param(OFFER + CONNECT + ENVELOPE + wire.framed(b"L", b"X\0"), id="half-a-field"),
        pytest.param(
            OFFER + CONNECT + ENVELOPE + FIELD + wire.framed(b"L", b"X\0"), id="half-a-later-field"
        ),
        pytest.param(
            OFFER + CONNECT + ENVELOPE + FIELD + wire.framed(b"L", b"\xff\0 x\0"),
            id="no-later-name",
        ),
        pytest.param(OFFER + CONNECT + ENVELOPE + FIELD + b"\0\0\0\0L", id="no-later-command"),
        pytest.param(OFFER + CONNECT + ENVELOPE + wire.framed(b"L", b"\xff\0 x\0"), id="no-name"),
        pytest.param(OFFER + CONNECT + MESSAGE + b"\0\0\0\1E", id="two-ends"),
        pytest.param(OFFER + CONNECT + b"\0\0\0\1Z", id="unknown-command"),
        pytest.param(OFFER + b"\0\0\0\0\0", id="no-command"),
        pytest.param(OFFER + CONNECT + b"\0\0\0\0A", id="nothing-before-a-command"),
    ],
)
def test_what_is_not_the_protocol_ends_the_connection(octets: bytes) -> None:
    """Without an answer that could be taken for a yes."""
    sessions, answers, raised = spoken(octets)
    assert raised is not None
    assert answers.count(wire.framed(b"c")) == sessions.session.events.count("end")
    assert sessions.is_closed
