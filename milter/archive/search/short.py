"""Records in short: one line of a page of results each.

Promises: a page costs three statements, whatever is on it: the messages with their header sections
and what they have in common, the addresses, the forms of their signatures that are new to us; and
one more where mail logs are followed (`standing`).
Nothing is unpacked that a line does not show: of a header section only Message-ID and Subject.
What `rows.join` would say of the same record is said in the same words.

Raises: `retrieve.DamagedRecord` for rows that do not fit together.

Does not: find records (`walk` does), or give complete ones (`retrieve` does).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, Connection, Label, ScalarSelect, Select, select

from carbonseal.milter.archive import (
    derive,
    header_store,
    packed,
    parts,
    retrieve,
    rows,
    schema,
    verdicts,
)
from carbonseal.milter.archive.packed import Recipient, Signature
from carbonseal.milter.archive.parts import SigningForm
from carbonseal.milter.archive.retrieve import ByKey, ByRecord, Within
from carbonseal.milter.archive.search import standing
from carbonseal.policies import delivery
from carbonseal.policies.delivery import Story

Mailboxes = dict[Any, str | None]  # by address id


@dataclass(frozen=True, slots=True)
class Found:
    """One record in short."""

    record_id: str
    recorded_at: str  # RFC 3339, UTC
    relay: str
    queue_id: str
    crossing: str
    disposition: str
    reverse_path: str  # '' is the null reverse-path
    author: str  # several are separated by ', '
    recipients: tuple[str, ...]
    archive_recipients: tuple[str, ...]
    archive_addressed: bool
    signatures: tuple[dict[str, Any], ...]
    message_id: str | None
    subject: str | None
    client_address: str
    login: str | None
    size: int
    reasons: tuple[str, ...]
    state: str | None  # the worst of its envelope recipients; null: no mail log is followed
    copy_state: str | None  # the worst of its archive copies; null: none, or no log is followed
    dry_run: dict[str, Any] | None  # what would have been done; null: it was


def in_short(record_ids: Sequence[str], connection: Connection) -> list[Found]:
    """These records in this order; ids that are not there are left out."""
    messages = _MESSAGES.as_given(record_ids, connection)
    there = [(name, row) for name in record_ids if (row := messages.get(name)) is not None]
    found = retrieve.each_of(there, lambda one: _Line(*one), lambda one: one[0])
    addresses: set[Any] = {one.address_id for line in found for one in line.recipients}
    addresses |= {key for line in found for key in line.message[1:3]}
    told = standing.Standing(record_ids, connection)
    addresses |= told.address_ids
    named = retrieve.mailboxes(addresses - {None}, connection)
    mailboxes: Mailboxes = {None: None, **named}
    forms = {one.form_id for line in found for one in line.signatures}
    known = _known_forms(forms, connection)
    return retrieve.each_of(
        found, lambda line: line.found(mailboxes, known, told), lambda line: line.record_id
    )


def _known_forms(forms: set[int], connection: Connection) -> dict[int, SigningForm]:
    """Forms by id, of those that were seen before as they were: the id is a hash of the form."""
    missing = sorted(forms - _seen.keys())
    if missing:
        if len(_seen) > _MOST_FORMS:
            _seen.clear()
            missing = sorted(forms)
        for identifier, *columns in _FORMS.as_given(missing, connection):
            _seen[identifier] = SigningForm._make(columns)
    return _seen


def _of(value: Column[Any], key: Column[Any], own: Column[Any]) -> ScalarSelect[Any]:
    """What a message has in common with others.

    Not joined: PostgreSQL would read all that any messages have in common for a page of them.
    """
    return select(value).where(key == own).scalar_subquery()


_MESSAGE = schema.message.c
_COMMON, _VERDICT = schema.circumstance.c, schema.verdict.c
_SECTION = schema.header_section.c
_FORM = schema.signing_form.c


def fields_of(within: Within) -> Label[Any]:
    """The header section of a message beside its own columns; null where it has gone earlier."""
    section = select(_SECTION.fields)
    section = section.where(_SECTION.record_id == _MESSAGE.record_id, *within(_SECTION.record_id))
    return section.scalar_subquery().label("fields")


# For SQLite and MariaDB (see `retrieve.ByKey`).
SECTIONS = schema.message.outerjoin(schema.header_section, _SECTION.record_id == _MESSAGE.record_id)
_OWN = select(
    _MESSAGE.record_id,
    _MESSAGE.reverse_path_id,
    _MESSAGE.author_id,
    _MESSAGE.recorded_at,
    _MESSAGE.queue_id,
    _MESSAGE.crossing,
    _MESSAGE.disposition,
    _MESSAGE.reverse_path_spelling,
    _MESSAGE.reverse_path_about,
    _MESSAGE.author_spelling,
    _MESSAGE.author_count,
    _MESSAGE.recipients,
    _MESSAGE.signatures,
    _MESSAGE.archive_addressed,
    _MESSAGE.client_address,
    _MESSAGE.login,
    _MESSAGE.size,
    _MESSAGE.verbatim,
)


def _query(within: Within) -> Select[Any]:
    return _OWN.add_columns(
        _of(_COMMON.relay, _COMMON.circumstance_id, _MESSAGE.circumstance_id),
        _of(_VERDICT.reasons, _VERDICT.verdict_id, _MESSAGE.verdict_id),
        fields_of(within),
    )


def _joined() -> Select[Any]:
    source = SECTIONS.outerjoin(
        schema.circumstance, _COMMON.circumstance_id == _MESSAGE.circumstance_id
    ).outerjoin(schema.verdict, _VERDICT.verdict_id == _MESSAGE.verdict_id)
    shown = (_COMMON.relay, _VERDICT.reasons, _SECTION.fields)
    return _OWN.add_columns(*shown).select_from(source)


_MESSAGES = ByRecord(_query, _MESSAGE.record_id, joined=_joined())
_FORMS = ByKey(select(_FORM.form_id, *(_FORM[name] for name in SigningForm._fields)), _FORM.form_id)
_MOST_FORMS = 10_000
_seen: dict[int, SigningForm] = {}


class _Line:
    """One record on its way to a line."""

    __slots__ = ("fields", "message", "recipients", "record_id", "signatures")

    def __init__(self, record_id: str, message: Any) -> None:
        self.record_id = record_id
        self.message = message
        self.fields: bytes | None = message[-1]  # null: the header section has gone earlier
        self.recipients = packed.unpack_recipients(message[11])
        self.signatures = packed.unpack_signatures(message[12], message[3] // 1_000_000)

    def found(
        self, mailboxes: Mailboxes, forms: dict[int, SigningForm], told: standing.Standing
    ) -> Found:
        """What is shown, from the addresses and forms by id."""
        # At once: asking the row for each by its name takes twice as long.
        (_, reverse_path_id, author_id, recorded_at, queue_id, *more) = self.message
        (crossing, disposition, reverse_path_spelling, reverse_path_about, *more) = more
        (author_spelling, author_count, _, _, archive_addressed, client, *more) = more
        login, size, verbatim, relay, common, _ = more

        author = address(author_id, author_spelling, mailboxes)
        message_id, subject, authors = self._said(author_count)
        abouts = verdicts.Abouts(
            login,
            parts.client_address_of({"client_address": client}),
            address(reverse_path_id, reverse_path_spelling, mailboxes),
            author,
            reverse_path_about,
            [address(one.address_id, one.spelling, mailboxes) for one in self.recipients],
            [one.about for one in self.recipients],
        )
        said = None if verbatim is None else rows.verbatim(verbatim)
        reasons = verdicts.spelled_out(common, abouts) if said is None else said["reasons"]
        in_envelope = _in_envelope(self.recipients)
        recipients, copies = abouts.recipients[:in_envelope], abouts.recipients[in_envelope:]
        story = told.story(self.record_id, recipients, copies, mailboxes)
        return Found(
            record_id=self.record_id,
            recorded_at=rows.moment_text(recorded_at),
            relay=relay,
            queue_id=queue_id,
            crossing=schema.CROSSINGS[crossing],
            disposition=schema.DISPOSITIONS[disposition],
            reverse_path=abouts.reverse_path,
            author=author if authors is None else authors,
            recipients=tuple(recipients),
            archive_recipients=tuple(copies),
            archive_addressed=bool(archive_addressed),
            signatures=tuple(_facts(one, forms[one.form_id]) for one in self.signatures),
            message_id=message_id,
            subject=subject,
            client_address=abouts.client,
            login=login,
            size=size,
            reasons=tuple(reasons),
            state=state(story, is_copy=False),
            copy_state=state(story, is_copy=True),
            dry_run=None if said is None else said.get("dry_run"),
        )

    def _said(self, author_count: int) -> tuple[str | None, str | None, str | None]:
        """Message-ID, Subject, and where there are several authors, all of them."""
        if self.fields is None:
            return None, None, None
        message_id, subject = derive.shown(header_store.named(self.fields, derive.SHOWN))
        if author_count < 2:
            return message_id, subject, None
        # Only the header section has those beyond the first.
        return message_id, subject, ", ".join(derive.authors(header_store.expand(self.fields)))


def address(address_id: int | None, spelling: bytes | None, mailboxes: Mailboxes) -> str:
    """An address as it was spelled; '' where there is none."""
    if spelling is None:
        return mailboxes.get(address_id, retrieve.ERASED) or ""
    return parts.address_of({"address": None, "spelling": spelling})


def state(story: Story | None, *, is_copy: bool) -> str | None:
    """The worst of its envelope recipients, or of its archive copies; None where nobody knows."""
    if story is None:
        return None
    states = [one.state for one in story.passages if one.is_copy is is_copy]
    return delivery.worst(states).value if states else None


def _in_envelope(recipients: Sequence[Recipient]) -> int:
    """How many are of the envelope; those of the archive come after them."""
    return [one.kind for one in recipients].count(schema.ENVELOPE)


def _facts(one: Signature, form: SigningForm) -> dict[str, Any]:
    _, auid, signed_at, expires_at = one
    return parts.signature_of(
        {"form": form, "auid": auid, "signed_at": signed_at, "expires_at": expires_at}
    )
