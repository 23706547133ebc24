"""Domain names in one spelling, and the set of those that are ours.

Promises: `normalize` gives each domain one text: A-labels (RFC 5890; UTS-46, non-transitional),
lower-case, without the root's dot; an address literal as '[192.0.2.1]' or '[ipv6:2001:db8::1]'.
`DomainSet` compares in that spelling only, so a domain that cannot be converted never matches.
'example.com' is exact and '.example.com' is every true subdomain: there is no third way, because
'evilexample.com' got past every table that compared text ends.

Raises: `errors.DataError` for what is no domain.  Input over 255 characters is refused unread.

Does not: ask DNS, know public suffixes, or judge A-labels (a name in ASCII is compared as it is).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

import idna

from carbonseal.policies import errors

MAX_LENGTH = 255  # RFC 5321, section 4.5.3.1.2; the text form of a name has at most 253

# Underscores occur in host names that get mail, whatever RFC 952 says.
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")


def normalize(domain: str) -> str:
    """The one spelling of `domain`, at most 253 octets of ASCII, or a literal in brackets.

    Takes U-labels and A-labels in any case, and one trailing dot (RFC 5891, RFC 5321 section
    4.1.3).  Raises `errors.DataError`.
    """
    normal = a_labels(domain)
    if normal is None:
        shown = repr(domain if len(domain) <= 80 else domain[:77] + "...")
        raise errors.DataError(
            f"domain {shown} is no domain name; write it like example.com, an international name "
            "in Unicode or as xn--..., or an address as [192.0.2.1] or [IPv6:2001:db8::1]"
        )
    return normal


def a_labels(domain: str) -> str | None:
    """`normalize` for text from strangers: None when it is no domain.  Cached: see `_convert`."""
    return _convert(domain) if len(domain) <= MAX_LENGTH else None


@lru_cache(maxsize=8192)
def _convert(domain: str) -> str | None:
    """Bounded: a message may name 5,000 domains, and a stranger may name a new one each time."""
    if domain.startswith("["):
        return _literal(domain)
    name = domain
    if not name.isascii():
        try:
            # Known trap: the mapping makes '.' of other full stops, hence the dot is cut later.
            name = idna.encode(name, uts46=True, transitional=False).decode("ascii")
        except UnicodeError:
            return None
    name = name.removesuffix(".").lower()
    return name if len(name) <= 253 and _NAME.fullmatch(name) else None


def _literal(text: str) -> str | None:
    """An address literal (RFC 5321, section 4.1.3) in its canonical text."""
    if not text.endswith("]"):
        return None
    inner = text[1:-1].lower()
    try:
        if inner.startswith("ipv6:") and "%" not in inner:
            return f"[ipv6:{ipaddress.IPv6Address(inner[5:]).compressed}]"
        return f"[{ipaddress.IPv4Address(inner)}]"
    except ValueError:
        return None


class DomainSet:
    """An immutable set of domains: 'example.com', '.example.com' (true subdomains), '[192.0.2.1]'.

    Raises `errors.DataError` for an entry that is none of these.
    """

    __slots__ = ("_exact", "_parents")

    def __init__(self, entries: Iterable[str] = ()) -> None:
        normal = [_entry(entry) for entry in entries]
        self._exact = frozenset(entry for entry in normal if not entry.startswith("."))
        self._parents = frozenset(entry for entry in normal if entry.startswith("."))

    def match(self, domain: str) -> str | None:
        """The entry that holds `domain`: the exact one, else the longest parent, else None.

        `domain` may be in any spelling; what is no domain is in no set ('-x-.example.com' and ''
        are under no '.example.com').
        """
        normal = a_labels(domain)
        if normal is None:
            return None
        if normal in self._exact:
            return normal
        return self._parent(normal) if self._parents else None

    def _parent(self, normal: str) -> str | None:
        dot = normal.find(".")
        while dot != -1:
            if normal[dot:] in self._parents:
                return normal[dot:]
            dot = normal.find(".", dot + 1)
        return None

    def __contains__(self, domain: object) -> bool:
        return isinstance(domain, str) and self.match(domain) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._exact | self._parents))

    def __len__(self) -> int:
        return len(self._exact) + len(self._parents)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DomainSet):
            return NotImplemented
        return (self._exact, self._parents) == (other._exact, other._parents)

    def __hash__(self) -> int:
        return hash((self._exact, self._parents))

    def __repr__(self) -> str:
        return f"DomainSet({list(self)!r})"


def _entry(text: str) -> str:
    entry = text.strip()
    if entry.startswith(".["):
        raise errors.DataError(
            f"domain {text!r} is an address literal, which has no subdomains; write {entry[1:]!r}"
        )
    if entry.startswith("*."):
        raise errors.DataError(
            f"domain {text!r} has a wildcard; write {entry[1:]!r} for every subdomain"
        )
    if "@" in entry:
        raise errors.DataError(
            f"domain {text!r} holds an @; write only the domain, without a local part"
        )
    return "." + normalize(entry[1:]) if entry.startswith(".") else normalize(entry)
