"""Taking over: each key by itself, none over another, and nothing signs that should not."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from carbonseal.keys import generate, keyring, permission, store
from carbonseal.keys.key_record import Origin
from carbonseal.keys.takeover import take
from carbonseal.keys.takeover.found import Findings, Found, Refusal, Signs
from carbonseal.keys.takeover.take import Outcome
from carbonseal.policies import errors
from carbonseal.policies.key_life import Stage

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
TAKEN, HERE, REFUSED = Outcome.TAKEN, Outcome.ALREADY_HERE, Outcome.REFUSED


@pytest.fixture
def shelf(tmp_path: Path) -> store.Store:
    return store.Store(tmp_path / "keys")


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Four Ed25519 keys, which are made fast."""
    paths = [tmp_path / f"{number}.pem" for number in range(4)]
    for path in paths:
        path.write_bytes(generate.private_pem(ed25519.Ed25519PrivateKey.generate()))
    return paths


def key(
    path: Path, selector: str = "s", sdid: str = "example.com", signs: Signs = Signs.UNKNOWN
) -> Found:
    return Found(sdid, selector, f"table:{selector}", path=path, signs=signs)


def run(
    shelf: store.Store, *found: Found, activate: bool = False, dry_run: bool = False
) -> list[take.Row]:
    report = take.take(
        shelf, Findings(found), at=NOW, why="by test", activate=activate, dry_run=dry_run
    )
    return list(report.rows)


def outcomes(rows: list[take.Row]) -> list[Outcome]:
    return [row.outcome for row in rows]


def tree(shelf: store.Store) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in shelf.directory.rglob("*") if path.is_file()}


def active(shelf: store.Store, sdid: str = "example.com") -> list[str]:
    return [one.selector for one in store.active(shelf.lineage(sdid).records)]


def test_a_second_run_changes_nothing(shelf: store.Store, files: list[Path]) -> None:
    """All are here already, down to the octets of the directory."""
    keys = [key(files[0], "a"), key(files[1], "b"), key(files[2], "a", "example.org")]
    assert outcomes(run(shelf, *keys)) == [TAKEN] * 3
    before = tree(shelf)
    assert outcomes(run(shelf, *keys)) == [HERE] * 3
    assert tree(shelf) == before
    record = shelf.find("example.com", "a")
    assert (record.origin, record.stage) == (Origin.IMPORTED, Stage.GENERATED)
    assert record.history[0].why == "by test, from table:a"


def test_another_key_under_the_name_is_refused(shelf: store.Store, files: list[Path]) -> None:
    """Nothing is overwritten, neither what was there nor what this run brought."""
    run(shelf, key(files[0], "a"))
    before = tree(shelf)
    rows = run(shelf, key(files[1], "a"), key(files[2], "b"), key(files[3], "b"))
    assert outcomes(rows) == [REFUSED, TAKEN, REFUSED]
    assert before.items() <= tree(shelf).items() | {
        item for item in before.items() if item[0].endswith("generation")
    }
    assert "another key has the name" in rows[0].sentences[0]


def test_one_bad_key_does_not_stop_the_others(
    shelf: store.Store, files: list[Path], tmp_path: Path
) -> None:
    """Each is tried; the report says which failed and why."""
    (tmp_path / "bad.pem").write_text(
        "-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----"
    )
    keys = [
        key(tmp_path / "missing", "a"),
        key(files[0], "b"),
        key(tmp_path / "bad.pem", "c"),
        key(files[1], "d"),
    ]
    rows = run(shelf, *keys)
    assert outcomes(rows) == [REFUSED, TAKEN, REFUSED, TAKEN]
    assert all(len(row.sentences) == 1 for row in rows if row.outcome is REFUSED)


def test_a_lineage_that_cannot_be_written_does_not_stop_the_others(
    shelf: store.Store, files: list[Path]
) -> None:
    """A folder that strangers may write is refused for its own keys only."""
    run(shelf, key(files[0], "a"))
    (shelf.directory / "example.com").chmod(0o777)
    rows = run(shelf, key(files[1], "b"), key(files[2], "a", "example.org"))
    assert outcomes(rows) == [REFUSED, TAKEN]


def test_a_keys_directory_that_cannot_be_used_is_one_error(
    tmp_path: Path, files: list[Path]
) -> None:
    """Not a row for each key."""
    with pytest.raises(errors.ConfigurationError) as caught:
        run(store.Store(tmp_path / "no" / "keys"), key(files[0]))
    assert not isinstance(caught.value, permission.WrongPermission)


def test_a_dry_run_says_the_same_and_changes_nothing(shelf: store.Store, files: list[Path]) -> None:
    """Clashes within the run included."""
    keys = [
        key(files[0], "a", signs=Signs.YES),
        key(files[1], "a"),
        key(files[0], "a"),
        key(files[2], "b"),
    ]
    dry = run(shelf, *keys, activate=True, dry_run=True)
    assert not shelf.directory.exists()
    wet = run(shelf, *keys, activate=True)
    assert dry == wet
    assert outcomes(wet) == [TAKEN, REFUSED, HERE, TAKEN]


def test_refusals_of_the_tables_are_rows_too(shelf: store.Store) -> None:
    """So that the report is complete."""
    report = take.take(
        shelf, Findings(refusals=(Refusal("table:7", "it is no entry."),)), at=NOW, why=""
    )
    assert [(row.source, row.sentences) for row in report.rows] == [
        ("table:7", ("it is no entry.",))
    ]
    assert not report.is_complete


def test_without_activate_nothing_signs(shelf: store.Store, files: list[Path]) -> None:
    """Whatever the tables say."""
    run(shelf, key(files[0], signs=Signs.YES))
    assert not active(shelf)


def test_what_signs_in_the_tables_takes_the_place_of_an_active_key(
    shelf: store.Store, files: list[Path]
) -> None:
    """The predecessor retires, its record stays."""
    run(shelf, key(files[0], "old"), activate=True)
    assert active(shelf) == ["old"]
    (row,) = run(shelf, key(files[1], "new", signs=Signs.YES), activate=True)
    assert active(shelf) == ["new"]
    assert row.is_activated
    assert "takes the place of old" in row.sentences[0]


def test_an_unknown_key_never_takes_the_place_of_an_active_one(
    shelf: store.Store, files: list[Path]
) -> None:
    """A loose file says nothing about who signs."""
    run(shelf, key(files[0], "old"), activate=True)
    (row,) = run(shelf, key(files[1], "new"), activate=True)
    assert active(shelf) == ["old"]
    assert not row.is_activated
    assert "old signs for example.com" in row.sentences[0]


def test_a_key_the_tables_do_not_sign_with_is_kept_only(
    shelf: store.Store, files: list[Path]
) -> None:
    """Even where nothing signs yet, and wherever it stands in the table."""
    run(
        shelf,
        key(files[0], "spare", signs=Signs.NO),
        key(files[1], "perhaps"),
        key(files[2], "real", signs=Signs.YES),
        key(files[3], "second", signs=Signs.YES),
        activate=True,
    )
    assert active(shelf) == ["real"]
    assert {one.stage for one in shelf.lineage("example.com").records} == {
        Stage.GENERATED,
        Stage.ACTIVE,
    }


def test_a_key_kept_before_is_activated_by_a_later_run(
    shelf: store.Store, files: list[Path]
) -> None:
    """First look, then switch."""
    found = key(files[0], signs=Signs.YES)
    run(shelf, found)
    (row,) = run(shelf, found, activate=True)
    assert (row.outcome, row.is_activated) == (HERE, True)
    assert active(shelf) == ["s"]
    (again,) = run(shelf, found, activate=True)
    assert not again.is_activated


def test_a_key_that_was_retired_here_is_not_brought_back(
    shelf: store.Store, files: list[Path]
) -> None:
    """The tables of yesterday do not undo the rotation of today."""
    old = key(files[0], "old", signs=Signs.YES)
    run(shelf, old, activate=True)
    run(shelf, key(files[1], "new", signs=Signs.YES), activate=True)
    (row,) = run(shelf, old, activate=True)
    assert active(shelf) == ["new"]
    assert "not activated" in row.sentences[0]


def test_the_keyring_signs_with_what_was_taken(shelf: store.Store, files: list[Path]) -> None:
    """Permissions and records are those the workers accept."""
    run(shelf, key(files[0], signs=Signs.YES), activate=True)
    assert set(keyring.load(shelf.directory).sdids) == {"example.com"}
