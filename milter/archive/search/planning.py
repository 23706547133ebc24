"""How a search is answered on one engine: what leads to the records, and what is left to check.

Promises: the rarest condition that has an index leads; where several are alternatives each of them
does.  On SQLite and MariaDB how rare one is, is counted or estimated; on PostgreSQL, whose arrays
take any number of conditions at once, their kind says enough.

Raises: DataError for a search that no index answers.

Does not: write statements (`pages` does), or walk (`walk` does).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, and_, func, select

from carbonseal.milter.archive import terms
from carbonseal.milter.archive.search import checks, compiler, conditions, estimate
from carbonseal.milter.archive.search.conditions import MESSAGE, SECTION, Leaf, Node
from carbonseal.milter.archive.search.wanted import Search
from carbonseal.policies.errors import DataError

RARE = 1000  # counting further does not change which condition should lead
MARIADB = ("mariadb", "mysql")
OLDEST = "0" * terms.RECORD_ID_LENGTH
NEWEST = "7" + "Z" * (terms.RECORD_ID_LENGTH - 1)
Bounds = tuple[str, str]  # record ids: inclusive, exclusive


@dataclass(frozen=True, slots=True)
class Plan:
    """How a search is answered on one engine."""

    root: Node
    leads: tuple[Leaf | None, ...]  # None: the records themselves, in order; no leads: no record
    bounds: Bounds
    open: Node  # what stored text or facts must decide
    flags: tuple[Leaf, ...]  # what SQL must say for that
    engine: str  # name of SQLAlchemy's dialect

    @property
    def has_arrays(self) -> bool:
        """Whether arrays of terms are the index."""
        return self.engine == "postgresql"

    @property
    def has_windows(self) -> bool:
        """Whether a lead has no order."""
        return any(lead is not None and (lead.elements or lead.is_windowed) for lead in self.leads)


def planned(
    wanted: Search,
    connection: Connection,
    indexed: frozenset[str],
    is_ours: checks.IsOurs | None = None,
) -> Plan:
    """The plan of a search.  Raises: DataError when no index answers it."""
    bounds = _bounds(wanted)
    root = compiler.compiled(wanted.where, connection, indexed, is_ours)
    has_arrays = connection.dialect.name == "postgresql"

    def cost(leaf: Leaf) -> int:
        return leaf.rank if has_arrays else counted(leaf)

    known: dict[Leaf, int] = {}

    def counted(leaf: Leaf) -> int:
        if leaf not in known:
            known[leaf] = _frequency(leaf, bounds, connection)
        return known[leaf]

    leads: Sequence[Leaf | None] | None
    leads = [None] if conditions.is_true(root) else conditions.leads(root, cost)
    if leads is None:
        if wanted.since is None:
            raise DataError(
                "no index answers this search (size:, relay:, class:, disposition:, NOT, other "
                "header fields, and state: or copy: of what arrived or is not known have none); "
                "add an address, a word or another condition that is no NOT, or a period with "
                "after: or --since"
            )
        leads = [None]
    to_decide = conditions.unchecked(root)
    return Plan(
        root=root,
        leads=tuple(_grouped(leads) if has_arrays else leads),
        bounds=bounds,
        open=to_decide,
        flags=tuple(dict.fromkeys(conditions.sql_leaves(to_decide))),
        engine=connection.dialect.name,
    )


def _grouped(leads: Sequence[Leaf | None]) -> list[Leaf | None]:
    """One scan for all elements of one table."""
    single = [lead for lead in leads if lead is None or not lead.elements]
    grouped: list[Leaf | None] = []
    for table in (MESSAGE, SECTION):
        some = [lead for lead in leads if lead and lead.elements and lead.table is table]
        elements = [one for lead in some for one in lead.elements]
        if len(some) == 1:
            grouped += some
        elif some:
            grouped.append(conditions.of_array(table, elements, some[0].rank))
    return [*single, *grouped]


def _bounds(wanted: Search) -> Bounds:
    first = OLDEST if wanted.since is None else compiler.record_id_at(wanted.since)
    last = NEWEST if wanted.until is None else compiler.record_id_at(wanted.until)
    return first, last if wanted.before is None else min(last, wanted.before)


def within(bounds: Bounds, columns: conditions.Columns) -> list[ColumnElement[bool]]:
    """That a record is of that time."""
    return [columns.record_id >= bounds[0], columns.record_id < bounds[1]]


def in_time(bounds: Bounds) -> conditions.Holds:
    """The same as one condition."""
    return lambda c: and_(*within(bounds, c))


def _frequency(leaf: Leaf, bounds: Bounds, connection: Connection) -> int:
    source = (MESSAGE if leaf.table is None else leaf.table).alias()
    some = select(source.c.record_id).where(leaf.holds(source.c), in_time(bounds)(source.c))
    if connection.dialect.name in MARIADB:
        # To count, it would write a thousand rows into a table first.
        return estimate.rows(some, connection)
    query = select(func.count()).select_from(some.limit(RARE).subquery())
    return connection.execute(query).scalar_one()
