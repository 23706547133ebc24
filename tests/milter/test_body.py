"""What is measured while a body streams by does not depend on where its chunks end."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbonseal.milter.body import Body

PIECES = st.sampled_from([b"\r\n", b"\n", b"\r", b"text", b" ", b"\xe4", b"x" * 999, b""])


def measured(chunks: list[bytes]) -> Body:
    body = Body("relaxed")
    for chunk in chunks:
        body.add(chunk)
    return body


@given(st.lists(PIECES, max_size=30), st.integers(1, 50))
def test_chunk_borders_mean_nothing(pieces: list[bytes], step: int) -> None:
    """CR and LF, long lines and 8-bit octets are found wherever libmilter cuts."""
    whole = b"".join(pieces)
    cut = [whole[at : at + step] for at in range(0, len(whole), step)]
    assert measured(cut).facts() == measured([whole]).facts()
    assert measured(cut).digest() == measured([whole]).digest()


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
def test_the_facts_of_a_body(body: bytes, longest: int, eight_bit: bool, bare: bool) -> None:
    """Each thing that can break a signature later is counted."""
    facts = measured([body]).facts()
    assert facts.longest_line == longest
    assert facts.is_eight_bit == eight_bit
    assert facts.has_bare_line_ends == bare
    assert facts.size == len(body)


def test_a_large_body_leaves_nothing_behind_but_its_digest() -> None:
    """The body is hashed as it passes and never kept."""
    body = Body("simple")
    reference = hashlib.sha256()
    chunk = b"line of text\r\n" * 4000
    for _ in range(200):
        body.add(chunk)
        reference.update(chunk)
    assert base64.b64encode(body.digest()) == base64.b64encode(reference.digest())
    assert body.size == 200 * len(chunk)
