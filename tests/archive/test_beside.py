"""Work beside other work."""

from __future__ import annotations

import threading

import pytest

from carbonseal.milter.archive import batch as batches
from carbonseal.milter.archive.batch import Batch
from carbonseal.milter.archive.beside import Beside


def test_work_is_done_in_order_while_other_work_goes_on() -> None:
    """Who gives work goes on at once; what it made comes in the order in which it was given."""
    may_go_on = threading.Event()

    def first() -> int:
        may_go_on.wait()
        return 1

    with Beside[int]() as working:
        working.do(first)
        working.do(lambda: 2)
        may_go_on.set()  # not reached if `do` waited
        assert working.wait() == [1, 2]


def test_the_thread_is_gone_at_the_end() -> None:
    """Whoever forks afterwards, or lets go of a connection, is alone; whatever happened."""
    before = threading.active_count()
    finished = []

    def fail_beside() -> None:
        with Beside[None]() as working:
            working.do(lambda: finished.append(threading.current_thread()))
            raise KeyError

    with pytest.raises(KeyError):
        fail_beside()
    assert threading.active_count() == before
    [thread] = finished
    assert not thread.is_alive()


def test_what_fails_is_raised_to_who_waits_and_ends_the_work() -> None:
    """A failed commit is the writer's, not a thread's that nobody sees."""
    later: list[int] = []

    def fail() -> None:
        raise ZeroDivisionError

    with Beside[None]() as working:
        working.do(fail)
        working.do(lambda: later.append(1))
        with pytest.raises(ZeroDivisionError):
            working.wait()
    assert later == []


def test_without_a_thread_the_work_is_done_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that has no thread to give (a limit of the unit) costs time and nothing else."""

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with Beside[int]() as working:
        working.do(lambda: 1)
        working.do(lambda: 2)
        assert working.wait() == [1, 2]


def test_what_reading_ahead_meets_is_told_when_it_is_asked_for() -> None:
    """A disk that fails under the next batch must not pass for a commit that failed."""
    answers: list[Batch | OSError] = [OSError("no such disk")]

    def read() -> Batch | None:
        if not answers:
            return None
        raise OSError(answers.pop())

    ahead = batches.Ahead(read)
    ahead.prepare()
    ahead.prepare()
    assert answers == []
    with pytest.raises(OSError, match="no such disk"):
        ahead.take()
    assert ahead.take() is None
