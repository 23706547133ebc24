"""Rows for people and for programs: one table, JSON Lines or CSV option for every command.

Promises: `write_rows` takes any iterable; JSON Lines and CSV stream row by row, tables page by
page, so a million rows need no memory.  What mail brings cannot play with a terminal: control
characters and lone surrogates come out escaped in tables and CSV, and JSON is pure ASCII.  Nor
with a spreadsheet: a text in CSV that would be a formula there gets an apostrophe in front, as a
person would type it.  JSON Lines is the exact form.

Rows are mappings from column to str, int, float, bool, None, datetime, list or mapping.  Keys
that are no column appear in JSON only.

See also: the commands of `keys` and of the archive, which share `output_options`.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any, Final, TypeVar

import click
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

FORMATS: Final = ("table", "jsonl", "csv")
_PAGE = 500  # rows of a table that are measured and printed together
_LONGEST = 1500  # of a complaint; what was typed may be longer than any screen
_WIDE = 4096  # columns of a "terminal" that is a file
_WORD = 27  # characters of a time or an id, which are copied as a whole
_NARROWEST = 7  # columns of anything else

# Full-width forms count in spreadsheets of East Asian languages.
_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")

Row = Mapping[str, object]
Command = TypeVar("Command", bound=Callable[..., Any])


def output_options(command: Command) -> Command:
    """Give a click command `--format` and `--json`; it receives `output_format`."""
    command = click.option(
        "--json",
        "output_format",
        flag_value="jsonl",
        help="Short for --format jsonl.",
    )(command)
    return click.option(
        "--format",
        "output_format",
        type=click.Choice(FORMATS),
        default="table",
        show_default=True,
        help="A table for people, JSON Lines or CSV for programs.",
    )(command)


def write_rows(rows: Iterable[Row], columns: Sequence[str], output_format: str) -> int:
    """Print rows on standard output; returns how many there were."""
    if output_format == "jsonl":
        return _write_json(rows)
    if output_format == "csv":
        return _write_csv(rows, columns)
    return _write_tables(rows, columns)


def plain(value: object) -> object:
    """A value as JSON can carry it: times in UTC with Z, sets and tuples as lists."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(str(item) for item in value)
    return value


def cell(value: object, *, precise: bool = True) -> str:
    """A value as text that is safe on a terminal; lists joined by spaces.

    Times are in UTC, to the second if not `precise`.
    """
    if isinstance(value, datetime) and not precise:
        value = value.replace(microsecond=0)
    shown = plain(value)
    if shown is None:
        return ""
    if isinstance(shown, bool):
        return "yes" if shown else "no"
    if isinstance(shown, list) and all(isinstance(item, str) for item in shown):
        shown = " ".join(shown)
    if isinstance(shown, (list, dict)):
        shown = json.dumps(shown)
    return escape(str(shown))


def escape(text: str) -> str:
    """Control characters, line ends and lone surrogates as \\xNN or \\uNNNN."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char == "\u00a0" else char.encode("unicode_escape").decode()
        for char in text
    )


def presentable(sentence: str) -> str:
    """One line of bearable length that cannot play with a terminal; place and remedy stay."""
    line = escape(" ".join(sentence.split()))
    if len(line) <= _LONGEST:
        return line
    return f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"


def _write_json(rows: Iterable[Row]) -> int:
    total = 0
    for row in rows:
        click.echo(json.dumps(plain(row)))
        total += 1
    return total


def _write_csv(rows: Iterable[Row], columns: Sequence[str]) -> int:
    line = io.StringIO()
    writer = csv.writer(line)
    total = -1  # the head is no row
    cells = ([csv_cell(row.get(column)) for column in columns] for row in rows)
    for content in itertools.chain([list(columns)], cells):
        writer.writerow(content)
        click.echo(line.getvalue(), nl=False)
        line.seek(0)
        line.truncate()
        total += 1
    return total


def csv_cell(value: object) -> str:
    """A value as text for CSV, which no spreadsheet takes for a formula."""
    shown = cell(value)
    if isinstance(value, (int, float)) or not shown.lstrip().startswith(_FORMULA):
        return shown
    return "'" + shown


def _write_tables(rows: Iterable[Row], columns: Sequence[str]) -> int:
    console = _Console(
        file=sys.stdout,
        width=None if sys.stdout.isatty() else _WIDE,
        highlight=False,
        emoji=False,
    )
    total = 0
    for page in _pages(rows):
        cells = [[cell(row.get(column), precise=False) for column in columns] for row in page]
        console.print(_table([column.replace("_", " ") for column in columns], cells, console))
        total += len(page)
    return total


def _table(heads: Sequence[str], cells: Sequence[Sequence[str]], console: Console) -> Table:
    """A table as wide as the console; times, ids and other short words stay in one piece."""
    padding = (0, 1) if console.width == _WIDE else (0, 1, 0, 0)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=padding)
    lines = [heads, *cells]
    widest = [max(cell_len(line[place]) for line in lines) for place in range(len(heads))]
    whole = [
        width <= _WORD and not any(" " in line[place] for line in cells)
        for place, width in enumerate(widest)
    ]
    needed = sum(
        (width if is_whole else min(width, _NARROWEST)) + 3
        for width, is_whole in zip(widest, whole, strict=True)
    )
    for head, is_whole in zip(heads, whole, strict=True):
        # What does not fit is cut off there, so rather all of them are folded.
        table.add_column(head, overflow="fold", no_wrap=is_whole and needed <= console.width)
    for line in cells:
        table.add_row(*(Text(text) for text in line))
    return table


class _Console(Console):
    """A console that leaves it to the command line what a reader that went away means."""

    def on_broken_pipe(self) -> None:
        """Instead of ending the process with status 1."""
        raise BrokenPipeError


def _pages(rows: Iterable[Row]) -> Iterator[list[Row]]:
    source = iter(rows)
    while page := list(itertools.islice(source, _PAGE)):
        yield page
