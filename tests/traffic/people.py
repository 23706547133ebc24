"""Who writes: the people of the organisation and the strangers they have to do with.

Promises: a few hold most of the correspondence and most hold a little (the k-th of n is chosen
about 1/k as often as the first); there are more people where there is more mail.  Everybody keeps
to one circle, one program, one network.  All domains are reserved names (RFC 2606), all addresses
of networks are reserved ones (RFC 1918, RFC 2544, RFC 3849).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from traffic import subjects
from traffic.languages import FIRMS, LANGUAGES, SYLLABLES, Language

OURS = ("example.com", "example.org", "corp.example.com", "werk.example.net")
WITHOUT_KEY = "legacy.example.net"  # ours, and nobody made a key for it
PROVIDERS = ("freemail.example", "webpost.example", "postkasten.example", "mailhaus.test")
_PROVIDED = 0.3  # of the strangers have their address at one of these
PROGRAMS = ("outlook", "thunderbird", "phone", "webmail", "groupware")

Path = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Domain:
    """A domain of strangers and its mail hosts."""

    name: str
    host: str
    address: str  # of the host
    selector: str | None  # of its own DKIM key
    is_hosted: bool  # by a provider that seals what it forwards (ARC) and adds its own fields


@dataclass(slots=True)
class Person:
    """One mailbox and how its owner writes."""

    name: str
    address: str
    domain: Domain
    language: Language
    program: str
    mailbox: str  # as it stands in header fields
    is_ours: bool
    number: int
    encoding: str
    recipient: Path  # the parts of a record's recipient that never change
    client: str = ""  # address of the desk
    login: str = ""


def place(address: str, *, what: str, is_inside: bool) -> Path:
    """One end of the envelope as `seal` describes it, without its ESMTP parameters."""
    side = "inside" if is_inside else "outside"
    return {
        "raw": f"<{address}>",
        "address": address,
        "resolved": address.lower(),
        "esmtp": [],
        "place": side,
        "why": f"{what}-{side}({address})",
    }


def as_recipient(address: str, *, is_inside: bool) -> Path:
    """An envelope recipient as `seal` describes it."""
    local = place(address, what="recipient", is_inside=is_inside)
    domain = address.rpartition("@")[2]
    mailer, host = ("lmtp", "[10.0.3.20]") if is_inside else ("smtp", domain)
    return {
        "raw": local["raw"],
        "address": address,
        "resolved": local["resolved"],
        "mailer": mailer,
        "host": host,
        "esmtp": [],
        "place": local["place"],
        "why": local["why"],
    }


class People:
    """Everybody, in the order of how often they write."""

    def __init__(self, count: int, rng: random.Random) -> None:
        self._rng = rng
        self._taken: set[str] = set()
        self._languages = [one for one in LANGUAGES for _ in range(one.share)]
        inside = [Domain(name, "", "", None, False) for name in OURS]
        lonely = Domain(WITHOUT_KEY, "", "", None, False)
        providers = [self._domain(name, number) for number, name in enumerate(PROVIDERS)]
        firms = [self._domain(self._firm(), number + 10) for number in range(_firms(count))]
        self.firms = firms
        self.colleagues = [
            self._person(number, lonely if number % 40 == 39 else few(inside, rng), is_ours=True)
            for number in range(int(40 + 4 * count**0.5))
        ]
        self.strangers = [
            self._person(
                number,
                few(providers, rng) if rng.random() < _PROVIDED else few(firms, rng),
                is_ours=False,
            )
            for number in range(int(100 + 60 * count**0.5))
        ]
        self.senders = [  # shops and services: newsletters, notices
            self._person(number, few(firms, rng), is_ours=False, local="news")
            for number in range(int(20 + 2 * count**0.5))
        ]

    def colleague(self, rng: random.Random) -> Person:
        """Somebody of ours."""
        return few(self.colleagues, rng)

    def stranger(self, known: Person, rng: random.Random) -> Person:
        """Somebody outside, more often than not of the circle of `known`."""
        if rng.random() < 0.7:
            rank = known.number * 7919 + int(40 ** rng.random())
            return self.strangers[rank % len(self.strangers)]
        return few(self.strangers, rng)

    def companion(self, known: Person, rng: random.Random) -> Person:
        """Somebody of ours, more often than not of the same department."""
        if rng.random() < 0.6:
            rank = known.number // 20 * 20 + int(rng.random() * 20)
            return self.colleagues[rank % len(self.colleagues)]
        return few(self.colleagues, rng)

    def _firm(self) -> str:
        rng = self._rng
        word = "".join(rng.choices(SYLLABLES, k=rng.randint(2, 3)))
        name = f"{word}-{rng.choice(FIRMS)}" if rng.random() < 0.6 else word
        if rng.random() < 0.01:
            name = f"xn--{word}-mnchen-y9a"
        country = rng.choice(("", "", "", "de.", "fr.", "pl.", "mail.", "post."))
        top = "example" if rng.random() < 0.9 else "test"
        return f"{country and rng.choice(('', country))}{name}.{top}"

    def _domain(self, name: str, number: int) -> Domain:
        rng = self._rng
        address = (
            f"2001:db8:{1 + number % 65521:x}::{1 + number % 7:x}"
            if rng.random() < 0.15
            else f"198.{18 + number // 65536 % 2}.{number // 256 % 256}.{number % 256}"
        )
        selector = f"{rng.choice(('s1', 'default', 'mail', 'k2'))}" if rng.random() < 0.8 else None
        host = f"{rng.choice(('mx', 'mail', 'out', 'smtp'))}{number % 3 + 1}.{name}"
        return Domain(name, host, address, selector, rng.random() < 0.2)

    def _person(
        self, number: int, domain: Domain, *, is_ours: bool, local: str | None = None
    ) -> Person:
        rng = self._rng
        language = rng.choice(self._languages)
        (given, plain), (family, surname) = rng.choice(language.given), rng.choice(language.family)
        name = f"{given} {family}" if rng.random() < 0.85 else f"{family}, {given}"
        if language.code == "ja":
            name = f"{family} {given}"
        if local is not None:
            name = f"{domain.name.partition('.')[0].title()} News"
        address = self._address(local or _local_part(plain, surname, rng), domain.name)
        encoding = "Q" if language.charset.startswith("iso-8859-1") else "B"
        charset = language.charset if rng.random() < 0.4 else "utf-8"
        person = Person(
            name=name,
            address=address,
            domain=domain,
            language=language,
            program=rng.choice(PROGRAMS),
            mailbox=f"{subjects.phrase(name, charset, encoding)} <{address}>",
            is_ours=is_ours,
            number=number,
            encoding=encoding,
            recipient=as_recipient(address, is_inside=is_ours),
        )
        if is_ours:
            person.client = f"10.{number % 5 + 1}.{number // 250 % 250}.{number % 250 + 2}"
            person.login = address if number % 3 else address.partition("@")[0]
        return person

    def _address(self, local_part: str, domain: str) -> str:
        address, number = f"{local_part}@{domain}", 1
        while address in self._taken:
            number = number * 3 + self._rng.randrange(3)
            address = f"{local_part}{number}@{domain}"
        self._taken.add(address)
        return address


def few(items: list[Any], rng: random.Random) -> Any:
    """One of `items`, the k-th about 1/k as often as the first."""
    return items[int(len(items) ** rng.random()) - 1]


def _firms(count: int) -> int:
    return int(40 + 8 * count**0.5)


def _local_part(given: str, family: str, rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.6:
        return f"{given}.{family}"
    if kind < 0.75:
        return f"{given[0]}.{family}"
    if kind < 0.85:
        return f"{given}{family}{int(rng.random() * 100)}"
    return rng.choice(("info", "office", "sales", "einkauf", "support", "kontakt", family, given))
