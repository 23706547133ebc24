"""`carbonseal keys plan, status, history`: what is due, how it stands, what happened.

Promises: changes nothing; without `--look` asks nobody and goes by what was last seen.

Raises: `errors.CarbonsealError`; `milter.cli` turns it into a sentence and an exit status.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

import click

from carbonseal.keys import life_world, lifecycle, store, tables
from carbonseal.keys.command_line import (
    LEAVING,
    Settings,
    known_sdid,
    say,
    sdids_of,
    world_of,
    write,
)
from carbonseal.keys.life_world import Report, World
from carbonseal.keys.rotate_commands import each, what_is_open
from carbonseal.policies import errors, key_life
from carbonseal.policies.key_life import Stage
from carbonseal.policies.rotation import Action, Standing

# --- plan, status, history ------------------------------------------------------------------------


@click.command(name="plan")
@click.argument("sdid", required=False)
@click.option("--look", is_flag=True, help="Ask DNS and relays now instead of going by memory.")
@tables.output_options
@click.pass_obj
def plan(settings: Settings, sdid: str | None, look: bool, output_format: str) -> int:
    """Show the calendar: what is due when, and the arithmetic behind it."""
    world = world_of(settings)
    found = _look_at(world, sdid, look=look)
    rows = [row for one in found for row in _calendar(one, world.clock())]
    rows.sort(key=lambda row: (row["at"] is None, row["at"] or world.clock(), row["sdid"]))
    tables.write_rows(rows, ("at", "sdid", "selector", "stage", "next", "why"), output_format)
    return Standing.DONE


def _calendar(one: Report, now: datetime) -> Iterator[dict[str, Any]]:
    for key in one.keys:
        if key.record.stage is Stage.REMOVED:
            continue
        is_due = key.due.action is not Action.WAIT
        yield {
            "at": now.replace(microsecond=0) if is_due else key.due.at,
            "sdid": one.sdid,
            "selector": key.record.selector,
            "stage": key.record.stage.value,
            "next": key.due.action.value,
            "why": "; ".join(key.due.why),
        }
    for coming in one.coming:
        yield {
            "at": coming.at,
            "sdid": one.sdid,
            "selector": coming.selector or "(new)",
            "stage": "",
            "next": "begin",
            "why": coming.why,
        }


@click.command(name="status")
@click.argument("sdid", required=False)
@click.option("--look", is_flag=True, help="Ask DNS and relays now instead of going by memory.")
@tables.output_options
@click.pass_obj
def status(settings: Settings, sdid: str | None, look: bool, output_format: str) -> int:
    """Show how it stands: a line for each SDID, or with SDID for each of its keys."""
    world = world_of(settings)
    found = _look_at(world, sdid, look=look)
    if sdid is not None:
        for one in found:
            write(one.keys, output_format)
            if one.problem:
                say(one.problem)
        return life_world.gravest(one.standing for one in found)
    columns = ("sdid", "signing", "coming", "leaving", "standing", "why")
    tables.write_rows((_overview(one) for one in found), columns, output_format)
    worst = life_world.gravest(one.standing for one in found)
    return Standing.DONE if worst is Standing.NOT_YET else worst


def _overview(one: Report) -> dict[str, Any]:
    def named(stages: Iterable[Stage]) -> list[str]:
        return [
            f"{key.record.selector}"
            + ("" if key.record.stage is Stage.ACTIVE else f":{key.record.stage.value}")
            for key in one.keys
            if key.record.stage in stages and not key.record.is_cancelled
        ]

    return {
        "sdid": one.sdid,
        "signing": named((Stage.ACTIVE,)),
        "coming": named(key_life.BEFORE_ACTIVE),
        "leaving": named(LEAVING[:-1]),
        "standing": one.standing.word,
        "why": one.problem or what_is_open(one),
    }


@click.command(name="history")
@click.argument("sdid")
@click.argument("selector", required=False)
@tables.output_options
@click.pass_obj
def history(settings: Settings, sdid: str, selector: str | None, output_format: str) -> int:
    """Show what happened to the keys of SDID, when, by whom and why."""
    shelf = store.Store(settings.keys_directory)
    lineage = shelf.lineage(known_sdid(shelf, sdid))
    rows = [
        {
            "at": entry.at,
            "sdid": record.sdid,
            "selector": record.selector,
            "what": entry.what,
            "why": entry.why,
        }
        for record in lineage.records
        if selector is None or record.selector == selector.lower()
        for entry in record.history
    ]
    if not rows:
        shelf.refuse_hidden(lineage.sdid)
        raise errors.NotFound(f"{sdid}: there is no such key; `carbonseal keys list` shows all.")
    rows.sort(key=lambda row: str(row["at"]))
    tables.write_rows(rows, ("at", "sdid", "selector", "what", "why"), output_format)
    return Standing.DONE


def _look_at(world: World, sdid: str | None, *, look: bool) -> list[Report]:
    names = sdids_of(world, sdid)
    if not look:
        return [lifecycle.from_memory(world, name) for name in names]
    return each(names, lambda name, relays: lifecycle.preview(world, name, relays=relays), world)
