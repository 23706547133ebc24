"""Months of the archive as tables of their own (PostgreSQL).

Promises: before records of a month are loaded its partitions are there, made by a function that
runs with the rights of the tables' owner (the writer may not divide them).  Records whose month
cannot be (a clock that is wrong) go to the default partition.  On other engines nothing happens.

Does not: drop months (retention does).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, func, select

from carbonseal.milter.archive import terms
from carbonseal.milter.archive.dictionary import Dictionary

AHEAD = 3  # months made before they are needed
_TIME = 10  # characters of a record id that tell its time
_LAST = 253_402_300_799_000  # milliseconds until the end of the year 9999
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def make(record_ids: Iterable[str], connection: Connection, dictionary: Dictionary) -> None:
    """Make the months of these records where they are missing."""
    if connection.dialect.name == "postgresql":
        months = {_month(text) for text in {one[:_TIME] for one in record_ids}}
        dictionary.ids("month", months, connection)


def _month(text: str) -> datetime:
    milliseconds = min(int(text.translate(terms.TO_BASE32), 32), _LAST)
    moment = _EPOCH + timedelta(milliseconds=milliseconds)
    return datetime(moment.year, moment.month, 1, tzinfo=UTC)


def make_ahead(connection: Connection) -> int:
    """Make this month and those to come; how many were missing."""
    if connection.dialect.name != "postgresql":
        return 0
    made: int = connection.execute(select(func.carbonseal_partitions(AHEAD))).scalar_one()
    return made
