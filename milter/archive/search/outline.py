"""Records in outline: what a table of results shows of them, and nothing more.

Promises: a page costs two statements, whatever is on it: the messages with their header sections,
and the addresses, which PostgreSQL looks up while header sections are unpacked.  Where mail logs
are followed (`standing`) it costs two more.  Nothing is looked up or
unpacked that a table does not show: of the recipients the first, of the header section the Subject.
What is shown is what `short` says of the same record.

Raises: `retrieve.DamagedRecord` for rows that do not fit together.

Does not: find records (`walk` does), or say more about them (`short` and `retrieve` do).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, select

from carbonseal.milter.archive import (
    as_given,
    derive,
    header_store,
    packed,
    retrieve,
    rows,
    schema,
)
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
    messages = _MESSAGES.as_given(record_ids, connection)
    there = [(name, row) for name in record_ids if (row := messages.get(name)) is not None]
    found = retrieve.each_of(there, lambda one: _Line(*one), lambda one: one[0])
    shown: set[Any] = {line.address_id for line in found}
    shown |= {line.message[1] for line in found}
    with as_given.under_way(connection):
        are_known = standing.are_known(connection)
        named = retrieve.mailboxes_asked(shown - {None}, connection)
        retrieve.each_of(found, _Line.unpack_subject, _named)
        mailboxes: Mailboxes = {None: None, **named()}
        is_told = are_known()
    told = standing.Standing(record_ids, connection, is_told=is_told)
    if is_told:
        retrieve.each_of(found, _Line.unpack_recipients, _named)
        more: set[Any] = {one.address_id for line in found for one in line.recipients}
        more |= told.address_ids
        mailboxes |= retrieve.mailboxes(more - mailboxes.keys(), connection)
    return retrieve.each_of(found, lambda line: line.outline(mailboxes, told), _named)


_MESSAGE = schema.message.c
_OWN = select(
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
)


def _query(within: Within) -> Select[Any]:
    return _OWN.add_columns(short.fields_of(within))


_MESSAGES = ByRecord(
    _query,
    _MESSAGE.record_id,
    joined=_OWN.add_columns(schema.header_section.c.fields).select_from(short.SECTIONS),
)


class _Line:
    """One record on its way to a line."""

    __slots__ = (
        "address_id",
        "count",
        "message",
        "recipients",
        "record_id",
        "spelling",
        "subject",
    )

    def __init__(self, record_id: str, message: Any) -> None:
        self.record_id = record_id
        self.message = message
        self.count, self.address_id, self.spelling = packed.first_recipient(message[6])
        self.recipients: Sequence[Recipient] = ()
        self.subject: str | None = None

    def unpack_subject(self) -> None:
        """Out of the header section, where it has not gone earlier."""
        fields = self.message[10]
        value = None if fields is None else header_store.first(fields, "subject")
        self.subject = None if value is None else derive.shown_subject(value)

    def unpack_recipients(self) -> None:
        """All of them: their states make that of the message."""
        self.recipients = packed.unpack_recipients(self.message[6])

    def outline(self, mailboxes: Mailboxes, told: standing.Standing) -> Outline:
        """What is shown, from the addresses by id."""
        _, path_id, recorded_at, queue_id, crossing, path, _, *more = self.message
        copy_count, is_signed, verbatim, _ = more
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
            subject=self.subject,
            is_signed=bool(is_signed),
            is_copied=copy_count > 0,
            state=short.state(story, is_copy=False),
            copy_state=short.state(story, is_copy=True),
            dry_run=None if verbatim is None else rows.verbatim(verbatim).get("dry_run"),
        )


def _named(line: _Line) -> str:
    return line.record_id
