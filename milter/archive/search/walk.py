"""Pages of record ids: newest first, through indexes, a bounded piece of work at a time.

Promises: each page begins below the last id of the one before (never OFFSET); no transaction stays
open between pages.  SQLite and MariaDB walk the index of the rarest condition backwards, whose
second column is the record id, and look the others up for each candidate.  PostgreSQL's arrays know
no order: there a walk goes back in time through windows, each of them one bitmap scan, which grow
until they fill pages.  Windows of many months have a plan that PostgreSQL keeps: to make one takes
longer than to follow it.  Whatever the engine, the same ids come in the same order.

Raises: what the database raises.

Does not: plan (`planning` does), fetch the records (`query`), or say what a condition is
(`conditions`).
"""

from __future__ import annotations

import functools
import math
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, bindparam, func, select

from carbonseal.milter.archive import as_given, schema, terms
from carbonseal.milter.archive.as_given import AsGiven
from carbonseal.milter.archive.search import checks, conditions, pages, planning
from carbonseal.milter.archive.search.conditions import MESSAGE, Leaf
from carbonseal.milter.archive.search.planning import Bounds, Plan

# The first window holds so many records, whatever they are; a statement costs about as much as
# finding a thousand.  Of what is not among them, three thousand times as many hold some thousands.
_FIRST_WINDOW = 1000
_GROWTH, _LEAST_GROWTH = 3000, 2
_SHORTEST = 3_600_000  # milliseconds of a window
_LONGEST = 366 * 86_400_000  # beyond, everything that is left
_FAR = 10  # times the first window: from there on only the index of what is asked for helps
_PROBED = 32 * 86_400_000  # in which the first window is looked for: a month or two are planned for
_LATELY = 60.0  # seconds for which a connection remembers its first window
_MOST_CANDIDATES = 2000  # whose stored text is looked at together


@functools.cache
def _probe(has_first: bool, has_last: bool) -> AsGiven:
    """The newest record, and the last of a window of so many."""
    record_id = MESSAGE.c.record_id
    some = select(record_id).order_by(record_id.desc()).limit(1)
    if has_first:
        some = some.where(record_id >= bindparam("first", type_=record_id.type))
    if has_last:
        some = some.where(record_id < bindparam("last", type_=record_id.type))
    last = some.offset(_FIRST_WINDOW - 1)
    return AsGiven(select(some.scalar_subquery(), last.scalar_subquery()))


class Walk:
    """Where a search has come to."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._first, self._last = plan.bounds
        # About where the newest records are, where the search has no end.
        self._near = planning.NEWEST
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
                low = _earlier(self._top, self._span, self._first)
            rows = self._merged((low, self._last), size - len(found), connection)
            found += rows
            if len(found) < size:
                self._span *= _growth(len(found), size - len(found))
                self._last = low
                self.is_over = low <= self._first
            else:
                # As much time as this page took, and some more, is what the next one will take.
                self._span = max(_SHORTEST, 2 * _milliseconds(self._top, rows[-1][0]))
                self._last = rows[-1][0]
        return found

    @property
    def _top(self) -> str:
        """From where on the search goes back in time."""
        return self._near if self._last == planning.NEWEST else self._last

    def _begin(self, connection: Connection) -> None:
        """The first window: from the newest record on, where the search does not say from when."""
        self._has_begun = True
        is_latest = self._last == planning.NEWEST
        seen = _seen_lately(connection) if is_latest and self._plan.has_arrays else None
        if seen is not None:
            # Such a window has no end, for newer records than were seen.
            self._near = _after(seen.newest)
            self._span = self._begun = seen.span
            return
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
        self._last = min(self._last, _after(newest))
        if oldest is None:  # these are all that there are
            oldest = low
        self._span = self._begun = max(_SHORTEST, _milliseconds(self._last, oldest) + 1)
        if is_latest and self._plan.has_arrays:
            connection.info[_SEEN] = _Seen(newest, self._span, time.monotonic())

    def _probed(self, first: str, connection: Connection) -> tuple[str | None, str | None]:
        """The newest record that is not older than `first`, and the last of a window that begins
        with it; None where there are fewer.
        """
        is_postgresql = self._plan.has_arrays
        bounds = {"first": first, "last": self._last}
        given = {
            name: as_given.id_text(one) if is_postgresql else terms.pack_record_id(one)
            for name, one in bounds.items()
        }
        # Elsewhere a bound costs nothing, and shows that the index is not read from end to end.
        says = (first > planning.OLDEST, self._last < planning.NEWEST)
        if not is_postgresql:
            says = (True, True)
        [(newest, oldest)] = _probe(*says).rows(given, connection)
        return _record_id(newest), _record_id(oldest)

    def _merged(self, bounds: Bounds, size: int, connection: Connection) -> list[Any]:
        rows: dict[str, Any] = {}
        given = {"first": bounds[0], "last": bounds[1], "size": size}
        is_far = self._span > _FAR * self._begun
        for lead in self._plan.leads:
            is_kept = self._has_begun and pages.is_of_one_index(self._plan, lead, is_far=is_far)
            how = {"is_far": is_kept and is_far, **pages.says_something(bounds)}
            # Of a plan that is kept: one bound alone PostgreSQL takes for a third of any month.
            how["has_last"] |= is_kept and how["has_first"]
            is_repeated = is_kept or pages.is_planned_once(lead, bounds)
            page_of = pages.ready(self._plan, lead, **how)
            found: Sequence[Any]
            if page_of is not None:
                found = pages.newest(page_of, given, connection, is_repeated=is_repeated)
            else:
                with as_given.repeated(connection) if is_repeated else nullcontext():
                    found = connection.execute(self._page(lead, **how), given).all()
            rows |= {row[0]: row for row in found}
        return [rows[key] for key in sorted(rows, reverse=True)[:size]]

    def _page(self, lead: Leaf | None, **how: bool) -> Select[Any]:
        key = (lead, *how.items())
        if key not in self._pages:
            self._pages[key] = pages.page(self._plan, lead, **how)
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


def _record_id(value: Any) -> str | None:
    """What a driver gives, as text."""
    if value is None:
        return None
    return terms.unpack_record_id(value.bytes if isinstance(value, uuid.UUID) else bytes(value))


def _growth(found: int, missing: int) -> int:
    """How many times the last window the next one is, if as many are found in it again.

    Of few that were found, by chance, there may be far fewer.
    """
    if not found:
        return _GROWTH
    times = missing / found * (1 + 3 / math.sqrt(found))
    return min(max(math.ceil(times), _LEAST_GROWTH), _GROWTH)


def _about_newest(connection: Connection) -> str | None:
    """The newest record that this connection has seen, or that is sealed: known at once."""
    seen: _Seen | None = connection.info.get(_SEEN)
    if seen is not None:
        return seen.newest
    known = schema.seal.c.last_record_id
    asked = select(known).order_by(known.desc()).limit(1)
    found: str | None = connection.execute(asked).scalar_one_or_none()
    return found


class _Seen(NamedTuple):
    """The first window of a search, as a connection last found it."""

    newest: str  # record id
    span: int  # milliseconds
    at: float  # of the monotonic clock


def _seen_lately(connection: Connection) -> _Seen | None:
    """That window, where it will still do: by now it holds some more records."""
    seen: _Seen | None = connection.info.get(_SEEN)
    if seen is None or not connection.info.get(_STEADY):
        return None
    return seen if time.monotonic() - seen.at < _LATELY else None


def _earlier(record_id: str, span: int, first: str) -> str:
    return max(first, terms.first_record_id(terms.millisecond(record_id) - span))


def _after(record_id: str) -> str:
    """The smallest id of the millisecond after; the largest of all when there is none."""
    following = terms.millisecond(record_id) + 1
    return terms.first_record_id(following) if following < 1 << 48 else planning.NEWEST


def _milliseconds(last: str, first: str) -> int:
    return terms.millisecond(last) - terms.millisecond(first)


def count(plan: Plan, connection: Connection) -> int | None:
    """How many records SQL finds; None where `checks` must decide."""
    if not plan.leads:
        return 0
    if not conditions.is_true(plan.open):
        return None
    found = pages.every(plan).subquery()
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
        as_given.keep_plans(connection)


_STEADY, _SEEN = "carbonseal steady", "carbonseal seen"
_PLANNING = (
    ("enable_seqscan", "off"),
    ("cpu_operator_cost", "0.02"),
    # To merge, it would read whole months in order for the sake of a few records.
    ("enable_mergejoin", "off"),
    # To compile a plan takes longer than to follow it: answers are short.
    ("jit", "off"),
)
