"""A signature that is verified while its record is written, and turns out to be none."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from support import faulty_rsa, sanitizers
from support.carbonseal import ARCHIVE
from support.milter_client import Answer as Told
from support.milter_client import Conversation, Envelope
from support.sealing import services

from carbonseal.keys import generate, held_key
from carbonseal.keys.keyring import Keyring, SigningKey
from carbonseal.keys.proofs import Proofs
from carbonseal.milter import seal
from carbonseal.milter.archive import record
from carbonseal.milter.archive.spool import Spool, SpoolUnwritable
from carbonseal.milter.describe import Verdict
from carbonseal.milter.rounds import Rounds
from carbonseal.milter.session import Sessions
from carbonseal.milter.transaction import Connection, Transaction
from carbonseal.policies.disposition import Answer
from carbonseal.policies.envelope import Client
from carbonseal.policies.signing_request import RSA, KeyFacts

pytestmark = pytest.mark.skipif(held_key.compiled is None, reason="no compiler was at hand")
NOW = 1_800_000_000.0
WHY = (
    "signature-failed(example.com: example.com/r: "
    "the signature does not verify; check the machine.)"
)


class Machine:
    """One that signs for example.com, and miscalculates from some moment on."""

    def __init__(self, directory: Path, private: rsa.RSAPrivateKey, **failure: Any) -> None:
        pem = generate.private_pem(private)
        self.key = SigningKey(KeyFacts("example.com", "r", RSA), private, pem=pem)
        ring = Keyring({"example.com": (self.key,)})
        # Signed by another compiled half, whose fault no other test meets.
        self._faulty = faulty_rsa.build(
            sanitizers.ROOT / "keys/_held_key.c", directory, "signature"
        ).Key(pem)
        self.proofs = Proofs()
        self.services = dataclasses.replace(
            services(directory, failure or None, proofs=self.proofs), keyring=lambda: ring
        )

    def break_down(self) -> None:
        self.key.make_unproven = self._faulty.make_unproven

    def steps(self) -> Any:
        """The steps of a message that is signed; what they return is its Verdict."""
        transaction = Transaction(
            Connection(Client("198.51.100.7", 25_000, "", ""), "smtpd", "mx1"),
            (b"<a@example.com>",),
            resolved=None,
            body_canonicalization="relaxed",
        )
        transaction.login = "a"
        transaction.add_recipient((b"<b@example.net>",), resolved=None, mailer=None, host=None)
        transaction.add_field("From", b" a@example.com")
        transaction.body.update(b"text\r\n")
        return seal.seal(transaction, self.services, NOW, prepared=lambda verdict: verdict)

    def end(self, steps: Any) -> Verdict:
        """What comes of steps whose last line is durable."""
        with pytest.raises(StopIteration) as end:
            next(steps)
        verdict: Verdict = end.value.value
        return verdict


@pytest.fixture(scope="module")
def rsa_private() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture
def machine(tmp_path: Path, rsa_private: rsa.RSAPrivateKey) -> Machine:
    made = Machine(tmp_path, rsa_private)
    # The first message with a plan is read back in full, at once.
    steps = made.steps()
    next(steps)
    assert made.end(steps).done.signatures
    return made


@pytest.mark.parametrize("in_time", [True, False], ids=["while-the-disk-writes", "only-then"])
def test_a_good_signature_is_on_one_record(machine: Machine, in_time: bool) -> None:
    """Whether somebody had it verified meanwhile or not."""
    steps = machine.steps()
    [signature] = record.parse(next(steps))["signatures"]
    assert signature["selector"] == "r"
    if in_time:
        machine.proofs.establish()
    verdict = machine.end(steps)
    assert verdict.done.answer is Answer.ACCEPT
    assert [one.request.selector for one in verdict.done.signatures] == ["r"]


@pytest.mark.parametrize("in_time", [True, False], ids=["while-the-disk-writes", "only-then"])
def test_messages_that_are_alike_and_come_together_are_all_signed(
    machine: Machine, in_time: bool
) -> None:
    """Within a second they have the same t=, hence the same signature; each has one, on record."""
    together = [machine.steps() for _ in range(5)]
    for steps in together:
        next(steps)
    if in_time:
        machine.proofs.establish()
    verdicts = [machine.end(steps) for steps in together]
    assert [len(verdict.done.signatures) for verdict in verdicts] == [1] * 5


@pytest.mark.parametrize("in_time", [True, False], ids=["while-the-disk-writes", "only-then"])
@pytest.mark.parametrize("answer", ["accept", "tempfail", "reject"])
def test_a_signature_that_is_none_never_leaves(
    tmp_path: Path, rsa_private: rsa.RSAPrivateKey, answer: str, in_time: bool
) -> None:
    """The failure policy answers, and the message is on record once more, with the reason."""
    machine = Machine(tmp_path, rsa_private, failure={"signature_failed": answer})
    steps = machine.steps()
    next(steps)
    machine.end(steps)
    machine.break_down()
    steps = machine.steps()
    first = record.parse(next(steps))
    assert len(first["signatures"]) == 1
    if in_time:
        machine.proofs.establish()
    second = record.parse(next(steps))
    # Whoever puts the two in order, by either, ends with what was done.
    assert second["record_id"] > first["record_id"]
    assert second["recorded_at"] > first["recorded_at"]
    assert second["signatures"] == []
    assert second["disposition"] == answer
    assert second["archive_recipients"] == ([ARCHIVE] if answer == "accept" else [])
    assert WHY in second["reasons"]
    assert not [one for one in second["reasons"] if one.startswith("signed(")]
    same = ("queue_id", "reverse_path", "recipients", "header_fields", "body_hash", "size")
    assert {name: second[name] for name in same} == {name: first[name] for name in same}
    verdict = machine.end(steps)
    assert verdict.done.signatures == ()
    assert verdict.done.answer.value == answer
    assert verdict.unsigned == "signature-failed"


def test_nor_does_it_where_the_record_cannot_be_written(
    tmp_path: Path, rsa_private: rsa.RSAPrivateKey
) -> None:
    """A relay that accepts without a record verifies all the same."""
    machine = Machine(tmp_path, rsa_private, failure={"record_not_writable": "accept"})
    steps = machine.steps()
    next(steps)
    machine.end(steps)
    machine.break_down()
    steps = machine.steps()
    next(steps)
    assert record.parse(steps.throw(SpoolUnwritable("full")))["signatures"] == []
    with pytest.raises(StopIteration) as end:
        steps.throw(SpoolUnwritable("full"))
    assert end.value.value.done.signatures == ()
    assert end.value.value.done.answer is Answer.ACCEPT


def test_a_dry_run_says_that_it_would_not_have_signed(
    tmp_path: Path, rsa_private: rsa.RSAPrivateKey
) -> None:
    """The last record is the one that counts."""
    machine = Machine(tmp_path, rsa_private, milter={"dry_run": True})
    steps = machine.steps()
    next(steps)
    machine.end(steps)
    machine.break_down()
    steps = machine.steps()
    assert len(record.parse(next(steps))["dry_run"]["signatures"]) == 1
    assert record.parse(next(steps))["dry_run"]["signatures"] == []
    machine.end(steps)


def test_without_time_for_it_a_signature_is_verified_at_once(machine: Machine) -> None:
    """As under libmilter, whose threads have no round to share."""
    machine.services = dataclasses.replace(machine.services, proofs=None)
    machine.key.make_signature = machine._faulty.make_signature
    steps = machine.steps()
    only = record.parse(next(steps))
    assert only["signatures"] == []
    assert WHY in only["reasons"]
    machine.end(steps)


@contextlib.contextmanager
def served(machine: Machine, directory: Path) -> Iterator[tuple[str, Path]]:
    """An address where a relay on this machine is served in rounds, and its spool."""
    place = directory / "spool"
    place.mkdir()
    spool = Spool(place, has_room=True)
    sessions = Sessions(machine.services)
    rounds = Rounds(sessions, spool, sessions.establish)
    rounds.start()
    address = str(directory / "milter.socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()

        def receive() -> None:
            with contextlib.suppress(OSError):
                while True:
                    rounds.take(listener.accept()[0], lambda: None)

        receiving = threading.Thread(target=receive)
        receiving.start()
        yield address, place
        listener.shutdown(socket.SHUT_RDWR)
        receiving.join()
    spool.close()


def test_an_mta_is_told_what_the_last_record_says(machine: Machine, tmp_path: Path) -> None:
    """Once, whatever else it says at once; and the next message is another one."""
    fields = [("From", b" a@example.com"), ("To", b" b@example.org"), ("Subject", b" s")]
    inserted, codes = [], []
    with served(machine, tmp_path) as (address, place):
        with Conversation(address) as talk:
            talk.open()
            for number in range(4):
                if number == 2:
                    machine.break_down()
                outcome = talk.send_message(Envelope(queue_id=f"Q{number}"), fields, b"text\r\n")
                codes.append(outcome.final)
                inserted.append(len(outcome.inserted))
        [segment] = place.iterdir()
        lines = segment.read_bytes().rstrip(b"\0").splitlines(keepends=True)
    assert codes == [Told.ACCEPT] * 4
    assert inserted == [1, 1, 0, 0]
    told = [record.parse(line) for line in lines]
    assert [(one["queue_id"], len(one["signatures"])) for one in told] == [
        ("Q0", 1),
        ("Q1", 1),
        ("Q2", 1),
        ("Q2", 0),
        ("Q3", 1),
        ("Q3", 0),
    ]
