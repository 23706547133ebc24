"""A deletion does not pass for retention or erasure because one of those took place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Table, delete, insert, select, update
from support import event_lines
from support.archive import build_recipient
from support.evidence import tampering
from support.keeping import Keeper, expiring, years

from carbonseal.milter.archive import schema
from carbonseal.milter.archive.evidence import leaf, positions
from carbonseal.milter.archive.keeping import taking

APPLY = "retain --apply --now 0d"
CAROL, COPY = "carol@other.example", "archive@archive.example.net"


def bury(line: tuple[int, int], part: int, connection: Connection) -> None:
    """Add a place to the tombstones of the first event, as whoever can write in SQL may."""
    columns = schema.tombstone.c
    row = (columns.event == 1, columns.part == part, columns.segment_id == line[0])
    query = select(columns.positions).where(*row)
    places = positions.unpack(connection.execute(query).scalar_one()) | {line[1]}
    packed = positions.pack(places)
    connection.execute(update(schema.tombstone).where(*row).values(positions=packed))


def line_of(table: Table, record_id: str, connection: Connection) -> tuple[int, int]:
    query = select(table.c.segment_id, table.c.position).where(table.c.record_id == record_id)
    segment_id, position = connection.execute(query.limit(1)).one()
    return segment_id, position


@pytest.mark.parametrize(
    ("part", "days"),
    [
        pytest.param("record", {"keep": 30}, id="record"),
        pytest.param("header section", {"headers": 30}, id="header-section"),
    ],
)
def test_no_more_is_retention_than_the_audit_says_it_took(
    keeper: Keeper, part: str, days: dict[str, Any]
) -> None:
    """The place of a deleted record among genuine tombstones: the event says how many there are."""
    stays = expiring(2, seconds=years(2), keep=9000, name="long")
    keeper.archive.fill(expiring(1, seconds=years(2) + 1, **days), stays)
    keeper.run(APPLY)
    assert keeper.findings() == []
    victim = stays["record_id"]
    tables = (schema.message, schema.header_section) if "keep" in days else (schema.header_section,)
    with tampering(keeper.archive) as connection:
        number = taking.RECORD if "keep" in days else taking.HEADER
        bury(line_of(schema.message, victim, connection), number, connection)
        for table in tables:
            connection.execute(delete(table).where(table.c.record_id == victim))
    [found] = keeper.findings()
    assert f"event 1 took out 1 x {part}, and 2 are said to have gone with it" in found


def test_no_more_lines_of_the_log_are_retention_than_the_audit_says(keeper: Keeper) -> None:
    """The same for what the mail log told."""
    gone = expiring(1, seconds=years(2), keep=30, queue_id="4A")
    stays = expiring(2, seconds=0, keep=30, queue_id="4B")
    lines = event_lines.delivered("4A", CAROL, COPY, seconds=years(2))
    kept = event_lines.delivered("4B", CAROL, COPY)
    keeper.archive.put(gone, *lines, stays, *kept)
    keeper.archive.load()
    keeper.run(APPLY)
    assert keeper.findings() == []
    with tampering(keeper.archive) as connection:
        columns = schema.delivery.c
        segment_id, position = line_of(schema.delivery, stays["record_id"], connection)
        bury((segment_id, position), taking.RECORD, connection)
        one = (columns.segment_id == segment_id, columns.position == position)
        connection.execute(delete(schema.delivery).where(*one))
    [found] = keeper.findings()
    said = f"took out {len(lines)} x line of the mail log, and {len(lines) + 1} are said"
    assert said in found


def test_no_more_records_are_erased_than_the_audit_says(
    keeper: Keeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record rewritten and then called redacted by an erasure that left it alone."""
    monkeypatch.chdir(tmp_path)  # the certificate's place
    dave = build_recipient("dave@partner.example")
    other = expiring(2, seconds=2, keep=30)
    keeper.archive.fill(expiring(1, seconds=1, keep=30, recipients=[dave]), other)
    keeper.run("erase dave@partner.example --apply")
    assert keeper.findings() == []
    salts = leaf.salts(bytes.fromhex(other["salt"]))
    names = leaf.parts(other) | leaf.header_parts(other["header_fields"])
    evidence = leaf.redact(other, salts, names, has_header=True)
    forged = {"record_id": other["record_id"], "event": 1, "evidence": evidence}
    with tampering(keeper.archive) as connection:
        connection.execute(insert(schema.redaction), forged)
        row = schema.message.c.record_id == other["record_id"]
        connection.execute(update(schema.message).where(row).values(size=1))
    [found] = keeper.findings()
    assert "event 1 took out 1 x redaction, and 2 are said to have gone with it" in found
