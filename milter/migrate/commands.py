"""`carbonseal migrate`: another signer's configuration and keys, as ours.

Promises: without --to or --config nothing is changed and the configuration is printed.  Keys are
copied, never moved, and sign with us as soon as a service reads them; an existing configuration or
another key of the same name stays.  Everything that has no equal, or means something else, is
listed with what to do.  Exit status: 0 if all of it was taken over, 2 if a key or an entry was
refused.

Raises: `errors.CarbonsealError`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import click
from click.core import ParameterSource

from carbonseal.keys import progress, store, tables
from carbonseal.keys.command_line import say, who
from carbonseal.keys.takeover import private, take
from carbonseal.keys.takeover.found import Found
from carbonseal.milter import config, config_file
from carbonseal.milter.migrate import dkimpy_milter, opendkim, place, rspamd, written
from carbonseal.milter.migrate import plan as plans
from carbonseal.milter.migrate.place import Target
from carbonseal.milter.migrate.plan import Plan
from carbonseal.milter.migrate.written import Places
from carbonseal.policies import address, errors

_REFUSED = 2  # exit status: something was not taken
_COLUMNS = ("what", "outcome", "source", "remarks")


class Reader(Protocol):
    """Reads one signer's configuration."""

    def __call__(self, path: Path, *, trust_loopback: bool) -> Plan:
        """The plan."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the options say."""

    path: Path
    to: Path | None
    configuration: Path | None
    keys: Path | None
    domains: tuple[str, ...]
    archive: tuple[str, ...]
    beside: bool
    trust_loopback: bool
    reason: str
    dry_run: bool
    output_format: str


@click.group()
def migrate() -> None:
    """Take over from another signer: its configuration and its keys, as ours."""


def _command(name: str, reader: Reader, default: str, about: str) -> None:
    """One command; they differ in the file they read."""

    @click.pass_context
    def run(context: click.Context, /, **options: Any) -> int:
        path = options.pop("source")
        if options["configuration"] is None:
            root = context.find_root()
            if root.get_parameter_source("config_path") is ParameterSource.COMMANDLINE:
                options["configuration"] = root.params["config_path"]
        return _migrate(reader, Wish(path=path, **options))

    run.__doc__ = about
    command = tables.output_options(run)
    for option in reversed(_options(default)):
        command = option(command)
    migrate.command(name)(command)


def _options(default: str) -> list[Callable[[Any], Any]]:
    path = click.Path(path_type=Path, readable=False)
    return [
        click.option("--from", "source", type=path, default=default, show_default=True,
                     metavar="PATH", help="The old configuration."),
        click.option("--to", type=path, metavar="DIRECTORY",
                     help="Write a configuration with keys and spool of its own there."),
        click.option("--config", "configuration", type=path, metavar="FILE",
                     help="Write this configuration file; it must not exist."),
        click.option("--keys", type=path, metavar="DIRECTORY",
                     help="The keys directory; default: /var/lib/carbonseal/keys, or in --to."),
        click.option("--domain", "domains", multiple=True, metavar="DOMAIN",
                     help="A domain of ours that is not signed for; repeatable."),
        click.option("--archive", multiple=True, metavar="ADDRESS",
                     help="A mailbox for archive copies; repeatable.  Default: no copies."),
        click.option("--beside", is_flag=True,
                     help="Begin as a dry run beside the old signer (milter.dry_run)."),
        click.option("--trust-loopback", is_flag=True,
                     help="Let 127.0.0.1 and sendmail(1) speak for us if the old signer did."),
        click.option("--reason", default="", help="Why, for the keys' history."),
        click.option("--dry-run", is_flag=True,
                     help="Check everything and print the configuration; change nothing."),
    ]  # fmt: skip


_command(
    "opendkim",
    opendkim.read,
    "/etc/opendkim.conf",
    "Take over from OpenDKIM: opendkim.conf with the tables and keys it names.",
)
_command(
    "dkimpy-milter",
    dkimpy_milter.read,
    "/etc/dkimpy-milter/dkimpy-milter.conf",
    "Take over from dkimpy-milter: dkimpy-milter.conf with the tables and keys it names.",
)
_command(
    "rspamd",
    rspamd.read,
    "/etc/rspamd",
    "Take over from rspamd: dkim_signing.conf, or the directory with local.d and override.d.",
)


def _migrate(reader: Reader, wish: Wish) -> int:
    if "\0" in str(wish.path):
        raise errors.UsageError("a path cannot hold a NUL; check the name.")
    target = place.chosen(wish.to, wish.configuration, wish.keys)
    for mailbox in wish.archive:
        address.parse_address(mailbox)
    domains = plans.domain_list(wish.domains)
    why = who(wish.reason)
    if target.is_written:
        target.refuse_existing()
    made = reader(wish.path, trust_loopback=wish.trust_loopback)
    _refuse_unsigned(made, domains)
    places = target.places(domains=domains, archive=wish.archive, beside=wish.beside)
    is_shown = wish.dry_run or not target.is_written
    # The longest form it may have is tried before anything is changed.
    _text(made, places, target, missing_keys=True)
    if not is_shown:
        _refuse_keyless(made)
        target.prepare()
    report = _take(made, target, why, dry_run=is_shown)
    text = _text(made, places, target, missing_keys=not report.is_complete)
    if not is_shown:
        target.write(text)
    elif wish.output_format == "table":
        click.echo(text, nl=False)
    _tell(made, report, wish, target, places, is_shown=is_shown)
    return 0 if report.is_complete else _REFUSED


def _refuse_unsigned(made: Plan, domains: tuple[str, ...]) -> None:
    if made.domains or domains:
        return
    refusals = made.findings.refusals
    if refusals:
        first = refusals[0]
        known = first.sentence
        raise errors.DataError(known if first.source in known else f"{first.source}: {known}")
    raise errors.DataError(
        f"{made.source}: it signs for nobody, so it does not say which domains are ours; name them"
        " with --domain."
    )


def _take(made: Plan, target: Target, why: str, *, dry_run: bool) -> take.Report:
    return take.take(
        store.Store(target.keys),
        made.findings,
        at=datetime.now(UTC),
        why=why,
        activate=made.signs,
        dry_run=dry_run,
        watched=_watched,
    )


def _watched(found: Sequence[Found]) -> Iterator[Found]:
    return progress.watched(found, len(found), "reading keys")


def _text(made: Plan, places: Places, target: Target, *, missing_keys: bool) -> str:
    """The configuration, read back."""
    text = written.text(made, places, missing_keys=missing_keys)
    config.assemble(config_file.parse(target.configuration, text.encode()))
    return text


def _refuse_keyless(made: Plan) -> None:
    """A signer none of whose keys can be read would be replaced by none."""
    first: errors.CarbonsealError | None = None
    for found in made.findings.found:
        try:
            private.read(found)
        except errors.CarbonsealError as error:
            first = first or error
        else:
            return
    if first is not None:
        raise first


# --- What is told ---------------------------------------------------------------------------------


def _tell(
    made: Plan, report: take.Report, wish: Wish, target: Target, places: Places, *, is_shown: bool
) -> None:
    rows = [*map(_key_row, report.rows), *written.listed(made.notes)]
    if is_shown and wish.output_format == "table":
        # The configuration is on standard output; what is to be read besides goes beside it.
        for row in rows:
            say(f"{row['outcome']}: {row['source']}: {row['what']}: {row['remarks']}")
    else:
        tables.write_rows(rows, _COLUMNS, wish.output_format)
    for other in made.others[:20]:
        say(f"{other} is signed for by another domain; add it to ours.domains if it is yours")
    if not places.archive:
        say("no archive mailbox is named, so nothing is copied; see archive in the configuration")
    if wish.dry_run:
        say("dry run: nothing changed")
    elif is_shown:
        say("nothing changed; --to DIRECTORY or --config FILE writes it")
    else:
        path = target.configuration
        say(f"{path}: written; next: carbonseal --config {path} config check")


def _key_row(row: take.Row) -> dict[str, object]:
    remarks = [sentence.rstrip(".") for sentence in row.sentences]
    if row.is_activated:
        remarks.insert(0, "it signs with us from now on; its DNS record is taken for published")
    name = f"key {row.selector}._domainkey.{row.sdid}" if row.sdid else "entry"
    return {
        "what": name,
        "outcome": row.outcome.value,
        "source": row.source,
        "remarks": "; ".join(remarks),
    }
