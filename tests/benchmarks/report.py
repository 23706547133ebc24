"""The results as tables: for the terminal, and as Markdown for docs/benchmarks/README.md.

Promises: both show the same rows; ratios are Carbonseal's rate divided by the peer's in the same
run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import goals
from benchmarks.contestants import FLOOR
from benchmarks.goals import OURS, Results

PEERS = ("OpenDKIM", "rspamd", "dkimpy-milter")
_OTHERS = (*PEERS, FLOOR)
Row = list[str]


def sections(results: Results) -> Iterator[tuple[str, str, list[Row]]]:
    """Marker, title and rows (the first row is the heading) of each table there are figures for."""
    if points := results.get("points"):
        yield "rates", "Messages a second (Carbonseal's ratio)", _rates(points)
        yield "latency", "Latency p50 / p99 in ms, and CPU per message in ms", _latencies(points)
    if found := results.get("postfix"):
        yield "postfix", "Through Postfix, messages a second; CPU in ms", _postfix(found)
    if results.get("growth"):
        yield "growth", "Growth", _growth(results["growth"])
    if results.get("memory"):
        yield "memory", "Memory in MB", _memory(results)
    if judged := goals.judge(results):
        yield "goals", "What Carbonseal is held to", _goals(judged)
    if machine := results.get("machine"):
        rows = [[name, str(value)] for name, value in machine.items()]
        yield "machine", "Measured on", [["", ""], *rows]


def show(results: Results, console: Console) -> None:
    """Print every table."""
    for _, title, (heading, *rows) in sections(results):
        table = Table(title=title, title_justify="left")
        for number, name in enumerate(heading):
            table.add_column(name, justify="left" if number == 0 else "right")
        for row in rows:
            table.add_row(*row)
        console.print(table)


def write_document(results: Results, file: Path) -> None:
    """Renew the tables between '<!-- name -->' and '<!-- end -->'; other text stays."""
    text = file.read_text(encoding="utf-8")
    for marker, _, rows in sections(results):
        begin = f"<!-- {marker} -->\n"
        before, found, after = text.partition(begin)
        if not found:
            raise ValueError(f"{file} has no {begin.strip()}; put it back where the table belongs")
        text = before + begin + markdown(rows) + "<!-- end -->" + after.partition("<!-- end -->")[2]
    file.write_text(text, encoding="utf-8")


def markdown(rows: Sequence[Row]) -> str:
    """A table; the first row is the heading."""
    heading, *others = rows
    rule = ["---"] + ["---:"] * (len(heading) - 1)
    return "".join(f"| {' | '.join(row)} |\n" for row in (heading, rule, *others))


def _rates(points: Sequence[dict[str, Any]]) -> list[Row]:
    peers = _present(points)
    rows = [["", OURS, *_titled(peers)]]
    for point in points:
        found = point["contestants"]
        ours = found[OURS]["rate"]
        cells = [_rate(ours)]
        for peer in peers:
            facts = found.get(peer)
            cells.append(f"{_rate(facts['rate'])} ({ours / facts['rate']:.2f} x)" if facts else "-")
        rows.append([point["title"] + (" ¹" if point["is_unsignable"] else ""), *cells])
        if "openssl" in point:
            share = ours / point["openssl"]
            title = "openssl speed rsa2048, all cores, signatures"
            rows.append(
                [title, f"{point['openssl']:,.0f} ({share:.0%} used)", *["" for _ in peers]]
            )
    return rows


def _latencies(points: Sequence[dict[str, Any]]) -> list[Row]:
    peers = _present(points)
    rows = [["", OURS, *_titled(peers)]]
    for point in points:
        cells = []
        for name in (OURS, *peers):
            one = point["contestants"].get(name)
            cells.append(
                f"{_ms(one['p50_ms'])} / {_ms(one['p99_ms'])}, {_ms(one['cpu_ms_per_message'])}"
                if one
                else "-"
            )
        rows.append([point["title"], *cells])
    return rows


def _postfix(facts: dict[str, Any]) -> list[Row]:
    found = facts["contestants"]
    spenders = {"postfix": "CPU of Postfix", "milter": "of the milter", "all": "of all"}
    if not all("cpu_ms_per_message" in one for one in found.values()):
        spenders = {}  # a run from before that was measured
    rows = [["", "delivered", "accepted", *spenders.values()]]
    for name, one in found.items():
        spent = [_ms(one["cpu_ms_per_message"][who]) for who in spenders]
        rows.append([name, f"{one['delivered_rate']:,.0f}", f"{one['rate']:,.0f}", *spent])
    return rows


def _growth(growths: Sequence[dict[str, Any]]) -> list[Row]:
    rows = [["", "", "from (ms)", "to (ms)", "slope (ms)", "straightness"]]
    for growth in growths:
        for name, one in growth["contestants"].items():
            (first, low), *_, (last, high) = one["p50_ms"]
            ends = [f"{_ms(low)} at {first:,}", f"{_ms(high)} at {last:,}"]
            slope = f"{one['slope_ms']:.2f} for {growth['per']}"
            rows.append([growth["name"], name, *ends, slope, f"{one['straightness']:.2f}"])
    return rows


def _memory(results: Results) -> list[Row]:
    rows = [["", "process", "RSS", "PSS", "a 50 MB message adds"]]
    for name, held in results["memory"].items():
        large = results.get("large_message", {}).get(name)
        for one in held:
            grown = f"{large['grown_mb']:.1f}" if large and one["role"] == large["role"] else ""
            rows.append([name, one["role"], f"{one['rss_mb']:.0f}", f"{one['pss_mb']:.0f}", grown])
    return rows


def _goals(judged: Sequence[goals.Goal]) -> list[Row]:
    rows = [["figure", "wanted", "found", ""]]
    for one in judged:
        rows.append([one.figure, one.wanted, one.measured, "met" if one.is_met else "MISSED"])
    return rows


def _present(points: Sequence[dict[str, Any]]) -> list[str]:
    return [other for other in _OTHERS if any(other in point["contestants"] for point in points)]


def _titled(names: Sequence[str]) -> Row:
    """The heading: who is no peer has a footnote."""
    return [f"{name} ²" if name == FLOOR else name for name in names]


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _ms(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
