"""Questions to the archive: search, show, count.

Promises: results come newest first, in the order of record ids, and stream: a page is found and
fetched, given out, and the next one begins after its last id.  The same records on every engine.
Values are bound, never formatted into SQL.

Raises: errors.NotFound from `show`; errors.DataError for a search that no index answers;
database.DatabaseUnusable when the database fails.

Does not: parse what people type (`language`, `options`), find (`conditions`, `walk`), or write.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, select
from sqlalchemy.exc import SQLAlchemyError

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
from carbonseal.milter.archive.search import walk
from carbonseal.milter.archive.search.wanted import Search
from carbonseal.policies.errors import NotFound

PAGE = 200
INDEXED = derive.INDEXED


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


def search(engine: Engine, wanted: Search, *, indexed: Iterable[str] = INDEXED) -> Iterator[Found]:
    """Records that meet it, newest first, streamed; `indexed`: header fields that have terms."""
    for steps, size in _steps(engine, wanted, indexed, PAGE):
        with reading(engine) as connection:
            found = in_short(steps.next(size, connection), connection)
        yield from found


def pages(
    engine: Engine, wanted: Search, *, indexed: Iterable[str] = INDEXED, size: int = PAGE
) -> Iterator[list[str]]:
    """The record ids that meet it, newest first, in pages of at most `size`, none of them empty."""
    for steps, most in _steps(engine, wanted, indexed, size):
        with reading(engine) as connection:
            found = steps.next(most, connection)
        if found:
            yield found


def _steps(
    engine: Engine, wanted: Search, indexed: Iterable[str], size: int
) -> Iterator[tuple[walk.Walk, int]]:
    """A walk, and how many ids to take next, until it is over or the limit is reached."""
    with reading(engine) as connection:
        steps = walk.Walk(walk.planned(wanted, connection, frozenset(indexed)))
    while not steps.is_over:
        left = None if wanted.limit is None else wanted.limit - steps.given
        if left == 0:
            return
        yield steps, size if left is None else min(left, size)


def count(engine: Engine, wanted: Search, *, indexed: Iterable[str] = INDEXED) -> int:
    """How many records meet it, whatever its limit."""
    with reading(engine) as connection:
        plan = walk.planned(wanted, connection, frozenset(indexed))
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


def in_short(record_ids: Sequence[str], connection: Connection) -> list[Found]:
    """These records in this order."""
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
    with reading(engine) as connection:
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
            .limit(PAGE)
        )
        return list(connection.execute(query).scalars())
    return [name.upper()]
