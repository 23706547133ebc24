"""Which worker may take the next connection.

Promises: while every worker takes only what it may, none has more than `LEEWAY` + 1 connections
more than another.

Does not: count connections or wait (`reception` does).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

LEEWAY: Final = 1  # waiting for exactly equal numbers costs more than it brings


def may_take(mine: int, others: Iterable[int]) -> bool:
    """Whether a worker with `mine` connections takes the next; `others` have so many each."""
    return mine <= min(others, default=mine) + LEEWAY
