"""All records of a span in the order of their ids, and the seals in the order of their last record.

Promises: segments that reach into the span are looked at as a whole; memory does not grow with the
archive, and no transaction is held open between two pages.

Does not: look at what the records or seals say.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, func, select

from carbonseal.milter.archive import schema, terms

_PAGE = 500
_message, _seal = schema.message.c, schema.seal.c


@dataclass(frozen=True, slots=True)
class Span:
    """Record ids to look at; None: without end."""

    first: str | None = None
    last: str | None = None


EVERYTHING = Span()


class Scan:
    """One pass over the archive."""

    def __init__(self, engine: Engine, span: Span, relay: str | None) -> None:
        self._engine = engine
        self._span = span
        self._relay = relay

    def total(self) -> int:
        """How many segments there are to be looked at."""
        with self._engine.connect() as connection:
            return int(
                connection.execute(select(func.count()).select_from(schema.seal)).scalar_one()
            )

    def pages(self) -> Iterator[list[str]]:
        """Record ids in order."""
        scan = self._ends()
        if scan is None:
            return
        last, end = scan
        while True:
            query = select(_message.record_id).order_by(_message.record_id).limit(_PAGE)
            if last is not None:
                query = query.where(_message.record_id > last)
            if end is not None:
                query = query.where(_message.record_id <= end)
            with self._engine.connect() as connection:
                page = list(connection.execute(query).scalars())
            if page:
                yield page
            if len(page) < _PAGE:
                return
            last = page[-1]

    def _ends(self) -> tuple[str | None, str | None] | None:
        """Before which record to begin, with which to end: all segments that reach into the span
        are looked at as a whole."""
        if self._span.first is None and self._span.last is None:
            return None, None
        query = select(func.count(), *self._bounds()).where(*self._reaching())
        with self._engine.connect() as connection:
            count, first, last = connection.execute(query).one()
        if not count:
            return self._span.first, self._span.last
        packed = int.from_bytes(terms.pack_record_id(min(first, self._span.first or first)), "big")
        before = terms.unpack_record_id(max(packed - 1, 0).to_bytes(16, "big"))
        return before, max(last, self._span.last or last)

    def _bounds(self) -> tuple[Any, Any]:
        first = select(_seal.first_record_id).where(*self._reaching())
        last = select(_seal.last_record_id).where(*self._reaching())
        # PostgreSQL knows no min() of uuid.
        return (
            first.order_by(_seal.first_record_id).limit(1).scalar_subquery(),
            last.order_by(_seal.last_record_id.desc()).limit(1).scalar_subquery(),
        )

    def _reaching(self) -> list[Any]:
        """The seals whose segments have records in the span."""
        conditions = [] if self._relay is None else [_seal.relay == self._relay]
        if self._span.first is not None:
            conditions.append(_seal.last_record_id >= self._span.first)
        if self._span.last is not None:
            conditions.append(_seal.first_record_id <= self._span.last)
        return conditions

    def reaches(self, relay: str, first: str, last: str) -> bool:
        """Whether a segment of that relay, with these records, is to be looked at."""
        return (
            (self._span.first is None or last >= self._span.first)
            and (self._span.last is None or first <= self._span.last)
            and self._relay in (None, relay)
        )

    def seals(self) -> Iterator[tuple[str, int]]:
        """Last record and id of each segment, in the order of the last records."""
        last, relay, number = None, "", 0
        while True:
            query = (
                select(_seal.last_record_id, _seal.relay, _seal.number, _seal.segment_id)
                .where(*self._reaching())
                .order_by(_seal.last_record_id, _seal.relay, _seal.number)
                .limit(_PAGE)
            )
            if last is not None:
                later = (_seal.relay > relay) | ((_seal.relay == relay) & (_seal.number > number))
                query = query.where(
                    (_seal.last_record_id > last) | ((_seal.last_record_id == last) & later)
                )
            with self._engine.connect() as connection:
                page = connection.execute(query).all()
            for row in page:
                yield row.last_record_id, row.segment_id
            if len(page) < _PAGE:
                return
            last, relay, number = page[-1].last_record_id, page[-1].relay, page[-1].number
