"""Taking records, header sections and subjects out of SQL, one batch in one transaction.

Promises: with the rows of a record go those of its indexes; what is taken out is written down in
`tombstone` in the same transaction, place by place, so that evidence can tell it from loss.  A
record that stays in part is put back through the loader, so that rows and indexes look as if it had
always been so.  Nothing is lost between: who is interrupted leaves whole batches.

Safe direction: an index row too many is harmless and one too few hides a record, so what is to be
deleted from the indexes is reckoned generously, and what is put back by the loader itself.

Does not: decide what goes (`retain`, `erase`), look at holds, or begin and end transactions.
"""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Table, bindparam, delete, insert, select, update

from carbonseal.milter.archive import derive, dictionary, loader, retrieve, rows, schema, terms
from carbonseal.milter.archive.evidence import leaf, positions
from carbonseal.milter.archive.loader import Arrival
from carbonseal.milter.archive.rows import Rows

RECORD, HEADER, SUBJECT = 0, 1, 2  # tombstone.part
_TOKEN = re.compile(r"erased-([0-9a-f]{1,16})(?:@.*)?", re.DOTALL)
# Columns of a message that are read from its header section and outlive it: facts about the
# envelope's story (who wrote it, under which identifier), no text.
_OUTLIVE = ("author_count", "author", "author_spelling", "message_id_hash")

Record = dict[str, Any]
Line = tuple[int, int]  # segment id and position


@dataclass(frozen=True, slots=True)
class Held:
    """A record as SQL has it."""

    record_id: str
    line: Line
    rows: Rows
    content: Record  # header_fields is None where the header section is gone
    parsed: Rows  # read anew from the content: by what it is found

    @property
    def has_header(self) -> bool:
        """Whether the header section is still there."""
        return self.content["header_fields"] is not None


@dataclass(frozen=True, slots=True)
class Changed:
    """A record that stays in another form."""

    before: Held
    content: Record
    message_salt: bytes | None
    header_salt: bytes | None
    has_header: bool


class Ids(dictionary.Dictionary):
    """The dictionaries as the loader wants them, with the ids of erased people by their token."""

    def ids(self, name: str, values: Iterable[Any], connection: Connection) -> dict[Any, int]:
        """As Dictionary.ids; an erased person's token is that person's id."""
        if name != "address":
            return super().ids(name, values, connection)
        texts = set(values)
        found = tokens(texts, connection)
        return found | super().ids(name, texts - found.keys(), connection)


def token(address_id: int, domain: str | None) -> str:
    """What stands for the mailbox of an erased person."""
    text = retrieve.pseudonym(address_id)
    return text if domain is None else f"{text}@{domain}"


def tokens(texts: Iterable[str], connection: Connection) -> dict[str, int]:
    """The ids behind texts that are tokens of erased people; other texts are left out."""
    named = {text: int(found[1], 16) for text in texts if (found := _TOKEN.fullmatch(text))}
    columns = schema.address.c
    erased: set[int] = set()
    for chunk in dictionary.chunks(sorted(set(named.values()))):
        query = select(columns.address_id).where(
            columns.address_id.in_(chunk), columns.erased_at.is_not(None)
        )
        erased.update(connection.scalars(query))
    return {text: address_id for text, address_id in named.items() if address_id in erased}


def fetch(record_ids: Sequence[str], connection: Connection) -> list[Held]:
    """These records as they are now; those that are gone are left out."""
    columns = schema.message.c
    lines: dict[str, Line] = {}
    query = select(columns.record_id, columns.segment_id, columns.position)
    for chunk in dictionary.chunks(list(record_ids)):
        for record_id, *line in connection.execute(query.where(columns.record_id.in_(chunk))):
            lines[record_id] = (line[0], line[1])
    found = retrieve.retrieve(list(record_ids), connection, with_fields=True)
    return [_held(one, lines[one.record_id]) for one in found]


def _held(stored: Rows, line: Line) -> Held:
    content = rows.join(stored)
    readable = _splittable(content, stored)
    # Every name, as nobody knows which were configured when the record was loaded.
    names = frozenset(name.strip().lower() for name, _ in readable["header_fields"])
    parsed = rows.split(readable, names | derive.INDEXED)
    return Held(stored.record_id, line, stored, content, parsed)


def remove(records: Sequence[Held], connection: Connection) -> None:
    """Delete records with all that belongs to them."""
    if not records:
        return
    _unindex(records, connection)
    ids = [one.record_id for one in records]
    for table in (schema.header_section, schema.message, schema.redaction):
        for chunk in dictionary.chunks(ids):
            connection.execute(delete(table).where(table.c.record_id.in_(chunk)))


def replace(
    changes: Sequence[Changed], connection: Connection, ids: Ids, *, indexed: frozenset[str]
) -> None:
    """Put records in their new form where the old ones were."""
    if not changes:
        return
    _unindex([one.before for one in changes], connection)
    record_ids = [one.before.record_id for one in changes]
    for table in (schema.header_section, schema.message):
        for chunk in dictionary.chunks(record_ids):
            connection.execute(delete(table).where(table.c.record_id.in_(chunk)))
    arrivals = [Arrival(*one.before.line, _rows(one, indexed)) for one in changes]
    loader.load(arrivals, connection, ids)
    headless = [one.before.record_id for one in changes if not one.has_header]
    for chunk in dictionary.chunks(headless):
        table = schema.header_section
        connection.execute(delete(table).where(table.c.record_id.in_(chunk)))


def _rows(change: Changed, indexed: frozenset[str]) -> Rows:
    """The rows of the new form."""
    content = _splittable(change.content, change.before.rows)
    if "salt" in content:  # the salts are given; those of before must stand nowhere
        content = {**content, "salt": None}
    made = rows.split(content, indexed)
    made.message["salt"] = change.message_salt
    made.header_section["salt"] = change.header_salt
    if not change.has_header:
        made.header_terms = ()
        for name in _OUTLIVE:
            made.message[name] = change.before.rows.message[name]
    if not made.header_section["subject"]:
        made.header_section["subject"] = None
    return made


def _splittable(content: Record, stored: Rows) -> Record:
    """The record with a header section from which the author can be read.

    The author outlives the header section, in the message row and in the index.
    """
    if content["header_fields"] is not None:
        return content
    author = stored.message["author"]
    return {**content, "header_fields": [["From", f" <{author}>"]] if author else []}


def _unindex(records: Sequence[Held], connection: Connection) -> None:
    """Delete the rows that lead to these records in the tables that are indexes."""
    if connection.dialect.name == "postgresql":
        return  # they are in the rows themselves
    keys: dict[Table, list[tuple[int, str]]] = defaultdict(list)
    texts = {text for one in records for text in one.parsed.participants}
    addresses = address_ids(texts, connection)
    for one in records:
        found = (addresses.get(text) for text in one.parsed.participants)
        keys[schema.participant] += [(term, one.record_id) for term in found if term is not None]
        keys[schema.participant_domain] += [
            (terms.term(name), one.record_id) for name in one.parsed.domains
        ]
        keys[schema.header_term] += [(term, one.record_id) for term in one.parsed.header_terms]
    for table, pairs in keys.items():
        what, record = list(table.primary_key.columns)
        for chunk in dictionary.chunks(sorted(set(pairs))):
            _delete_pairs(table, what, record, chunk, connection)


def _delete_pairs(
    table: Table, what: Any, record: Any, pairs: list[tuple[int, str]], connection: Connection
) -> None:
    # One statement for many values each; a comparison of pairs finds no index on MariaDB.
    connection.execute(
        delete(table).where(what == _bound("b_what", what), record == _bound("b_record", record)),
        [{"b_what": term, "b_record": record_id} for term, record_id in pairs],
    )


def _bound(name: str, column: Any) -> Any:
    return bindparam(name, type_=column.type)


def address_ids(texts: Iterable[str], connection: Connection) -> dict[str, int]:
    """The dictionary ids of mailboxes that are there, tokens of erased people included."""
    wanted = set(texts)
    found = tokens(wanted, connection)
    by_hash = {terms.mailbox_hash(text): text for text in wanted - found.keys()}
    columns = schema.address.c
    for chunk in dictionary.chunks(list(by_hash)):
        query = select(columns.address_hash, columns.address_id).where(
            columns.address_hash.in_(chunk)
        )
        for digest, address_id in connection.execute(query):
            found[by_hash[bytes(digest)]] = address_id
    return found


def announce(connection: Connection) -> None:
    """Make writers forget what they remember of dictionaries, before their next batch.

    From here to the end of the transaction no batch can be loaded (see `Dictionary.refresh`).
    """
    if connection.dialect.name == "postgresql":
        # Whoever loads has read this table in his transaction.
        connection.exec_driver_sql("LOCK TABLE dictionary_epoch IN ACCESS EXCLUSIVE MODE")
    table = schema.dictionary_epoch
    connection.execute(update(table).values(epoch=table.c.epoch + 1))


def bury(lines: Iterable[Line], part: int, event: int, connection: Connection) -> None:
    """Write down what was taken out: add these places to the tombstones of the event."""
    table = schema.tombstone
    places: dict[int, set[int]] = defaultdict(set)
    for segment_id, position in lines:
        places[segment_id].add(position)
    for segment_id in sorted(places):
        key = (
            table.c.event == event,
            table.c.segment_id == segment_id,
            table.c.part == part,
        )
        before = connection.execute(select(table.c.positions).where(*key)).scalar_one_or_none()
        if before is None:
            packed = positions.pack(places[segment_id])
            row = {"event": event, "segment_id": segment_id, "part": part, "positions": packed}
            connection.execute(insert(table), row)
        else:
            packed = positions.pack(places[segment_id] | positions.unpack(bytes(before)))
            connection.execute(update(table).where(*key).values(positions=packed))


def without_subject(held: Held, event: int, connection: Connection) -> Changed:
    """The record without its subject; each field of it keeps its place, with an empty value."""
    fields = [
        [name, "" if leaf.is_subject(name) else value]
        for name, value in held.content["header_fields"]
    ]
    content = {**held.content, "header_fields": fields}
    known = salts(held, connection)
    header_salt = leaf.header_salt_without_subject(held.content, known)
    if header_salt is None:  # it has no salts of its own: unsalted, or a person was erased from it
        redact(held, known, {leaf.SUBJECT}, event, connection)
        return Changed(held, content, None, None, has_header=True)
    return Changed(held, content, held.rows.message["salt"], header_salt, has_header=True)


def without_person(held: Held, content: Record, event: int, connection: Connection) -> Changed:
    """The record as `content`, from which a person was erased; what is left stays provable."""
    changed = Changed(held, content, None, None, has_header=held.has_header)
    redact(held, salts(held, connection), changed_parts(changed), event, connection)
    return changed


def changed_parts(change: Changed) -> set[str]:
    """Names of the parts, as evidence knows them, that are not what they were."""
    before, after = _parts(change.before.content), _parts(change.content)
    return {name for name, value in before.items() if after.get(name) != value}


def _parts(content: Record) -> dict[str, Any]:
    found = leaf.parts(content)
    if content["header_fields"] is not None:
        found |= leaf.header_parts(content["header_fields"])
    return found


def without_header(held: Held, event: int, connection: Connection) -> Changed:
    """The record without its header section, whose salts go with it."""
    content = {**held.content, "header_fields": None}
    if is_redacted(held.record_id, connection):
        known = salts(held, connection)
        redact(dataclasses.replace(held, content=content), known, set(), event, connection)
    return Changed(held, content, held.rows.message["salt"], None, has_header=False)


def salts(held: Held, connection: Connection) -> leaf.Salts:
    """The salts that are left of a record."""
    columns = schema.redaction.c
    query = select(columns.evidence).where(columns.record_id == held.record_id)
    evidence = connection.execute(query).scalar_one_or_none()
    header_salt = held.rows.header_section.get("salt")
    return leaf.stored_salts(held.rows.message["salt"], header_salt, evidence)


def is_redacted(record_id: str, connection: Connection) -> bool:
    """Whether a person was erased from the record, or its subject in that way."""
    columns = schema.redaction.c
    query = select(columns.record_id).where(columns.record_id == record_id)
    return connection.execute(query).first() is not None


def redact(
    held: Held, known: leaf.Salts, gone: set[str], event: int, connection: Connection
) -> None:
    """Write down what is left of the evidence of a record whose parts `gone` are taken out."""
    table = schema.redaction
    evidence = leaf.redact(held.content, known, gone, has_header=held.has_header)
    values = {"record_id": held.record_id, "event": event, "evidence": evidence}
    connection.execute(delete(table).where(table.c.record_id == held.record_id))
    connection.execute(insert(table), values)
