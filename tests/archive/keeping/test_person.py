"""One person out of one record: everything that names the address, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.archive import build_recipient, build_record, build_reverse_path, headers

from carbonseal.milter.archive import terms
from carbonseal.milter.archive.keeping import person
from carbonseal.milter.archive.keeping.person import Certified, Person
from carbonseal.policies.errors import DataError

BOB = Person("bob@partner.example")
ALL_OF_BOB = Person("bob@partner.example", with_extensions=True)
HASH = frozenset([terms.mailbox_hash("bob@partner.example")])
CERTIFIED = Certified(HASH, "partner.example", "b")
TOKEN = {"bob@partner.example": "erased-1f@partner.example"}


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("bob@partner.example", id="plain"),
        pytest.param("<BOB@Partner.Example>", id="case"),
        pytest.param("bob@partner.example.", id="trailing-dot"),
        pytest.param('"bob"@partner.example', id="needless-quotes"),
        pytest.param("for <bob@partner.example>; Sat, 21 Nov", id="received-for"),
        pytest.param("rfc822;bob@partner.example", id="orcpt"),
        pytest.param("smtp.mailfrom=bob@partner.example;", id="authentication-results"),
        pytest.param("AUTH=bob+40partner.example", id="xtext"),
        pytest.param("list-bounces+bob=partner.example@lists.example", id="verp"),
        pytest.param("SRS0=HHH=TT=partner.example=bob@forwarder.example", id="srs"),
        pytest.param("prvs=1a2b=bob@partner.example", id="batv"),
        pytest.param("bob%partner.example@relay.example", id="percent-hack"),
        pytest.param("partner.example!bob", id="bang-path"),
    ],
)
def test_the_address_is_known_in_whatever_is_made_of_it(text: str) -> None:
    """And gone afterwards; whoever has the certificate alone knows it as well."""
    assert BOB.is_named_in(text)
    assert CERTIFIED.is_named_in(text)
    assert not BOB.is_named_in(BOB.without(text, "T"))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("jimbob@partner.example", id="longer-name"),
        pytest.param("x.bob@partner.example", id="dotted-name"),
        pytest.param("bob@partner.example.org", id="longer-domain"),
        pytest.param("bob@partner.example-x.org", id="hyphen"),
        pytest.param("bob@mail.partner.example", id="subdomain"),
        pytest.param("bob+tag@partner.example", id="extension"),
        pytest.param("bobpartner.example", id="no-at"),
    ],
)
def test_others_are_others(text: str) -> None:
    """Whoever only looks like it keeps his mail as it was."""
    assert not BOB.is_named_in(text)
    assert not CERTIFIED.is_named_in(text)


def test_extensions_are_the_same_person_when_that_is_said() -> None:
    """`bob+tag@`, whatever the tag."""
    for text in ("bob+tag@partner.example", "bob+a=b@partner.example", "Bob+@partner.example"):
        assert not BOB.is_named_in(text)
        assert ALL_OF_BOB.is_named_in(text)
        assert not CERTIFIED.is_named_in(text)
        assert Certified(HASH, "partner.example", "b", with_extensions=True).is_named_in(text)


def test_an_address_without_a_domain_is_nobody() -> None:
    """`bob` alone would be everywhere."""
    with pytest.raises(DataError, match="whole address"):
        Person("bob")


def test_a_u_label_is_the_same_domain() -> None:
    """However the header section spells it."""
    who = Person("bob@xn--bcher-kva.example")
    assert who.is_named_in("<bob@bücher.example>")
    hashes = frozenset([terms.mailbox_hash(who.mailbox)])
    assert Certified(hashes, "xn--bcher-kva.example", "b").is_named_in("<bob@bücher.example>")


def erase(**changes: Any) -> dict[str, Any]:
    return person.erased(build_record(1, **changes), BOB, TOKEN)


def test_what_names_the_person_is_gone_and_the_rest_is_as_it_was() -> None:
    """Display names in the same field go as well; the other party stays to be found."""
    fields = [
        ["Received", " from a\n\tby b\n\tfor <bob@partner.example>; Sat, 21 Nov 2026"],
        ["From", " Alice <alice@example.com>"],
        ["To", ' "Bob Miller" <Bob@partner.example>, Carol <carol@third.example>'],
        ["Subject", " =?utf-8?Q?mail_for_bob=40partner.example?= now"],
        ["X-Other", " untouched \udce9"],
    ]
    before = build_record(1, header_fields=fields, salt=None)
    after = person.erased(before, BOB, TOKEN)
    assert not person.names(after, BOB)
    values = dict(after["header_fields"])
    assert values["To"] == " <erased-1f@partner.example>, <carol@third.example>"
    assert "Miller" not in str(after)
    assert values["Subject"] == " mail for erased-1f@partner.example now"
    assert values["From"] == fields[1][1]
    assert values["X-Other"] == fields[4][1]
    assert "erased-1f@partner.example" in values["Received"]
    kept = ("record_id", "recorded_at", "client", "login", "reverse_path", "signatures", "size")
    assert all(after[key] == before[key] for key in kept)
    assert after["recipients"][0]["address"] == "erased-1f@partner.example"
    assert after["reasons"][1] == "recipient-outside(erased-1f@partner.example)"


def test_the_login_goes_with_whoever_wrote_the_message() -> None:
    """Who logged in and wrote as bob is bob, whatever the login is called."""
    after = erase(
        reverse_path=build_reverse_path("bob@partner.example"),
        login="u4711",
        origin={"kind": "login", "about": "u4711"},
        reasons=["origin-login(u4711)", "author-not-allowed(u4711 as bob@partner.example)"],
    )
    assert after["login"] == "erased"
    assert after["origin"] == {"kind": "login", "about": "erased"}
    assert "u4711" not in str(after)


def test_the_login_of_another_stays() -> None:
    """Bob is only a recipient here."""
    assert erase()["login"] == "alice"


def test_a_list_that_writes_to_the_person_is_no_name_of_hers_any_more() -> None:
    """VERP puts the recipient into the reverse-path."""
    verp = "list+bob=partner.example@lists.example"
    tokens = TOKEN | {verp: "erased-2e@lists.example"}
    before = build_record(1, reverse_path=build_reverse_path(verp))
    after = person.erased(before, BOB, tokens)
    assert after["reverse_path"]["address"] == "erased-2e@lists.example"
    assert after["reverse_path"]["raw"] == "<erased-2e@lists.example>"
    assert not person.names(after, BOB)


SPELLINGS = st.sampled_from(
    ["bob@partner.example", "Bob@PARTNER.example", "<bob@partner.example>", "x=bob@partner.example"]
)
NOISE = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)


@given(st.lists(st.tuples(NOISE, SPELLINGS | NOISE, NOISE), max_size=5), NOISE)
def test_wherever_the_name_stands_it_is_gone(
    values: list[tuple[str, str, str]], login: str
) -> None:
    """Whatever is around it, in whichever field; twice changes nothing."""
    names = ("To", "Received", "X-Note", "Subject", "Reply-To")
    fields = [[names[n], " ".join(one)] for n, one in enumerate(values)]
    before = build_record(1, header_fields=fields, helo=login, login=login)
    if person.names(before, BOB):
        assert person.names(before, CERTIFIED)
    after = person.erased(before, BOB, TOKEN)
    assert not person.names(after, BOB)
    assert not person.names(after, CERTIFIED)
    assert person.erased(after, BOB, TOKEN) == after


def test_what_does_not_name_the_person_is_left_octet_by_octet() -> None:
    """An unfolded or odd field is not tidied on the occasion."""
    before = build_record(
        1,
        recipients=[build_recipient("carol@third.example")],
        reasons=[],
        header_fields=headers(To="  Carol \n\t<carol@third.example> ,", Subject="=?x?Q?=00?="),
    )
    assert person.erased(before, BOB, TOKEN) == before
