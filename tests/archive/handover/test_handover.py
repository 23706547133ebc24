"""From one archive into another by way of a bundle."""

from __future__ import annotations

import csv
import gzip
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from support import bundles, mariadb, postgresql
from support.archive import (
    Archive,
    Record,
    build_recipient,
    build_record,
    build_reverse_path,
    headers,
)

from carbonseal.milter.archive import audit, database, schema
from carbonseal.milter.archive.handover import manifest
from carbonseal.policies.errors import CarbonsealError, DataError, TryLater, UsageError

RIGHT_TO_LEFT = "\u202eشحنة سرية\u202c \u05e9\u05dc\u05d5\u05dd"


@pytest.fixture
def other_archive(engine_name: str, tmp_path: Path) -> Iterator[Archive]:
    """A second archive on the same engine, empty."""
    directory = tmp_path / "other"
    directory.mkdir()
    if engine_name == "sqlite":
        made = Archive(directory)
        yield made
        made.close()
        return
    server = postgresql.shared() if engine_name == "postgresql" else mariadb.shared()
    name = server.create_database()
    made = Archive(directory, server.url(name))
    made.load()  # its tables
    yield made
    made.close()
    server.drop_database(name)


def strange_records() -> list[Record]:
    """What breaks databases, tables and JSON."""
    fields = headers(Subject=f"{RIGHT_TO_LEFT} \x00 \udcff\udc80", From="\udce9@example.com")
    return [
        build_record(0),
        build_record(1, header_fields=fields, login="al\x00ice", queue_id="4X\udcffYZ"),
        build_record(
            2,
            header_fields=[["Message-ID", f" <{'m' * 12_000}@example.com>"], ["Subject", "\x7f"]],
        ),
        build_record(
            3,
            recipients=[build_recipient(f"user{number}@partner.example") for number in range(5000)],
        ),
        build_record(
            4, header_fields=[[f"X-Field-{number}", f" {number}"] for number in range(1000)]
        ),
        build_record(5, reverse_path=build_reverse_path(""), salt=None, retention=None),
        build_record(6, salt="not of our making", size=2**62),
        old_record(7),
        build_record(8, header_fields=[["Subject", "=HYPERLINK(0)"]], header_count=0),
        build_record(9, client=build_record()["client"] | {"helo": "a\x00b"}, later_key=[1, None]),
    ]


def old_record(number: int) -> Record:
    content = build_record(number, v=1)
    for key in ("salt", "retention", "bcc_maps"):
        del content[key]
    return content


@pytest.mark.parametrize("name", ["bundle", "bundle.tar"])
def test_records_come_through_octet_by_octet(
    any_archive: Archive, other_archive: Archive, tmp_path: Path, name: str
) -> None:
    """Exported, imported and exported again they are the same, on every engine."""
    given = strange_records()
    any_archive.fill(*given)
    first = bundles.export(any_archive, tmp_path / name, "--all", "--format", "both")
    assert bundles.findings(first) == []
    result = bundles.call(other_archive, "import", str(first))
    assert result.exit_code == 0, result.exception
    assert other_archive.load() == len(given)
    plain = bundles.export(any_archive, tmp_path / "plain")
    second = bundles.export(other_archive, tmp_path / "second")
    assert bundles.lines(second, manifest.RECORDS) == given[::-1]
    for bundle in (second, plain):
        assert (bundle / manifest.RECORDS).read_bytes() == (plain / manifest.RECORDS).read_bytes()
    assert bundles.findings(second) == []


def test_importing_twice_changes_nothing(
    any_archive: Archive, other_archive: Archive, tmp_path: Path
) -> None:
    """Records that are there already are passed over, whatever their number."""
    any_archive.fill(*(build_record(number) for number in range(3)))
    path = bundles.export(any_archive, tmp_path / "bundle")
    for loaded in (3, 0):
        assert bundles.call(other_archive, "import", str(path)).exit_code == 0
        assert other_archive.load() == loaded
    assert bundles.call(any_archive, "import", str(path)).exit_code == 0
    assert any_archive.load() == 0


def test_a_query_says_what_is_exported(archive: Archive, tmp_path: Path) -> None:
    """Query and options are those of search; the manifest keeps what was asked, and by whom."""
    archive.fill(
        build_record(1),
        build_record(2, recipients=[build_recipient("carol@other.example")]),
        build_record(3, crossing="inbound"),
    )
    path = bundles.export(
        archive, tmp_path / "b", "rcpt:bob@partner.example", "--crossing", "outbound",
        "--reason", "case 7",
    )  # fmt: skip
    [found] = bundles.lines(path, manifest.RECORDS)
    assert found["queue_id"] == "4XYZ1"
    said = manifest.parse((path / manifest.MANIFEST).read_bytes())
    assert said.query["where"] == {
        "all": [{"rcpt": "bob@partner.example"}, {"crossing": "outbound"}]
    }
    assert (said.records, said.reason, said.relays) == (1, "case 7", ("mx1.example.com",))
    assert said.config_versions == ("0123456789ab",)
    assert said.first_record_id == said.last_record_id == found["record_id"]


def test_nothing_found_is_a_bundle_of_nothing(archive: Archive, tmp_path: Path) -> None:
    """That there was nothing is an answer, and can be checked."""
    archive.fill(build_record(1))
    path = bundles.export(archive, tmp_path / "b", "from:nobody@example.com")
    assert bundles.findings(path) == []
    assert bundles.lines(path, manifest.RECORDS) == []


def test_more_pages_than_one_come_in_order(archive: Archive, tmp_path: Path) -> None:
    """Newest first, none twice, from several segments."""
    for start in (0, 300):
        archive.fill(*(build_record(number) for number in range(start, start + 300)))
    path = bundles.export(archive, tmp_path / "b.tar")
    assert bundles.findings(path) == []
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    subprocess.run(["tar", "-xf", path, "-C", unpacked], check=True)
    numbers = [one["queue_id"] for one in bundles.lines(unpacked, manifest.RECORDS)]
    assert numbers == [f"4XYZ{number}" for number in range(599, -1, -1)]


def test_what_is_exported_stands_in_the_audit(archive: Archive, tmp_path: Path) -> None:
    """The question before, the digest of the manifest after, the number in the manifest."""
    archive.fill(build_record(1))
    path = bundles.export(archive, tmp_path / "b", "--all", "--reason", "case 7")
    with audit.opened(archive.database_url) as engine:
        answered, asked = audit.events(engine)
    said = manifest.parse((path / manifest.MANIFEST).read_bytes())
    assert (asked.action, asked.reason, asked.facts["to"]) == ("export", "case 7", str(path))
    assert said.audit == {"number": asked.number, "digest": asked.digest.hex()}
    assert answered.facts["given"] == 1
    assert bundles.findings(path, manifest_sha256=answered.facts["manifest_sha256"]) == []


def test_without_an_audit_nothing_is_exported(archive: Archive, tmp_path: Path) -> None:
    """An audit that cannot be written stops the export before a record is read."""
    archive.fill(build_record(1))
    audit.audit_file(archive.file).write_bytes(b"this is no database, and has no room for rows\n")
    result = bundles.call(archive, "export", str(tmp_path / "b"), "--all")
    assert isinstance(result.exception, audit.AuditUnusable)
    assert not (tmp_path / "b").exists()


def test_the_table_is_no_danger_to_a_spreadsheet(archive: Archive, tmp_path: Path) -> None:
    """No cell is a formula; the exact text is in records.jsonl."""
    evil = ["=1+1", "+1", "-1", "@SUM(1)", "\t=1"]
    archive.fill(
        *(
            build_record(
                number,
                header_fields=headers(Subject=text, From=f'"{text}" <x@example.com>'),
                login=text,
            )
            for number, text in enumerate(evil)
        )
    )
    path = bundles.export(archive, tmp_path / "b", "--all", "--format", "csv")
    with open(path / manifest.TABLE, newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(evil)
    for row in rows:
        assert not [cell for cell in row.values() if cell.lstrip().startswith(("=", "+", "-", "@"))]
    assert {one["login"] for one in bundles.lines(path, manifest.RECORDS)} == set(evil)


REFUSED = [
    pytest.param([], "--all", id="everything-by-mistake"),
    pytest.param(["--all", "--max", "2"], "more than 2", id="more-than-allowed"),
    pytest.param(["from:not an address@"], "", id="query-that-means-nothing"),
]


@pytest.mark.parametrize(("arguments", "what"), REFUSED)
def test_what_is_refused_leaves_nothing(
    archive: Archive, tmp_path: Path, arguments: list[str], what: str
) -> None:
    """One sentence, and no trace in the directory."""
    archive.fill(*(build_record(number) for number in range(3)))
    for name in ("b", "b.tar"):
        (tmp_path / "to").mkdir(exist_ok=True)
        result = bundles.call(archive, "export", str(tmp_path / "to" / name), *arguments)
        assert isinstance(result.exception, CarbonsealError), result.output
        assert what in str(result.exception)
        assert os.listdir(tmp_path / "to") == []


@pytest.mark.parametrize("name", ["b.tar.gz", "b.TGZ", "b.zip", "b.tar.zst", "b.xz"])
def test_the_name_of_a_compressed_archive_is_refused(
    archive: Archive, tmp_path: Path, name: str
) -> None:
    """A directory of that name is not what anybody meant; there is none."""
    archive.fill(build_record(1))
    result = bundles.call(archive, "export", str(tmp_path / "to" / name), "--all")
    assert isinstance(result.exception, UsageError)
    assert "ends in .tar and compress the file afterwards" in str(result.exception)
    assert not (tmp_path / "to").exists()


def test_capitals_make_a_tar_file_as_well(archive: Archive, tmp_path: Path) -> None:
    """As they come from other systems."""
    archive.fill(build_record(1))
    assert bundles.call(archive, "export", str(tmp_path / "B.TAR"), "--all").exit_code == 0
    assert tarfile.is_tarfile(tmp_path / "B.TAR")


@pytest.mark.parametrize("command", ["import", "verify"])
def test_a_compressed_bundle_is_said_to_be_one(
    archive: Archive, tmp_path: Path, command: str
) -> None:
    """What is to be done is not guessed from "neither a directory nor a tar file"."""
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(b"octets"))
    path = str(tmp_path / "b.tar.gz")
    arguments = [path, "--dry-run"] if command == "import" else ["--bundle", path]
    result = bundles.call(archive, command, *arguments)
    assert isinstance(result.exception, DataError)
    assert "is compressed; uncompress it first" in str(result.exception)


@pytest.mark.parametrize("name", ["b", "b.tar"])
@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_nothing_is_overwritten(archive: Archive, tmp_path: Path, name: str, kind: str) -> None:
    """What has the name already stays as it is, a dangling link included."""
    archive.fill(build_record(1))
    path = tmp_path / name
    {"file": path.touch, "directory": path.mkdir, "link": lambda: path.symlink_to("nowhere")}[
        kind
    ]()
    result = bundles.call(archive, "export", str(path), "--all")
    assert isinstance(result.exception, UsageError)
    assert "is there already" in str(result.exception)
    assert not list(tmp_path.glob(".*.part"))


def test_a_seal_that_was_damaged_is_a_sentence(archive: Archive, tmp_path: Path) -> None:
    """What proves nothing is not handed over as a proof."""
    archive.fill(build_record(1))
    engine = database.writing_engine(archive.database_url)
    with engine.begin() as connection:
        connection.execute(update(schema.seal).values(entry='{"v":1}'))
    engine.dispose()
    result = bundles.call(archive, "export", str(tmp_path / "b"), "--all")
    assert isinstance(result.exception, DataError)
    assert "archive verify" in str(result.exception)
    assert not (tmp_path / "b").exists()


def test_a_place_that_cannot_be_written_is_a_sentence(archive: Archive, tmp_path: Path) -> None:
    """A directory that is not there, by name."""
    archive.fill(build_record(1))
    result = bundles.call(archive, "export", str(tmp_path / "nowhere" / "b"), "--all")
    assert isinstance(result.exception, TryLater)
    assert "nowhere/b" in str(result.exception)


NO_ROOM = """
import resource, signal, sys
from pathlib import Path
from carbonseal.milter.archive.handover import bundle
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))
try:
    with bundle.being_made(Path(sys.argv[1])) as made:
        files = [made.file("records.jsonl"), made.file("evidence/proofs.jsonl")]
        for _ in range(100):
            for file in files:
                file.write(bytes(100_000))
except bundle.BundleUnwritable as fault:
    print(fault.sentence)
    sys.exit(75)
"""


@pytest.mark.parametrize("name", ["b", "b.tar"])
def test_where_there_is_no_room_nothing_is_left(tmp_path: Path, name: str) -> None:
    """The sentence says so, and the temporary is gone."""
    (tmp_path / "to").mkdir()
    found = subprocess.run(
        [sys.executable, "-c", NO_ROOM, tmp_path / "to" / name],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 75, found.stderr
    assert "nothing was left" in found.stdout
    assert os.listdir(tmp_path / "to") == []


def damage(bundle: Path) -> None:
    content = (bundle / manifest.RECORDS).read_bytes()
    (bundle / manifest.RECORDS).write_bytes(content.replace(b"alice", b"carol"))


def test_a_damaged_bundle_is_not_imported(archive: Archive, tmp_path: Path) -> None:
    """The sentence names the damage; nothing of it is in the spool."""
    archive.fill(*(build_record(number) for number in range(3)))
    path = bundles.export(archive, tmp_path / "b")
    damage(path)
    before = sorted(archive.spool_directory.rglob("*.jsonl"))
    result = bundles.call(archive, "import", str(path))
    assert isinstance(result.exception, DataError)
    assert "nothing was imported" in str(result.exception)
    assert "records.jsonl: was changed" in str(result.exception)
    assert sorted(archive.spool_directory.rglob("*.jsonl")) == before
    with audit.opened(archive.database_url) as engine:
        answered, asked = list(audit.events(engine))[:2]
    assert (asked.action, answered.facts["outcome"]) == ("import", "failed")


def test_a_dry_run_imports_nothing(archive: Archive, tmp_path: Path) -> None:
    """It checks, counts, and says what would be."""
    archive.fill(*(build_record(number) for number in range(3)))
    path = bundles.export(archive, tmp_path / "b")
    before = sorted(archive.spool_directory.rglob("*.jsonl"))
    result = bundles.call(archive, "import", str(path), "--dry-run")
    assert "would put 3 records into the spool" in result.stderr
    assert sorted(archive.spool_directory.rglob("*.jsonl")) == before


def test_imported_records_are_durable_spool_segments(archive: Archive, tmp_path: Path) -> None:
    """They are read like what the milter wrote: checksummed lines, closed by a footer."""
    archive.fill(*(build_record(number) for number in range(700)))
    path = bundles.export(archive, tmp_path / "b")
    (tmp_path / "other").mkdir()
    other = Archive(tmp_path / "other")
    assert bundles.call(other, "import", str(path)).exit_code == 0
    [segment] = other.spool_directory.glob("*.jsonl")
    *lines, footer = segment.read_bytes().splitlines()
    assert len(lines) == json.loads(footer)["footer"]["records"] == 700
    assert other.load() == 700
    assert not [event for event, _ in other.events if event == "record-set-aside"]
    other.close()


@pytest.mark.parametrize("option", [[], ["--format", "both"]])
def test_files_are_for_owner_and_group(archive: Archive, tmp_path: Path, option: list[str]) -> None:
    """Nobody else reads what was handed over."""
    archive.fill(build_record(1))
    for name in ("b", "b.tar"):
        path = bundles.export(archive, tmp_path / name, "--all", *option)
        for one in (path, *path.rglob("*")):
            assert not one.stat().st_mode & 0o007, one
        assert not list(tmp_path.glob(".*"))


def test_a_record_with_an_address_in_the_future_format_is_kept(archive: Archive) -> None:
    """A key that this version does not know goes through like all others."""
    content: dict[str, Any] = build_record(1, later_key={"nested": [1, 2.5, None, "\udcff"]})
    archive.fill(content)
    assert archive.show(content["record_id"]) == content
