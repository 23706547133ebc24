"""The verdict of Postfix's BCC maps, and how ours differs; the same cases run through Postfix."""

from __future__ import annotations

import pytest
from support.boundary_cases import ARCHIVE

from carbonseal.policies import address, bcc_maps, lookup_table
from carbonseal.policies.archiving import ArchivePlan
from carbonseal.policies.bcc_maps import BccMaps
from carbonseal.policies.envelope import Client, Envelope, Recipient, ReversePath

TRICK = f"pcre:{{{{!/@example\\.com$/ {ARCHIVE}}}}}"


def maps(sender: str = "", recipient: str = "", **more: object) -> BccMaps:
    settings: dict[str, object] = {"origin": "example.com", **more}
    return BccMaps(
        sender=tuple(map(lookup_table.parse, lookup_table.references(sender))),
        recipient=tuple(map(lookup_table.parse, lookup_table.references(recipient))),
        **settings,  # type: ignore[arg-type]
    )


def envelope(reverse_path: str, *recipients: str) -> Envelope:
    return Envelope(
        client=Client("192.0.2.1", 25, "", ""),
        listener="",
        login="",
        login_method="",
        reverse_path=ReversePath(address.parse_path(f"<{reverse_path}>"), None, ()),
        recipients=tuple(
            Recipient(address.parse_path(f"<{one}>"), None, None, None, ()) for one in recipients
        ),
    )


def adds(table: BccMaps, reverse_path: str, *recipients: str) -> tuple[str, ...]:
    found = bcc_maps.verdict(table, envelope(reverse_path, *recipients))
    assert not found.problem
    return found.adds


@pytest.mark.parametrize(
    ("reverse_path", "recipients", "is_copied"),
    [
        pytest.param("a@example.com", ["b@example.com"], False, id="local-to-local"),
        pytest.param("a@example.com", ["b@example.com", "x@y"], True, id="mixed"),
        pytest.param("", ["b@example.com"], False, id="bounce-from-outside"),
        pytest.param("", ["x@remote.test"], True, id="bounce-to-outside"),
        pytest.param("a", ["b"], False, id="unqualified"),
        pytest.param("A@EXAMPLE.com", ["B@Example.COM"], False, id="case"),
        pytest.param("a@example.com.", ["b@example.com."], False, id="trailing-dot"),
        pytest.param("a@example.com", ["bob%r.test@example.com"], False, id="percent-hack"),
        pytest.param("a@example.com", ["bob%r.test"], True, id="percent-without-at"),
        pytest.param("a@example.com", ["r.test!bob"], True, id="bang-without-at"),
        pytest.param("a@example.com", ['"bob@r.test"@example.com'], False, id="inner-at"),
        pytest.param("a@example.com", ["@r.test,@example.com:x@r.test"], True, id="route"),
        pytest.param("a@example.com", ["@r.test:b@example.com"], False, id="route-home"),
        pytest.param("a@example.com", ["b@sub.example.com"], True, id="subdomain"),
        pytest.param("a@example.com", ["b@evilexample.com"], True, id="look-alike"),
        pytest.param("MAILER-DAEMON@example.com", ["b@example.com"], False, id="mailer-daemon"),
        pytest.param("x@remote.test", [], True, id="sender-alone"),
    ],
)
def test_the_classic_pair(reverse_path: str, recipients: list[str], is_copied: bool) -> None:
    """sender_bcc_maps = recipient_bcc_maps = pcre with a negated pattern."""
    expected = (ARCHIVE,) if is_copied else ()
    assert adds(maps(TRICK, TRICK), reverse_path, *recipients) == expected


def test_a_null_reverse_path_is_never_looked_up() -> None:
    """Even where the table would answer everything."""
    assert adds(maps(sender="static:a@b"), "", "x@y") == ()
    assert adds(maps(sender="static:a@b"), "MAILER-DAEMON@example.com", "x@y") == ()
    assert adds(maps(sender="static:a@b"), "MAILER-DAEMON@other.example", "x@y") == ("a@b",)


ORDER = {
    "user+ext@example.com": "1@x",
    "user@example.com": "2@x",
    "user+ext": "3@x",
    "user": "4@x",
    "@example.com": "5@x",
}


@pytest.mark.parametrize("gone", range(6))
def test_the_order_of_lookups(gone: int) -> None:
    """user+ext@domain, user@domain, user+ext, user, @domain, each when those before are not there.

    The two without a domain only where it is local.
    """
    left = list(ORDER.items())[gone:]
    table = maps(
        recipient="inline:{" + ", ".join(f"{key}={result}" for key, result in left) + "}",
        delimiter="+",
    )
    expected = tuple(result for _, result in left[:1])
    assert adds(table, "", "User+Ext@Example.com") == expected
    elsewhere = tuple(result for key, result in left if "@" in key)[:1]
    remote = maps(
        recipient="inline:{" + ", ".join(f"{key}={result}" for key, result in left) + "}",
        delimiter="+",
        origin="other.example",
    )
    assert adds(remote, "", "user+ext@example.com") == elsewhere


@pytest.mark.parametrize(
    ("recipient", "delimiter", "found"),
    [
        pytest.param("joe+x@y", "+", True, id="plus"),
        pytest.param("joe-x@y", "+-", True, id="one-of-several"),
        pytest.param("joe+x@y", "", False, id="no-delimiter"),
        pytest.param("+x@y", "+", False, id="nothing-before-it"),
        pytest.param("joe+@y", "+", True, id="nothing-behind-it"),
        pytest.param("joe+a+b@y", "+", True, id="the-first-counts"),
    ],
)
def test_extensions(recipient: str, delimiter: str, found: bool) -> None:
    """As recipient_delimiter says."""
    table = maps(recipient="inline:{joe@y=a@b}", delimiter=delimiter)
    assert adds(table, "", recipient) == (("a@b",) if found else ())


def test_owners_of_lists_keep_their_names() -> None:
    """owner-list and list-request have no extension, whatever the delimiter."""
    table = maps(recipient="inline:{owner@y=a@b, list@y=a@b, mailer@y=a@b}", delimiter="-")
    assert adds(table, "", "owner-list@y", "list-request@y", "mailer-daemon@y") == ()
    assert adds(table, "", "list-x@y") == ("a@b",)


def test_patterns_see_the_whole_address_only() -> None:
    """Neither '@domain' nor an address without its extension."""
    table = maps(recipient="pcre:{{/^@y$/ a@b}, {/^joe@y$/ c@d}}", delimiter="+")
    assert adds(table, "", "joe+x@y") == ()
    assert adds(table, "", "joe@y") == ("c@d",)


def test_quotes_are_taken_off_and_put_on_again() -> None:
    """Tables hold the quoted form where quotes are needed; the plain one is tried after it."""
    text = '"john doe"@y a@b\njoe@y c@d\n'
    table = lookup_table.parse(lookup_table.reference("texthash:/t"), text)
    found = adds(BccMaps(recipient=(table,)), "", '"john doe"@y', '"joe"@y', '"john\\ doe"@y')
    assert found == ("a@b", "c@d")
    plain = maps(recipient="pcre:{{/^jane doe@y$/ e@f}}")
    assert adds(plain, "", '"jane doe"@y') == ("e@f",)


def test_always_bcc_and_results_are_qualified_and_come_once() -> None:
    """Three times the same mailbox is one copy."""
    table = maps("static:archive", "static:Archive@example.com", always="archive")
    assert adds(table, "x@y", "y@z") == ("archive@example.com",)


def test_a_domain_without_a_dot_is_completed_where_postfix_does_so() -> None:
    """append_dot_mydomain."""
    table = "inline:{@sales.example.com=a@b.example}"
    assert adds(maps(recipient=table, dot_domain="example.com"), "", "x@sales") == ("a@b.example",)
    assert adds(maps(recipient=table), "", "x@sales") == ()


def test_what_cannot_be_computed_is_unknown() -> None:
    """An empty result, for which Postfix would refuse the message, and an unreadable address."""
    table = maps(recipient="pcre:{{/^(a)|b/ $1}}")
    assert bcc_maps.verdict(table, envelope("", "b@x")).problem
    (reason,) = bcc_maps.compare(table, envelope("", 'a"c'), ArchivePlan((), False, ()))
    assert reason.code == "bcc-maps-unknown"


def difference(table: BccMaps, own: tuple[str, ...], *recipients: str) -> list[str]:
    plan = ArchivePlan(own, False, ())
    return [str(one) for one in bcc_maps.compare(table, envelope("", *recipients), plan)]


@pytest.mark.parametrize(
    ("own", "theirs", "recipients", "reasons", "said"),
    [
        pytest.param(
            (ARCHIVE,), ARCHIVE, ["x@y"], [f"bcc-maps-agree({ARCHIVE})"], "agree", id="same"
        ),
        pytest.param(
            (ARCHIVE,), ARCHIVE.upper(), ["x@y"], [f"bcc-maps-agree({ARCHIVE.upper()})"], "agree",
            id="same-in-other-case",
        ),
        pytest.param((), "", ["x@y"], ["bcc-maps-agree(no copy)"], "agree", id="neither"),
        pytest.param(
            (ARCHIVE,), "", ["x@y"], [f"bcc-maps-would-miss({ARCHIVE})"], "would-miss", id="miss"
        ),
        pytest.param((), "a@b", ["x@y"], ["bcc-maps-would-add(a@b)"], "would-add", id="add"),
        pytest.param(
            (ARCHIVE,), "a@b", ["x@y"],
            [f"bcc-maps-would-miss({ARCHIVE})", "bcc-maps-would-add(a@b)"],
            "would-miss,would-add", id="another-mailbox",
        ),
        pytest.param(
            (), ARCHIVE, [ARCHIVE], [f"bcc-maps-would-double({ARCHIVE})"], "would-double",
            id="addressed",
        ),
        pytest.param(
            (ARCHIVE,), "old@archive.example", ["x@y"], ["bcc-maps-agree(old@archive.example)"],
            "agree", id="replaced",
        ),
        pytest.param(
            (), "old@archive.example", ["x@y"], ["bcc-maps-would-add(old@archive.example)"],
            "would-add", id="replaced-but-not-ours",
        ),
    ],
)  # fmt: skip
def test_the_difference_in_reasons(
    own: tuple[str, ...], theirs: str, recipients: list[str], reasons: list[str], said: str
) -> None:
    """One reason for each kind of difference, and one word that a record can derive from them."""
    table = maps(
        recipient=f"static:{theirs}" if theirs else "",
        replaced=frozenset({"old@archive.example"}),
    )
    found = difference(table, own, *recipients)
    assert found == reasons
    assert bcc_maps.said(["purely-local", *found]) == said


def test_without_a_comparison_there_is_no_word() -> None:
    """The record then holds null."""
    assert bcc_maps.said(["purely-local", "recipient-inside(bcc-maps-agree)"]) is None
