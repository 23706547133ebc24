"""kill -9 under load: what the client saw accepted is recorded once and copied once.

The supervisor, its workers and the writer are killed at random, 70 times (210 in `make test-long`),
while clients send through a real Postfix.  Every 250 must have exactly one record in SQL and one
archive copy; whatever was refused must have been refused with 4yz.
"""

from __future__ import annotations

import os
import random
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.relay import Relay, relay

pytestmark = [
    pytest.mark.postfix,
    pytest.mark.root,
    pytest.mark.chaos,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        os.geteuid() != 0, reason="a private Postfix needs root, because master(8) changes users"
    ),
]

KILLS = int(os.environ.get("KILLS", "70"))
LEAST = KILLS // 21  # of each kind
SENDERS = 6


@dataclass
class Ledger:
    """What the clients saw."""

    accepted: dict[str, str] = field(default_factory=dict)  # queue id -> mark of the message
    refusals: Counter[int] = field(default_factory=Counter)
    broken: int = 0  # connections that Postfix cut, nothing accepted
    lock: threading.Lock = field(default_factory=threading.Lock)


def content(mark: str) -> bytes:
    body = f"{mark}\r\n" * 20
    return (
        f"From: alice@example.com\r\nTo: bob@partner.example\r\nSubject: {mark}\r\n"
        f"Message-ID: <{mark}@example.com>\r\nDate: Sat, 21 Nov 2026 09:00:00 +0100\r\n\r\n{body}"
    ).encode()


def keep_sending(running: Relay, ledger: Ledger, number: int, stop: threading.Event) -> None:
    """Send message after message, each again and again until it is accepted."""
    count = 0
    while not stop.is_set():
        count += 1
        mark = f"m{number}-{count}"
        while not send_once(running, ledger, mark) and not stop.is_set():
            stop.wait(0.02)


def send_once(running: Relay, ledger: Ledger, mark: str) -> bool:
    try:
        sending = running.send(
            "inside", "alice@example.com", ["bob@partner.example"], content(mark)
        )
    except Exception:
        # Postfix greets with 421 or cuts the connection when it cannot reach the milter.
        with ledger.lock:
            ledger.broken += 1
        return False
    with ledger.lock:
        if sending.end.code == 250:
            ledger.accepted[sending.queue_id] = mark
            return True
        ledger.refusals[sending.end.code] += 1
    return False


@pytest.fixture
def running() -> Iterator[Relay]:
    # /dev/shm spares Postfix its own fsyncs: this test is about our promises, not about its queue.
    with relay({"milter": {"workers": 3, "drain": 3}}, base="/dev/shm") as started:
        yield started


def kill_somebody(running: Relay, chance: random.Random, killed: Counter[str]) -> None:
    service = running.service
    if chance.random() < 0.1:
        service.kill_supervisor()
        killed["supervisor"] += 1
        service.start(timeout=60)
        return
    roles: dict[str, list[int]] = {"worker": [], "writer": []}
    for pid in service.children():
        roles["worker" if "/milter.cpython" in mapped_files(pid) else "writer"].append(pid)
    role = "writer" if chance.random() < 0.3 and roles["writer"] else "worker"
    if not roles[role]:
        return
    try:
        os.kill(chance.choice(roles[role]), signal.SIGKILL)
    except ProcessLookupError:
        return
    killed[role] += 1


def mapped_files(pid: int) -> str:
    """What a process has loaded: only workers load libmilter."""
    try:
        return Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return ""


def test_every_accepted_message_is_recorded_once_and_copied_once(running: Relay) -> None:
    """Promises 1, 2 and 6 under the worst treatment."""
    ledger, stop, killed = Ledger(), threading.Event(), Counter[str]()
    chance = random.Random(20261121)
    senders = [
        threading.Thread(target=keep_sending, args=(running, ledger, number, stop))
        for number in range(SENDERS)
    ]
    for sender in senders:
        sender.start()
    deadline = time.monotonic() + 400
    accepted_before = 0
    try:
        while killed.total() < KILLS and time.monotonic() < deadline:
            kill_somebody(running, chance, killed)
            # Load goes on between the kills: wait until mail was accepted, not for a time.
            patience = time.monotonic() + 5
            while len(ledger.accepted) < accepted_before + 10 and time.monotonic() < patience:
                stop.wait(0.01)
            accepted_before = len(ledger.accepted)
    finally:
        stop.set()
        for sender in senders:
            sender.join()
    assert killed.total() >= KILLS, killed
    assert min(killed["worker"], killed["writer"], killed["supervisor"]) >= LEAST, killed
    running.mta.wait_until_empty(timeout=120)

    assert {code // 100 for code in ledger.refusals} <= {4}, ledger.refusals
    assert len(ledger.accepted) >= KILLS
    check_records(running, ledger)
    check_copies(running, ledger)
    print(f"\n{killed=} accepted={len(ledger.accepted)} {ledger.refusals=} {ledger.broken=}")


def check_records(running: Relay, ledger: Ledger) -> None:
    """Exactly one record for each queue id that the client was told."""
    wanted = set(ledger.accepted)
    deadline = time.monotonic() + 60
    while True:
        found = Counter(one["queue_id"] for one in running.service.search("--limit", "1000000"))
        if wanted <= set(found) or time.monotonic() > deadline:
            break
    assert wanted - set(found) == set(), "accepted but not recorded"
    assert {queue_id: n for queue_id, n in found.items() if queue_id in wanted and n != 1} == {}


def check_copies(running: Relay, ledger: Ledger) -> None:
    """Exactly one archive copy for each, told apart by the queue id in Postfix's Received."""
    copies = Counter[str]()
    for copy in running.archive.deliveries:
        found = re.search(rb"\tby mx1\.example\.com .*?\bid (\w+)", copy.content, re.DOTALL)
        assert found is not None
        copies[found[1].decode()] += 1
    assert {
        queue_id: copies[queue_id] for queue_id in ledger.accepted if copies[queue_id] != 1
    } == {}
    # A message whose client never heard 250 may be delivered only if Postfix queued it.
    for copy in running.archive.deliveries:
        assert b"DKIM-Signature" in copy.content
