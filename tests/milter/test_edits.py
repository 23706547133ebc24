"""The packets of edits: the compiled half against plain Python, octet by octet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import sanitizers

from carbonseal.keys.signer import Signature
from carbonseal.milter import edits
from carbonseal.milter.edits import Deeds, compiled, packed, packed_plainly
from carbonseal.policies.disposition import Answer
from carbonseal.policies.signing_request import SignatureRequest

SOURCE = Path(__file__).resolve().parents[2] / "milter/_edits.c"
REQUEST = SignatureRequest("example.com", "s1", "rsa-sha256")
needs_compiled = pytest.mark.skipif(compiled is None, reason="no compiler was at hand")

TEXTS = st.text(st.sampled_from("a @\n\u00e9\u20ac\U0001f600\0\udc80"), max_size=8) | st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=300
)


def deeds(values: list[str], copies: list[str]) -> Deeds:
    """Signatures with these values, and copies to these addresses."""
    signatures = tuple([Signature(value, REQUEST, "", 1, None) for value in values])
    return Deeds(signatures, tuple(copies), Answer.ACCEPT)


@needs_compiled
@given(values=st.lists(TEXTS, max_size=3), copies=st.lists(TEXTS, max_size=3))
def test_both_say_the_same_or_refuse_alike(values: list[str], copies: list[str]) -> None:
    """A text that the MTA would read cut, or that is none, is not sent by either."""
    done = deeds(values, copies)
    try:
        plain = packed_plainly(done)
    except ValueError:
        with pytest.raises(ValueError, match=r"holds a NUL|surrogates not allowed"):
            compiled.packed(done)
    else:
        assert compiled.packed(done) == plain


@pytest.mark.parametrize("pack", [packed_plainly, packed], ids=["plainly", "as-built"])
def test_the_first_signature_is_inserted_last(pack: Any) -> None:
    """So it is the topmost, and the message goes on only behind all that is asked for."""
    said = pack(deeds([" rsa", " ed"], ["a@z"]))
    parts = [b" ed\0", b" rsa\0", b"<a@z>\0NOTIFY=NEVER\0", b"\0\0\0\1c"]
    places = [said.index(part) for part in parts]
    assert places == sorted(places)
    assert said.endswith(parts[-1])
    assert pack(edits.NOTHING) == parts[-1]


@needs_compiled
@pytest.mark.parametrize(
    "odd",
    [(), ((), ()), ([], [], 1), ((), [], 1), ((1,), (), 1), (((),), (), 1), ((), (1,), 1), 1],
)
def test_what_is_no_deed_is_refused(odd: Any) -> None:
    """A mistake of the caller is an exception."""
    with pytest.raises((TypeError, IndexError)):
        compiled.packed(odd)


@pytest.mark.skipif(sanitizers.are_at_work(), reason="this is that run")
def test_no_test_here_makes_the_compiled_half_misbehave(tmp_path: Path) -> None:
    """The same tests, with its memory and its arithmetic watched."""
    sanitizers.run(SOURCE, __file__, tmp_path)
