"""Measure Carbonseal against the signing milters of Debian, in turns, in one run.

    python -m benchmarks                     everything; renews docs/benchmarks; eight minutes
    python -m benchmarks --quick             the headline and two more against OpenDKIM; prints only
    python -m benchmarks --only 4K 1M-html   these points; prints only
    python -m benchmarks --only postfix --peers OpenDKIM

(with PYTHONPATH=tests).  Parts for --only: the points of `points`, the growths headers, recipients
and size, and postfix, memory, writer.

Promises: ends within `_BOUND`; what there was no time for is left out and named.  Exit status 1
when a message failed anywhere: then no figure is shown at all.

Does not: judge by absolute figures; touch services of the machine; leave anything running.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import (
    busy,
    contestants,
    lasting,
    load,
    machine,
    points,
    report,
    through_postfix,
    turns,
)
from benchmarks.contestants import Carbonseal, Contestant, Key, PymilterAlone
from benchmarks.goals import OURS, Results, judge
from benchmarks.turns import OutOfTime, Referee

_BOUND = 570.0  # seconds
_MUCH = 0.02  # of the cores' time, that the host of a virtual machine gave to others
_BUSY = 0.7  # load average of the last minute from which on somebody else is at work
_DOCUMENTS = load.ROOT / "docs/benchmarks"
_RECORDS = 30_000  # for the writer alone
_ROUNDS_THROUGH_POSTFIX = 5
_FAST = (OURS, "OpenDKIM", "rspamd")  # dkimpy-milter would take minutes through Postfix
console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)

Part = tuple[str, Callable[[Results], None]]


def main() -> int:
    """Read the command line and run; returns the exit status."""
    options = _options()
    # Contexts end what was started; TERM would skip them.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    load.build()
    begun = time.monotonic()
    load_average, stolen = round(os.getloadavg()[0], 2), busy.stolen()
    if load_average > _BUSY:
        console.print(
            f"[red]The machine is busy (load average {load_average}): no figure is fair.[/red]"
        )
    with _private_directory() as directory, contextlib.ExitStack() as stack:
        key = Key.make(directory)
        console.print("Starting the milters.")
        running = [
            stack.enter_context(one(directory / one.name.lower(), key))
            for one in contestants.ALL
            if one in (Carbonseal, PymilterAlone) or one.name in options.peers
        ]
        referee = Referee(running, key, directory, console.print, begun + options.bound)
        results = _results(referee, options)
        seconds = time.monotonic() - begun
        share = (busy.stolen() - stolen) * busy.TICK / (os.cpu_count() or 1) / seconds
        results["machine"] = machine.describe(running, load_average=load_average, stolen=share)
    results["seconds"] = round(time.monotonic() - begun)
    if share > _MUCH:
        console.print(
            f"[red]The host took {share:.1%} of the cores' time: milters that wait for a disk or "
            "have few threads get less than their share.[/red]"
        )
    results["goals"] = [one.as_object() for one in judge(results)]
    report.show(results, console)
    console.print(f"Took {results['seconds']} s.")
    if options.output:
        _write(results, options.output)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="under a minute; prints only")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these parts; prints only")
    parser.add_argument("--peers", nargs="*", default=None, choices=report.PEERS)
    parser.add_argument("--output", type=Path, help="where results.json and the plots go")
    parser.add_argument("--bound", type=float, default=_BOUND, help="seconds for all of it")
    options = parser.parse_args()
    if options.peers is None:
        options.peers = ["OpenDKIM"] if options.quick else list(report.PEERS)
    known = {name for name, _ in _parts(None, quick=False)}
    if unknown := set(options.only or ()) - known:
        parser.error(
            f"no such part: {' '.join(sorted(unknown))}; there are {' '.join(sorted(known))}"
        )
    if options.output is None and not options.quick and not options.only:
        options.output = _DOCUMENTS
    return options


@contextlib.contextmanager
def _private_directory() -> Iterator[Path]:
    """Short, for the sockets in it, and open to the user postfix."""
    directory = Path(tempfile.mkdtemp(prefix="bench", dir="/tmp"))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def _results(referee: Referee, options: argparse.Namespace) -> Results:
    results: Results = {
        "measured": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "messages_per_session": points.PER_CONNECTION,
        "left_out": [],
    }
    for name, part in _parts(referee, quick=options.quick):
        if options.only and name not in options.only:
            continue
        try:
            part(results)
        except OutOfTime:
            results["left_out"].append(name)
            console.print(f"  [red]no time was left for {name}[/red]")
    for one in referee.contestants:
        if isinstance(one, Carbonseal):
            one.settle()
            results["records"] = {"accepted": one.accepted, "recorded": one.recorded()}
            if one.recorded() != one.accepted:
                raise SystemExit(f"records are missing or double: {results['records']}")
    return results


def _parts(referee: Referee | None, *, quick: bool) -> list[Part]:
    """Everything that can be measured, in order; the costly growths and odd bodies come last."""

    def point_part(point: points.Point) -> Part:
        def measure(results: Results) -> None:
            assert referee is not None
            found = referee.measure(point, with_openssl=point.name == points.HEADLINE.name)
            results.setdefault("points", []).append(found)

        return point.name, measure

    def growth_part(growth: points.Growth) -> Part:
        def measure(results: Results) -> None:
            assert referee is not None
            results.setdefault("growth", []).append(referee.grow(growth))

        return growth.name, measure

    def bound(part: Callable[[Referee, Results], None]) -> Callable[[Results], None]:
        def measure(results: Results) -> None:
            assert referee is not None
            referee.check_time()
            part(referee, results)

        return measure

    if quick:
        return [point_part(point) for point in points.QUICK]
    return [
        *(point_part(point) for point in points.POINTS),
        ("memory", bound(_memory)),
        ("writer", bound(_writer)),
        ("postfix", bound(_postfix)),
        *(growth_part(growth) for growth in points.GROWTHS),
    ]


def _memory(referee: Referee, results: Results) -> None:
    """Of each, after the load so far; then what a large message adds."""
    measured = [one for one in referee.contestants if not isinstance(one, PymilterAlone)]
    results["memory"] = {one.name: lasting.memory(one) for one in measured}
    large: dict[str, Any] = {}
    for one in referee.contestants:
        if one.name in (OURS, "OpenDKIM"):  # the others hold the message, and take a minute
            large[one.name] = lasting.growth_by_a_large_message(one)
            one.settle()
    results["large_message"] = large
    grown = ", ".join(f"{name} {facts['grown_mb']} MB" for name, facts in large.items())
    console.print(f"  a 50 MB message adds: {grown}")


def _writer(referee: Referee, results: Results) -> None:
    """Its lag while the milter is at full load, and its rate alone."""
    (service,) = [one for one in referee.contestants if isinstance(one, Carbonseal)]
    results["writer"] = {"under_load": lasting.writer_under_load(service, 5)}
    words = [sys.executable, "-m", "benchmarks.records", str(_RECORDS)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    results["writer"]["alone"] = json.loads(done.stdout)
    lag = results["writer"]["under_load"]["largest_lag_s"]
    rate = results["writer"]["alone"]["records_per_second"]
    console.print(f"  writer: {lag} s behind at most under load; alone {rate:,.0f} records/s")


def _postfix(referee: Referee, results: Results) -> None:
    """The whole way, in turns."""
    if os.geteuid() != 0:
        console.print("  [red]through Postfix: left out, its master needs root[/red]")
        results["left_out"].append("postfix")
        return
    fast: Sequence[Contestant] = [one for one in referee.contestants if one.name in _FAST]
    late = referee.deadline - 60
    results["postfix"] = through_postfix.measure(
        fast, referee.key, rounds=_ROUNDS_THROUGH_POSTFIX, is_late=lambda: time.monotonic() > late
    )
    found = results["postfix"]["contestants"]
    rates = ", ".join(f"{name} {one['delivered_rate']:,.0f}/s" for name, one in found.items())
    console.print(f"  through Postfix: {rates}")


def _write(results: Results, directory: Path) -> None:
    """results.json, the plots, and the tables of the README there if it has one."""
    from benchmarks import plots  # noqa: PLC0415  (needs matplotlib, which a quick run does not)

    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=1, ensure_ascii=False)
    (directory / "results.json").write_text(text + "\n", encoding="utf-8")
    plots.draw(results, directory)
    document = directory / "README.md"
    if document.exists():
        report.write_document(results, document)
    console.print(f"Written to {directory}.")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (
        load.LoadFailed,
        turns.BadSignature,
        contestants.NotRunning,
        through_postfix.PathBroken,
    ) as fault:
        console.print(f"[red]{fault}[/red]", markup=True)
        sys.exit(1)
