"""Legal holds: records that nobody may take out, whatever their time.

A hold keeps a search and the ids that it was found to cover.  A fixed hold covers what the archive
held when it was set; a live one is looked up again before anything is taken out, so that what came
later is held as well.

Promises: a hold is in force from its first row on: while its members are being written it counts as
live, so whoever is interrupted has held too much, never too little, and the same command again
finishes it.  Members are written in bounded batches.  `locked` keeps new holds out of a transaction
that takes records out.  A name is used once, so that the audit tells one hold from another.

Raises: DataError for a name or a query that cannot be; NotFound where there is no such hold.

Does not: write the audit (`commands` does), or take anything out.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Engine, Row, delete, func, insert, select, update

from carbonseal.milter.archive import dictionary, schema
from carbonseal.milter.archive.keeping import transactions
from carbonseal.milter.archive.search import wanted
from carbonseal.milter.archive.search.wanted import Search
from carbonseal.policies.errors import DataError, NotFound

BATCH = 1000  # members in one transaction
_TURN = 0  # id of a row that is no hold
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)

Find = Callable[[Search], Iterator[str]]  # ids of the records that meet a search
Progress = Callable[[int], None]  # told how many more were looked at


@dataclass(frozen=True, slots=True)
class Hold:
    """One legal hold."""

    hold_id: int
    name: str
    reason: str
    wanted: Search
    is_live: bool
    set_at: int  # microseconds UTC since 1970
    set_by: str
    released_at: int | None
    released_by: str | None

    @property
    def is_in_force(self) -> bool:
        """Whether it holds anything."""
        return self.released_at is None


def check_name(name: str) -> None:
    """Refuse what would not read well in an audit.  Raises: DataError."""
    if not _NAME.fullmatch(name):
        raise DataError(
            f"hold {name[:80]!r}: write a name of at most 64 letters, digits, dots, hyphens and "
            "underscores that begins with a letter or digit, such as case-2026-17"
        )


def begin(
    engine: Engine,
    name: str,
    *,
    reason: str,
    search: Search,
    is_live: bool,
    by: str,
    now: datetime,
) -> Hold:
    """Set a hold, in force at once; or find the one of that name that was interrupted.

    Raises: DataError.
    """
    check_name(name)
    search = replace(search, limit=None, before=None)
    if not is_live and search.until is None:
        search = replace(search, until=now)

    def work(connection: Connection) -> Hold:
        _take_turns(connection)
        before = _named(name, connection)
        if before is not None:
            return _continued(before, search, is_live=is_live)
        values = {
            "hold_id": secrets.randbits(63),
            "name": name,
            "reason": reason,
            "query": json.dumps(search.to_json()),
            "is_live": True,  # until all members are there
            "set_at": _microseconds(now),
            "set_by": by,
        }
        connection.execute(insert(schema.hold), values)
        hold = _named(name, connection)
        assert hold is not None
        return hold

    return transactions.run(engine, work)


def _continued(before: Hold, search: Search, *, is_live: bool) -> Hold:
    """The hold again, if the same command is given again.  Raises: DataError."""
    if not before.is_in_force:
        raise DataError(f"hold {before.name}: a hold of that name was released; choose another")
    same = replace(search, until=None) == replace(before.wanted, until=None)
    if not same or not before.is_live:
        raise DataError(
            f"hold {before.name}: there is a hold of that name; choose another, or release it"
        )
    return before


def finish(engine: Engine, hold: Hold, *, is_live: bool) -> None:
    """All members of a new hold are written: it is what it was asked to be."""
    transactions.run(
        engine,
        lambda connection: connection.execute(
            update(schema.hold).where(schema.hold.c.hold_id == hold.hold_id).values(is_live=is_live)
        ),
    )


def extend(
    engine: Engine, hold: Hold, find: Find, *, until: datetime | None = None, progress: Progress
) -> int:
    """Write down what the hold covers now, as far as records before `until` go; returns how many
    records that is.
    """
    search = hold.wanted
    if until is not None and (search.until is None or until < search.until):
        search = replace(search, until=until)
    found, count = find(search), 0
    while record_ids := list(islice(found, BATCH)):
        rows = [{"hold_id": hold.hold_id, "record_id": one} for one in record_ids]
        transactions.run(engine, partial(_add, rows))
        count += len(record_ids)
        progress(len(record_ids))
    return count


def _add(rows: list[dict[str, Any]], connection: Connection) -> None:
    connection.execute(dictionary.insert_missing(schema.hold_member, connection), rows)


def release(engine: Engine, name: str, *, by: str, now: datetime) -> Hold:
    """End a hold.  Raises: NotFound, DataError."""

    def work(connection: Connection) -> Hold:
        # A name that none can have may be one that no database takes.
        hold = _named(name, connection) if _NAME.fullmatch(name) else None
        if hold is None:
            raise NotFound(f"hold {name[:80]!r}: there is none of that name; see archive holds")
        if not hold.is_in_force:
            raise DataError(f"hold {name}: it was released already; see archive holds")
        values = {"released_at": _microseconds(now), "released_by": by}
        columns = schema.hold.c
        connection.execute(
            update(schema.hold).where(columns.hold_id == hold.hold_id).values(values)
        )
        return hold

    return transactions.run(engine, work)


def forget_released(engine: Engine) -> int:
    """Delete the members of holds that were released, in bounded batches; how many."""
    with engine.connect() as connection:
        released = [one for one in listed(connection) if not one.is_in_force]
    count = 0
    for hold in released:
        while gone := transactions.run(engine, partial(_less, hold)):
            count += gone
    return count


def _less(hold: Hold, connection: Connection) -> int:
    columns = schema.hold_member.c
    query = select(columns.record_id).where(columns.hold_id == hold.hold_id).limit(BATCH)
    record_ids = list(connection.scalars(query))
    for chunk in dictionary.chunks(record_ids):
        connection.execute(
            delete(schema.hold_member).where(
                columns.hold_id == hold.hold_id, columns.record_id.in_(chunk)
            )
        )
    return len(record_ids)


def listed(connection: Connection) -> list[Hold]:
    """All holds there ever were, the oldest first."""
    columns = schema.hold.c
    query = select(schema.hold).where(columns.hold_id != _TURN).order_by(columns.set_at)
    return [_hold(row) for row in connection.execute(query)]


def in_force(connection: Connection) -> list[Hold]:
    """Holds that hold, the oldest first."""
    return [one for one in listed(connection) if one.is_in_force]


def members(hold: Hold, connection: Connection) -> int:
    """How many records it was found to cover."""
    columns = schema.hold_member.c
    query = select(func.count()).where(columns.hold_id == hold.hold_id)
    count: int = connection.execute(query).scalar_one()
    return count


def is_held(record_id: Any) -> Any:
    """The condition that some hold in force covers the record."""
    member, hold = schema.hold_member.c, schema.hold.c
    return (
        select(member.record_id)
        .join(schema.hold, hold.hold_id == member.hold_id)
        .where(member.record_id == record_id, hold.released_at.is_(None))
        .exists()
    )


def held_among(record_ids: Sequence[str], connection: Connection) -> dict[str, list[str]]:
    """Those of these records that are held, with the names of the holds."""
    member, hold = schema.hold_member.c, schema.hold.c
    query = select(member.record_id, hold.name).join(schema.hold, hold.hold_id == member.hold_id)
    found: dict[str, list[str]] = {}
    for chunk in dictionary.chunks(list(record_ids)):
        for record_id, name in connection.execute(
            query.where(member.record_id.in_(chunk), hold.released_at.is_(None))
        ):
            found.setdefault(record_id, []).append(name)
    return found


def locked(connection: Connection) -> frozenset[int]:
    """Keep new holds waiting until this transaction ends; returns the ids of those in force."""
    _take_turns(connection)
    columns = schema.hold.c
    return frozenset(connection.scalars(select(columns.hold_id).where(_is_in_force())))


def _take_turns(connection: Connection) -> None:
    """Change a row that stands for no hold: whoever sets holds or takes records out does.

    A lock on it is a lock on all engines, and on Galera a conflict.
    """
    columns = schema.hold.c
    row = {
        "hold_id": _TURN,
        "name": "-",
        "reason": "",
        "query": "{}",
        "is_live": False,
        "set_at": 0,
        "set_by": "",
        "released_at": 0,
        "released_by": "",
    }
    connection.execute(dictionary.insert_missing(schema.hold, connection), row)
    connection.execute(
        update(schema.hold).where(columns.hold_id == _TURN).values(set_at=columns.set_at + 1)
    )


def _is_in_force() -> Any:
    return schema.hold.c.released_at.is_(None)


def ids(holds: Iterable[Hold]) -> frozenset[int]:
    """The ids of holds."""
    return frozenset(one.hold_id for one in holds)


def _named(name: str, connection: Connection) -> Hold | None:
    row = connection.execute(select(schema.hold).where(schema.hold.c.name == name)).one_or_none()
    return None if row is None else _hold(row)


def _hold(row: Row[Any]) -> Hold:
    columns = row._mapping
    return Hold(
        wanted=wanted.from_json(json.loads(columns["query"])),
        is_live=bool(columns["is_live"]),
        **{
            name: columns[name]
            for name in (
                "hold_id",
                "name",
                "reason",
                "set_at",
                "set_by",
                "released_at",
                "released_by",
            )
        },
    )


def _microseconds(moment: datetime) -> int:
    return int(moment.astimezone(UTC).timestamp() * 1_000_000)
