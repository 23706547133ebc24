"""`carbonseal archive`: search, show, stats.

Promises: one option for each common question, all of them combined with "and"; results newest
first; table, JSON Lines or CSV.  Table and CSV cannot play with a terminal, JSON Lines is exact.
Bad input is answered by one sentence and changes nothing.

See also: `query` (what the options mean), `keys.tables` (output).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import click

from carbonseal.keys import tables
from carbonseal.milter.archive import command_line, schema, terms
from carbonseal.milter.archive.command_line import Context
from carbonseal.milter.archive.search import query
from carbonseal.policies import address, domains, header_fields, reason
from carbonseal.policies.errors import DataError

_MAX_WORDS = 50
_TABLE = (
    "recorded_at",
    "queue_id",
    "crossing",
    "reverse_path",
    "recipients",
    "subject",
    "signed",
    "copied",
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
    "message_id",
    "subject",
    "client_address",
    "login",
    "size",
    "reasons",
)


@click.command()
@click.option("--sender", metavar="ADDRESS", help="Reverse-path or author.")
@click.option("--recipient", metavar="ADDRESS", help="Envelope recipient, Bcc included.")
@click.option("--participant", metavar="ADDRESS", help="Either of these, or in To or Cc.")
@click.option("--with-extensions", is_flag=True, help="bob@x also finds bob+tag@x.")
@click.option("--domain", metavar="DOMAIN", help="Of any participant; .DOMAIN adds its subdomains.")
@click.option("--message-id", metavar="TEXT", help="Message-ID, with or without <>.")
@click.option("--queue-id", metavar="ID", help="Postfix queue id.")
@click.option("--subject", "words", metavar="WORDS", multiple=True, help="All of these words.")
@click.option("--client", metavar="NETWORK", help="Client's address or network.")
@click.option("--login", metavar="NAME", help="SASL login.")
@click.option("--crossing", type=click.Choice(schema.CROSSINGS), help="How it met the boundary.")
@click.option("--signed/--unsigned", default=None, help="With or without a signature of ours.")
@click.option("--since", metavar="TIME", help="2026-11-21, 2026-11-21T10:00Z, or 7d for days ago.")
@click.option("--until", metavar="TIME", help="The same; a date means its end.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="No more records than these.",
)
@click.option("--all", "everything", is_flag=True, help="No limit.")
@click.option("--after", metavar="CURSOR", help="The page after the one that named this cursor.")
@tables.output_options
@click.pass_obj
def search(context: Context, /, *, everything: bool, output_format: str, **options: Any) -> None:
    """Find records, newest first; every condition given must hold.  Times are UTC."""
    wanted = _search(datetime.now(UTC), **options, everything=everything)
    last: list[str] = []

    def as_rows(found: Iterator[query.Found]) -> Iterator[dict[str, object]]:
        for one in found:
            last[:] = [one.record_id]
            yield _row(one, output_format)

    with command_line.reading(context) as engine:
        columns = _CSV if output_format == "csv" else _TABLE
        total = tables.write_rows(as_rows(query.search(engine, wanted)), columns, output_format)
    if total and total == wanted.limit:
        click.echo(f"older ones: --after {last[0]}", err=True)
    elif not total and output_format == "table":
        click.echo("no record found", err=True)


def _search(
    now: datetime,
    *,
    sender: str | None,
    recipient: str | None,
    participant: str | None,
    domain: str | None,
    message_id: str | None,
    words: tuple[str, ...],
    client: str | None,
    since: str | None,
    until: str | None,
    limit: int,
    everything: bool,
    after: str | None,
    **plain: Any,
) -> query.Search:
    wanted = query.Search(
        sender=_mailbox(sender),
        recipient=_mailbox(recipient),
        participant=_mailbox(participant),
        domain=_domain(domain),
        message_id=_message_id(message_id),
        words=_words(words),
        client=_network(client),
        since=command_line.moment("--since", since, now),
        until=command_line.moment("--until", until, now, end_of_day=True),
        before=_cursor(after),
        limit=None if everything else limit,
        **plain,
    )
    command_line.check_order(wanted.since, wanted.until, since, until)
    return wanted


def _row(one: query.Found, output_format: str) -> dict[str, object]:
    row = asdict(one)
    if output_format == "jsonl":
        return row
    row["signed_by"] = [f"{made['sdid']}/{made['selector']}" for made in one.signatures]
    if not one.reverse_path:
        row["reverse_path"] = "<>"
    if output_format == "table":
        row["recorded_at"] = one.recorded_at[:19] + "Z"
        more = len(one.recipients) - 1
        first = _clipped(one.recipients[0]) if one.recipients else ""
        row["recipients"] = f"{first} +{more}" if more > 0 else first
        row["reverse_path"] = _clipped(str(row["reverse_path"]))
        row["subject"] = _clipped(one.subject or "")
        row["signed"] = bool(one.signatures)
        row["copied"] = bool(one.archive_recipients)
    return row


def _clipped(text: str) -> str:
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"


@click.command()
@click.argument("name", metavar="RECORD_ID|QUEUE_ID")
@tables.output_options
@click.pass_obj
def show(context: Context, name: str, output_format: str) -> None:
    """Show complete records, header section included."""
    with command_line.reading(context) as engine:
        found = query.show(engine, name.strip())
    if output_format == "jsonl":
        tables.write_rows(found, (), output_format)
        return
    for record in found:
        rows = ({"field": key, "value": value} for key, value in _flat(record))
        tables.write_rows(rows, ("field", "value"), output_format)


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
    sentence = reason.SENTENCES.get(code)
    if sentence is None:
        return text
    return f"{text}: {sentence.format(about=about[:-1] if bracket else '')}"


@click.command()
@click.option(
    "--by",
    type=click.Choice(("day", "crossing", "domain")),
    default="day",
    show_default=True,
    help="Domain: of reverse-path or envelope recipients, parent domains not added up.",
)
@click.option(
    "--since", metavar="TIME", default="30d", show_default=True, help="As for archive search."
)
@click.option("--until", metavar="TIME", help="A date means its end.")
@tables.output_options
@click.pass_obj
def stats(context: Context, by: str, since: str, until: str | None, output_format: str) -> None:
    """Count messages by day, crossing or domain.  Times are UTC."""
    now = datetime.now(UTC)
    first = command_line.moment("--since", since, now)
    last = command_line.moment("--until", until, now, end_of_day=True)
    command_line.check_order(first, last, since, until)
    with command_line.reading(context) as engine:
        counted = query.count(engine, by, since=first, until=last)
    rows = (
        {by: one.what, **{key: value for key, value in asdict(one).items() if key != "what"}}
        for one in counted
    )
    tables.write_rows(rows, (by, "messages", "octets", "signed", "copied"), output_format)


def _mailbox(text: str | None) -> str | None:
    return None if text is None else str(address.parse_address(text))


def _domain(text: str | None) -> str | None:
    if text is None:
        return None
    dot = "." if text.startswith(".") else ""
    return dot + domains.normalize(text.removeprefix("."))


def _message_id(text: str | None) -> str | None:
    if text is None:
        return None
    found = header_fields.message_id(terms.octets(text))
    if not found:
        raise DataError(f"--message-id {text!r} holds none; write it like <1a2b@example.com>")
    return found


def _words(texts: tuple[str, ...]) -> tuple[str, ...]:
    found = terms.words(" ".join(texts))
    if texts and not found:
        raise DataError(f"--subject {' '.join(texts)!r} holds no word; write letters or digits")
    if len(found) > _MAX_WORDS:
        raise DataError(f"--subject has more than {_MAX_WORDS} words; leave some out")
    return tuple(found)


def _network(text: str | None) -> query.Network | None:
    if text is None:
        return None
    try:
        if "%" in text:  # a zone means something on one machine only, and is not recorded
            raise ValueError
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise DataError(
            f"--client {text!r} is no address or network; write it like 192.0.2.1 or 2001:db8::/32"
        ) from None


def _cursor(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        terms.pack_record_id(text)
    except ValueError:
        raise DataError(
            f"--after {text!r} is no cursor; take the one printed below the page before"
        ) from None
    return text.upper()
