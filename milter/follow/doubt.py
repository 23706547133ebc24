"""Is this the log that is meant, and does its clock agree with ours?

A follower that reads the wrong file, or looks for programs of another name, finds nothing and has
nothing to complain of; one whose log is in another time zone finds no record; one whose log was
deleted reads on in a file that nobody else can.  All of it is said: in the log, in `carbonseal
status`, and by `follow --once`.

Promises: is sure before it speaks.  A log that once told of a message is not doubted again for a
silence, however long: others may write into it as well.

Does not: stop the follower; what can be read is read.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from carbonseal.policies import quantity

LEAST_LINES: Final = 100  # in which a line of Postfix must be
ASTRAY: Final = 600.0  # seconds; what a syslog server holds back is less, a time zone is more
LOST_FOR: Final = 60.0  # seconds; a rotation is done sooner
_HOUR: Final = 3600.0

NOT_OURS: Final = (
    "none of {lines} of the log is Postfix's; see what its programs are called there, and in"
    " which file, and set follow.syslog_name (postconf syslog_name) and follow.log"
)
OTHER_CLOCK: Final = (
    "the log's newest lines are {hours:.1f} h {where} this host's clock, so they fit no record; let"
    " the follower have the time zone of the log (TZ in its unit), or let syslog write RFC 3339"
)
LOST: Final = (
    "{path}: the log was deleted, and only this follower still reads it; once it stops, what was"
    " written since is lost: let syslog open its log anew (its service, or postfix reload)"
)


class Doubt:
    """What is known of one log in one run."""

    def __init__(self) -> None:
        self._lines = 0
        self._is_ours = False
        self._astray: str | None = None
        self._lost = ""
        self._lost_since: float | None = None
        self._is_lost = False

    def take(self, lines: int, entries: int) -> None:
        """So many lines were read, and so many of these were Postfix's."""
        self._lines += lines
        self._is_ours = self._is_ours or entries > 0

    def is_fresh(self, at: str, now: float) -> None:
        """A line written a moment ago says that it is `at` (RFC 3339); `now`: Unix time."""
        ahead = datetime.fromisoformat(at).timestamp() - now
        where = "ahead of" if ahead > 0 else "behind"
        text = OTHER_CLOCK.format(hours=abs(ahead) / _HOUR, where=where)
        self._astray = text if abs(ahead) > ASTRAY else None

    def name(self, lost: str, now: float) -> None:
        """The log has lost its name, or ''; `now`: seconds of a clock that is never set back."""
        self._lost = lost
        if not lost:
            self._lost_since = None
        elif self._lost_since is None:
            self._lost_since = now
        self._is_lost = self._lost_since is not None and now - self._lost_since >= LOST_FOR

    def sentence(self, facts: int, *, least: int = LEAST_LINES) -> str | None:
        """What is doubtful; `facts`: that were ever found in this log."""
        if not (facts or self._is_ours) and self._lines >= least:
            return NOT_OURS.format(lines=quantity.of(self._lines, "line"))
        return LOST.format(path=self._lost) if self._is_lost else self._astray
