"""`carbonseal postfix lint` and `bcc-maps`: commands that look at Postfix's configuration.

Promises: both only read; `lint` ends with 0 when nothing is worse than a hint, with 1 when
something is, and with 75 when Postfix's configuration cannot be looked at.

Does not: change Postfix, or hold what is found (`postfix_lint`).
"""

from __future__ import annotations

from pathlib import Path

import click
import yaml

from carbonseal.keys import tables
from carbonseal.milter import bcc_map_files, postfix_lint, postfix_settings
from carbonseal.milter.commands import Context, postfix

_COLUMNS = ("severity", "code", "place", "finding")
_FOUND = 1  # exit status
_AFTERWARDS = ("canonical_maps", "sender_canonical_maps", "recipient_canonical_maps")

_directory = click.option(
    "--config-directory",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Postfix's configuration directory.  [default: the machine's]",
)


@postfix.command()
@_directory
@tables.output_options
@click.pass_obj
def lint(context: Context, directory: Path | None, output_format: str) -> None:
    """Say where Postfix and this configuration do not fit together; only reads.

    Ends with 1 when there is a warning or an error, with 75 when Postfix cannot be looked at.
    """
    findings = postfix_lint.lint(directory, context.configuration)
    rows = (
        {
            "severity": str(one.severity),
            "code": one.code,
            "place": one.place,
            "finding": one.text,
        }
        for one in findings
    )
    if findings or output_format != "table":
        tables.write_rows(rows, _COLUMNS, output_format)
    else:
        click.echo("Postfix and this configuration fit together: no findings")
    if not postfix_lint.is_clean(findings):
        raise SystemExit(_FOUND)


@postfix.command("bcc-maps")
@_directory
@click.pass_obj
def bcc_maps_command(context: Context, directory: Path | None) -> None:
    """Print the section that compares our archive copy with Postfix's BCC maps."""
    settings = postfix_settings.read(directory)
    origin = settings.value("myorigin")
    if origin.startswith("/"):
        origin = next(iter(postfix_settings.text_of(origin).split()), "")
    local = postfix_settings.listing(settings, settings.value("mydestination"))
    is_appended = settings.is_on("append_dot_mydomain")
    sources = bcc_map_files.Sources(
        sender=settings.value("sender_bcc_maps"),
        recipient=settings.value("recipient_bcc_maps"),
        always=settings.value("always_bcc"),
        origin=origin,
        dot_domain=settings.value("mydomain") if is_appended else "",
        delimiter=settings.value("recipient_delimiter"),
        local=[name for name in local.names if name not in local.excluded],
        replaced=(),
        base=directory or Path("/etc/postfix"),
    )
    section = {
        "sender": sources.sender,
        "recipient": sources.recipient,
        "always": sources.always or None,
        "origin": sources.origin,
        "append_domain": sources.dot_domain or None,
        "delimiter": sources.delimiter,
        "local": list(sources.local),
    }
    whole = {"archive": {"compare": "bcc_maps", "bcc_maps": section}}
    # Wide, so that a table stays on its line.
    click.echo(yaml.safe_dump(whole, sort_keys=False, allow_unicode=True, width=4096), nl=False)
    for name in _AFTERWARDS:
        if settings.value(name):
            click.echo(f"# {name} rewrites addresses before the maps see them; not followed here.")
    for service in settings.running("smtpd"):
        if "no_address_mappings" in settings.value("receive_override_options", service):
            click.echo(f"# {service.place} has no_address_mappings: no maps there; not followed.")
    bcc_map_files.read(sources)  # says what cannot be compared
