"""A group of commands that live in rooms, each loaded from its own when it is asked for.

Promises: to list the commands loads none of them, and to run one loads no other.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click


class Rooms(click.Group):
    """Commands by name, in the order given."""

    def __init__(self, *names: Any, package: str, places: Mapping[str, str], **how: Any) -> None:
        """`places`: "module:attribute" of each command, the module below `package`."""
        super().__init__(*names, **how)
        self._package = package
        self._places = places

    def list_commands(self, ctx: click.Context | None) -> list[str]:
        """All names."""
        return list(self._places)

    def get_command(self, ctx: click.Context | None, cmd_name: str) -> click.Command | None:
        """The command, its module loaded now if it was not before."""
        place = self._places.get(cmd_name)
        if place is None:
            return None
        module, _, attribute = place.partition(":")
        loaded = importlib.import_module(f"{self._package}.{module}")
        command: click.Command = getattr(loaded, attribute)
        return command
