"""Counts of messages: by day, by crossing, by who wrote them.

Promises: one statement reads each record once, through an index; the same numbers on every engine.
How messages stand no statement can say: for that their facts are read, page by page.  What is
counted can be narrowed by any search.  Times are UTC.

Raises: DataError for a search that no index answers; DatabaseUnusable.

Does not: draw (`plot` does).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Engine,
    Select,
    case,
    column,
    func,
    literal,
    or_,
    select,
    values,
)

from carbonseal.milter.archive import postings, retrieve, schema
from carbonseal.milter.archive.dictionary import chunks
from carbonseal.milter.archive.search import pages, planning, query, standing, walk
from carbonseal.milter.archive.search.checks import IsOurs
from carbonseal.milter.archive.search.conditions import MESSAGE
from carbonseal.milter.archive.search.wanted import Search
from carbonseal.policies import delivery
from carbonseal.policies.delivery import Story

_HOUR = 3_600_000_000  # microseconds
_PAGE = 500
_IN_ENVELOPE = schema.REVERSE_PATH | schema.RECIPIENT
_NONE = ""  # stands for no login, no author, the null reverse-path

Restricted = Callable[[Select[Any]], Select[Any]]


@dataclass(frozen=True, slots=True)
class Count:
    """Messages of one day, crossing, domain, ..."""

    what: str
    messages: int
    octets: int
    signed: int
    copied: int  # messages that got, or were addressed to, the archive


BY_TIME = ("hour", "day", "month", "year")
BY = (
    *BY_TIME,
    "crossing",
    "domain",
    "author",
    "sender",
    "login",
    "relay",
    "class",
    "disposition",
    "state",
)


def count(
    engine: Engine,
    by: str,
    wanted: Search,
    *,
    indexed: Iterable[str] = query.INDEXED,
    is_ours: IsOurs | None = None,
) -> list[Count]:
    """Counts by one of `BY`: times newest first, the rest most first.

    'domain' counts the messages in whose envelope a domain takes part; parent domains are not
    added up.  The limit of the search does not count.
    """
    wanted = replace(wanted, limit=None)
    sums: dict[Any, list[int]] = {}
    names = frozenset(indexed)
    counted = (
        _by_state(engine, wanted, names, is_ours)
        if by == "state"
        else _by_value(engine, by, wanted, names, is_ours)
    )
    for some in counted:
        for what, *numbers in some:
            known = sums.setdefault(what, [0, 0, 0, 0])
            known[:] = [old + int(new) for old, new in zip(known, numbers, strict=True)]
    with query.reading(engine) as connection:
        named = _named(by, sums, connection)
    if by in BY_TIME:
        return sorted(named, key=lambda one: one.what, reverse=True)
    return sorted(named, key=lambda one: (-one.messages, one.what))


def _by_value(
    engine: Engine, by: str, wanted: Search, indexed: frozenset[str], is_ours: IsOurs | None
) -> Iterator[Iterable[Any]]:
    for restricted, bounds, connection in _parts(engine, wanted, indexed, is_ours):
        yield _counted(by, restricted, bounds, connection)


def _by_state(
    engine: Engine, wanted: Search, indexed: frozenset[str], is_ours: IsOurs | None
) -> Iterator[Iterable[Any]]:
    """The worst state of the recipients of each message, and its numbers."""
    with query.reading(engine) as connection:
        plan = planning.planned(wanted, connection, indexed, is_ours)
    record_id = MESSAGE.c.record_id
    for record_ids in walk.each(plan, _PAGE, lambda: query.reading(engine)):
        with query.reading(engine) as connection:
            told = standing.stories(record_ids, connection)
            asked = _sums(record_id).where(record_id.in_(record_ids)).group_by(record_id)
            rows = connection.execute(asked).all()
        yield ((_state(told[row[0]]), *row[1:]) for row in rows)


def _state(story: Story) -> str:
    states = [one.state for one in story.passages if not one.is_copy]
    return delivery.worst(states or [story.state]).value


def _parts(
    engine: Engine, wanted: Search, indexed: frozenset[str], is_ours: IsOurs | None
) -> Iterator[tuple[Restricted, planning.Bounds, Connection]]:
    """All at once where SQL decides, else page by page."""
    with query.reading(engine) as connection:
        plan = planning.planned(wanted, connection, indexed, is_ours)
        whole = pages.whole(plan)
        if whole is not None:
            yield _restricting(whole), plan.bounds, connection
            return
    for record_ids in walk.each(plan, 1000, lambda: query.reading(engine)):
        with query.reading(engine) as connection:
            some = _restricting(MESSAGE.c.record_id.in_(record_ids))
            yield some, (record_ids[-1], plan.bounds[1]), connection


def _restricting(condition: ColumnElement[bool]) -> Restricted:
    return lambda asked: asked.where(condition)


def _counted(
    by: str, restricted: Restricted, bounds: planning.Bounds, connection: Connection
) -> Iterable[Any]:
    if by != "domain":
        what = _WHAT[by]
        return connection.execute(restricted(_sums(what)).group_by(what))
    if connection.dialect.name == "postgresql":
        return connection.execute(_domains_of_arrays(restricted))
    return _domains_of_table(restricted, bounds, connection)


def _domains_of_table(
    restricted: Restricted, bounds: planning.Bounds, connection: Connection
) -> Iterator[Any]:
    """Domain by domain: the index begins with it, and the dictionary has few."""
    domain, part = schema.domain.c, schema.participant_domain
    names = {row[0]: row[1] for row in connection.execute(select(domain.domain_id, domain.name))}
    for chunk in chunks(sorted(names)):
        asked = restricted(
            _sums(part.c.domain_id)
            .join(part, part.c.record_id == MESSAGE.c.record_id)
            .where(
                part.c.domain_id.in_(chunk),
                *planning.within(bounds, part.c),
                part.c.roles.bitwise_and(_IN_ENVELOPE) != 0,
            )
        )
        for row in connection.execute(asked.group_by(part.c.domain_id)):
            yield names[row[0]], *row[1:]


def _domains_of_arrays(restricted: Restricted) -> Select[Any]:
    """Counts by term first, of which few are domains, and those have few names."""
    each = func.unnest(MESSAGE.c.terms).table_valued(column("term", BigInteger()))
    each = each.render_derived(name="each")
    asked = restricted(_sums(each.c.term).join(each, literal(value=True)))
    by_term = asked.group_by(each.c.term).subquery("by_term")
    kinds = values(column("kind", BigInteger()), name="kinds").data(
        [(kind,) for kind in postings.domain_kinds(_IN_ENVELOPE)]
    )
    name = schema.domain.c.name
    domain_id = by_term.c.what.op("#", return_type=BigInteger())(kinds.c.kind)
    return (
        select(
            name, *(func.sum(by_term.c[key]) for key in ("messages", "octets", "signed", "copied"))
        )
        .select_from(by_term)
        .join(kinds, literal(value=True))
        .join(schema.domain, schema.domain.c.domain_id == domain_id)
        .group_by(name)
    )


def _sums(what: ColumnElement[Any]) -> Select[Any]:
    columns = MESSAGE.c
    copied = or_(columns.archive_addressed.is_(True), columns.copy_count > 0)
    return select(
        what.label("what"),
        func.count().label("messages"),
        func.sum(columns.size).label("octets"),
        func.sum(case((columns.is_signed.is_(True), 1), else_=0)).label("signed"),
        func.sum(case((copied, 1), else_=0)).label("copied"),
    ).select_from(MESSAGE)


_WHAT: Mapping[str, ColumnElement[Any]] = {
    **dict.fromkeys(BY_TIME, MESSAGE.c.recorded_at // _HOUR),
    "crossing": MESSAGE.c.crossing,
    "author": MESSAGE.c.author_id,
    "sender": MESSAGE.c.reverse_path_id,
    "login": MESSAGE.c.login,
    "relay": MESSAGE.c.circumstance_id,
    "class": MESSAGE.c.circumstance_id,
    "disposition": MESSAGE.c.disposition,
}


def _named(by: str, sums: Mapping[Any, list[int]], connection: Connection) -> list[Count]:
    """The same with names for people; ids of one name are added up."""
    names = _names(by, sums, connection)
    added: dict[str, list[int]] = {}
    for what, numbers in sums.items():
        known = added.setdefault(names(what), [0, 0, 0, 0])
        known[:] = [old + new for old, new in zip(known, numbers, strict=True)]
    return [Count(what, *numbers) for what, numbers in added.items()]


def _names(by: str, sums: Mapping[Any, list[int]], connection: Connection) -> Callable[[Any], str]:
    if by in BY_TIME:
        return lambda what: _time(by, int(what))
    if by == "crossing":
        return lambda what: schema.CROSSINGS[what]
    if by == "state":
        return str
    if by == "disposition":
        return lambda what: schema.DISPOSITIONS[what]
    known: Mapping[Any, str] = {}
    if by in ("author", "sender"):
        known = retrieve.mailboxes([one for one in sums if one is not None], connection)
    elif by in ("relay", "class"):
        common, stamp = schema.circumstance, schema.retention
        source = common.outerjoin(stamp, common.c.retention_id == stamp.c.retention_id)
        name = common.c.relay if by == "relay" else func.coalesce(stamp.c.name, _NONE)
        asked = select(common.c.circumstance_id, name).select_from(source)
        known = {row[0]: row[1] for row in connection.execute(asked)}
    else:
        return lambda what: _NONE if what is None else str(what)
    return lambda what: _NONE if what is None else known.get(what, retrieve.ERASED)


_SHAPES = {"hour": "%Y-%m-%dT%H:00Z", "day": "%Y-%m-%d", "month": "%Y-%m", "year": "%Y"}


def _time(by: str, hours: int) -> str:
    return datetime.fromtimestamp(hours * 3600, UTC).strftime(_SHAPES[by])
