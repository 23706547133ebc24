"""What waits in the spool: exact where it can be, an estimate where reading would take too long."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.archive import build_record

from carbonseal.milter.archive import record, segments, writer
from carbonseal.milter.archive.spool import Spool
from carbonseal.milter.status import spool_depth, state_files, writer_report
from carbonseal.milter.status.spool_depth import SpoolDepth


@pytest.fixture(params=[False, True], ids=["without-room", "with-room"])
def opened(request: pytest.FixtureRequest) -> Callable[..., Spool]:
    """A spool as the follower opens it, and as a worker does."""
    return functools.partial(Spool, has_room=request.param)


def put(spool: Spool, count: int, *, made_at: float | None = None) -> None:
    moment = time.time() if made_at is None else made_at
    for _ in range(count):
        record_id = record.new_record_id(int(moment * 1000))
        spool.put(record.encode(build_record(record_id=record_id)))


def test_open_and_closed_segments_are_counted_and_the_oldest_record_is_found(
    tmp_path: Path, opened: Callable[..., Spool]
) -> None:
    """Looking again reads only what is new."""
    now = time.time()
    depth = SpoolDepth(tmp_path)
    first, second = opened(tmp_path), opened(tmp_path, clock=lambda: now - 50)
    put(first, 3, made_at=now)
    put(second, 4, made_at=now - 50)
    found = depth.look({})
    assert (found.segments, found.records) == (2, 7)
    assert found.lag(now) == pytest.approx(50, abs=0.01)
    assert found.octets == sum(one.path.stat().st_size for one in segments.pending(tmp_path))
    first.close()
    put(second, 2, made_at=now)
    found = depth.look({})
    assert (found.segments, found.records) == (2, 9)


def test_what_the_writer_has_loaded_does_not_wait(
    tmp_path: Path, opened: Callable[..., Spool]
) -> None:
    """Its own word says how far it is, within an open segment too."""
    now = time.time()
    spool = opened(tmp_path, clock=lambda: now - 100)
    put(spool, 5, made_at=now - 100)
    [segment] = segments.pending(tmp_path)
    size = segments.end_of(segment.path)
    depth = SpoolDepth(tmp_path)
    assert depth.look({segment.name: (size, 5)}).oldest is None
    put(spool, 2, made_at=now - 10)
    found = depth.look({segment.name: (size, 5)})
    assert found.records == 2
    assert found.lag(now) == pytest.approx(10, abs=0.01)


def test_what_is_loaded_need_not_be_read_to_count_what_waits(
    tmp_path: Path, opened: Callable[..., Spool]
) -> None:
    """A relay writes megabytes a second, and most are loaded when somebody looks."""
    spool = opened(tmp_path)
    put(spool, 5)
    [segment] = segments.pending(tmp_path)
    size = segments.end_of(segment.path)
    put(spool, 2)
    with segment.path.open("r+b") as stream:
        stream.write(b"\n" * (size - 1))  # whoever counts there counts too many
    depth = SpoolDepth(tmp_path)
    assert depth.look({segment.name: (size, 5)}).records == 2
    put(spool, 1)
    # An archive may come back from a copy, and know of less than was said before.
    assert depth.look({segment.name: (0, 0)}).records == 8


def test_lines_of_any_length_are_counted(tmp_path: Path) -> None:
    """Wherever a read ends."""
    content = b"".join(b"x" * length + b"\n" for length in (0, 0, 65535, 1, 65534, 131072, 0, 7))
    (tmp_path / "01ARZ3NDEKTSV4RRFFQ69G5FAV-1.open.jsonl").write_bytes(content + b"torn")
    assert SpoolDepth(tmp_path).look({}).records == content.count(b"\n")


def test_the_real_writer_says_how_far_it_is(tmp_path: Path, opened: Callable[..., Spool]) -> None:
    """After a run nothing waits; a footer that nobody has read is no record."""
    spool = opened(tmp_path)
    put(spool, 5)
    count = writer.run_once(tmp_path, f"sqlite:///{tmp_path}/a.db", report=lambda *_, **__: None)
    said = state_files.read(tmp_path, writer_report.NAME)
    assert said is not None
    assert (count, said["loaded"], said["trouble"]) == (5, 5, None)
    depth = SpoolDepth(tmp_path)
    assert depth.look(writer_report.said(said)).records == 0
    spool.close()
    assert depth.look(writer_report.said(said)).records == 0


def test_a_look_reads_no_more_than_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backlog of gigabytes must not keep the status process from answering."""
    for spool in (Spool(tmp_path), Spool(tmp_path)):
        put(spool, 100)
    size = sum(one.path.stat().st_size for one in segments.pending(tmp_path))
    monkeypatch.setattr(spool_depth, "MOST_READ", size // 4)
    depth = SpoolDepth(tmp_path)
    depth.look({})
    assert sum(one.octets for one in depth._counted.values()) == size // 4
    for _ in range(4):
        found = depth.look({})
    assert found.records == 200


def test_an_empty_spool_and_litter(tmp_path: Path) -> None:
    """What is no segment is not counted, and a name without a time does not stop the look."""
    depth = SpoolDepth(tmp_path)
    assert depth.look({}) == spool_depth.Depth(0, 0, 0, None)
    (tmp_path / "what.txt").write_text("litter")
    (tmp_path / "no-time.jsonl").write_bytes(b"{}\n")
    assert depth.look({}).segments == 1


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{", id="torn"),
        pytest.param(b"[1]", id="no-object"),
        pytest.param(b'{"at": "now"}', id="no-time"),
        pytest.param(b"[" * 100_000, id="nested-deeply"),
        pytest.param(b'{"at": 1, "x": "' + b"x" * state_files.MAX_FILE + b'"}', id="too-large"),
        pytest.param(b'{"at": 1, "x": "\xff"}', id="no-utf-8"),
    ],
)
def test_a_state_that_makes_no_sense_is_as_good_as_none(content: bytes, tmp_path: Path) -> None:
    """Other processes, of other versions, write there."""
    assert state_files.write(tmp_path, "x", {})
    (tmp_path / "state/x.json").write_bytes(content)
    assert state_files.read(tmp_path, "x") is None
    assert state_files.exists(tmp_path, "x")


def test_a_state_is_replaced_whole_and_its_folder_says_who_may_read(tmp_path: Path) -> None:
    """And a place that cannot be written is no reason to raise."""
    spool = tmp_path / "spool"
    spool.mkdir()
    spool.chmod(0o2770)
    assert state_files.write(spool, "x", {"a": 1}, now=5.0)
    assert state_files.read(spool, "x") == {"at": 5.0, "a": 1}
    assert (spool / "state").stat().st_mode & 0o7777 == 0o2770
    assert (spool / "state/x.json").stat().st_mode & 0o777 == 0o644
    assert [path.name for path in (spool / "state").iterdir()] == ["x.json"]
    assert not state_files.write(tmp_path / "nowhere", "x", {})
    (tmp_path / "state").write_text("no folder")
    assert not state_files.write(tmp_path, "x", {})


@pytest.mark.parametrize("said", [{}, {"progress": 5}, {"progress": {"a": [1], "b": ["x", 2]}}])
def test_progress_that_makes_no_sense_is_left_out(said: dict[str, object]) -> None:
    """Then all counts as waiting."""
    assert writer_report.said(said) == {}
