"""What is looked for: one frozen value, whoever asks and however it was asked.

Promises: options and queries fill the same `Search`; it goes to JSON and back without loss, so that
holds, the audit and exports can keep it, and it reads well there:
`{"all": [{"from": "alice@example.com"}, {"not": {"crossing": "internal"}}]}`.  Every value in it is
in the one spelling of `fields`; times are moments, not "7 days ago".

Raises: DataError from `from_json`, for what no Search ever was.

Does not: parse what people type (`language`, `options`), or know SQL (`conditions`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from carbonseal.milter.archive.search import fields
from carbonseal.policies.errors import DataError

VERSION = 1
DEPTH = 20  # of conditions inside conditions
MOST = 500  # conditions of one search


@dataclass(frozen=True, slots=True)
class Is:
    """A field has a value; both as `fields` writes them."""

    field: str
    value: str


@dataclass(frozen=True, slots=True)
class All:
    """Each of them holds."""

    of: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Either:
    """At least one of them holds."""

    of: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """It does not hold."""

    of: Condition


Condition = Is | All | Either | Not


@dataclass(frozen=True, slots=True)
class Search:
    """What to look for, and how many of them; newest first."""

    where: Condition | None = None  # None: every record
    since: datetime | None = None  # inclusive, to the millisecond
    until: datetime | None = None  # exclusive
    before: str | None = None  # record id: only older ones; the next page after that record
    limit: int | None = 100

    def to_json(self) -> dict[str, Any]:
        """For `json.dumps`; what is not said is left out."""
        content: dict[str, Any] = {"v": VERSION}
        if self.where is not None:
            content["where"] = _condition_to_json(self.where)
        for name in ("since", "until"):
            moment = getattr(self, name)
            if moment is not None:
                content[name] = fields.moment_text(moment)
        if self.before is not None:
            content["before"] = self.before
        if self.limit is not None:
            content["limit"] = self.limit
        return content


def from_json(content: Any) -> Search:
    """The Search that became `content`.  Raises: DataError."""
    known = {"v", "where", "since", "until", "before", "limit"}
    if not isinstance(content, Mapping) or not known.issuperset(content):
        raise _not_ours(content)
    if content.get("v") != VERSION:
        raise DataError(f"the search is of version {content.get('v')!r}, and {VERSION} is known")
    limit = content.get("limit")
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise _not_ours(limit)
    where, before = content.get("where"), content.get("before")
    return Search(
        where=None if where is None else _condition_from_json(where, DEPTH * 2),
        since=_moment(content.get("since")),
        until=_moment(content.get("until")),
        before=None if before is None else fields.canonical("record-id", _text(before)),
        limit=limit,
    )


def both(*conditions: Condition | None) -> Condition | None:
    """All of those that are given, as flat as can be."""
    flat: list[Condition] = []
    for one in conditions:
        if isinstance(one, All):
            flat += one.of
        elif one is not None:
            flat.append(one)
    if len(flat) > 1:
        return All(tuple(dict.fromkeys(flat)))
    return flat[0] if flat else None


def narrowed(wanted: Search, where: Condition) -> Search:
    """The same, and this as well."""
    return replace(wanted, where=both(wanted.where, where))


def leaves(condition: Condition | None) -> Iterator[Is]:
    """Every field with its value, in order."""
    if isinstance(condition, Is):
        yield condition
    elif isinstance(condition, Not):
        yield from leaves(condition.of)
    elif condition is not None:
        for one in condition.of:
            yield from leaves(one)


def holds(condition: Condition, is_so: Callable[[Is], bool]) -> bool:
    """Whether it holds where `is_so` says so of each field."""
    if isinstance(condition, Is):
        return is_so(condition)
    if isinstance(condition, Not):
        return not holds(condition.of, is_so)
    some = (holds(one, is_so) for one in condition.of)
    return all(some) if isinstance(condition, All) else any(some)


def _condition_to_json(condition: Condition) -> dict[str, Any]:
    if isinstance(condition, Is):
        return {condition.field: condition.value}
    if isinstance(condition, Not):
        return {"not": _condition_to_json(condition.of)}
    name = "all" if isinstance(condition, All) else "any"
    return {name: [_condition_to_json(one) for one in condition.of]}


def _condition_from_json(content: Any, depth: int) -> Condition:
    if depth == 0:
        raise DataError("the search has conditions inside conditions inside conditions; too deep")
    if not isinstance(content, Mapping) or len(content) != 1:
        raise _not_ours(content)
    [(name, value)] = content.items()
    if name == "not":
        return Not(_condition_from_json(value, depth - 1))
    if name in ("all", "any"):
        if not isinstance(value, list) or not 0 < len(value) <= MOST:
            raise _not_ours(value)
        of = tuple(_condition_from_json(one, depth - 1) for one in value)
        return All(of) if name == "all" else Either(of)
    if name == "message-id":  # its brackets are off already; there may be others inside
        return Is(name, fields.bounded(_text(value)))
    return Is(name, fields.canonical(_text(name), _text(value)))


def _moment(content: Any) -> datetime | None:
    if content is None:
        return None
    try:
        found = datetime.fromisoformat(_text(content))
    except ValueError:
        raise _not_ours(content) from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)


def _text(content: Any) -> str:
    if not isinstance(content, str):
        raise _not_ours(content)
    return content


def _not_ours(content: Any) -> DataError:
    return DataError(f"{str(content)[:80]!r} is no part of a search as Carbonseal writes it")
