"""Several relays before one archive: each a spool, and a writer in a process of its own.

Promises: the writer is the product's (`writer.run`); it ends with the test.  `check_whole` compares
what was put into the spools with what the archive holds: each record once, and per relay a chain of
seals without a gap whose lines add up.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import sqlalchemy
from sqlalchemy import Engine

from carbonseal.milter.archive import schema, segments, servers
from support.archive import Archive, build_recipient, build_record, build_reverse_path
from support.background import Background
from support.waiting import wait_until

PATIENCE = 180.0 + int(os.environ.get("MANY", "0")) / 50
_SEGMENT = 500  # records

_WRITER = """
import json, signal, sys, threading
from pathlib import Path
from carbonseal.milter.archive import writer

stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())

def report(event, **facts):
    print(json.dumps([event, {name: str(fact) for name, fact in facts.items()}]), flush=True)

writer.run(Path(sys.argv[1]), sys.argv[2], stop=stop, report=report)
"""


class Relay:
    """One relay: mail comes in, a writer takes its records to the archive."""

    def __init__(self, name: str, directory: Path, database_url: str) -> None:
        directory.mkdir()
        self.name = name
        self.archive = Archive(directory, database_url)
        self.record_ids: list[str] = []
        self._writer = Background(
            [
                *(sys.executable, "-c", _WRITER),
                *(self.archive.spool_directory, self.archive.database_url),
            ],
            directory / "writer.log",
            lambda: True,  # it is awaited by what it loads
        )

    def __enter__(self) -> Self:
        self._writer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.__exit__(kind, fault, trace)

    def seal(self, count: int) -> None:
        """Mail comes in: so many records, in closed segments."""
        start = len(self.record_ids)
        for first in range(start, start + count, _SEGMENT):
            numbers = range(first, min(first + _SEGMENT, start + count))
            records = [self._record(number) for number in numbers]
            self.archive.put(*records)
            self.record_ids += [one["record_id"] for one in records]

    def _record(self, number: int) -> dict[str, Any]:
        # A few write to many: both relays meet the same addresses, and each has its own.
        return build_record(
            number,
            relay=self.name,
            reverse_path=build_reverse_path(f"person{number % 97}@example.com"),
            recipients=[
                build_recipient(f"friend{number % 1009}@partner{number % 53}.example"),
                build_recipient(f"only{number}@{self.name}"),
            ],
        )

    @property
    def is_done(self) -> bool:
        """Whether its spool is loaded."""
        assert self._writer.is_running, f"the writer of {self.name} has ended"
        return not segments.pending(self.archive.spool_directory)

    def said(self, event: str) -> list[dict[str, str]]:
        """What its writer reported."""
        # The writer's own log goes there as well: what it says of header dictionaries.
        told = (line for line in self._writer.log().splitlines() if line.startswith("["))
        lines = map(json.loads, told)
        return [facts for name, facts in lines if name == event]


class Mail:
    """Mail that comes to all relays while everything else happens."""

    def __init__(self, relays: Sequence[Relay], count: int) -> None:
        self._relays = relays
        self._count = count
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()

    def _run(self) -> None:
        for _ in range(0, self._count, _SEGMENT * len(self._relays)):
            for relay in self._relays:
                relay.seal(_SEGMENT)


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Ask until it is so, as long as the many records may take."""
    wait_until(condition, what, PATIENCE)


def check_whole(relays: Sequence[Relay], database_url: str) -> None:
    """Nothing lost, nothing doubled, every relay's sequence complete."""
    engine = servers.engine(sqlalchemy.make_url(database_url), is_writer=False)
    try:
        put = sorted(one for relay in relays for one in relay.record_ids)
        assert len(set(put)) == len(put)
        for table in (schema.message, schema.header_section):
            # Sorted here: a table that held a record twice would show it.
            assert sorted(_all(engine, sqlalchemy.select(table.c.record_id))) == put
        for table in (schema.repeated, schema.set_aside):
            assert _all(engine, sqlalchemy.select(sqlalchemy.func.count()).select_from(table)) == [
                0
            ]
        counted = sqlalchemy.select(sqlalchemy.func.sum(schema.segment.c.records))
        assert list(map(int, _all(engine, counted))) == [len(put)]
        for relay in relays:
            _check_chain(relay, engine)
    finally:
        engine.dispose()


def _check_chain(relay: Relay, engine: Engine) -> None:
    """Numbers from 1 without a gap, lines that add up, each entry naming the one before."""
    columns = schema.seal.c
    query = sqlalchemy.select(columns.number, columns.entry, columns.leaves)
    query = query.where(columns.relay == relay.name).order_by(columns.number)
    with engine.connect() as connection:
        rows = connection.execute(query).all()
    assert [row.number for row in rows] == list(range(1, len(rows) + 1))
    line = 1
    for row in rows:
        entry = json.loads(row.entry)
        assert (entry["number"], entry["first"]) == (row.number, line)
        assert len(bytes(row.leaves)) == 64 * entry["lines"]
        line += entry["lines"]
    assert line - 1 == len(relay.record_ids)


def _all(engine: Engine, query: Any) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(query).scalars())
