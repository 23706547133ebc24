"""What archive commands share: what they get from the command line, and how times are read.

Promises: times are UTC where no zone is given; text that is no time is answered by one sentence.

Raises: DataError.

Does not: know any command.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, TypedDict, TypeVar

import click
from sqlalchemy import Engine

from carbonseal.milter.archive import database
from carbonseal.milter.archive.evidence.settings import Settings
from carbonseal.milter.archive.search import period
from carbonseal.policies import address
from carbonseal.policies.domains import DomainSet
from carbonseal.policies.errors import DataError

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
    def index_headers(self) -> frozenset[str]:
        """Header fields, in lower case, that records are found by."""

    @property
    def our_domains(self) -> DomainSet:
        """Domains that are ours."""

    @property
    def archive_recipients(self) -> frozenset[str]:
        """Addresses that mail is archived at."""

    @property
    def evidence(self) -> Settings:
        """Where this relay keeps its evidence, and who stamps it."""

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


class Known(TypedDict):
    """What searches have to know of the configuration."""

    indexed: frozenset[str]
    is_ours: Callable[[str], bool]


def known(context: Context) -> Known:
    """For `query` and `statistics`."""
    return Known(indexed=context.index_headers, is_ours=lambda text: _is_ours(context, text))


def _is_ours(context: Context, text: str) -> bool:
    """Whether mail for an address stays ours: in our domains, on this host, in the archive."""
    found = address.parse_path(text).address
    if found is None:
        return False
    if not found.domain or found.domain in context.our_domains:
        return True
    return str(found).lower() in map(str.lower, context.archive_recipients)


def moment(
    option: str, text: str | None, now: datetime, *, end_of_day: bool = False
) -> datetime | None:
    """The moment that people mean by `text`; a date with `end_of_day` means its end."""
    if text is None:
        return None
    first, after = period.period(option, text, now)
    return after if end_of_day else first


def check_order(
    first: datetime | None, last: datetime | None, since: str | None, until: str | None
) -> None:
    """Refuse a period that ends before it begins.  Raises: DataError.

    `first` or `last` may be what is meant where nothing was given for it.
    """
    if first and last and first >= last:
        if since is None:
            raise DataError(
                f"--until {until} lies before what is looked at without --since; give that as well"
            )
        if until is None:
            raise DataError(
                f"--since {since}: nothing of that time has come so far; write an earlier one"
            )
        raise DataError(f"--since {since} is not before --until {until}; exchange them")
