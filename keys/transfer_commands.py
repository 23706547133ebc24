"""`carbonseal keys export` and `import-from`: keys to other signers, and from them.

Promises: nothing is overwritten, here or there; no output holds a private key, and files with one
are written only on the explicit word, mode 0600.  What could not be taken is listed with the reason
and the remedy.  Exit status of `import-from`: 0 if all was taken or here already, 2 if something
was refused.

Raises: `errors.CarbonsealError`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import click

from carbonseal.keys import durable, keyring, progress, store, tables
from carbonseal.keys.command_line import dry_run_option, reason_option, say, who
from carbonseal.keys.key_record import KeyRecord
from carbonseal.keys.takeover import (
    dataset,
    dkimpy_milter,
    hand_over,
    loose,
    opendkim,
    rspamd,
    take,
)
from carbonseal.keys.takeover.found import Findings, Found
from carbonseal.policies import domains, errors, signing_request

_REFUSED = 2  # exit status: something was not taken
_COLUMNS = (
    "outcome",
    "sdid",
    "selector",
    "algorithm",
    "bits",
    "activated",
    "source",
    "remarks",
    "fingerprint",
)
_READERS: dict[str, Callable[[str, str | None], Findings]] = {
    "opendkim": opendkim.read,
    "rspamd": rspamd.read,
    "dkimpy-milter": dkimpy_milter.read,
}
_DIRECTORY = "directory"


class Settings(Protocol):
    """What these commands need to know."""

    @property
    def keys_directory(self) -> Path:
        """`signing.keys` of the configuration."""


@click.command(name="import-from")
@click.argument("signer", type=click.Choice([*_READERS, _DIRECTORY]))
@click.argument("path")
@click.option(
    "--signing-table",
    metavar="PATH",
    help="OpenDKIM's SigningTable, if PATH is a KeyTable; refile: before it if it has patterns.",
)
@click.option(
    "--activate",
    is_flag=True,
    help="Sign with what the tables sign with, or with a key where none signs yet.",
)
@click.option(
    "--assume-published",
    is_flag=True,
    help="You answer for it that the DNS records are visible everywhere; DNS is not asked.",
)
@reason_option
@dry_run_option
@tables.output_options
@click.pass_obj
def import_tables(
    settings: Settings,
    *,
    signer: str,
    path: str,
    signing_table: str | None,
    activate: bool,
    assume_published: bool,
    reason: str,
    dry_run: bool,
    output_format: str,
) -> int:
    """Take over the keys of another signer from its configuration, or loose key files.

    PATH is opendkim.conf or a KeyTable, rspamd's dkim_signing.conf, dkimpy-milter.conf, or a
    directory with key files.  Files are copied, not moved.
    """
    if activate != assume_published:
        raise errors.UsageError(
            "--activate and --assume-published go together here: what another signer signs with is"
            " published already; leave out both to keep the keys without signing."
        )
    why = who(reason)
    shelf = store.Store(settings.keys_directory)
    findings = _read(shelf, signer, path, signing_table)
    _refuse_place(findings, path)
    report = take.take(
        shelf,
        findings,
        at=datetime.now(UTC),
        why=why,
        activate=activate,
        dry_run=dry_run,
        watched=_watched,
    )
    tables.write_rows(map(_row, report.rows), _columns(output_format), output_format)
    _say_rules(findings, output_format)
    if dry_run:
        say("dry run: nothing changed")
    return 0 if report.is_complete else _REFUSED


def _read(shelf: store.Store, signer: str, path: str, signing_table: str | None) -> Findings:
    if "\0" in path or "\0" in (signing_table or ""):
        raise errors.UsageError("a path cannot hold a NUL; check the name.")
    if signer == _DIRECTORY:
        known = [lineage.sdid for lineage in shelf.lineages()] if shelf.directory.is_dir() else []
        return loose.read(path, signing_table, known=known)
    return _READERS[signer](path, signing_table)


def _refuse_place(findings: Findings, path: str) -> None:
    """A place that is no table or has no key at all is a wrong argument, not a poor table."""
    if findings.found:
        return
    if not findings.refusals:
        raise errors.NotFound(f"{path}: there is no key in it; check the name.")
    (first, *others) = findings.refusals
    if not others and first.source == dataset.shown(path):
        sentence = first.sentence
        known = sentence if first.source in sentence else f"{first.source}: {sentence}"
        raise errors.DataError(known)


def _watched(found: Sequence[Found]) -> Iterator[Found]:
    """Each RSA key is checked down to its primes, which takes a while with hundreds."""
    return progress.watched(found, len(found), "reading keys")


def _columns(output_format: str) -> Sequence[str]:
    return _COLUMNS[:-1] if output_format == "table" else _COLUMNS


def _row(row: take.Row) -> dict[str, object]:
    remarks = "; ".join(sentence.rstrip(".") for sentence in row.sentences)
    return {
        "outcome": row.outcome.value,
        "sdid": row.sdid,
        "selector": row.selector,
        "algorithm": row.algorithm,
        "bits": row.bits or None,
        "activated": row.is_activated,
        "source": row.source,
        "remarks": remarks,
        "fingerprint": row.fingerprint,
    }


def _say_rules(findings: Findings, output_format: str) -> None:
    """The rules to write into the configuration; not in between data for programs."""
    if not findings.proposal:
        return
    to_error = output_format != "table"
    click.echo("\n".join(rules_yaml(findings)), err=to_error)


def rules_yaml(findings: Findings) -> Iterator[str]:
    """The proposed rules as lines of the configuration."""
    yield "# who is signed for whom, for carbonseal.yaml; the first match counts"
    yield "signing:"
    yield "  rules:"
    for rule in findings.proposal:
        for note in rule.notes:
            yield f"    # {tables.escape(rule.source)}: {tables.escape(note)}"
        yield f"    - author: {json.dumps(rule.author)}"
        yield f"      sdid: {rule.sdid}"
    if findings.is_closed and findings.proposal[-1].author != "*":
        yield "    # nobody else was signed; without this, every domain with an active key is"
        yield '    - author: "*"'
        yield "      sdid: null"


@click.command(name="export")
@click.argument("sdid")
@click.argument("selector", required=False)
@click.option(
    "--to",
    "directory",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIRECTORY",
    help="Where the files go; it must be empty or missing.",
)
@click.option(
    "--form",
    type=click.Choice(hand_over.FORMS),
    required=True,
    help="Whose key files and tables.",
)
@click.option(
    "--with-private-keys",
    is_flag=True,
    help="Write the private keys as well, readable for their owner only.",
)
@click.option(
    "--installed-in",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Where the files will be when they are used, if that is not DIRECTORY.",
)
@tables.output_options
@click.pass_obj
def export_keys(
    settings: Settings,
    *,
    sdid: str,
    selector: str | None,
    directory: Path,
    form: str,
    with_private_keys: bool,
    installed_in: Path | None,
    output_format: str,
) -> int:
    """Write the keys that sign for SDID, or the one with SELECTOR, for another signer.

    Files: the tables of that signer, a DNS record for each key, and the private keys if asked for.
    """
    shelf = store.Store(settings.keys_directory)
    records = _chosen(shelf, signing_request.check_sdid(domains.normalize(sdid)), selector)
    keys = [
        hand_over.Key(record, _private(shelf, record) if with_private_keys else None)
        for record in records
    ]
    parts, notes = hand_over.parts(keys, form, installed_in or directory.absolute())
    _write(directory, parts)
    for note in notes:
        say(note)
    if not with_private_keys:
        say("no private keys were written; --with-private-keys does it")
    rows = (
        {"file": str(directory / part.name), "what": part.what, "private": part.is_private}
        for part in parts
    )
    tables.write_rows(rows, ("file", "what"), output_format)
    return 0


def _chosen(shelf: store.Store, sdid: str, selector: str | None) -> tuple[KeyRecord, ...]:
    if selector is not None:
        name = signing_request.check_selector(selector.lower(), sdid)
        return (shelf.find(sdid, name),)
    records = store.active(shelf.lineage(sdid).records)
    if not records:
        shelf.refuse_hidden(sdid)
        raise errors.NotFound(
            f"{shelf.directory}: no key signs for {sdid}; name one by its selector"
            f" (`carbonseal keys list {sdid}` shows what there is)."
        )
    return records


def _private(shelf: store.Store, record: KeyRecord) -> keyring.PrivateKey:
    pem = shelf.private_key(record)
    keyring.parse(record, pem, str(shelf.private_path(record.sdid, record.selector)))
    return hand_over.private_key(pem)


def _write(directory: Path, parts: Sequence[hand_over.Part]) -> None:
    try:
        durable.make_directory(directory, durable.Access(0o700))
        if any(directory.iterdir()):
            raise errors.DataError(
                f"{directory}: the directory is not empty; give one that is empty or missing."
            )
        for part in parts:
            mode = 0o600 if part.is_private else 0o644
            durable.write_new(directory / part.name, part.content, durable.Access(mode))
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise errors.DataError(
            f"{directory}: the keys cannot be written there ({reason}); choose a directory whose"
            " parent exists and is yours."
        ) from None
