"""What event lines say comes back from one column exactly, whatever strangers have put into it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import event_lines
from support.event_lines import active, attempt, build, change, client

from carbonseal.milter.archive import delivery_facts, event_id, event_line, terms
from carbonseal.milter.archive.evidence import event_leaf, leaf
from carbonseal.milter.archive.rows import Unloadable

TEXT = st.text(max_size=20) | st.text(alphabet='\x00\udc80\udcff"\\\x7f☃@<>+', max_size=9)
ODD = st.none() | st.booleans() | st.integers(-(2**62), 2**62) | TEXT | st.just({"a": [1]})


def there_and_back(facts: list[Any], rest: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    texts = {terms.mailbox(text) for text in delivery_facts.addresses(facts)}
    ids = {text: number - 2 for number, text in enumerate(sorted(texts, key=repr))}
    stored = delivery_facts.unpack(delivery_facts.pack(facts, rest, ids))
    return delivery_facts.facts(stored, {one: text for text, one in ids.items()}), dict(stored.rest)


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "kind": st.sampled_from(("attempt", "queued", "removed", "notified")) | TEXT,
                "at": st.sampled_from((event_lines.at(0), event_lines.at(1e9), "noon")) | ODD,
            },
            optional=dict.fromkeys(
                ("to", "orig_to", "reverse_path", "service", "reply", "queue_id", "later"), ODD
            ),
        ),
        max_size=4,
    ),
    st.dictionaries(TEXT, ODD, max_size=2),
)
def test_any_facts_come_back(facts: list[Any], rest: dict[str, Any]) -> None:
    """Kinds, keys and values that nobody has thought of; null and absent are not the same."""
    assert there_and_back(facts, rest) == (facts, rest)


def test_many_addresses_fit() -> None:
    """More than one octet counts."""
    facts = [attempt(f"user{number}@partner.example") for number in range(300)]
    assert there_and_back(facts, {}) == (facts, {})


@pytest.mark.parametrize(
    "stored",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\2\0", id="later-format"),
        pytest.param(b"\1\5\0", id="cut-in-the-addresses"),
        pytest.param(b"\1\0" + bytes(8), id="without-text"),
        pytest.param(delivery_facts.pack([active()], {}, {"alice@example.com": 7})[:-1], id="cut"),
    ],
)
def test_what_is_damaged_is_said_to_be(stored: bytes) -> None:
    """One kind of exception, whatever is wrong."""
    with pytest.raises(ValueError, match="stored facts"):
        delivery_facts.unpack(stored)


def test_the_id_of_a_line_follows_from_what_it_says() -> None:
    """Its time is that of the first fact; another word, another id."""
    one, other = [active(), attempt("b@x.example")], [active(), attempt("c@x.example")]
    made = event_id.event_id("mx1", "4A", one)
    assert made == event_id.event_id("mx1", "4A", [dict(reversed(fact.items())) for fact in one])
    assert made[:10] == event_id.event_id("mx1", "4A", other)[:10]
    assert terms.millisecond(made) == 1_795_237_200_000
    different = {
        event_id.event_id("mx1", "4A", other),
        event_id.event_id("mx2", "4A", one),
        event_id.event_id("mx1", "4B", one),
        event_id.event_id("mx1", "4A", one[:1]),
    }
    assert made not in different
    assert len(different) == 4


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="usual"),
        pytest.param({"v": 2, "later": [1]}, id="later-version"),
        pytest.param({"event_id": "0" * 26}, id="other-id"),
        pytest.param({"salt": "pepper"}, id="odd-salt"),
    ],
)
def test_a_line_comes_back_from_its_parts(changes: dict[str, Any]) -> None:
    """All but the source and the salt, which have columns or go."""
    given = build("4A", client(), attempt("Bob@x.example", orig_to="b@y.example"), **changes)
    line = event_line.read(given)
    facts, rest = there_and_back(list(line.facts), dict(line.rest))
    made = event_line.content(line.relay, line.queue_id, facts, rest)
    hidden = {"source"} if "salt" in changes else {"source", "salt"}
    assert made == {key: value for key, value in given.items() if key not in hidden}


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"facts": []}, id="no-facts"),
        pytest.param({"facts": [{"kind": "removed", "at": "noon"}]}, id="no-time"),
        pytest.param({"facts": [{**attempt("b@x"), "to": None}]}, id="nobody"),
        pytest.param({"facts": ["removed"]}, id="text"),
        pytest.param({"queue_id": ""}, id="no-queue-id"),
        pytest.param({"queue_id": "A" * 256}, id="long-queue-id"),
        pytest.param({"relay": 7}, id="no-relay"),
    ],
)
def test_what_is_no_event_line_is_refused_with_a_sentence(changes: dict[str, Any]) -> None:
    """Whatever is wrong with it."""
    with pytest.raises(Unloadable, match=r"^the event line (lacks|has a wrong value:) ."):
        event_line.read(build("4A", active()) | changes)


def test_each_fact_can_go_and_the_others_stay_proven() -> None:
    """After one erasure and another; a change of what is left shows."""
    given = build("4A", client(), attempt("b@x.example"), attempt("c@x.example"), change("removed"))
    del given["source"]
    whole = event_leaf.entry(given, event_leaf.Salts(leaf.line_salt(given)))
    assert whole == event_leaf.evidence_of(b"", given)
    assert event_leaf.is_marked(whole)
    content, salts = given, event_leaf.Salts(leaf.line_salt(given))
    for number in (1, 2):
        erased = {**content, "facts": [*content["facts"]]}
        erased["facts"][number] = {**erased["facts"][number], "to": "erased"}
        said = event_leaf.redact(content, salts, {f"fact/{number}"}, 7)
        salts, event = event_leaf.stored(None, leaf.canonical(said).decode())
        assert event == 7
        content = {**erased, "event_id": None}
        assert event_leaf.entry(content, salts) == whole
    changed = {**content, "facts": [*content["facts"][:3], change("expired")]}
    assert event_leaf.entry(changed, salts) != whole
