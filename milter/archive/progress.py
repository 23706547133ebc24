"""How far the segments are loaded: their rows in SQL, which move together with the records.

Promises: a batch is loaded only from where SQL says that the last one ended.  `hold` locks the
segment's row until the transaction ends.  A commit whose answer was lost (the connection went away
while the server was at it) is therefore seen when it was done, and waited for when it is not yet
decided; then `hold` raises `Moved`, and what it brought is neither done twice nor left out.

Raises: Moved; what the database raises.

Does not: begin or end transactions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, select, update

from carbonseal.milter.archive import schema, terms
from carbonseal.milter.archive.batch import Batch
from carbonseal.milter.archive.dictionary import chunks, insert_missing
from carbonseal.milter.archive.segments import Segment
from carbonseal.policies.errors import TryLater

_columns = schema.segment.c
# Made once: SQLAlchemy takes longer to make them than SQLite to do them.
_IS_IT = _columns.segment_id == bindparam("it")
_HELD = select(_columns.progress).where(_IS_IT).with_for_update()
_KEPT = update(schema.segment).where(_IS_IT)


class Moved(TryLater):
    """The segment is loaded further than we remember."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one segment is loaded, as the database says."""

    offset: int = 0
    lines: int = 0
    records: int = 0
    refused: int = 0
    is_complete: bool = False
    relay: str = ""
    is_new: bool = False  # it has no row yet

    def after(self, batch: Batch, loaded: int) -> Progress:
        """When this batch is loaded, too, which brought so many records."""
        read = [one for one in batch.entries if one.position is not None and one.end > one.offset]
        relay = self.relay
        if not relay and batch.runs:
            relay = batch.runs[0].relay
        if not relay and batch.arrivals:
            relay = batch.arrivals[0].rows.message["circumstance"].relay
        if not relay and batch.events:
            relay = batch.events[0].line.relay
        if not relay and batch.others:
            relay = batch.others[0]
        return Progress(
            offset=batch.end,
            lines=self.lines + len(read) + sum(len(run.lines) for run in batch.runs),
            records=self.records + loaded,
            refused=self.refused + len(batch.refused),
            is_complete=self.is_complete or any(one.is_footer for one in batch.entries),
            relay=relay,
        )


def recall(segment: Segment, connection: Connection) -> Progress:
    """What SQL says."""
    query = select(schema.segment).where(_IS_IT)
    row = connection.execute(query, {"it": terms.term(segment.name)}).one_or_none()
    if row is None:
        return Progress(is_new=True)
    return Progress(row.progress, row.lines, row.records, row.refused, row.is_complete, row.relay)


def hold(segment: Segment, expected: Progress, connection: Connection) -> None:
    """Let nobody else move this segment until the transaction ends.

    Raises: Moved when somebody has, who may have been ourselves.
    """
    if expected.is_new:
        row = {"segment_id": terms.term(segment.name), "name": segment.name}
        connection.execute(insert_missing(schema.segment, connection), row | _content(expected))
    found = connection.execute(_HELD, {"it": terms.term(segment.name)}).scalar_one_or_none()
    if found != expected.offset:
        raise Moved(
            f"{segment.name}: loaded to {found}, not to {expected.offset} as this writer remembers;"
            " it looks again, and nothing needs to be done"
        )


def keep(segment: Segment, progress: Progress, connection: Connection) -> None:
    """Write down how far it is loaded with this transaction; after `hold`."""
    connection.execute(_KEPT, {"it": terms.term(segment.name), **_content(progress)})


def note_refused(batch: Batch, connection: Connection) -> None:
    """Write down which lines were set aside, and why."""
    if not batch.refused:
        return
    noted = [
        {
            "segment_id": terms.term(batch.segment.name),
            "segment_offset": entry.offset,
            "position": entry.position,
            "why": terms.storable(why),
        }
        for entry, why in batch.refused
    ]
    connection.execute(insert_missing(schema.set_aside, connection), noted)


def unsealed(found: Sequence[Segment], connection: Connection) -> list[Segment]:
    """Those that have no seal in SQL.  A seal is the last that comes of a segment."""
    column = schema.seal.c.segment_id
    by_id = {terms.term(segment.name): segment for segment in found}
    for chunk in chunks(list(by_id)):
        query = select(column).where(column.in_(chunk))
        for identifier in connection.execute(query).scalars():
            by_id.pop(identifier, None)
    return list(by_id.values())


def _content(progress: Progress) -> dict[str, Any]:
    return {
        "relay": progress.relay,
        "progress": progress.offset,
        "lines": progress.lines,
        "records": progress.records,
        "refused": progress.refused,
        "is_complete": progress.is_complete,
    }
