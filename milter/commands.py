"""`carbonseal run`, `config`, `policy` and `postfix`: the commands of the process itself.

Promises: what only looks changes nothing; `config check` names everything that is wrong at once.

Raises: CarbonsealError; `cli` turns it into a sentence and an exit status.

Does not: hold the work of the commands, only their options and their words.
"""

from __future__ import annotations

import grp
import ipaddress
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import click
import yaml

from carbonseal.keys import keyring, tables
from carbonseal.keys.publication import publisher
from carbonseal.milter import (
    config,
    explain,
    postfix_effects,
    postfix_settings,
    postfix_setup,
    socket_address,
)
from carbonseal.milter.archive import spool
from carbonseal.milter.config import Configuration
from carbonseal.milter.copies import probe
from carbonseal.milter.copies import state as copies_state
from carbonseal.milter.supervision import crew, supervisor
from carbonseal.policies import retention
from carbonseal.policies.errors import CarbonsealError, ConfigurationError

_NOBODY_FOLLOWS = (
    "archive.alternate: nobody follows Postfix's log yet, so no alternate takes over; start"
    " carbonseal-follow"
)
_SIZE_LIMIT = "message_size_limit"
_DEFAULT_SIZE_LIMIT = 10_240_000
_OTHER_QUEUES = 5 * 86400  # seconds
_DRY_RUN = (
    "DRY RUN (milter.dry_run): no mail is signed, copied or refused, only recorded; do not rotate"
    " keys with carbonseal while another signer uses them, and set it to false to seal mail"
)


class Context(Protocol):
    """What these commands need from the command line."""

    @property
    def path(self) -> Path:
        """The configuration file in use."""

    @property
    def configuration(self) -> Configuration:
        """The checked configuration.  Raises: ConfigurationError."""


@click.command()
@click.option("--no-writer", is_flag=True, help="Leave loading the database to another process.")
@click.pass_obj
def run(context: Context, no_writer: bool) -> None:
    """Serve Postfix in the foreground.

    HUP reads the configuration again and keeps the old one if the new one is bad; TERM lets open
    sessions finish.
    """
    configuration = context.configuration
    _check_group(configuration)
    socket_address.refuse_served(socket_address.parse(configuration.file.milter.socket))
    service = supervisor.Supervisor(configuration, with_writer=not no_writer)
    raise SystemExit(service.run())


def _check_group(configuration: Configuration) -> None:
    group = configuration.file.milter.socket_group
    try:
        if group is not None:
            grp.getgrnam(group)
    except KeyError:
        raise ConfigurationError(
            f"{configuration.path}: milter.socket_group {group!r}: no such group; name one that "
            f"Postfix belongs to"
        ) from None


@click.group("config")
def config_group() -> None:
    """Check and show the configuration."""


@config_group.command()
@click.option("--probe", "is_probed", is_flag=True, help="Ask the archive's hosts as well.")
@click.pass_obj
def check(context: Context, is_probed: bool) -> None:
    """Say everything that is wrong with the configuration, the directories and the keys.

    With --probe, the hosts of the archive are asked by SMTP what they offer, and whether they take
    its mailboxes; nothing is sent.
    """
    try:
        configuration = context.configuration
    except config.InvalidConfiguration as fault:
        for problem in fault.problems:
            click.echo(tables.presentable(problem), err=True)
        raise SystemExit(fault.exit_code) from None
    complaints = list(_surroundings(configuration))
    hints = []
    if is_probed:
        found = list(probe.findings(configuration, size_limit=_size_limit(configuration)))
        complaints += [one.sentence for one in found if one.is_complaint]
        hints = [one.sentence for one in found if not one.is_complaint]
    for complaint in complaints:
        click.echo(tables.presentable(complaint), err=True)
    if configuration.file.milter.dry_run:
        click.echo(tables.presentable(_DRY_RUN))
    for hint in postfix_effects.failures(configuration):
        click.echo(tables.presentable(f"hint: {hint.place}: {hint.text}"))
    watched = copies_state.path(configuration.spool_directory)
    if configuration.archive.alternates and not os.path.exists(watched):
        hints.append(_NOBODY_FOLLOWS)
    hints += [*_unsigned(configuration), *_narrow_spool(configuration)]
    hints += _another_archive(configuration)
    for sentence in hints:
        click.echo(tables.presentable(f"hint: {sentence}"))
    if complaints:
        raise SystemExit(ConfigurationError.exit_code)
    click.echo(f"{context.path}: no complaints (version {configuration.version})")


def _size_limit(configuration: Configuration) -> int:
    """Of Postfix, in octets; 0: none."""
    try:
        told = postfix_settings.read(configuration.file.rotation.postfix).value(_SIZE_LIMIT)
    except CarbonsealError:
        told = None
    return int(told) if told and told.isascii() and told.isdigit() else _DEFAULT_SIZE_LIMIT


def _surroundings(configuration: Configuration) -> list[str]:
    """What is wrong around a configuration that is right in itself."""
    complaints = []
    try:
        _check_group(configuration)
    except ConfigurationError as fault:
        complaints.append(fault.sentence)
    place = configuration.spool_directory
    if place.exists() and not place.is_dir():
        complaints.append(f"record.spool {place}: it is no directory; name one")
    elif not place.exists():
        complaints.append(f"record.spool {place}: no such directory; create it for the service")
    elif not os.access(place, os.W_OK | os.X_OK):
        complaints.append(f"record.spool {place}: not writable for this user")
    complaints += _about_database(configuration)
    try:
        ring = keyring.load(configuration.keys_directory)
    except CarbonsealError as fault:
        complaints.append(fault.sentence)
        ring = keyring.EMPTY
    complaints += [f"{sdid}: {problem}" for sdid, problem in sorted(ring.problems.items())]
    for rule in configuration.signing.rules:
        if rule.sdid is not None and not ring.facts(rule.sdid) and rule.sdid not in ring.problems:
            complaints.append(
                f"signing.rules: {rule.sdid} has no active key; make one with "
                f"carbonseal keys generate {rule.sdid}"
            )
    complaints += _about_networks(configuration)
    complaints += _about_rotation(configuration)
    complaints += _about_retention(configuration)
    if configuration.archive.when != "never" and not configuration.archive.all_recipients():
        complaints.append(
            "archive.recipients is empty, so nothing is copied; name a mailbox or set "
            "archive.when to never"
        )
    return complaints


def _about_networks(configuration: Configuration) -> Iterator[str]:
    networks = configuration.ours.networks
    old = [one for one in networks if isinstance(one, ipaddress.IPv4Network)]
    new = [one for one in networks if isinstance(one, ipaddress.IPv6Network)]
    # Collapsed, because two halves are the whole.
    found = {str(one) for one in ipaddress.collapse_addresses(old)}
    found |= {str(one) for one in ipaddress.collapse_addresses(new)}
    for whole in ("0.0.0.0/0", "::/0"):
        if whole in found:
            yield (
                f"ours.networks: {whole} is every client there is, so anybody may send, and have "
                "signed, mail as ours; name the networks of your own hosts"
            )


def _about_database(configuration: Configuration) -> Iterator[str]:
    # Here, because the processes that carry mail come from this module and do without SQLAlchemy.
    from carbonseal.milter.archive import database  # noqa: PLC0415

    try:
        database.check_url(configuration.database_url)
    except ConfigurationError as fault:
        yield fault.sentence


def _unsigned(configuration: Configuration) -> Iterator[str]:
    """Signing takes a key that is active, and to make one is not enough."""
    try:
        ring = keyring.load(configuration.keys_directory)
    except CarbonsealError:
        return  # said already
    if not ring.sdids and not ring.problems:
        domain = configuration.file.ours.domains[0].removeprefix(".")
        yield (
            "signing: no key is active, so no mail is signed; carbonseal keys rotate "
            f"{domain} makes one and says what is to be published"
        )


def _another_archive(configuration: Configuration) -> Iterator[str]:
    """A slip of the pen in a name begins an empty archive, and nothing else shows it."""
    from carbonseal.milter.archive.writing import known_archive  # noqa: PLC0415 -- as above

    if next(_about_database(configuration), None) is not None:
        return  # no such place can be
    place = known_archive.other_place(configuration.spool_directory, configuration.database_url)
    if place is not None:
        yield f"record.database: {place}"


def _narrow_spool(configuration: Configuration) -> Iterator[str]:
    """What was loaded counts until its file is full or a minute old (`spool`)."""
    files = crew.workers(configuration) + 1  # the follower's
    least = files * spool.SEGMENT_BYTES
    if configuration.file.record.spool_limit < least:
        yield (
            "record.spool_limit: the files that are being written count too, up to "
            f"{spool.SEGMENT_BYTES >> 20}MiB each, so mail may be told to come again although "
            f"nothing waits; write {least >> 20}MiB or more"
        )


def _about_retention(configuration: Configuration) -> Iterator[str]:
    """Copies in the spool must not outlive what they are copies of."""
    kept = configuration.file.record.keep_loaded
    for name, stamp in configuration.retention.stamps.items():
        times = (stamp.terms.keep, stamp.terms.headers, stamp.terms.subject)
        shortest = min((one for one in times if one is not None), default=None)
        if shortest is not None and (kept is None or kept > shortest):
            yield (
                f"record.keep_loaded keeps copies in the spool longer than the "
                f"{retention.days(shortest)} of retention.classes.{name}; write a shorter time"
            )


def _about_rotation(configuration: Configuration) -> Iterator[str]:
    # Key files of publishers are closed to the service; whoever may change keys can read them.
    if os.access(configuration.keys_directory, os.W_OK):
        yield from publisher.problems(configuration.dns)
    section = configuration.file.rotation
    if section.downstream_queue < _OTHER_QUEUES:
        yield (
            "rotation.downstream_queue: other people's queues keep mail for 4 or 5 days (RFC 5321"
            " section 4.5.4.1), and what arrives after a key is revoked fails; write 5d or more"
        )
    if section.lead >= section.lifetime:
        yield (
            "rotation.lead is not shorter than rotation.lifetime, so keys would follow one another"
            " without end; write a shorter lead"
        )


@config_group.command()
@click.option("--changed", is_flag=True, help="Only what differs from the defaults.")
@click.option("--json", "as_json", is_flag=True, help="As JSON instead of YAML.")
@click.pass_obj
def show(context: Context, changed: bool, as_json: bool) -> None:
    """Print the configuration in force, defaults included, but for the database's password."""
    content = context.configuration.file.model_dump(mode="json", exclude_defaults=changed)
    record = content.get("record", {})
    if "database" in record:
        record["database"] = _without_password(record["database"])
    if as_json:
        click.echo(json.dumps(content, indent=2))
    else:
        click.echo(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), nl=False)


def _without_password(url: str) -> str:
    """A database URL that may be shown to others, as when they are asked for help."""
    shown = re.sub(r"^([^:/]*://[^:/]*:)[^@]*@", r"\1***@", url)
    return re.sub(r"([?&][^=&]*pass[^=&]*=)[^&]*", r"\1***", shown, flags=re.IGNORECASE)


@click.group()
def policy() -> None:
    """Ask the policies."""


@policy.command("explain")
@click.option("--client", required=True, help="IP address of the SMTP client.")
@click.option("--login", default="", help="SASL login name.")
@click.option("--listener", default="", help="{daemon_name} of the smtpd service.")
@click.option("--from", "reverse_path", required=True, help="Reverse-path; <> for null.")
@click.option("--rcpt", "recipients", multiple=True, required=True, help="Recipient; repeatable.")
@click.option("--author", default="", help="Author in From; default: the reverse-path.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.argument(
    "message",
    required=False,
    type=click.Path(path_type=Path, allow_dash=True, readable=False),
)
@click.pass_obj
def explain_command(context: Context, /, as_json: bool, **question: Any) -> None:
    """Say what would happen to a message, and why; nothing is sent.

    MESSAGE is a file that holds it; - is standard input.
    """
    answer = explain.explain(explain.Question(**question), context.configuration)
    kept = answer.would_keep
    if as_json:
        click.echo(
            json.dumps(
                {
                    "crossing": answer.crossing,
                    "would_sign": answer.would_sign,
                    "would_copy": answer.would_copy,
                    "would_keep": None if kept is None else kept.facts(),
                    "disposition": answer.disposition,
                    "reasons": [str(reason) for reason in answer.reasons],
                }
            )
        )
        return
    click.echo(f"crossing     {answer.crossing}")
    click.echo(f"signatures   {', '.join(answer.would_sign) or 'none'}")
    click.echo(f"archive copy {', '.join(answer.would_copy) or 'none'}")
    click.echo(f"kept         {_kept(answer.would_keep)}")
    click.echo(f"disposition  {answer.disposition}")
    click.echo()
    for reason in answer.reasons:
        click.echo(f"  {reason.code:26} {tables.escape(reason.sentence)}")


def _kept(stamp: retention.Stamp | None) -> str:
    if stamp is None:
        return "for ever"
    terms = stamp.terms
    whole = "for ever" if terms.keep is None else retention.days(terms.keep)
    parts = (("header section", terms.headers), ("subject", terms.subject))
    shorter = [f"{what} {retention.days(time)}" for what, time in parts if time is not None]
    return ", ".join([f"{whole} (class {stamp.name})", *shorter])


@click.group()
def postfix() -> None:
    """Help with Postfix's side."""


@postfix.command()
@click.pass_obj
def snippet(context: Context) -> None:
    """Print the lines for main.cf and master.cf."""
    click.echo(postfix_setup.snippet(context.configuration), nl=False)
