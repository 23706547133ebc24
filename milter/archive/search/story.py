"""What became of a message after it was sealed, as sentences for people and facts for programs.

Promises: in order of time, each fact once; what the log says of messages that Postfix made from
this one (forwarded, put back into the queue, notifications) is part of it.  Nothing is claimed that
the log did not say: `Telling.log` says whether nothing is known because nobody follows a log,
because the follower has not come so far, or although it told of later messages.

Does not: escape for terminals (`keys.tables` does), or find records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from sqlalchemy import Connection, select

from carbonseal.milter.archive import deliveries, schema
from carbonseal.milter.archive.deliveries import Line
from carbonseal.policies import delivery
from carbonseal.policies.delivery import Attempt, Passage, State, Story

Ends: TypeAlias = tuple[Sequence[str], Sequence[str]]  # envelope recipients, archive recipients

TOLD, SILENT, BEHIND, UNFOLLOWED = "told", "silent", "behind", "unfollowed"
_WHY: Final = {
    SILENT: "not known: the mail logs that are read told of later messages, and not of this one",
    BEHIND: "not known yet: the mail log has not been read as far as this message",
    UNFOLLOWED: "not known: the archive has nothing from a mail log (carbonseal follow)",
}
_KINSHIPS: Final = {
    schema.OWN: "own",
    schema.REQUEUED: "requeued",
    schema.FORWARDED: "forwarded",
    schema.NOTIFICATION: "notification",
}
_BEFORE: Final = {
    schema.OWN: "",
    schema.REQUEUED: "",
    schema.FORWARDED: "as a forwarded message: ",
    schema.NOTIFICATION: "the notification: ",
}
_QUEUED: Final = {
    schema.OWN: "queued",
    schema.REQUEUED: "queued again",
    schema.FORWARDED: "queued as a forwarded message",
    schema.NOTIFICATION: "queued as a notification",
}
_CHANGED: Final = {
    "held": "put on hold",
    "released": "released from hold",
    "expired": "given up: it was in the queue for too long",
    "deleted": "deleted from the queue",
    "removed": "left the queue",
    "requeued": "put back into the queue",
    "rejected": "refused after it was sealed",
    "discarded": "thrown away",
}
_DONE: Final = {
    State.DELIVERED: "delivered",
    State.DEFERRED: "deferred",
    State.BOUNCED: "bounced",
    State.EXPIRED: "given up after too long",
    State.DELETED: "thrown away",
}


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, as a sentence."""

    at: str
    queue_id: str
    told: str


@dataclass(frozen=True, slots=True)
class Telling:
    """The story of one record."""

    log: str  # TOLD, or why there is nothing
    story: Story
    lines: tuple[Line, ...]
    exits: frozenset[Attempt]  # attempts that led it outside under another name

    @property
    def unknown(self) -> str | None:
        """Why nothing is known, as a sentence; None where something is."""
        return _WHY.get(self.log)

    def states(self) -> Iterator[tuple[Passage, str]]:
        """Each end and how it stands, for people."""
        for passage in self.story.passages:
            became = {one.to: None for one in passage.last if one in self.exits}
            left = f", led outside to {', '.join(became)}" if became else ""
            yield passage, f"{passage.state}{left}"

    def events(self) -> list[Event]:
        """What happened, in order of time."""
        found: list[Event] = []
        entering: dict[str, list[delivery.Queued]] = {}
        for line in self.lines:
            known = entering.setdefault(line.queue_id, [])
            for one, said in zip(line.facts, line.said, strict=True):
                if not isinstance(one, delivery.Queued):
                    words = _BEFORE[line.kinship] + self._words(one, said)
                    found.append(Event(one.at, line.queue_id, words))
                elif _is_new(one, known):
                    known.append(one)
                else:
                    words = f"{_BEFORE[line.kinship]}taken up again"
                    found.append(Event(one.at, line.queue_id, words))
        kinships = {line.queue_id: line.kinship for line in self.lines}
        queued = (
            # smtpd, cleanup and the queue manager each say a part of it.
            Event(known[0].at, queue_id, _QUEUED[kinships[queue_id]] + _about_queued(known))
            for queue_id, known in entering.items()
            if known
        )
        # First, for where the log has whole seconds: what is queued within one goes on in it.
        return sorted([*queued, *found], key=lambda one: one.at)

    def _words(
        self, one: Attempt | delivery.Change | delivery.Notified, said: Mapping[str, Any]
    ) -> str:
        match one:
            case Attempt():
                left = "; an alias led it outside" if one in self.exits else ""
                return _about_attempt(one) + left
            case delivery.Change():
                known = _CHANGED[one.kind]
                name = said.get("queue_id")
                as_name = f" as {name}" if isinstance(name, str) and name else ""
                return f"{known}{as_name}: {one.reply}" if one.reply else f"{known}{as_name}"
            case delivery.Notified():
                what = said.get("reply")
                kind = what if isinstance(what, str) and what else "notification"
                return f"{kind} made: {one.queue_id}"

    def to_json(self) -> dict[str, Any]:
        """All that is known, for programs."""
        return {
            "log": self.log,
            "state": self.story.state.value,
            "recipients": [self._end(one) for one in self.story.passages if not one.is_copy],
            "copies": [self._end(one) for one in self.story.copies],
            "facts": [
                {"queue_id": line.queue_id, "of": _KINSHIPS[line.kinship], **fact}
                for line in self.lines
                for fact in line.said
            ],
        }

    def _end(self, one: Passage) -> dict[str, Any]:
        left = [attempt.to for attempt in one.last if attempt in self.exits]
        return {"address": one.address, "state": one.state.value, "left_late": left}


def _is_new(one: delivery.Queued, known: Sequence[delivery.Queued]) -> bool:
    """Whether it came in: each time that it is tried again, the queue manager says the same."""
    return one.service != "qmgr" or all(other.service != "qmgr" for other in known)


def _about_queued(queued: Sequence[delivery.Queued]) -> str:
    def first(name: str) -> Any:
        return next((value for one in queued if (value := getattr(one, name)) is not None), None)

    client, login, size, count = map(first, ("client", "login", "size", "recipients"))
    about = [f" by {queued[0].service}"]
    about += [f" from {client}"] if client else []
    about += [f", logged in as {login}"] if login else []
    about += [f", {size} octets"] if size is not None else []
    about += [f", recipients: {count}"] if count is not None else []
    return "".join(about)


def _about_attempt(one: Attempt) -> str:
    done = _DONE.get(one.state, one.status)
    to = one.to if one.orig_to is None else f"{one.to} (given as {one.orig_to})"
    way = one.service if one.next_hop in ("none", one.service) else f"{one.service} {one.next_hop}"
    took = "" if one.delays is None else f" after {sum(one.delays):.3g} s"
    return f"{done}: {to} through {way}{took}: {one.dsn} {one.reply}".rstrip()


def tellings(
    ends: Mapping[str, Ends],
    connection: Connection,
    is_ours: Callable[[str], bool],
) -> dict[str, Telling]:
    """The stories of records, of which `ends` has envelope and archive recipients."""
    lines = deliveries.lines(ends, connection)
    newest = _newest(connection) if ends.keys() - lines.keys() else None
    return {
        record_id: _telling(record_id, both, lines.get(record_id, ()), newest, is_ours)
        for record_id, both in ends.items()
    }


def _telling(
    record_id: str,
    ends: Ends,
    lines: Sequence[Line],
    newest: str | None,
    is_ours: Callable[[str], bool],
) -> Telling:
    facts = (fact for one in lines for fact in deliveries.about_message(one.kinship, one.facts))
    told = delivery.told(facts, *ends)
    log = TOLD
    if not lines:
        log = UNFOLLOWED if newest is None else SILENT if newest > record_id else BEHIND
    return Telling(log, told, tuple(lines), frozenset(delivery.exits(told, is_ours)))


def _newest(connection: Connection) -> str | None:
    """The newest record of which any log told; an empty name where logs told of others only."""
    columns = schema.delivery.c
    query = select(columns.record_id).order_by(columns.record_id.desc()).limit(1)
    found: str | None = connection.execute(query).scalar_one_or_none()
    if found is None and deliveries.are_there(connection):
        return ""
    return found
