"""Invented mail into an archive: segments made beforehand, then the product's own writer.

Promises: segments are made once for each number of messages and linked into each archive's spool;
the writer runs in a process of its own, as in the product, and only its time counts.  Loading that
was stopped goes on where it stopped; the rate of that chunk is that of its rest.

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

from carbonseal.milter.archive import segments as spool_segments
from carbonseal.milter.archive import spool, writer

CHUNK_PARTS = 5  # of the generator
CHUNK = CHUNK_PARTS * generator.PART  # 100,000 messages
_SAMPLES = 6000  # records from which the queries' parameters are drawn
Facts = dict[str, Any]
Say = Callable[[str], None]


class Material:
    """The segments of one number of messages, made as they are asked for."""

    def __init__(self, directory: Path, count: int, *, is_kept: bool) -> None:
        self.directory = directory / str(count)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.count = count
        self._is_kept = is_kept
        self._parts = -(-count // generator.PART)

    @property
    def chunks(self) -> int:
        """How many there are, of 100,000 messages each."""
        return -(-self._parts // CHUNK_PARTS)

    def link(self, chunk: int, target: Path) -> None:
        """Put the segments of `chunk` into the spool `target`, but those that it has or had."""
        for path in sorted(self._made(chunk).glob(f"*{spool.CLOSED_SUFFIX}")):
            places = (target / path.name, target / spool_segments.LOADED / path.name)
            if not any(place.exists() for place in places):
                os.link(path, places[0])

    def forget(self, chunk: int) -> None:
        """`chunk` is loaded; its segments go, unless another archive will want them."""
        if not self._is_kept:
            shutil.rmtree(self._place(chunk), ignore_errors=True)

    def samples(self) -> list[dict[str, Any]]:
        """Records drawn evenly from those made so far, oldest first."""
        files = sorted(self.directory.glob("sample-*.json"))
        return [one for path in files for one in json.loads(path.read_text(encoding="utf-8"))]

    def _place(self, chunk: int) -> Path:
        return self.directory / f"{chunk:04d}"

    def _made(self, chunk: int) -> Path:
        target = self._place(chunk)
        if target.exists():
            return target
        partial = target.with_suffix(".part")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        parts = range(chunk * CHUNK_PARTS, min((chunk + 1) * CHUNK_PARTS, self._parts))
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            made = pool.map(_make, [(self.count, number, partial) for number in parts])
            drawn = [one for some in made for one in some]
        sample = self.directory / f"sample-{chunk:04d}.json"
        sample.write_text(json.dumps(drawn), encoding="utf-8")
        partial.rename(target)
        return target


@functools.cache
def _world(count: int) -> World:
    """Made once in each process."""
    return World(count)


def _make(task: tuple[int, int, Path]) -> list[dict[str, Any]]:
    count, number, directory = task
    drawn: list[dict[str, Any]] = []
    every = max(count // _SAMPLES, 1)

    def drawing() -> Iterator[dict[str, Any]]:
        for position, content in enumerate(_world(count).part(number)):
            if position % every == 0:
                drawn.append(content)
            yield content

    segments.fill(directory, drawing())
    return drawn


def fill(directory: Path, url: str, material: Material, say: Say) -> list[Facts]:
    """Load all chunks that are not loaded yet; what each cost, those of earlier runs included."""
    spool_directory = directory / "spool"
    spool_directory.mkdir(exist_ok=True)
    journal = directory / "chunks.json"
    done: list[Facts] = json.loads(journal.read_text()) if journal.exists() else []
    for chunk in range(len(done), material.chunks):
        material.link(chunk, spool_directory)
        facts = _load(spool_directory, url)
        done.append(facts)
        journal.write_text(json.dumps(done))
        shutil.rmtree(spool_directory / spool_segments.LOADED, ignore_errors=True)
        material.forget(chunk)
        say(
            f"  {min(len(done) * CHUNK, material.count):>10,} records, "
            f"{facts['records'] / facts['seconds']:,.0f}/s, "
            f"{facts['cpu_seconds'] / max(facts['records'], 1) * 1e6:.0f} µs CPU each"
        )
    return done


def _load(spool_directory: Path, url: str) -> Facts:
    """Run the writer over the spool in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.archive_filling"]
    # Not on the command line: the URL carries a password.
    given = json.dumps({"spool": str(spool_directory), "url": url})
    # It finds what we find: under pytest and from a copy of the checkout, too.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        command, input=given, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    facts: Facts = json.loads(done.stdout.splitlines()[-1])
    return facts


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
