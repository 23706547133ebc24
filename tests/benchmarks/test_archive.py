"""The benchmark of the archive works from end to end, so that it works when it is needed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console
from traffic import generator

from benchmarks import (
    archive,
    archive_engines,
    archive_filling,
    archive_measuring,
    archive_questions,
    archive_report,
)
from benchmarks.archive_filling import Material
from carbonseal.milter.archive import database

_COUNT = 1500
_TIMES = 4  # each query


_HALF = 1000


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[archive.Results]:
    """Loaded in two sittings, and measured in a third."""
    directory = tmp_path_factory.mktemp("archive")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archive_measuring, "TIMES", _TIMES)
        patch.setattr(generator, "PART", _HALF)
        for size in (_HALF, _COUNT):
            archive.Run(directory, _COUNT, copies=True).load("sqlite", size, is_last=True)
        archive.Run(directory, 1).measure("sqlite", [_HALF, _COUNT])
        return archive.Run(directory, 1).results()


@pytest.fixture(scope="module")
def run(runs: list[archive.Results]) -> archive.Results:
    return runs[-1]


def test_an_archive_grows_and_is_measured_at_each_size(runs: list[archive.Results]) -> None:
    """The copy of the smaller one is still what it was, and the larger one holds it."""
    assert [one["messages"] for one in runs] == [_HALF, _COUNT]
    assert [[step["until"] for step in one["loading"]["steps"]] for one in runs] == [
        [_HALF],
        [_HALF, _COUNT],
    ]
    assert runs[0]["octets"] < runs[1]["octets"]


@pytest.mark.parametrize("engine", ["postgresql", "mariadb"])
def test_a_server_that_is_kept_starts_again_with_its_data(engine: str) -> None:
    """From a copy as from where it was: loading and measuring are two steps."""
    with archive._directory(None) as directory:
        place, copy = directory / "kept", directory / "copy"
        place.mkdir()
        store = archive_engines.open_store(engine, place)
        try:
            written = database.writing_engine(store.url)
            database.upgrade(written)
            written.dispose()
            store.settle()
            tables = set(store.sizes())
            store.copy(copy)
        finally:
            store.close()
        store = archive_engines.open_store(engine, copy)
        try:
            assert set(store.sizes()) == tables
            assert "message" in tables
            assert archive_measuring.count(store.url) == 0
        finally:
            store.close()
        assert not list(copy.rglob("postmaster.pid"))


def test_every_record_arrives_and_every_question_is_answered(run: archive.Results) -> None:
    """A query that finds nothing at all was drawn wrongly, and would measure nothing."""
    loading = run["loading"]
    assert loading["alone_records"] + loading["busy_records"] == _COUNT
    assert loading["alone_per_second"] or loading["busy_per_second"]
    assert len(run["questions"]) == 25
    empty = {one["name"] for one in run["questions"] if not one["found"]}
    # Of 1,500 messages, few are what is asked for in four questions of each kind.
    assert len(empty) < 8, empty
    assert all(one["times"] + one["disturbed"] >= _TIMES for one in run["questions"])


def test_every_octet_is_accounted_for(run: archive.Results) -> None:
    by_table = sum(run["octets_by_table"].values())
    assert 0.9 * run["octets"] <= by_table <= run["octets"]


def test_the_report_shows_what_was_found(run: archive.Results, tmp_path: Path) -> None:
    """With two sizes of one engine and one of another, added to a report that is there."""
    larger = run | {"messages": 1_000_000, "octets": 1_400_000_000}
    other = run | {"engine": "postgresql"}
    results = {"machine": {"cores": 2}, "runs": [run, other]}
    (tmp_path / "archive.json").write_text(json.dumps(results))
    results = archive_report.added(results | {"runs": [larger]}, tmp_path)
    assert [one["messages"] for one in results["runs"]] == [_COUNT, _COUNT, 1_000_000]
    goals = archive_report.judge(results)
    assert [one.found for one in goals if "octets" in one.figure] == [1400]
    assert [one.found for one in goals if "growth" in one.figure] == [1]
    console = Console(width=150, record=True)
    archive_report.show(results, console)
    assert "subject, rare word" in console.export_text()


def test_the_same_questions_are_asked_each_time() -> None:
    names = [f"{number}@example.com" for number in range(50)]
    question = archive_questions.Question(
        "q", "look-up", lambda rng: rng.choice(names), lambda *_: int
    )
    asked = list(archive_questions.asked(question, 20))
    assert asked == list(archive_questions.asked(question, 20))
    assert len(set(asked)) > 10


def test_loading_that_was_stopped_gets_no_segment_twice(tmp_path: Path) -> None:
    """Neither one that waits in the spool nor one that was loaded."""
    material = Material(tmp_path / "segments", _COUNT)
    made, target = material.directory / "00000", tmp_path / "spool"
    made.mkdir()
    (target / "loaded").mkdir(parents=True)
    for name in ("a.jsonl", "b.jsonl", "c.jsonl"):
        (made / name).write_text(name)
    material.link(0, _COUNT, target)
    (target / "a.jsonl").rename(target / "loaded/a.jsonl")
    (target / "c.jsonl").unlink()  # as if it was stopped before that
    material.link(0, _COUNT, target)
    assert sorted(path.name for path in target.glob("*.jsonl")) == ["b.jsonl", "c.jsonl"]
    material.forget(0, _COUNT)
    assert not made.exists()


def test_small_archives_are_the_beginning_of_large_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that growth is that of one archive; their samples are of their own records only."""
    monkeypatch.setattr(generator, "PART", 40)
    monkeypatch.setattr(archive_filling, "_SAMPLES", 20)
    archive_filling._world.cache_clear()
    material = Material(tmp_path, 100)
    for first, last in ((0, 40), (40, 80), (80, 100)):
        material.make(first, last)
    everything = [one["record_id"] for one in generator.records(100)]
    for count in (40, 80, 100):
        drawn = [one["record_id"] for one in material.samples(count)]
        assert 10 <= len(drawn) <= 25
        assert set(drawn) <= set(everything[:count])
        assert drawn[-1] in everything[count - 25 :]
