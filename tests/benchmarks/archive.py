"""Fill archives with invented mail and ask them what officers ask: every engine, several sizes.

    python -m benchmarks.archive                                   100,000 and 1,000,000 messages
    python -m benchmarks.archive --sizes 20000 --engines sqlite    prints only
    python -m benchmarks.archive --sizes 10000000 --engines sqlite --add   adds it to the report

(with PYTHONPATH=tests).  Renews docs/benchmarks/archive.* when all engines and sizes were asked
for, or with --add.  With --directory a run that was stopped goes on where it stopped: SQLite after
the last 100,000 messages, the servers, which are private and end with the program, after the last
engine and size.

Promises: one engine at a time; the writer in a process of its own; every query from its text to its
first page.  Exit status 1 when the writer did not load every record.

Does not: touch services of the machine, or leave anything running.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import archive_engines, archive_questions, archive_report, load, machine
from benchmarks.archive_engines import Store
from benchmarks.archive_filling import Material, fill
from benchmarks.archive_questions import Question
from carbonseal.milter.archive import database
from carbonseal.milter.archive.search import query
from carbonseal.milter.archive.search.wanted import Search

_ENGINES = ("sqlite", "postgresql", "mariadb")
_SIZES = (100_000, 1_000_000)
_KEPT = 1_000_000  # messages whose segments are kept for the next engine; more would fill the disk
_TIMES = 60  # each query, with values of its own
_UNCOUNTED = 5  # of each, before
_PATIENCE = 60.0  # seconds for all of one kind
_DOCUMENTS = load.ROOT / "docs/benchmarks"
console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)

Results = dict[str, Any]


def main() -> int:
    """Read the command line and run; returns the exit status."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    busy = round(os.getloadavg()[0], 2)
    is_whole = set(options.engines) == set(_ENGINES) and set(_SIZES) <= set(options.sizes)
    with _directory(options.directory) as directory:
        runs = []
        for size in sorted(options.sizes):
            material = Material(directory / "segments", size, is_kept=size <= _KEPT)
            for engine in options.engines:
                runs.append(_run(engine, material, directory))
                archive_report.show_run(runs[-1], console)
            shutil.rmtree(material.directory)
    results: Results = {"machine": machine.describe((), load_average=busy), "runs": runs}
    if options.add:
        results = archive_report.added(results, _DOCUMENTS)
    archive_report.show(results, console)
    if is_whole or options.add:
        archive_report.write(results, _DOCUMENTS)
    if options.output:
        options.output.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.archive",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sizes", nargs="+", type=int, default=list(_SIZES), metavar="N")
    parser.add_argument("--engines", nargs="+", choices=_ENGINES, default=list(_ENGINES))
    parser.add_argument("--directory", type=Path, help="where to work, and to go on later")
    parser.add_argument("--output", type=Path, metavar="FILE", help="results as JSON")
    parser.add_argument("--add", action="store_true", help="add to the report that is there")
    return parser.parse_args()


@contextlib.contextmanager
def _directory(wanted: Path | None) -> Iterator[Path]:
    if wanted is not None:
        wanted.mkdir(parents=True, exist_ok=True)
        yield wanted
        return
    with tempfile.TemporaryDirectory(prefix="cs-archive-") as name:
        yield Path(name)


def _run(engine: str, material: Material, directory: Path) -> Results:
    """One engine with one number of messages, unless an earlier run has done it."""
    place = directory / f"{engine}-{material.count}"
    kept = place.with_suffix(".json")
    if kept.exists():
        done: Results = json.loads(kept.read_text(encoding="utf-8"))
        return done
    if engine != "sqlite":  # the server went with its data
        shutil.rmtree(place, ignore_errors=True)
    place.mkdir(exist_ok=True)
    console.print(f"{engine}, {material.count:,} messages")
    store = archive_engines.open_store(engine, place)
    try:
        run = _measure(store, material, place)
    finally:
        store.close()
    kept.write_text(json.dumps(run), encoding="utf-8")
    shutil.rmtree(place)
    return run


def _measure(store: Store, material: Material, place: Path) -> Results:
    chunks = fill(place, store.url, material, console.print)
    arrived = _count(store.url)
    if arrived != material.count:
        raise SystemExit(f"{store.name}: {arrived} of {material.count} records arrived: {chunks}")
    begun = time.perf_counter()
    store.settle()
    questions = archive_questions.questions(material.samples())
    run: Results = {
        "engine": store.name,
        "messages": material.count,
        "settings": store.settings,
        "loading": _loading(chunks),
        "settled_s": round(time.perf_counter() - begun, 1),
        "octets": store.total(),
        "octets_by_table": store.sizes(),
    }
    warm = _ask_warm(store.url, questions)
    store.make_cold()
    cold = _ask_cold(store.url, questions)
    run["questions"] = [{**one, "cold_ms": cold[one["name"]]} for one in warm]
    return run


def _count(url: str) -> int:
    engine = database.reading_engine(url)
    try:
        return query.count(engine, Search())
    finally:
        engine.dispose()


def _loading(chunks: list[Results]) -> Results:
    seconds = sum(one["seconds"] for one in chunks)
    rates = [one["records"] / one["seconds"] for one in chunks]
    records = sum(one["records"] for one in chunks)
    return {
        "records_per_second": round(records / seconds),
        "first_per_second": round(rates[0]),
        "last_per_second": round(rates[-1]),
        "cpu_us": round(sum(one["cpu_seconds"] for one in chunks) / records * 1e6),
        "most_resident_mb": max(one["most_resident_mb"] for one in chunks),
        "seconds": round(seconds),
    }


def _ask_warm(url: str, questions: Sequence[Question]) -> list[Results]:
    """Every question many times, in turns: each finds the caches as the others left them."""
    asked = {one.name: list(archive_questions.asked(one, _UNCOUNTED + _TIMES)) for one in questions}
    times: dict[str, list[tuple[float, int, str]]] = {one.name: [] for one in questions}
    spent = dict.fromkeys(times, 0.0)
    engine = database.reading_engine(url)
    try:
        gc.collect()
        gc.freeze()
        for turn in range(_UNCOUNTED + _TIMES):
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


if __name__ == "__main__":
    sys.exit(main())
