"""What is seen of the keys while they change: a rotation is no fault, a lost key is one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from carbonseal.keys import generate, keyring, store
from carbonseal.keys.key_record import Origin
from carbonseal.keys.relays import acknowledgement
from carbonseal.milter.status.key_look import KeyLook
from carbonseal.policies import readiness, signing_request

SDID = "example.com"


class Relay:
    """A keys directory, one worker that is told when to read it, and a clock of the test's."""

    def __init__(self, folder: Path) -> None:
        self.shelf = store.Store(folder / "keys")
        (folder / "spool").mkdir()
        self.now = 0.0
        self.activate("s1")
        self._said = acknowledgement.Acknowledgement(folder / "spool", "relay.example.com")
        self.reload()
        self.look = KeyLook(
            self.shelf.directory,
            folder / "spool",
            by_rule=frozenset((SDID,)),
            lifetime=86400,
            clock=lambda: self.now,
        )

    def activate(self, selector: str, sdid: str = SDID) -> None:
        """A new key signs from now on, instead of the one before."""
        private = generate.generate(signing_request.ED25519)
        now = datetime.now(UTC)
        record = generate.new_record(
            private, sdid, selector, origin=Origin.GENERATED, at=now, why="test"
        )
        with self.shelf.writing(sdid) as writer:
            writer.add(record, generate.private_pem(private))
            writer.activate(record, at=now, why="test", assumed=True)

    def reload(self) -> None:
        """The worker takes up what is there; no message holds what it had before."""
        self._ring = keyring.load(self.shelf.directory)
        self._said.before_use(self._ring)
        self._said.tend()

    def unsigned(self, seconds: float) -> dict[str, str]:
        """The domains that are reported, so many seconds later."""
        self.now += seconds
        unsigned, weakened = readiness.troubles(self.look.look().signers)
        assert not weakened
        return unsigned


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Relay]:
    one = Relay(tmp_path)
    assert not one.unsigned(0.0)
    yield one
    del one


def test_a_rotation_is_no_fault_before_the_workers_have_taken_the_key_up(relay: Relay) -> None:
    """They sign with its predecessor until then; so it is with the one after it."""
    for selector in ("s2", "s3"):
        relay.activate(selector)
        assert not relay.unsigned(1.1)
        assert not relay.unsigned(1.1)
        relay.reload()
        assert not relay.unsigned(10.0)


def test_a_key_that_no_worker_takes_up_is_reported_soon(relay: Relay) -> None:
    """Once, and until it is taken up."""
    relay.activate("s2")
    assert not relay.unsigned(1.1)
    assert "no worker holds s2" in relay.unsigned(readiness.TAKE_UP + 0.1)[SDID]
    assert relay.unsigned(1.1)
    relay.reload()
    assert not relay.unsigned(1.1)


def test_a_new_key_without_its_file_is_reported_at_once(relay: Relay) -> None:
    """No time will bring it."""
    relay.activate("s2")
    relay.shelf.private_path(SDID, "s2").unlink()
    assert "s2.pem: the private key is gone" in relay.unsigned(1.1)[SDID]


def test_what_was_active_at_the_first_look_and_is_not_held_is_reported_at_once(
    relay: Relay, tmp_path: Path
) -> None:
    """A service that starts has read all keys before it says which it holds."""
    relay.activate("s2")
    fresh = KeyLook(relay.shelf.directory, tmp_path / "spool", by_rule=frozenset(), lifetime=86400)
    unsigned, _ = readiness.troubles(fresh.look().signers)
    assert "no worker holds s2" in unsigned[SDID]


def test_workers_that_take_a_key_up_between_two_readings_lose_none(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look may fall into the middle of it, whichever of the two it reads first."""
    readers: list[str] = []

    def watch(place: Any, name: str) -> None:
        read = getattr(place, name)

        def reading(*arguments: Any) -> Any:
            readers.append(name)
            if len(readers) == 2:
                monkeypatch.undo()
                relay.activate("s2")
                relay.reload()
            return read(*arguments)

        monkeypatch.setattr(place, name, reading)

    watch(store.Store, "sdids")
    watch(acknowledgement, "read")
    assert not relay.unsigned(1.1)
    assert sorted(readers) == ["read", "sdids"]
    assert not relay.unsigned(1.1)
