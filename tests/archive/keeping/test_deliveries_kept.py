"""Lines of the mail log, kept, expired, erased and tampered with: provable all the time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import Table, delete, insert, select, update
from support import event_lines
from support.archive import Archive, build_recipient, build_record
from support.event_lines import active, attempt, build, change
from support.evidence import tampering, verified
from support.keeping import Keeper, expiring, years

from carbonseal.milter.archive import database, deliveries, schema
from carbonseal.milter.archive.keeping import erase

BOB, CAROL, COPY = "bob@partner.example", "carol@other.example", "archive@archive.example.net"
FAX = "fax@gateway.example"
APPLY = "retain --apply --now 0d"
TABLES = (
    schema.delivery,
    schema.delivery_waiting,
    schema.delivery_state,
    schema.delivery_address,
    schema.waiting_address,
    schema.forwarded,
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Certificates go to the working directory."""
    monkeypatch.chdir(tmp_path)


def told(queue_id: str, seconds: float) -> list[dict[str, Any]]:
    """A message that went well, one that an alias sent elsewhere, and a notification."""
    return [
        *event_lines.delivered(queue_id, CAROL, COPY, seconds=seconds),
        build(
            queue_id,
            attempt(BOB, "bounced", seconds + 1),
            attempt(FAX, seconds=seconds + 1.5, orig_to=BOB),
            change("notified", seconds + 1.7, queue_id=f"{queue_id}N"),
        ),
        build(f"{queue_id}N", attempt("alice@example.com", seconds=seconds + 2)),
    ]


def counts(archive: Archive) -> dict[str, int]:
    return {table.name: archive.rows(table.name) for table in TABLES}


def both() -> list[Any]:
    return [build_recipient(BOB), build_recipient(CAROL)]


def test_what_was_told_is_what_was_sealed(any_archive: Archive) -> None:
    """Verify has nothing to say of lines in any order, read twice, copied, waiting or refused."""
    sealed = build_record(0, queue_id="4A", recipients=both())
    lines = told("4A", 0)
    any_archive.put(*lines[1:], lines[0], build("4NONE", active()))
    any_archive.put(sealed, build("4A", {**active(), "kind": "telepathy"}))
    any_archive.put(*lines, *event_lines.delivered("4A", CAROL, COPY))
    any_archive.put({"event": "weather", "v": 1, "relay": event_lines.RELAY})
    any_archive.load()
    assert any_archive.rows("repeated") == len(lines)
    assert verified(any_archive) == []


def test_lines_go_with_their_record(keeper: Keeper) -> None:
    """And with them all that leads to them, and whom nobody else names; tombstones stay."""
    old = expiring(1, seconds=years(2), keep=30, queue_id="4A", recipients=both())
    young = expiring(2, seconds=0, keep=30, queue_id="4B", recipients=both())
    keeper.archive.put(old, young, *told("4A", years(2)), build("4B", active(0.2)))
    keeper.archive.put(*told("4A", years(2)))
    keeper.archive.put(build("4NONE", attempt("nobody@unknown.example", seconds=years(2))))
    keeper.archive.load()
    assert keeper.findings() == []
    keeper.run(APPLY)
    assert keeper.archive.search() == [young["record_id"]]
    assert counts(keeper.archive) == dict.fromkeys(counts(keeper.archive), 0) | {"delivery": 1}
    with keeper.archive.engine.connect() as connection:
        names = set(connection.scalars(select(schema.domain.c.name)))
    assert {"gateway.example", "unknown.example"}.isdisjoint(names)
    assert "partner.example" in names
    assert keeper.findings() == []


def test_what_is_held_keeps_its_lines(keeper: Keeper) -> None:
    """Also where its month goes."""
    old = expiring(1, seconds=years(2), keep=30, queue_id="4A", recipients=both())
    gone = expiring(2, seconds=years(2), keep=30, queue_id="4B", recipients=both())
    keeper.archive.put(old, gone, *told("4A", years(2)), *told("4B", years(2)))
    keeper.archive.load()
    keeper.run("hold case queue-id:4A --reason x")
    keeper.run(APPLY)
    assert keeper.archive.search() == [old["record_id"]]
    assert counts(keeper.archive)["delivery"] == 4
    assert counts(keeper.archive)["forwarded"] == 1
    assert keeper.findings() == []


def dump(archive: Archive) -> str:
    """All that the tables say of people, and all that is told of records."""
    found: list[str] = []
    with archive.engine.connect() as connection:
        for name in filter(sqlalchemy.inspect(connection).has_table, schema.metadata.tables):
            for row in connection.exec_driver_sql(f"SELECT * FROM {name}"):
                found += [str(value) for value in row if not isinstance(value, bytes)]
        told = deliveries.lines(archive.search(), connection)
        found += [json.dumps(line.said) for some in told.values() for line in some]
        found += [str(one) for one in deliveries.waiting(connection)]
    return "\n".join(found).lower()


@pytest.mark.parametrize("who", [BOB, FAX], ids=["recipient", "known-to-the-log-only"])
def test_an_erased_person_is_in_no_line(keeper: Keeper, who: str) -> None:
    """Neither in rows, nor waiting, nor in loaded segments; the others are told of as before."""
    sealed = build_record(0, queue_id="4A", recipients=both(), salt="0a" * 16)
    keeper.archive.put(sealed, *told("4A", 0))
    waiting = build("4NONE", attempt(who, "bounced"), attempt(CAROL))
    keeper.archive.put(waiting)
    keeper.archive.load()
    assert who.partition("@")[0] + "@" in dump(keeper.archive)
    keeper.run(f"erase {who} --apply --reason case-7")
    assert who.partition("@")[0] + "@" not in dump(keeper.archive)
    for path in (keeper.archive.spool_directory / "loaded").iterdir():
        assert who.encode() not in path.read_bytes()
        assert waiting["event_id"].encode() not in path.read_bytes()  # made from the name
    with keeper.archive.engine.connect() as connection:
        story = deliveries.told([sealed["record_id"]], connection)[sealed["record_id"]]
        [still] = deliveries.waiting(connection)
    states = [one.state.value for one in story.passages]
    assert states == ["bounced", "delivered", "delivered"]
    assert len(still.facts) == 2
    assert keeper.findings() == []


def again(line: dict[str, Any]) -> dict[str, Any]:
    """The line of a follower that has read the log once more."""
    return build(line["queue_id"], *line["facts"])


@pytest.mark.parametrize("who", [BOB, FAX], ids=["recipient", "known-to-the-log-only"])
def test_a_log_read_again_does_not_bring_an_erased_person_back(keeper: Keeper, who: str) -> None:
    """Its lines are about the pseudonym, once; they stay provable, and the check finds nothing."""
    sealed = build_record(0, queue_id="4A", recipients=both(), salt="0a" * 16)
    lines = told("4A", 0)
    keeper.archive.put(sealed, *lines)
    keeper.archive.load()
    keeper.run(f"erase {who} --apply --certificate c.json")
    before = _story(keeper.archive, sealed)
    keeper.archive.put(*map(again, lines))
    keeper.archive.load()
    assert _story(keeper.archive, sealed) == before
    assert who.partition("@")[0] + "@" not in dump(keeper.archive)
    assert keeper.findings() == []
    said = keeper.run("erase --check c.json", status=1).splitlines()
    assert [one.partition(" in ")[2] for one in said] == [
        "loaded segments names the person: erase again"
    ]
    keeper.run(f"erase {who} --apply --certificate d.json")
    for name in "cd":
        assert keeper.run(f"erase --check {name}.json") == "all of it is still so\n"
    assert keeper.findings() == []


def test_a_log_that_comes_after_an_erasure_tells_of_the_pseudonym(keeper: Keeper) -> None:
    """What became of each recipient is known, and of two of one domain who is who."""
    dora = "dora@partner.example"
    recipients = [*both(), build_recipient(dora)]
    sealed = build_record(0, queue_id="4A", recipients=recipients, salt="0a" * 16)
    keeper.archive.put(sealed)
    keeper.archive.load()
    for one in (BOB, dora):
        keeper.run(f"erase {one} --apply")
    keeper.archive.put(
        build("4A", active(), attempt(BOB, "bounced"), attempt(CAROL), attempt(dora, seconds=3)),
    )
    keeper.archive.load()
    states = [one.state.value for one in _story(keeper.archive, sealed).passages]
    assert states[:3] == ["bounced", "delivered", "delivered"]
    assert "@partner.example" in dump(keeper.archive)
    assert not any(one in dump(keeper.archive) for one in (BOB, dora))
    assert keeper.findings() == []


def test_whoever_writes_again_after_an_erasure_is_told_of_by_name(keeper: Keeper) -> None:
    """Only records from which the person was erased are told of the pseudonym."""
    old = build_record(0, queue_id="4A", recipients=both(), salt="0a" * 16)
    new = build_record(5, queue_id="4B", recipients=both(), salt="0b" * 16)
    keeper.archive.put(old)
    keeper.archive.load()
    keeper.run(f"erase {BOB} --apply")
    keeper.archive.put(new, build("4B", active(5), attempt(BOB, seconds=6)))
    keeper.archive.load()
    assert BOB in {one.address for one in _story(keeper.archive, new).passages}
    assert [one.to for one in _story(keeper.archive, new).facts if hasattr(one, "to")] == [BOB]
    keeper.run(f"erase {CAROL} --apply")
    keeper.archive.put(build("4A", active(), attempt(BOB)), build("4B", attempt(BOB, seconds=9)))
    keeper.archive.load()
    assert BOB not in str(_story(keeper.archive, old))
    tos = [one.to for one in _story(keeper.archive, new).facts if hasattr(one, "to")]
    assert tos == [BOB, BOB]


def _story(archive: Archive, sealed: dict[str, Any]) -> Any:
    with archive.engine.connect() as connection:
        return deliveries.told([sealed["record_id"]], connection)[sealed["record_id"]]


def test_a_hold_stops_the_erasure_of_whom_only_the_log_names(archive: Archive) -> None:
    """Before anything is changed."""
    archive.put(build_record(0, queue_id="4A", recipients=both()), *told("4A", 0))
    archive.load()
    keeper = Keeper(archive)
    keeper.run("hold case queue-id:4A")
    with pytest.raises(erase.Held, match="case"):
        keeper.run(f"erase {FAX} --apply --reason case-7")
    with archive.engine.connect() as connection:
        erased = select(schema.address.c.address_id).where(schema.address.c.erased_at.is_not(None))
        assert connection.execute(erased).all() == []


def _forged(archive: Archive, table: Table, **changes: Any) -> None:
    """Change the row of the longest line, and nothing that could be seen beside it."""
    with tampering(archive) as connection:
        query = select(table).order_by(sqlalchemy.func.length(table.c.facts).desc()).limit(1)
        row = connection.execute(query).one()
        connection.execute(
            update(table)
            .where(table.c.segment_id == row.segment_id, table.c.position == row.position)
            .values(**changes)
        )


def _other_facts(archive: Archive) -> bytes:
    with archive.engine.connect() as connection:
        query = select(schema.delivery.c.facts).order_by(
            sqlalchemy.func.length(schema.delivery.c.facts)
        )
        return bytes(connection.scalars(query).first() or b"")


CHANGES = [
    pytest.param(lambda archive: {"facts": _other_facts(archive)}, "changed", id="facts"),
    pytest.param(lambda archive: {"facts": b"\1\0?"}, "changed", id="broken-facts"),
    pytest.param(lambda archive: {"salt": bytes(16)}, "changed", id="salt"),
    pytest.param(lambda archive: {"salt": None}, "changed", id="no-salt"),
    pytest.param(lambda archive: {"queue_id": "4B"}, "changed", id="queue-id"),
    pytest.param(lambda archive: {"removed_at": 1}, "changed", id="removed-at"),
    pytest.param(lambda archive: {"position": 77}, "added", id="place"),
    pytest.param(lambda archive: {"segment_id": 77}, "added", id="segment"),
    pytest.param(
        lambda archive: {"redaction": '{"event":1,"gone":{},"salts":{}}'}, "changed", id="redaction"
    ),
]


@pytest.fixture
def sealed(archive: Archive) -> Archive:
    """A message with its lines, and one that waits, all sealed."""
    archive.put(build_record(0, queue_id="4A", recipients=both()), *told("4A", 0))
    archive.put(build("4NONE", active(), attempt(BOB)))
    archive.load()
    return archive


@pytest.mark.parametrize(("changes", "kind"), CHANGES)
def test_a_changed_line_is_named(sealed: Archive, changes: Any, kind: str) -> None:
    """Whatever of the row was changed."""
    _forged(sealed, schema.delivery, **changes(sealed))
    assert kind in {one.kind for one in verified(sealed)}


@pytest.mark.parametrize("table", [schema.delivery, schema.delivery_waiting], ids=str)
def test_a_removed_line_is_named(sealed: Archive, table: Table) -> None:
    """Beside its record or waiting."""
    with tampering(sealed) as connection:
        row = connection.execute(select(table).limit(1)).one()
        connection.execute(delete(table).where(table.c.position == row.position))
    assert {one.kind for one in verified(sealed)} >= {"removed"}


def test_an_added_line_is_named(sealed: Archive) -> None:
    """A copy under another record, and one for which no line was sealed."""
    with tampering(sealed) as connection:
        row = connection.execute(select(schema.delivery).limit(1)).one()
        values = row._asdict() | {"position": 5}
        connection.execute(insert(schema.delivery), values)
    assert [one.kind for one in verified(sealed)] == ["added"]


def test_a_line_of_another_message_is_named(sealed: Archive) -> None:
    """No line tells that it belongs to the record."""
    with tampering(sealed) as connection:
        row = connection.execute(select(schema.delivery_waiting)).one()._asdict()
        [record_id] = connection.scalars(select(schema.message.c.record_id))
        connection.execute(delete(schema.delivery_waiting))
        names = schema.delivery.c.keys()
        values = {name: row[name] for name in names if name in row}
        values |= {"record_id": record_id, "kinship": schema.FORWARDED}
        connection.execute(insert(schema.delivery), values)
    assert [one.kind for one in verified(sealed)] == ["added"]


def test_lines_exchanged_between_messages_of_one_queue_id_are_named(any_archive: Archive) -> None:
    """A short queue id comes again after a day; what came before a message is not about it."""
    day = 86400
    old, new = (build_record(0, queue_id="4A", seconds=seconds) for seconds in (-day, 0))
    any_archive.put(old, *event_lines.delivered("4A", CAROL, COPY, seconds=-day))
    any_archive.put(new, *event_lines.delivered("4A", CAROL, COPY))
    any_archive.load()
    assert verified(any_archive) == []
    other = {old["record_id"]: new["record_id"], new["record_id"]: old["record_id"]}
    with tampering(any_archive) as connection:
        rows = [row._asdict() for row in connection.execute(select(schema.delivery))]
        connection.execute(delete(schema.delivery))
        exchanged = [row | {"record_id": other[row["record_id"]]} for row in rows]
        connection.execute(insert(schema.delivery), exchanged)
    found = verified(any_archive)
    assert {(one.kind, one.record_id) for one in found} == {("moved", new["record_id"])}
    assert all(old["record_id"] in one.what for one in found)


def test_what_no_search_finds_is_named(sealed: Archive) -> None:
    """A row of the index of states was deleted."""
    with tampering(sealed) as connection:
        connection.execute(delete(schema.delivery_state))
    assert [one.kind for one in verified(sealed)] == ["hidden"]


def test_a_lost_database_comes_back_with_its_lines(sealed: Archive) -> None:
    """From loaded/, and verify has nothing to say of it."""
    sealed.begin_anew()
    again = Archive.__new__(Archive)
    again.__dict__.update(sealed.__dict__, _engine=None)
    again.load()
    with database.reading_engine(again.database_url).connect() as connection:
        assert (
            connection.execute(
                select(sqlalchemy.func.count(schema.delivery.c.position))
            ).scalar_one()
            == 4
        )
    assert verified(again) == []
    again.close()
