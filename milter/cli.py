"""The command line: assembles the commands of every room and turns errors into exit statuses.

Promises: this is the only place that exits; every error of ours becomes one sentence on standard
error and the exit status of its class (sysexits: 0, 64 usage, 65 data, 75 try later, 78
configuration).  A defect of ours becomes one as well, with status 70; its traceback is shown with
CARBONSEAL_DEBUG=1 only, because a traceback may show what a message or a key file held.  Help and
completion work without a configuration file.  Whoever stops reading the output changes no outcome:
the command goes on without printing and exits with its own status, and one that only lists stops,
with status 141.

Does not: hold any command's work, or load the rooms that a command does not need: `keys list` gets
by without SQLAlchemy, and so does the service that forks the workers; help gets by without what
checks a configuration.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import socket
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

import click

from carbonseal.keys import tables
from carbonseal.milter import config_path, log
from carbonseal.milter.rooms import Room, Rooms
from carbonseal.policies.errors import CarbonsealError, TryLater, UsageError

if TYPE_CHECKING:
    from carbonseal.keys.publication.settings import DnsSettings
    from carbonseal.milter.archive.evidence.settings import Settings
    from carbonseal.milter.config import Configuration
    from carbonseal.policies import rotation
    from carbonseal.policies.domains import DomainSet

_INTERRUPTED = 130
_CUT_SHORT = 141  # what a shell says of a program that SIGPIPE ended
# Lists of any length that decide and change nothing: what nobody reads needs no work.
_LISTS: Final = frozenset(
    ("archive", name) for name in ("search", "show", "trace", "stats", "holds", "audit")
)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
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
            # Checking it takes pydantic and the policies, which help and completion do not need.
            from carbonseal.milter import config  # noqa: PLC0415

            self._configuration = config.load(self._path)
            section = self._configuration.file.log
            log.configure(form=section.format, level=section.level)
        return self._configuration

    @property
    def keys_directory(self) -> Path:
        """For the keys commands."""
        return self.configuration.keys_directory

    def names_domain(self, sdid: str) -> bool:
        """For the keys commands: whether we are said to sign for a domain."""
        rules = self.configuration.signing.rules
        return sdid in self.configuration.ours.domains or any(rule.sdid == sdid for rule in rules)

    @property
    def dns(self) -> DnsSettings:
        """For the keys commands."""
        return self.configuration.dns

    @property
    def rotation(self) -> rotation.Rules:
        """For the keys commands."""
        return self.configuration.rotation

    @property
    def selectors(self) -> str:
        """For the keys commands: how new selectors are named."""
        return self.configuration.file.rotation.selector

    @property
    def bits(self) -> int:
        """For the keys commands: the size of new RSA keys."""
        return self.configuration.file.rotation.bits

    @property
    def relay(self) -> str:
        """The name of this relay, for the keys commands."""
        return self.configuration.file.record.relay or socket.gethostname()

    @property
    def postfix_directory(self) -> Path | None:
        """For the keys commands."""
        return self.configuration.file.rotation.postfix

    @property
    def relay_commands(self) -> Mapping[str, list[str]]:
        """For the keys commands: how other relays are asked."""
        return self.configuration.file.rotation.relays

    @property
    def spool_directory(self) -> Path:
        """For the archive and keys commands."""
        return self.configuration.spool_directory

    @property
    def keep_loaded(self) -> int | None:
        """For the archive commands."""
        return self.configuration.file.record.keep_loaded

    @property
    def index_headers(self) -> frozenset[str]:
        """For the archive commands."""
        return self.configuration.index_headers

    @property
    def our_domains(self) -> DomainSet:
        """For the archive commands."""
        return self.configuration.ours.domains

    @property
    def archive_recipients(self) -> frozenset[str]:
        """For the archive commands."""
        return frozenset(map(str, self.configuration.archive.all_recipients()))

    @property
    def evidence(self) -> Settings:
        """For the archive commands."""
        return self.configuration.evidence

    @property
    def database_url(self) -> str:
        """For the archive commands."""
        return self.configuration.database_url

    @property
    def require_reason(self) -> bool:
        """For the archive commands."""
        return self.configuration.file.audit.require_reason


# In the order of a relay's life.
_ROOMS: Final[Mapping[str, Room]] = {
    "run": Room("milter.commands:run", "Serve Postfix in the foreground."),
    "config": Room("milter.commands:config_group", "Check and show the configuration."),
    "policy": Room("milter.compare_command:policy", "Ask the policies."),
    "postfix": Room("milter.postfix_commands:postfix", "Help with Postfix's side."),
    "keys": Room(
        "keys.commands:keys",
        "Make signing keys, publish and rotate them, and show how it stands with them.",
    ),
    "migrate": Room(
        "milter.migrate.commands:migrate",
        "Take over from another signer: its configuration and its keys, as ours.",
    ),
    "archive": Room(
        "milter.archive.commands:archive",
        "Search, show and count what was recorded; load the spool into the database.",
    ),
    "follow": Room(
        "milter.follow.follow_command:follow",
        "Turn Postfix's log into delivery events, in the foreground; TERM or INT stops it cleanly.",
    ),
    "status": Room(
        "milter.status.status_command:status",
        "Show how the relay is: ready or not, rates, spool, writer, follower, keys, "
        "archive copies.",
    ),
}


@click.group(
    cls=Rooms,
    package="carbonseal",
    rooms=_ROOMS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="carbonseal", prog_name="carbonseal")
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, readable=False),  # whether it is, reading shows
    envvar="CARBONSEAL_CONFIG",
    default=config_path.DEFAULT_PATH,
    show_default=True,
    show_envvar=True,
    help="The configuration file.",
)
@click.pass_context
def carbonseal(context: click.Context, config_path: Path) -> None:
    """Seal mail: sign with DKIM, copy what crosses the boundary, keep the record."""
    context.obj = Context(config_path)


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


class _Output(io.FileIO):
    """A standard stream that takes everything, also when nobody reads it any more.

    A verdict must not become another one by `| head -1`, nor a change stop half-way.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number, "wb", closefd=False)
        self._is_read = True

    def write(self, data: Any, /) -> int:
        """Octets taken.  Raises: BrokenPipeError, once, in a command that only lists; OSError."""
        if self._is_read:
            try:
                return super().write(data)
            except BrokenPipeError:
                self._is_read = False
                if _only_lists(click.get_current_context(silent=True)):
                    raise
        return memoryview(data).nbytes


def _only_lists(context: click.Context | None) -> bool:
    """Whether the command that runs may stop when nobody reads what it prints."""
    if context is None:
        return False
    if context.params.get("watch"):
        return True  # it would never end
    path = []
    while context.parent is not None:
        path.append(context.info_name)
        context = context.parent
    return tuple(reversed(path)) in _LISTS


def _over_output(stream: Any, number: int) -> Any:
    """The standard stream `number` over an `_Output`; anything else that stands for it as it is."""
    try:
        if not isinstance(stream, io.TextIOWrapper) or stream.fileno() != number:
            return stream
    except (OSError, ValueError):  # of a test, without a number
        return stream
    raw = _Output(number)
    return io.TextIOWrapper(
        # Unbuffered (python -u), nothing may lie between the text and the descriptor.
        cast("BinaryIO", raw if stream.write_through else io.BufferedWriter(raw)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _open_standard_streams() -> None:
    """Let 0, 1 and 2 be open: a file opened later must not get the number, and then the output."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)
    sys.stdout, sys.stderr = _over_output(sys.stdout, 1), _over_output(sys.stderr, 2)
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
        if type(sys.stdout).__name__.endswith("PacifyFlushWrapper"):  # private in click 9
            return _CUT_SHORT  # click has seen first that whoever read our list has enough
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
        return _CUT_SHORT
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
        click.echo(f"carbonseal: {tables.presentable(sentence)}", err=True)
    return status
