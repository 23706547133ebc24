"""Record lines, log lines and ids: the compiled half against plain Python, octet by octet."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import sanitizers

from carbonseal.milter.archive import message_lines, record
from carbonseal.milter.archive.message_lines import (
    REASON,
    REASONS,
    VALUE,
    RecordForm,
    compiled,
    log_line,
    log_line_plainly,
)
from carbonseal.policies.disposition import Answer
from carbonseal.policies.reason import Reason

SOURCE = Path(__file__).resolve().parents[2] / "milter/archive/_message_lines.c"
EXAMPLES = settings(max_examples=100 if sanitizers.are_at_work() else 400)
needs_compiled = pytest.mark.skipif(compiled is None, reason="no compiler was at hand")

KEYS = {
    "first": VALUE,
    "inner": {"why": REASON, "deeper": {"value": VALUE}},
    "each": [{"name": VALUE, "why": REASON, "more": [{"x": VALUE}]}],
    "reasons": REASONS,
    "last": VALUE,
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
ELEMENTS = st.tuples(VALUES, REASON_VALUES, st.lists(st.tuples(VALUES), max_size=2))
CONTENTS = st.tuples(
    VALUES,
    REASON_VALUES,
    VALUES,
    st.lists(ELEMENTS, max_size=3),
    st.lists(REASON_VALUES, max_size=3) | st.lists(REASON_VALUES, max_size=3).map(tuple),
    VALUES,
)


@needs_compiled
@EXAMPLES
@given(values=CONTENTS)
def test_a_record_is_the_same_from_both(values: tuple[Any, ...]) -> None:
    """Whatever the wire brings: one line, which whoever reads records can read."""
    plain = RecordForm(KEYS, is_compiled=False).line(*values)
    assert RecordForm(KEYS).line(*values) == plain
    # JSON has no two surrogates side by side that fit: they are one character there.
    assert record.parse(plain)["inner"]["why"] == json.loads(json.dumps(str(values[1])))


@EXAMPLES
@given(octets=OCTETS)
def test_octets_in_a_record_come_back(octets: bytes) -> None:
    """They stand as lossless text, like all that was decoded on the way."""
    text = record.parse(RecordForm({"octets": VALUE}).line(octets))["octets"]
    assert text.encode("utf-8", "surrogateescape") == octets


@needs_compiled
@pytest.mark.parametrize("checksum", [None, zlib.crc32], ids=["quick", "zlib"])
def test_the_checksum_fits_at_any_length(checksum: Any) -> None:
    """Computed in steps of 64 and of 16 octets, and what is left one by one."""
    if checksum is None and not compiled.CAN_CHECK:
        pytest.skip("this processor has no carry-less multiplication")
    form = compiled.Form(((b'{"a":', VALUE, None), (b"", message_lines._NOTHING, None)), checksum)
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
    form = RecordForm({"fields": VALUE, "reasons": REASONS})
    fields = [("Name", b"\xff\x00" * number) for number in (1, 3000, 10, 40_000, 5)]
    found = record.parse(form.line(fields, [Reason("code", "x" * 20_000)]))
    assert [len(value) for _, value in found["fields"]] == [2, 6000, 20, 80_000, 10]
    assert found["reasons"] == [f"code({'x' * 20_000})"]


@pytest.mark.parametrize("is_compiled", [False, pytest.param(True, marks=needs_compiled)])
@pytest.mark.parametrize(
    "values",
    [
        pytest.param((), id="none"),
        pytest.param((1, Reason("a"), 2, [], []), id="too-few"),
        pytest.param((1, Reason("a"), 2, [], [], 3, 4), id="too-many"),
        pytest.param((1, Reason("a"), 2, [(1, Reason("b"))], [], 3), id="too-few-in-an-element"),
        pytest.param((object(), Reason("a"), 2, [], [], 3), id="no-json"),
        pytest.param(({1: 2, (): 3}, Reason("a"), 2, [], [], 3), id="a-key-that-is-no-text"),
    ],
)
def test_values_that_do_not_fit_are_refused(values: tuple[Any, ...], *, is_compiled: bool) -> None:
    """A defect of ours is an error, never a record with facts in the wrong places."""
    with pytest.raises(TypeError):
        RecordForm(KEYS, is_compiled=is_compiled).line(*values)


@needs_compiled
def test_what_is_nested_without_end_is_refused() -> None:
    """It ends in an exception, not in the end of the process."""
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(RecursionError):
        RecordForm({"a": VALUE}).line(endless)


FACTS = st.dictionaries(
    st.text("abc_", min_size=1, max_size=5),
    TEXTS | PLAIN_TEXTS | NUMBERS | st.sampled_from(Answer) | st.lists(REASON_VALUES, max_size=3),
    max_size=6,
)


@needs_compiled
@EXAMPLES
@given(facts=FACTS)
def test_a_log_line_is_the_same_from_both(facts: dict[str, Any]) -> None:
    """Whatever a message puts into it: one line of ASCII."""
    plain = log_line_plainly("2026-01-01T00:00:00Z info sealed", facts, "1.5")
    assert log_line("2026-01-01T00:00:00Z info sealed", facts, "1.5") == plain
    assert plain.isascii()
    assert plain[:-1].decode("ascii").isprintable()
    assert plain.endswith(b" ms=1.5\n")


def test_a_comma_in_a_reason_does_not_look_like_the_next_reason() -> None:
    """It comes from a stranger's address; the line reads back."""
    reasons = (Reason("a", 'x,y"@z'), Reason("b"), Reason("c", "d"))
    line = log_line("head", {"reasons": reasons}, "1").decode("ascii")
    text = json.loads(line.removeprefix("head reasons=").removesuffix(" ms=1\n"))
    assert text.split(",") == ['a(x\\x2cy"@z)', "b", "c(d)"]
    assert log_line("head", {"reasons": reasons[1:]}, "1") == b"head reasons=b,c(d) ms=1\n"


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
