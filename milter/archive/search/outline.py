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
from carbonseal.milter.archive.packed import Recipient
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
    messages = {row[0]: row for row in _MESSAGES.rows(record_ids, connection)}
    told = standing.Standing(record_ids, connection)
    most = None if told.is_told else 1  # the states of all of them make that of the message
    found = [_Line(row, most) for name in record_ids if (row := messages.get(name)) is not None]
    addresses: set[Any] = {one.address_id for line in found for one in line.recipients}
    addresses |= {line.message[1] for line in found} | told.address_ids
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

    __slots__ = ("message", "recipients")

    def __init__(self, message: Any, most: int | None) -> None:
        self.message = message
        self.recipients = packed.unpack_recipients(message[6], most=most)

    def outline(self, mailboxes: Mailboxes, told: standing.Standing) -> Outline:
        """What is shown, from the addresses by id."""
        record_id, path_id, recorded_at, queue_id, crossing, path, octets, *more = self.message
        copy_count, is_signed, verbatim, fields = more
        count = packed.envelope_count(octets)
        story = None
        if told.is_told:
            named = [_address(one, mailboxes) for one in self.recipients]
            story = told.story(record_id, named[:count], named[count:], mailboxes)
        return Outline(
            record_id=record_id,
            recorded_at=rows.moment_text(recorded_at),
            queue_id=queue_id,
            crossing=schema.CROSSINGS[crossing],
            reverse_path=short.address(path_id, path, mailboxes),
            recipient=_address(self.recipients[0], mailboxes) if count else None,
            recipient_count=count,
            subject=None if fields is None else _subject(fields),
            is_signed=bool(is_signed),
            is_copied=copy_count > 0,
            state=short.state(story, is_copy=False),
            copy_state=short.state(story, is_copy=True),
            dry_run=None if verbatim is None else rows.verbatim(verbatim).get("dry_run"),
        )


def _address(one: Recipient, mailboxes: Mailboxes) -> str:
    return short.address(one.address_id, one.spelling, mailboxes)


def _subject(fields: bytes) -> str | None:
    return derive.shown_subject(header_store.named(fields, _SHOWN))


_SHOWN = frozenset(("subject",))
