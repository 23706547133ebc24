"""What came of handing a change to the DNS: a kind and a sentence for a person.

Promises: values only.  `SENT` says that somebody took the change, never that it can be seen: only
the answers of the authoritative servers count.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class OutcomeKind(StrEnum):
    """Five ends of an attempt."""

    SENT = "sent"  # taken; look whether it shows
    BY_HAND = "by hand"  # a person has to do it
    CONFLICT = "conflict"  # what stands at the name is not what was expected; nothing was changed
    REFUSED = "refused"  # the server or provider said no, or cannot be believed
    UNREACHABLE = "unreachable"  # no answer; the change may or may not have been made


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of one attempt."""

    kind: OutcomeKind
    sentence: str  # who, what, and what to do


def sent(sentence: str) -> Outcome:
    """Taken by somebody."""
    return Outcome(OutcomeKind.SENT, sentence)


def conflict(sentence: str) -> Outcome:
    """Something else stands there."""
    return Outcome(OutcomeKind.CONFLICT, sentence)


def refused(sentence: str) -> Outcome:
    """A no."""
    return Outcome(OutcomeKind.REFUSED, sentence)


def unreachable(sentence: str) -> Outcome:
    """No answer."""
    return Outcome(OutcomeKind.UNREACHABLE, sentence)
