"""A network's mail on engines whose index has it client by client.

Promises: one condition that an index answers.  Each client is in order of time, but not all of them
together: few clients are looked up one by one, and where there are many, or MariaDB would have
sorted the messages in the same time, all of the network is read and sorted.

Raises: what the database raises.

Does not: PostgreSQL, where each month has an index of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Select, bindparam, func, select, text

from carbonseal.milter.archive import schema
from carbonseal.milter.archive.search import estimate
from carbonseal.milter.archive.search.conditions import MESSAGE, Holds, Leaf

_MOST_CLIENTS = 256  # of a network that are looked up one by one
_FEW = 15_000  # messages of a network: as quickly sorted as its clients are looked up
_BY_CLIENT = "message_by_client"


def _clients() -> Select[Any]:
    """The clients of a network, each by one step down the index; one more than are looked up."""
    address = schema.message.c.client_address
    first, last = (bindparam(name, type_=address.type) for name in ("first", "last"))
    least = select(func.min(address)).where(address <= last)
    present = least.where(address >= first).cte("present", recursive=True)
    known = present.columns[0]
    following = least.where(address > known).correlate(present).scalar_subquery()
    present = present.union_all(select(following).where(known.is_not(None)))
    known = present.columns[0]
    return select(known).where(known.is_not(None)).limit(_MOST_CLIENTS + 1)


_CLIENTS = _clients()
# The same for MariaDB, which would look through its whole index for each step of that.
_LEAPT = text(
    "SELECT DISTINCT client_address FROM message WHERE client_address BETWEEN :first AND :last "
    "LIMIT :most"
)


def _are_few(network: Mapping[str, bytes], connection: Connection) -> bool:
    message = schema.message
    some = select(message.c.record_id).where(
        message.c.client_address.between(network["first"], network["last"])
    )
    some = some.with_hint(message, f"FORCE INDEX ({_BY_CLIENT})", connection.dialect.name)
    return estimate.rows(some, connection) <= _FEW


def leaf(first: bytes, last: bytes, connection: Connection) -> Leaf:
    """The messages of clients from `first` to `last`, as `terms.client_bounds` gives them."""
    network: dict[str, Any] = {"first": first, "last": last}
    is_in: Holds = lambda c: c.client_address.between(first, last)  # noqa: E731
    asked: Any = _CLIENTS
    if connection.dialect.name != "sqlite":
        if _are_few(network, connection):
            return Leaf(MESSAGE, is_in, 60, is_range=True, index=_BY_CLIENT)
        asked, network["most"] = _LEAPT, _MOST_CLIENTS + 1
    some = list(connection.scalars(asked, network))
    if len(some) > _MOST_CLIENTS:
        return Leaf(MESSAGE, is_in, 60, is_range=True)
    has_one: Holds = lambda c: c.client_address.in_(some)  # noqa: E731
    return Leaf(MESSAGE, has_one, 60, is_windowed=True, index=_BY_CLIENT)
