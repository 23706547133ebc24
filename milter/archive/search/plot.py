"""Bars: on a terminal, as SVG, as PNG.

Promises: a terminal and an SVG file need nothing but Python; PNG needs matplotlib.  Whatever stands
in a label cannot play with a terminal or become markup.

Raises: DataError for a file that cannot be a picture or be written; UsageError without matplotlib.
"""

from __future__ import annotations

import importlib
import importlib.util
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape as as_markup

from carbonseal.keys import tables
from carbonseal.policies.errors import DataError, UsageError

_EIGHTHS = " ▏▎▍▌▋▊▉"
_LABEL = 40  # characters
_SUFFIXES = (".svg", ".png")
_ROW, _MARGIN, _WIDE = 22, 16, 960  # SVG units


@dataclass(frozen=True, slots=True)
class Bar:
    """One number and what it counts."""

    label: str
    number: int


def lines(bars: Sequence[Bar], width: int | None = None) -> Iterator[str]:
    """Each bar as a line of text not wider than the terminal."""
    if not bars:
        return
    width = shutil.get_terminal_size().columns if width is None else width
    labels = [_label(bar.label) for bar in bars]
    numbers = [f"{bar.number:,}" for bar in bars]
    first, last = max(map(len, labels)), max(map(len, numbers))
    room = max(10, width - first - last - 4)
    most = max(1, *(bar.number for bar in bars))
    for label, text, bar in zip(labels, numbers, bars, strict=True):
        yield f"{label:<{first}}  {_bar(bar.number * room * 8 // most)} {text}"


def _bar(eighths: int) -> str:
    whole, rest = divmod(eighths, 8)
    return "█" * whole + (_EIGHTHS[rest] if rest else "")


def _label(text: str) -> str:
    shown = tables.escape(text)
    return shown if len(shown) <= _LABEL else shown[: _LABEL - 1] + "…"


def checked(target: Path) -> Path:
    """The file, if it can become a picture.  Raises: DataError, UsageError."""
    if target.suffix.lower() not in _SUFFIXES:
        raise DataError(f"--plot {target} is no picture; name it something.svg or something.png")
    if target.suffix.lower() == ".png" and importlib.util.find_spec("matplotlib") is None:
        raise UsageError(
            f"--plot {target} needs matplotlib; install carbonseal[png], or name it .svg"
        )
    return target


def write(target: Path, bars: Sequence[Bar], *, title: str) -> None:
    """Draw into a file that `checked` found good.  Raises: DataError."""
    try:
        if target.suffix.lower() == ".png":
            _write_png(target, bars, title)
        else:
            target.write_text(svg(bars, title=title), encoding="utf-8")
    except OSError as fault:
        raise DataError(f"--plot {target} cannot be written: {fault.strerror}") from None


def svg(bars: Sequence[Bar], *, title: str) -> str:
    """A picture of lying bars, one below the other."""
    height = 2 * _MARGIN + _ROW * (len(bars) + 1)
    most = max([1, *(bar.number for bar in bars)])
    start, room = 280, _WIDE - 280 - 110
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDE}" height="{height}" '
        f'viewBox="0 0 {_WIDE} {height}" font-family="sans-serif" font-size="12">',
        f"<title>{as_markup(title)}</title>",
        f'<rect width="{_WIDE}" height="{height}" fill="#ffffff"/>',
        f'<text x="{_MARGIN}" y="{_MARGIN + 12}" font-size="15">{as_markup(title)}</text>',
    ]
    for number, bar in enumerate(bars, 1):
        top = _MARGIN + number * _ROW + 4
        width = bar.number * room / most
        parts += [
            f'<text x="{start - 8}" y="{top + 13}" text-anchor="end">'
            f"{as_markup(_label(bar.label))}</text>",
            f'<rect x="{start}" y="{top}" width="{width:.1f}" height="{_ROW - 6}" fill="#3b6ea5"/>',
            f'<text x="{start + width + 6:.1f}" y="{top + 13}">{bar.number:,}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def _write_png(target: Path, bars: Sequence[Bar], title: str) -> None:
    figure: Any = importlib.import_module("matplotlib.figure").Figure(
        figsize=(9.6, 1.2 + 0.25 * len(bars)), layout="constrained"
    )
    axes = figure.subplots()
    drawn = axes.barh(range(len(bars)), [bar.number for bar in bars], color="#3b6ea5")
    # A dollar sign would begin a formula.
    axes.set_yticks(
        range(len(bars)), [_label(bar.label).replace("$", r"\$") for bar in bars], fontsize=8
    )
    axes.bar_label(drawn, [f" {bar.number:,}" for bar in bars], fontsize=8)
    axes.invert_yaxis()
    axes.set_title(title)
    figure.savefig(target, format="png", dpi=100)
