"""Searches by how messages stand: SQL says what a plain reading of all facts says.

The reading below knows nothing of tables: it looks at records and event lines as they were made.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
from support.archive import Archive, build_recipient, build_record, build_search
from support.event_lines import active, attempt, build, change, client

from carbonseal.milter.archive.search import fields, query, statistics
from carbonseal.milter.archive.search.wanted import Search
from carbonseal.policies import delivery
from carbonseal.policies.errors import DataError

PEOPLE = ("bob@partner.example", "carol@example.com", "dave@example.com", "erin@other.test")
COPY = "archive@archive.example.net"
AWAY = "somebody@webmail.example"
NUMBER = 150


def is_ours(address: str) -> bool:
    return address.endswith("@example.com")


@dataclass(frozen=True)
class Case:
    """A record, the event lines about it, and the story that they tell."""

    record: dict[str, Any]
    lines: list[dict[str, Any]]
    story: delivery.Story


def case(number: int, rng: random.Random) -> Case:
    queue_id = f"4Q{number:04d}"
    recipients = rng.sample(PEOPLE, k=rng.choice([1, 2, 3]))
    copies = [COPY] if rng.random() < 0.7 else []
    made = build_record(
        number,
        queue_id=queue_id,
        recipients=[build_recipient(one) for one in recipients],
        archive_recipients=copies,
        crossing=rng.choice(["inbound", "outbound"]),
    )
    facts = list(happened(number, [*recipients, *copies], rng))
    cut = rng.randrange(len(facts) + 1)
    lines = [build(queue_id, *some) for some in (facts[:cut], facts[cut:]) if some]
    told = delivery.told(map(delivery.fact, facts), recipients, copies)
    return Case(made, lines, told)


def happened(number: int, ends: list[str], rng: random.Random) -> Any:
    """What the log says: from nothing at all to everything."""
    if rng.random() < 0.2:
        return
    yield client(number - 0.3)
    yield active(number + 0.1)
    for turn in range(rng.choice([1, 1, 2, 3])):
        for one in ends:
            status = rng.choice(["sent", "sent", "sent", "deferred", "bounced", "expired", None])
            if status is None:
                continue
            seconds = number + 0.2 + turn * 0.1 + rng.random() * 0.05
            away = rng.random() < 0.15
            to, more = (AWAY, {"orig_to": one}) if away else (one, {})
            if rng.random() < 0.05:
                more = more | {"service": "discard", "next_hop": "none"}
            yield attempt(to, status, seconds, **more)
    for kind in ("held", "released", "expired", "deleted", "rejected"):
        if rng.random() < 0.08:
            yield change(kind, number + 0.6 + rng.random() * 0.1)
    if rng.random() < 0.6:
        yield change("removed", number + 0.8)


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    rng = random.Random(20261121)
    return [case(number, rng) for number in range(NUMBER)]


@pytest.fixture(scope="module")
def filled(module_archive: Archive, cases: list[Case]) -> Archive:
    """Records and lines as they may come: some lines before their record, some long after."""
    rng = random.Random(7)
    contents = [one.record for one in cases]
    lines = [line for one in cases for line in one.lines]
    rng.shuffle(lines)
    half = len(lines) // 2
    module_archive.put(*lines[:half], *contents, *lines[half:])
    module_archive.load()
    return module_archive


def is_so(one: Case, text: str) -> bool:
    name, _, value = text.partition(":")
    if name == "crossing":
        return bool(one.record["crossing"] == value)
    if name == "rcpt":
        return value in {passage.address for passage in one.story.passages if not passage.is_copy}
    if name == "left":
        return bool(delivery.exits(one.story, is_ours))
    if name == "state":
        return value in {end.state for end in one.story.passages if not end.is_copy}
    return bool({end.state.value for end in one.story.copies} & COPIES[value])


COPIES = {
    "delivered": {"delivered"},
    "deferred": {"deferred", "held"},
    "lost": {"bounced", "expired", "deleted", "refused"},
    "missing": {"offered", "queued", "unknown"},
}
SINGLE = [
    *(f"state:{one}" for one in fields.STATES),
    *(f"copy:{one}" for one in fields.COPIES),
    "left:late",
]
WITHOUT_INDEX = {
    "state:offered", "state:queued", "state:delivered", "state:unknown",
    "copy:delivered", "copy:missing",
}  # fmt: skip


def found(archive: Archive, text: str, **wanted: Any) -> list[str]:
    search = build_search(text, limit=None)
    pages = query.pages(archive.engine, search, is_ours=is_ours, **wanted)
    return [one for page in pages for one in page]


def expected(cases: list[Case], *parts: str) -> list[str]:
    """Those that meet all parts, of which one may begin with NOT."""
    return sorted(
        (
            one.record["record_id"]
            for one in cases
            if all(
                is_so(one, part.removeprefix("NOT ")) is not part.startswith("NOT ")
                for part in parts
            )
        ),
        reverse=True,
    )


@pytest.mark.parametrize("text", SINGLE)
def test_each_state_finds_what_stands_so_now(filled: Archive, cases: list[Case], text: str) -> None:
    """Alone where an index knows it, else in a period; in pages of any size, and counted."""
    wanted = expected(cases, text)
    assert 0 < len(wanted) < NUMBER
    if text in WITHOUT_INDEX:
        with pytest.raises(DataError, match="no index answers"):
            found(filled, text)
        text = f"{text} after:2026-11-21"
    for size in (7, 1000):
        assert found(filled, text, size=size) == wanted
    counted = query.count(filled.engine, build_search(text), is_ours=is_ours)
    assert counted == len(wanted)


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param(("state:bounced", "copy:delivered"), id="state-and-copy"),
        pytest.param(("state:deferred", "NOT state:bounced"), id="and-not"),
        pytest.param(("rcpt:erin@other.test", "NOT copy:lost"), id="beside-an-address"),
        pytest.param(("crossing:outbound", "state:delivered"), id="beside-a-crossing"),
        pytest.param(("left:late", "state:expired"), id="left-late"),
    ],
)
def test_states_combine(filled: Archive, cases: list[Case], parts: tuple[str, ...]) -> None:
    """With each other, with other conditions and with NOT."""
    wanted = expected(cases, *parts)
    assert wanted
    assert found(filled, " ".join(parts), size=10) == wanted


def test_either_state_finds_both(filled: Archive, cases: list[Case]) -> None:
    """Each record once, in order, whichever condition found it."""
    wanted = {*expected(cases, "state:bounced"), *expected(cases, "crossing:inbound")}
    assert found(filled, "state:bounced OR crossing:inbound", size=9) == sorted(
        wanted, reverse=True
    )
    both = {*expected(cases, "state:held"), *expected(cases, "copy:lost", "rcpt:erin@other.test")}
    text = "state:held OR (copy:lost rcpt:erin@other.test)"
    assert found(filled, text, size=4) == sorted(both, reverse=True)


def test_results_stand_as_the_facts_say(filled: Archive, cases: list[Case]) -> None:
    """The worst of the recipients and of the copies, for every record of a page."""
    told = {one.record["record_id"]: one.story for one in cases}
    for one in query.search(filled.engine, build_search("", limit=None)):
        passages = told[one.record_id].passages
        assert one.state == delivery.worst(end.state for end in passages if not end.is_copy)
        copies = [end.state for end in passages if end.is_copy]
        assert one.copy_state == (delivery.worst(copies) if copies else None)


def test_outlines_stand_as_the_facts_say(filled: Archive) -> None:
    """What a table says of deliveries is what is said in short."""
    in_short = query.search(filled.engine, Search())
    outlines = query.outlines(filled.engine, Search())
    stands = [(one.record_id, one.state, one.copy_state) for one in in_short]
    assert len({state for _, state, _ in stands}) > 3
    assert [(one.record_id, one.state, one.copy_state) for one in outlines] == stands


def test_messages_are_counted_by_state(filled: Archive, cases: list[Case]) -> None:
    """By the worst of their recipients; all of them, or those that a search finds."""
    for text, parts in (("", ()), ("copy:lost", ("copy:lost",))):
        some = set(expected(cases, *parts))
        states = Counter(
            delivery.worst(end.state for end in one.story.passages if not end.is_copy).value
            for one in cases
            if one.record["record_id"] in some
        )
        counted = statistics.count(filled.engine, "state", build_search(text))
        assert {one.what: one.messages for one in counted} == states


def test_what_left_late_is_not_asked_where_ours_is_unknown(filled: Archive) -> None:
    """One sentence, rather than everything or nothing."""
    with pytest.raises(DataError, match="which domains are ours"):
        list(query.pages(filled.engine, build_search("left:late")))
