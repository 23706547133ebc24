"""What is known of segments under way is what the database says of them, and what came by."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.archive import Archive, build_record

from carbonseal.milter.archive import derive, header_store, record, segments
from carbonseal.milter.archive.batch import Batch
from carbonseal.milter.archive.segments import Segment
from carbonseal.milter.archive.writing.connection import WriterConnection
from carbonseal.milter.archive.writing.under_way import UnderWay


@pytest.fixture
def under_way(archive: Archive) -> Iterator[UnderWay]:
    """Of an archive in which nothing is loaded."""
    database = WriterConnection(archive.database_url)
    database.open(lambda engine: None, database.look_ahead)
    yield UnderWay(database, derive.INDEXED, header_store.compress_texts)
    database.close()


def next_of(under_way: UnderWay, segment: Segment, size: int) -> Batch | None:
    read = under_way.reading(segment, size)
    return None if read is None else read()


def has_committed(under_way: UnderWay, batch: Batch | None) -> None:
    assert batch is not None
    name = batch.segment.name
    under_way.progress[name] = under_way.progress[name].after(batch, batch.count)


def test_what_came_by_once_is_there_for_the_seal(archive: Archive, under_way: UnderWay) -> None:
    """A segment that was loaded without a fault need not be read again to be sealed."""
    archive.put(*(build_record(number) for number in range(3)))
    [segment] = segments.pending(archive.spool_directory)
    has_committed(under_way, next_of(under_way, segment, 2))
    assert under_way.seen_whole(segment) is None
    has_committed(under_way, next_of(under_way, segment, 2))
    seen = under_way.seen_whole(segment)
    assert seen is not None
    assert seen.survey(segment).lines == 3


def test_what_came_by_twice_is_not_there_for_the_seal(
    archive: Archive, under_way: UnderWay
) -> None:
    """Lines that were read and not committed come again; a root over both would be a wrong one."""
    archive.put(*(build_record(number) for number in range(3)))
    [segment] = segments.pending(archive.spool_directory)
    first, again = next_of(under_way, segment, 2), next_of(under_way, segment, 10)
    assert first is not None
    assert again is not None
    assert again.line_by_line().entries[:2] == first.line_by_line().entries
    has_committed(under_way, again)
    assert under_way.seen_whole(segment) is None


def test_an_open_segment_that_has_not_grown_is_not_read(
    archive: Archive, under_way: UnderWay
) -> None:
    """A look at a quiet spool costs next to nothing."""
    spool = archive.put(build_record(1), is_closed=False)
    [segment] = segments.pending(archive.spool_directory)
    has_committed(under_way, next_of(under_way, segment, 10))
    assert under_way.reading(segment, 10) is None
    spool.put(record.encode(build_record(2)))
    found = next_of(under_way, segment, 10)
    assert found is not None
    assert found.count == 1
    spool.close()


def test_what_is_forgotten_is_asked_of_the_database(archive: Archive, under_way: UnderWay) -> None:
    """Where it was loaded further, or less far, than we remember, the database is right."""
    archive.put(*(build_record(number) for number in range(3)))
    [segment] = segments.pending(archive.spool_directory)
    has_committed(under_way, next_of(under_way, segment, 2))
    under_way.forget(segment)
    found = next_of(under_way, segment, 10)
    assert found is not None
    assert len(found.line_by_line().arrivals) == 3
    under_way.forget_others({segment.name})
    assert under_way.progress.keys() == {segment.name}
    under_way.forget_others(set())
    assert not under_way.progress
