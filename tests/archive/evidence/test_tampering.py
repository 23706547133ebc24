"""Whoever may write anything in the database changes it; verify says so, and where.

One archive for each engine; every test undoes what it did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, bindparam, delete, insert, select, text, update
from support import mariadb, postgresql
from support.archive import Archive, build_recipient, build_signature
from support.evidence import Sealed, alone, salted

from carbonseal.milter.archive import audit, packed, schema

PER_SEGMENT = 6
SEGMENTS = 3
Tamper = Callable[[Connection, str], None]


@pytest.fixture(scope="module", params=("sqlite", "postgresql", "mariadb"))
def sealed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sealed]:
    """Three sealed segments of six records, and some events in the audit."""
    directory = tmp_path_factory.mktemp("sealed")
    server = {"postgresql": postgresql, "mariadb": mariadb}.get(request.param)
    if server is None:
        name, url = "", None
    else:
        name = server.shared().create_database()
        url = server.shared().url(name)
    archive = Archive(directory, url)
    for segment in range(SEGMENTS):
        start = segment * PER_SEGMENT
        archive.fill(*(_record(number) for number in range(start, start + PER_SEGMENT)))
        with audit.opened(archive.database_url) as engine:
            audit.append(engine, action="search", reason="case 7", detail={"n": segment})
    made = Sealed(archive)
    yield made
    made.close()
    if server is not None:
        server.shared().drop_database(name)


@pytest.fixture(autouse=True)
def _undone(sealed: Sealed) -> Iterator[None]:
    yield
    sealed.restore()


def _record(number: int) -> dict[str, Any]:
    bob = f"bob{number}+x@partner.example"
    return salted(
        number,
        recipients=[
            build_recipient(bob, raw=f"<Bob{number}+X@partner.example>"),
            build_recipient("carol@partner.example"),
        ],
        origin={"kind": "login", "about": f"user{number}"},
        reasons=[f"origin-login(user{number})", f"recipient-outside({bob})"],
        signatures=[build_signature(auid=f"@n{number}.example.com", expires_at=1_800_000_000)],
        retention={"class": "mail", "keep": 864000, "headers": None, "subject": None},
        login=f"user{number}",
    )


def _victim(archive: Sealed) -> str:
    """A record in the middle of the second segment."""
    query = select(schema.message.c.record_id).order_by(schema.message.c.record_id)
    with archive.archive.engine.connect() as connection:
        return list(connection.execute(query).scalars())[PER_SEGMENT + 2]


def test_an_untouched_archive_is_all_true(sealed: Sealed) -> None:
    """Neither with everything at hand nor with the database alone is there anything to say."""
    assert sealed.found() == []
    assert sealed.found_alone() == []


# Every column of a fact but those that say where it came from (they have tests of their own).
_OTHERWISE = ("record_id", "segment_id", "position")
_MESSAGE = [name for name in schema.message.c.keys() if name not in _OTHERWISE]  # noqa: SIM118
_HEADER = [name for name in schema.header_section.c.keys() if name != "record_id"]  # noqa: SIM118


def _changed(value: Any, column: Any) -> Any:
    """Another value of that column, as little different as can be."""
    kind = column.type.python_type
    if kind is bool:
        return not value
    if kind is int:
        return 0 if value is None else value + 1
    if kind is bytes:
        octets = bytes(value or b"\x00" * 16)
        middle = len(octets) // 2  # the last octet of what is compressed may say nothing
        return octets[:middle] + bytes([octets[middle] ^ 1]) + octets[middle + 1 :]
    text = value or ""
    return text[:-1] + ("x" if text[-1:] != "x" else "y")


@pytest.mark.parametrize(
    ("table", "name"),
    [
        *(pytest.param(schema.message, name, id=f"message.{name}") for name in _MESSAGE),
        *(pytest.param(schema.header_section, name, id=f"header.{name}") for name in _HEADER),
    ],
)
def test_a_changed_octet_is_named(sealed: Sealed, table: Any, name: str) -> None:
    """Whatever column of a record is changed, verify names the record and no other."""
    victim = _victim(sealed)
    column = table.c[name]
    with sealed.tampering(table) as connection:
        row = table.c.record_id == victim
        value = connection.execute(select(column).where(row)).scalar_one()
        connection.execute(update(table).where(row).values({name: _changed(value, column)}))
    found = sealed.found_alone()
    assert [(one.kind, one.record_id) for one in found] == [("changed", victim)], found
    assert found[0].position == 2
    assert found[0].number == 2


_DICTIONARIES = [
    pytest.param(schema.address, "local_part", id="address"),
    pytest.param(schema.domain, "name", id="domain"),
    pytest.param(schema.circumstance, "listener", id="circumstance"),
    pytest.param(schema.route, "host", id="route"),
    pytest.param(schema.signing_form, "selector", id="signing-form"),
    pytest.param(schema.verdict, "reasons", id="verdict"),
    pytest.param(schema.retention, "name", id="retention"),
]


@pytest.mark.parametrize(("table", "name"), _DICTIONARIES)
def test_a_changed_dictionary_changes_the_records_that_refer_to_it(
    sealed: Sealed, table: Any, name: str
) -> None:
    """Dictionaries have no evidence of their own: their records have."""
    with sealed.tampering(table) as connection:
        for key, value in connection.execute(
            select(*table.primary_key.columns, table.c[name])
        ).all():
            condition = next(iter(table.primary_key.columns)) == key
            anew = f"{key}" + (value or "")[:100]
            connection.execute(update(table).where(condition).values({name: anew}))
    found = sealed.found_alone()
    assert found
    assert {one.kind for one in found} == {"changed"}
    assert all(one.record_id for one in found)


@pytest.mark.parametrize(("table", "name"), _DICTIONARIES)
def test_a_deleted_dictionary_row_is_noticed(sealed: Sealed, table: Any, name: str) -> None:
    """A record that cannot be read back is a changed record, not a traceback."""
    with sealed.tampering(table) as connection:
        connection.execute(delete(table))
    found = sealed.found_alone()
    assert {one.kind for one in found} == {"changed"}
    assert len(found) == SEGMENTS * PER_SEGMENT


def _index_tables(sealed: Sealed) -> list[Any]:
    if sealed.writing.dialect.name == "postgresql":
        return [schema.message, schema.header_section]
    return [schema.participant, schema.participant_domain, schema.header_term]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_record_that_searches_cannot_find_is_named(sealed: Sealed, number: int) -> None:
    """Its row is as it was; what leads to it was deleted."""
    tables = _index_tables(sealed)
    if number >= len(tables):
        pytest.skip("PostgreSQL has two arrays")
    table, victim = tables[number], _victim(sealed)
    with sealed.tampering(table) as connection:
        row = table.c.record_id == victim
        if sealed.writing.dialect.name == "postgresql":
            emptied = text(f"UPDATE {table} SET terms = '{{}}' WHERE record_id = :victim")
            typed = emptied.bindparams(bindparam("victim", type_=schema.RecordId()))
            connection.execute(typed, {"victim": victim})
        else:
            connection.execute(delete(table).where(row))
    found = sealed.found_alone()
    assert [(one.kind, one.record_id) for one in found] == [("hidden", victim)]


def test_a_set_of_roles_that_is_missing_hides_records(sealed: Sealed) -> None:
    """Each record that a search would not ask for is named."""
    if sealed.writing.dialect.name != "postgresql":
        pytest.skip("the others have no such table")
    with sealed.tampering(schema.role_set) as connection:
        connection.execute(delete(schema.role_set))
    found = sealed.found_alone()
    assert {one.kind for one in found} == {"hidden"}
    assert len(found) == SEGMENTS * PER_SEGMENT


def test_the_part_that_changed_is_named_where_the_segment_is_at_hand(sealed: Sealed) -> None:
    """With loaded/ the finding says which part, and what in it."""
    victim = _victim(sealed)
    with sealed.tampering(schema.message) as connection:
        row = schema.message.c.record_id == victim
        size, stored = connection.execute(
            select(schema.message.c.size, schema.message.c.numbers).where(row)
        ).one()
        numbers = packed.unpack_numbers(stored, size)._replace(client_port=1)
        changed = {"helo": "x", "numbers": packed.pack_numbers(numbers, size)}
        connection.execute(update(schema.message).where(row).values(changed))
    found = sealed.found()
    assert [str(one).partition(" (record")[0] for one in found] == [
        "changed: changed in client (helo, port)"
    ]


def test_damaged_numbers_are_a_change_and_no_crash(sealed: Sealed) -> None:
    """As of all that is stored packed."""
    victim = _victim(sealed)
    with sealed.tampering(schema.message) as connection:
        row = schema.message.c.record_id == victim
        connection.execute(update(schema.message).where(row).values(numbers=b"\1\xff"))
    assert [(one.kind, one.record_id) for one in sealed.found_alone()] == [("changed", victim)]


def test_a_deleted_record_is_named(sealed: Sealed) -> None:
    """With segment and place, as its id is gone."""
    victim = _victim(sealed)
    with sealed.tampering(schema.message, schema.header_section) as connection:
        for table in (schema.message, schema.header_section):
            connection.execute(delete(table).where(table.c.record_id == victim))
    found = sealed.found_alone()
    assert [(one.kind, one.number, one.position) for one in found] == [("removed", 2, 2)]


def test_a_deleted_header_section_is_named(sealed: Sealed) -> None:
    """Only retention may take it out, with a tombstone."""
    table = schema.header_section
    with sealed.tampering(table) as connection:
        connection.execute(delete(table).where(table.c.record_id == _victim(sealed)))
    found = sealed.found_alone()
    assert [(one.kind, one.what, one.position) for one in found] == [
        ("removed", "the header section is missing", 2)
    ]


@pytest.mark.parametrize(
    ("segment", "position"),
    [
        pytest.param(None, PER_SEGMENT, id="behind-the-last-line"),
        pytest.param(None, 2, id="at-a-place-that-is-taken"),
        pytest.param(4711, 0, id="of-a-segment-that-never-was"),
    ],
)
def test_an_inserted_record_is_named(sealed: Sealed, segment: int | None, position: int) -> None:
    """A copy of a record under an id of its own."""
    victim = _victim(sealed)
    added = victim[:-1] + ("0" if victim[-1] != "0" else "1")
    with sealed.tampering(schema.message, schema.header_section) as connection:
        sealed.insert_copy(connection, schema.header_section, victim, record_id=added)
        changes = {} if segment is None else {"segment_id": segment}
        sealed.insert_copy(
            connection, schema.message, victim, record_id=added, position=position, **changes
        )
    found = sealed.found_alone()
    kinds = [one.kind for one in found]
    if position == 2:  # of two at one place, one is not what was sealed there
        assert "added" in kinds
        assert all(one.record_id in (added, victim) for one in found)
    else:
        assert [(one.kind, one.record_id) for one in found] == [("added", added)]


def test_swapped_records_are_named_with_both_places(sealed: Sealed) -> None:
    """Two records that exchange their places."""
    table = schema.message
    first, second = 1, 4
    with sealed.tampering(table) as connection:
        query = select(table.c.record_id).order_by(table.c.record_id)
        ids = list(connection.execute(query).scalars())[:PER_SEGMENT]
        for record_id, place in ((ids[first], second), (ids[second], first)):
            row = table.c.record_id == record_id
            connection.execute(update(table).where(row).values(position=place))
    found = sealed.found_alone()
    assert sorted((one.kind, one.what, one.record_id) for one in found) == sorted(
        [
            ("moved", "stands at place 4 and was sealed at place 1", ids[first]),
            ("moved", "stands at place 1 and was sealed at place 4", ids[second]),
        ]
    )


def _last_segment(connection: Connection) -> int:
    query = select(schema.seal.c.segment_id).where(schema.seal.c.number == SEGMENTS)
    found: int = connection.execute(query).scalar_one()
    return found


def _delete_segment(sealed: Sealed) -> None:
    """The last segment with all its traces."""
    with sealed.tampering(*_FACTS) as connection:
        segment_id = _last_segment(connection)
        ids = select(schema.message.c.record_id).where(schema.message.c.segment_id == segment_id)
        gone = list(connection.execute(ids).scalars())
        for table in (schema.message, schema.header_section):
            connection.execute(delete(table).where(table.c.record_id.in_(gone)))
        for table in (schema.seal, schema.segment):
            connection.execute(delete(table).where(table.c.segment_id == segment_id))


_FACTS = (schema.message, schema.header_section, schema.seal, schema.segment)


def test_the_last_segment_deleted_shows_by_what_the_relay_has(sealed: Sealed) -> None:
    """By its chain, by its loaded segments, and by a head that was noted; each on its own."""
    from carbonseal.milter.archive.evidence.chain_check import Expected  # noqa: PLC0415
    from carbonseal.milter.archive.evidence.verify import Report  # noqa: PLC0415

    report = Report()
    sealed.found(None, report)
    noted = Expected.parse(report.chains[0].head)
    _delete_segment(sealed)
    whole = sealed.found()
    by_head = sealed.found(_with(sealed, expected=(noted,)))
    untold = sealed.found_alone()
    assert {one.kind for one in whole} == {"lost"}
    assert any("segments were deleted, or an old backup" in one.what for one in whole)
    assert any("the database has no seal of it" in one.what for one in whole)
    assert [(one.kind, one.number) for one in by_head] == [("lost", SEGMENTS)]
    assert untold == []  # the database alone cannot tell, and that is documented


def _with(sealed: Sealed, **changes: Any) -> Any:
    from dataclasses import replace  # noqa: PLC0415

    return replace(alone(sealed.archive), **changes)


def test_a_segment_in_the_middle_deleted_breaks_the_chain(sealed: Sealed) -> None:
    """The database alone tells, as the numbers have a gap."""
    with sealed.tampering(schema.seal) as connection:
        connection.execute(delete(schema.seal).where(schema.seal.c.number == 2))
    found = sealed.found_alone()
    assert ("removed", 2) in [(one.kind, one.number) for one in found]


def _rewrite_leaves(connection: Connection, column: str) -> None:
    row = schema.seal.c.number == 2
    value = connection.execute(select(schema.seal.c[column]).where(row)).scalar_one()
    anew = _changed(value, schema.seal.c[column])
    connection.execute(update(schema.seal).where(row).values({column: anew}))


@pytest.mark.parametrize("column", ["entry", "signature", "leaves", "segment_id", "number"])
def test_a_changed_seal_is_named(sealed: Sealed, column: str) -> None:
    """Whatever column of it is changed."""
    with sealed.tampering(schema.seal) as connection:
        if column == "number":
            row = schema.seal.c.number == SEGMENTS
            connection.execute(update(schema.seal).where(row).values(number=SEGMENTS + 1))
        else:
            _rewrite_leaves(connection, column)
    found = sealed.found_alone()
    assert {one.kind for one in found} & {"seal", "leaves", "removed", "chain"}
    assert any(one.number in (2, 3) for one in found)


def test_a_changed_signature_of_the_last_seal_is_named(sealed: Sealed) -> None:
    """No seal follows it whose chain would break."""
    columns = schema.seal.c
    with sealed.tampering(schema.seal) as connection:
        row = columns.number == SEGMENTS
        value = connection.execute(select(columns.signature).where(row)).scalar_one()
        anew = _changed(value, columns.signature)
        connection.execute(update(schema.seal).where(row).values(signature=anew))
    found = sealed.found_alone()
    assert [(one.what, one.number) for one in found] == [
        ("the signature does not fit the entry", SEGMENTS)
    ]


def test_a_record_changed_together_with_its_leaf_breaks_the_signed_root(sealed: Sealed) -> None:
    """Whoever reckons the leaf anew cannot sign its root."""
    from carbonseal.milter.archive import retrieve  # noqa: PLC0415
    from carbonseal.milter.archive.evidence import leaf, reckoning  # noqa: PLC0415

    victim = _victim(sealed)
    with sealed.tampering(schema.message, schema.seal) as connection:
        row = schema.message.c.record_id == victim
        connection.execute(update(schema.message).where(row).values(size=1))
        [now] = retrieve.retrieve([victim], connection, with_fields=True)
        _, found = reckoning.evidence_of(now, None)
        assert found is not None
        seal = schema.seal.c.number == 2
        leaves = connection.execute(select(schema.seal.c.leaves).where(seal)).scalar_one()
        at = 2 * leaf.ENTRY
        anew = leaves[:at] + found.entry + leaves[at + leaf.ENTRY :]
        connection.execute(update(schema.seal).where(seal).values(leaves=anew))
    said = sealed.found_alone()
    assert [(one.kind, one.number) for one in said] == [("leaves", 2)]


def test_a_chain_signed_anew_with_a_foreign_key_is_noticed(sealed: Sealed) -> None:
    """A consistent forgery of everything: the relay's public key, or its chain, tells."""
    from support.forgery import forge  # noqa: PLC0415

    from carbonseal.keys import evidence_key  # noqa: PLC0415

    path = sealed.archive.spool_directory / "evidence" / evidence_key.PUBLIC
    key = evidence_key.read_public(path)
    with sealed.tampering(schema.seal) as connection:
        forge(connection)
    whole = sealed.found()
    by_key = sealed.found(_with(sealed, keys=frozenset((key,))))
    untold = sealed.found_alone()
    assert {one.kind for one in by_key} == {"key"}
    assert {"key", "seal"} <= {one.kind for one in whole}
    assert untold == []  # who has nothing to compare with cannot tell


def _change_event(engine: Any) -> None:
    with engine.begin() as connection:
        row = schema.audit.c.number == 1
        connection.execute(update(schema.audit).where(row).values(actor="nobody"))


def _delete_event(engine: Any) -> None:
    with engine.begin() as connection:
        connection.execute(delete(schema.audit).where(schema.audit.c.number == 1))


def _cut_audit(engine: Any) -> None:
    with engine.begin() as connection:
        connection.execute(delete(schema.audit).where(schema.audit.c.number >= 2))


@pytest.mark.parametrize(
    ("change", "number"),
    [
        pytest.param(_change_event, 1, id="changed"),
        pytest.param(_delete_event, 1, id="deleted"),
        pytest.param(_cut_audit, 2, id="end-cut-off"),
    ],
)
def test_a_changed_audit_is_named(
    sealed: Sealed, change: Callable[[Any], None], number: int
) -> None:
    """The audit's chain, and the head of it that every seal has signed."""
    with audit.opened(sealed.archive.database_url) as engine:
        with engine.begin() as connection:
            rows = [dict(row) for row in connection.execute(select(schema.audit)).mappings()]
        try:
            change(engine)
            found = sealed.found_alone()
        finally:
            with engine.begin() as connection:
                connection.execute(delete(schema.audit))
                connection.execute(insert(schema.audit), rows)
    assert {one.kind for one in found} == {"audit"}
    assert any(f"event {number} " in one.what for one in found)


def test_a_set_aside_row_does_not_excuse_a_deleted_record(sealed: Sealed) -> None:
    """Nor does a repetition, nor a tombstone without an event in the audit."""
    from carbonseal.milter.archive.evidence import positions  # noqa: PLC0415

    victim = _victim(sealed)
    for excuse in ("repeated", "tombstone", "set_aside"):
        with sealed.tampering(
            schema.message, schema.repeated, schema.tombstone, schema.set_aside
        ) as connection:
            row = schema.message.c.record_id == victim
            segment_id = connection.execute(
                select(schema.message.c.segment_id).where(row)
            ).scalar_one()
            connection.execute(delete(schema.message).where(row))
            given: dict[str, Any] = {"segment_id": segment_id}
            if excuse == "repeated":
                given |= {"position": 2, "record_id": victim}
            elif excuse == "tombstone":
                given |= {"event": 99, "part": 0, "positions": positions.pack([2])}
            else:
                given |= {"segment_offset": 0, "position": 2, "why": "it was bad"}
            connection.execute(insert(schema.metadata.tables[excuse]), given)
        assert sealed.found_alone(), excuse
        sealed.restore()


def test_an_old_backup_is_noticed(sealed: Sealed) -> None:
    """What was restored lacks the newest segments, and its relay knows them."""
    _delete_segment(sealed)
    found = sealed.found()
    once_more = sealed.found(_with(sealed, evidence=sealed.archive.spool_directory / "evidence"))
    assert "an old backup was restored" in "".join(one.what for one in found)
    assert [(one.kind, one.number) for one in once_more] == [("lost", SEGMENTS)]
