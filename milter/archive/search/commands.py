"""`carbonseal archive search` and `show`.

Promises: a query, options or both, all of which must hold; results newest first; table, JSON Lines
or CSV.  Table and CSV cannot play with a terminal, JSON Lines is exact.  Bad input is answered by
one sentence and changes nothing.  What is asked stands in the audit before it is answered.

See also: `language` and `options` (what is asked), `query` (answers), `keys.tables` (output).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, TypeAlias

import click

from carbonseal.keys import tables
from carbonseal.milter.archive import audit, command_line
from carbonseal.milter.archive.command_line import Context
from carbonseal.milter.archive.search import options as options_
from carbonseal.milter.archive.search import query, story
from carbonseal.policies import reason as reason_

_TABLE = (
    "recorded_at",
    "queue_id",
    "crossing",
    "reverse_path",
    "recipients",
    "subject",
    "signed",
    "copied",
    "state",
)
_WIDEST = 30  # characters of a cell in a table; jsonl and csv are whole
_CSV = (
    "record_id",
    "recorded_at",
    "relay",
    "queue_id",
    "crossing",
    "disposition",
    "reverse_path",
    "author",
    "recipients",
    "archive_recipients",
    "signed_by",
    "state",
    "copy_state",
    "dry_run",
    "message_id",
    "subject",
    "client_address",
    "login",
    "size",
    "reasons",
)


@click.command()
@options_.search_options
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="No more records than these.",
)
@click.option("--all", "everything", is_flag=True, help="No limit.")
@click.option("--cursor", metavar="CURSOR", help="The page after the one that named this cursor.")
@click.option("--count", "only_count", is_flag=True, help="Only say how many there are in all.")
@command_line.reason_option
@tables.output_options
@click.pass_obj
def search(
    context: Context,
    /,
    *,
    limit: int,
    everything: bool,
    cursor: str | None,
    only_count: bool,
    reason: str,
    output_format: str,
    **options: Any,
) -> None:
    """Find records, newest first, by a query, options, or both.  Times are UTC.

    QUERY is like Lucene's: from:alice@example.com to:@partner.org after:2026-01-01 "annual report".
    Every condition given must hold, unless the query has OR or NOT in it.  The state of a message
    is the worst of its recipients, as far as the mail log told it.
    """
    wanted = options_.wanted(
        options,
        datetime.now(UTC),
        before=options_.cursor(cursor),
        limit=None if everything else limit,
    )
    known = command_line.known(context)
    last: list[str] = []

    def as_rows(found: Iterator[Answer]) -> Iterator[dict[str, object]]:
        for one in found:
            last[:] = [one.record_id]
            yield row(one, output_format)

    with (
        command_line.reading(context) as engine,
        audit.asking(context, "search", wanted.to_json() | _only(only_count), reason) as asked,
    ):
        if only_count:
            number = query.count(engine, wanted, **known)
            asked.note(count=number)
            tables.write_rows([{"records": number}], ("records",), output_format)
            return
        columns = _CSV if output_format == "csv" else _TABLE
        given = query.outlines if output_format == "table" else query.search
        found: Iterator[Answer] = asked.counted(given(engine, wanted, **known))
        total = tables.write_rows(as_rows(found), columns, output_format)
    if total and total == wanted.limit:
        click.echo(f"older ones: --cursor {last[0]}", err=True)
    elif not total and output_format == "table":
        click.echo("no record found", err=True)


def _only(is_count: bool) -> dict[str, Any]:
    return {"count": True} if is_count else {}


Answer: TypeAlias = query.Found | query.Outline


def row(one: Answer, output_format: str) -> dict[str, object]:
    """One line: for a table from an outline, otherwise from all that is said in short."""
    if isinstance(one, query.Outline):
        return _table_row(one)
    made: dict[str, object] = {name: getattr(one, name) for name in _FOUND}
    if output_format == "csv":
        made["signed_by"] = [f"{sign['sdid']}/{sign['selector']}" for sign in one.signatures]
        made["dry_run"] = one.dry_run is not None
        made["reverse_path"] = one.reverse_path or "<>"
    return made


_FOUND = tuple(field.name for field in fields(query.Found))


def _table_row(one: query.Outline) -> dict[str, object]:
    more = one.recipient_count - 1
    first = clipped(one.recipient or "")
    signed, copied = _done(one)
    return {
        "recorded_at": one.recorded_at[:19] + "Z",
        "queue_id": one.queue_id,
        "crossing": one.crossing,
        "reverse_path": clipped(one.reverse_path or "<>"),
        "recipients": f"{first} +{more}" if more > 0 else first,
        "subject": clipped(one.subject or ""),
        "signed": signed,
        "copied": copied,
        "state": one.state,
    }


def _done(one: query.Outline) -> tuple[object, object]:
    """Whether it was signed and copied; how the copy stands, where that is known."""
    if one.dry_run is not None:
        signed, copied = (one.dry_run[name] for name in ("signatures", "archive_recipients"))
        return "dry run" if signed else False, "dry run" if copied else False
    return one.is_signed, one.copy_state or one.is_copied


def clipped(text: str) -> str:
    """Not wider than a table can bear."""
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"


@click.command()
@click.argument("name", metavar="RECORD_ID|QUEUE_ID")
@command_line.reason_option
@tables.output_options
@click.pass_obj
def show(context: Context, name: str, reason: str, output_format: str) -> None:
    """Show complete records and what became of them, header section included."""
    with (
        command_line.reading(context) as engine,
        audit.asking(context, "show", {"name": name.strip()}, reason) as asked,
    ):
        found = list(asked.counted(query.show(engine, name.strip())))
        ends = {one["record_id"]: _ends(one) for one in found}
        with query.reading(engine) as connection:
            is_ours = command_line.known(context)["is_ours"]
            tellings = story.tellings(ends, connection, is_ours)
        for record in found:
            telling = tellings[record["record_id"]]
            if output_format == "jsonl":
                whole = record | {"delivery": telling.to_json()}
                tables.write_rows([whole], (), output_format)
                continue
            lines = [*_told(record["queue_id"], telling), *_flat(record)]
            rows = ({"field": key, "value": value} for key, value in lines)
            tables.write_rows(rows, ("field", "value"), output_format)


def _ends(record: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Envelope and archive recipients."""
    return [one["address"] for one in record["recipients"]], record["archive_recipients"]


def _told(queue_id: str, telling: story.Telling) -> Iterator[tuple[str, object]]:
    """How each end stands, and what happened."""
    if telling.unknown is not None:
        yield "state", telling.unknown
        return
    yield "state", telling.story.state
    for passage, state in telling.states():
        yield f"state of {'copy to ' if passage.is_copy else ''}{passage.address}", state
    for event in telling.events():
        of = "" if event.queue_id == queue_id else f"{event.queue_id}: "
        yield f"{event.at[:19]}Z", f"{of}{event.told}"


def _flat(record: dict[str, Any]) -> Iterator[tuple[str, object]]:
    """A record as lines for people."""
    fields = record.pop("header_fields")
    reasons = record.pop("reasons")
    for key, value in record.items():
        yield from _flat_value(key, value)
    for text in reasons:
        yield "reason", _in_words(text)
    for name, value in fields:
        yield f"header {name}", value.strip()


def _flat_value(key: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat_value(f"{key} {name}", inner)
    elif isinstance(value, list) and any(isinstance(one, dict) for one in value):
        for number, inner in enumerate(value, 1):
            yield from _flat_value(f"{key} {number}", inner)
    else:
        yield key, value


def _in_words(text: str) -> str:
    code, bracket, about = text.partition("(")
    sentence = reason_.SENTENCES.get(code)
    if sentence is None:
        return text
    return f"{text}: {sentence.format(about=about[:-1] if bracket else '')}"
