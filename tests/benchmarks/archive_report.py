"""What the archives were measured to be, as tables, pictures and a page.

Promises: the terminal and docs/benchmarks/archive.md show the same rows; archive.json holds all of
them; the same results give the same octets.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.goals import Goal
from benchmarks.report import Row, markdown

_JSON, _PAGE = "archive.json", "archive.md"
_NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mariadb": "MariaDB"}
_MOST_TABLES = 24
_LOOK_UP_MS, _WORDS_MS, _OCTETS = 20.0, 150.0, 1500.0
Results = dict[str, Any]


def judge(results: Results) -> list[Goal]:
    """What the archive is held to, at a million messages and from 100,000 to a million."""
    found = []
    for run in results["runs"]:
        if run["messages"] < 1_000_000:
            continue
        name = f"{_NAMES[run['engine']]}, {_count(run['messages'])}"
        for kind, bound in (("look-up", _LOOK_UP_MS), ("words", _WORDS_MS)):
            worst = max((one for one in run["questions"] if one["kind"] == kind), key=_p95)
            figure = f"{name}: slowest p95 of {kind}s ({worst['name']})".replace("wordss", "words")
            found.append(Goal(figure, _p95(worst), bound, False, " ms"))
        if run["engine"] != "mariadb":
            octets = run["octets"] / run["messages"]
            found.append(Goal(f"{name}: octets a message", octets, _OCTETS, False, ""))
    for engine, small, large in _pairs(results["runs"]):
        steps = f"{_count(small['messages'])} to {_count(large['messages'])}"
        bound = math.log(large["messages"]) / math.log(small["messages"])
        comparable = _alike(small, large)
        ratios = [
            ratio
            for name, kind, _, ratio in _growth(small, large)
            if kind == "look-up" and name in comparable
        ]
        if not ratios:
            continue
        ratio = statistics.median(ratios)
        figure = f"{_NAMES[engine]}: p50 of look-ups, {steps}, median growth"
        found.append(Goal(figure, ratio, round(bound, 3), False, " x"))
    return found


def _p95(one: Results) -> float:
    found: float = one["p95_ms"]
    return found


def _pairs(runs: list[Results]) -> Iterator[tuple[str, Results, Results]]:
    """Each engine's neighbouring sizes."""
    for engine in _NAMES:
        sized = sorted(
            (one for one in runs if one["engine"] == engine), key=lambda one: int(one["messages"])
        )
        yield from ((engine, *pair) for pair in itertools.pairwise(sized))


def _alike(small: Results, large: Results) -> set[str]:
    """Queries that find about as much in both: of the others, the results have grown as well."""
    before = {one["name"]: one["found"] for one in small["questions"]}
    return {
        one["name"]
        for one in large["questions"]
        if abs(one["found"] - before.get(one["name"], -1e9)) <= 0.1 * one["found"]
    }


def _growth(small: Results, large: Results) -> list[tuple[str, str, float, float]]:
    """Name, kind, p50 in the larger archive, ratio of both."""
    before = {one["name"]: one for one in small["questions"]}
    return [
        (one["name"], one["kind"], one["p50_ms"], one["p50_ms"] / before[one["name"]]["p50_ms"])
        for one in large["questions"]
        if one["name"] in before
    ]


def sections(results: Results) -> Iterator[tuple[str, str, list[Row]]]:
    """Marker, title and rows (the first is the heading) of each table."""
    runs = results["runs"]
    goals = [
        [one.figure, one.wanted, one.measured, "met" if one.is_met else "MISSED"]
        for one in judge(results)
    ]
    if goals:
        yield "goals", "What the archive is held to", [["figure", "wanted", "found", ""], *goals]
    yield "loading", "Loading", _loading(runs)
    for engine, name in _NAMES.items():
        own = [one for one in runs if one["engine"] == engine]
        if own:
            yield f"questions-{engine}", f"Queries, {name} (ms)", _questions(own)
    yield "growth", "Growth of p50, and its slope", _growths(runs)
    yield "octets", "Octets a message", _octets(runs)
    yield "settings", "Settings", _settings(runs)
    machine = [[name, str(value)] for name, value in results["machine"].items()]
    yield "machine", "Measured on", [["", ""], *machine]


def _loading(runs: list[Results]) -> list[Row]:
    """Rates apart by whether others worked on the machine; CPU time hardly depends on it."""
    rows = [
        [
            *("", "records/s on its own", "while others worked", "µs CPU of the writer"),
            *(
                "first 100,000",
                "last",
                "of the server",
                "MB",
                "others' cores while asked",
                "disturbed",
            ),
        ]
    ]
    for run in runs:
        one = run["loading"]
        rows.append(
            [
                _title(run),
                _rate(one.get("alone_per_second"), one.get("alone_records", 0), run),
                _rate(one.get("busy_per_second"), one.get("busy_records", 0), run),
                str(one["cpu_us"]),
                str(one.get("first_cpu_us", "")),
                str(one.get("last_cpu_us", "")),
                str(one.get("server_cpu_us", "")),
                str(one["most_resident_mb"]),
                str(run.get("others", "")),
                str(sum(one.get("disturbed", 0) for one in run.get("questions", ()))),
            ]
        )
    return rows


def _rate(records_per_second: int | None, records: int, run: Results) -> str:
    if records_per_second is None:
        return ""
    share = records / run["messages"]
    return f"{records_per_second:,}" + (f" ({share:.0%} of them)" if share < 0.995 else "")


def _questions(runs: list[Results]) -> list[Row]:
    heading = ["query"]
    for run in runs:
        size = _count(run["messages"])
        heading += [f"{size}: p50", "p95", "first", "found"]
    rows = [heading]
    for one in runs[-1]["questions"]:
        row = [one["name"]]
        for run in runs:
            same = next((two for two in run["questions"] if two["name"] == one["name"]), None)
            row += (
                ["", "", "", ""]
                if same is None
                else [
                    f"{same['p50_ms']:.1f}",
                    f"{same['p95_ms']:.1f}",
                    f"{same['cold_ms']:.0f}",
                    f"{same['found']:.0f}",
                ]
            )
        rows.append(row)
    return rows


def _growths(runs: list[Results]) -> list[Row]:
    pairs = list(_pairs(runs))
    heading = ["query"]
    grown: dict[str, list[str]] = {}
    for number, (engine, small, large) in enumerate(pairs):
        heading.append(
            f"{_NAMES[engine]} {_count(small['messages'])} to {_count(large['messages'])}"
        )
        steps = math.log(large["messages"] / small["messages"])
        before = {one["name"]: one["p50_ms"] for one in small["questions"]}
        for name, _, milliseconds, ratio in _growth(small, large):
            slope = (milliseconds - before[name]) / steps
            cells = grown.setdefault(name, [""] * len(pairs))
            cells[number] = f"{ratio:.2f} x, {slope:+.2f} ms"
    return [heading, *([name, *cells] for name, cells in grown.items())]


def _octets(runs: list[Results]) -> list[Row]:
    """Tables and indexes, the largest first, by the largest archive of each engine."""
    largest = _largest(runs)
    shares = {
        name: {table: octets / run["messages"] for table, octets in run["octets_by_table"].items()}
        for name, run in largest.items()
    }
    names = sorted(
        {table for one in shares.values() for table in one},
        key=lambda table: -max(one.get(table, 0) for one in shares.values()),
    )
    totals = [f"{run['octets'] / run['messages']:,.0f}" for run in largest.values()]
    rows = [["", *(_title(run) for run in largest.values())], ["all of it", *totals]]
    rows += [
        [name, *(f"{one[name]:,.0f}" if name in one else "" for one in shares.values())]
        for name in names[:_MOST_TABLES]
    ]
    return rows


def _largest(runs: list[Results]) -> dict[str, Results]:
    """The largest archive of each engine; they need not be of one size."""
    return {
        name: max(own, key=lambda run: int(run["messages"]))
        for name in _NAMES
        if (own := [run for run in runs if run["engine"] == name])
    }


def _settings(runs: list[Results]) -> list[Row]:
    said = {name: run["settings"] for name, run in _largest(runs).items()}
    rows = [["", ""]]
    for name, settings in said.items():
        text = ", ".join(f"`{key}={value}`" for key, value in settings.items())
        rows.append([_NAMES[name], text])
    return rows


def _title(run: Results) -> str:
    return f"{_NAMES[run['engine']]}, {_count(run['messages'])}"


def _count(messages: int) -> str:
    whole, rest = divmod(messages, 1_000_000)
    return f"{whole} million" if whole and not rest else f"{messages:,}"


def show(results: Results, console: Console) -> None:
    """Print every table."""
    for _, title, rows in sections(results):
        _print(title, rows, console)


def show_run(run: Results, console: Console) -> None:
    """Print what one run has found, before the next begins."""
    octets = run["octets"] / run["messages"]
    console.print(f"  {octets:,.0f} octets a message, settled in {run['settled_s']} s")
    _print(_title(run), _questions([run]), console)


def _print(title: str, rows: list[Row], console: Console) -> None:
    heading, *others = rows
    table = Table(title=title, title_justify="left")
    for number, name in enumerate(heading):
        table.add_column(name, justify="left" if number == 0 else "right")
    for row in others:
        table.add_row(*row)
    console.print(table)


def added(results: Results, directory: Path) -> Results:
    """The report that is there, with these runs in the place of the same ones."""
    file = directory / _JSON
    old: Results = json.loads(file.read_text(encoding="utf-8")) if file.exists() else results
    runs = {(one["messages"], one["engine"]): one for one in (*old["runs"], *results["runs"])}
    order = {name: number for number, name in enumerate(_NAMES)}
    ranked = sorted(runs, key=lambda key: (key[0], order[key[1]]))
    return {"machine": results["machine"], "runs": [runs[key] for key in ranked]}


def write(results: Results, directory: Path) -> None:
    """Renew archive.json, the pictures, and the tables of archive.md; its words stay."""
    # Imported here: matplotlib is only there for the benchmarks that draw.
    from benchmarks import archive_plots  # noqa: PLC0415

    text = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
    (directory / _JSON).write_text(text, encoding="utf-8")
    archive_plots.draw(results, directory)
    page = directory / _PAGE
    text = page.read_text(encoding="utf-8")
    for marker, _, rows in sections(results):
        begin = f"<!-- {marker} -->\n"
        before, found, after = text.partition(begin)
        if not found:
            raise ValueError(f"{page} has no {begin.strip()}; put it back where the table belongs")
        text = before + begin + markdown(rows) + "<!-- end -->" + after.partition("<!-- end -->")[2]
    page.write_text(text, encoding="utf-8")
