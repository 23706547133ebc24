"""Reasons as many messages have them in common, and back.

Reasons name addresses, logins and clients that the message row holds already.  Where they do, a
placeholder stands for them: `origin-login({login})`, `recipient-outside({0..2})`.  What is left is
the same for thousands of messages and goes into table `verdict` once.

Placeholders: {login}, {client}, {reverse_path}, {author}, {0}, {1} .. (recipients by number, those
of the archive last), {0..2} (one such reason for each of them), {why} and {why:0} (what the reason
for the place of the reverse-path, or of a recipient, is about), {verbatim}.

Promises: `spelled_out` gives back what `in_common` was given, unless that said that it is not
exact: then something stands there that names a person, or looks like a placeholder, or is long.
Such reasons are left to the record's own text (message.verbatim), which can be erased; the
dictionary never holds an address.

Does not: know what the codes mean.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from carbonseal.milter.archive import record as record_line

_LONG = 200  # characters of a literal text
_FEW = 20  # reasons that many messages have
_OFTEN = 2000  # characters of reasons worth remembering; longer ones are of one message only
_PLACEHOLDER = re.compile(r"\{(?:(\w+)|(\d+)\.\.(\d+)|why:(\d+))\}", re.ASCII)
_VERBATIM = "{verbatim}"


class Verdict(NamedTuple):
    """Columns of table `verdict`."""

    reasons: str


class Abouts(NamedTuple):
    """What reasons of one message may be about, as its rows hold it."""

    login: str | None
    client: str
    reverse_path: str
    author: str
    why: str | None  # about of the reason for the reverse-path's place; null: the address
    recipients: Sequence[str]  # of the envelope, then of the archive
    recipient_whys: Sequence[str | None]


def in_common(reasons: Sequence[str], abouts: Abouts) -> tuple[Verdict, bool]:
    """The reasons with placeholders, and whether they are exact."""
    place_of = _Places(abouts).of
    made: list[str] = []
    run_code: str | None = None
    first = last = 0
    is_exact = True
    for reason in reasons:
        code, bracket, rest = reason.partition("(")
        if not bracket or rest[-1:] != ")":
            place: str | int | None = None
            text = reason
            if not _is_plain(reason):
                text, is_exact = _VERBATIM, False
        else:
            about = rest[:-1]
            place = place_of(code, about)
            if place is None:
                if _is_plain(code) and _is_plain(about):
                    text = reason
                else:
                    text, is_exact = f"{_plain_code(code)}({_VERBATIM})", False
            elif not _is_plain(code):
                text, is_exact = _VERBATIM, False
            elif isinstance(place, str):
                text = f"{code}({place})"
            else:
                if made and code == run_code and place == last + 1:
                    last = place
                    made[-1] = f"{code}({{{first}..{last}}})"
                    continue
                run_code, first, last = code, place, place
                made.append(f"{code}({{{place}}})")
                continue
        run_code = None
        made.append(text)
    return (of_texts if len(made) <= _FEW else of_texts.__wrapped__)(tuple(made)), is_exact


@functools.lru_cache(maxsize=1024)
def of_texts(made: tuple[str, ...]) -> Verdict:
    """Reasons that have their placeholders."""
    return Verdict(record_line.ascii_json(made).decode("ascii"))


def _is_plain(text: str) -> bool:
    """Whether it may stand in the dictionary: no person, no placeholder, not endless."""
    return len(text) <= _LONG and _names_nobody(text)


@functools.lru_cache(maxsize=1024)
def _names_nobody(text: str) -> bool:
    return "@" not in text and "{" not in text and "\0" not in text


def _plain_code(code: str) -> str:
    return code if _is_plain(code) else ""


class _Places:
    """Placeholders by what they stand for."""

    __slots__ = ("_origin", "_recipients", "_sender", "_whys")

    def __init__(self, abouts: Abouts) -> None:
        self._origin = {abouts.client: "{client}", abouts.login: "{login}"}
        self._sender = {abouts.author: "{author}", abouts.reverse_path: "{reverse_path}"}
        recipients: dict[str, int] = {}
        for number, text in enumerate(abouts.recipients):
            recipients.setdefault(text, number)
        self._recipients = recipients
        self._whys: dict[str, str] = {}
        if any(abouts.recipient_whys):
            for number, why in enumerate(abouts.recipient_whys):
                if why:
                    self._whys.setdefault(why, f"{{why:{number}}}")
        if abouts.why:
            self._whys[abouts.why] = "{why}"

    def of(self, code: str, about: str) -> str | int | None:
        """The placeholder (of a recipient: its number) for what a reason is about."""
        if not about:
            return None
        if code.startswith("recipient"):
            number = self._recipients.get(about)
            if number is not None:
                return number
        found = (self._origin if code.startswith("origin") else self._sender).get(about)
        if found is None:
            found = self._origin.get(about) or self._sender.get(about) or self._whys.get(about)
        return self._recipients.get(about) if found is None else found


def spelled_out(stored: str, abouts: Abouts) -> list[str]:
    """The reasons in their text form."""
    made = _templates(stored) if len(stored) <= _OFTEN else _templates.__wrapped__(stored)
    reasons: list[str] = []
    for before, after, name, run, why in made:
        if run is not None:
            recipients = abouts.recipients
            reasons += [f"{before}{recipients[number]}{after}" for number in run]
        elif name is not None:
            reasons.append(f"{before}{_NAMED[name](abouts) or ''}{after}")
        elif why is not None:
            reasons.append(f"{before}{abouts.recipient_whys[why] or ''}{after}")
        else:
            reasons.append(before)
    return reasons


class _Template(NamedTuple):
    """One stored reason, taken apart at its placeholder."""

    before: str
    after: str = ""
    name: str | None = None
    run: range | None = None  # of recipients
    why: int | None = None  # a recipient's number


# Messages have their reasons in common: a page of results has a dozen.
@functools.lru_cache(maxsize=1024)
def _templates(stored: str) -> tuple[_Template, ...]:
    return tuple(map(_template, json.loads(stored)))


def _template(text: str) -> _Template:
    found = _PLACEHOLDER.search(text)
    if found is None:
        return _Template(text)
    name, first, last, why = found.groups()
    run = None if first is None or last is None else range(int(first), int(last) + 1)
    if name is not None and name.isdecimal():
        run = range(int(name), int(name) + 1)
        name = None
    number = None if why is None else int(why)
    return _Template(text[: found.start()], text[found.end() :], name, run, number)


_NAMED: dict[str, Callable[[Abouts], str | None]] = {
    "login": lambda abouts: abouts.login,
    "client": lambda abouts: abouts.client,
    "reverse_path": lambda abouts: abouts.reverse_path,
    "author": lambda abouts: abouts.author,
    "why": lambda abouts: abouts.why,
    "verbatim": lambda abouts: "?",
}
