"""Mail of a period that Postfix's log shows in the queue, and of which there is no record.

Promises: in order of time, as far as lines of the log are; memory is bounded: what was said of a
message is gathered until a hundred thousand others came after it.

Does not: count mail that began before the period, or that Postfix never put into its queue.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection

from carbonseal.milter.archive import deliveries
from carbonseal.milter.archive.completeness import records
from carbonseal.milter.archive.completeness.finding import Finding, Period, Seen
from carbonseal.milter.archive.completeness.relays import Relays
from carbonseal.milter.archive.deliveries import Waiting
from carbonseal.policies import completeness
from carbonseal.policies.completeness import Logged, Relay, Way
from carbonseal.policies.delivery import Attempt, Change, Fact, Queued

_GATHERED = 100_000  # messages
# What begins before the period must not pass for mail of it whose beginning nobody saw.
_MARGIN = timedelta(hours=1)
_EARLIEST = datetime(1970, 1, 2, tzinfo=UTC)
_LATEST = datetime(9999, 12, 30, tzinfo=UTC)
_MADE_HERE = Way("")
_IN_QUEUE = frozenset(("held", "released", "expired", "deleted", "removed", "requeued"))


@dataclass(slots=True)
class _Mail:
    """What the log said of one queue id."""

    at: str
    way: Way | None = None  # None: nothing says how it came
    is_queued: bool = False
    reverse_path: str | None = None
    message_id: str | None = None

    def add(self, fact: Fact) -> None:
        """Take in one more fact."""
        match fact:
            case Queued(service="cleanup"):
                self.way = self.way or _MADE_HERE
                self.message_id = fact.message_id or self.message_id
            case Queued() if records.is_entry(fact):
                self.way = records.way_of(fact)
            case Queued():
                self.is_queued = True
            case Attempt():
                self.is_queued = True
            case Change(kind=kind) if kind in _IN_QUEUE:
                self.is_queued = True
            case _:
                pass
        if isinstance(fact, Queued):
            self.reverse_path = self.reverse_path or fact.reverse_path


def findings(
    connection: Connection, period: Period, relays: Relays, seen: Seen
) -> Iterator[Finding]:
    """Everything; after the records, from which it is known how recorded mail comes."""
    known: dict[str, Relay] = {}
    gathered: OrderedDict[tuple[str, str], _Mail] = OrderedDict()
    # The archive has no lines from before it was thought of, nor has the calendar.
    first = max(period.since, _EARLIEST) - _MARGIN
    after = min(period.until, _LATEST) + _MARGIN
    for line in deliveries.waiting(connection, first, after):
        if not relays.is_wanted(line.relay):
            continue
        _gather(gathered, line)
        if len(gathered) > _GATHERED:
            key, mail = gathered.popitem(last=False)
            if period.holds(mail.at):
                yield from _judged(key, mail, relays, known, seen)
    for key, mail in gathered.items():
        if period.holds(mail.at):
            yield from _judged(key, mail, relays, known, seen)


def _gather(gathered: OrderedDict[tuple[str, str], _Mail], line: Waiting) -> None:
    mail = gathered.setdefault((line.relay, line.queue_id), _Mail(line.at))
    for fact in line.facts:
        mail.add(fact)


def _judged(
    key: tuple[str, str],
    mail: _Mail,
    relays: Relays,
    known: dict[str, Relay],
    seen: Seen,
) -> Iterator[Finding]:
    relay, queue_id = key
    if mail.way is None or not mail.is_queued:
        return
    if relay not in known:
        known[relay] = relays.of(relay, seen.ways.get(relay, set()))
    seen.unrecorded += 1
    cause = completeness.unrecorded(Logged(mail.at, mail.way), known[relay])
    yield Finding(cause, mail.at, relay, queue_id, about=_about(mail))


def _about(mail: _Mail) -> str:
    named: Mapping[str, str | None] = {
        "by": str(mail.way) or None,
        "from": mail.reverse_path,
        "message-id": mail.message_id,
    }
    return " ".join(f"{name}={value}" for name, value in named.items() if value is not None)
