"""One author or none: who a mail reader shows is who we return; the rest is read for people."""

from __future__ import annotations

import email.header
import email.utils
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbonseal.policies import address_list, header_fields, header_text
from carbonseal.policies.address import Address
from carbonseal.policies.header_fields import AuthorState

SIGNS = st.text(st.sampled_from('<>@,;:"\\()[]. \t\r\n\0ab=?é\udce9'), max_size=60).map(
    lambda text: text.encode("utf-8", "surrogateescape")
)
ANY = st.binary(max_size=80) | SIGNS


def read(value: bytes | str) -> tuple[AuthorState, list[str]]:
    octets = value.encode() if isinstance(value, str) else value
    found = header_fields.authors([octets])
    return found.state, [str(mailbox) for mailbox in found.mailboxes]


@pytest.mark.parametrize(
    ("value", "author"),
    [
        pytest.param(" a@ours.example", "a@ours.example", id="bare"),
        pytest.param(" a@ours.example\r\n", "a@ours.example", id="line-end"),
        pytest.param("\r\n a@ours.example \r\n\t", "a@ours.example", id="folded-first-line-empty"),
        pytest.param(" John <a@ours.example>", "a@ours.example", id="name-addr"),
        pytest.param(" <a@ours.example>", "a@ours.example", id="angle-only"),
        pytest.param(" John Q. Public <a@ours.example>", "a@ours.example", id="dot-in-the-name"),
        pytest.param(' "Doe, John" <a@ours.example>', "a@ours.example", id="quoted-name"),
        pytest.param(' "Doe \\"J\\"" <a@ours.example>', "a@ours.example", id="quoted-pairs"),
        pytest.param(' "a@ours" <b@theirs>', "b@theirs", id="address-in-a-quoted-name"),
        pytest.param(' "<a@ours>" <b@theirs>', "b@theirs", id="angle-address-in-a-quoted-name"),
        pytest.param(" (a@ours) b@theirs", "b@theirs", id="address-in-a-comment-before"),
        pytest.param(" b@theirs (a@ours)", "b@theirs", id="address-in-a-comment-behind"),
        pytest.param(" b@theirs (x (a@ours) \\) y)", "b@theirs", id="nested-comment"),
        pytest.param("b@theirs\n (folded\n comment)", "b@theirs", id="folded-comment"),
        pytest.param(
            " Pete(A nice \\) chap) <pete(his account)@silly.test(his host)>",
            "pete@silly.test",
            id="rfc-5322-a5",
        ),
        pytest.param(" A@OURS.Example", "A@ours.example", id="upper-case-domain"),
        pytest.param(" x <@a.example,@b:x@y>", "x@y", id="route-addr"),
        pytest.param(" x <@[192.0.2.1] , @b : x@y>", "x@y", id="route-addr-with-spaces"),
        pytest.param(" =?utf-8?q?J=C3=B6rg?= <a@b>", "a@b", id="encoded-word-name"),
        pytest.param(" =?utf-8?q?a=40ours?= <b@theirs>", "b@theirs", id="address-encoded-in-name"),
        pytest.param(" Jörg <jörg@bücher.example>", "jörg@xn--bcher-kva.example", id="rfc-6532"),
        pytest.param(b" J\xf6rg <a@b>", "a@b", id="latin-1-name"),
        pytest.param(' "john doe"@b', '"john doe"@b', id="quoted-local-part"),
        pytest.param(' "john".doe@b', '"john".doe@b', id="words-and-dots"),
        pytest.param(" a..b.@docomo.example", "a..b.@docomo.example", id="odd-dots"),
        pytest.param(" a@[192.0.2.1]", "a@[192.0.2.1]", id="literal"),
        pytest.param(" [Tracker] Bug 1 <a@b>", "a@b", id="tag-in-the-name"),
        pytest.param(" a@b <A@B>", "A@b", id="named-after-itself"),
    ],
)
def test_one_author(value: bytes | str, author: str) -> None:
    """Exactly one mailbox that every reader agrees on."""
    assert read(value) == (AuthorState.ONE, [author])


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("", id="empty"),
        pytest.param(" \r\n ", id="blank"),
        pytest.param(" (a@ours)", id="comment-only"),
        pytest.param(" MAILER-DAEMON", id="no-domain"),
        pytest.param(" John Doe", id="name-only"),
        pytest.param(" John <root>", id="no-domain-in-angle"),
        pytest.param(" <>", id="empty-angle"),
        pytest.param(" <a@ours><b@theirs>", id="two-angles"),
        pytest.param(" <a@ours> <b@theirs>", id="two-angles-apart"),
        pytest.param(" <a@ours> b@theirs", id="words-behind-the-angle"),
        pytest.param(" <a@ours> x", id="trailing-garbage"),
        pytest.param(" a@ours b@theirs", id="two-addresses-without-comma"),
        pytest.param("a@theirs\n (comment) <b@ours>", id="address-as-name"),
        pytest.param(" a@theirs.example <a@ours.example>", id="named-after-another-domain"),
        pytest.param(" <b@ours> (x) <a@theirs>", id="comment-between-angles"),
        pytest.param(' "a@ours <b@theirs>', id="open-quote"),
        pytest.param(' a" <b@theirs>', id="stray-quote"),
        pytest.param(" (a@ours <b@theirs>", id="open-comment"),
        pytest.param(" a) <b@theirs>", id="stray-parenthesis"),
        pytest.param(" " + "(" * 65 + "x" + ")" * 65 + " a@b", id="comments-too-deep"),
        pytest.param(" x <b@theirs", id="open-angle"),
        pytest.param(" x b@theirs>", id="stray-angle"),
        pytest.param(" <<b@theirs>>", id="angle-in-angle"),
        pytest.param(" a@[192.0.2.1", id="open-literal"),
        pytest.param(" a@[foo]", id="unknown-literal"),
        pytest.param(" [<a@ours>] <b@theirs>", id="angle-in-brackets"),
        pytest.param(" [a@ours] <b@theirs>", id="address-in-brackets"),
        pytest.param(" a@ours\0", id="nul"),
        pytest.param(' "\0" <a@ours>', id="nul-in-the-name"),
        pytest.param(" a@ours\r <b@theirs>", id="bare-cr"),
        pytest.param(" a@ours\n<b@theirs>", id="line-break-that-folds-nothing"),
        pytest.param(" =?utf-8?q?a?=@ours", id="encoded-word-as-local-part"),
        pytest.param(' "=?utf-8?q?a?="@ours', id="encoded-word-in-quotes"),
        pytest.param(" =?utf-8?q?a@ours?= <b@theirs>", id="bare-at-in-an-encoded-word"),
        pytest.param(" <a@=?utf-8?q?ours?=>", id="encoded-word-as-domain"),
        pytest.param(' "a@theirs"@ours', id="at-in-a-quoted-local-part"),
        pytest.param(' "a@theirs>"@ours', id="angle-in-a-quoted-local-part"),
        pytest.param(" a\\@b@ours", id="backslash-outside-quotes"),
        pytest.param(" a@b@ours", id="two-ats"),
        pytest.param(" a@ours (x). theirs", id="comment-before-a-dot"),
        pytest.param(" a@ours .theirs", id="space-before-a-dot"),
        pytest.param(" <a . b@ours>", id="space-in-the-local-part"),
        pytest.param(" a@ours.", id="trailing-dot"),
        pytest.param(" a@-ours", id="bad-domain"),
        pytest.param(" a@😀.example", id="unconvertible-domain"),
        pytest.param(b" a@ours\xe9", id="latin-1-domain"),
        pytest.param(b" a\xe9@ours", id="latin-1-local-part"),
        pytest.param(" a@our\u200bs", id="invisible-character-in-the-domain"),
        pytest.param(" a\u202eb@ours", id="reordering-character"),
        pytest.param(" a\u00a0@ours", id="odd-space"),
        pytest.param(" Doe, John <a@ours>", id="unquoted-comma"),
        pytest.param(" a@ours,", id="trailing-comma"),
        pytest.param(" ,a@ours", id="leading-comma"),
        pytest.param(" a@ours;", id="semicolon"),
        pytest.param(" Team: a@ours", id="open-group"),
        pytest.param(" : a@ours;", id="group-without-a-name"),
        pytest.param(" a: b: a@ours;;", id="group-in-group"),
        pytest.param(" a: a@ours,;", id="comma-in-the-group"),
        pytest.param(" a:; b@ours", id="words-behind-the-group"),
        pytest.param(" a@ours: b@theirs;", id="address-as-group-name"),
        pytest.param(" x <@a,b:x@y>", id="broken-route"),
        pytest.param(" x <@a:@b:x@y>", id="two-routes"),
        pytest.param(" x <a@b,c@d>", id="list-in-angle"),
    ],
)
def test_doubt_is_no_author(value: bytes | str) -> None:
    """Where readers may differ nobody is the author, so nobody is signed for."""
    assert read(value)[0] is AuthorState.UNPARSABLE


@pytest.mark.parametrize(
    ("value", "state", "mailboxes"),
    [
        pytest.param(
            " a@ours, <b@theirs>",
            AuthorState.SEVERAL_MAILBOXES,
            ["a@ours", "b@theirs"],
            id="bare-and-angle",
        ),
        pytest.param(
            " A <a@b>,\r\n B <c@d>", AuthorState.SEVERAL_MAILBOXES, ["a@b", "c@d"], id="folded-list"
        ),
        pytest.param(
            " a@b, a@b", AuthorState.SEVERAL_MAILBOXES, ["a@b", "a@b"], id="the-same-twice"
        ),
        pytest.param(" undisclosed:;", AuthorState.GROUP, [], id="empty-group"),
        pytest.param(" undisclosed: (none) ;", AuthorState.GROUP, [], id="empty-group-comment"),
        pytest.param(" Team: A <a@b>;", AuthorState.GROUP, ["a@b"], id="group-of-one"),
        pytest.param(" Team: a@b, c@d;, e@f", AuthorState.GROUP, ["a@b", "c@d", "e@f"], id="mixed"),
    ],
)
def test_several_and_groups(value: str, state: AuthorState, mailboxes: list[str]) -> None:
    """Legal lists that name no single author."""
    assert read(value) == (state, mailboxes)


def test_fields_are_counted() -> None:
    """No From field is no author; two are too many, even if they agree; all claims are listed."""
    assert header_fields.authors([]) == header_fields.Authors(AuthorState.NONE, ())
    found = header_fields.authors([b" a@ours", b" x y <b@theirs> z"])
    assert found.state is AuthorState.SEVERAL_FIELDS
    assert found.mailboxes == (Address("a", "ours"), Address("b", "theirs"))
    assert header_fields.authors([b" a@ours", b" a@ours"]).state is AuthorState.SEVERAL_FIELDS


def test_doubtful_authors_are_still_claims() -> None:
    """An author who is not signed for can be searched for."""
    assert read(" a@ours <b@theirs>") == (AuthorState.UNPARSABLE, ["b@theirs"])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(" a@b, C <c@d> ,\r\n\t<e@f>", "a@b c@d e@f", id="list"),
        pytest.param(" undisclosed-recipients:;", "", id="empty-group"),
        pytest.param(" Team: a@b, C <c@d>; , e@f", "a@b c@d e@f", id="groups-are-flattened"),
        pytest.param(" root", "root", id="unqualified"),
        pytest.param(" Doe, John <a@b>", "Doe a@b", id="unquoted-comma"),
        pytest.param(' "John <a@b>, c@d', "a@b c@d", id="open-quote"),
        pytest.param(" (John <a@b>, c@d", "a@b c@d", id="open-comment"),
        pytest.param(" x <a@b, y <c@d>", "a@b c@d", id="open-angle"),
        pytest.param(" <a@b><c@d>", "a@b c@d", id="no-comma"),
        pytest.param(" a@b; c@d", "a@b c@d", id="semicolons"),
        pytest.param(" , ,a@b,,", "a@b", id="empty-elements"),
        pytest.param(" <@a,@b:c@d>, e@f", "c@d e@f", id="route"),
        pytest.param(" john . doe @ machine (c) . example", "john.doe@machine.example", id="obs"),
        pytest.param(" a@B.Example., c@[192.0.2.1]", "a@b.example c@[192.0.2.1]", id="domains"),
        pytest.param(" a@😀.Example", "a@😀.example", id="bad-domain-is-kept"),
        pytest.param(' "x y"@b, "<c@d>" <e@f>', '"x y"@b e@f', id="quotes"),
        pytest.param(" <>, @b, a@", "", id="halves"),
    ],
)
def test_mailboxes(value: str, expected: str) -> None:
    """Whatever looks like a mailbox is found; nothing else spoils the list."""
    found = header_fields.mailboxes(value.encode())
    assert " ".join(map(str, found)) == expected


ATOMS = st.from_regex(r"[A-Za-z0-9_+-]{1,12}", fullmatch=True)
MAILBOXES = st.builds(
    "{}@{}.{}".format, ATOMS, st.from_regex("[a-z0-9]{1,9}", fullmatch=True), st.just("example")
)
NAMES = st.text(st.sampled_from('abc DEF,;:<>@()"\\.é'), max_size=20).map(str.strip)


@given(st.lists(st.tuples(NAMES, MAILBOXES), min_size=1, max_size=6))
def test_ordinary_lists_are_read_like_the_standard_library_does(
    pairs: list[tuple[str, str]],
) -> None:
    """An independent judge agrees on names in quotes, in encoded words, and on none."""
    written = [
        f'"{email.utils.quote(name)}" <{mailbox}>' if name else mailbox for name, mailbox in pairs
    ]
    value = ",\r\n ".join(written)
    judged = [found for _, found in email.utils.getaddresses([value])]
    assert judged == [mailbox for _, mailbox in pairs]
    assert [str(found) for found in header_fields.mailboxes(value.encode())] == judged
    state, strict = read(value)
    assert strict == judged
    assert state is (AuthorState.ONE if len(pairs) == 1 else AuthorState.SEVERAL_MAILBOXES)


@given(ANY)
def test_strict_is_a_part_of_lenient(value: bytes) -> None:
    """What the strict reading returns the lenient one returns too, in the same order."""
    found = header_fields.authors([value])
    if found.state in (AuthorState.ONE, AuthorState.SEVERAL_MAILBOXES, AuthorState.GROUP):
        assert header_fields.mailboxes(value) == found.mailboxes


@given(SIGNS)
def test_one_author_is_whom_the_standard_library_finds(value: bytes) -> None:
    """On hostile input, ONE is never another author than the one an independent reader finds.

    The judge may refuse what we read (it is strict about names), and keeps what we cut off routes.
    """
    found = header_fields.authors([value])
    if found.state is AuthorState.ONE:
        pairs = email.utils.getaddresses([address_list.unfold(value)])
        judged = [mailbox for _, mailbox in pairs if mailbox]
        assert len(judged) <= 1
        for mailbox in judged:
            assert mailbox.rpartition("@")[2].lower() == found.mailboxes[0].domain


SMALL = ["a", "A.b", "a@b", "<a@B.c>", "<a@b>", " ", "\t", ",", ", ", '"a, <b@c>"', '"', "\r\n "]
SMALL += ["=?utf-8?q?a?=", "@", ".", "-", "_", "<", ">", "[b]", "(c)", ":", ";", "\0", "é", "\\"]
PIECES = st.lists(st.sampled_from(SMALL), max_size=8).map("".join)


@given(PIECES | SIGNS.map(address_list.unfold))
def test_the_quick_reading_is_a_part_of_both_others(text: str) -> None:
    """Where the pattern for ordinary lists answers, strict and lenient reading answer the same."""
    text = address_list.unfold(text.encode("utf-8", "surrogateescape"))
    plain = header_fields._plain(text)
    if plain:
        reading = address_list.read_strictly(text)
        assert reading is not None
        assert (reading.mailboxes, reading.has_group) == (plain, False)
        assert tuple(address_list.read_leniently(text)) == plain


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(" a@b.example", id="bare"),
        pytest.param(" John Q. Public <a@b.example>", id="name"),
        pytest.param(' "Doe, John" <a@b.example>,\r\n\t=?utf-8?q?J?= <c@D.example>', id="list"),
    ],
)
def test_ordinary_lists_are_read_quickly(value: str) -> None:
    """What nearly all mail writes is not cut into tokens."""
    assert header_fields._plain(address_list.unfold(value.encode()))


PLAIN_IDENTIFIER = st.text(st.sampled_from("a1.@<>( )\t\r\n\\é\0-"), max_size=12).map(
    lambda text: f" <{text}>".encode()
)


@given(PLAIN_IDENTIFIER)
def test_ordinary_identifiers_are_what_the_long_way_finds(value: bytes) -> None:
    """A comment in front forces the long way; the identifier is the same."""
    assert header_fields.message_id(value) == header_fields.message_id(b" (c)" + value)


@given(ANY)
def test_nothing_raises(value: bytes) -> None:
    """Any bytes are read, and texts for people can be encoded."""
    header_fields.authors([value])
    header_fields.mailboxes(value)
    header_fields.message_id(value)
    header_fields.decode_text(value).encode()
    header_fields.date(value)


UNITS = ["<", ">", "@", ",", ":", ";", '"', '"\\', "\\", "(", ")", "((a)", "[", "[a", "a@", "."]
UNITS += ["a.", " ", "\r\n ", "<@a,", "a:", "é", "1 "]
UNITS += ["=?", "=?utf-8?q?", "=?utf-8?q?a?= ", "=?utf-8?b?", "=?utf-8?b?QQ==", "a\r\n"]


@pytest.mark.parametrize("unit", UNITS)
def test_large_input_gets_an_answer(unit: str) -> None:
    """300 KB of anything that opens a structure is read to the end, without backtracking."""
    value = (unit * (300_000 // len(unit))).encode()
    assert header_fields.authors([value]).state is not AuthorState.ONE
    header_fields.mailboxes(value)
    assert len(header_fields.message_id(value)) <= len(value)
    header_fields.decode_text(value)
    assert header_fields.date(value) is None


def test_long_lists_are_complete() -> None:
    """A list of 20,000 recipients is read whole."""
    value = b",\r\n ".join(b'"N, %d" <n%d@example.com>' % (n, n) for n in range(20_000))
    assert len(header_fields.mailboxes(value)) == 20_000


@pytest.mark.parametrize(
    ("value", "identifier"),
    [
        pytest.param(" <a@b>", "a@b", id="plain"),
        pytest.param("\r\n <a@b>\r\n", "a@b", id="folded-first-line-empty"),
        pytest.param(" (c <x@y>) <a@b> (d)", "a@b", id="comments-outside"),
        pytest.param(" <a(b)@c>", "a(b)@c", id="parentheses-inside"),
        pytest.param(" <ab\r\n cd@x>", "abcd@x", id="folded-inside"),
        pytest.param(" <a b@c>", "a b@c", id="space-inside"),
        pytest.param(" a@b (c)", "a@b", id="without-brackets"),
        pytest.param(" <a@b", "a@b", id="open"),
        pytest.param(" (x <a@b>", "a@b", id="open-comment"),
        pytest.param(" (x", "(x", id="open-comment-only"),
        pytest.param(" <a@b> <c@d>", "a@b", id="two"),
        pytest.param("", "", id="empty"),
        pytest.param(f" <{'x' * 5000}@b>", "x" * 5000 + "@b", id="long"),
        pytest.param(b" <a\xe9@b>", "a\udce9@b", id="undecodable"),
    ],
)
def test_message_id(value: bytes | str, identifier: str) -> None:
    """The identifier is what other systems quote, byte for byte."""
    octets = value.encode() if isinstance(value, str) else value
    assert header_fields.message_id(octets) == identifier


@pytest.mark.parametrize(
    ("value", "text"),
    [
        pytest.param(" plain", "plain", id="plain"),
        pytest.param(" a\r\n\tb\n c\r\n", "a b c", id="folding"),
        pytest.param(" a\rb\nc", "a b c", id="stray-line-ends"),
        pytest.param(" =?utf-8?q?J=C3=B6rg_X?= y", "Jörg X y", id="q"),
        pytest.param(" =?UTF-8?B?SsO2cmc=?=", "Jörg", id="b"),
        pytest.param(" =?UTF-8?B?SsO2cmc?=", "Jörg", id="b-without-padding"),
        pytest.param(" =?UTF-8?B?SsO2cmc=A?=", "Jörg", id="b-with-rest"),
        pytest.param(" =?UTF-8?B?SsO2cmc=IFg=?=", "Jörg X", id="b-padded-inside"),
        pytest.param(" =?utf-8?q?a?=\r\n =?utf-8?q?b?= c", "ab c", id="neighbours"),
        pytest.param(" =?utf-8?q?a?= =?iso-8859-1?q?=F6?=", "aö", id="two-charsets"),
        pytest.param(" =?utf-8?q?=C3?= =?utf-8?q?=B6?=", "ö", id="character-cut-in-two"),
        pytest.param(" =?utf-8?q?=C3?= x =?utf-8?q?=B6?=", "\ufffd x \ufffd", id="cut-by-text"),
        pytest.param(" =?x-no?q?a?= =?utf-8?q?b?=", "=?x-no?q?a?= b", id="unknown-charset"),
        pytest.param(" =?utf-8?q?b?= =?x-no?q?a?=", "b =?x-no?q?a?=", id="unknown-charset-behind"),
        pytest.param(" =?punycode?q?a?=", "=?punycode?q?a?=", id="no-charset-of-mail"),
        pytest.param(" =?hex?q?00?=", "=?hex?q?00?=", id="codec-that-is-no-charset"),
        pytest.param(" =?us-ascii*en?q?a?=", "a", id="language"),
        pytest.param(" =?us-ascii?q?=E9?=", "\ufffd", id="wrong-charset"),
        pytest.param(" =?iso-2022-jp?B?GyRCRnxLXBsoQg==?=", "日本", id="iso-2022-jp"),
        pytest.param(" =?gb2312?B?6V8=?=", b"\xe9\x5f".decode("gb18030"), id="superset"),
        pytest.param(" x=?utf-8?q?a?=y", "xay", id="without-space"),
        pytest.param(" =?utf-8?q?a b?=", "a b", id="space-in-q"),
        pytest.param(" =?utf-8?q?=0g=?=", "=0g=", id="no-hex"),
        pytest.param(" =?utf-8?q?=00?=", "\0", id="nul"),
        pytest.param(" =?utf-7?q?+2AA-?=", "\ufffd", id="encoded-surrogate"),
        pytest.param(b" J\xc3\xb6rg \xff", "Jörg \ufffd", id="raw-bytes"),
        pytest.param("", "", id="empty"),
    ],
)
def test_decode_text(value: bytes | str, text: str) -> None:
    """People and search see characters."""
    octets = value.encode() if isinstance(value, str) else value
    assert header_fields.decode_text(octets) == text


@given(st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1, max_size=60))
def test_encoded_text_comes_back(text: str) -> None:
    """What the standard library encodes is decoded."""
    encoded = email.header.Header(text, "utf-8").encode(linesep="\r\n")
    assert header_fields.decode_text(encoded.encode()) == text


@pytest.mark.parametrize("charset", sorted(set(header_text._CHARSETS.values())))
def test_every_listed_charset_decodes(charset: str) -> None:
    """No charset in the table raises for any octet."""
    words = "".join(f"={octet:02X}" for octet in range(256))
    header_fields.decode_text(f"=?{charset}?q?{words}?=".encode()).encode()


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        pytest.param(" Fri, 21 Nov 1997 09:55:06 -0600", "1997-11-21T15:55:06", id="rfc-5322-a1"),
        pytest.param(
            " Thu,\r\n      13\r\n        Feb\r\n          1969\r\n      23:32\r\n"
            "               -0330 (Newfoundland Time)",
            "1969-02-14T03:02:00",
            id="rfc-5322-a5",
        ),
        pytest.param(
            " Fri, 21 Nov 97 09(comment):   55  :  06 -0600",
            "1997-11-21T15:55:06",
            id="rfc-5322-a6",
        ),
        pytest.param(" 1 Jan 49 00:00 GMT", "2049-01-01T00:00:00", id="two-digit-year"),
        pytest.param(" 1 Jan 101 00:00 Z", "2001-01-01T00:00:00", id="three-digit-year"),
        pytest.param(" 1 Jan 2026 00:00 EST", "2026-01-01T05:00:00", id="named-zone"),
        pytest.param(" 1 Jan 2026 00:00", "2026-01-01T00:00:00", id="no-zone"),
        pytest.param(" 31 Dec 2016 23:59:60 +0000", "2017-01-01T00:00:00", id="leap-second"),
        pytest.param(" 1 January 2026 00:00 +0000", "2026-01-01T00:00:00", id="long-month"),
    ],
)
def test_dates(value: str, moment: str) -> None:
    """Dates are moments in UTC."""
    assert header_fields.date(value.encode()) == datetime.fromisoformat(moment + "+00:00")


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b" yesterday", id="words"),
        pytest.param(b" 31 Feb 2026 00:00 +0000", id="no-such-day"),
        pytest.param(b" 1 Foo 2026 00:00 +0000", id="no-such-month"),
        pytest.param(b" 1 Jan 2026 25:00 +0000", id="no-such-hour"),
        pytest.param(b" 1 Jan 2026 00:00:61 +0000", id="no-such-second"),
        pytest.param(b" 1 Jan 0001 00:00 +0100", id="before-the-first-year"),
        pytest.param(b" 31 Dec 9999 23:59 -9900", id="after-the-last-year"),
        pytest.param(" \u0661 Jan 2026 00:00 +0000".encode(), id="other-digits"),
        pytest.param(b" 1 Jan 2026 00:00 +0000" + b" " * 1000, id="too-long"),
    ],
)
def test_no_dates(value: bytes) -> None:
    """What is no date is None, never an error."""
    assert header_fields.date(value) is None


@given(
    st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2999, 1, 1)),
    st.integers(-12 * 60, 14 * 60),
)
def test_ordinary_dates_are_read_like_the_standard_library_writes_them(
    moment: datetime, minutes: int
) -> None:
    """An independent writer and our reader agree."""
    zone = timezone(timedelta(minutes=minutes))
    local = moment.replace(microsecond=0, tzinfo=UTC).astimezone(zone)
    written = email.utils.format_datetime(local)
    assert header_fields.date(written.encode()) == local
