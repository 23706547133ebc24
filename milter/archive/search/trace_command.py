"""`carbonseal archive trace`: the way of one message as a story in order of time.

Promises: how each recipient and copy stands comes first, then the story: every record, and all that
the mail log told of it.  What a log of whole seconds tells of the second in which the message was
handed over comes after that, as it must have happened.  JSON Lines have one line per record with
all facts.

See also: `trace`, `story`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict

import click

from carbonseal.keys import tables
from carbonseal.milter.archive import audit, command_line
from carbonseal.milter.archive.command_line import Context
from carbonseal.milter.archive.search import trace as trace_

_WHOLE_SECOND = ".000000Z"
_COLUMNS = ("at", "relay", "queue_id", "told")
_ENDS = ("queue_id", "address", "is", "state")


@click.command()
@click.argument("name", metavar="MESSAGE_ID|QUEUE_ID|RECORD_ID")
@command_line.reason_option
@tables.output_options
@click.pass_obj
def trace(context: Context, name: str, reason: str, output_format: str) -> None:
    """Follow one message over queue ids and relays, and to each recipient.  Times are UTC."""
    name = name.strip()
    with (
        command_line.reading(context) as engine,
        audit.asking(context, "trace", {"name": name}, reason) as asked,
    ):
        is_ours = command_line.known(context)["is_ours"]
        steps = list(asked.counted(trace_.trace(engine, name, is_ours)))
    if output_format == "jsonl":
        tables.write_rows(map(_row, steps), (), output_format)
        return
    if output_format == "table":
        _write_states(steps)
    dated = [one for step in steps for one in _story(step)]
    story = [row for _, row in sorted(dated, key=lambda one: one[0])]
    if output_format == "table":
        story = [row | {"at": f"{row['at'][:19]}Z"} for row in story]
    tables.write_rows(story, _COLUMNS, output_format)


def _row(step: trace_.Step) -> dict[str, object]:
    row: dict[str, object] = asdict(step.found)
    return row | {
        "came_from": step.came_from,
        "resent_by": step.resent_by,
        "told": step.told,
        "delivery": step.telling.to_json(),
    }


def _write_states(steps: Iterable[trace_.Step]) -> None:
    """How each end stands, where any log told; why nothing is known, where none did."""
    unknown: dict[str, list[str]] = {}
    rows: list[dict[str, object]] = []
    for step in steps:
        queue_id = step.found.queue_id
        if step.telling.unknown is not None:
            unknown.setdefault(step.telling.unknown, []).append(queue_id)
            continue
        for passage, state in step.telling.states():
            kind = "copy" if passage.is_copy else "recipient"
            rows.append(
                {"queue_id": queue_id, "address": passage.address, "is": kind, "state": state}
            )
    if rows:
        tables.write_rows(rows, _ENDS, "table")
    for why, queue_ids in unknown.items():
        click.echo(tables.escape(f"what became of {', '.join(queue_ids)}: {why}"))


def _story(step: trace_.Step) -> Iterator[tuple[str, dict[str, str]]]:
    """Lines of the story of one record, each with the time that says where it belongs."""
    relay, sealed = step.found.relay, step.found.recorded_at
    about = {"at": sealed, "relay": relay, "queue_id": step.found.queue_id, "told": step.told}
    yield sealed, about
    for event in step.telling.events():
        row = {"at": event.at, "relay": relay, "queue_id": event.queue_id, "told": event.told}
        yield _place(event.at, sealed), row


def _place(at: str, sealed: str) -> str:
    """When something is told; `at`, unless that is no more than the second of the sealing."""
    is_vague = at.endswith(_WHOLE_SECOND) and at[:19] == sealed[:19]
    return sealed if is_vague else at
