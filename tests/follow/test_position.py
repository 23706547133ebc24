"""Where the follower goes on, when the writer is another user."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from carbonseal.milter.archive import segments
from carbonseal.milter.follow import position

NOBODY = 65534


@pytest.fixture
def spool() -> Iterator[Path]:
    """Where another user gets in, unlike where pytest keeps its directories."""
    with TemporaryDirectory() as made:
        os.chmod(made, 0o755)
        yield Path(made)


@pytest.mark.root
def test_a_follower_that_may_not_look_at_loaded_segments_goes_on_from_its_file(
    spool: Path,
) -> None:
    """As after an upgrade from an archive whose directory loaded/ the writer had made."""
    place = {"turn": 3, "journal": "system", "cursor": "c"}
    position.write(spool, {"at": 1.0, "position": place})
    (spool / segments.LOADED).mkdir(mode=0o700)
    os.chmod(spool / "state", 0o755)
    os.chmod(spool / "state/follow.json", 0o644)
    os.seteuid(NOBODY)
    try:
        with pytest.raises(PermissionError):
            segments.loaded(spool)
        found = position.newest(spool)
    finally:
        os.seteuid(0)
    assert found is not None
    assert found.turn == 3
    assert found.of_journal("") is not None
