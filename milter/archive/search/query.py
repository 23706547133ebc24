"""Questions to the archive: search, show, count.

Promises: results come newest first, in the order of record ids, and stream: a page is found and
fetched, given out, and the next one begins after its last id.  The same records on every engine.
Values are bound, never formatted into SQL.

Raises: errors.NotFound from `show`; errors.DataError for a search that no index answers;
retrieve.DamagedRecord for a record that cannot be read back; database.DatabaseUnusable when the
database fails.

Does not: parse what people type (`language`, `options`), find (`conditions`, `walk`), or write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, select
from sqlalchemy.exc import SQLAlchemyError

from carbonseal.milter.archive import (
    as_given,
    database,
    derive,
    retrieve,
    rows,
    schema,
    terms,
)
from carbonseal.milter.archive.search import outline, planning, short, walk
from carbonseal.milter.archive.search.checks import IsOurs
from carbonseal.milter.archive.search.wanted import Search
from carbonseal.policies.errors import NotFound

Item = TypeVar("Item")

PAGE = 200
INDEXED = derive.INDEXED
Found = short.Found
Outline = outline.Outline
in_short = short.in_short


def search(
    engine: Engine,
    wanted: Search,
    *,
    indexed: Iterable[str] = INDEXED,
    is_ours: IsOurs | None = None,
) -> Iterator[Found]:
    """Records that meet it, newest first, streamed; `indexed`: header fields that have terms.

    `is_ours`: whether an address is ours, for searches of what left late.
    """
    for found in _paged(engine, wanted, _planning(indexed, is_ours), PAGE, in_short):
        yield from found


def outlines(
    engine: Engine,
    wanted: Search,
    *,
    indexed: Iterable[str] = INDEXED,
    is_ours: IsOurs | None = None,
) -> Iterator[Outline]:
    """The same records, with what a table shows of them."""
    for found in _paged(engine, wanted, _planning(indexed, is_ours), PAGE, outline.in_outline):
        yield from found


def pages(
    engine: Engine,
    wanted: Search,
    *,
    indexed: Iterable[str] = INDEXED,
    is_ours: IsOurs | None = None,
    size: int = PAGE,
) -> Iterator[list[str]]:
    """The record ids that meet it, newest first, in pages of at most `size`, none of them empty."""
    return _paged(engine, wanted, _planning(indexed, is_ours), size, lambda found, _: found)


def _planning(
    indexed: Iterable[str], is_ours: IsOurs | None
) -> Callable[[Search, Connection], planning.Plan]:
    names = frozenset(indexed)
    return lambda wanted, connection: planning.planned(wanted, connection, names, is_ours)


def _paged(
    engine: Engine,
    wanted: Search,
    planned: Callable[[Search, Connection], planning.Plan],
    size: int,
    made: Callable[[list[str], Connection], list[Item]],
) -> Iterator[list[Item]]:
    """What is `made` of record ids, until the search is over or its limit reached.

    Each page is of a transaction of its own, in the first of which the search is planned.
    """
    steps: walk.Walk | None = None
    left = size if wanted.limit is None else wanted.limit
    while left > 0 and not (steps and steps.is_over):
        with reading(engine) as connection, as_given.keeping(connection):
            if steps is None:
                steps = walk.Walk(planned(wanted, connection))
            found = [] if steps.is_over else steps.next(min(left, size), connection)
            page = made(found, connection) if found else []
        if page:
            yield page
        if wanted.limit is not None:
            left = wanted.limit - steps.given


def count(
    engine: Engine,
    wanted: Search,
    *,
    indexed: Iterable[str] = INDEXED,
    is_ours: IsOurs | None = None,
) -> int:
    """How many records meet it, whatever its limit."""
    with reading(engine) as connection:
        plan = planning.planned(wanted, connection, frozenset(indexed), is_ours)
        found = walk.count(plan, connection)
    if found is not None:
        return found
    return sum(map(len, walk.each(plan, 1000, lambda: reading(engine))))


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A connection for questions.  Raises: DatabaseUnusable."""
    try:
        with engine.connect() as connection:
            walk.steady(connection)
            yield connection
    except SQLAlchemyError as fault:
        raise database.unusable(engine.url, fault) from fault


def show(engine: Engine, name: str) -> list[dict[str, Any]]:
    """The complete records with this record id or queue id, newest first.

    Queue ids can come back (Postfix: enable_long_queue_ids), hence several.
    Raises: NotFound, retrieve.DamagedRecord.
    """
    with reading(engine) as connection:
        record_ids = _named(name, connection)
        found = retrieve.retrieve(record_ids, connection, with_fields=True)
    if not found:
        raise NotFound(f"no record has the record id or queue id {name!r}; try archive search")
    return retrieve.each_of(found, rows.join, lambda one: one.record_id)


def _named(name: str, connection: Connection) -> list[str]:
    columns = schema.message.c
    try:
        terms.pack_record_id(name)
    except ValueError:
        query = (
            select(columns.record_id)
            .where(columns.queue_id == terms.storable(name))
            .order_by(columns.record_id.desc())
            .limit(PAGE)
        )
        return list(connection.execute(query).scalars())
    return [name.upper()]
