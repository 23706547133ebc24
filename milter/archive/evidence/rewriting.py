"""What erasures made of segments in loaded/, as the audit and the segments say it.

A person who is erased is taken out of the loaded segments, whose seals stay.  Before a file is
replaced the audit has, in an event `rewritten` of that erasure, the Merkle roots over its leaves
before and after, and the leaf of each line that is another now (see `seal.leaves`); later seals
cover it, as they cover the whole audit.  The footer of the new file has the leaves that those lines
were sealed with (`as_sealed`): with them in their places the root is again the one that was sealed,
which proves every other line.

Promises: `Rewritten` knows only what an erasure noted before it was answered, of a segment that was
until then what was sealed, or what an earlier erasure had left.  Nothing here names anybody.

Does not: write segments (`keeping.copies` does), or say what is wrong with those that fit nothing.
"""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, select

from carbonseal.milter.archive import audit, merkle, schema
from carbonseal.milter.archive.dictionary import chunks
from carbonseal.milter.archive.evidence import leaf
from carbonseal.milter.archive.evidence.seal import Survey

_ERASE = "erase"
_columns = schema.audit.c
_BROKEN = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True, slots=True)
class Rewriting:
    """What became of one segment."""

    segment: str
    was: bytes  # Merkle root over its leaves before
    now: bytes
    lines: Mapping[int, bytes]  # leaves of the lines that are another now, by their places

    @classmethod
    def between(cls, before: Survey, after: Survey) -> Rewriting:
        """What was done to a segment of which both have been read."""
        return cls(before.segment, before.root, after.root, dict(_differing(after, before.leaves)))


@dataclass(frozen=True, slots=True, order=True)
class Erasure:
    """One erasure, for people."""

    event: int  # number in the audit, which is that of the certificate
    day: str

    def __str__(self) -> str:
        """As it stands in a sentence."""
        return f"the erasure of {self.day}, certificate {self.event}"

    def to_json(self) -> dict[str, Any]:
        """As values."""
        return {"event": self.event, "day": self.day}


@dataclass(frozen=True, slots=True)
class Left:
    """What erasures have left of one segment; false where the audit has none that touched it."""

    roots: Mapping[bytes, Erasure] = field(default_factory=dict)
    lines: Mapping[int, Mapping[bytes, Erasure]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.roots)

    def line(self, place: int) -> Mapping[bytes, Erasure]:
        """The leaves that a line may have, besides the one it was sealed with."""
        return self.lines.get(place, {})

    @property
    def last(self) -> Erasure:
        """The erasure that touched it last."""
        return max(self.roots.values())


class _Note(NamedTuple):
    rewriting: Rewriting
    by: Erasure


class Rewritten:
    """All that the audit says of rewritten segments."""

    def __init__(self, notes: Iterable[_Note] = ()) -> None:
        self._notes: dict[str, list[_Note]] = defaultdict(list)
        for one in notes:
            self._notes[one.rewriting.segment].append(one)

    def __bool__(self) -> bool:
        return bool(self._notes)

    def of(self, segment: str, sealed: bytes) -> Left:
        """What was left of a segment that was sealed with this root."""
        roots: dict[bytes, Erasure] = {}
        lines: dict[int, dict[bytes, Erasure]] = defaultdict(dict)
        for one, by in self._notes.get(segment, ()):
            if one.was == sealed or one.was in roots:
                roots[one.now] = by
                for place, entry in one.lines.items():
                    lines[place][entry] = by
        return Left(roots, lines)


NOTHING = Rewritten()


def detail(event: int, done: Sequence[Rewriting]) -> dict[str, Any]:
    """What the audit is to say; `event`: number of the erasure's."""
    told = [
        {
            "segment": one.segment,
            "was": one.was.hex(),
            "now": one.now.hex(),
            "lines": packed(one.lines),
        }
        for one in done
    ]
    return {"of": event, "segments": told}


def packed(lines: Mapping[int, bytes]) -> dict[str, str]:
    """Leaves by their places, for JSON."""
    return {str(at): base64.b64encode(one).decode("ascii") for at, one in sorted(lines.items())}


def unpacked(said: Any) -> dict[int, bytes]:
    """What `packed` made.  Raises: ValueError, TypeError, AttributeError."""
    found = {int(at): base64.b64decode(one, validate=True) for at, one in said.items()}
    if any(len(one) != leaf.ENTRY or at < 0 for at, one in found.items()):
        raise ValueError("that is no leaf")
    return found


def noted(connection: Connection) -> Rewritten:
    """What the audit behind the connection says."""
    query = select(_columns.number, _columns.detail).where(_columns.action == audit.REWRITTEN)
    said: list[tuple[int, int, Rewriting]] = []  # number, that of the erasure, and what was done
    for number, text in connection.execute(query.order_by(_columns.number)):
        said += [(number, event, one) for event, one in _read(text)]
    if not said:
        return NOTHING
    last: dict[int, int] = {}
    for number, event, _ in said:
        last[event] = number
    erasures = _erasures(list(last), connection)
    ends = {event: _answered(event, last[event], connection) for event in erasures}
    return Rewritten(
        _Note(one, erasures[event])
        for number, event, one in said
        if event in erasures and event < number < ends[event]
    )


def _read(text: str) -> list[tuple[int, Rewriting]]:
    try:
        said = json.loads(text)
        return [
            (
                int(said["of"]),
                Rewriting(
                    str(one["segment"]),
                    bytes.fromhex(one["was"]),
                    bytes.fromhex(one["now"]),
                    unpacked(one["lines"]),
                ),
            )
            for one in said["segments"]
        ]
    except _BROKEN:
        return []  # nothing that we have written


def _erasures(events: Sequence[int], connection: Connection) -> dict[int, Erasure]:
    """Those of the events that were to erase somebody."""
    found = {}
    for chunk in chunks(sorted(events)):
        query = select(_columns.number, _columns.at, _columns.detail).where(
            _columns.number.in_(chunk), _columns.action == _ERASE
        )
        for number, at, text in connection.execute(query):
            if _fact(text, "apply") is True:
                day = datetime.fromtimestamp(at / 1_000_000, UTC).date().isoformat()
                found[number] = Erasure(number, day)
    return found


def _answered(event: int, last: int, connection: Connection) -> int:
    """The number with which an erasure came to its end, if that is before `last`."""
    query = select(_columns.number, _columns.detail).where(
        _columns.action == audit.ANSWERED, _columns.number > event, _columns.number < last
    )
    for number, text in connection.execute(query.order_by(_columns.number)):
        if _fact(text, "of") == event:
            return int(number)
    return last + 1


def _fact(text: str, name: str) -> Any:
    try:
        return json.loads(text)[name]
    except _BROKEN:
        return None


def _differing(survey: Survey, leaves: bytes) -> Iterator[tuple[int, bytes]]:
    """The leaves of a segment that are not those, by their places."""
    for at in range(survey.lines):
        entry = survey.leaves[at * leaf.ENTRY : (at + 1) * leaf.ENTRY]
        if entry != leaves[at * leaf.ENTRY : (at + 1) * leaf.ENTRY]:
            yield at, entry


def as_sealed(survey: Survey) -> dict[int, bytes]:
    """The leaves that rewritten lines of a segment were sealed with, as its footer says."""
    try:
        return unpacked(survey.as_sealed or {})
    except _BROKEN:
        return {}


def leaves_as_sealed(survey: Survey, root: bytes) -> bytes | None:
    """The leaves over which a rewritten segment was sealed with that root; None: not those."""
    leaves = bytearray(survey.leaves)
    for at, entry in as_sealed(survey).items():
        if at < survey.lines:
            leaves[at * leaf.ENTRY : (at + 1) * leaf.ENTRY] = entry
    found = bytes(leaves)
    return found if merkle.root(found, leaf.ENTRY) == root else None


def footer_of(before: Survey, after: Survey) -> dict[str, str]:
    """What the footer of a rewritten segment has to say of the lines as they were sealed."""
    told = dict(_differing(before, after.leaves))
    return packed(told | as_sealed(before))
