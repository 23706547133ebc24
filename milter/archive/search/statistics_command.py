"""`carbonseal archive stats`: counts by day, crossing, domain and more, and their plots.

See also: `statistics` (the numbers), `plot` (the pictures).
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from carbonseal.keys import tables
from carbonseal.milter.archive import audit, command_line
from carbonseal.milter.archive.command_line import Context
from carbonseal.milter.archive.search import options as options_
from carbonseal.milter.archive.search import plot, statistics

_MOST_BARS = 40


@click.command()
@options_.search_options
@click.option(
    "--by",
    type=click.Choice((*statistics.BY, "direction")),
    metavar="WHAT",
    default="day",
    show_default=True,
    help=f"{', '.join(statistics.BY).capitalize()}.  Domains are of reverse-path and envelope "
    "recipients, parent domains not added up.",
)
@click.option("--top", type=click.IntRange(min=1), metavar="N", help="No more lines than these.")
@click.option(
    "--plot",
    "picture",
    is_flag=False,
    flag_value="-",
    metavar="[FILE]",
    help="Draw it: here, or into FILE.svg or FILE.png.",
)
@command_line.reason_option
@tables.output_options
@click.pass_obj
def stats(
    context: Context,
    /,
    *,
    by: str,
    top: int | None,
    picture: str | None,
    reason: str,
    output_format: str,
    **options: Any,
) -> None:
    """Count messages by day, crossing, domain and more.  Times are UTC.

    The last 30 days unless the search says when.
    """
    by = "crossing" if by == "direction" else by
    has_period = options["since"] is not None or options["until"] is not None
    wanted = options_.wanted(options, now := datetime.now(UTC), limit=None)
    if not has_period and wanted.since is None and wanted.until is None:
        wanted = options_.in_the_last_days(wanted, 30, now)
    target = None if picture in (None, "-") else plot.checked(Path(str(picture)))
    with (
        command_line.reading(context) as engine,
        audit.asking(context, "stats", wanted.to_json() | {"by": by}, reason) as asked,
    ):
        counted = statistics.count(engine, by, wanted, **command_line.known(context))
        counted = counted if top is None else counted[:top]
        rows = list(asked.counted(counted))
    if target is not None:
        plot.write(target, _bars(by, rows), title=f"messages by {by}")
        click.echo(f"{target} written", err=True)
    elif picture is not None:
        bars = _bars(by, rows)
        for line in plot.lines(bars[-_MOST_BARS:] if by in statistics.BY_TIME else bars):
            click.echo(line)
        return
    named = ({by: one.what, **asdict(one)} for one in rows)
    tables.write_rows(
        ({key: value for key, value in row.items() if key != "what"} for row in named),
        (by, "messages", "octets", "signed", "copied"),
        output_format,
    )


def _bars(by: str, counted: list[statistics.Count]) -> list[plot.Bar]:
    """In order of time, or as many as a picture bears."""
    bars = [plot.Bar(one.what or "(none)", one.messages) for one in counted]
    return bars[::-1] if by in statistics.BY_TIME else bars[:_MOST_BARS]
