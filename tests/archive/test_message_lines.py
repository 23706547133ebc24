"""Record lines, log lines and ids: the compiled half against plain Python, octet by octet."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import sanitizers

from carbonseal.milter.archive import message_lines, record
from carbonseal.milter.archive.message_lines import (
    COUNT,
    MOMENT,
    REASON,
    REASONS,
    VALUE,
    RecordForm,
    WordForm,
    compiled,
    each,
    log_line,
    log_line_plainly,
    of,
    texts,
)
from carbonseal.policies.disposition import Answer
from carbonseal.policies.reason import Reason

SOURCE = Path(__file__).resolve().parents[2] / "milter/archive/_message_lines.c"
EXAMPLES = settings(max_examples=100 if sanitizers.are_at_work() else 400)
needs_compiled = pytest.mark.skipif(compiled is None, reason="no compiler was at hand")


class Inner(NamedTuple):
    """An element of a list in an element."""

    x: Any


class Pair(NamedTuple):
    """Two of anything."""

    first: Any
    second: Any


class Element(NamedTuple):
    """An element of a list."""

    name: Any
    more: list[Inner]


class Facts:
    """What a line is taken from: by slots here, by fields of tuples in its elements."""

    __slots__ = ("at", "each", "first", "last", "reasons", "value", "why", "whys")

    def __init__(self, values: tuple[Any, ...]) -> None:
        self.first, self.why, self.value, elements, self.reasons, self.last, self.at = values
        self.each = [Element(name, more) for name, _, more in elements]
        self.whys = tuple(why for _, why, _ in elements)


class Place(NamedTuple):
    """A line is taken from something in something."""

    facts: Facts


IN: Any = Facts
KEYS = {
    "first": of(Place.facts, IN.first),
    "inner": {
        "why": of(Place.facts, IN.why, kind=REASON),
        "deeper": {"value": of(Place.facts, IN.value)},
    },
    "each": each(
        {
            "name": of(Element.name),
            "why": of(kind=REASON, beside=1),
            "more": each({"x": of(Inner.x)}, of(Element.more)),
        },
        of(Place.facts, IN.each),
        of(Place.facts, IN.whys),
    ),
    "how-many": of(Place.facts, IN.each, kind=COUNT),
    "at": of(Place.facts, IN.at, kind=MOMENT),
    "reasons": of(Place.facts, IN.reasons, kind=REASONS),
    "always": {"number": 2, "text": 'a "word"', "nothing": None},
    "last": of(Place.facts, IN.last),
}
# Few letters, so that what is odd meets what is odd; the lone surrogates are octets of no UTF-8.
TEXTS = (
    st.text(
        st.sampled_from('a, =(\\"/\n\t\x00\x1f\x7f\x80é\u2028€\ud800\udcff\uffff😀'), max_size=24
    )
    | st.text(max_size=40)
    | st.binary(max_size=12).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
)
PLAIN_TEXTS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7F), max_size=40)
# Whole and broken UTF-8: what is too short, too long, too large, a surrogate, or cut off.
OCTETS = st.lists(
    st.sampled_from(
        [
            *(
                b"a",
                b"\x7f",
                b'"',
                b"\xc3\xa9",
                b"\xe2\x82\xac",
                b"\xf0\x9f\x98\x80",
                b"\xef\xbf\xbf",
            ),
            *(b"\x80", b"\xc0\x80", b"\xc1\xbf", b"\xe0\x80\x80", b"\xe0\x9f\xbf", b"\xed\xa0\x80"),
            *(b"\xed\x9f\xbf", b"\xf0\x80\x80\x80", b"\xf0\x8f\xbf\xbf", b"\xf4\x8f\xbf\xbf"),
            *(
                b"\xf4\x90\x80\x80",
                b"\xf5",
                b"\xff",
                b"\xe2\x82",
                b"\xf0\x9f\x98",
                b"\xc3",
                b"b" * 17,
            ),
        ]
    ),
    max_size=12,
).map(b"".join) | st.binary(max_size=40)
NUMBERS = st.integers() | st.sampled_from([-(2**63), 2**63 - 1, 2**64, 0, -1])
SINGLE = (
    st.none() | st.booleans() | NUMBERS | TEXTS | PLAIN_TEXTS | OCTETS | st.sampled_from(Answer)
)
VALUES = st.recursive(
    SINGLE,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(TEXTS, inner, max_size=3)
    ),
    max_leaves=8,
)
REASON_VALUES = st.builds(Reason, TEXTS | PLAIN_TEXTS, TEXTS | PLAIN_TEXTS)
ELEMENTS = st.tuples(VALUES, REASON_VALUES, st.lists(st.builds(Inner, VALUES), max_size=2))
MOMENTS = st.floats(0, 253_402_300_799) | st.integers(0, 253_402_300_799)
CONTENTS = st.tuples(
    VALUES,
    REASON_VALUES,
    VALUES,
    st.lists(ELEMENTS, max_size=3),
    st.lists(REASON_VALUES, max_size=3) | st.lists(REASON_VALUES, max_size=3).map(tuple),
    VALUES,
    MOMENTS,
)


@needs_compiled
@EXAMPLES
@given(values=CONTENTS)
def test_a_record_is_the_same_from_both(values: tuple[Any, ...]) -> None:
    """Whatever the wire brings: one line, which whoever reads records can read."""
    root = Place(Facts(values))
    plain = RecordForm(KEYS, is_compiled=False).line(root)
    assert RecordForm(KEYS).line(root) == plain
    # JSON has no two surrogates side by side that fit: they are one character there.
    assert record.parse(plain)["always"] == KEYS["always"]
    assert record.parse(plain)["inner"]["why"] == json.loads(json.dumps(str(values[1])))


@EXAMPLES
@given(octets=OCTETS)
def test_octets_in_a_record_come_back(octets: bytes) -> None:
    """They stand as lossless text, like all that was decoded on the way."""
    text = record.parse(RecordForm({"octets": of()}).line(octets))["octets"]
    assert text.encode("utf-8", "surrogateescape") == octets


@needs_compiled
@pytest.mark.parametrize("checksum", [None, zlib.crc32], ids=["quick", "zlib"])
def test_the_checksum_fits_at_any_length(checksum: Any) -> None:
    """Computed in steps of 64 and of 16 octets, and what is left one by one."""
    if checksum is None and not compiled.CAN_CHECK:
        pytest.skip("this processor has no carry-less multiplication")
    last = (b"", message_lines._NOTHING, (), None)
    form = compiled.Form(((b'{"a":', VALUE, ((0,),), None), last), checksum)
    for length in range(300):
        text = bytes(35 + number * 7 % 57 for number in range(length))  # nothing to escape
        assert record.parse(form.record(text)) == {"a": text.decode()}


@given(octets=st.binary(max_size=400), tail=st.integers(0, 420))
@EXAMPLES
def test_the_checksum_of_a_line_is_that_of_zlib(octets: bytes, tail: int) -> None:
    """Of all but its last octets, and of nothing where there are no others."""
    expected = zlib.crc32(octets[: max(len(octets) - tail, 0)])
    assert message_lines.checksum_before(octets, tail) == expected
    assert message_lines.checksum_before_plainly(octets, tail) == expected


@needs_compiled
def test_the_checksum_is_of_octets_only() -> None:
    """A mistake of the caller is an exception."""
    odd: Any = compiled.checksum_before
    for wrong in ((), (b"x",), ("x", 1), (b"x", -1), (b"x", None), (b"x", 1 << 80), (b"x", 1, 2)):
        with pytest.raises((TypeError, OverflowError)):
            odd(*wrong)


def test_a_record_of_any_size_is_whole() -> None:
    """Beyond what is kept ready for usual ones, with growth by escapes in it."""
    form = RecordForm({"fields": of(Inner.x), "reasons": of(Pair.second, kind=REASONS)})
    fields = [("Name", b"\xff\x00" * number) for number in (1, 3000, 10, 40_000, 5)]
    found = record.parse(form.line((fields, [Reason("code", "x" * 20_000)])))
    assert [len(value) for _, value in found["fields"]] == [2, 6000, 20, 80_000, 10]
    assert found["reasons"] == [f"code({'x' * 20_000})"]


@pytest.mark.parametrize("is_compiled", [False, pytest.param(True, marks=needs_compiled)])
@pytest.mark.parametrize(
    ("place", "root"),
    [
        pytest.param(of(IN.first), ("a", "b"), id="a-slot-of-another-class"),
        pytest.param(of(IN.first), None, id="a-slot-of-nothing"),
        pytest.param(of(Inner.x, IN.first), (None,), id="none-on-the-way"),
        pytest.param(of(IN.last), Facts.__new__(Facts), id="a-slot-without-a-value"),
        pytest.param(of(Pair.second), ("a",), id="a-tuple-that-is-too-short"),
        pytest.param(of(), object(), id="no-json"),
        pytest.param(of(), {1: 2, (): 3}, id="a-key-that-is-no-text"),
        pytest.param(of(kind=MOMENT), "now", id="a-text-for-a-time"),
        pytest.param(of(kind=COUNT), 5, id="no-list"),
        pytest.param(of(kind=REASONS), 5, id="no-reasons"),
        pytest.param(
            each({"x": of()}, of(Pair.first), of(Pair.second)), ([1, 2], [1]), id="not-one-length"
        ),
    ],
)
def test_values_that_do_not_fit_are_refused(place: Any, root: Any, *, is_compiled: bool) -> None:
    """A defect of ours is an error, never a record with facts in the wrong places."""
    with pytest.raises((TypeError, AttributeError, IndexError, ValueError)):
        RecordForm({"a": place}, is_compiled=is_compiled).line(root)


@needs_compiled
@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param((), id="none"),
        pytest.param(((b"", VALUE, ((0,),), None),), id="no-end"),
        pytest.param(((b"", VALUE, (), None), (b"", 4, (), None)), id="no-path"),
        pytest.param(((b"", VALUE, ((2,),), None), (b"", 4, (), None)), id="a-third-list"),
        pytest.param(((b"", VALUE, ((0, 5),), None), (b"", 4, (), None)), id="no-descriptor"),
        pytest.param(((b"", VALUE, ((0,), (0,)), None), (b"", 4, (), None)), id="two-paths"),
        pytest.param(((b"", 3, ((0,),), None), (b"", 4, (), None)), id="no-form-of-each"),
        pytest.param(((b"", 9, ((0,),), None), (b"", 4, (), None)), id="no-kind"),
    ],
)
def test_a_form_that_is_none_is_refused(pieces: Any) -> None:
    """Before anything is read by it."""
    with pytest.raises((TypeError, ValueError)):
        compiled.Form(pieces, zlib.crc32)


@needs_compiled
def test_a_form_of_elements_of_two_lists_is_not_for_one() -> None:
    """It would read beyond what it is given."""
    pieces = ((b"", VALUE, ((1,),), None), (b"", message_lines._NOTHING, (), None))
    form = compiled.Form(pieces, zlib.crc32)
    for line in (form.record, form.words):
        with pytest.raises(TypeError):
            line(())
    with pytest.raises(ValueError, match="path"):
        compiled.Form(((b"", 3, ((0,),), form), pieces[1]), zlib.crc32)


@needs_compiled
def test_what_is_nested_without_end_is_refused() -> None:
    """It ends in an exception, not in the end of the process."""
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(RecursionError):
        RecordForm({"a": of()}).line(endless)


# Seconds half way between two of the figures that are said in milliseconds, or next to it.
HALF_HUNDREDTHS = st.builds(
    lambda number, steps: math.nextafter(number / 200_000, math.inf * steps),
    st.integers(0, 10**15),
    st.sampled_from([-1, 1]),
) | st.integers(0, 10**7).map(lambda number: number / 200_000)
WORDS = st.tuples(
    TEXTS | PLAIN_TEXTS | NUMBERS | st.sampled_from(Answer),
    st.lists(TEXTS | PLAIN_TEXTS, max_size=3) | st.lists(PLAIN_TEXTS, max_size=3).map(tuple),
    st.lists(st.tuples(TEXTS | PLAIN_TEXTS), max_size=3),
    st.lists(REASON_VALUES, max_size=3),
)


class Said(NamedTuple):
    """What words are taken from."""

    value: Any
    texts: Any
    named: Any
    reasons: Any


WORD_KEYS = {
    "value": of(Said.value),
    "many": of(Said.texts, kind=COUNT),
    "texts": texts(of(Said.texts)),
    "named": texts(of(Said.named), Inner.x),
    "reasons": of(Said.reasons, kind=REASONS),
}


@needs_compiled
@EXAMPLES
@given(values=WORDS)
def test_a_log_line_is_the_same_from_both(values: tuple[Any, ...]) -> None:
    """Whatever a message puts into it: one line of ASCII."""
    plain = WordForm("sealed", "info", WORD_KEYS, is_compiled=False).words(values)
    assert WordForm("sealed", "info", WORD_KEYS).words(values) == plain
    assert plain.startswith(b" info sealed value=")
    assert plain.isascii()
    assert plain.decode("ascii").isprintable()


@needs_compiled
@EXAMPLES
@given(at=MOMENTS, seconds=st.floats(allow_nan=False) | st.floats(0, 10) | HALF_HUNDREDTHS)
def test_the_times_of_a_log_line_are_the_same_from_both(at: float, seconds: float) -> None:
    """When it was, to the microsecond, and how long it took, in milliseconds."""
    assert log_line(at, b" x", seconds) == log_line_plainly(at, b" x", seconds)


def test_a_log_line_begins_with_its_time_and_ends_with_what_it_took() -> None:
    """Around the leap day, and with as few digits as there are."""
    line = log_line(1_709_251_199.25, b" info sealed", 0.00150001)
    assert line == b"2024-02-29T23:59:59.250000Z info sealed ms=1.5\n"


def test_a_comma_in_a_reason_does_not_look_like_the_next_reason() -> None:
    """It comes from a stranger's address; the line reads back."""
    reasons = (Reason("a", 'x,y"@z'), Reason("b"), Reason("c", "d"))
    form = WordForm("sealed", "info", {"reasons": of(kind=REASONS)})
    line = form.words(reasons).decode("ascii")
    text = json.loads(line.removeprefix(" info sealed reasons="))
    assert text.split(",") == ['a(x\\x2cy"@z)', "b", "c(d)"]
    assert form.words(reasons[1:]) == b" info sealed reasons=b,c(d)"


@needs_compiled
@EXAMPLES
@given(milliseconds=st.integers(0, 2**48 - 1), randomness=st.binary(min_size=10, max_size=10))
def test_an_identity_is_the_same_from_both(milliseconds: int, randomness: bytes) -> None:
    """An id and a salt of the same randomness."""
    octets = randomness + bytes(range(6)) + randomness
    assert record.identity(milliseconds, octets) == record.identity_plainly(milliseconds, octets)


@needs_compiled
@EXAMPLES
@given(milliseconds=st.integers(0, 2**48 - 1), randomness=st.binary(min_size=10, max_size=10))
def test_an_id_is_the_same_from_both(milliseconds: int, randomness: bytes) -> None:
    """A ULID: the time in its first ten characters, the randomness in the other sixteen."""
    made = record.record_id(milliseconds, randomness)
    assert made == record.record_id_plainly(milliseconds, randomness)
    digits = ["0123456789ABCDEFGHJKMNPQRSTVWXYZ".index(character) for character in made]
    number = 0
    for digit in digits:
        number = number * 32 + digit
    assert number == milliseconds << 80 | int.from_bytes(randomness)


@pytest.mark.skipif(sanitizers.are_at_work(), reason="this is that run")
def test_no_test_here_makes_the_compiled_half_misbehave(tmp_path: Path) -> None:
    """The same tests, with its memory and its arithmetic watched."""
    sanitizers.run(SOURCE, __file__, tmp_path)
