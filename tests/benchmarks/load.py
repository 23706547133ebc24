"""The load: builds and runs `load.c`, the MTA's side of the measurement.

Promises: `send` returns only when every message came back signed as expected.

Raises: LoadFailed with what the load said; never a rate of unsigned messages.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path(__file__).with_name("load.c")
PROGRAM = ROOT / "build/bench/load"


class LoadFailed(Exception):
    """A message did not come back as it must, or the milter could not be spoken to."""


@dataclass(frozen=True, slots=True)
class Burst:
    """What one run of the load found."""

    messages: int  # all of them
    seconds: float  # after the warm-up, as the rate and the times are
    rate: float  # messages a second
    p50_ms: float  # from the first octet of MAIL to the answer to the end of the message
    p90_ms: float
    p99_ms: float
    max_ms: float
    own_cpu_seconds: float  # of the load itself
    answers_awaited: int  # round trips of each message, as the milter negotiated


def build() -> None:
    """Compile what is older than its source."""
    subprocess.run(["make", "-s", "-C", ROOT, PROGRAM.relative_to(ROOT)], check=True)


def run(socket: Path, *options: str | int | float | Path) -> tuple[int, dict[str, Any], str]:
    """One run as it is: exit status, the report (empty when there is none), standard error."""
    words = [PROGRAM, *map(str, options), f"unix:{socket}"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr.strip()


def send(socket: Path, *options: str | int | float | Path) -> Burst:
    """One burst of messages; LoadFailed unless every one of them was a success."""
    status, report, complaint = run(socket, *options)
    if status or not report or report["failures"]:
        failed, first = report.get("failures", "?"), report.get("first_failure", "")
        raise LoadFailed(
            f"{failed} of {report.get('messages', '?')} messages failed at {socket}"
            f" ({' '.join(map(str, options))}): {first} {complaint}"
        )
    return Burst(**{name: report[name] for name in Burst.__dataclass_fields__})
