"""Pictures of the archives: how look-ups grow, and where the octets go.

Promises: the same results give the same octets.  Needs matplotlib, which only the benchmarks
install.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot as plt

from benchmarks.plots import STYLE, save

Results = dict[str, Any]
_NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mariadb": "MariaDB"}
# Distinct without colours as well: each has its own mark.
_LOOKS = {"sqlite": ("#0072b2", "o"), "postgresql": ("#d55e00", "s"), "mariadb": ("#009e73", "^")}
_SHADES = ("#0072b2", "#56b4e9", "#009e73", "#e69f00", "#d55e00", "#cc79a7", "#999999")
_LARGEST = 6  # tables and indexes with a colour of their own


def draw(results: Results, directory: Path) -> list[Path]:
    """Write every picture; returns the files."""
    with mpl.rc_context(STYLE):
        return [
            save(_queries(results["runs"]), directory / "archive-queries.svg"),
            save(_growth(results["runs"]), directory / "archive-growth.svg"),
            save(_octets(results["runs"]), directory / "archive-octets.svg"),
        ]


def _queries(runs: list[Results]) -> Any:
    """p50 to p95 of each query in the largest archive of each engine up to a million."""
    largest = {
        run["engine"]: run
        for run in sorted(runs, key=lambda run: int(run["messages"]))
        if run["messages"] <= 1_000_000
    }
    shown = [largest[engine] for engine in _NAMES if engine in largest]
    names = [one["name"] for one in shown[0]["questions"]]
    figure, axes = plt.subplots(figsize=(8, 0.32 * len(names) + 1.2))
    for number, run in enumerate(shown):
        colour, mark = _LOOKS[run["engine"]]
        by_name = {one["name"]: one for one in run["questions"]}
        for row, name in enumerate(names):
            if name not in by_name:
                continue
            one, height = by_name[name], row + (number - 1) * 0.22
            axes.plot([one["p50_ms"], one["p95_ms"]], [height, height], color=colour, linewidth=1.5)
            axes.plot([one["p50_ms"]], [height], marker=mark, color=colour, markersize=4)
        axes.plot([], [], marker=mark, color=colour, label=_label(run))
    axes.axvline(20, color="#7f7f7f", linestyle=":", linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("ms to the first page: mark p50, end of the line p95; dotted: 20 ms")
    axes.legend(loc="lower right", fontsize=8)
    return figure


def _label(run: Results) -> str:
    return f"{_NAMES[run['engine']]}, {run['messages']:,} messages"


def _growth(runs: list[Results]) -> Any:
    """Medians of the p50 of all look-ups and of all searches for words."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    for axes, kind, title in zip(
        panels, ("look-up", "words"), ("Look-ups", "Words of subjects"), strict=True
    ):
        for engine, (colour, mark) in _LOOKS.items():
            own = sorted(
                (run for run in runs if run["engine"] == engine), key=lambda run: run["messages"]
            )
            values = [
                statistics.median(one["p50_ms"] for one in run["questions"] if one["kind"] == kind)
                for run in own
            ]
            sizes = [run["messages"] for run in own]
            axes.plot(sizes, values, marker=mark, color=colour, label=_NAMES[engine])
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("messages (logarithmic: a straight line grows as the logarithm)")
        axes.xaxis.label.set_fontsize(8)
        axes.set_title(title, loc="left")
    panels[0].set_ylabel("median of p50, ms")
    panels[1].legend()
    return figure


def _octets(runs: list[Results]) -> Any:
    """Octets a message by the largest tables and indexes, the largest archive of each engine."""
    largest = {run["engine"]: run for run in sorted(runs, key=lambda run: int(run["messages"]))}
    figure, axes = plt.subplots(figsize=(9, 1.0 + 0.7 * len(largest)))
    for row, run in enumerate(largest.values()):
        sizes = sorted(run["octets_by_table"].items(), key=lambda pair: -pair[1])
        shown = [(name, octets / run["messages"]) for name, octets in sizes[:_LARGEST]]
        rest = run["octets"] / run["messages"] - sum(octets for _, octets in shown)
        left = 0.0
        for (name, octets), shade in zip([*shown, ("rest", rest)], _SHADES, strict=True):
            axes.barh(row, octets, left=left, color=shade, edgecolor="white", height=0.6)
            if octets > 0.07 * run["octets"] / run["messages"]:
                text = name.rpartition(".")[2].replace("_", " ")
                axes.text(left + octets / 2, row, text, ha="center", va="center", fontsize=6)
            left += octets
    axes.axvline(1500, color="#7f7f7f", linestyle=":", linewidth=1)
    axes.set_yticks(
        range(len(largest)),
        [f"{_NAMES[engine]}\n{run['messages']:,}" for engine, run in largest.items()],
        fontsize=8,
    )
    axes.invert_yaxis()
    axes.set_xlabel("octets a message, all indexes included; dotted: 1,500")
    return figure
