"""Invented mail into an archive: segments made beforehand, then the product's own writer.

Promises: the mail of a small archive is the beginning of that of a large one, so that an archive
is measured, grows and is measured again.  Segments are made once for all engines of a run and
linked into each archive's spool; the writer runs in a process of its own, as in the product, and
only its time counts.  Loading that was stopped goes on where it stopped: the journal `steps.json`
has what each 100,000 messages cost, and how much of the machine others used meanwhile; the rate of
an interrupted step is that of its rest.

Does not: sync the segments to the disk; what the milter pays for that is in `benchmarks`.
"""

from __future__ import annotations

import functools
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from traffic import generator, segments
from traffic.generator import World

from benchmarks import busy
from benchmarks.archive_engines import Store
from carbonseal.milter.archive import open_segment, writer
from carbonseal.milter.archive import segments as spool_segments

STEP = 100_000  # messages that are loaded at a time
_SAMPLES = 6000  # records from which the queries' parameters are drawn
_JOURNAL = "steps.json"
Facts = dict[str, Any]
Say = Callable[[str], None]


class Material:
    """The segments of the first messages of `full` ones, made as they are asked for."""

    def __init__(self, directory: Path, full: int) -> None:
        self.directory = directory
        self.directory.mkdir(parents=True, exist_ok=True)
        self.full = full

    def make(self, first: int, last: int) -> None:
        """Have the segments of the parts from message `first` to before `last`."""
        missing = [one for one in self._parts(first, last) if not self._place(one).exists()]
        if len(missing) == 1:
            _make(self.full, missing[0], self.directory)
        elif missing:
            making = functools.partial(_make, self.full, directory=self.directory)
            with ProcessPoolExecutor(os.cpu_count()) as pool:
                list(pool.map(making, missing))

    def link(self, first: int, last: int, target: Path) -> None:
        """Put those segments into the spool `target`, but the ones that it has or had."""
        for part in self._parts(first, last):
            for path in sorted(self._place(part).glob(f"*{open_segment.CLOSED_SUFFIX}")):
                places = (target / path.name, target / spool_segments.LOADED / path.name)
                if not any(place.exists() for place in places):
                    os.link(path, places[0])

    def forget(self, first: int, last: int) -> None:
        """No archive of this run wants these segments any more; their samples stay."""
        for part in self._parts(first, last):
            shutil.rmtree(self._place(part), ignore_errors=True)

    def samples(self, count: int) -> list[dict[str, Any]]:
        """Records drawn evenly from the first `count` messages, oldest first."""
        parts = self._parts(0, count)
        drawn: list[dict[str, Any]] = []
        for number in parts:
            text = _sample(self.directory, number).read_text(encoding="utf-8")
            found = json.loads(text)
            drawn += found[:: max(len(found) * len(parts) // _SAMPLES, 1)]
        return drawn

    def _parts(self, first: int, last: int) -> range:
        return range(first // generator.PART, -(-last // generator.PART))

    def _place(self, part: int) -> Path:
        return _place(self.directory, part)


def _place(directory: Path, part: int) -> Path:
    return directory / f"{part:05d}"


def _sample(directory: Path, part: int) -> Path:
    return directory / f"sample-{part:05d}.json"


@functools.cache
def _world(full: int) -> World:
    """Made once in each process."""
    return World(full)


def _make(full: int, number: int, directory: Path) -> None:
    target = _place(directory, number)
    partial = target.with_suffix(".part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    drawn: list[dict[str, Any]] = []
    # As many as the smallest archive with this part in it wants from it.
    every = max((number + 1) * generator.PART // _SAMPLES, 1)

    def drawing() -> Iterator[dict[str, Any]]:
        for position, content in enumerate(_world(full).part(number)):
            if position % every == 0:
                drawn.append(content)
            yield content

    segments.fill(partial, drawing())
    _sample(directory, number).write_text(json.dumps(drawn), encoding="utf-8")
    partial.rename(target)


def steps(place: Path) -> list[Facts]:
    """What was loaded into the archive there so far, and what it cost."""
    journal = place / _JOURNAL
    found: list[Facts] = json.loads(journal.read_text()) if journal.exists() else []
    return found


def loaded(place: Path) -> int:
    """How many messages the archive there has by its journal."""
    return steps(place)[-1]["until"] if steps(place) else 0


def fill(place: Path, store: Store, material: Material, until: int, say: Say) -> Iterator[Facts]:
    """Load what is missing up to message `until`, in steps; each when it is done."""
    spool_directory = place / "spool"
    spool_directory.mkdir(exist_ok=True)
    while (first := loaded(place)) < until:
        last = min(first - first % STEP + STEP, until)
        material.make(first, last)
        material.link(first, last, spool_directory)
        facts = {"until": last, **_load(spool_directory, store)}
        # The archive before the journal, and the journal before what could be linked again.
        _write(place / _JOURNAL, json.dumps([*steps(place), facts]))
        shutil.rmtree(spool_directory / spool_segments.LOADED, ignore_errors=True)
        say(_said(facts, until))
        yield facts


def _write(file: Path, text: str) -> None:
    partial = file.with_suffix(".part")
    partial.write_text(text)
    partial.rename(file)


def _said(facts: Facts, until: int) -> str:
    records = max(facts["records"], 1)
    left = (until - facts["until"]) * facts["seconds"] / records / 60
    return (
        f"  {facts['until']:>10,} of {until:,} messages, {records / facts['seconds']:,.0f}/s "
        f"{'while others worked' if busy.is_busy(facts) else 'on its own'}, "
        f"{facts['cpu_seconds'] / records * 1e6:.0f} µs CPU each, {left:.0f} min left"
    )


def _load(spool_directory: Path, store: Store) -> Facts:
    """Run the writer over the spool in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.archive_filling"]
    # Not on the command line: the URL carries a password.
    given = json.dumps({"spool": str(spool_directory), "url": store.url})
    # It finds what we find: under pytest and from a copy of the checkout, too.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    watch = busy.Watch(store.cpu_seconds)
    done = subprocess.run(
        command, input=given, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    facts: Facts = json.loads(done.stdout.splitlines()[-1])
    return facts | watch.facts()


def main() -> None:
    """The writer's process."""
    given = json.load(sys.stdin)
    usage, begun = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    refused: list[str] = []

    def report(event: str, **facts: Any) -> None:
        if event not in ("segment-loaded", "segment-sealed"):
            refused.append(f"{event}: {facts}")

    count = writer.run_once(Path(given["spool"]), given["url"], report=report)
    seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - usage.ru_utime - usage.ru_stime
    facts = {
        "records": count,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "most_resident_mb": after.ru_maxrss // 1024,
        "other_events": refused[:5],
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
