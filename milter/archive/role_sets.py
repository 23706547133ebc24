"""Which sets of roles were ever held at once: a search in arrays asks for no others (PostgreSQL).

A participant has one term for all roles held in a record (`postings`), so that whoever looks for
somebody in any role asks for each set that has the role, in every month.  Most sets are held by
nobody, and most domains hold few.  The table `role_set` says which sets a domain holds, and which
the addresses of all domains do; an address of a domain holds part of what the domain does.

Promises: the sets of a record are in the table when the record is (one transaction), so that a
search finds each record that was committed before it read them.  An archive that is older than the
table has one row in their place, for any set of anybody: there all of them are asked for.

Safe direction: a set too many costs a look-up, one too few hides records.  Sets go only with their
domain (`keeping.cleaning`), when no record names it.

Does not: exist on other engines, whose index tables have the roles in a column.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from carbonseal.milter.archive import schema

# holder_id: no domain.  Should a domain's id be this number, there are merely sets too many.
ANY_ADDRESS = 0
EVERY = 0  # roles: any set, of any holder


def divided(roles: int) -> Iterator[int]:
    """What is held directly and what indirectly: sets of their own, each with a term."""
    direct = roles & schema.ANY_ROLE
    if direct:
        yield direct
    if roles != direct:
        yield roles - direct


def of_record(
    participants: Mapping[int, int], domains: Mapping[int, int]
) -> Iterator[tuple[int, int]]:
    """Holders with all their roles, from those of a record's addresses and domains by id."""
    yield from domains.items()
    for roles in participants.values():
        yield ANY_ADDRESS, roles


def rows(held: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Rows of the table for holders with their roles, in order."""
    return sorted({(holder_id, one) for holder_id, roles in held for one in divided(roles)})


@dataclass(frozen=True, slots=True)
class RoleSets:
    """What the table says of some holders, `ANY_ADDRESS` among them; None: any set, of anybody."""

    _held: Mapping[int, Collection[int]] | None

    def of_domain(self, domain_id: int) -> Collection[int] | None:
        """Sets that it holds; None: any."""
        return None if self._held is None else self._held.get(domain_id, ())

    def of_address(self, domain_id: int | None) -> Collection[int] | None:
        """Sets that an address may hold whose domain that is (None: it has none); None: any."""
        if self._held is None:
            return None
        found = self._held.get(ANY_ADDRESS, ())
        if domain_id is None:
            return found
        # With an extension or without, it is of the domain itself and not of a subdomain.
        whole = [one for one in self._held.get(domain_id, ()) if one <= schema.ANY_ROLE]
        return [one for one in found if any(not _direct(one) & ~of for of in whole)]


def _direct(roles: int) -> int:
    return roles if roles <= schema.ANY_ROLE else roles >> schema.INDIRECT


def told(found: Iterable[tuple[int, int]]) -> RoleSets:
    """From rows of the table."""
    held: dict[int, set[int]] = {}
    for holder_id, roles in found:
        held.setdefault(holder_id, set()).add(roles)
    return RoleSets(None if EVERY in held.get(ANY_ADDRESS, ()) else held)
