"""An event line: what a relay's mail log said of one queue id, gathered by the follower.

    {"event": "delivery", "v": 1, "relay": NAME, "queue_id": ID, "facts": [FACT, ...],
     "source": where the log was, "event_id": ULID, "salt": 32 hexadecimal digits}

The time of `event_id` is that of the first fact, and its other 80 bits are made from relay, queue
id and facts (`event_id`), so that a log that is read twice gives the same ids.  `source` is the
follower's own book-keeping: it is neither kept in SQL nor part of the evidence.

Promises: pure.  `content` gives back from its parts what `read` was given, without the source.

Raises: `Unloadable` for an event line that no table can take, with what is wrong.

Does not: know which record it belongs to (`matching`), or SQL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from carbonseal.milter.archive import delivery_facts, event_id, schema, terms
from carbonseal.milter.archive.rows import Unloadable
from carbonseal.policies import delivery

DELIVERY = "delivery"
VERSION = 1
_SALT = 16  # octets
_LONGEST_NAME = 255  # characters
_KNOWN = frozenset(("event", "v", "relay", "queue_id", "facts", "source", "event_id", "salt"))
_NOT_FOUND = frozenset((delivery.State.DELIVERED, delivery.State.QUEUED))
_OF_CHANGE = {
    "held": "held",
    "expired": "expired",
    "deleted": "deleted",
    "discarded": "deleted",
    "rejected": "refused",
}
_ENTRANCES = frozenset(("smtpd", "qmqpd", "pickup", "cleanup"))
_FORWARDED = "forwarded as "


@dataclass(frozen=True, slots=True)
class Child:
    """A message that Postfix made from this one, or from which it was made."""

    queue_id: str
    kinship: int
    at: int  # microseconds since 1970


@dataclass(frozen=True, slots=True)
class EventLine:
    """One event line, and what follows from it."""

    relay: str
    queue_id: str
    at: int  # of the first fact; microseconds since 1970
    facts: tuple[Mapping[str, Any], ...]
    salt: bytes | None
    rest: Mapping[str, Any]  # what the line says that none of the others gives back
    told: tuple[delivery.Fact, ...]
    entered_at: int | None  # when a message of this queue id was begun
    removed_at: int | None
    states: frozenset[int]  # by which it is found
    children: tuple[Child, ...]
    parents: tuple[str, ...]  # queue ids from which it says to come


def is_delivery(content: Mapping[str, Any]) -> bool:
    """Whether an event is of the kind that is loaded."""
    return content.get("event") == DELIVERY


def read(content: Mapping[str, Any]) -> EventLine:
    """What an event line says.  Raises: Unloadable."""
    try:
        return _read(content)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as fault:
        kind = "lacks" if isinstance(fault, KeyError) else "has a wrong value:"
        raise Unloadable(f"the event line {kind} {fault}") from None


def _read(content: Mapping[str, Any]) -> EventLine:
    relay, queue_id, facts = content["relay"], content["queue_id"], content["facts"]
    for text in (relay, queue_id):
        if not isinstance(text, str) or not 0 < len(text) <= _LONGEST_NAME:
            raise ValueError(f"{str(text)[:80]!r} is no name of a relay or queue id")
        if terms.storable(text) != text:
            raise ValueError(f"{text!r} has characters that no database takes")
    if not isinstance(facts, list):
        raise ValueError("its facts are no list")
    at = delivery_facts.microseconds(facts[0].get("at")) if facts else None
    if at is None or at < 0:
        raise ValueError("its first fact has no time that can be read")
    salt, rest = _salt(content), {k: v for k, v in content.items() if k not in _KNOWN}
    if salt is None and "salt" in content:
        rest["salt"] = content["salt"]
    if type(content.get("v")) is not int or content["v"] != VERSION:
        rest["v"] = content.get("v")
    if content.get("event_id") != event_id.event_id(relay, queue_id, facts):
        rest["event_id"] = content.get("event_id")
    return stored(relay, queue_id, facts, salt, rest)


def stored(
    relay: str,
    queue_id: str,
    facts: Sequence[Mapping[str, Any]],
    salt: bytes | None,
    rest: Mapping[str, Any],
) -> EventLine:
    """An event line from its parts.  Raises: ValueError."""
    told = tuple(map(delivery.fact, facts))
    return EventLine(
        relay,
        queue_id,
        _moment(told[0]) or 0,
        tuple(facts),
        salt,
        rest,
        told,
        _entered_at(told),
        _moment(next((one for one in reversed(told) if _is_removed(one)), None)),
        found_by(told),
        _children(facts, told),
        _parents(facts),
    )


def _salt(content: Mapping[str, Any]) -> bytes | None:
    text = content.get("salt")
    try:
        salt = bytes.fromhex(text) if isinstance(text, str) else b""
    except ValueError:
        return None
    return salt if len(salt) == _SALT and salt.hex() == text else None


def content(
    relay: str, queue_id: str, facts: Sequence[Mapping[str, Any]], rest: Mapping[str, Any]
) -> dict[str, Any]:
    """The line that was read, without its source and its salt."""
    made: dict[str, Any] = {
        "event": DELIVERY,
        "v": VERSION,
        "relay": relay,
        "queue_id": queue_id,
        "facts": list(facts),
    }
    if "event_id" not in rest:
        made["event_id"] = event_id.event_id(relay, queue_id, facts)
    made |= rest
    for name in ("event_id", "v"):
        if made[name] is None:
            del made[name]
    return made


def _moment(fact: delivery.Fact | None) -> int | None:
    return None if fact is None else delivery_facts.microseconds(fact.at)


def _is_removed(fact: delivery.Fact) -> bool:
    return isinstance(fact, delivery.Change) and fact.kind == "removed"


def _entered_at(told: Sequence[delivery.Fact]) -> int | None:
    for one in told:
        if isinstance(one, delivery.Queued) and one.service in _ENTRANCES:
            return _moment(one)
    return None


def found_by(told: Sequence[delivery.Fact]) -> frozenset[int]:
    """Places in schema.DELIVERY_STATES of what these facts tell."""
    names: set[str] = set()
    for one in told:
        if isinstance(one, delivery.Attempt):
            if one.state not in _NOT_FOUND:
                names.add(one.state.value)
            if one.orig_to is not None:
                names.add(schema.REDIRECTED)
        elif isinstance(one, delivery.Change) and one.kind in _OF_CHANGE:
            names.add(_OF_CHANGE[one.kind])
    return frozenset(map(schema.DELIVERY_STATES.index, names))


def _children(
    facts: Sequence[Mapping[str, Any]], told: Sequence[delivery.Fact]
) -> tuple[Child, ...]:
    found = []
    for fact, one in zip(facts, told, strict=True):
        queue_id, kinship = None, schema.FORWARDED
        if isinstance(one, delivery.Notified):
            queue_id, kinship = one.queue_id, schema.NOTIFICATION
        elif isinstance(one, delivery.Change) and one.kind == "requeued":
            queue_id, kinship = fact.get("queue_id"), schema.REQUEUED
        elif isinstance(one, delivery.Attempt) and _is_forwarded(one):
            queue_id = one.reply[len(_FORWARDED) :].strip()
        if isinstance(queue_id, str) and _is_name(queue_id):
            found.append(Child(queue_id, kinship, _moment(one) or 0))
    return tuple(found)


def _is_forwarded(one: delivery.Attempt) -> bool:
    return (one.service, one.status) == ("local", "sent") and one.reply.startswith(_FORWARDED)


def _is_name(queue_id: str) -> bool:
    return 0 < len(queue_id) <= _LONGEST_NAME and queue_id.isascii() and queue_id.isalnum()


def _parents(facts: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    found = (one.get("orig_queue_id") for one in facts if one["kind"] == "queued")
    return tuple(dict.fromkeys(one for one in found if isinstance(one, str) and _is_name(one)))
