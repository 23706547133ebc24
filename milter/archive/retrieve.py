"""Rows of known records out of SQL, with the ids in them turned back into values.

Promises: any number of records costs a handful of queries by primary key.  Reads are bounded by the
ids asked for and hold no transaction open between them, so that an SQLite checkpoint never waits
for a reader.

Does not: search (`query` does).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Select, Table, select

from carbonseal.milter.archive import schema, terms
from carbonseal.milter.archive.dictionary import chunks
from carbonseal.milter.archive.parts import Circumstance, Columns, Route, SigningForm
from carbonseal.milter.archive.rows import Rows

_CHUNK = 500
ERASED = "erased"  # stands for the mailbox of a person who was erased


def retrieve(record_ids: Sequence[str], connection: Connection, *, with_fields: bool) -> list[Rows]:
    """The rows of these records in this order; ids that are not there are left out.

    Without fields, `header_section` lacks the header section itself.
    """
    messages = {row["record_id"]: row for row in _by_record(schema.message, record_ids, connection)}
    recipients = _grouped(schema.recipient, record_ids, connection)
    signatures = _grouped(schema.signature, record_ids, connection)
    sections = {
        row["record_id"]: row
        for row in _by_record(
            schema.header_section, record_ids, connection, with_fields=with_fields
        )
    }
    values = _Values(messages.values(), recipients, signatures, connection)
    found = []
    for record_id in record_ids:
        columns = messages.get(record_id)
        if columns is None:
            continue
        values.into_message(columns)
        found.append(
            Rows(
                record_id=record_id,
                message=columns,
                recipients=[values.into_recipient(one) for one in recipients.get(record_id, [])],
                signatures=[values.into_signature(one) for one in signatures.get(record_id, [])],
                # It may have gone earlier than the rest of the record.
                header_section=sections.get(record_id, {"message_id": None, "subject": None}),
            )
        )
    return found


class _Values:
    """The dictionary rows that a set of records needs."""

    def __init__(
        self,
        messages: Iterable[Columns],
        recipients: Mapping[str, list[Columns]],
        signatures: Mapping[str, list[Columns]],
        connection: Connection,
    ) -> None:
        messages = list(messages)
        each_recipient = [one for group in recipients.values() for one in group]
        address_ids = {row[key] for row in messages for key in ("reverse_path_id", "author_id")}
        address_ids |= {row["address_id"] for row in each_recipient}
        self._mailboxes = mailboxes(address_ids - {None}, connection)
        self._circumstances = _dictionary(
            schema.circumstance,
            Circumstance,
            {row["circumstance_id"] for row in messages},
            connection,
        )
        self._routes = _dictionary(
            schema.route, Route, {row["route_id"] for row in each_recipient} - {None}, connection
        )
        forms = {one["form_id"] for group in signatures.values() for one in group}
        self._forms = _dictionary(schema.signing_form, SigningForm, forms, connection)

    def into_message(self, columns: Columns) -> None:
        """Replace ids by values."""
        columns["circumstance"] = self._circumstances[columns.pop("circumstance_id")]
        columns["reverse_path"] = self._mailbox(columns.pop("reverse_path_id"))
        columns["author"] = self._mailbox(columns.pop("author_id"))

    def into_recipient(self, columns: Columns) -> Columns:
        """Replace ids by values."""
        columns["address"] = self._mailbox(columns.pop("address_id"))
        route_id = columns.pop("route_id")
        columns["route"] = None if route_id is None else self._routes[route_id]
        return columns

    def into_signature(self, columns: Columns) -> Columns:
        """Replace ids by values."""
        columns["form"] = self._forms[columns.pop("form_id")]
        return columns

    def _mailbox(self, address_id: int | None) -> str | None:
        return None if address_id is None else self._mailboxes.get(address_id, ERASED)


def mailboxes(address_ids: Iterable[int], connection: Connection) -> dict[int, str]:
    """Dictionary addresses by id, lossless."""
    address, domain = schema.address.c, schema.domain.c
    query = select(
        address.address_id, address.local_part, address.local_part_raw, domain.name
    ).select_from(schema.address.outerjoin(schema.domain, address.domain_id == domain.domain_id))
    found = {}
    for chunk in chunks(sorted(address_ids), _CHUNK):
        for address_id, local_part, raw, name in connection.execute(
            query.where(address.address_id.in_(chunk))
        ):
            text = ERASED if local_part is None else local_part
            if raw is not None:
                text = raw.decode("utf-8", "surrogateescape")
            found[address_id] = text if name is None else f"{text}@{name}"
    return found


def _dictionary(
    table: Table, kind: Any, identifiers: set[int], connection: Connection
) -> dict[int, Any]:
    key = next(iter(table.primary_key.columns))
    query = select(key, *(table.c[name] for name in kind._fields))
    return {
        identifier: kind(*values)
        for chunk in chunks(sorted(identifiers), _CHUNK)
        for identifier, *values in connection.execute(query.where(key.in_(chunk)))
    }


def _by_record(
    table: Table, record_ids: Sequence[str], connection: Connection, *, with_fields: bool = True
) -> list[Columns]:
    columns = [column for column in table.c if with_fields or column.name != "fields"]
    return [
        dict(row)
        for chunk in chunks(list(record_ids), _CHUNK)
        for row in connection.execute(_of_records(select(*columns), table, chunk)).mappings()
    ]


def _of_records(query: Select[Any], table: Table, record_ids: list[str]) -> Select[Any]:
    order = [table.c.record_id] + ([table.c.position] if "position" in table.c else [])
    return query.where(table.c.record_id.in_(record_ids)).order_by(*order)


def _grouped(
    table: Table, record_ids: Sequence[str], connection: Connection
) -> dict[str, list[Columns]]:
    groups: dict[str, list[Columns]] = {}
    for row in _by_record(table, record_ids, connection):
        groups.setdefault(row["record_id"], []).append(row)
    return groups


def address_id(address: str, connection: Connection) -> int | None:
    """The dictionary id of an address; None when no record knows it."""
    columns = schema.address.c
    digest = terms.mailbox_hash(terms.mailbox(address))
    query = select(columns.address_id).where(columns.address_hash == digest)
    found: int | None = connection.execute(query).scalar_one_or_none()
    return found
