"""`carbonseal status`: how the relay is, on one screen.

Promises: changes nothing; exit status 0 when the relay is ready, 1 when it is not, 75 when nobody
can be asked.  Names of archive mailboxes are shown to whoever may read the spool, and to nobody
else.

Raises: `inquiry.NoPage`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from carbonseal.keys import tables
from carbonseal.milter import socket_address
from carbonseal.milter.config import Configuration
from carbonseal.milter.status import inquiry, state_files
from carbonseal.milter.status.page import spoken
from carbonseal.policies import quantity, readiness
from carbonseal.policies.errors import UsageError

_NOT_READY = 1
_WATCH_EVERY = 2.0
_FRESH = 5.0  # seconds for which a page needs no word about its age
_UNITS = ("octets", "KiB", "MiB", "GiB", "TiB")
_PHASES = ("whole", "decide", "sign", "record")
_COPY_TROUBLE = {
    "diverted": "whose copies an alternate gets",
    "waiting": "copies wait in the queue",
    "lost": "copies were lost (carbonseal archive copies)",
}
Line = tuple[str, str]


class Context(Protocol):
    """What this command needs from the command line."""

    @property
    def configuration(self) -> Configuration:
        """The checked configuration.  Raises: ConfigurationError."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Everything, for programs.")
@click.option("--watch", is_flag=True, help="Look again every two seconds, until Ctrl-C.")
@click.pass_obj
def status(context: Context, as_json: bool, watch: bool) -> int:
    """Show how the relay is: ready or not, rates, spool, writer, follower, keys, archive copies.

    Exit status 0: ready.  1: not ready, and the first lines say why.  75: nobody can be asked.
    """
    if watch and as_json:
        raise UsageError("--watch shows a screen; leave out --json, or ask again and again")
    configuration = context.configuration
    if watch:
        _watch(configuration)
    page = _page(configuration)
    if as_json:
        click.echo(json.dumps(page))
    else:
        Console(highlight=False).print(_screen(page, configuration.spool_directory))
    return 0 if page["ready"] else _NOT_READY


def _watch(configuration: Configuration) -> None:
    """Until an interrupt."""
    spool = configuration.spool_directory
    with Live(console=Console(highlight=False), screen=False, auto_refresh=False) as live:
        while True:
            try:
                live.update(_screen(_page(configuration), spool), refresh=True)
            except inquiry.NoPage as fault:
                live.update(Text(tables.presentable(fault.sentence)), refresh=True)
            time.sleep(_WATCH_EVERY)


def _page(configuration: Configuration) -> dict[str, Any]:
    listen = configuration.file.status.listen
    address = None if listen is None else socket_address.parse(listen)
    page = inquiry.newest(configuration.spool_directory, address)
    sight = readiness.sight(inquiry.age_of(page), has_left=bool(page.get("has_left")))
    if not sight.is_ok:
        page["ready"] = False
        page["checks"] = [spoken(sight), *page["checks"][1:]]
    return page


def _screen(page: Mapping[str, Any], spool: Path) -> Group:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, about in _lines(page, spool):
        table.add_row(name, Text(tables.presentable(about)))
    word = Text("READY", "bold green") if page["ready"] else Text("NOT READY", "bold red")
    age = inquiry.age_of(page)
    if age >= _FRESH:
        word.append(f" as seen {age:.0f} s ago", "not bold")
    return Group(word, *_complaints(page), table)


def _complaints(page: Mapping[str, Any]) -> Iterator[Text]:
    for check in page["checks"]:
        if not check["ok"]:
            style = "red" if check["needed"] else "yellow"
            said = f"{check['name']}: {check['why']}"
            yield Text("  ! " + tables.presentable(said), style)
            yield Text("    " + tables.presentable(check["remedy"]))


def _lines(page: Mapping[str, Any], spool: Path) -> Iterator[Line]:
    now = time.time()
    workers, rates, messages = page["workers"], page["rates"], page["messages"]
    since = _rough(now - workers["started_at"])
    yield (
        "relay",
        f"{page['relay']}, carbonseal {page['version']}, started {since} ago,"
        f" configuration {page['config_version']}",
    )
    if page.get("dry_run"):
        yield "DRY RUN", "no mail is signed, copied or refused, only recorded (milter.dry_run)"
    restarts = ", ".join(f"{role} {count}" for role, count in workers["restarts"].items() if count)
    yield (
        "workers",
        f"{workers['serving']} of {workers['wanted']} serve, "
        f"{quantity.of(workers['stuck'], 'hangs', 'hang')}; "
        f"{quantity.of(page['connections']['open'], 'connection')}; "
        f"restarts: {restarts or 'none'}",
    )
    yield (
        "mail",
        f"{rates['messages']:.1f}/s in the last {rates['seconds']:.0f} s, signed "
        f"{rates['signed']:.1f}/s, refused {rates['refused']:.1f}/s, {_size(rates['octets'])}/s; "
        f"{messages['total']} since the start",
    )
    yield "unsigned", _counted(messages["unsigned"])
    yield "time taken", _times(rates["phases"])
    yield from _keeping(page, now)
    yield "archive copy", _copies(page, spool, now)
    yield "keys", _keys(page["keys"], now)
    report = page["completeness"]
    if report is not None:
        yield "completeness", f"looked at {_ago(now, report['at'])}: {_holes(report)}"


def _keeping(page: Mapping[str, Any], now: float) -> Iterator[Line]:
    spool, writer, follower = page["spool"], page["writer"], page["follower"]
    waiting = (
        f"{quantity.of(spool['records'], 'record waits', 'records wait')}, the oldest for"
        f" {spool['lag']:.1f} s"
    )
    yield (
        "spool",
        f"{_size(spool['octets'])} of {_size(spool['limit'])} in "
        f"{quantity.of(spool['segments'], 'segment')}; "
        + (waiting if spool["records"] else "no record waits"),
    )
    if not writer:
        yield "writer", "never heard of"
        return
    yield (
        "writer",
        f"heard of {_ago(now, writer['at'])}; since its start"
        f" {quantity.of(writer.get('loaded', 0), 'record')} loaded,"
        f" {writer.get('set_aside', 0)} set aside",
    )
    trouble = writer.get("trouble")
    lag = f"{spool['lag']:.1f} s behind the mail"
    yield "database", f"reached, {lag}" if not trouble else f"waited for, {lag}: {trouble}"
    if follower is not None and "at" not in follower:
        yield "follower", "its word cannot be read"
    elif follower is not None:
        yield (
            "follower",
            f"heard of {_ago(now, follower['at'])}; {follower.get('lag', 0):.0f} s behind"
            f" the log, {quantity.of(follower.get('facts', 0), 'fact')} from"
            f" {quantity.of(follower.get('lines', 0), 'line')}",
        )


def _copies(page: Mapping[str, Any], spool: Path, now: float) -> str:
    if not page["copies"]:
        return "not followed"
    counted = ", ".join(f"{count} {state}" for state, count in page["copies"].items() if count)
    about = state_files.read(spool, "copies") or {}
    recipients = about.get("recipients")
    failing = [
        f"{mailbox} since {_ago(now, one.get('since', now))}"
        f" ({quantity.of(one.get('failures', 0), 'failure')})"
        for mailbox, one in (recipients if isinstance(recipients, dict) else {}).items()
        if isinstance(one, dict) and one.get("state") == "failing"
    ]
    trouble = page.get("copy_trouble") or {}
    more = [
        f"{trouble[name]} {words}"
        for name, words in _COPY_TROUBLE.items()
        if isinstance(trouble.get(name), int) and trouble[name]
    ]
    return "; ".join([counted or "none sent yet", *failing, *more])


def _keys(about: Mapping[str, Any], now: float) -> str:
    due = [
        f"{one['sdid']}/{one['selector']} "
        + (f"in {_rough(left)}" if (left := one["due_at"] - now) > 0 else "OVERDUE")
        for one in about["next"][:3]
    ]
    return f"{about['signing']} sign; due next: {', '.join(due) or 'none'}"


def _counted(counts: Mapping[str, int]) -> str:
    most = sorted(counts.items(), key=lambda pair: -pair[1])[:5]
    return ", ".join(f"{reason} {count}" for reason, count in most) or "none since the start"


def _times(phases: Mapping[str, Mapping[str, float]]) -> str:
    found = [
        f"{name} {phases[name]['half'] * 1000:.1f} ms (1 in 100: {phases[name]['most'] * 1000:.0f})"
        for name in _PHASES
        if name in phases
    ]
    return ", ".join(found) or "no mail in the last minute"


def _size(octets: float) -> str:
    for unit in _UNITS:
        if octets < 1024 or unit == _UNITS[-1]:
            return f"{octets:.0f} {unit}" if unit == "octets" else f"{octets:.1f} {unit}"
        octets /= 1024
    raise AssertionError


def _holes(report: Mapping[str, Any]) -> str:
    """What the last look at completeness found; any figure may be missing."""
    holes, pending = report.get("holes"), report.get("pending")
    if holes is None:
        return "no figures"
    found = quantity.of(holes, "hole") if holes else "no holes"
    if pending:
        found += f", {pending} pending"
    if "messages" in report:
        found += f" in {quantity.of(report['messages'], 'message')}"
    if "since" in report and "until" in report:
        found += f" from {report['since']} to {report['until']}"
    return f"{found}; carbonseal archive completeness lists them" if holes else found


def _ago(now: float, at: float) -> str:
    return f"{_rough(now - at)} ago"


def _rough(seconds: float) -> str:
    """As exact as a person wants it."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
