"""Rows of a usual record, from the pieces into which the compiled helper cuts its line.

A record that says each thing in the one usual way comes flat (`spool_line.Flat`): what is of this
message alone as its columns hold it, and what recurs as the octets that said it.  Of such octets
`rows` and `parts` make columns once; later they cost a look-up.  What they make of them depends on
nothing else, so the rows are those of `rows.split`.

What is plain in such a record (an address in small letters, a list of mailboxes without quotation
marks) a compiled helper turns into rows; of what is not, it asks the functions of this file.
`by_python` is its twin, which runs where the helper is missing, and for each record that the helper
leaves to it.

Promises: `split` answers what `rows.split` answers for the record, which is asked itself wherever
a piece is not certain to be exact, or is wrong.

Raises: `rows.Unloadable`.

Does not: judge records (`rows` does).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast

import orjson

from carbonseal.milter.archive import (
    derive,
    header_store,
    parts,
    record,
    rows,
    terms,
    verdicts,
)
from carbonseal.milter.archive.parts import Circumstance, Columns, End, Retention, SigningForm
from carbonseal.milter.archive.rows import CompressText, Rows
from carbonseal.milter.archive.spool_line import Apart
from carbonseal.milter.archive.verdicts import Abouts

_REMEMBERED = 4096
_LONG = 800  # octets of a piece worth remembering; longer ones are a stranger's
# Besides the usual errors of wrong values: numbers that orjson does not take.
_WRONG = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)
_RECIPIENT = ("raw", "address", "resolved", "place", "why", "mailer", "host", "esmtp")
_LOGIN, _CLIENT = 0, 1  # what stands for an origin that is one of these

_Make = TypeVar("_Make", bound=Callable[..., Any])


# What rows are made of, in the order of `Rows`, with tuples in the order of `MESSAGE` and `SECTION`
# in the place of the rows of columns: no name has to be looked for in them.
Values = tuple[Any, ...]
ID_AT, MESSAGE_AT, SECTION_AT = 0, 1, 4  # among these


class _Compiled(Protocol):
    def make(self, line: Apart, indexed: frozenset[str], /) -> tuple[Any, ...] | None: ...
    def make_values(self, line: Apart, indexed: frozenset[str], /) -> Values | None: ...


class _MakeCompiled(Protocol):
    def __call__(self, questions: tuple[Callable[..., Any], ...]) -> _Compiled: ...


COMPILED: _MakeCompiled | None = None  # None where it could not be built
MESSAGE: tuple[str, ...] = ()
SECTION: tuple[str, ...] = ()  # but for the header section itself, which comes later
try:
    from carbonseal.milter.archive import _usual_rows
except ImportError:
    pass
else:
    COMPILED, MESSAGE, SECTION = _usual_rows.Maker, _usual_rows.MESSAGE, _usual_rows.SECTION


class _Unusual(Exception):
    """The record has to be looked at as a whole."""


def _remembered(make: _Make) -> _Make:
    """Made once of a piece that recurs; long ones, with which strangers fill memory, each time."""
    known = functools.lru_cache(maxsize=_REMEMBERED)(make)

    @functools.wraps(make)
    def made(piece: bytes | str, *more: Any) -> Any:
        return (known if len(piece) <= _LONG else make)(piece, *more)

    return cast(_Make, made)


def made(line: Apart, indexed: frozenset[str]) -> Rows:
    """The rows but for the header section itself."""
    found = None if _maker is None else _maker.make(line, indexed)
    return by_python(line, indexed) if found is None else Rows(*found)


def named(values: Values, fields: bytes) -> Rows:
    """The rows that values are of; `fields`: the header section as it is stored."""
    record_id, message, recipients, signatures, section, *index = values
    return Rows(
        record_id,
        dict(zip(MESSAGE, message, strict=True)),
        recipients,
        signatures,
        {**dict(zip(SECTION, section, strict=True)), "fields": fields},
        *index,
    )


def split(
    line: Apart,
    octets: bytes,
    indexed: frozenset[str] = derive.INDEXED,
    compress: CompressText = header_store.compress_text,
    make: Callable[[Apart, frozenset[str]], Rows] = made,
) -> Rows:
    """The rows of a record that came flat; `octets`: its line.  Raises: Unloadable."""
    try:
        found = make(line, indexed)
    except (_Unusual, *_WRONG):
        return rows.split(record.parse(octets), indexed, compress)
    found.header_section["fields"] = compress(line.text)
    return found


def by_python(line: Apart, indexed: frozenset[str]) -> Rows:
    """The same without the helper."""
    assert line.flat is not None
    (
        record_id, recorded_at, queue_id, login, common, client_key, path_key, esmtp, recipients,
        copies, signatures, reasons, crossing, disposition, archive_addressed, size, numbers,
        body_hash, salt, evidence_salt,
    ) = line.flat  # fmt: skip
    terms.pack_record_id(record_id)
    derived = derive.derive_apart(line, indexed)
    reverse_path, sender, own = _path(path_key)
    circumstance, retention = _circumstance(common, reverse_path.place, reverse_path.code)
    client_address, client_name, client = _client(client_key)
    envelope = list(map(_recipient, recipients))
    added = [parts.copy_of(text) for text in copies]
    if not all(is_exact for _, is_exact in added):
        raise _Unusual
    authors = derived.authors
    author, author_spelling, author_text = _author(authors[0] if authors else "")
    if esmtp.__class__ is bytes:
        esmtp = _esmtp(esmtp)
    if client_name.endswith("@"):
        raise _Unusual
    verdict, is_exact = verdicts.in_common(
        reasons,
        Abouts(
            login,
            client_address,
            sender,
            author_text,
            own["reverse_path_about"],
            [*[text for _, _, text in envelope], *copies],
            [columns["about"] for columns, _, _ in envelope],
        ),
    )
    if not is_exact:
        raise _Unusual
    subject = derived.subject
    made = Rows(
        record_id,
        {
            **client,
            "recorded_at": recorded_at,
            "circumstance": circumstance,
            "verdict": verdict,
            "retention": retention,
            "queue_id": queue_id,
            "client_name": parts.short_name(client_name, own["reverse_path"]),
            "login": login,
            "login_hash": rows.login_hash(login) if login else None,
            **own,
            "reverse_path_esmtp": esmtp,
            "crossing": crossing,
            "disposition": disposition,
            "is_signed": bool(signatures),
            "archive_addressed": archive_addressed,
            "author_count": len(authors),
            "author": author,
            "author_spelling": author_spelling,
            "message_id_hash": derived.message_id_hash,
            "size": size,
            "numbers": numbers,
            "body_hash": body_hash,
            "copy_count": len(copies),
            "bcc_maps": None,
            "salt": evidence_salt,
            "verbatim": None,
        },
        [*[columns for columns, _, _ in envelope], *[columns for columns, _ in added]],
        [_signature(one) for one in signatures],
        {
            "message_id": parts.stored(derived.message_id),
            "subject": subject,
            "has_subject": bool(subject),
            "salt": salt,
            "fields": b"",
        },
        header_terms=derived.terms,
    )
    rows.index(made, reverse_path, [one for _, one, _ in envelope], derived)
    return made


@_remembered
def _path(octets: bytes) -> tuple[End, str, Columns]:
    """The reverse-path, its address, and its columns but for ESMTP parameters."""
    raw, text, resolved, place, why = orjson.loads(octets)
    end = parts.end_of(
        {"raw": raw, "address": text, "resolved": resolved, "place": place, "why": why}
    )
    if not end.is_exact:
        raise _Unusual
    return end, text, rows.reverse_path_columns(end)


@_remembered
def _recipient(octets: bytes) -> tuple[Columns, End, str]:
    """A recipient of the envelope: its columns, its end and its address."""
    path = dict(zip(_RECIPIENT, orjson.loads(octets), strict=True))
    columns, end, is_exact = rows.recipient_of(path)
    if not is_exact:
        raise _Unusual
    return columns, end, path["address"]


@_remembered
def _client(octets: bytes) -> tuple[str, str, Columns]:
    """A client: its address, its name, and the columns of its address and HELO."""
    address, name, helo = orjson.loads(octets)
    columns, is_exact = parts.client_of(address, name, helo)
    if not is_exact:
        raise _Unusual
    return address, name, columns


@_remembered
def _circumstance(octets: bytes, place: int, code: str) -> tuple[Circumstance, Retention | None]:
    """What a record has in common with many others; place and code are those of its sender."""
    version, relay, config_version, listener, method, tls, stamp, kind, about, canonicalization = (
        orjson.loads(octets)
    )
    # A login or a client of that name would be seen the same way, whatever it is.
    login = address = None
    if about == _LOGIN:
        login = about = "login"
    elif about == _CLIENT:
        address = about = "client"
    retention, is_usual = parts.retention_of(stamp)
    made, is_exact = parts.circumstance_of(
        {
            "v": version,
            "relay": relay,
            "config_version": config_version,
            "listener": listener,
            "client": {"address": address},
            "login": login,
            "login_method": method,
            "tls": tls,
            "origin": {"kind": kind, "about": about},
            "body_hash": None
            if canonicalization is None
            else {"canonicalization": canonicalization},
        },
        End({}, place, code, (), True),
        retention,
    )
    if not (is_usual and is_exact and version > 1):
        raise _Unusual
    return made, retention


@_remembered
def _author(text: str) -> tuple[str | None, bytes | None, str]:
    """An author's mailbox, its octets where they differ, and what both say."""
    mailbox, spelling = parts.dictionary_form(text)
    return mailbox, spelling, parts.address_of({"address": mailbox, "spelling": spelling})


@_remembered
def _esmtp(octets: bytes) -> str | None:
    column, is_exact = parts.esmtp_of({"esmtp": orjson.loads(octets)})
    if not is_exact:
        raise _Unusual
    return column


def _signature(given: tuple[bytes, int, int | None] | None) -> Columns:
    if given is None:
        raise _Unusual
    octets, signed_at, expires_at = given
    form, auid = _form(octets)
    return {"form": form, "auid": auid, "signed_at": signed_at, "expires_at": expires_at}


@_remembered
def _form(octets: bytes) -> tuple[SigningForm, str | None]:
    auid, *rest = orjson.loads(octets)
    names: list[Any] = list(SigningForm._fields)
    facts = dict(zip(names, rest, strict=True))
    signature = {**facts, "auid": auid, "signed_at": 0, "expires_at": None}
    columns, is_exact = parts.signature_columns(signature)
    if not is_exact:
        raise _Unusual
    return columns["form"], columns["auid"]


# In the order in which the helper knows them.
QUESTIONS: tuple[Callable[..., Any], ...] = (
    _path,
    _recipient,
    _client,
    _circumstance,
    _author,
    _esmtp,
    _form,
    parts.route_of,
    parts.copy_of,
    rows.login_hash,
    terms.mailbox,
    rows.found_by,
    terms.parent_domains,
    derive.authors_of,
    derive.mailboxes_of,
    derive.subject_of,
    derive.message_id_of,
    derive.terms_of,
    parts.stored,
    verdicts.of_texts,
)
_maker = None if COMPILED is None else COMPILED(QUESTIONS)
# The helper's own, which says None for a record that is left to `by_python`.
MAKE = None if _maker is None else _maker.make_values
