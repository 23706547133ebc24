"""One person taken out of one record: what names the address is replaced by a token.

What names it: the address in any spelling (case, quotes, U-label or A-label, trailing dot), inside
the addresses that forwarders and lists make of it (`bob=partner.example`, `partner.example=bob`,
`bob%partner.example`), encoded in a header field; the display names of a field with addresses in
which it stands; a login, where the person wrote the message.  With extensions, `bob+tag@` too.

Promises: pure and repeatable.  `names` of the result is False; what does not name the person is
left exactly as it was, in its place; the other party of the message can still be found.

Does not: recognise a person by anything but the address: a name in the subject, a telephone number
or a host name that only people understand stays, as does the client's IP address.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import idna

from carbonseal.milter.archive import terms
from carbonseal.policies import header_fields
from carbonseal.policies.errors import DataError

ERASED = "erased"  # stands for a login
_LISTING = frozenset(
    "from to cc bcc sender reply-to return-path delivered-to x-original-to errors-to "
    "resent-from resent-to resent-cc resent-bcc resent-sender resent-reply-to "
    "disposition-notification-to return-receipt-to mail-followup-to mail-reply-to".split()
)
# What a local part may go on with in front of a name; `=` and quotes stand there for other reasons
# (smtp.mailfrom=bob@x, prvs=1a2b=bob@x).
_BEFORE = r"\w.+-"
# What a name can begin behind: outside an address, and inside one that was made of it.
_BEFORE_ANY, _WITHIN = re.compile(rf"[^{_BEFORE}]"), re.compile(r"[^\w.]")
_RUN = re.compile(r'[^\s<>"@]+\Z')
_LONGEST = 256  # characters of a local part that is looked at

Record = dict[str, Any]


class Named(Protocol):
    """Whoever can be recognised in a text."""

    @property
    def parts(self) -> tuple[str, ...]:
        """In lower case, what stands in every plain text with the name; the domain first."""

    def is_named_in(self, text: str) -> bool:
        """Whether the text names the person."""


@dataclass(frozen=True)
class Person:
    """Who is to be erased.  Raises: DataError for an address without a domain."""

    mailbox: str  # as in terms.mailbox
    with_extensions: bool = False

    def __post_init__(self) -> None:
        if not self.mailbox.rpartition("@")[0]:
            raise DataError(f"{self.mailbox[:80]!r}: write the whole address, with its domain")

    @property
    def parts(self) -> tuple[str, ...]:
        """As Named."""
        local, _, domain = self.mailbox.rpartition("@")
        return domain, local

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        """Everything that is this address, or was made of it."""
        local, _, domain = self.mailbox.rpartition("@")
        inner = local[1:-1] if local.startswith('"') and local.endswith('"') else local
        names = "|".join(re.escape(one) for one in _spellings(domain))
        spelled = "|".join(re.escape(one) for one in {local, inner})
        extension = r"(?:\+[^@\s<>\"]*)?" if self.with_extensions else ""
        inside = r"(?:\+[^@=%\s<>\"]*)?" if self.with_extensions else ""
        after = r"\.?(?![\w-])(?!\.\w)"
        return re.compile(
            rf'(?<![{_BEFORE}])"?(?:{spelled}){extension}"?\s*@\s*(?:{names}){after}'
            # +40 is @ in the parameters of SMTP (RFC 3461 section 4)
            rf"|(?<![\w.])(?:{spelled}){inside}(?:[=%]|\+40)(?:{names})(?![\w-])(?!\.\w)"
            rf"|(?<![\w.-])(?:{names})[=!](?:{spelled}){inside}(?![\w.])",
            re.IGNORECASE,
        )

    def is_named_in(self, text: str) -> bool:
        """Whether the text names the person."""
        return self._pattern.search(text) is not None

    def without(self, text: str, token: str) -> str:
        """The text with a token where it named the person."""
        return self._pattern.sub(lambda _: token, text)

    def is_mailbox(self, address: str) -> bool:
        """Whether that very mailbox is the person's."""
        mailbox = terms.mailbox(address)
        if mailbox == self.mailbox:
            return True
        return self.with_extensions and terms.without_extension(mailbox) == self.mailbox


def _spellings(domain: str) -> set[str]:
    """A-label and U-label form."""
    found = {domain}
    try:
        found.add(idna.decode(domain))
    except (idna.IDNAError, UnicodeError):
        pass  # a literal, or a name that IDNA does not know
    return found


@dataclass(frozen=True)
class Certified:
    """Somebody of whom a certificate says hashes, the domain and how the mailbox begins.

    Recognised in the same places as a Person, but for local parts that need quotes.
    """

    hashes: frozenset[bytes]  # as terms.mailbox_hash
    domain: str
    begins: str
    with_extensions: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        """As Named."""
        return (self.domain,)

    @cached_property
    def _behind(self) -> re.Pattern[str]:
        """What a local part stands before."""
        names = "|".join(re.escape(one) for one in _spellings(self.domain))
        return re.compile(
            rf'"?\s*@\s*(?:{names})\.?(?![\w-])(?!\.\w)'
            rf"|(?:[=%]|\+40)(?:{names})(?![\w-])(?!\.\w)",
            re.IGNORECASE,
        )

    @cached_property
    def _before(self) -> re.Pattern[str]:
        """The same the other way round."""
        names = "|".join(re.escape(one) for one in _spellings(self.domain))
        return re.compile(rf"(?<![\w.-])(?:{names})[=!]([\w.+-]{{1,{_LONGEST}}})", re.IGNORECASE)

    def is_named_in(self, text: str) -> bool:
        """Whether the text names the person."""
        return any(map(self._is_local_part, self._local_parts(text)))

    def _local_parts(self, text: str) -> Iterator[str]:
        """Everything that may be the local part of a mailbox of that domain."""
        for found in self._behind.finditer(text):
            is_inside = "@" not in found[0]
            run = _RUN.search(text, max(0, found.start() - _LONGEST), found.start())
            if run is None:
                continue
            yield run[0]
            within = _WITHIN if is_inside else _BEFORE_ANY
            yield from (run[0][one.end() :] for one in within.finditer(run[0]))
        for found in self._before.finditer(text):
            yield found[1]

    def _is_local_part(self, local: str) -> bool:
        if not local.lower().startswith(self.begins.lower()):
            return False
        mailbox = terms.mailbox(f"{local}@{self.domain}")
        if terms.mailbox_hash(mailbox) in self.hashes:
            return True
        return self.with_extensions and (
            terms.mailbox_hash(terms.without_extension(mailbox)) in self.hashes
        )


def names(record: Any, person: Named) -> bool:
    """Whether anything in it names the person, header fields read as people see them."""
    if isinstance(record, str):
        return person.is_named_in(record)
    if isinstance(record, Mapping):
        return any(
            _fields_name(value, person) if key == "header_fields" else names(value, person)
            for key, value in record.items()
        )
    if isinstance(record, list | tuple):
        return any(names(one, person) for one in record)
    return False


def _fields_name(fields: Any, person: Named) -> bool:
    return any(
        person.is_named_in(name) or person.is_named_in(value) or person.is_named_in(_decoded(value))
        for name, value in fields or ()
    )


def erased(record: Record, person: Person, tokens: Mapping[str, str]) -> Record:
    """The record without the person.

    `tokens`: what stands for each mailbox that is the person's, or was made of it (of a list or
    forwarder); the token of the person's own mailbox must be among them.
    """
    if "event" in record:
        made: Record = erased_from(record, person, tokens)
        # The id was made from the facts, and whoever has it could try out names.
        return {**made, "event_id": None} if "event_id" in record else made
    token = tokens[person.mailbox]
    content = dict(record)
    login = record.get("login")
    if login and _is_login(record, person):
        content = _without_login(content, login)
    for key, value in content.items():
        if key == "header_fields":
            content[key] = (
                None
                if value is None
                else [[name, _field(name, text, person, token, tokens)] for name, text in value]
            )
        elif key not in ("record_id", "salt"):
            content[key] = _without(value, person, token, tokens)
    return content


def erased_from(
    value: Any, person: Person, tokens: Mapping[str, str], logins: Collection[str] = ()
) -> Any:
    """A value of an event line without the person; `logins`: those of the person in its record."""
    if isinstance(value, Mapping):
        made = {key: erased_from(inner, person, tokens, logins) for key, inner in value.items()}
        login = value.get("login")
        if isinstance(login, str) and (login in logins or _is_own_login(login, person)):
            made["login"] = ERASED
        return made
    if isinstance(value, list | tuple):
        return [erased_from(one, person, tokens, logins) for one in value]
    return _without(value, person, tokens[person.mailbox], tokens)


def _is_own_login(login: str, person: Person) -> bool:
    return login.casefold() in (person.mailbox, person.mailbox.rpartition("@")[0])


def _without(value: Any, person: Person, token: str, tokens: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return _text(value, person, token, tokens)
    if isinstance(value, Mapping):
        return {key: _without(inner, person, token, tokens) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without(one, person, token, tokens) for one in value]
    return value


def _text(text: str, person: Person, token: str, tokens: Mapping[str, str]) -> str:
    """The longest names first: those made of the address hold it."""
    if not person.is_named_in(text):
        return text
    for mailbox in sorted(tokens, key=len, reverse=True):
        text = re.sub(
            rf"(?<![{_BEFORE}]){re.escape(mailbox)}(?![\w-])(?!\.\w)",
            lambda _, mailbox=mailbox: tokens[mailbox],  # type: ignore[misc]
            text,
            flags=re.IGNORECASE,
        )
    return person.without(text, token)


def _field(name: str, value: str, person: Person, token: str, tokens: Mapping[str, str]) -> str:
    decoded = _decoded(value)
    if not (person.is_named_in(value) or person.is_named_in(decoded)):
        return value
    if name.strip().lower() in _LISTING:
        return _addresses(value, person, token, tokens)
    text = _text(value, person, token, tokens)
    if person.is_named_in(_decoded(text)):  # encoded: it is kept as people read it
        text = " " + _text(decoded, person, token, tokens).strip()
    return text


def _addresses(value: str, person: Person, token: str, tokens: Mapping[str, str]) -> str:
    """Only the mailboxes, as everything else in the field may be somebody's name."""
    found = dict.fromkeys(map(str, header_fields.mailboxes(terms.octets(value))))
    kept = [_text(one, person, token, tokens) for one in found]
    if not any(one in tokens.values() for one in kept):
        kept.append(token)  # it was named in a way that is no mailbox
    return " " + ", ".join(f"<{one}>" for one in kept)


def _decoded(value: str) -> str:
    return header_fields.decode_text(terms.octets(value))


def _is_login(record: Record, person: Person) -> bool:
    """Whether the login is the person's: it names the address, or the person wrote the message."""
    if _is_own_login(record["login"], person):
        return True
    senders = [record["reverse_path"]["address"]]
    for name, value in record.get("header_fields") or ():
        if name.strip().lower() in ("from", "sender"):
            senders += map(str, header_fields.mailboxes(terms.octets(value)))
    return any(person.is_mailbox(one) for one in senders if one)


def _without_login(record: Record, login: str) -> Record:
    origin = record["origin"]
    if origin["about"] == login:
        origin = {**origin, "about": ERASED}
    return {
        **record,
        "login": ERASED,
        "origin": origin,
        "reasons": [_without_about(reason, login) for reason in record["reasons"]],
    }


def _without_about(reason: str, login: str) -> str:
    """Reasons name the login as their whole subject, or first (`author-not-allowed`)."""
    code, bracket, rest = reason.partition("(")
    if bracket and rest == f"{login})":
        return f"{code}({ERASED})"
    if bracket and rest.startswith(f"{login} as "):
        return f"{code}({ERASED}{rest[len(login) :]}"
    return reason
