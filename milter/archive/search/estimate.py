"""How many rows MariaDB would read for a query, as it says itself before it reads any.

Promises: nothing is read but the way down an index to either end of the rows, however many they
are.  Of a few hundred the number is exact; of very many it may be half or twice that.

Does not: count (`walk.count`).
"""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import Connection, Select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import ClauseElement, Executable
from sqlalchemy.sql.visitors import InternalTraversal


class _Explained(Executable, ClauseElement):
    """A query whose plan is asked for."""

    inherit_cache = True
    _traverse_internals: Any = (("query", InternalTraversal.dp_clauseelement),)
    _all_selected_columns: ClassVar[Any] = ()  # what comes back are no columns of the query

    def __init__(self, query: Select[Any]) -> None:
        self.query = query


@compiles(_Explained)
def _text(asked: _Explained, compiler: Any, **how: Any) -> str:
    return f"EXPLAIN {compiler.process(asked.query, **how)}"


def rows(query: Select[Any], connection: Connection) -> int:
    """The estimate for a query of one table."""
    plan = connection.execute(_Explained(query)).mappings().one()
    return int(plan["rows"] or 0)  # null where it sees that there are none
