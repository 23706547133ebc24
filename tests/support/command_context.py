"""What the archive's commands get from the command line, for tests that call them in-process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from carbonseal.milter.archive import commands
from carbonseal.milter.archive.evidence import settings
from carbonseal.policies.domains import DomainSet
from support.archive import Archive


@dataclass(frozen=True)
class Context:
    """As `cli.Context`, without a configuration file."""

    spool_directory: Path
    database_url: str
    require_reason: bool = False
    keep_loaded: int | None = None
    index_headers: frozenset[str] = frozenset({"list-id"})
    archive_recipients: frozenset[str] = frozenset()
    our_domains: DomainSet = DomainSet(["example.com"])  # noqa: RUF009 -- nothing changes it

    @property
    def evidence(self) -> settings.Settings:
        """Beside the spool, unless a test says otherwise."""
        return settings.beside(self.spool_directory)


def call(archive: Archive, *arguments: str, **changes: Any) -> Result:
    """`carbonseal archive ARGUMENTS`; `changes` to the Context."""
    context = Context(archive.spool_directory, archive.database_url, **changes)
    return CliRunner().invoke(commands.archive, arguments, obj=context)
