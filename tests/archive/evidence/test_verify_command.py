"""`carbonseal archive verify`: what people type, what they see, and the exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from sqlalchemy import delete, select, update
from support import bundles, command_context
from support.archive import START, Archive
from support.evidence import salted, tampering

from carbonseal.milter.archive import audit, schema
from carbonseal.policies.errors import CarbonsealError, NotFound

HOUR = 3600


def call(archive: Archive, *arguments: str) -> Result:
    return command_context.call(archive, "verify", *arguments)


@pytest.fixture
def filled(archive: Archive) -> Archive:
    """Three segments, an hour from one to the next."""
    for number in range(3):
        archive.fill(
            salted(number, seconds=number * HOUR), salted(10 + number, seconds=number * HOUR + 1)
        )
    return archive


def _head(archive: Archive) -> str:
    heads: dict[str, str] = json.loads(call(archive, "--json").stdout)["heads"]
    return heads["mx1.example.com"]


def _change(archive: Archive, number: int) -> str:
    """Change a record; returns its id."""
    with tampering(archive) as connection:
        query = select(schema.message.c.record_id).order_by(schema.message.c.record_id)
        record_id: str = list(connection.execute(query).scalars())[number]
        row = schema.message.c.record_id == record_id
        connection.execute(update(schema.message).where(row).values(size=5))
    return record_id


def test_all_true_is_status_0_and_says_what_it_was_held_against(filled: Archive) -> None:
    """And prints the head, to be noted elsewhere."""
    result = call(filled)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "all true"
    assert lines[1] == "6 records of 6 lines in 3 sealed segments"
    assert "3 segments in" in lines[2]
    assert lines[3].startswith("head of mx1.example.com: 3:")


def test_something_false_is_status_1_and_a_line_each(filled: Archive) -> None:
    """What, where, and which record."""
    record_id = _change(filled, 3)
    result = call(filled)
    assert result.exit_code == 1
    [line] = [one for one in result.stdout.splitlines() if one.startswith("changed: ")]
    assert "facts (body_size, size)" in line  # of which one is reckoned from the other
    assert record_id in line
    assert "1 finding" in result.stdout


def test_many_findings_are_named_up_to_a_bound_and_counted(filled: Archive) -> None:
    """The others are not lost: --most says how many lines there are."""
    with tampering(filled) as connection:
        connection.execute(update(schema.message).values(size=7))
    result = call(filled, "--most", "2")
    assert len([one for one in result.stdout.splitlines() if one.startswith("changed")]) == 2
    assert "... and 4 more" in result.stdout


def test_json_says_the_same(filled: Archive) -> None:
    """One object, with findings that programs can read."""
    record_id = _change(filled, 0)
    said: dict[str, Any] = json.loads(call(filled, "--json").stdout)
    assert said["true"] is False
    assert [one["record_id"] for one in said["findings"]] == [record_id]
    assert said["records"] == 6


@pytest.mark.parametrize(
    ("arguments", "records", "status"),
    [
        pytest.param(["--until", "2026-11-21T05:30Z"], 2, 0, id="before-the-change"),
        pytest.param(["--since", "2026-11-21T05:30Z"], 4, 1, id="with-the-change"),
        pytest.param(["--since", "2026-11-21T06:30Z"], 2, 0, id="after-the-change"),
        pytest.param(["--relay", "mx1.example.com"], 6, 1, id="its-relay"),
    ],
)
def test_a_period_or_a_relay_can_be_picked(
    filled: Archive, arguments: list[str], records: int, status: int
) -> None:
    """Segments are looked at as a whole: those that reach into the period."""
    assert START == 1_795_237_200  # 2026-11-21T05:00Z
    _change(filled, 2)
    result = call(filled, "--json", *arguments)
    assert (json.loads(result.stdout)["records"], result.exit_code) == (records, status)


def test_a_relay_of_which_nothing_is_there_is_not_called_true(filled: Archive) -> None:
    """Nothing false was found, because nothing was looked at."""
    result = call(filled, "--relay", "mx2.example.com")
    assert isinstance(result.exception, NotFound)
    assert "mx2.example.com" in result.exception.sentence


def test_a_noted_head_has_to_be_there(filled: Archive) -> None:
    """It is, and it was not before; and a wrong one never was."""
    head = _head(filled)
    filled.fill(salted(50))
    assert call(filled, "--expect", head).exit_code == 0
    assert call(filled, "--expect", f"mx1.example.com={head}").exit_code == 0
    for wrong in (f"9:{head[2:]}", f"3:{'0' * 64}", f"mx7={head}"):
        assert call(filled, "--expect", wrong).exit_code == 1, wrong
    with pytest.raises(CarbonsealError, match="is no head of a chain"):
        raise call(filled, "--expect", "yesterday").exception or AssertionError


def test_a_noted_head_of_the_audit_has_to_be_there(filled: Archive) -> None:
    """Else its end could be cut off back to the newest seal, and nobody would see it."""
    head = json.loads(call(filled, "--json").stdout)["audit_head"]
    assert f"head of the audit: {head}" not in call(filled).stdout  # this one came after it
    result = call(filled, "--expect-audit", head)
    assert result.exit_code == 0
    assert "the heads given with --expect-audit" in result.stdout
    with audit.opened(filled.database_url) as engine, engine.begin() as connection:
        connection.execute(delete(schema.audit))
    assert call(filled).exit_code == 0
    result = call(filled, "--expect-audit", head)
    assert result.exit_code == 1
    assert "audit: event 1 is not the event that was there" in result.stdout
    with pytest.raises(CarbonsealError, match="is no head of the audit"):
        raise call(filled, "--expect-audit", "0:").exception or AssertionError


def test_the_relays_public_key_can_be_demanded(filled: Archive, tmp_path: Path) -> None:
    """With that of another relay everything is foreign."""
    from carbonseal.keys import evidence_key  # noqa: PLC0415

    own = filled.spool_directory / "evidence" / evidence_key.PUBLIC
    assert call(filled, "--public-key", str(own)).exit_code == 0
    other = tmp_path / "other"
    other.mkdir()
    evidence_key.publish(other, evidence_key.make(other))
    result = call(filled, "--public-key", str(other / evidence_key.PUBLIC))
    assert result.exit_code == 1
    assert "foreign key" in result.stdout


def test_it_stands_in_the_audit_with_what_it_found(filled: Archive) -> None:
    """Before it began, and afterwards with counts and heads."""
    call(filled, "--reason", "yearly review")
    with audit.opened(filled.database_url) as engine:
        answered, asked = list(audit.events(engine))[:2]
    assert (asked.action, asked.reason) == ("verify", "yearly review")
    assert answered.facts["findings"] == 0
    assert answered.facts["heads"].keys() == {"mx1.example.com"}


def test_a_bundle_is_checked_without_database_and_configuration(
    filled: Archive, tmp_path: Path
) -> None:
    """By the real command, where there is neither."""
    bundle = bundles.export(filled, tmp_path / "case7")
    filled.close()
    filled.file.unlink()
    command = [str(Path(sys.executable).parent / "carbonseal"), "--config", "/nonexistent"]
    checked = [*command, "archive", "verify", "--bundle", str(bundle), "--json"]
    done = subprocess.run(checked, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr + done.stdout
    said = json.loads(done.stdout)
    assert (said["records"], said["proven"]) == (6, 6)
    records = bundle / "records.jsonl"
    records.write_bytes(records.read_bytes().replace(b'"size":1202', b'"size":1203', 1))
    done = subprocess.run(checked, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 1
    assert json.loads(done.stdout)["findings"]


def test_a_missing_archive_is_no_all_true(filled: Archive) -> None:
    """It could not look, and says so."""
    filled.close()
    filled.file.unlink()
    result = call(filled)
    assert isinstance(result.exception, CarbonsealError)
    assert result.exception.exit_code == 75


def test_an_archive_without_any_record_is_true(archive: Archive) -> None:
    """And so is one whose only records are not sealed yet."""
    spooled = archive.put(salted(0, seconds=4_000_000_000 - START), is_closed=False)
    archive.load()
    result = call(archive)
    assert result.exit_code == 0, result.output
    assert "1 is so new that it is not sealed yet" in result.stdout
    spooled.close()


def test_a_record_that_was_never_sealed_is_named_after_a_day(archive: Archive) -> None:
    """Nobody has closed its segment: its writer is gone, or somebody has put it in."""
    spooled = archive.put(salted(0, seconds=-400 * 86400), is_closed=False)
    archive.load()
    result = call(archive)
    assert result.exit_code == 1
    assert "of a segment that was never sealed" in result.stdout
    spooled.close()


def test_a_deleted_seal_leaves_records_without_evidence(filled: Archive) -> None:
    """The gap is named, and the records that have lost their seal."""
    with tampering(filled) as connection:
        connection.execute(delete(schema.seal).where(schema.seal.c.number == 1))
    result = call(filled)
    assert result.exit_code == 1
    assert "removed: seal 1 of the chain is missing" in result.stdout
