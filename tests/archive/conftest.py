from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import mariadb, postgresql
from support.archive import Archive

ENGINES = ("sqlite", "postgresql", "mariadb")


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    """A spool and an SQLite archive, both empty."""
    made = Archive(tmp_path)
    yield made
    made.close()


@pytest.fixture(params=ENGINES)
def engine_name(request: pytest.FixtureRequest) -> str:
    """Each engine that the archive promises to behave the same on."""
    name: str = request.param
    return name


@pytest.fixture
def database_url(engine_name: str, tmp_path: Path) -> Iterator[str]:
    """An empty database of its own on each engine; the servers start when first asked for."""
    if engine_name == "sqlite":
        yield f"sqlite:///{tmp_path / 'archive.db'}"
        return
    server = postgresql.shared() if engine_name == "postgresql" else mariadb.shared()
    name = server.create_database()
    yield server.url(name)
    server.drop_database(name)


@pytest.fixture
def any_archive(tmp_path: Path, database_url: str) -> Iterator[Archive]:
    """A spool and an archive on each engine, both empty."""
    made = Archive(tmp_path, database_url)
    yield made
    made.close()
