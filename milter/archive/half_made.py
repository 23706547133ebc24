"""What an interrupted first upgrade leaves on MariaDB and MySQL, which commit each table by itself.

Promises: `clear` drops such tables, so that they are made anew, only where nothing can be lost and
nobody is at them: all are the archive's by name, no version of the schema is written down, none
holds a row but the one that is there from the beginning, and the server is no node of a Galera
cluster, where another node may be making them.  The caller holds the lock of upgrades.

Raises: what the database raises.

Does not: touch anything on engines that make all tables in one transaction.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Any

import sqlalchemy
from sqlalchemy import Connection, Select, literal_column, select, table

from carbonseal.milter import log
from carbonseal.milter.archive import schema

_VERSIONS = "alembic_version"  # made before all others
OURS = frozenset((_VERSIONS, *schema.metadata.tables, *schema.audit_metadata.tables))


def is_half_made(tables: Set[str]) -> bool:
    """Whether these are tables of an archive; for who knows that it has no version."""
    return _VERSIONS in tables and len(tables) > 1 and tables <= OURS


def clear(connection: Connection) -> bool:
    """Drop what is half made; whether there was such a thing.  There is no version yet."""
    if connection.dialect.name not in ("mysql", "mariadb"):
        return False
    tables = set(sqlalchemy.inspect(connection).get_table_names())
    if not is_half_made(tables) or _is_galera(connection):
        return False
    if any(_holds_something(name, connection) for name in tables):
        return False
    names = sorted(tables - {_VERSIONS})
    connection.exec_driver_sql("DROP TABLE " + ", ".join(f"`{name}`" for name in names))
    log.warning("half-made-tables-dropped", tables=len(names))
    return True


def _is_galera(connection: Connection) -> bool:
    found = connection.exec_driver_sql("SHOW GLOBAL VARIABLES LIKE 'wsrep_on'").first()
    return found is not None and found[1] != "OFF"


def _holds_something(name: str, connection: Connection) -> bool:
    some: Select[Any] = select(literal_column("1")).select_from(table(name)).limit(1)
    if name == schema.dictionary_epoch.name:
        some = some.where(literal_column("epoch") != 0)
    return connection.execute(some).first() is not None
