"""`carbonseal archive trace`: the way of one message as a story in order of time.

See also: `trace`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict

import click

from carbonseal.keys import tables
from carbonseal.milter.archive import audit, command_line
from carbonseal.milter.archive.command_line import Context
from carbonseal.milter.archive.search import trace as trace_

_COLUMNS = ("recorded_at", "relay", "queue_id", "told")


@click.command()
@click.argument("name", metavar="MESSAGE_ID|QUEUE_ID|RECORD_ID")
@command_line.reason_option
@tables.output_options
@click.pass_obj
def trace(context: Context, name: str, reason: str, output_format: str) -> None:
    """Follow one message over queue ids and relays, oldest record first.  Times are UTC."""
    name = name.strip()
    with (
        command_line.reading(context) as engine,
        audit.asking(context, "trace", {"name": name}, reason) as asked,
    ):
        steps = asked.counted(trace_.trace(engine, name))
        tables.write_rows(_rows(steps, output_format), _COLUMNS, output_format)


def _rows(steps: Iterable[trace_.Step], output_format: str) -> Iterator[dict[str, object]]:
    for step in steps:
        row: dict[str, object] = asdict(step.found)
        if output_format == "table":
            row["recorded_at"] = step.found.recorded_at[:19] + "Z"
        yield row | {
            "came_from": step.came_from,
            "resent_by": step.resent_by,
            "told": step.told,
        }
