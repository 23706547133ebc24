"""What a recorded header section says: authors, To and Cc, Message-ID, Subject, Date.

Promises: derived away from the mail path, so that a slow or odd header section costs the writer
time and never a message.  The subject is fit for every database (`terms.storable`); addresses and
Message-ID stay lossless.

Does not: decide anything, or keep what it derives from.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from carbonseal.milter.archive import terms
from carbonseal.milter.archive.spool_line import Apart
from carbonseal.policies import header_fields

_NAMES = frozenset(("from", "to", "cc", "subject", "message-id"))
INDEXED = frozenset(("list-id",))  # unless configured otherwise
_MOST_VALUES = 20  # of one indexed field; more is no mail of people
SHOWN = frozenset(("message-id", "subject"))  # by `shown`
_OUTLINE = 2000  # characters of names of header fields worth remembering
_SHORT = 200  # octets of values worth remembering; a stranger's long ones take no memory


class Derived(NamedTuple):
    """What a header section says about its message."""

    authors: tuple[str, ...]  # addresses in From, in order
    to: tuple[str, ...]
    cc: tuple[str, ...]
    message_id: str | None  # lossless
    message_id_hash: int | None  # its term; None where there is none, or an empty one
    subject: str | None
    terms: tuple[int, ...]  # words of the subject, values of indexed fields


def derive(fields: Sequence[Sequence[str]], indexed: frozenset[str] = INDEXED) -> Derived:
    """Read recorded header fields (names and lossless values, in order).

    `indexed`: names in lower case of the fields whose values are to be found, besides the subject.
    """
    values = _by_name(
        (name, terms.octets(fields[place][1])) for name, place in _places(fields, indexed)
    )
    subjects = [_subject(value) for value in values.get("subject", ())]
    message_id, identifier = message_id_of(_first(values, "message-id"))
    return Derived(
        authors=authors_of(values.get("from", [])),
        to=mailboxes_of(values.get("to", [])),
        cc=mailboxes_of(values.get("cc", [])),
        message_id=message_id,
        message_id_hash=identifier,
        subject=subjects[0] if subjects else None,
        terms=_terms(_words(subjects), values, indexed),
    )


def derive_apart(line: Apart, indexed: frozenset[str] = INDEXED) -> Derived:
    """The same of a line that was taken apart, which says what is derived from plain fields."""
    values = _by_name(line.values)
    subject, words = line.subject, line.words
    if words is None and "subject" in values:
        subject, words = subject_of(values["subject"])
    message_id, identifier = line.message_id, line.message_id_hash
    if message_id is None:
        message_id, identifier = message_id_of(_first(values, "message-id"))
    none: list[bytes] = []
    return Derived(
        authors_of(values.get("from", none)),
        mailboxes_of(values.get("to", none)),
        mailboxes_of(values.get("cc", none)),
        message_id,
        identifier,
        subject,
        _terms(words or (), values, indexed),
    )


def subject_of(values: list[bytes]) -> tuple[str, list[int]]:
    """The subject that people are shown, and the terms of the words of all of them."""
    subjects = [_subject(value) for value in values]
    return subjects[0], _words(subjects)


def terms_of(
    words: Sequence[int] | None, found: list[tuple[str, bytes]], indexed: frozenset[str]
) -> tuple[int, ...]:
    """Terms of a header section: those of the words of its subject, then of indexed fields."""
    return _terms(words or (), _by_name(found), indexed)


def wanted(indexed: frozenset[str] = INDEXED) -> frozenset[str]:
    """Names in lower case of the fields from which anything is derived."""
    return _NAMES | indexed


def values(
    fields: Sequence[Sequence[str]], indexed: frozenset[str] = INDEXED
) -> list[tuple[str, bytes]]:
    """The fields from which anything is derived, in order: names in lower case and octets."""
    return [(name, terms.octets(fields[place][1])) for name, place in _places(fields, indexed)]


def _by_name(found: Iterable[tuple[str, bytes]]) -> dict[str, list[bytes]]:
    values: dict[str, list[bytes]] = {}
    for name, value in found:
        if name in values:
            values[name].append(value)
        else:
            values[name] = [value]
    return values


def message_id_of(value: bytes | None) -> tuple[str | None, int | None]:
    """The Message-ID, lossless, and its term."""
    if value is None:
        return None, None
    found = header_fields.message_id(value)
    return found, terms.found_by(found) if found else None


def shown(fields: Sequence[Sequence[str]]) -> tuple[str | None, str | None]:
    """Message-ID and Subject as people see them, of the first such fields."""
    found: dict[str, bytes] = {}
    for name, value in fields:
        wanted = _wanted(name, SHOWN)
        if wanted in SHOWN:
            found.setdefault(wanted, terms.octets(value))
    message_id, subject = found.get("message-id"), found.get("subject")
    return (
        None if message_id is None else stored_message_id(message_id),
        None if subject is None else _subject(subject),
    )


def shown_subject(value: str) -> str:
    """Subject as people see it, of the value of such a field."""
    # Most say what they mean: they need not become octets and be decoded.
    if value.isascii() and value.isprintable() and "=?" not in value:
        return value.strip()
    return _subject(terms.octets(value))


def authors(fields: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Addresses in From, in order."""
    return authors_of([terms.octets(value) for name, value in fields if _wanted(name) == "from"])


def stored_message_id(value: bytes) -> str | None:
    """The Message-ID, fit for every database."""
    text = header_fields.message_id(value)
    return None if text is None else terms.storable(text)


def _subject(value: bytes) -> str:
    return terms.storable(header_fields.decode_text(value).strip())


def _places(fields: Sequence[Sequence[str]], indexed: frozenset[str]) -> Sequence[tuple[str, int]]:
    """Names in lower case and places of the fields from which anything is derived."""
    names = tuple([name for name, _ in fields])
    # A sender's program writes the same names in the same order, message after message.
    make = _outline if len("".join(names)) <= _OUTLINE else _outline.__wrapped__
    return make(names, indexed)


@functools.lru_cache(maxsize=512)
def _outline(names: tuple[str, ...], indexed: frozenset[str]) -> Sequence[tuple[str, int]]:
    found = ((_wanted(name, indexed), place) for place, name in enumerate(names))
    return tuple((wanted, place) for wanted, place in found if wanted)


@functools.lru_cache(maxsize=1024)
def _wanted(name: str, indexed: frozenset[str] = frozenset()) -> str:
    """The field's name in lower case if anything is derived from it."""
    name = name.strip().lower()
    return name if name in _NAMES or name in indexed else ""


def _words(subjects: list[str]) -> list[int]:
    # A second Subject must not hide its words; people are shown the first.
    return list(map(terms.word_term, terms.words(" ".join(subjects))))


def _terms(
    words: Sequence[int], values: dict[str, list[bytes]], indexed: frozenset[str]
) -> tuple[int, ...]:
    found = list(words)
    for name in values.keys() & indexed:
        for value in values[name][:_MOST_VALUES]:
            make = _field_terms if len(value) <= _SHORT else _field_terms.__wrapped__
            found += make(name, value)
    return tuple(dict.fromkeys(found))


# Of a list there are as many messages as it has readers.
@functools.lru_cache(maxsize=1024)
def _field_terms(name: str, value: bytes) -> list[int]:
    return terms.field_terms(name, terms.storable(header_fields.decode_text(value)))


def _first(values: dict[str, list[bytes]], name: str) -> bytes | None:
    found = values.get(name)
    return found[0] if found else None


def authors_of(values: list[bytes]) -> tuple[str, ...]:
    """Addresses in fields From of these values."""
    if len(values) == 1 and len(values[0]) <= _SHORT:
        return _sole_authors(values[0])
    return _strings(header_fields.authors(values).mailboxes)


def mailboxes_of(values: list[bytes]) -> tuple[str, ...]:
    """Addresses in fields To, or Cc, of these values."""
    if len(values) == 1:
        return _listed(values[0]) if len(values[0]) <= _SHORT else _listed.__wrapped__(values[0])
    found = (header_fields.mailboxes(value) for value in values)
    return _strings([mailbox for mailboxes in found for mailbox in mailboxes])


# People write again and again, and to the same people: half of these are remembered.
@functools.lru_cache(maxsize=4096)
def _sole_authors(value: bytes) -> tuple[str, ...]:
    return _strings(header_fields.authors([value]).mailboxes)


@functools.lru_cache(maxsize=4096)
def _listed(value: bytes) -> tuple[str, ...]:
    return _strings(header_fields.mailboxes(value))


def _strings(mailboxes: Sequence[object]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(str, mailboxes)))
