"""From the spool to SQL: every record once, whatever happens."""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.archive import Archive, build_recipient, build_record
from support.waiting import wait_until

from carbonseal.milter.archive import (
    database,
    inserting,
    loader,
    record,
    segments,
    servers,
    spool,
    spool_line,
    usual_rows,
    writer,
)
from carbonseal.milter.archive.batch import Batch
from carbonseal.milter.archive.loader import Arrival
from carbonseal.milter.archive.writing import known_archive, passes, spool_lock
from carbonseal.milter.archive.writing.committing import Committing
from carbonseal.policies.errors import TryLater

PATIENCE = 60.0


@contextmanager
def writing(archive: Archive) -> Iterator[threading.Event]:
    """The writer's loop in a thread; stopped and joined at the end."""
    stop = threading.Event()

    def run() -> None:
        writer.run(archive.spool_directory, archive.database_url, stop=stop, report=archive.report)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def wait_for(condition: Callable[[], bool]) -> None:
    wait_until(condition, "what the writer should do", PATIENCE)


def stored(archive: Archive) -> int:
    """Records in the database, by a connection of its own."""
    if not archive.file.exists():
        return 0
    place = f"file:{archive.file}?mode=ro"
    with closing(sqlite3.connect(place, uri=True, timeout=PATIENCE)) as connection:
        try:
            return int(connection.execute("SELECT count(*) FROM message").fetchone()[0])
        except sqlite3.OperationalError:
            return 0


def said(archive: Archive, event: str) -> list[dict[str, Any]]:
    return [facts for name, facts in archive.events if name == event]


def test_a_closed_segment_is_loaded_and_moved_away(archive: Archive) -> None:
    """What was loaded is kept under loaded/, and the database knows how much that was."""
    archive.put(*(build_record(number) for number in range(5)))
    assert archive.load() == 5
    assert segments.pending(archive.spool_directory) == []
    [kept] = (archive.spool_directory / segments.LOADED).iterdir()
    footer = json.loads(kept.read_bytes().splitlines()[-1])["footer"]
    with archive.engine.connect() as connection:
        row = connection.exec_driver_sql("SELECT * FROM segment").mappings().one()
    assert (row["name"], row["lines"], row["records"]) == (footer["segment"], 5, 5)
    assert (row["relay"], row["refused"], row["is_complete"]) == ("mx1.example.com", 0, True)


def test_an_open_segment_is_read_as_it_grows(archive: Archive) -> None:
    """Records are found before their segment is closed, and only once after it is."""
    segment = archive.put(build_record(1), is_closed=False)
    assert archive.load() == 1
    segment.put(record.encode(build_record(2)))
    assert archive.load() == 1
    segment.close()
    assert archive.load() == 0
    assert archive.rows("message") == 2
    assert segments.pending(archive.spool_directory) == []


@pytest.mark.parametrize("copies", [2, 3])
def test_a_record_written_twice_is_stored_once(archive: Archive, copies: int) -> None:
    """The milter may record twice rather than not at all; the archive counts once."""
    content = build_record(1)
    archive.put(*[content] * copies)
    archive.put(content, build_record(2))
    archive.load()
    assert archive.rows("message") == 2
    assert archive.rows("repeated") == copies
    assert archive.rows("set_aside") == 0
    assert archive.show(content["record_id"]) == content


def test_a_segment_that_comes_back_changes_nothing(archive: Archive) -> None:
    """If the move to loaded/ is lost in a crash, loading again is harmless."""
    archive.put(*(build_record(number) for number in range(3)))
    archive.load()
    [kept] = (archive.spool_directory / segments.LOADED).iterdir()
    kept.rename(archive.spool_directory / kept.name)
    assert archive.load() == 0
    assert archive.rows("message") == 3


def test_segments_rebuild_a_lost_database(archive: Archive) -> None:
    """The kept segments are enough to make the archive again."""
    contents = [build_record(number) for number in range(4)]
    archive.fill(*contents)
    archive.begin_anew()
    assert archive.load() == 4
    assert [archive.show(one["record_id"]) for one in contents] == contents


def broken_line(content: dict[str, Any]) -> bytes:
    return record.encode(content).replace(b"alice", b"mallo", 1)


def sealed(body: bytes) -> bytes:
    """A line with a right checksum, whatever its content."""
    return b'%b,"crc32":"%08x"}\n' % (body, zlib.crc32(body))


POISON = [
    pytest.param(broken_line(build_record(1)), "checksum", id="checksum"),
    pytest.param(record.encode(build_record(1, crossing="sideways")), "sideways", id="crossing"),
    pytest.param(record.encode({"v": 1}), "lacks", id="no-record"),
    pytest.param(record.encode(build_record(1, reasons=1.5)), "no list of texts", id="reasons"),
    pytest.param(
        record.encode(build_record(1)).replace(b'"}\n', b'"]\n'), "no checksum", id="damaged-end"
    ),
    pytest.param(b"\n", "no checksum", id="empty-line"),
    pytest.param(sealed(b'{"v":' + b"[" * 50_000 + b"]" * 50_000), "nested", id="nested"),
]


@pytest.mark.parametrize(("line", "why"), POISON)
def test_a_bad_line_is_set_aside_and_the_others_go_on(
    archive: Archive, line: bytes, why: str
) -> None:
    """One poisoned record costs itself only, and is kept with its reason."""
    good = [record.encode(build_record(number)) for number in range(2, 6)]
    path = archive.put_lines(*good[:2], line, *good[2:])
    assert archive.load() == 4
    [aside] = (archive.spool_directory / segments.SET_ASIDE).iterdir()
    kept = json.loads(aside.read_bytes())
    assert kept["line"].encode() == line
    assert kept["segment"] == path.name.removesuffix(".jsonl")
    assert why in kept["why"]
    assert archive.rows("set_aside") == 1
    assert len(said(archive, "record-set-aside")) == 1


def test_a_record_that_the_database_refuses_is_found_by_halving(archive: Archive) -> None:
    """Where only the database can tell, the batch is halved until the bad record stands alone."""
    archive.fill(build_record(0))
    with sqlite3.connect(archive.file) as connection:
        connection.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON message WHEN NEW.queue_id = '4XYZ37'"
            " BEGIN SELECT RAISE(ABORT, 'refused for the test'); END"
        )
    # Each with an address of its own: what a refused batch learned of them must be forgotten.
    contents = [
        build_record(number, recipients=[build_recipient(f"b{number}@d{number}.example")])
        for number in range(1, 101)
    ]
    archive.put(*contents)
    assert archive.load() == 99
    [aside] = (archive.spool_directory / segments.SET_ASIDE).iterdir()
    assert "refused for the test" in json.loads(aside.read_bytes())["why"]
    assert archive.search(queue_id="4XYZ37") == []
    for content in contents[:36] + contents[37:]:
        assert archive.show(content["record_id"]) == content


def test_a_torn_line_counts_as_nothing(archive: Archive) -> None:
    """A write that was cut short was never acknowledged: it is neither loaded nor set aside."""
    line = record.encode(build_record(1))
    archive.put_lines(line[:50] + b"~\n", record.encode(build_record(2)))
    assert archive.load() == 1
    assert not (archive.spool_directory / segments.SET_ASIDE).exists()


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo], ids=["directory", "fifo"])
def test_what_is_no_file_is_no_segment(archive: Archive, make: Callable[[Path], None]) -> None:
    """Nothing in the spool directory makes the writer wait for ever."""
    make(archive.spool_directory / "00000000000000000000000000-1.jsonl")
    archive.put(build_record(1))
    assert archive.load() == 1


def test_a_segment_that_cannot_be_read_does_not_hold_up_the_others(archive: Archive) -> None:
    """The operator is told, and what comes after it can be searched meanwhile."""
    bad = archive.spool_directory / "00000000000000000000000000-1.jsonl"
    bad.write_bytes(record.encode(build_record(1)))
    (archive.spool_directory / "loaded" / bad.name).mkdir(parents=True)  # no file can go there
    archive.put(build_record(2))
    with pytest.raises(TryLater, match=r"mend the file system"):
        archive.load()
    assert archive.rows("message") == 2
    assert segments.pending(archive.spool_directory) == [segments.Segment(bad.stem, bad, True)]


def test_the_cut_end_of_a_closed_segment_is_set_aside(archive: Archive) -> None:
    """A broken copy or disk: what is left of the last line is evidence, and an operator must know.

    In a closed segment each line was acknowledged.
    """
    whole, cut = (record.encode(build_record(number)) for number in (1, 2))
    path = archive.put_lines(whole, cut[:-5])
    assert archive.load() == 1
    [aside] = (archive.spool_directory / segments.SET_ASIDE).iterdir()
    assert json.loads(aside.read_bytes())["line"].encode() == cut[:-5]
    assert len(said(archive, "record-set-aside")) == 1
    assert "without footer" in said(archive, "segment-loaded")[0]["problem"]
    assert segments.pending(archive.spool_directory) == []
    path.write_bytes(whole + cut)  # a better copy is found
    assert archive.load() == 1
    assert archive.rows("message") == 2


def test_a_locked_database_is_waited_for(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another program holds the database nothing is lost; it is said once, and once more."""
    monkeypatch.setattr(database, "_BUSY_SECONDS", 0.05)
    archive.fill(build_record(0))
    holder = sqlite3.connect(archive.file, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with writing(archive):
        archive.put(*(build_record(number) for number in range(1, 51)))
        wait_for(lambda: bool(said(archive, "database-waits")))
        archive.put(*(build_record(number) for number in range(51, 101)))
        assert not said(archive, "database-serves-again")
        holder.execute("ROLLBACK")
        wait_for(lambda: stored(archive) == 101)
        wait_for(lambda: bool(said(archive, "database-serves-again")))
    holder.close()
    assert len(said(archive, "database-waits")) == 1
    assert "locked" in said(archive, "database-waits")[0]["problem"]


def test_a_missing_directory_is_waited_for(tmp_path: Path) -> None:
    """The database's directory may appear later, on a mount for instance."""
    archive = Archive(tmp_path)
    archive.file = tmp_path / "later" / "archive.db"
    archive.database_url = f"sqlite:///{archive.file}"
    archive.put(build_record(1))
    with writing(archive):
        wait_for(lambda: bool(said(archive, "database-waits")))
        archive.file.parent.mkdir()
        wait_for(lambda: stored(archive) == 1)
    assert str(archive.file.parent) in said(archive, "database-waits")[0]["problem"]


def test_a_database_that_is_removed_is_waited_for(archive: Archive) -> None:
    """The writer neither goes on writing into a file that nobody can open, nor makes another one.

    Once the mark is removed it does, and what the removed file held comes again from spool/loaded,
    also what went into it at the last.
    """
    with writing(archive):
        archive.put(build_record(1))
        wait_for(lambda: stored(archive) == 1)
        archive.lose()
        archive.put(build_record(2))
        wait_for(lambda: bool(said(archive, "archive-lost")))
        assert not archive.file.exists()
        [mark] = archive.spool_directory.glob(known_archive.MARK)
        assert str(mark) in said(archive, "archive-lost")[0]["problem"]
        mark.unlink()
        wait_for(lambda: stored(archive) == 2)
    assert archive.search(queue_id="4XYZ1")
    assert archive.search(queue_id="4XYZ2")


def test_a_log_that_is_removed_hides_nothing(archive: Archive) -> None:
    """Records are found though somebody removed the write-ahead log under the writer."""
    with writing(archive):
        archive.put(build_record(1))
        wait_for(lambda: stored(archive) == 1)
        for path in archive.file.parent.glob("archive.db-*"):
            path.unlink()
        archive.put(build_record(2))
        wait_for(lambda: stored(archive) == 2)
    assert archive.search(queue_id="4XYZ1")
    assert archive.search(queue_id="4XYZ2")


def test_what_is_in_the_spool_at_the_stop_is_still_loaded(archive: Archive) -> None:
    """A stop takes the records along that were sealed before it."""
    with writing(archive) as stop:
        archive.put(*(build_record(number) for number in range(20)))
        stop.set()
    assert stored(archive) == 20


@pytest.mark.parametrize(
    ("count", "wait"),
    [
        pytest.param(0, writer._POLL_SECONDS, id="nothing-came"),
        pytest.param(1, 0.0, id="a-record-came"),
        pytest.param(writer._MUCH, writer._GATHER_SECONDS, id="much-came"),
        pytest.param(passes.BATCH + 1, writer._GATHER_SECONDS, id="more-than-a-batch-came"),
    ],
)
def test_records_are_gathered_only_while_many_come(
    archive: Archive, count: int, wait: float
) -> None:
    """What came is loaded in any case; how much it was decides when the writer looks again."""
    archive.put(*(build_record(number) for number in range(count)))
    loading = writer.Writer(archive.spool_directory, archive.database_url, archive.report)
    try:
        assert loading.advance(threading.Event()) == wait
    finally:
        loading.close()
    assert archive.rows("message") == count


@pytest.fixture
def loading(archive: Archive) -> Iterator[writer.Writer]:
    found = writer.Writer(archive.spool_directory, archive.database_url, archive.report)
    yield found
    found.close()


def how_many(arrivals: Sequence[Arrival], *more: Any) -> int:
    """Records that `load_counting` is given, one by one and in runs."""
    *_, runs = more
    return len(arrivals) + sum(len(run.rows) for run in runs)


@pytest.fixture
def batches_loaded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many records there were in each transaction that was tried."""
    found: list[int] = []
    load = loader.load_counting

    def counted(arrivals: Sequence[Arrival], *more: Any) -> Any:
        found.append(how_many(arrivals, *more))
        return load(arrivals, *more)

    monkeypatch.setattr(loader, "load_counting", counted)
    return found


def put_open(archive: Archive, *counts: int, start: int = 0) -> list[spool.Spool]:
    """Open segments with so many records each."""
    spools = []
    for count in counts:
        records = [build_record(number) for number in range(start, start + count)]
        spools.append(archive.put(*records, is_closed=False))
        start += count
    return spools


def test_what_open_segments_have_gained_comes_in_one_transaction(
    archive: Archive, loading: writer.Writer, batches_loaded: list[int]
) -> None:
    """Several workers at work cost one commit, and each of their segments is loaded to its end."""
    spools = put_open(archive, 3, 2, 4)
    loading.advance(threading.Event())
    assert batches_loaded == [9]
    for number, one in enumerate(spools):
        one.put(record.encode(build_record(20 + number)))
    loading.advance(threading.Event())
    assert batches_loaded == [9, 3]
    assert archive.rows("message") == 12
    for one in spools:
        one.close()
    archive.load()
    assert archive.rows("message") == 12
    assert archive.rows("seal") == 3


def test_more_than_one_transaction_takes_comes_in_several(
    archive: Archive,
    loading: writer.Writer,
    batches_loaded: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The memory of the writer does not hang on how far it is behind."""
    monkeypatch.setattr(passes, "TOGETHER", 6)
    spools = put_open(archive, 5, 2, 1)
    loading.advance(threading.Event())
    assert max(batches_loaded) <= 6
    assert archive.rows("message") == 8
    for one in spools:
        one.close()


@pytest.mark.parametrize(
    "counts",
    [
        pytest.param((20, 2), id="one-has-gained-more"),
        pytest.param((20, 20, 2), id="two-have-gained-more"),
    ],
)
def test_one_pass_loads_open_segments_to_their_ends(
    archive: Archive,
    loading: writer.Writer,
    monkeypatch: pytest.MonkeyPatch,
    counts: tuple[int, ...],
) -> None:
    """What is in the spool when the writer ends, or is told to load once, is loaded by then."""
    monkeypatch.setattr(passes, "TOGETHER", 6)
    spools = put_open(archive, *counts)
    loading.load_all()
    assert archive.rows("message") == sum(counts)
    for one in spools:
        one.close()


def test_one_pass_sets_aside_what_comes_late_in_an_open_segment(
    archive: Archive, loading: writer.Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line that is no record, behind the first transaction, is met in the same pass."""
    monkeypatch.setattr(passes, "TOGETHER", 6)
    spools = put_open(archive, 4, 4)
    spools[0].put(record.encode(build_record(9, crossing="sideways")))
    spools[0].put(record.encode(build_record(10)))
    loading.load_all()
    assert archive.rows("message") == 9
    assert len(said(archive, "record-set-aside")) == 1
    for one in spools:
        one.close()


def test_a_line_that_is_no_record_keeps_no_other_segment_waiting(
    archive: Archive, loading: writer.Writer
) -> None:
    """It is set aside, once, and what others have gained is loaded as ever."""
    spools = put_open(archive, 2, 2)
    spools[0].put(record.encode(build_record(9, crossing="sideways")))
    loading.advance(threading.Event())
    assert archive.rows("message") == 4
    assert len(said(archive, "record-set-aside")) == 1
    for one in spools:
        one.close()


def test_a_record_that_the_database_refuses_is_found_among_open_segments(
    archive: Archive, loading: writer.Writer
) -> None:
    """It costs itself only, not what came with it in one transaction."""
    archive.fill(build_record(0))
    with sqlite3.connect(archive.file) as connection:
        connection.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON message WHEN NEW.queue_id = '4XYZ3'"
            " BEGIN SELECT RAISE(ABORT, 'refused for the test'); END"
        )
    spools = put_open(archive, 4, 4, start=1)
    loading.advance(threading.Event())
    assert archive.rows("message") == 8
    assert len(said(archive, "record-set-aside")) == 1
    for one in spools:
        one.close()


def test_what_is_too_much_for_one_transaction_is_loaded_in_smaller_ones(
    archive: Archive, loading: writer.Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that is too slow for all open segments at once gets one at a time."""
    load = loader.load_counting

    def slow(arrivals: Sequence[Arrival], *more: Any) -> Any:
        if how_many(arrivals, *more) > 3:
            raise servers.NoAnswer("no answer for 60 s")
        return load(arrivals, *more)

    monkeypatch.setattr(loader, "load_counting", slow)
    spools = put_open(archive, 3, 3)
    loading.advance(threading.Event())
    assert len(said(archive, "database-waits")) == 1
    loading.advance(threading.Event())
    assert archive.rows("message") == 6
    assert len(said(archive, "database-serves-again")) == 1
    for one in spools:
        one.close()


@pytest.fixture
def without_collector() -> Iterator[None]:
    """Nothing looks for cycles but the writer itself."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def batches_held() -> int:
    return sum(isinstance(one, Batch) for one in gc.get_objects())


@pytest.mark.usefixtures("without_collector")
def test_a_database_that_takes_nothing_does_not_fill_the_memory(
    archive: Archive, loading: writer.Writer
) -> None:
    """What was read for a transaction that failed is let go of before it is read again."""
    archive.fill(build_record(0))
    with sqlite3.connect(archive.file) as connection:
        connection.execute("ALTER TABLE header_section RENAME TO elsewhere")
    spools = put_open(archive, 2, 2, start=1)
    before = batches_held()
    for _ in range(5):
        loading.advance(threading.Event())
    assert batches_held() - before <= len(spools)
    assert archive.rows("message") == 1
    for one in spools:
        one.close()


@pytest.mark.usefixtures("without_collector")
def test_records_that_the_database_refuses_do_not_fill_the_memory(
    archive: Archive, loading: writer.Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a long segment in which it refuses many, no batch is held that is done with."""
    monkeypatch.setattr(passes, "BATCH", 4)
    archive.fill(build_record(0))
    with sqlite3.connect(archive.file) as connection:
        connection.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON message WHEN NEW.queue_id LIKE '4XYZ%2'"
            " BEGIN SELECT RAISE(ABORT, 'refused for the test'); END"
        )
    held: list[int] = []
    commit = Committing.commit

    def counted(self: Committing, batch: Batch, *more: Any) -> None:
        held.append(batches_held())
        commit(self, batch, *more)

    archive.put(*(build_record(number) for number in range(1, 101)), is_closed=False)
    monkeypatch.setattr(Committing, "commit", counted)
    loading.advance(threading.Event())
    assert archive.rows("message") == 91
    assert max(held) <= 8  # the batch, the next one, and halves


def test_a_segment_that_has_moved_is_loaded_from_where_it_is(
    archive: Archive, loading: writer.Writer
) -> None:
    """What a commit brought whose answer was lost comes neither twice nor not at all."""
    spools = put_open(archive, 2, 2)
    loading.advance(threading.Event())
    assert loading._passes is not None
    remembered = loading._passes._under_way.progress
    before = dict(remembered)
    spools[0].put(record.encode(build_record(8)))
    loading.advance(threading.Event())
    remembered.update(before)
    spools[1].put(record.encode(build_record(9)))
    loading.advance(threading.Event())
    assert archive.rows("message") == 6
    assert archive.rows("repeated") == 0
    for one in spools:
        one.close()


@pytest.mark.parametrize(
    ("place", "name", "missing"),
    [
        pytest.param(spool_line, "COMPILED", "_spool_line", id="lines"),
        pytest.param(usual_rows, "COMPILED", "_usual_rows", id="rows"),
        pytest.param(loader, "COMPILED", "_loading", id="packs"),
        pytest.param(inserting, "READER", "_many_rows", id="built-without-the-header"),
    ],
)
def test_a_writer_says_once_which_helper_it_does_without(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, place: Any, name: str, missing: str
) -> None:
    """An administrator can tell a slow build from a slow disk."""
    monkeypatch.setattr(place, name, None)
    with writing(archive):
        archive.put(build_record(1))
        wait_for(lambda: stored(archive) == 1)
    [facts] = said(archive, "writer-without-helper")
    assert missing in facts["missing"].split()


@pytest.mark.skipif(not inserting.can_read_packs(), reason="no SQLite that takes extensions")
def test_only_an_sqlite_that_refuses_extensions_wants_for_them(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The helper may be there and of no use; a server has no use for it."""
    assert writer.missing_helpers(archive.database_url) == []
    monkeypatch.setattr(inserting, "READER", __file__)  # it is no library
    assert writer.missing_helpers(archive.database_url) == ["_many_rows"]
    assert writer.missing_helpers("postgresql+psycopg:///carbonseal") == []


def test_one_writer_at_a_time(archive: Archive) -> None:
    """A second writer on the same spool is refused with a sentence."""
    with writing(archive):
        archive.put(build_record(1))
        wait_for(lambda: stored(archive) == 1)
        with pytest.raises(spool_lock.SpoolTaken, match="another writer"):
            archive.load()


def test_without_a_spool_there_is_a_sentence(archive: Archive) -> None:
    """A missing spool directory is named."""
    archive.spool_directory.rmdir()
    with pytest.raises(TryLater, match=str(archive.spool_directory)):
        archive.load()


def test_the_supervisor_stops_the_writer(archive: Archive) -> None:
    """Anything from the supervisor, or its end, is the sign to stop."""
    ours, theirs = socket.socketpair()
    archive.put(build_record(1))
    status: list[int] = []

    def serve() -> None:
        status.append(writer.serve(archive.spool_directory, archive.database_url, theirs))

    thread = threading.Thread(target=serve)
    thread.start()
    wait_for(lambda: stored(archive) == 1)
    ours.close()
    thread.join(PATIENCE)
    theirs.close()
    assert status == [0]


def test_the_file_is_not_for_everybody(archive: Archive) -> None:
    """Owner writes, group reads, others nothing; SQLite's side files follow."""
    with writing(archive):
        archive.put(build_record(1))
        wait_for(lambda: stored(archive) == 1)
        for path in archive.file.parent.glob("archive.db*"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_many_recipients_share_a_record(archive: Archive) -> None:
    """Five thousand recipients are five thousand rows, each found."""
    recipients = [build_recipient(f"r{number}@many.example") for number in range(5000)]
    content = build_record(1, recipients=recipients)
    archive.fill(content)
    assert archive.show(content["record_id"]) == content
    assert archive.search(recipient="r4999@many.example") == [content["record_id"]]


KILLED_WRITER = """
import sys
from pathlib import Path
from carbonseal.milter.archive import writer
from carbonseal.milter.archive.writing import passes

class Never:
    def is_set(self): return False
    def wait(self, timeout): import time; time.sleep(min(timeout, 0.01)); return False

passes.BATCH = 7
writer.run(Path(sys.argv[1]), sys.argv[2], stop=Never(), report=lambda *_, **__: None)
"""


@pytest.mark.chaos
def test_killing_the_writer_neither_loses_nor_doubles(archive: Archive) -> None:
    """kill -9 at random moments while segments grow, close and are loaded."""
    rng = random.Random(20)
    contents = [build_record(number) for number in range(1500)]
    waiting = list(contents)
    kills = 0
    segment = archive.put(is_closed=False)
    while waiting or kills < 25:
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED_WRITER, archive.spool_directory, archive.database_url]
        )
        # The kill comes at a random amount of work, before anything was loaded included.
        goal = stored(archive) + rng.randrange(0, 60)
        for _ in range(rng.randrange(30, 90)):
            if waiting:
                segment.put(record.encode(waiting.pop(0)))
        if rng.random() < 0.5:
            segment.close()
        total = len(contents) - len(waiting)
        wait_for(lambda goal=goal, total=total: stored(archive) >= min(goal, total))  # type: ignore[misc]
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
    segment.close()
    archive.load()
    assert archive.rows("message") == len(contents)
    assert archive.search(limit=None) == sorted(
        (one["record_id"] for one in contents), reverse=True
    )
    for table, per_message in (("header_section", 1), ("participant", 2)):
        assert archive.rows(table) == len(contents) * per_message
    with archive.engine.connect() as connection:
        counted = connection.exec_driver_sql("SELECT sum(records), sum(refused) FROM segment")
        assert tuple(counted.one()) == (len(contents), 0)
    for content in rng.sample(contents, 20):
        assert archive.show(content["record_id"]) == content
