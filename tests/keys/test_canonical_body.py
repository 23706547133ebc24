"""The compiled canonical body and its twin in Python cannot be told apart."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import sanitizers

from carbonseal.keys import canonical_body
from carbonseal.keys.body_hash import IMPLEMENTATIONS

SOURCE = sanitizers.ROOT / "keys/_canonical_body.c"
FULL_CHUNK = 65_535

UNDER_SANITIZERS = sanitizers.are_at_work()
EXAMPLES = 60 if UNDER_SANITIZERS else 500

# All that a rule is about, next to text, in numbers around the 64 octets that are looked at once.
PIECES = [b"\r\n", b"\r", b"\n", b" ", b"\t", b" \t", b" \r\n", b"text", b"a ", b"\xa0", b"\0"]
TIMES = [1, 1, 1, 1, 2, 3, 8, 9, 31, 32, 33, 62, 63, 64, 65, 66, 127, 128, 1024]
CHUNKS = st.lists(
    st.lists(
        st.builds(bytes.__mul__, st.sampled_from(PIECES), st.sampled_from(TIMES)), max_size=6
    ).map(b"".join),
    max_size=6,
)


class Watched:
    """One canonical body with what it fed, and in between what it measured."""

    def __init__(self, implementation: str, relaxed: bool) -> None:
        self._body = IMPLEMENTATIONS[implementation](relaxed=relaxed)
        self._fed = bytearray()

    def take(self, chunk: bytes) -> tuple[bytes, bytes, tuple[int, int, bool, bool]]:
        """What was fed up to now, what the end would add, and the facts."""
        self._body.take(chunk, self._fed.extend)
        end = bytearray()
        self._body.finish(end.extend)
        return bytes(self._fed), bytes(end), self._body.facts()


def assert_twins(relaxed: bool, chunks: list[bytes]) -> None:
    compiled, python = Watched("compiled", relaxed), Watched("python", relaxed)
    for chunk in chunks:
        assert compiled.take(chunk) == python.take(chunk)


@pytest.mark.parametrize("relaxed", [True, False])
@given(chunks=CHUNKS)
@settings(max_examples=EXAMPLES, deadline=None)
def test_both_feed_and_measure_the_same_after_every_chunk(
    relaxed: bool, chunks: list[bytes]
) -> None:
    """Whatever the octets and wherever the chunks end."""
    assert_twins(relaxed, chunks)


@pytest.mark.parametrize("relaxed", [True, False])
@given(body=st.binary(max_size=600), step=st.integers(1, 200))
@settings(max_examples=EXAMPLES // 2, deadline=None)
def test_both_agree_on_arbitrary_octets(relaxed: bool, body: bytes, step: int) -> None:
    """No octet has a meaning that only one of them knows."""
    assert_twins(relaxed, [body[at : at + step] for at in range(0, len(body), step)])


@pytest.mark.parametrize("relaxed", [True, False])
@given(
    piece=st.lists(st.sampled_from(PIECES), min_size=1, max_size=20).map(b"".join),
    ends=st.lists(st.sampled_from([b"", *PIECES]), min_size=4, max_size=4),
)
@example(piece=b"text", ends=[b"", b"\r", b"\n", b" \r"])
@settings(max_examples=EXAMPLES // 10, deadline=None)
def test_both_agree_on_full_chunks(relaxed: bool, piece: bytes, ends: list[bytes]) -> None:
    """Full chunks are handed to the hash whole, and without a copy when nothing changes."""
    full = piece * (FULL_CHUNK // len(piece) + 1)
    assert_twins(relaxed, [ends[0] + full + ends[1], ends[2] + full + ends[3], b"end\r\n"])


@pytest.mark.parametrize("relaxed", [True, False])
def test_any_three_octets_in_a_row_across_any_border(relaxed: bool) -> None:
    """Every triple of octets with a meaning, at every place of a block, cut at every place."""
    meaning = (b" ", b"\t", b"\r", b"\n", b"x")
    triples = [a + b + c for a in meaning for b in meaning for c in meaning]
    for triple in triples:
        for before in (0, 61, 62, 63):
            body = b"y" * before + triple
            for cut in range(before, len(body) + 1):
                assert_twins(relaxed, [body[:cut], body[cut:], b"z"])


@pytest.mark.parametrize("implementation", ["compiled", "python"])
def test_more_empty_lines_than_fit_a_piece_are_fed_when_text_follows(implementation: str) -> None:
    """A count was held back, and all of it comes out."""
    watched = Watched(implementation, relaxed=True)
    for lines in (1, 1022, 1023, 1024, 2046, 100_000):
        watched.take(b"a" + b"\r\n" * lines)
    fed, end, _ = watched.take(b"b\r")
    counts = (1, 1022, 1023, 1024, 2046, 100_000)
    assert fed == b"".join(b"a" + b"\r\n" * lines for lines in counts) + b"b"
    assert end == b"\r\r\n"


@pytest.mark.parametrize("lines", [1, 1022, 1023, 1024, 2046])
def test_an_end_held_back_after_many_empty_lines_comes_whole(lines: int) -> None:
    """Empty lines, SP CR, and the CRLF that a body ends with: the most that is fed at once."""
    watched = Watched("compiled", relaxed=True)
    _, end, _ = watched.take(b"a" + b"\r\n" * lines + b" \r")
    assert end == b"\r\n" * lines + b" \r\r\n"


@pytest.mark.parametrize("implementation", ["compiled", "python"])
def test_what_the_hash_raises_comes_through(implementation: str) -> None:
    """Nothing is swallowed, whatever is being fed."""

    def fail(octets: bytes | memoryview) -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        IMPLEMENTATIONS[implementation](relaxed=False).finish(fail)
    for body in (b"a", b"a\r\n  b", b"a" * FULL_CHUNK, b"\t" + b"a" * FULL_CHUNK):
        one = IMPLEMENTATIONS[implementation](relaxed=True)
        with pytest.raises(MemoryError):
            one.take(body, fail)


def test_the_compiled_one_refuses_what_is_no_octets() -> None:
    """A mistake of the caller is an exception, not a crash."""
    one = IMPLEMENTATIONS["compiled"](relaxed=True)
    for wrong in ("text", None, bytearray(b"changes"), memoryview(b"view")):
        with pytest.raises(TypeError):
            one.take(wrong, bytearray().extend)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        one.take(b"no feed")  # type: ignore[call-arg]
    assert one.facts() == (0, 0, False, False)


@pytest.mark.skipif(UNDER_SANITIZERS, reason="this is the run that it starts")
@pytest.mark.parametrize(
    "flags", [pytest.param([], id="sse2"), pytest.param(["-U__SSE2__"], id="portable")]
)
def test_the_compiled_one_stays_within_its_memory(flags: list[str], tmp_path: Path) -> None:
    """All of the above once more under the sanitizers, and for processors without SSE2."""
    sanitizers.run(SOURCE, __file__, tmp_path, *flags)


def test_the_twin_is_what_an_installation_without_a_compiler_runs() -> None:
    """Both are always there to be compared; the last one is used."""
    assert list(IMPLEMENTATIONS) == ["python", "compiled"]
    assert IMPLEMENTATIONS["python"] is canonical_body.CanonicalBody
