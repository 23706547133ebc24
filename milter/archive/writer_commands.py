"""`carbonseal archive write`, the writer in the foreground, and `archive upgrade`.

Promises: a service manager that wants to be told hears that the writer is ready when the spool is
its own and the database has its tables, or is known to wait for one that cannot serve: what starts
after the writer finds the archive that it made.

Does not: say every few seconds that it lives, for a watchdog.  New tables in a large archive, or a
commit on a slow disk, take as long as they take; a writer that is killed begins them again.

See also: `writer`.
"""

from __future__ import annotations

import signal
import threading
from typing import Any, Final

import click

from carbonseal.milter.archive import database, writer
from carbonseal.milter.archive.command_line import Context
from carbonseal.milter.archive.writing import account
from carbonseal.milter.supervision.service_manager import WriterNotices
from carbonseal.policies import quantity
from carbonseal.policies.errors import CarbonsealError


@click.command()
@click.option("--once", is_flag=True, help="Load what is there and stop.")
@click.pass_obj
def write(context: Context, once: bool) -> None:
    """Load the spool into the database, in the foreground; TERM or INT stops it cleanly."""
    if once:
        count = writer.run_once(
            context.spool_directory,
            context.database_url,
            report=account.to_log,
            evidence=context.evidence,
            indexed=context.index_headers,
        )
        click.echo(f"{quantity.of(count, 'record')} loaded")
        return
    service = _Service()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: service.end())
    writer.run(
        context.spool_directory,
        context.database_url,
        stop=service.stop,
        report=service.report,
        opened=service.opened,
        keep_loaded=context.keep_loaded,
        evidence=context.evidence,
        indexed=context.index_headers,
    )


_WAITS: Final = ("database-waits", "archive-lost")
_SERVES: Final = "database-serves-again"


class _Service:
    """When the writer is to stop; tells the service manager how far it has got."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._notices = WriterNotices()
        self._problem = ""

    def end(self) -> None:
        """Stop when what is there is loaded; called by a signal's handler."""
        self.stop.set()
        self._notices.stopping()

    def opened(self) -> None:
        """The archive is open, its tables are there."""
        if not self._problem:  # else it may be open and take nothing
            self._notices.loads()

    def report(self, event: str, **facts: Any) -> None:
        """To the log; and to the service manager, where it is about the database."""
        account.to_log(event, **facts)
        if event in _WAITS:
            self._problem = str(facts["problem"])
            self._notices.waits(self._problem)
        elif event == _SERVES:
            self._problem = ""
            self._notices.loads()


@click.command()
@click.option(
    "--database", "url", metavar="URL", help="Log in as the tables' owner; else record.database."
)
@click.pass_obj
def upgrade(context: Context, url: str | None) -> None:
    """Bring the archive's tables to this version; on a server, as their owner.

    The writer does it by itself where it may, which is always so with SQLite.
    """
    try:
        place, before, after = _upgraded(context.database_url if url is None else url)
    except CarbonsealError as fault:
        if url is None or "record.database" not in fault.sentence:
            raise
        raise type(fault)(fault.sentence.replace("record.database", "--database")) from fault
    if before == after:
        click.echo(f"{place}: the archive has schema {after} already")
    else:
        click.echo(f"{place}: the archive has schema {after} now (before: {before or 'none'})")


def _upgraded(url: str) -> tuple[str, str | None, str | None]:
    """The place, and its schema before and after."""
    engine = database.writing_engine(url, patience=None)
    try:
        before = database.schema_version(engine)
        database.upgrade(engine)
        return database.place(engine.url), before, database.schema_version(engine)
    finally:
        engine.dispose()
