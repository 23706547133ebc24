"""Addresses of the envelope: what SMTP clients type after MAIL FROM and RCPT TO.

Promises: `parse_path` reads any text (undecodable bytes as surrogates), never raises, and takes
linear time; over 2,048 characters it says 'unparsable' without looking.  The local part stays
exactly as typed, quotes included (RFC 5321, section 2.4: only the last host may read it); the
domain gets the one spelling of `domains`.  What Postfix may route elsewhere (percent hack, bang
path, an inner @) is noted and left as typed: its {rcpt_addr} says where that goes.

A domain that cannot be converted is noted 'bad-domain' and kept in lower case, so that it can be
recorded and equals none of ours.

Raises: only `parse_address`, for people: `errors.DataError` with the remedy.

Does not: drop comments or accept unquoted specials.  Postfix forgives those, we call them
'unparsable', which counts as outside.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from carbonseal.policies import domains, errors

MAX_LENGTH = 2048  # RFC 5321 allows 64 + 1 + 255 octets and relays carry longer local parts

# Nothing that needs a note: one match, then one cached look-up of the domain.
# With the brackets as clients type them, or without as macros have it.
_PLAIN = re.compile(r"(<)?([A-Za-z0-9_.+=#$&'*/?^`{|}~-]+)@([A-Za-z0-9_.-]*[A-Za-z0-9_])(?(1)>)")

_HOP = r"@(?:\[[^][@<>]*+\]|[^][@,:<>\"\\\s]++)"
_ROUTE = re.compile(rf"{_HOP}(?:,{_HOP})*:")
# Atoms, dots, quoted strings and quoted-pairs in any order; an @ only inside quotes or escaped.
# The groups are not possessive: Python 3.11.2 forgets to step back from a branch that fails in the
# middle, and an open quote took the @ along.  Each branch begins with signs of its own, so that
# nothing is tried twice.
_WORDS = re.compile(
    r"""(?:[^\x00-\x20\x7f"\\()<>\[\],;:@]
         | \\[^\x00-\x1f\x7f]
         | "(?:[^\x00-\x1f\x7f"\\]|\\[^\x00-\x1f\x7f])*"
        )+""",
    re.VERBOSE,
)
_LITERAL = re.compile(r"\[[^\x00-\x20\x7f\[\]\\]*+\]")


# A tuple: it is looked up in tables for each message, and a dataclass hashes in Python.
class Address(NamedTuple):
    """A mailbox: a local part at a domain."""

    local_part: str  # as typed, quotes kept; undecodable bytes as surrogates
    domain: str  # A-labels, lower-case, no trailing dot; '[192.0.2.1]'; '' when unqualified

    def __str__(self) -> str:
        return f"{self.local_part}@{self.domain}" if self.domain else self.local_part


class Path(NamedTuple):
    """The argument of MAIL FROM or RCPT TO, as typed and as read."""

    raw: str  # as received, with <> where they were typed
    address: Address | None  # None for the null reverse-path and for unparsable text
    is_null: bool  # '<>' or nothing at all
    notes: tuple[str, ...] = ()  # what was odd: see the words in `parse_path`


def parse_path(raw: str) -> Path:
    """Read `raw`, with or without <> (RFC 5321, section 4.1.2).

    Notes: 'source-route' (dropped), 'percent-hack', 'bang-path', 'quoted-at' (an @ inside the local
    part), 'unqualified', 'trailing-dot' (dropped), 'domain-literal', 'u-label' (converted),
    'bad-domain', 'unparsable'.
    """
    return _remembered(raw) if len(raw) <= _SHORT else _parse(raw)


def read_path(raw: str) -> Path:
    """As `parse_path`, without remembering it: for an argument that is read once."""
    if len(raw) <= _SHORT and (plain := _PLAIN.fullmatch(raw)) is not None:
        _, local_part, typed = plain.groups()
        domain = domains.a_labels(typed)
        if domain is not None:
            return Path(raw, Address(local_part, domain), False)
    return _parse(raw)


def parse_address(text: str) -> Address:
    """Read an address that a person wrote, as 'local@domain' or '<local@domain>'.

    Raises `errors.DataError`: a configured address is qualified, has a real domain and no route.
    """
    path = parse_path(text.strip())
    shown = repr(text if len(text) <= 80 else text[:77] + "...")
    if path.address is None:
        raise errors.DataError(
            f"address {shown} is no mail address; write it like user@example.com"
        )
    for note, fault in _FAULTS.items():
        if note in path.notes:
            raise errors.DataError(f"address {shown} {fault}")
    return path.address


def as_typed(raw: str) -> tuple[str, str | None] | None:
    """Local part and domain of `raw` as typed, a source route dropped; None for what is no address.

    The domain is None without an @, and '' is never one.  For those who need to see what Postfix's
    tables see, which know nothing of A-labels.
    """
    if len(raw) > MAX_LENGTH:
        return None
    plain = _PLAIN.fullmatch(raw)
    if plain is not None:
        return plain[2], plain[3]
    text = raw.strip(" \t\r\n")
    if text.startswith("<") and text.endswith(">"):
        text = text[1:-1]
    route = _ROUTE.match(text)
    return _split(text if route is None else text[route.end() :]) if text else None


_FAULTS = {
    "unqualified": "has no domain; write it like user@example.com",
    "bad-domain": "has a domain that is no domain name; write it like user@example.com",
    "source-route": "has a source route; write only the last address, like user@example.com",
}


def join(local_part: str, domain: str) -> tuple[Address, tuple[str, ...]]:
    """The address of two parts as typed, and the notes on its domain."""
    notes: list[str] = []
    normal = domains.a_labels(domain)
    if domain.startswith("["):
        notes.append("domain-literal")
        # RFC 5321 leaves room for literals of other networks than IPv4 and IPv6.
        if normal is None and _LITERAL.fullmatch(domain):
            normal = domain.lower()
    else:
        if domain.endswith("."):
            notes.append("trailing-dot")
        if normal is not None and not domain.isascii():
            notes.append("u-label")
    if normal is None:
        notes.append("bad-domain")
    return Address(local_part, domain.lower() if normal is None else normal), tuple(notes)


# The same people write to the same people: looking a path up costs a tenth of reading it.
_SHORT = 256  # octets of a path that is remembered, so that strangers cannot fill the memory


_remembered = lru_cache(maxsize=2048)(read_path)


def _parse(raw: str) -> Path:
    """`parse_path` for everything that is not plain."""
    if len(raw) > MAX_LENGTH:
        return Path(raw, None, False, ("unparsable",))
    text = raw.strip(" \t\r\n")
    if text in ("", "<>"):
        return Path(raw, None, True)
    if text.startswith("<") and text.endswith(">"):
        text = text[1:-1]
    notes: list[str] = []
    route = _ROUTE.match(text)
    if route is not None:
        notes.append("source-route")
        text = text[route.end() :]
    split = _split(text)
    if split is None:
        return Path(raw, None, False, (*notes, "unparsable"))
    local_part, domain = split
    notes += [note for sign, note in _ROUTED if sign in local_part]
    if domain is None:
        return Path(raw, Address(local_part, ""), False, (*notes, "unqualified"))
    found, about_domain = join(local_part, domain)
    return Path(raw, found, False, (*notes, *about_domain))


# Postfix looks for these inside quotes, too (resolve_dequoted_address, on by default).
_ROUTED = (("%", "percent-hack"), ("!", "bang-path"), ("@", "quoted-at"))


def _split(text: str) -> tuple[str, str | None] | None:
    """Cut at the last @ that stands outside quotes; None when `text` is no address.

    The domain is None without an @.  'a@b@c' is no RFC 5321 address, but Postfix takes it.
    """
    position, at = 0, -1
    while words := _WORDS.match(text, position):
        position = words.end()
        if not text.startswith("@", position):
            break
        at, position = position, position + 1
    if 0 < at == position - 1 and (literal := _LITERAL.match(text, position)):
        position = literal.end()
    if position != len(text) or at == 0 or text[at + 1 :] in ("", "."):
        return None
    return (text, None) if at < 0 else (text[:at], text[at + 1 :])
