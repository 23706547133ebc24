"""Signatures that are verified later: none counts as verified that was not."""

from __future__ import annotations

import pytest

from carbonseal.keys import proofs
from carbonseal.keys.proofs import Proofs

DIGEST = bytes(range(32))
GOOD, BAD = DIGEST + b"good", DIGEST + b"bad"


class Key:
    """A key that accepts one signature, and counts how often it is asked."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.asked: list[tuple[bytes, bytes]] = []
        self.fault = fault

    def verifies(self, digest: bytes, signature: bytes) -> bool:
        self.asked.append((digest, signature))
        if self.fault is not None:
            raise self.fault
        return signature == b"good"


@pytest.mark.parametrize("in_time", [True, False], ids=["in-time", "when-it-is-asked-for"])
def test_what_verifies_holds_and_nothing_else_does(in_time: bool) -> None:
    """With its own digest and its own signature."""
    key, some = Key(), Proofs()
    some.leave(GOOD, key)
    some.leave(BAD, key)
    if in_time:
        some.establish()
        assert key.asked == [(DIGEST, b"good"), (DIGEST, b"bad")]
    assert some.holds(GOOD, key)
    assert not some.holds(BAD, key)


def test_what_was_established_is_not_verified_again() -> None:
    """That is what it was done in time for; and what was asked about early is not done later."""
    key, some = Key(), Proofs()
    some.leave(GOOD, key)
    some.establish()
    assert some.holds(GOOD, key)
    assert len(key.asked) == 1
    some.leave(GOOD, key)
    assert some.holds(GOOD, key)
    some.establish()
    assert len(key.asked) == 2


@pytest.mark.parametrize("in_time", [True, False], ids=["in-time", "when-it-is-asked-for"])
def test_messages_that_are_alike_within_a_second_all_have_their_signature(in_time: bool) -> None:
    """RSA signs the same digest with the same octets: one proof must do for all, or be repeated."""
    key, some = Key(), Proofs()
    for _ in range(5):
        some.leave(GOOD, key)
    if in_time:
        some.establish()
    assert [some.holds(GOOD, key) for _ in range(5)] == [True] * 5


@pytest.mark.parametrize(("unproven", "answer"), [(GOOD, True), (BAD, False)], ids=["good", "bad"])
def test_of_what_was_never_left_the_key_decides(unproven: bytes, answer: bool) -> None:
    """Nobody is told that a signature is none because it was forgotten."""
    assert Proofs().holds(unproven, Key()) is answer


def test_a_fault_while_verifying_is_no_proof_and_harms_no_other() -> None:
    """OpenSSL may fail in any way."""
    broken, some = Key(RuntimeError("no memory")), Proofs()
    some.leave(BAD, broken)
    some.leave(GOOD, Key())
    some.establish()
    assert not some.holds(BAD, broken)
    assert some.holds(GOOD, broken)  # of which it was not asked again


def test_messages_that_were_never_answered_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections break between the signature and the answer; their proofs do not pile up."""
    monkeypatch.setattr(proofs, "_MOST", 10)
    some, key = Proofs(), Key()
    for number in range(100):
        some.leave(bytes([number] * 32) + b"good", key)
        some.establish()
        assert len(some._proven) <= 12
    for number in range(100):
        some.leave(bytes([number] * 32) + b"good", key)
        assert len(some._left) <= 12
    # And those that come to their end after all have it all the same.
    assert all(some.holds(bytes([number] * 32) + b"good", key) for number in range(100))
