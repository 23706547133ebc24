"""What became of a message: from what the mail log says of its queue id to a state for each end.

Promises: the same facts in any order, and however often each is told, give the same `Story`.  A
state claims no more than the log does: what nobody saw is OFFERED or QUEUED, and what left the
queue without a word about an end is UNKNOWN.  Where one recipient became several (an alias), the
worst of their states counts.

A copy that a transport threw away (discard(8)) was not delivered, whatever the log calls it.

Raises: ValueError from `fact` for what is none.

Does not: read logs, know records, or say whether an alarm is due.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from operator import attrgetter
from typing import Any

from carbonseal.policies import address


class State(StrEnum):
    """How one end, or the message as a whole, stands."""

    OFFERED = "offered"  # sealed; the log has not shown it in the queue yet
    QUEUED = "queued"
    DELIVERED = "delivered"  # the next hop has taken it
    DEFERRED = "deferred"
    BOUNCED = "bounced"
    EXPIRED = "expired"
    HELD = "held"
    DELETED = "deleted"  # by an administrator, or by a transport that throws mail away
    REFUSED = "refused"  # by the MTA after it was sealed: a later milter, a full queue
    UNKNOWN = "unknown"  # it left the queue, and the log does not say how


FINAL = frozenset(
    (
        State.DELIVERED,
        State.BOUNCED,
        State.EXPIRED,
        State.DELETED,
        State.REFUSED,
        State.UNKNOWN,
    )
)
LOST = FINAL - {State.DELIVERED}

# What counts where there are several: the first of these that occurs.
_WORST_FIRST = (
    State.HELD,
    State.DEFERRED,
    State.QUEUED,
    State.EXPIRED,
    State.BOUNCED,
    State.DELETED,
    State.REFUSED,
    State.UNKNOWN,
    State.OFFERED,
    State.DELIVERED,
)
_STATUS = {
    "sent": State.DELIVERED,
    "deferred": State.DEFERRED,
    "bounced": State.BOUNCED,
    "expired": State.EXPIRED,
}
_THROWS_AWAY = "discard"
_ENDS_ALL = {
    "deleted": State.DELETED,
    "discarded": State.DELETED,
    "rejected": State.REFUSED,
    "expired": State.EXPIRED,
}
_OF_QUEUED: Mapping[str, type] = {
    "client": str,
    "login": str,
    "message_id": str,
    "reverse_path": str,
    "size": int,
    "recipients": int,
    "listener": str,
}
CHANGES = (
    "held",
    "released",
    "expired",
    "deleted",
    "removed",
    "requeued",
    "rejected",
    "discarded",
)


@dataclass(frozen=True, slots=True)
class Queued:
    """Postfix has taken it into its queue."""

    at: str  # RFC 3339 in UTC with microseconds, which sorts as text
    service: str  # smtpd, pickup, or the part of Postfix that made it
    client: str | None = None
    login: str | None = None
    message_id: str | None = None
    reverse_path: str | None = None
    size: int | None = None
    recipients: int | None = None
    listener: str | None = None  # how an smtpd calls itself in the log, beside its service


@dataclass(frozen=True, slots=True)
class Attempt:
    """One delivery agent was done with one recipient."""

    at: str
    service: str  # smtp, lmtp, local, virtual, pipe, error, discard ...
    to: str
    orig_to: str | None  # the recipient before aliases and rewriting; null: the same
    next_hop: str
    status: str
    dsn: str
    delays: tuple[float, ...] | None  # seconds before the queue manager, in it, connecting, sending
    reply: str
    is_part: bool = False  # by a message that Postfix made from this one for some of its recipients

    @property
    def recipient(self) -> str:
        """As it was in the envelope."""
        return self.to if self.orig_to is None else self.orig_to

    @property
    def state(self) -> State:
        """What it leaves its recipient in."""
        state = _STATUS.get(self.status, State.UNKNOWN)
        thrown_away = self.service == _THROWS_AWAY and state is State.DELIVERED
        return State.DELETED if thrown_away else state


@dataclass(frozen=True, slots=True)
class Change:
    """Something happened to the whole message: one of CHANGES."""

    at: str
    kind: str
    reply: str | None = None
    is_part: bool = False  # to a message that Postfix made from this one


@dataclass(frozen=True, slots=True)
class Notified:
    """A notification (bounce, delay) or a forwarded message was made from it."""

    at: str
    queue_id: str  # of the new one


Fact = Queued | Attempt | Change | Notified


@dataclass(frozen=True, slots=True)
class Passage:
    """How one end of the message fared."""

    address: str
    is_copy: bool
    state: State
    last: tuple[Attempt, ...]  # the last attempt for each address it became, in order of time


@dataclass(frozen=True, slots=True)
class Story:
    """What is known of one message."""

    state: State  # of the message: the worst of its ends
    passages: tuple[Passage, ...]  # recipients, then archive copies, in the order given
    others: tuple[Attempt, ...]  # attempts for nobody of the envelope
    facts: tuple[Fact, ...]  # in order of time, each once

    @property
    def copies(self) -> tuple[Passage, ...]:
        """Those of the archive."""
        return tuple(one for one in self.passages if one.is_copy)


def fact(told: Mapping[str, Any]) -> Fact:
    """One fact as event lines carry it; unknown keys are let be.  Raises: ValueError."""
    try:
        return _read(told)
    except (KeyError, TypeError) as fault:
        raise ValueError(f"no fact of a delivery: {fault}") from None


def _read(told: Mapping[str, Any]) -> Fact:
    kind, at = told["kind"], _text(told["at"])
    if kind == "queued":
        values = {name: _or_none(told.get(name), kind) for name, kind in _OF_QUEUED.items()}
        return Queued(at, _text(told["service"]), **values)
    if kind == "attempt":
        delays = told.get("delays")
        return Attempt(
            at,
            _text(told["service"]),
            _text(told["to"]),
            _or_none(told.get("orig_to"), str),
            _text(told["next_hop"]),
            _text(told["status"]),
            _text(told["dsn"]),
            None if delays is None else tuple(map(float, delays)),
            _text(told["reply"]),
        )
    if kind == "notified":
        return Notified(at, _text(told["queue_id"]))
    if kind in CHANGES:
        return Change(at, kind, _or_none(told.get("reply"), str))
    raise ValueError(f"{kind!r} is no kind of fact")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    return value


def _or_none(value: Any, kind: type) -> Any:
    if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
        raise ValueError(f"{value!r} is no {kind.__name__}")
    return value


def told(facts: Iterable[Fact], recipients: Sequence[str], copies: Sequence[str] = ()) -> Story:
    """The story of a message to these recipients, with archive copies to these addresses."""
    known = tuple(sorted(set(facts), key=_order))
    attempts: dict[str, dict[str, Attempt]] = {}
    for one in known:
        # "deliverable" and "undeliverable" are answers to address probes, which carry no mail.
        if isinstance(one, Attempt) and one.status in _STATUS:
            last, to = attempts.setdefault(mailbox(one.recipient), {}), mailbox(one.to)
            if not _is_late(one, last.get(to)):
                last[to] = one
    whole = _whole([one for one in known if not (isinstance(one, Change) and one.is_part)])
    parts = [one for one in known if isinstance(one, Change) and one.is_part]
    ends = [(text, False) for text in recipients] + [(text, True) for text in copies]
    passages = tuple(
        _passage(text, attempts.get(mailbox(text), {}), whole, parts, is_copy=is_copy)
        for text, is_copy in ends
    )
    in_envelope = {mailbox(text) for text, _ in ends}
    others = [
        one for key, some in attempts.items() if key not in in_envelope for one in some.values()
    ]
    return Story(
        worst([one.state for one in passages] or [whole]),
        passages,
        tuple(sorted(others, key=_order)),
        known,
    )


def _is_late(one: Attempt, last: Attempt | None) -> bool:
    """Whether the line about this attempt was written after that of a later one.

    Postfix tries nobody again whom a message has reached or been refused for.  At a reload two
    postlogd(8) may write at once, and on a busy machine out of order.  What is delivered to a
    filter goes on under another queue id, as a part, to another next hop.
    """
    if last is None or one.is_part is not last.is_part:
        return False
    if one.is_part and one.next_hop != last.next_hop:
        return False
    return last.state in FINAL and one.state not in FINAL


def _order(one: Fact) -> tuple[str, int, str]:
    # What happened to the whole message counts after the attempts of the same moment.
    return one.at, isinstance(one, Change), repr(one)


def mailbox(text: str) -> str:
    """What two spellings of one recipient have in common, as Postfix compares them."""
    path = address.parse_path(text)
    return str(path.address or text).lower()


def _whole(known: Sequence[Fact]) -> State:
    """What the facts about the whole message leave those ends in that nothing else decided."""
    state = State.OFFERED
    for one in known:
        match one:
            case Change(kind=kind) if kind in _ENDS_ALL:
                state = _ENDS_ALL[kind]
            case Change(kind="held"):
                state = State.HELD
            case Change(kind="removed"):
                state = state if state in FINAL else State.UNKNOWN
            case _ if state is State.OFFERED or isinstance(one, Change):
                state = State.QUEUED
            case _:
                pass
    return state


def _passage(
    text: str,
    last: Mapping[str, Attempt],
    whole: State,
    parts: Sequence[Change],
    *,
    is_copy: bool,
) -> Passage:
    states = [_settled(one, whole, parts) for one in last.values()] or [whole]
    in_order = tuple(sorted(last.values(), key=attrgetter("at")))
    return Passage(text, is_copy, worst(states), in_order)


def _settled(attempt: Attempt, whole: State, parts: Sequence[Change]) -> State:
    """The state after an attempt, once it is known what became of the message it was made for."""
    own = attempt.state
    if own in FINAL:
        return own
    if attempt.is_part:
        # Its own message goes on when the one it was made from has left the queue.
        later = (one.kind for one in parts if one.at >= attempt.at and one.kind in _ENDS_ALL)
        return next((_ENDS_ALL[kind] for kind in later), own)
    return whole if whole in FINAL or whole is State.HELD else own


def worst(states: Iterable[State]) -> State:
    """The one that counts where there are several."""
    return min(states, key=_WORST_FIRST.index)


def exits(story: Story, is_ours: Callable[[str], bool]) -> tuple[Attempt, ...]:
    """Where the message left our ADMD under another name than it was given.

    An alias, or a rewriting, after the milter: the recipient was ours and what it became is not.
    `is_ours` is asked about addresses; agents that deliver on this host do not count.
    """
    return tuple(
        one
        for passage in story.passages
        for one in passage.last
        if one.orig_to is not None
        and one.service not in _ON_THIS_HOST
        and is_ours(one.orig_to)
        and not is_ours(one.to)
    )


_ON_THIS_HOST = frozenset(("local", "virtual", "discard", "error"))
