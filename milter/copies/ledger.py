"""What the follower knows of the archive copies: how each mailbox fares, what waits, what is lost.

Promises: told the facts of the log in its order, it is right about each mailbox's standing; a copy
is in one of the two lists at most, and told again changes neither.  Memory is bounded: so many
copies that wait are known by name, so many that are lost are kept, and the counts go on.

A copy is lost when its mailbox refused it for good, when it waited too long, when somebody deleted
it, or when a transport threw it away.  One that is deferred waits.

Does not: read or write files (`state`), or raise alarms (`watching`).
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from carbonseal.policies import archive_outage, delivery
from carbonseal.policies.archive_outage import Attempt, Outcome, Standing

_IDS: Final = 20_000  # messages whose Message-ID is remembered until their copy is attempted
_WAITING: Final = 50_000
_LOST: Final = 2_000
_LONGEST: Final = 998  # characters of a Message-ID or a reply that are kept
_GONE: Final = {
    "deleted": "deleted from the queue",
    "expired": "it waited too long",
    "discarded": "discarded",
    "removed": "it left the queue, and the log does not say how",
}
_MOMENT: Final = 1.0  # seconds: the lines of one delivery, by clocks that tell whole seconds
_STATUSES: Final = frozenset(("sent", "deferred", "bounced", "expired"))


@dataclass(frozen=True, slots=True)
class Copy:
    """One copy that waits or is lost."""

    mailbox: str
    queue_id: str
    message_id: str | None
    since: float  # Unix time of its first attempt that did not deliver
    at: float  # of the last one
    reply: str
    next_hop: str

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Copy:
        """As a file says it.  Raises: KeyError, TypeError, ValueError."""
        texts = (told[name] for name in ("mailbox", "queue_id", "reply", "next_hop"))
        mailbox, queue_id, reply, next_hop = map(_text, texts)
        message_id = told["message_id"]
        return cls(
            mailbox=mailbox,
            queue_id=queue_id,
            message_id=None if message_id is None else _text(message_id),
            since=float(told["since"]),
            at=float(told["at"]),
            reply=reply,
            next_hop=next_hop,
        )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


@dataclass(slots=True)
class Ledger:
    """Told every fact, it keeps those about archive copies."""

    mailboxes: Mapping[str, str]  # in lower case -> as configured
    limit: int  # failures in a row until an alternate takes over
    standings: dict[str, Standing] = field(default_factory=dict)
    waiting: dict[tuple[str, str], Copy] = field(default_factory=dict)
    lost: OrderedDict[tuple[str, str], Copy] = field(default_factory=OrderedDict)
    lost_in_all: int = 0
    is_changed: bool = False  # something to be written down before the log counts as read
    _message_ids: OrderedDict[str, str] = field(default_factory=OrderedDict)
    _by_queue_id: dict[str, set[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Every mailbox has a standing, and copies that wait are found by queue id."""
        known = {name: one for name, one in self.standings.items() if name in self.mailboxes}
        self.standings = {name: known.get(name, Standing()) for name in self.mailboxes}
        for mailbox, queue_id in self.waiting:
            self._by_queue_id.setdefault(queue_id, set()).add(mailbox)

    def take(self, queue_id: str, fact: Mapping[str, Any]) -> None:
        """Take in one fact of the log, as `follow.postfix_line` gives it."""
        kind = fact["kind"]
        if kind == "attempt":
            mailbox = self._mailbox_of(fact)
            if mailbox is not None:
                self._attempt(mailbox, queue_id, fact)
        elif kind == "queued":
            message_id = fact.get("message_id")
            if message_id is not None:
                self._message_ids[queue_id] = message_id[:_LONGEST]
                if len(self._message_ids) > _IDS:
                    self._message_ids.popitem(last=False)
        elif queue_id in self._by_queue_id:
            self._end(queue_id, kind, fact)
        elif kind == "removed":
            self._message_ids.pop(queue_id, None)

    def _mailbox_of(self, fact: Mapping[str, Any]) -> str | None:
        """Which archive mailbox an attempt was for; most are for none."""
        if fact["status"] not in _STATUSES:
            return None
        for name in ("orig_to", "to"):
            text = fact.get(name)
            if text is None:
                continue
            # Spelled out only where the plain text may differ from it.
            folded = text.lower() if text.isascii() and '"' not in text else delivery.mailbox(text)
            if folded in self.mailboxes:
                found: str = folded
                return found
        return None

    def _attempt(self, mailbox: str, queue_id: str, fact: Mapping[str, Any]) -> None:
        told = delivery.fact(fact)
        assert isinstance(told, delivery.Attempt)
        outcome = archive_outage.outcome(told.state)
        key = (mailbox, queue_id)
        at = _unix(told.at)
        was_lost = self.lost.get(key)
        if was_lost is not None and _explains(outcome, at, was_lost):
            self._take_out(key)
            was_lost = None
        if was_lost is not None and at <= was_lost.at:
            self._forget(key)
            return  # told again; later, it is another message, for Postfix uses short ids anew
        attempt = Attempt(at, outcome, told.reply[:_LONGEST], told.next_hop)
        was = self.waiting.get(key)
        if was is not None and outcome is Outcome.DEFERRED and at <= was.at:
            return
        self._settle(mailbox, attempt)
        if outcome is Outcome.DELIVERED:
            self._forget(key)
            return
        self._keep(key, attempt)

    def _settle(self, mailbox: str, attempt: Attempt) -> None:
        before = self.standings[mailbox]
        now = archive_outage.after(before, attempt, limit=self.limit)
        self.standings[mailbox] = now
        if now.is_failing or before.is_failing or now.incident != before.incident:
            self.is_changed = True

    def _keep(self, key: tuple[str, str], attempt: Attempt) -> None:
        mailbox, queue_id = key
        was = self.waiting.get(key)
        copy = Copy(
            mailbox=mailbox,
            queue_id=queue_id,
            message_id=self._message_ids.get(queue_id) if was is None else was.message_id,
            since=attempt.at if was is None else was.since,
            at=attempt.at,
            reply=attempt.reply,
            next_hop=attempt.next_hop,
        )
        if attempt.outcome is Outcome.LOST:
            self._forget(key)
            self.lost[key] = copy
            self.lost_in_all += 1
            if len(self.lost) > _LOST:
                self.lost.popitem(last=False)
        elif was is not None or len(self.waiting) < _WAITING:
            self.waiting[key] = copy
            self._by_queue_id.setdefault(queue_id, set()).add(mailbox)
        self.is_changed = True

    def _forget(self, key: tuple[str, str]) -> None:
        if self.waiting.pop(key, None) is None:
            return
        mailbox, queue_id = key
        others = self._by_queue_id[queue_id]
        others.discard(mailbox)
        if not others:
            del self._by_queue_id[queue_id]
        self.is_changed = True

    def _end(self, queue_id: str, kind: str, fact: Mapping[str, Any]) -> None:
        """Something happened to a whole message of which a copy waits."""
        if kind == "requeued":
            new_id = fact.get("queue_id")
            if new_id is not None:
                self._rename(queue_id, new_id)
            return
        # postsuper -e only marks it; what becomes of it, the queue manager says.
        if kind not in _GONE or (kind == "expired" and fact.get("reply") == "postsuper"):
            return
        for mailbox in list(self._by_queue_id[queue_id]):
            copy = self.waiting[mailbox, queue_id]
            attempt = Attempt(_unix(fact["at"]), Outcome.LOST, _GONE[kind], copy.next_hop)
            # That somebody deletes a copy says nothing new about the mailbox's host.
            self._lose(mailbox, attempt)
            self._keep((mailbox, queue_id), attempt)

    def _lose(self, mailbox: str, attempt: Attempt) -> None:
        standing = self.standings[mailbox]
        began = attempt.at if standing.incident is None else standing.incident
        failed = attempt.at if standing.failed_at is None else max(standing.failed_at, attempt.at)
        self.standings[mailbox] = dataclasses.replace(
            standing,
            lost=standing.lost + 1,
            incident=began,
            failed_at=failed,
            reply=standing.reply or attempt.reply,
            next_hop=standing.next_hop or attempt.next_hop,
        )

    def _take_out(self, key: tuple[str, str]) -> None:
        """It was not lost: the line that says how it left the queue came after that it did."""
        del self.lost[key]
        self.lost_in_all = max(0, self.lost_in_all - 1)
        standing = self.standings[key[0]]
        self.standings[key[0]] = dataclasses.replace(standing, lost=max(0, standing.lost - 1))
        self.is_changed = True

    def _rename(self, queue_id: str, new_id: str) -> None:
        for mailbox in self._by_queue_id.pop(queue_id):
            copy = self.waiting.pop((mailbox, queue_id))
            self.waiting[mailbox, new_id] = dataclasses.replace(copy, queue_id=new_id)
            self._by_queue_id.setdefault(new_id, set()).add(mailbox)
        self.is_changed = True

    def waits_for(self, mailbox: str) -> int:
        """How many copies for a mailbox wait."""
        return sum(name == mailbox for name, _ in self.waiting)


def _explains(outcome: Outcome, at: float, gone: Copy) -> bool:
    """Whether an attempt tells how a copy left the queue of which the log did not say it so far."""
    return (
        gone.reply == _GONE["removed"]
        and outcome is not Outcome.DEFERRED
        and abs(at - gone.at) <= _MOMENT
    )


def kept(copies: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], Copy]:
    """Copies as a file lists them; what is damaged is left out."""
    found: dict[tuple[str, str], Copy] = {}
    for told in copies:
        try:
            one = Copy.of(told)
        except (KeyError, TypeError, ValueError):
            continue
        found[one.mailbox, one.queue_id] = one
    return found


def _unix(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()
