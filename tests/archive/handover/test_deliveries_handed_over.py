"""What the mail log told goes with the records: exported, checked, imported, proven."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import bundles, event_lines
from support.archive import Archive, build_recipient, build_record
from support.event_lines import active, attempt, build, change
from support.evidence import verified
from support.keeping import Keeper

from carbonseal.milter.archive import deliveries
from carbonseal.milter.archive.evidence import leaf
from carbonseal.milter.archive.handover import manifest

BOB, CAROL, COPY = "bob@partner.example", "carol@other.example", "archive@archive.example.net"
Lines = list[dict[str, Any]]


@pytest.fixture
def filled(archive: Archive) -> Archive:
    """Two records with their lines, a notification's among them, and one without."""
    both = [build_recipient(BOB), build_recipient(CAROL)]
    archive.put(
        *(build_record(number, queue_id=f"4XYZ{number}", recipients=both) for number in range(3)),
        *event_lines.delivered("4XYZ0", BOB, CAROL, COPY),
        build("4XYZ1", active(1.1), attempt(BOB, "bounced", 2.0)),
        build("4XYZ1", change("notified", 2.5, queue_id="4NOTE")),
        build("4NOTE", attempt("alice@example.com", seconds=3.0)),
        build("4NONE", active()),
    )
    archive.load()
    return archive


def said(archive: Archive) -> dict[str, Any]:
    with archive.engine.connect() as connection:
        return deliveries.lines(archive.search(), connection)


@pytest.mark.parametrize("name", ["bundle", "bundle.tar"])
def test_lines_come_through_with_their_records(filled: Archive, tmp_path: Path, name: str) -> None:
    """Into another archive, where they are proven anew; twice is once."""
    path = bundles.export(filled, tmp_path / name)
    assert bundles.findings(path) == []
    (tmp_path / "other").mkdir()
    other = Archive(tmp_path / "other")
    for _ in range(2):
        assert bundles.call(other, "import", str(path)).exit_code == 0
        other.load()
    assert said(other) == said(filled)
    assert other.rows("delivery_waiting") == 0
    assert verified(other) == []
    other.close()


def test_a_bundle_without_deliveries_has_no_file_of_them(archive: Archive, tmp_path: Path) -> None:
    """Nobody follows a log everywhere."""
    archive.fill(build_record(1))
    path = bundles.export(archive, tmp_path / "bundle")
    assert not (path / manifest.DELIVERIES).exists()
    assert bundles.findings(path) == []


def test_an_erased_person_is_unproven_and_the_rest_is_not(
    filled: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other facts of the line, and the line, stay provable; nothing of it can be imported."""
    monkeypatch.chdir(tmp_path)  # certificates go to the working directory
    Keeper(filled).run(f"erase {BOB} --apply --reason case-7")
    path = bundles.export(filled, tmp_path / "bundle")
    assert bundles.findings(path) == []
    assert BOB.encode() not in (path / manifest.DELIVERIES).read_bytes()
    assert any("unproven" in one["line"] for one in bundles.lines(path, manifest.DELIVERIES))


def _another_state(lines: Lines) -> None:
    next(fact for fact in lines[0]["line"]["facts"] if fact["kind"] == "attempt")["status"] = "sent"


def _another_record(lines: Lines) -> None:
    for one in lines[:3]:
        one["record_id"] = lines[-1]["record_id"]


def _another_queue_id(lines: Lines) -> None:
    lines[-1]["line"]["queue_id"] = "4XYZ1"


def _not_sealed(lines: Lines) -> None:
    lines[0]["proof"] = None


def _another_place(lines: Lines) -> None:
    lines[0]["proof"]["position"] += 1


def _said_to_be_unproven(lines: Lines) -> None:
    lines[0]["line"]["unproven"] = {"fact/0": {}}


def _no_line(lines: Lines) -> None:
    del lines[0]["line"]["facts"]


def _out_of_order(lines: Lines) -> None:
    lines.reverse()


FORGERIES = [
    _another_state,
    _another_record,
    _another_queue_id,
    _not_sealed,
    _another_place,
    _said_to_be_unproven,
    _no_line,
    _out_of_order,
]


@pytest.mark.parametrize("forge", FORGERIES)
def test_a_forged_line_is_named(
    filled: Archive, tmp_path: Path, forge: Callable[[Lines], None]
) -> None:
    """Even where the manifest was made to fit."""
    path = bundles.export(filled, tmp_path / "bundle")
    lines = bundles.lines(path, manifest.DELIVERIES)
    forge(lines)
    content = b"".join(leaf.canonical(one) + b"\n" for one in lines)
    (path / manifest.DELIVERIES).write_bytes(content)
    bundles.make_fit(path)
    assert any(manifest.DELIVERIES in one for one in bundles.findings(path))


def test_a_line_left_out_is_seen_in_the_manifest(filled: Archive, tmp_path: Path) -> None:
    """As every change of a file is."""
    path = bundles.export(filled, tmp_path / "bundle")
    file = path / manifest.DELIVERIES
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[1:]))
    assert bundles.findings(path) != []
