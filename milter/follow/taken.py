"""What a source of log lines hands over at once, and what a position in it is.

A `mark` says where a line begins, in the source's own terms (an offset, a cursor); a `Place` turns
marks into what is written down to find them again.

Raises: `LogUnreadable` (from sources) with the remedy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from carbonseal.policies.errors import TryLater

Mark = int | str
Entry = tuple[Mark, str, str, bytes]  # its mark, time (RFC 3339), service, text


class LogUnreadable(TryLater):
    """The log is not there, or not for us."""


class Place(Protocol):
    """Where marks are valid: a file, the journal."""

    def source(self, mark: Mark) -> dict[str, Any]:
        """What an event line says of a position: enough to go on from there."""


@dataclass(frozen=True, slots=True)
class Taken:
    """Lines that follow one another, of one place."""

    place: Place
    entries: list[Entry]  # Postfix's only
    end: Mark  # where the next line begins
    lines: int  # all that were read, whoever wrote them


class Source(Protocol):
    """A log that is read line by line."""

    @property
    def is_finished(self) -> bool:
        """Whether all there was has been read, when no more than that was asked for."""

    @property
    def is_behind(self) -> bool:
        """Whether more waited when it was last asked."""

    def lost_name(self) -> str:
        """The file that is read, where it has no name any more and no other has; '' otherwise."""

    def where(self) -> tuple[Place, Mark] | None:
        """Where the next line will be taken from; None when that cannot be told yet."""

    def take(self) -> Taken | None:
        """The next lines; None when there are none now.  Raises: LogUnreadable."""

    def wait(self, seconds: float) -> None:
        """Until there is more, perhaps, or so long."""

    def close(self) -> None:
        """Let go of it."""
