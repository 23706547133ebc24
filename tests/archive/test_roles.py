"""Roles on a server (packaging/postgresql, packaging/mariadb): each can do its work, no more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from support import mariadb, postgresql
from support.archive import Archive, build_record
from support.event_lines import active, attempt, build, change
from support.keeping import Keeper, expiring, years
from support.mariadb import MariaDB
from support.postgresql import PostgreSQL

from carbonseal.milter.archive import database, faults, schema, servers
from carbonseal.policies.errors import CarbonsealError

PACKAGING = Path(__file__).parents[2] / "packaging"
OWNER = "carbonseal_owner"
LOGINS = {
    "mariadb_owner": OWNER,
    "mx1": "carbonseal_writer",
    "alice": "carbonseal_reader",
    "karl": "carbonseal_keeper",
}
# What a writer may update on MariaDB only; `archive verify` finds it.
UPSERTED = (
    "UPDATE address SET local_part = 'x'",
    "UPDATE verdict SET reasons = '[]'",
    "UPDATE set_aside SET why = ''",
)
WRITER, READER, KEEPER = "mx1", "alice", "karl"


@dataclass
class Place:
    """An archive's database with its roles."""

    server: PostgreSQL | MariaDB
    name: str
    engines: dict[str, Engine] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return PACKAGING / ("postgresql" if isinstance(self.server, PostgreSQL) else "mariadb")

    def url(self, user: str) -> str:
        if isinstance(self.server, MariaDB) and user == OWNER:
            user = "mariadb_owner"  # there, a role cannot log in
        return self.server.url(self.name, user)

    def run_file(self, file: str) -> None:
        self.server.run_file(self.folder / file, self.name)

    def do(self, user: str, *statements: str) -> None:
        if user not in self.engines:
            url = sqlalchemy.make_url(self.url(user))
            self.engines[user] = servers.engine(url, is_writer=False)
        with self.engines[user].begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)


@pytest.fixture(scope="module", params=["postgresql", "mariadb"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """As the files say that it is set up."""
    made = Place(postgresql.shared() if request.param == "postgresql" else mariadb.shared(), "")
    made.name = made.server.create_database()
    made.run_file("roles.sql")
    for login, role in LOGINS.items():
        made.server.make_login(login, member_of=role)
    if isinstance(made.server, PostgreSQL):
        made.server.make_login(OWNER)
    engine = database.writing_engine(made.url(OWNER), patience=None)
    database.upgrade(engine)
    engine.dispose()
    made.run_file("grants.sql")
    yield made
    for engine in made.engines.values():
        engine.dispose()
    made.server.drop_database(made.name)


@pytest.fixture
def archive(place: Place, tmp_path: Path) -> Iterator[Archive]:
    """A relay that writes as a writer, and is asked as a reader."""
    made = Archive(tmp_path, place.url(WRITER))
    made.put(
        *(build(f"4XYZ{number}", active(years(8))) for number in (1, 1, 77)),
        build(
            "4XYZ3", attempt("fax@gateway.example", "deferred", 3.5, orig_to="bob@partner.example")
        ),
        build(
            "4XYZ3",
            change("notified", 4.0, queue_id="4N"),
            attempt("bob@partner.example", "bounced", 4.0),
        ),
    )
    made.load()
    made.fill(
        expiring(1, seconds=years(8), keep=365 * 7),
        expiring(2, seconds=0, keep=365 * 7, name="other"),
        *(build_record(number, salt=f"{number:032x}") for number in range(3, 6)),
    )
    made.database_url = place.url(READER)
    yield made
    made.close()


def test_every_role_can_do_its_work(place: Place, archive: Archive) -> None:
    """The writer loads and seals, the reader asks, the keeper holds, lets expire and erases."""
    officer = Keeper(archive)
    assert len(archive.search()) == 5
    assert "bob@partner.example" in officer.run("search to:bob@partner.example --json")
    officer.run("audit")

    archive.database_url = place.url(KEEPER)
    keeper = Keeper(archive)
    keeper.run("hold case-17 queue-id:4XYZ3")
    keeper.run("retain --apply")
    keeper.run("release case-17")
    certificate = archive.spool_directory.parent / "certificate.json"
    keeper.run(f"erase bob@partner.example --apply --certificate {certificate}")
    assert len(archive.search()) == 4
    assert archive.search(recipient="bob@partner.example") == []
    assert (archive.rows("delivery"), archive.rows("delivery_waiting")) == (2, 0)

    # What the keeper did is no finding, and the writer goes on where it was.
    assert keeper.findings() == []
    archive.database_url = place.url(WRITER)
    archive.fill(build_record(9, salt="99" * 16))
    assert keeper.findings() == []

    # Who asks by the relay's login is written down as well.
    bundle = archive.spool_directory.parent / "bundle"
    keeper.run(f"export {bundle} --all")
    keeper.run(f"import {bundle} --dry-run")


def test_the_files_may_be_run_again(place: Place, archive: Archive) -> None:
    """Nothing is an error the second time, and everybody can still work."""
    place.run_file("roles.sql")
    place.run_file("grants.sql")
    archive.database_url = place.url(WRITER)
    archive.fill(build_record(9))


@pytest.mark.parametrize(
    ("user", "statement"),
    [
        *(
            pytest.param(user, statement, id=f"{role}-{statement.split()[0].lower()}s-{table}")
            for user, role, table, statement in [
                (WRITER, "writer", "message", "UPDATE message SET size = 1"),
                (WRITER, "writer", "message", "DELETE FROM message"),
                (WRITER, "writer", "header_section", "UPDATE header_section SET fields = ''"),
                (WRITER, "writer", "header_section", "DELETE FROM header_section"),
                (WRITER, "writer", "address", "UPDATE address SET local_part = 'x'"),
                (WRITER, "writer", "address", "DELETE FROM address"),
                (WRITER, "writer", "verdict", "UPDATE verdict SET reasons = '[]'"),
                (WRITER, "writer", "seal", "UPDATE seal SET entry = ''"),
                (WRITER, "writer", "seal", "DELETE FROM seal"),
                (WRITER, "writer", "segment", "DELETE FROM segment"),
                (WRITER, "writer", "set_aside", "DELETE FROM set_aside"),
                (WRITER, "writer", "set_aside", "UPDATE set_aside SET why = ''"),
                (WRITER, "writer", "tombstone", "DELETE FROM tombstone"),
                (WRITER, "writer", "tombstone", "INSERT INTO tombstone VALUES (1, 1, 1, '')"),
                (WRITER, "writer", "hold", "DELETE FROM hold"),
                (WRITER, "writer", "audit", "DELETE FROM audit"),
                (WRITER, "writer", "audit", "UPDATE audit SET actor = 'x'"),
                (READER, "reader", "message", "UPDATE message SET size = 1"),
                (READER, "reader", "message", "DELETE FROM message"),
                (READER, "reader", "domain", "INSERT INTO domain VALUES (1, 'x')"),
                (READER, "reader", "segment", "UPDATE segment SET progress = 0"),
                (READER, "reader", "hold", "UPDATE hold SET released_at = 1"),
                (READER, "reader", "hold_member", "DELETE FROM hold_member"),
                (READER, "reader", "tombstone", "INSERT INTO tombstone VALUES (1, 1, 1, '')"),
                (READER, "reader", "audit", "UPDATE audit SET actor = 'x'"),
                (READER, "reader", "audit", "DELETE FROM audit"),
                (KEEPER, "keeper", "message", "UPDATE message SET size = 1"),
                (KEEPER, "keeper", "seal", "DELETE FROM seal"),
                (KEEPER, "keeper", "seal", "UPDATE seal SET entry = ''"),
                (KEEPER, "keeper", "segment", "DELETE FROM segment"),
                (KEEPER, "keeper", "hold", "DELETE FROM hold"),
                (KEEPER, "keeper", "audit", "UPDATE audit SET actor = 'x'"),
                (KEEPER, "keeper", "audit", "DELETE FROM audit"),
            ]
        ),
        *(
            pytest.param(user, "DROP TABLE message", id=f"{user}-drops-table")
            for user in (WRITER, READER, KEEPER)
        ),
        *(
            pytest.param(user, "CREATE TABLE mine (one INTEGER)", id=f"{user}-makes-table")
            for user in (WRITER, READER, KEEPER)
        ),
    ],
)
def test_no_role_can_do_more(place: Place, user: str, statement: str) -> None:
    """The server refuses, whatever program asks."""
    if isinstance(place.server, MariaDB) and user == WRITER and statement in UPSERTED:
        pytest.skip("an insert that leaves what is there asks MariaDB for the right to update")
    with pytest.raises(DBAPIError) as caught:
        place.do(user, statement)
    assert "grant the rights" in faults.remedy(caught.value) or "owner" in str(caught.value)


@pytest.mark.parametrize("user", [WRITER, READER])
@pytest.mark.parametrize(
    "statement",
    [
        pytest.param("SELECT carbonseal_drop_partition('2026_11')", id="drops-a-month"),
        pytest.param("CREATE TEMPORARY TABLE message (one INTEGER)", id="temporary-table"),
        pytest.param("SET ROLE carbonseal_owner", id="becomes-owner"),
    ],
)
def test_postgresql_refuses_side_doors(user: str, statement: str, place: Place) -> None:
    """Functions with the owner's rights, tables of the same name, other roles."""
    if not isinstance(place.server, PostgreSQL):
        pytest.skip("MariaDB has none of these")
    with pytest.raises(DBAPIError, match="permission denied"):
        place.do(user, statement)


def test_a_keepers_temporary_table_is_not_taken_for_the_archives(place: Place) -> None:
    """What runs with the owner's rights sees the archive's tables only."""
    if not isinstance(place.server, PostgreSQL):
        pytest.skip("MariaDB has no such functions")
    trap = "CREATE TEMPORARY TABLE message (record_id uuid, stolen text)"
    place.do(KEEPER, trap, "SELECT carbonseal_partition('2026-02-01T00:00:00Z')")
    found = place.server.ask(
        "SELECT count(*) FROM information_schema.columns WHERE column_name = 'stolen' "
        "AND table_schema NOT LIKE 'pg_temp%'",
        place.name,
    )
    assert found == 0
    assert place.server.ask("SELECT to_regclass('message_2026_02') IS NOT NULL", place.name)


def test_a_stranger_cannot_connect(place: Place) -> None:
    """A login without a role sees nothing."""
    if isinstance(place.server, PostgreSQL):
        place.server.make_login("stranger")
    else:
        place.server.execute("CREATE ROLE IF NOT EXISTS nothing")
        place.server.make_login("stranger", member_of="nothing")
    engine = database.writing_engine(place.url("stranger"))
    with pytest.raises(CarbonsealError, match=r"denied.*grant the rights|may not make"):
        database.upgrade(engine)


def test_a_writer_that_may_not_upgrade_says_who_may(place: Place, tmp_path: Path) -> None:
    """Tables that are missing are made by their owner, not by a relay."""
    name = place.server.create_database()
    empty = Place(place.server, name)
    empty.run_file("roles.sql")
    if isinstance(place.server, MariaDB):
        place.server.execute(f"GRANT SELECT ON {name}.* TO carbonseal_writer")
    relay = Archive(tmp_path, empty.url(WRITER))
    relay.put(build_record(1))
    with pytest.raises(CarbonsealError, match="carbonseal archive upgrade"):
        relay.load()
    place.server.drop_database(name)


def test_every_table_is_thought_of() -> None:
    """A table that a later version adds does not go without grants."""
    texts = [(PACKAGING / name / "grants.sql").read_text() for name in ("postgresql", "mariadb")]
    tables = {*schema.metadata.tables, *schema.audit_metadata.tables}
    only_elsewhere = {"participant", "participant_domain", "header_term"}
    with_arrays = tables - only_elsewhere | schema.array_metadata.tables.keys()
    for text, wanted in zip(texts, (with_arrays, tables), strict=True):
        assert {name for name in wanted if name not in text} == set()
