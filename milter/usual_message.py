"""The packets of a usual message, taken in one go: from MAIL, or the ABORT before it, to its end.

Nearly all messages come so: the events in their order, no answer waited for before the end, nothing
broken.  `take` takes a run of such packets and gathers what they tell; it stops before the first
one that is anything else (or not whole yet), and whoever called it goes on with the same state,
packet by packet, as `conversation` did before; the run goes on after that.

Promises: what is gathered, kept and forgotten, and what reaches the session, is the same as without
it, wherever a run begins and ends.  A fault is told to the session as that of the event; where an
event that is repeated makes the same fault again, it is left to whoever called.

The twin of `_usual_message.c`, which runs wherever a compiler was at hand: a message took a
thousand steps of the interpreter and fifty frames, and there it takes a tenth.  This one can be
read, works without, and is what the compiled one is held against.

Does not: know what is not usual, judge what is broken (`conversation` does), or end a message.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from carbonseal.milter import packets
from carbonseal.milter.incoming import PlainIncoming

__all__ = ("ENDED", "NOTHING", "RECIPIENT", "REVERSE_PATH", "Gathered", "Means", "take")

# What has come of a message so far; with ENDED, the packet of its end was taken.
NOTHING: Final = 0
REVERSE_PATH: Final = 1
RECIPIENT: Final = 2
ENDED: Final = 3


class Means(NamedTuple):
    """What a message is gathered with; the same for all."""

    transaction: type[Any]  # a Gathered, made without its __init__
    reverse_path: type[Any]  # a named tuple: path, what Postfix makes of it, parameters
    path: Callable[[bytes], Any]  # of an argument of MAIL
    recipient: Callable[[bytes, str | None, str | None, str | None], Any]
    header: Callable[[], Any]
    body: Callable[[str], Any]
    fields: Callable[[Any, bytes, int], int]
    clock: Callable[[], float]
    of_mail: tuple[str, ...]  # macros: the resolved path, login, login method
    of_recipient: tuple[str, ...]  # macros: the resolved path, mailer, host
    of_end: str  # macro: the queue id
    short: int  # most octets of an argument for `path` and `recipient`
    recurring: int  # most recipients of a message that are made by `recipient`
    most_octets: int  # of all recipients of a message


class PlainGathered:
    """What the MTA told of one message."""

    __slots__ = (
        "_has_too_many",
        "_names",
        "_recipient_octets",
        "body",
        "body_at",
        "client",
        "envelope_at",
        "fields",
        "header",
        "listener",
        "login",
        "login_method",
        "queue_id",
        "recipients",
        "relay",
        "reverse_path",
        "tls",
    )


def plain_take(
    session: Any, incoming: Any, octets: bytes, at: int, stage: int, /
) -> tuple[int, int]:
    """Take packets out of `octets`, from the one at `at` on; `stage` is what came of the message.

    The session says with its `usual` how messages are gathered.  Only where the MTA waits for no
    answer to them, and a client is connected.  Returns where it stopped, and the stage by then.
    """
    run = _Run(session, incoming, octets, stage)
    size = len(octets)
    while size - at >= packets.HEAD and run.stage != ENDED:
        (length,) = packets.LENGTH.unpack_from(octets, at)
        end = at + packets.PREFIX + length
        if not 0 < length <= packets.LONGEST + 1 or end > size:
            break
        take_one = _TAKEN.get(octets[at + packets.PREFIX])
        stopped = at if take_one is None else take_one(run, at, end)
        if stopped == at:
            break
        at = stopped
    return at, run.stage


class _Run:
    """Each method takes the packet from `at` to `end`; where the next begins, or `at`: not it."""

    __slots__ = ("incoming", "means", "octets", "session", "stage", "transaction")

    def __init__(self, session: Any, incoming: PlainIncoming, octets: bytes, stage: int) -> None:
        self.means: Means = session.usual
        self.incoming, self.session = incoming, session
        self.octets, self.stage = octets, stage
        self.transaction = session.transaction
        if type(self.transaction) is not self.means.transaction:
            self.transaction = None

    def macros(self, at: int, end: int) -> int:
        try:
            self.incoming.keep(self.octets[at + packets.HEAD : end])
        except ValueError:
            return at
        return end

    def abort(self, _at: int, end: int) -> int:
        self.session.abort(None)
        self.transaction, self.stage = None, NOTHING
        return end

    def reverse_path(self, at: int, end: int) -> int:
        arguments = packets.strings(self.octets[at + packets.HEAD : end])
        if arguments is None or len(arguments[0]) > self.means.short:
            return at
        self.incoming.forget_after(packets.MAIL)
        try:
            transaction = self._begun(arguments)
            self.session.begin(transaction)
        except Exception:  # whoever takes this packet next makes it again, and tells of it
            return at
        self.transaction, self.stage = transaction, REVERSE_PATH
        return end

    def _begun(self, arguments: list[bytes]) -> Any:
        means, session = self.means, self.session
        resolved, login, method = self._told(means.of_mail)
        made: Any = object.__new__(means.transaction)
        made.client, made.listener, made.relay, made.tls = session.connection
        esmtp = tuple([one.decode("utf-8", "surrogateescape") for one in arguments[1:]])
        made.reverse_path = means.reverse_path(means.path(arguments[0]), resolved, esmtp)
        made.login, made.login_method, made.queue_id = login or "", method or "", ""
        made.recipients = []
        made.header = means.header()
        made.fields = made.header.fields
        made.body = means.body(session.body_canonicalization)
        made.envelope_at = made.body_at = 0.0
        made._names, made._recipient_octets, made._has_too_many = None, 0, False
        return made

    def recipient(self, at: int, end: int) -> int:
        arguments = packets.strings(self.octets[at + packets.HEAD : end])
        if arguments is None or self.stage == NOTHING or self.transaction is None:
            return at
        self.incoming.forget_after(packets.RCPT)
        self.stage = RECIPIENT
        try:
            self._add(self.transaction, arguments)
            self.transaction.envelope_at = self.means.clock()
        except Exception as fault:
            self.session.fail("recipient", fault)
        return end

    def _add(self, transaction: Any, arguments: list[bytes]) -> None:
        means, argument = self.means, arguments[0]
        told = self._told(means.of_recipient)
        octets = transaction._recipient_octets + len(argument)
        octets += sum(len(one) for one in told if one is not None)
        if (
            transaction._has_too_many
            or len(arguments) > 1
            or len(argument) > means.short
            or len(transaction.recipients) >= means.recurring
            or octets > means.most_octets
        ):
            transaction.add_recipient(tuple(arguments), *told)
            return
        transaction._recipient_octets = octets
        transaction.recipients.append(means.recipient(argument, *told))

    def fields(self, at: int, _end: int) -> int:
        if self.stage != RECIPIENT:
            return at
        return self.means.fields(self.session, self.octets, at)

    def body(self, at: int, end: int) -> int:
        transaction = self.transaction
        if self.stage != RECIPIENT or transaction is None:
            return at
        try:
            if not transaction.body_at:
                transaction.body_at = self.means.clock()
            transaction.body.update_part(self.octets, at + packets.HEAD, end)
        except Exception as fault:
            self.session.fail("body", fault)
        return end

    def end(self, at: int, end: int) -> int:
        if self.stage != RECIPIENT or end - at > packets.HEAD:
            return at
        if self.transaction is not None:
            [queue_id] = self._told((self.means.of_end,))
            self.transaction.queue_id = queue_id or ""
        self.stage = ENDED
        return end

    def _told(self, names: tuple[str, ...]) -> list[str | None]:
        values: list[str | None] = []
        for name in names:
            try:
                values.append(self.incoming.macro(name))
            except UnicodeDecodeError:  # unusable, see `session`
                values.append(None)
        return values


_TAKEN: Final[dict[int, Callable[[_Run, int, int], int]]] = {
    packets.MACROS: _Run.macros,
    packets.ABORT: _Run.abort,
    packets.MAIL: _Run.reverse_path,
    packets.RCPT: _Run.recipient,
    packets.FIELD: _Run.fields,
    packets.BODY: _Run.body,
    packets.END: _Run.end,
}


try:
    from carbonseal.milter._incoming import Gathered, take
except ImportError:
    Gathered, take = PlainGathered, plain_take  # type: ignore[misc,assignment]
