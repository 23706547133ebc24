"""Questions to the archive: search, show, count.

Promises: results come newest first, in the order of record ids, and stream: a page is found and
fetched, given out, and the next one begins after its last id (never OFFSET).  Every condition is
answered by an index whose second column is the record id; of several conditions the rarest leads,
counted up to a bound, and the others are looked up for each candidate.  Values are bound, never
formatted into SQL.

Raises: errors.NotFound from `show`; database.DatabaseUnusable when the database fails.

Does not: parse what people type (`commands` does), or write.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Select, Table, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.sql.util import ClauseAdapter

from carbonseal.milter.archive import (
    database,
    derive,
    header_store,
    parts,
    retrieve,
    rows,
    schema,
    terms,
)
from carbonseal.milter.archive.rows import Rows
from carbonseal.policies.errors import NotFound

_PAGE = 200
_RARE = 1000  # counting further does not change which condition should lead

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Search:
    """What to look for; every condition given must hold."""

    sender: str | None = None  # reverse-path or author
    recipient: str | None = None  # envelope recipient, Bcc included
    participant: str | None = None  # reverse-path, envelope recipient, author, To or Cc
    with_extensions: bool = False  # bob@x also finds bob+tag@x
    domain: str | None = None  # of any participant; a leading dot adds its subdomains
    message_id: str | None = None  # without angle brackets
    queue_id: str | None = None
    words: tuple[str, ...] = ()  # all of them in the subject, without regard to case and accents
    client: Network | None = None
    login: str | None = None
    crossing: str | None = None
    signed: bool | None = None
    since: datetime | None = None  # inclusive, to the millisecond
    until: datetime | None = None  # exclusive
    before: str | None = None  # record id: only older ones; the next page after that record
    limit: int | None = 100


@dataclass(frozen=True, slots=True)
class Found:
    """One record in short."""

    record_id: str
    recorded_at: str  # RFC 3339, UTC
    relay: str
    queue_id: str
    crossing: str
    disposition: str
    reverse_path: str  # '' is the null reverse-path
    author: str  # several are separated by ', '
    recipients: tuple[str, ...]
    archive_recipients: tuple[str, ...]
    archive_addressed: bool
    signatures: tuple[dict[str, Any], ...]
    message_id: str | None
    subject: str | None
    client_address: str
    login: str | None
    size: int
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Count:
    """Messages of one day, crossing or domain."""

    what: str
    messages: int
    octets: int
    signed: int
    copied: int  # messages that are crossing and got, or were addressed to, the archive


@dataclass(frozen=True, slots=True)
class _Condition:
    """One index: the table it is on, what must hold there."""

    table: Table
    holds: tuple[ColumnElement[bool], ...]


class _Nothing(Exception):
    """A condition that no record can meet."""


def search(engine: Engine, wanted: Search) -> Iterator[Found]:
    """Records that meet every condition, newest first, streamed."""
    left = wanted.limit
    bounds = _bounds(wanted)
    with _reading(engine) as connection:
        try:
            conditions = _lead_first(_conditions(wanted, connection), bounds, connection)
        except _Nothing:
            return
    while left is None or left > 0:
        size = _PAGE if left is None else min(left, _PAGE)
        with _reading(engine) as connection:
            query = page_query(conditions, bounds, size)
            record_ids: list[str] = list(connection.scalars(query))
            found = _in_short(record_ids, connection)
        yield from found
        if len(record_ids) < size:
            return
        bounds = (bounds[0], record_ids[-1])
        left = None if left is None else left - size


def page_query(
    conditions: list[_Condition], bounds: tuple[str, str], size: int
) -> Select[tuple[str]]:
    """The ids of one page; the first condition leads."""
    table = conditions[0].table if conditions else schema.message
    record_id = table.c.record_id
    query = select(record_id).where(*_within(record_id, bounds))
    for number, condition in enumerate(conditions):
        if number == 0:
            query = query.where(*condition.holds)
        else:
            query = query.where(_also(condition, record_id))
    return query.order_by(record_id.desc()).limit(size)


def _also(condition: _Condition, record_id: ColumnElement[str]) -> ColumnElement[bool]:
    """That a candidate meets another condition: a look-up by primary key."""
    other = condition.table.alias()
    # The leading condition may be on the same table: this one is asked of an alias.
    holds = [ClauseAdapter(other).traverse(clause) for clause in condition.holds]
    return select(1).select_from(other).where(other.c.record_id == record_id, *holds).exists()


def _within(record_id: ColumnElement[str], bounds: tuple[str, str]) -> list[ColumnElement[bool]]:
    return [record_id >= bounds[0], record_id < bounds[1]]


def _bounds(wanted: Search) -> tuple[str, str]:
    since = 0 if wanted.since is None else _milliseconds(wanted.since)
    first = terms.first_record_id(since)
    last = "7" + "Z" * (terms.RECORD_ID_LENGTH - 1)
    if wanted.until is not None:
        last = min(last, terms.first_record_id(_milliseconds(wanted.until)))
    if wanted.before is not None:
        last = min(last, wanted.before)
    return first, last


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _conditions(wanted: Search, connection: Connection) -> list[_Condition]:
    found = []
    for text, roles in (
        (wanted.sender, schema.REVERSE_PATH | schema.AUTHOR),
        (wanted.recipient, schema.RECIPIENT),
        (wanted.participant, schema.ANY_ROLE),
    ):
        if text is not None:
            found.append(_takes_part(text, roles, wanted.with_extensions, connection))
    if wanted.domain is not None:
        found.append(_has_domain(wanted.domain))
    for word_id in dict.fromkeys(
        terms.term(word) for text in wanted.words for word in terms.words(text)
    ):
        found.append(_Condition(schema.header_term, (schema.header_term.c.term_id == word_id,)))
    return [*found, *_message_conditions(wanted)]


def _message_conditions(wanted: Search) -> Iterator[_Condition]:
    columns = schema.message.c
    for value, column in (
        (None if wanted.queue_id is None else terms.storable(wanted.queue_id), columns.queue_id),
        (
            None if wanted.message_id is None else terms.term(wanted.message_id),
            columns.message_id_hash,
        ),
        (None if wanted.login is None else rows.login_hash(wanted.login), columns.login_hash),
        (None if wanted.crossing is None else _crossing(wanted.crossing), columns.crossing),
        (wanted.signed, columns.is_signed),
    ):
        if value is not None:
            yield _Condition(schema.message, (column == value,))
    if wanted.client is not None:
        yield _Condition(schema.message, _in_network(wanted.client))


def _takes_part(
    address: str, roles: int, with_extensions: bool, connection: Connection
) -> _Condition:
    columns = schema.participant.c
    identifier = retrieve.address_id(address, connection)
    if identifier is None:
        raise _Nothing
    if with_extensions:
        roles |= roles << schema.INDIRECT
    return _Condition(
        schema.participant,
        (columns.address_id == identifier, columns.roles.bitwise_and(roles) != 0),
    )


def _has_domain(domain: str) -> _Condition:
    columns = schema.participant_domain.c
    roles = schema.ANY_ROLE
    if domain.startswith("."):
        roles |= roles << schema.INDIRECT
    identifier = terms.term(domain.removeprefix("."))
    return _Condition(
        schema.participant_domain,
        (columns.domain_id == identifier, columns.roles.bitwise_and(roles) != 0),
    )


def _crossing(name: str) -> int:
    return schema.CROSSINGS.index(name)


def _in_network(network: Network) -> tuple[ColumnElement[bool], ...]:
    column = schema.message.c.client_address
    first = terms.pack_client(str(network.network_address))
    last = terms.pack_client(str(network.broadcast_address))
    if first == last:
        return (column == first,)
    return (column >= first, column <= last)


def _lead_first(
    conditions: list[_Condition], bounds: tuple[str, str], connection: Connection
) -> list[_Condition]:
    """The rarest condition first; the count stops at a bound."""
    if len(conditions) < 2:
        return conditions
    return sorted(conditions, key=lambda one: _frequency(one, bounds, connection))


def _frequency(condition: _Condition, bounds: tuple[str, str], connection: Connection) -> int:
    record_id = condition.table.c.record_id
    some = (
        select(record_id).where(*condition.holds, *_within(record_id, bounds)).limit(_RARE)
    ).subquery()
    return connection.execute(select(func.count()).select_from(some)).scalar_one()


def _in_short(record_ids: list[str], connection: Connection) -> list[Found]:
    found = retrieve.retrieve(record_ids, connection, with_fields=False)
    several = [one.record_id for one in found if one.message["author_count"] > 1]
    authors = dict(_authors(several, connection))
    return [_found(one, authors.get(one.record_id)) for one in found]


def _authors(record_ids: list[str], connection: Connection) -> Iterator[tuple[str, str]]:
    """Authors beyond the first are only in the header section."""
    section = schema.header_section.c
    query = select(section.record_id, section.fields).where(section.record_id.in_(record_ids))
    for record_id, fields in connection.execute(query) if record_ids else ():
        yield record_id, ", ".join(derive.derive(header_store.expand(fields)).authors)


def _found(one: Rows, authors: str | None) -> Found:
    columns, common = one.message, one.message["circumstance"]
    first = {"address": columns["author"], "spelling": columns["author_spelling"]}
    reverse_path = {
        "address": columns["reverse_path"],
        "spelling": columns["reverse_path_spelling"],
    }
    by_kind: dict[int, list[str]] = {schema.ENVELOPE: [], schema.COPY: []}
    for recipient in one.recipients:
        by_kind[recipient["kind"]].append(parts.address_of(recipient))
    return Found(
        record_id=one.record_id,
        recorded_at=rows.moment_text(columns["recorded_at"]),
        relay=common.relay,
        queue_id=columns["queue_id"],
        crossing=schema.CROSSINGS[columns["crossing"]],
        disposition=schema.DISPOSITIONS[columns["disposition"]],
        reverse_path=parts.address_of(reverse_path),
        author=parts.address_of(first) if authors is None else authors,
        recipients=tuple(by_kind[schema.ENVELOPE]),
        archive_recipients=tuple(by_kind[schema.COPY]),
        archive_addressed=bool(columns["archive_addressed"]),
        signatures=tuple(parts.signature_of(signature) for signature in one.signatures),
        message_id=one.header_section["message_id"],
        subject=one.header_section["subject"],
        client_address=parts.client_address_of(columns),
        login=columns["login"],
        size=columns["size"],
        reasons=tuple(rows.reasons_of(one)),
    )


def show(engine: Engine, name: str) -> list[dict[str, Any]]:
    """The complete records with this record id or queue id, newest first.

    Queue ids can come back (Postfix: enable_long_queue_ids), hence several.  Raises: NotFound.
    """
    with _reading(engine) as connection:
        record_ids = _named(name, connection)
        found = retrieve.retrieve(record_ids, connection, with_fields=True)
    if not found:
        raise NotFound(f"no record has the record id or queue id {name!r}; try archive search")
    return [rows.join(one) for one in found]


def _named(name: str, connection: Connection) -> list[str]:
    columns = schema.message.c
    try:
        terms.pack_record_id(name)
    except ValueError:
        query = (
            select(columns.record_id)
            .where(columns.queue_id == terms.storable(name))
            .order_by(columns.record_id.desc())
            .limit(_PAGE)
        )
        return list(connection.execute(query).scalars())
    return [name.upper()]


def count(
    engine: Engine, by: str, *, since: datetime | None = None, until: datetime | None = None
) -> list[Count]:
    """Messages by 'day' (newest first), 'crossing' or 'domain' (most first)."""
    bounds = _bounds(Search(since=since, until=until))
    with _reading(engine) as connection:
        if by == "domain":
            return _count_domains(bounds, connection)
        columns = schema.message.c
        what = columns.crossing if by == "crossing" else columns.recorded_at // 86_400_000_000
        query = _counts(what).where(*_within(columns.record_id, bounds)).group_by(what)
        counted = [Count(_name(by, value), *rest) for value, *rest in connection.execute(query)]
    return sorted(counted, key=lambda one: one.what, reverse=by == "day")


def _counts(what: ColumnElement[Any]) -> Select[Any]:
    columns = schema.message.c
    return select(
        what,
        func.count(),
        func.coalesce(func.sum(columns.size), 0),
        func.count().filter(columns.is_signed.is_(True)),
        func.count().filter(columns.archive_addressed.is_(True) | (columns.copy_count > 0)),
    ).select_from(schema.message)


def _name(by: str, value: int) -> str:
    if by == "crossing":
        return schema.CROSSINGS[value]
    return datetime.fromtimestamp(value * 86_400, UTC).date().isoformat()


def _count_domains(bounds: tuple[str, str], connection: Connection) -> list[Count]:
    """Messages in whose envelope a domain takes part."""
    part, name = schema.participant_domain, schema.domain.c.name
    in_envelope = schema.REVERSE_PATH | schema.RECIPIENT
    query = (
        _counts(name)
        .join(part, part.c.record_id == schema.message.c.record_id)
        .join(schema.domain, schema.domain.c.domain_id == part.c.domain_id)
        .where(
            *_within(schema.message.c.record_id, bounds),
            part.c.roles.bitwise_and(in_envelope) != 0,
        )
        .group_by(name)
    )
    counted = [Count(*row) for row in connection.execute(query)]
    return sorted(counted, key=lambda one: (-one.messages, one.what))


@contextmanager
def _reading(engine: Engine) -> Iterator[Connection]:
    try:
        with engine.connect() as connection:
            yield connection
    except SQLAlchemyError as fault:
        raise database.unusable(engine.url, fault) from fault
