"""Envelope addresses are read as typed, whatever was typed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbonseal.policies import address, domains, errors
from carbonseal.policies.address import Address

ATEXT = st.from_regex(r"[A-Za-z0-9_+=/{}~-]{1,20}(\.[A-Za-z0-9_+-]{1,9}){0,2}", fullmatch=True)
QUOTED = st.from_regex(r'"([ -!#-\[\]-~é]|\\[ -~])*"', fullmatch=True).filter(lambda t: len(t) < 90)
DOMAINS = st.sampled_from(
    ["example.com", "b", "a.b.c.example", "xn--bcher-kva.example", "[192.0.2.1]", "[ipv6:::1]"]
)
ANY_BYTES = st.binary(max_size=80).map(lambda octets: octets.decode("utf-8", "surrogateescape"))
SIGNS = st.text(st.sampled_from('<>@,:"\\[]()%!. ab\0\té\udce9'), max_size=60)


@pytest.mark.parametrize(
    ("raw", "expected", "notes"),
    [
        pytest.param("<a@example.com>", "a@example.com", "", id="plain"),
        pytest.param("a@example.com", "a@example.com", "", id="without-brackets"),
        pytest.param(" <a@example.com>\r\n", "a@example.com", "", id="white-space-around"),
        pytest.param("<A.b@Example.COM>", "A.b@example.com", "", id="only-the-domain-is-folded"),
        pytest.param("<b+tag@example.com>", "b+tag@example.com", "", id="extension-kept"),
        pytest.param("<a..b.@example.com>", "a..b.@example.com", "", id="dots-as-docomo-had-them"),
        pytest.param("<a@example.com.>", "a@example.com", "trailing-dot", id="trailing-dot"),
        pytest.param(
            "<a@example.com..>", "a@example.com..", "trailing-dot bad-domain", id="two-dots"
        ),
        pytest.param("<x@bücher.example>", "x@xn--bcher-kva.example", "u-label", id="u-label"),
        pytest.param("<x@xn--bcher-kva.example>", "x@xn--bcher-kva.example", "", id="a-label"),
        pytest.param("<jörg@example.com>", "jörg@example.com", "", id="eai-local-part"),
        pytest.param("<x@[192.0.2.1]>", "x@[192.0.2.1]", "domain-literal", id="ipv4-literal"),
        pytest.param(
            "<x@[IPv6:2001:DB8::0:1]>", "x@[ipv6:2001:db8::1]", "domain-literal", id="ipv6-literal"
        ),
        pytest.param("<x@[X400:Foo]>", "x@[x400:foo]", "domain-literal", id="other-literal"),
        pytest.param("<@a,@b:x@remote>", "x@remote", "source-route", id="source-route"),
        pytest.param("<@[192.0.2.1]:x@remote>", "x@remote", "source-route", id="route-by-literal"),
        pytest.param(
            "<bob%remote.test@example.com>",
            "bob%remote.test@example.com",
            "percent-hack",
            id="percent-hack",
        ),
        pytest.param(
            '<"bob%remote.test"@example.com>',
            '"bob%remote.test"@example.com',
            "percent-hack",
            id="percent-hack-in-quotes",
        ),
        pytest.param(
            '<"bob@remote.test"@example.com>',
            '"bob@remote.test"@example.com',
            "quoted-at",
            id="quoted-inner-at",
        ),
        pytest.param("<a\\@b@example.com>", "a\\@b@example.com", "quoted-at", id="escaped-at"),
        pytest.param("<a@b@example.com>", "a@b@example.com", "quoted-at", id="two-bare-ats"),
        pytest.param(
            "<remote.test!bob@example.com>",
            "remote.test!bob@example.com",
            "bang-path",
            id="bang-path",
        ),
        pytest.param("<remote!bob>", "remote!bob", "bang-path unqualified", id="bare-bang-path"),
        pytest.param('<"john doe"@remote>', '"john doe"@remote', "", id="quoted-space"),
        pytest.param('<"a\\"b"@c>', '"a\\"b"@c', "", id="quoted-quote"),
        pytest.param("<postmaster>", "postmaster", "unqualified", id="unqualified"),
        pytest.param("<a\udce9@example.com>", "a\udce9@example.com", "", id="latin-1-local-part"),
        pytest.param("<a@B\udce9.com>", "a@b\udce9.com", "bad-domain", id="latin-1-domain"),
        pytest.param("<a@😀.Example>", "a@😀.example", "bad-domain", id="emoji-domain"),
        pytest.param("<a@-x.com>", "a@-x.com", "bad-domain", id="hyphen-first"),
    ],
)
def test_readings(raw: str, expected: str, notes: str) -> None:
    """The local part stays as typed, the domain gets its one spelling, oddities are noted."""
    path = address.parse_path(raw)
    assert str(path.address) == expected
    assert path.notes == tuple(notes.split())
    assert path.raw == raw
    assert not path.is_null


@pytest.mark.parametrize("raw", ["<>", "", " <> "])
def test_null_reverse_path(raw: str) -> None:
    """The null reverse-path is no address, and no error either."""
    assert address.parse_path(raw) == address.Path(raw, None, True, ())


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param("<a@>", id="no-domain-after-at"),
        pytest.param("<a@.>", id="only-the-root"),
        pytest.param("<@b>", id="no-local-part"),
        pytest.param("<a@@b>", id="nothing-between-ats"),
        pytest.param("< >", id="space"),
        pytest.param("<.@>", id="dot"),
        pytest.param("<a@b", id="open-bracket"),
        pytest.param("a@b>", id="closing-bracket"),
        pytest.param("<<a@b>>", id="two-brackets"),
        pytest.param("<a@b><c@d>", id="two-paths"),
        pytest.param("<a b@c>", id="bare-space"),
        pytest.param("<a(comment)@c>", id="comment"),
        pytest.param("<a,b@c>", id="comma"),
        pytest.param('<"a@b>', id="open-quote"),
        pytest.param('<a"b@c>', id="open-quote-after-a-word"),
        pytest.param('<"a"b"c@d>', id="three-quotes"),
        pytest.param('<a"b\\"c@d>', id="escaped-closing-quote"),
        pytest.param("<a\\>", id="backslash-at-the-end"),
        pytest.param("<a@[192.0.2.1>", id="open-literal"),
        pytest.param("<[192.0.2.1]>", id="literal-alone"),
        pytest.param("<a\0@b>", id="nul"),
        pytest.param("<a@b\r\nRCPT TO:c@d>", id="line-break"),
        pytest.param("<a@b\x7f>", id="delete"),
        pytest.param(f"<{'a' * 2048}@b>", id="too-long"),
    ],
)
def test_unparsable(raw: str) -> None:
    """What is no address is said to be none; nobody guesses."""
    path = address.parse_path(raw)
    assert path.address is None
    assert not path.is_null
    assert path.notes == ("unparsable",)


def test_routes_without_an_address() -> None:
    """A route that leads nowhere is noted together with the failure."""
    assert address.parse_path("<@a:>").notes == ("source-route", "unparsable")


@pytest.mark.parametrize(
    "unit", ["a@", "(", '"', 'a"', '"a" "', '"\\', "\\", "<", "@a,", "[", "%", "é", "a."]
)
@pytest.mark.parametrize("size", [2_000, 100_000])
def test_large_input_gets_an_answer(unit: str, size: int) -> None:
    """Repetition of anything that opens a structure ends in an answer, not in a long search."""
    path = address.parse_path("<" + unit * (size // len(unit)) + ">")
    assert path.address is None or len(str(path.address)) <= address.MAX_LENGTH
    assert size < address.MAX_LENGTH or path.notes == ("unparsable",)


@given(ATEXT | QUOTED, DOMAINS)
def test_round_trip(local_part: str, domain: str) -> None:
    """An address survives being written and read, with and without brackets."""
    mailbox = Address(local_part, domain)
    assert address.parse_path(f"<{mailbox}>").address == mailbox
    assert address.parse_path(str(mailbox)).address == mailbox


@given(ANY_BYTES | SIGNS)
def test_never_raises(raw: str) -> None:
    """Any bytes give a path; one that was read can be read again and means the same."""
    path = address.parse_path(raw)
    assert path.raw == raw
    assert path.address is None or not path.is_null
    if path.address is not None and "<" not in str(path.address):
        again = address.parse_path(str(path.address))
        assert again.address == path.address


@given(ANY_BYTES | SIGNS | st.text(max_size=30))
def test_bad_domains_are_nobodys(text: str) -> None:
    """A domain noted as bad is in no set of domains, in the form in which it is kept."""
    found, notes = address.join("a", text)
    if "bad-domain" in notes:
        assert domains.a_labels(found.domain) is None


@pytest.mark.parametrize("text", ["a@example.com", " <A@Example.com> ", '"x y"@[192.0.2.1]'])
def test_people_may_write_brackets(text: str) -> None:
    """Configured addresses are read like typed ones."""
    assert address.parse_address(text) == address.parse_path(text).address


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        pytest.param("", "no mail address", id="empty"),
        pytest.param("<>", "no mail address", id="null"),
        pytest.param("Archive <a@example.com>", "no mail address", id="display-name"),
        pytest.param("archive", "has no domain", id="unqualified"),
        pytest.param("a@b..c", "is no domain name", id="bad-domain"),
        pytest.param("<@a:b@c>", "source route", id="source-route"),
        pytest.param("x" * 5000, "no mail address", id="huge"),
    ],
)
def test_configured_addresses_are_refused_with_the_remedy(text: str, fault: str) -> None:
    """One sentence says what is wrong and how to write it."""
    with pytest.raises(errors.DataError, match=fault) as caught:
        address.parse_address(text)
    assert "like user@example.com" in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("raw", "parts"),
    [
        pytest.param("<A@Example.com>", ("A", "Example.com"), id="plain"),
        pytest.param("x@bücher.example", ("x", "bücher.example"), id="u-label"),
        pytest.param("<a@example.com.>", ("a", "example.com."), id="trailing-dot"),
        pytest.param("<@r.test,@s.test:a@example.com>", ("a", "example.com"), id="route"),
        pytest.param('<"a@b"@example.com>', ('"a@b"', "example.com"), id="quoted"),
        pytest.param("<postmaster>", ("postmaster", None), id="unqualified"),
        pytest.param("<>", None, id="null"),
        pytest.param("", None, id="nothing"),
        pytest.param("<a@>", None, id="no-domain"),
        pytest.param("<a b@c>", None, id="unreadable"),
    ],
)
def test_an_address_as_typed_keeps_its_spelling(
    raw: str, parts: tuple[str, str | None] | None
) -> None:
    """For the tables of Postfix, which compare what is written."""
    assert address.as_typed(raw) == parts
