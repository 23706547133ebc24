"""`carbonseal policy compare`: where the BCC maps of Postfix and our archive copy part.

Promises: streams; reads what `archive search --format jsonl` prints, and the lines of the spool.
What a record says counts; a record that was made without the comparison, or any with --anew, is
judged by the maps of archive.bcc_maps as they are now.  Changes nothing.

Raises: DataError for a line that is no record.

Does not: need the archive or Postfix, or know how an address was typed where only the one that it
led to is given: search prints that, the spool has both.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import click

from carbonseal.keys import tables
from carbonseal.milter import config
from carbonseal.milter.commands import Context, policy
from carbonseal.policies import address, bcc_maps
from carbonseal.policies.archiving import ArchivePlan
from carbonseal.policies.bcc_maps import BccMaps
from carbonseal.policies.envelope import Client, Envelope, Recipient, ReversePath
from carbonseal.policies.errors import ConfigurationError, DataError

# A header section ends at 8 MiB; as JSON an octet may take six.
_LONGEST = 64 << 20
_COLUMNS = ("recorded_at", "record_id", "queue_id", "reverse_path", "recipients", "difference")


@policy.command()
@click.option("--all", "show_all", is_flag=True, help="Messages on which both agree, too.")
@click.option("--anew", is_flag=True, help="Judge all of them by the maps as they are now.")
@click.argument("records", type=click.File("rb"), default="-")
@tables.output_options
@click.pass_obj
def compare(
    context: Context, records: BinaryIO, show_all: bool, anew: bool, output_format: str
) -> None:
    """List messages that Postfix's BCC maps would copy otherwise.

    RECORDS is a file of JSON Lines, such as `carbonseal archive search --format jsonl` prints, or -
    for standard input.  Records without a comparison are judged by the maps of archive.bcc_maps.
    """
    configuration = context.configuration
    model = configuration.file
    maps = None
    if anew and model.archive.bcc_maps is None:
        raise ConfigurationError(
            f"{configuration.path}: archive.bcc_maps is missing, so there are no maps to judge by;"
            f" carbonseal postfix bcc-maps prints it"
        )
    if model.archive.bcc_maps is not None:
        maps = config.bcc_maps_of(model, configuration.path.resolve().parent)
    counts: Counter[str] = Counter()
    tables.write_rows(
        _rows(_lines(records), maps, counts, show_all=show_all, anew=anew), _COLUMNS, output_format
    )
    said = ", ".join(f"{number} {word}" for word, number in sorted(counts.items()))
    click.echo(f"{counts.total()} records: {said or 'none'}", err=True)


def _lines(records: BinaryIO) -> Iterator[bytes]:
    return iter(lambda: records.readline(_LONGEST), b"")


def _rows(
    lines: Iterable[bytes],
    maps: BccMaps | None,
    counts: Counter[str],
    *,
    show_all: bool,
    anew: bool,
) -> Iterator[dict[str, object]]:
    for number, line in enumerate(lines, start=1):
        try:
            if len(line) == _LONGEST:
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
                f"line {number} is no record; give what archive search --format jsonl prints"
            ) from None
        word = bcc_maps.said(reasons) or "not compared"
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
    return [str(reason) for reason in bcc_maps.compare(maps, envelope, plan)]


def _raw(path: Any) -> str:
    """As typed where the record is whole; else the address that was judged."""
    return str(path["raw"]) if isinstance(path, dict) else str(path or "")


def _address(path: Any) -> str:
    return str(path["address"]) if isinstance(path, dict) else str(path or "")
