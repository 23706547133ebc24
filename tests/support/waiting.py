"""Waiting for what announces itself nowhere.

Raises: NotInTime, which says what was awaited and for how long, and what `told` shows: the log of
whoever should have done it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 30.0  # seconds
_POLL = 0.02  # seconds between two looks
_TAIL = 4_000  # characters of what is told


class NotInTime(TimeoutError):
    """It did not come to pass."""


def wait_until(
    is_done: Callable[[], bool],
    what: str,
    timeout: float = PATIENCE,
    *,
    told: Callable[[], str] | None = None,
) -> None:
    """Ask until it is so, for `timeout` seconds at most."""
    deadline = time.monotonic() + timeout
    while not is_done():
        if time.monotonic() > deadline:
            more = "" if told is None else f"\n{told()[-_TAIL:]}"
            raise NotInTime(f"{what}: not within {timeout:g} s{more}")
        time.sleep(_POLL)
