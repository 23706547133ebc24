"""Is every record found by what it ought to be found by?

A record whose row in an index was deleted is still there, and no search finds it.

Promises: for each record of a batch, who takes part, domains, words of the subject, and on
PostgreSQL login, crossing, signatures and sets of roles.  A handful of queries for a batch.  Rows
too many in an index are no finding: what they lead to is read before it is shown.

Does not: look for values of header fields that `record.index_headers` names: nobody knows what was
configured when a record was loaded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Table, select

from carbonseal.milter.archive import postings, role_sets, schema, terms
from carbonseal.milter.archive.dictionary import chunks
from carbonseal.milter.archive.rows import Rows


def hidden(batch: Sequence[Rows], connection: Connection) -> dict[str, list[str]]:
    """By record id, the indexes that do not lead to a record; `batch` as `rows.split` made it."""
    if not batch:
        return {}
    ids = _address_ids({name for one in batch for name in one.participants}, connection)
    if connection.dialect.name == "postgresql":
        return _hidden_from_arrays(batch, ids, connection)
    return _hidden_from_tables(batch, ids, connection)


def _hidden_from_tables(
    batch: Sequence[Rows], ids: Mapping[str, int], connection: Connection
) -> dict[str, list[str]]:
    wanted: dict[Table, dict[tuple[int, str], int]] = {
        schema.participant: {},
        schema.participant_domain: {},
        schema.header_term: {},
    }
    for one in batch:
        for identifier, roles in _by_id(one.participants, ids):
            wanted[schema.participant][identifier, one.record_id] = roles
        for name, roles in one.domains.items():
            key = terms.term(name), one.record_id
            found = wanted[schema.participant_domain].get(key, 0)
            wanted[schema.participant_domain][key] = found | roles
        for term_id in one.header_terms:
            wanted[schema.header_term][term_id, one.record_id] = 0
    first, last = min(one.record_id for one in batch), max(one.record_id for one in batch)
    lacking: dict[str, list[str]] = defaultdict(list)
    for table, pairs in wanted.items():
        there = _pairs(table, {what for what, _ in pairs}, (first, last), connection)
        for (what, record_id), roles in pairs.items():
            held = there.get((what, record_id))
            if (held is None or held & roles != roles) and table.name not in lacking[record_id]:
                lacking[record_id].append(table.name)
    return {record_id: names for record_id, names in lacking.items() if names}


def _pairs(
    table: Table, values: Iterable[int], span: tuple[str, str], connection: Connection
) -> dict[tuple[int, str], int]:
    """The index rows of these values that lead to records of the span, with their roles."""
    what, record = list(table.primary_key.columns)
    columns = [what, record, *([table.c.roles] if "roles" in table.c else [])]
    found: dict[tuple[int, str], int] = {}
    for chunk in chunks(sorted(values)):
        query = select(*columns).where(what.in_(chunk), record.between(*span))
        for identifier, record_id, *roles in connection.execute(query):
            found[identifier, record_id] = roles[0] if roles else 0
    return found


def _hidden_from_arrays(
    batch: Sequence[Rows], ids: Mapping[str, int], connection: Connection
) -> dict[str, list[str]]:
    record_ids = [one.record_id for one in batch]
    messages = _arrays(schema.message_terms, record_ids, connection)
    sections = _arrays(schema.header_section_terms, record_ids, connection)
    sets = _role_sets(batch, connection)
    lacking: dict[str, list[str]] = {}
    for one in batch:
        participants = _merged(_by_id(one.participants, ids))
        domains = _merged((terms.term(name), roles) for name, roles in one.domains.items())
        wanted = postings.of_message(
            participants=participants,
            domains=domains,
            login=one.message["login_hash"],
            crossing=one.message["crossing"],
            is_signed=one.message["is_signed"],
        )
        names = []
        if not messages.get(one.record_id, set()).issuperset(wanted):
            names.append("message.terms")
        words = postings.of_header_section(one.header_terms)
        if not sections.get(one.record_id, set()).issuperset(words):
            names.append("header_section.terms")
        held = role_sets.rows(role_sets.of_record(participants, domains))
        if sets is not None and not sets.issuperset(held):
            names.append("role_set")
        if names:
            lacking[one.record_id] = names
    return lacking


def _role_sets(batch: Sequence[Rows], connection: Connection) -> set[tuple[int, int]] | None:
    """The rows of these holders; None where searches ask for any set."""
    columns = schema.role_set.c
    holders = {terms.term(name) for one in batch for name in one.domains}
    found: set[tuple[int, int]] = set()
    for chunk in chunks(sorted(holders | {role_sets.ANY_ADDRESS})):
        query = select(columns.holder_id, columns.roles).where(columns.holder_id.in_(chunk))
        found.update(map(tuple, connection.execute(query)))
    return None if (role_sets.ANY_ADDRESS, role_sets.EVERY) in found else found


def _arrays(table: Any, record_ids: list[str], connection: Connection) -> dict[str, set[int]]:
    query = select(table.c.record_id, table.c.terms)
    return {
        record_id: set(found or ())
        for chunk in chunks(record_ids)
        for record_id, found in connection.execute(query.where(table.c.record_id.in_(chunk)))
    }


def _by_id(held: Mapping[str, int], ids: Mapping[str, int]) -> list[tuple[int, int]]:
    """Ids with roles; an address that has no id is one that no index can lead to (-1)."""
    return [(ids.get(name, -1), roles) for name, roles in held.items()]


def _merged(pairs: Iterable[tuple[int, int]]) -> dict[int, int]:
    found: dict[int, int] = {}
    for identifier, roles in pairs:
        found[identifier] = found.get(identifier, 0) | roles
    return found


def _address_ids(mailboxes: Iterable[str], connection: Connection) -> dict[str, int]:
    by_hash = {terms.mailbox_hash(name): name for name in mailboxes}
    columns = schema.address.c
    return {
        by_hash[bytes(digest)]: identifier
        for chunk in chunks(list(by_hash))
        for digest, identifier in connection.execute(
            select(columns.address_hash, columns.address_id).where(columns.address_hash.in_(chunk))
        )
    }
