"""What one archive is like: the 25 queries, warm and cold, and its size by table.

Promises: every query from its text to its first page, each kind often and with values of its own;
what others used of the machine meanwhile is on record with the times.  A query during which the
host of a virtual machine ran somebody else does not count, and is asked with another value instead:
how many these were is on record, too.

Does not: load anything.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Engine

from benchmarks import archive_questions, busy
from benchmarks.archive_engines import Store
from benchmarks.archive_questions import Question
from carbonseal.milter.archive import database
from carbonseal.milter.archive.search import query
from carbonseal.milter.archive.search.wanted import Search

TIMES = 60  # each query, with values of its own
_UNCOUNTED = 5  # of each, before
_PATIENCE = 60.0  # seconds for all of one kind
_TRIES = 3  # times as many queries of one kind at most, when most are disturbed
Results = dict[str, Any]
Time = tuple[float, int, str]  # milliseconds, records, what was asked


Archive = tuple[Store, list[dict[str, Any]]]  # and samples of its records


def measure(archives: Sequence[Archive]) -> list[Results]:
    """Everything about archives but what their loading cost.

    Those of one engine at several sizes together: they are asked in turns, so that a machine whose
    speed changes from one minute to the next makes none of them look quicker than another.
    """
    found = [_settled(store) for store, _ in archives]
    questions = [archive_questions.questions(samples) for _, samples in archives]
    watch = busy.Watch(lambda: sum(store.cpu_seconds() for store, _ in archives))
    asked = [_Asked(store.url, one) for (store, _), one in zip(archives, questions, strict=True)]
    try:
        gc.collect()
        gc.freeze()
        for turn in range(_TRIES * TIMES):
            for number in range(len(questions[0])):
                for one in asked:
                    one.ask(number, turn)
    finally:
        for one in asked:
            one.close()
    others = watch.facts()["others"]
    for (store, _), some, one, facts in zip(archives, questions, asked, found, strict=True):
        store.make_cold()
        cold = _ask_cold(store.url, some)
        facts["others"] = others
        facts["questions"] = [{**row, "cold_ms": cold[row["name"]]} for row in one.summaries()]
    return found


def _settled(store: Store) -> Results:
    begun = time.perf_counter()
    store.settle()
    return {
        "settings": store.settings,
        "settled_s": round(time.perf_counter() - begun, 1),
        "octets": store.total(),
        "octets_by_table": store.sizes(),
    }


def count(url: str) -> int:
    """The records of an archive."""
    engine = database.reading_engine(url)
    try:
        return query.count(engine, Search())
    finally:
        engine.dispose()


class _Asked:
    """One archive that is asked every question many times: each finds the caches as the others
    left them.
    """

    def __init__(self, url: str, questions: Sequence[Question]) -> None:
        self._questions = questions
        most = _TRIES * TIMES
        self._texts = [archive_questions.asked(one, most) for one in questions]
        self._times: list[list[Time]] = [[] for _ in questions]
        self._disturbed: list[list[Time]] = [[] for _ in questions]
        self._spent = [0.0] * len(questions)
        self._engine = database.reading_engine(url)

    def ask(self, number: int, turn: int) -> None:
        """One question once more, unless it was asked often enough."""
        known = self._times[number]
        if len(known) == TIMES or self._spent[number] > _PATIENCE:
            return
        stolen = busy.stolen()
        took = _timed(self._questions[number], self._engine, next(self._texts[number]))
        self._spent[number] += took[0] / 1e3
        if turn < _UNCOUNTED and self._spent[number] <= _PATIENCE:
            return
        (known if busy.stolen() == stolen else self._disturbed[number]).append(took)

    def summaries(self) -> list[Results]:
        """What each question took."""
        every = zip(self._questions, self._times, self._disturbed, strict=True)
        return [_summary(question, times, disturbed) for question, times, disturbed in every]

    def close(self) -> None:
        """Let the archive go."""
        self._engine.dispose()


def _timed(question: Question, engine: Engine, text: str) -> Time:
    ask = question.ask(engine, text)
    begun = time.perf_counter()
    found = ask()
    return (time.perf_counter() - begun) * 1e3, found, text


def _summary(question: Question, times: list[Time], disturbed: list[Time]) -> Results:
    # Where nearly all were disturbed, that is what this machine is like.
    ranked = sorted(times if len(times) >= TIMES // _TRIES else times + disturbed)
    milliseconds = [one[0] for one in ranked]
    return {
        "name": question.name,
        "kind": question.kind,
        "p50_ms": round(statistics.median(milliseconds), 2),
        "p95_ms": round(milliseconds[min(int(len(ranked) * 0.95), len(ranked) - 1)], 2),
        "found": statistics.median(one[1] for one in ranked),
        "times": len(ranked),
        "disturbed": len(disturbed),
        "example": ranked[0][2],
        "slowest": ranked[-1][2],
    }


def _ask_cold(url: str, questions: Sequence[Question]) -> dict[str, float]:
    """Every question once after a restart, in any order."""
    engine = database.reading_engine(url)
    order = list(questions)
    random.Random(11).shuffle(order)
    found = {}
    try:
        for one in order:
            text = next(archive_questions.asked(one, 1, seed=23))
            ask = one.ask(engine, text)
            begun = time.perf_counter()
            ask()
            found[one.name] = round((time.perf_counter() - begun) * 1e3, 2)
    finally:
        engine.dispose()
    return found
