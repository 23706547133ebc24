"""Recipients, signatures and reasons in few octets, without loss; terms of records and searches."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbonseal.milter.archive import packed, postings, schema, verdicts
from carbonseal.milter.archive.packed import Numbers, Recipient, Signature
from carbonseal.milter.archive.verdicts import Abouts

identifiers = st.integers(min_value=-(1 << 63), max_value=(1 << 63) - 1)
moments = st.integers(min_value=0, max_value=1 << 62)
# As `terms.storable` makes them.
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=200)
octets = st.binary(max_size=200)


def recipients(kind: int) -> st.SearchStrategy[Recipient]:
    return st.builds(
        Recipient,
        kind=st.just(kind),
        address_id=st.none() | identifiers,
        spelling=st.none() | octets,
        raw=st.none() | octets,
        resolved=st.none() | octets,
        esmtp=st.none() | texts,
        route_id=st.sampled_from([1, -5]) if kind == schema.ENVELOPE else st.none(),
        about=st.none() | texts,
    )


@given(
    st.lists(recipients(schema.ENVELOPE), max_size=200),
    st.lists(recipients(schema.COPY), max_size=3),
)
def test_recipients_come_back(envelope: list[Recipient], copies: list[Recipient]) -> None:
    """Whatever stands in them, in their order, and which are the archive's."""
    given = [*envelope, *copies]
    stored = packed.pack_recipients(given)
    assert packed.unpack_recipients(stored) == given
    first = (given[0].address_id, given[0].spelling) if given else (None, None)
    assert packed.first_recipient(stored) == (len(envelope), *first)


@given(
    st.lists(st.builds(Signature, identifiers, st.none() | texts, moments, st.none() | moments)),
    moments,
)
def test_signatures_come_back(signatures: list[Signature], second: int) -> None:
    """Whenever they were made, before or after the record, and whenever they expire."""
    stored = packed.pack_signatures(signatures, second)
    assert packed.unpack_signatures(stored, second) == signatures


counts = st.integers(min_value=0, max_value=(1 << 63) - 1)


@given(st.builds(Numbers, counts, counts, counts, counts), counts)
def test_numbers_come_back(numbers: Numbers, size: int) -> None:
    """Whether or not the message is as large as its parts."""
    assert packed.unpack_numbers(packed.pack_numbers(numbers, size), size) == numbers


def test_usual_numbers_take_few_octets() -> None:
    """The octets of the body follow from the others."""
    assert len(packed.pack_numbers(Numbers(40_001, 18, 1650, 30_000), 31_652)) == 7


@pytest.mark.parametrize(
    "stored",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\3\1\1\1\1", id="of-a-later-format"),
        pytest.param(b"\1\1\1", id="too-few"),
        pytest.param(b"\2\1\1\1\x80", id="torn"),
    ],
)
def test_damaged_numbers_are_refused(stored: bytes) -> None:
    """Nothing is made up."""
    with pytest.raises(ValueError, match="stored numbers"):
        packed.unpack_numbers(stored, 100)


def usual(address_id: int, kind: int = schema.ENVELOPE) -> Recipient:
    route_id = 7 if kind == schema.ENVELOPE else None
    return Recipient(kind, address_id, None, None, b"", None, route_id, None)


def test_a_usual_message_takes_few_octets() -> None:
    """One recipient with its route, one of the archive, one signature."""
    stored = packed.pack_recipients([usual(1 << 62), usual(5, schema.COPY)])
    assert len(stored) == 2 + 17 + 9
    assert len(packed.pack_recipients([usual(one) for one in range(5000)])) < 5000 * 9 + 16
    signatures = packed.pack_signatures([Signature(1 << 62, None, 100, None)], 100)
    assert signatures is not None
    assert len(signatures) == 11


DAMAGE = [
    pytest.param(lambda stored: stored[:-1], "too early", id="cut"),
    pytest.param(lambda stored: b"\2" + stored[1:], "unknown format 02", id="later-format"),
    pytest.param(lambda _: b"", "unknown format", id="empty"),
    pytest.param(lambda stored: b"\1\7" + stored[2:], "missing", id="fewer-than-said"),
]


@pytest.mark.parametrize(("damage", "said"), DAMAGE)
def test_damage_is_said(damage: Any, said: str) -> None:
    """Never a wrong recipient: a sentence."""
    stored = damage(packed.pack_recipients([usual(1), usual(2)]))
    with pytest.raises(ValueError, match=said):
        packed.unpack_recipients(stored)


@pytest.mark.parametrize(
    "stored",
    [
        pytest.param(b"\1\1", id="nobody"),
        pytest.param(packed.pack_recipients([usual(1)])[:-1], id="cut"),
        pytest.param(b"\2" + packed.pack_recipients([usual(1)])[1:], id="later-format"),
    ],
)
def test_damage_of_the_first_recipient_is_said(stored: bytes) -> None:
    """Also where nobody looks at the others."""
    with pytest.raises(ValueError, match="stored recipients"):
        packed.first_recipient(stored)


def test_a_recipient_of_the_archive_comes_last() -> None:
    """The order says which kind they are, so another one is refused."""
    with pytest.raises(ValueError, match="come first"):
        packed.pack_recipients([usual(1, schema.COPY), usual(2)])


ABOUTS = Abouts(
    login="alice",
    client="192.0.2.7",
    reverse_path="alice@example.com",
    author="Alice@example.com",
    why="<a%b@c> is a@b",
    recipients=["bob@x.example", "carol@x.example", "dave@x.example", "archive@a.example"],
    recipient_whys=[None, None, "<dave%x> is dave@x.example", None],
)
REASONS = [
    pytest.param(["origin-login(alice)"], '["origin-login({login})"]', id="login"),
    pytest.param(["origin-none(192.0.2.7)"], '["origin-none({client})"]', id="client"),
    pytest.param(
        ["reverse-path-inside(alice@example.com)"],
        '["reverse-path-inside({reverse_path})"]',
        id="reverse-path",
    ),
    pytest.param(["no-key(Alice@example.com)"], '["no-key({author})"]', id="author"),
    pytest.param(
        [f"recipient-outside({name}@x.example)" for name in ("bob", "carol", "dave")],
        '["recipient-outside({0..2})"]',
        id="run",
    ),
    pytest.param(
        ["recipient-inside(bob@x.example)", "recipient-outside(carol@x.example)"],
        '["recipient-inside({0})","recipient-outside({1})"]',
        id="no-run",
    ),
    pytest.param(
        ["recipient-rerouted(<dave%x> is dave@x.example)", "rerouted(<a%b@c> is a@b)"],
        '["recipient-rerouted({why:2})","rerouted({why})"]',
        id="whys",
    ),
    pytest.param(["archive-copy(archive@a.example)"], '["archive-copy({3})"]', id="copy"),
    pytest.param(["signed(example.com/s1)"], '["signed(example.com/s1)"]', id="no-person"),
    pytest.param(["crossing"], '["crossing"]', id="bare"),
    pytest.param([], "[]", id="none"),
]


@pytest.mark.parametrize(("reasons", "stored"), REASONS)
def test_reasons_name_by_placeholders(reasons: list[str], stored: str) -> None:
    """What many messages have in common is one row, and says the same for each of them."""
    made, is_exact = verdicts.in_common(reasons, ABOUTS)
    assert (made.reasons, is_exact) == (stored, True)
    assert verdicts.spelled_out(made.reasons, ABOUTS) == reasons


INEXACT = [
    pytest.param("recipient-outside(eve@x.example)", id="another-person"),
    pytest.param("eve@x.example", id="a-person-as-code"),
    pytest.param("eve@x.example(alice)", id="a-person-as-code-of-something"),
    pytest.param("odd({0})", id="like-a-placeholder"),
    pytest.param("{login}", id="placeholder"),
    pytest.param(f"long({'x' * 300})", id="long"),
]


@pytest.mark.parametrize("reason", INEXACT)
def test_no_person_enters_the_dictionary_of_reasons(reason: str) -> None:
    """Such reasons are kept with the record itself, from which a person can be erased."""
    made, is_exact = verdicts.in_common([reason], ABOUTS)
    assert not is_exact
    assert "eve" not in made.reasons


words = st.sampled_from(["alice", "bob@x.example", "a", "{0}", "(", ")", "", "192.0.2.7", "\udcff"])
reason_text = st.builds("{}({})".format, words | st.text(), words | st.text()) | st.text() | words


@given(
    st.lists(reason_text),
    st.builds(
        Abouts, st.none() | words, words, words, words, st.none() | words,
        st.lists(words, min_size=3, max_size=3), st.lists(words, min_size=3, max_size=3),
    ),
)  # fmt: skip
def test_reasons_come_back_or_say_that_they_do_not(reasons: list[str], abouts: Abouts) -> None:
    """Whatever reasons and people are called."""
    made, is_exact = verdicts.in_common(reasons, abouts)
    if is_exact:
        assert verdicts.spelled_out(made.reasons, abouts) == reasons
        assert "@" not in made.reasons


roles = st.integers(1, (schema.ANY_ROLE << schema.INDIRECT) | schema.ANY_ROLE).filter(
    lambda held: held & (schema.ANY_ROLE << schema.INDIRECT | schema.ANY_ROLE)
)


@given(
    held=st.dictionaries(identifiers, roles, max_size=4),
    wanted=roles,
    asked=identifiers,
)
def test_terms_overlap_as_roles_do(held: dict[int, int], wanted: int, asked: int) -> None:
    """A search for an address in some roles meets the records where it holds one of them."""
    every = schema.ANY_ROLE << schema.INDIRECT | schema.ANY_ROLE
    held = {one: some & every for one, some in held.items()}
    terms = set(
        postings.of_message(
            participants=held, domains=held, login=None, crossing=1, is_signed=False
        )
    )
    for identifier in [*held, asked]:
        meets = bool(held.get(identifier, 0) & wanted)
        assert bool(terms & set(postings.with_address(identifier, wanted))) is meets
        assert bool(terms & set(postings.with_domain(identifier, wanted))) is meets


TERMS = [
    591197841243237438,
    1803212905562175836,
    -4082790007123192617,
    7901479216421638837,
]
WORD = 618447420003631360


def test_terms_never_change() -> None:
    """They are stored: whoever changes them loses what was found by them."""
    made = postings.of_message(
        participants={1: schema.AUTHOR},
        domains={2: schema.TO << schema.INDIRECT},
        login=3,
        crossing=2,
        is_signed=True,
    )
    assert made == TERMS
    assert postings.of_header_section([4]) == postings.with_word(4) == [WORD]
