"""What one archive is like: the 25 queries, warm and cold, and its size by table.

Promises: every query from its text to its first page, each kind often and with values of its own;
what others used of the machine meanwhile is on record with the times.

Does not: load anything.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Sequence
from typing import Any

from benchmarks import archive_questions, busy
from benchmarks.archive_engines import Store
from benchmarks.archive_questions import Question
from carbonseal.milter.archive import database
from carbonseal.milter.archive.search import query
from carbonseal.milter.archive.search.wanted import Search

TIMES = 60  # each query, with values of its own
_UNCOUNTED = 5  # of each, before
_PATIENCE = 60.0  # seconds for all of one kind
Results = dict[str, Any]


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
    asked = {one.name: list(archive_questions.asked(one, _UNCOUNTED + TIMES)) for one in questions}
    times: dict[str, list[tuple[float, int, str]]] = {one.name: [] for one in questions}
    spent = dict.fromkeys(times, 0.0)
    engine = database.reading_engine(url)
    try:
        gc.collect()
        gc.freeze()
        for turn in range(_UNCOUNTED + TIMES):
            for one in questions:
                if spent[one.name] > _PATIENCE:
                    continue
                text = asked[one.name][turn]
                ask = one.ask(engine, text)
                begun = time.perf_counter()
                found = ask()
                seconds = time.perf_counter() - begun
                spent[one.name] += seconds
                if turn >= _UNCOUNTED or spent[one.name] > _PATIENCE:
                    times[one.name].append((seconds * 1e3, found, text))
    finally:
        engine.dispose()
    return [_summary(one, times[one.name]) for one in questions]


def _summary(question: Question, times: list[tuple[float, int, str]]) -> Results:
    ranked = sorted(times)
    milliseconds = [one[0] for one in ranked]
    return {
        "name": question.name,
        "kind": question.kind,
        "p50_ms": round(statistics.median(milliseconds), 2),
        "p95_ms": round(milliseconds[min(int(len(ranked) * 0.95), len(ranked) - 1)], 2),
        "found": statistics.median(one[1] for one in ranked),
        "times": len(ranked),
        "example": times[0][2],
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
