"""What running workers hold: one broken key takes nothing else away, changes are seen quickly."""

from __future__ import annotations

import os
import pickle
import traceback
from datetime import timedelta
from typing import Any

import pytest

from carbonseal.keys import generate, keyring, store
from carbonseal.policies import errors
from carbonseal.policies.signing_request import KeyFacts

from .conftest import NOW, Keep

LATER = NOW + timedelta(days=90)


class Clock:
    """A monotonic clock that a test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def selectors(ring: keyring.Keyring, sdid: str = "example.com") -> list[str]:
    return [key.facts.selector for key in ring.signing_keys(sdid)]


def test_active_keys_are_held_rsa_first(
    shelf: store.Store, keep: Keep, rsa_private: Any, ed25519_private: Any, rsa_other: Any
) -> None:
    """Keys that are only generated do not sign."""
    keep(ed25519_private, "e1")
    keep(rsa_private, "r1")
    keep(rsa_other, "waiting", active=False)
    ring = keyring.load(shelf.directory)
    assert selectors(ring) == ["r1", "e1"]
    assert ring.facts("example.com")[0] == KeyFacts("example.com", "r1", "rsa-sha256")
    assert ring.find(KeyFacts("example.com", "e1", "ed25519-sha256")) is not None
    assert ring.find(KeyFacts("example.com", "e1", "rsa-sha256")) is None
    assert ring.sdids == {"example.com"}
    assert ring.signing_keys("example.net") == ()
    assert not ring.problems


BREAKAGES = [
    pytest.param(lambda path, other: path.unlink(), "gone", id="missing"),
    pytest.param(lambda path, other: path.write_bytes(b""), "no private key", id="empty"),
    pytest.param(lambda path, other: path.write_bytes(other), "not the key", id="another-key"),
    pytest.param(lambda path, other: path.chmod(0o644), "chmod 600", id="readable-by-all"),
    pytest.param(lambda path, other: path.chmod(0o640), "chmod 600", id="readable-by-group"),
    pytest.param(lambda path, other: path.parent.chmod(0o777), "chmod o-w", id="open-directory"),
    pytest.param(
        lambda path, other: (
            path.rename(path.with_suffix(".x")),
            path.symlink_to(f"{path.stem}.x"),
        ),
        "cannot be read",
        id="symbolic-link",
    ),
    pytest.param(
        lambda path, other: (path.unlink(), path.mkdir()), "no regular file", id="directory"
    ),
    pytest.param(
        lambda path, other: (path.unlink(), os.mkfifo(path)), "no regular file", id="fifo"
    ),
    pytest.param(
        lambda path, other: path.with_suffix(".json").write_bytes(b"{"),
        "no key record",
        id="record",
    ),
]


@pytest.mark.parametrize(("break_key", "says"), BREAKAGES)
def test_one_broken_key_takes_nothing_else_away(
    break_key: Any,
    says: str,
    shelf: store.Store,
    keep: Keep,
    rsa_private: Any,
    rsa_other: Any,
) -> None:
    """Its SDID has one sentence with path and remedy; the other SDID signs on."""
    keep(rsa_private, "s1")
    keep(rsa_private, "s1", sdid="example.net")
    break_key(shelf.private_path("example.com", "s1"), generate.private_pem(rsa_other))
    ring = keyring.load(shelf.directory)
    assert selectors(ring) == []
    assert selectors(ring, "example.net") == ["s1"]
    assert set(ring.problems) == {"example.com"}
    assert str(shelf.directory / "example.com") in ring.problems["example.com"]
    assert says in ring.problems["example.com"]


def test_the_other_algorithm_of_the_same_domain_signs_on(
    shelf: store.Store, keep: Keep, rsa_private: Any, ed25519_private: Any
) -> None:
    """A broken Ed25519 key costs the second signature only."""
    keep(rsa_private, "r1")
    keep(ed25519_private, "e1")
    shelf.private_path("example.com", "e1").unlink()
    ring = keyring.load(shelf.directory)
    assert selectors(ring) == ["r1"]
    assert "e1.pem" in ring.problems["example.com"]


def test_a_damaged_prime_is_found_by_the_probe(
    shelf: store.Store, keep: Keep, rsa_private: Any
) -> None:
    """Public half and fingerprint are right, yet what it signs does not verify."""
    numbers = rsa_private.private_numbers()
    from cryptography.hazmat.primitives.asymmetric import rsa  # noqa: PLC0415

    damaged = rsa.RSAPrivateNumbers(
        numbers.p,
        numbers.q,
        numbers.d,
        numbers.dmp1 ^ 4,
        numbers.dmq1,
        numbers.iqmp,
        numbers.public_numbers,
    ).private_key(unsafe_skip_rsa_key_validation=True)
    keep(rsa_private, "s1")
    path = shelf.private_path("example.com", "s1")
    path.write_bytes(generate.private_pem(damaged))
    path.chmod(0o600)
    ring = keyring.load(shelf.directory)
    # OpenSSL repairs a faulty CRT result itself; either answer keeps bad signatures away.
    for key in ring.signing_keys("example.com"):
        assert key.verifies(bytes(32), key.sign_digest(bytes(32)))


def test_a_key_shows_nothing_of_itself(signing_keys: Any) -> None:
    """Not in repr, not in a traceback, not by pickle, not as an attribute dictionary."""
    for key in signing_keys.values():
        shown = f"{key} {key!r} {keyring.Keyring({'example.com': (key,)})!r}"
        try:
            raise ValueError(key)
        except ValueError as error:
            shown += "".join(traceback.format_exception(error))
        assert "PRIVATE" not in shown
        assert "Key object" not in shown
        with pytest.raises(TypeError, match="does not leave"):
            pickle.dumps(key)


def test_a_missing_directory_is_an_error_with_the_setting_to_mend(tmp_path: Any) -> None:
    """`load` is what a start-up check calls."""
    with pytest.raises(errors.ConfigurationError, match=r"signing\.keys"):
        keyring.load(tmp_path / "nowhere")


def test_watch_sees_a_change_when_it_looks(
    shelf: store.Store, keep: Keep, rsa_private: Any, rsa_other: Any
) -> None:
    """Between two looks the ring stays the same object; a look without change keeps it too."""
    keep(rsa_private, "r1")
    clock = Clock()
    watch = keyring.Watch(shelf.directory, clock)
    first = watch.current()
    keep(rsa_other, "r2", at=LATER)
    assert watch.current() is first
    watch.look()
    second = watch.current()
    assert selectors(first) == ["r1"]
    assert selectors(second) == ["r2"]
    clock.now += keyring.RETRY_EVERY * 10
    watch.look()
    assert watch.current() is second


def test_watch_keeps_unchanged_keys_in_memory(
    shelf: store.Store, keep: Keep, rsa_private: Any, rsa_other: Any
) -> None:
    """A reload of many domains parses what changed, nothing else."""
    keep(rsa_private, "r1")
    ring = keyring.load(shelf.directory)
    keep(rsa_other, "r1", sdid="example.net")
    again = keyring.load(shelf.directory, ring)
    assert again.signing_keys("example.com")[0] is ring.signing_keys("example.com")[0]


def test_watch_goes_on_with_the_last_good_ring_and_complains(
    shelf: store.Store, keep: Keep, rsa_private: Any
) -> None:
    """The directory vanished: mail is signed as before, and somebody is told; then it is back."""
    keep(rsa_private, "r1")
    clock = Clock()
    watch = keyring.Watch(shelf.directory, clock)
    away = shelf.directory.with_name("away")
    shelf.directory.rename(away)
    clock.now += 1
    watch.look()
    assert selectors(watch.current()) == ["r1"]
    assert watch.complaint is not None
    assert str(shelf.directory) in watch.complaint
    away.rename(shelf.directory)
    clock.now += keyring.RETRY_EVERY
    watch.look()
    assert selectors(watch.current()) == ["r1"]
    assert watch.complaint is None


def test_a_key_that_became_unreadable_stays_out_until_mended(
    shelf: store.Store, keep: Keep, rsa_private: Any, rsa_other: Any
) -> None:
    """It is not used from memory; a chmod is noticed without a command."""
    keep(rsa_private, "r1")
    clock = Clock()
    watch = keyring.Watch(shelf.directory, clock)
    path = shelf.private_path("example.com", "r1")
    path.chmod(0o604)
    keep(rsa_other, "r1", sdid="example.net")
    clock.now += 1
    watch.look()
    assert selectors(watch.current()) == []
    assert selectors(watch.current(), "example.net") == ["r1"]
    assert str(path) in watch.current().problems["example.com"]
    path.chmod(0o600)
    clock.now += keyring.RETRY_EVERY
    watch.look()
    assert selectors(watch.current()) == ["r1"]
    assert not watch.current().problems


def test_watch_starts_without_a_directory(shelf: store.Store, keep: Keep, rsa_private: Any) -> None:
    """An empty ring with a complaint; the keys appear when they do."""
    clock = Clock()
    watch = keyring.Watch(shelf.directory, clock)
    assert watch.current().sdids == frozenset()
    assert watch.complaint
    keep(rsa_private, "r1")
    clock.now += 1
    watch.look()
    assert selectors(watch.current()) == ["r1"]
    assert watch.complaint is None
