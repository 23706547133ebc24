"""The writer's account of itself: events for an operator, and what its state file says.

Promises: a database that cannot serve is said once, as long as it is the same trouble, and once
more when it serves again.  The file is brought up to date at each pulse, once a second at most
(`status.writer_report`).

Does not: decide what happens next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from carbonseal.milter import log
from carbonseal.milter.archive.progress import Progress
from carbonseal.milter.status.writer_report import WriterReport

Report = Callable[..., None]  # called with the name of an event, and facts by name

_GRAVE: Final = {
    "archive-changed": log.warning,
    "archive-lost": log.error,
    "database-waits": log.warning,
    "segments-brought-back": log.warning,
    "record-set-aside": log.error,
    "segment-damaged": log.error,
    "stamp-failed": log.warning,
}


def to_log(event: str, **facts: Any) -> None:
    """A report that goes to the log, each event at its level."""
    _GRAVE.get(event, log.event)(event, **facts)


class Account:
    """What one writer has done since it began, and what keeps it from doing more."""

    def __init__(self, report: Report, spool: Path, evidence: Path) -> None:
        self._report = report
        self._file = WriterReport(spool, evidence)
        self._trouble: str | None = None
        self.loaded = 0  # records

    @property
    def report(self) -> Report:
        """Who is told of events."""
        return self._report

    def has_loaded(self, count: int, progress: Mapping[str, Progress]) -> None:
        """So many records were committed, with how far that is in each segment."""
        self.loaded += count
        self._file.pulse(self.loaded, self._trouble, progress)

    def has_set_aside(self) -> None:
        """A line was set aside."""
        self._file.set_aside += 1

    def has_finished(self) -> None:
        """A segment was loaded to its end, and is in loaded/."""
        self._file.segments += 1

    def serves(self, progress: Mapping[str, Progress]) -> None:
        """A pass over the spool came to its end."""
        if self._trouble is not None:
            self._report("database-serves-again", after=self._trouble)
            self._trouble = None
        self._file.pulse(self.loaded, None, progress)

    def waits(self, problem: str, *, is_lost: bool = False) -> None:
        """A pass was given up; `problem`: why, for people; `is_lost`: it wants somebody to act."""
        if problem != self._trouble:
            self._report("archive-lost" if is_lost else "database-waits", problem=problem)
            self._trouble = problem
        self._file.pulse(self.loaded, problem, {})
