"""Legal holds: what is held stays whole, whoever deletes and however."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime

import click
import pytest
from support.archive import Archive, build_recipient
from support.keeping import Keeper, expiring, years

from carbonseal.milter.archive import commands, database
from carbonseal.milter.archive.keeping import holds, transactions
from carbonseal.milter.archive.search.wanted import Search
from carbonseal.policies.errors import DataError, NotFound, UsageError

APPLY = "retain --apply --now 0d"


def old(number: int, recipient: str = "bob@partner.example") -> dict[str, object]:
    return expiring(
        number,
        seconds=years(2) + number,
        keep=30,
        headers=20,
        subject=10,
        recipients=[build_recipient(recipient)],
    )


def test_what_is_held_survives_and_goes_after_its_release(keeper: Keeper) -> None:
    """Whole: record, header section and subject; on PostgreSQL through the drop of its month."""
    held, other = old(1, "carol@case.example"), old(2)
    keeper.archive.fill(held, other)
    assert "holds 1 record" in keeper.run("hold case-17 to:carol@case.example --reason 'case 17'")
    said = keeper.run("retain --now 0d")
    assert "held by case-17: 1" in said
    keeper.run(APPLY)
    assert keeper.archive.search() == [held["record_id"]]
    assert keeper.archive.show(str(held["record_id"])) == held
    assert keeper.archive.search("to:carol@case.example subject:quarterly") == [held["record_id"]]
    assert keeper.findings() == []
    keeper.run("release case-17")
    keeper.run(APPLY)
    assert keeper.archive.search() == []
    assert keeper.archive.rows("hold_member") == 0
    assert keeper.findings() == []


def test_a_live_hold_covers_what_comes_later_and_a_fixed_one_does_not(keeper: Keeper) -> None:
    """Looked up again before anything goes."""
    keeper.archive.fill(old(1))
    keeper.run("hold live to:bob@partner.example --live")
    late = old(2)
    keeper.archive.fill(late)
    keeper.run(APPLY)
    assert len(keeper.archive.search()) == 2
    keeper.run("release live")
    keeper.run("hold fixed to:bob@partner.example --until 2024-01-01")
    keeper.run(APPLY)
    assert keeper.archive.search() == []


def test_holds_that_went_with_their_archive_are_named(archive: Archive) -> None:
    """The audit is a file of its own: it still knows what was set, and not released."""
    keeper = Keeper(archive)
    archive.fill(old(1))
    for name in ("kept", "over", "again"):
        keeper.run(f"hold {name} to:bob@partner.example")
    keeper.run("release over")
    with pytest.raises(DataError):
        keeper.run("hold kept to:carol@case.example")  # refused, and no hold that was set
    assert "not in the archive" not in keeper.run("holds")
    assert listed(keeper) == 0
    archive.begin_anew()
    archive.load()
    with pytest.raises(DataError, match="hold kept: the audit says"):
        keeper.run("erase bob@partner.example --apply")
    keeper.run("hold again to:bob@partner.example")
    said = keeper.run("holds")
    assert [name for name in ("kept", "over", "again") if f"hold {name}: not in" in said] == [
        "kept"
    ]
    assert listed(keeper) == 1
    with pytest.raises(DataError, match="hold kept: the audit says"):
        keeper.run("retain --apply --now 2024-11-20")
    assert "nothing was changed" in keeper.run("retain --now 2024-11-20")
    again = re.search(r"carbonseal archive (hold kept .*?) \(release", " ".join(said.split()))
    assert again is not None
    assert "holds 1 record" in keeper.run(again[1])
    assert listed(keeper) == 0
    assert "the audit says" not in keeper.run("retain --apply --now 2024-11-20")
    keeper.run("release kept")
    assert listed(keeper) == 0


def listed(keeper: Keeper) -> int:
    """The exit status of `archive holds`."""
    command = commands.archive.get_command(click.Context(commands.archive), "holds")
    assert command is not None
    status: int = command.main([], standalone_mode=False, obj=keeper.context)
    return status


def test_two_holds_on_one_record_are_two(keeper: Keeper) -> None:
    """Releasing one leaves the other."""
    keeper.archive.fill(old(1))
    keeper.run("hold first to:bob@partner.example")
    keeper.run("hold second domain:partner.example")
    keeper.run("release first")
    keeper.run(APPLY)
    assert len(keeper.archive.search()) == 1
    listed = keeper.run("holds --json")
    assert listed.count('"is": "fixed"') + listed.count('"is":"fixed"') == 1


@pytest.mark.parametrize(
    ("line", "error", "words"),
    [
        pytest.param("hold 'a b' to:x@y.example", DataError, "letters", id="name-with-a-space"),
        pytest.param("hold '' to:x@y.example", DataError, "letters", id="no-name"),
        pytest.param("hold ../x to:x@y.example", DataError, "letters", id="a-path"),
        pytest.param("hold x", UsageError, "no query", id="no-query"),
        pytest.param("hold x size:>5", DataError, "index", id="a-query-no-index-answers"),
        pytest.param("hold taken from:x@y.example", DataError, "of that name", id="taken"),
        pytest.param("hold gone from:x@y.example", DataError, "released", id="used-before"),
        pytest.param("release nobody", NotFound, "none of that name", id="release-of-nothing"),
        pytest.param("release gone", DataError, "already", id="released-twice"),
    ],
)
def test_what_makes_no_sense_is_refused_and_holds_nothing(
    archive: Archive, line: str, error: type[Exception], words: str
) -> None:
    """In one sentence; the holds there are stay as they are."""
    keeper = Keeper(archive)
    archive.fill(old(1))
    keeper.run("hold taken to:bob@partner.example")
    keeper.run("hold gone to:bob@partner.example")
    keeper.run("release gone")
    with pytest.raises(error, match=words):
        keeper.run(line)
    assert len(keeper.run("holds --json").splitlines()) == 2


def test_a_hold_that_was_interrupted_holds_and_is_finished_by_the_same_command(
    archive: Archive,
) -> None:
    """From its first row on it counts as live, so what it had not reached is held as well."""
    keeper = Keeper(archive)
    archive.fill(*(old(number) for number in range(5)))

    def breaks(search: Search) -> Iterator[str]:
        yield from ()
        raise KeyboardInterrupt

    engine = database.writing_engine(archive.database_url)
    search = Search(limit=None)
    now = datetime.now(UTC)
    hold = holds.begin(engine, "x", reason="", search=search, is_live=False, by="me", now=now)
    with pytest.raises(KeyboardInterrupt):
        holds.extend(engine, hold, breaks, progress=lambda count: None)
    keeper.run(APPLY)
    assert len(archive.search()) == 5
    again = holds.begin(engine, "x", reason="", search=search, is_live=False, by="me", now=now)
    assert again.hold_id == hold.hold_id
    holds.finish(engine, again, is_live=False)
    engine.dispose()


def test_a_hold_set_while_records_go_waits_or_is_seen(keeper: Keeper) -> None:
    """Between the look at the holds and the deletion nobody can set one."""
    keeper.archive.fill(old(1))
    engine = database.writing_engine(keeper.archive.database_url, patience=None)
    began, goes_on, was_set = threading.Event(), threading.Event(), threading.Event()

    def deleting(connection: object) -> None:
        holds.locked(connection)  # type: ignore[arg-type]
        began.set()
        assert goes_on.wait(10)
        assert not was_set.is_set()

    def setting() -> None:
        assert began.wait(10)
        keeper.run("hold late to:bob@partner.example")
        was_set.set()

    other = threading.Thread(target=setting)
    other.start()
    timer = threading.Timer(0.3, goes_on.set)
    timer.start()
    transactions.run(engine, deleting)
    other.join(20)
    assert was_set.is_set()
    engine.dispose()
