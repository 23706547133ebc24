"""Queries as people type them: what they mean, and which sentence answers what means nothing."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbonseal.milter.archive.search import fields, language, wanted
from carbonseal.milter.archive.search.wanted import Is
from carbonseal.policies.errors import DataError

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def meaning(text: str) -> Any:
    """The conditions as JSON; the period apart, where there is one."""
    found = language.parse(text, now=NOW).to_json()
    period = [found[name][:16] for name in ("since", "until") if name in found]
    return (found.get("where"), *period) if period else found.get("where")


MEANINGS: list[Any] = [
    pytest.param("", None, id="nothing"),
    pytest.param("from:Alice@Example.COM", {"from": "alice@example.com"}, id="address"),
    pytest.param("from:<alice@example.com>", {"from": "alice@example.com"}, id="in-brackets"),
    pytest.param('from:"alice@example.com"', {"from": "alice@example.com"}, id="in-quotes"),
    pytest.param("FROM:alice@example.com", {"from": "alice@example.com"}, id="field-in-capitals"),
    pytest.param("bob@example.com", {"participant": "bob@example.com"}, id="bare-address"),
    pytest.param("from:o'brien/x~y@x.org", {"from": "o'brien/x~y@x.org"}, id="signs-in-addresses"),
    pytest.param("to:@Partner.org", {"to": "@partner.org"}, id="domain-of-an-address"),
    pytest.param("to:*@partner.org", {"to": "@partner.org"}, id="star-for-everybody"),
    pytest.param("to:@.partner.org", {"to": "@.partner.org"}, id="with-subdomains"),
    pytest.param("to:bob+*@x.org", {"to": "bob+*@x.org"}, id="with-extensions"),
    pytest.param("from:@b\u00fccher.example", {"from": "@xn--bcher-kva.example"}, id="u-label"),
    pytest.param("from:bob@[192.0.2.1]", {"from": "bob@[192.0.2.1]"}, id="literal"),
    pytest.param("domain:*.x.org", {"domain": ".x.org"}, id="star-for-subdomains"),
    pytest.param("bcc:bob@x.org", {"rcpt": "bob@x.org"}, id="another-name"),
    pytest.param("sender:<>", {"sender": "<>"}, id="null-reverse-path"),
    pytest.param('message-id:"<a(b)@c>"', {"message-id": "a(b)@c"}, id="message-id"),
    pytest.param("client:2001:db8::/32", {"client": "2001:db8::/32"}, id="colons-in-a-value"),
    pytest.param("client:192.0.2.7/24", {"client": "192.0.2.0/24"}, id="network"),
    pytest.param("login:EXAMPLE\\alice", {"login": "EXAMPLE\\alice"}, id="backslash"),
    pytest.param("Résumé", {"subject": "resume"}, id="bare-word"),
    pytest.param("annual-report", {"subject": "annual report"}, id="two-words-in-one"),
    pytest.param('"Annual Report"', {"subject": "annual report"}, id="phrase"),
    pytest.param(
        "annual report", {"all": [{"subject": "annual"}, {"subject": "report"}]}, id="two-words"
    ),
    pytest.param(
        "subject:(annual report)",
        {"all": [{"subject": "annual"}, {"subject": "report"}]},
        id="words-of-a-field",
    ),
    pytest.param("after:2026-01-01", (None, "2026-01-01T00:00"), id="after"),
    pytest.param("after:2026-01-01T10:00+01:00", (None, "2026-01-01T09:00"), id="after-with-zone"),
    pytest.param("after:7d", (None, "2026-11-14T12:00"), id="days-ago"),
    pytest.param("on:2026-02", (None, "2026-02-01T00:00", "2026-03-01T00:00"), id="on-a-month"),
    pytest.param("on:2026", (None, "2026-01-01T00:00", "2027-01-01T00:00"), id="on-a-year"),
    pytest.param(
        "on:[2026-01 TO 2026-02]", (None, "2026-01-01T00:00", "2026-03-01T00:00"), id="months"
    ),
    pytest.param(
        "after:2026-01-01 after:2026-02-01 report",
        ({"subject": "report"}, "2026-02-01T00:00"),
        id="the-narrowest-period",
    ),
    pytest.param("size:>1M", {"size": ">1048576"}, id="size"),
    pytest.param("size:[1K TO 2K]", {"size": "1024..2048"}, id="sizes"),
    pytest.param("header.List-Id:x.y", {"header.list-id": "x.y"}, id="header"),
    pytest.param("a b -c", {"all": [{"subject": "a"}, {"subject": "b"}, {"not": {"subject": "c"}}]},
                 id="minus"),
    pytest.param(
        "a AND b OR c",
        {"any": [{"all": [{"subject": "a"}, {"subject": "b"}]}, {"subject": "c"}]},
        id="and-binds-closer",
    ),
    pytest.param(
        "from:(a@x.org OR b@x.org)",
        {"any": [{"from": "a@x.org"}, {"from": "b@x.org"}]},
        id="or-within-a-field",
    ),
    pytest.param("NOT NOT a", {"subject": "a"}, id="not-not"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), MEANINGS)
def test_a_query_means(text: str, expected: Any) -> None:
    """One meaning, in the words that the audit and holds keep."""
    assert meaning(text) == expected


REFUSED = [
    pytest.param("*", "wildcard", id="wildcard-alone"),
    pytest.param("from:*", "wildcard", id="wildcard-as-address"),
    pytest.param("from:al*@example.com", "@example.com for a domain", id="wildcard-in-an-address"),
    pytest.param("rep*", "whole words", id="wildcard-after-a-word"),
    pytest.param("*port", "whole words", id="wildcard-before-a-word"),
    pytest.param("r?port", "whole words", id="one-letter-wildcard"),
    pytest.param("queue:*", "4XY*", id="wildcard-as-queue-id"),
    pytest.param("queue:*XY", "4XY*", id="wildcard-before-a-queue-id"),
    pytest.param("header.list-id:*", "header.list-id:", id="wildcard-as-header"),
    pytest.param('"annual report', "close it", id="unbalanced-quote"),
    pytest.param('from:"a@x.org', "close it", id="unbalanced-quote-of-a-value"),
    pytest.param("(a", "parenthesis", id="unbalanced-parenthesis"),
    pytest.param("a)", "parenthesis", id="unbalanced-parenthesis-at-the-end"),
    pytest.param(")(", "cannot be read", id="parentheses-backwards"),
    pytest.param("a~2", "likeness", id="fuzzy"),
    pytest.param('"a b"~3', "likeness", id="near"),
    pytest.param("/a.*b/", "likeness", id="regular-expression"),
    pytest.param("a^2", "likeness", id="boost"),
    pytest.param("a and b", "AND in capitals", id="small-and"),
    pytest.param("a && b", "AND, OR or NOT", id="signs-for-and"),
    pytest.param("!a", "AND, OR or NOT", id="sign-for-not"),
    pytest.param("a b OR c", "parentheses", id="side-by-side-and-or"),
    pytest.param("a OR", "need a condition", id="or-nothing"),
    pytest.param("from:", "followed by nothing", id="no-value"),
    pytest.param("from: alice", "no domain", id="space-after-the-colon"),
    pytest.param("sujet:a", "no field", id="no-such-field"),
    pytest.param("header.:a", "names no header", id="no-header-name"),
    pytest.param("from:(to:a@x.org)", "inside each other", id="field-in-a-field"),
    pytest.param("from:alice", "no domain", id="no-address"),
    pytest.param("domain:a..b", "a..b", id="no-domain"),
    pytest.param("domain:.org", "top-level", id="top-level"),
    pytest.param("to:@.org", "top-level", id="people-of-a-top-level-domain"),
    pytest.param("domain:.[192.0.2.1]", "no subdomains", id="literal-with-a-dot"),
    pytest.param("client:300.1.1.1", "192.0.2.1", id="no-network"),
    pytest.param("client:fe80::1%eth0", "192.0.2.1", id="zone"),
    pytest.param("crossing:sideways", "internal or outbound", id="no-crossing"),
    pytest.param("signed:maybe", "yes or no", id="no-truth"),
    pytest.param("size:big", "no size", id="no-size"),
    pytest.param("size:[1M TO *]", "range", id="open-range"),
    pytest.param("size:5M..1M", "exchange them", id="sizes-reversed"),
    pytest.param("after:1d OR NOT size:[5M TO 1M]", "exchange them", id="sizes-reversed-inside"),
    pytest.param("from:a@x.org OR on:[2026-03 TO 2026-01]", "exchange", id="days-reversed-inside"),
    pytest.param("[a TO b]", "range", id="range-of-words"),
    pytest.param("on:2026-02-30", "on:", id="no-day"),
    pytest.param("after:9999999d", "after:", id="too-long-ago"),
    pytest.param("before:yesterday", "before:", id="no-time"),
    pytest.param("message-id:<>", "message-id:", id="no-message-id"),
    pytest.param("subject:%%%", "no word", id="no-word"),
    pytest.param("a\0b", "control character", id="nul"),
    pytest.param("a\x1b[2Jb", "control character", id="terminal-sequence"),
    pytest.param("'; DROP TABLE message; --", "cannot be read", id="sql"),
    pytest.param("from:x' OR '1'='1", "", id="sql-in-a-value"),
    pytest.param(" ".join(map(str, range(10_000))), "make several", id="10000-terms"),
    pytest.param(" OR ".join(["a"] * 600), "make several", id="too-many-terms"),
    pytest.param("(" * 2000 + "a" + ")" * 2000, "deep", id="parentheses"),
    pytest.param("NOT " * 2000 + "a", "deep", id="nots"),
    pytest.param("-" * 2000 + "a", "deep", id="minuses"),
    pytest.param("from:" * 5000, "", id="fields-of-fields"),
    pytest.param("a" * 50_000, "characters", id="long"),
    pytest.param("login:" + "a" * 30_000, "shorten", id="long-value"),
    pytest.param("subject:\"" + "a " * 60 + '"', "50 words", id="long-phrase"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "part"), REFUSED)
def test_what_cannot_be_answered_is_one_sentence(text: str, part: str) -> None:
    """It says what to do instead, whatever was typed, and soon."""
    with pytest.raises(DataError) as refused:
        language.parse(text, now=NOW)
    assert part in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 500


@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from('":()[]{}*?-+~^/\\ aN<>@.')),
               max_size=60))  # fmt: skip
def test_any_text_has_a_meaning_or_a_sentence(text: str) -> None:
    """Never a traceback; what has a meaning goes to JSON and back."""
    try:
        found = language.parse(text, now=NOW)
    except DataError:
        return
    stored = json.dumps(found.to_json())
    assert wanted.from_json(json.loads(stored)) == found


VALUES = st.text(max_size=40) | st.text(alphabet='ab+*@.<>"\\ 1:/-', max_size=20)


@pytest.mark.parametrize("name", [*fields.FIELDS, "header.list-id"])
@given(value=VALUES)
def test_one_spelling_of_each_value(name: str, value: str) -> None:
    """What `canonical` makes of any text, it makes of its own answer."""
    try:
        once = fields.canonical(name, value)
    except DataError:
        return
    if name != "message-id":  # the brackets of its answer are part of it
        assert fields.canonical(name, once) == once
    assert wanted.from_json({"v": 1, "where": {name: once}}).where == Is(name, once)


NO_SEARCH: list[Any] = [
    pytest.param([], id="list"),
    pytest.param({}, id="no-version"),
    pytest.param({"v": 2}, id="later-version"),
    pytest.param({"v": 1, "limits": 3}, id="unknown-key"),
    pytest.param({"v": 1, "limit": 0}, id="no-limit"),
    pytest.param({"v": 1, "limit": True}, id="truth-as-limit"),
    pytest.param({"v": 1, "where": {"from": 5}}, id="number-as-value"),
    pytest.param({"v": 1, "where": {"nobody": "x"}}, id="unknown-field"),
    pytest.param({"v": 1, "where": {"all": []}}, id="all-of-nothing"),
    pytest.param({"v": 1, "where": {"from": "a@x.org", "to": "b@x.org"}}, id="two-fields"),
    pytest.param({"v": 1, "since": "soon"}, id="no-time"),
    pytest.param({"v": 1, "before": "12"}, id="no-record-id"),
]


@pytest.mark.parametrize("content", NO_SEARCH)
def test_what_never_was_a_search_is_refused(content: Any) -> None:
    """A damaged hold or bundle is a sentence, not another search."""
    with pytest.raises(DataError):
        wanted.from_json(content)


def test_a_deep_search_is_refused() -> None:
    """JSON from outside cannot exhaust the stack."""
    content: Any = {"subject": "a"}
    for _ in range(900):
        content = {"not": content}
    with pytest.raises(DataError, match="deep"):
        wanted.from_json({"v": 1, "where": content})


def test_five_hundred_addresses_are_one_query() -> None:
    """As many as the bound allows, within a second or so on any machine."""
    text = "from:(" + " OR ".join(f"user{number}@example.com" for number in range(500)) + ")"
    before = time.process_time()
    found = language.parse(text, now=NOW).where
    assert len(list(wanted.leaves(found))) == 500
    assert time.process_time() - before < 20
