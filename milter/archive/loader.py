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
from carbonseal.milter.archive.rows import Circumstance, Columns, Route, Rows, SigningForm

_CHUNK = 500


class Arrival(NamedTuple):
    """A record and where in the spool it came from."""

    segment_id: int
    offset: int
    rows: Rows


class _Ids(NamedTuple):
    address: dict[str, int]
    circumstance: dict[Circumstance, int]
    route: dict[Route, int]
    form: dict[SigningForm, int]


def load(arrivals: Sequence[Arrival], connection: Connection, dictionary: Dictionary) -> int:
    """Insert what is not there yet; returns how many records that were."""
    fresh = _unknown(arrivals, connection)
    if not fresh:
        return 0
    ids = _ids([one.rows for one in fresh], connection, dictionary)
    domain_ids = dictionary.ids(
        "domain", (name for one in fresh for name in one.rows.domains), connection
    )
    _insert(schema.message, [_message(one, ids) for one in fresh], connection)
    all_rows = [one.rows for one in fresh]
    for table, rows in (
        (schema.header_section, ({**_id(one), **one.header_section} for one in all_rows)),
        (schema.recipient, _recipients(all_rows, ids)),
        (schema.signature, _signatures(all_rows, ids)),
        (schema.participant, _roles(all_rows, "address_id", "participants", ids.address)),
        (schema.participant_domain, _roles(all_rows, "domain_id", "domains", domain_ids)),
        (schema.subject_word, _words(all_rows)),
    ):
        _insert(table, list(rows), connection)
    return len(fresh)


def _unknown(arrivals: Sequence[Arrival], connection: Connection) -> list[Arrival]:
    by_id = {one.rows.record_id: one for one in reversed(arrivals)}
    column = schema.message.c.record_id
    for chunk in chunks(list(by_id), _CHUNK):
        for (record_id,) in connection.execute(select(column).where(column.in_(chunk))):
            del by_id[record_id]
    return list(reversed(by_id.values()))


def _ids(batch: list[Rows], connection: Connection, dictionary: Dictionary) -> _Ids:
    addresses = {mailbox for rows in batch for mailbox in _mailboxes(rows)}
    circumstances = {rows.message["circumstance"] for rows in batch}
    routes = {one["route"] for rows in batch for one in rows.recipients if one["route"]}
    forms = {one["form"] for rows in batch for one in rows.signatures}
    return _Ids(
        dictionary.ids("address", addresses, connection),
        dictionary.ids(Circumstance.__name__, circumstances, connection),
        dictionary.ids(Route.__name__, routes, connection),
        dictionary.ids(SigningForm.__name__, forms, connection),
    )


def _mailboxes(rows: Rows) -> Iterator[str]:
    yield from rows.participants
    for mailbox in (
        rows.message["reverse_path"],
        rows.message["author"],
        *(one["address"] for one in rows.recipients),
    ):
        if mailbox:
            yield mailbox


def _insert(table: Table, rows: list[Columns], connection: Connection) -> None:
    """All rows in one statement.

    The statement is SQLAlchemy's, the values go to the driver as they are: they are numbers, texts
    and octets already, and looking at each of them again would cost as much as the insert itself.
    """
    if not rows:
        return
    statement = insert(table).compile(dialect=connection.dialect)
    names = statement.positiontup or list(table.c.keys())
    as_key = schema.RecordId().bind_processor(connection.dialect) or str
    values = [{**row, "record_id": as_key(row["record_id"])} for row in rows]
    in_order = itemgetter(*names)
    parameters = [in_order(row) for row in values] if statement.positional else values
    connection.exec_driver_sql(str(statement), parameters)


def _id(rows: Rows) -> Columns:
    return {"record_id": rows.record_id}


def _message(arrival: Arrival, ids: _Ids) -> Columns:
    columns = dict(arrival.rows.message)
    reverse_path, author = columns.pop("reverse_path"), columns.pop("author")
    return {
        "record_id": arrival.rows.record_id,
        "segment_id": arrival.segment_id,
        "segment_offset": arrival.offset,
        "circumstance_id": ids.circumstance[columns.pop("circumstance")],
        "reverse_path_id": ids.address[reverse_path] if reverse_path else None,
        "author_id": ids.address[author] if author else None,
        **columns,
    }


def _recipients(batch: list[Rows], ids: _Ids) -> Iterator[Columns]:
    for rows in batch:
        for position, one in enumerate(rows.recipients):
            columns = dict(one)
            address, route = columns.pop("address"), columns.pop("route")
            yield {
                "record_id": rows.record_id,
                "position": position,
                "address_id": ids.address[address] if address else None,
                "route_id": ids.route[route] if route else None,
                **columns,
            }


def _signatures(batch: list[Rows], ids: _Ids) -> Iterator[Columns]:
    for rows in batch:
        for position, one in enumerate(rows.signatures):
            columns = dict(one)
            form = ids.form[columns.pop("form")]
            yield {"record_id": rows.record_id, "position": position, "form_id": form, **columns}


def _roles(batch: list[Rows], key: str, name: str, ids: dict[str, int]) -> Iterator[Columns]:
    for rows in batch:
        roles: dict[int, int] = {}
        for value, held in getattr(rows, name).items():
            roles[ids[value]] = roles.get(ids[value], 0) | held
        for identifier, held in roles.items():
            yield {key: identifier, "record_id": rows.record_id, "roles": held}


def _words(batch: list[Rows]) -> Iterator[dict[str, Any]]:
    for rows in batch:
        for word_id in dict.fromkeys(map(terms.term, rows.words)):
            yield {"word_id": word_id, "record_id": rows.record_id}
