"""Usual lines that are loaded many at once leave what they would leave one by one."""

from __future__ import annotations

import random
import secrets
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.archive import Archive, build_record
from support.evidence import salted
from traffic import generator

from carbonseal.milter.archive import (
    batch,
    derive,
    dictionary,
    inserting,
    loader,
    open_segment,
    record,
    segments,
    usual_lines,
    writer,
)
from carbonseal.milter.archive.evidence.seal import Surveying
from carbonseal.milter.archive.usual_lines import Lines, Run

NAME = "01GNP5RRHK123SMMG37M6W5FTB-1"
TAKES_RUNS = inserting.can_read_packs() and usual_lines.making(frozenset()) is not None
needs_runs = pytest.mark.skipif(not TAKES_RUNS, reason="a helper is missing, or SQLite takes none")


def segment_of(directory: Path, octets: bytes, *, is_closed: bool = True) -> segments.Segment:
    suffix = open_segment.CLOSED_SUFFIX if is_closed else open_segment.OPEN_SUFFIX
    (directory / f"{NAME}{suffix}").write_bytes(octets)
    [segment] = segments.pending(directory)
    return segment


def lines_of(segment: segments.Segment) -> Lines:
    make = usual_lines.making(derive.INDEXED)
    assert make is not None
    return Lines(segment, 0, 0, None, make)


def kinds(lines: Lines, most: int = 100) -> list[int]:
    """How many usual lines came at once, or 0 for any other line."""
    found = []
    while (one := lines.next(most)) is not None:
        found.append(len(one.lines) if isinstance(one, Run) else 0)
    return found


def content_of(archive: Archive) -> dict[str, list[Any]]:
    """All rows of all tables, but for the times at which seals were made."""
    file = archive.database_url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(file)) as connection:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return {
            name: sorted(map(repr, connection.execute(f"SELECT * FROM {name}")))
            for (name,) in names
            if name not in ("seal", "stamp")
        }


@needs_runs
def test_a_run_ends_at_the_first_line_that_is_not_usual(tmp_path: Path) -> None:
    """That line comes by itself, and another run begins behind it."""
    lines = [record.encode(salted(number)) for number in range(5)]
    octets = b"".join([*lines[:3], b"rubbish\n", b"more\n", *lines[3:]])
    assert kinds(lines_of(segment_of(tmp_path, octets))) == [3, 0, 0, 2]
    assert kinds(lines_of(segment_of(tmp_path, octets)), most=2) == [2, 1, 0, 0, 2]


@needs_runs
def test_what_is_being_written_ends_an_open_segment(tmp_path: Path) -> None:
    """A line without its end, or room that nothing stands in, is no line yet."""
    line = record.encode(salted(1))
    for rest in (line[:-1], b"\0" * 5000, line[:9] + b"\0" * 9 + line[18:], b""):
        segment = segment_of(tmp_path, line + rest, is_closed=False)
        assert kinds(lines_of(segment)) == [1]
        segment.path.unlink()
    segment = segment_of(tmp_path, line + line[:-1])
    lines = lines_of(segment)
    assert isinstance(lines.next(9), Run)
    cut = lines.next(9)
    assert isinstance(cut, segments.Entry)
    assert cut.fault is not None
    assert lines.next(9) is None
    segment.path.unlink()
    assert lines_of(segment).next(9) is None  # it was moved away


@needs_runs
def test_a_run_says_what_its_lines_say_one_by_one(tmp_path: Path) -> None:
    """Entries, rows, what is refused and what is sealed, wherever a batch ends."""
    made = [record.encode(one) for one in generator.records(300)]
    made[40:40] = [b"rubbish\n", record.encode(salted(3))[:-9] + b"x\n"]
    segment = segment_of(tmp_path, b"".join(made))
    seen = Surveying()
    whole = batch.read(segment, segments.read(segment, 0), seen=seen)
    assert whole is not None
    survey = seen.survey(segment)
    for size in (1, 7, 100, 1000):
        lines, found, seen = lines_of(segment), [], Surveying()
        while (one := batch.read_runs(lines, size, seen=seen)) is not None:
            assert one.count == size or one.end == whole.entries[-1].end
            found.append(one)
        assert any(one.runs for one in found)
        assert seen.survey(segment) == survey
        assert seen.end == whole.entries[-1].end
        apart = [one.line_by_line() for one in found]
        assert [entry for one in apart for entry in one.entries] == whole.entries
        assert [arrival for one in apart for arrival in one.arrivals] == whole.arrivals
        assert [refused for one in apart for refused in one.refused] == whole.refused
        assert [one.end for one in found] == [one.entries[-1].end for one in apart]
        assert all(one.runs == [] for one in apart)


@needs_runs
@pytest.mark.parametrize("is_missing", ["making", "packs"])
def test_an_archive_is_the_same_with_and_without_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_missing: str
) -> None:
    """Every row of every table: what several segments brought in one transaction, and twice."""
    found = []
    lines = [record.encode(one) for one in generator.records(400)]
    lines[150:150] = [lines[3], b"rubbish\n", lines[20]]
    for is_with in (True, False):
        # In one order, from one source of chance: ids of addresses are random.
        chance = random.Random(5)
        monkeypatch.setattr(secrets, "token_bytes", chance.randbytes)
        known = dictionary._Known.of
        monkeypatch.setattr(
            dictionary._Known,
            "of",
            lambda self, values, of=known: of(self, sorted(values, key=repr)),
        )
        if not is_with and is_missing == "making":
            monkeypatch.setattr(usual_lines, "making", lambda indexed: None)
        if not is_with and is_missing == "packs":
            monkeypatch.setattr(inserting, "takes_packs", lambda connection: False)
        directory = tmp_path / str(is_with)
        directory.mkdir()
        archive = Archive(directory, f"sqlite:///{directory}/archive.db")
        archive.spool_directory.mkdir(exist_ok=True)
        for place in range(2):
            name = f"{NAME}{place}{open_segment.OPEN_SUFFIX}"
            (archive.spool_directory / name).write_bytes(b"".join(lines[place * 200 :][:210]))
        writer.run_once(archive.spool_directory, archive.database_url, report=archive.report)
        found.append(content_of(archive))
        monkeypatch.undo()
    assert found[0] == found[1]
    assert len(found[0]["message"]) == 400
    assert len(found[0]["repeated"]) == 12


@needs_runs
def test_what_is_left_of_a_run_goes_the_way_of_single_records(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record that cannot be gathered is loaded all the same, and counted once."""
    archive.put(*(build_record(number) for number in range(5)))
    packer: Any = loader._packer

    class Choosy:
        """Leaves the second of each five."""

        def __getattr__(self, name: str) -> Any:
            return getattr(packer, name)

        def add_run(self, run: Any, place: tuple[int, int], *more: Any) -> list[int]:
            segment_id, position = place
            for at in (0, 2, 3, 4):
                one = tuple(some[at : at + 1] for some in run)
                assert packer.add_run(one, (segment_id, position + at), *more) == []
            return [1]

    monkeypatch.setattr(loader, "_packer", Choosy())
    archive.load()
    assert archive.rows("message") == 5
    assert archive.rows("header_section") == 5
