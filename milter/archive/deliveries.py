"""What became of messages, as the mail log told it: out of SQL.

Promises: any number of records costs a handful of queries by primary key.  `told` answers for every
record that is there, also where the log has said nothing yet.  What Postfix did with a message that
it made from another (requeued, forwarded by an alias or a .forward file) counts as done with that
other; what became of a notification about it is among its `lines`, and changes no state.

Raises: ValueError for rows that cannot be read back.

Does not: search (`search` does), or load (`delivery_loading` does).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, or_, select

from carbonseal.milter.archive import (
    delivery_facts,
    packed,
    parts,
    retrieve,
    rows,
    schema,
)
from carbonseal.milter.archive.as_given import AsGiven
from carbonseal.milter.archive.retrieve import ByRecord
from carbonseal.policies import delivery
from carbonseal.policies.delivery import Fact, Story

_PAGE = 500


@dataclass(frozen=True, slots=True)
class Line:
    """One event line of a message."""

    queue_id: str
    kinship: int  # schema.OWN: its own queue id; else that of a message made from it
    facts: tuple[Fact, ...]  # in the order of the log
    said: tuple[Mapping[str, Any], ...]  # the same with all that the line says


@dataclass(frozen=True, slots=True)
class Waiting:
    """An event line whose record has not come, or never will."""

    at: str  # of its first fact: RFC 3339 in UTC
    relay: str
    queue_id: str
    facts: tuple[Fact, ...]


def told(record_ids: Iterable[str], connection: Connection) -> dict[str, Story]:
    """The story of each of these messages that is there."""
    wanted = list(record_ids)
    found = facts(wanted, connection)
    return {
        record_id: delivery.told(found.get(record_id, ()), recipients, copies)
        for record_id, (recipients, copies) in _ends(wanted, connection).items()
    }


def facts(record_ids: Iterable[str], connection: Connection) -> dict[str, list[Fact]]:
    """The facts from which the story of each message is told; no key where there are none."""
    return {
        record_id: found
        for record_id, some in lines(record_ids, connection).items()
        if (found := [fact for one in some for fact in about_message(one.kinship, one.facts)])
    }


def about_message(kinship: int, facts: Iterable[Fact]) -> Iterator[Fact]:
    """What the facts of a line say of the message itself."""
    if kinship == schema.NOTIFICATION:
        return
    for one in facts:
        if kinship != schema.FORWARDED:
            yield one
        elif isinstance(one, delivery.Attempt | delivery.Change):
            # What became of a forwarded message says nothing about those whom it was not for.
            yield replace(one, is_part=True)


def lines(record_ids: Iterable[str], connection: Connection) -> dict[str, list[Line]]:
    """The event lines of each message in order of time; no key where there are none."""
    found = list(_DELIVERIES.rows(record_ids, connection))
    read = [delivery_facts.unpack(bytes(row.facts)) for row in found]
    mailboxes = retrieve.mailboxes({one for some in read for one in some.address_ids}, connection)
    own = _queue_ids({row.record_id for row in found}, connection)
    made: dict[str, list[tuple[int, Line]]] = {}
    for row, values in zip(found, read, strict=True):
        said = tuple(delivery_facts.facts(values, mailboxes))
        line = Line(
            row.queue_id or own.get(row.record_id, ""),
            row.kinship,
            tuple(map(delivery.fact, said)),
            said,
        )
        made.setdefault(row.record_id, []).append((values.base, line))
    return {
        record_id: [line for _, line in sorted(some, key=lambda one: one[0])]
        for record_id, some in made.items()
    }


_delivery, _message = schema.delivery.c, schema.message.c
_DELIVERIES = ByRecord(
    lambda within: select(
        _delivery.record_id, _delivery.queue_id, _delivery.kinship, _delivery.facts
    ),
    _delivery.record_id,
    most=None,
)
_OWN = ByRecord(lambda within: select(_message.record_id, _message.queue_id), _message.record_id)
_ENDS = ByRecord(lambda within: select(_message.record_id, _message.recipients), _message.record_id)


def _queue_ids(record_ids: Iterable[str], connection: Connection) -> dict[str, str]:
    return {row.record_id: row.queue_id for row in _OWN.rows(record_ids, connection)}


def _ends(
    record_ids: Iterable[str], connection: Connection
) -> dict[str, tuple[list[str], list[str]]]:
    """Envelope and archive recipients of each message that is there."""
    found = {
        row.record_id: packed.unpack_recipients(bytes(row.recipients))
        for row in _ENDS.rows(record_ids, connection)
    }
    address_ids = {
        one.address_id for some in found.values() for one in some if one.address_id is not None
    }
    mailboxes = retrieve.mailboxes(address_ids, connection)

    def text(one: packed.Recipient) -> str:
        known = None
        if one.address_id is not None:
            known = mailboxes.get(one.address_id, retrieve.ERASED)
        return parts.address_of({"address": known, "spelling": one.spelling})

    return {
        record_id: (
            [text(one) for one in some if one.kind == schema.ENVELOPE],
            [text(one) for one in some if one.kind == schema.COPY],
        )
        for record_id, some in found.items()
    }


def waiting(
    connection: Connection, since: datetime | None = None, until: datetime | None = None
) -> Iterator[Waiting]:
    """Event lines of messages of which there is no record, in order of time.

    Those whose first fact is of `since` or later and before `until` (None: without end).
    """
    columns = schema.delivery_waiting.c
    query = select(schema.delivery_waiting).order_by(
        columns.at, columns.segment_id, columns.position
    )
    if since is not None:
        query = query.where(columns.at >= _microseconds(since))
    if until is not None:
        query = query.where(columns.at < _microseconds(until))
    last: Row[Any] | None = None
    while True:
        page = connection.execute(_behind(query, last).limit(_PAGE)).all()
        yield from _waiting(page, connection)
        if len(page) < _PAGE:
            return
        last = page[-1]


def _behind(query: Any, last: Row[Any] | None) -> Any:
    if last is None:
        return query
    columns = schema.delivery_waiting.c
    same_segment = (columns.segment_id == last.segment_id) & (columns.position > last.position)
    same_time = (columns.at == last.at) & ((columns.segment_id > last.segment_id) | same_segment)
    return query.where((columns.at > last.at) | same_time)


def _waiting(page: Sequence[Row[Any]], connection: Connection) -> Iterator[Waiting]:
    read = [delivery_facts.unpack(bytes(row.facts)) for row in page]
    mailboxes = retrieve.mailboxes({one for some in read for one in some.address_ids}, connection)
    for row, values in zip(page, read, strict=True):
        said = delivery_facts.facts(values, mailboxes)
        yield Waiting(
            rows.moment_text(row.at), row.relay, row.queue_id, tuple(map(delivery.fact, said))
        )


def with_states(
    states: Iterable[str], connection: Connection, *, before: str | None = None, most: int = _PAGE
) -> list[str]:
    """Records of which the log told any of these (schema.DELIVERY_STATES), the newest first.

    `before`: those with smaller ids only.  What they are now, `told` says.
    """
    columns = schema.delivery_state.c
    wanted = sorted(map(schema.DELIVERY_STATES.index, states))
    query = select(columns.record_id).where(columns.state.in_(wanted)).distinct()
    if before is not None:
        query = query.where(columns.record_id < before)
    return list(connection.scalars(query.order_by(columns.record_id.desc()).limit(most)))


_ANY = AsGiven(
    select(
        or_(
            *(
                select(one.c.segment_id).exists()
                for one in (schema.delivery, schema.delivery_waiting)
            )
        )
    )
)


def are_there(connection: Connection) -> bool:
    """Whether the archive knows any delivery at all: nobody follows a log otherwise."""
    return are_there_asked(connection)()


def are_there_asked(connection: Connection) -> Callable[[], bool]:
    """What waits for the answer."""
    asked = _ANY.asked({}, connection)
    return lambda: bool(asked()[0][0])


def _microseconds(moment: datetime) -> int:
    return int(moment.astimezone(UTC).timestamp() * 1_000_000)
