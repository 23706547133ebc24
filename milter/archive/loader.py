"""One batch of records into SQL, in the transaction of the caller.

Promises: each record arrives whole or not at all, and once however often it is loaded: a record id
that is there already, or twice in the batch, is passed over.  A batch is a handful of statements,
however many records it has.

Raises: what the database raises; the caller rolls back and calls `Dictionary.forget`.

Does not: read the spool, keep progress, or end transactions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

from sqlalchemy import Connection, Table, insert, select

from carbonseal.milter.archive import schema, terms
from carbonseal.milter.archive.dictionary import Dictionary, chunks
from carbonseal.milter.archive.parts import Circumstance, Route, SigningForm
from carbonseal.milter.archive.rows import Rows

_CHUNK = 500
_TABLES = (
    schema.message,
    schema.header_section,
    schema.recipient,
    schema.signature,
    schema.participant,
    schema.participant_domain,
    schema.subject_word,
)


class Arrival(NamedTuple):
    """A record and where in the spool it came from."""

    segment_id: int
    offset: int
    rows: Rows


class _Ids(NamedTuple):
    address: dict[str, int]
    domain: dict[str, int]
    circumstance: dict[Circumstance, int]
    route: dict[Route, int]
    form: dict[SigningForm, int]


def load(arrivals: Sequence[Arrival], connection: Connection, dictionary: Dictionary) -> int:
    """Insert what is not there yet; returns how many records that were."""
    fresh = _unknown(arrivals, connection)
    if not fresh:
        return 0
    ids = _ids([one.rows for one in fresh], connection, dictionary)
    kind, dialect = schema.RecordId(), connection.dialect
    tables: dict[Table, list[tuple[Any, ...]]] = {table: [] for table in _TABLES}
    for one in fresh:
        _add(tables, one, kind.process_bind_param(one.rows.record_id, dialect), ids)
    for table, rows in tables.items():
        _insert(table, rows, connection)
    return len(fresh)


def _unknown(arrivals: Sequence[Arrival], connection: Connection) -> list[Arrival]:
    by_id = {one.rows.record_id: one for one in reversed(arrivals)}
    column = schema.message.c.record_id
    for chunk in chunks(list(by_id), _CHUNK):
        for (record_id,) in connection.execute(select(column).where(column.in_(chunk))):
            del by_id[record_id]
    return list(reversed(by_id.values()))


def _ids(batch: list[Rows], connection: Connection, dictionary: Dictionary) -> _Ids:
    addresses: set[str | None] = set()
    for rows in batch:
        addresses.update(rows.participants)
        addresses.update(one["address"] for one in rows.recipients)
        addresses.update((rows.message["reverse_path"], rows.message["author"]))
    addresses.discard(None)
    circumstances = {rows.message["circumstance"] for rows in batch}
    routes = {one["route"] for rows in batch for one in rows.recipients if one["route"]}
    forms = {one["form"] for rows in batch for one in rows.signatures}
    domains = {name for rows in batch for name in rows.domains}
    return _Ids(
        dictionary.ids("address", addresses, connection),
        dictionary.ids("domain", domains, connection),
        dictionary.ids(Circumstance.__name__, circumstances, connection),
        dictionary.ids(Route.__name__, routes, connection),
        dictionary.ids(SigningForm.__name__, forms, connection),
    )


# Values of a row in the order of the table's columns, without those that come first.
_MESSAGE = itemgetter(*list(schema.message.c.keys())[1:])
_RECIPIENT = itemgetter("spelling", "raw", "resolved", "esmtp")


def _add(
    tables: dict[Table, list[tuple[Any, ...]]], arrival: Arrival, key: object, ids: _Ids
) -> None:
    """Add the rows of one record to those of each table, in the order of its columns."""
    rows = arrival.rows
    columns = rows.message
    columns["segment_id"], columns["segment_offset"] = arrival.segment_id, arrival.offset
    columns["circumstance_id"] = ids.circumstance[columns["circumstance"]]
    columns["reverse_path_id"] = ids.address.get(columns["reverse_path"])
    columns["author_id"] = ids.address.get(columns["author"])
    tables[schema.message].append((key, *_MESSAGE(columns)))
    section = rows.header_section
    tables[schema.header_section].append(
        (key, section["message_id"], section["subject"], section["fields"])
    )
    tables[schema.recipient] += [
        (
            key,
            position,
            one["kind"],
            ids.address.get(one["address"]),
            *_RECIPIENT(one),
            ids.route.get(one["route"]),
            one["about"],
        )
        for position, one in enumerate(rows.recipients)
    ]
    tables[schema.signature] += [
        (key, position, ids.form[one["form"]], one["auid"], one["signed_at"], one["expires_at"])
        for position, one in enumerate(rows.signatures)
    ]
    tables[schema.participant] += _roles(rows.participants, ids.address, key)
    tables[schema.participant_domain] += _roles(rows.domains, ids.domain, key)
    tables[schema.subject_word] += [
        (word_id, key) for word_id in dict.fromkeys(map(terms.word_term, rows.words))
    ]


def _roles(
    held: dict[str, int], ids: dict[str, int], key: object
) -> Iterator[tuple[int, object, int]]:
    roles: dict[int, int] = {}
    for value, some in held.items():  # two texts can be the same octets, and so the same id
        identifier = ids[value]
        roles[identifier] = roles.get(identifier, 0) | some
    return ((identifier, key, some) for identifier, some in roles.items())


def _insert(table: Table, rows: list[tuple[Any, ...]], connection: Connection) -> None:
    """All rows in one statement.

    The statement is SQLAlchemy's, the values go to the driver as they are: they are numbers, texts
    and octets already, and looking at each of them again would cost as much as the insert itself.
    """
    if not rows:
        return
    statement = insert(table).compile(dialect=connection.dialect)
    names = list(table.c.keys())
    if statement.positional:
        assert statement.positiontup == names
        connection.exec_driver_sql(str(statement), rows)
    else:
        connection.exec_driver_sql(
            str(statement), [dict(zip(names, row, strict=True)) for row in rows]
        )
