"""The records of a period: are they in the log, did their archive copies arrive, are any gone?

Promises: pages in order of time, cut by the primary key; memory does not depend on their number.

Raises: what the database raises.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, exists, select

from carbonseal.milter.archive import deliveries, rows, schema
from carbonseal.milter.archive.completeness import finding
from carbonseal.milter.archive.completeness.finding import Finding, Period, Seen
from carbonseal.milter.archive.completeness.relays import Relays
from carbonseal.policies import completeness
from carbonseal.policies.completeness import Cause, Way
from carbonseal.policies.delivery import Queued, Story

_PAGE = 500
_REMEMBERED = 100_000  # record ids that are gone
_LONGEST = 6 * 86_400.0  # seconds; Postfix keeps mail for five days (maximal_queue_lifetime)
_LOOPBACK = ("[127.", "[::1]")
_ACCEPTED = schema.DISPOSITIONS.index("accept")
_INTERNAL = schema.CROSSINGS.index("internal")
_message, _delivery = schema.message.c, schema.delivery.c
_COLUMNS = tuple(
    _message[name]
    for name in (
        *("record_id", "recorded_at", "queue_id", "crossing", "disposition", "copy_count"),
        *("circumstance_id", "verdict_id", "segment_id"),
    )
)


@dataclass(slots=True)
class _Unseen:
    """Records of one relay, in a row, that the log does not show."""

    first: list[Finding] = field(default_factory=list)  # those not told yet
    count: int = 0


class Records:
    """A walk through the records of a period."""

    def __init__(
        self, connection: Connection, period: Period, relays: Relays, now: datetime, seen: Seen
    ) -> None:
        self._connection = connection
        self._period = period
        self._relays = relays
        self._now = now
        self._seen = seen
        self._relay_of: dict[int, str] = {}  # by circumstance
        self._in_a_row: dict[str, _Unseen] = {}

    def findings(self) -> Iterator[Finding]:
        """Everything, in order of time."""
        last = self._period.first
        is_first = True
        while True:
            page = self._page(last, is_first=is_first)
            end = page[-1].record_id if len(page) == _PAGE else self._period.after
            yield from self._gone(last, end)
            yield from self._of(page)
            if len(page) < _PAGE:
                break
            last, is_first = end, False
        for relay in sorted(self._in_a_row):
            yield from self._seen_again(relay)

    def _page(self, last: str, *, is_first: bool) -> list[Row[Any]]:
        behind = _message.record_id >= last if is_first else _message.record_id > last
        query = select(*_COLUMNS).where(behind, _message.record_id < self._period.after)
        return list(self._connection.execute(query.order_by(_message.record_id).limit(_PAGE)))

    def _gone(self, last: str, end: str) -> Iterator[Finding]:
        """Records of which there are deliveries only."""
        while True:
            found = list(self._connection.scalars(_orphans(last, end)))
            for record_id, whose in zip(found, self._whose(found), strict=True):
                if len(self._seen.removed) < _REMEMBERED:
                    self._seen.removed.append(record_id)
                at = finding.time_of(record_id)
                yield Finding(Cause.RECORD_REMOVED, at, record_id=record_id, about=whose)
            if len(found) < _PAGE:
                return
            last = found[-1]

    def _whose(self, record_ids: list[str]) -> Iterator[str]:
        """What the log said of each message that people may know it by."""
        found = deliveries.facts(record_ids, self._connection)
        for record_id in record_ids:
            yield " ".join(
                f"{name}={value}"
                for fact in found.get(record_id, ())
                if isinstance(fact, Queued)
                for name, value in (("from", fact.reverse_path), ("message-id", fact.message_id))
                if value is not None
            )

    def _of(self, page: list[Row[Any]]) -> Iterator[Finding]:
        stories = deliveries.told([row.record_id for row in page], self._connection)
        reasons = self._reasons(row.verdict_id for row in page if _is_uncopied(row))
        self._learn_relays(row.circumstance_id for row in page)
        for row in page:
            self._seen.of_segments[row.segment_id] += 1
            relay = self._relay_of[row.circumstance_id]
            if row.disposition != _ACCEPTED or not self._relays.is_wanted(relay):
                continue
            self._seen.messages += 1
            yield from self._one(row, relay, stories[row.record_id])
            if row.crossing == _INTERNAL:
                continue
            self._seen.crossing += 1
            if _is_uncopied(row):
                cause = completeness.uncopied(reasons[row.verdict_id])
                yield _finding(cause, row, relay, schema.CROSSINGS[row.crossing])

    def _one(self, row: Row[Any], relay: str, story: Story) -> Iterator[Finding]:
        if story.facts:
            self._seen.logged += 1
            ways = self._seen.ways.setdefault(relay, set())
            ways.update(way_of(one) for one in story.facts if is_entry(one))
            yield from self._seen_again(relay)
            yield from self._copies(row, relay, story)
            return
        self._seen.copies += len(story.copies)
        made = rows.moment_text(row.recorded_at)
        yield from self._unseen(completeness.unseen(made, self._relays.of(relay)), row, relay)

    def _unseen(self, cause: Cause, row: Row[Any], relay: str) -> Iterator[Finding]:
        one = _finding(cause, row, relay)
        if cause is not Cause.NOT_IN_LOG:
            yield one
            return
        run = self._in_a_row.setdefault(relay, _Unseen())
        run.count += 1
        run.first.append(one)
        if completeness.is_gap(run.count):
            yield from (_with(one, Cause.LOG_GAP) for one in run.first)
            run.first = []

    def _seen_again(self, relay: str) -> Iterator[Finding]:
        run = self._in_a_row.pop(relay, None)
        if run is not None:
            yield from run.first

    def _copies(self, row: Row[Any], relay: str, story: Story) -> Iterator[Finding]:
        age = (self._now - datetime.fromtimestamp(row.recorded_at / 1e6, UTC)).total_seconds()
        for one in story.copies:
            self._seen.copies += 1
            cause = completeness.copy(one.state, age, _LONGEST)
            if cause is None:
                self._seen.delivered += 1
            else:
                yield _finding(cause, row, relay, f"{one.address} {one.state}")

    def _learn_relays(self, circumstance_ids: Iterable[int]) -> None:
        columns = schema.circumstance.c
        unknown = sorted(set(circumstance_ids) - self._relay_of.keys())
        query = select(columns.circumstance_id, columns.relay)
        for identifier, relay in self._connection.execute(
            query.where(columns.circumstance_id.in_(unknown))
        ):
            self._relay_of[identifier] = relay
        for identifier in unknown:
            self._relay_of.setdefault(identifier, "")

    def _reasons(self, verdict_ids: Iterable[int]) -> dict[int, set[str]]:
        """Codes of the reasons by verdict."""
        columns = schema.verdict.c
        wanted = sorted(set(verdict_ids))
        query = select(columns.verdict_id, columns.reasons).where(columns.verdict_id.in_(wanted))
        found = {
            identifier: {str(one).partition("(")[0] for one in json.loads(text)}
            for identifier, text in self._connection.execute(query)
        }
        return {identifier: found.get(identifier, set()) for identifier in wanted}


def _orphans(last: str, end: str) -> Any:
    """Record ids with deliveries and without a message, between pages."""
    there = exists().where(_message.record_id == _delivery.record_id)
    return (
        select(_delivery.record_id)
        .distinct()
        .where(_delivery.record_id > last, _delivery.record_id < end, ~there)
        .order_by(_delivery.record_id)
        .limit(_PAGE)
    )


def is_entry(fact: object) -> bool:
    """Whether a fact says how the message came into the queue."""
    return isinstance(fact, Queued) and fact.service in (completeness.SMTPD, completeness.PICKUP)


def way_of(fact: Any) -> Way:
    """How the message of such a fact came."""
    is_loopback = fact.client is not None and any(one in fact.client for one in _LOOPBACK)
    return Way(fact.service, fact.listener or "", is_loopback)


def _is_uncopied(row: Row[Any]) -> bool:
    return bool(row.crossing != _INTERNAL and not row.copy_count)


def _finding(cause: Cause, row: Row[Any], relay: str, about: str = "") -> Finding:
    at = rows.moment_text(row.recorded_at)
    return Finding(cause, at, relay, row.queue_id, row.record_id, about)


def _with(one: Finding, cause: Cause) -> Finding:
    return Finding(cause, one.at, one.relay, one.queue_id, one.record_id, one.about)
