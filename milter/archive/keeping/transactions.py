"""One piece of work in one transaction, again where another process was in its way.

Promises: the work is done once or not at all; deadlocks and lost races, which MariaDB, Galera and
PostgreSQL answer with an error, are tried again for a while.  What the database says otherwise
becomes one sentence.

Raises: database.DatabaseUnusable; what the work itself raises.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from carbonseal.milter.archive import database, faults

_PATIENCE = 60.0  # seconds

Result = TypeVar("Result")


def run(engine: Engine, work: Callable[[Connection], Result]) -> Result:
    """What `work` returns, its transaction committed.  It may be called more than once."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            with engine.begin() as connection:
                return work(connection)
        except SQLAlchemyError as fault:
            is_collision = faults.kind(fault) is faults.Kind.COLLISION
            if not is_collision or time.monotonic() > deadline:
                raise database.unusable(engine.url, fault) from fault
        time.sleep(random.uniform(0.01, 0.1))  # noqa: S311 - so as not to collide again
