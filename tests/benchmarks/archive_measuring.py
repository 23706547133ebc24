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


def measure(store: Store, samples: list[dict[str, Any]]) -> Results:
    """Everything about an archive but what its loading cost; `samples` are of its records."""
    begun = time.perf_counter()
    store.settle()
    questions = archive_questions.questions(samples)
    found: Results = {
        "settings": store.settings,
        "settled_s": round(time.perf_counter() - begun, 1),
        "octets": store.total(),
        "octets_by_table": store.sizes(),
    }
    watch = busy.Watch(store.cpu_seconds)
    warm = _ask_warm(store.url, questions)
    found["others"] = watch.facts()["others"]
    store.make_cold()
    cold = _ask_cold(store.url, questions)
    return found | {"questions": [{**one, "cold_ms": cold[one["name"]]} for one in warm]}


def count(url: str) -> int:
    """The records of an archive."""
    engine = database.reading_engine(url)
    try:
        return query.count(engine, Search())
    finally:
        engine.dispose()


def _ask_warm(url: str, questions: Sequence[Question]) -> list[Results]:
    """Every question many times, in turns: each finds the caches as the others left them."""
    most = _TRIES * TIMES
    asked = {one.name: archive_questions.asked(one, most) for one in questions}
    times: dict[str, list[Time]] = {one.name: [] for one in questions}
    disturbed: dict[str, list[Time]] = {one.name: [] for one in questions}
    spent = dict.fromkeys(times, 0.0)
    engine = database.reading_engine(url)
    try:
        gc.collect()
        gc.freeze()
        for turn in range(most):
            for one in questions:
                known = times[one.name]
                if len(known) == TIMES or spent[one.name] > _PATIENCE:
                    continue
                stolen = busy.stolen()
                took = _timed(one, engine, next(asked[one.name]))
                spent[one.name] += took[0] / 1e3
                if turn < _UNCOUNTED and spent[one.name] <= _PATIENCE:
                    continue
                (known if busy.stolen() == stolen else disturbed[one.name]).append(took)
    finally:
        engine.dispose()
    return [_summary(one, times[one.name], disturbed[one.name]) for one in questions]


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
