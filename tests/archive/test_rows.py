"""A record becomes rows and becomes the same record again."""

from __future__ import annotations

import ipaddress
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.archive import build_recipient, build_record, build_reverse_path, build_signature

from carbonseal.milter.archive import derive, header_store, record, rows, terms
from carbonseal.policies import address

NUL_AND_MORE = "a\0b\udcff\u202e\U0001f4e7"

# What the wire can bring: UTF-8 and, as lone surrogates, octets that are none.
wire_text = st.binary(max_size=60).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
mailbox_text = st.builds("{}@{}".format, wire_text, st.sampled_from(["x.example", "X.Example", ""]))
path = st.builds(
    build_recipient,
    mailbox_text | st.just("") | wire_text,
    raw=wire_text,
    resolved=st.none() | wire_text,
    mailer=st.none() | wire_text,
    esmtp=st.lists(wire_text, max_size=3),
    place=st.sampled_from(["inside", "outside", "unknown"]),
    why=wire_text,
)


def through_sql_text(text: Any) -> Any:
    """What a database may refuse in a text column."""
    assert "\0" not in text
    text.encode("utf-8")


def check_storable(content: rows.Rows) -> None:
    for columns in (content.message, content.header_section, *content.recipients):
        for value in columns.values():
            for text in value if isinstance(value, tuple) else (value,):
                if isinstance(text, str) and text not in address_values(content):
                    through_sql_text(text)


def address_values(content: rows.Rows) -> set[str | None]:
    """Addresses are referred to by their lossless value; the dictionary makes them storable."""
    named = {one["address"] for one in content.recipients}
    return named | {content.message["reverse_path"], content.message["author"]}


def client_named(name: str, helo: str = "mx") -> dict[str, Any]:
    return {"address": "192.0.2.1", "port": 25, "name": name, "helo": helo}


def with_esmtp(*given: str) -> dict[str, Any]:
    return {**build_reverse_path("alice@example.com"), "esmtp": list(given)}


ODD_RECORDS = [
    pytest.param({}, False, id="ordinary"),
    pytest.param({"login": None, "login_method": None, "tls": None}, False, id="no-login-no-tls"),
    pytest.param({"origin": {"kind": "network", "about": "192.0.2.7"}}, False, id="by-client"),
    pytest.param({"origin": {"kind": "login", "about": "{client}"}}, True, id="origin-placeholder"),
    pytest.param({"reverse_path": build_reverse_path("")}, False, id="null-reverse-path"),
    pytest.param(
        {"reverse_path": build_reverse_path("Alice@example.com", raw="<Alice@EXAMPLE.com>")},
        False,
        id="mixed-case",
    ),
    pytest.param(
        {
            "recipients": [
                build_recipient(
                    "bob@remote.test",
                    raw="<bob%remote.test@example.com>",
                    why="recipient-rerouted(<bob%remote.test@example.com> is bob@remote.test)",
                )
            ],
            "reasons": ["recipient-rerouted(<bob%remote.test@example.com> is bob@remote.test)"],
        },
        False,
        id="percent-hack",
    ),
    pytest.param(
        {"recipients": [], "archive_recipients": [], "reasons": []}, False, id="no-recipients"
    ),
    pytest.param({"signatures": []}, False, id="unsigned"),
    pytest.param(
        {"signatures": [build_signature(auid="alice@mail.example.com", expires_at=1_800_000_000)]},
        False,
        id="auid-and-expiry",
    ),
    pytest.param({"body_hash": None}, False, id="no-body-hash"),
    pytest.param({"queue_id": "Q" * 300}, True, id="endless-queue-id"),
    pytest.param({"header_fields": []}, False, id="no-header-fields"),
    pytest.param({"header_fields": [["Subject", NUL_AND_MORE]] * 2}, False, id="odd-subject"),
    pytest.param(
        {"client": {"address": "", "port": 0, "name": NUL_AND_MORE, "helo": "\udc80"}},
        True,
        id="odd-client",
    ),
    pytest.param(
        {"client": {"address": "2001:DB8::1", "port": 1, "name": "", "helo": ""}},
        True,
        id="client-not-canonical",
    ),
    pytest.param({"listener": NUL_AND_MORE, "login": NUL_AND_MORE}, True, id="odd-login"),
    pytest.param({"client": client_named("mx1.example.com")}, False, id="name-in-senders-domain"),
    pytest.param({"client": client_named("mx1.@")}, True, id="name-that-looks-shortened"),
    pytest.param({"client": client_named("pc", "[127.0.0.1]")}, False, id="helo-of-a-program"),
    pytest.param({"client": client_named("pc", "[]")}, True, id="helo-that-looks-shortened"),
    pytest.param({"reverse_path": with_esmtp("SIZE=1")}, False, id="size"),
    pytest.param({"reverse_path": with_esmtp("BODY=8BITMIME", "SIZE=")}, False, id="two"),
    pytest.param({"reverse_path": with_esmtp("=1")}, False, id="parameter-without-name"),
    pytest.param({"reverse_path": with_esmtp("SIZE=1", "")}, False, id="empty-parameter"),
    pytest.param({"reverse_path": with_esmtp("")}, False, id="only-an-empty-parameter"),
    pytest.param({"reverse_path": with_esmtp("[]", "A B", NUL_AND_MORE)}, False, id="odd-esmtp"),
    pytest.param({"reverse_path": with_esmtp("[")}, False, id="opening-bracket"),
    pytest.param({"body_size": 7}, False, id="sizes-that-do-not-add-up"),
    pytest.param({"reasons": [NUL_AND_MORE]}, True, id="odd-reason"),
    pytest.param({"a-later-key": {"nested": [1, None, "x"]}}, True, id="key-of-a-later-version"),
]


@pytest.mark.parametrize(("changes", "kept_verbatim"), ODD_RECORDS)
def test_a_record_is_its_rows(changes: dict[str, Any], kept_verbatim: bool) -> None:
    """Nothing is lost between record and rows, and only the odd ones cost the whole text."""
    content = json.loads(json.dumps(build_record(**changes)))
    made = rows.split(content)
    assert rows.join(made) == content
    assert (made.message["verbatim"] is not None) is kept_verbatim
    check_storable(made)


@given(
    recipients=st.lists(path, max_size=4),
    reverse_path=path,
    fields=st.lists(st.tuples(wire_text, wire_text).map(list), max_size=6),
    helo=wire_text,
    login=st.none() | wire_text,
)
def test_whatever_the_wire_brings_comes_back(
    recipients: list[Any], reverse_path: Any, fields: list[Any], helo: str, login: str | None
) -> None:
    """Any octets in any place survive, and no text column gets what a database refuses."""
    content = build_record(
        recipients=recipients,
        reverse_path=reverse_path,
        header_fields=fields,
        login=login,
        client={"address": "192.0.2.1", "port": 1, "name": "", "helo": helo},
    )
    content = record.parse(record.encode(content))
    made = rows.split(content)
    assert rows.join(made) == content
    check_storable(made)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"record_id": "no-ulid"}, id="record-id"),
        pytest.param({"crossing": "sideways"}, id="crossing"),
        pytest.param({"recorded_at": "yesterday"}, id="time"),
        pytest.param({"recorded_at": "2026-11-21T05:00:00"}, id="time-without-zone"),
        pytest.param({"size": {"a": 1}}, id="size-of-wrong-type"),
        pytest.param({"size": 1 << 64}, id="size-too-great"),
        pytest.param({"recipients": None}, id="recipients-missing"),
        pytest.param({"reverse_path": {}}, id="reverse-path-empty"),
        pytest.param({"header_fields": [["only-a-name"]]}, id="half-a-field"),
    ],
)
def test_what_cannot_become_rows_says_why(changes: dict[str, Any]) -> None:
    """A bad record is refused with a reason, never with a traceback."""
    with pytest.raises(rows.Unloadable, match="the record"):
        rows.split(build_record(**changes))


@given(st.lists(st.tuples(st.text(), st.text(alphabet=st.characters(codec=None)))))
def test_a_header_section_comes_back(fields: list[tuple[str, str]]) -> None:
    """Compression is lossless, lone surrogates included."""
    assert header_store.expand(header_store.compress(fields)) == fields


white = st.text(alphabet=" \t\r\n\x0b\x1c\xa0\u2003", max_size=3)
lossless = st.text(
    alphabet=st.sampled_from('["],\\:SubjectMessage-ID \t\0\u00fc\udcff'), max_size=30
)
named_field = st.builds(
    lambda before, name, after, upper: before + (name.upper() if upper else name.title()) + after,
    white,
    st.sampled_from(["subject", "message-id", "x-subject", "resent-message-id", "subjects"]),
    white,
    st.booleans(),
)


@given(st.lists(st.tuples(named_field | lossless, lossless), max_size=12))
def test_fields_are_found_by_name_without_reading_the_others(fields: list[tuple[str, str]]) -> None:
    """Whatever the others hold, and whatever white space is in names: as if all had been read."""
    stored = header_store.compress(fields)
    found = header_store.named(stored, derive.SHOWN)
    exact = [one for one in fields if one[0].strip().lower() in derive.SHOWN]
    assert [one for one in found if one[0].strip().lower() in derive.SHOWN] == exact
    assert derive.shown(found) == derive.shown(fields)
    subjects = [value for name, value in fields if name.strip().lower() == "subject"]
    assert header_store.first(stored, "subject") == (subjects[0] if subjects else None)


@given(st.text(alphabet=" a=?_Qq\t\r\n\0\x7f\x1c\u00fc\udcff", max_size=20) | lossless)
@example("=?utf-8?q?gr=C3=BC=C3=9Fe?= ")
def test_a_subject_is_shown_in_one_way(value: str) -> None:
    """Whether it is looked at alone, in a table, or beside the Message-ID."""
    assert derive.shown_subject(value) == derive.shown([("Subject", value)])[1]


def test_records_are_found_by_the_fields_that_are_configured() -> None:
    """By the whole value and by what stands in brackets, without regard to case and space."""
    fields = [["X-Case", " Case  7\n <A.7>"], ["List-Id", "<news.example.com>"]]
    content = build_record(1, header_fields=fields)
    by_case = {terms.field_term("X-Case", "case 7 <a.7>"), terms.field_term("x-case", "A.7")}
    by_list = {terms.field_term("List-ID", "NEWS.example.com")}
    assert set(rows.split(content, frozenset({"x-case"})).header_terms) == by_case
    assert set(rows.split(content).header_terms) > by_list
    assert not set(rows.split(content).header_terms) & by_case


@given(st.ip_addresses(v=4) | st.ip_addresses(v=6), st.integers(0, 128), st.ip_addresses())
def test_clients_pack_so_that_networks_are_ranges(network: Any, bits: int, client: Any) -> None:
    """An address lies between the bounds of a network exactly when it is of that network."""
    if getattr(client, "scope_id", None) or getattr(network, "scope_id", None):
        return
    wide = ipaddress.ip_network((network, min(bits, network.max_prefixlen)), strict=False)
    first, last = terms.client_bounds(wide)
    packed = terms.pack_client(str(client))
    assert packed is not None
    plain = getattr(client, "ipv4_mapped", None) or client
    assert terms.unpack_client(packed) == str(plain)
    mapped = ipaddress.IPv6Address(f"::ffff:{plain}") if plain.version == 4 else plain
    assert (first <= packed <= last) is (plain in wide or mapped in wide)


def test_a_damaged_header_section_says_so() -> None:
    """Damage is an error of its own, not a wrong answer."""
    stored = header_store.compress([("Subject", " x")])
    with pytest.raises(ValueError, match="damaged"):
        header_store.expand(stored[:1] + b"\xff" + stored[2:])
    with pytest.raises(ValueError, match="unknown format"):
        header_store.expand(b"\x09")


WORDS = [
    pytest.param("Jahresbericht für MÜLLER", ["jahresbericht", "fur", "muller"], id="umlauts"),
    pytest.param("STRASSE Straße", ["strasse"], id="sharp-s-is-double-s"),
    pytest.param("re: Re: RE:", ["re"], id="once-each"),
    pytest.param("שלום  עולם", ["שלום", "עולם"], id="right-to-left"),
    pytest.param("cafe\u0301 café", ["cafe"], id="composed-or-not"),
    pytest.param("KIRMIZI k\u0131rm\u0131z\u0131", ["kirmizi"], id="dotless-i"),
    pytest.param("\u0130STANBUL \u0130stanbul", ["istanbul"], id="dotted-capital-i"),
    pytest.param("order_42-b", ["order", "42", "b"], id="punctuation-parts"),
    pytest.param("!?", [], id="no-word"),
    pytest.param("", [], id="nothing"),
]


@pytest.mark.parametrize(("text", "expected"), WORDS)
def test_words_fold_case_and_accents(text: str, expected: list[str]) -> None:
    """Two spellings that people call the same word are the same word."""
    assert terms.words(text) == expected


@given(st.integers(min_value=0, max_value=(1 << 128) - 1))
def test_record_ids_pack_and_sort_like_time(value: int) -> None:
    """Sixteen octets hold a record id, and their order is its order."""
    packed = value.to_bytes(16, "big")
    text = terms.unpack_record_id(packed)
    assert terms.pack_record_id(text) == packed
    assert (text < terms.first_record_id(1 << 47)) == (value < 1 << 127)


def test_a_made_record_id_is_found_from_its_millisecond_on() -> None:
    """The bound of a search by time lies just before the records of its millisecond."""
    made = record.new_record_id(1_795_237_200_123)
    assert terms.first_record_id(1_795_237_200_123) <= made
    assert made < terms.first_record_id(1_795_237_200_124)


@pytest.mark.parametrize(
    ("text", "base"),
    [
        pytest.param("bob+tag@x.example", "bob@x.example", id="extension"),
        pytest.param("bob+a+b@x.example", "bob@x.example", id="two"),
        pytest.param("+tag@x.example", "+tag@x.example", id="nothing-before-it"),
        pytest.param('"a+b"@x.example', '"a+b"@x.example', id="quoted"),
        pytest.param("bob@x+y.example", "bob@x+y.example", id="in-the-domain"),
    ],
)
def test_the_extension_is_left_out(text: str, base: str) -> None:
    """An extension is what follows the first plus of an unquoted local part."""
    assert terms.without_extension(text) == base


def test_the_command_line_and_the_record_agree_on_mailboxes() -> None:
    """What a person types is found under the hash of what the milter recorded."""
    typed = str(address.parse_address("Bob@B\u00fccher.example"))
    assert terms.mailbox(typed) == "bob@xn--bcher-kva.example"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param('"Bob"@x.example', "bob@x.example", id="needless"),
        pytest.param('"b\\ob"@x.example', "bob@x.example", id="needless-pair"),
        pytest.param('bob."x"@x.example', "bob.x@x.example", id="one-word"),
        pytest.param('"bob+news"@x.example', "bob+news@x.example", id="extension"),
        pytest.param('"a b"@x.example', '"a b"@x.example', id="space"),
        pytest.param('"a\\ b"@x.example', '"a b"@x.example', id="needless-pair-in-needed-quotes"),
        pytest.param('"a@b"@x.example', '"a@b"@x.example', id="at"),
        pytest.param('"a\\"b"@x.example', '"a\\"b"@x.example', id="quote"),
        pytest.param('""@x.example', '""@x.example', id="nothing"),
    ],
)
def test_needless_quotes_make_no_other_mailbox(text: str, expected: str) -> None:
    """Whoever writes quotes around a local part does not escape a search, and once is enough."""
    assert terms.mailbox(text) == expected
    assert terms.mailbox(expected) == expected


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        pytest.param("a.b.partner.example", ("b.partner.example", "partner.example"), id="deep"),
        pytest.param("partner.example", (), id="no-top-level-domain"),
        pytest.param("localhost", (), id="one-label"),
        pytest.param("[192.0.2.1]", (), id="literal"),
    ],
)
def test_a_domain_is_found_under_those_above_it(domain: str, expected: tuple[str, ...]) -> None:
    """But under no top-level domain, of which nobody may ask for all."""
    assert terms.parent_domains(domain) == expected
