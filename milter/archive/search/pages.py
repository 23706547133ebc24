"""The statements that bring a page of record ids, by one leading condition.

Promises: each is one scan of an index, whose planner is told what it cannot see: that the newest
of a few are wanted, not the few among the newest; which bounds exclude something; and, for a plan
that PostgreSQL keeps, what bounds are likely to.

Raises: what the database raises, as sqlalchemy.exc.SQLAlchemyError.

Does not: choose what leads (`planning` does), or the window of time (`walk` does).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Integer,
    Select,
    and_,
    any_,
    bindparam,
    case,
    false,
    literal_column,
    select,
    true,
    union,
)
from sqlalchemy.dialects import postgresql

from carbonseal.milter.archive import as_given, schema, terms
from carbonseal.milter.archive.as_given import AsGiven
from carbonseal.milter.archive.search import conditions, planning
from carbonseal.milter.archive.search.conditions import MESSAGE, Leaf
from carbonseal.milter.archive.search.planning import Bounds, Plan

_COPIES = 8  # of a bound; see `_hinted`
# The same as parameters of a statement that is built once for all windows of a search.
_TIME: Any = tuple(bindparam(name, type_=schema.RecordId()) for name in ("first", "last"))


def says_something(bounds: Bounds) -> dict[str, bool]:
    """Whether some records are too old, and some too new."""
    return {"has_first": bounds[0] > planning.OLDEST, "has_last": bounds[1] < planning.NEWEST}


@functools.cache
def _walked(source: FromClause) -> FromClause:
    """Made once: its forty columns take SQLAlchemy as long as the rest of the statement."""
    return source.alias("walked")


def candidates(
    plan: Plan,
    lead: Leaf | None,
    bounds: Bounds,
    *,
    has_first: bool,
    has_last: bool,
    is_far: bool = False,
) -> Select[Any]:
    """Ids that one lead brings, and the flags that are needed of them; in no order.

    `has_first`, `has_last`: whether that bound excludes anything; `is_far`: see `_hinted`.
    """
    source = MESSAGE if lead is None or lead.table is None else lead.table
    walked = _walked(source)
    in_time = planning.in_time(bounds)
    root = plan.root if lead is None else conditions.simplified(plan.root, lead)
    others = in_time if plan.has_arrays else None
    says = (has_first, has_last)
    query: Select[Any] = select(walked.c.record_id)
    if lead is not None and lead.index:
        # Seeing LIMIT, it would walk the primary key through years of other people's mail.
        for engine in planning.MARIADB:
            query = query.with_hint(walked, f"FORCE INDEX ({lead.index})", engine)
    in_window = _hinted(walked) if is_far else _in_time(plan, lead, walked, bounds, says)
    query = query.where(*(itertools.compress(in_window, says) if is_far else in_window))
    if lead is not None:
        query = query.where(lead.holds(walked.c))
    if not conditions.is_true(root):
        query = query.where(conditions.predicate(root, walked, source, others))
    for number, leaf in enumerate(plan.flags):
        asked: ColumnElement[bool] = conditions.predicate(leaf, walked, source, others)
        query = query.add_columns(case((asked, 1), else_=0).label(f"flag_{number}"))
    return query


def _in_time(
    plan: Plan, lead: Leaf | None, walked: FromClause, bounds: Bounds, says: tuple[bool, bool]
) -> list[ColumnElement[bool]]:
    if plan.engine == "sqlite" and lead is not None and lead.is_range:
        # The plus keeps SQLite from walking all records in time rather than sort a few.
        record_id = literal_column("+walked.record_id", schema.RecordId())
        return [record_id >= bounds[0], record_id < bounds[1]]
    if plan.has_arrays and lead is not None and lead.table is not None:
        # To learn that a bound excludes nothing, PostgreSQL looks for the end of every month's
        # index, which takes longer than the search itself.
        return list(itertools.compress(planning.within(bounds, walked.c), says))
    return planning.within(bounds, walked.c)


def _hinted(walked: FromClause) -> list[ColumnElement[bool]]:
    """The same bounds for a plan that is kept: they say which months are left out, when it is run.

    PostgreSQL, which then knows no values, takes two bounds for a small part of any month, and
    would read all record ids of many months.  It thinks that the more of several bounds hold, the
    more of them there are.
    """
    first, last = ([bound] * _COPIES for bound in _TIME)
    record_id = walked.c.record_id
    return [
        record_id >= any_(postgresql.array(first)),
        record_id < any_(postgresql.array(last)),
    ]


def page(
    plan: Plan, lead: Leaf | None, *, has_first: bool, has_last: bool, is_far: bool = False
) -> Select[Any]:
    """The newest candidates that one lead brings: of the time from `first` (inclusive, where the
    search says it), to `last` (exclusive, likewise), at most `size`, which are its parameters.
    """
    says = {"has_first": has_first, "has_last": has_last}
    query = candidates(plan, lead, _TIME, is_far=is_far, **says)
    size = bindparam("size", type_=Integer())
    if lead is not None and (lead.elements or lead.is_range or lead.is_windowed):
        # Planners see LIMIT and walk the primary key through years of other people's mail.
        found = query.cte("found")
        for engine in ("postgresql", "sqlite"):  # MariaDB knows no such word, and needs none
            found = found.prefix_with("MATERIALIZED", dialect=engine)
        return select(found).order_by(found.c.record_id.desc()).limit(size)
    return query.order_by(query.selected_columns[0].desc()).limit(size)


def every(plan: Plan) -> Any:
    """The ids of all records that SQL alone can name, as a query without order."""
    says = says_something(plan.bounds)
    queries = [candidates(plan, lead, plan.bounds, **says) for lead in plan.leads]
    return queries[0] if len(queries) == 1 else union(*queries)


def whole(plan: Plan) -> ColumnElement[bool] | None:
    """That a row of MESSAGE is wanted; None where `checks` must decide."""
    if not conditions.is_true(plan.open):
        return None
    if not plan.leads:
        return false()
    [lead, *more] = plan.leads
    if not more and (lead is None or lead.table in (None, MESSAGE)):
        # No need to meet the table twice.
        root = plan.root if lead is None else conditions.simplified(plan.root, lead)
        in_time = planning.in_time(plan.bounds)
        rest = conditions.predicate(root, MESSAGE, MESSAGE, in_time if plan.has_arrays else None)
        return and_(in_time(MESSAGE.c), true() if lead is None else lead.holds(MESSAGE.c), rest)
    return MESSAGE.c.record_id.in_(select(every(plan).subquery().c.record_id))


def is_of_one_index(plan: Plan, lead: Leaf | None, *, is_far: bool) -> bool:
    """Whether only one index is asked, for which one plan is as good as another.

    That is the array of a table, or from far on a range of one column: near by, all records of a
    window may be read in less time.
    """
    if not plan.has_arrays or lead is None or not (lead.elements or (lead.is_windowed and is_far)):
        return False
    others = conditions.sql_leaves(conditions.simplified(plan.root, lead))
    return all(lead.elements and one.elements and one.table is lead.table for one in others)


Ready: TypeAlias = tuple[AsGiven, Mapping[str, str | bytes]]
_CLIENTS = ("first_client", "last_client")
_MOST_ARRAYS = 4  # of one page whose statement is kept


def ready(plan: Plan, lead: Leaf | None, **how: bool) -> Ready | None:
    """A `page` whose statement is there already, for all searches like this one, and what this one
    gives it beside time and size; None where it asks for more.

    To build a statement and to look up what became of it would take as long as to ask for it.
    """
    if lead is None or lead.table is None or plan.flags:
        return None
    if lead.clients is not None and conditions.is_true(conditions.simplified(plan.root, lead)):
        return _page_of_clients(**how), dict(zip(_CLIENTS, lead.clients, strict=True))
    arrays = _arrays_of(plan, lead)
    if arrays is None:
        return None
    named = {f"array_{number}": as_given.array_text(one) for number, one in enumerate(arrays)}
    return _page_of_arrays(lead.table, len(arrays), **how), named


def _arrays_of(plan: Plan, lead: Leaf) -> Sequence[Sequence[int]] | None:
    """The arrays that a page overlaps with, all of one table; None where it asks for more."""
    rest = conditions.simplified(plan.root, lead)
    others = rest.of if isinstance(rest, conditions.Every) else (rest,)
    found = [lead.elements]
    for one in others:
        if not (isinstance(one, Leaf) and one.elements and one.table is lead.table):
            return None
        found.append(one.elements)
    return found if lead.elements and len(found) <= _MOST_ARRAYS else None


@functools.cache
def _page_of_arrays(source: FromClause, count: int, **how: bool) -> AsGiven:
    return _of_leaves([conditions.of_named_array(source, f"array_{n}") for n in range(count)], how)


@functools.cache
def _page_of_clients(**how: bool) -> AsGiven:
    return _of_leaves([conditions.of_named_clients(*_CLIENTS)], how)


def _of_leaves(leaves: Sequence[Leaf], how: dict[str, bool]) -> AsGiven:
    plan = Plan(
        root=conditions.simplified(conditions.Every(tuple(leaves))),
        leads=tuple(leaves[:1]),
        bounds=(planning.OLDEST, planning.NEWEST),
        open=conditions.TRUE,
        flags=(),
        engine="postgresql",
    )
    return AsGiven(page(plan, leaves[0], **how))


def newest(
    page_of: Ready, given: dict[str, Any], connection: Connection, *, is_repeated: bool
) -> list[tuple[str]]:
    """The record ids of such a page."""
    statement, values = page_of
    bounds = {name: as_given.id_text(given[name]) for name in ("first", "last")}
    rows = statement.rows({**given, **bounds, **values}, connection, is_repeated=is_repeated)
    return [(terms.unpack_record_id(row[0].bytes),) for row in rows]


def is_planned_once(lead: Leaf | None, bounds: Bounds) -> bool:
    """Whether one plan of a page is as good as another, whatever the time and what is wanted."""
    hangs_on_values = lead is None or lead.elements or lead.is_windowed
    return not (hangs_on_values or bounds != (planning.OLDEST, planning.NEWEST))
