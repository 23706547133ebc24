"""The memory that supervisor, workers and status process share: who lives, what was counted.

Layout: a head of cells that only the supervisor writes, one row for each place (its process, and
two beats and connections, which the process itself writes), then the places of `counters`.

Promises: made before the first fork, and of one size; a worker that has no room (a reload to far
more of them) counts no mail, does its work all the same, and is known to serve.  A place belongs to
one living process at a time; its successor goes on with its counts, so none ever falls while the
supervisor lives.

Does not: take locks; whoever looks may see a worker that died a moment ago.
"""

from __future__ import annotations

import mmap
import os
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from carbonseal.milter.status import counters
from carbonseal.milter.status.counters import Tally, Totals

ROLES: Final = ("worker", "writer", "status")
SILENT_AFTER: Final = 10.0  # seconds without a beat after which a process counts as stuck or silent
_WANTED, _STARTED_AT, _LOOKED, _IS_READY = range(4)
_RESTARTS: Final = 4  # and one more cell for each role
_HAS_WRITER: Final = _RESTARTS + len(ROLES)
_BEYOND: Final = _HAS_WRITER + 1  # workers that serve without a place
_ROWS_AT: Final = 16
_PID, _IS_USED, _IS_SERVING, _BEAT, _LIFE, _CONNECTIONS = range(6)
_ROW: Final = 6
_CELL: Final = 8  # octets


@dataclass(frozen=True, slots=True)
class Crew:
    """The processes of a relay as the supervisor knows them."""

    wanted: int  # workers
    serving: int  # of these, those that accept mail
    stuck: int  # serving, but their mail does not go on
    silent: int  # of these, those that show no sign of life at all
    restarts: dict[str, int]  # by role, since the supervisor started
    started_at: int  # Unix time
    is_writer_child: bool  # False: the writer is a service of its own


class Board:
    """Made by the supervisor; its children have it by being forked."""

    def __init__(self, places: int, clock: Callable[[], float] = time.monotonic) -> None:
        head = (_ROWS_AT + places * _ROW) * _CELL
        self._first = -(-head // mmap.PAGESIZE) * mmap.PAGESIZE
        self._memory = memoryview(mmap.mmap(-1, self._first + places * counters.PLACE_OCTETS))
        self._cells = self._memory[: self._first].cast("Q")
        self._clock = clock
        self.places = places
        # Readable anew with each call; nobody reads it, so that each call reaches everybody who
        # waits for its edges.
        self.call = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        weakref.finalize(self, os.close, self.call).atexit = False
        rows = self._cells[_ROWS_AT : _ROWS_AT + places * _ROW]
        self._beats, self._connections = rows[_BEAT::_ROW], rows[_CONNECTIONS::_ROW]
        self._cells[_STARTED_AT] = int(time.time())

    # --- for the supervisor -----------------------------------------------------------------------

    def take(self) -> int | None:
        """A place for a new worker, the first that is free; None: none is left."""
        for place in range(self.places):
            if not self._row(place)[_PID]:
                self.settle(place, 1)  # until its process has a number
                return place
        return None

    def settle(self, place: int, pid: int) -> None:
        """A process has taken its place."""
        row = self._row(place)
        row[_IS_SERVING] = 0
        row[_CONNECTIONS] = 0
        row[_BEAT] = row[_LIFE] = self._now()
        row[_PID] = pid
        row[_IS_USED] = 1

    def serves(self, place: int) -> None:
        """It said that it accepts mail."""
        self._row(place)[_IS_SERVING] = 1

    def rests(self, place: int) -> None:
        """Its process is gone, a successor will come."""
        row = self._row(place)
        row[_IS_SERVING] = 0
        row[_CONNECTIONS] = 0

    def leave(self, place: int) -> None:
        """Nobody goes on here for now."""
        self.rests(place)
        self._row(place)[_PID] = 0

    def restarted(self, role: str) -> None:
        """A child that died is to be started again."""
        self._cells[_RESTARTS + ROLES.index(role)] += 1

    def expect(self, workers: int, *, with_writer: bool) -> None:
        """How many workers there should be, and whether the writer is ours."""
        self._cells[_WANTED] = workers
        self._cells[_HAS_WRITER] = with_writer

    def beyond(self, workers: int) -> None:
        """How many serve without a place; nobody knows whether these hang."""
        self._cells[_BEYOND] = workers

    # --- for a worker -----------------------------------------------------------------------------

    def tally(self, place: int | None) -> Tally:
        """Where to count."""
        return counters.nowhere() if place is None else Tally(self._place(place))

    def beat(self, place: int | None, *, is_held_up: bool = False) -> None:
        """A sign of life; `is_held_up`: of the process, but not of the mail that it serves."""
        if place is not None:
            row = self._row(place)
            row[_LIFE] = self._now()
            if not is_held_up:
                row[_BEAT] = row[_LIFE]

    def has_connections(self, place: int | None, count: int) -> None:
        """It takes connections, and has so many."""
        if place is not None:
            self._row(place)[_CONNECTIONS] = 1 + count

    def takes_no_more(self, place: int | None) -> None:
        """It takes no further connection; nobody waits until it does."""
        if place is not None:
            self._row(place)[_CONNECTIONS] = 0

    def call_others(self) -> None:
        """There is a connection for whoever has fewer than another."""
        os.eventfd_write(self.call, 1)

    def connections_elsewhere(self, place: int | None) -> list[int]:
        """How many each other worker has that takes connections and does not hang."""
        if place is None:
            return []
        oldest = self._now() - int(SILENT_AFTER * 1000)
        counts = self._connections.tolist()
        counts[place] = 0
        beside = zip(counts, self._beats, strict=True)
        return [count - 1 for count, beat in beside if count and beat >= oldest]

    # --- for the status process -------------------------------------------------------------------

    def looked(self, *, is_ready: bool) -> None:
        """What the status process found, for the supervisor's word to the service manager."""
        self._cells[_IS_READY] = is_ready
        self._cells[_LOOKED] = self._now()

    # --- for everybody ----------------------------------------------------------------------------

    @property
    def is_ready(self) -> bool | None:
        """What was found last; None where nobody looked for a while."""
        if self._now() - self._cells[_LOOKED] > SILENT_AFTER * 1000:
            return None
        return bool(self._cells[_IS_READY])

    def crew(self) -> Crew:
        """Who lives."""
        rows = [self._row(place) for place in range(self.places)]
        serving = [row for row in rows if row[_PID] and row[_IS_SERVING]]
        oldest = self._now() - int(SILENT_AFTER * 1000)
        return Crew(
            wanted=self._cells[_WANTED],
            serving=len(serving) + self._cells[_BEYOND],
            stuck=sum(row[_BEAT] < oldest for row in serving),
            silent=sum(row[_LIFE] < oldest for row in serving),
            restarts={role: self._cells[_RESTARTS + at] for at, role in enumerate(ROLES)},
            started_at=self._cells[_STARTED_AT],
            is_writer_child=bool(self._cells[_HAS_WRITER]),
        )

    def totals(self) -> Totals:
        """What was counted in all places that were ever used."""
        used = [place for place in range(self.places) if self._row(place)[_IS_USED]]
        return counters.add_up([self._place(place) for place in used])

    def _row(self, place: int) -> memoryview:
        begin = _ROWS_AT + place * _ROW
        return self._cells[begin : begin + _ROW]

    def _place(self, place: int) -> memoryview:
        begin = self._first + place * counters.PLACE_OCTETS
        return self._memory[begin : begin + counters.PLACE_OCTETS]

    def _now(self) -> int:
        # Beyond any time before the machine started: nothing of it is negative.
        return int(self._clock() * 1000) + 1_000_000
