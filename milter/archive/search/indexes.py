"""What the index of each engine holds, as leaves: participants, domains, words, logins, crossings.

Promises: the same conditions on all engines, each answered by one index.  SQLite and MariaDB have
tables and columns that are in order of the record id; PostgreSQL has arrays of terms.

Raises: what the database raises.

Does not: know the fields of a search (`compiler` does), or ask the database more than whether a
domain occurs at all.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Protocol, TypeAlias

from sqlalchemy import Connection, and_, select

from carbonseal.milter.archive import postings, schema
from carbonseal.milter.archive.role_sets import RoleSets
from carbonseal.milter.archive.search import conditions
from carbonseal.milter.archive.search.conditions import FALSE, MESSAGE, SECTION, Leaf, Node, Some
from carbonseal.milter.archive.search.wanted import All, Condition, Either, Is, Not

Pairs: TypeAlias = frozenset[tuple[int, bool]]  # of a crossing's number, and signed or not
EACH: Pairs = frozenset(itertools.product(range(len(schema.CROSSINGS)), (False, True)))


class Indexes(Protocol):
    """What an engine can look up."""

    def address(self, identifier: int, domain_id: int | None, roles: int) -> Node:
        """Messages in which an address holds one of these roles."""

    def domain(self, identifier: int, roles: int) -> Node:
        """The same of anybody's address in a domain, or below it."""

    def term(self, identifier: int) -> Node:
        """Messages with a word in their subject, or with a value of a header field."""

    def login(self, digest: int) -> Node:
        """Messages of a login, by its hash."""

    def crossed(self, pairs: Sequence[tuple[int, bool]]) -> Node:
        """Messages of these crossings, signed or not."""


class IndexTables:
    """SQLite and MariaDB: tables and column indexes that end in the record id."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def address(self, identifier: int, domain_id: int | None, roles: int) -> Node:
        """Rows of one participant."""
        return Leaf(
            schema.participant,
            lambda c: and_(c.address_id == identifier, c.roles.bitwise_and(roles) != 0),
            10,
        )

    def domain(self, identifier: int, roles: int) -> Node:
        """Rows of all participants of one domain; nothing, where it has none in whatever role.

        Nobody from there is then no condition at all, as with an address that was never seen.
        """
        columns = schema.participant_domain.c
        some = select(columns.record_id).where(columns.domain_id == identifier).limit(1)
        if self._connection.execute(some).first() is None:
            return FALSE
        return Leaf(
            schema.participant_domain,
            lambda c: and_(c.domain_id == identifier, c.roles.bitwise_and(roles) != 0),
            50,
        )

    def term(self, identifier: int) -> Node:
        """Rows of one word or field value."""
        return Leaf(schema.header_term, lambda c: c.term_id == identifier, 40)

    def login(self, digest: int) -> Node:
        """A column of the message."""
        return Leaf(MESSAGE, lambda c: c.login_hash == digest, 30)

    def crossed(self, pairs: Sequence[tuple[int, bool]]) -> Node:
        """A walk for each pair, which is in order of time."""
        return Some(tuple(_crossed(number, is_signed) for number, is_signed in pairs))


def _crossed(number: int, is_signed: bool) -> Leaf:
    """One index has both: each pair of them is in order of time."""
    return Leaf(
        MESSAGE,
        lambda c: and_(c.crossing == number, c.is_signed == is_signed),
        70,
        crossed=(number, is_signed),
    )


class Arrays:
    """PostgreSQL: elements of the arrays of terms."""

    def __init__(self, sets: RoleSets) -> None:
        self._sets = sets

    def address(self, identifier: int, domain_id: int | None, roles: int) -> Node:
        """An element for each set of roles that the domain ever held."""
        possible = self._sets.of_address(domain_id)
        return _of_any(postings.with_address(identifier, roles, possible), 10)

    def domain(self, identifier: int, roles: int) -> Node:
        """The same."""
        possible = self._sets.of_domain(identifier)
        return _of_any(postings.with_domain(identifier, roles, possible), 50)

    def term(self, identifier: int) -> Node:
        """One element, beside the header section."""
        return conditions.of_array(SECTION, postings.with_word(identifier), 40)

    def login(self, digest: int) -> Node:
        """One element."""
        return conditions.of_array(MESSAGE, postings.with_login(digest), 30)

    def crossed(self, pairs: Sequence[tuple[int, bool]]) -> Node:
        """All pairs in one scan."""
        if not pairs:
            return FALSE
        return conditions.of_array(MESSAGE, postings.with_crossed(pairs), 60 + 5 * len(pairs))


def _of_any(elements: Sequence[int], rank: int) -> Node:
    return conditions.of_array(MESSAGE, elements, rank) if elements else FALSE


def crossings(condition: Condition) -> Pairs | None:
    """The crossings, signed and unsigned, that meet it; None where it asks for something else."""
    match condition:
        case Is("crossing", value):
            return frozenset(one for one in EACH if schema.CROSSINGS[one[0]] == value)
        case Is("signed", value):
            return frozenset(one for one in EACH if one[1] == (value == "yes"))
        case Not(of):
            pairs = crossings(of)
            return None if pairs is None else EACH - pairs
        case All(of) | Either(of):
            found = [pairs for one in of if (pairs := crossings(one)) is not None]
            if not of or len(found) < len(of):
                return None
            start, merge = (
                (EACH, frozenset.intersection)
                if isinstance(condition, All)
                else (frozenset[tuple[int, bool]](), frozenset.union)
            )
            return functools.reduce(merge, found, start)
    return None
