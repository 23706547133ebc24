"""To which record an event line belongs: by relay, queue id and time.

A short queue id is used again once its message has left the queue; a long one (with a `z` in it,
`enable_long_queue_ids`) never is.  So a line that shows a message come in belongs to the record
made at its end, and any other to the newest record before it that had not left the queue.

Promises: pure; the same whether the record came first or the line.

Does not: know SQL.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from carbonseal.milter.archive import schema

_SECOND = 1_000_000
# syslog may cut a time to whole seconds.
_CLOCK = 1 * _SECOND
_TRANSACTION = 6 * 3600 * _SECOND  # between the first line of a message and its record
_LATE = 3600 * _SECOND  # a line of a message come in that is later belongs to another
_FAMILY = 300 * _SECOND  # between the lines of a message and of one that is made from it
_AFTERWARDS = 60 * _SECOND  # lines of a message that has left the queue
_LONG_MARK = 10


class Candidate(NamedTuple):
    """A record whose message has, or had, that queue id."""

    record_id: str
    at: int  # of the record, or when it was told that this was made from it; microseconds
    kinship: int
    removed_at: int | None = None


def is_long(queue_id: str) -> bool:
    """Whether Postfix never uses it again."""
    return queue_id[_LONG_MARK : _LONG_MARK + 1] == "z"


def match(
    queue_id: str, at: int, entered_at: int | None, candidates: Collection[Candidate]
) -> Candidate | None:
    """The record to which a line belongs; None if it has not come.

    `at`: of its first fact.  `entered_at`: when it shows a message come in.
    """
    own = sorted((one for one in candidates if one.kinship == schema.OWN), key=_at)
    kin = sorted((one for one in candidates if one.kinship != schema.OWN), key=_at)
    if is_long(queue_id):
        return _newest(own, at + _CLOCK) or _newest(kin, at + _FAMILY)
    if entered_at is not None:
        return _entered(own, kin, entered_at)
    staying = [one for one in own if one.at <= at + _CLOCK and not _is_gone(one, at)]
    staying += [one for one in kin if one.at <= at + _FAMILY and not _is_gone(one, at)]
    return max(staying, key=_at, default=None)


def _at(one: Candidate) -> int:
    return one.at


def _newest(some: list[Candidate], at: int) -> Candidate | None:
    """The newest of that time; the oldest where all are later."""
    before = [one for one in some if one.at <= at]
    return before[-1] if before else some[0] if some else None


def _is_gone(one: Candidate, at: int) -> bool:
    return one.removed_at is not None and one.removed_at + _AFTERWARDS < at


def _entered(own: list[Candidate], kin: list[Candidate], at: int) -> Candidate | None:
    for one in own:
        if at - _CLOCK <= one.at <= at + _TRANSACTION:
            return one
    near = [one for one in kin if abs(one.at - at) <= _FAMILY]
    if near:
        return min(near, key=lambda one: abs(one.at - at))
    recent = [
        one
        for one in own
        if at - _LATE <= one.at <= at and (one.removed_at is None or one.removed_at > at)
    ]
    return recent[-1] if recent else None
