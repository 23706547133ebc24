"""What was sealed of a period: a sequence without gaps, and as many records as lines.

Counts only: which record it is, and whether those that are there are unchanged, `archive verify`
tells.  Segments that reach beyond the period are left to the next.

Raises: what the database raises.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, func, select

from carbonseal.milter.archive import schema
from carbonseal.milter.archive.completeness import finding
from carbonseal.milter.archive.completeness.finding import Finding, Period, Seen
from carbonseal.milter.archive.completeness.relays import OF_EVENTS, Relays
from carbonseal.milter.archive.evidence import absence
from carbonseal.milter.archive.evidence import seal as seal_
from carbonseal.policies.completeness import Cause

_PAGE = 500
_seal = schema.seal.c


@dataclass(slots=True)
class _Numbers:
    """Numbers of one relay's seals."""

    first: int
    last: int
    at: str  # of the last


def findings(
    connection: Connection, period: Period, relays: Relays, seen: Seen
) -> Iterator[Finding]:
    """Everything; after the records, which it counts by segment."""
    numbers: dict[str, _Numbers] = {}
    for row in _seals(connection, period):
        if not relays.is_wanted(row.relay):
            continue
        at = finding.time_of(row.last_record_id)
        known = numbers.setdefault(row.relay, _Numbers(row.number, row.number, at))
        known.first, known.last = min(known.first, row.number), max(known.last, row.number)
        if row.first_record_id >= period.first:
            yield from _uncounted(row, at, connection, seen)
    for relay, one in numbers.items():
        missing = one.last - one.first + 1 - _there(connection, relay, one)
        if missing:
            about = f"between {one.first} and {one.last}"
            yield Finding(Cause.SEAL_MISSING, one.at, relay, about=about, count=missing)


def _seals(connection: Connection, period: Period) -> Iterator[Row[Any]]:
    last = period.first
    is_first = True
    while True:
        behind = _seal.last_record_id >= last if is_first else _seal.last_record_id > last
        query = (
            select(
                *(_seal.relay, _seal.number, _seal.segment_id, _seal.entry),
                *(_seal.first_record_id, _seal.last_record_id),
            )
            .where(behind, _seal.last_record_id < period.after)
            .order_by(_seal.last_record_id)
            .limit(_PAGE)
        )
        page: list[Row[Any]] = list(connection.execute(query))
        yield from page
        if len(page) < _PAGE:
            return
        last, is_first = page[-1].last_record_id, False


def _there(connection: Connection, relay: str, one: _Numbers) -> int:
    query = select(func.count()).where(
        _seal.relay == relay, _seal.number.between(one.first, one.last)
    )
    return int(connection.execute(query).scalar_one())


def _uncounted(row: Row[Any], at: str, connection: Connection, seen: Seen) -> Iterator[Finding]:
    try:
        facts = seal_.read(row.entry)
    except seal_.BadEntry:
        return  # archive verify says so
    if facts.segment.endswith(OF_EVENTS):
        return
    missing = facts.lines - seen.of_segments[row.segment_id]
    if missing > 0:
        missing -= _accounted(row.segment_id, connection)
    if missing > 0:
        # Those that the log still knows were told already.
        missing -= sum(row.first_record_id <= one <= row.last_record_id for one in seen.removed)
    if missing > 0:
        about = f"segment {facts.segment}"
        yield Finding(Cause.RECORDS_UNCOUNTED, at, row.relay, about=about, count=missing)


def _accounted(segment_id: int, connection: Connection) -> int:
    """Lines that are in no table of records for a known reason."""
    places = set(absence.tombstones(segment_id, connection).records)
    for table in (schema.set_aside, schema.repeated):
        query = select(table.c.position).where(table.c.segment_id == segment_id)
        places.update(connection.scalars(query))
    return len(places)
