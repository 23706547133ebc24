"""Parts of a record as columns, and back: ends of the envelope, client, circumstance, signature.

Promises: the same part gives the same columns.  Each says whether it `is_exact`: whether the
columns alone give the part back, found out by trying.  Parts recur (the same people write to the
same people, from the same hosts), so the last few thousand are remembered with their answer: a
record costs the writer a look-up where it would cost thirty times that.  What is remembered is
shared: nobody may change it.

Raises: ValueError, TypeError, AttributeError for what no column can take; `rows` explains them.

Does not: know whole records (`rows` does) or ids (`loader` does).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from carbonseal.milter.archive import record as record_line
from carbonseal.milter.archive import schema, terms
from carbonseal.policies import address

Columns = dict[str, Any]

_LOGIN, _CLIENT = "{login}", "{client}"
_ITSELF = "[127.0.0.1]"  # what programs of people say at HELO
_PATH = ("address", "spelling", "raw", "resolved", "esmtp", "about")
# Longer ones are a stranger's, and would take memory for nothing.
LONG = 400
_REMEMBERED = 4096


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
    retention_id: int | None


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


class Retention(NamedTuple):
    """Columns of table `retention`."""

    name: str
    keep: int | None
    headers: int | None
    subject: int | None


class End(NamedTuple):
    """The reverse-path or a recipient, without its ESMTP parameters."""

    columns: Mapping[str, Any]  # 'address' stands for its id
    place: int
    code: str  # of the reason for that place
    mailboxes: tuple[str, ...]  # under which it is to be found
    is_exact: bool


def end_of(path: Mapping[str, Any]) -> End:
    """One end of the envelope."""
    raw, why = path["raw"], path["why"]
    make = _end if len(raw) + len(why) <= LONG else _end.__wrapped__
    return make(raw, path["address"], path["resolved"], path["place"], why)


@lru_cache(maxsize=_REMEMBERED)
def _end(raw: str, text: str, resolved: str | None, place: str, why: str) -> End:
    code, about = _reason(why)
    mailbox, spelling = dictionary_form(text)
    columns = {
        "address": mailbox,
        "spelling": spelling,
        "raw": None if raw == f"<{text}>" else terms.octets(raw),
        "resolved": None
        if resolved is None
        else b""
        if resolved == (mailbox or "")
        else terms.octets(resolved),
        "esmtp": None,
        "about": None if about == text else terms.storable(about),
    }
    placed = choice(schema.PLACES, place)
    found_by = (text, _one_spelling(resolved))
    path = {"raw": raw, "address": text, "resolved": resolved, "place": place, "why": why}
    return End(
        columns,
        placed,
        code,
        tuple(dict.fromkeys(terms.mailbox(one) for one in found_by if one)),
        joined_path(columns, place=placed, code=code) == {**path, "esmtp": []},
    )


def _one_spelling(resolved: str | None) -> str | None:
    """The resolved address, with A-labels like all others."""
    if not resolved or resolved.isascii():
        return resolved
    return str(address.parse_path(resolved).address or resolved)


def _reason(text: str) -> tuple[str, str]:
    """Code and subject of a reason in its text form `code(about)`."""
    code, bracket, rest = text.partition("(")
    return (terms.storable(code), rest[:-1]) if bracket else (terms.storable(text), "")


def joined_path(columns: Mapping[str, Any], *, place: int, code: str) -> dict[str, Any]:
    """One end of the envelope as in the record."""
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
        "esmtp": esmtp_given(columns["esmtp"]),
        "place": schema.PLACES[place],
        "why": f"{code}({about})" if about else code,
    }


def esmtp_of(path: Mapping[str, Any]) -> tuple[str | None, bool]:
    """ESMTP parameters as a column, and whether it is exact."""
    given = path["esmtp"]
    if not given:
        return None, given == []
    if not are_texts(given):
        return to_json(given), False
    text = _short_esmtp(" ".join(given))
    # What is short for something else, or holds what no parameter holds, is rather long than wrong.
    is_plain = text.isascii() and text.isprintable() and not text.startswith("[")
    return text if is_plain and esmtp_given(text) == given else to_json(given), True


def _short_esmtp(text: str) -> str:
    return text[4:] if text.startswith("SIZE=") else text


def esmtp_given(stored_text: str | None) -> list[str]:
    """ESMTP parameters from their column."""
    if not stored_text:
        return []
    if stored_text.startswith("["):
        found: list[str] = json.loads(stored_text)
        return found
    return (f"SIZE{stored_text}" if stored_text[0] == "=" else stored_text).split(" ")


@lru_cache(maxsize=_REMEMBERED)
def copy_of(text: str) -> tuple[Columns, bool]:
    """An archive recipient, and whether the columns are exact."""
    mailbox, spelling = dictionary_form(text)
    empty = dict.fromkeys(("route", *_PATH))
    columns = {**empty, "kind": schema.COPY, "address": mailbox, "spelling": spelling}
    return columns, address_of(columns) == text


def retention_of(stamp: Mapping[str, Any] | None) -> tuple[Retention | None, bool]:
    """The retention class a record was stamped with, and whether that is exact."""
    if stamp is None:
        return None, True
    name = stamp["class"]
    periods = (stamp["keep"], stamp["headers"], stamp["subject"])
    for period in periods:
        if period is not None:
            number(period)
    made = Retention(terms.storable(name), *periods)
    return made, made.name == name and len(stamp) == 4 and bool not in map(type, periods)


@lru_cache(maxsize=256)
def retention_id(retention: Retention) -> int:
    """The key of a row of table `retention`."""
    return terms.term(json.dumps(retention))


def stamp_of(retention: Retention | None) -> dict[str, Any] | None:
    """The retention class as in the record."""
    if retention is None:
        return None
    name, keep, headers, subject = retention
    return {"class": name, "keep": keep, "headers": headers, "subject": subject}


@lru_cache(maxsize=_REMEMBERED)
def route_of(place: int, code: str, mailer: str | None, host: str | None) -> tuple[Route, bool]:
    """Where a recipient is, and whether that is exact."""
    route = Route(place, code, stored(mailer), stored(host))
    return route, route == (place, code, mailer, host)


def client_of(address: str, name: str, helo: str) -> tuple[Columns, bool]:
    """Columns of a client without its port, and whether they are exact."""
    make = _client if len(name) + len(helo) <= LONG else _client.__wrapped__
    return make(address, name, helo)


@lru_cache(maxsize=_REMEMBERED)
def _client(address: str, name: str, helo: str) -> tuple[Columns, bool]:
    stored_name = terms.storable(name)
    columns = {
        "client_address": terms.pack_client(address),
        "client_name": stored_name,
        "helo": None if helo == name else "[]" if helo == _ITSELF else terms.storable(helo),
    }
    joined = (client_address_of(columns), stored_name, helo_of(columns, stored_name))
    return columns, joined == (address, name, helo)


def client_address_of(columns: Mapping[str, Any]) -> str:
    """The client's textual address; '' when unknown."""
    packed = columns["client_address"]
    return "" if packed is None else terms.unpack_client(packed)


def helo_of(columns: Mapping[str, Any], name: str) -> str:
    """What the client of that name said at HELO."""
    helo: str | None = columns["helo"]
    return name if helo is None else _ITSELF if helo == "[]" else helo


def short_name(name: str, sender: str | None) -> str:
    """The name of a client without the domain of the sender's mailbox, if it ends in that.

    Two of three do; an @, which no host name holds, stands for the domain.
    """
    domain = _domain_of(sender)
    return f"{name[: -len(domain)]}@" if domain and name.endswith(f".{domain}") else name


def whole_name(short: str, sender: str | None) -> str:
    """The name from what `short_name` made of it."""
    return short[:-1] + _domain_of(sender) if short.endswith("@") else short


def _domain_of(mailbox: str | None) -> str:
    _, at, domain = (mailbox or "").rpartition("@")
    return domain if at else ""


def circumstance_of(
    record: Mapping[str, Any], reverse_path: End, retention: Retention | None
) -> tuple[Circumstance, bool]:
    """What a record has in common with many others, and whether that is exact."""
    origin, body_hash = record["origin"], record["body_hash"]
    about, is_placeholder = _about(origin["about"], record)
    tls, is_exact = _tls(record["tls"])
    made, is_same = _circumstance(
        record["v"],
        record["relay"],
        record["config_version"],
        record["listener"],
        record["login_method"],
        tls,
        origin["kind"],
        about,
        reverse_path.place,
        reverse_path.code,
        body_hash["canonicalization"] if body_hash else None,
        None if retention is None else retention_id(retention),
    )
    is_exact = is_exact and is_same and not is_placeholder and len(origin) == 2
    return made, is_exact


# Typed, because 1 and 1.0 are the same to a dictionary, and only one is a version.
@lru_cache(maxsize=1024, typed=True)
def _circumstance(*given: Any) -> tuple[Circumstance, bool]:
    number(given[0])
    texts: Iterator[Any] = (stored(one) if isinstance(one, str) else one for one in given)
    made = Circumstance(*texts)
    if not all(isinstance(getattr(made, name), str) for name in _TEXTS):
        raise ValueError(f"{given!r} lacks a text")
    return made, made == given


_TEXTS = ("relay", "config_version", "listener", "origin_kind", "origin_about")


def _about(about: str, record: Mapping[str, Any]) -> tuple[str, bool]:
    """What proved the origin as stored, and whether it only looks like one of our placeholders."""
    if about and about == record["login"]:
        return _LOGIN, False
    if about and about == record["client"]["address"]:
        return _CLIENT, False
    return about, about in (_LOGIN, _CLIENT)


def about_of(common: Circumstance, login: str | None, client_address: str) -> str | None:
    """What proved the origin, from how it is stored."""
    return {_LOGIN: login, _CLIENT: client_address}.get(common.origin_about, common.origin_about)


def _tls(facts: Any) -> tuple[str | None, bool]:
    if facts is None:
        return None, True
    if are_texts([*facts.values()]):
        return _tls_text(tuple(facts.items())), True
    return to_json(facts), False


@lru_cache(maxsize=256)
def _tls_text(items: tuple[tuple[str, str], ...]) -> str:
    return to_json(dict(items))


_FORM = SigningForm._fields


def signature_columns(signature: Mapping[str, Any]) -> tuple[Columns, bool]:
    """Columns of a signature, and whether they are exact."""
    form, auid, is_exact = _form(signature["auid"], *(signature[name] for name in _FORM))
    expires_at = signature["expires_at"]
    columns = {
        "form": form,
        "auid": auid,
        "signed_at": number(signature["signed_at"]),
        "expires_at": None if expires_at is None else number(expires_at),
    }
    return columns, is_exact and len(signature) == len(_FORM) + 3


@lru_cache(maxsize=1024)
def _form(auid: str | None, *given: str) -> tuple[SigningForm, str | None, bool]:
    form = SigningForm(*map(terms.storable, given))
    column = None if auid == f"@{given[0]}" else stored(auid)
    return form, column, form == given and _auid(column, form) == auid


def _auid(column: str | None, form: SigningForm) -> str:
    return f"@{form.sdid}" if column is None else column


def signature_of(columns: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of one signature."""
    form: SigningForm = columns["form"]
    return {
        **form._asdict(),
        "auid": _auid(columns["auid"], form),
        "signed_at": columns["signed_at"],
        "expires_at": columns["expires_at"],
    }


def dictionary_form(text: str) -> tuple[str | None, bytes | None]:
    """Dictionary form of an address, and its octets where those differ."""
    if not text:
        return None, None
    mailbox = terms.mailbox(text)
    octets = terms.octets(text)
    # Text that never was octets (a lone surrogate) does not come back from the dictionary as it is.
    is_same = mailbox == text and (text.isascii() or _lossless(octets) == text)
    return mailbox, None if is_same else octets


def address_of(columns: Mapping[str, Any]) -> str:
    """The exact address of a row with 'address' and 'spelling'."""
    spelling = columns["spelling"]
    return columns["address"] or "" if spelling is None else _lossless(spelling)


def _lossless(octets: bytes) -> str:
    return octets.decode("utf-8", "surrogateescape")


def to_json(value: Any) -> str:
    """JSON in ASCII: surrogates stand as escapes, so it is fit for every database and exact."""
    return record_line.ascii_json(value).decode("ascii")


def stored(text: str | None) -> str | None:
    """Text fit for every database."""
    return None if text is None else terms.storable(text)


def choice(names: tuple[str, ...], name: str) -> int:
    """The number by which one of `names` is stored."""
    if name not in names:
        raise ValueError(f"{name!r} is none of {', '.join(names)}")
    return names.index(name)


def number(value: Any) -> int:
    """A number that every database can hold."""
    if not isinstance(value, int) or not 0 <= value < 1 << 63:
        raise ValueError(f"{value!r} is no number of octets, seconds or things")
    return value


_TEXT = frozenset((str,))


def are_texts(values: Any) -> bool:
    """Whether these are a list of texts and nothing else."""
    return isinstance(values, list) and not set(map(type, values)) - _TEXT
