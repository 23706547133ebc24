"""Records in outline: what a table of results shows of them, and nothing more.

Promises: a page costs two statements, whatever is on it: the messages with their header sections,
and the addresses; and one more where mail logs are followed (`standing`).  Nothing is looked up or
unpacked that a table does not show: of the recipients the first, of the header section the Subject.
What is shown is what `short` says of the same record.

Raises: ValueError for rows that cannot be read back.

Does not: find records (`walk` does), or say more about them (`short` and `retrieve` do).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, select

from carbonseal.milter.archive import derive, header_store, packed, retrieve, rows, schema
from carbonseal.milter.archive.retrieve import ByRecord, Within
from carbonseal.milter.archive.search import short, standing
from carbonseal.milter.archive.search.short import Mailboxes


class Outline(NamedTuple):
    """One record in outline; what has the name of a field of `short.Found` is the same."""

    record_id: str
    recorded_at: str
    queue_id: str
    crossing: str
    reverse_path: str
    recipient: str | None  # the first of the envelope
    recipient_count: int  # of the envelope
    subject: str | None
    is_signed: bool
    is_copied: bool
    state: str | None
    copy_state: str | None
    dry_run: dict[str, Any] | None


def in_outline(record_ids: Sequence[str], connection: Connection) -> list[Outline]:
    """These records in this order; ids that are not there are left out."""
    messages = _MESSAGES.as_given(record_ids, connection)
    told = standing.Standing(record_ids, connection)
    found = [
        _Line(name, row, is_told=told.is_told)
        for name in record_ids
        if (row := messages.get(name)) is not None
    ]
    addresses: set[Any] = {line.address_id for line in found}
    addresses |= {line.message[1] for line in found}
    addresses |= {one.address_id for line in found for one in line.recipients} | told.address_ids
    named = retrieve.mailboxes(addresses - {None}, connection)
    mailboxes: Mailboxes = {None: None, **named}
    return [line.outline(mailboxes, told) for line in found]


_MESSAGE = schema.message.c


def _query(within: Within) -> Select[Any]:
    return select(
        _MESSAGE.record_id,
        _MESSAGE.reverse_path_id,
        _MESSAGE.recorded_at,
        _MESSAGE.queue_id,
        _MESSAGE.crossing,
        _MESSAGE.reverse_path_spelling,
        _MESSAGE.recipients,
        _MESSAGE.copy_count,
        _MESSAGE.is_signed,
        _MESSAGE.verbatim,
        short.fields_of(within),
    )


_MESSAGES = ByRecord(_query, _MESSAGE.record_id)


class _Line:
    """One record on its way to a line."""

    __slots__ = ("address_id", "count", "message", "recipients", "record_id", "spelling")

    def __init__(self, record_id: str, message: Any, *, is_told: bool) -> None:
        self.record_id = record_id
        self.message = message
        octets = message[6]
        self.count, self.address_id, self.spelling = packed.first_recipient(octets)
        # The states of all of them make that of the message.
        self.recipients = packed.unpack_recipients(octets) if is_told else []

    def outline(self, mailboxes: Mailboxes, told: standing.Standing) -> Outline:
        """What is shown, from the addresses by id."""
        _, path_id, recorded_at, queue_id, crossing, path, _, *more = self.message
        copy_count, is_signed, verbatim, fields = more
        story = None
        if told.is_told:
            ends = ((one.address_id, one.spelling) for one in self.recipients)
            named = [short.address(*one, mailboxes) for one in ends]
            story = told.story(self.record_id, named[: self.count], named[self.count :], mailboxes)
        recipient = short.address(self.address_id, self.spelling, mailboxes)
        return Outline(
            record_id=self.record_id,
            recorded_at=rows.moment_text(recorded_at),
            queue_id=queue_id,
            crossing=schema.CROSSINGS[crossing],
            reverse_path=short.address(path_id, path, mailboxes),
            recipient=recipient if self.count else None,
            recipient_count=self.count,
            subject=None if fields is None else _subject(fields),
            is_signed=bool(is_signed),
            is_copied=copy_count > 0,
            state=short.state(story, is_copy=False),
            copy_state=short.state(story, is_copy=True),
            dry_run=None if verbatim is None else rows.verbatim(verbatim).get("dry_run"),
        )


def _subject(fields: bytes) -> str | None:
    value = header_store.first(fields, "subject")
    return None if value is None else derive.shown_subject(value)
