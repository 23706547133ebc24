"""`carbonseal archive erase`: one person out of the archive, and whether it is still so.

Promises: it stands in the audit before it is done; nothing is changed without --apply; what was
interrupted is finished by the same command.  No certificate is made about nobody, unless the audit
says that the person was erased before; then it says that nothing was found.  Where something of
the person is left in the spool the certificate says so, and the exit status is that of a command to
be given again.

Raises: DataError, UsageError, Unfinished; NotFound where nothing names the person.

See also: `erase`, `certificate`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import click

from carbonseal.keys import progress
from carbonseal.milter.archive import audit, audit_place, command_line, database, terms
from carbonseal.milter.archive.audit import Event
from carbonseal.milter.archive.command_line import Context
from carbonseal.milter.archive.evidence import rewriting
from carbonseal.milter.archive.evidence.rewriting import Rewriting
from carbonseal.milter.archive.keeping import certificate, copies
from carbonseal.milter.archive.keeping import erase as erasing
from carbonseal.milter.archive.keeping.certificate import Certificate
from carbonseal.milter.archive.keeping.commands import changing, refuse_without_holds
from carbonseal.milter.archive.keeping.person import Person
from carbonseal.policies import address as addresses
from carbonseal.policies import quantity
from carbonseal.policies.errors import DataError, NotFound, TryLater, UsageError


class Unfinished(TryLater):
    """Records that wait in the spool name the person; they have to be loaded first."""


@click.command("erase")
@click.argument("address", required=False)
@click.option("--with-extensions", is_flag=True, help="bob+tag@x is the same person as bob@x.")
@click.option(
    "--everywhere", is_flag=True, help="Read every record for mentions no index knows; slow."
)
@click.option("--apply", "is_applied", is_flag=True, help="Do it; without this it is only said.")
@click.option(
    "--certificate",
    "certificate_path",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="Where the certificate goes; its text goes beside it.  [default: erasure-NUMBER.json]",
)
@click.option(
    "--check",
    "checked",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="Say whether what a certificate says is still so.",
)
@command_line.reason_option
@click.pass_obj
def erase_command(
    context: Context,
    /,
    *,
    address: str | None,
    with_extensions: bool,
    everywhere: bool,
    is_applied: bool,
    certificate_path: Path | None,
    checked: Path | None,
    reason: str,
) -> None:
    """Take one person out of the archive: what names ADDRESS is replaced by a token.

    The other parties' mail is found as before, and the evidence of what is left still holds.  A
    legal hold on any of the records stops it.  On other relays give it again: their spools have
    copies for record.keep_loaded.  Exit status 75: records that wait in the spool name the person
    still; let them be loaded, and give it again.
    """
    if checked is not None:
        if address is not None or is_applied:
            raise UsageError("--check takes a certificate and nothing else; leave out ADDRESS")
        _check(context, checked, reason)
        return
    if address is None:
        raise UsageError("no ADDRESS says whom to erase; write one, or --check FILE.json")
    _check_wildcards(address)
    who = Person(terms.mailbox(str(addresses.parse_address(address))), with_extensions)
    if certificate_path is not None:
        certificate.check_place(certificate_path)
    # The audit is kept for ever, so it gets no name.
    detail = {
        "mailbox_sha256_16": terms.mailbox_hash(who.mailbox).hex(),
        "with_extensions": with_extensions,
        "everywhere": everywhere,
        "apply": is_applied,
    }
    with (
        changing(context) as (engine, find),
        audit.asking(context, "erase", detail, reason) as asked,
    ):
        spooled = copies.look(context.spool_directory, who)
        with progress.counting(0, "records read") as advance:
            found = erasing.look(engine, who, find, everywhere=everywhere, progress=advance)
        asked.note(found=len(found.record_ids), held=sum(found.holds.values()))
        if not (found.mailboxes or found.record_ids or spooled.names_anybody):
            _say_extensions(found)
            _refuse_nobody(context, who, asked, everywhere=everywhere)
        _show_found(found, spooled)
        erasing.refuse_held(found)
        if not is_applied:
            click.echo("nothing was changed; --apply does it", err=True)
            return
        refuse_without_holds(context, engine)
        path = certificate_path or Path(f"erasure-{asked.event.number}.json")
        certificate.check_place(path)
        with (
            _noting(context, asked.event) as note,
            progress.counting(len(found.record_ids), "records") as advance,
        ):
            done = erasing.Erasure(
                engine,
                who,
                found,
                event=asked.event.number,
                now=datetime.now(UTC),
                indexed=context.index_headers,
                spool_directory=context.spool_directory,
                note=note,
                progress=advance,
            ).apply()
        made = certificate.made(
            done,
            who,
            asked.event,
            everywhere=everywhere,
            archive=database.place(engine.url),
            at=datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        )
        certificate.write(made, path)
        asked.note(certificate_sha256=made["sha256"], records=done.records)
    click.echo(certificate.text(made), nl=False)
    if left := certificate.left(made):
        raise Unfinished(left)


@contextmanager
def _noting(context: Context, event: Event) -> Iterator[copies.Note]:
    """Puts into the audit what the erasure is about to make of segments."""
    with audit_place.opened(context.database_url) as engine:

        def note(done: Sequence[Rewriting]) -> None:
            said = rewriting.detail(event.number, done)
            audit.append(engine, action=audit.REWRITTEN, reason=event.reason, detail=said)

        yield note


def _check_wildcards(address: str) -> None:
    """Refuse what would be taken for the name of somebody; in quotes it is that.  DataError."""
    if '"' not in address and any(sign in address for sign in "*?"):
        raise DataError(
            f"nobody can be erased by the wildcard in {address[:80]!r}; write one whole address, "
            "with --with-extensions for bob+*@example.com; for a domain, give each address of it"
        )


def _refuse_nobody(context: Context, who: Person, asked: audit.Asked, *, everywhere: bool) -> None:
    """Go on only where the audit has an erasure of the person.  Raises: NotFound."""
    digest = terms.mailbox_hash(who.mailbox).hex()
    with audit_place.opened(context.database_url) as engine:
        erased = {
            event.number
            for event in audit.events(engine, action="erase")
            if event.facts.get("mailbox_sha256_16") == digest and event.facts.get("apply") is True
        }
        erased.discard(asked.event.number)
        if erased:
            answers = audit.events(engine, action=audit.ANSWERED)
            erased -= {one.facts.get("of") for one in answers if one.facts.get("nobody")}
    if erased:
        click.echo(f"erased before, by event {max(erased)} of the audit", err=True)
        return
    asked.note(nobody=True)
    how = "" if everywhere else ", or add --everywhere, which reads every record"
    raise NotFound(
        f"nothing in the archive or in the spool names {who.mailbox[:80]!r}, so nothing was "
        f"changed and there is no certificate; look at how it is written{how}"
    )


def _show_found(found: erasing.Found, spooled: copies.Copies) -> None:
    click.echo(f"mailboxes in the dictionary   {len(found.mailboxes)}")
    click.echo(f"records that name the person  {len(found.record_ids)}")
    click.echo(f"lines in loaded segments      {spooled.lines}")
    click.echo(f"lines set aside               {spooled.set_aside}")
    click.echo(f"records waiting in the spool  {spooled.waiting}")
    _say_extensions(found)


def _say_extensions(found: erasing.Found) -> None:
    if found.extensions:
        click.echo(
            f"not asked for: {quantity.of(len(found.extensions), 'mailbox', 'mailboxes')} with an "
            "extension (--with-extensions)",
            err=True,
        )


def _check(context: Context, path: Path, reason: str) -> None:
    content = certificate.read(path)
    with (
        command_line.reading(context) as engine,
        audit.asking(
            context, "check-erasure", {"certificate_sha256": content.get("sha256")}, reason
        ) as asked,
        audit_place.opened(context.database_url) as audit_engine,
    ):
        found = list(certificate.findings(content, engine, audit_engine))
        in_spool, unseen = _in_spool(context.spool_directory, content)
        found += in_spool
        asked.note(findings=len(found))
    for one in found:
        click.echo(one)
    if unseen is not None:
        click.echo(f"the spool was not looked through: {unseen}", err=True)
    if found:
        raise SystemExit(1)
    click.echo("all of it is still so" + ("" if unseen is None else ", as far as it was looked"))


def _in_spool(directory: Path, content: Certificate) -> tuple[list[str], str | None]:
    """What the spool has of the person, and why it could not be looked through, if so."""
    who = certificate.person(content)
    if who is None:
        return [], None  # said by `certificate.findings`
    if not os.path.isdir(directory):
        unseen = f"{directory} is not there, or closed to this user; check on each relay as well"
    else:
        try:
            return list(certificate.about_spool(copies.look(directory, who))), None
        except copies.CopiesUnreachable as fault:
            unseen = fault.sentence
    left = certificate.left(content)
    return ([f"when it was made, {left}"] if left else []), unseen
