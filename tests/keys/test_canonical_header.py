"""Our canonical header section against dkimpy's, and what happens when they disagree."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st
from support import sanitizers

from carbonseal.keys import body_hash, canonical_header, keyring, signer
from carbonseal.keys.canonical_header import Disputed, NoFrom, Selection, compiled
from carbonseal.policies import signing_request
from carbonseal.policies.signing_request import SignatureRequest

# Few names, so that they repeat; every octet that may matter, so that values get odd.
_NAMES = st.sampled_from([b"From", b"from", b"FROM", b"To", b"Subject", b"X-Other", b"Fro", b"X"])
_PIECES = st.sampled_from(
    [
        b" ",
        b"\t",
        b"a",
        b"b c",
        b":",
        b";",
        b"=",
        b"\n ",
        b"\n\t",
        b"\r\n ",
        b"  ",
        b"\xff",
        b"\x85",
    ]
)
_ODD = st.sampled_from([b"\0", b"\r", b"\n", b"\r\n", b"\x0b", b"\x0c", b" ", b"a"])
_VALUES = st.lists(_PIECES, max_size=8).map(b"".join)
_FIELDS = st.lists(st.tuples(_NAMES, _VALUES), max_size=12)
_LISTED = st.lists(st.sampled_from(["from", "to", "subject", "x", "absent"]), max_size=12)


@given(fields=_FIELDS, listed=_LISTED, form=st.sampled_from(["relaxed", "simple"]))
def test_it_is_what_dkimpy_makes_of_the_same_fields(
    fields: list[tuple[bytes, bytes]], listed: list[str], form: str
) -> None:
    """Selection from the bottom up, oversigning, folding, white space, any octet above 127."""
    fields = [*fields, (b"From", b" a@example.com")]
    selection = Selection.of(["from", *listed], form)
    assert canonical_header.canonical(fields, selection) == canonical_header.by_dkimpy(
        fields, selection
    )


@pytest.mark.parametrize(
    ("name", "value", "forms"),
    [
        pytest.param(b"To", b" a\x00b", {"relaxed", "simple"}, id="nul"),
        pytest.param(b"To", b" a\rb", {"relaxed", "simple"}, id="bare-cr"),
        pytest.param(b"To", b" a\r", {"relaxed", "simple"}, id="cr-at-the-end"),
        pytest.param(b"To", b" a\nb", {"relaxed", "simple"}, id="fold-without-white-space"),
        pytest.param(b"To", b" a\n", {"relaxed", "simple"}, id="line-end-at-the-end"),
        pytest.param(b"To", b" a\r\nb", {"relaxed", "simple"}, id="crlf-without-white-space"),
        pytest.param(b"To", b" a\x0b", {"relaxed"}, id="vertical-tab"),
        pytest.param(b"To", b" a\x0c", {"relaxed"}, id="form-feed"),
        pytest.param(b"To ", b" a", {"relaxed", "simple"}, id="space-before-the-colon"),
        pytest.param(b"X-Other", b" a\x00\rb", set(), id="not-signed"),
        pytest.param(b"To", b" a\r\n b", set(), id="crlf-folding"),
        pytest.param(b"To", b" a\n\tb\n c", set(), id="lf-folding"),
    ],
)
def test_what_verifiers_read_differently_is_refused(
    name: bytes, value: bytes, forms: set[str]
) -> None:
    """`forms` are the canonicalizations under which the field is refused, by its own name."""
    # The next value begins with a space: the border between two fields is no fold.
    fields = [(b"From", b" a@example.com"), (name, value), (b"To", b" b")]
    for form in ("relaxed", "simple"):
        selection = Selection.of(["from", "to", "to"], form)
        if form in forms:
            with pytest.raises(Disputed, match=f"^{name.decode().strip()}$"):
                canonical_header.canonical(fields, selection)
        else:
            assert canonical_header.canonical(fields, selection)


def test_a_message_without_from_is_refused() -> None:
    """RFC 6376 section 5.4: the From field must be signed."""
    with pytest.raises(NoFrom):
        canonical_header.canonical([(b"To", b" a")], Selection.of(["from", "to"], "relaxed"))


@given(
    fields=st.lists(
        st.tuples(
            st.one_of(
                _NAMES,
                st.sampled_from(
                    [b"From ", b"to\t", b"", b"F" * 300, b"X" * 80, b"\xff", b"\xc3\xa9"]
                ),
            ),
            st.lists(st.one_of(_PIECES, _ODD), max_size=8).map(b"".join),
        ),
        max_size=12,
    ),
    listed=st.lists(
        st.sampled_from(["from", "to", "subject", "x", "x" * 80, "x" * 256]), max_size=12
    ),
    form=st.sampled_from(["relaxed", "simple"]),
    is_text=st.booleans(),
)
def test_the_compiled_half_answers_as_the_other_or_not_at_all(
    fields: list[tuple[bytes, bytes]], listed: list[str], form: str, is_text: bool
) -> None:
    """Whatever is in the fields, names as text or not; and it answers wherever nothing is odd."""
    selection = Selection.of(listed, form)
    named: list[tuple[str | bytes, bytes]] = [
        (name.decode("utf-8", "surrogateescape") if is_text else name, value)
        for name, value in fields
    ]
    answer = compiled(named, selection.places, selection.order, selection.is_relaxed)
    assert canonical_header.octets(named) == fields
    try:
        expected = canonical_header.plainly(fields, selection)
    except (Disputed, NoFrom):
        assert answer is None
        return
    assert answer in (None, expected)
    signed = [(name, value) for name, value in fields if name.lower() in selection.wanted]
    is_odd = any(set(value) & set(b"\0\x0b\x0c\r") for _, value in signed)
    is_odd |= any(name[-1:] in (b" ", b"\t") for name, _ in fields)
    is_no_text = is_text and any(name == b"\xff" for name, _ in fields)
    assert answer is not None or is_odd or is_no_text or "x" * 256 in listed


def test_as_many_names_as_there_may_be_are_told_apart() -> None:
    """The compiled half is asked about up to 255 names, Python about more."""
    for count in (254, 255, 256, 300):
        names = [f"x-{number}" for number in range(1, count)]
        selection = Selection.of([*names, "from", *names], "relaxed")
        assert bool(selection.order) == (count <= 255)
        fields = [(name.upper().encode(), b" %d" % at) for at, name in enumerate(names * 2)]
        fields.append((b"From", b" a@example.com"))
        assert canonical_header.canonical(fields, selection) == canonical_header.plainly(
            fields, selection
        )


def test_the_compiled_half_takes_no_other_types() -> None:
    """What is no list of pairs of bytes is left to Python; a mistake of the caller is a fault."""
    places, order = b"\x04from", b"\0"
    for fields in ((), [()], [(b"From",)], [(b"From", "a")], [(1, b"a")], [None], None):
        assert compiled(fields, places, order, True) is None
    fields = [(b"From", b"a"), (b"To", b"b")]
    assert compiled(fields, places, b"\0\xff\1", True) == b"from:a\r\n"  # as if absent
    assert compiled(fields, b"\x04from\x02to", order, True) is None  # a name without a number
    for cut in (b"\x04fro", b"\x04from\x02t", b"\x04from\xff", b"\0" * 9, b""):
        assert compiled([*fields, (b"", b"")], cut, order, True) in (None, b"from:a\r\n")
    for wrong in (None, "from", {b"from": 0}):
        with pytest.raises(TypeError):
            compiled([], wrong, order, True)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            compiled([], places, wrong, True)  # type: ignore[arg-type]


@pytest.mark.skipif(sanitizers.are_at_work(), reason="this is the run that it starts")
def test_the_compiled_half_stays_within_its_memory(tmp_path: Path) -> None:
    """All of this once more under the sanitizers."""
    source = sanitizers.ROOT / "keys/_canonical_header.c"
    sanitizers.run(source, __file__, tmp_path)


def _in_another_order(names: Sequence[str], form: str) -> Selection:
    selection = _SELECTION(names, form)
    return dataclasses.replace(selection, order=selection.order[::-1])


_SELECTION = Selection.of


@pytest.mark.parametrize("half", ["compiled key", "compiled", "in Python"])
def test_a_disagreement_with_dkimpy_ends_in_no_signature(
    signing_keys: Mapping[str, keyring.SigningKey],
    rsa_private: rsa.RSAPrivateKey,
    monkeypatch: pytest.MonkeyPatch,
    half: str,
) -> None:
    """The first message with a request is canonicalized twice; a defect of ours signs nothing."""
    request = SignatureRequest("example.com", "r", signing_request.RSA, fields=("from", "to"))
    key = keyring.SigningKey(request.key, rsa_private)  # not held by the compiled half
    if half == "compiled key":
        key = signing_keys[signing_request.RSA]
        monkeypatch.setattr(Selection, "of", _in_another_order)
        monkeypatch.setattr(canonical_header, "plainly", None)
    elif half == "compiled":
        monkeypatch.setattr(canonical_header, "compiled", lambda *_: b"from: a@example.com\r\n")
    else:
        monkeypatch.setattr(canonical_header, "compiled", lambda *_: None)
        monkeypatch.setattr(canonical_header, "plainly", lambda *_: b"from:a@example.com\r\n")
    fields = [(b"From", b" a@example.com"), (b"To", b" two  spaces")]
    digest = body_hash.BodyHash("relaxed").digest()
    signer._plans.clear()
    signer._plan.cache_clear()
    try:
        for _ in range(2):
            with pytest.raises(signer.SignatureFailed, match="disagree") as refusal:
                signer.sign(fields, digest, request, key, now=1795262400)
            assert refusal.value.code == "self-check-failed"
    finally:
        signer._plans.clear()
        signer._plan.cache_clear()
