from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import mariadb, postgresql
from support.archive import Archive

ENGINES = ("sqlite", "postgresql", "mariadb")


@contextmanager
def new_archive(engine_name: str, directory: Path) -> Iterator[Archive]:
    """An empty archive on this engine, for as long as a module needs it."""
    if engine_name == "sqlite":
        made = Archive(directory)
        yield made
        made.close()
        return
    server = postgresql.shared() if engine_name == "postgresql" else mariadb.shared()
    name = server.create_database()
    made = Archive(directory, server.url(name))
    yield made
    made.close()
    server.drop_database(name)


@pytest.fixture(scope="module", params=ENGINES)
def module_archive(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Archive]:
    """One archive for all tests of a module, on each engine, empty at first."""
    with new_archive(request.param, tmp_path_factory.mktemp(request.param)) as made:
        yield made
