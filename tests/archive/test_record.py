"""The line of a record: one form whichever encoder makes it, and lossless."""

from __future__ import annotations

import json
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbonseal.milter.archive import record
from carbonseal.policies.boundary import CrossingKind

# Everything the wire may put into a text: lone surrogates stand for octets that are no UTF-8.
_OCTETS = st.binary(max_size=20).map(lambda octets: octets.decode("utf-8", "surrogateescape"))
_TEXT = st.text(max_size=20) | _OCTETS | st.text('\x00\x1f\x7f\x80\\"/\u2028', max_size=8)
_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(content=st.dictionaries(_TEXT, _VALUE, max_size=6))
def test_a_line_is_ascii_json_and_reads_back(content: dict[str, Any]) -> None:
    """The same octets whichever encoder makes them, with the checksum at the end."""
    line = record.encode(content)
    assert record.parse(line) == content
    plain = json.dumps(content, separators=(",", ":"))[:-1].encode("ascii")
    plain = plain.replace(b"\\u007f", b"\x7f") if line.count(b"\x7f") else plain  # DEL is ASCII
    assert line == b'%b,"crc32":"%08x"}\n' % (plain, zlib.crc32(plain))
    assert line.isascii()
    assert line.count(b"\n") == 1


def test_words_of_an_enumeration_and_tuples_are_plain_json() -> None:
    """What the policies return needs no conversion."""
    line = record.encode({"crossing": CrossingKind.OUTBOUND, "copies": ("a@example.com",)})
    assert record.parse(line) == {"crossing": "outbound", "copies": ["a@example.com"]}


@pytest.mark.parametrize("depth", [2_000, 100_000])
def test_a_line_nested_without_end_is_refused(depth: int) -> None:
    """A damaged or foreign file cannot stop the reader."""
    body = b'{"a":' + b"[" * depth + b"]" * depth
    line = b'%b,"crc32":"%08x"}\n' % (body, zlib.crc32(body))
    with pytest.raises(record.BadLine, match="nested"):
        record.parse(line)


def test_a_line_that_is_no_json_is_refused() -> None:
    """A checksum that fits proves that nothing was lost, not that it is a record."""
    with pytest.raises(ValueError, match="Expecting value"):
        record.parse(b'nothing,"crc32":"%08x"}\n' % zlib.crc32(b"nothing"))
