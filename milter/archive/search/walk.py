"""Pages of record ids: newest first, through indexes, a bounded piece of work at a time.

Promises: each page begins below the last id of the one before (never OFFSET); no transaction stays
open between pages.  SQLite and MariaDB walk the index of the rarest condition backwards, whose
second column is the record id, and look the others up for each candidate.  PostgreSQL's arrays know
no order: there a walk goes back in time through windows, each of them one bitmap scan, which grow
until they fill pages.  Windows of many months have a plan that PostgreSQL keeps: to make one takes
longer than to follow it.  Whatever the engine, the same ids come in the same order.

Raises: DataError for a search that no index answers.

Does not: fetch the records (`query`), or say what a condition is (`conditions`).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

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
    func,
    literal_column,
    select,
    true,
    union,
)
from sqlalchemy.dialects import postgresql

from carbonseal.milter.archive import retrieve, schema, terms
from carbonseal.milter.archive.search import checks, compiler, conditions
from carbonseal.milter.archive.search.conditions import MESSAGE, SECTION, Leaf, Node
from carbonseal.milter.archive.search.wanted import Search
from carbonseal.policies.errors import DataError

RARE = 1000  # counting further does not change which condition should lead
# The first window holds so many records, whatever they are; a statement costs about as much as
# finding a thousand.  Of what is not among them, three thousand times as many hold some thousands.
_FIRST_WINDOW = 1000
_GROWTH, _LEAST_GROWTH = 3000, 2
_SHORTEST = 3_600_000  # milliseconds of a window
_LONGEST = 366 * 86_400_000  # beyond, everything that is left
_FAR = 10  # times the first window: from there on only the index of what is asked for helps
_COPIES = 8  # of a bound; see `_hinted`
_PROBED = 32 * 86_400_000  # in which the first window is looked for: a month or two are planned for
_MOST_CANDIDATES = 2000  # whose stored text is looked at together
_OLDEST = "0" * terms.RECORD_ID_LENGTH
_NEWEST = "7" + "Z" * (terms.RECORD_ID_LENGTH - 1)

Bounds = tuple[str, str]  # record ids: inclusive, exclusive
# The same as parameters of a statement that is built once for all windows of a search.
_TIME: Any = tuple(bindparam(name, type_=schema.RecordId()) for name in ("first", "last"))


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
    first = _OLDEST if wanted.since is None else compiler.record_id_at(wanted.since)
    last = _NEWEST if wanted.until is None else compiler.record_id_at(wanted.until)
    return first, last if wanted.before is None else min(last, wanted.before)


def within(bounds: Bounds, columns: conditions.Columns) -> list[ColumnElement[bool]]:
    """That a record is of that time."""
    return [columns.record_id >= bounds[0], columns.record_id < bounds[1]]


def _within(bounds: Bounds) -> conditions.Holds:
    return lambda c: and_(*within(bounds, c))


def _says_something(bounds: Bounds) -> dict[str, bool]:
    """Whether some records are too old, and some too new."""
    return {"has_first": bounds[0] > _OLDEST, "has_last": bounds[1] < _NEWEST}


def _frequency(leaf: Leaf, bounds: Bounds, connection: Connection) -> int:
    source = (MESSAGE if leaf.table is None else leaf.table).alias()
    some = select(source.c.record_id).where(leaf.holds(source.c), _within(bounds)(source.c))
    query = select(func.count()).select_from(some.limit(RARE).subquery())
    return connection.execute(query).scalar_one()


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
    in_time = _within(bounds)
    root = plan.root if lead is None else conditions.simplified(plan.root, lead)
    others = in_time if plan.has_arrays else None
    says = (has_first, has_last)
    query: Select[Any] = select(walked.c.record_id)
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
        return list(itertools.compress(within(bounds, walked.c), says))
    return within(bounds, walked.c)


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
    says = _says_something(plan.bounds)
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
        in_time = _within(plan.bounds)
        rest = conditions.predicate(root, MESSAGE, MESSAGE, in_time if plan.has_arrays else None)
        return and_(in_time(MESSAGE.c), true() if lead is None else lead.holds(MESSAGE.c), rest)
    return MESSAGE.c.record_id.in_(select(every(plan).subquery().c.record_id))


@functools.cache
def _probe(has_first: bool, has_last: bool) -> Select[Any]:
    """The newest record, and the last of a window of so many."""
    record_id = MESSAGE.c.record_id
    some = select(record_id).order_by(record_id.desc()).limit(1)
    if has_first:
        some = some.where(record_id >= bindparam("first", type_=record_id.type))
    if has_last:
        some = some.where(record_id < bindparam("last", type_=record_id.type))
    return select(some.scalar_subquery(), some.offset(_FIRST_WINDOW - 1).scalar_subquery())


class Walk:
    """Where a search has come to."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._first, self._last = plan.bounds
        self._span = self._begun = _SHORTEST
        self._has_begun = False
        self._candidates = 0
        self._pages: dict[Any, Select[Any]] = {}
        self.given = 0
        self.is_over = not plan.leads

    def next(self, size: int, connection: Connection) -> list[str]:
        """The next ids, at most `size`; none does not mean that it is over."""
        wanted = size
        if not conditions.is_true(self._plan.open):
            size = min(max(2 * size, 50, self._candidates), _MOST_CANDIDATES)
        rows = (
            self._windows(size, connection)
            if self._plan.has_windows
            else self._at_once(size, connection)
        )
        found = self._decided(rows, connection)
        # Of few that are borne out, more are looked at together: statements cost more than rows.
        self._candidates = 0 if len(found) >= wanted else 4 * size
        if len(found) > wanted:
            found = found[:wanted]
            self._last, self.is_over = found[-1], False
        self.given += len(found)
        return found

    def _at_once(self, size: int, connection: Connection) -> list[Any]:
        rows = self._merged((self._first, self._last), size, connection)
        self.is_over = len(rows) < size
        if rows:
            self._last = rows[-1][0]
        return rows

    def _windows(self, size: int, connection: Connection) -> list[Any]:
        if not self._has_begun:
            self._begin(connection)
        found: list[Any] = []
        while len(found) < size and not self.is_over:
            low = self._first
            if self._span <= _LONGEST:
                low = _earlier(self._last, self._span, self._first)
            rows = self._merged((low, self._last), size - len(found), connection)
            found += rows
            if len(found) < size:
                self._span *= _growth(len(found), size - len(found))
                self._last = low
                self.is_over = low <= self._first
            else:
                # As much time as this page took, and some more, is what the next one will take.
                self._span = max(_SHORTEST, 2 * _milliseconds(self._last, rows[-1][0]))
                self._last = rows[-1][0]
        return found

    def _begin(self, connection: Connection) -> None:
        """The first window: from the newest record on, where the search does not say from when."""
        self._has_begun = True
        is_latest = self._last == _NEWEST
        near: str | None = self._last
        if is_latest:  # only PostgreSQL has months to leave out
            near = _about_newest(connection) if self._plan.has_arrays else None
        low = self._first if near is None else _earlier(near, _PROBED, self._first)
        newest, oldest = self._probed(low, connection)
        if newest is None and low > self._first:
            low = self._first
            newest, oldest = self._probed(low, connection)
        if newest is None:
            self.is_over = True
            return
        if is_latest and self._plan.has_arrays:
            connection.info[_SEEN] = newest
        self._last = min(self._last, _after(newest))
        if oldest is None:  # these are all that there are
            oldest = low
        self._span = self._begun = max(_SHORTEST, _milliseconds(self._last, oldest) + 1)

    def _probed(self, first: str, connection: Connection) -> tuple[str | None, str | None]:
        """The newest record that is not older than `first`, and the last of a window that begins
        with it; None where there are fewer.
        """
        given = {"first": first, "last": self._last}
        # Elsewhere a bound costs nothing, and shows that the index is not read from end to end.
        says = (first > _OLDEST, self._last < _NEWEST) if self._plan.has_arrays else (True, True)
        with retrieve.repeated(connection):
            row = connection.execute(_probe(*says), given).one()
        return row[0], row[1]

    def _merged(self, bounds: Bounds, size: int, connection: Connection) -> list[Any]:
        rows: dict[str, Any] = {}
        given = {"first": bounds[0], "last": bounds[1], "size": size}
        is_far = self._span > _FAR * self._begun
        for lead in self._plan.leads:
            is_kept = self._has_begun and _is_of_one_index(self._plan, lead)
            query = self._page(lead, is_far=is_kept and is_far, **_says_something(bounds))
            with _sent(lead, bounds, connection, is_kept=is_kept):
                found = connection.execute(query, given).all()
            rows |= {row[0]: row for row in found}
        return [rows[key] for key in sorted(rows, reverse=True)[:size]]

    def _page(self, lead: Leaf | None, **how: bool) -> Select[Any]:
        key = (lead, *how.items())
        if key not in self._pages:
            self._pages[key] = page(self._plan, lead, **how)
        return self._pages[key]

    def _decided(self, rows: list[Any], connection: Connection) -> list[str]:
        """Those of the candidates that stored text and facts bear out."""
        plan = self._plan
        if conditions.is_true(plan.open):
            return [row[0] for row in rows]
        found = checks.Candidates([row[0] for row in rows], connection)
        return [
            row[0]
            for row in rows
            if conditions.is_met(
                plan.open, dict(zip(plan.flags, map(bool, row[1:]), strict=True)), found[row[0]]
            )
        ]


def _growth(found: int, missing: int) -> int:
    """How many times the last window the next one is, if as many are found in it again.

    Of few that were found, by chance, there may be far fewer.
    """
    if not found:
        return _GROWTH
    times = missing / found * (1 + 3 / math.sqrt(found))
    return min(max(math.ceil(times), _LEAST_GROWTH), _GROWTH)


def _is_of_one_index(plan: Plan, lead: Leaf | None) -> bool:
    """Whether only the array of one table is asked: for that, one plan is as good as another."""
    if not plan.has_arrays or lead is None or not lead.elements:
        return False
    others = conditions.sql_leaves(conditions.simplified(plan.root, lead))
    return all(one.elements and one.table is lead.table for one in others)


def _sent(
    lead: Leaf | None, bounds: Bounds, connection: Connection, *, is_kept: bool
) -> AbstractContextManager[None]:
    """How PostgreSQL is to plan a page: anew where it depends on the time or on what is wanted."""
    hangs_on_values = lead is None or lead.elements or lead.is_windowed
    if is_kept or not (hangs_on_values or bounds != (_OLDEST, _NEWEST)):
        return retrieve.repeated(connection)
    return _anew(connection)


@contextmanager
def keeping(connection: Connection) -> Iterator[None]:
    """For a page of results: what is `repeated` in here is planned once for all values.

    Left to itself PostgreSQL plans again and again what it takes for cheaper with values, and does
    not count what that costs.  The first page of a connection it plans as ever: many have no other.
    """
    mode = _Mode(connection) if connection.info.get(_STEADY) else None
    if mode is None or _ASKED not in connection.info:
        connection.info[_ASKED] = True
        yield
        return
    connection.info[_KEEPING] = mode
    mode.set(b"force_generic_plan")
    try:
        yield
    finally:
        connection.info.pop(_KEEPING)
        mode.set(b"auto")


@contextmanager
def _anew(connection: Connection) -> Iterator[None]:
    """What is sent in here is planned for its values."""
    mode = connection.info.get(_KEEPING)
    if mode is None:
        yield
        return
    mode.set(b"auto")
    try:
        yield
    finally:
        mode.set(b"force_generic_plan")


class _Mode:
    """How PostgreSQL plans what a connection sends."""

    def __init__(self, connection: Connection) -> None:
        self._driver: Any = connection.connection.driver_connection
        self._fault: Any = connection.dialect.dbapi.Error  # type: ignore[union-attr]

    def set(self, name: bytes) -> None:
        """At once: SQLAlchemy would take longer for it than the server."""
        with suppress(self._fault):  # of a lost connection the next statement tells
            self._driver.pgconn.exec_(b"SET plan_cache_mode = " + name)


def _about_newest(connection: Connection) -> str | None:
    """The newest record that this connection has seen, or that is sealed: known at once."""
    found: str | None = connection.info.get(_SEEN)
    if found is None:
        known = schema.seal.c.last_record_id
        asked = select(known).order_by(known.desc()).limit(1)
        found = connection.execute(asked).scalar_one_or_none()
    return found


def _earlier(record_id: str, span: int, first: str) -> str:
    return max(first, terms.first_record_id(terms.millisecond(record_id) - span))


def _after(record_id: str) -> str:
    """The smallest id of the millisecond after; the largest of all when there is none."""
    following = terms.millisecond(record_id) + 1
    return terms.first_record_id(following) if following < 1 << 48 else _NEWEST


def _milliseconds(last: str, first: str) -> int:
    return terms.millisecond(last) - terms.millisecond(first)


def count(plan: Plan, connection: Connection) -> int | None:
    """How many records SQL finds; None where `checks` must decide."""
    if not plan.leads:
        return 0
    if not conditions.is_true(plan.open):
        return None
    found = every(plan).subquery()
    return connection.execute(select(func.count()).select_from(found)).scalar_one()


def each(plan: Plan, page_size: int, reading: Callable[[], Any]) -> Iterator[list[str]]:
    """All ids in pages, each from a transaction of its own."""
    walk = Walk(plan)
    while not walk.is_over:
        with reading() as connection:
            found = walk.next(page_size, connection)
        if found:
            yield found


def steady(connection: Connection) -> None:
    """Plans that hang on the question and not on statistics of yesterday."""
    if connection.dialect.name != "postgresql":
        return
    # A reader's connection is for nothing else and keeps it; a writer's until it commits.
    driver: Any = connection.connection.driver_connection
    is_reader = driver.autocommit
    if is_reader and _STEADY in connection.info:
        return
    # To compare arrays of terms row by row costs more than PostgreSQL thinks; told so, it looks in
    # their index where it would read all of a small partition.
    mode = ("plan_cache_mode", "auto" if is_reader else "force_custom_plan")
    connection.execute(
        select(*(func.set_config(name, value, not is_reader) for name, value in (mode, *_PLANNING)))
    )
    connection.info[_STEADY] = is_reader
    if is_reader:
        retrieve.keep_plans(connection)


_STEADY, _SEEN = "carbonseal steady", "carbonseal seen"
_ASKED, _KEEPING = "carbonseal asked", "carbonseal keeping"
_PLANNING = (
    ("enable_seqscan", "off"),
    ("cpu_operator_cost", "0.02"),
    # To merge, it would read whole months in order for the sake of a few records.
    ("enable_mergejoin", "off"),
    # To compile a plan takes longer than to follow it: answers are short.
    ("jit", "off"),
)
