"""A group of commands that live in rooms, each loaded from its own when it is asked for.

Promises: to list the commands, or to complete the name of one, loads none of them, and to run one
loads no other.

Does not: check that what the list says of a command is what the command says of itself.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import click
from click.shell_completion import CompletionItem


class Room(NamedTuple):
    """Where a command is, and what it is for."""

    place: str  # "module:attribute", the module below the package of the group
    sentence: str  # the first of the command's own help


class Rooms(click.Group):
    """Commands by name, in the order given."""

    def __init__(self, *names: Any, package: str, rooms: Mapping[str, Room], **how: Any) -> None:
        """`rooms`: of each command by its name, below `package`."""
        super().__init__(*names, **how)
        self._package = package
        self._rooms = rooms

    def list_commands(self, ctx: click.Context | None) -> list[str]:
        """All names."""
        return list(self._rooms)

    def get_command(self, ctx: click.Context | None, cmd_name: str) -> click.Command | None:
        """The command, its module loaded now if it was not before."""
        room = self._rooms.get(cmd_name)
        if room is None:
            return None
        module, _, attribute = room.place.partition(":")
        with _uncollected():
            loaded = importlib.import_module(f"{self._package}.{module}")
        command: click.Command = getattr(loaded, attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list below the help, as click would write it of the commands themselves."""
        width = formatter.width - 6 - max(map(len, self._rooms))
        with formatter.section("Commands"):
            formatter.write_dl(
                [
                    (name, _stand_in(name, room).get_short_help_str(width))
                    for name, room in self._rooms.items()
                ]
            )

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names that begin so, and options of the group."""
        return [
            *(
                CompletionItem(name, help=_stand_in(name, room).get_short_help_str())
                for name, room in self._rooms.items()
                if name.startswith(incomplete)
            ),
            *click.Command.shell_complete(self, ctx, incomplete),
        ]


def _stand_in(name: str, room: Room) -> click.Command:
    """A command whose sentence click shortens as it would that of the real one."""
    return click.Command(name, help=room.sentence)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """No collection meanwhile.

    What modules make stays; to look through it again and again takes a tenth of the loading.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
