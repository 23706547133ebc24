"""Who is in a crew, and what each of them does in its process: workers, status, writer.

Promises: whoever does not sign holds no signing key.  What one of them needs is loaded in its own
process: libmilter by a worker, an HTTP server by the status process, SQLAlchemy by the writer.

Does not: start or end anybody (`children` does).
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import Final

from carbonseal.keys import keyring
from carbonseal.milter import log
from carbonseal.milter.config import Configuration
from carbonseal.milter.status.board import Board
from carbonseal.milter.supervision.child import Child
from carbonseal.policies import cores

_PLACES: Final = 4  # on the board, for each worker
_DRAIN_MARGIN: Final = 5.0  # seconds beyond milter.drain
_OTHERS_PATIENCE: Final = 10.0


@dataclass(slots=True)
class Crews:
    """Makes the children that a configuration asks for."""

    board: Board
    with_writer: bool
    # Read once for all workers; they look themselves for what changed since.
    ring: keyring.Keyring

    def crew(self, configuration: Configuration, listener: socket.socket) -> list[Child]:
        """The children for `configuration`, not started yet; the board expects them."""

        def work(child: Child, control: socket.socket) -> int:
            _bind(child.number, count, configuration)
            # Loads libmilter, which takes the signals: in the child only.
            from carbonseal.milter import worker  # noqa: PLC0415

            return worker.run(
                configuration,
                listener,
                control,
                known=self.ring,
                board=self.board,
                place=child.place,
            )

        def look(_child: Child, control: socket.socket) -> int:
            # No signing key in the process that speaks HTTP: OpenSSL wipes what nobody holds.
            self.ring = keyring.EMPTY
            # Loads an HTTP server and what writes metrics: in the child only.
            from carbonseal.milter.status import lookout  # noqa: PLC0415

            return lookout.serve(configuration, self.board, control)

        def write(_child: Child, control: socket.socket) -> int:
            self.ring = keyring.EMPTY  # nor in the one that speaks with a database
            # Loads SQLAlchemy: in the child only.
            from carbonseal.milter.archive import writer  # noqa: PLC0415

            return writer.serve(
                configuration.spool_directory,
                configuration.database_url,
                control,
                keep_loaded=configuration.file.record.keep_loaded,
                evidence=configuration.evidence,
                indexed=configuration.index_headers,
            )

        count = workers(configuration)
        self.board.expect(count, with_writer=self.with_writer)
        drain = configuration.file.milter.drain + _DRAIN_MARGIN
        crew = [Child("worker", work, drain, number=number) for number in range(count)]
        crew.append(Child("status", look, _OTHERS_PATIENCE))
        if self.with_writer:
            crew.append(Child("writer", write, _OTHERS_PATIENCE))
        return crew


def board(configuration: Configuration) -> Board:
    """For all crews of a supervisor that starts with `configuration`.

    Twice the workers live at one time while a reload goes on, and there may be more of them.
    """
    return Board(_PLACES * workers(configuration))


def workers(configuration: Configuration) -> int:
    """How many of them serve."""
    count = configuration.file.milter.workers
    if count != "auto":
        return count
    # Not os.cpu_count: a service may be allowed some of the machine's cores only (CPUAffinity=).
    there = len(os.sched_getaffinity(0))
    return cores.workers_wanted(there, are_bound=_are_bound(configuration))


def _are_bound(configuration: Configuration) -> bool:
    section = configuration.file.milter
    # libmilter deals connections out unevenly: the core of a worker with few of them would idle.
    return section.cpu_affinity == "auto" and section.protocol == "own"


def _bind(number: int, workers: int, configuration: Configuration) -> None:
    """Have this process, a worker, stay on its core."""
    if not _are_bound(configuration):
        return
    try:
        there = os.sched_getaffinity(0)
        chosen = cores.of_worker(number, workers, there)
        if chosen != there:
            os.sched_setaffinity(0, chosen)
    except OSError as fault:
        # A sandbox may forbid either, or the core may be gone: slower, and nothing else.
        log.warning("worker-not-bound", worker=number, problem=fault.strerror or str(fault))
