"""`carbonseal archive`: what people type and what they see."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from support.archive import Archive, build_recipient, build_record, build_reverse_path, headers
from support.command_context import call
from support.waiting import wait_until

from carbonseal.milter.archive import writer
from carbonseal.policies.errors import CarbonsealError

EVIL = "\x1b]0;owned\x07\u202eexe.fdp\u202c\nnext line"
JSON_KEYS = (
    "record_id recorded_at relay queue_id message_id reverse_path recipients crossing signatures"
    " archive_recipients author subject client_address login size reasons"
).split()


def answer(archive: Archive, *arguments: str) -> str:
    result = call(archive, *arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def json_lines(archive: Archive, *arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in answer(archive, *arguments, "--json").splitlines()]


@pytest.fixture
def filled(archive: Archive) -> Archive:
    archive.fill(
        build_record(1),
        build_record(
            2,
            reverse_path=build_reverse_path(""),
            recipients=[build_recipient("bob@partner.example"), build_recipient("x@b.example")],
            header_fields=headers(Subject="Résumé of everything", From="carol@example.com"),
            signatures=[],
            crossing="inbound",
            login=None,
        ),
        build_record(3, seconds=86_400, header_fields=[["Subject", f" {EVIL}"]]),
    )
    return archive


def test_json_lines_carry_what_is_promised(filled: Archive) -> None:
    """Programs find every promised key, in every record."""
    found = json_lines(filled, "search")
    assert [one["queue_id"] for one in found] == ["4XYZ3", "4XYZ2", "4XYZ1"]
    for one in found:
        assert one.keys() >= set(JSON_KEYS)
    assert found[1]["reverse_path"] == ""
    assert found[1]["recipients"] == ["bob@partner.example", "x@b.example"]
    assert found[2]["signatures"][0]["sdid"] == "example.com"


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["search", "header.x-case:seven"], id="search"),
        pytest.param(["search", "--count", "header.x-case:seven"], id="count"),
        pytest.param(["stats", "header.x-case:seven before:2031-01-01"], id="stats"),
        pytest.param(["hold", "case", "header.x-case:seven"], id="hold"),
        pytest.param(["export", "{}/bundle", "header.x-case:seven"], id="export"),
    ],
)
def test_fields_that_are_configured_answer_on_their_own(
    archive: Archive, tmp_path: Path, arguments: list[str]
) -> None:
    """What the writer was told to index is an index for whoever asks; else a period is needed."""
    archive.put(build_record(1, header_fields=headers(X_Case="seven")), build_record(2))
    names = frozenset({"x-case"})
    writer.run_once(
        archive.spool_directory, archive.database_url, indexed=names, report=archive.report
    )
    asked = [one.format(tmp_path) for one in arguments]
    assert "no index answers" in str(call(archive, *asked).exception)
    found = call(archive, *asked, index_headers=names)
    assert found.exit_code == 0, found.output


SEARCHES = [
    pytest.param(["--from", "ALICE@example.com"], "13", id="from"),
    pytest.param(["--recipient", "<x@b.example>"], "2", id="recipient-in-brackets"),
    pytest.param(["--participant", "carol@example.com"], "2", id="participant"),
    pytest.param(["--domain", "B.Example."], "2", id="domain"),
    pytest.param(["--domain", ".b.example"], "2", id="subdomains"),
    pytest.param(["--message-id", "<1.report@example.com>"], "1", id="message-id"),
    pytest.param(["--message-id", "1.report@example.com"], "1", id="message-id-bare"),
    pytest.param(["--queue-id", "4XYZ2"], "2", id="queue-id"),
    pytest.param(["--subject", "resume EVERYTHING"], "2", id="subject"),
    pytest.param(["--subject", "resume", "--subject", "of"], "2", id="subject-twice"),
    pytest.param(["--client", "192.0.2.0/24"], "123", id="network"),
    pytest.param(["--client", "192.0.2.7/24", "--login", "Alice"], "13", id="client-and-login"),
    pytest.param(["--crossing", "inbound"], "2", id="crossing"),
    pytest.param(["--signed"], "13", id="signed"),
    pytest.param(["--unsigned"], "2", id="unsigned"),
    pytest.param(["--until", "2026-11-21"], "12", id="until-the-end-of-a-day"),
    pytest.param(["--since", "2026-11-22"], "3", id="since"),
    pytest.param(["--since", "2026-11-21T05:00:02Z"], "23", id="since-utc"),
    pytest.param(["--since", "2026-11-21T06:00:02+01:00"], "23", id="since-with-zone"),
    pytest.param(["--sender", "ALICE@example.com"], "13", id="sender"),
    pytest.param(["--author", "carol@example.com"], "2", id="author"),
    pytest.param(["--to", "@b.example"], "2", id="domain-of-a-recipient"),
    pytest.param(["--rcpt", "bob@partner.example"], "123", id="rcpt"),
    pytest.param(["--rcpt", "x@b.example", "--with-extensions"], "2", id="with-extensions"),
    pytest.param(["--header", "Subject:Quarterly report 1", "--signed"], "1", id="header"),
    pytest.param(["--relay", "mx1.example.com", "--since", "2026"], "123", id="relay"),
    pytest.param(["--size", "<=1202", "--since", "2026-11"], "123", id="size"),
    pytest.param(["to:@b.example"], "2", id="query"),
    pytest.param(["from:@example.com", "NOT", "signed:no"], "13", id="query-in-pieces"),
    pytest.param(["subject:quarterly report", "login:alice"], "1", id="quotes-that-the-shell-took"),
    pytest.param(["quarterly OR resume", "--unsigned"], "2", id="query-and-option"),
    pytest.param(["after:2026-11-22", "--until", "2026-11-30"], "3", id="periods-of-both"),
    pytest.param(["--limit", "1"], "3", id="limit"),
    pytest.param(["--limit", "1", "--all"], "123", id="all"),
]


@pytest.mark.parametrize(("options", "numbers"), SEARCHES)
def test_each_option_finds(filled: Archive, options: list[str], numbers: str) -> None:
    """Options mean what their help says."""
    found = json_lines(filled, "search", *options)
    assert sorted(one["queue_id"][-1] for one in found) == sorted(numbers)


def test_the_cursor_leads_to_the_next_page(filled: Archive) -> None:
    """A full page names the cursor of the next one, on standard error."""
    seen = []
    cursor: list[str] = []
    for _ in range(3):
        result = call(filled, "search", "--limit", "1", "--json", *cursor)
        seen.append(json.loads(result.stdout)["queue_id"])
        cursor = result.stderr.split(":", 1)[1].split()
    assert seen == ["4XYZ3", "4XYZ2", "4XYZ1"]
    assert answer(filled, "search", "--json", *cursor) == ""


@pytest.mark.parametrize("output_format", ["table", "csv"])
def test_a_message_cannot_play_with_the_terminal(filled: Archive, output_format: str) -> None:
    """Escape sequences, line ends and bidi overrides come out as visible text."""
    for command in (["search"], ["show", "4XYZ3"]):
        text = answer(filled, *command, "--format", output_format)
        assert "owned" in text
        assert not set(text) & set("\x1b\x07\u202e\u202c")


def test_json_is_exact(filled: Archive) -> None:
    """What a table escapes, JSON repeats exactly."""
    [shown] = json_lines(filled, "show", "4XYZ3")
    assert shown["header_fields"] == [["Subject", f" {EVIL}"]]


def test_a_table_says_what_matters(filled: Archive) -> None:
    """Who, to whom, what, which way, whether signed and copied; wide cells are cut."""
    text = answer(filled, "search", "--queue-id", "4XYZ1")
    for part in (
        "2026-11-21T05:00:01",
        "outbound",
        "alice@example.com",
        "bob@partner.example",
        "Quarterly report 1",
    ):
        assert part in text
    assert text.splitlines()[-2].split()[-2:] == ["yes", "yes"]
    assert "<>" in answer(filled, "search", "--queue-id", "4XYZ2")


def test_csv_has_one_line_per_record(filled: Archive) -> None:
    """A head line and a line per record, whatever the subject holds."""
    head, *lines = csv.reader(io.StringIO(answer(filled, "search", "--format", "csv")))
    assert len(lines) == 3
    assert lines[2][head.index("signed_by")] == "example.com/s2026"


def test_show_tells_the_whole_record(filled: Archive) -> None:
    """Envelope, reasons and header fields stand in the table, the exact record in JSON."""
    text = answer(filled, "show", "4XYZ1")
    for part in ("<alice@example.com>", "SIZE=1202", "origin-login(alice)", "Alice <alice@"):
        assert part in text
    [shown] = json_lines(filled, "show", "4XYZ1")
    assert shown.pop("delivery")["log"] == "unfollowed"
    assert shown == build_record(1) | {"record_id": shown["record_id"]}


def test_counts(filled: Archive) -> None:
    """Counts by day, crossing and domain, narrowed by a search."""
    since = ("--since", "2026-11-01")
    assert [(one["day"], one["messages"]) for one in json_lines(filled, "stats", *since)] == [
        ("2026-11-22", 1),
        ("2026-11-21", 2),
    ]
    by_crossing = json_lines(filled, "stats", "--by", "direction", *since)
    assert {one["crossing"]: one["signed"] for one in by_crossing} == {"inbound": 0, "outbound": 2}
    by_domain = json_lines(filled, "stats", "--by", "domain", *since)
    assert by_domain[0]["domain"] == "partner.example"
    [by_login] = json_lines(filled, "stats", "--by", "login", "report", *since)
    assert (by_login["login"], by_login["messages"]) == ("alice", 1)
    assert len(json_lines(filled, "stats", "--by", "domain", "--top", "1", *since)) == 1


def test_a_count_has_no_limit(filled: Archive) -> None:
    """--count says how many there are, not how many would be shown."""
    assert json_lines(filled, "search", "--count", "--limit", "1") == [{"records": 3}]
    assert json_lines(filled, "search", "--count", "crossing:inbound") == [{"records": 1}]


def test_bars_are_drawn(filled: Archive, tmp_path: Path) -> None:
    """In the terminal, and as files; a subject or login in a label is no markup."""
    since = ("--since", "2026-11-01")
    lines = answer(filled, "stats", "--plot", *since).splitlines()
    assert [line.split()[0] for line in lines] == ["2026-11-21", "2026-11-22"]
    assert lines[0].count("█") > lines[1].count("█") > 0
    for name in ("days.svg", "days.png"):
        answer(filled, "stats", "--plot", str(tmp_path / name), *since)
    picture = (tmp_path / "days.svg").read_text("utf-8")
    assert ElementTree.fromstring(picture).tag.endswith("svg")
    assert "2026-11-22" in picture
    assert (tmp_path / "days.png").read_bytes().startswith(b"\x89PNG")


def test_every_question_stands_in_the_audit_before_its_answer(filled: Archive) -> None:
    """Who searched, showed, counted and traced, for which case, and how much was given."""
    for command in (
        ["search", "from:alice@example.com", "--limit", "1"],
        ["search", "--count", "from:alice@example.com"],
        ["show", "4XYZ1"],
        ["stats"],
        ["trace", "4XYZ1"],
    ):
        answer(filled, *command, "--json", "--reason", "case 7")
    events = json_lines(filled, "audit", "--all")[:0:-1]
    assert [one["action"] for one in events[::2]] == ["search", "search", "show", "stats", "trace"]
    assert {one["reason"] for one in events} == {"case 7"}
    asked, answered = events[:2]
    assert asked["detail"]["where"] == {"from": "alice@example.com"}
    assert (answered["action"], answered["detail"]["given"]) == ("answered", 1)
    assert events[3]["detail"]["count"] == 2


def test_without_a_reason_there_may_be_no_answer(filled: Archive) -> None:
    """Where a reason is demanded, none of the commands answers without one."""
    for command in (["search"], ["show", "4XYZ1"], ["stats"], ["trace", "4XYZ1"]):
        result = call(filled, *command, require_reason=True)
        assert isinstance(result.exception, CarbonsealError)
        assert result.stdout == ""


BAD_INPUT = [
    pytest.param(["search", "--since", "yesterday"], "--since", id="date"),
    pytest.param(["search", "--since", "2026-13-01"], "--since", id="no-such-month"),
    pytest.param(["search", "--until", "9999-12-31"], "--until", id="beyond-all-time"),
    pytest.param(
        ["search", "--since", "2026-02-01", "--until", "2026-01-01"], "not before", id="swapped"
    ),
    pytest.param(["search", "--from", "not an address"], "address", id="address"),
    pytest.param(["search", "--recipient", ""], "", id="empty-address"),
    pytest.param(["search", "--domain", "a..b"], "a..b", id="domain"),
    pytest.param(["search", "--domain", "."], "", id="only-a-dot"),
    pytest.param(["search", "--client", "300.1.1.1"], "--client", id="client"),
    pytest.param(["search", "--cursor", "12345"], "--cursor", id="cursor"),
    pytest.param(["search", "--message-id", "<>"], "--message-id", id="message-id"),
    pytest.param(["search", "--subject", "%%%"], "--subject", id="wildcards-only"),
    pytest.param(
        ["search", "--subject", " ".join(map(str, range(10_000)))], "--subject", id="10000-words"
    ),
    pytest.param(["search", "from:"], "from:", id="query-without-a-value"),
    pytest.param(["search", "size:>1M"], "no index", id="no-index"),
    pytest.param(["search", "--header", "list-id"], "--header", id="header-without-a-value"),
    pytest.param(
        ["search", "after:2026-02-01 before:2026-01-01"], "before it begins", id="query-swapped"
    ),
    pytest.param(["stats", "--plot", "picture.bmp"], "picture.bmp", id="no-picture"),
    pytest.param(["stats", "--plot", "/nowhere/a.svg"], "/nowhere/a.svg", id="no-place"),
    pytest.param(["trace", "4XYZ9"], "4XYZ9", id="nothing-to-trace"),
    pytest.param(["trace", ""], "archive search", id="trace-of-nothing"),
    pytest.param(["show", "4XYZ9"], "4XYZ9", id="no-such-record"),
]


@pytest.mark.parametrize(("arguments", "place"), BAD_INPUT)
def test_bad_input_is_one_sentence(filled: Archive, arguments: list[str], place: str) -> None:
    """The sentence names the place; the exit status is that of bad data."""
    result = call(filled, *arguments)
    assert isinstance(result.exception, CarbonsealError), result.output
    assert result.exception.exit_code == 65
    assert place in str(result.exception)
    assert "\n" not in str(result.exception)
    assert len(str(result.exception)) < 400


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["search", "--crossing", "sideways"], id="crossing"),
        pytest.param(["search", "--limit", "0"], id="limit"),
        pytest.param(["stats", "--by", "moon"], id="by"),
        pytest.param(["search", "--format", "xml"], id="format"),
        pytest.param(["show"], id="nothing-to-show"),
    ],
)
def test_bad_usage_is_told_by_click(filled: Archive, arguments: list[str]) -> None:
    """Wrong options are usage errors that name the option."""
    result = call(filled, *arguments)
    assert result.exit_code == 2
    assert "Usage:" in result.stderr


@pytest.mark.parametrize("command", [["search"], ["show", "x"], ["stats"], ["trace", "x"]])
def test_without_a_database_there_is_a_sentence(archive: Archive, command: list[str]) -> None:
    """Nothing is created by asking."""
    result = call(archive, *command)
    assert isinstance(result.exception, CarbonsealError)
    assert "no archive database" in str(result.exception)
    assert not archive.file.exists()


def test_write_once_loads_and_says_how_many(archive: Archive) -> None:
    """One pass over the spool, then the end."""
    archive.put(build_record(1), build_record(2))
    assert "2 records loaded" in answer(archive, "write", "--once")
    assert len(json_lines(archive, "search")) == 2


FOREGROUND = """
import sys
from pathlib import Path
from types import SimpleNamespace
from carbonseal.milter.archive import commands
from carbonseal.milter.archive.evidence.settings import Settings
commands.archive(["write"], obj=SimpleNamespace(
    spool_directory=Path(sys.argv[1]), database_url=sys.argv[2], keep_loaded=None,
    index_headers=frozenset({"list-id"}), evidence=Settings(Path(sys.argv[1]) / "evidence")))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_write_stops_cleanly(archive: Archive, number: signal.Signals) -> None:
    """TERM and INT end the foreground writer with status 0 after what it has."""
    archive.put(build_record(1))
    process = subprocess.Popen(
        [sys.executable, "-c", FOREGROUND, archive.spool_directory, archive.database_url]
    )
    wait_until(lambda: any(archive.spool_directory.glob("loaded/*")), "the load", 60)
    os.kill(process.pid, number)
    assert process.wait(60) == 0
    assert len(json_lines(archive, "search")) == 1
