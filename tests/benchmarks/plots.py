"""The results as pictures, in SVG: rate per size, latency, and cost against growing input.

Promises: the same results give the same octets, so that a new run shows only what changed.

Needs matplotlib, which only `make bench` installs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot as plt

from benchmarks.goals import OURS, Results
from benchmarks.points import MIB
from benchmarks.report import PEERS

# Distinct without colours as well: each has its own mark.
_LOOKS: dict[str, tuple[str, str]] = {
    OURS: ("#0072b2", "o"),
    "OpenDKIM": ("#d55e00", "s"),
    "rspamd": ("#009e73", "^"),
    "dkimpy-milter": ("#7f7f7f", "D"),
}
_SIZES = ("1K", "4K", "64K", "1M", "10M")
_CONNECTIONS = ("4K-1", "4K", "4K-32")
STYLE = {
    "svg.hashsalt": "carbonseal",  # ids in the file would differ each time
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e0e0e0",
    "legend.frameon": False,
    "figure.facecolor": "white",
}


def draw(results: Results, directory: Path) -> list[Path]:
    """Write every picture that there are figures for; returns the files."""
    points = {point["name"]: point for point in results.get("points", ())}
    drawn = []
    with mpl.rc_context(STYLE):
        if set(_SIZES) <= set(points):
            drawn.append(save(_rates(points), directory / "rates.svg"))
        if set(_CONNECTIONS) <= set(points):
            drawn.append(save(_latencies(points), directory / "latency.svg"))
        if results.get("growth"):
            drawn.append(save(_growth(results["growth"]), directory / "growth.svg"))
    return drawn


def save(figure: Any, file: Path) -> Path:
    """Write and close a figure; returns the file."""
    figure.savefig(file, metadata={"Date": None, "Creator": None}, bbox_inches="tight")
    plt.close(figure)
    # matplotlib leaves spaces at the ends of lines, which reviewers and linters stumble over.
    lines = (line.rstrip() for line in file.read_text(encoding="utf-8").splitlines())
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def _curve(axes: Any, name: str, steps: list[float], values: list[float]) -> None:
    colour, mark = _LOOKS[name]
    weight = 2.2 if name == OURS else 1.4
    axes.plot(steps, values, marker=mark, color=colour, label=name, linewidth=weight, markersize=5)


def _rates(points: dict[str, Any]) -> Any:
    figure, axes = plt.subplots(figsize=(7, 4))
    for name in (OURS, *PEERS):
        known = [one for one in _SIZES if name in points[one]["contestants"]]
        sizes = [float(points[one]["options"]["size"]) for one in known]
        _curve(axes, name, sizes, [points[one]["contestants"][name]["rate"] for one in known])
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks = [points[one]["options"]["size"] for one in _SIZES]
    axes.set_xticks(ticks, ["1 KB", "4 KB", "64 KB", "1 MB", "10 MB"])
    axes.minorticks_off()
    axes.set_xlabel("size of the body")
    axes.set_ylabel("messages a second")
    axes.set_title("Rate by size, 8 connections (both axes logarithmic)", loc="left")
    axes.legend()
    return figure


def _latencies(points: dict[str, Any]) -> Any:
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True)
    for axes, fact in zip(panels, ("p50_ms", "p99_ms"), strict=True):
        for name in (OURS, *PEERS):
            known = [one for one in _CONNECTIONS if name in points[one]["contestants"]]
            counts = [float(points[one]["options"]["connections"]) for one in known]
            values = [points[one]["contestants"][name][fact] for one in known]
            _curve(axes, name, counts, values)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks([1, 8, 32], ["1", "8", "32"])
        axes.minorticks_off()
        axes.set_xlabel("connections")
        axes.set_title(f"{fact[:3]}, 4 KB", loc="left")
    panels[0].set_ylabel("latency in ms (logarithmic)")
    panels[1].legend()
    return figure


def _growth(growths: list[dict[str, Any]]) -> Any:
    figure, panels = plt.subplots(1, len(growths), figsize=(4.2 * len(growths), 3.8), squeeze=False)
    for axes, growth in zip(panels[0], growths, strict=True):
        scale = MIB if growth["name"] == "size" else 1
        slowest = {}
        for name, one in growth["contestants"].items():
            steps, times = zip(*one["p50_ms"], strict=True)
            _curve(axes, name, [step / scale for step in steps], list(times))
            slowest[name] = max(times)
        # The peers may be anywhere: ours decides the scale, and what leaves the picture is slower.
        axes.set_ylim(0, min(4 * slowest[OURS], 1.1 * max(slowest.values())))
        axes.set_xlabel({"size": "megabytes of body"}.get(growth["name"], growth["name"]))
        axes.set_title(growth["title"], loc="left", fontsize=9)
    panels[0][0].set_ylabel("ms per message, one connection")
    panels[0][0].legend()
    return figure
