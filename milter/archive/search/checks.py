"""What no index decides exactly: the stored header section, and what became of the message.

Promises: each check is a plain function of one candidate; `Candidates` fetches what checks ask for,
for a page of them at once, and nothing that none asks for.  How a message stands is decided from
all facts: what was deferred and delivered later is not deferred any more.

Does not: know conditions (`conditions`), or find candidates (`walk`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol, TypeAlias

from sqlalchemy import Connection, select

from carbonseal.milter.archive import header_store, schema, terms
from carbonseal.milter.archive.dictionary import chunks
from carbonseal.milter.archive.search import standing
from carbonseal.policies import delivery, header_fields
from carbonseal.policies.delivery import State, Story

Fields: TypeAlias = Sequence[tuple[str, str]]  # the header section of a candidate

_UNTOLD: Final = delivery.told((), ())
# What people ask of archive copies, and the states that it means.
COPY_STATES: Final = {
    "delivered": frozenset((State.DELIVERED,)),
    "deferred": frozenset((State.DEFERRED, State.HELD)),
    "lost": frozenset((State.BOUNCED, State.EXPIRED, State.DELETED, State.REFUSED)),
    "missing": frozenset((State.OFFERED, State.QUEUED, State.UNKNOWN)),
}


class Candidate(Protocol):
    """What is known of one record."""

    @property
    def header(self) -> Fields:
        """Its header section; none where that has gone."""

    @property
    def story(self) -> Story:
        """What became of it."""


IsSo: TypeAlias = Callable[[Candidate], bool]
IsOurs: TypeAlias = Callable[[str], bool]  # of an address


class Candidates:
    """A page of records, of which header sections and stories are fetched when first asked for."""

    def __init__(self, record_ids: Sequence[str], connection: Connection) -> None:
        self._record_ids = record_ids
        self._connection = connection

    def __getitem__(self, record_id: str) -> Candidate:
        return _One(self, record_id)

    @functools.cached_property
    def headers(self) -> dict[str, bytes]:
        """The stored header sections."""
        columns = schema.header_section.c
        query = select(columns.record_id, columns.fields)
        return {
            row[0]: row[1]
            for chunk in chunks(list(self._record_ids))
            for row in self._connection.execute(query.where(columns.record_id.in_(chunk)))
        }

    @functools.cached_property
    def stories(self) -> dict[str, Story]:
        """What became of each."""
        return standing.stories(self._record_ids, self._connection)


class _One:
    def __init__(self, page: Candidates, record_id: str) -> None:
        self._page = page
        self._record_id = record_id

    @functools.cached_property
    def header(self) -> Fields:
        stored = self._page.headers.get(self._record_id)
        return () if stored is None else header_store.expand(stored)

    @property
    def story(self) -> Story:
        return self._page.stories.get(self._record_id, _UNTOLD)


def says(words: Sequence[str]) -> IsSo:
    """A subject holds these words in this order."""
    wanted = f" {' '.join(words)} "

    def is_so(one: Candidate) -> bool:
        return any(
            wanted in f" {' '.join(terms.sequence(value))} "
            for value in _values("subject", one.header)
        )

    return is_so


def has_field(name: str, value: str) -> IsSo:
    """A field has this value, or begins with it, as `terms.field_terms` reads values."""
    wanted, is_beginning = terms.field_text(value.removesuffix("*")), value.endswith("*")

    def is_so(one: Candidate) -> bool:
        for text in _values(name, one.header):
            found = terms.field_texts(text)
            if wanted in found or (is_beginning and any(some.startswith(wanted) for some in found)):
                return True
        return False

    return is_so


def _values(name: str, header: Fields) -> Iterator[str]:
    for one, value in header:
        if one.strip().lower() == name:
            yield terms.storable(header_fields.decode_text(terms.octets(value)))


def has_recipient(state: State) -> IsSo:
    """A recipient stands so now."""
    return lambda one: any(
        passage.state is state for passage in one.story.passages if not passage.is_copy
    )


def has_copy(states: frozenset[State]) -> IsSo:
    """An archive copy stands so now."""
    return lambda one: any(passage.state in states for passage in one.story.copies)


def left_late(is_ours: IsOurs) -> IsSo:
    """An alias, or a rewriting, led it outside after it was sealed."""
    return lambda one: bool(delivery.exits(one.story, is_ours))
