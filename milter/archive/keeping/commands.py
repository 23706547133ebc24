"""`carbonseal archive hold|holds|release|retain`: what must stay, and what goes with time.

Promises: everything stands in the audit before it is done.  `retain` changes nothing without
--apply.  What was interrupted is finished by the same command.

See also: `holds`, `retain`, `erase_command`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import click
from sqlalchemy import Engine

from carbonseal.keys import progress, tables
from carbonseal.milter.archive import (
    audit,
    command_line,
    database,
    rows,
    terms,
)
from carbonseal.milter.archive.command_line import Context
from carbonseal.milter.archive.keeping import holds, lost_holds, retain
from carbonseal.milter.archive.keeping.holds import Find, Hold
from carbonseal.milter.archive.search import options as options_
from carbonseal.milter.archive.search import query, written
from carbonseal.milter.archive.search.wanted import Search
from carbonseal.policies import quantity
from carbonseal.policies.errors import UsageError

_LOST = 1  # exit status: holds are missing
_HOLDS = ("name", "is", "records", "set_at", "set_by", "released_at", "reason", "query")


@contextmanager
def changing(context: Context) -> Iterator[tuple[Engine, Find]]:
    """An engine that may change the archive, and how records are found in it."""
    with command_line.reading(context) as reader:  # it is there, and of this version
        engine = database.writing_engine(context.database_url, patience=None)

        def find(search: Search) -> Iterator[str]:
            for page in query.pages(reader, search, **command_line.known(context)):
                yield from page

        try:
            yield engine, find
        finally:
            engine.dispose()


def refuse_without_holds(context: Context, engine: Engine) -> None:
    """Let nothing be taken out while the audit tells of a hold that the archive does not have.

    Raises: DataError.
    """
    with query.reading(engine) as connection:
        there = {one.name for one in holds.listed(connection)}
    with audit.opened(context.database_url) as beside:
        lost_holds.refuse_without(beside, there)


@click.command("hold")
@click.argument("name")
@options_.search_options
@click.option("--live", is_flag=True, help="Hold what comes later as well.")
@command_line.reason_option
@click.pass_obj
def hold_command(context: Context, /, name: str, live: bool, reason: str, **options: Any) -> None:
    """Keep every record that QUERY finds, whatever its time, until NAME is released.

    Without --live it holds what the archive has now; mail that still waits in a spool is not in it.
    If it is interrupted, what it was asked to hold is held all the same: give it again.
    """
    now = datetime.now(UTC)
    holds.check_name(name)
    search = options_.wanted(options, now, limit=None)
    said = search.to_json()
    if said.keys() <= {"v"}:
        raise UsageError("no query says what to hold; write one, such as after:2000-01-01 for all")
    with (
        changing(context) as (engine, find),
        audit.asking(context, "hold", {"name": name, "live": live, **said}, reason) as asked,
    ):
        for _ in find(search):  # a search that cannot be answered is refused before it holds
            break
        hold = holds.begin(
            engine,
            name,
            reason=asked.event.reason,
            search=search,
            is_live=live,
            by=asked.event.actor,
            now=now,
        )
        with progress.counting(0, "records") as advance:
            count = holds.extend(engine, hold, find, progress=advance)
        holds.finish(engine, hold, is_live=live)
        asked.note(records=count)
    later = ", and what comes later" if live else ""
    click.echo(f"{name} holds {quantity.of(count, 'record')}{later}")


@click.command("holds")
@command_line.reason_option
@tables.output_options
@click.pass_obj
def holds_command(context: Context, reason: str, output_format: str) -> int:
    """List legal holds, those that were released as well.

    Exit status 1: the audit tells of a hold that the archive does not have.
    """
    with (
        command_line.reading(context) as engine,
        audit.asking(context, "holds", {}, reason) as asked,
    ):
        with query.reading(engine) as connection:
            listed = [
                _hold_row(one, holds.members(one, connection)) for one in holds.listed(connection)
            ]
        names = {str(one["name"]) for one in listed}
        with audit.opened(context.database_url) as beside:
            gone = lost_holds.lost(beside, names)
        if output_format == "table":
            listed = [_for_people(one) for one in listed]
        tables.write_rows(asked.counted(listed), _HOLDS, output_format)
    for event in gone:
        said = (
            f"hold {event.facts.get('name')}: not in the archive, though the audit says that "
            f"{event.actor} set it at {rows.moment_text(event.at)[:19]}Z (event {event.number}); "
            "was the archive begun anew, or an old backup restored?  Before retain runs: "
            f"{lost_holds.command(event)} (release it if it is over)"
        )
        click.echo(tables.presentable(said), err=True)
    return _LOST if gone else 0


def _hold_row(hold: Hold, members: int) -> dict[str, object]:
    state = "live" if hold.is_live else "fixed"
    return {
        "name": hold.name,
        "is": state if hold.is_in_force else "released",
        "records": members,
        "set_at": rows.moment_text(hold.set_at),
        "set_by": hold.set_by,
        "released_at": None if hold.released_at is None else rows.moment_text(hold.released_at),
        "released_by": hold.released_by,
        "reason": hold.reason,
        "query": hold.wanted.to_json(),
        "written": written.query(hold.wanted),
    }


def _for_people(row: dict[str, object]) -> dict[str, object]:
    """Whole seconds, and a query that can be typed."""
    times = {name: str(row[name])[:19] + "Z" for name in ("set_at", "released_at") if row[name]}
    return row | times | {"query": row["written"]}


@click.command("release")
@click.argument("name")
@command_line.reason_option
@click.pass_obj
def release_command(context: Context, name: str, reason: str) -> None:
    """End the legal hold NAME; what it held and what is past its time goes with the next retain."""
    with (
        changing(context) as (engine, _),
        audit.asking(context, "release", {"name": name}, reason) as asked,
    ):
        holds.release(engine, name, by=asked.event.actor, now=datetime.now(UTC))
        asked.note(records=holds.forget_released(engine))
    click.echo(f"{name} holds nothing any more")


@click.command("retain")
@click.option("--apply", "is_applied", is_flag=True, help="Do it; without this it is only said.")
@click.option(
    "--now", "moment", metavar="TIME", help="As if it were then; --apply: no later than now."
)
@command_line.reason_option
@click.pass_obj
def retain_command(context: Context, /, is_applied: bool, moment: str | None, reason: str) -> None:
    """Take out what is past its time: subjects, header sections, records.

    How long a record is kept was stamped on it when it was made (section retention of the
    configuration).  What a legal hold covers stays.  It can be interrupted at any moment, and goes
    on the next time.  While the audit tells of a hold that the archive does not have, --apply takes
    nothing.
    """
    real_now = datetime.now(UTC)
    now = command_line.moment("--now", moment, real_now) or real_now
    if is_applied and now > real_now:
        raise UsageError("--now lies ahead: with --apply it would shorten what was promised")
    with (
        changing(context) as (engine, find),
        audit.asking(
            context, "retain", {"now": now.isoformat(), "apply": is_applied}, reason
        ) as asked,
    ):
        if moment is None:
            retain.check_clock(engine, now)
        if is_applied:
            refuse_without_holds(context, engine)
        for hold in _live(engine):
            holds.extend(engine, hold, find, until=now, progress=lambda count: None)
        plan = retain.plan(engine, now)
        _show_plan(plan)
        asked.note(expired=sum(one.expired for one in plan.counts))
        if not is_applied:
            click.echo("nothing was changed; --apply does it", err=True)
            return
        total = sum(one.expired - one.held for one in plan.counts)
        with progress.counting(total, "past their time") as advance:
            done = retain.Run(
                engine,
                now,
                event=asked.event.number,
                find=find,
                indexed=context.index_headers,
                protected=frozenset(map(terms.mailbox, context.archive_recipients)),
                progress=advance,
            ).apply()
        asked.note(
            taken={f"{name}: {what}": count for (name, what), count in done.taken.items()},
            lines=done.lines,
            months=done.months,
            addresses=done.addresses,
            domains=done.domains,
            refused=len(done.refused),
        )
    _show_done(done)
    if "sqlite" in context.database_url.partition(":")[0]:
        _give_back(context)


def _live(engine: Engine) -> list[Hold]:
    with query.reading(engine) as connection:
        return [one for one in holds.in_force(connection) if one.is_live]


def _show_plan(plan: retain.Plan) -> None:
    found = [
        {
            "class": one.due.name,
            "part": one.due.what,
            "recorded_before": rows.moment_text(one.due.before)[:19] + "Z",
            "past": one.expired,
            "held": one.held,
            "goes": one.expired - one.held,
        }
        for one in plan.counts
    ]
    if not found:
        click.echo("nothing is past its time")
        return
    columns = ("class", "part", "recorded_before", "past", "held", "goes")
    tables.write_rows(found, columns, "table")
    for name, count in sorted(plan.by_hold.items()):
        click.echo(f"held by {name}: {count}")
    if plan.months:
        click.echo(f"whole months: {', '.join(one.name for one in plan.months)}")


def _show_done(done: retain.Done) -> None:
    for (name, what), count in sorted(done.taken.items()):
        click.echo(f"taken out of class {name}: {count} x {what}")
    if done.waiting_lines:
        click.echo(f"lines of the mail log without a record: {done.waiting_lines}")
    addresses = quantity.of(done.addresses, "address", "addresses")
    click.echo(f"left the dictionary: {addresses}, {quantity.of(done.domains, 'domain')}")
    for record_id, why in done.refused:
        click.echo(f"{record_id}: cannot be read, so it stays ({why})", err=True)


def _give_back(context: Context) -> None:
    """SQLite keeps free pages for later; say so, as the file does not become smaller."""
    with command_line.reading(context) as engine, query.reading(engine) as connection:
        free = connection.exec_driver_sql("PRAGMA freelist_count").scalar_one()
        size = connection.exec_driver_sql("PRAGMA page_size").scalar_one()
    if free * size > 100 * 1024 * 1024:
        click.echo(
            f"{free * size >> 20} MiB of the file are free for later mail; to give them back to "
            "the file system stop the writer and run VACUUM with sqlite3",
            err=True,
        )
