"""`carbonseal follow`: what Postfix's log says of each message, for ever or once.

See also: `follower`; the unit carbonseal-follow.service.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from pathlib import Path
from typing import Final, Protocol

import click

from carbonseal.milter import log, postfix_settings
from carbonseal.milter.archive import segments, spool
from carbonseal.milter.config import Configuration
from carbonseal.milter.copies import watching
from carbonseal.milter.follow import follower, position
from carbonseal.milter.follow.follower import Follower, MakeSource
from carbonseal.milter.follow.gathering import Gathering
from carbonseal.milter.follow.journal import Journal
from carbonseal.milter.follow.log_file import LogFile
from carbonseal.milter.follow.log_line import Framing, Services
from carbonseal.milter.follow.position import Position
from carbonseal.milter.follow.taken import Source
from carbonseal.policies import quantity
from carbonseal.policies.errors import TryLater, UsageError

_JOURNAL: Final = "journal"
_IMPORT: Final = "-import"


class Context(Protocol):
    """What this command needs from the command line."""

    @property
    def configuration(self) -> Configuration:
        """The checked configuration.  Raises: ConfigurationError."""


@click.command()
@click.option("--once", is_flag=True, help="Read what the log holds now and stop.")
@click.option(
    "--log",
    "other",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="With --once: read all of another log, such as an older one, which may be compressed.",
)
@click.pass_obj
def follow(context: Context, once: bool, other: Path | None) -> None:
    """Turn Postfix's log into delivery events, in the foreground; TERM or INT stops it cleanly.

    It goes on where it stopped.  A log that is read twice changes nothing.
    """
    if other is not None and not once:
        raise UsageError("--log is for one reading of an older log; add --once, or set follow.log")
    configuration = context.configuration
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with contextlib.ExitStack() as stack:
        if other is None:
            stack.enter_context(follower.alone(configuration.spool_directory))
        made = make(configuration, once=once, other=other)
        if not once:
            log.event("follow-begins", log=configuration.file.follow.log)
        made.run(stop)
    if once:
        counts = made.counts
        lines, facts = quantity.of(counts.lines, "line"), quantity.of(counts.facts, "fact")
        click.echo(f"{lines} read: {facts}, {counts.unread} not readable")
        doubt = made.doubt()
        if doubt is not None:
            click.echo(f"carbonseal: {doubt}", err=True)


def make(configuration: Configuration, *, once: bool, other: Path | None = None) -> Follower:
    """The follower of a configuration, `other`: of another log from its beginning, all of it.

    Raises: TryLater when nothing says how this relay is called.
    """
    directory = configuration.spool_directory
    _recover(directory)
    if other is None:
        position.tidy(directory)
    suffix = position.SUFFIX if other is None else _IMPORT
    relay = _relay(configuration)
    return Follower(
        make_source=_source_of(configuration, once=once, other=other),
        spool_directory=directory,
        spool=spool.Spool(directory, suffix=suffix),
        gathering=Gathering(relay),
        limit=configuration.file.record.spool_limit,
        once=once,
        keeps_position=other is None,
        # What an older log says of copies is no news.
        watch=None if other is not None else watching.of(configuration, relay),
    )


def _recover(directory: Path) -> None:
    """Close what a follower that was killed left open; also makes durable what it had written."""
    try:
        segments.recover(directory)
    except OSError as fault:
        raise TryLater(
            f"{fault.filename or directory}: cannot use the spool ({fault.strerror}); run the "
            "follower as the milter's user"
        ) from None


def _source_of(configuration: Configuration, *, once: bool, other: Path | None) -> MakeSource:
    section = configuration.file.follow
    services = Services(section.syslog_name)
    kind, _, directory = section.log.partition(":")

    def make_source(where: Position | None) -> Source:
        if other is None and kind == _JOURNAL:
            return Journal(
                services,
                position=None if where is None else where.of_journal(directory),
                directory=directory,
                once=once,
                report=log.warning,
            )
        path = Path(section.log) if other is None else other.absolute()
        return LogFile(
            path,
            Framing(services),
            position=None if where is None else where.of_file(path),
            once=once,
            alone=other is not None,
            report=log.warning,
        )

    return make_source


def _relay(configuration: Configuration) -> str:
    """The name under which this relay records: what its Postfix calls itself, unless said."""
    named = configuration.file.record.relay
    if named is not None:
        return named
    try:
        found = postfix_settings.read(configuration.file.rotation.postfix).value("myhostname")
    except postfix_settings.SettingsUnreadable:
        found = ""
    if not found:
        raise TryLater(
            "nothing says what this relay is called: postconf does not answer; set record.relay to "
            "the myhostname of its Postfix"
        )
    return found
