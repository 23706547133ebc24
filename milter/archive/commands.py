"""`carbonseal archive`: the group, whose commands are loaded from their rooms when asked for.

Does not: hold any command's work, or load SQLAlchemy before a command needs it.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import ClassVar

import click


class _Commands(click.Group):
    """The commands by name, in the order in which people come to need them."""

    _ROOM = "carbonseal.milter.archive"
    _PLACES: ClassVar[Mapping[str, str]] = {
        "search": "search.commands:search",
        "show": "search.commands:show",
        "trace": "search.trace_command:trace",
        "stats": "search.statistics_command:stats",
        "copies": "search.copies_command:copies",
        "export": "handover.commands:export_command",
        "import": "handover.commands:import_command",
        "hold": "keeping.commands:hold_command",
        "holds": "keeping.commands:holds_command",
        "release": "keeping.commands:release_command",
        "retain": "keeping.commands:retain_command",
        "erase": "keeping.commands:erase_command",
        "completeness": "completeness.commands:completeness_command",
        "verify": "evidence.commands:verify",
        "audit": "audit_commands:audit_command",
        "write": "writer_commands:write",
        "upgrade": "writer_commands:upgrade",
    }

    def list_commands(self, ctx: click.Context | None) -> list[str]:
        """In the order given here."""
        return list(self._PLACES)

    def get_command(self, ctx: click.Context | None, cmd_name: str) -> click.Command | None:
        """The command, its module loaded now if it was not before."""
        place = self._PLACES.get(cmd_name)
        if place is None:
            return None
        module, _, attribute = place.partition(":")
        command: click.Command = getattr(
            importlib.import_module(f"{self._ROOM}.{module}"), attribute
        )
        return command


@click.group(cls=_Commands)
def archive() -> None:
    """Search, show and count what was recorded; load the spool into the database."""
