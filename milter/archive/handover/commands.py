"""`carbonseal archive export` and `archive import`: records in, and out of, other people's hands.

Promises: what is exported stands in the audit before a record is read, with the SHA-256 of the
manifest afterwards.  A bundle is whole or not there.  Nothing is imported from one that is damaged.

See also: `export`, `importing`; `check`, which whoever gets a bundle runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from sqlalchemy import Engine

from carbonseal.keys import progress, tables
from carbonseal.milter.archive import audit, command_line
from carbonseal.milter.archive.command_line import Context
from carbonseal.milter.archive.evidence import rewriting
from carbonseal.milter.archive.evidence.rewriting import Rewritten
from carbonseal.milter.archive.handover import check, export, importing
from carbonseal.milter.archive.handover.given import Given
from carbonseal.milter.archive.keeping import holds
from carbonseal.milter.archive.search import options as options_
from carbonseal.milter.archive.search import query
from carbonseal.milter.archive.search.wanted import Search
from carbonseal.policies import quantity
from carbonseal.policies.errors import NotFound, UsageError

_FORMATS = ("jsonl", "csv", "both")


@click.command("export")
@click.argument("path", type=click.Path(path_type=Path))
@options_.search_options
@click.option("--all", "everything", is_flag=True, help="Export every record; needs no query.")
@click.option(
    "--hold", metavar="NAME", help="Export what the query of this legal hold finds, instead."
)
@click.option(
    "--format",
    "output_format",
    type=click.Choice(_FORMATS),
    default="jsonl",
    show_default=True,
    help="JSON Lines is exact and is always there; csv and both add a table for people.",
)
@click.option(
    "--max",
    "most",
    type=click.IntRange(min=1),
    help="Refuse to export more records than these.",
)
@command_line.reason_option
@click.pass_obj
def export_command(
    context: Context,
    /,
    *,
    path: Path,
    everything: bool,
    hold: str | None,
    output_format: str,
    most: int | None,
    reason: str,
    **options: Any,
) -> None:
    """Write complete records and what proves them into the bundle PATH, for somebody else.

    PATH becomes a directory, or a tar file if it ends in .tar, which is not compressed.  QUERY is
    as for archive search.
    """
    now = datetime.now(UTC)
    wanted = options_.wanted(options, now, limit=None)
    is_every = wanted.to_json().keys() <= {"v"}
    if hold is not None and (everything or not is_every):
        raise UsageError("--hold has a query of its own; leave the other conditions and --all out")
    if not everything and hold is None and is_every:
        raise UsageError("no query says what to export; write one, --hold NAME or --all")
    with command_line.reading(context) as engine:
        if hold is not None:
            wanted = _what_is_held(engine, hold)
        details = {**wanted.to_json(), "to": str(path), **({"hold": hold} if hold else {})}
        with audit.asking(context, "export", details, reason) as asked:
            order = export.Order(
                query=wanted.to_json(),
                made_at=now.isoformat().replace("+00:00", "Z"),
                made_by=asked.event.actor,
                reason=asked.event.reason,
                audit={"number": asked.event.number, "digest": asked.event.digest.hex()},
                with_table=output_format != "jsonl",
                most=most,
                rewritten=_rewritten(context),
            )
            known = command_line.known(context)
            watched = progress.is_watched()
            total = query.count(engine, wanted, **known) if watched else 0
            pages = query.pages(engine, wanted, **known)
            sums = export.export(path, engine, pages, order, _watch(asked, total))
            asked.note(manifest_sha256=sums.manifest_sha256)
    _say(f"{quantity.of(sums.records, 'record')} in {path}")
    if sums.unsealed:
        unsealed = quantity.of(
            sums.unsealed,
            "of them is so new that nothing proves it yet",
            "of them are so new that nothing proves them yet",
        )
        _say(f"{unsealed}; export again in some minutes")
    if partly := max(sums.without_header_section, sums.redacted):
        _say(f"of {partly} of them parts were taken out by retention or erasure")
    _say(f"SHA-256 of the manifest: {sums.manifest_sha256}")


def _rewritten(context: Context) -> Rewritten:
    """What the audit says of records that erasures have rewritten."""
    with audit.opened(context.database_url) as engine, engine.connect() as connection:
        return rewriting.noted(connection)


def _what_is_held(engine: Engine, name: str) -> Search:
    """The search of a legal hold, released or not.  Raises: NotFound."""
    with query.reading(engine) as connection:
        for one in holds.listed(connection):
            if one.name == name:
                return one.wanted
    raise NotFound(f"hold {name[:80]!r}: there is none of that name; see archive holds")


def _watch(asked: audit.Asked, total: int) -> Callable[[Iterable[Given]], Iterable[Given]]:
    return lambda found: progress.watched(asked.counted(found), total, "records")


@click.command("import")
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--public-key",
    "--key",
    "keys",
    multiple=True,
    type=click.Path(path_type=Path),
    help="The evidence.pub of a relay that may have signed; repeat it for each relay.",
)
@click.option("--manifest-sha256", metavar="HEX", help="What the archive's audit says of it.")
@click.option("--dry-run", is_flag=True, help="Check the bundle and import nothing.")
@command_line.reason_option
@click.pass_obj
def import_command(
    context: Context,
    /,
    *,
    path: Path,
    keys: tuple[Path, ...],
    manifest_sha256: str | None,
    dry_run: bool,
    reason: str,
) -> None:
    """Put the records of the bundle PATH into the spool, from which the writer loads them.

    Records that the archive has already stay as they are.
    """
    trusted = check.trusted_keys(keys)
    if not dry_run:
        _refuse_root(context.spool_directory)
    asked_for = {"from": str(path), "dry_run": dry_run}
    with audit.asking(context, "import", asked_for, reason) as asked:
        seen = importing.refuse_damaged(path, trusted=trusted, manifest_sha256=manifest_sha256)
        sums = importing.Sums()
        found = importing.contents(path, sums)
        watched = progress.watched(asked.counted(found), seen.records, "records")
        if dry_run:
            for _ in watched:
                pass
        else:
            importing.put(watched, context.spool_directory)
        asked.note(manifest_sha256=seen.manifest_sha256, left_out=sums.left_out)
    records = quantity.of(sums.records, "record")
    _say(f"{'would put' if dry_run else 'put'} {records} into the spool for the writer")
    if sums.left_out:
        records = quantity.of(sums.left_out, "record was", "records were")
        _say(f"{records} left out: parts had been taken out before")


def _refuse_root(spool: Path) -> None:
    """What root writes the writer could not read."""
    if os.geteuid() != 0 or not spool.is_dir():
        return
    # The milter owns the spool; the archive and its audit are open to the writer only.
    lock = spool / "writer.lock"
    writer = (lock if lock.exists() else spool).stat().st_uid
    if writer != 0:
        raise UsageError(
            f"{spool}: the writer, user {writer}, could not read what root puts there; run this as "
            f"that user (sudo -u '#{writer}' carbonseal archive import ...)"
        )


def _say(text: str) -> None:
    click.echo(tables.presentable(text), err=True)
