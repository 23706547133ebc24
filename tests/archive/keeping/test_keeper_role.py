"""The role that keeps and erases on PostgreSQL may do all of it, and relays none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import postgresql
from support.archive import Archive
from support.event_lines import active, attempt, build
from support.keeping import Keeper, expiring, years

from carbonseal.milter.archive import database

PACKAGED = Path(__file__).resolve().parents[3] / "packaging/postgresql"


@pytest.fixture
def divided(tmp_path: Path) -> Iterator[tuple[Archive, str, str]]:
    """An archive with the packaged roles: filled by a relay; URLs of a keeper and of the relay."""
    server = postgresql.shared()
    name = server.create_database()
    server.run_file(PACKAGED / "roles.sql", name)
    server.execute("GRANT ALL ON SCHEMA public TO carbonseal_owner", name)
    server.make_login("carbonseal_owner")
    engine = database.writing_engine(server.url(name, user="carbonseal_owner"))
    database.upgrade(engine)
    engine.dispose()
    server.run_file(PACKAGED / "grants.sql", name, user="carbonseal_owner")
    server.make_login("keeping_relay", member_of="carbonseal_writer")
    server.make_login("keeping_keeper", member_of="carbonseal_keeper")
    relay = server.url(name, user="keeping_relay")
    archive = Archive(tmp_path, relay)
    yield archive, server.url(name, user="keeping_keeper"), relay
    archive.close()
    server.drop_database(name)


def test_the_keeper_holds_retains_and_erases_and_the_relay_cannot(
    divided: tuple[Archive, str, str], tmp_path: Path
) -> None:
    """With the rights of the packaged files, a month as a whole included."""
    archive, keeping, relay = divided
    archive.put(
        build("4XYZ1", active(years(2))),
        build("4XYZ2", attempt("fax@gateway.example", "deferred", years(2) + 9, orig_to="b@x.y")),
        build("4XYZ3", attempt("bob@partner.example", "bounced", years(1) + 9)),
    )
    archive.load()
    archive.fill(
        expiring(1, seconds=years(2), keep=30),
        expiring(2, seconds=years(2), keep=30, login="held"),
        expiring(3, seconds=years(1), keep=9000, headers=30, name="long"),
        expiring(4, seconds=years(1), keep=9000, subject=30, name="longer"),
    )
    keeper = Keeper(archive)
    keeper.context.database_url = relay
    with pytest.raises(database.DatabaseUnusable, match="permission"):
        keeper.run("retain --apply --now 0d")
    keeper.context.database_url = keeping
    keeper.run("hold case login:held")
    assert "whole months" in keeper.run("retain --apply --now 0d")
    assert len(archive.search()) == 3
    assert (archive.rows("delivery"), archive.rows("delivery_address")) == (2, 2)
    certificate = tmp_path / "c.json"
    keeper.run("release case")
    keeper.run(f"erase bob@partner.example --apply --certificate {certificate}")
    assert archive.search("to:bob@partner.example") == []
    assert keeper.findings() == []
