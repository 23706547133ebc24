"""Ids of what many messages share: addresses, domains, circumstances, routes, verdicts and such.

Promises: `ids` answers for any number of values with one query and one insert per table and batch;
what it has answered before costs nothing.  Ids learned in a transaction that fails are forgotten
with it.  Memory is bounded: the values unused for longest go first.

An id is made from the value itself, except for an address: that id is random, so that it says
nothing about the person once the dictionary row is emptied.

Does not: begin or end transactions.
"""

from __future__ import annotations

import json
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from sqlalchemy import Connection, Insert, Table, func, select
from sqlalchemy.dialects import mysql, postgresql, sqlite

from carbonseal.milter.archive import inserting, role_sets, schema, terms
from carbonseal.milter.archive.parts import Circumstance, Retention, Route, SigningForm
from carbonseal.milter.archive.verdicts import Verdict

Item = TypeVar("Item")

CAPACITY = 10_000  # values remembered per table; about 250 octets each
VALUES = 500  # in one statement; every engine takes as many parameters


def insert_missing(table: Table, connection: Connection) -> Insert:
    """An insert that leaves rows that are there already as they are."""
    name = connection.dialect.name
    if name == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing()
    if name in ("mysql", "mariadb"):
        key = next(iter(table.primary_key.columns))
        # INSERT IGNORE would also ignore values that do not fit.
        return mysql.insert(table).on_duplicate_key_update({key.name: key})
    return sqlite.insert(table).on_conflict_do_nothing()


class _Known:
    """Ids by value, the least recently used forgotten first."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._ids: OrderedDict[Any, int] = OrderedDict()

    def of(self, values: Iterable[Any]) -> tuple[dict[Any, int], list[Any]]:
        """The ids of those that are known, and the others."""
        ids, use = self._ids, self._ids.move_to_end
        found, others = {}, []
        for value in values:
            if value in ids:
                use(value)
                found[value] = ids[value]
            else:
                others.append(value)
        return found, others

    def clear(self) -> None:
        self._ids.clear()

    def update(self, fresh: Mapping[Any, int]) -> None:
        self._ids.update(fresh)
        while len(self._ids) > self._capacity:
            self._ids.popitem(last=False)


class Dictionary:
    """All dictionaries of one database."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._known = {name: _Known(capacity) for name in _LEARN}
        self._fresh: dict[str, dict[Any, int]] = {name: {} for name in _LEARN}
        self._epoch: int | None = None

    def ids(self, name: str, values: Iterable[Any], connection: Connection) -> dict[Any, int]:
        """The id of each value in table `name`; unknown values are added to it."""
        known, fresh = self._known[name], self._fresh[name]
        answer, missing = known.of(values if isinstance(values, set) else set(values))
        if fresh:  # what was learned in this transaction
            answer |= {value: fresh[value] for value in missing if value in fresh}
            missing = [value for value in missing if value not in fresh]
        if missing:
            learned = _LEARN[name](missing, connection, self)
            fresh.update(learned)
            answer.update(learned)
        return answer

    def refresh(self, connection: Connection) -> None:
        """Forget everything if rows were taken out of dictionaries since; first in a transaction.

        Whoever takes rows out counts that first, and waits for all who have read the count.
        """
        query = select(schema.dictionary_epoch.c.epoch)
        if connection.dialect.name in ("mysql", "mariadb"):
            query = query.with_for_update(read=True)
        epoch = connection.execute(query).scalar_one()
        if epoch != self._epoch:
            for known in self._known.values():
                known.clear()
            self._epoch = epoch

    def keep(self) -> None:
        """The transaction was committed: what it learned is true."""
        for name, fresh in self._fresh.items():
            self._known[name].update(fresh)
            fresh.clear()

    def forget(self) -> None:
        """The transaction was rolled back: what it learned may not be there."""
        for fresh in self._fresh.values():
            fresh.clear()


def _learn_addresses(
    mailboxes: list[str], connection: Connection, dictionary: Dictionary
) -> dict[str, int]:
    hashes = {mailbox: terms.mailbox_hash(mailbox) for mailbox in mailboxes}
    by_hash = {digest: mailbox for mailbox, digest in hashes.items()}
    found = _address_ids(list(by_hash), connection)
    # In one order everywhere, so that two writers wait for each other instead of deadlocking.
    absent = sorted(by_hash.keys() - found.keys())
    if absent:
        parts = {digest: _address_parts(by_hash[digest]) for digest in absent}
        domains = {domain for domain, _, _ in parts.values() if domain}
        domain_ids = dictionary.ids("domain", domains, connection)
        rows = [
            (number, digest, domain_ids.get(domain), shown, raw, None)
            for number, (digest, (domain, shown, raw)) in zip(
                _random(len(parts)), parts.items(), strict=True
            )
        ]
        inserting.execute(insert_missing(schema.address, connection), rows, connection)
        if connection.dialect.name == "sqlite":  # which has one writer at a time
            found |= {digest: address_id for address_id, digest, *_ in rows}
        else:
            # Asked again, because another writer may have been first.
            found |= _address_ids(absent, connection)
    # Two texts can be the same octets, and so the same address.
    return {mailbox: found[digest] for mailbox, digest in hashes.items()}


def _random(count: int) -> list[int]:
    """So many numbers of 63 bits, for one call of the system."""
    octets = secrets.token_bytes(8 * count)
    return [
        int.from_bytes(octets[start : start + 8], "big") >> 1 for start in range(0, 8 * count, 8)
    ]


def _address_ids(hashes: list[bytes], connection: Connection) -> dict[bytes, int]:
    columns = schema.address.c
    found: dict[bytes, int] = {}
    for chunk in chunks(hashes):
        query = select(columns.address_hash, columns.address_id).where(
            columns.address_hash.in_(chunk)
        )
        found |= {bytes(digest): address_id for digest, address_id in connection.execute(query)}
    return found


def _address_parts(mailbox: str) -> tuple[str, str, bytes | None]:
    """Domain, local part, and its octets where they differ."""
    text, at, domain = mailbox.rpartition("@")
    if not (at and domain):  # unqualified: rpartition leaves all of it in the last part
        text, domain = mailbox, ""
    shown = terms.storable(text)
    return domain, shown, None if shown == text else terms.octets(text)


def _learn_domains(
    names: list[str], connection: Connection, _dictionary: Dictionary
) -> dict[str, int]:
    ids = {name: terms.term(name) for name in names}
    rows = [{"domain_id": ids[name], "name": name} for name in sorted(names, key=ids.__getitem__)]
    connection.execute(insert_missing(schema.domain, connection), rows)
    return ids


def _learn_months(
    months: list[Any], connection: Connection, _dictionary: Dictionary
) -> dict[Any, int]:
    """Partitions, of which we remember the same way that they are there; see `partitions`."""
    for month in sorted(months):
        connection.execute(select(func.carbonseal_partition(month)))
    return dict.fromkeys(months, 0)


def _learn_role_sets(
    held: list[tuple[int, int]], connection: Connection, _dictionary: Dictionary
) -> dict[tuple[int, int], int]:
    """Of these we remember that they are written down, too; see `role_sets`."""
    statement = insert_missing(schema.role_set, connection)
    inserting.execute(statement, role_sets.rows(held), connection)
    return dict.fromkeys(held, 0)


def _learner(
    table: Table, key: str
) -> Callable[[list[Any], Connection, Dictionary], dict[Any, int]]:
    """For tables whose rows are named tuples and whose key is made from them."""

    def learn(values: list[Any], connection: Connection, _dictionary: Dictionary) -> dict[Any, int]:
        ids = {value: terms.term(json.dumps(value)) for value in values}
        rows = [
            {key: ids[value], **value._asdict()} for value in sorted(values, key=ids.__getitem__)
        ]
        connection.execute(insert_missing(table, connection), rows)
        return ids

    return learn


_LEARN: Mapping[str, Callable[[list[Any], Connection, Dictionary], dict[Any, int]]] = {
    "address": _learn_addresses,
    "domain": _learn_domains,
    "month": _learn_months,
    "role_set": _learn_role_sets,
    Circumstance.__name__: _learner(schema.circumstance, "circumstance_id"),
    Route.__name__: _learner(schema.route, "route_id"),
    SigningForm.__name__: _learner(schema.signing_form, "form_id"),
    Verdict.__name__: _learner(schema.verdict, "verdict_id"),
    Retention.__name__: _learner(schema.retention, "retention_id"),
}


def chunks(items: list[Item], size: int = VALUES) -> Iterator[list[Item]]:
    """`items` in pieces of at most `size`: values that every engine takes in one statement."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
