"""What archive commands share: what they get from the command line, and how times are read.

Promises: times are UTC where no zone is given; text that is no time is answered by one sentence.

Raises: DataError.

Does not: know any command.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol, TypeVar

import click
from sqlalchemy import Engine

from carbonseal.milter.archive import database
from carbonseal.policies.errors import DataError

_UNITS = {"h": "hours", "d": "days", "w": "weeks"}
Command = TypeVar("Command", bound=Callable[..., Any])


class Context(Protocol):
    """What these commands need from the command line."""

    @property
    def keep_loaded(self) -> int | None:
        """Seconds for which loaded segments are kept; None for ever."""

    @property
    def spool_directory(self) -> Path:
        """Where records wait for the writer."""

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the archive."""

    @property
    def require_reason(self) -> bool:
        """Whether whoever asks must say why."""


def reason_option(command: Command) -> Command:
    """--reason, for the audit; `audit.asking` checks it."""
    return click.option(
        "--reason", default="", metavar="TEXT", help="The case, or why; it stands in the audit."
    )(command)


@contextmanager
def reading(context: Context) -> Iterator[Engine]:
    """An engine for questions, its schema checked.  Raises: what `reading_engine` raises."""
    engine = database.reading_engine(context.database_url)
    try:
        yield engine
    finally:
        engine.dispose()


def moment(
    option: str, text: str | None, now: datetime, *, end_of_day: bool = False
) -> datetime | None:
    """The moment that people mean by `text`; a date with `end_of_day` means its end."""
    if text is None:
        return None
    ago = re.fullmatch(r"(\d{1,5})([hdw])", text, re.ASCII)
    try:
        if ago:
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        found = datetime.fromisoformat(text)
        if end_of_day and len(text) <= len("2026-11-21"):
            found += timedelta(days=1)
        return found if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise DataError(
            f"{option} {text!r} is no time; write 2026-11-21, 2026-11-21T10:00Z or 7d"
        ) from None


def check_order(
    first: datetime | None, last: datetime | None, since: str | None, until: str | None
) -> None:
    """Refuse a period that ends before it begins.  Raises: DataError."""
    if first and last and first >= last:
        raise DataError(f"--since {since} is not before --until {until}; exchange them")
