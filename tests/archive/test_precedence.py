"""The writer yields to mail until it lags, and only where it can take that back."""

from __future__ import annotations

import multiprocessing
import os
import resource
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from support.waiting import wait_until

from carbonseal.milter.archive import writer
from carbonseal.milter.archive.precedence import Precedence


def mine() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


def in_a_thread(do: Callable[[], list[int]]) -> list[int]:
    """What it says; a priority is a thread's own, and goes with it."""
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.extend(do()))
    thread.start()
    thread.join()
    return found


def may_come_back() -> bool:
    def there_and_back() -> list[int]:
        before = mine()
        os.setpriority(os.PRIO_PROCESS, 0, before + 1)
        try:
            os.setpriority(os.PRIO_PROCESS, 0, before)
        except OSError:
            return []
        return [1]

    return bool(in_a_thread(there_and_back))


needs_to_come_back = pytest.mark.skipif(
    not may_come_back(), reason="this user may not take a priority back"
)


@needs_to_come_back
def test_who_lags_yields_no_more_until_it_has_caught_up() -> None:
    """A database that mail drives before it without end would help nobody."""

    def lags() -> list[int]:
        one, found = Precedence(), [mine()]
        for lag in (0.1, 0.7, 0.9, 60.0, 0.5):
            one.yield_to_mail(lag)
            found.append(mine())
        one.restore()
        return [*found, mine()]

    usual, *levels, last = in_a_thread(lags)
    assert levels == [usual + 10, usual + 10, usual, usual, usual + 10]
    assert last == usual


def _as_nobody(report: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_NICE, (0, 0))
    if os.geteuid() == 0:
        os.setuid(65534)
    before = mine()
    one = Precedence()
    one.yield_to_mail(0.0)
    report.send((before, mine()))


def test_who_could_not_take_it_back_yields_nothing() -> None:
    """A writer that lags for ever is worse than one that takes its share."""
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=_as_nobody, args=(theirs,))
    child.start()
    theirs.close()  # else nobody would notice that it died
    before, after = ours.recv()
    child.join()
    assert after == before


@needs_to_come_back
def test_a_writer_that_waits_for_records_yields_and_the_last_ones_it_loads_do_not(
    tmp_path: Path,
) -> None:
    """Who stops it waits for these."""
    spool = tmp_path / "spool"
    spool.mkdir()
    levels: list[int] = []
    is_to_stop = threading.Event()

    class Stop:
        """Notes the priority at each wait; told to stop, it is asked once more."""

        def is_set(self) -> bool:
            return is_to_stop.is_set()

        def wait(self, timeout: float) -> bool:
            levels.append(mine())
            return is_to_stop.wait(timeout)

    def work() -> None:
        usual = mine()
        writer.run(
            spool, f"sqlite:///{tmp_path / 'a.db'}", stop=Stop(), report=lambda *_, **__: None
        )
        levels.append(mine() - usual)

    thread = threading.Thread(target=work)
    thread.start()
    usual = mine()
    wait_until(lambda: usual + 10 in levels, "a wait at less precedence")
    is_to_stop.set()
    thread.join(30)
    assert levels[-1] == 0
