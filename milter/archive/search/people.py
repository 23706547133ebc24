"""Who is asked for, as the archive's dictionary knows them.

Promises: one statement for all addresses of a search, whatever their number, and on PostgreSQL for
the roles that they may hold as well.  An address that the archive never saw has no id.

Raises: what the database raises.

Does not: say what a role means (`fields`), or make conditions (`compiler`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Connection,
    Text,
    any_,
    bindparam,
    cast,
    null,
    select,
    union_all,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import TypeEngine

from carbonseal.milter.archive import as_given, retrieve, role_sets, schema, terms
from carbonseal.milter.archive.as_given import AsGiven
from carbonseal.milter.archive.role_sets import RoleSets
from carbonseal.milter.archive.search import fields
from carbonseal.milter.archive.search.wanted import Condition, leaves


class Who(NamedTuple):
    """An address, or everybody of a domain."""

    digest: bytes | None  # of the address
    domain_id: int | None  # None: the address has no domain


def asked_for(condition: Condition) -> Iterator[Who]:
    """Everybody who is asked for."""
    for one in leaves(condition):
        value = one.value
        if one.field not in fields.FIELDS or not fields.FIELDS[one.field].roles or value == "<>":
            continue
        if one.field == "domain" or value.startswith("@"):
            name = value if one.field == "domain" else value[1:]
            yield Who(None, terms.term(name.removeprefix(".")))
        else:
            yield person(base(value)[0])


def person(address: str) -> Who:
    """Somebody by address, in whatever spelling."""
    mailbox = terms.mailbox(address)
    _, at, domain = mailbox.rpartition("@")
    return Who(terms.mailbox_hash(mailbox), terms.term(domain) if at and domain else None)


def known(people: Iterable[Who], connection: Connection) -> dict[bytes | None, int]:
    """The dictionary ids of all addresses asked for, by their hash."""
    hashes = {one.digest for one in people if one.digest is not None}
    found = _ADDRESSES.as_given(sorted(hashes), connection) if hashes else ()
    return {bytes(digest): identifier for digest, identifier in found}


def known_with_roles(
    people: Sequence[Who], connection: Connection
) -> tuple[dict[bytes | None, int], RoleSets]:
    """The same in one statement with what roles they may hold."""
    hashes = {one.digest for one in people if one.digest is not None}
    holders = {one.domain_id for one in people if one.domain_id is not None}
    ids: dict[bytes | None, int] = {}
    sets = []
    if people:
        given = {
            "hashes": as_given.array_text(sorted(hashes)) if hashes else "{}",
            "holders": as_given.array_text(sorted(holders | {role_sets.ANY_ADDRESS})),
        }
        for identifier, digest, roles in _WITH_ROLE_SETS.rows(given, connection):
            if digest is None:
                sets.append((identifier, roles))
            else:
                ids[bytes(digest)] = identifier
    return ids, role_sets.told(sets)


_ADDRESSES = retrieve.ByKey(
    select(schema.address.c.address_hash, schema.address.c.address_id),
    schema.address.c.address_hash,
)


def _array(name: str, kind: TypeEngine[Any]) -> ColumnElement[Any]:
    return cast(bindparam(name, type_=Text()), postgresql.ARRAY(kind))


def _with_role_sets() -> CompoundSelect[Any]:
    address, held = schema.address.c, schema.role_set.c
    hashes = _array("hashes", address.address_hash.type)
    holders = _array("holders", held.holder_id.type)
    return union_all(
        select(address.address_id, address.address_hash, null()).where(
            address.address_hash == any_(hashes)
        ),
        select(held.holder_id, null(), held.roles).where(held.holder_id == any_(holders)),
    )


_WITH_ROLE_SETS = AsGiven(_with_role_sets())


def base(value: str) -> tuple[str, bool]:
    """The mailbox that is asked for, and whether with its extensions."""
    local_part, at, domain = value.rpartition("@")
    if at and local_part.endswith("+*"):
        return f"{local_part[:-2]}@{domain}", True
    return value, False
