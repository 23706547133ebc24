"""A bar on a terminal for what takes long; nothing where nobody looks.

Promises: hands on every item in its order; the bar goes to standard error, so that output can be
piped.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Item = TypeVar("Item")


def is_watched() -> bool:
    """Whether somebody looks, so that it is worth counting beforehand."""
    return sys.stderr.isatty()


def watched(source: Iterable[Item], total: int, what: str) -> Iterator[Item]:
    """The items of `source`, of which there are `total`, with a bar that counts `what`."""
    if not is_watched():
        yield from source
        return
    with _bar() as bar:
        task = bar.add_task(what, total=total)
        for item in source:
            yield item
            bar.advance(task)


@contextmanager
def counting(total: int, what: str) -> Iterator[Callable[[int], None]]:
    """A bar for work that says itself how much more is done; called with that number."""
    if not is_watched():
        yield lambda count: None
        return
    with _bar() as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)


def _bar() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), transient=True)
