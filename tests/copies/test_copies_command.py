"""`carbonseal archive copies`: what waits, what is lost, what left late; and the exit status."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import event_lines
from support.archive import Archive, build_recipient, build_record
from support.carbonseal import ARCHIVE, Carbonseal
from support.event_lines import active, attempt, build, change

BOB, SPARE = "bob@partner.example", "spare@archive.example.org"
SINCE = ("--since", "2026-11-21", "--until", "2026-11-21")


class World:
    """An archive, and the command that asks it."""

    def __init__(self, directory: Path) -> None:
        self.archive = Archive(directory)
        self.service = Carbonseal(
            directory / "seal",
            {
                "record": {
                    "spool": str(self.archive.spool_directory),
                    "database": self.archive.database_url,
                },
                "archive": {"recipients": [ARCHIVE], "alternate": [SPARE]},
            },
        )
        self.count = 0

    def message(self, *facts: Any, **changes: Any) -> str:
        """A record and what the log says of it; returns its queue id."""
        self.count += 1
        queue_id = f"4XYZ{self.count}"
        # All before the first fact, and in this order.
        content = build_record(self.count, seconds=self.count / 100 - 1, **changes)
        content["queue_id"] = queue_id
        self.archive.put(content, build(queue_id, active(), *facts))
        self.archive.load()
        return queue_id

    def ask(self, *options: str) -> tuple[int, list[dict[str, Any]], str]:
        """Exit status, rows, and what was said beside."""
        arguments = ("archive", "copies", *SINCE, *options, "--format", "jsonl")
        done = self.service.command(*arguments, check=False)
        return done.returncode, list(map(json.loads, done.stdout.splitlines())), done.stderr


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.archive.close()


def test_an_archive_that_has_every_copy_is_well(world: World) -> None:
    """Whatever became of other recipients; and what the log does not tell yet is no loss."""
    world.message(attempt(BOB, "bounced"), attempt(ARCHIVE), change("removed"))
    world.message(attempt(BOB, "deferred"), attempt(ARCHIVE, seconds=2))
    world.message(attempt(ARCHIVE, "deferred"), attempt(ARCHIVE, seconds=2))
    world.archive.put(build_record(9, queue_id="4XYZ9"))
    world.archive.load()
    assert world.ask() == (0, [], "")


def test_what_waits_and_what_is_lost_is_listed_newest_first(world: World) -> None:
    """With queue id, Message-ID, reply, and who has the copy all the same."""
    both = [ARCHIVE, SPARE]
    waits = world.message(attempt(BOB), attempt(ARCHIVE, "deferred"))
    lost = world.message(attempt(BOB), attempt(ARCHIVE, "bounced"), change("removed"))
    had = world.message(
        attempt(BOB),
        attempt(ARCHIVE, "bounced"),
        attempt(SPARE),
        change("removed"),
        archive_recipients=both,
    )
    gone = world.message(attempt(ARCHIVE, "deferred"), change("deleted", reply="postsuper"))
    refused = world.message(change("rejected", reply="milter-reject: no"))
    status, rows, _ = world.ask()
    assert status == 1
    assert [(one["queue_id"], one["state"]) for one in rows] == [
        (gone, "deleted"),
        (had, "bounced"),
        (lost, "bounced"),
        (waits, "deferred"),
    ]
    assert refused not in {one["queue_id"] for one in rows}
    assert rows[1]["elsewhere"] == [SPARE]
    assert rows[2]["message_id"] == "2.report@example.com"
    assert rows[2]["mailbox"] == ARCHIVE
    assert "550" in rows[2]["reply"]
    assert [one["queue_id"] for one in world.ask("--pending")[1]] == [waits]
    assert [one["queue_id"] for one in world.ask("--lost")[1]] == [gone, had, lost]


def test_people_are_told_what_to_do(world: World) -> None:
    """How each can be sent again, and where to find it."""
    world.message(attempt(BOB), attempt(ARCHIVE, "deferred"))
    world.message(attempt(BOB), attempt(ARCHIVE, "bounced"))
    done = world.service.command("archive", "copies", *SINCE, check=False)
    assert done.returncode == 1
    assert "1 wait:" in done.stderr
    assert "postqueue -i" in done.stderr
    assert "1 lost:" in done.stderr
    assert "sendmail -i -f '<>' -N never" in done.stderr


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("", "no archive copy waits or is lost\n"),
        ("--lost", "no archive copy is lost\n"),
        ("--pending", "no archive copy waits\n"),
        ("--exits", "no mail left our domains after it was sealed\n"),
    ],
)
def test_that_there_is_none_is_said(world: World, option: str, said: str) -> None:
    """An empty screen could mean anything; programs get no rows and no words."""
    world.message(attempt(BOB), attempt(ARCHIVE))
    options = [option] if option else []
    done = world.service.command("archive", "copies", *SINCE, *options)
    assert (done.stdout, done.stderr) == ("", said)
    assert world.ask(*options) == (0, [], "")


def test_a_period_bounds_what_is_listed(world: World) -> None:
    """By the time at which the message was sealed."""
    world.message(attempt(ARCHIVE, "bounced"))
    arguments = ("archive", "copies", "--json", "--since")
    assert world.service.command(*arguments, "2026-11-22", check=False).stdout == ""
    before = ("2026-11-20", "--until", "2026-11-20")
    assert world.service.command(*arguments, *before, check=False).stdout == ""


def test_many_are_listed_to_the_last(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Page by page, each once."""
    monkeypatch.setattr("carbonseal.milter.archive.search.copies_command._PAGE", 3)
    ids = [world.message(attempt(ARCHIVE, "bounced")) for _ in range(7)]
    assert [one["queue_id"] for one in world.ask()[1]] == ids[::-1]


def test_mail_that_left_after_it_was_sealed_is_listed(world: World) -> None:
    """An alias led it outside: no end was outside before, so it had no copy."""
    inside = [build_recipient("team@example.com")]
    internal = {"recipients": inside, "crossing": "internal", "archive_recipients": []}
    left = world.message(attempt("ann@out.example", orig_to="team@example.com"), **internal)
    world.message(attempt("ann@example.com", orig_to="team@example.com"), **internal)
    world.message(attempt(SPARE, orig_to="team@example.com"), **internal)
    status, rows, _ = world.ask("--exits")
    assert status == 1
    assert [(one["queue_id"], one["recipient"], one["became"]) for one in rows] == [
        (left, "team@example.com", "ann@out.example")
    ]
    assert rows[0]["copied"] is False


def test_who_asks_is_in_the_audit(world: World) -> None:
    """It says who wrote to whom."""
    world.message(attempt(ARCHIVE, "bounced"))
    world.ask("--reason", "outage of Saturday")
    said = world.service.command("archive", "audit", "--format", "jsonl").stdout.splitlines()
    asked = [json.loads(line) for line in said if '"copies"' in line]
    assert asked[0]["reason"] == "outage of Saturday"


def test_where_nobody_follows_the_log_nothing_is_known_here(world: World) -> None:
    """A sentence, and not an empty list."""
    done = world.service.command("archive", "copies", "--here", check=False)
    assert (done.returncode, done.stdout) == (65, "")
    assert "carbonseal-follow" in done.stderr
    done = world.service.command("archive", "copies", "--here", "--exits", check=False)
    assert done.returncode == 64


def test_lines_of_the_log_that_come_first_wait_for_their_record(world: World) -> None:
    """Then the copy is listed with it."""
    lines = event_lines.delivered("4XYZ1", BOB)
    world.archive.put(*lines, build("4XYZ1", attempt(ARCHIVE, "bounced", seconds=3)))
    world.archive.load()
    assert world.ask()[0] == 0
    world.archive.put(build_record(1, queue_id="4XYZ1"))
    world.archive.load()
    assert [one["queue_id"] for one in world.ask()[1]] == ["4XYZ1"]
