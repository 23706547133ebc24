"""Legal holds that the audit tells of and the archive does not have.

An archive that was begun anew, or restored from an old backup, has lost holds; the audit beside an
SQLite archive is a file of its own and may still be there.

Promises: a hold that was set to its end, was not released since and is not among those that the
archive lists is named, with the command that sets it again.

Raises: AuditUnusable; `refuse_without` DataError.

Does not: set anything, or see what the audit has lost with the archive, as on a server.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection
from typing import Final

from sqlalchemy import Engine

from carbonseal.milter.archive import audit
from carbonseal.milter.archive.audit import Event
from carbonseal.milter.archive.search import wanted, written
from carbonseal.policies.errors import DataError

_OURS: Final = ("name", "live")  # the rest of an event is the search


def lost(audit_engine: Engine, there: Collection[str]) -> list[Event]:
    """The events that set them, the oldest first; `there`: names that the archive lists."""
    released = {event.facts.get("name") for event in _done(audit_engine, "release")}
    gone = [
        event
        for event in _done(audit_engine, "hold")
        if event.facts.get("name") not in released.union(there)
    ]
    return gone[::-1]


def command(event: Event) -> str:
    """What sets such a hold again, as it can be typed."""
    facts = {name: value for name, value in event.facts.items() if name not in _OURS}
    try:
        query = shlex.quote(written.query(wanted.from_json(facts)))
    except DataError:
        query = "QUERY"  # of another version; `archive audit` shows what it was
    live = " --live" if event.facts.get("live") is True else ""
    return f"carbonseal archive hold {event.facts.get('name')} {query}{live}"


def refuse_without(audit_engine: Engine, there: Collection[str]) -> None:
    """Let nothing be taken out as long as a hold is missing that may cover it.

    Raises: DataError.
    """
    for event in lost(audit_engine, there):
        raise DataError(
            f"hold {event.facts.get('name')}: the audit says that {event.actor} set it (event "
            f"{event.number}), and the archive does not have it, so what it covers would be taken "
            f"out; set it again: {command(event)} (and release it if it is over)"
        )


def _done(engine: Engine, action: str) -> list[Event]:
    """What was asked and done, the newest first."""
    asked = list(audit.events(engine, action=action))
    answered = audit.answers(engine, [event.number for event in asked])
    return [event for event in asked if event.number in answered]
