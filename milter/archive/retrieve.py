"""Rows of known records out of SQL, with the ids in them turned back into values.

Promises: any number of records costs a handful of queries by primary key.  Reads are bounded by the
ids asked for and hold no transaction open between them, so that an SQLite checkpoint never waits
for a reader.

Raises: `DamagedRecord` from `each_of`, which whoever reads rows back does that with.

Does not: search (`query` does).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias, TypeVar

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Select,
    Table,
    Text,
    any_,
    bindparam,
    cast,
    column,
    func,
    literal_column,
    select,
    true,
)
from sqlalchemy.dialects import postgresql

from carbonseal.milter.archive import as_given, derive, header_store, packed, schema, terms
from carbonseal.milter.archive.as_given import AsGiven, id_text, repeated
from carbonseal.milter.archive.dictionary import chunks
from carbonseal.milter.archive.packed import Recipient, Signature
from carbonseal.milter.archive.parts import Circumstance, Columns, Retention, Route, SigningForm
from carbonseal.milter.archive.rows import Rows
from carbonseal.milter.archive.verdicts import Verdict
from carbonseal.policies.errors import DataError

Stored = TypeVar("Stored")
Made = TypeVar("Made")

_FAR = 45 * 86_400_000  # milliseconds
ERASED = "erased"  # stands for the mailbox of a person who was erased
# What reading back may end in where rows are missing, or hold what we never wrote.
_BROKEN = (zlib.error, ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError)


class DamagedRecord(DataError):
    """The rows of a record do not fit together: the archive is damaged."""

    def __init__(self, record_id: str, fault: Exception) -> None:
        super().__init__(
            f"record {record_id}: what is stored of it cannot be read back "
            f"({type(fault).__name__}), so the archive is damaged; carbonseal archive verify says "
            "what else is, and questions that leave this record out are answered"
        )


def each_of(
    stored: Iterable[Stored], make: Callable[[Stored], Made], name: Callable[[Stored], str]
) -> list[Made]:
    """What is made of each; `name` gives the record id of one that cannot be read back.

    Raises: DamagedRecord.
    """
    made: list[Made] = []
    for one in stored:
        try:
            made.append(make(one))
        except _BROKEN as fault:
            raise DamagedRecord(name(one), fault) from fault
    return made


def retrieve(record_ids: Sequence[str], connection: Connection, *, with_fields: bool) -> list[Rows]:
    """The rows of these records in this order; ids that are not there are left out.

    Without fields, `header_section` lacks the header section itself.
    """
    messages = {row["record_id"]: row for row in _messages(record_ids, connection)}
    sections = {
        row["record_id"]: _shown(row, with_fields=with_fields)
        for row in _by_record(schema.header_section, record_ids, connection)
    }
    found = [
        _Packed(record_id, columns)
        for record_id in record_ids
        if (columns := messages.get(record_id)) is not None
    ]
    values = _Values(found, connection)
    return [
        Rows(
            record_id=one.record_id,
            message=values.into_message(one.columns),
            recipients=[values.into_recipient(recipient) for recipient in one.recipients],
            signatures=[values.into_signature(signature) for signature in one.signatures],
            # It may have gone earlier than the rest of the record.
            header_section=sections.get(one.record_id, {"message_id": None, "subject": None}),
        )
        for one in found
    ]


def _shown(section: Columns, *, with_fields: bool) -> Columns:
    fields = header_store.expand(section["fields"])
    section["message_id"], section["subject"] = derive.shown(fields)
    if not with_fields:
        del section["fields"]
    return section


class _Packed:
    """A message row with its recipients and signatures taken out."""

    def __init__(self, record_id: str, columns: Columns) -> None:
        self.record_id = record_id
        self.columns = columns
        second = columns["recorded_at"] // 1_000_000
        self.recipients = packed.unpack_recipients(columns.pop("recipients"))
        self.signatures = packed.unpack_signatures(columns.pop("signatures"), second)


class _Values:
    """The dictionary rows that a set of records needs."""

    def __init__(self, found: Iterable[_Packed], connection: Connection) -> None:
        messages = [one.columns for one in found]
        recipients = [recipient for one in found for recipient in one.recipients]
        address_ids = {row[key] for row in messages for key in ("reverse_path_id", "author_id")}
        address_ids |= {one.address_id for one in recipients}
        self._mailboxes = mailboxes(address_ids - {None}, connection)

        def known(table: Table, kind: Any, identifiers: set[Any]) -> dict[int, Any]:
            return _dictionary(table, kind, identifiers - {None}, connection)

        self._routes = known(schema.route, Route, {one.route_id for one in recipients})
        forms = {signature.form_id for one in found for signature in one.signatures}
        self._forms = known(schema.signing_form, SigningForm, forms)

    def into_message(self, columns: Columns) -> Columns:
        """Replace ids by values."""
        columns["reverse_path"] = self._mailbox(columns.pop("reverse_path_id"))
        columns["author"] = self._mailbox(columns.pop("author_id"))
        return columns

    def into_recipient(self, one: Recipient) -> Columns:
        """Replace ids by values."""
        return {
            "kind": one.kind,
            "address": self._mailbox(one.address_id),
            "spelling": one.spelling,
            "raw": one.raw,
            "resolved": one.resolved,
            "esmtp": one.esmtp,
            "route": None if one.route_id is None else self._routes[one.route_id],
            "about": one.about,
        }

    def into_signature(self, one: Signature) -> Columns:
        """Replace ids by values."""
        return {
            "form": self._forms[one.form_id],
            "auid": one.auid,
            "signed_at": one.signed_at,
            "expires_at": one.expires_at,
        }

    def _mailbox(self, address_id: int | None) -> str | None:
        return None if address_id is None else self._mailboxes.get(address_id, ERASED)


Within: TypeAlias = Callable[[Column[Any]], Sequence[ColumnElement[bool]]]


class ByKey:
    """A statement for rows by their keys, built once.

    SQLAlchemy takes as long to build a statement as SQLite to answer it, and as long again to look
    at what comes back value by value.  PostgreSQL gets the keys as one array in its text form: a
    hundred parameters, or values of an array, take its driver longer than a hundred rows.
    """

    def __init__(
        self, query: Select[Any], key: Column[Any], *, joined: Select[Any] | None = None
    ) -> None:
        """`joined`: the same for SQLite and MariaDB, which join row by row in less time than
        MariaDB needs to begin a subquery anew for each row.
        """
        listed = query if joined is None else joined
        self._listed = listed.where(key.in_(bindparam("keys", expanding=True)))
        self._array = query.where(key == any_(_keys(key)))
        self._as_given = AsGiven(_marked(listed, key)), AsGiven(self._array)

    def rows(self, keys: Iterable[Any], connection: Connection) -> Iterator[Any]:
        """The rows that there are, in no order."""
        is_array = _has_arrays(connection)
        query = self._array if is_array else self._listed
        for chunk in chunks(list(keys)):
            with repeated(connection):
                given = {"keys": as_given.array_text(chunk) if is_array else chunk}
                found = connection.execute(query, given).all()
            yield from found

    def as_given(self, keys: Iterable[Any], connection: Connection) -> Iterator[Any]:
        """The same with values as the driver gives them, for keys of a type that it takes."""
        return self.asked(keys, connection)()

    def asked(self, keys: Iterable[Any], connection: Connection) -> Callable[[], Iterator[Any]]:
        """What waits for these rows."""
        listed, array = self._as_given
        waiting = [
            array.asked({"keys": as_given.array_text(chunk)}, connection)
            if _has_arrays(connection)
            else listed.asked(chunk, connection)
            for chunk in chunks(list(keys))
        ]
        return lambda: (row for rows in waiting for row in rows())


def _has_arrays(connection: Connection) -> bool:
    return connection.dialect.name == "postgresql"


def _keys(key: Column[Any]) -> ColumnElement[Any]:
    return cast(bindparam("keys", type_=Text()), postgresql.ARRAY(key.type))


def _marked(query: Select[Any], key: Column[Any]) -> Select[Any]:
    return query.where(key.op("IN")(literal_column(f"({as_given.KEYS})")))


class ByRecord:
    """The same for the record ids of a table that PostgreSQL divides by month.

    There each id is looked up in its own month only, whatever the planner thinks of that.  It plans
    for all months, and for some of them in less time when it is told which: by `within`, for the
    record ids of every table that the query names.
    """

    def __init__(
        self,
        query: Callable[[Within], Select[Any]],
        record_id: Column[Any],
        *,
        most: int | None = 1,
        joined: Select[Any] | None = None,
    ) -> None:
        """`most`: rows of one record; `joined`: see `ByKey`."""
        listed = query(lambda _: ()) if joined is None else joined
        self._listed = listed.where(record_id.in_(bindparam("keys", expanding=True)))
        first, last = (bindparam(name, type_=record_id.type) for name in ("first", "last"))

        def one_by_one(within: Within) -> Select[Any]:
            keys = func.unnest(_keys(record_id))
            wanted = keys.table_valued(column("key", record_id.type)).render_derived("wanted")
            found = query(within).where(record_id == wanted.c.key, *within(record_id))
            one = found.limit(most).lateral("one")
            return select(*one.c).select_from(wanted.join(one, true()))

        self._near = one_by_one(lambda one: (one >= first, one <= last))
        # To plan for many months takes longer than to look for them in a plan that is there.
        self._far = one_by_one(lambda _: ())
        self._as_given = tuple(map(AsGiven, (_marked(listed, record_id), self._near, self._far)))

    def rows(self, record_ids: Iterable[str], connection: Connection) -> Iterator[Any]:
        """The rows that there are, in no order."""
        for chunk in chunks(list(record_ids)):
            query, given = self._listed, {"keys": chunk}
            if _has_arrays(connection):
                given, is_far = self._given(chunk)
                query = self._far if is_far else self._near
            with repeated(connection):
                found = connection.execute(query, given).all()
            yield from found

    def as_given(self, record_ids: Iterable[str], connection: Connection) -> dict[str, Any]:
        """The same by record id, of a query whose first column that is; values as the driver gives
        them.
        """
        listed, near, far = self._as_given
        found: dict[str, Any] = {}
        for chunk in chunks(list(record_ids)):
            names = {terms.pack_record_id(one): one for one in chunk}
            if _has_arrays(connection):
                given, is_far = self._given(chunk)
                given |= {name: id_text(given[name]) for name in ("first", "last") if not is_far}
                rows = (far if is_far else near).rows(given, connection)
                found |= {names[row[0].bytes]: row for row in rows}
            else:
                rows = listed.rows([*names], connection)
                found |= {names[row[0]]: row for row in rows}
        return found

    def _given(self, chunk: Sequence[str]) -> tuple[dict[str, Any], bool]:
        """What PostgreSQL gets, and whether the records are far apart in time."""
        given = {"keys": as_given.array_text(chunk)}
        first, last = min(chunk), max(chunk)
        if terms.millisecond(last) - terms.millisecond(first) > _FAR:
            return given, True
        return given | {"first": first, "last": last}, False


_ADDRESS, _DOMAIN = schema.address, schema.domain
_SPELLED = select(_ADDRESS.c.address_id, _ADDRESS.c.local_part, _ADDRESS.c.local_part_raw)
_ITS_DOMAIN = _DOMAIN.c.domain_id == _ADDRESS.c.domain_id
_ADDRESSES = ByKey(
    # Not joined: PostgreSQL would read all domains for a page of addresses.
    _SPELLED.add_columns(select(_DOMAIN.c.name).where(_ITS_DOMAIN).scalar_subquery()),
    _ADDRESS.c.address_id,
    joined=_SPELLED.add_columns(_DOMAIN.c.name).select_from(
        _ADDRESS.outerjoin(_DOMAIN, _ITS_DOMAIN)
    ),
)


def mailboxes(address_ids: Iterable[int], connection: Connection) -> dict[int, str]:
    """Dictionary addresses by id, lossless."""
    return mailboxes_asked(address_ids, connection)()


def mailboxes_asked(
    address_ids: Iterable[int], connection: Connection
) -> Callable[[], dict[int, str]]:
    """What waits for them."""
    asked = _ADDRESSES.asked(sorted(address_ids), connection)
    return lambda: {row[0]: _mailbox(*row) for row in asked()}


def _mailbox(address_id: int, local_part: str | None, raw: bytes | None, name: str | None) -> str:
    text = pseudonym(address_id) if local_part is None else local_part
    if raw is not None:
        text = raw.decode("utf-8", "surrogateescape")
    return text if name is None else f"{text}@{name}"


def pseudonym(address_id: int) -> str:
    """The local part of a person who was erased: which of them, but not who it was."""
    return f"{ERASED}-{address_id:x}"


def _dictionary(
    table: Table, kind: Any, identifiers: set[int], connection: Connection
) -> dict[int, Any]:
    key = next(iter(table.primary_key.columns))
    query = select(key, *(table.c[name] for name in kind._fields))
    return {
        identifier: kind(*values)
        for chunk in chunks(sorted(identifiers))
        for identifier, *values in connection.execute(query.where(key.in_(chunk)))
    }


def _by_record(table: Table, record_ids: Sequence[str], connection: Connection) -> list[Columns]:
    query, names = select(table), table.c.keys()
    return [
        dict(zip(names, row, strict=True))
        for chunk in chunks(list(record_ids))
        for row in connection.execute(query.where(table.c.record_id.in_(chunk))).all()
    ]


# What a message row refers to by an id of its own; one statement brings all of it, since statements
# cost more than rows.  Not the header section: planners would look for it in every partition.
_REFERRED = (
    ("circumstance", schema.circumstance, schema.message.c.circumstance_id, Circumstance),
    ("verdict", schema.verdict, schema.message.c.verdict_id, Verdict),
    ("retention", schema.retention, schema.circumstance.c.retention_id, Retention),
)


def _messages(record_ids: Sequence[str], connection: Connection) -> Iterator[Columns]:
    """Message rows with what they refer to in place of the ids."""
    columns = schema.message.c
    keys = {key.name for _, _, key, _ in _REFERRED}
    own = [column for column in columns if column.name not in keys]
    source: Any = schema.message
    selected: list[Any] = list(own)
    places = []
    for name, table, key, kind in _REFERRED:
        source = source.outerjoin(table, key == table.c[key.name])
        end = len(selected) + len(kind._fields)
        places.append((name, kind, len(selected), end))
        selected += [table.c[field].label(f"{name}_{field}") for field in kind._fields]
    query = select(*selected).select_from(source)
    names = [column.name for column in own]
    for chunk in chunks(list(record_ids)):
        for row in connection.execute(query.where(columns.record_id.in_(chunk))).all():
            made = dict(zip(names, row, strict=False))
            for name, kind, start, end in places:
                # Each of these has a first column that is never null.
                made[name] = None if row[start] is None else kind(*row[start:end])
            yield made


def address_id(address: str, connection: Connection) -> int | None:
    """The dictionary id of an address; None when no record knows it."""
    columns = schema.address.c
    digest = terms.mailbox_hash(terms.mailbox(address))
    query = select(columns.address_id).where(columns.address_hash == digest)
    found: int | None = connection.execute(query).scalar_one_or_none()
    return found
