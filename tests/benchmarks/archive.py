"""Fill archives with invented mail and ask them what officers ask: every engine, several sizes.

    python -m benchmarks.archive                        100,000 to 1,000,000 messages, all engines
    python -m benchmarks.archive --sizes 20000 --engines sqlite            prints only
    python -m benchmarks.archive --directory D --load-only                 on a busy machine
    python -m benchmarks.archive --directory D --measure-only --add        on a quiet one

(with PYTHONPATH=tests).  An archive grows from one size to the next and is measured at each; with
--load-only a copy of it is kept before it grows on, for --measure-only.  Renews docs/benchmarks/
archive.* when all engines and sizes were asked for, or with --add.  With --directory everything is
kept there: a run that was stopped goes on after the last 100,000 messages, and what was measured
is not measured again, but with --measure-only.

Promises: one engine at a time; the writer in a process of its own; every query from its text to its
first page.  Exit status 1 when the writer did not load every record.

Does not: touch services of the machine, or leave anything running.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from traffic import generator

from benchmarks import (
    archive_engines,
    archive_filling,
    archive_measuring,
    archive_report,
    busy,
    load,
    machine,
)
from benchmarks.archive_engines import Store
from benchmarks.archive_filling import Material

_ENGINES = ("sqlite", "postgresql", "mariadb")
_SIZES = (100_000, 320_000, 1_000_000)
_FULL = "messages of the mail of which all --sizes in a new --directory are the beginning"
_REACHED = "reached"  # a file beside an archive: the size at which it is to be measured
_DOCUMENTS = load.ROOT / "docs/benchmarks"
console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)

Results = dict[str, Any]


class Run:
    """A directory of archives, and what is to be done with them."""

    def __init__(self, directory: Path, full: int, *, copies: bool = False) -> None:
        """`full`: messages of the mail of which all archives here are the beginning, if it is new.

        `copies`: keep one of an archive at each size before it grows further, for `measure`.
        """
        self.directory = directory
        self._copies = copies
        kept = directory / "mail.json"
        if not kept.exists():
            kept.write_text(json.dumps({"full": full}))
        self._full: int = json.loads(kept.read_text())["full"]
        self.material = Material(directory / "segments", self._full)
        (directory / "results").mkdir(exist_ok=True)

    def check(self, sizes: list[int]) -> None:
        """Raises SystemExit for a size that no archive here can have."""
        for size in sizes:
            if size > self._full:
                raise SystemExit(
                    f"{self.directory}: its mail ends after {self._full:,} messages; begin with "
                    f"--full {size} in another --directory"
                )
            if size % generator.PART and size != self._full:
                raise SystemExit(f"{size} is no multiple of {generator.PART}, and not all the mail")

    def load(self, engine: str, size: int, *, is_last: bool) -> None:
        """Let the archive of `engine` grow; the segments go when this is the `last` engine."""
        place = self._place(engine)
        first = archive_filling.loaded(place)
        if first >= size:
            return
        console.print(f"{engine}, from {first:,} to {size:,} messages")
        if not first:  # the tables of a server that was stopped at once may be half made
            shutil.rmtree(place, ignore_errors=True)
        reached = place / _REACHED
        with self._opened(engine, place) as store:
            if reached.exists():
                self._keep(store, int(reached.read_text()), first)
                reached.unlink()
            for facts in archive_filling.fill(place, store, self.material, size, console.print):
                if is_last:
                    self.material.forget(first, facts["until"])
            arrived = archive_measuring.count(store.url)
            if arrived != size:
                done = archive_filling.steps(place)
                raise SystemExit(f"{engine}: {arrived} of {size} records arrived: {done}")
        if self._copies:
            reached.write_text(str(size))

    def _keep(self, store: Store, size: int, count: int) -> None:
        """A copy of an archive that was to be measured, before it grows."""
        copy = self._copy(store.name, size)
        if size == count and not copy.exists():
            store.copy(copy)

    def is_measured(self, engine: str, size: int) -> bool:
        return self._result(engine, size).exists()

    def measure(self, engine: str, sizes: Sequence[int]) -> None:
        """Ask the archives of these sizes in turns: the copy that was made when it had the size,
        or the archive itself.
        """
        places = {size: place for size in sizes if (place := self._of_size(engine, size))}
        if not places:
            return
        console.print(f"{engine}, measuring {', '.join(f'{size:,}' for size in places)} messages")
        with contextlib.ExitStack() as at_end:
            archives = [
                (at_end.enter_context(self._opened(engine, place)), self.material.samples(size))
                for size, place in places.items()
            ]
            measured = archive_measuring.measure(archives)
        every = archive_filling.steps(self._place(engine))
        for size, found in zip(places, measured, strict=True):
            steps = [one for one in every if one["until"] <= size]
            run = {"engine": engine, "messages": size, "loading": loading(steps), **found}
            self._result(engine, size).write_text(json.dumps(run), encoding="utf-8")
            archive_report.show_run(run, console)

    def _of_size(self, engine: str, size: int) -> Path | None:
        """Where an archive of that size is."""
        place = self._copy(engine, size)
        if place.exists():
            return place
        place = self._place(engine)
        if archive_filling.loaded(place) == size:
            return place
        console.print(f"{engine} has no archive of {size:,} messages here; load it first")
        return None

    def results(self) -> list[Results]:
        """Everything that was measured in this directory so far."""
        files = (self.directory / "results").glob("*.json")
        found = [json.loads(one.read_text(encoding="utf-8")) for one in files]
        return sorted(found, key=lambda one: (one["messages"], _ENGINES.index(one["engine"])))

    def _place(self, engine: str) -> Path:
        return self.directory / engine

    def _copy(self, engine: str, size: int) -> Path:
        return self.directory / f"{engine}-at-{size}"

    def _result(self, engine: str, size: int) -> Path:
        return self.directory / "results" / f"{engine}-{size}.json"

    @contextlib.contextmanager
    def _opened(self, engine: str, place: Path) -> Iterator[Store]:
        place.mkdir(exist_ok=True)
        store = archive_engines.open_store(engine, place)
        try:
            yield store
        finally:
            store.close()


def loading(steps: list[Results]) -> Results:
    """What loading cost: rates apart by whether others used the machine, CPU time at both ends."""
    alone = [one for one in steps if not busy.is_busy(one)]
    worked = [one for one in steps if busy.is_busy(one)]
    return {
        "alone_per_second": _rate(alone),
        "alone_records": sum(one["records"] for one in alone),
        "busy_per_second": _rate(worked),
        "busy_records": sum(one["records"] for one in worked),
        "cpu_us": _microseconds(steps, "cpu_seconds"),
        "server_cpu_us": _microseconds(steps, "server_cpu_seconds"),
        "first_cpu_us": _microseconds(steps[:1], "cpu_seconds"),
        "last_cpu_us": _microseconds(steps[-1:], "cpu_seconds"),
        "most_resident_mb": max(one["most_resident_mb"] for one in steps),
        "steps": steps,
    }


def _rate(steps: list[Results]) -> int | None:
    seconds = sum(one["seconds"] for one in steps)
    return round(sum(one["records"] for one in steps) / seconds) if seconds else None


def _microseconds(steps: list[Results], what: str) -> int:
    records = sum(one["records"] for one in steps)
    return round(sum(one[what] for one in steps) / max(records, 1) * 1e6)


def main() -> int:
    """Read the command line and run; returns the exit status."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    load_average = round(os.getloadavg()[0], 2)
    with _directory(options.directory) as directory:
        run = Run(directory, options.full, copies=options.load_only)
        run.check(options.sizes)
        for size in sorted(options.sizes):
            for engine in options.engines:
                if not options.measure_only:
                    run.load(engine, size, is_last=engine == options.engines[-1])
                if options.load_only:
                    continue
                if not (options.measure_only or run.is_measured(engine, size)):
                    run.measure(engine, [size])
        for engine in options.engines if options.measure_only else ():
            run.measure(engine, sorted(options.sizes))
        runs = run.results()
    if runs:
        _report(runs, options, load_average)
    return 0


def _report(runs: list[Results], options: argparse.Namespace, load_average: float) -> None:
    is_whole = set(options.engines) == set(_ENGINES) and set(_SIZES) <= set(options.sizes)
    results: Results = {"machine": machine.describe((), load_average=load_average), "runs": runs}
    if options.add:
        results = archive_report.added(results, _DOCUMENTS)
    archive_report.show(results, console)
    if (is_whole and not options.load_only) or options.add:
        archive_report.write(results, _DOCUMENTS)
    if options.output:
        options.output.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.archive",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sizes", nargs="+", type=int, default=list(_SIZES), metavar="N")
    parser.add_argument("--engines", nargs="+", choices=_ENGINES, default=list(_ENGINES))
    parser.add_argument("--directory", type=Path, help="where to work, and to go on later")
    parser.add_argument("--full", type=int, metavar="N", help=_FULL)
    phase = parser.add_mutually_exclusive_group()
    phase.add_argument("--load-only", action="store_true", help="measure nothing, keep copies")
    phase.add_argument("--measure-only", action="store_true", help="load nothing, measure anew")
    parser.add_argument("--output", type=Path, metavar="FILE", help="results as JSON")
    parser.add_argument("--add", action="store_true", help="add to the report that is there")
    options = parser.parse_args()
    if (options.load_only or options.measure_only) and options.directory is None:
        parser.error("the other phase wants to find the archives: say --directory")
    least = _SIZES[-1] if options.directory else 0  # such an archive may be meant to grow
    options.full = options.full or max(least, *options.sizes)
    return options


@contextlib.contextmanager
def _directory(wanted: Path | None) -> Iterator[Path]:
    if wanted is not None:
        wanted.mkdir(parents=True, exist_ok=True)
        yield wanted.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="cs-archive-") as name:
        Path(name).chmod(0o711)  # the servers' users go through
        yield Path(name)


if __name__ == "__main__":
    sys.exit(main())
