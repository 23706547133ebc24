"""`carbonseal archive write`, the writer in the foreground, and `archive upgrade`.

See also: `writer`.
"""

from __future__ import annotations

import signal
import threading

import click

from carbonseal.milter.archive import database, writer
from carbonseal.milter.archive.command_line import Context
from carbonseal.milter.archive.writing import account
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
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    writer.run(
        context.spool_directory,
        context.database_url,
        stop=stop,
        report=account.to_log,
        keep_loaded=context.keep_loaded,
        evidence=context.evidence,
        indexed=context.index_headers,
    )


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
