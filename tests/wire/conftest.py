"""A running service for the tests on the wire."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.carbonseal import Carbonseal


@pytest.fixture
def made(tmp_path: Path) -> Carbonseal:
    """One with a key of example.com and one worker, not started."""
    service = Carbonseal(tmp_path / "seal", {"milter": {"workers": 1, "drain": 3}})
    service.make_key("example.com")
    return service


@pytest.fixture
def service(made: Carbonseal) -> Iterator[Carbonseal]:
    """The same, serving."""
    with made:
        yield made
