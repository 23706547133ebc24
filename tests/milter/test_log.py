"""Log lines: one line each, whatever is in the values."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbonseal.milter import log
from carbonseal.milter.archive.message_lines import WordForm, of


def written(capsys: pytest.CaptureFixture[str], level: str = "info", **facts: object) -> str:
    """The canonical line of a message with these facts."""
    made: Any = namedtuple("made", facts)  # type: ignore[misc]
    form = WordForm("sealed", level, {key: of(getattr(made, key)) for key in facts})
    log.message(log.prepared(form, made(**facts)), 0.0015)
    return capsys.readouterr().err


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("a\nb", id="line-end-between-plain-words"),
        pytest.param("\n", id="line-end-alone"),
        pytest.param("a b", id="space"),
        pytest.param('a"b', id="quote"),
        pytest.param("a=b", id="equals-sign"),
        pytest.param("a\\b", id="backslash"),
        pytest.param("\x1b[31m", id="escape"),
        pytest.param("\u2028", id="unicode-line-separator"),
        pytest.param("\udcff", id="octet-that-is-no-text"),
    ],
)
def test_a_value_cannot_break_out_of_its_line(
    value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line of printable ASCII, with the value quoted as JSON does."""
    log.configure(form="text", level="info")
    line = written(capsys, plain="x", odd=value, empty="")
    assert line.endswith("\n")
    assert line[:-1].isascii()
    assert line[:-1].isprintable()
    assert f' plain=x odd={json.dumps(value)} empty="" ms=1.5\n' in line


@given(values=st.lists(st.text(max_size=8), min_size=1, max_size=5))
def test_values_can_be_read_back(values: list[str]) -> None:
    """Quoting one value does not change how the others read."""
    event = {"timestamp": "t", "level": "info", "event": "x"}
    event |= {f"key{number}": value for number, value in enumerate(values)}
    line = log._text_line(None, "", dict(event))
    assert line.isascii()
    assert line.isprintable()
    for number, (pair, value) in enumerate(zip(_pairs(line), values, strict=True)):
        key, _, text = pair.partition("=")
        assert key == f"key{number}"
        assert (json.loads(text) if text.startswith('"') else text) == value


def _pairs(line: str) -> list[str]:
    pairs: list[str] = []
    text = line.removeprefix("t info x ")
    while text:
        key, _, rest = text.partition("=")
        if rest.startswith('"'):
            _, end = json.JSONDecoder().raw_decode(rest)
        else:
            end = len(rest.partition(" ")[0])
        pairs.append(f"{key}={rest[:end]}")
        text = rest[end + 1 :]
    return pairs


def test_less_important_lines_can_be_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    """log.level: warning leaves the refusals and drops the rest."""
    log.configure(form="text", level="warning")
    assert written(capsys) == ""
    assert " error sealed ms=1.5" in written(capsys, "error")


def test_json_lines_hold_the_same_facts(capsys: pytest.CaptureFixture[str]) -> None:
    """One object per line."""
    log.configure(form="json", level="info")
    said = json.loads(written(capsys, queue_id="4X", size=7))
    assert (said["event"], said["level"], said["queue_id"], said["size"]) == (
        "sealed",
        "info",
        "4X",
        7,
    )


def test_a_fault_that_lasts_is_said_once_until_it_changes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What is tried every second does not fill the log; a new number or the next time is news."""
    log.configure(form="json", level="info")
    faults = log.Recurring("tend")

    def tried(number: int, name: str) -> None:
        try:
            raise OSError(number, "no", name)
        except OSError as fault:
            faults.failed(fault)

    for name in ("a", "b", "c"):
        tried(5, name)
    tried(28, "d")
    tried(28, "e")
    faults.succeeded()
    tried(28, "f")
    said = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["text"][-3:] for line in said] == ["'a'", "'d'", "'f'"]
    assert {line["where"] for line in said} == {"tend"}


# A limit on the size of a file ends a line as a full disk does: a part of it is written.
FULL_DISK = """
import os, resource, sys
from carbonseal.milter import log
from carbonseal.milter.archive.message_lines import WordForm, of

def say(text):
    if kind == "message":
        form = WordForm("sealed", "info", {"text": of()})
        log.message(log.prepared(form, text), 0.0015)
    else:
        log.event(kind, text=text)

def leave_room(octets):
    limit = os.fstat(2).st_size + octets
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

kind, form, stream = sys.argv[1:]
if stream == "program":
    from carbonseal.milter import cli
    cli._open_standard_streams()
log.configure(form=form, level="info")
say("before")
leave_room(30)
say("torn")
say("lost")
leave_room(1)
say("after-an-octet")
leave_room(10_000)
say("whole")
say("last")
"""


@pytest.mark.parametrize("stream", ["bare", "program"])
@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("kind", ["message", "event"])
def test_after_a_line_that_a_full_disk_cut_the_next_one_begins_anew(
    kind: str, form: str, stream: str, tmp_path: Path
) -> None:
    """Whoever reads the log misses what could not be written, and nothing of what could."""
    with open(tmp_path / "log", "wb") as file:
        command = [sys.executable, "-c", FULL_DISK, kind, form, stream]
        subprocess.run(command, stderr=file, check=True, timeout=60)
    before, torn, *lines = (tmp_path / "log").read_text().splitlines()
    assert len(torn) == 30
    assert torn[:4] == before[:4]
    assert [
        text
        for text in ("before", "torn", "lost", "after", "whole", "last")
        if any(text in line for line in lines)
    ] == ["whole", "last"]
    assert len(lines) == 2
    assert all(line[:4] == before[:4] for line in lines)
