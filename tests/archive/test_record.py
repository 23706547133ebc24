"""The line of a record: one form whichever encoder makes it, and lossless."""

from __future__ import annotations

import json
import os
import threading
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


def assert_all_differ(made: list[tuple[str, str]]) -> None:
    for one in zip(*made, strict=True):
        assert len(set(one)) == len(made)
    assert {(len(record_id), len(salt)) for record_id, salt in made} == {(26, 32)}


def test_no_two_identities_are_alike() -> None:
    """Neither the ids nor the salts, of one millisecond, in whatever thread they are made."""
    made: list[tuple[str, str]] = []

    def make() -> None:
        for _ in range(1000):
            made.append(record.new_identity(1_800_000_000_000))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8000
    assert_all_differ(made)


def test_no_identity_of_a_child_is_one_of_its_parents() -> None:
    """Randomness that the parent holds ready is its own."""
    made = [record.new_identity(1_800_000_000_000)]
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        theirs = [record.new_identity(1_800_000_000_000) for _ in range(400)]
        with open(writable, "w", encoding="ascii") as stream:
            json.dump(theirs, stream)
        os._exit(0)
    os.close(writable)
    with open(readable, encoding="ascii") as stream:
        made += [(record_id, salt) for record_id, salt in json.load(stream)]
    os.waitpid(child, 0)
    made += [record.new_identity(1_800_000_000_000) for _ in range(400)]
    assert len(made) == 801
    assert_all_differ(made)
