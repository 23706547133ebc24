"""Reading JSON that another process or another relay wrote: exact shapes, bounded sizes.

Promises: each function returns the value it is named for or raises ValueError with a few words on
what is wrong; a number is no truth value, NaN is no number, and text comes back without control
characters or lone surrogates, so that it can be shown on a terminal.

Does not: know what the values mean.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any, Final

MAX_NAMES: Final = 200_000  # keys in one list
MAX_SENTENCES: Final = 20
MAX_SENTENCE: Final = 600  # characters
_KEY_NAME = re.compile(r"[!-.0-~]{1,255}/[!-.0-~]{1,255}")  # sdid/selector


def document(content: bytes | str, keys: Collection[str]) -> dict[str, Any]:
    """A JSON object with exactly these keys."""
    try:
        value = json.loads(content, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return mapping(value, keys)


def mapping(value: object, keys: Collection[str]) -> dict[str, Any]:
    """An object with exactly these keys."""
    if not isinstance(value, dict) or value.keys() != set(keys):
        raise ValueError(f"it is no object with {', '.join(sorted(keys))}")
    return value


def sequence(value: object, limit: int) -> list[Any]:
    """A list of at most `limit` items."""
    if not isinstance(value, list) or len(value) > limit:
        raise ValueError(f"it is no list of at most {limit} items")
    return value


def text(value: object, limit: int = MAX_SENTENCE) -> str:
    """A text, cut at `limit` characters, with what cannot be shown escaped."""
    if not isinstance(value, str):
        raise ValueError("it is no text")
    cut = value[:limit]
    if cut.isprintable():
        return cut
    return cut.encode("unicode_escape").decode("ascii")


def number(value: object, limit: int) -> int:
    """A whole number from 0 to `limit`."""
    if type(value) is not int or not 0 <= value <= limit:
        raise ValueError(f"it is no number from 0 to {limit}")
    return value


def truth(value: object) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError("it is neither true nor false")
    return value


def moment(value: object) -> datetime:
    """A time with its zone, as UTC."""
    if not isinstance(value, str):
        raise ValueError("it is no time")
    try:
        at = datetime.fromisoformat(value)
        if at.tzinfo is None:
            raise ValueError("a time without zone")
        return at.astimezone(UTC)
    except OverflowError:
        raise ValueError("it is no time of our era") from None


def names(value: object) -> frozenset[str]:
    """Keys, each as 'sdid/selector'."""
    items = sequence(value, MAX_NAMES)
    if not all(isinstance(item, str) and _KEY_NAME.fullmatch(item) for item in items):
        raise ValueError("it is no list of sdid/selector")
    return frozenset(items)


def sentences(value: object) -> tuple[str, ...]:
    """What is wrong, a sentence each."""
    return tuple(text(item) for item in sequence(value, MAX_SENTENCES))


def written(at: datetime) -> str:
    """A time as `moment` reads it."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")
