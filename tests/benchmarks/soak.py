"""The long run: does memory stay flat over half a million messages, and is each of them on record?

`python -m benchmarks.soak [MESSAGES]` (with PYTHONPATH=tests; 500,000) sends 4 KB messages over 8
and 32 connections by turns, then messages of 50 MB, one alone and four at once.  Prints a line of
progress after each tenth and one line of JSON at the end.

Promises: every message came back signed and with the archive recipient.  The exit status is 1 when
a process that serves mail grew by more than `ALLOWED` after the first tenth, when a message of
50 MB added more than that, when a process was replaced, when the database does not hold as many
messages as were accepted, or when the time was over before the last message.

Does not: judge the writer's memory, only show it; measure rates that can be compared (`benchmarks`
does, in turns).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import load, processes
from benchmarks.contestants import Carbonseal, Key, NotRunning

MIB = 1024 * 1024
MESSAGES = 500_000
HOURS = 1.0  # the longest the small messages may take
ALLOWED = 2 * MIB  # octets a process may grow by
LARGE = 50 * MIB  # octets of a large message
_TENTHS = 10
_CONNECTIONS = (8, 32)
_AT_ONCE = 4
_WRITER_PATIENCE = 600.0  # seconds for what is in the spool at the end


@dataclass(frozen=True, slots=True)
class Reading:
    """All processes at one moment of the run."""

    messages: int  # accepted until then
    rate: float  # messages a second since the reading before
    resident: dict[str, int]  # 'worker 4711' -> octets of RSS


@dataclass(frozen=True, slots=True)
class Large:
    """What large messages added to a worker."""

    at_once: int
    added: int  # octets of peak RSS over RSS before, of the worker that grew most


def take_tenths(service: Carbonseal, messages: int, *, give_up_at: float) -> list[Reading]:
    """Send `messages` in tenths and read after each; shorter when the time is over."""
    readings = []
    for tenth in range(1, _TENTHS + 1):
        wanted = messages * tenth // _TENTHS
        begun, before = time.monotonic(), service.accepted
        for turn, connections in enumerate(_CONNECTIONS, 1):
            share = (wanted - before) * turn // len(_CONNECTIONS) - (service.accepted - before)
            service.send("--connections", connections, "--messages", max(share, 1))
        rate = (service.accepted - before) / (time.monotonic() - begun)
        readings.append(Reading(service.accepted, round(rate, 1), resident(service)))
        _show(readings[-1], tenth)
        if time.monotonic() > give_up_at:
            break
    return readings


def resident(service: Carbonseal) -> dict[str, int]:
    """RSS of every process, by what it does and its process id."""
    found = {}
    for pid in processes.tree(service.pid):
        memory = processes.memory(pid)
        if memory is not None:
            found[f"{service.role(pid)} {pid}"] = memory.resident
    return found


def large_messages(service: Carbonseal, at_once: int) -> Large:
    """Send large messages and see what they add to the workers while they pass."""
    workers = [pid for pid in processes.tree(service.pid) if service.role(pid) == "worker"]
    before = {}
    for pid in workers:
        processes.forget_peak(pid)
        before[pid] = _peak(pid)
    service.send("--size", LARGE, "--connections", at_once, "--messages", at_once)
    return Large(at_once, max(_peak(pid) - before[pid] for pid in workers))


def _peak(pid: int) -> int:
    memory = processes.memory(pid)
    return 0 if memory is None else memory.peak


def complaints(readings: list[Reading], large: list[Large], *, wanted: int) -> list[str]:
    """What is not as it must be."""
    first, last = readings[0].resident, readings[-1].resident
    found = [
        f"{name} grew by {(last[name] - octets) // 1024} KiB after the first tenth"
        for name, octets in first.items()
        if name in last and not name.startswith("writer") and last[name] - octets > ALLOWED
    ]
    if first.keys() != last.keys():
        found.append(f"processes were replaced: {sorted(first)} became {sorted(last)}")
    if readings[-1].messages < wanted:
        found.append(f"only {readings[-1].messages} of {wanted} messages in the time given")
    found += [
        f"{one.at_once} messages of 50 MB at once added {one.added // 1024} KiB to a worker"
        for one in large
        if one.added > ALLOWED * one.at_once
    ]
    return found


def _await_writer(service: Carbonseal) -> None:
    """Until the writer can be told from a worker: it loads its libraries first."""
    deadline = time.monotonic() + _WRITER_PATIENCE
    while not any(service.role(pid) == "writer" for pid in processes.tree(service.pid)):
        if time.monotonic() > deadline:
            raise NotRunning("no writer is there")
        time.sleep(0.05)


def _show(reading: Reading, tenth: int) -> None:
    sizes = ", ".join(
        f"{name.split()[0]} {octets / MIB:.1f}" for name, octets in reading.resident.items()
    )
    line = f"{tenth * 10:3d} %  {reading.messages:7d} messages  {reading.rate:6.0f}/s  MB: {sizes}"
    print(line, file=sys.stderr, flush=True)


def soak(directory: Path, messages: int, *, hours: float) -> dict[str, Any]:
    """The whole run; `complaints` in the result is empty when all is well."""
    service = Carbonseal(directory / "carbonseal", Key.make(directory))
    begun = time.monotonic()
    with service:
        _await_writer(service)
        # Before the 50 MB: what their buffers leave behind would hide a slow growth.
        readings = take_tenths(service, messages, give_up_at=begun + hours * 3600)
        large = [large_messages(service, at_once) for at_once in (1, _AT_ONCE)]
        with contextlib.suppress(NotRunning):  # counting will tell what is missing
            service.settle(_WRITER_PATIENCE)
        recorded, accepted = service.recorded(), service.accepted
    found = complaints(readings, large, wanted=messages)
    if recorded != accepted:
        found.append(f"{accepted} messages were accepted, {recorded} are in the database")
    return {
        "messages": readings[-1].messages,
        "seconds": round(time.monotonic() - begun, 1),
        "readings": [asdict(one) for one in readings],
        "large": [asdict(one) for one in large],
        "accepted": accepted,
        "recorded": recorded,
        "complaints": found,
    }


def main() -> int:
    """Run, print the result, and say by the exit status whether all was well."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("messages", nargs="?", type=int, default=MESSAGES)
    parser.add_argument("--hours", type=float, default=HOURS, help="give up after so long")
    options = parser.parse_args()
    load.build()
    with tempfile.TemporaryDirectory() as name:
        result = soak(Path(name), max(options.messages, 100), hours=options.hours)
    print(json.dumps(result))
    return 1 if result["complaints"] else 0


if __name__ == "__main__":
    sys.exit(main())
