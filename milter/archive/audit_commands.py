"""`carbonseal archive audit`: who asked for, saw, exported, held and deleted what.

Promises: newest first; whoever looks stands in the audit as well.  A word that no event has is
refused: nothing found would pass for nothing done.

See also: `audit`.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from datetime import UTC, datetime

import click

from carbonseal.keys import tables
from carbonseal.milter.archive import audit, command_line
from carbonseal.milter.archive.command_line import Context
from carbonseal.policies.errors import DataError

# What `audit.asking` is given everywhere, and what it adds itself.
ACTIONS = (
    *("search", "show", "trace", "stats", "copies", "export", "import", "hold", "holds"),
    *("release", "retain", "erase", "check-erasure", "completeness", "verify", "audit"),
    *(audit.ANSWERED, audit.REWRITTEN),
)
_COLUMNS = ("number", "at", "actor", "action", "reason", "detail")


@click.command("audit")
@click.option("--since", metavar="TIME", help="2026-11-21, 2026-11-21T10:00Z, or 7d for days ago.")
@click.option("--until", metavar="TIME", help="The same; a date means its end.")
@click.option("--actor", metavar="NAME", help="Who, as the audit writes it.")
@click.option(
    "--action",
    metavar="WORD",
    type=click.Choice(ACTIONS),
    help="search, show, export, hold, retain, erase, ...",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="No more events than these.",
)
@click.option("--all", "everything", is_flag=True, help="No limit.")
@command_line.reason_option
@tables.output_options
@click.pass_obj
def audit_command(
    context: Context,
    /,
    *,
    since: str | None,
    until: str | None,
    actor: str | None,
    action: str | None,
    limit: int,
    everything: bool,
    reason: str,
    output_format: str,
) -> None:
    """Show who asked for what, newest first, this question included.  Times are UTC."""
    now = datetime.now(UTC)
    first = command_line.moment("--since", since, now)
    last = command_line.moment("--until", until, now, end_of_day=True)
    command_line.check_order(first, last, since, until)
    if actor is not None and not actor.strip():
        raise DataError("--actor is empty; name somebody as the audit writes it, or leave it out")
    query = {"since": since, "until": until, "actor": actor, "action": action}
    with (
        audit.asking(context, "audit", query, reason) as asked,
        audit.opened(context.database_url) as engine,
    ):
        found = audit.events(engine, since=first, until=last, actor=actor, action=action)
        some = itertools.islice(found, None if everything else min(limit, sys.maxsize))
        tables.write_rows(_rows(asked.counted(some)), _COLUMNS, output_format)


def _rows(events: Iterator[audit.Event]) -> Iterator[dict[str, object]]:
    for one in events:
        yield {
            "number": one.number,
            "at": datetime.fromtimestamp(one.at / 1_000_000, UTC),
            "actor": one.actor,
            "action": one.action,
            "reason": one.reason,
            "detail": one.facts,
            "digest": one.digest.hex(),
        }
