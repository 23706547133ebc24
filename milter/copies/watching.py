"""The watch over archive copies, in the follower's process: it counts, writes down and tells.

Promises: what a fact changes is on disk before the log counts as read beyond it: a follower that is
killed goes on with what it knew.  Of one incident there is one alarm at its beginning, one more
every `archive.alarm.repeat` while it lasts, and one notice when it is over; never one per copy.
An alarm is raised within a second of the log line that gave rise to it; when the follower has to
catch up with a log, only once it has, or every few seconds.

Raises: nothing; what cannot be written is said once and tried again.

Does not: stop the following of the log for anything.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from carbonseal.milter import log, socket_address
from carbonseal.milter.config import Configuration
from carbonseal.milter.config_sections import AlarmSection
from carbonseal.milter.copies import ledger, state
from carbonseal.milter.copies.alarm import Bell
from carbonseal.milter.copies.ledger import Ledger
from carbonseal.milter.follow.postfix_line import Said
from carbonseal.policies import archive_outage
from carbonseal.policies.archive_outage import Standing

_SAY_SECONDS: Final = 3.0  # between two signs of life
_CATCH_UP: Final = 5.0  # seconds between two looks while the log is read up to now
_LOOK_SECONDS: Final = 0.5  # between two looks at whether an incident is over
_WRITE_SECONDS: Final = 0.5  # between two writings of how the mailboxes fare, when that changes
_LIST_SECONDS: Final = 1.0  # and of the lists, unless the log is about to count as read
_PATIENCE: Final = 5.0  # seconds for alarms when the follower stops
_NAMED: Final = 10  # queue ids in an alarm


@dataclass(frozen=True, slots=True)
class Rules:
    """What the configuration says of it."""

    recipients: tuple[str, ...]
    alternates: tuple[str, ...]
    limit: int  # failures in a row until an alternate takes over
    retry: float  # seconds without a failure after which an incident is over


@dataclass(slots=True)
class Watching:
    """One follower's watch."""

    spool: Path
    relay: str
    rules: Rules
    bell: Bell
    clock: Callable[[], float] = time.time
    book: Ledger = field(init=False)
    _rung: dict[str, float] = field(default_factory=dict)  # mailbox -> when its alarm was raised
    _diverted: set[str] = field(default_factory=set)
    _trouble: str | None = None
    _is_told: bool = False
    _said_at: float = -_SAY_SECONDS
    _listed_at: float = -_LIST_SECONDS
    _look_at: float = 0.0
    _looked_at: float = 0.0

    def __post_init__(self) -> None:
        """Go on with what was known."""
        named = {one.lower(): one for one in (*self.rules.recipients, *self.rules.alternates)}
        about = state.read(self.spool)
        lists = state.read(self.spool, state.LISTS)
        self.book = Ledger(
            mailboxes=named,
            limit=self.rules.limit,
            standings=state.standings(about),
            waiting={
                key: one
                for key, one in ledger.kept(_list(lists, "waiting")).items()
                if one.mailbox in named
            },
            lost=OrderedDict(ledger.kept(_list(lists, "lost"))),
            lost_in_all=_count(lists.get("lost_in_all")),
        )
        rung = about.get("rung")
        if isinstance(rung, dict):
            self._rung = {
                name: float(at)
                for name, at in rung.items()
                if name in named and isinstance(at, int | float)
            }
        self._diverted = {name for name, one in self.book.standings.items() if one.is_diverted}

    def take(self, said: Said) -> None:
        """Take in what one line of the log said."""
        for queue_id, fact in said:
            self.book.take(queue_id, fact)

    def save(self) -> None:
        """To be called before the log counts as read."""
        if self.book.is_changed:
            self._write(lists=True)

    def tend(self, *, is_behind: bool) -> None:
        """What is due; to be called often."""
        now = time.monotonic()
        is_due = self.book.is_changed or now >= self._look_at
        if is_due and (not is_behind or now >= self._looked_at + _CATCH_UP):
            self._looked_at = now
            self._look_at = now + _LOOK_SECONDS
            self._look()
        is_changed = self.book.is_changed
        if self._is_told:  # at once: who is killed now must not tell it again
            self._is_told = False
            self._write(lists=True)
        elif is_changed and now >= self._listed_at + _LIST_SECONDS:
            self._write(lists=True)
        elif now >= self._said_at + (_WRITE_SECONDS if is_changed else _SAY_SECONDS):
            self._write(lists=False)

    def close(self) -> None:
        """The follower leaves: whoever is to be told is told."""
        self._look()
        self.save()
        self.bell.settle(_PATIENCE)

    def _look(self) -> None:
        now = self.clock()
        for mailbox, standing in self.book.standings.items():
            self._tell_diversion(mailbox, standing)
            if standing.incident is None:
                continue
            rung = self._rung.get(mailbox)
            if rung is None:
                self._raise("failing", mailbox, standing, now)
            elif archive_outage.is_over(standing, now, quiet=self.rules.retry):
                self._raise("recovered", mailbox, standing, now)
                self.book.standings[mailbox] = archive_outage.over(standing)
            elif standing.is_failing and now - rung >= self.bell.repeat:
                self._raise("still-failing", mailbox, standing, now)

    def _tell_diversion(self, mailbox: str, standing: Standing) -> None:
        if not self.rules.alternates or standing.is_diverted is (mailbox in self._diverted):
            return
        if mailbox not in map(str.lower, self.rules.recipients):
            return
        named = self.book.mailboxes[mailbox]
        if standing.is_diverted:
            self._diverted.add(mailbox)
            log.warning("archive-alternate-takes-over", mailbox=named, failures=standing.failures)
        else:
            self._diverted.discard(mailbox)
            log.event("archive-alternate-hands-back", mailbox=named)

    def _raise(self, event: str, mailbox: str, standing: Standing, now: float) -> None:
        about = self._facts(event, mailbox, standing, now)
        said = {name: value for name, value in about.items() if name not in ("event", "v", "at")}
        said["queue_ids"] = ",".join(about["queue_ids"])
        if event == "recovered":
            self._rung.pop(mailbox, None)
            log.event("archive-copies-arrive", **said)
        else:
            self._rung[mailbox] = now
            remedy = "see the archive's host; carbonseal archive copies lists what waits or is lost"
            log.error("archive-copy-failing", **said, remedy=remedy)
        self.bell.ring(about)
        self._is_told = self.book.is_changed = True

    def _facts(self, event: str, mailbox: str, standing: Standing, now: float) -> dict[str, Any]:
        ids = [
            one.queue_id
            for copies in (self.book.lost, self.book.waiting)
            for one in copies.values()
            if one.mailbox == mailbox and one.at >= (standing.incident or 0.0)
        ]
        return {
            "event": f"archive-copy-{event}",
            "v": 1,
            "at": round(now, 3),
            "relay": self.relay,
            "mailbox": self.book.mailboxes[mailbox],
            "since": standing.incident,
            "failures": standing.failures,
            "lost": standing.lost,
            "waiting": self.book.waits_for(mailbox),
            "is_alternate_in_use": bool(self.rules.alternates) and standing.is_diverted,
            "next_hop": standing.next_hop,
            "reply": standing.reply,
            "queue_ids": ids[:_NAMED],
        }

    def _write(self, *, lists: bool) -> None:
        self._said_at = time.monotonic()
        try:
            if lists:
                self._listed_at = self._said_at
                state.write(self.spool, state.LISTS, self._lists())
            state.write(self.spool, state.NAME, self._standings())
        except OSError as fault:
            # Not the name that failed: it is a new one each time, and one fault is said once.
            problem = f"{state.path(self.spool).parent}: {fault.strerror}"
            if problem != self._trouble:
                log.warning("copies-state-unwritten", problem=problem)
            self._trouble = problem
            return
        self._trouble = None
        if lists:
            self.book.is_changed = False

    def _standings(self) -> dict[str, Any]:
        waiting: dict[str, int] = {}
        for mailbox, _ in self.book.waiting:
            waiting[mailbox] = waiting.get(mailbox, 0) + 1
        recipients = {
            mailbox: {**state.spoken(one), "waiting": waiting.get(mailbox, 0)}
            for mailbox, one in self.book.standings.items()
        }
        return {
            "at": self.clock(),
            "recipients": recipients,
            "alternates": [one.lower() for one in self.rules.alternates],
            "lost_in_all": self.book.lost_in_all,
            "rung": self._rung,
        }

    def _lists(self) -> dict[str, Any]:
        return {
            "at": self.clock(),
            "waiting": state.newest(self.book.waiting),
            "lost": state.newest(self.book.lost),
            "lost_in_all": self.book.lost_in_all,
        }


def of(configuration: Configuration, relay: str) -> Watching:
    """The watch of a configuration."""
    section = configuration.file.archive
    alarm = section.alarm or AlarmSection()
    archive = configuration.archive
    alternates = tuple(map(str, archive.alternates))
    rest = {str(one) for one in archive.all_recipients()} - {one.lower() for one in alternates}
    named = {one.lower(): one for one in map(str, archive.recipients)}
    return Watching(
        spool=configuration.spool_directory,
        relay=relay,
        rules=Rules(
            recipients=tuple(sorted(named.get(one, one) for one in rest)),
            alternates=alternates,
            limit=section.alternate_after,
            retry=section.retry,
        ),
        bell=Bell(
            command=tuple(alarm.command),
            mail=alarm.mail,
            smtp=socket_address.parse(alarm.smtp),
            repeat=alarm.repeat,
        ),
    )


def _list(about: Mapping[str, Any], name: str) -> list[Any]:
    found = about.get(name)
    return found if isinstance(found, list) else []


def _count(value: Any) -> int:
    return value if type(value) is int and value >= 0 else 0
