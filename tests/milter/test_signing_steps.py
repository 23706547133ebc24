"""The signing steps take a short way for the usual message; nobody can tell by their outcome."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from hypothesis import example, given
from hypothesis import strategies as st

from carbonseal.keys.keyring import Keyring, SigningKey
from carbonseal.milter import seal
from carbonseal.milter.header_section import MAX_FIELDS
from carbonseal.milter.transaction import Connection, Transaction
from carbonseal.policies import signing_request, survival
from carbonseal.policies.disposition import FailureClass
from carbonseal.policies.envelope import Client
from carbonseal.policies.reason import Reason
from carbonseal.policies.signing import SigningPlan
from carbonseal.policies.signing_request import KeyFacts, SignatureRequest

_KEYS = tuple(
    SigningKey(
        KeyFacts("example.com", selector, signing_request.ED25519),
        ed25519.Ed25519PrivateKey.generate(),
    )
    for selector in ("one", "two")
)
_RING = Keyring({"example.com": _KEYS})
_REQUESTS = tuple(
    SignatureRequest("example.com", key.facts.selector, key.facts.algorithm, fields=("from", "x"))
    for key in _KEYS
)
_NOW = 1_795_305_600.5
_WHOLE = b" v=1; a=rsa-sha256; b=x; bh=x; d=example.com; h=from; s=x"
_FIELDS = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(["X", "x", "Y", "DKIM-Signature", "dkim-signature"]),
            st.sampled_from([b" a", b" a\n b", b" a\x0c", _WHOLE, _WHOLE[:9]])
            | st.sampled_from([-1, 0, 1]).map(lambda more: b"a" * (survival.LINE_LIMIT - 2 + more)),
        ),
        st.just(("X", b" plain")),
    ),
    max_size=4,
)
_BODIES = st.lists(
    st.sampled_from([b"text\r\n", b"\r\n", b"\n", b"\r", b"\xc3\xa9"])
    | st.sampled_from([0, 1]).map(lambda more: b"a" * (survival.LINE_LIMIT + more) + b"\r\n"),
    max_size=3,
).map(b"".join)


def _message(fields: list[tuple[str, bytes]], body: bytes) -> Transaction:
    transaction = Transaction(
        Connection(Client("", 0, "", ""), "", ""), (b"<a@example.com>",), None, "relaxed"
    )
    for name, value in [("From", b" a@example.com"), *fields]:
        transaction.add_field(name, value)
    transaction.body.update(body)
    return transaction


def _plan(count: int) -> SigningPlan:
    return SigningPlan(_REQUESTS[:count], (Reason("signing", "example.com"),), None)


# Each thing that speaks against a signature, and nothing else.
@example(fields=[("X", b"a" * (survival.LINE_LIMIT - 1))], body=b"", count=1)
@example(fields=[("dkim-SIGNATURE", b" v=1")], body=b"", count=1)
@example(fields=[], body=b"a" * (survival.LINE_LIMIT + 1) + b"\r\n", count=1)
@example(fields=[], body=b"\xc3\xa9\r\n", count=1)
@example(fields=[], body=b"a\n", count=1)
@given(fields=_FIELDS, body=_BODIES, count=st.integers(0, 2))
def test_the_short_way_ends_as_the_long_one(
    fields: list[tuple[str, bytes]], body: bytes, count: int
) -> None:
    """Where nobody was asked what speaks against a signature, nothing would have been said."""
    transaction, plan = _message(fields, body), _plan(count)
    signatures, reasons, failure = seal.sign(plan, transaction, _RING, _NOW)
    others = [value for name, value in fields if name.lower() == "dkim-signature"]
    breaker = seal.breaks_on_its_way(plan, transaction)
    if not count:
        assert (signatures, reasons, failure) == ((), plan.reasons, None)
    elif breaker is not None:
        expected = ((), (breaker,), FailureClass.TRANSFORMATION)
        assert (signatures, reasons, failure) == expected
    else:
        dangers = survival.endangered_by(transaction.body.facts(), others)
        assert list(reasons[: len(dangers)]) == dangers
        if any(name in ("X", "x") and b"\x0c" in value for name, value in fields):
            assert failure is FailureClass.TRANSFORMATION
            assert [one.code for one in reasons[len(dangers) :]] == ["disputed-octets"] * count
        else:
            assert failure is None
            assert reasons[len(dangers) :] == tuple(one.signed for one in plan.requests)
            assert tuple(one.request for one in signatures) == plan.requests
            assert {one.signed_at for one in signatures} == {int(_NOW)}


def test_what_has_more_fields_than_are_kept_is_not_signed() -> None:
    """However harmless those are that were kept."""
    transaction = _message([("X", b" a")] * MAX_FIELDS, b"text\r\n")
    _, reasons, failure = seal.sign(_plan(1), transaction, _RING, _NOW)
    assert reasons == (Reason("header-too-large", str(MAX_FIELDS)),)
    assert failure is FailureClass.HEADER_TOO_LARGE


def test_of_the_usual_message_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is what the short way is for."""
    asked = Mock(side_effect=AssertionError)
    monkeypatch.setattr(survival, "broken_by", asked)
    monkeypatch.setattr(survival, "endangered_by", asked)
    _, reasons, _ = seal.sign(_plan(1), _message([("X", b" a")], b"text\r\n"), _RING, _NOW)
    assert reasons == (_REQUESTS[0].signed,)
    assert not asked.mock_calls


@pytest.mark.parametrize("is_ours_first", [True, False])
def test_two_keys_with_the_same_facts_are_the_first_of_them(is_ours_first: bool) -> None:
    """As they are for whoever goes through the keys of an SDID; and under another SDID is none."""
    twin = SigningKey(_KEYS[0].facts, ed25519.Ed25519PrivateKey.generate())
    some = (*_KEYS, twin) if is_ours_first else (twin, *_KEYS)
    assert Keyring({"example.com": some}).by_facts[_KEYS[0].facts] is some[0]
    assert Keyring({"example.org": some}).by_facts == {}
