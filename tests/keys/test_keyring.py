"""What running workers hold: one broken key takes nothing else away, changes are seen quickly."""

from __future__ import annotations

import dataclasses
import os
import pickle
import sys
import traceback
import weakref
from datetime import timedelta
from typing import Any

import pytest

from carbonseal.keys import generate, keyring, store
from carbonseal.policies import errors
from carbonseal.policies.key_life import Stage
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
    assert ring.by_facts.get(KeyFacts("example.com", "e1", "ed25519-sha256")) is not None
    assert ring.by_facts.get(KeyFacts("example.com", "e1", "rsa-sha256")) is None
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
    assert watch.complaint.startswith(f"the keys in use are those read before: {shelf.directory}")
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
    assert watch.complaint is not None
    assert watch.complaint.startswith("no key is in use: ")
    keep(rsa_private, "r1")
    clock.now += 1
    watch.look()
    assert selectors(watch.current()) == ["r1"]
    assert watch.complaint is None


# --- standby and refused --------------------------------------------------------------------------


def move(shelf: store.Store, record: Any, stage: Stage, **changes: Any) -> None:
    """Let a key come to a stage without asking anybody."""
    moved = dataclasses.replace(record.moved(stage, at=LATER, why="test"), **changes)
    with shelf.writing(record.sdid) as writer:
        writer.put(moved)


IN_ADVANCE = {Stage.PUBLISHED, Stage.READY}


@pytest.mark.parametrize("stage", [one for one in Stage if one is not Stage.ACTIVE])
def test_which_stages_are_loaded_in_advance_and_none_signs(
    stage: Stage, shelf: store.Store, keep: Keep, rsa_private: Any, rsa_other: Any
) -> None:
    """A key that will sign soon is held and proven, and nobody is offered it."""
    keep(rsa_private, "r1")
    record = keep(rsa_other, "r2", active=False)
    move(shelf, record, stage)
    ring = keyring.load(shelf.directory)
    assert selectors(ring) == ["r1"]
    assert [facts.selector for facts in ring.facts("example.com")] == ["r1"]
    assert ring.by_facts.get(record.facts) is None
    assert ring.signing_names == {"example.com/r1"}
    assert ring.standby_names == ({"example.com/r2"} if stage in IN_ADVANCE else set())
    assert not ring.problems
    assert not ring.standby_problems


@pytest.mark.parametrize(("break_key", "says"), BREAKAGES[:4])
def test_a_problem_of_a_standby_key_is_none_of_the_mail(
    break_key: Any,
    says: str,
    shelf: store.Store,
    keep: Keep,
    rsa_private: Any,
    rsa_other: Any,
) -> None:
    """It is told apart, and its domain signs on as if nothing were."""
    keep(rsa_private, "r1")
    record = keep(rsa_other, "r2", active=False)
    move(shelf, record, Stage.READY)
    break_key(shelf.private_path("example.com", "r2"), generate.private_pem(rsa_private))
    ring = keyring.load(shelf.directory)
    assert selectors(ring) == ["r1"]
    assert not ring.problems
    assert not ring.standby_names
    assert says in ring.standby_problems["example.com"]


def test_a_domain_with_a_broken_standby_key_only_has_no_problem(
    shelf: store.Store, keep: Keep, rsa_private: Any
) -> None:
    """Its mail is unsigned because no key is active, not because one is broken."""
    record = keep(rsa_private, "r1", active=False)
    move(shelf, record, Stage.READY)
    shelf.private_path("example.com", "r1").unlink()
    ring = keyring.load(shelf.directory)
    assert not ring.sdids
    assert not ring.problems


def test_a_standby_key_that_is_activated_is_not_proven_again(
    shelf: store.Store, keep: Keep, rsa_private: Any, rsa_other: Any
) -> None:
    """The very object that passed the self-test signs."""
    keep(rsa_private, "r1")
    record = keep(rsa_other, "r2", active=False)
    move(shelf, record, Stage.READY)
    before = keyring.load(shelf.directory)
    with shelf.writing("example.com") as writer:
        writer.activate(record, at=LATER, why="test", assumed=True)
    after = keyring.load(shelf.directory, before)
    assert selectors(after) == ["r2"]
    assert after.by_facts.get(record.facts) is before.standby["example.com"][0]


def test_an_active_key_that_is_refused_does_not_sign(
    shelf: store.Store, keep: Keep, rsa_private: Any, ed25519_private: Any
) -> None:
    """Its record in DNS is wrong everywhere; the other algorithm signs, other domains too."""
    refused = keep(rsa_private, "r1")
    keep(ed25519_private, "e1")
    keep(rsa_private, "r1", sdid="example.net")
    move(shelf, refused, Stage.ACTIVE, refused="every server shows another key.")
    ring = keyring.load(shelf.directory)
    assert selectors(ring) == ["e1"]
    assert selectors(ring, "example.net") == ["r1"]
    assert ring.by_facts.get(refused.facts) is None
    assert ring.refused == {
        "example.com": "r1._domainkey.example.com: every server shows another key."
    }
    assert not ring.problems
    assert ring.standby_names == set()


def test_watch_tells_before_the_new_ring_is_given_out(
    shelf: store.Store, keep: Keep, rsa_private: Any, rsa_other: Any
) -> None:
    """Whoever is told can still see the old ring in use."""
    keep(rsa_private, "r1")
    told: list[tuple[list[str], list[str]]] = []

    def before_use(ring: keyring.Keyring) -> None:
        in_use = selectors(watch.current()) if told else []
        told.append((in_use, selectors(ring)))

    watch = keyring.Watch(shelf.directory, Clock(), before_use)
    keep(rsa_other, "r2", at=LATER)
    watch.look()
    watch.look()
    assert told == [([], ["r1"]), (["r1"], ["r2"])]


def test_a_watch_without_a_directory_tells_that_it_uses_nothing(shelf: store.Store) -> None:
    """Otherwise its worker would be starting for ever."""
    told: list[keyring.Keyring] = []
    keyring.Watch(shelf.directory, Clock(), told.append)
    assert told == [keyring.EMPTY]


def test_current_asks_nobody(shelf: store.Store, keep: Keep, rsa_private: Any) -> None:
    """Neither the clock nor the disk: it is asked for every message."""
    keep(rsa_private, "r1")
    watch = keyring.Watch(shelf.directory, Clock())
    calls: list[str] = []
    sys.setprofile(lambda _frame, event, what: calls.append(f"{event} {what}"))
    watch.current()
    sys.setprofile(None)
    assert [call for call in calls if "c_call" in call and "setprofile" not in call] == []


def test_the_last_user_of_an_old_ring_can_be_waited_for(
    shelf: store.Store, keep: Keep, rsa_private: Any, rsa_other: Any
) -> None:
    """A ring is gone as soon as no message holds it; nothing else does."""
    keep(rsa_private, "r1")
    watch = keyring.Watch(shelf.directory, Clock())
    held = weakref.ref(watch.current())
    message = watch.current()
    keep(rsa_other, "r2", at=LATER)
    watch.look()
    assert held() is message
    del message
    assert held() is None


# --- what is not read again -----------------------------------------------------------------------

CHANGES = [
    pytest.param(lambda path: path.chmod(0o644), id="mode"),
    pytest.param(lambda path: path.write_bytes(path.read_bytes()[:-40]), id="cut-in-place"),
    pytest.param(lambda path: path.rename(path.with_suffix(".x")), id="moved-away"),
    pytest.param(lambda path: path.parent.chmod(0o777), id="mode-of-its-folder"),
    pytest.param(lambda path: path.parent.parent.chmod(0o777), id="mode-of-the-directory"),
    pytest.param(lambda path: path.parent.rename(path.parent.with_name(".x")), id="folder-gone"),
]


@pytest.mark.parametrize("change", CHANGES)
def test_what_did_not_change_is_not_read_again_and_what_did_is(
    change: Any, shelf: store.Store, keep: Keep, rsa_private: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand domains cost a second of the processor, in every worker."""
    monkeypatch.setattr(keyring, "_SETTLED", 0)
    keep(rsa_private, "r1")
    keep(rsa_private, "r1", sdid="example.net")
    ring = keyring.load(shelf.directory)
    again = keyring.load(shelf.directory, ring)
    assert again == ring
    assert all(again.pages[sdid] is ring.pages[sdid] for sdid in again.sdids)
    change(shelf.private_path("example.com", "r1"))
    after = keyring.load(shelf.directory, again)
    assert "example.com" not in after.sdids
    if "example.net" in after.sdids:
        assert after.pages["example.net"] is ring.pages["example.net"]


def test_what_changed_just_now_is_read_again(
    shelf: store.Store, keep: Keep, rsa_private: Any
) -> None:
    """Times of files tick slowly: the next change may leave them as they are."""
    keep(rsa_private, "r1")
    ring = keyring.load(shelf.directory)
    assert keyring.load(shelf.directory, ring).pages["example.com"] is not ring.pages["example.com"]
