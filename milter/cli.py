"""The command line: assembles the commands of every room and turns errors into exit statuses.

Promises: this is the only place that exits; every error of ours becomes one sentence on standard
error and the exit status of its class (sysexits: 0, 64 usage, 65 data, 75 try later, 78
configuration).  A defect of ours becomes one as well, with status 70; its traceback is shown with
CARBONSEAL_DEBUG=1 only, because a traceback may show what a message or a key file held.  Help and
completion work without a configuration file.

Does not: hold any command's work.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import io
import json
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import yaml

from carbonseal.keys import commands as keys_commands
from carbonseal.keys import keyring, tables
from carbonseal.milter import config, explain, log, postfix_setup, socket_address, supervisor
from carbonseal.milter.archive import commands as archive_commands
from carbonseal.milter.config import Configuration
from carbonseal.policies.errors import CarbonsealError, ConfigurationError, TryLater, UsageError

_INTERRUPTED = 130
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_LONGEST = 1500  # of a complaint; what was typed may be longer than any screen
_DEBUG = "CARBONSEAL_DEBUG"


class Context:
    """What commands get from the command line: the configuration, read when first asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._configuration: Configuration | None = None

    @property
    def path(self) -> Path:
        """The configuration file in use."""
        return self._path

    @property
    def configuration(self) -> Configuration:
        """The checked configuration.  Raises: ConfigurationError."""
        if self._configuration is None:
            self._configuration = config.load(self._path)
            section = self._configuration.file.log
            log.configure(form=section.format, level=section.level)
        return self._configuration

    @property
    def keys_directory(self) -> Path:
        """For the keys commands."""
        return self.configuration.keys_directory

    @property
    def spool_directory(self) -> Path:
        """For the archive commands."""
        return self.configuration.spool_directory

    @property
    def keep_loaded(self) -> int | None:
        """For the archive commands."""
        return self.configuration.file.record.keep_loaded

    @property
    def database_url(self) -> str:
        """For the archive commands."""
        return self.configuration.database_url


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(metadata.version("carbonseal"), prog_name="carbonseal")
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, readable=False),  # whether it is, reading shows
    envvar="CARBONSEAL_CONFIG",
    default=config.DEFAULT_PATH,
    show_default=True,
    show_envvar=True,
    help="The configuration file.",
)
@click.pass_context
def carbonseal(context: click.Context, config_path: Path) -> None:
    """Seal mail: sign with DKIM, copy what crosses the boundary, keep the record."""
    context.obj = Context(config_path)


@carbonseal.command()
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


@carbonseal.group("config")
def config_group() -> None:
    """Check and show the configuration."""


@config_group.command()
@click.pass_obj
def check(context: Context) -> None:
    """Say everything that is wrong with the configuration, the directories and the keys."""
    try:
        configuration = context.configuration
    except config.InvalidConfiguration as fault:
        for problem in fault.problems:
            click.echo(_presentable(problem), err=True)
        raise SystemExit(fault.exit_code) from None
    complaints = list(_surroundings(configuration))
    for complaint in complaints:
        click.echo(_presentable(complaint), err=True)
    if complaints:
        raise SystemExit(ConfigurationError.exit_code)
    click.echo(f"{context.path}: no complaints (version {configuration.version})")


def _surroundings(configuration: Configuration) -> list[str]:
    """What is wrong around a configuration that is right in itself."""
    complaints = []
    try:
        _check_group(configuration)
    except ConfigurationError as fault:
        complaints.append(fault.sentence)
    spool = configuration.spool_directory
    if spool.exists() and not spool.is_dir():
        complaints.append(f"record.spool {spool}: it is no directory; name one")
    elif not spool.exists():
        complaints.append(f"record.spool {spool}: no such directory; create it for the service")
    elif not os.access(spool, os.W_OK | os.X_OK):
        complaints.append(f"record.spool {spool}: not writable for this user")
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
    if configuration.archive.when != "never" and not configuration.archive.all_recipients():
        complaints.append(
            "archive.recipients is empty, so nothing is copied; name a mailbox or set "
            "archive.when to never"
        )
    return complaints


@config_group.command()
@click.option("--changed", is_flag=True, help="Only what differs from the defaults.")
@click.option("--json", "as_json", is_flag=True, help="As JSON instead of YAML.")
@click.pass_obj
def show(context: Context, changed: bool, as_json: bool) -> None:
    """Print the configuration in force, defaults included."""
    content = context.configuration.file.model_dump(mode="json", exclude_defaults=changed)
    if as_json:
        click.echo(json.dumps(content, indent=2))
    else:
        click.echo(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), nl=False)


@carbonseal.group()
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
@click.argument("message", required=False, type=click.Path(path_type=Path, readable=False))
@click.pass_obj
def explain_command(context: Context, /, as_json: bool, **question: Any) -> None:
    """Say what would happen to a message, and why; nothing is sent."""
    answer = explain.explain(explain.Question(**question), context.configuration)
    if as_json:
        click.echo(
            json.dumps(
                {
                    "crossing": answer.crossing,
                    "would_sign": answer.would_sign,
                    "would_copy": answer.would_copy,
                    "disposition": answer.disposition,
                    "reasons": [str(reason) for reason in answer.reasons],
                }
            )
        )
        return
    click.echo(f"crossing     {answer.crossing}")
    click.echo(f"signatures   {', '.join(answer.would_sign) or 'none'}")
    click.echo(f"archive copy {', '.join(answer.would_copy) or 'none'}")
    click.echo(f"disposition  {answer.disposition}")
    click.echo()
    for reason in answer.reasons:
        click.echo(f"  {reason.code:26} {tables.escape(reason.sentence)}")


@carbonseal.group()
def postfix() -> None:
    """Help with Postfix's side."""


@postfix.command()
@click.pass_obj
def snippet(context: Context) -> None:
    """Print the lines for main.cf and master.cf."""
    click.echo(postfix_setup.snippet(context.configuration), nl=False)


carbonseal.add_command(keys_commands.keys)
carbonseal.add_command(archive_commands.archive)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the `carbonseal` command; always exits."""
    _open_standard_streams()
    log.configure(form="text", level="info")
    status = _run(arguments)
    # The interpreter would try again to write what could not be written, and complain.
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()
            continue
        with contextlib.suppress(AttributeError, OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(status)


def _open_standard_streams() -> None:
    """Let 0, 1 and 2 be open: a file opened later must not get the number, and then the output."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What the terminal cannot show is escaped, as on standard error, and no reason to stop.
        sys.stdout.reconfigure(errors="backslashreplace")


def _run(arguments: Sequence[str] | None) -> int:
    """Run one command, say what went wrong, and return the exit status."""
    try:
        try:
            outcome = carbonseal.main(args=arguments, standalone_mode=False)
            status = outcome if isinstance(outcome, int) else 0
        except SystemExit as leaving:
            status = leaving.code if isinstance(leaving.code, int) else 0
        if type(sys.stdout) is click.utils.PacifyFlushWrapper:
            return 0  # whoever read our output has enough; click has seen it first
        sys.stdout.flush()
    except CarbonsealError as fault:
        return _complain(fault.sentence, fault.exit_code)
    except click.exceptions.NoArgsIsHelpError as fault:
        fault.show()
        return UsageError.exit_code
    except click.ClickException as fault:
        return _complain(_usage_sentence(fault), UsageError.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return _INTERRUPTED
    except BrokenPipeError:
        return 0
    except Exception as fault:  # the outermost edge
        return _give_up(fault)
    return status


def _usage_sentence(fault: click.ClickException) -> str:
    """click's sentence, and where the right usage stands."""
    said = fault.format_message().rstrip(" .")
    context = getattr(fault, "ctx", None)
    command = "carbonseal" if context is None else context.command_path
    return f"{said[:1].lower()}{said[1:]}; see {command} --help"


def _give_up(fault: Exception) -> int:
    """Say that something happened that nobody thought of."""
    if isinstance(fault, OSError) and fault.filename is None and fault.errno in _NO_ROOM:
        return _complain(
            f"the output cannot be written ({fault.strerror}); make room or send it elsewhere",
            TryLater.exit_code,
        )
    if os.environ.get(_DEBUG) == "1":
        traceback.print_exception(fault)
    frame = traceback.extract_tb(fault.__traceback__)[-1]
    place = f"{Path(frame.filename).name} line {frame.lineno}"
    return _complain(
        f"internal error ({type(fault).__name__} in {place}), which is a defect of carbonseal; "
        f"run it again with {_DEBUG}=1 for the details to report",
        CarbonsealError.exit_code,
    )


def _complain(sentence: str, status: int) -> int:
    with contextlib.suppress(OSError):  # nobody is there to read it; the status still tells
        click.echo(f"carbonseal: {_presentable(sentence)}", err=True)
    return status


def _presentable(sentence: str) -> str:
    """One line of bearable length that cannot play with a terminal; place and remedy stay."""
    line = tables.escape(" ".join(sentence.split()))
    if len(line) <= _LONGEST:
        return line
    return f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"
