"""What a recorded header section says: authors, To and Cc, Message-ID, Subject, Date.

Promises: derived away from the mail path, so that a slow or odd header section costs the writer
time and never a message.  The subject is fit for every database (`terms.storable`); addresses and
Message-ID stay lossless.

Does not: decide anything, or keep what it derives from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from carbonseal.milter.archive import terms
from carbonseal.policies import header_fields


@dataclass(frozen=True, slots=True)
class Derived:
    """What a header section says about its message."""

    authors: tuple[str, ...]  # addresses in From, in order
    to: tuple[str, ...]
    cc: tuple[str, ...]
    message_id: str | None  # lossless
    subject: str | None
    date: int | None  # seconds UTC since 1970
    words: tuple[str, ...]  # of the subject


def derive(fields: Sequence[Sequence[str]]) -> Derived:
    """Read recorded header fields (names and lossless values, in order)."""
    values: dict[str, list[bytes]] = {}
    for name, value in fields:
        values.setdefault(name.strip().lower(), []).append(terms.octets(value))
    # A second Subject must not hide its words; people are shown the first.
    subjects = [
        terms.storable(header_fields.decode_text(value).strip())
        for value in values.get("subject", ())
    ]
    message_id = _first(values, "message-id")
    return Derived(
        authors=_strings(header_fields.authors(values.get("from", [])).mailboxes),
        to=_mailboxes(values, "to"),
        cc=_mailboxes(values, "cc"),
        message_id=None if message_id is None else header_fields.message_id(message_id),
        subject=subjects[0] if subjects else None,
        date=_seconds(_first(values, "date")),
        words=tuple(terms.words(" ".join(subjects))),
    )


def _first(values: dict[str, list[bytes]], name: str) -> bytes | None:
    found = values.get(name)
    return found[0] if found else None


def _mailboxes(values: dict[str, list[bytes]], name: str) -> tuple[str, ...]:
    found = (header_fields.mailboxes(value) for value in values.get(name, ()))
    return _strings([mailbox for mailboxes in found for mailbox in mailboxes])


def _strings(mailboxes: Sequence[object]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(str, mailboxes)))


def _seconds(value: bytes | None) -> int | None:
    date = None if value is None else header_fields.date(value)
    return None if date is None else int(date.timestamp())
