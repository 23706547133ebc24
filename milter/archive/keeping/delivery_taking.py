"""Event lines that go with their records, or lose a person.

Promises: with the lines of a record go the index rows that lead to it, and what is to be written
down in `tombstone` is handed back.  A line from which a person was erased says in its own row which
of its facts are not what was sealed (`evidence.event_leaf`); the others stay provable, and so does
the line.  Its id goes, since it was made from the facts.

Does not: decide what goes, write tombstones, or begin and end transactions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, delete, insert, select

from carbonseal.milter.archive import (
    delivery_facts,
    delivery_loading,
    dictionary,
    event_line,
    retrieve,
    schema,
    terms,
)
from carbonseal.milter.archive.delivery_loading import Line
from carbonseal.milter.archive.evidence import event_leaf, leaf

_PAGE = 500
_delivery, _waiting = schema.delivery.c, schema.delivery_waiting.c
INDEXES = (schema.delivery_state, schema.delivery_address, schema.forwarded)

Erase = Callable[[Any], Any]  # what stands for a value of a line


def remove(record_ids: Sequence[str], connection: Connection) -> tuple[list[Line], set[int]]:
    """Delete what was told of these records: which lines that were, and the addresses in them."""
    lines: list[Line] = []
    addresses: set[int] = set()
    for chunk in dictionary.chunks(list(record_ids)):
        query = select(_delivery.segment_id, _delivery.position, _delivery.facts)
        for row in connection.execute(query.where(_delivery.record_id.in_(chunk))):
            lines.append((row.segment_id, row.position))
            addresses |= _addresses(row.facts)
        for table in (schema.delivery, *INDEXES):
            connection.execute(delete(table).where(table.c.record_id.in_(chunk)))
    return lines, addresses


def _addresses(facts: bytes) -> set[int]:
    try:
        return set(delivery_facts.unpack(bytes(facts)).address_ids)
    except ValueError:  # damaged: it goes all the same
        return set()


def remove_waiting(before: int, connection: Connection, most: int) -> tuple[list[Line], set[int]]:
    """The same for lines that wait since before a moment (microseconds), at most so many."""
    query = (
        select(_waiting.segment_id, _waiting.position, _waiting.facts)
        .where(_waiting.at < before)
        .order_by(_waiting.at)
        .limit(most)
    )
    found = {
        (row.segment_id, row.position): _addresses(row.facts) for row in connection.execute(query)
    }
    delivery_loading.unwait(found, connection)
    return list(found), {one for some in found.values() for one in some}


def naming(address_ids: Iterable[int], connection: Connection) -> Iterator[str]:
    """Records of which the log alone names one of these addresses."""
    columns = schema.delivery_address.c
    for chunk in dictionary.chunks(sorted(address_ids)):
        query = select(columns.record_id).where(columns.address_id.in_(chunk)).distinct()
        yield from connection.scalars(query)


def telling_of(
    record_ids: Sequence[str], is_named: Callable[[Any], bool], connection: Connection
) -> Iterator[str]:
    """Those of these records whose lines name a person, read one by one."""
    for chunk in dictionary.chunks(list(record_ids)):
        query = select(schema.delivery).where(_delivery.record_id.in_(chunk))
        found = connection.execute(query).all()
        mailboxes = _mailboxes(found, connection)
        for row in found:
            values = delivery_facts.unpack(bytes(row.facts))
            if is_named([delivery_facts.facts(values, mailboxes), values.rest]):
                yield row.record_id


def erase(
    record_ids: Sequence[str],
    without: Callable[[str], Erase],
    event: int,
    connection: Connection,
    ids: dictionary.Dictionary,
) -> set[str]:
    """Put the lines of these records back without a person; the records of which some changed.

    `without`: by record id, what stands for a value of its lines.
    """
    names = _names(record_ids, connection)
    changed = set()
    for chunk in dictionary.chunks(list(record_ids)):
        query = select(schema.delivery).where(_delivery.record_id.in_(chunk))
        found = connection.execute(query).all()
        mailboxes = _mailboxes(found, connection)
        for row in found:
            relay, queue_id = names.get(row.record_id, ("", ""))
            made = _erased(
                row,
                (relay, row.queue_id or queue_id),
                without(row.record_id),
                mailboxes,
                event,
            )
            if made is None:
                continue
            changed.add(row.record_id)
            values = row._asdict() | _packed(made, connection, ids)
            connection.execute(
                delete(schema.delivery).where(
                    _delivery.record_id == row.record_id,
                    _delivery.segment_id == row.segment_id,
                    _delivery.position == row.position,
                )
            )
            connection.execute(insert(schema.delivery), values)
    return changed


def erase_waiting(
    address_ids: Iterable[int],
    without: Erase,
    event: int,
    connection: Connection,
    ids: dictionary.Dictionary,
) -> int:
    """The same for lines that wait and hold one of these addresses; how many changed."""
    columns, count = schema.waiting_address.c, 0
    lines: set[Line] = set()
    for chunk in dictionary.chunks(sorted(address_ids)):
        query = select(columns.segment_id, columns.position)
        for row in connection.execute(query.where(columns.address_id.in_(chunk))):
            lines.add((row.segment_id, row.position))
    for segment_id, position in sorted(lines):
        query = select(schema.delivery_waiting).where(
            _waiting.segment_id == segment_id, _waiting.position == position
        )
        for row in connection.execute(query).all():
            mailboxes = _mailboxes([row], connection)
            made = _erased(row, (row.relay, row.queue_id), without, mailboxes, event)
            if made is None:
                continue
            count += 1
            delivery_loading.unwait({(segment_id, position): _addresses(row.facts)}, connection)
            values = row._asdict() | _packed(made, connection, ids)
            connection.execute(insert(schema.delivery_waiting), values)
            connection.execute(
                insert(schema.waiting_address),
                [
                    {"address_id": one, "segment_id": segment_id, "position": position}
                    for one in sorted(_addresses(values["facts"]))
                ],
            )
    return count


_Made = tuple[list[Any], Mapping[str, Any], str]  # facts, rest, redaction


def _erased(
    row: Any,
    name: tuple[str, str],
    without: Erase,
    mailboxes: Mapping[int, str],
    event: int,
) -> _Made | None:
    """A line as it has to be; None where it does not name the person."""
    values = delivery_facts.unpack(bytes(row.facts))
    facts = delivery_facts.facts(values, mailboxes)
    facts_left, rest_left = without(facts), without(values.rest)
    if (facts_left, rest_left) == (facts, values.rest):
        return None
    before = event_line.content(*name, facts, values.rest)
    after = {**before, "facts": facts_left} | rest_left
    was, now = event_leaf.parts(before), event_leaf.parts(after)
    salts, _ = event_leaf.stored(None if row.salt is None else bytes(row.salt), row.redaction)
    changed = {part for part, value in was.items() if now.get(part) != value}
    redaction = event_leaf.redact(before, salts, changed, event)
    return facts_left, rest_left, leaf.canonical(redaction).decode("ascii")


def _packed(made: _Made, connection: Connection, ids: dictionary.Dictionary) -> dict[str, Any]:
    facts, rest, redaction = made
    texts = {terms.mailbox(text) for text in delivery_facts.addresses(facts)}
    known = ids.ids("address", texts, connection)
    return {
        "facts": delivery_facts.pack(facts, rest, known),
        "salt": None,
        "redaction": redaction,
    }


def _mailboxes(rows: Sequence[Any], connection: Connection) -> dict[int, str]:
    wanted = {one for row in rows for one in _addresses(row.facts)}
    return retrieve.mailboxes(wanted, connection)


def _names(record_ids: Sequence[str], connection: Connection) -> dict[str, tuple[str, str]]:
    """Relay and queue id of each record."""
    columns, common = schema.message.c, schema.circumstance.c
    query = select(columns.record_id, common.relay, columns.queue_id).join(
        schema.circumstance, common.circumstance_id == columns.circumstance_id
    )
    return {
        record_id: (relay, queue_id)
        for chunk in dictionary.chunks(list(record_ids))
        for record_id, relay, queue_id in connection.execute(
            query.where(columns.record_id.in_(chunk))
        )
    }
