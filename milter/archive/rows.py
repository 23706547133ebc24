"""A record as rows, and rows as the record again.

Promises: `join(split(record))` is `record`.  `split` sees to that itself: where its parts cannot
say that their columns are exact, it joins the rows and compares; where the columns cannot tell a
record exactly (a NUL in a HELO name, a key of a later version) the record's own text is kept
compressed beside them (its header section apart, which is always exact), so that nothing is lost
and all of it can still be searched.

Raises: `Unloadable` for a record that no table can take, with what is wrong.

Does not: know ids.  What stands in dictionaries is referred to by its value; `loader` turns values
into ids, and `query` turns ids into values before `join`.

See also: `parts`, which does the same for what recurs in records.
"""

from __future__ import annotations

import binascii
import json
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import shake_128
from operator import itemgetter
from typing import Any

from carbonseal.milter.archive import (
    derive,
    header_store,
    packed,
    parts,
    schema,
    terms,
    verdicts,
)
from carbonseal.milter.archive.derive import Derived
from carbonseal.milter.archive.parts import Circumstance, Columns, End, Route
from carbonseal.milter.archive.spool_line import Apart
from carbonseal.milter.archive.verdicts import Abouts, Verdict

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_HERE = _EPOCH.replace(tzinfo=None)
_KEYS = frozenset(  # of version 1
    "v record_id recorded_at relay config_version queue_id listener client login login_method tls "
    "origin reverse_path recipients crossing header_fields header_count header_size body_size size "
    "body_hash signatures archive_recipients archive_addressed disposition reasons".split()
)
_LATER_KEYS = ("salt", "retention", "bcc_maps")  # since version 2
_KEYS_2 = _KEYS.union(_LATER_KEYS)
_REST, _REST_2 = _KEYS - {"header_fields"}, _KEYS_2 - {"header_fields"}
_WRONG = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)
_SALT = 16  # octets
_QUEUE_ID = 255  # characters
_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z")
_MICROSECOND = timedelta(microseconds=1)


CompressText = Callable[[bytes], bytes]


class Unloadable(ValueError):
    """The record cannot become rows; the text says why."""


@dataclass(slots=True)
class Rows:
    """One record as rows; `circumstance`, `route`, `form` and addresses stand as values."""

    record_id: str
    message: Columns  # with 'circumstance', 'verdict', 'retention', 'reverse_path' and 'author'
    recipients: list[Columns]  # with 'address' and 'route'
    signatures: list[Columns]  # with 'form'
    header_section: Columns
    participants: dict[str, int] = field(default_factory=dict)  # mailbox: roles
    domains: dict[str, int] = field(default_factory=dict)  # domain: roles
    header_terms: tuple[int, ...] = ()


def split(
    record: Mapping[str, Any],
    indexed: frozenset[str] = derive.INDEXED,
    compress: CompressText = header_store.compress_text,
) -> Rows:
    """The rows of one record; `indexed`: header fields to be found.  Raises: Unloadable."""
    try:
        fields = record["header_fields"]
        rows, is_exact = _split(record, derive.derive(fields, indexed))
        rows.header_section["fields"] = compress(header_store.text(fields))
        if not (is_exact and record.keys() == (_KEYS if record["v"] == 1 else _KEYS_2)):
            _keep_verbatim(rows, record)
    except _WRONG as fault:
        raise _unloadable(fault) from None
    return rows


def split_apart(
    line: Apart,
    indexed: frozenset[str] = derive.INDEXED,
    compress: CompressText = header_store.compress_text,
) -> Rows:
    """The same of a line that was taken apart with `derive.wanted(indexed)`."""
    record = line.content
    try:
        rows, is_exact = _split(record, derive.derive_apart(line, indexed))
        rows.header_section["fields"] = compress(line.text)
        if not (is_exact and record.keys() == (_REST if record["v"] == 1 else _REST_2)):
            _keep_verbatim(rows, {**record, "header_fields": header_store.parsed(line.text)})
    except _WRONG as fault:
        raise _unloadable(fault) from None
    return rows


def _keep_verbatim(rows: Rows, record: Mapping[str, Any]) -> None:
    """Keep the record's own text if the columns cannot tell it.

    Joining again costs as much as splitting, so it is left to what is not known to be exact.
    """
    if join(rows, record["header_fields"]) != record:
        rows.message["verbatim"] = _verbatim(record, rows)


def _unloadable(fault: Exception) -> Unloadable:
    kind = "lacks" if isinstance(fault, KeyError) else "has a wrong value:"
    return Unloadable(f"the record {kind} {fault}")


def evidence_salt(salt: bytes) -> bytes:
    """What hides all but the header section, from the salt of the line, which hides that.

    The way back does not exist: with the header section goes what was hidden by its salt.
    """
    return shake_128(salt).digest(16)


def _verbatim(record: Mapping[str, Any], rows: Rows) -> bytes:
    """The record without its header section, which is exact and may have to go earlier."""
    left_out = {"header_fields"}
    if rows.header_section["salt"] is not None:
        left_out.add("salt")
    content = {key: value for key, value in record.items() if key not in left_out}
    return zlib.compress(json.dumps(content, separators=(",", ":")).encode("ascii"))


def verbatim(stored: bytes) -> dict[str, Any]:
    """The record, without its header section, as it was kept beside its rows."""
    content: dict[str, Any] = json.loads(zlib.decompress(stored))
    return content


def _split(record: Mapping[str, Any], derived: Derived) -> tuple[Rows, bool]:
    """The rows but for the header section itself, and whether they are certain to be exact.

    That is, whether `join` makes the record of them, if it has the usual keys.
    """
    terms.pack_record_id(record["record_id"])
    reverse_path = parts.end_of(record["reverse_path"])
    envelope = [recipient_of(path) for path in record["recipients"]]
    copies = [parts.copy_of(text) for text in record["archive_recipients"]]
    signatures = [parts.signature_columns(one) for one in record["signatures"]]
    salt, is_usual_salt = _salt(record.get("salt"))
    message, is_exact = _message(record, derived, reverse_path, envelope)
    message["salt"] = None if salt is None else evidence_salt(salt)
    rows = Rows(
        record_id=record["record_id"],
        message=message,
        recipients=[*(columns for columns, _, _ in envelope), *(columns for columns, _ in copies)],
        signatures=[columns for columns, _ in signatures],
        header_section={
            "message_id": parts.stored(derived.message_id),
            "subject": derived.subject,
            "has_subject": bool(derived.subject),
            "salt": salt,
            "fields": b"",
        },
        header_terms=derived.terms,
    )
    index(rows, reverse_path, [end for _, end, _ in envelope], derived)
    return rows, (
        is_exact and is_usual_salt and all(one[-1] for one in (*envelope, *copies, *signatures))
    )


def _salt(text: Any) -> tuple[bytes | None, bool]:
    if text is None:
        return None, True
    if not isinstance(text, str) or len(text) != 32:
        return None, False
    try:
        salt = bytes.fromhex(text)
    except ValueError:
        return None, False
    return (salt, True) if salt.hex() == text else (None, False)


def _message(
    record: Mapping[str, Any],
    derived: Derived,
    reverse_path: End,
    envelope: list[tuple[Columns, End, bool]],
) -> tuple[Columns, bool]:
    client, login, path = record["client"], record["login"], record["reverse_path"]
    recorded_at, is_usual_time = microseconds(record["recorded_at"])
    retention, is_usual_retention = parts.retention_of(record.get("retention"))
    circumstance, is_usual = parts.circumstance_of(record, reverse_path, retention)
    client_columns, is_usual_client = parts.client_of(
        client["address"], client["name"], client["helo"]
    )
    digest, is_usual_digest = _digest(record["body_hash"])
    esmtp, is_usual_esmtp = parts.esmtp_of(path)
    first_author = derived.authors[0] if derived.authors else ""
    author, author_spelling = parts.dictionary_form(first_author)
    size, numbers = parts.number(record["size"]), _numbers(record)
    bcc_maps = record.get("bcc_maps")
    end = reverse_path.columns
    verdict, is_usual_verdict = _verdict(
        record["reasons"],
        Abouts(
            login,
            client["address"],
            path["address"],
            parts.address_of({"address": author, "spelling": author_spelling}),
            end["about"],
            [*(one["address"] for one in record["recipients"]), *record["archive_recipients"]],
            [columns["about"] for columns, _, _ in envelope],
        ),
    )
    columns = {
        "recorded_at": recorded_at,
        "circumstance": circumstance,
        "verdict": verdict,
        "retention": retention,
        "queue_id": terms.storable(record["queue_id"])[:_QUEUE_ID],
        **client_columns,
        "client_name": parts.short_name(client_columns["client_name"], end["address"]),
        "login": parts.stored(login),
        "login_hash": login_hash(login) if login else None,
        **reverse_path_columns(reverse_path),
        "reverse_path_esmtp": esmtp,
        "crossing": parts.choice(schema.CROSSINGS, record["crossing"]),
        "disposition": parts.choice(schema.DISPOSITIONS, record["disposition"]),
        "is_signed": bool(record["signatures"]),
        "archive_addressed": bool(record["archive_addressed"]),
        "author_count": len(derived.authors),
        "author": author,
        "author_spelling": author_spelling,
        "message_id_hash": derived.message_id_hash,
        "size": size,
        "numbers": packed.pack_numbers(numbers, size),
        "body_hash": digest,
        "copy_count": len(record["archive_recipients"]),
        "bcc_maps": None if bcc_maps is None else parts.to_json(bcc_maps),
        "verbatim": None,
    }
    return columns, (
        is_usual_time
        and is_usual
        and is_usual_client
        and parts.whole_name(columns["client_name"], end["address"]) == client["name"]
        and is_usual_digest
        and is_usual_esmtp
        and is_usual_verdict
        and is_usual_retention
        and reverse_path.is_exact
        and (len(client), len(path)) == (4, 6)
        and columns["queue_id"] == record["queue_id"]
        and columns["login"] == login
        and isinstance(record["archive_addressed"], bool)
    )


def _numbers(record: Mapping[str, Any]) -> packed.Numbers:
    number = parts.number
    return packed.Numbers(
        client_port=number(record["client"]["port"]),
        header_count=number(record["header_count"]),
        header_size=number(record["header_size"]),
        body_size=number(record["body_size"]),
    )


@lru_cache(maxsize=4096)
def login_hash(login: str) -> int:
    """By which a login is found."""
    return terms.found_by(login.casefold())


def reverse_path_columns(end: End) -> Columns:
    """How a message row holds its reverse-path, but for ESMTP parameters."""
    return {
        "reverse_path": end.columns["address"],
        "reverse_path_spelling": end.columns["spelling"],
        "reverse_path_raw": end.columns["raw"],
        "reverse_path_resolved": end.columns["resolved"],
        "reverse_path_about": end.columns["about"],
    }


def recipient_of(path: Mapping[str, Any]) -> tuple[Columns, End, bool]:
    """Columns of a recipient of the envelope, its end, and whether they are exact."""
    if path["esmtp"] == [] and len(path["raw"]) + len(path["why"]) <= parts.LONG:
        columns, end, is_exact = _usual_recipient(*_of_recipient(path))
        return columns, end, is_exact and len(path) == 8
    end = parts.end_of(path)
    route, is_exact = parts.route_of(end.place, end.code, path["mailer"], path["host"])
    esmtp, is_usual = parts.esmtp_of(path)
    columns = {"kind": schema.ENVELOPE, "route": route, **end.columns, "esmtp": esmtp}
    return columns, end, is_exact and is_usual and end.is_exact and len(path) == 8


_RECIPIENT = ("raw", "address", "resolved", "place", "why", "mailer", "host")
_of_recipient = itemgetter(*_RECIPIENT)


@lru_cache(maxsize=4096)
def _usual_recipient(*given: Any) -> tuple[Columns, End, bool]:
    """The same people get mail again and again.  What is remembered is shared, as in `parts`."""
    path = dict(zip(_RECIPIENT, given, strict=True))
    end = parts.end_of(path)
    route, is_exact = parts.route_of(end.place, end.code, path["mailer"], path["host"])
    columns = {"kind": schema.ENVELOPE, "route": route, **end.columns, "esmtp": None}
    return columns, end, is_exact and end.is_exact


def _digest(body_hash: Mapping[str, Any] | None) -> tuple[bytes | None, bool]:
    if not body_hash:
        return None, body_hash is None
    text = body_hash["sha256"]
    digest = binascii.a2b_base64(text)
    return digest, len(body_hash) == 2 and _base64(digest) == text


def _base64(octets: bytes) -> str:
    return binascii.b2a_base64(octets, newline=False).decode("ascii")


def _verdict(given: Any, abouts: Abouts) -> tuple[Verdict, bool]:
    if not parts.are_texts(given):  # who reads them back relies on that
        raise ValueError(f"{str(given)[:80]!r} is no list of texts")
    return verdicts.in_common(given, abouts)


def index(rows: Rows, reverse_path: End, recipients: Iterable[End], derived: Derived) -> None:
    """Fill the index tables: who takes part, in which role."""
    roles: dict[str, int] = {}
    for mailbox in reverse_path.mailboxes:
        roles[mailbox] = schema.REVERSE_PATH
    for end in recipients:
        for mailbox in end.mailboxes:
            roles[mailbox] = roles.get(mailbox, 0) | schema.RECIPIENT
    for role, texts in (
        (schema.AUTHOR, derived.authors),
        (schema.TO, derived.to),
        (schema.CC, derived.cc),
    ):
        for text in texts:
            if text:
                mailbox = terms.mailbox(text)
                roles[mailbox] = roles.get(mailbox, 0) | role
    participants, domains = rows.participants, rows.domains
    for mailbox, held in roles.items():
        base, domain, parents = found_by(mailbox)
        participants[mailbox] = participants.get(mailbox, 0) | held
        if base:
            participants[base] = participants.get(base, 0) | held << schema.INDIRECT
        if domain:
            domains[domain] = domains.get(domain, 0) | held
            for name in parents:
                domains[name] = domains.get(name, 0) | held << schema.INDIRECT


@lru_cache(maxsize=4096)
def found_by(mailbox: str) -> tuple[str, str, tuple[str, ...]]:
    """Under what else a mailbox is found: without extension ('' if none), domain, its parents."""
    base = terms.without_extension(mailbox)
    domain = mailbox.rpartition("@")[2] if "@" in mailbox else ""
    return base if base != mailbox else "", domain, terms.parent_domains(domain)


def microseconds(text: str) -> tuple[int, bool]:
    """A moment since 1970, and whether `moment_text` gives the same text."""
    found = _since_epoch(text)
    return found, _MOMENT.fullmatch(text) is not None


def _since_epoch(text: str) -> int:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"recorded_at {text!r} has no time zone")
    return (moment - _EPOCH) // _MICROSECOND


def join(rows: Rows, header_fields: list[Any] | None = None) -> dict[str, Any]:
    """The record that was split into `rows`; without its header section where that is gone."""
    columns, section = rows.message, rows.header_section
    if header_fields is None and "fields" in section:
        header_fields = [list(one) for one in header_store.expand(section["fields"])]
    salt = section.get("salt")
    if salt is not None and len(salt) != _SALT:  # the subject has gone, and with it the line's salt
        salt = None
    if columns["verbatim"] is not None:
        content = {**verbatim(columns["verbatim"]), "header_fields": header_fields}
        return content if salt is None else {**content, "salt": salt.hex()}
    common: Circumstance = columns["circumstance"]
    content = _joined(rows, common)
    content["header_fields"] = header_fields
    if common.version > 1:
        content["salt"] = None if salt is None else salt.hex()
        content["retention"] = parts.stamp_of(columns["retention"])
        bcc_maps = columns["bcc_maps"]
        content["bcc_maps"] = None if bcc_maps is None else json.loads(bcc_maps)
    return content


def _joined(rows: Rows, common: Circumstance) -> dict[str, Any]:
    columns = rows.message
    client_address = parts.client_address_of(columns)
    client_name = parts.whole_name(columns["client_name"], columns["reverse_path"])
    numbers = packed.unpack_numbers(columns["numbers"], columns["size"])
    return {
        "v": common.version,
        "record_id": rows.record_id,
        "recorded_at": moment_text(columns["recorded_at"]),
        "relay": common.relay,
        "config_version": common.config_version,
        "queue_id": columns["queue_id"],
        "listener": common.listener,
        "client": {
            "address": client_address,
            "port": numbers.client_port,
            "name": client_name,
            "helo": parts.helo_of(columns, client_name),
        },
        "login": columns["login"],
        "login_method": common.login_method,
        "tls": None if common.tls is None else json.loads(common.tls),
        "origin": {
            "kind": common.origin_kind,
            "about": parts.about_of(common, columns["login"], client_address),
        },
        "reverse_path": _joined_reverse_path(columns, common),
        "recipients": [
            _joined_recipient(one) for one in rows.recipients if one["kind"] == schema.ENVELOPE
        ],
        "crossing": schema.CROSSINGS[columns["crossing"]],
        "header_count": numbers.header_count,
        "header_size": numbers.header_size,
        "body_size": numbers.body_size,
        "size": columns["size"],
        "body_hash": _joined_body_hash(columns["body_hash"], common),
        "signatures": [parts.signature_of(one) for one in rows.signatures],
        "archive_recipients": [
            parts.address_of(one) for one in rows.recipients if one["kind"] == schema.COPY
        ],
        "archive_addressed": bool(columns["archive_addressed"]),
        "disposition": schema.DISPOSITIONS[columns["disposition"]],
        "reasons": reasons_of(rows),
    }


def moment_text(microseconds: int) -> str:
    """A stored time as RFC 3339 text in UTC."""
    # Without its time zone, which takes as long again to be written and cut off.
    return (_EPOCH_HERE + timedelta(0, 0, microseconds)).isoformat("T", "microseconds") + "Z"


def _joined_reverse_path(columns: Columns, common: Circumstance) -> dict[str, Any]:
    names = ("spelling", "raw", "resolved", "esmtp", "about")
    path = {name: columns[f"reverse_path_{name}"] for name in names}
    path["address"] = columns["reverse_path"]
    return parts.joined_path(path, place=common.reverse_path_place, code=common.reverse_path_why)


def _joined_recipient(columns: Columns) -> dict[str, Any]:
    route: Route = columns["route"]
    path = parts.joined_path(columns, place=route.place, code=route.why)
    return {**path, "mailer": route.mailer, "host": route.host}


def _joined_body_hash(digest: bytes | None, common: Circumstance) -> dict[str, Any] | None:
    if digest is None:
        return None
    return {"canonicalization": common.body_canonicalization, "sha256": _base64(digest)}


def reasons_of(rows: Rows) -> list[str]:
    """The reasons in their text form."""
    columns = rows.message
    if columns["verbatim"] is not None:
        reasons: list[str] = verbatim(columns["verbatim"])["reasons"]
        return reasons
    author = {"address": columns["author"], "spelling": columns["author_spelling"]}
    path = {"address": columns["reverse_path"], "spelling": columns["reverse_path_spelling"]}
    abouts = Abouts(
        columns["login"],
        parts.client_address_of(columns),
        parts.address_of(path),
        parts.address_of(author),
        columns["reverse_path_about"],
        [parts.address_of(one) for one in rows.recipients],
        [one["about"] for one in rows.recipients],
    )
    return verdicts.spelled_out(columns["verdict"].reasons, abouts)
