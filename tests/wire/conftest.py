"""A running service for the tests on the wire."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.carbonseal import Carbonseal


@pytest.fixture(params=["own", "libmilter"])
def protocol(request: pytest.FixtureRequest) -> str:
    """Who speaks the milter protocol."""
    return str(request.param)


@pytest.fixture
def made(tmp_path: Path, protocol: str) -> Carbonseal:
    """One with a key of example.com and one worker, not started."""
    sections = {"milter": {"workers": 1, "drain": 3, "protocol": protocol}}
    service = Carbonseal(tmp_path / "seal", sections)
    service.make_key("example.com")
    return service


@pytest.fixture
def service(made: Carbonseal) -> Iterator[Carbonseal]:
    """The same, serving."""
    with made:
        yield made
