"""`carbonseal archive verify`: is the archive what the relays have sealed?

Promises: exit status 0 when all is true, 1 when anything is false (one line for each finding, up to
--most), 75 when it could not look.  It is in the audit before it begins.  With --bundle it needs no
database, no configuration and no audit.

See also: `verify` (what is checked); `handover.check` (bundles).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sqlalchemy.exc import SQLAlchemyError

from carbonseal.keys import evidence_key, tables
from carbonseal.milter.archive import audit, command_line, database, segments, terms
from carbonseal.milter.archive.command_line import Context
from carbonseal.milter.archive.evidence import verify as verifying
from carbonseal.milter.archive.evidence.chain_check import Expected
from carbonseal.milter.archive.evidence.record_scan import Span
from carbonseal.milter.archive.evidence.verify import Question, Report
from carbonseal.policies import quantity
from carbonseal.policies.errors import DataError, NotFound, UsageError

_FALSE = 1
_MOST = 100
_PATH = click.Path(path_type=Path)


@click.command()
@click.option("--since", metavar="TIME", help="Records from then on: 2026-11-21, 7d.")
@click.option("--until", metavar="TIME", help="Records before then; a day counts as a whole.")
@click.option("--relay", metavar="NAME", help="Records of this chain only.")
@click.option(
    "--segments",
    "directory",
    type=_PATH,
    help="Where loaded segments are; default: loaded/ in the spool.",
)
@click.option(
    "--public-key",
    "keys",
    multiple=True,
    type=_PATH,
    help="The evidence.pub of a relay that may have signed; repeat it for each relay.",
)
@click.option(
    "--expect",
    "expected",
    multiple=True,
    metavar="[RELAY=]NUMBER:HASH",
    help="A head that was noted earlier and has to be there.",
)
@click.option(
    "--expect-audit",
    "expected_audit",
    multiple=True,
    metavar="NUMBER:HASH",
    help="A head of the audit that was noted earlier and has to be there.",
)
@click.option("--bundle", type=_PATH, help="Check an exported bundle instead; needs no database.")
@click.option("--manifest-sha256", metavar="HEX", help="With --bundle: what the audit says of it.")
@click.option(
    "--most",
    type=click.IntRange(min=1),
    default=_MOST,
    show_default=True,
    help="Name that many findings, and count the others.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@command_line.reason_option
@click.pass_obj
def verify(
    context: Context, /, *, bundle: Path | None, most: int, as_json: bool, **options: Any
) -> None:
    """Prove that the archive is what was recorded, or say what is not and where.

    The last lines are the heads of the chains and of the audit: note them elsewhere, and give them
    to --expect and --expect-audit next time.
    """
    trusted = frozenset(map(evidence_key.read_public, options["keys"]))
    say = _Said(most, as_json)
    if bundle is not None:
        _refuse_ignored(options)
        _verify_bundle(bundle, trusted, options["manifest_sha256"], say)
    else:
        if options["manifest_sha256"]:
            raise UsageError("--manifest-sha256 belongs to a bundle; give --bundle as well")
        _verify_archive(context, trusted, options, say)
    if say.findings:
        raise click.exceptions.Exit(_FALSE)


def _refuse_ignored(options: dict[str, Any]) -> None:
    """What is not looked at must not read as true."""
    for option, name in (
        ("--since", "since"),
        ("--until", "until"),
        ("--relay", "relay"),
        ("--segments", "directory"),
        ("--expect", "expected"),
        ("--expect-audit", "expected_audit"),
    ):
        if options[name]:
            raise UsageError(f"{option} is of the archive, not of a bundle; leave out one of them")


class _Said:
    """Findings as they come, up to a bound."""

    def __init__(self, most: int, as_json: bool) -> None:
        self._most = most
        self._as_json = as_json
        self._named: list[dict[str, Any]] = []
        self.findings = 0

    def finding(self, text: str, facts: dict[str, Any]) -> None:
        """Name it, if there is room."""
        self.findings += 1
        if self.findings > self._most:
            return
        if self._as_json:
            self._named.append(facts)
        else:
            click.echo(tables.escape(text))

    def end(self, lines: list[str], facts: dict[str, Any]) -> None:
        """What there is to say besides."""
        if self._as_json:
            said = {"true": not self.findings, "findings": self._named, "count": self.findings}
            click.echo(orjson.dumps(said | facts).decode())
            return
        if self.findings > self._most:
            click.echo(f"... and {self.findings - self._most} more")
        verdict = quantity.of(self.findings, "finding") if self.findings else "all true"
        for line in (verdict, *lines):
            click.echo(tables.escape(line))


def _verify_archive(
    context: Context, trusted: frozenset[bytes], options: dict[str, Any], say: _Said
) -> None:
    question = _question(context, trusted, options)
    report = Report()
    with (
        audit.asking(context, "verify", _query(options), options["reason"]) as asked,
        command_line.reading(context) as engine,
        audit.opened(context.database_url) as audit_engine,
        _bar() as progress,
    ):
        try:
            for one in verifying.verify(engine, audit_engine, question, report, progress):
                say.finding(str(one), one.to_json())
        except SQLAlchemyError as fault:
            raise database.unusable(engine.url, fault) from fault
        heads = {one.name: one.head for one in report.chains}
        _refuse_unknown(question.relay, heads, say)
        asked.note(findings=say.findings, heads=heads, records=report.counts.records)
    facts = {"heads": heads, "audit_head": report.audit_head, **_facts(report)}
    say.end(_lines(report), facts)


def _refuse_unknown(relay: str | None, heads: Collection[str], say: _Said) -> None:
    """Nothing false was found where nothing was looked at: that must not read as all true."""
    if relay is not None and relay not in heads and not say.findings:
        raise NotFound(
            f"--relay {relay[:80]!r}: the archive has no chain of that name; verify without it "
            "prints the names"
        )


def _question(context: Context, trusted: frozenset[bytes], options: dict[str, Any]) -> Question:
    now = datetime.now(UTC)
    since, until = options["since"], options["until"]
    first = command_line.moment("--since", since, now)
    last = command_line.moment("--until", until, now, end_of_day=True)
    command_line.check_order(first, last, since, until)
    span = Span(
        None if first is None else terms.first_record_id(int(first.timestamp() * 1000)),
        None if last is None else terms.first_record_id(int(last.timestamp() * 1000)),
    )
    _check_names(options["relay"], options["directory"])
    settings = context.evidence
    return Question(
        span=span,
        relay=options["relay"],
        evidence=settings.directory,
        keys=trusted,
        expected=tuple(map(Expected.parse, options["expected"])),
        expected_audit=tuple(map(audit.Head.parse, options["expected_audit"])),
        segments=options["directory"] or context.spool_directory / segments.LOADED,
        certificate=None if settings.authority is None else settings.authority.certificate,
    )


def _check_names(relay: str | None, directory: Path | None) -> None:
    if relay is not None and terms.storable(relay) != relay:
        raise DataError(f"--relay {relay[:80]!r} is no name of a relay; write record.relay of one")
    if directory is None:
        return
    if not os.path.isdir(directory) or not os.access(directory, os.R_OK | os.X_OK):
        raise DataError(
            f"--segments {directory}: is no directory that this user may read; name that of loaded "
            "segments"
        )


def _query(options: dict[str, Any]) -> dict[str, Any]:
    said = {name: options[name] for name in ("since", "until", "relay") if options[name]}
    for name, noted in (("expect", "expected"), ("expect_audit", "expected_audit")):
        if options[noted]:
            said[name] = list(options[noted])
    return said


@contextmanager
def _bar() -> Iterator[verifying.Progress]:
    if not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def advance(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.advance(tasks[what], done)

        yield advance


def _facts(report: Report) -> dict[str, Any]:
    counts = report.counts
    return {
        "seals": sum(one.number for one in report.chains),
        "segments": counts.segments,
        "lines": counts.lines,
        "records": counts.records,
        "taken_out": counts.gone,
        "without_header_section": counts.without_header,
        "redacted": counts.redacted,
        "set_aside": counts.aside,
        "repeated": counts.repeated,
        "not_sealed_yet": counts.waiting,
        "event_lines": counts.deliveries,
        "event_lines_taken_out": counts.deliveries_gone,
        "rewritten": [
            {
                "event": by.event,
                "day": by.day,
                "lines": counts.rewritten.get(by, 0),
                "segments": report.copies.get(by, 0),
            }
            for by in sorted(counts.rewritten.keys() | report.copies.keys())
        ],
        "stamps": report.stamps,
        "held_against": report.held_against,
    }


def _lines(report: Report) -> list[str]:
    counts = report.counts
    lines = [
        f"{quantity.of(counts.records, 'record')} of {quantity.of(counts.lines, 'line')}"
        f" in {quantity.of(counts.segments, 'sealed segment')}"
    ]
    for count, one, several in (
        (counts.gone, "was taken out by retention", "were taken out by retention"),
        (
            counts.deliveries,
            "line of the mail log stands beside its record",
            "lines of the mail log stand beside their records",
        ),
        (
            counts.deliveries_gone,
            "line of the mail log went with its record",
            "lines of the mail log went with their records",
        ),
        (
            counts.without_header,
            "has lost its header section to retention",
            "have lost their header section to retention",
        ),
        (counts.redacted, "had a person erased", "had a person erased"),
        (
            counts.aside,
            "line was set aside and never was in the database",
            "lines were set aside and never were in the database",
        ),
        (counts.repeated, "line repeats a record", "lines repeat a record"),
        (
            counts.waiting,
            "is so new that it is not sealed yet",
            "are so new that they are not sealed yet",
        ),
    ):
        if count:
            lines.append(quantity.of(count, one, several))
    for by, count in sorted(counts.rewritten.items()):
        was = quantity.of(count, "line was", "lines were")
        lines.append(f"{was} loaded again as rewritten by {by}")
    for by, count in sorted(report.copies.items()):
        is_so = quantity.of(count, "loaded segment was", "loaded segments were")
        lines.append(f"{is_so} rewritten by {by}")
    against = ", ".join(report.held_against) or "nothing outside of the database"
    lines.append(f"held against {against}")
    lines += [f"head of {one.name}: {one.head} ({one.sealed_at})" for one in report.chains]
    lines.append(f"head of the audit: {report.audit_head}")
    return lines


_UNTRUSTED = (
    "the keys are the bundle's own: compare them with the evidence.pub of the relays, or give "
    "those with --public-key"
)


def _verify_bundle(
    path: Path, trusted: frozenset[bytes], manifest_sha256: str | None, say: _Said
) -> None:
    from carbonseal.milter.archive.handover import check  # noqa: PLC0415

    outcome = check.Outcome()
    found = check.check(path, outcome, trusted=trusted or None, manifest_sha256=manifest_sha256)
    for one in found:
        say.finding(str(one), one._asdict())
    keys = {relay: sorted(names) for relay, names in outcome.keys.items()}
    lines = [
        f"proven: {outcome.proven} of {quantity.of(outcome.records, 'record')}",
        *(f"signed by {relay} with the key {', '.join(names)}" for relay, names in keys.items()),
        *(() if trusted else (_UNTRUSTED,)),
        f"SHA-256 of the manifest: {outcome.manifest_sha256}",
    ]
    facts = {
        "records": outcome.records,
        "proven": outcome.proven,
        "unsealed": outcome.unsealed,
        "keys": keys,
        "manifest_sha256": outcome.manifest_sha256,
    }
    say.end(lines, facts)
