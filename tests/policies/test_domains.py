"""Domains have one spelling, and ours are matched in that spelling only."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbonseal.policies import domains, errors

LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
NAMES = st.lists(LABELS, min_size=1, max_size=5).map(".".join)


@pytest.mark.parametrize(
    ("typed", "normal"),
    [
        pytest.param("Example.COM", "example.com", id="case-is-folded"),
        pytest.param("example.com.", "example.com", id="root-dot"),
        pytest.param("bücher.example", "xn--bcher-kva.example", id="u-label"),
        pytest.param("BÜCHER.example.", "xn--bcher-kva.example", id="u-label-in-capitals"),
        pytest.param("XN--BCHER-KVA.example", "xn--bcher-kva.example", id="a-label"),
        pytest.param("faß.example", "xn--fa-hia.example", id="sharp-s-is-not-ss"),
        pytest.param("a。example", "a.example", id="ideographic-full-stop"),
        pytest.param("my_host.example", "my_host.example", id="underscore"),
        pytest.param("localhost", "localhost", id="single-label"),
        pytest.param("[192.0.2.1]", "[192.0.2.1]", id="ipv4-literal"),
        pytest.param("[IPv6:2001:0DB8:0:0::1]", "[ipv6:2001:db8::1]", id="ipv6-literal"),
    ],
)
def test_one_spelling(typed: str, normal: str) -> None:
    """However a domain is typed, it is compared as the same text."""
    assert domains.normalize(typed) == normal


@pytest.mark.parametrize(
    "typed",
    [
        pytest.param("", id="empty"),
        pytest.param(".", id="only-the-root"),
        pytest.param("a..b", id="empty-label"),
        pytest.param("example.com..", id="two-root-dots"),
        pytest.param("a。.", id="two-kinds-of-root-dot"),
        pytest.param("-a.example", id="hyphen-first"),
        pytest.param("a b.example", id="space"),
        pytest.param("a@b.example", id="at"),
        pytest.param("a\uff20b.example", id="fullwidth-at"),
        pytest.param("a\u2100b.example", id="sign-that-maps-to-a-slash"),
        pytest.param("😀.example", id="emoji"),
        pytest.param("a\udce9.example", id="undecodable"),
        pytest.param("a\0.example", id="nul"),
        pytest.param("a" * 64 + ".example", id="label-of-64"),
        pytest.param("ab." * 90 + "example", id="over-253"),
        pytest.param("é" * 100_000, id="huge"),
        pytest.param("[192.0.2.256]", id="no-ipv4-address"),
        pytest.param("[2001:db8::1]", id="ipv6-without-its-tag"),
        pytest.param("[IPv6:fe80::1%eth0]", id="scoped"),
        pytest.param("[192.0.2.1", id="open-literal"),
    ],
)
def test_no_domain(typed: str) -> None:
    """What is no domain is refused in one sentence for people, and never matches."""
    with pytest.raises(errors.DataError, match="is no domain name; write it like") as caught:
        domains.normalize(typed)
    assert len(str(caught.value)) < 400
    assert domains.a_labels(typed) is None
    assert typed not in domains.DomainSet([".example", "example.com"])


@pytest.mark.parametrize(
    ("domain", "entry"),
    [
        pytest.param("example.com", "example.com", id="exact"),
        pytest.param("EXAMPLE.com.", "example.com", id="exact-in-another-spelling"),
        pytest.param("sub.example.com", None, id="no-implicit-subdomain"),
        pytest.param("evilexample.com", None, id="same-end"),
        pytest.param("a.corp.example.com", ".corp.example.com", id="subdomain"),
        pytest.param("a.b.corp.example.com", ".corp.example.com", id="deep-subdomain"),
        pytest.param("x.lab.corp.example.com", ".lab.corp.example.com", id="longest-parent"),
        pytest.param("corp.example.com", None, id="parent-itself-is-not-listed"),
        pytest.param("evilcorp.example.com", None, id="no-dot-boundary"),
        pytest.param("😀.corp.example.com", None, id="unconvertible-subdomain"),
        pytest.param("a..corp.example.com", None, id="empty-label-under-ours"),
        pytest.param("xn--bcher-kva.example", "xn--bcher-kva.example", id="a-label-of-u-label"),
        pytest.param("bücher.example", "xn--bcher-kva.example", id="u-label"),
        pytest.param("[192.0.2.1]", "[192.0.2.1]", id="literal-listed"),
        pytest.param("[192.0.2.2]", None, id="literal-not-listed"),
        pytest.param("192.0.2.1", None, id="address-without-brackets"),
        pytest.param("", None, id="unqualified"),
        pytest.param("com", None, id="top"),
    ],
)
def test_match(domain: str, entry: str | None) -> None:
    """An entry is exact; a leading dot means every true subdomain; nothing else matches."""
    ours = domains.DomainSet(
        [
            "Example.com",
            ".corp.example.com",
            ".lab.corp.example.com",
            "bücher.example",
            "[192.0.2.1]",
        ]
    )
    assert ours.match(domain) == entry
    assert (domain in ours) is (entry is not None)


@pytest.mark.parametrize(
    ("entry", "remedy"),
    [
        pytest.param("*.example.com", r"write '\.example\.com'", id="wildcard"),
        pytest.param("a@example.com", "without a local part", id="address"),
        pytest.param(".[192.0.2.1]", "no subdomains", id="subdomains-of-a-literal"),
        pytest.param("", "write it like", id="empty"),
        pytest.param(".", "write it like", id="dot"),
        pytest.param("192.0.2.0/24", "write it like", id="network"),
    ],
)
def test_bad_entries_say_what_to_write(entry: str, remedy: str) -> None:
    """A configured domain that could never match is an error with its remedy."""
    with pytest.raises(errors.DataError, match=remedy):
        domains.DomainSet([entry])


def test_sets_are_values() -> None:
    """Equal sets are equal whatever the order and spelling of their entries."""
    one = domains.DomainSet(["a.example", ".B.example."])
    other = domains.DomainSet([".b.example", "A.example", "a.example"])
    assert one == other
    assert hash(one) == hash(other)
    assert list(one) == [".b.example", "a.example"]
    assert len(one) == 2
    assert one != domains.DomainSet()


@given(NAMES)
def test_normal_names_stay(name: str) -> None:
    """The spelling is stable, for names and for their capitals."""
    if len(name) > 253 or "xn--" in name:
        return
    assert domains.normalize(name) == name
    assert domains.normalize(name.upper() + ".") == name


@given(st.text(st.characters(), max_size=40))
def test_any_text_has_one_spelling_or_none(text: str) -> None:
    """Conversion never raises for strangers, is idempotent, and gives lower-case ASCII."""
    normal = domains.a_labels(text)
    if normal is not None:
        assert domains.a_labels(normal) == normal
        assert normal.isascii()
        assert normal == normal.lower()
        assert not normal.endswith(".")


@given(NAMES, NAMES)
def test_subdomains_by_definition(child: str, parent: str) -> None:
    """'.d' holds exactly what ends in '.d' and has a label before it."""
    ours = domains.DomainSet(["." + parent])
    assert (child in ours) is child.endswith("." + parent)
    if len(child) + len(parent) < 250:
        assert f"{child}.{parent}" in ours
    assert parent not in ours
