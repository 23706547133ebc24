"""An archive that is gone is not replaced by an empty one unless somebody says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete
from support.archive import Archive, build_record

from carbonseal.milter.archive import database, schema, segments, terms
from carbonseal.milter.archive.writing import known_archive
from carbonseal.milter.archive.writing.known_archive import ArchiveLost


def mark_of(archive: Archive) -> Path:
    return archive.spool_directory / known_archive.MARK


def said(archive: Archive, event: str) -> list[dict[str, Any]]:
    return [facts for name, facts in archive.events if name == event]


def waiting(archive: Archive) -> int:
    return len(segments.pending(archive.spool_directory))


@pytest.mark.parametrize("is_closed", [True, False], ids=["sealed", "nothing-sealed-yet"])
def test_a_file_that_is_gone_is_not_made_again(archive: Archive, is_closed: bool) -> None:
    """Records wait, whether or not anything was sealed; the file comes back with all it had."""
    archive.put(build_record(1), is_closed=is_closed)
    archive.load()
    aside = archive.file.with_name("aside")
    archive.close()
    archive.file.rename(aside)
    archive.put(build_record(2))
    before = waiting(archive)
    with pytest.raises(ArchiveLost, match="the archive is gone"):
        archive.load()
    assert waiting(archive) == before
    assert not archive.file.exists()
    aside.rename(archive.file)
    assert archive.load() == 1
    assert archive.rows("message") == 2


def test_a_mount_that_is_missing_gets_no_archive_beneath_it(archive: Archive) -> None:
    """The directory is there, and empty, and stays so."""
    archive.file = archive.file.parent / "mount" / "archive.db"
    archive.database_url = f"sqlite:///{archive.file}"
    archive.file.parent.mkdir()
    archive.fill(build_record(1))
    archive.close()
    shutil.rmtree(archive.file.parent)
    archive.file.parent.mkdir()
    with pytest.raises(ArchiveLost, match="mount its file system"):
        archive.load()
    assert list(archive.file.parent.iterdir()) == []


@pytest.mark.parametrize("is_made", [False, True], ids=["no-tables", "empty-tables"])
def test_an_empty_database_is_not_the_archive(any_archive: Archive, is_made: bool) -> None:
    """Somebody made it anew, on whichever engine: nothing goes into it, not even tables."""
    any_archive.fill(build_record(1))
    any_archive.close()
    engine = database.writing_engine(any_archive.database_url)
    empty(any_archive, is_made=is_made)
    with pytest.raises(ArchiveLost, match="which alone has the legal holds"):
        any_archive.load()
    assert len(segments.loaded(any_archive.spool_directory)) == 1
    assert database.is_empty(engine) is not is_made
    engine.dispose()


def empty(archive: Archive, *, is_made: bool) -> None:
    engine = database.writing_engine(archive.database_url)
    if engine.dialect.name == "sqlite":
        archive.lose()
        archive.file.touch()
    else:
        with engine.begin() as connection:
            for statement in _drops(engine.dialect.name, connection):
                connection.exec_driver_sql(statement)
    if is_made:
        engine.dispose()
        database.upgrade(engine)
    engine.dispose()


def _drops(dialect: str, connection: Any) -> list[str]:
    if dialect == "postgresql":
        return ["DROP SCHEMA public CASCADE", "CREATE SCHEMA public"]
    query = "SELECT table_name FROM information_schema.tables WHERE table_schema = database()"
    names = connection.exec_driver_sql(query).scalars().all()
    return ["SET foreign_key_checks = 0", *(f"DROP TABLE `{name}`" for name in names)]


def test_a_new_archive_is_begun_once_the_mark_is_removed(archive: Archive) -> None:
    """It gets what is in loaded/, and is the one that is known from then on."""
    archive.fill(build_record(1))
    archive.begin_anew()
    archive.put(build_record(2))
    assert archive.load() == 2
    archive.lose()
    with pytest.raises(ArchiveLost):
        archive.load()


def test_another_place_in_the_configuration_is_meant(archive: Archive) -> None:
    """It is loaded into, what is in loaded/ first, and the log says that it is another one."""
    archive.fill(build_record(1))
    before = str(archive.file)
    archive.close()
    archive.file = archive.file.with_name("other.db")
    archive.database_url = f"sqlite:///{archive.file}"
    archive.put(build_record(2))
    assert archive.load() == 2
    [told] = said(archive, "archive-changed")
    assert (told["database"], told["before"]) == (str(archive.file), before)
    assert "the legal holds are in the one before" in told["problem"]
    archive.put(build_record(3))
    archive.load()
    assert len(said(archive, "archive-changed")) == 1


def test_a_slip_that_is_corrected_costs_nothing(archive: Archive) -> None:
    """As the log says: what went into the other one comes again from loaded/."""
    archive.fill(build_record(1))
    right = archive.database_url
    archive.database_url = f"sqlite:///{archive.file.with_name('archiv.db')}"
    archive.put(build_record(2))
    archive.load()
    archive.database_url = right
    archive.put(build_record(3))
    assert archive.load() == 2
    assert archive.rows("message") == 3


@pytest.mark.parametrize("is_there", [False, True], ids=["nothing-there", "a-file-there"])
def test_who_asks_before_is_told_of_the_other_place(archive: Archive, is_there: bool) -> None:
    """As long as the writer has not gone there; nothing is made by the question."""
    other = archive.file.with_name("archiv.db")
    url = f"sqlite:///{other}"
    assert known_archive.other_place(archive.spool_directory, url) is None
    archive.fill(build_record(1))
    if is_there:
        other.touch()
    told = known_archive.other_place(archive.spool_directory, url)
    assert told is not None
    assert f"in the archive at {archive.file}, and this names {other}, " in told
    assert ("an empty archive is begun there" in told) is not is_there
    assert other.exists() is is_there
    for good in (archive.database_url, "postgresql+psycopg://u:secret@192.0.2.1/x"):
        told = known_archive.other_place(archive.spool_directory, good)
        assert "secret" not in (told or "")
        assert (told is None) is (good == archive.database_url)


def test_an_archive_that_was_moved_is_the_same(archive: Archive) -> None:
    """With its file, to another place that the configuration names."""
    archive.fill(build_record(1))
    archive.close()
    archive.file = archive.file.rename(archive.file.with_name("other.db"))
    archive.database_url = f"sqlite:///{archive.file}"
    archive.put(build_record(2))
    assert archive.load() == 1
    assert said(archive, "archive-changed") == []
    assert json.loads(mark_of(archive).read_bytes())["database"] == str(archive.file)


@pytest.mark.parametrize("is_kept", [True, False], ids=["in-loaded", "in-the-chain-only"])
def test_an_old_backup_is_the_archive(archive: Archive, is_kept: bool) -> None:
    """Any segment of this spool shows that, if not the one that is on the mark."""
    archive.fill(build_record(1))
    archive.fill(build_record(2))
    first, last = segments.loaded(archive.spool_directory)
    mark_of(archive).write_text(json.dumps({"database": str(archive.file), "segment": last.name}))
    forget(archive, last.name)
    if not is_kept:
        first.path.unlink()
    archive.put(build_record(3))
    archive.load()
    assert said(archive, "segments-brought-back") == [{"count": 1, "first": last.name}]
    assert json.loads(mark_of(archive).read_bytes())["segment"] == first.name


def forget(archive: Archive, segment: str) -> None:
    """As if it had not come yet when the backup was made."""
    archive.close()
    engine = database.writing_engine(archive.database_url)
    identifier = terms.term(segment)
    with engine.begin() as connection:
        for table in (schema.seal, schema.segment):
            connection.execute(delete(table).where(table.c.segment_id == identifier))
    engine.dispose()


@pytest.mark.parametrize("is_there", [True, False])
def test_an_archive_of_before_the_mark_gets_one(archive: Archive, is_there: bool) -> None:
    """An upgrade: the archive that is there is known at the first connection."""
    archive.fill(build_record(1))
    mark_of(archive).unlink()
    if not is_there:
        archive.lose()
    archive.load()
    assert mark_of(archive).exists()
    archive.lose()
    with pytest.raises(ArchiveLost):
        archive.load()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "\x00", "[" * 60000])
def test_a_mark_that_makes_no_sense_is_a_mark(archive: Archive, content: str) -> None:
    """Nothing is made anew because of it; where the archive is there it is mended."""
    archive.fill(build_record(1))
    whole = mark_of(archive).read_bytes()
    mark_of(archive).write_text(content)
    assert archive.load() == 0
    assert mark_of(archive).read_bytes() == whole
    mark_of(archive).write_text(content)
    archive.lose()
    with pytest.raises(ArchiveLost):
        archive.load()


def test_a_mark_that_cannot_be_written_holds_up_nothing(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The spool's disk is full, and records are loaded all the same; the mark comes later."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr(known_archive.durable, "replace", full)
        archive.fill(build_record(1))
    assert not mark_of(archive).exists()
    archive.load()
    assert mark_of(archive).exists()
