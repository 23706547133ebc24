"""Addresses and domains that no record names any more leave the dictionary.

Promises: only what took part in records that went is looked at, in bounded batches; a row goes only
if no index leads from it to a record or a line of the mail log, looked up while no batch of records
can be loaded.  Writers remember ids; `taking.announce` makes them forget before they load again, so
no record is left with an id that leads nowhere.  An archive recipient stays, since no index tells
where it is used.

Safe direction: who is interrupted leaves a row that nobody needs.

Does not: clean dictionaries that hold no people (circumstances, routes, verdicts and so on): they
are few and shared.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from sqlalchemy import BigInteger, Connection, Engine, delete, select
from sqlalchemy.dialects import postgresql

from carbonseal.milter.archive import dictionary, packed, postings, schema, terms
from carbonseal.milter.archive.keeping import taking, transactions
from carbonseal.milter.archive.keeping.taking import Held

_AT_ONCE = 200  # addresses, or domains, that are emptied in one transaction
_STREAM = 1000
_SAMPLES, _SAMPLE = 100, 100  # how often, and how many records, to look for archive recipients
_ANY = schema.ANY_ROLE | schema.ANY_ROLE << schema.INDIRECT


class Cleaning:
    """What may be left over after records went."""

    def __init__(self, engine: Engine, protected: frozenset[str]) -> None:
        self._engine = engine
        self._protected_texts = protected
        self._protected: set[int] | None = None
        self._texts: set[str] = set()
        self._ids: set[int] = set()
        self._domains: set[str] = set()
        self.addresses = 0
        self.domains = 0

    def note_records(self, records: Iterable[Held]) -> None:
        """Everybody who took part in these records, which are gone."""
        for one in records:
            self._texts.update(one.parsed.participants)
            self._domains.update(one.parsed.domains)

    def note_addresses(self, address_ids: Iterable[int]) -> None:
        """Those whom lines of the mail log named, which are gone."""
        self._ids.update(address_ids)

    def note_terms(self, elements: frozenset[int]) -> None:
        """Everybody whose terms these are (PostgreSQL, where a month goes unread)."""
        columns = schema.address.c
        query = select(columns.address_id).execution_options(yield_per=_STREAM)
        with self._engine.connect() as connection:
            for address_id in connection.scalars(query):
                if not elements.isdisjoint(postings.with_address(address_id, _ANY)):
                    self._ids.add(address_id)

    def sweep(self) -> None:
        """Delete what nobody refers to, of all that was noted."""
        if not (self._texts or self._ids or self._domains):
            return
        with self._engine.connect() as connection:
            if self._protected is None:
                self._protected = _archive_recipients(connection)
                known = taking.address_ids(self._protected_texts, connection)
                self._protected.update(known.values())
            found = taking.address_ids(self._texts, connection)
            self._domains |= _domains_of(self._ids, connection)
        candidates = sorted((self._ids | set(found.values())) - self._protected)
        self._texts.clear()
        self._ids.clear()
        for chunk in dictionary.chunks(candidates, _AT_ONCE):
            self.addresses += transactions.run(self._engine, partial(self._addresses, chunk))
        domain_ids = sorted(terms.term(name) for name in self._domains)
        self._domains.clear()
        for chunk in dictionary.chunks(domain_ids, _AT_ONCE):
            self.domains += transactions.run(self._engine, partial(self._unused, chunk))

    def _addresses(self, address_ids: Sequence[int], connection: Connection) -> int:
        # Quick for most, without anybody waiting: they are still in use.
        unused = [one for one in address_ids if not _is_used(one, connection)]
        if not unused:
            return 0
        taking.announce(connection)
        unused = [one for one in unused if not _is_used(one, connection)]
        columns = schema.address.c
        connection.execute(delete(schema.address).where(columns.address_id.in_(unused)))
        return len(unused)

    def _unused(self, domain_ids: Sequence[int], connection: Connection) -> int:
        unused = _unused_domains(domain_ids, connection)
        if not unused:
            return 0
        taking.announce(connection)
        unused = _unused_domains(unused, connection)
        columns = schema.domain.c
        connection.execute(delete(schema.domain).where(columns.domain_id.in_(unused)))
        if connection.dialect.name == "postgresql":
            held = schema.role_set
            connection.execute(delete(held).where(held.c.holder_id.in_(unused)))
        return len(unused)


def _unused_domains(domain_ids: Sequence[int], connection: Connection) -> list[int]:
    columns = schema.address.c
    query = select(columns.domain_id).where(columns.domain_id.in_(domain_ids)).distinct()
    named = set(connection.scalars(query))
    return [one for one in domain_ids if one not in named and not _has_part(one, connection)]


def _is_used(address_id: int, connection: Connection) -> bool:
    for table in (schema.delivery_address, schema.waiting_address):
        named = select(table.c.address_id).where(table.c.address_id == address_id).limit(1)
        if connection.execute(named).first() is not None:
            return True
    if connection.dialect.name == "postgresql":
        return _overlaps(postings.with_address(address_id, _ANY), connection)
    columns = schema.participant.c
    query = select(columns.record_id).where(columns.address_id == address_id).limit(1)
    return connection.execute(query).first() is not None


def _has_part(domain_id: int, connection: Connection) -> bool:
    if connection.dialect.name == "postgresql":
        return _overlaps(postings.with_domain(domain_id, _ANY), connection)
    columns = schema.participant_domain.c
    query = select(columns.record_id).where(columns.domain_id == domain_id).limit(1)
    return connection.execute(query).first() is not None


def _overlaps(elements: list[int], connection: Connection) -> bool:
    table = schema.message_terms
    wanted = postgresql.array(elements, type_=BigInteger())
    query = select(table.c.record_id).where(table.c.terms.overlap(wanted)).limit(1)
    return connection.execute(query).first() is not None


def _domains_of(address_ids: Iterable[int], connection: Connection) -> set[str]:
    """Domains of these addresses, and their parents."""
    address, domain = schema.address.c, schema.domain.c
    query = select(domain.name).join(schema.address, address.domain_id == domain.domain_id)
    names: set[str] = set()
    for chunk in dictionary.chunks(sorted(address_ids)):
        names.update(connection.scalars(query.where(address.address_id.in_(chunk)).distinct()))
    return names | {parent for name in names for parent in terms.parent_domains(name)}


def _archive_recipients(connection: Connection) -> set[int]:
    """Ids of archive recipients, in samples from the oldest to the newest record."""
    columns = schema.message.c
    query = select(columns.record_id, columns.recipients).order_by(columns.record_id).limit(_SAMPLE)
    oldest = connection.execute(query.limit(1)).first()
    newest = connection.execute(query.order_by(None).order_by(columns.record_id.desc())).all()
    if oldest is None:
        return set()
    first, last = (_milliseconds(one.record_id) for one in (oldest, newest[0]))
    found = _copies(newest)
    for number in range(_SAMPLES):
        begin = terms.first_record_id(first + (last - first) * number // _SAMPLES)
        found |= _copies(connection.execute(query.where(columns.record_id >= begin)).all())
    return found


def _copies(rows: Iterable[Any]) -> set[int]:
    found: set[int] = set()
    for row in rows:
        with contextlib.suppress(ValueError):  # a damaged row says nothing
            found.update(
                one.address_id
                for one in packed.unpack_recipients(bytes(row.recipients))
                if one.kind == schema.COPY and one.address_id is not None
            )
    return found


def _milliseconds(record_id: str) -> int:
    return int.from_bytes(terms.pack_record_id(record_id)[:6], "big")
