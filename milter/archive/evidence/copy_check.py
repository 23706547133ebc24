"""Are the segments that the relay still has (loaded/) those that were sealed?

Promises: names the first line that differs; a segment of which SQL knows nothing is named, since
SQL once knew it; one that an erasure has rewritten is said to be that (`rewriting`), and of it not
an octet of evidence may differ from what the erasure has noted.  Where a record in SQL is not what
was sealed, `Segments` says in which part.

Does not: look at segments that wait in the spool: they are not sealed yet.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, select

from carbonseal.milter.archive import open_segment, rows, schema, segments, terms
from carbonseal.milter.archive.dictionary import chunks
from carbonseal.milter.archive.evidence import absence, leaf, seal
from carbonseal.milter.archive.evidence.finding import Finding
from carbonseal.milter.archive.evidence.rewriting import Erasure, Rewritten
from carbonseal.milter.archive.evidence.seal import BadEntry
from carbonseal.milter.archive.rows import Rows
from carbonseal.milter.archive.segments import Segment

_EXPLAINED = 20  # each reads a segment up to its line
_NAMED = 6  # parts in one sentence

Look = Callable[[], Rewritten]


class Segments:
    """The loaded segments in one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._explained = 0

    def names(self) -> list[str]:
        """Names of the segments that are there.  Raises: OSError."""
        return sorted(
            one.name.removesuffix(open_segment.CLOSED_SUFFIX)
            for one in os.scandir(self._directory)
            if one.is_file()
            and one.name.endswith(open_segment.CLOSED_SUFFIX)
            and not one.name.endswith(open_segment.OPEN_SUFFIX)
        )

    def segment(self, name: str) -> Segment:
        """Where it is."""
        return Segment(name, self._directory / (name + open_segment.CLOSED_SUFFIX), True)

    def explain(self, name: str, position: int, one: Rows) -> str | None:
        """Which parts of a record differ from its line; None when that cannot be told."""
        if self._explained >= _EXPLAINED:
            return None
        self._explained += 1
        try:
            found = next(
                entry
                for entry in segments.read(self.segment(name), 0)
                if entry.position == position
            )
            now = rows.join(one)
        except (StopIteration, OSError, ValueError, KeyError, TypeError):
            return None
        if found.fault is not None:
            return None
        was = leaf.parts(found.content)
        is_now = leaf.parts(now)
        if now.get("header_fields") is not None:
            was |= leaf.header_parts(found.content.get("header_fields"))
            is_now |= leaf.header_parts(now["header_fields"])
        names = [
            _inside(part, was.get(part), is_now.get(part))
            for part in sorted(was.keys() | is_now.keys())
            if was.get(part) != is_now.get(part)
        ]
        if len(names) > _NAMED:
            names[_NAMED:] = [f"{len(names) - _NAMED} more"]
        return ", ".join(names) or "its salts"


def _inside(part: str, was: object, now: object) -> str:
    """The part, with the names of what differs in it."""
    if not (isinstance(was, dict) and isinstance(now, dict)):
        return part
    names = sorted(key for key in was.keys() | now.keys() if was.get(key) != now.get(key))
    return f"{part} ({', '.join(map(str, names))})"


def check(
    engine: Engine, copies: Segments, names: list[str], look: Look
) -> Iterator[Finding | Erasure | int]:
    """Findings, the erasures that have rewritten segments, and 1 after each segment of `names`.

    `look`: asks the audit what erasures have noted, once more where a segment was rewritten since.
    """
    rewritten = look()
    columns = schema.seal.c
    for name in names:
        query = select(columns.entry, columns.leaves).where(columns.segment_id == terms.term(name))
        with engine.connect() as connection:
            row = connection.execute(query.limit(1)).one_or_none()
        if row is None:
            what = "the relay has loaded this segment, and the database has no seal of it"
            yield Finding("lost", what, segment=name)
        else:
            for one in _compare(engine, copies.segment(name), row, rewritten):
                if not isinstance(one, Finding):
                    yield one
                    continue
                rewritten = look()
                yield from _compare(engine, copies.segment(name), row, rewritten)
        yield 1


def _compare(
    engine: Engine, segment: Segment, row: Any, rewritten: Rewritten
) -> Iterator[Finding | Erasure]:
    leaves = bytes(row.leaves)
    try:
        facts = seal.read(row.entry)
        found = seal.survey(segment)
    except BadEntry:
        return  # said by `chain_check`
    except FileNotFoundError:
        return  # its time was over just now
    if (found.root, found.lines) == (facts.root, facts.lines):
        return
    left = rewritten.of(segment.name, facts.root)
    by = left.roots.get(found.root)
    if by is not None and found.lines == facts.lines:
        yield by
        return
    places = [
        at
        for at in range(max(found.lines, facts.lines))
        if _entry(found.leaves, at) not in (_entry(leaves, at), *left.line(at))
    ]
    # An erasure of an earlier version has noted nothing: what SQL says of it has to do.
    wrong = places if left else _not_erased(engine, segment, places)
    if left or wrong or found.lines != facts.lines or not places:
        what = f"{segment.path} is not what was sealed"
        if left:
            what = f"{segment.path} is neither what was sealed nor what {left.last} has left of it"
        place = wrong[0] if wrong else None
        yield Finding("segment", what, facts.relay, facts.number, segment.name, place)


def _entry(leaves: bytes, at: int) -> bytes:
    return leaves[at * leaf.ENTRY : (at + 1) * leaf.ENTRY]


def _not_erased(engine: Engine, segment: Segment, places: list[int]) -> list[int]:
    """The places where no erasure or retention is the reason for another line."""
    wanted = set(places)
    record_ids: dict[int, str] = {}
    queue_ids: dict[int, str] = {}  # of event lines
    for one in segments.read(segment, 0):
        if one.position not in wanted:
            continue
        if isinstance(said := one.content.get("record_id"), str):
            record_ids[one.position] = said
        elif isinstance(said := one.content.get("queue_id"), str):
            queue_ids[one.position] = said
    segment_id = terms.term(segment.name)
    with engine.connect() as connection:
        redacted = absence.redactions(list(record_ids.values()), connection)
        erased = _erased_lines(segment_id, set(queue_ids.values()), connection)
        gone = absence.tombstones(segment_id, connection).records
    return [
        at
        for at in places
        if record_ids.get(at) not in redacted and at not in gone and at not in erased
    ]


def _erased_lines(segment_id: int, queue_ids: set[str], connection: Connection) -> set[int]:
    """Places of event lines about these queue ids from which a person was erased."""
    found: set[int] = set()
    for table, name in (
        (schema.delivery, schema.message.c.queue_id),
        (schema.delivery, schema.forwarded.c.queue_id),
        (schema.delivery_waiting, schema.delivery_waiting.c.queue_id),
    ):
        query = select(table.c.position).where(
            table.c.segment_id == segment_id, table.c.redaction.is_not(None)
        )
        if name.table is not table:
            query = query.where(table.c.record_id == name.table.c.record_id)
        for chunk in chunks(sorted(queue_ids)):
            found.update(connection.scalars(query.where(name.in_(chunk))))
    return found
