"""What the mail log tells of a record after a person was erased from it: without the person.

A follower that lags, or reads a log again, tells of people whom the archive has forgotten.  The
audit has the hash of each mailbox that was erased, and the record still has the pseudonym; so who
is named in such a line is known by the hash, and gets that pseudonym.

Promises: a line of a record from which nobody was erased costs nothing, and is as it was.  What is
left of a line that names an erased person can be proven (`evidence.event_leaf`), as if it had been
there when the person was erased.  A mailbox that takes part in the record itself is nobody erased.

Safe direction: where the audit cannot be read the line comes in as it is, and `erase --check` says
that the mailbox is there again.

Does not: know people whom a line names in its texts only, or lines that wait for their record.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection, select

from carbonseal.milter.archive import (
    audit_place,
    database,
    delivery_facts,
    event_line,
    retrieve,
    schema,
    terms,
)
from carbonseal.milter.archive.dictionary import chunks
from carbonseal.milter.archive.event_line import EventLine
from carbonseal.milter.archive.evidence import event_leaf, leaf
from carbonseal.milter.archive.keeping import person
from carbonseal.milter.archive.keeping.person import Person

_ACTION = "erase"
_PATIENCE = 5.0  # seconds; additions to the audit are short


class Erasure(NamedTuple):
    """One erasure, as the audit has it."""

    event: int
    at: int  # microseconds since 1970
    digest: str  # of the mailbox, as terms.mailbox_hash in hexadecimal digits
    with_extensions: bool


class Redacted(NamedTuple):
    """A line without erased people."""

    line: EventLine
    redaction: str
    ids: dict[str, int]  # of the pseudonyms in it


def erasures(record_ids: Sequence[str], connection: Connection) -> dict[str, list[Erasure]]:
    """Erasures that may be of these records, oldest first; no key where nobody was erased."""
    last: dict[str, int] = {}
    rows, lines = schema.redaction.c, schema.delivery.c
    for chunk in chunks(list(record_ids)):
        query = select(rows.record_id, rows.event).where(rows.record_id.in_(chunk))
        for record_id, event in connection.execute(query):
            last[record_id] = event
        told = select(lines.record_id, lines.redaction).where(
            lines.record_id.in_(chunk), lines.redaction.is_not(None)
        )
        for record_id, redaction in connection.execute(told):
            with contextlib.suppress(ValueError):  # `verify` says so
                event = event_leaf.stored(None, redaction)[1] or 0
                last[record_id] = max(event, last.get(record_id, 0))
    if not last:
        return {}
    known = _known(max(last.values()), connection)
    numbers = {one.event for one in known}  # retention redacts as well
    return {
        # A record has the last of its erasures only.
        record_id: [one for one in known if one.event <= event]
        for record_id, event in last.items()
        if event in numbers
    }


def _known(last: int, connection: Connection) -> list[Erasure]:
    """All erasures up to an event of the audit."""
    columns = schema.audit.c
    rows: Iterable[Any]
    if connection.dialect.name == "sqlite":
        rows = _in_file(Path(database.place(connection.engine.url)), last)
    else:
        query = select(columns.number, columns.at, columns.detail).where(
            columns.action == _ACTION, columns.number <= last
        )
        rows = connection.execute(query.order_by(columns.number)).all()
    found = []
    for number, at, detail in rows:
        try:
            said = json.loads(detail)
            if said["apply"] is True:
                digest, is_wide = said["mailbox_sha256_16"], said["with_extensions"] is True
                found.append(Erasure(number, at, digest, is_wide))
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # of another program
    return found


def _in_file(archive: Path, last: int) -> list[Any]:
    """The same beside an SQLite archive."""
    path = audit_place.audit_file(archive).absolute()
    try:
        with contextlib.closing(
            sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=_PATIENCE)
        ) as audit:
            query = (
                "SELECT number, at, detail FROM audit WHERE action = ? AND number <= ? "
                "ORDER BY number"
            )
            return audit.execute(query, (_ACTION, last)).fetchall()
    except sqlite3.Error:
        return []


def without(
    line: EventLine,
    record_id: str,
    taking_part: Collection[int],
    known: Sequence[Erasure],
    connection: Connection,
) -> Redacted | None:
    """The line without whoever was erased from its record; None where it names nobody of them.

    `taking_part`: ids of addresses of the record; `known`: from `erasures`.
    """
    named = {terms.mailbox(text) for text in delivery_facts.addresses(line.facts)}
    erased = {text: found for text in sorted(named) if (found := _of(text, known)) is not None}
    for text in _living(erased, taking_part, connection):
        del erased[text]
    if not erased:
        return None
    ids, tokens = {}, {}
    for text, one in erased.items():
        domain = text.rpartition("@")[2]
        address_id = _emptied(domain, one, record_id, taking_part, connection)
        name = retrieve.ERASED if address_id is None else retrieve.pseudonym(address_id)
        tokens[text] = f"{name}@{domain}"
        if address_id is not None:
            ids[tokens[text]] = address_id
    facts: Any = list(line.facts)
    rest: Any = dict(line.rest)
    for text in erased:
        who = Person(text)
        facts = person.erased_from(facts, who, tokens)
        rest = person.erased_from(rest, who, tokens)
    before = event_line.content(line.relay, line.queue_id, line.facts, line.rest)
    now = event_leaf.parts({**before, "facts": facts} | rest)
    gone = {part for part, value in event_leaf.parts(before).items() if now.get(part) != value}
    event = max(one.event for one in erased.values())
    redaction = event_leaf.redact(before, event_leaf.Salts(line.salt), gone, event)
    return Redacted(
        event_line.stored(line.relay, line.queue_id, facts, None, rest),
        leaf.canonical(redaction).decode("ascii"),
        ids,
    )


def _of(mailbox: str, known: Sequence[Erasure]) -> Erasure | None:
    """The last erasure of a mailbox."""
    if not mailbox.rpartition("@")[0]:
        return None
    digest = terms.mailbox_hash(mailbox).hex()
    base = terms.mailbox_hash(terms.without_extension(mailbox)).hex()
    for one in reversed(known):
        if one.digest == digest or (one.with_extensions and one.digest == base):
            return one
    return None


def _living(
    mailboxes: Iterable[str], taking_part: Collection[int], connection: Connection
) -> list[str]:
    """Those of the mailboxes that take part under their own name."""
    by_hash = {terms.mailbox_hash(text): text for text in mailboxes}
    columns = schema.address.c
    found = []
    for chunk in chunks(list(by_hash)):
        query = select(columns.address_hash, columns.address_id).where(
            columns.address_hash.in_(chunk)
        )
        for digest, address_id in connection.execute(query):
            if address_id in taking_part:
                found.append(by_hash[bytes(digest)])
    return found


def _emptied(
    domain: str,
    erasure: Erasure,
    record_id: str,
    taking_part: Collection[int],
    connection: Connection,
) -> int | None:
    """The id of whom an erasure took out of a record; None where it is not certain."""
    told = schema.delivery_address.c
    query = select(told.address_id).where(told.record_id == record_id)
    ids = {*taking_part, *connection.scalars(query)}
    columns = schema.address.c
    by_time: dict[int, list[int]] = defaultdict(list)
    for chunk in chunks(sorted(ids)):
        rows = select(columns.address_id, columns.erased_at).where(
            columns.address_id.in_(chunk),
            columns.address_hash.is_(None),
            columns.erased_at >= erasure.at,
            columns.domain_id == terms.term(domain),
        )
        for address_id, erased_at in connection.execute(rows):
            by_time[erased_at].append(address_id)
    if not by_time:
        return None
    first = by_time[min(by_time)]  # whoever was erased later was so by another event
    return first[0] if len(first) == 1 else None
