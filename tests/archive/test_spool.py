"""The spool: durable before the answer, shared syncs, nothing lost by a crash or a full disk."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbonseal.milter.archive import merkle, open_segment, record, segments, spool


def line(number: int) -> bytes:
    return record.encode({"v": 1, "number": number})


def numbers(directory: Path) -> list[int]:
    return [
        record.parse(entry.line)["number"]
        for segment in segments.pending(directory)
        for entry in segments.read(segment, 0)
        if entry.fault is None and not entry.is_footer
    ]


def torn(queue: spool.Spool, part: bytes) -> None:
    """What a worker that is killed in the middle of a write leaves."""
    segment = queue._segment
    assert segment is not None
    os.pwrite(segment._file, part, segment.size)


def footer_of(directory: Path) -> dict[str, object]:
    (segment,) = segments.pending(directory)
    *_, last = segments.read(segment, 0)
    assert last.is_footer
    content: dict[str, object] = record.parse(last.line)["footer"]
    return content


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "spool"
    path.mkdir()
    return path


@pytest.fixture(params=[False, True], ids=["without-room", "with-room"])
def opened(request: pytest.FixtureRequest, directory: Path) -> Callable[..., spool.Spool]:
    """A spool as the follower opens it, and as a worker does."""
    return functools.partial(spool.Spool, directory, has_room=request.param)


@pytest.fixture
def by_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """No compiled half: a test can put calls of its own in the place of Python's.

    That the compiled half makes the same calls and says the same of their faults is what
    `test_open_segment` holds.
    """
    monkeypatch.setattr(open_segment, "_append", open_segment.append_plainly)


@given(st.dictionaries(st.text(), st.text() | st.integers() | st.none()))
def test_a_record_line_gives_back_what_went_in(content: dict[str, object]) -> None:
    """Encoding and parsing are inverse, lone surrogates and NUL included."""
    content.pop("crc32", None)
    assert record.parse(record.encode({"v": 1, **content})) == {"v": 1, **content}


@given(st.binary())
def test_octets_that_are_no_utf8_come_back_byte_for_byte(raw: bytes) -> None:
    """What a message carried is never changed by being recorded."""
    text = raw.decode("utf-8", "surrogateescape")
    back = record.parse(record.encode({"v": 1, "text": text}))["text"]
    assert back.encode("utf-8", "surrogateescape") == raw


@given(st.integers(0, 60), st.integers(1, 255))
def test_a_changed_byte_is_noticed(position: int, change: int) -> None:
    """The checksum covers the whole line."""
    intact = line(7)
    position %= len(intact) - 1
    changed = bytearray(intact)
    changed[position] ^= change
    with pytest.raises(ValueError):  # noqa: PT011 -- BadLine, or JSON that is none any more
        record.parse(bytes(changed))


def test_record_ids_sort_by_time_and_do_not_repeat() -> None:
    """A ULID begins with its time; the rest is random."""
    early = {record.new_record_id(1_000_000) for _ in range(1000)}
    late = {record.new_record_id(1_000_001) for _ in range(1000)}
    assert len(early) == len(late) == 1000
    assert max(early) < min(late)
    assert all(len(one) == 26 for one in early)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 8, 100])
def test_the_growing_merkle_root_equals_the_recursive_definition(count: int) -> None:
    """RFC 9162 section 2.1.1, computed the slow way."""

    def by_definition(leaves: list[bytes]) -> bytes:
        if not leaves:
            return merkle.sha256(b"").digest()
        if len(leaves) == 1:
            return merkle.sha256(b"\x00" + leaves[0]).digest()
        split = 1
        while split * 2 < len(leaves):
            split *= 2
        left, right = by_definition(leaves[:split]), by_definition(leaves[split:])
        return merkle.sha256(b"\x01" + left + right).digest()

    tree = merkle.Tree()
    lines = [line(number) for number in range(count)]
    for one in lines:
        tree.add(one)
    assert tree.root() == by_definition(lines)


def test_every_line_of_many_threads_is_in_the_segment_once(
    opened: Callable[..., spool.Spool], directory: Path
) -> None:
    """Group commit loses and doubles nothing."""
    queue = opened()
    threads = [
        threading.Thread(target=lambda base=base: [queue.put(line(base + n)) for n in range(100)])
        for base in range(0, 1600, 100)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    queue.close()
    assert sorted(numbers(directory)) == list(range(1600))
    assert footer_of(directory)["records"] == 1600


@pytest.mark.usefixtures("by_python")
def test_waiting_threads_share_one_sync(
    opened: Callable[..., spool.Spool], directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever arrives during a sync shares the next one."""
    queue = opened()
    syncing, go_on, calls = threading.Event(), threading.Event(), []
    real = os.fdatasync

    def slow_sync(handle: int) -> None:
        calls.append(handle)
        syncing.set()
        go_on.wait(10)
        real(handle)

    monkeypatch.setattr(open_segment.os, "fdatasync", slow_sync)
    first = threading.Thread(target=queue.put, args=(line(0),))
    first.start()
    assert syncing.wait(10)
    others = [threading.Thread(target=queue.put, args=(line(n),)) for n in range(1, 21)]
    for thread in others:
        thread.start()
    while len(queue._next.lines) < 20:
        threading.Event().wait(0.001)
    go_on.set()
    for thread in (first, *others):
        thread.join()
    assert len(calls) == 2
    assert sorted(numbers(directory)) == list(range(21))


@pytest.mark.usefixtures("by_python")
@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EDQUOT, errno.EIO], ids=errno.errorcode.get)
def test_a_failed_write_is_refused_and_the_next_one_succeeds(
    opened: Callable[..., spool.Spool], directory: Path, monkeypatch: pytest.MonkeyPatch, fault: int
) -> None:
    """A torn line is stepped over; what is acknowledged afterwards is found."""
    queue = opened()
    queue.put(line(1))
    real = os.pwrite

    def torn_write(handle: int, data: bytes, offset: int) -> int:
        if torn_write.calls:  # type: ignore[attr-defined]
            raise OSError(fault, os.strerror(fault))
        torn_write.calls += 1  # type: ignore[attr-defined]
        return real(handle, data[:9], offset)

    torn_write.calls = 0  # type: ignore[attr-defined]
    monkeypatch.setattr(open_segment.os, "pwrite", torn_write)
    with pytest.raises(spool.SpoolUnwritable, match=str(directory)):
        queue.put(line(2))
    monkeypatch.undo()
    queue.put(line(3))
    queue.close()
    assert numbers(directory) == [1, 3]
    assert footer_of(directory)["records"] == 2


@pytest.mark.usefixtures("by_python")
def test_whole_lines_of_a_failed_write_are_counted_in_the_footer(
    opened: Callable[..., spool.Spool], directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recorded twice is better than not recorded, and the count must say what a reader finds."""
    queue = opened()
    real, calls = os.pwrite, []

    def short_write(handle: int, data: bytes, offset: int) -> int:
        if calls:
            raise OSError(errno.ENOSPC, "no space")
        calls.append(1)
        return real(handle, data[: len(line(1)) + 5], offset)

    monkeypatch.setattr(open_segment.os, "pwrite", short_write)
    with pytest.raises(spool.SpoolUnwritable):
        queue.put(line(1) + line(2))
    monkeypatch.undo()
    queue.put(line(3))
    queue.close()
    assert numbers(directory) == [1, 3]
    assert footer_of(directory)["records"] == 2


@pytest.mark.usefixtures("by_python")
def test_nothing_more_is_promised_on_a_file_whose_sync_failed(
    opened: Callable[..., spool.Spool], directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failed fsync a later one may lie, so a new segment is begun."""
    queue = opened()
    queue.put(line(1))

    def failing_sync(handle: int) -> None:
        raise OSError(errno.EIO, "I/O error")

    monkeypatch.setattr(open_segment.os, "fdatasync", failing_sync)
    with pytest.raises(spool.SpoolUnwritable):
        queue.put(line(2))
    monkeypatch.undo()
    queue.put(line(3))
    assert len(segments.pending(directory)) == 2
    queue.close()
    segments.recover(directory)
    assert {1, 3} <= set(numbers(directory))


def test_a_spool_that_lost_its_directory_recovers_when_it_is_back(
    opened: Callable[..., spool.Spool], directory: Path
) -> None:
    """A record is never written into a file that nobody can find any more."""
    queue = opened()
    queue.put(line(1))
    moved = directory.with_name("moved")
    directory.rename(moved)
    with pytest.raises(spool.SpoolUnwritable, match="create the directory"):
        queue.put(line(2))
    directory.mkdir()
    queue.put(line(3))
    assert numbers(directory) == [3]


def test_a_live_segment_is_left_alone_and_an_orphan_is_closed(
    opened: Callable[..., spool.Spool], directory: Path
) -> None:
    """Recovery tells them apart by the lock that dies with its owner."""
    queue = opened()
    queue.put(line(1))
    assert segments.recover(directory) == []
    child = os.fork()
    if child == 0:
        orphan = opened()
        orphan.put(line(2))
        torn(orphan, b'{"v":1,"numb')
        os._exit(0)
    os.waitpid(child, 0)
    (closed,) = segments.recover(directory)
    *_, last = segments.read(closed, 0)
    assert last.is_footer
    assert record.parse(last.line)["footer"]["records"] == 1
    assert sorted(numbers(directory)) == [1, 2]
    queue.put(line(3))
    assert sorted(numbers(directory)) == [1, 2, 3]


def test_recovery_repeated_after_every_crash_ends_the_same(
    opened: Callable[..., spool.Spool], directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recovery that dies at its n-th system call is finished by the next one."""

    class Died(BaseException):
        pass

    for survive in range(6):
        child = os.fork()
        if child == 0:
            orphan = opened()
            orphan.put(line(survive))
            torn(orphan, b"torn")
            os._exit(0)
        os.waitpid(child, 0)
        left = survive
        for name in ("ftruncate", "pwrite", "fdatasync", "rename"):
            real = getattr(os, name)

            def counted(*arguments: object, real: object = real) -> object:
                nonlocal left
                if left == 0:
                    raise Died
                left -= 1
                return real(*arguments)  # type: ignore[operator]

            monkeypatch.setattr(segments.os, name, counted)
        try:
            segments.recover(directory)
        except Died:
            pass
        monkeypatch.undo()
        segments.recover(directory)
        assert sorted(numbers(directory)) == list(range(survive + 1))
        for segment in segments.pending(directory):
            entries = list(segments.read(segment, 0))
            assert [entry.is_footer for entry in entries] == [False, True]


def test_an_old_segment_is_closed_and_a_young_one_is_not(
    opened: Callable[..., spool.Spool], directory: Path
) -> None:
    """`tend` closes by age, so that evidence does not stay open on a quiet relay."""
    now = [1000.0]
    queue = opened(segment_seconds=60, clock=lambda: now[0])
    queue.put(line(1))
    queue.tend()
    assert not segments.pending(directory)[0].is_closed
    now[0] += 61
    queue.tend()
    assert segments.pending(directory)[0].is_closed
    queue.put(line(2))
    assert [one.is_closed for one in segments.pending(directory)] == [True, False]


def test_a_full_segment_is_followed_by_a_new_one(
    opened: Callable[..., spool.Spool], directory: Path
) -> None:
    """Segments stay small enough to handle."""
    queue = opened(segment_bytes=200)
    for number in range(20):
        queue.put(line(number))
    queue.close()
    assert len(segments.pending(directory)) > 3
    assert sorted(numbers(directory)) == list(range(20))


def test_over_its_limit_the_spool_refuses_until_the_writer_has_caught_up(
    opened: Callable[..., spool.Spool], directory: Path
) -> None:
    """Back-pressure: mail waits at its sender rather than filling the disk."""
    queue = opened(limit_bytes=300)
    for number in range(10):
        queue.put(line(number))
    queue.tend()
    with pytest.raises(spool.SpoolUnwritable, match=r"record\.spool_limit"):
        queue.put(line(11))
    with pytest.raises(spool.SpoolUnwritable, match=r"record\.spool_limit"):
        queue.put_all([line(11)])
    queue.close()
    for segment in segments.pending(directory):
        segments.finish(segment)
    queue.tend()
    queue.put(line(12))
    queue.put_all([line(13)])
    assert numbers(directory) == [12, 13]


def test_a_record_set_aside_is_kept_with_its_reason(
    opened: Callable[..., spool.Spool], directory: Path
) -> None:
    """What no database takes is kept for a person, however often it is tried."""
    queue = opened()
    queue.put(line(1))
    (segment,) = segments.pending(directory)
    (entry,) = segments.read(segment, 0)
    for _ in range(2):
        kept = segments.set_aside(directory, segment, entry, "the database said no")
    assert "the database said no" in kept.read_text()
    assert len(list((directory / segments.SET_ASIDE).iterdir())) == 1


def test_loaded_segments_are_deleted_when_their_time_is_over(
    opened: Callable[..., spool.Spool], directory: Path
) -> None:
    """Not before, and nothing that still waits for the database."""
    queue = opened()
    for number in range(2):
        queue.put(line(number))
        queue.close()
    old, waiting = segments.pending(directory)
    segments.finish(old)
    kept = directory / segments.LOADED / old.path.name
    written = kept.stat().st_mtime
    assert segments.remove_loaded(directory, before=written) == 0
    assert segments.remove_loaded(directory, before=written + 1) == 1
    assert segments.pending(directory) == [waiting]


@pytest.mark.parametrize("is_finished", [True, False], ids=["closed-before", "closing-now"])
def test_a_segment_that_recovery_took_for_an_orphan_is_not_written_to(
    opened: Callable[..., spool.Spool],
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_finished: bool,
) -> None:
    """Between creating a segment and locking it, the supervisor's recovery may take it.

    What is acknowledged must not stand behind the footer of a closed segment, which the writer may
    have finished with already; and nobody is refused for it.
    """
    real, held = fcntl.flock, []

    def late_lock(handle: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", real)
        if is_finished:
            segments.recover(directory)
        else:
            (segment,) = segments.pending(directory)
            held.append(segment.path.open())
            real(held[0], fcntl.LOCK_EX)
        real(handle, operation)

    monkeypatch.setattr(fcntl, "flock", late_lock)
    queue = opened()
    queue.put(line(1))
    assert len(segments.pending(directory)) == 2
    for stream in held:
        stream.close()
    segments.recover(directory)
    for segment in segments.pending(directory):
        if segment.is_closed:
            assert [entry.is_footer for entry in segments.read(segment, 0)] == [True]
    assert numbers(directory) == [1]


def test_a_segment_that_the_writer_moves_away_does_not_lift_the_limit(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory changes while its size is measured; what is left counts."""
    (directory / "A.jsonl").write_bytes(b"x" * 500)
    (directory / "B.jsonl").write_bytes(b"x" * 500)
    real = os.scandir

    def moving(path: Path) -> contextlib.nullcontext[Iterator[os.DirEntry[str]]]:
        entries = sorted(real(path), key=lambda entry: entry.name)
        os.unlink(directory / "A.jsonl")
        return contextlib.nullcontext(iter(entries))

    monkeypatch.setattr(spool.os, "scandir", moving)
    assert spool.waiting_bytes(directory) == 500


@pytest.mark.usefixtures("by_python")
def test_a_torn_line_that_lacks_nothing_but_its_end_is_no_record(
    opened: Callable[..., spool.Spool], directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its message was refused, and the footer does not count it: no reader may find it intact."""
    queue = opened()
    queue.put(line(1))
    real, calls = os.pwrite, []

    def short_write(handle: int, data: bytes, offset: int) -> int:
        if calls:
            raise OSError(errno.ENOSPC, "no space")
        calls.append(1)
        return real(handle, data[: len(line(2)) - 1], offset)

    monkeypatch.setattr(open_segment.os, "pwrite", short_write)
    with pytest.raises(spool.SpoolUnwritable):
        queue.put(line(2))
    calls.clear()
    with pytest.raises(spool.SpoolUnwritable):
        queue.put(line(2))
    monkeypatch.undo()
    queue.put(line(3))
    queue.close()
    assert numbers(directory) == [1, 3]
    assert footer_of(directory)["records"] == 2


def test_lines_go_into_room_that_is_cut_off_at_the_end(directory: Path) -> None:
    """An open file is larger than its lines; a closed one has nothing but lines."""
    queue = spool.Spool(directory, has_room=True)
    queue.put(line(1))
    (segment,) = segments.pending(directory)
    size = segment.path.stat().st_size
    for number in range(2, 100):
        queue.put(line(number))
        assert segment.path.stat().st_size == size
    assert numbers(directory) == list(range(1, 100))
    assert segments.end_of(segment.path) == 99 * len(line(10)) - 9 < size
    queue.close()
    (segment,) = segments.pending(directory)
    assert b"\0" not in segment.path.read_bytes()
    assert numbers(directory) == list(range(1, 100))


@pytest.mark.usefixtures("by_python")
def test_writes_into_room_end_with_a_page(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the kernel reads a page that it has dropped before a part of it is written over."""
    ends: list[int] = []
    real = os.pwrite

    def note(handle: int, data: bytes, offset: int) -> int:
        ends.append(offset + len(data))
        return real(handle, data, offset)

    monkeypatch.setattr(open_segment.os, "pwrite", note)
    queue = spool.Spool(directory, has_room=True)
    for number in range(500):
        queue.put(line(number))
    assert len(ends) == 500
    assert {end % 4096 for end in ends} == {0}
    assert numbers(directory) == list(range(500))
    queue.close()
    assert numbers(directory) == list(range(500))


@pytest.mark.parametrize("fault", ["", "removed"])
def test_what_is_done_meanwhile_is_done_once(
    opened: Callable[..., spool.Spool], directory: Path, fault: str
) -> None:
    """Also where the segment has lost its name and the lines go to another."""
    queue = opened()
    done: list[int] = []
    queue.put_all([line(1)], lambda: done.append(1))
    assert done == [1]
    if fault:
        for one in directory.iterdir():
            one.unlink()
    queue.put_all([line(2)], lambda: done.append(2))
    assert done == [1, 2]
    queue.close()
    assert numbers(directory) == ([2] if fault else [1, 2])


def test_room_grows_and_is_bounded(directory: Path) -> None:
    """What is written ahead is never more than what is there, nor more than a reader can pass."""
    queue = spool.Spool(directory, has_room=True)
    long = record.encode({"v": 1, "text": "x" * 10_000})
    (least, most) = (open_segment._LEAST_ROOM, open_segment._MOST_ROOM)
    for count in range(1, 100):
        queue.put(long)
        (segment,) = segments.pending(directory)
        ahead = segment.path.stat().st_size - count * len(long)
        assert 0 <= ahead <= min(max(count * len(long), least), most)
    queue.close()
    assert len(list(segments.read(segments.pending(directory)[0], 0))) == 100


@pytest.mark.usefixtures("by_python")
def test_no_space_for_the_room_is_no_fault(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line itself is there: nobody is refused for what comes after it."""
    queue = spool.Spool(directory, has_room=True)
    real = os.pwrite

    def full(handle: int, data: bytes, offset: int) -> int:
        return real(handle, data[: len(line(1)) + 100], offset)

    monkeypatch.setattr(open_segment.os, "pwrite", full)
    for number in range(10):
        queue.put(line(number))
    queue.close()
    assert numbers(directory) == list(range(10))


def test_a_line_whose_end_is_seen_before_its_beginning_is_not_read_yet(directory: Path) -> None:
    """A reader may meet a page of room and then, on the next, what was written meanwhile."""
    queue = spool.Spool(directory, has_room=True)
    queue.put(line(1))
    (segment,) = segments.pending(directory)
    whole = line(2)
    with open(segment.path, "r+b") as stream:
        stream.seek(len(line(1)) + 7)
        stream.write(whole[7:])
    assert numbers(directory) == [1]
    with open(segment.path, "r+b") as stream:
        stream.seek(len(line(1)))
        stream.write(whole[:7])
    assert numbers(directory) == [1, 2]


def test_recovery_cuts_the_end_only(directory: Path) -> None:
    """What a disk has lost in the middle takes no whole line behind it along."""
    child = os.fork()
    if child == 0:
        orphan = spool.Spool(directory, has_room=True)
        for number in range(3):
            orphan.put(line(number))
        torn(orphan, b'{"v":1,"numb')
        os.pwrite(orphan._segment._file, bytes(5), len(line(0)) + 3)  # type: ignore[union-attr]
        os._exit(0)
    os.waitpid(child, 0)
    (closed,) = segments.recover(directory)
    assert numbers(directory) == [0, 2]
    faults = [entry.fault for entry in segments.read(closed, 0)]
    assert [fault is None for fault in faults] == [True, False, True, True]
    assert footer_of(directory)["records"] == 2


@given(
    before=st.lists(st.sampled_from([b"\0", b"x", b"\n", bytes(70_000)]), max_size=4),
    room=st.integers(min_value=0, max_value=300_000),
)
def test_a_segment_ends_with_the_last_octet_that_is_none_of_its_room(
    before: list[bytes], room: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever stands before the room, and however large that is."""
    path = tmp_path_factory.getbasetemp() / "a.open.jsonl"
    content = b"".join(before)
    path.write_bytes(content + bytes(room))
    assert segments.end_of(path) == len(content.rstrip(b"\0"))


def test_whether_more_has_come_is_seen_at_its_place(directory: Path) -> None:
    """The size of a segment with room says nothing."""
    queue = spool.Spool(directory, has_room=True)
    queue.put(line(1))
    (segment,) = segments.pending(directory)
    assert segments.has_more(segment, 0)
    end = segments.end_of(segment.path)
    assert not segments.has_more(segment, end)
    queue.put(line(2))
    assert segments.has_more(segment, end)
    assert not segments.has_more(segment, segment.path.stat().st_size)
    queue.close()
    assert segments.has_more(segment, end)  # it is to be found under its closed name
