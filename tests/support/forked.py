"""The command in a forked child of the test: the same code, without starting an interpreter.

Promises: the child has file descriptors, environment, directory and exit status of its own, as a
process that was started has them; only what the interpreter does before `main` is skipped, and the
loading of the modules, which is most of the time of a command.  It is ended after some minutes.

Does not: replace the installed command where streams, users or signals are what is tried.
"""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import tempfile
import traceback
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import click

from carbonseal.milter import cli

_SECONDS = 300
_DEFECT = 70


def run(
    arguments: Sequence[str],
    environment: Mapping[str, str] = os.environ,
    directory: Path | None = None,
    *,
    given: str = "",
) -> subprocess.CompletedProcess[str]:
    """What `carbonseal ARGUMENTS` does there, with both outputs; `given`: its standard input."""
    _load_commands()
    with _file(given) as text, _file() as out, _file() as err:
        child = os.fork()
        if child == 0:
            _be_the_command(arguments, dict(environment), directory or Path(), text, out, err)
        _, status = os.waitpid(child, 0)
        return subprocess.CompletedProcess(
            list(arguments), os.waitstatus_to_exitcode(status), _text(out), _text(err)
        )


@functools.cache
def _load_commands() -> None:
    """Before the fork: otherwise every child loads what its command needs, SQLAlchemy say."""
    pending: list[click.Command] = [cli.carbonseal]
    while pending:
        group = pending.pop()
        if isinstance(group, click.Group):
            context = click.Context(group)
            found = [group.get_command(context, name) for name in group.list_commands(context)]
            pending += [one for one in found if one is not None]


def _be_the_command(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    directory: Path,
    given: IO[bytes],
    out: IO[bytes],
    err: IO[bytes],
) -> None:
    """Never returns: a child that did would go on with the tests."""
    status = _DEFECT
    try:
        signal.alarm(_SECONDS)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(given.fileno(), 0)
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        sys.stdin = open(0, encoding="utf-8", closefd=False)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(directory)
        sys.argv = ["carbonseal", *arguments]
        # Click names the program after what was started, `python -m pytest` perhaps.
        sys.modules["__main__"] = types.ModuleType("__main__")
        cli.main(list(arguments))
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)


def _file(content: str = "") -> IO[bytes]:
    made = tempfile.TemporaryFile()
    made.write(content.encode("utf-8", "surrogateescape"))
    made.seek(0)
    return made


def _text(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode("utf-8", "surrogateescape")
