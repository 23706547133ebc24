"""The report: every finding, and what they come to.

Promises: findings stream in the order records, removed among them; mail without a record; seals.
The result is the same for the same archive, log and moment.

Raises: `NothingFollowed` where no log was ever followed into the archive; NotFound for a relay that
it does not know; DatabaseUnusable of `database`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine

from carbonseal.milter.archive import deliveries
from carbonseal.milter.archive.completeness import sealed, unrecorded
from carbonseal.milter.archive.completeness.finding import Finding, Period, Seen
from carbonseal.milter.archive.completeness.records import Records
from carbonseal.milter.archive.completeness.relays import Relays
from carbonseal.milter.archive.search import query
from carbonseal.policies import completeness
from carbonseal.policies.completeness import Cause, Kind
from carbonseal.policies.errors import NotFound, TryLater


class NothingFollowed(TryLater):
    """There is no log to hold the records against."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be looked at, and from where."""

    period: Period
    now: datetime
    relay: str | None = None
    spool: Path | None = None  # this host's; None: it cannot be read
    follower: Mapping[str, Any] = field(default_factory=dict)  # what it says of itself


@dataclass(slots=True)
class Total:
    """Findings of one cause."""

    count: int = 0
    first: str = ""
    last: str = ""

    def add(self, one: Finding) -> None:
        """One more."""
        self.count += one.count
        self.first = min(self.first or one.at, one.at)
        self.last = max(self.last, one.at)


@dataclass(slots=True)
class Report:
    """What findings come to, as they are read."""

    asked: Asked
    seen: Seen = field(default_factory=Seen)
    totals: dict[Cause, Total] = field(default_factory=dict)

    def findings(self, engine: Engine) -> Iterator[Finding]:
        """Each of them, in a stream; afterwards the report is whole."""
        with query.reading(engine) as connection:
            relays = self._relays(connection)
            if not deliveries.are_there(connection):
                raise NothingFollowed(
                    "no line of a mail log is in the archive: there is nothing to hold the records "
                    "against; start carbonseal-follow, and see that the writer loads what it reads"
                )
            for one in self._found(connection, relays):
                self.totals.setdefault(one.cause, Total()).add(one)
                yield one

    def _relays(self, connection: Connection) -> Relays:
        asked = self.asked
        relays = Relays(connection, asked.now, asked.spool, asked.follower, asked.relay)
        if asked.relay is not None and asked.relay not in relays.names:
            raise NotFound(
                f"no relay of this archive is called {asked.relay!r}; write one of: "
                + ", ".join(sorted(relays.names))
            )
        return relays

    def _found(self, connection: Connection, relays: Relays) -> Iterator[Finding]:
        period, seen = self.asked.period, self.seen
        yield from Records(connection, period, relays, self.asked.now, seen).findings()
        yield from unrecorded.findings(connection, period, relays, seen)
        yield from sealed.findings(connection, period, relays, seen)

    def count(self, kind: Kind) -> int:
        """Findings of that kind."""
        return sum(
            total.count for cause, total in self.totals.items() if completeness.kind(cause) is kind
        )

    def in_order(self) -> Iterator[tuple[Cause, Total]]:
        """By cause, holes first."""
        for kind in Kind:
            for cause in Cause:
                if cause in self.totals and completeness.kind(cause) is kind:
                    yield cause, self.totals[cause]

    def figures(self) -> dict[str, Any]:
        """For the state and the audit: numbers and times only."""
        by_cause: Counter[str] = Counter()
        for cause, total in self.totals.items():
            by_cause[cause.value.replace("-", "_")] += total.count
        seen = self.seen
        return {
            "since": _text(self.asked.period.since),
            "until": _text(self.asked.period.until),
            "holes": self.count(Kind.HOLE),
            "pending": self.count(Kind.PENDING),
            "explained": self.count(Kind.EXPLAINED),
            "messages": seen.messages,
            "logged": seen.logged,
            "unrecorded": seen.unrecorded,
            "crossing": seen.crossing,
            "copies": seen.copies,
            "delivered": seen.delivered,
            **by_cause,
        }


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
