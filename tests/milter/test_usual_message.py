"""Messages taken in runs of packets against the same told event by event, wherever they are cut."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import milter_protocol as wire
from support import sanitizers
from support.milter_protocol import framed

from carbonseal.milter import _incoming, conversation, packets, session, usual_message
from carbonseal.milter import transaction as transactions
from carbonseal.milter.archive.spool import Steps
from carbonseal.milter.conversation import Broken, Context, Conversation
from carbonseal.milter.incoming import PlainIncoming
from carbonseal.milter.transaction import USUAL, TooManyRecipients, Transaction
from carbonseal.milter.usual_message import (
    ENDED,
    NOTHING,
    RECIPIENT,
    REVERSE_PATH,
    PlainGathered,
    plain_take,
)

UNDER_SANITIZERS = sanitizers.are_at_work()
SILENT = int(wire.NO_REPLIES)
OFFER = framed(b"O", b"".join(number.to_bytes(4) for number in (6, 0x1FF, 0x1FFFFF)))
CONNECT = framed(b"C", b"mx\0004\0\x19192.0.2.1\0")
TAKERS = {
    "in-python": (plain_take, PlainIncoming),
    "compiled": (_incoming.take, _incoming.Incoming),
}


def with_means(take: Callable[..., tuple[int, int]]) -> Callable[..., tuple[int, int]]:
    """A taker for which the session has these."""

    def taken(means: Any, incoming: Any, session: Any, *where: Any) -> tuple[int, int]:
        session.usual = means
        return take(session, incoming, *where)

    return taken


BOTH = pytest.mark.parametrize(
    ("take", "kind"),
    [pytest.param(with_means(take), kind, id=name) for name, (take, kind) in TAKERS.items()],
)
NAMES = ("i", "{mail_addr}", "{auth_authen}", "{auth_type}", "{rcpt_addr}", "{rcpt_mailer}")


def facts(transaction: Transaction | None) -> Any:
    """All that is known of a message; of times, whether there is one."""
    if transaction is None:
        return None
    header = transaction.header
    return (
        (transaction.client, transaction.listener, transaction.relay, transaction.tls),
        (transaction.reverse_path, transaction.login, transaction.login_method),
        (transaction.queue_id, list(transaction.recipients), transaction._recipient_octets),
        (transaction._has_too_many, list(transaction.fields), header.fields is transaction.fields),
        (header.size, header.longest, header.is_oversized, transaction.names()),
        (transaction.body.canonicalization, transaction.body.digest(), transaction.body.facts()),
        (transaction.envelope_at > 0, transaction.body_at > 0, transaction.envelope()),
    )


class Noting(session.Session):
    """The session of the product, with all that reaches it noted; every second end has a record."""

    __slots__ = ("noted",)

    def __init__(self, canonicalization: str) -> None:
        signing = SimpleNamespace(body_canonicalization=canonicalization)
        services = SimpleNamespace(configuration=SimpleNamespace(signing=signing), tally=None)
        super().__init__(services, SILENT)  # type: ignore[arg-type]
        self.noted: list[Any] = []

    def fail(self, callback: str, fault: BaseException) -> None:
        self.noted.append((callback, type(fault), str(fault)))
        self._fault = callback

    def end_of_message(self, context: Context) -> Steps[None]:
        transaction, self.transaction, self.header = self.transaction, None, None
        if transaction is not None and not transaction.queue_id:
            transaction.queue_id = session._macro(context, "i") or ""
        self.noted.append((facts(transaction), outcome_of(context.getsymval, "i"), self._fault))
        if len(self.noted) % 2:
            yield b"record"
        context.finish(packets.CONTINUE)


class Granting:
    """All sessions: one, which is silent."""

    def __init__(self, session: Noting) -> None:
        self.session = session

    def negotiate(self, context: Context, options: list[int]) -> int:
        options[1] = SILENT
        context.setpriv(self.session)
        return packets.CONTINUE

    def close(self, context: Context) -> int:
        return packets.CONTINUE


@contextmanager
def small_bounds() -> Iterator[Any]:
    """Bounds that short streams reach, and an address that cannot be read."""

    def path(argument: bytes) -> Any:
        if argument == b"<bad>":
            raise RuntimeError("no path")
        return transactions.address.parse_path(transactions.text(argument))

    def recipient(argument: bytes, *told: str | None) -> Any:
        return transactions.Recipient(path(argument), *told, ())  # type: ignore[arg-type]

    path.__wrapped__ = path  # type: ignore[attr-defined]
    bounds = {"_SHORT": 12, "RECURRING": 2, "MAX_RECIPIENTS": 4, "MAX_RECIPIENT_OCTETS": 90}
    with mock.patch.multiple(transactions, _path=path, _recipient=recipient, **bounds):
        yield USUAL._replace(path=path, recipient=recipient, short=12, recurring=2, most_octets=90)


def outcome(
    pieces: list[bytes], how: str, canonicalization: str = "relaxed", means: Any = USUAL
) -> Any:
    """Everything that came of these octets: events, answers, what is left and what is known."""
    take, kind = TAKERS.get(how, TAKERS["in-python"])
    one = Noting(canonicalization)
    with (
        mock.patch.object(usual_message, "take", take),
        mock.patch.object(conversation, "Incoming", kind),
        mock.patch.object(session.Session, "usual", None if how == "events" else means),
    ):
        talk = Conversation(Granting(one))
        answers, raised = b"", ""
        try:
            for piece in (OFFER, *pieces):
                is_going_on = talk.hear(piece)
                while talk.record is not None:
                    one.noted.append(talk.record)
                    answers += talk.go_on(None)
                    is_going_on = talk.hear(b"")
                answers += talk.to_say()
                if not is_going_on:
                    break
        except Broken as fault:
            raised = str(fault)
        answers += talk.to_say()
        told = [outcome_of(talk._context.getsymval, name) for name in NAMES]
        state = (talk._stage, talk._is_connected, talk.rest, one._fault, facts(one.transaction))
        kept = (
            one.header is None
            if one.transaction is None
            else (one.header is one.transaction.header)
        )
        return one.noted, answers, raised, told, state, kept


def outcome_of(do: Callable[..., Any], *given: Any) -> Any:
    try:
        return do(*given)
    except UnicodeDecodeError as fault:
        return str(fault)


ARGUMENTS = st.sampled_from(
    [b"<a@x.de>", b"<b@y.de>", b"<>", b"<bad>", b"<long-enough@example.com>", b"", b"\xff"]
)
PARAMETERS = st.lists(st.sampled_from([b"SIZE=3", b"\xff\xfe", b""]), max_size=2)
VALUES = st.sampled_from([b"", b"a@x.de", b"PLAIN", b"\xff", b"x" * 30])
LISTS = st.lists(st.tuples(st.sampled_from([name.encode() for name in NAMES]), VALUES), max_size=4)


def macros(stage: bytes) -> st.SearchStrategy[bytes]:
    return LISTS.map(
        lambda pairs: framed(b"D", stage + b"".join(b"%b\0%b\0" % pair for pair in pairs))
    )


def path_of(command: bytes) -> st.SearchStrategy[bytes]:
    return st.builds(
        lambda argument, more: framed(command, b"".join(one + b"\0" for one in (argument, *more))),
        ARGUMENTS,
        st.just([]) | PARAMETERS,
    )


def several(one: st.SearchStrategy[bytes], most: int) -> st.SearchStrategy[list[bytes]]:
    return st.lists(one, max_size=most)


FIELD = st.sampled_from([framed(b"L", b"To\0 a\n b\0"), framed(b"L", b"X\0\0")])
BODY = st.lists(st.sampled_from([b"a ", b"\r\n", b"\r", b"\n", b"\xe4", b"\0"]), max_size=5).map(
    lambda parts: framed(b"B", b"".join(parts))
)
END = st.just(framed(b"E"))
ABORT = st.just(framed(b"A"))
# What a message consists of, in its order.
MESSAGE = st.tuples(
    several(ABORT, 1),
    several(macros(b"M"), 1),
    path_of(b"M").map(lambda one: [one]),
    several(macros(b"R") | path_of(b"R") | macros(b"T"), 5),
    path_of(b"R").map(lambda one: [one]),
    several(macros(b"L") | FIELD, 5),
    several(macros(b"B") | BODY, 3),
    several(macros(b"E"), 1),
    END.map(lambda one: [one]),
).map(lambda parts: list(itertools.chain(*parts)))
# And what may be anywhere.
OTHERS = st.sampled_from(
    [
        CONNECT,
        framed(b"H", b"helo\0"),
        framed(b"K"),
        framed(b"Q"),
        framed(b"T"),
        framed(b"N"),
        framed(b"U", b"NOOP\0"),
        framed(b"E", b"rest\r\n"),
        framed(b"M"),
        framed(b"M", b"<a@x.de>"),
        framed(b"R", b"<b@y.de>"),
        framed(b"L", b"half\0"),
        framed(b"L", b"\xff\0 x\0"),
        framed(b"Z"),
        framed(b"A", b"more"),
        framed(b"D"),
        framed(b"D", b"X"),
        framed(b"D", b"M" + b"i\0Q\0" * 300),
        b"\0\0\0\0M",
        b"\xff\xff\xff\xffB",
        framed(b"B", b"x" * (packets.LONGEST + 1))[:20],
    ]
)
FEW_OTHERS = st.lists(st.tuples(st.integers(0, 40), OTHERS), max_size=2)


def mixed(messages: list[list[bytes]], others: list[tuple[int, bytes]], dropped: int) -> bytes:
    """The packets of messages, with others among them, and perhaps without one of theirs."""
    found = [CONNECT, *itertools.chain(*messages)]
    if dropped < len(found):
        del found[dropped]
    for place, other in others:
        found.insert(place, other)
    return b"".join(found)


STREAMS = st.builds(mixed, st.lists(MESSAGE, max_size=3), FEW_OTHERS, st.integers(0, 80))


def cut(octets: bytes, sizes: list[int]) -> list[bytes]:
    pieces = []
    for size in sizes:
        pieces.append(octets[:size])
        octets = octets[size:]
    return [*pieces, octets]


def usual(
    *, to: bytes = framed(b"R", b"<b@y.de>\0"), body: bytes = framed(b"B", b"a \r\n")
) -> bytes:
    """One message as Postfix sends it."""
    return b"".join(
        (
            framed(b"D", b"M{mail_addr}\0a@x.de\0{auth_authen}\0a\0{auth_type}\0PLAIN\0"),
            framed(b"M", b"<a@x.de>\0SIZE=9\0"),
            framed(b"D", b"R{rcpt_addr}\0b@y.de\0{rcpt_mailer}\0smtp\0{rcpt_host}\0y.de\0"),
            to,
            framed(b"D", b"Li\0Q1\0"),
            framed(b"L", b"From\0 a@x.de\0"),
            framed(b"D", b"Bi\0Q1\0"),
            body,
            framed(b"D", b"Ei\0Q1\0"),
            framed(b"E"),
        )
    )


@given(
    stream=STREAMS,
    sizes=st.lists(st.integers(1, 120), max_size=12),
    canonicalization=st.sampled_from(["relaxed", "simple"]),
)
@example(stream=CONNECT + usual() + framed(b"A") + usual(), sizes=[], canonicalization="simple")
@settings(max_examples=60 if UNDER_SANITIZERS else 500, deadline=None)
def test_a_run_comes_to_the_same_as_its_events(
    stream: bytes, sizes: list[int], canonicalization: str
) -> None:
    """Usual messages and whatever else, cut anywhere; what is known, told, answered and left."""
    with small_bounds() as means:
        pieces = cut(stream, sizes)
        expected = outcome(pieces, "events", canonicalization)
        for how in TAKERS:
            assert outcome(pieces, how, canonicalization, means) == expected, how


def test_where_a_message_is_cut_makes_no_difference() -> None:
    """At every octet of two messages, with the bounds of the product."""
    stream = CONNECT + usual() + framed(b"A") + usual()
    expected = outcome([stream], "events")
    assert len([one for one in expected[0] if one == b"record"]) > 0
    for how in TAKERS:
        assert outcome([stream], how) == expected
        for at in range(1, len(stream)):
            assert outcome([stream[:at], stream[at:]], how) == expected, (how, at)
        assert outcome(cut(stream, [1] * len(stream)), how) == expected


class Bare:
    """A session with what `take` asks of it."""

    connection = transactions.Connection(SimpleNamespace(), "l", "r", None)  # type: ignore[arg-type]
    body_canonicalization = "relaxed"

    def __init__(self) -> None:
        self.transaction: Any = None
        self.header: Any = None
        self.failed: list[tuple[str, BaseException]] = []
        self.aborted = 0

    def begin(self, transaction: Any) -> None:
        self.transaction, self.header = transaction, transaction.header

    def abort(self, _context: Any) -> None:
        self.transaction = self.header = None
        self.aborted += 1

    def fail(self, callback: str, fault: BaseException) -> None:
        self.failed.append((callback, fault))


@BOTH
def test_a_whole_message_is_one_run(take: Any, kind: Any) -> None:
    """Up to its end and no further; else this would be for nothing."""
    one = Bare()
    stream = framed(b"A") + usual()
    incoming = kind()
    incoming.open()
    ended = take(USUAL, incoming, one, b"??" + stream + usual(), 2, NOTHING)
    assert ended == (2 + len(stream), ENDED)
    assert one.aborted == 1
    assert type(one.transaction) is Transaction
    assert one.transaction.fields == [("From", b" a@x.de")]
    assert one.transaction.body.size == 4
    assert incoming.macro("i") == one.transaction.queue_id == "Q1"


@BOTH
def test_times_are_those_of_the_last_recipient_and_the_first_piece(take: Any, kind: Any) -> None:
    """By the clock that is given, asked no more often than that."""
    clock = itertools.count(1.0).__next__
    two = framed(b"R", b"<b@y.de>\0")
    body = framed(b"B", b"a") + framed(b"B", b"b")
    one = Bare()
    stream = usual(to=two + two, body=body)
    assert take(USUAL._replace(clock=clock), kind(), one, stream, 0, NOTHING)[1] == ENDED
    assert (one.transaction.envelope_at, one.transaction.body_at) == (2.0, 3.0)
    assert clock() == 4.0


@BOTH
def test_what_is_remembered_is_asked_for_with_what_recurs_only(take: Any, kind: Any) -> None:
    """Long arguments, parameters and the many of a mailing would drive out everybody else."""
    asked: list[Any] = []

    def recipient(*told: Any) -> Any:
        asked.append(told)
        return transactions._recipient(*told)

    plain, long = framed(b"R", b"<b@y.de>\0"), framed(b"R", b"<%b@y.de>\0" % (b"x" * 260))
    with_one = framed(b"R", b"<b@y.de>\0ORCPT=rfc822;b@y.de\0")
    one = Bare()
    stream = usual(to=plain + long + with_one + 400 * plain)
    assert take(USUAL._replace(recipient=recipient), kind(), one, stream, 0, NOTHING)[1] == ENDED
    assert len(one.transaction.recipients) == 403
    assert len(asked) == transactions.RECURRING - 2
    assert one.transaction.recipients[2].esmtp == ("ORCPT=rfc822;b@y.de",)
    assert not one.failed
    stream = framed(b"M", b"<%b@x.de>\0" % (b"x" * 260))
    assert take(USUAL, kind(), one, stream, 0, NOTHING) == (0, NOTHING)


@BOTH
def test_recipients_without_end_are_told_of_once(
    take: Any, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the message goes on, to be refused at its end."""
    monkeypatch.setattr(transactions, "MAX_RECIPIENTS", 300)
    one = Bare()
    stream = usual(to=500 * framed(b"R", b"<b@y.de>\0"))
    assert take(USUAL, kind(), one, stream, 0, NOTHING) == (len(stream), ENDED)
    ((callback, fault),) = one.failed
    assert callback == "recipient"
    assert isinstance(fault, TooManyRecipients)
    assert len(one.transaction.recipients) == 300


def failing(fault: BaseException) -> Callable[..., Any]:
    def fail(*_: Any) -> Any:
        raise fault

    return fail


@BOTH
@pytest.mark.parametrize("means", ["path", "header", "body"])
def test_a_mail_that_cannot_be_taken_is_left_as_it_is(take: Any, kind: Any, means: str) -> None:
    """Whoever takes it next meets the same fault, and tells of it."""
    stream = usual()
    begin = stream.index(b"M<a") - packets.PREFIX
    given = USUAL._replace(**{means: failing(MemoryError("no room"))})
    incoming = kind()
    incoming.open()
    one = Bare()
    assert take(given, incoming, one, stream, 0, NOTHING) == (begin, NOTHING)
    assert (one.transaction, one.failed) == (None, [])
    one.begin = failing(ValueError("no session"))  # type: ignore[method-assign]
    assert take(USUAL, incoming, one, stream, 0, NOTHING) == (begin, NOTHING)
    one.connection = (1, 2, 3)  # type: ignore[assignment]
    assert take(USUAL, incoming, one, stream, 0, NOTHING) == (begin, NOTHING)
    with pytest.raises(SystemExit):
        take(USUAL._replace(path=failing(SystemExit())), incoming, Bare(), stream, 0, NOTHING)


@BOTH
def test_a_fault_in_the_rest_is_told_and_the_message_goes_on(take: Any, kind: Any) -> None:
    """As that of the event, so that the message is answered by the failure policy at its end."""
    stream = usual()
    for means, told in (
        ({"recipient": failing(ValueError("r"))}, ["recipient"]),
        ({"clock": failing(OSError("c"))}, ["recipient", "body"]),
        ({"clock": lambda: "no time"}, ["recipient", "body"]),
    ):
        one = Bare()
        given = USUAL._replace(**means)  # type: ignore[arg-type]
        assert take(given, kind(), one, stream, 0, NOTHING) == (len(stream), ENDED)
        assert [where for where, _ in one.failed] == told
    one = Bare()
    one.fail = failing(RuntimeError("deaf"))  # type: ignore[method-assign]
    given = USUAL._replace(recipient=failing(ValueError("r")))
    with pytest.raises(RuntimeError, match="deaf"):
        take(given, kind(), one, stream, 0, NOTHING)
    for ended in ({"recipient": failing(SystemExit())}, {"fields": failing(SystemExit())}):
        with pytest.raises(SystemExit):
            take(USUAL._replace(**ended), kind(), Bare(), stream, 0, NOTHING)


@BOTH
def test_a_run_begins_at_the_stage_that_was_reached(take: Any, kind: Any) -> None:
    """What may not come yet is left to be judged."""
    for stage, command in itertools.product((NOTHING, REVERSE_PATH, RECIPIENT), b"RLBE"):
        one = Bare()
        take(USUAL, kind(), one, framed(b"M", b"<a@x.de>\0"), 0, NOTHING)
        packet = framed(
            bytes((command,)), {b"R"[0]: b"<b@y>\0", b"L"[0]: b"X\0\0"}.get(command, b"")
        )
        is_due = stage == RECIPIENT or (stage == REVERSE_PATH and command == b"R"[0])
        stopped, reached = take(USUAL, kind(), one, packet, 0, stage)
        assert stopped == (len(packet) if is_due else 0)
        due = ENDED if command == b"E"[0] else RECIPIENT
        assert reached == (due if is_due else stage)


@BOTH
def test_what_another_has_to_judge_is_left(take: Any, kind: Any) -> None:
    """An end that brings a piece of the body, packets too long or with too much, half of one."""
    begin = framed(b"M", b"<a@x.de>\0") + framed(b"R", b"<b@y.de>\0")
    for left in (
        framed(b"E", b"rest\r\n"),
        framed(b"B", b"x" * (packets.LONGEST + 1)),
        framed(b"D", b"M" + b"i\0Q\0" * 300),
        framed(b"B", b"half")[:-1],
        framed(b"T"),
    ):
        one = Bare()
        stopped = take(USUAL, kind(), one, begin + left, 0, NOTHING)
        assert stopped == (len(begin), RECIPIENT)
        assert one.transaction.body.size == 0
    longest = framed(b"B", b"x" * packets.LONGEST)
    assert take(USUAL, kind(), one, longest, 0, RECIPIENT) == (len(longest), RECIPIENT)


@BOTH
def test_macros_of_later_stages_belong_to_an_earlier_event(take: Any, kind: Any) -> None:
    """Another recipient, and another message, make them void."""
    later = framed(b"D", b"Ti\0Q1\0") + framed(b"D", b"E{auth_type}\0PLAIN\0")
    for event, stage in ((framed(b"R", b"<b@y.de>\0"), RECIPIENT), (framed(b"M", b"<>\0"), 1)):
        one, incoming = Bare(), kind()
        take(USUAL, incoming, one, framed(b"M", b"<a@x.de>\0") + later, 0, NOTHING)
        assert (incoming.macro("i"), incoming.macro("{auth_type}")) == ("Q1", "PLAIN")
        assert take(USUAL, incoming, one, event, 0, REVERSE_PATH) == (len(event), stage)
        assert (incoming.macro("i"), incoming.macro("{auth_type}")) == (None, None)
        assert one.transaction.login_method == ""


@BOTH
def test_a_message_of_another_kind_is_not_touched(take: Any, kind: Any) -> None:
    """Without one, or with one that something else made, the events are told."""
    one = Bare()
    for transaction in (None, object()):
        one.transaction = transaction
        for packet in (framed(b"R", b"<b@y>\0"), framed(b"B", b"x")):
            assert take(USUAL, kind(), one, packet, 0, RECIPIENT) == (0, RECIPIENT)


def test_the_parts_of_both_are_the_same() -> None:
    """And nothing else can be hung on a message."""
    found = {name for name in vars(_incoming.Gathered) if not name.startswith("__")}
    assert found == set(PlainGathered.__slots__)
    with pytest.raises(AttributeError):
        Transaction.__new__(Transaction).other = 1  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        _ = Transaction.__new__(Transaction).body


def test_nothing_of_a_message_stays() -> None:
    """Not even of one that somebody tied to itself."""

    class Seen(list[Any]):
        """Can be watched."""

    one = Bare()
    incoming = _incoming.Incoming()
    for tied in (False, True):
        with_means(_incoming.take)(USUAL, incoming, one, usual(), 0, NOTHING)
        seen = Seen()
        one.transaction.recipients = seen
        if tied:
            seen.append(one.transaction)
        gone = weakref.ref(seen)
        one.abort(None)
        del seen
        gc.collect()
        assert gone() is None


def test_the_compiled_one_takes_no_other_types() -> None:
    """A mistake of the caller is a fault, and no crash."""
    take: Any = with_means(_incoming.take)
    incoming, one, stream = _incoming.Incoming(), Bare(), usual()
    right = (USUAL, incoming, one, stream, 0, NOTHING)
    for place, wrong, fault in (
        (0, tuple(USUAL)[:-1], TypeError),
        (0, None, TypeError),
        (0, USUAL._replace(transaction=object), TypeError),
        (0, USUAL._replace(reverse_path=object), TypeError),
        (0, USUAL._replace(of_mail=()), TypeError),
        (0, USUAL._replace(of_recipient=["i"] * 3), TypeError),  # type: ignore[arg-type]
        (0, USUAL._replace(of_end=b"i"), TypeError),  # type: ignore[arg-type]
        (0, USUAL._replace(short="x"), TypeError),  # type: ignore[arg-type]
        (1, PlainIncoming(), TypeError),
        (2, object(), AttributeError),
        (3, bytearray(stream), TypeError),
        (4, -1, OverflowError),
        (5, ENDED, ValueError),
        (5, -1, ValueError),
        (5, None, TypeError),
    ):
        with pytest.raises(fault):
            take(*right[:place], wrong, *right[place + 1 :])
    with pytest.raises(TypeError):
        take(*right[:-1])
    assert take(*right[:4], len(stream) + 5, NOTHING) == (len(stream) + 5, NOTHING)
    take(*right)
    one.transaction.recipients = ()
    rest = framed(b"R", b"<b@y>\0")
    assert take(USUAL, incoming, one, rest, 0, RECIPIENT) == (0, RECIPIENT)
    del one.transaction.body
    assert take(USUAL, incoming, one, framed(b"B", b"x"), 0, RECIPIENT) == (0, RECIPIENT)


@pytest.mark.skipif(UNDER_SANITIZERS, reason="this is the run that it starts")
def test_the_compiled_one_is_in_use() -> None:
    """Where there is a compiler, as here."""
    assert usual_message.take is _incoming.take
    assert usual_message.Gathered is _incoming.Gathered


@pytest.mark.skipif(UNDER_SANITIZERS, reason="this is the run that it starts")
def test_the_compiled_one_stays_within_its_memory(tmp_path: Path) -> None:
    """All of this once more under the sanitizers."""
    milter = sanitizers.ROOT / "milter"
    sanitizers.run(milter / "_incoming.c", __file__, tmp_path, str(milter / "_usual_message.c"))
