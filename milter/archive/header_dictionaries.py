"""The archive's own dictionaries for header sections: kept in a table, found when one is needed.

Promises: whoever has opened an archive through `database` can read its header sections, also those
stored with a dictionary that another relay's writer made a moment ago.  Dictionaries are only ever
added, and known by what they are: two writers who make one at the same time have two.

Raises: what the database raises from `newest` and `keep`; nothing from a look-up that fails, of
which `header_store.expand` makes a ValueError.

Does not: make dictionaries (`header_learning` does).
"""

from __future__ import annotations

import contextlib
import weakref

from sqlalchemy import Connection, Engine, event, insert, select

from carbonseal.milter.archive import header_store, schema

_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def announce(engine: Engine) -> Engine:
    """Look for dictionaries in this archive, too, while it is open.

    That is from its next new connection on until it is disposed of.
    """
    event.listen(engine, "connect", lambda *_: _engines.add(engine))
    event.listen(engine, "engine_disposed", _engines.discard)
    return engine


def newest(connection: Connection, *, since: int) -> bytes | None:
    """The last one made after `since` (microseconds UTC); None if there is none."""
    columns = schema.header_dictionary.c
    query = select(columns.content).where(columns.made_at > since)
    found = connection.execute(query.order_by(columns.made_at.desc()).limit(1)).scalar()
    return None if found is None else bytes(found)


def keep(content: bytes, connection: Connection, *, made_at: int) -> None:
    """Add one; it may be used when the transaction is committed."""
    row = {"dictionary_id": _number(content), "made_at": made_at, "content": content}
    connection.execute(insert(schema.header_dictionary), [row])


def _number(content: bytes) -> int:
    return int.from_bytes(header_store.dictionary_id(content), "big")


def _find(identifier: bytes) -> None:
    for engine in list(_engines):
        if identifier in [header_store.know(content) for content in _all(engine)]:
            return


def _all(engine: Engine) -> list[bytes]:
    """Read past SQLAlchemy: in SQLite its transactions of a writer would wait for each other."""
    with contextlib.suppress(Exception), contextlib.closing(engine.raw_connection()) as raw:
        cursor = raw.cursor()
        cursor.execute("SELECT content FROM header_dictionary")
        return [bytes(content) for (content,) in cursor.fetchall()]
    return []  # an engine of something that is gone, or no archive yet


header_store.ask_for_unknown(_find)
