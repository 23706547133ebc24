"""Counting in shared memory: nothing is lost, nothing falls, nothing a stranger wrote is a name."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable

import pytest
from support import counting

from carbonseal.milter.status import counters
from carbonseal.milter.status.board import Board
from carbonseal.milter.status.counters import BOUNDS, OTHER, PHASES, UNSIGNED, Facts, Tally
from carbonseal.policies import reason

SIGNED = Facts("outbound", "accept", "example.com", sdids=("example.com",))
TIMES = (2**-10, 2**-9, 2**-8, 3 * 2**-10)  # seconds


def count(tally: Tally, about: Facts = SIGNED, times: int = 1) -> None:
    for _ in range(times):
        counting.count(tally, about, octets=100, times=TIMES)


def test_workers_count_in_one_memory_and_a_successor_goes_on() -> None:
    """Forked processes add up; who takes the place of a dead one begins with its counts."""
    board = Board(4)
    places = [board.take() for _ in range(2)]
    for place in (*places, *places):  # each worker, then its successor
        pid = os.fork()
        if pid == 0:
            try:
                count(board.tally(place), times=10)
                os._exit(0)
            finally:
                os._exit(1)  # else the child went on with the tests
        assert place is not None
        board.settle(place, pid)
        assert os.waitpid(pid, 0)[1] == 0
        board.rests(place)
    totals = board.totals()
    assert totals.messages["outbound", "accept"] == totals.answered == 40
    assert totals.signed == {"example.com": 40}
    assert totals.octets == 4000
    assert [totals.phases[name].count for name in PHASES] == [40] * len(PHASES)
    assert totals.phases["record"].micros == 40 * 3906
    assert totals.phases["whole"].micros == 40 * 2929


def test_the_counts_of_a_place_stay_when_nobody_goes_on_there() -> None:
    """After a reload to fewer workers no count may fall; and the place is the next one taken."""
    board = Board(3)
    place = board.take()
    assert place is not None
    count(board.tally(place))
    board.leave(place)
    assert board.totals().answered == 1
    assert board.take() == place


def test_a_worker_without_a_place_is_known_to_serve() -> None:
    """The service manager must not hear that nobody serves, and kill those that do."""
    board = Board(1)
    board.expect(3, with_writer=False)
    place = board.take()
    assert place is not None
    board.serves(place)
    assert board.take() is None
    board.beyond(2)
    assert (board.crew().serving, board.crew().stuck) == (3, 0)
    board.leave(place)
    assert board.crew().serving == 2
    assert not board.crew().is_writer_child


def test_a_worker_without_a_place_counts_nowhere_and_works() -> None:
    """A reload to far more workers must not fail for lack of places."""
    board = Board(1)
    assert board.take() == 0
    assert board.take() is None
    count(board.tally(None))
    board.beat(None)
    assert board.totals().answered == 0


def run_at_once(work: Callable[[], None]) -> None:
    """In four threads, between which the interpreter changes as often as it can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize("add", [counters.add_plainly, counters.add], ids=["plainly", "as-built"])
def test_threads_lose_no_count(monkeypatch: pytest.MonkeyPatch, add: Callable[..., None]) -> None:
    """Those of one worker add without a lock, and the interpreter may change between any two."""
    monkeypatch.setattr(counters, "add", add)
    tally = counters.nowhere()
    run_at_once(lambda: count(tally, SIGNED, 5000))
    totals = counters.add_up([tally.memory])
    assert totals.answered == totals.signed["example.com"] == totals.phases["sign"].count == 20_000


def test_threads_that_begin_domains_at_once_keep_them_apart() -> None:
    """A place for a name is given once."""
    tally = counters.nowhere()
    together = threading.Barrier(4)
    numbers = iter(range(4))

    def begin() -> None:
        mine = next(numbers)
        for turn in range(100):
            name = f"d{turn}-{mine}.example"
            together.wait()
            count(tally, Facts("outbound", "accept", name, sdids=(name,)))

    run_at_once(begin)
    names = [f"d{turn}-{mine}.example" for turn in range(100) for mine in range(4)]
    assert counters.add_up([tally.memory]).signed == dict.fromkeys(names, 1)


def test_more_domains_than_there_is_room_for_are_counted_together() -> None:
    """Memory and the number of series are bounded, and no message is left out."""
    tally = counters.nowhere()
    for number in range(counters.MAX_DOMAINS + 50):
        name = f"d{number}.example"
        count(tally, Facts("outbound", "accept", name, "no-active-key"))
    unsigned = counters.add_up([tally.memory]).unsigned
    assert len(unsigned) == counters.MAX_DOMAINS
    assert sum(unsigned.values()) == counters.MAX_DOMAINS + 50
    assert unsigned["no-active-key", OTHER] == 51


def test_what_is_no_domain_of_ours_is_other() -> None:
    """Facts without a domain of ours, which is all mail of strangers."""
    tally = counters.nowhere()
    count(tally, Facts("inbound", "accept", "", "no-origin-proof"))
    assert counters.add_up([tally.memory]).unsigned == {("no-origin-proof", OTHER): 1}


@pytest.mark.parametrize("seconds", [0.0, 31e-6, 33e-6, 0.5, 16.7, 17.0, 1e6, -1.0])
def test_a_time_falls_into_the_bucket_that_holds_it(seconds: float) -> None:
    """Each bucket ends where the next begins; what is longer than all is in the last."""
    tally = counters.nowhere()
    counting.count(tally, SIGNED, times=(0.0, 0.0, 0.0, seconds))
    buckets = counters.add_up([tally.memory]).phases["whole"].buckets
    wanted = sum(bound <= seconds for bound in BOUNDS)
    assert [number for number, count in enumerate(buckets) if count] == [wanted]


def test_connections_of_a_dead_worker_are_no_longer_open() -> None:
    """Nobody says goodbye for those that went with it."""
    board = Board(1)
    first = board.tally(0)
    board.settle(0, 1)
    first.opened()
    first.opened()
    first.closed()
    assert board.totals().open == 1
    board.tally(0).opened()
    totals = board.totals()
    assert (totals.connections, totals.open) == (3, 1)


def test_every_reason_not_to_sign_is_counted_by_its_name() -> None:
    """A reason that is added to the catalogue must be added to the counters."""
    said = {
        code
        for code, sentence in reason.SENTENCES.items()
        if sentence.startswith(("Not signed", "Refused"))
    }
    assert said <= set(UNSIGNED)
    ours = {"internal-error", OTHER}
    assert set(UNSIGNED) - ours <= reason.SENTENCES.keys()


def test_two_signatures_of_one_domain_sign_one_message() -> None:
    """RSA and Ed25519 stand side by side in one message."""
    tally = counters.nowhere()
    count(tally, Facts("outbound", "accept", sdids=("a.example", "a.example")))
    totals = counters.add_up([tally.memory])
    assert (totals.signed, totals.answered) == ({"a.example": 1}, 1)


def test_more_kinds_of_messages_than_are_remembered_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is remembered is bounded; nothing is lost when it is forgotten."""
    monkeypatch.setattr(counters, "_KNOWN", 2)
    tally = counters.nowhere()
    for _ in range(3):
        for code in UNSIGNED:
            count(tally, Facts("inbound", "reject", "", code, False))
    totals = counters.add_up([tally.memory])
    assert totals.unsigned == {(code, OTHER): 3 for code in UNSIGNED}
    assert totals.records_refused == totals.messages["inbound", "reject"] == 3 * len(UNSIGNED)
    assert len(tally.cells) <= 2
