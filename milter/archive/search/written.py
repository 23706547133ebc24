"""A Search as a query, for people: what `carbonseal archive search` would take to find the same.

Promises: every condition and the period are in it, times to the second; what reads back differently
(a value with a quote in it) is quoted.

Does not: keep the limit or the cursor, which are no part of what is meant.

See also: `language`, which reads it; `wanted`, whose JSON is the exact form.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

from carbonseal.milter.archive.search.wanted import All, Condition, Either, Is, Not, Search

_SIMPLE = re.compile(r"[^\s()\"\\]+")


def query(wanted: Search) -> str:
    """Like `participant:@partner.org after:2025-01-01`; empty when every record is meant."""
    parts = [] if wanted.where is None else [_condition(wanted.where, is_inside=False)]
    if isinstance(wanted.where, Either) and (wanted.since or wanted.until):
        parts = [f"({parts[0]})"]
    for name, moment in (("after", wanted.since), ("before", wanted.until)):
        if moment is not None:
            parts.append(f"{name}:{_moment(moment)}")
    return " ".join(parts)


def _condition(condition: Condition, *, is_inside: bool) -> str:
    match condition:
        case Is(field, value):
            return f"{field}:{_value(value)}"
        case Not(of):
            return f"NOT {_condition(of, is_inside=True)}"
        case All(of):
            text = " ".join(_condition(one, is_inside=True) for one in of)
        case Either(of):
            text = " OR ".join(_condition(one, is_inside=True) for one in of)
    return f"({text})" if is_inside else text


def _value(value: str) -> str:
    if _SIMPLE.fullmatch(value) and value != "<>":
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _moment(moment: datetime) -> str:
    at = moment.astimezone(UTC)
    if (at.hour, at.minute, at.second) == (0, 0, 0):
        return f"{at:%Y-%m-%d}"
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"
