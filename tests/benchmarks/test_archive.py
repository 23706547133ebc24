"""The benchmark of the archive works from end to end, so that it works when it is needed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import archive, archive_questions, archive_report
from benchmarks.archive_filling import Material

_COUNT = 1500
_TIMES = 4  # each query


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> archive.Results:
    directory = tmp_path_factory.mktemp("archive")
    material = Material(directory / "segments", _COUNT, is_kept=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archive, "_TIMES", _TIMES)
        return archive._run("sqlite", material, directory)


def test_every_record_arrives_and_every_question_is_answered(run: archive.Results) -> None:
    """A query that finds nothing at all was drawn wrongly, and would measure nothing."""
    assert run["loading"]["records_per_second"] > 0
    assert len(run["questions"]) == 25
    empty = {one["name"] for one in run["questions"] if not one["found"]}
    # Of 1,500 messages, few are what is asked for in four questions of each kind.
    assert len(empty) < 8, empty
    assert all(one["times"] == _TIMES for one in run["questions"])


def test_every_octet_is_accounted_for(run: archive.Results) -> None:
    by_table = sum(run["octets_by_table"].values())
    assert 0.9 * run["octets"] <= by_table <= run["octets"]


def test_the_report_shows_what_was_found(run: archive.Results, tmp_path: Path) -> None:
    """With two sizes, as the whole benchmark has them, and added to a report that is there."""
    larger = run | {"messages": 1_000_000, "octets": 1_400_000_000}
    results = {"machine": {"cores": 2}, "runs": [run]}
    (tmp_path / "archive.json").write_text(json.dumps(results))
    results = archive_report.added(results | {"runs": [larger]}, tmp_path)
    assert [one["messages"] for one in results["runs"]] == [_COUNT, 1_000_000]
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
    material = Material(tmp_path / "segments", _COUNT, is_kept=False)
    made, target = material.directory / "0000", tmp_path / "spool"
    made.mkdir()
    (target / "loaded").mkdir(parents=True)
    for name in ("a.jsonl", "b.jsonl", "c.jsonl"):
        (made / name).write_text(name)
    material.link(0, target)
    (target / "a.jsonl").rename(target / "loaded/a.jsonl")
    (target / "c.jsonl").unlink()  # as if it was stopped before that
    material.link(0, target)
    assert sorted(path.name for path in target.glob("*.jsonl")) == ["b.jsonl", "c.jsonl"]
    material.forget(0)
    assert not made.exists()
