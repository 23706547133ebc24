"""Months that go as a whole (PostgreSQL, where a month is a partition).

Dropping a partition takes a moment and gives its space back at once, where deleting its rows would
take hours and leave the space to vacuum.

Promises: a month goes as a whole only if every record in it is past its time or held; held records
are carried over in the same transaction, and so are the tombstones of the others.  While that goes
on nothing can be loaded, so nothing that comes late is lost with it.

Does not: know other engines (there no month goes as a whole), or look holds up.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    Connection,
    Select,
    Table,
    and_,
    case,
    delete,
    func,
    literal_column,
    or_,
    select,
    text,
)

from carbonseal.milter.archive import schema, terms
from carbonseal.milter.archive.keeping import delivery_taking, holds, taking

_PARTITION = re.compile(r"message_([0-9]{4})_([0-9]{2})")
_TABLES = (schema.message, schema.header_section, schema.delivery)
_WITH_TERMS = frozenset(("message", "header_section"))
_STREAM = 1000
Befores = Mapping[int, int]  # by retention class: records of before that moment go; microseconds


@dataclass(frozen=True, slots=True)
class Month:
    """One partition."""

    name: str  # as in 2026_11
    begin: datetime
    end: datetime

    @property
    def bounds(self) -> tuple[str, str]:
        """Record ids: inclusive, exclusive."""
        first, last = (
            terms.first_record_id(int(one.timestamp() * 1000)) for one in (self.begin, self.end)
        )
        return first, last


@dataclass(frozen=True, slots=True)
class Taken:
    """What went with a month."""

    by_class: dict[int, int]  # records by retention class
    elements: frozenset[int]  # terms of their rows: who took part
    lines: int  # of the mail log
    addresses: frozenset[int]  # whom only they named


def whole(connection: Connection, befores: Befores) -> Iterator[Month]:
    """Months, the oldest first, in which nothing must stay that is not held."""
    if connection.dialect.name != "postgresql" or not befores:
        return
    latest = max(befores.values())
    for month in _partitions(connection):
        if _microseconds(month.end) <= latest and _is_over(month, befores, connection):
            yield month


def _partitions(connection: Connection) -> list[Month]:
    query = text(
        "SELECT child.relname FROM pg_inherits JOIN pg_class child ON child.oid = inhrelid "
        "WHERE inhparent = 'message'::regclass ORDER BY child.relname"
    )
    found = []
    for name in connection.scalars(query):
        parts = _PARTITION.fullmatch(name)
        if parts:
            year, month = int(parts[1]), int(parts[2])
            begin = datetime(year, month, 1, tzinfo=UTC)
            end = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)
            found.append(Month(f"{parts[1]}_{parts[2]}", begin, end))
    return found


def _is_over(month: Month, befores: Befores, connection: Connection) -> bool:
    """Whether there is something in it, and nothing that must stay without being held."""
    columns = schema.message.c
    inside = _inside(month)
    if connection.execute(select(columns.record_id).where(inside).limit(1)).first() is None:
        return False
    expired = case((_expired(befores), 1), else_=0)  # a condition on nothing is not false
    stays = (
        select(columns.record_id)
        .where(inside, expired == 0, ~holds.is_held(columns.record_id))
        .limit(1)
    )
    return connection.execute(stays).first() is None


def _inside(month: Month) -> Any:
    first, last = month.bounds
    return and_(schema.message.c.record_id >= first, schema.message.c.record_id < last)


def _expired(befores: Befores) -> Any:
    columns = schema.message.c
    return or_(
        *(
            and_(columns.circumstance_id.in_(of_class(retention_id)), columns.recorded_at <= before)
            for retention_id, before in befores.items()
        )
    )


def of_class(retention_id: int) -> Select[Any]:
    """The circumstances of records that were stamped with this retention class."""
    columns = schema.circumstance.c
    return select(columns.circumstance_id).where(columns.retention_id == retention_id)


def empty(month: Month, befores: Befores, event: int, connection: Connection) -> Taken | None:
    """Drop the month, its held records carried over; None if it must stay after all."""
    # Nobody may load anything from here on, and then nobody remembers this month's partition.
    taking.announce(connection)
    connection.exec_driver_sql(
        "LOCK TABLE message, header_section, delivery IN SHARE ROW EXCLUSIVE MODE"
    )
    if not _is_over(month, befores, connection):
        return None
    goes = and_(_inside(month), ~holds.is_held(schema.message.c.record_id))
    told = _bury_deliveries(month, event, connection)
    taken = _bury(goes, event, connection, told)
    carried = _carry(month, connection)
    connection.execute(select(func.carbonseal_drop_partition(month.name)))
    if carried:
        connection.execute(select(func.carbonseal_partition(month.begin)))
        _put_back(connection)
    return taken


def _bury_deliveries(
    month: Month, event: int, connection: Connection
) -> tuple[int, frozenset[int]]:
    """The same for event lines; delete what leads to them.  How many, and whom only they named."""
    first, last = month.bounds

    def goes(table: Table) -> Any:
        record_id = table.c.record_id
        return and_(record_id >= first, record_id < last, ~holds.is_held(record_id))

    columns, named = schema.delivery.c, schema.delivery_address
    query = select(columns.segment_id, columns.position).where(goes(schema.delivery))
    rows = connection.execute(query.execution_options(yield_per=_STREAM))
    lines: list[taking.Line] = [(row.segment_id, row.position) for row in rows]
    taking.bury(lines, taking.RECORD, event, connection)
    addresses = frozenset(connection.scalars(select(named.c.address_id).where(goes(named))))
    for table in delivery_taking.INDEXES:
        connection.execute(delete(table).where(goes(table)))
    return len(lines), addresses


def _bury(goes: Any, event: int, connection: Connection, told: tuple[int, frozenset[int]]) -> Taken:
    columns = schema.message.c
    terms_of: Any = literal_column("message.terms", schema.message_terms.c.terms.type)
    common = schema.circumstance.c
    stamped = select(common.retention_id).where(common.circumstance_id == columns.circumstance_id)
    retention_id_of = stamped.scalar_subquery()
    query = select(columns.segment_id, columns.position, retention_id_of, terms_of).where(goes)
    by_class: dict[int, int] = {}
    elements: set[int] = set()
    lines: list[taking.Line] = []
    rows = connection.execute(query.execution_options(yield_per=_STREAM))
    for segment_id, position, retention_id, found in rows:
        by_class[retention_id] = by_class.get(retention_id, 0) + 1
        elements.update(found)
        lines.append((segment_id, position))
    taking.bury(lines, taking.RECORD, event, connection)
    return Taken(by_class, frozenset(elements), *told)


def _carry(month: Month, connection: Connection) -> bool:
    """Copy held records to temporary tables; whether there are any."""
    first, last = month.bounds
    kind, dialect = schema.RecordId(), connection.dialect
    bounds = {
        "first": kind.process_bind_param(first, dialect),
        "last": kind.process_bind_param(last, dialect),
    }
    for table in _TABLES:
        connection.execute(
            text(_carrying(table)),
            bounds,
        )
    return bool(connection.scalar(text("SELECT EXISTS (SELECT 1 FROM carried_message)")))


def _carrying(table: Any) -> str:
    return (
        f"CREATE TEMPORARY TABLE carried_{table.name} ON COMMIT DROP AS "  # noqa: S608 - our names
        f"SELECT {_columns(table)} FROM {table.name} part "
        "WHERE record_id >= :first AND record_id < :last AND EXISTS ("
        "SELECT 1 FROM hold_member JOIN hold USING (hold_id) "
        "WHERE hold_member.record_id = part.record_id AND released_at IS NULL)"
    )


def _put_back(connection: Connection) -> None:
    for table in _TABLES:
        names = _columns(table)
        connection.exec_driver_sql(
            f"INSERT INTO {table.name} ({names}) SELECT {names} FROM carried_{table.name}"  # noqa: S608
        )


def _columns(table: Any) -> str:
    more = ["terms"] if table.name in _WITH_TERMS else []
    return ", ".join([*table.c.keys(), *more])


def _microseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000)
