"""`carbonseal archive`: the group, whose commands are loaded from their rooms when asked for.

Does not: hold any command's work, or load SQLAlchemy before a command needs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import click

from carbonseal.milter.rooms import Room, Rooms

# In the order in which people come to need them.
_ROOMS: Final[Mapping[str, Room]] = {
    "search": Room(
        "search.commands:search",
        "Find records, newest first, by a query, options, or both.",
    ),
    "show": Room(
        "search.commands:show",
        "Show complete records and what became of them, header section included.",
    ),
    "trace": Room(
        "search.trace_command:trace",
        "Follow one message over queue ids and relays, and to each recipient.",
    ),
    "stats": Room(
        "search.statistics_command:stats",
        "Count messages by day, crossing, domain and more.",
    ),
    "copies": Room(
        "search.copies_command:copies",
        "List archive copies that wait or are lost, and say how to send them again.",
    ),
    "export": Room(
        "handover.commands:export_command",
        "Write complete records and what proves them into the bundle PATH, for somebody else.",
    ),
    "import": Room(
        "handover.commands:import_command",
        "Put the records of the bundle PATH into the spool, from which the writer loads them.",
    ),
    "hold": Room(
        "keeping.commands:hold_command",
        "Keep every record that QUERY finds, whatever its time, until NAME is released.",
    ),
    "holds": Room(
        "keeping.commands:holds_command",
        "List legal holds, those that were released as well.",
    ),
    "release": Room(
        "keeping.commands:release_command",
        "End the legal hold NAME; what it held and what is past its time goes with the "
        "next retain.",
    ),
    "retain": Room(
        "keeping.commands:retain_command",
        "Take out what is past its time: subjects, header sections, records.",
    ),
    "erase": Room(
        "keeping.erase_command:erase_command",
        "Take one person out of the archive: what names ADDRESS is replaced by a token.",
    ),
    "completeness": Room(
        "completeness.commands:completeness_command",
        "Hold Postfix's log against the records: mail without a record, records without "
        "mail, copies.",
    ),
    "verify": Room(
        "evidence.commands:verify",
        "Prove that the archive is what was recorded, or say what is not and where.",
    ),
    "audit": Room(
        "audit_commands:audit_command",
        "Show who asked for what, newest first, this question included.",
    ),
    "write": Room(
        "writer_commands:write",
        "Load the spool into the database, in the foreground; TERM or INT stops it cleanly.",
    ),
    "upgrade": Room(
        "writer_commands:upgrade",
        "Bring the archive's tables to this version; on a server, as their owner.",
    ),
}


@click.group(cls=Rooms, package="carbonseal.milter.archive", rooms=_ROOMS)
def archive() -> None:
    """Search, show and count what was recorded; load the spool into the database."""
