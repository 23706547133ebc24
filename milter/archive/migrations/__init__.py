"""Alembic migrations of the archive; run through `archive.database`, never by hand.

Does not: load before an archive is to be made or upgraded, or has a schema that is not the newest.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection


def upgrade(connection: Connection, *, is_new: bool) -> None:
    """Bring the schema to the newest version, on this connection; `is_new`: there is none yet."""
    configuration = _alembic()
    configuration.attributes.update(connection=connection, is_new=is_new)
    command.upgrade(configuration, "head")


def is_known(version: str) -> bool:
    """Whether it is a version that this program can upgrade from."""
    try:
        return bool(ScriptDirectory.from_config(_alembic()).get_revision(version))
    except CommandError:
        return False


def newest() -> str | None:
    """The version that `upgrade` brings a schema to."""
    return ScriptDirectory.from_config(_alembic()).get_current_head()


def _alembic() -> Config:
    # Without a file: alembic's generated one would put the working directory on sys.path.
    configuration = Config()
    place = str(Path(__file__).parent).replace("%", "%%")
    configuration.set_main_option("script_location", place)
    configuration.set_main_option("path_separator", "os")
    return configuration
