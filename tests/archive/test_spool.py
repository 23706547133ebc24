"""The spool: durable before the answer, shared syncs, nothing lost by a crash or a full disk."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbonseal.milter.archive import merkle, record, segments, spool


def line(number: int) -> bytes:
    return record.encode({"v": 1, "number": number})


def numbers(directory: Path) -> list[int]:
    return [
        record.parse(entry.line)["number"]
        for segment in segments.pending(directory)
        for entry in segments.read(segment, 0)
        if entry.fault is None and not entry.is_footer
    ]


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


def test_every_line_of_many_threads_is_in_the_segment_once(directory: Path) -> None:
    """Group commit loses and doubles nothing."""
    queue = spool.Spool(directory)
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


def test_waiting_threads_share_one_sync(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever arrives during a sync shares the next one."""
    queue = spool.Spool(directory)
    syncing, go_on, calls = threading.Event(), threading.Event(), []
    real = os.fdatasync

    def slow_sync(handle: int) -> None:
        calls.append(handle)
        syncing.set()
        go_on.wait(10)
        real(handle)

    monkeypatch.setattr(spool.os, "fdatasync", slow_sync)
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


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EDQUOT, errno.EIO], ids=errno.errorcode.get)
def test_a_failed_write_is_refused_and_the_next_one_succeeds(
    directory: Path, monkeypatch: pytest.MonkeyPatch, fault: int
) -> None:
    """A torn line is stepped over; what is acknowledged afterwards is found."""
    queue = spool.Spool(directory)
    queue.put(line(1))
    real = os.write

    def torn_write(handle: int, data: bytes) -> int:
        if torn_write.calls:  # type: ignore[attr-defined]
            raise OSError(fault, os.strerror(fault))
        torn_write.calls += 1  # type: ignore[attr-defined]
        return real(handle, data[:9])

    torn_write.calls = 0  # type: ignore[attr-defined]
    monkeypatch.setattr(spool.os, "write", torn_write)
    with pytest.raises(spool.SpoolUnwritable, match=str(directory)):
        queue.put(line(2))
    monkeypatch.undo()
    queue.put(line(3))
    queue.close()
    assert numbers(directory) == [1, 3]
    assert footer_of(directory)["records"] == 2


def test_whole_lines_of_a_failed_write_are_counted_in_the_footer(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recorded twice is better than not recorded, and the count must say what a reader finds."""
    queue = spool.Spool(directory)
    real, calls = os.write, []

    def short_write(handle: int, data: bytes) -> int:
        if calls:
            raise OSError(errno.ENOSPC, "no space")
        calls.append(1)
        return real(handle, data[: len(line(1)) + 5])

    monkeypatch.setattr(spool.os, "write", short_write)
    with pytest.raises(spool.SpoolUnwritable):
        queue.put(line(1) + line(2))
    monkeypatch.undo()
    queue.put(line(3))
    queue.close()
    assert numbers(directory) == [1, 3]
    assert footer_of(directory)["records"] == 2


def test_nothing_more_is_promised_on_a_file_whose_sync_failed(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failed fsync a later one may lie, so a new segment is begun."""
    queue = spool.Spool(directory)
    queue.put(line(1))

    def failing_sync(handle: int) -> None:
        raise OSError(errno.EIO, "I/O error")

    monkeypatch.setattr(spool.os, "fdatasync", failing_sync)
    with pytest.raises(spool.SpoolUnwritable):
        queue.put(line(2))
    monkeypatch.undo()
    queue.put(line(3))
    assert len(segments.pending(directory)) == 2
    queue.close()
    segments.recover(directory)
    assert {1, 3} <= set(numbers(directory))


def test_a_spool_that_lost_its_directory_recovers_when_it_is_back(directory: Path) -> None:
    """A record is never written into a file that nobody can find any more."""
    queue = spool.Spool(directory)
    queue.put(line(1))
    moved = directory.with_name("moved")
    directory.rename(moved)
    with pytest.raises(spool.SpoolUnwritable, match="create the directory"):
        queue.put(line(2))
    directory.mkdir()
    queue.put(line(3))
    assert numbers(directory) == [3]


def test_a_live_segment_is_left_alone_and_an_orphan_is_closed(directory: Path) -> None:
    """Recovery tells them apart by the lock that dies with its owner."""
    queue = spool.Spool(directory)
    queue.put(line(1))
    assert segments.recover(directory) == []
    child = os.fork()
    if child == 0:
        orphan = spool.Spool(directory)
        orphan.put(line(2))
        os.write(orphan._segment._file, b'{"v":1,"numb')  # type: ignore[union-attr]
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
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recovery that dies at its n-th system call is finished by the next one."""

    class Died(BaseException):
        pass

    for survive in range(6):
        child = os.fork()
        if child == 0:
            orphan = spool.Spool(directory)
            orphan.put(line(survive))
            os.write(orphan._segment._file, b"torn")  # type: ignore[union-attr]
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


def test_an_old_segment_is_closed_and_a_young_one_is_not(directory: Path) -> None:
    """`tend` closes by age, so that evidence does not stay open on a quiet relay."""
    now = [1000.0]
    queue = spool.Spool(directory, segment_seconds=60, clock=lambda: now[0])
    queue.put(line(1))
    queue.tend()
    assert not segments.pending(directory)[0].is_closed
    now[0] += 61
    queue.tend()
    assert segments.pending(directory)[0].is_closed
    queue.put(line(2))
    assert [one.is_closed for one in segments.pending(directory)] == [True, False]


def test_a_full_segment_is_followed_by_a_new_one(directory: Path) -> None:
    """Segments stay small enough to handle."""
    queue = spool.Spool(directory, segment_bytes=200)
    for number in range(20):
        queue.put(line(number))
    queue.close()
    assert len(segments.pending(directory)) > 3
    assert sorted(numbers(directory)) == list(range(20))


def test_over_its_limit_the_spool_refuses_until_the_writer_has_caught_up(directory: Path) -> None:
    """Back-pressure: mail waits at its sender rather than filling the disk."""
    queue = spool.Spool(directory, limit_bytes=300)
    for number in range(10):
        queue.put(line(number))
    queue.tend()
    with pytest.raises(spool.SpoolUnwritable, match=r"record\.spool_limit"):
        queue.put(line(11))
    queue.close()
    for segment in segments.pending(directory):
        segments.finish(segment)
    queue.tend()
    queue.put(line(12))
    assert numbers(directory) == [12]


def test_a_record_set_aside_is_kept_with_its_reason(directory: Path) -> None:
    """What no database takes is kept for a person, however often it is tried."""
    queue = spool.Spool(directory)
    queue.put(line(1))
    (segment,) = segments.pending(directory)
    (entry,) = segments.read(segment, 0)
    for _ in range(2):
        kept = segments.set_aside(directory, segment, entry, "the database said no")
    assert "the database said no" in kept.read_text()
    assert len(list((directory / segments.SET_ASIDE).iterdir())) == 1


def test_loaded_segments_are_deleted_when_their_time_is_over(directory: Path) -> None:
    """Not before, and nothing that still waits for the database."""
    queue = spool.Spool(directory)
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
    directory: Path, monkeypatch: pytest.MonkeyPatch, is_finished: bool
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
    queue = spool.Spool(directory)
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


def test_a_torn_line_that_lacks_nothing_but_its_end_is_no_record(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its message was refused, and the footer does not count it: no reader may find it intact."""
    queue = spool.Spool(directory)
    queue.put(line(1))
    real, calls = os.write, []

    def short_write(handle: int, data: bytes) -> int:
        if calls:
            raise OSError(errno.ENOSPC, "no space")
        calls.append(1)
        return real(handle, data[:-1])

    monkeypatch.setattr(spool.os, "write", short_write)
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
