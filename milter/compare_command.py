"""`carbonseal policy compare`: where others and we part: an old signer, or the BCC maps of Postfix.

Messages as they left another signer, and records of a dry run, are compared by their signatures
(`compare_signatures`): exit status 1 if a difference is unexplained.  Any other records are
compared by their copies with the BCC maps: what a record says counts; a record that was made
without the comparison, or any with --anew, is judged by the maps of archive.bcc_maps as they are.

Promises: streams; changes nothing.

Raises: DataError for a line that is no record, or a file that is no message.

Does not: need the archive or Postfix, or know how an address was typed where only the one that it
led to is given: search prints that, the spool has both.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from carbonseal.keys import tables
from carbonseal.milter import compare_signatures, compare_sources, config_values
from carbonseal.milter.commands import Context, policy
from carbonseal.milter.compare_sources import Line, Mail
from carbonseal.milter.config import Configuration
from carbonseal.policies import address, quantity
from carbonseal.policies import bcc_maps as maps_of_postfix
from carbonseal.policies.archiving import ArchivePlan
from carbonseal.policies.bcc_maps import BccMaps
from carbonseal.policies.envelope import Client, Envelope, Recipient, ReversePath
from carbonseal.policies.errors import ConfigurationError, DataError, UsageError

_COLUMNS = ("recorded_at", "record_id", "queue_id", "reverse_path", "recipients", "difference")
_SIGNED = ("verdict", "place", "author", "old", "new", "differences")
_KINDS = ("difference", "messages", "old", "new", "why", "first")
_UNEXPLAINED = 1  # exit status


@policy.command()
@click.option("--all", "show_all", is_flag=True, help="Messages on which both agree, too.")
@click.option("--anew", is_flag=True, help="Judge all of them by the BCC maps as they are now.")
@click.option("--bcc-maps", is_flag=True, help="Compare copies, even of the records of a dry run.")
@click.argument(
    "records",
    nargs=-1,
    type=click.Path(path_type=Path, allow_dash=True, readable=False),
)
@tables.output_options
@click.pass_obj
def compare(
    context: Context,
    records: tuple[Path, ...],
    *,
    show_all: bool,
    anew: bool,
    bcc_maps: bool,
    output_format: str,
) -> int:
    """List messages that an old signer signs, or Postfix's BCC maps copy, otherwise.

    RECORDS are messages as they left the old signer (files, mboxes, maildirs), or records: segments
    of the spool, or JSON Lines as `carbonseal archive search --format jsonl` prints them; - or
    nothing is standard input.  Messages and records of a dry run are compared by their signatures.
    """
    _refuse_unreadable(records)
    paths = [sys.stdin.buffer if str(path) == "-" else path for path in records or (Path("-"),)]
    things = compare_sources.read(paths)
    first = next(things, None)
    things = itertools.chain(() if first is None else (first,), things)
    if first is not None and not (bcc_maps or anew) and _is_about_signatures(first):
        return _signatures(context.configuration, things, output_format, show_all=show_all)
    _copies(context.configuration, things, output_format, show_all=show_all, anew=anew)
    return 0


def _refuse_unreadable(paths: Iterable[Path]) -> None:
    """A wrong name is told before hours of messages were compared."""
    for path in paths:
        if str(path) == "-":
            continue
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        except (OSError, ValueError) as fault:
            why = fault.strerror if isinstance(fault, OSError) else "no file name"
            raise UsageError(f"{str(path)!r}: it cannot be read ({why}); check the name") from None


def _is_about_signatures(first: Line | Mail) -> bool:
    """Whether the first thing given is a message, or a line that a dry run left."""
    if isinstance(first, Mail):
        return True
    try:
        content = json.loads(first.octets)
        return bool(content.get("dry_run")) or content["reasons"][0] == "dry-run"
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return False


def _signatures(
    configuration: Configuration,
    things: Iterable[Line | Mail],
    output_format: str,
    *,
    show_all: bool,
) -> int:
    comparison = compare_signatures.Comparison(configuration, time.time())
    summary = compare_signatures.Summary()
    rows = _signed_rows(comparison, summary, things, show_all=show_all)
    if output_format == "table":
        rows = ({**row, "differences": _in_words(row)} for row in rows)
    tables.write_rows(rows, _SIGNED, output_format)
    if output_format == "table":
        tables.write_rows(summary.rows(), _KINDS, output_format)
    words = ("agree", "explained", "unexplained")
    said = ", ".join(f"{summary.verdicts[word]} {word}" for word in words)
    others = quantity.of(
        summary.others, "line is no record of a dry run", "lines are no records of a dry run"
    )
    other = f"; {others}" if summary.others else ""
    click.echo(f"{quantity.of(summary.verdicts.total(), 'message')}: {said}{other}", err=True)
    return _UNEXPLAINED if summary.verdicts["unexplained"] else 0


def _signed_rows(
    comparison: compare_signatures.Comparison,
    summary: compare_signatures.Summary,
    things: Iterable[Line | Mail],
    *,
    show_all: bool,
) -> Iterator[dict[str, Any]]:
    for thing in things:
        compared = comparison.mail(thing) if isinstance(thing, Mail) else comparison.line(thing)
        if compared is None:
            summary.others += not thing.octets.startswith(b'{"footer"')
            continue
        summary.add(compared)
        if show_all or compared.verdict == "unexplained":
            yield compare_signatures.row(compared)


def _in_words(row: dict[str, Any]) -> list[str]:
    return [
        f"{one['code']}: {one['old'] or 'nothing'} / {one['new'] or 'nothing'};"
        for one in row["differences"]
        if not one["explained"]
    ]


def _copies(
    configuration: Configuration,
    things: Iterable[Line | Mail],
    output_format: str,
    *,
    show_all: bool,
    anew: bool,
) -> None:
    model = configuration.file
    maps = None
    if anew and model.archive.bcc_maps is None:
        raise ConfigurationError(
            f"{configuration.path}: archive.bcc_maps is missing, so there are no maps to judge by;"
            f" carbonseal postfix bcc-maps prints it"
        )
    if model.archive.bcc_maps is not None:
        maps = config_values.bcc_maps_of(model, configuration.path.resolve().parent)
    counts: Counter[str] = Counter()
    tables.write_rows(
        _rows(things, maps, counts, show_all=show_all, anew=anew), _COLUMNS, output_format
    )
    said = ", ".join(f"{number} {word}" for word, number in sorted(counts.items()))
    click.echo(f"{quantity.of(counts.total(), 'record')}: {said or 'none'}", err=True)


def _rows(
    things: Iterable[Line | Mail],
    maps: BccMaps | None,
    counts: Counter[str],
    *,
    show_all: bool,
    anew: bool,
) -> Iterator[dict[str, object]]:
    for thing in things:
        line = thing.octets
        try:
            if len(line) == compare_sources.MAX_LINE:
                raise ValueError("longer than any record")
            record = json.loads(line)
            reasons = _reasons(record, maps, anew=anew)
            recipients = [_address(one) for one in record["recipients"]]
            row = {name: record[name] for name in ("recorded_at", "record_id", "queue_id")}
            row["reverse_path"] = _address(record["reverse_path"])
        except (ValueError, KeyError, TypeError, RecursionError):
            if line.startswith(b'{"footer"') or not line.strip():
                continue
            raise DataError(
                f"{thing.place} is no record; give what archive search --format jsonl prints"
            ) from None
        word = maps_of_postfix.said(reasons) or "not compared"
        counts[word] += 1
        if word not in ("agree", "not compared") or show_all:
            yield {**row, "recipients": recipients, "difference": reasons or [word]}


def _reasons(record: dict[str, Any], maps: BccMaps | None, *, anew: bool) -> list[str]:
    recorded = [one for one in record["reasons"] if one.startswith("bcc-maps-")]
    if maps is None or (recorded and not anew):
        return recorded
    envelope = Envelope(
        client=Client("", 0, "", ""),
        listener="",
        login="",
        login_method="",
        reverse_path=ReversePath(address.parse_path(_raw(record["reverse_path"])), None, ()),
        recipients=tuple(
            Recipient(address.parse_path(_raw(one)), None, None, None, ())
            for one in record["recipients"]
        ),
    )
    plan = ArchivePlan(tuple(record["archive_recipients"]), False, ())
    return [str(reason) for reason in maps_of_postfix.compare(maps, envelope, plan)]


def _raw(path: Any) -> str:
    """As typed where the record is whole; else the address that was judged."""
    return str(path["raw"]) if isinstance(path, dict) else str(path or "")


def _address(path: Any) -> str:
    return str(path["address"]) if isinstance(path, dict) else str(path or "")
