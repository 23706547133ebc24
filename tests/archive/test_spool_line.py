"""A line that the compiled helper takes apart says what Python says of it, octet by octet."""

from __future__ import annotations

import contextlib
import itertools
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import sanitizers
from support.archive import build_recipient, build_record, headers
from support.evidence import salted
from traffic import generator

from carbonseal.milter.archive import (
    batch,
    derive,
    header_store,
    merkle,
    message_lines,
    open_segment,
    record,
    rows,
    segments,
    spool_line,
    usual_rows,
)
from carbonseal.milter.archive.evidence import leaf
from carbonseal.milter.archive.evidence.seal import Surveying
from carbonseal.milter.archive.spool_line import Apart

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [ROOT / f"milter/archive/{name}.c" for name in ("_spool_line", "_usual_rows")]
EXAMPLES = 100 if sanitizers.are_at_work() else 400

INDEXED = frozenset(("list-id", "x-case"))
# What the wire can bring: UTF-8 and, as lone surrogates, octets that are none.
WIRE = st.binary(max_size=60).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
# And whatever else a text can hold, which never was octets.
ANY_TEXT = st.text(st.characters(codec=None), max_size=20)
PLAIN = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=40)
TEXT = PLAIN | WIRE | ANY_TEXT
NAMES = st.sampled_from(
    [*sorted(leaf.NAMING | leaf.ABOUT | derive.wanted(INDEXED)), "received", "x" * 101]
).flatmap(lambda name: st.sampled_from([name, name.upper(), name.title(), f" {name}  "]))
FIELDS = st.lists(st.tuples(NAMES | PLAIN | WIRE, TEXT).map(list), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda some: st.lists(some, max_size=4) | st.dictionaries(TEXT, some, max_size=4),
    max_leaves=12,
)


def taking(*, flat: bool = False) -> spool_line.Take:
    take = spool_line.taking(derive.wanted(INDEXED), flat=flat)
    assert take is not None
    return take


def line_of(text: bytes) -> bytes:
    """A line with these octets before its checksum."""
    return b'%b,"crc32":"%08x"}\n' % (text, zlib.crc32(text))


def as_python_does(line: bytes, content: dict[str, Any]) -> tuple[Any, ...]:
    """What the parts of `Apart` are made of where the helper is missing."""
    fields = content["header_fields"]
    return (
        {key: value for key, value in content.items() if key != "header_fields"},
        header_store.text(fields),
        derive.values(fields, INDEXED),
        leaf.evidence_of(line, content),
        merkle.quick_leaf_hash(line),
    )


def assert_twins(line: bytes) -> Apart | None:
    """None where the helper leaves the line to Python; what it says is right otherwise."""
    apart = taking()(line)
    if apart is None:
        return None
    content = record.parse(line)
    assert not record.is_event(content)
    assert tuple(apart[:5]) == as_python_does(line, content)
    assert repr(apart.content) == repr(as_python_does(line, content)[0])  # 1 is not True
    assert derive.derive_apart(apart, INDEXED) == derive.derive(content["header_fields"], INDEXED)
    made = split(lambda: rows.split(content, INDEXED))
    assert split(lambda: rows.split_apart(apart, INDEXED)) == made
    usual = taking(flat=True)(line)
    assert usual is not None
    if usual.flat is None:
        assert usual == apart
    else:
        assert usual[1:9] == apart[1:9]
        assert usual.content == {"record_id": content["record_id"]}
        found = split(lambda: usual_rows.split(usual, line, INDEXED))
        assert found == made
        assert types(found) == types(made)
        plainly = split(lambda: usual_rows.split(usual, line, INDEXED, make=usual_rows.by_python))
        assert plainly == made
        assert types(plainly) == types(made)
    return apart


def types(made: Any) -> Any:
    """Of the values of each row: what is 1 to Python is not always true to SQL."""
    if not isinstance(made, rows.Rows):
        return None
    return [
        {name: type(value) for name, value in columns.items()}
        for columns in (made.message, made.header_section, *made.recipients, *made.signatures)
    ]


def split(make: Any) -> Any:
    try:
        return make()
    except rows.Unloadable as fault:
        return str(fault)


def test_the_helper_is_what_runs_where_there_was_a_compiler() -> None:
    """Otherwise nothing here would be compared with anything."""
    assert spool_line.COMPILED is not None
    assert usual_rows.COMPILED is not None


FOLDED = st.lists(
    PLAIN
    | st.sampled_from(["\n ", "\r\n\t", "\r", "\n", "\t", "\r\r\n ", "=", "?", '"', "\\", "\0"]),
    max_size=8,
).map("".join)


@settings(max_examples=EXAMPLES)
@given(FOLDED)
@example(" of two lines,\r\n\tand words words")
@example("\n ")
@example("x\r\r\n y\n")
@example(f" {'y' * 64}\n {'z' * 65}")
@example("=\n ?")
@example(" ".join(f"w{number}\n" for number in range(300)))
def test_a_folded_subject_says_the_same(subject: str) -> None:
    """Line ends, tabs and what else is escaped in it, wherever they stand."""
    assert_twins(record.encode(salted(1, header_fields=[["Subject", subject]])))


def test_a_folded_subject_is_not_left_to_python() -> None:
    """Most subjects that are long are folded."""
    content = salted(1, header_fields=[["Subject", ' A "note" of\r\n\ttwo lines']])
    apart = taking()(record.encode(content))
    assert apart is not None
    assert apart.subject == 'A "note" of two lines'


def test_all_mail_of_the_generator_is_taken_apart() -> None:
    """Threads, lists, many languages, attachments, bounces: none is left to Python."""
    for content in generator.records(100 if sanitizers.are_at_work() else 1500):
        assert assert_twins(record.encode(content)) is not None


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="ordinary"),
        pytest.param({"header_fields": []}, id="no-header-section"),
        pytest.param({"recipients": []}, id="no-recipients"),
        pytest.param(
            {"recipients": [build_recipient(f"r{number}@x.example") for number in range(250)]},
            id="more-recipients-than-come-in-order",
        ),
        pytest.param(
            {"header_fields": [[f"X-{number}", " a\r\n b"] for number in range(1000)]},
            id="a-thousand-header-fields",
        ),
        pytest.param({"header_fields": headers(subject=" x" * 30_000)}, id="long-subject"),
        pytest.param({"header_fields": headers(subject=f" {'y' * 64} {'z' * 65}")}, id="long-word"),
        pytest.param(
            {"header_fields": [["Subject", " one"], ["Subject", " two ones"]]}, id="two-subjects"
        ),
        pytest.param(
            {"header_fields": [["Subject", " =?UTF-8?Q?=C3=BC?= x"], ["subject", " two"]]},
            id="encoded-and-plain-subject",
        ),
        pytest.param(
            {"header_fields": [["Message-ID", " <a@b> "], ["Message-ID", "<c@d>"]]},
            id="two-identifiers",
        ),
        pytest.param({"header_fields": [["Message-ID", " <> "]]}, id="empty-identifier"),
        pytest.param({"header_fields": [["Message-ID", " (x) <a(b@c>"]]}, id="comment"),
        pytest.param(
            {"header_fields": [["To", " a\0\x7f\udcff\ud83d\ud800x\U0001f4e7"]]}, id="any"
        ),
        pytest.param({"login": "a\0b\udcff\u202e\U0001f4e7"}, id="nul-in-login"),
        # What is beyond ASCII makes an escape of DEL, too.
        pytest.param({"login": "\u00e9", "header_fields": [["To", "a\x7f"]]}, id="escaped-del"),
        pytest.param({"later": {"b": 1, "a": [True, None, {"d": -5, "c": ""}]}}, id="later-key"),
        pytest.param({"later": 10**17}, id="large-number"),
    ],
)
def test_an_odd_record_is_taken_apart_all_the_same(changes: dict[str, Any]) -> None:
    """What the milter may write is the helper's work, however odd the mail."""
    assert assert_twins(record.encode(salted(1, **changes))) is not None


def test_all_mail_of_the_generator_is_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows come from pieces of its lines; nothing is looked at as a whole."""
    lines = [
        record.encode(content)
        for content in generator.records(100 if sanitizers.are_at_work() else 1000)
    ]
    take = taking(flat=True)
    monkeypatch.delattr(rows, "split")
    left = []
    by_python = usual_rows.by_python
    monkeypatch.setattr(usual_rows, "by_python", lambda *given: left.append(1) or by_python(*given))
    for line in lines:
        usual = take(line)
        assert usual is not None
        assert usual_rows.split(usual, line, INDEXED).record_id == usual.content["record_id"]
    assert len(left) <= len(lines) // 100  # of lists, which have many recipients


def changed(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """A record in which one value, which may lie deeper, is another one; `...` takes it out."""
    content: Any = json.loads(record.encode(salted(1)))
    del content["crc32"]
    inner = content
    for name in path[:-1]:
        inner = inner[0] if name == "0" else inner[name]
    inner[path[-1]] = value
    if value is ...:
        del inner[path[-1]]
    found: dict[str, Any] = content
    return found


def paths(value: Any, before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Where values are in a record; of a list, in its first element."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return paths(value[0], (*before, "0"))
    if not isinstance(value, dict):
        return []
    return [
        one
        for name, inner in value.items()
        if name not in ("header_fields", "tls")
        for one in [(*before, name), *paths(inner, (*before, name))]
    ]


PATHS = paths(json.loads(record.encode(salted(1))))
ODD_VALUES = [
    *(..., None, True, False, 0, 1, -1, 255, 10**18 - 1, 10**18, 1.0, [], {}, [[]], [{}], ["a"]),
    *("", "0", "1", "{login}", "{client}", "a@b.example", "A@B.example", "x" * 900, "\u00e9\0"),
    *("\udcff", "2026-02-29T00:00:00.000000Z", "2024-02-29T23:59:59.999999Z", "SIZE=1"),
    *("0001-01-01T00:00:00.000000Z", "9999-12-31T23:59:60.000000Z", "1969-12-31T23:59:59.000001Z"),
    *("2100-02-29T00:00:00.000000Z", "2000-02-29T00:00:00.000000Z", "2026-11-22T24:00:00.000000Z"),
    *("2026-11-22T05:00:00Z", "2026-11-22T05:00:00.000000z", "2026-00-22T05:00:00.000000Z"),
    *(
        "A" * 43 + "=",
        "A" * 42 + "B=",
        "A" * 44,
        "+/" * 21 + "8=",
        "A" * 42 + "8",
        "x@",
        ".b.example",
    ),
    *(["SIZE=1", "BODY=8BITMIME"], ["SIZE=1", "a b"], ["SIZE="], ["SIZE", "="], ["[", "]"]),
    *(["SIZE=1", ""], ["SIZE=1", 2], ["SIZE=1", "\u00e9"], [""], [None], ["NOTIFY=NEVER", "x"]),
    *(["origin-login(a@b.example)", "(", ")", "x(", "x()", "{0}", "signed(@)"], ["a(b)", "c(b))"]),
    *([{"class": "mail"}], {"class": "mail", "keep": 1, "headers": None, "subject": 2}),
]


@pytest.mark.parametrize("path", PATHS, ids="/".join)
def test_what_is_unusual_in_one_place_makes_the_same_rows(path: tuple[str, ...]) -> None:
    """Whatever stands where a usual record has something else."""
    for value in ODD_VALUES:
        try:
            line = record.encode(changed(path, value))
        except ValueError:
            continue  # which the milter could not write
        assert_twins(line)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(PATHS), st.sampled_from(ODD_VALUES) | TEXT | st.integers(0, 1 << 62)
        ),
        min_size=2,
        max_size=4,
    )
)
@settings(max_examples=EXAMPLES, deadline=None)
def test_what_is_unusual_in_some_places_makes_the_same_rows(
    changes: list[tuple[tuple[str, ...], Any]],
) -> None:
    """A client that is the sender's host, a login that is the client: pieces meet each other."""
    content = salted(1)
    for path, value in changes:
        if len(path) == 1 and value is not ...:
            content[path[0]] = value
        elif len(path) == 2 and isinstance(content[path[0]], dict) and value is not ...:
            content[path[0]] = {**content[path[0]], path[1]: value}
    assert_twins(record.encode(content))


# What lists of mailboxes are made of, plain or not.
MAILBOXES = st.lists(
    st.sampled_from(
        [
            *(
                "<ann@a.example>",
                "ann@a.example",
                "<Ann.O'Hara+x=y?@A.b-c.EXAMPLE>",
                "a@b",
                "<a@b.>",
            ),
            *(
                "Ann",
                '"O\\"Hara, Ann"',
                '"Ann, x@y <z@w>" ',
                '"',
                "(c)",
                "=?UTF-8?Q?=C3=BC?=",
                "x:",
            ),
            *(
                ", ",
                ",",
                " ,",
                ";",
                " ",
                "\t",
                "\n ",
                "\r\n\t",
                "\n",
                "\r",
                "\r ",
                "@",
                ".",
                "-",
                "<",
            ),
            *(
                ">",
                "\u00e9",
                "\udcff",
                "\0",
                "\x7f",
                "[192.0.2.1]",
                "_",
                "a" * 64,
                "b" * 65,
                "@-a.b",
            ),
            *(
                "@a-.b",
                "@" + "c" * 63 + ".d",
                "@" + "c" * 64 + ".d",
                "@" + "e.f" * 85,
                "xn--a",
                "\\",
            ),
        ]
    ),
    max_size=7,
).map("".join)


@given(
    st.lists(st.tuples(st.sampled_from(["From", "To", "cc"]), MAILBOXES).map(list), max_size=4),
    st.text('ab, <>@."\n\r\t-(', max_size=30),
)
@settings(max_examples=2 * EXAMPLES, deadline=None)
def test_both_read_the_same_mailboxes(fields: list[list[str]], text: str) -> None:
    """Plain lists, and all that is nearly plain."""
    assert_twins(record.encode(salted(1, header_fields=[*fields, ["To", text]])))


NEARLY_PLAIN = [
    *("a@-b.c", "a@b-.c", "a@b..c", "a@.b", "a@b.", "a@b_", "a@B.c", "A@b.c", "a@b@c", "@b", "a@"),
    *("a@" + "b" * 63, "a@" + "b" * 64, "a@" + "b." * 126 + "c", "a@" + "b." * 127 + "c"),
    *(
        "a" * 64 + "@b",
        "a" * 65 + "@b",
        "a=b@c",
        "a?b@c",
        "a b@c",
        "a+b@c.example",
        "a@b c@d",
        "root",
    ),
]


@pytest.mark.parametrize("address", NEARLY_PLAIN)
def test_both_read_the_same_address(address: str) -> None:
    """Each in angle brackets and without, alone and among others."""
    for text in ("{}", " <{}>", 'x "y" <{}> ', "{},b@c", "b@c, {}\t", "b@c,<{}>,b@c", "<{}", "{}>"):
        fields = [[name, text.format(address)] for name in ("From", "To")]
        assert_twins(record.encode(salted(1, header_fields=fields)))


PLAIN_WHO = ["alice@example.com", "bob@partner.example", "alice", "192.0.2.7", "desk.example.com"]
WHO = [*PLAIN_WHO * 5, "Bob+x@Partner.example", "archive@archive.example.net", "", "@", "x" * 201]
WHO += ["{why}", "\u00e9@b", "bob+x@partner.example", '"b b"@b.example', "a@b@c.example", "a@"]
CODES = [*["origin-login", "recipient-outside", "recipient", "signed", ""] * 6, "a@b", "{", "a\n"]
FORMS = [*["{}({})"] * 12, "{}({}", "{}{}", "{}({})x"]


@given(
    login=st.none() | st.sampled_from(WHO),
    client=st.sampled_from(["192.0.2.7", "192.0.2.7", "2001:db8::1", "", "alice"]),
    sender=st.tuples(st.sampled_from(WHO), st.sampled_from(WHO)),
    people=st.lists(st.tuples(st.sampled_from(WHO), st.sampled_from(WHO)), max_size=4),
    copies=st.lists(st.sampled_from(WHO), max_size=2),
    author=st.sampled_from(WHO),
    reasons=st.lists(
        st.builds(
            lambda form, code, who: form.format(code, who),
            st.sampled_from(FORMS),
            st.sampled_from(CODES),
            st.sampled_from(WHO),
        ),
        max_size=6,
    ),
)
@settings(max_examples=2 * EXAMPLES, deadline=None)
def test_both_say_the_same_of_who_is_named_where(
    login: str | None,
    client: str,
    sender: tuple[str, str],
    people: list[tuple[str, str]],
    copies: list[str],
    author: str,
    reasons: list[str],
) -> None:
    """Reasons about whoever is there once, twice or not; addresses that are their own, or not."""
    recipients = [
        build_recipient(who, why=f"recipient-outside({why})", resolved=who) for who, why in people
    ]
    content = salted(
        1,
        login=login,
        recipients=recipients,
        archive_recipients=copies,
        reasons=reasons,
        header_fields=[["From", f" <{author}>"], ["Subject", " one two One =?UTF-8?Q?x?="]],
    )
    content["client"] = {**content["client"], "address": client, "name": f"a.{sender[0][-15:]}"}
    content["reverse_path"] = {
        **content["reverse_path"],
        "raw": f"<{sender[0]}>",
        "address": sender[0],
        "resolved": None,
        "why": f"reverse-path-inside({sender[1]})",
    }
    assert_twins(record.encode(content))


def test_the_same_is_said_of_more_people_reasons_and_words_than_the_helper_takes() -> None:
    """Beyond its bounds it leaves the record to its twin."""
    many = [f"r{number}@x.example" for number in range(70)]
    for count in (20, 21, 63, 64, 65, 70):
        some = many[:count]
        content = salted(
            1,
            recipients=[build_recipient(one) for one in some],
            archive_recipients=[],
            reasons=[f"recipient{number % 2}({one})" for number, one in enumerate(some)],
            header_fields=[
                ["To", ", ".join([*some, *some])],
                ["Subject", " " + " ".join(f"{number}" for number in range(4 * count))],
                *[["List-Id", f" x{number % 7} <l{number}.x>"] for number in range(count)],
            ],
        )
        assert_twins(record.encode(content))
        assert_twins(record.encode({**content, "recipients": content["recipients"][::-1]}))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"salt": None}, id="unsalted"),
        pytest.param({"salt": "0123456789ABCDEF" * 2}, id="salt-in-capitals"),
        pytest.param({"salt": "\u00e9" * 32}, id="salt-of-no-digits"),
        pytest.param({"header_fields": None}, id="no-list-of-fields"),
        pytest.param({"header_fields": [["From"]]}, id="field-without-value"),
        pytest.param({"header_fields": [["From", None]]}, id="field-of-nothing"),
        pytest.param({"header_fields": [{"From": "x"}]}, id="field-that-is-an-object"),
        pytest.param({"recipients": {"0": "x"}}, id="recipients-are-an-object"),
        pytest.param(
            {"recipients": [build_recipient("r@x.example")] * 5000}, id="five-thousand-recipients"
        ),
        pytest.param({"later": 0.5}, id="fraction"),
        pytest.param({"later": 10**18}, id="number-beyond-18-digits"),
        pytest.param({"login": "a\x7f"}, id="del"),
        pytest.param({"event": "delivery"}, id="event"),
        pytest.param({"later": {str(key): key for key in range(65)}}, id="too-many-keys"),
    ],
)
def test_what_is_unlike_records_is_left_to_python(changes: dict[str, Any]) -> None:
    """The helper does not judge what it does not know."""
    assert assert_twins(record.encode(salted(1, **changes))) is None


@pytest.mark.parametrize("missing", sorted(record.parse(record.encode(salted(1)))))
def test_a_record_without_a_key_is_the_same_to_both(missing: str) -> None:
    """Keys that are no part of their own are facts, there or not."""
    content = salted(1)
    del content[missing]
    assert_twins(record.encode(content))


@pytest.mark.parametrize("name", sorted(leaf.NAMING | leaf.ABOUT))
@pytest.mark.parametrize("spelling", ["{}", " {} ", "{}\t", "{}x", "x{}", "{}\u212a"])
def test_each_name_counts_to_the_same_group(name: str, spelling: str) -> None:
    """Which part a header field belongs to is evidence."""
    for form in (name, name.upper()):
        fields = [["Received", "x"], [spelling.format(form), " Ann <ann@x.example>"]]
        assert_twins(record.encode(salted(1, header_fields=fields)))


@given(
    fields=FIELDS,
    changes=st.fixed_dictionaries(
        {},
        optional={
            "login": TEXT,
            "queue_id": TEXT,
            "reasons": st.lists(TEXT, max_size=3),
            "archive_recipients": st.lists(WIRE, max_size=2),
            "recipients": st.lists(
                st.builds(build_recipient, TEXT, raw=WIRE, why=TEXT), max_size=12
            ),
            "bcc_maps": JSON,
            "tls": st.none() | st.dictionaries(TEXT, TEXT, max_size=3),
            "size": st.integers(-5, 1 << 65),
            "later": JSON,
        },
    ),
)
@settings(max_examples=EXAMPLES, deadline=None)
def test_both_say_the_same_of_any_record(fields: list[list[str]], changes: dict[str, Any]) -> None:
    """Whatever octets and characters stand in it."""
    assert_twins(record.encode(salted(1, header_fields=fields, **changes)))


@given(content=st.dictionaries(st.sampled_from([*build_record(), "later"]) | TEXT, JSON))
@settings(max_examples=EXAMPLES, deadline=None)
def test_both_say_the_same_of_any_object(content: dict[str, Any]) -> None:
    """A record of another shape is none to the helper."""
    assert_twins(record.encode({**content, "x": 1}))
    assert_twins(record.encode({**salted(1), **content}))


LINE = record.encode(
    salted(1, header_fields=[["To", ' \u00e9\\" a\r\n b'], ["Subject", " =x \U0001f4e7"]])
)
SIGNS = [b"", b'"', b"\\", b"\\u", b"\\ud83d", b"\\/", b"[", b"]", b"{", b"}", b",", b":", b"0"]
SIGNS += [b"-", b"-0", b"1e5", b"null", b"\0", b"\xff", b"\x7f", b" ", b'"a":1,', b'"salt":1,']


@given(
    cuts=st.lists(
        st.tuples(st.integers(0, len(LINE) - 22), st.integers(0, 3), st.sampled_from(SIGNS)),
        min_size=1,
        max_size=3,
    )
)
@example(cuts=[(0, 1, b"[")])
@settings(max_examples=4 * EXAMPLES, deadline=None)
def test_both_say_the_same_of_damaged_lines_with_a_fitting_checksum(
    cuts: list[tuple[int, int, bytes]],
) -> None:
    """Signs put into, or cut out of, any place of a line; the helper reads no octet beyond it."""
    text = bytearray(LINE[:-21])
    for at, cut, put in cuts:
        text[at : at + cut] = put
    line = line_of(bytes(text))
    if taking()(line) is not None:
        assert_twins(line)


def test_a_line_cut_anywhere_is_left_to_python() -> None:
    """With its own checksum, and with one that fits what is left."""
    take = taking()
    for end in range(len(LINE)):
        assert take(LINE[:end]) is None
    for end in range(len(LINE) - 21):
        assert take(line_of(LINE[:end])) is None


@pytest.mark.parametrize("place", [0, 1, 100, -2, -3, -4, -11, -12, -21, -22])
def test_a_changed_octet_shows(place: int) -> None:
    """The checksum covers all before it; its frame is as it has to be."""
    line = bytearray(LINE)
    line[place] ^= 1
    assert taking()(bytes(line)) is None


@pytest.mark.parametrize("key", [b"login", b"salt", b"recipients", b"header_fields", b"size"])
def test_a_key_that_is_there_twice_is_left_to_python(key: bytes) -> None:
    """Which of the two counts, Python knows."""
    text = record.encode(salted(1))[:-21]
    assert taking()(line_of(text + b',"later":1')) is not None
    for twice in (b',"%b":null' % key, b',"later":{"a":1,"b":2,"a":1}', b',"later":1,"later":1'):
        assert taking()(line_of(text + twice)) is None


def test_deep_nesting_is_left_to_python() -> None:
    """Neither a deep line nor a wide one exhausts anything."""
    take = taking()
    for depth in (10, 16, 17, 1000, 1_000_000):
        text = record.encode(salted(1))[:-21] + b',"later":' + b"[" * depth + b"]" * depth
        assert (take(line_of(text)) is None) is (depth > 15)
    assert take(line_of(record.encode(salted(1))[:-21] + b',"later":[' + b"1," * 300_000)) is None


def test_a_line_is_taken_apart_the_same_after_any_other() -> None:
    """No state is carried from one line to the next; memory of long ones is given back."""
    long = record.encode(salted(2, header_fields=[["X", "y\u00e9" * 400_000]] * 3))
    take = taking()
    lines = [LINE, long, b"", LINE[:50], record.encode(salted(3)), line_of(LINE[:99])]
    first = [take(line) for line in lines]
    for one, other in itertools.product(range(len(lines)), repeat=2):
        take(lines[one])
        assert take(lines[other]) == first[other]


def test_a_segment_is_read_the_same_with_and_without(tmp_path: Path) -> None:
    """Batches and what is sealed: events, damaged lines and the footer in between."""
    tree = merkle.Tree()
    lines = [record.encode(salted(number)) for number in range(5)]
    lines[2:2] = [b"rubbish\n", line_of(b'{"event":"later","relay":"mx1"'), LINE[:-9] + b"x\n"]
    for line in lines:
        tree.add(line)
    path = tmp_path / f"01GNP5RRHK123SMMG37M6W5FTB-1{open_segment.CLOSED_SUFFIX}"
    path.write_bytes(b"".join([*lines, open_segment.footer("01GNP5RRHK123SMMG37M6W5FTB-1", tree)]))
    [segment] = segments.pending(tmp_path)
    found = []
    for take in (None, taking(), taking(flat=True)):
        seen = Surveying()
        made = batch.read(segment, segments.read(segment, 0, 0, take), INDEXED, seen)
        assert made is not None
        found.append((made.arrivals, made.others, [why for _, why in made.refused]))
        found.append(seen.survey(segment))
    assert found[:2] == found[2:4] == found[4:]
    assert len(found[0][0]) == 5


def test_a_batch_keeps_lines_but_not_what_they_were_taken_apart_into(tmp_path: Path) -> None:
    """Pieces would double the memory of the thousands of lines of a transaction."""
    path = tmp_path / f"01GNP5RRHK123SMMG37M6W5FTB-1{open_segment.CLOSED_SUFFIX}"
    lines = [record.encode(salted(number)) for number in range(3)]
    path.write_bytes(b"".join(lines))
    [segment] = segments.pending(tmp_path)
    made = batch.read(segment, segments.read(segment, 0, 0, taking(flat=True)), INDEXED)
    assert made is not None
    assert [one.line for one in made.entries] == lines
    assert [(one.apart, one.content) for one in made.entries] == [(None, {})] * 3


def test_the_helper_refuses_what_is_no_line() -> None:
    """A mistake of the caller is an exception, not a crash."""
    assert spool_line.COMPILED is not None
    compiled: Any = spool_line.COMPILED
    reader = compiled(("from",), (), ())
    for wrong in (("text", 1), (None, 1), (bytearray(b"x"), 1), (b"x", "1"), (b"x",), ()):
        with pytest.raises(TypeError):
            reader.take(*wrong)
    for number in (-1, 1 << 70):
        with pytest.raises((OverflowError, TypeError)):
            reader.take(b"x", number)
    for wrong in (((1,), (), ()), (None, (), ()), ((), ()), (("\ud800",), (), ())):
        with pytest.raises((TypeError, UnicodeError)):
            compiled(*wrong)
    with pytest.raises(ValueError, match="so long a name"):
        compiled(("x" * 256,), (), ())
    assert spool_line.taking({"x" * 256}) is None


def as_run(lines: list[bytes], first: int = 0, end: int = 1 << 40) -> Any:
    assert usual_rows.MAKE is not None
    run = spool_line.running(derive.wanted(INDEXED), usual_rows.MAKE, INDEXED)
    assert run is not None
    return run(lines, first, end)


def assert_run(lines: list[bytes], first: int = 0, end: int = 1 << 40) -> int:
    """It says of its lines what is said of each, and ends where one is not usual."""
    made, texts, evidence, digests, octets = as_run(lines, first, end)
    take = taking(flat=True)
    for number, line in enumerate(lines[first:end]):
        apart = take(line)
        found = None
        if apart is not None and apart.flat is not None:
            with contextlib.suppress(Exception):
                found = usual_rows.MAKE and usual_rows.MAKE(apart, INDEXED)
        if apart is None or found is None:
            assert len(made) == number
            break
        assert made[number] == found
        named, alone = usual_rows.named(made[number], b""), usual_rows.made(apart, INDEXED)
        assert (named, types(named)) == (alone, types(alone))
        assert texts[number] == apart.text
        assert evidence[number * 64 :][:64] == apart.evidence
        assert digests[number * 32 :][:32] == apart.digest
    taken = lines[first:end][: len(made)]
    assert octets == sum(map(len, taken))
    assert (len(texts), len(evidence), len(digests)) == (len(made), 64 * len(made), 32 * len(made))
    return len(made)


def test_a_run_says_of_the_generators_mail_what_is_said_of_each() -> None:
    """All of it comes in one."""
    lines = [record.encode(one) for one in generator.records(100)]
    assert assert_run(lines) == 100
    assert assert_run(lines, 7, 20) == 13
    assert assert_run(lines, 99) == 1
    assert assert_run(lines, 100) == 0
    assert assert_run([*lines[:5], b"rubbish\n", *lines[5:]]) == 5


@settings(max_examples=EXAMPLES)
@given(
    st.lists(
        st.builds(
            lambda number, fields, changes: record.encode(
                {**salted(number, header_fields=fields), **changes}
            ),
            st.integers(0, 5),
            FIELDS,
            st.just({}) | st.sampled_from([{"v": 0}, {"retention": {}}, {"login": "\ud800"}]),
        ),
        max_size=4,
    ),
    st.integers(0, 4),
)
def test_a_run_says_of_any_lines_what_is_said_of_each(lines: list[bytes], first: int) -> None:
    """Whichever of them is odd, and wherever it begins."""
    assert_run(lines, first)


def test_what_is_no_run_is_refused() -> None:
    """A mistake of the caller is an exception; one of whoever makes rows ends the run."""
    assert spool_line.COMPILED is not None
    reader: Any = spool_line.COMPILED(("from",), (), (), True)
    line = record.encode(salted(1))
    checksum, make = message_lines.checksum_before, usual_rows.MAKE
    for wrong in (
        (),
        ((line,), 0, 1, (checksum, make, INDEXED)),
        ([line], -1, 1, (checksum, make, INDEXED)),
        ([line], 0, -1, (checksum, make, INDEXED)),
        ([line], None, 1, (checksum, make, INDEXED)),
        ([line], 0, 1, (None, make, INDEXED)),
        ([line], 0, 1, (lambda *_: "x", make, INDEXED)),
    ):
        with pytest.raises(TypeError):
            reader.run(*wrong)

    def wrong_make(*_: Any) -> Any:
        raise ValueError

    def stops(*_: Any) -> Any:
        raise KeyboardInterrupt

    nothing = ([], [], b"", b"", 0)
    assert reader.run([line], 0, 1, (checksum, wrong_make, INDEXED)) == nothing
    assert reader.run([line], 0, 1, (checksum, lambda *_: None, INDEXED)) == nothing
    assert reader.run([None, line], 0, 2, (checksum, make, INDEXED)) == nothing
    with pytest.raises(KeyboardInterrupt):
        reader.run([line], 0, 1, (checksum, stops, INDEXED))
    assert spool_line.running({"x" * 256}, lambda *_: None, INDEXED) is None


def test_the_maker_of_rows_refuses_what_is_no_record() -> None:
    """Likewise; what the functions that it asks raise comes through, and costs it nothing."""
    compiled: Any = usual_rows.COMPILED
    for wrong in ((), [], (len,), None):
        with pytest.raises(TypeError):
            compiled(wrong)
    line = record.encode(next(generator.records(1)))
    usual = taking(flat=True)(line)
    assert usual is not None
    assert usual.flat is not None
    count = len(usual_rows.QUESTIONS)
    for answer in (lambda *_given: None, lambda *_given: (), lambda *_given: (1, 2, 3), int):
        maker = compiled((answer,) * count)
        with contextlib.suppress(TypeError, ValueError):
            assert maker.make(usual, INDEXED) is None
            assert maker.make_values(usual, INDEXED) is None
    maker = compiled(usual_rows.QUESTIONS)
    for wrong in ((), (usual,), ((), INDEXED), ([], INDEXED)):
        with pytest.raises(TypeError):
            maker.make(*wrong)
        with pytest.raises(TypeError):
            maker.make_values(*wrong)
    for place in range(len(usual.flat)):
        for odd in (None, 1, "", b"", [], [None], (), ["x"], [b"x"], [(1, 2, 3)]):
            changed_one = (*usual.flat[:place], odd, *usual.flat[place + 1 :])
            with contextlib.suppress(TypeError, ValueError, AttributeError):
                maker.make((*usual[:-1], changed_one), INDEXED)


@pytest.mark.skipif(sanitizers.are_at_work(), reason="this is the run that it starts")
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_the_helper_stays_within_its_memory(source: Path, tmp_path: Path) -> None:
    """All of the above once more under the sanitizers."""
    sanitizers.run(source, __file__, tmp_path, "-lcrypto")


@settings(max_examples=EXAMPLES)
@given(st.integers(0, 70), st.sampled_from([0, 1, leaf.DIGEST, leaf.ENTRY]), st.randoms())
def test_the_root_over_many_lines_is_that_of_a_tree(count: int, size: int, random: Random) -> None:
    """However the number of lines halves, and for leaves that are made already as well."""
    lines = [random.randbytes(size or leaf.DIGEST) for _ in range(count)]
    tree = merkle.Tree()
    for one in lines:
        tree.add(one)
    leaves = b"".join(lines if size == 0 else map(merkle.leaf_hash, lines))
    for root in (merkle.root, merkle.root_by_python):
        assert root(b"".join(lines), size) == root(leaves, 0)
        if size:
            assert root(b"".join(lines), size) == tree.root()


@pytest.mark.parametrize("root", [merkle.root, merkle.root_by_python])
def test_lines_that_are_not_whole_have_no_root(root: Callable[[bytes, int], bytes]) -> None:
    """What is no multiple of a line is no list of lines."""
    for lines, size in ((b"12345", 2), (b"1" * 33, 0)):
        with pytest.raises(ValueError, match="lines"):
            root(lines, size)
