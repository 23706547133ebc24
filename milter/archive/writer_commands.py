"""`carbonseal archive write`: the writer in the foreground.

See also: `writer`.
"""

from __future__ import annotations

import signal
import threading

import click

from carbonseal.milter.archive import writer
from carbonseal.milter.archive.command_line import Context


@click.command()
@click.option("--once", is_flag=True, help="Load what is there and stop.")
@click.pass_obj
def write(context: Context, once: bool) -> None:
    """Load the spool into the database, in the foreground; TERM or INT stops it cleanly."""
    if once:
        count = writer.run_once(
            context.spool_directory,
            context.database_url,
            report=writer.to_log,
            evidence=context.evidence,
        )
        click.echo(f"{count} records loaded")
        return
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    writer.run(
        context.spool_directory,
        context.database_url,
        stop=stop,
        report=writer.to_log,
        keep_loaded=context.keep_loaded,
        evidence=context.evidence,
    )
