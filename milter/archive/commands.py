"""`carbonseal archive`: the group, whose commands are loaded from their rooms when asked for.

Does not: hold any command's work, or load SQLAlchemy before a command needs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import click

from carbonseal.milter.rooms import Rooms

# In the order in which people come to need them.
_PLACES: Final[Mapping[str, str]] = {
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


@click.group(cls=Rooms, package="carbonseal.milter.archive", places=_PLACES)
def archive() -> None:
    """Search, show and count what was recorded; load the spool into the database."""
