"""The fields of a search: their names, what they find, and the one spelling of their values.

Promises: `canonical` gives each value one text, and takes its own answers: what two people mean
alike is the same in the audit.  Nothing else knows how a value is written.

Raises: DataError, a sentence that names the field and says how to write it.

Does not: know where a value stands in the query (`language`), or SQL (`conditions`).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from carbonseal.milter.archive import schema, terms
from carbonseal.milter.archive.search import period
from carbonseal.policies import address, delivery, domains, header_fields
from carbonseal.policies.errors import DataError

MAX_WORDS = 50
HEADER = "header."
_LONGEST = 20_000  # characters of a value; a Message-ID may have 12,000
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_SIZE = re.compile(r"(>=|<=|>|<|=)?\s*(\d{1,15})([KMG]?)", re.ASCII | re.IGNORECASE)
_NAME = re.compile(r"[!-9;-~]{1,78}", re.ASCII)  # RFC 5322, section 3.6.8

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Field:
    """What people may ask for."""

    name: str
    canonical: Callable[[str, str], str]  # of the field's name as typed, and the text
    finds: str  # for people
    roles: int = 0  # of participants


def canonical(name: str, text: str, label: str = "") -> str:
    """The one spelling of `text` as a value of this field (in its canonical name).

    Raises: DataError, which calls the field `label`.
    """
    label = label or f"{name}:"
    bounded(text, label)
    if name.startswith(HEADER):
        return _header(label, text)
    field = FIELDS.get(name)
    if field is None:
        raise DataError(f"no field is called {name[:40]!r}; write one of {', '.join(FIELDS)}")
    return field.canonical(label, text)


def typed(name: str, text: str, label: str = "") -> str:
    """The same of what somebody types now.

    A range that ends before it begins is refused: that nothing was found would be a wrong answer.
    (What a hold has kept is taken as it is.)
    """
    value = canonical(name, text, label)
    first, dots, last = value.partition("..")
    if name == "size" and dots and int(first) > int(last):
        raise DataError(f"{label or f'{name}:'} {text[:80]!r} ends before it begins; exchange them")
    return value


def bounded(text: str, label: str = "a value") -> str:
    """The same.  Raises: DataError when it is longer than anything we keep."""
    if len(text) > _LONGEST:
        raise DataError(f"{label} has more than {_LONGEST} characters; shorten it")
    return text


def name_of(typed: str) -> str:
    """The canonical name of a field as people type it.  Raises: DataError."""
    name = typed.lower()
    if name.startswith(HEADER):
        if not _NAME.fullmatch(name[len(HEADER) :]):
            raise DataError(f"{typed[:40]!r} names no header field; write header.list-id:...")
        return name
    name = ALIASES.get(name, name)
    if name not in FIELDS:
        raise DataError(f"no field is called {typed[:40]!r}; write one of {', '.join(FIELDS)}")
    return name


def _participant(name: str, text: str) -> str:
    """An address; `bob+*@x` with or without extension; `@x` all of a domain, `@.x` and below."""
    text = text.strip()
    if text == "<>" and name.strip("-:") in ("from", "sender"):
        return text
    if text.startswith("*@"):
        text = text[1:]
    if text.startswith("@"):
        return "@" + _domain(name, text[1:])
    bare = text[1:-1] if text.startswith("<") and text.endswith(">") else text
    local_part, at, domain = bare.rpartition("@")
    if at and local_part.endswith("+*") and len(local_part) > 2:
        return with_extensions(_mailbox(f"{local_part[:-2]}@{domain}"))
    return _mailbox(text)


def _mailbox(text: str) -> str:
    return terms.mailbox(str(address.parse_address(text)))


def with_extensions(mailbox: str) -> str:
    """The value that finds `bob@x` and every `bob+tag@x` for `bob@x`."""
    local_part, _, domain = mailbox.rpartition("@")
    if not local_part or local_part.startswith('"') or local_part.endswith("+*"):
        return mailbox
    return f"{local_part}+*@{domain}"


def _domain(name: str, text: str) -> str:
    text = text.strip()
    text = text.removeprefix("@").removeprefix("*") if name.strip("-:") == "domain" else text
    found = domains.normalize(text.removeprefix("."))
    if not text.startswith("."):
        return found
    if found.startswith("["):
        raise DataError(f"{name} {text[:80]!r} is an address literal; it has no subdomains")
    if "." not in found:
        raise DataError(
            f"{name} {text[:80]!r} is all of a top-level domain, which no index knows; "
            f"write .partner{text[:80]}"
        )
    return f".{found}"


def _subject(name: str, text: str) -> str:
    found = terms.sequence(text)
    if not found:
        raise DataError(f"{name} {text[:80]!r} holds no word; write letters or digits")
    if len(found) > MAX_WORDS:
        raise DataError(f"{name} more than {MAX_WORDS} words; leave some out")
    return " ".join(found)


def _message_id(name: str, text: str) -> str:
    found = header_fields.message_id(terms.octets(text))
    if not found:
        raise DataError(f"{name} {text[:80]!r} holds none; write it like <1a2b@example.com>")
    return found


def _queue_id(name: str, text: str) -> str:
    found = _some(name, text)
    if not found.rstrip("*"):
        raise DataError(f"{name} {text[:80]!r} holds no queue id; write one, or how it begins")
    return found


def _some(name: str, text: str) -> str:
    if not text.strip():
        raise DataError(f"{name} is empty; write what it should be")
    return text.strip()


def _record_id(name: str, text: str) -> str:
    try:
        terms.pack_record_id(text.strip())
    except ValueError:
        raise DataError(f"{name} {text[:80]!r} is no record id, which has 26 characters") from None
    return text.strip().upper()


def _client(name: str, text: str) -> str:
    try:
        if "%" in text:  # a zone means something on one machine only, and is not recorded
            raise ValueError
        found = ipaddress.ip_network(text.strip(), strict=False)
    except ValueError:
        raise DataError(
            f"{name} {text[:80]!r} is no address or network; "
            "write it like 192.0.2.1 or 2001:db8::/32"
        ) from None
    return str(found.network_address) if found.num_addresses == 1 else str(found)


def _one_of(*choices: str) -> Callable[[str, str], str]:
    def choose(name: str, text: str) -> str:
        found = text.strip().lower()
        if found not in choices:
            raise DataError(f"{name} {text[:80]!r} is not known; write {' or '.join(choices)}")
        return found

    return choose


def _size(name: str, text: str) -> str:
    """`>1048576`, `<=5`, `1..5`; K, M and G are 1,024 to the power of 1, 2, 3."""
    first, dots, last = text.partition("..")
    if dots:
        return f"{_octets(name, text, first)[1]}..{_octets(name, text, last)[1]}"
    sign, number = _octets(name, text, text)
    return f"{sign}{number}"


def _octets(name: str, text: str, part: str) -> tuple[str, int]:
    found = _SIZE.fullmatch(part.strip())
    if not found:
        raise DataError(f"{name} {text[:80]!r} is no size; write >1M, <=20K or 1M..5M")
    sign = (found[1] or "").replace("=", "") if found[1] == "=" else found[1] or ""
    return sign, int(found[2]) * _UNITS[found[3].upper()]


def _moment(name: str, text: str) -> str:
    return moment_text(period.moment(name.rstrip(":"), text))


def moment_text(moment: datetime) -> str:
    """RFC 3339 in UTC, to the microsecond."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _header(name: str, text: str) -> str:
    found = " ".join(text.split())
    if not found.strip("*"):
        raise DataError(f"{name} {text[:80]!r} holds no value; write one, or how it begins")
    return found


STATES = tuple(one.value for one in delivery.State)
COPIES = ("delivered", "deferred", "lost", "missing")
_EVERY = schema.ANY_ROLE
_DEFINED = (
    Field("from", _participant, "reverse-path or author", schema.REVERSE_PATH | schema.AUTHOR),
    Field("sender", _participant, "reverse-path; <> the null one", schema.REVERSE_PATH),
    Field("author", _participant, "an author, in From", schema.AUTHOR),
    Field(
        "to",
        _participant,
        "envelope recipient, To or Cc",
        schema.RECIPIENT | schema.TO | schema.CC,
    ),
    Field("rcpt", _participant, "envelope recipient, Bcc included", schema.RECIPIENT),
    Field("cc", _participant, "in Cc", schema.CC),
    Field("participant", _participant, "any of these", _EVERY),
    Field("domain", _domain, "domain of any participant; .DOMAIN adds its subdomains", _EVERY),
    Field("subject", _subject, "a word of the subject; several: all of them in this order"),
    Field("message-id", _message_id, "Message-ID, with or without <>"),
    Field("queue-id", _queue_id, "Postfix queue id; 4XY* what it begins with"),
    Field("record-id", _record_id, "one record"),
    Field("client", _client, "client's address or network"),
    Field("login", _some, "SASL login"),
    Field("crossing", _one_of(*schema.CROSSINGS), "how it met the boundary"),
    Field("signed", _one_of("yes", "no"), "with or without a signature of ours"),
    Field("after", _moment, "that moment or later"),
    Field("before", _moment, "before that moment"),
    Field("relay", _some, "relay that sealed it"),
    Field("size", _size, "octets of the message: >1M, <=20K, 1M..5M"),
    Field("class", _some, "retention class it was stamped with"),
    Field("disposition", _one_of(*schema.DISPOSITIONS), "what the client was told"),
    Field("state", _one_of(*STATES), "how any of its recipients stands now"),
    Field("copy", _one_of(*COPIES), "how any of its archive copies stands now"),
    Field("left", _one_of("late"), "late: an alias led it outside after it was sealed"),
)
FIELDS: Mapping[str, Field] = {one.name: one for one in _DEFINED}
ALIASES: Mapping[str, str] = {
    "recipient": "rcpt",
    "bcc": "rcpt",
    "queue": "queue-id",
    "message": "message-id",
    "messageid": "message-id",
    "msgid": "message-id",
    "record": "record-id",
    "user": "login",
    "since": "after",
    "until": "before",
    "retention": "class",
    "direction": "crossing",
}
