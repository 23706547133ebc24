"""A sealed segment while its records come by: what was sealed, and what was seen of it.

Does not: decide what is wrong (`record_check` does).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy import Engine, select

from carbonseal.milter.archive import schema
from carbonseal.milter.archive.evidence import event_leaf, leaf, seal
from carbonseal.milter.archive.evidence.finding import Finding
from carbonseal.milter.archive.evidence.rewriting import Left, Rewritten
from carbonseal.milter.archive.evidence.seal import BadEntry


@dataclass(slots=True)
class SealedSegment:
    """A sealed segment while its records come by."""

    relay: str
    number: int
    name: str
    segment_id: int
    first: str
    last: str
    leaves: bytes
    root: bytes  # over them, as it was signed
    aside: int
    seen: bytearray
    bare: set[int] = field(default_factory=set)  # positions without their header section
    unheaded: set[int] = field(default_factory=set)  # without their subject
    _places: dict[bytes, int] | None = None
    _left: Left | None = None

    @property
    def lines(self) -> int:
        """How many lines were sealed."""
        return len(self.leaves) // leaf.ENTRY

    def entry(self, position: int) -> bytes:
        """The evidence of one line."""
        return self.leaves[position * leaf.ENTRY : (position + 1) * leaf.ENTRY]

    @property
    def without_record(self) -> set[int]:
        """Places of lines that were sealed as no records: events, and lines that were damaged."""
        header, none = slice(leaf.DIGEST, leaf.ENTRY), (leaf.NO_HEADER, event_leaf.MARK)
        return {place for place in range(self.lines) if self.entry(place)[header] in none}

    @property
    def event_lines(self) -> set[int]:
        """Places of event lines, which SQL has beside their records."""
        header = slice(leaf.DIGEST, leaf.ENTRY)
        if event_leaf.MARK not in self.leaves:
            return set()
        places = range(self.lines)
        return {place for place in places if self.entry(place)[header] == event_leaf.MARK}

    def left(self, rewritten: Rewritten) -> Left:
        """What erasures have made of it in loaded/."""
        if self._left is None:
            self._left = rewritten.of(self.name, self.root)
        return self._left

    def place_of(self, entry: bytes) -> int | None:
        """Where in the segment such a line was sealed."""
        if self._places is None:
            self._places = {self.entry(place): place for place in range(self.lines)}
        return self._places.get(entry)

    def finding(
        self, kind: str, what: str, position: int | None = None, record_id: str | None = None
    ) -> Finding:
        """Something that is not true of this segment."""
        return Finding(kind, what, self.relay, self.number, self.name, position, record_id)


def fetch(engine: Engine, segment_id: int) -> SealedSegment | None:
    """The seal of a segment; None when it has none."""
    query = select(schema.seal).where(schema.seal.c.segment_id == segment_id).limit(1)
    with engine.connect() as connection:
        row = connection.execute(query).one_or_none()
    if row is None:
        return None
    leaves = bytes(row.leaves)
    try:
        facts = seal.read(row.entry)
    except BadEntry:
        facts = None  # said by `chain_check`
    return SealedSegment(
        relay=row.relay,
        number=row.number,
        name="?" if facts is None else facts.segment,
        segment_id=segment_id,
        first=row.first_record_id,
        last=row.last_record_id,
        leaves=leaves,
        root=b"" if facts is None else facts.root,
        aside=0 if facts is None else facts.aside,
        seen=bytearray(len(leaves) // leaf.ENTRY),
    )
