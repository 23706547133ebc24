"""What may rightly be missing from a segment, as SQL says it.

Retention leaves tombstones, erasure redactions; lines that no database would take were set aside;
lines that brought a record once more are repeated.

Does not: believe any of it (`record_check` asks what speaks for it).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sqlalchemy import Connection, select

from carbonseal.milter.archive import schema
from carbonseal.milter.archive.dictionary import chunks
from carbonseal.milter.archive.evidence import leaf, positions

RECORD, HEADER, SUBJECT = 0, 1, 2  # tombstone.part
PARTS = {RECORD: "record", HEADER: "header section", SUBJECT: "subject"}  # as the audit has them
LINE, REDACTION = "line of the mail log", "redaction"
IN_PART = (PARTS[HEADER], PARTS[SUBJECT])  # retention redacts where only these go


@dataclass(slots=True)
class Gone:
    """Places of a segment from which something was taken out."""

    records: set[int] = field(default_factory=set)
    headers: set[int] = field(default_factory=set)
    subjects: set[int] = field(default_factory=set)
    # By audit event and part, since an event takes no more than it says.
    places: dict[tuple[int, int], set[int]] = field(default_factory=dict)

    @property
    def events(self) -> set[int]:
        """Of the audit, by which that was done."""
        return {event for event, _ in self.places}

    def part(self, number: int) -> set[int]:
        """The places of one part."""
        return {RECORD: self.records, HEADER: self.headers}.get(number, self.subjects)


def tombstones(segment_id: int, connection: Connection) -> Gone:
    """What was taken out of a segment."""
    gone = Gone()
    columns = schema.tombstone.c
    query = select(columns.event, columns.part, columns.positions).where(
        columns.segment_id == segment_id
    )
    for event, part, packed in connection.execute(query):
        try:
            found = positions.unpack(bytes(packed))
        except ValueError:
            found = set()  # then what it covered is missing
        gone.part(part).update(found)
        gone.places.setdefault((event, part), set()).update(found)
    return gone


def redactions(record_ids: Iterable[str], connection: Connection) -> dict[str, tuple[str, int]]:
    """redaction.evidence and its audit event by record id, for those that have one."""
    columns = schema.redaction.c
    query = select(columns.record_id, columns.evidence, columns.event)
    return {
        record_id: (evidence, event)
        for chunk in chunks(list(record_ids))
        for record_id, evidence, event in connection.execute(
            query.where(columns.record_id.in_(chunk))
        )
    }


def aside(segment_id: int, connection: Connection) -> set[int]:
    """Places of the lines that were set aside."""
    columns = schema.set_aside.c
    query = select(columns.position).where(columns.segment_id == segment_id)
    return set(connection.execute(query).scalars())


def repeats(segment_id: int, connection: Connection) -> dict[int, str]:
    """Places of lines whose record another line had brought, with that record."""
    columns = schema.repeated.c
    query = select(columns.position, columns.record_id).where(columns.segment_id == segment_id)
    return {row.position: row.record_id for row in connection.execute(query)}


def not_elsewhere(
    found: Mapping[int, str], segment_id: int, leaves: bytes, connection: Connection
) -> list[tuple[int, str]]:
    """Which repetitions repeat nothing: no such line is elsewhere, or was taken out there.

    `found` as from `repeats`; `leaves` are those of that segment.
    """
    homes: dict[int, dict[int, tuple[int, str]]] = {}  # segment: place there, and here
    orphans: list[tuple[int, str]] = []
    lines = _lines(found.values(), connection)
    for place, record_id in found.items():
        home = lines.get(record_id)
        if home is None:
            orphans.append((place, record_id))
        else:
            homes.setdefault(home[0], {})[place] = (home[1], record_id)
    lost = []
    for home_id, places in homes.items():
        there = _leaves(home_id, connection)
        lost += [
            (place, record_id)
            for place, (at, record_id) in places.items()
            if there is not None and _entry(there, at) != _entry(leaves, place)
        ]
    lost += [
        (place, record_id)
        for place, record_id in orphans
        if not _is_buried(_entry(leaves, place), record_id, (segment_id, place), connection)
    ]
    return sorted(lost)


def _entry(leaves: bytes, place: int) -> bytes:
    return leaves[place * leaf.ENTRY : (place + 1) * leaf.ENTRY]


def _lines(record_ids: Iterable[str], connection: Connection) -> dict[str, tuple[int, int]]:
    columns = schema.message.c
    query = select(columns.record_id, columns.segment_id, columns.position)
    return {
        row.record_id: (row.segment_id, row.position)
        for chunk in chunks(sorted(set(record_ids)))
        for row in connection.execute(query.where(columns.record_id.in_(chunk)))
    }


def _is_buried(entry: bytes, record_id: str, line: tuple[int, int], connection: Connection) -> bool:
    """Whether the line was taken out in another place than that of the repetition."""
    seals = schema.seal.c
    covering = select(seals.segment_id).where(
        seals.last_record_id >= record_id, seals.first_record_id <= record_id
    )
    for segment_id in list(connection.execute(covering).scalars()):
        buried = tombstones(segment_id, connection).records
        leaves = (_leaves(segment_id, connection) if buried else None) or b""
        if any(_entry(leaves, place) == entry for place in buried if (segment_id, place) != line):
            return True
    return False


def _leaves(segment_id: int, connection: Connection) -> bytes | None:
    seals = schema.seal.c
    query = select(seals.leaves).where(seals.segment_id == segment_id).limit(1)
    found = connection.execute(query).scalar_one_or_none()
    return None if found is None else bytes(found)
