"""`carbonseal keys`: make, take over and show signing keys; assembles the other keys commands.

Promises: a command that fails has changed nothing that matters to the mail, and `--dry-run` does
all the checks of the real thing and changes nothing at all.  Output never holds a private key.

Raises: `errors.CarbonsealError`; `milter.cli` turns it into a sentence and an exit code.

Where DNS is not to be asked, a person answers for the published record: `--assume-published` is
that answer, and it is kept in the key's record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

import click

from carbonseal.keys import (
    check_command,
    dns_record,
    generate,
    hosts_command,
    key_file,
    key_size,
    keyring,
    life_commands,
    outlook_commands,
    rotate_commands,
    selector_names,
    store,
    tables,
    transfer_commands,
)
from carbonseal.keys.command_line import (
    dry_run_option,
    reason_option,
    say,
    sdid_of,
    sdid_to_begin,
    selector_of,
    warn_if_unknown,
    who,
)
from carbonseal.keys.key_record import KeyRecord, Origin
from carbonseal.policies import errors, signing_request

_LIST_COLUMNS = (
    "sdid",
    "selector",
    "algorithm",
    "bits",
    "stage",
    "created_at",
    "activated_at",
    "assumed_published",
    "fingerprint",
    "problem",
)
_TABLE_COLUMNS = ("sdid", "selector", "algorithm", "bits", "stage", "activated_at", "problem")
_ALGORITHMS = {"rsa": signing_request.RSA, "ed25519": signing_request.ED25519}
Command = TypeVar("Command", bound=Callable[..., Any])


class Settings(Protocol):
    """What the commands need to know; `milter.cli` puts it into the click context."""

    @property
    def keys_directory(self) -> Path:
        """`signing.keys` of the configuration."""

    def names_domain(self, sdid: str) -> bool:
        """Whether ours.domains or a signing rule of the configuration names it."""


def _activation(command: Command) -> Command:
    command = click.option(
        "--assume-published",
        is_flag=True,
        help="You answer for it that the DNS record is visible everywhere; DNS is not asked.",
    )(command)
    return click.option("--activate", is_flag=True, help="Sign with the key from now on.")(command)


@click.group(name="keys")
def keys() -> None:
    """Make signing keys, publish and rotate them, and show how it stands with them."""


@keys.command(name="generate")
@click.argument("sdid")
@click.option("--selector", help="Name of the key in DNS; made from the date if not given.")
@click.option(
    "--selector-template",
    default=selector_names.SELECTOR_TEMPLATE,
    show_default=True,
    help="For the selector: {date}, {letter} (r or e), {random}.",
)
@click.option(
    "--algorithm",
    type=click.Choice(sorted(_ALGORITHMS)),
    default="rsa",
    show_default=True,
    help="Every receiver verifies RSA, many verify Ed25519.",
)
@click.option(
    "--bits", type=int, default=key_size.DEFAULT_BITS, show_default=True, help="RSA only."
)
@_activation
@reason_option
@dry_run_option
@tables.output_options
@click.pass_obj
def generate_key(
    settings: Settings,
    *,
    sdid: str,
    selector: str | None,
    selector_template: str,
    algorithm: str,
    bits: int,
    activate: bool,
    assume_published: bool,
    reason: str,
    dry_run: bool,
    output_format: str,
) -> None:
    """Make a key for the signing domain SDID and print the DNS record to publish.

    The key signs nothing until it is activated.
    """
    _demand_published(activate=activate, assume_published=assume_published)
    shelf = store.Store(settings.keys_directory)
    name = sdid_to_begin(shelf, sdid)
    now = datetime.now(UTC)
    why = who(reason)

    def is_taken(free: str) -> bool:
        return shelf.is_taken(name, selector_of(free, name))

    chosen = (
        selector_names.choose_selector(selector_template, _ALGORITHMS[algorithm], now, is_taken)
        if selector is None
        else selector_of(selector, name)
    )
    shelf.refuse_taken(name, chosen)
    private = generate.generate(_ALGORITHMS[algorithm], bits)
    record = generate.new_record(private, name, chosen, origin=Origin.GENERATED, at=now, why=why)
    warn_if_unknown(settings, shelf, name)
    _keep(shelf, record, private, activate=activate, why=why, dry_run=dry_run)
    _show_kept(shelf, record, output_format, dry_run=dry_run)


@keys.command(name="import")
@click.argument("sdid")
@click.argument("selector")
@click.option(
    "--private-key",
    type=click.Path(path_type=Path, readable=False),  # whether it is, reading shows
    required=True,
    metavar="FILE",
    help="RSA or Ed25519 as PEM, or an Ed25519 seed in base64.",
)
@_activation
@reason_option
@dry_run_option
@tables.output_options
@click.pass_obj
def import_key(
    settings: Settings,
    *,
    sdid: str,
    selector: str,
    private_key: Path,
    activate: bool,
    assume_published: bool,
    reason: str,
    dry_run: bool,
    output_format: str,
) -> None:
    """Take over a key that exists, under the SELECTOR it is published with.

    FILE is copied, not moved; delete it when the key works here.
    """
    _demand_published(activate=activate, assume_published=assume_published)
    shelf = store.Store(settings.keys_directory)
    name = sdid_to_begin(shelf, sdid)
    chosen = selector_of(selector, name)
    why = who(reason)
    shelf.refuse_taken(name, chosen)
    private = key_file.read(private_key)
    record = generate.new_record(
        private, name, chosen, origin=Origin.IMPORTED, at=datetime.now(UTC), why=why
    )
    warn_if_unknown(settings, shelf, name)
    _keep(shelf, record, private, activate=activate, why=why, dry_run=dry_run)
    _show_kept(shelf, record, output_format, dry_run=dry_run)


@keys.command(name="list")
@click.argument("sdid", required=False)
@tables.output_options
@click.pass_obj
def list_keys(settings: Settings, sdid: str | None, output_format: str) -> None:
    """List all keys, or those of one SDID, oldest first, with what is wrong with them."""
    shelf = store.Store(settings.keys_directory)
    if sdid is None:
        lineages = shelf.lineages()
    else:
        lineage = shelf.lineage(sdid_of(sdid))
        if not lineage.records:
            shelf.refuse_hidden(lineage.sdid)
        lineages = iter((lineage,))
    if not _list(shelf, lineages, output_format):
        click.echo("no keys; `carbonseal keys generate SDID` makes one", err=True)


@keys.command(name="show")
@click.argument("sdid")
@click.argument("selector", required=False)
@tables.output_options
@click.pass_obj
def show_key(settings: Settings, sdid: str, selector: str | None, output_format: str) -> None:
    """Show a key with its DNS record, as zone text and as plain value.

    Without SELECTOR, the keys that sign for SDID now.
    """
    shelf = store.Store(settings.keys_directory)
    name = sdid_of(sdid)
    if selector is not None:
        return _show((shelf.find(name, selector_of(selector, name)),), output_format)
    records = store.active(shelf.lineage(name).records)
    if not records:
        shelf.refuse_hidden(name)
        raise errors.NotFound(
            f"{settings.keys_directory}: no key signs for {name};"
            f" `carbonseal keys list {name}` shows what there is."
        )
    return _show(records, output_format)


def _keep(
    shelf: store.Store,
    record: KeyRecord,
    private: keyring.PrivateKey,
    *,
    activate: bool,
    why: str,
    dry_run: bool,
) -> None:
    warning = key_size.size_warning(record.algorithm, record.bits)
    if warning:
        say(f"warning: {warning}")
    if dry_run:
        done = "kept and activated" if activate else "kept"
        say(f"dry run: {record.dns_name} would be {done}; nothing changed")
        return
    with shelf.writing(record.sdid) as writer:
        writer.add(record, generate.private_pem(private))
        if activate:
            writer.activate(record, at=datetime.now(UTC), why=why, assumed=True)


def _show_kept(shelf: store.Store, record: KeyRecord, output_format: str, *, dry_run: bool) -> None:
    if dry_run:
        # No DNS record here: that of a key which is thrown away must not be published.
        columns = _TABLE_COLUMNS if output_format == "table" else _LIST_COLUMNS
        tables.write_rows([_row(record)], columns, output_format)
    else:
        _show((shelf.find(record.sdid, record.selector),), output_format)


def _demand_published(*, activate: bool, assume_published: bool) -> None:
    if activate and not assume_published:
        raise errors.UsageError(
            "a new key cannot sign at once: let `carbonseal keys rotate` publish it and wait for"
            " every name server, or, if its record is published already, add --assume-published."
        )


def _refuse_broken(shelf: store.Store, record: KeyRecord) -> None:
    """A key that cannot sign must not take the place of one that can."""
    place = str(shelf.private_path(record.sdid, record.selector))
    keyring.parse(record, shelf.private_key(record), place)


def _list(shelf: store.Store, lineages: Iterable[store.Lineage], output_format: str) -> int:
    """Print the keys, for people without what only programs compare; how many there were."""
    columns = _TABLE_COLUMNS if output_format == "table" else _LIST_COLUMNS
    rows = (row for lineage in lineages for row in _rows(shelf, lineage))
    return tables.write_rows(rows, columns, output_format)


def _rows(shelf: store.Store, lineage: store.Lineage) -> Iterator[dict[str, object]]:
    signing = store.active(lineage.records)
    for record in lineage.records:
        row = _row(record)
        try:
            if record in signing:
                _refuse_broken(shelf, record)
        except errors.CarbonsealError as error:
            row["problem"] = error.sentence
        yield row
    for problem in lineage.problems:
        yield {"sdid": lineage.sdid, "problem": problem}


def _row(record: KeyRecord) -> dict[str, object]:
    return {
        "sdid": record.sdid,
        "selector": record.selector,
        "algorithm": record.algorithm,
        "bits": record.bits,
        "stage": record.stage.value,
        "origin": record.origin.value,
        "created_at": record.created_at,
        "activated_at": record.activated_at,
        "assumed_published": record.assumed_published,
        "fingerprint": record.fingerprint,
        "problem": None,
    }


def _show(records: tuple[KeyRecord, ...], output_format: str) -> None:
    if output_format == "table":
        click.echo("\n\n".join(_page(record) for record in records))
        return
    rows = [_row(record) | _dns(record) | {"history": _history(record)} for record in records]
    tables.write_rows(rows, (*_LIST_COLUMNS[:-1], "dns_name", "dns_value"), output_format)


def _dns(record: KeyRecord) -> dict[str, object]:
    text = dns_record.value(record.public_key)
    return {
        "dns_name": record.dns_name,
        "dns_value": text,
        "dns_strings": dns_record.strings(text),
        "zone_text": dns_record.zone_text(record.dns_name, text),
    }


def _history(record: KeyRecord) -> list[dict[str, object]]:
    return [{"at": entry.at, "what": entry.what, "why": entry.why} for entry in record.history]


def _page(record: KeyRecord) -> str:
    """A key for a person: facts, zone text, plain value, history."""
    text = dns_record.value(record.public_key)
    facts = {
        "signing domain": record.sdid,
        "selector": record.selector,
        "algorithm": f"{record.algorithm}, {record.bits} bits",
        "stage": record.stage.value,
        "created": f"{tables.cell(record.created_at)} ({record.origin.value})",
        "activated": tables.cell(record.activated_at) or "never",
        "published": _published(record),
        "fingerprint": record.fingerprint,
    }
    lines = [f"{name + ':':16}{value}" for name, value in facts.items()]
    lines += ["", "for the zone file:", dns_record.zone_text(record.dns_name, text)]
    lines += ["", f"or as one value at {record.dns_name}, type TXT:", text, "", "history:"]
    lines += [
        f"  {tables.cell(entry.at)}  {entry.what}  {tables.escape(entry.why)}".rstrip()
        for entry in record.history
    ]
    return "\n".join(lines)


def _published(record: KeyRecord) -> str:
    if record.assumed_published:
        return "assumed, DNS was not asked"
    if record.published_at is None:
        return "not known"
    return f"every name server showed it at {tables.cell(record.published_at)}"


for _command in (
    check_command.check_key,
    hosts_command.hosts,
    transfer_commands.import_tables,
    transfer_commands.export_keys,
    life_commands.publish,
    life_commands.activate,
    life_commands.retire,
    life_commands.revoke,
    life_commands.remove,
    life_commands.rollback,
    rotate_commands.rotate,
    outlook_commands.plan,
    outlook_commands.status,
    outlook_commands.history,
    rotate_commands.emergency,
    rotate_commands.reconcile,
):
    keys.add_command(_command)
