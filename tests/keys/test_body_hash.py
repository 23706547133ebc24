"""The streamed body hash equals RFC 6376 for every body and every division into chunks."""

from __future__ import annotations

import hashlib
import itertools
import re
import tracemalloc

import pytest
from dkim import canonicalization
from hypothesis import example, given, settings
from hypothesis import strategies as st

from carbonseal.keys.body_hash import IMPLEMENTATION, IMPLEMENTATIONS
from carbonseal.policies.survival import BodyFacts

KINDS = ("relaxed", "simple")
BOTH = ("compiled", "python")  # every promise is kept by both
# What canonicalization looks at, so that short random bodies meet every rule.
PIECES = (
    b"\r\n",
    b"\r",
    b"\n",
    b" ",
    b"\t",
    b"a",
    b"\xa0",
    b"\x0b",
    b"\x00",
    b" \r\n",
    b"\r\n\r\n",
)


def reference(kind: str, body: bytes) -> bytes:
    """The rules of section 3.4.3 and 3.4.4, line by line, as slowly as they are written."""
    lines = body.split(b"\r\n")
    if kind == "relaxed":
        lines = [re.sub(rb"[ \t]+", b" ", line).rstrip(b" ") for line in lines]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        return b"\r\n" if kind == "simple" else b""
    return b"".join(line + b"\r\n" for line in lines)


def streamed(kind: str, chunks: list[bytes], implementation: str) -> bytes:
    one = IMPLEMENTATIONS[implementation](kind)
    for chunk in chunks:
        one.update(chunk)
    return one.digest()


@pytest.mark.parametrize("implementation", BOTH)
@pytest.mark.parametrize("kind", KINDS)
@given(chunks=st.lists(st.lists(st.sampled_from(PIECES), max_size=6).map(b"".join), max_size=8))
@settings(max_examples=600)
def test_any_division_into_chunks_gives_the_hash_of_the_whole(
    kind: str, implementation: str, chunks: list[bytes]
) -> None:
    """Chunks end anywhere: between CR and LF, within white space, within empty lines."""
    expected = hashlib.sha256(reference(kind, b"".join(chunks))).digest()
    assert streamed(kind, chunks, implementation) == expected


@pytest.mark.parametrize("implementation", BOTH)
@pytest.mark.parametrize("kind", KINDS)
@given(
    body=st.lists(st.sampled_from((*PIECES, b"text")), max_size=40).map(b"".join),
    cuts=st.lists(st.integers(0, 80), max_size=6),
)
@settings(max_examples=600)
def test_it_agrees_with_dkimpy_on_bodies_that_end_in_crlf(
    kind: str, implementation: str, body: bytes, cuts: list[int]
) -> None:
    """dkimpy is the reference verifier; SMTP bodies end in CRLF or are empty."""
    body = body + b"\r\n" if body else body
    rules = canonicalization.ALGORITHMS[kind.encode()]
    edges = [0, *sorted(cuts), len(body)]
    chunks = [body[start:end] for start, end in itertools.pairwise(edges)]
    expected = hashlib.sha256(rules.canonicalize_body(body)).digest()
    assert streamed(kind, [*chunks], implementation) == expected


@pytest.mark.parametrize("implementation", BOTH)
@pytest.mark.parametrize(
    ("kind", "body", "canonical"),
    [
        pytest.param("relaxed", b"", b"", id="relaxed-empty-body-is-empty"),
        pytest.param("simple", b"", b"\r\n", id="simple-empty-body-is-one-crlf"),
        pytest.param("relaxed", b"\r\n\r\n", b"", id="relaxed-only-empty-lines"),
        pytest.param("relaxed", b" \t\r\n \r\n", b"", id="relaxed-only-white-space"),
        pytest.param("simple", b" \r\n\r\n", b" \r\n", id="simple-keeps-white-space"),
        pytest.param("relaxed", b" C \r\nD \t E\r\n\r\n\r\n", b" C\r\nD E\r\n", id="rfc-3.4.5"),
        pytest.param(
            "relaxed", b"a\r\n\r\n\r\nb\r\n", b"a\r\n\r\n\r\nb\r\n", id="inner-lines-stay"
        ),
        pytest.param("relaxed", b"a  ", b"a\r\n", id="relaxed-last-line-without-crlf"),
        pytest.param("simple", b"a", b"a\r\n", id="simple-last-line-without-crlf"),
        pytest.param("simple", b"a\r", b"a\r\r\n", id="bare-cr-at-the-end-is-text"),
        pytest.param("relaxed", b"a\n\r\n", b"a\n\r\n", id="bare-lf-is-text"),
        pytest.param("relaxed", b"a \x0b\r\n", b"a \x0b\r\n", id="vertical-tab-is-text"),
        pytest.param("relaxed", b"a\xa0 \r\n", b"a\xa0\r\n", id="latin-1-no-break-space-is-text"),
    ],
)
def test_canonical_form(kind: str, body: bytes, canonical: bytes, implementation: str) -> None:
    """Each rule of section 3.4 on one body, given whole and octet by octet."""
    expected = hashlib.sha256(canonical).digest()
    assert streamed(kind, [body], implementation) == expected
    octets = [body[at : at + 1] for at in range(len(body))]
    assert streamed(kind, octets, implementation) == expected


@pytest.mark.parametrize("implementation", BOTH)
def test_digest_may_be_asked_in_the_middle(implementation: str) -> None:
    """Asking does not change what later chunks give."""
    one = IMPLEMENTATIONS[implementation]("relaxed")
    for chunk in (b"a ", b" b\r", b"\n\r\n", b"c\r\n"):
        one.update(chunk)
        one.digest()
    assert one.digest() == streamed("relaxed", [b"a  b\r\n\r\nc\r\n"], implementation)


@pytest.mark.parametrize("implementation", BOTH)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "piece",
    [
        pytest.param(b" " * 65535, id="spaces"),
        pytest.param(b"\r\n" * 32767, id="empty-lines"),
        pytest.param(b"\t \r" * 21845, id="white-space-and-bare-cr"),
    ],
)
def test_a_hostile_body_needs_the_memory_of_a_few_chunks(
    kind: str, piece: bytes, implementation: str
) -> None:
    """32 MB of white space or empty lines: held back is a count or an octet, never the octets."""
    one = IMPLEMENTATIONS[implementation](kind)
    tracemalloc.start()
    try:
        for _ in range(512):
            one.update(piece)
        one.update(b"end\r\n")
        one.digest()
        assert tracemalloc.get_traced_memory()[1] < 16 * len(piece)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("implementation", BOTH)
@pytest.mark.parametrize(
    ("body", "longest", "eight_bit", "bare"),
    [
        pytest.param(b"", 0, False, False, id="empty"),
        pytest.param(b"a\r\nbb\r\n", 2, False, False, id="two-lines"),
        pytest.param(b"x" * 998 + b"\r\n", 998, False, False, id="just-fits"),
        pytest.param(b"x" * 999 + b"\r\n", 999, False, False, id="too-long"),
        pytest.param(b"x" * 1200, 1200, False, False, id="long-line-without-end"),
        pytest.param(b"gr\xc3\xbc\xc3\x9fe\r\n", 7, True, False, id="eight-bit"),
        pytest.param(b"a\nb\r\n", 1, False, True, id="bare-lf"),
        pytest.param(b"a\rb\r\n", 3, False, True, id="bare-cr"),
        pytest.param(b"a\r\r\n", 2, False, True, id="cr-before-crlf"),
        pytest.param(b"a\r\nb\r", 2, False, True, id="cr-at-the-very-end"),
    ],
)
def test_the_facts_of_a_body(
    body: bytes, longest: int, eight_bit: bool, bare: bool, implementation: str
) -> None:
    """Each thing that can break a signature later is counted."""
    one = IMPLEMENTATIONS[implementation]("relaxed")
    one.update(body)
    assert one.facts() == BodyFacts(len(body), longest, eight_bit, bare)
    assert isinstance(one.facts(), BodyFacts)
    assert one.size == len(body)


@pytest.mark.parametrize("implementation", BOTH)
@given(
    chunks=st.lists(st.sampled_from([*PIECES, b"text", b"plain text\r\n"]), max_size=8),
    limit=st.integers(0, 12),
)
@example(chunks=[b"plain text\r\n"], limit=10)
@example(chunks=[b"plain text\r\n"], limit=9)
@example(chunks=[b"plain text"], limit=9)
def test_the_digest_of_a_plain_body_is_that_of_any(
    implementation: str, chunks: list[bytes], limit: int
) -> None:
    """And there is one exactly where the facts have nothing that could break a signature."""
    one = IMPLEMENTATIONS[implementation]("relaxed")
    for chunk in chunks:
        one.update(chunk)
        _, longest, is_eight_bit, has_bare_line_ends = BodyFacts(*one.facts())
        is_plain = longest <= limit and not is_eight_bit and not has_bare_line_ends
        assert one.plain_digest(limit) == (one.digest() if is_plain else None)


@pytest.mark.parametrize("implementation", BOTH)
def test_a_part_is_what_it_would_be_alone(implementation: str) -> None:
    """Of octets that hold more than the body; and what is no part of them is none of the body."""
    one = IMPLEMENTATIONS[implementation]("simple")
    octets = b"head\x00a\r\nb\r\ntail"
    for begin, end in ((5, 7), (7, 7), (7, 11)):
        one.update_part(octets, begin, end)
    for begin, end in ((-1, 3), (4, 3), (3, len(octets) + 1)):
        with pytest.raises(ValueError, match="not a part"):
            one.update_part(octets, begin, end)
    assert one.digest() == streamed("simple", [b"a\r\nb\r\n"], implementation)
    assert one.size == 6


@pytest.mark.parametrize("implementation", BOTH)
def test_it_knows_its_canonicalization_and_no_other(implementation: str) -> None:
    """A mistake in the configuration does not become another hash."""
    for kind in KINDS:
        assert IMPLEMENTATIONS[implementation](kind).canonicalization == kind
    for wrong in ("", "relaxed ", "Relaxed", "nofws"):
        with pytest.raises(ValueError, match="no canonicalization"):
            IMPLEMENTATIONS[implementation](wrong)


def test_the_compiled_implementation_is_the_one_that_runs() -> None:
    """Where pymilter could be built, so could this; a build that fails must not pass unseen."""
    assert IMPLEMENTATION == "compiled"
