"""One difference between log and archive, and what was looked at.

Does not: look (`records`, `unrecorded`, `sealed` do) or judge (`policies.completeness` does).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime

from carbonseal.milter.archive import record, terms
from carbonseal.policies import completeness
from carbonseal.policies.completeness import Cause, Kind, Way


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is missing, waits, or is as it should be for a reason."""

    cause: Cause
    at: str  # RFC 3339 in UTC with microseconds
    relay: str = ""
    queue_id: str = ""
    record_id: str = ""
    about: str = ""  # the listener, the mailbox and its state, whose mail it was
    count: int = 1

    @property
    def kind(self) -> Kind:
        """What it asks for."""
        return completeness.kind(self.cause)


@dataclass(frozen=True, slots=True)
class Period:
    """What is looked at: from `since` and before `until`."""

    since: datetime
    until: datetime

    @property
    def first(self) -> str:
        """No record id of the period is smaller."""
        return terms.first_record_id(int(self.since.timestamp() * 1000))

    @property
    def after(self) -> str:
        """Every record id of the period is smaller."""
        return terms.first_record_id(int(self.until.timestamp() * 1000))

    def holds(self, at: str) -> bool:
        """Whether a time, RFC 3339 in UTC with microseconds, is of the period."""
        first, after = (record.timestamp(one.timestamp()) for one in (self.since, self.until))
        return first <= at < after


@dataclass(slots=True)
class Seen:
    """What a look has come across so far."""

    messages: int = 0  # records of accepted mail
    logged: int = 0  # of these, those that the log shows
    unrecorded: int = 0  # mail that the log shows in the queue, without a record
    crossing: int = 0
    copies: int = 0
    delivered: int = 0  # of the copies
    ways: dict[str, set[Way]] = field(default_factory=dict)  # by relay: how recorded mail came
    of_segments: Counter[int] = field(default_factory=Counter)  # records by segment
    removed: list[str] = field(default_factory=list)  # record ids that are gone, bounded


def time_of(record_id: str) -> str:
    """When a record was made, to the millisecond."""
    return record.timestamp(terms.millisecond(record_id) / 1000)
