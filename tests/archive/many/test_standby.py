"""PostgreSQL: the primary is killed in the middle of a load, and its standby takes over."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy
from support.ports import LOOPBACK
from support.postgresql import PostgreSQL
from support.relays import Mail, Relay, check_whole, wait_for

# `make test` takes a sample; MANY=100000 is the size that was promised.
RECORDS = int(os.environ.get("MANY", "4000"))
STANDBY = "relief"


class Pair:
    """A primary, its standby, and a database on both."""

    def __init__(self) -> None:
        self.primary = PostgreSQL(sends_wal=True, settings={"synchronous_commit": "on"})
        self.standby = PostgreSQL(sends_wal=True, settings={"synchronous_commit": "on"})

    def start(self) -> None:
        self.primary.initialise()
        self.primary.start()
        self.name = self.primary.create_database()
        self.standby.base_backup(self.primary, name=STANDBY)
        self.standby.start()

    def demand_synchronous(self) -> None:
        """No commit is answered before the standby has it."""
        self.primary.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{STANDBY}'")
        self.primary.execute("SELECT pg_reload_conf()")
        self.primary.wait_for(
            lambda: self.primary.ask("SELECT sync_state FROM pg_stat_replication") == "sync",
            "has no synchronous standby",
        )

    def close(self) -> None:
        self.primary.close()
        self.standby.close()

    @property
    def url(self) -> str:
        """Both, in order."""
        places = [f"{LOOPBACK}:{one.port}" for one in (self.primary, self.standby)]
        parsed = sqlalchemy.make_url(self.primary.url(self.name))
        made = parsed.set(host=None, port=None).update_query_dict({"host": places})
        return made.render_as_string(hide_password=False)

    def stored(self, server: PostgreSQL) -> int:
        """Records that were loaded."""
        if server.ask("SELECT to_regclass('segment')", self.name) is None:
            return 0
        return int(server.ask("SELECT coalesce(sum(records), 0) FROM segment", self.name))


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_a_synchronous_standby_takes_over(pair: Pair, tmp_path: Path) -> None:
    """Killed with SIGKILL in the middle; two relays go on by themselves; nothing is missing."""
    pair.demand_synchronous()
    with (
        Relay("mx1.example.com", tmp_path / "mx1", pair.url) as first,
        Relay("mx2.example.com", tmp_path / "mx2", pair.url) as second,
    ):
        with Mail([first, second], RECORDS):
            wait_for(lambda: pair.stored(pair.primary) >= RECORDS * 0.4, "the first part")
            pair.primary.kill()
            assert pair.stored(pair.standby) < RECORDS
            pair.standby.promote()
        wait_for(lambda: first.is_done and second.is_done, "the rest")
        # Both relays noticed, and neither had to load anything again.
        for relay in (first, second):
            wait_for(partial(relay.said, "database-serves-again"), "the relay to notice")
            assert not relay.said("segments-brought-back")
    check_whole([first, second], pair.standby.url(pair.name))


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_a_standby_that_lags_takes_over(pair: Pair, tmp_path: Path) -> None:
    """It lacks commits that were answered; the relays bring back what it lacks from loaded/."""
    with (
        Relay("mx1.example.com", tmp_path / "mx1", pair.url) as first,
        Relay("mx2.example.com", tmp_path / "mx2", pair.url) as second,
    ):
        with Mail([first, second], RECORDS):
            wait_for(lambda: pair.stored(pair.standby) >= RECORDS * 0.2, "the first part")
            stop_receiving(pair.standby)
            behind = pair.stored(pair.standby)
            wait_for(lambda: pair.stored(pair.primary) >= behind + RECORDS * 0.4, "the lag")
            pair.primary.kill()
            pair.standby.promote()
        wait_for(lambda: first.is_done and second.is_done, "the rest")
        assert first.said("segments-brought-back")
        assert second.said("segments-brought-back")
    check_whole([first, second], pair.standby.url(pair.name))


def stop_receiving(standby: PostgreSQL) -> None:
    """As if the line between the two were cut."""
    standby.execute("ALTER SYSTEM SET primary_conninfo = ''")
    standby.execute("SELECT pg_reload_conf()")
    standby.wait_for(
        lambda: standby.ask("SELECT count(*) FROM pg_stat_wal_receiver") == 0, "still receives"
    )
