"""How the messages of a page stand: what the mail log told of them, at one statement.

Promises: one statement where the archive knows deliveries (one more for the first page of a
connection that finds some), and one that finds nothing where nobody follows a log.  The addresses
in facts are looked up together with those that the caller needs anyway.

Raises: ValueError for rows that cannot be read back.

Does not: show what happened (`story`), or search by it (`checks`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, select

from carbonseal.milter.archive import (
    deliveries,
    delivery_facts,
    packed,
    parts,
    retrieve,
    schema,
)
from carbonseal.milter.archive.delivery_facts import Packed
from carbonseal.milter.archive.packed import Recipient
from carbonseal.milter.archive.retrieve import ByRecord
from carbonseal.policies import delivery
from carbonseal.policies.delivery import Fact, Story

_KNOWN = "carbonseal deliveries"
_delivery = schema.delivery.c
_LINES = ByRecord(
    lambda within: select(_delivery.record_id, _delivery.kinship, _delivery.facts),
    _delivery.record_id,
    most=None,
)
_message = schema.message.c
_ENDS = ByRecord(lambda within: select(_message.record_id, _message.recipients), _message.record_id)


class Standing:
    """What is known of a page of records, before its addresses are looked up."""

    def __init__(
        self, record_ids: Sequence[str], connection: Connection, *, is_told: bool | None = None
    ) -> None:
        """`is_told`: whether any delivery is known; asked where it is not given."""
        self.is_told = are_known(connection)() if is_told is None else is_told
        self._lines: dict[str, list[tuple[int, Packed]]] = {}
        if self.is_told:
            for row in _LINES.rows(record_ids, connection):
                line = (row.kinship, delivery_facts.unpack(bytes(row.facts)))
                self._lines.setdefault(row.record_id, []).append(line)

    @property
    def address_ids(self) -> set[int]:
        """Those that facts name."""
        return {
            one for some in self._lines.values() for _, line in some for one in line.address_ids
        }

    def story(
        self,
        record_id: str,
        recipients: Sequence[str],
        copies: Sequence[str],
        mailboxes: Mapping[Any, Any],
    ) -> Story | None:
        """What became of one record's message; None where no log is followed at all."""
        if not self.is_told:
            return None
        return self.of(record_id, recipients, copies, mailboxes)

    def of(
        self,
        record_id: str,
        recipients: Sequence[str],
        copies: Sequence[str],
        mailboxes: Mapping[Any, Any],
    ) -> Story:
        """The same; where no log is followed, nothing is known of it."""
        facts: list[Fact] = []
        for kinship, line in self._lines.get(record_id, ()):
            said = map(delivery.fact, delivery_facts.facts(line, mailboxes))
            facts += deliveries.about_message(kinship, said)
        return delivery.told(facts, recipients, copies)


def stories(record_ids: Sequence[str], connection: Connection) -> dict[str, Story]:
    """The story of each of these records that is there, in three statements."""
    told = Standing(record_ids, connection)
    ends = {
        row.record_id: packed.unpack_recipients(bytes(row.recipients))
        for row in _ENDS.rows(record_ids, connection)
    }
    address_ids: set[Any] = {one.address_id for some in ends.values() for one in some}
    mailboxes = retrieve.mailboxes((address_ids - {None}) | told.address_ids, connection)

    def named(some: Sequence[Recipient], kind: int) -> list[str]:
        return [_address(one, mailboxes) for one in some if one.kind == kind]

    return {
        record_id: told.of(
            record_id, named(some, schema.ENVELOPE), named(some, schema.COPY), mailboxes
        )
        for record_id, some in ends.items()
    }


def _address(one: Recipient, mailboxes: Mapping[int, str]) -> str:
    known = None
    if one.address_id is not None:
        known = mailboxes.get(one.address_id, retrieve.ERASED)
    return parts.address_of({"address": known, "spelling": one.spelling})


def are_known(connection: Connection) -> Callable[[], bool]:
    """What waits for whether any delivery is known; not asked where a connection knew some."""
    if _KNOWN in connection.info:
        return lambda: True
    asked = deliveries.are_there_asked(connection)

    def answer() -> bool:
        found = asked()
        if found:
            connection.info[_KNOWN] = True
        return found

    return answer
