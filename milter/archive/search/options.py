"""What people ask on the command line: a query, options, or both, into one `Search`.

Promises: every command that takes a search takes the same ones (`search_options`), and each option
means what the field of its name means in a query.  Query and options must all hold.  Text that
means nothing is answered by one sentence.

Raises: DataError.

See also: `language` (queries), `fields` (what each field means).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

import click

from carbonseal.milter.archive import command_line, schema
from carbonseal.milter.archive.search import fields, language
from carbonseal.milter.archive.search.wanted import Condition, Is, Search, both
from carbonseal.policies.errors import DataError

Command = TypeVar("Command", bound=Callable[..., Any])

# Fields that are an option of one value, and what their value is called.
_PLAIN: Mapping[str, str] = {
    "from": "ADDRESS",
    "to": "ADDRESS",
    "rcpt": "ADDRESS",
    "cc": "ADDRESS",
    "author": "ADDRESS",
    "sender": "ADDRESS",
    "participant": "ADDRESS",
    "domain": "DOMAIN",
    "message-id": "TEXT",
    "queue-id": "ID",
    "client": "NETWORK",
    "login": "NAME",
    "relay": "NAME",
    "class": "NAME",
    "size": "SIZE",
}
_CHOICES: Mapping[str, Sequence[str]] = {
    "crossing": schema.CROSSINGS,
    "state": fields.STATES,
    "copy": fields.COPIES,
}
_OTHER_NAMES: Mapping[str, str] = {"rcpt": "recipient"}
_KEYS = (
    *_PLAIN,
    *_CHOICES,
    "signed",
    "left_late",
    "subject",
    "header",
    "with_extensions",
    "since",
    "until",
)


def search_options(command: Command) -> Command:
    """Give a click command QUERY and the options; it receives them for `wanted` to read."""
    for decorate in reversed(_decorators()):
        command = decorate(command)
    return command


def _decorators() -> list[Callable[[Any], Any]]:
    plain = [
        click.option(
            f"--{name}",
            *([f"--{_OTHER_NAMES[name]}"] if name in _OTHER_NAMES else []),
            _parameter(name),
            metavar=metavar,
            help=_sentence(fields.FIELDS[name].finds),
        )
        for name, metavar in _PLAIN.items()
    ]
    return [
        click.argument("query", nargs=-1, metavar="[QUERY]..."),
        *plain,
        click.option("--with-extensions", is_flag=True, help="bob@x also finds bob+tag@x."),
        click.option("--subject", metavar="WORDS", multiple=True, help="All of these words."),
        click.option(
            "--header", metavar="NAME:VALUE", multiple=True, help="A header field has this value."
        ),
        *(
            click.option(
                f"--{name}",
                type=click.Choice(tuple(choices)),
                help=_sentence(fields.FIELDS[name].finds),
            )
            for name, choices in _CHOICES.items()
        ),
        click.option(
            "--left-late", is_flag=True, help="An alias led it outside after it was sealed."
        ),
        click.option(
            "--signed/--unsigned", default=None, help="With or without a signature of ours."
        ),
        click.option(
            "--since", metavar="TIME", help="2026-11-21, 2026-11-21T10:00Z, or 7d for days ago."
        ),
        click.option("--until", metavar="TIME", help="The same; a date means its end."),
    ]


def _parameter(name: str) -> str:
    """What the option is called in Python, where `from` and `class` are taken."""
    return f"field_{name.replace('-', '_')}"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def wanted(options: dict[str, Any], now: datetime, **rest: Any) -> Search:
    """The Search that QUERY and options ask for together; takes them out of `options`.

    `rest` goes into the Search as it is: limit, before.  Raises: DataError.
    """
    given = {key: options.pop(key) for key in (*_taken(), "query")}
    since = command_line.moment("--since", given["since"], now)
    until = command_line.moment("--until", given["until"], now, end_of_day=True)
    command_line.check_order(since, until, given["since"], given["until"])
    query = language.condition(_joined(given["query"]), now=now)
    where = both(query, *_conditions(given))
    found = language.period_apart(Search(where=where, since=since, until=until, **rest))
    if found.since and found.until and found.since >= found.until:
        raise DataError("the period that the query asks for ends before it begins; exchange them")
    return found


def _taken() -> tuple[str, ...]:
    plain = tuple(map(_parameter, _PLAIN))
    return (*plain, *(key for key in _KEYS if key not in _PLAIN))


def _joined(words: Sequence[str]) -> str:
    """As if it had been one argument; the shell took the quotes of those with spaces in them."""
    if len(words) == 1:
        return words[0]
    return " ".join(map(_requoted, words))


def _requoted(word: str) -> str:
    name, colon, value = word.partition(":")
    if any(sign in word for sign in '"()') or not any(map(str.isspace, value or name)):
        return word
    return f'{name}:"{value}"' if colon else f'"{word}"'


def _conditions(given: Mapping[str, Any]) -> list[Condition]:
    widen: Callable[[str], str] = fields.with_extensions if given["with_extensions"] else str
    found: list[Condition] = []
    for name in _PLAIN:
        text = given[_parameter(name)]
        if text is not None:
            value = fields.typed(name, text, f"--{name}")
            is_mailbox = fields.FIELDS[name].roles and name != "domain" and value[0] not in "@<"
            found.append(Is(name, widen(value) if is_mailbox else value))
    found += [Is(name, given[name]) for name in _CHOICES if given[name] is not None]
    if given["left_late"]:
        found.append(Is("left", "late"))
    if given["signed"] is not None:
        found.append(Is("signed", "yes" if given["signed"] else "no"))
    return [*found, *_words(given["subject"]), *map(_header, given["header"])]


def _words(texts: Sequence[str]) -> list[Is]:
    if not texts:
        return []
    words = fields.canonical("subject", " ".join(texts), "--subject").split(" ")
    return [Is("subject", word) for word in dict.fromkeys(words)]


def _header(text: str) -> Is:
    name, colon, value = text.partition(":")
    if not colon:
        raise DataError(f"--header {text[:80]!r} is no field; write List-Id:value")
    name = fields.name_of(fields.HEADER + name.strip())
    return Is(name, fields.canonical(name, value, f"--header {name.removeprefix(fields.HEADER)}:"))


def in_the_last_days(search: Search, days: int, now: datetime) -> Search:
    """The same, from so many days ago."""
    return replace(search, since=now - timedelta(days=days))


def cursor(text: str | None) -> str | None:
    """The record id below which the next page begins.  Raises: DataError."""
    if text is None:
        return None
    try:
        return fields.canonical("record-id", text)
    except DataError:
        raise DataError(
            f"--cursor {text[:80]!r} is no cursor; take the one printed below the page before"
        ) from None
