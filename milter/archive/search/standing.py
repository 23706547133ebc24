"""How the messages of a page stand: what the mail log told of them, at one statement.

Promises: one statement where the archive knows deliveries (one more for the first page of a
connection that finds some), and one that finds nothing where nobody follows a log.  The addresses
in facts are looked up together with those that the caller needs anyway.

Raises: ValueError for rows that cannot be read back.

Does not: show what happened (`story`), or search by it (`checks`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, select

from carbonseal.milter.archive import deliveries, delivery_facts, schema
from carbonseal.milter.archive.delivery_facts import Packed
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


class Standing:
    """What is known of a page of records, before its addresses are looked up."""

    def __init__(self, record_ids: Sequence[str], connection: Connection) -> None:
        self.is_told = _are_known(connection)
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
        facts: list[Fact] = []
        for kinship, line in self._lines.get(record_id, ()):
            said = map(delivery.fact, delivery_facts.facts(line, mailboxes))
            facts += deliveries.about_message(kinship, said)
        return delivery.told(facts, recipients, copies)


def _are_known(connection: Connection) -> bool:
    """Whether any delivery is known; asked once for each connection that knows some."""
    if _KNOWN not in connection.info:
        if not deliveries.are_there(connection):
            return False
        connection.info[_KNOWN] = True
    return True
