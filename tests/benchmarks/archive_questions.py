"""What officers ask: 25 queries as they would type them, with values that are in the archive.

Promises: values are drawn from the records that were loaded, by a fixed seed: frequent ones are
those that many of the sampled records share, rare ones any that one record has.  Each query goes
the whole way, from text to the first page of results, as `carbonseal archive search` shows it.

Does not: start processes or print; neither would tell anything about the archive.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Engine
from traffic import languages, people

from carbonseal.milter.archive import derive, terms
from carbonseal.milter.archive.search import commands, language, query, trace
from carbonseal.milter.archive.search.wanted import Search

LOOK_UP, WORDS, OTHER = "look-up", "words", "other"
PAGE = 100  # as the command shows
_NOW = datetime(2026, 1, 1, tzinfo=UTC)
_FREQUENT = 12  # how many of the most frequent values are asked for
Record = dict[str, Any]
Draw = Callable[[random.Random], str]


@dataclass(frozen=True, slots=True)
class Question:
    """One kind of query."""

    name: str
    kind: str
    draw: Draw  # the text of one such query
    ask: Callable[[Engine, str], Callable[[], int]]  # what to time; it returns how much was found


def _page(engine: Engine, text: str) -> Callable[[], int]:
    def ask() -> int:
        return _shown(engine, _parsed(text))

    return ask


def _shown(engine: Engine, wanted: Search) -> int:
    """Make the lines of the table that the command shows; how many there are."""
    return len([commands.row(one, "table") for one in query.outlines(engine, wanted)])


def _second_page(engine: Engine, text: str) -> Callable[[], int]:
    first = list(query.search(engine, _parsed(text)))
    wanted = replace(_parsed(text), before=first[-1].record_id if first else None)

    def ask() -> int:
        return _shown(engine, wanted)

    return ask


def _count(engine: Engine, text: str) -> Callable[[], int]:
    def ask() -> int:
        return query.count(engine, _parsed(text))

    return ask


def _trace(engine: Engine, text: str) -> Callable[[], int]:
    def ask() -> int:
        return len(trace.trace(engine, text))

    return ask


def _parsed(text: str) -> Search:
    # No query of these has a relative date: when it is asked makes no difference.
    return replace(language.parse(text, now=_NOW), limit=PAGE)


class _Drawn:
    """Values of the sampled records, frequent and rare."""

    def __init__(self, records: list[Record]) -> None:
        self.records = records
        self.derived = [derive.derive([*one["header_fields"]]) for one in records]
        self.addresses: Counter[str] = Counter()
        self.senders: Counter[str] = Counter()
        self.domains: Counter[str] = Counter()
        self.words: Counter[str] = Counter()
        self.lists: Counter[str] = Counter()
        self.logins: Counter[str] = Counter()
        self.clients: Counter[str] = Counter()
        self.blind: list[str] = []
        self.extended: list[str] = []
        self.foreign: Counter[str] = Counter()
        self.pairs: list[tuple[str, str, datetime]] = []
        self.couples: list[tuple[str, str]] = []
        for one, found in zip(records, self.derived, strict=True):
            self._learn(one, found)

    def _learn(self, one: Record, found: Any) -> None:
        sender = one["reverse_path"]["address"].lower()
        readers = [path["address"].lower() for path in one["recipients"]]
        self.addresses.update({*readers, *([sender] if sender else [])})
        self.senders.update([sender] if sender else [])
        self.domains.update({text.rpartition("@")[2] for text in (*readers, sender) if text})
        words = terms.words(found.subject or "")
        self.words.update(word for word in words if len(word) > 2 and not word.isdecimal())
        self.foreign.update(word for word in words if not word.isascii())
        self.couples += [(a, b) for a, b in itertools.pairwise(words) if len(b) > 2]
        if one["login"]:
            self.logins[one["login"]] += 1
        self.clients[one["client"]["address"]] += 1
        for name, value in one["header_fields"]:
            if name == "List-Id" and "<" in value:
                self.lists[value.rpartition("<")[2].rstrip(">")] += 1
        self.extended += [text for text in readers if "+" in text and sender]
        when = datetime.fromisoformat(one["recorded_at"])
        if sender and readers:
            self.pairs.append((sender, readers[0], when))
        shown = {text.lower() for text in (*found.to, *found.cc)}
        if one["login"]:
            self.blind += [text for text in readers if text not in shown]


def questions(records: list[Record]) -> list[Question]:
    """The list, over values of these records."""
    drawn = _Drawn(records)
    people_only = [text for text in drawn.addresses if "=" not in text]
    frequent = [text for text, _ in drawn.addresses.most_common(3 * _FREQUENT) if "=" not in text][
        :_FREQUENT
    ]
    outside = [name for name in drawn.domains if not name.endswith(people.OURS)]
    large = [name for name, _ in drawn.domains.most_common(_FREQUENT)]
    words = [word for word, _ in drawn.words.most_common(_FREQUENT)]
    rare_words = [word for word, count in drawn.words.items() if count == 1]
    accented = [
        word
        for one in languages.LANGUAGES
        if one.code in ("de", "fr", "pl", "el")
        for word in one.words
        if not word.isascii()
    ]
    lists = list(drawn.lists)
    logins, clients = list(drawn.logins), list(drawn.clients)

    middle = records[len(records) // 2]["recorded_at"][:10]

    def one_of(template: str, values: list[str]) -> Draw:
        return lambda rng: template.format(rng.choice(values))

    def pair(rng: random.Random) -> str:
        sender, reader, when = rng.choice(drawn.pairs)
        first, last = when - timedelta(days=15), when + timedelta(days=15)
        return f"sender:{sender} rcpt:{reader} after:{first:%Y-%m-%d} before:{last:%Y-%m-%d}"

    def in_month(template: str, values: list[str]) -> Draw:
        def draw(rng: random.Random) -> str:
            when = rng.choice(drawn.pairs)[2]
            return template.format(rng.choice(values)) + f" on:{when:%Y-%m}"

        return draw

    def on_day(template: str) -> Draw:
        return lambda rng: template.format(f"{rng.choice(drawn.pairs)[2]:%Y-%m-%d}")

    def from_record(make: Callable[[Record], str]) -> Draw:
        return lambda rng: make(rng.choice(records))

    def nobody(rng: random.Random) -> str:
        return f"from:nobody{rng.randrange(10**9)}@{rng.choice(outside)}"

    def strangers(rng: random.Random) -> str:
        return f"from:{rng.choice(frequent)} to:{rng.choice(people_only)} after:{middle}"

    def two_words(rng: random.Random) -> str:
        first, second = rng.choice(drawn.couples)
        return f"subject:{first} subject:{second}"

    def message_id(rng: random.Random) -> str:
        return rng.choice([one for one in drawn.derived[:2000] if one.message_id]).message_id or ""

    def network(rng: random.Random) -> str:
        address = rng.choice([text for text in clients if text.startswith("10.")])
        return f"client:{address.rpartition('.')[0]}.0/24"

    return [
        Question("address, rare", LOOK_UP, one_of("participant:{}", people_only), _page),
        Question("address, frequent", LOOK_UP, one_of("participant:{}", frequent), _page),
        Question(
            "recipient with any extension",
            LOOK_UP,
            lambda rng: f"rcpt:{_without(rng.choice(drawn.extended))}",
            _page,
        ),
        Question("domain, any", LOOK_UP, one_of("domain:{}", outside), _page),
        Question("domain, frequent", LOOK_UP, one_of("domain:{}", large), _page),
        Question("domain with its subdomains", LOOK_UP, one_of("domain:.{}", outside), _page),
        Question("recipient in Bcc only", LOOK_UP, one_of("rcpt:{}", drawn.blind), _page),
        Question("sender, recipient, a month", LOOK_UP, pair, _page),
        Question("two people who may never have written", LOOK_UP, strangers, _page),
        Question("Message-ID", LOOK_UP, lambda rng: f"message-id:<{message_id(rng)}>", _page),
        Question(
            "queue id", LOOK_UP, from_record(lambda one: f"queue-id:{one['queue_id']}"), _page
        ),
        Question("client", LOOK_UP, one_of("client:{}", clients), _page),
        Question("client's network", LOOK_UP, network, _page),
        Question("login", LOOK_UP, one_of("login:{}", logins), _page),
        Question("crossing on one day", LOOK_UP, on_day("crossing:outbound on:{}"), _page),
        Question(
            "unsigned outbound", LOOK_UP, on_day("crossing:outbound signed:no before:{}"), _page
        ),
        Question("list", LOOK_UP, one_of("header.list-id:{}", lists), _page),
        Question(
            "second page of a frequent address",
            LOOK_UP,
            one_of("participant:{}", frequent),
            _second_page,
        ),
        Question("nobody of that name", LOOK_UP, nobody, _page),
        Question("subject, rare word", WORDS, one_of("subject:{}", rare_words), _page),
        Question("subject, frequent word, a month", WORDS, in_month("subject:{}", words), _page),
        Question("subject, two words", WORDS, two_words, _page),
        Question("subject, accents or Greek", WORDS, one_of("subject:{}", accented), _page),
        Question("count of an address", OTHER, one_of("participant:{}", people_only), _count),
        Question("trace of a Message-ID", OTHER, message_id, _trace),
    ]


def _without(address: str) -> str:
    """`bob+*@x` for `bob+tag@x`."""
    local_part, _, domain = address.partition("@")
    return f"{local_part.partition('+')[0]}+*@{domain}"


def asked(question: Question, number: int, seed: int = 7) -> Iterator[str]:
    """So many queries of one kind."""
    rng = random.Random(f"{seed}/{question.name}")
    return (question.draw(rng) for _ in range(number))
