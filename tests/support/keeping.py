"""The commands of keeping, as people give them, on an archive of a test's own."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click.testing

from carbonseal.milter.archive import audit, audit_place, commands, database
from carbonseal.milter.archive.evidence import verify
from carbonseal.policies.domains import DomainSet
from support.archive import Archive, Record, build_record

__all__ = ["Keeper", "expiring", "years"]

DAY = 86400


def years(count: float) -> float:
    """Seconds before START, for `build_record(seconds=...)`."""
    return -count * 366 * DAY


def expiring(
    number: int, *, seconds: float, keep: int | None = None, name: str = "brief", **changes: Any
) -> Record:
    """A record with a stamp; `keep`, `headers` and `subject` in days."""
    times = {"keep": keep, "headers": changes.pop("headers", None)}
    times["subject"] = changes.pop("subject", None)
    stamp = {"class": name} | {
        part: None if days is None else days * DAY for part, days in times.items()
    }
    changes.setdefault("salt", f"{number:032x}")
    return build_record(number, seconds=seconds, retention=stamp, **changes)


@dataclass
class _Context:
    database_url: str
    spool_directory: Path
    require_reason: bool = False
    keep_loaded: int | None = None
    index_headers: frozenset[str] = frozenset({"list-id"})
    archive_recipients: frozenset[str] = frozenset()
    our_domains: DomainSet = DomainSet(["example.com"])  # noqa: RUF009 -- nothing changes it


class Keeper:
    """An archive and its commands."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.context = _Context(archive.database_url, archive.spool_directory)

    def run(self, line: str, *, status: int = 0) -> str:
        """What a command prints, standard error included."""
        words = shlex.split(line)
        command = commands.archive.get_command(click.Context(commands.archive), words[0])
        assert command is not None
        done = click.testing.CliRunner().invoke(command, words[1:], obj=self.context)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == status, done.output
        return done.output

    def events(self) -> list[tuple[str, dict[str, Any]]]:
        """What the audit says, oldest first."""
        with audit_place.opened(self.context.database_url) as engine:
            return [(one.action, one.facts) for one in audit.events(engine)][::-1]

    def findings(self) -> list[str]:
        """What `verify` has to say against the archive."""
        report = verify.Report()
        question = verify.Question(
            evidence=self.archive.spool_directory / "evidence",
            segments=self.archive.spool_directory / "loaded",
        )
        engine = database.reading_engine(self.context.database_url)
        try:
            with audit_place.opened(self.context.database_url) as audit_engine:
                found = verify.verify(
                    engine, audit_engine, question, report, lambda what, count, total: None
                )
                return [json.dumps(str(one)) for one in found]
        finally:
            engine.dispose()
