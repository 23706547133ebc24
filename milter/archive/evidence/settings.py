"""Where a relay keeps its evidence, and who stamps it.

Does not: load anything of the evidence itself; the configuration imports this.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DIRECTORY = "evidence"  # in the spool, unless record.evidence says otherwise


@dataclass(frozen=True, slots=True)
class Authority:
    """A time stamp authority (RFC 3161), and how often it is asked."""

    url: str
    every: int  # seconds between two stamps at least
    certificate: Path | None = None  # PEM: its root, and what leads to it


@dataclass(frozen=True, slots=True)
class Settings:
    """What sealing and verifying need to know."""

    directory: Path
    authority: Authority | None = None


def beside(spool_directory: Path) -> Settings:
    """Where nothing is configured."""
    return Settings(spool_directory / DIRECTORY)
