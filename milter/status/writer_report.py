"""What the writer says of itself: `<spool>/state/writer.json`, once a second.

Content: `loaded`, `segments` and `set_aside` since it started, `trouble` (a sentence, or null) and
since when, how far it is in each segment (`progress`: octets and records), and what is wrong with
the evidence key, which nobody but the writer may read.

Promises: costs the writer a look at the clock for each batch, and a small file a second.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from carbonseal.keys import evidence_key
from carbonseal.milter.status.state_files import Reporter
from carbonseal.policies.errors import CarbonsealError

NAME = "writer"
_LOOK_EVERY = 5.0  # seconds between two looks at the evidence key


class Progress(Protocol):
    """How far one segment is loaded."""

    @property
    def offset(self) -> int:
        """Octets."""

    @property
    def lines(self) -> int:
        """Lines of records."""


class WriterReport:
    """Kept by the writer while it runs."""

    def __init__(self, spool: Path, evidence: Path) -> None:
        self._reporter = Reporter(spool, NAME)
        self._evidence = evidence
        self._started_at = time.time()
        self._look_at = 0.0
        self._problem = ""
        self._trouble: str | None = None
        self._trouble_since: float | None = None
        self._progress: dict[str, Progress] = {}
        self.segments = 0
        self.set_aside = 0

    def pulse(self, loaded: int, trouble: str | None, progress: Mapping[str, Progress]) -> None:
        """To be called often."""
        # In trouble the writer forgets how far it is, and asks the database when it is back.
        self._progress = dict(progress) if trouble is None else {**self._progress, **progress}
        if trouble != self._trouble:
            self._trouble_since = self._trouble_since or time.time() if trouble else None
            self._trouble = trouble
        elif not self._reporter.is_due():
            return
        self._reporter.say(
            {
                "pid": os.getpid(),
                "started_at": self._started_at,
                "loaded": loaded,
                "segments": self.segments,
                "set_aside": self.set_aside,
                "trouble": trouble,
                "trouble_since": self._trouble_since,
                "evidence_problem": self._evidence_problem(),
                "progress": {name: [one.offset, one.lines] for name, one in self._progress.items()},
            }
        )

    def _evidence_problem(self) -> str:
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + _LOOK_EVERY
            try:
                evidence_key.load(self._evidence)
                self._problem = ""
            except CarbonsealError as fault:
                self._problem = fault.sentence
        return self._problem


def said(about: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """`progress` as it was said, without what makes no sense."""
    found = about.get("progress")
    if not isinstance(found, dict):
        return {}
    return {
        name: (pair[0], pair[1])
        for name, pair in found.items()
        if isinstance(pair, list) and len(pair) == 2 and all(isinstance(one, int) for one in pair)
    }
