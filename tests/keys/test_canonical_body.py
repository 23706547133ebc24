"""The compiled body hash and its twin in Python cannot be told apart."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import sanitizers

from carbonseal.keys import _body_hash, body_hash
from carbonseal.keys.body_hash import PlainBodyHash

SOURCE = sanitizers.ROOT / "keys/_body_hash.c"
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


def assert_twins(relaxed: bool, chunks: list[bytes]) -> None:
    """After every chunk, and however it is handed over."""
    kind = "relaxed" if relaxed else "simple"
    compiled, part, python = (
        _body_hash.BodyHash(kind),
        _body_hash.BodyHash(kind),
        PlainBodyHash(kind),
    )
    for chunk in chunks:
        compiled.update(chunk)
        part.update_part(b"\r" + chunk + b"\n", 1, 1 + len(chunk))
        python.update(chunk)
        assert compiled.digest() == part.digest() == python.digest()
        assert compiled.facts() == part.facts() == python.facts()
        assert compiled.size == python.size
    # And what is asked for once only, at the end.
    unasked = _body_hash.BodyHash(kind)
    for chunk in chunks:
        unasked.update(chunk)
    assert (unasked.digest(), unasked.facts()) == (python.digest(), python.facts())


@pytest.mark.parametrize("relaxed", [True, False])
@given(chunks=CHUNKS)
@settings(max_examples=EXAMPLES, deadline=None)
def test_both_hash_and_measure_the_same_after_every_chunk(
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
    """While full chunks are hashed others may run, and nothing is copied when nothing changes."""
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


@pytest.mark.parametrize("lines", [1, 3, 4, 5, 511, 512, 513, 1024, 100_000])
@pytest.mark.parametrize("end", [b"b\r", b" \r", b"\r", b"b\r\n"])
def test_empty_lines_that_were_held_back_all_count_when_text_follows(
    lines: int, end: bytes
) -> None:
    """A number was held back, and all of it comes out."""
    body = b"a" + b"\r\n" * lines + end
    one = _body_hash.BodyHash("simple")
    for chunk in (body[:1], body[1 : -len(end)], end):
        one.update(chunk)
    assert one.digest() == hashlib.sha256(body.removesuffix(b"\r\n") + b"\r\n").digest()
    assert_twins(True, [body[:1], body[1 : -len(end)], end])


def test_the_compiled_one_refuses_what_is_no_octets() -> None:
    """A mistake of the caller is an exception, not a crash."""
    one = _body_hash.BodyHash("relaxed")
    for wrong in ("text", None, bytearray(b"changes"), memoryview(b"view")):
        with pytest.raises(TypeError):
            one.update(wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            one.update_part(wrong, 0, 0)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        one.update_part(b"no end", 0)  # type: ignore[call-arg]
    for arguments in ((), (b"relaxed",), ("relaxed", 1)):
        with pytest.raises(TypeError):
            _body_hash.BodyHash(*arguments)  # type: ignore[arg-type]
    assert one.facts() == (0, 0, False, False)


def test_bodies_in_several_threads_are_hashed_each_for_itself() -> None:
    """Full chunks, while which others run."""
    chunks = [bytes([65 + number]) * FULL_CHUNK for number in range(4)]
    found: dict[int, bytes] = {}

    def hash_one(number: int) -> None:
        one = _body_hash.BodyHash("simple")
        for _ in range(20):
            one.update(chunks[number])
        found[number] = one.digest()

    threads = [threading.Thread(target=hash_one, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = [hashlib.sha256(chunk * 20 + b"\r\n").digest() for chunk in chunks]
    assert [found[number] for number in range(4)] == expected


@pytest.mark.skipif(UNDER_SANITIZERS, reason="this is the run that it starts")
@pytest.mark.parametrize(
    "flags", [pytest.param([], id="sse2"), pytest.param(["-U__SSE2__"], id="portable")]
)
def test_the_compiled_one_stays_within_its_memory(flags: list[str], tmp_path: Path) -> None:
    """All of the above once more under the sanitizers, and for processors without SSE2."""
    sanitizers.run(SOURCE, __file__, tmp_path, *flags, "-lcrypto")


@pytest.mark.skipif(UNDER_SANITIZERS, reason="this is the run that it starts")
def test_the_twin_is_what_an_installation_without_a_compiler_runs() -> None:
    """Both are always there to be compared; the last one is used."""
    assert list(body_hash.IMPLEMENTATIONS.items()) == [
        ("python", PlainBodyHash),
        ("compiled", _body_hash.BodyHash),
    ]
    assert body_hash.BodyHash is _body_hash.BodyHash
