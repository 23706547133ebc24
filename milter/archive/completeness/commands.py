"""`carbonseal archive completeness`: is everything on record?

Exit status 0: complete.  1: there are holes.  75: nobody can look.

See also: `report`; the units carbonseal-completeness.service and .timer.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from carbonseal.keys import tables
from carbonseal.milter.archive import audit, command_line
from carbonseal.milter.archive.command_line import Context
from carbonseal.milter.archive.completeness.finding import Finding, Period
from carbonseal.milter.archive.completeness.report import Asked, Report
from carbonseal.milter.status import state_files
from carbonseal.policies import completeness, quantity
from carbonseal.policies.completeness import Kind
from carbonseal.policies.errors import DataError, UsageError

_HOLES = 1
_STATE = "completeness"
_COLUMNS = ("kind", "cause", "count", "first", "last", "about")
_EACH = ("kind", "cause", "at", "relay", "queue_id", "record_id", "about")
_DAY = timedelta(days=1)


@click.command("completeness")
@click.option("--since", metavar="TIME", help="Look from here on; the last day otherwise.")
@click.option("--until", metavar="TIME", help="Look no further; now otherwise.")
@click.option("--yesterday", is_flag=True, help="Look at the whole of yesterday.")
@click.option("--relay", metavar="NAME", help="Look at mail of this relay only.")
@click.option("--each", is_flag=True, help="List each hole and what is pending, with queue ids.")
@command_line.reason_option
@tables.output_options
@click.pass_obj
def completeness_command(
    context: Context,
    /,
    *,
    since: str | None,
    until: str | None,
    yesterday: bool,
    relay: str | None,
    each: bool,
    reason: str,
    output_format: str,
) -> int:
    """Hold Postfix's log against the records: mail without a record, records without mail, copies.

    Times are UTC.  Exit status 0: complete.  1: there are holes.  75: nobody can look.
    """
    now = datetime.now(UTC)
    if yesterday:
        if since is not None or until is not None:
            raise UsageError("--yesterday says since and until when; leave those out, or it")
        since = until = (now - _DAY).date().isoformat()
    period = _period(since, until, now)
    spool = _readable(context.spool_directory)
    follower = {} if spool is None else state_files.read(spool, "follow") or {}
    report = Report(Asked(period, now, relay, spool, follower))
    wanted = {"since": since, "until": until, "relay": relay, "each": each}
    with (
        command_line.reading(context) as engine,
        audit.asking(context, "completeness", wanted, reason) as asked,
    ):
        found = report.findings(engine)
        if each:
            listed = (_row(one) for one in found if one.kind is not Kind.EXPLAINED)
            tables.write_rows(asked.counted(listed), _EACH, output_format)
        else:
            for _ in found:
                pass
            tables.write_rows(asked.counted(_totals(report)), _COLUMNS, output_format)
        figures = report.figures()
        asked.note(**figures)
    if spool is not None and relay is None:
        state_files.write(spool, _STATE, {**figures, "exit_status": _status(report)})
    click.echo(_summary(figures), err=output_format != "table")
    return _status(report)


def _period(since: str | None, until: str | None, now: datetime) -> Period:
    last = command_line.moment("--until", until, now, end_of_day=True) or now
    first = command_line.moment("--since", since, now) or last - _DAY
    command_line.check_order(first, last, since, until)
    if first >= now:
        raise DataError(
            f"{'--until ' + until if since is None and until else f'--since {since}'}: nothing of"
            " that time has come so far; write an earlier one"
        )
    try:
        period = Period(first, last)
        _ = period.first, period.after
    except (ValueError, OverflowError):
        raise DataError(
            "--since and --until: no record is of that time; write later ones"
        ) from None
    return period


def _readable(spool: Path) -> Path | None:
    return spool if os.access(spool, os.R_OK | os.X_OK) else None


def _row(one: Finding) -> dict[str, object]:
    return {
        "kind": one.kind.value,
        "cause": one.cause.value,
        "at": one.at,
        "relay": one.relay,
        "queue_id": one.queue_id,
        "record_id": one.record_id,
        "about": one.about,
        "count": one.count,
    }


def _totals(report: Report) -> Iterator[Mapping[str, Any]]:
    for cause, total in report.in_order():
        yield {
            "kind": completeness.kind(cause).value,
            "cause": cause.value,
            "count": total.count,
            "first": total.first,
            "last": total.last,
            "about": completeness.sentence(cause),
        }


def _status(report: Report) -> int:
    return _HOLES if report.count(Kind.HOLE) else 0


def _summary(figures: Mapping[str, Any]) -> str:
    holes = figures["holes"]
    return (
        f"{figures['since']} to {figures['until']}: "
        f"{quantity.of(figures['messages'], 'message')} sealed, "
        f"{figures['logged']} of them in the log; {figures['crossing']} crossed, "
        f"{figures['delivered']} of {quantity.of(figures['copies'], 'copy', 'copies')} delivered; "
        f"{quantity.of(holes, 'hole') if holes else 'no holes'}, {figures['pending']} pending, "
        f"{figures['explained']} explained"
    )
