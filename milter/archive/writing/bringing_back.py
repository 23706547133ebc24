"""Load again what a database has lost, or never had.

A standby that took over may lack the last commits of its primary, a restored backup the last days:
what they lack is still in loaded/.

Promises: each segment in loaded/ that has no seal in SQL is back in the spool.  Of those that were
loaded after all nothing comes twice.

Raises: OSError; what the database raises.
"""

from __future__ import annotations

from pathlib import Path

from carbonseal.milter.archive import progress, segments
from carbonseal.milter.archive.writing.account import Report
from carbonseal.milter.archive.writing.connection import WriterConnection


def bring_back(directory: Path, database: WriterConnection, report: Report) -> None:
    """Move to the spool `directory` what this database does not have; say so."""
    with database.transaction() as connection:
        lost = progress.unsealed(segments.loaded(directory), connection)
    for segment in lost:
        segments.bring_back(segment)
    if lost:
        report("segments-brought-back", count=len(lost), first=lost[0].name)
