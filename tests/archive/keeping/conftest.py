from __future__ import annotations

import pytest
from support.archive import Archive
from support.keeping import Keeper


@pytest.fixture
def keeper(any_archive: Archive) -> Keeper:
    """An archive on each engine, and the commands that keep and erase."""
    return Keeper(any_archive)
