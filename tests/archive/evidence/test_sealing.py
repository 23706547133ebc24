"""A segment gets one entry in the chain, whatever happens while it is sealed."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from support.archive import Archive
from support.evidence import found_by, salted, tampering, verified

from carbonseal.keys import evidence_key
from carbonseal.milter.archive import open_segment, record, schema
from carbonseal.milter.archive.evidence import chain
from carbonseal.policies.errors import TryLater

assert found_by


def _evidence(archive: Archive) -> Path:
    return archive.spool_directory / "evidence"


def _entries(archive: Archive) -> list[dict[str, Any]]:
    lines = (_evidence(archive) / chain.FILE).read_bytes().splitlines()
    return [json.loads(line)["entry"] for line in lines]


def _sealed(archive: Archive) -> list[str]:
    with archive.engine.connect() as connection:
        query = select(schema.seal.c.entry).order_by(schema.seal.c.number)
        return list(connection.execute(query).scalars())


# Stops the writer where the test says, as the kernel or a power failure would.
_KILLED = """
import os, signal, sys
from pathlib import Path
from carbonseal.milter.archive import segments, writer
from carbonseal.milter.archive.evidence import chain, sealing

def die(*_arguments, **_named):
    os.kill(os.getpid(), signal.SIGKILL)

def torn(self, line):
    handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(handle, line[: len(line) // 2])
    die()

def after(function):
    def wrapped(*arguments, **named):
        function(*arguments, **named)
        die()
    return wrapped

point = sys.argv[3]
if point == "before-the-chain":
    chain.Chain._write = die
elif point == "in-the-middle-of-the-line":
    chain.Chain._write = torn
elif point == "between-chain-and-database":
    chain.Chain._write = after(chain.Chain._write)
elif point == "before-the-commit":
    sealing._store = after(sealing._store)
elif point == "before-the-move":
    segments.finish = die
elif point == "after-the-move":
    segments.finish = after(segments.finish)
writer.run_once(Path(sys.argv[1]), sys.argv[2], report=lambda *a, **b: None)
"""
_POINTS = [
    "before-the-chain",
    "in-the-middle-of-the-line",
    "between-chain-and-database",
    "before-the-commit",
    "before-the-move",
    "after-the-move",
]


@pytest.mark.parametrize("point", _POINTS)
def test_a_writer_killed_while_it_seals_leaves_one_entry_for_each_segment(
    archive: Archive, point: str
) -> None:
    """The next writer ends what was begun; chain, database and loaded/ agree."""
    archive.fill(salted(0))
    archive.put(salted(1), salted(2))
    archive.put(salted(3))
    command = [sys.executable, "-c", _KILLED, str(archive.spool_directory), archive.database_url]
    assert subprocess.run([*command, point], check=False).returncode == -signal.SIGKILL
    loaded = archive.spool_directory / "loaded"
    unsealed = {one.name for one in loaded.iterdir()} - {
        f"{entry['segment']}.jsonl" for entry in map(json.loads, _sealed(archive))
    }
    assert unsealed == set(), "a segment was moved before its seal was in SQL"
    archive.load()
    entries = _entries(archive)
    assert [entry["number"] for entry in entries] == [1, 2, 3]
    assert [entry["first"] for entry in entries] == [1, 2, 4]
    assert len({entry["segment"] for entry in entries}) == 3
    assert [json.loads(entry) for entry in _sealed(archive)] == entries
    assert verified(archive) == []


def test_a_database_filled_anew_from_loaded_gets_the_same_seals(archive: Archive) -> None:
    """In whatever order the segments come."""
    for number in range(4):
        archive.fill(salted(number))
    before = _sealed(archive)
    archive.begin_anew()
    for path in (archive.spool_directory / "loaded").iterdir():
        path.rename(archive.spool_directory / path.name)
    assert archive.load() == 4
    assert _sealed(archive) == before
    assert verified(archive) == []
    archive.fill(salted(9))
    assert [entry["number"] for entry in _entries(archive)] == [1, 2, 3, 4, 5]


def test_a_segment_loaded_twice_is_sealed_once(archive: Archive) -> None:
    """As after a crash before its move was on disk."""
    archive.fill(salted(0), salted(1))
    [path] = (archive.spool_directory / "loaded").iterdir()
    path.rename(archive.spool_directory / path.name)
    assert archive.load() == 0
    assert len(_entries(archive)) == len(_sealed(archive)) == 1
    assert verified(archive) == []


def test_a_line_that_comes_again_elsewhere_is_a_repetition(archive: Archive) -> None:
    """The very line in another segment is no finding; another content under its id is one."""
    archive.fill(salted(0), salted(1))
    [path] = (archive.spool_directory / "loaded").iterdir()
    lines = path.read_bytes().splitlines(keepends=True)[:2]
    archive.put_lines(*lines)
    archive.load()
    assert verified(archive) == []
    other = record.parse(lines[0]) | {"queue_id": "another"}
    archive.put_lines(record.encode(other))
    archive.load()
    assert [(one.kind, one.record_id) for one in verified(archive)] == [
        ("removed", other["record_id"])
    ]


def test_lines_that_are_no_records_are_sealed_as_they_are(archive: Archive) -> None:
    """Junk, torn lines, JSON that is no record, and good records between them."""
    archive.put_lines(
        record.encode(salted(0)),
        b"junk\n",
        b'{"torn' + record.TORN_MARK + b"\n",
        record.encode({"record_id": 7, "header_fields": "none", "salt": 9}),
        record.encode(salted(1)),
    )
    archive.load()
    [entry] = _entries(archive)
    assert (entry["lines"], entry["aside"]) == (4, 2)
    assert verified(archive) == []


def test_an_old_version_without_salt_is_sealed_as_well(archive: Archive) -> None:
    """Lines that waited in the spool while the program was upgraded."""
    old = {
        key: value
        for key, value in salted(0, v=1).items()
        if key not in ("salt", "retention", "bcc_maps")
    }
    archive.fill(old, salted(1))
    assert verified(archive) == []


def test_a_footer_that_does_not_fit_is_reported_and_signed(archive: Archive) -> None:
    """The record stays loaded; the seal says what was wrong."""
    tree_of_something_else = open_segment.footer(
        "x", __import__("carbonseal").milter.archive.merkle.Tree()
    )
    archive.put_lines(record.encode(salted(0)), tree_of_something_else)
    assert archive.load() == 1
    [entry] = _entries(archive)
    assert entry["findings"] == ["the footer counts 0 lines and there are 1"]
    assert "segment-damaged" in [event for event, _ in archive.events]


def test_events_of_a_later_kind_are_sealed_as_lines(archive: Archive) -> None:
    """They are neither loaded nor set aside; verify misses none, and still misses records."""
    event = {"event": "weather", "v": 1, "relay": "mx9", "queue_id": "4A", "facts": []}
    archive.put(event | {"queue_id": "4B"})
    archive.put(salted(0), event, salted(1))
    assert archive.load() == 2
    assert verified(archive) == []
    assert not (archive.spool_directory / "set-aside").exists()
    events_only, mixed = _entries(archive)
    assert (events_only["relay"], events_only["lines"], mixed["lines"]) == ("mx9", 1, 3)
    with archive.engine.connect() as connection:
        [first, leaves] = connection.execute(select(schema.seal.c.leaves)).scalars()
        query = select(schema.segment.c.lines, schema.segment.c.records, schema.segment.c.refused)
        assert sorted(map(tuple, connection.execute(query))) == [(1, 0, 0), (3, 2, 0)]
    line = record.encode(event)
    assert bytes(leaves)[64:128] == sha256(line).digest() + bytes(32)
    assert len(first) == 64


def test_the_key_is_private_and_is_made_once(archive: Archive) -> None:
    """Mode 0600 in a directory of 0700, its public half beside it, and no trace elsewhere."""
    archive.fill(salted(0))
    directory = _evidence(archive)
    path = directory / evidence_key.PRIVATE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    secret = path.read_text().splitlines()[1]
    key = evidence_key.load(directory)
    assert key is not None
    assert repr(key) == f"EvidenceKey({evidence_key.key_id(key.public)})"
    assert secret not in repr(archive.events)
    assert evidence_key.read_public(directory / evidence_key.PUBLIC) == key.public
    archive.fill(salted(1))
    assert path.read_text().splitlines()[1] == secret
    assert {entry["key"] for entry in _entries(archive)} == {key.public.hex()}


def test_openssl_verifies_an_entry(archive: Archive, tmp_path: Path) -> None:
    """Nothing of ours is needed to check a signature."""
    archive.fill(salted(0))
    [(_, sealed)] = list(chain.entries(_evidence(archive)))
    assert isinstance(sealed, chain.Sealed)
    (tmp_path / "entry").write_text(sealed.entry)
    (tmp_path / "signature").write_bytes(sealed.signature)
    public = _evidence(archive) / evidence_key.PUBLIC
    said = subprocess.run(
        ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", str(public), "-rawin",
         "-in", str(tmp_path / "entry"), "-sigfile", str(tmp_path / "signature")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Verified Successfully" in said.stdout


def test_without_its_key_a_chain_is_not_continued(archive: Archive) -> None:
    """The records are loaded all the same, and their segment waits in the spool."""
    archive.fill(salted(0))
    (_evidence(archive) / evidence_key.PRIVATE).unlink()
    archive.put(salted(1))
    with pytest.raises(TryLater, match="the key that signed this chain is missing"):
        archive.load()
    assert archive.rows("message") == 2
    assert len(list(archive.spool_directory.glob("*.jsonl"))) == 1


def test_a_key_that_others_may_read_is_refused(archive: Archive) -> None:
    """It may have been copied; the sentence says what to do."""
    archive.fill(salted(0))
    os.chmod(_evidence(archive) / evidence_key.PRIVATE, 0o640)
    archive.put(salted(1))
    with pytest.raises(TryLater, match="others may read the evidence key"):
        archive.load()


def test_a_lost_evidence_directory_begins_a_chain_of_another_name(archive: Archive) -> None:
    """The old chain stays as it is in the database and both are verified."""
    archive.fill(salted(0))
    _evidence(archive).rename(archive.spool_directory / "lost")
    archive.fill(salted(1))
    names = [entry["relay"] for entry in map(json.loads, _sealed(archive))]
    assert sorted(names)[0] == "mx1.example.com"
    assert sorted(names)[1].startswith("mx1.example.com#")
    assert verified(archive) == []


def test_an_old_copy_of_the_chain_is_brought_forward_from_the_database(archive: Archive) -> None:
    """Entries that its own key has signed come back; then it goes on."""
    archive.fill(salted(0))
    path = _evidence(archive) / chain.FILE
    old = path.read_bytes()
    archive.fill(salted(1))
    archive.fill(salted(2))
    path.write_bytes(old)
    archive.fill(salted(3))
    assert [entry["number"] for entry in _entries(archive)] == [1, 2, 3, 4]
    assert verified(archive) == []


def test_entries_of_somebody_else_are_not_taken_into_the_chain(archive: Archive) -> None:
    """A forged continuation in the database stops sealing, with a sentence."""
    archive.fill(salted(0))
    archive.fill(salted(1))
    path = _evidence(archive) / chain.FILE
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    with tampering(archive) as connection:
        table = schema.seal
        connection.execute(table.update().where(table.c.number == 2).values(signature=bytes(64)))
    archive.put(salted(2))
    with pytest.raises(TryLater, match="its key has not signed"):
        archive.load()


def test_a_full_disk_leaves_no_half_entry(archive: Archive, monkeypatch: Any) -> None:
    """What could not be written as a whole is taken back, and the next attempt follows."""
    archive.fill(salted(0))
    path = _evidence(archive) / chain.FILE
    before = path.read_bytes()
    archive.put(salted(1))
    synced = os.fdatasync

    def full(handle: int) -> None:
        if os.readlink(f"/proc/self/fd/{handle}") == str(path):
            raise OSError(28, "No space left on device")
        synced(handle)

    monkeypatch.setattr(os, "fdatasync", full)
    with pytest.raises(TryLater):
        archive.load()
    assert path.read_bytes() == before
    monkeypatch.undo()
    archive.load()
    assert verified(archive) == []


def test_a_relay_finds_old_entries_in_a_long_chain(archive: Archive, monkeypatch: Any) -> None:
    """Beyond those that are in memory, by their place in the file."""
    monkeypatch.setattr(chain, "_RECENT", 2000)
    monkeypatch.setattr(chain, "_MOST_RECENT", 4)
    for number in range(9):
        archive.fill(salted(number))
    found = chain.Chain(_evidence(archive))
    for entry in _entries(archive):
        sealed = found.find(entry["segment"])
        assert sealed is not None
        assert sealed.facts.number == entry["number"]
    assert found.find("01M7Z8HVXD01YS50JNX6KB0XCX-1") is None
