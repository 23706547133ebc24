from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.archive import Archive


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    """A spool and an SQLite archive, both empty."""
    made = Archive(tmp_path)
    yield made
    made.close()
