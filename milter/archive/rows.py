"""A record as rows, and rows as the record again.

Promises: `join(split(record))` is `record`.  `split` checks that itself: where the columns cannot
tell a record exactly (a NUL in a HELO name, a key of a later version) the record's own text is kept
compressed beside them, so that nothing is lost and all of it can still be searched.

Raises: `Unloadable` for a record that no table can take, with what is wrong.

Does not: know ids.  What stands in dictionaries is referred to by its value; `loader` turns values
into ids, and `query` turns ids into values before `join`.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from carbonseal.milter.archive import derive, header_store, schema, terms
from carbonseal.milter.archive.derive import Derived
from carbonseal.policies import address

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# ASCII: surrogates stand as escapes, so the text is fit for every database and exact.
_json = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_LOGIN, _CLIENT = "{login}", "{client}"


class Unloadable(ValueError):
    """The record cannot become rows; the text says why."""


class Circumstance(NamedTuple):
    """Columns of table `circumstance`."""

    version: int
    relay: str
    config_version: str
    listener: str
    login_method: str | None
    tls: str | None
    origin_kind: str
    origin_about: str
    reverse_path_place: int
    reverse_path_why: str
    body_canonicalization: str | None


class Route(NamedTuple):
    """Columns of table `route`."""

    place: int
    why: str
    mailer: str | None
    host: str | None


class SigningForm(NamedTuple):
    """Columns of table `signing_form`."""

    sdid: str
    selector: str
    algorithm: str
    canonicalization: str
    fields: str


Columns = dict[str, Any]


@dataclass(slots=True)
class Rows:
    """One record as rows; `circumstance`, `route`, `form` and addresses stand as values."""

    record_id: str
    message: Columns  # with 'circumstance', 'reverse_path' and 'author'
    recipients: list[Columns]  # with 'address' and 'route'
    signatures: list[Columns]  # with 'form'
    header_section: Columns
    participants: dict[str, int] = field(default_factory=dict)  # mailbox: roles
    domains: dict[str, int] = field(default_factory=dict)  # domain: roles
    words: tuple[str, ...] = ()


def split(record: Mapping[str, Any]) -> Rows:
    """The rows of one record.  Raises: Unloadable."""
    try:
        rows = _split(record)
        if join(rows, record["header_fields"]) != record:
            text = json.dumps(record, separators=(",", ":"))
            rows.message["verbatim"] = zlib.compress(text.encode("ascii"))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as fault:
        kind = "lacks" if isinstance(fault, KeyError) else "has a wrong value:"
        raise Unloadable(f"the record {kind} {fault}") from None
    return rows


def verbatim(stored: bytes) -> dict[str, Any]:
    """The record as it was kept beside its rows."""
    content: dict[str, Any] = json.loads(zlib.decompress(stored))
    return content


def _split(record: Mapping[str, Any]) -> Rows:
    fields = record["header_fields"]
    derived = derive.derive(fields)
    terms.pack_record_id(record["record_id"])
    rows = Rows(
        record_id=record["record_id"],
        message=_message(record, derived),
        recipients=[_recipient(one) for one in record["recipients"]]
        + [_copy(one) for one in record["archive_recipients"]],
        signatures=[_signature(one) for one in record["signatures"]],
        header_section={
            "message_id": None
            if derived.message_id is None
            else terms.storable(derived.message_id),
            "subject": derived.subject,
            "fields": header_store.compress(fields),
        },
        words=derived.words,
    )
    _index(rows, record, derived)
    return rows


def _message(record: Mapping[str, Any], derived: Derived) -> Columns:
    client, login, body_hash = record["client"], record["login"], record["body_hash"]
    author, author_spelling = _mailbox(derived.authors[0] if derived.authors else "")
    return {
        "recorded_at": _microseconds(record["recorded_at"]),
        "circumstance": _circumstance(record),
        "queue_id": terms.storable(record["queue_id"])[:255],
        "client_address": terms.pack_client(client["address"]),
        "client_port": _number(client["port"]),
        "client_name": terms.storable(client["name"]),
        "helo": terms.storable(client["helo"]),
        "login": _text(login),
        "login_hash": login_hash(login) if login else None,
        **_reverse_path(record["reverse_path"]),
        "crossing": _code(schema.CROSSINGS, record["crossing"]),
        "disposition": _code(schema.DISPOSITIONS, record["disposition"]),
        "is_signed": bool(record["signatures"]),
        "archive_addressed": bool(record["archive_addressed"]),
        "author_count": len(derived.authors),
        "author": author,
        "author_spelling": author_spelling,
        "message_id_hash": terms.term(derived.message_id) if derived.message_id else None,
        "date": derived.date,
        "size": _number(record["size"]),
        "header_size": _number(record["header_size"]),
        "header_count": _number(record["header_count"]),
        "body_size": _number(record["body_size"]),
        "body_hash": base64.b64decode(body_hash["sha256"]) if body_hash else None,
        "reasons": _json(_texts(record["reasons"])),
        "verbatim": None,
    }


def login_hash(login: str) -> int:
    """By which a login is found."""
    return terms.term(login.casefold())


def _circumstance(record: Mapping[str, Any]) -> Circumstance:
    origin, reverse_path, tls = record["origin"], record["reverse_path"], record["tls"]
    about = origin["about"]
    if about and about == record["login"]:
        about = _LOGIN
    elif about and about == record["client"]["address"]:
        about = _CLIENT
    body_hash = record["body_hash"]
    return Circumstance(
        version=_number(record["v"]),
        relay=terms.storable(record["relay"]),
        config_version=terms.storable(record["config_version"]),
        listener=terms.storable(record["listener"]),
        login_method=_text(record["login_method"]),
        tls=None if tls is None else _json(tls),
        origin_kind=terms.storable(origin["kind"]),
        origin_about=terms.storable(about),
        reverse_path_place=_code(schema.PLACES, reverse_path["place"]),
        reverse_path_why=_reason(reverse_path["why"])[0],
        body_canonicalization=_text(body_hash["canonicalization"]) if body_hash else None,
    )


def _reverse_path(path: Mapping[str, Any]) -> Columns:
    columns = _path(path)
    names = ("spelling", "raw", "resolved", "esmtp", "about")
    return {
        "reverse_path": columns["address"],
        **{f"reverse_path_{name}": columns[name] for name in names},
    }


def _recipient(path: Mapping[str, Any]) -> Columns:
    route = Route(
        place=_code(schema.PLACES, path["place"]),
        why=_reason(path["why"])[0],
        mailer=_text(path["mailer"]),
        host=_text(path["host"]),
    )
    return {"kind": schema.ENVELOPE, "route": route, **_path(path)}


def _path(path: Mapping[str, Any]) -> Columns:
    text, raw, resolved = path["address"], path["raw"], path["resolved"]
    address, spelling = _mailbox(text)
    about = _reason(path["why"])[1]
    return {
        "address": address,
        "spelling": spelling,
        "raw": None if raw == f"<{text}>" else terms.octets(raw),
        "resolved": None
        if resolved is None
        else b""
        if resolved == (address or "")
        else terms.octets(resolved),
        "esmtp": _json(path["esmtp"]) if path["esmtp"] else None,
        "about": None if about == text else terms.storable(about),
    }


def _copy(text: str) -> Columns:
    address, spelling = _mailbox(text)
    empty = dict.fromkeys(("route", "raw", "resolved", "esmtp", "about"))
    return {"kind": schema.COPY, "address": address, "spelling": spelling, **empty}


def _signature(signature: Mapping[str, Any]) -> Columns:
    names = SigningForm._fields
    auid = signature["auid"]
    return {
        "form": SigningForm(**{name: terms.storable(signature[name]) for name in names}),
        "auid": None if auid == f"@{signature['sdid']}" else _text(auid),
        "signed_at": _number(signature["signed_at"]),
        "expires_at": None if signature["expires_at"] is None else _number(signature["expires_at"]),
    }


def _index(rows: Rows, record: Mapping[str, Any], derived: Derived) -> None:
    """Fill the index tables: who takes part, in which role."""
    ends = [(schema.REVERSE_PATH, record["reverse_path"])]
    ends += [(schema.RECIPIENT, path) for path in record["recipients"]]
    named = [(role, text) for role, path in ends for text in (path["address"], _one_spelling(path))]
    named += [(schema.AUTHOR, text) for text in derived.authors]
    named += [(schema.TO, text) for text in derived.to]
    named += [(schema.CC, text) for text in derived.cc]
    for role, text in named:
        if text:
            _take_part(rows, terms.mailbox(text), role)


def _one_spelling(path: Mapping[str, Any]) -> str | None:
    """The resolved address, with A-labels like all others."""
    resolved: str | None = path["resolved"]
    if not resolved or resolved.isascii():
        return resolved
    return str(address.parse_path(resolved).address or resolved)


def _take_part(rows: Rows, mailbox: str, role: int) -> None:
    rows.participants[mailbox] = rows.participants.get(mailbox, 0) | role
    base = terms.without_extension(mailbox)
    if base != mailbox:
        rows.participants[base] = rows.participants.get(base, 0) | role << schema.INDIRECT
    domain = mailbox.rpartition("@")[2] if "@" in mailbox else ""
    if domain:
        rows.domains[domain] = rows.domains.get(domain, 0) | role
        for name in terms.parent_domains(domain):
            rows.domains[name] = rows.domains.get(name, 0) | role << schema.INDIRECT


def _mailbox(text: str) -> tuple[str | None, bytes | None]:
    """Dictionary form of an address, and its octets where those differ."""
    if not text:
        return None, None
    mailbox = terms.mailbox(text)
    return mailbox, None if mailbox == text else terms.octets(text)


def _reason(text: str) -> tuple[str, str]:
    """Code and subject of a reason in its text form `code(about)`."""
    code, bracket, rest = text.partition("(")
    return (terms.storable(code), rest[:-1]) if bracket else (terms.storable(text), "")


def _microseconds(text: str) -> int:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"recorded_at {text!r} has no time zone")
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _code(names: tuple[str, ...], name: str) -> int:
    if name not in names:
        raise ValueError(f"{name!r} is none of {', '.join(names)}")
    return names.index(name)


def _number(value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value < 1 << 63:
        raise ValueError(f"{value!r} is no number of octets, seconds or things")
    return value


def _texts(value: Any) -> list[str]:
    """A list of texts and nothing else: who reads it back relies on that."""
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError(f"{str(value)[:80]!r} is no list of texts")
    return value


def _text(value: str | None) -> str | None:
    return None if value is None else terms.storable(value)


def join(rows: Rows, header_fields: list[Any] | None = None) -> dict[str, Any]:
    """The record that was split into `rows`."""
    columns = rows.message
    if columns["verbatim"] is not None:
        return verbatim(columns["verbatim"])
    common: Circumstance = columns["circumstance"]
    if header_fields is None:
        header_fields = [list(one) for one in header_store.expand(rows.header_section["fields"])]
    client_address = client_of(columns)
    origin_about = {_LOGIN: columns["login"], _CLIENT: client_address}.get(
        common.origin_about, common.origin_about
    )
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
            "port": columns["client_port"],
            "name": columns["client_name"],
            "helo": columns["helo"],
        },
        "login": columns["login"],
        "login_method": common.login_method,
        "tls": None if common.tls is None else json.loads(common.tls),
        "origin": {"kind": common.origin_kind, "about": origin_about},
        "reverse_path": _joined_reverse_path(columns, common),
        "recipients": [
            _joined_recipient(one) for one in rows.recipients if one["kind"] == schema.ENVELOPE
        ],
        "crossing": schema.CROSSINGS[columns["crossing"]],
        "header_fields": header_fields,
        "header_count": columns["header_count"],
        "header_size": columns["header_size"],
        "body_size": columns["body_size"],
        "size": columns["size"],
        "body_hash": _joined_body_hash(columns["body_hash"], common),
        "signatures": [signature_of(one) for one in rows.signatures],
        "archive_recipients": [
            address_of(one) for one in rows.recipients if one["kind"] == schema.COPY
        ],
        "archive_addressed": bool(columns["archive_addressed"]),
        "disposition": schema.DISPOSITIONS[columns["disposition"]],
        "reasons": reasons_of(columns),
    }


def moment_text(microseconds: int) -> str:
    """A stored time as RFC 3339 text in UTC."""
    moment = _EPOCH + timedelta(microseconds=microseconds)
    return moment.isoformat(timespec="microseconds")[:26] + "Z"


def address_of(columns: Columns) -> str:
    """The exact address of a row with 'address' and 'spelling'."""
    spelling = columns["spelling"]
    return columns["address"] or "" if spelling is None else _lossless(spelling)


def _joined_reverse_path(columns: Columns, common: Circumstance) -> dict[str, Any]:
    names = ("spelling", "raw", "resolved", "esmtp", "about")
    path = {name: columns[f"reverse_path_{name}"] for name in names}
    path["address"] = columns["reverse_path"]
    return _joined_path(path, place=common.reverse_path_place, code=common.reverse_path_why)


def _joined_recipient(columns: Columns) -> dict[str, Any]:
    route: Route = columns["route"]
    path = _joined_path(columns, place=route.place, code=route.why)
    return {**path, "mailer": route.mailer, "host": route.host}


def _joined_path(columns: Columns, *, place: int, code: str) -> dict[str, Any]:
    text = address_of(columns)
    raw, resolved, about = columns["raw"], columns["resolved"], columns["about"]
    if about is None:
        about = text
    return {
        "raw": f"<{text}>" if raw is None else _lossless(raw),
        "address": text,
        "resolved": None
        if resolved is None
        else _lossless(resolved)
        if resolved
        else columns["address"] or "",
        "esmtp": json.loads(columns["esmtp"]) if columns["esmtp"] else [],
        "place": schema.PLACES[place],
        "why": f"{code}({about})" if about else code,
    }


def _joined_body_hash(digest: bytes | None, common: Circumstance) -> dict[str, Any] | None:
    if digest is None:
        return None
    return {
        "canonicalization": common.body_canonicalization,
        "sha256": base64.b64encode(digest).decode("ascii"),
    }


def client_of(columns: Columns) -> str:
    """The client's textual address; '' when unknown."""
    packed = columns["client_address"]
    return "" if packed is None else terms.unpack_client(packed)


def reasons_of(columns: Columns) -> list[str]:
    """The reasons in their text form."""
    reasons: list[str] = json.loads(columns["reasons"])
    return reasons


def signature_of(columns: Columns) -> dict[str, Any]:
    """The facts of one signature."""
    form: SigningForm = columns["form"]
    auid = columns["auid"]
    return {
        **form._asdict(),
        "auid": f"@{form.sdid}" if auid is None else auid,
        "signed_at": columns["signed_at"],
        "expires_at": columns["expires_at"],
    }


def _lossless(octets: bytes) -> str:
    return octets.decode("utf-8", "surrogateescape")
