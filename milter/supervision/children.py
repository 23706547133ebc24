"""The children of the supervisor: started when they are due, heard, buried, told to leave, killed.

Promises: a dead child is started again, at once when it had served and with growing delay when it
had not; one that was told to leave is not, and is killed when its time is over; for one that says
itself that it leaves another is started while it finishes.  The board says who lives and who
serves.

Raises: nothing; a child that cannot be started is put off, with a sentence in the log.

Does not: know what a child does (`crew`), or why it is to leave (`supervisor`).
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from carbonseal.milter import log
from carbonseal.milter.status.board import Board
from carbonseal.milter.supervision.child import Child

DRAIN: Final = b"D"
MAKE_WAY: Final = b"N"  # lookout.MAKE_WAY: for the next one
_START_PATIENCE: Final = 15.0
_SIGHT_PATIENCE: Final = 3.0  # a disk that hangs must not keep a relay from being ready
_HEAR_EVERY: Final = 0.2
_KILL_AGAIN: Final = 5.0
_UNSUPPORTED: Final = 69


@dataclass(slots=True)
class Children:
    """Those that should live, and those that are leaving."""

    board: Board
    present: list[Child] = field(default_factory=list)
    _leaving: list[Child] = field(default_factory=list)
    _is_the_end: bool = False

    @property
    def workers(self) -> list[Child]:
        """Those that seal mail, or will."""
        return [child for child in self.present if child.is_worker]

    # --- starting ---------------------------------------------------------------------------------

    def start_due(self, *, but: str = "") -> None:
        """Start whoever has no process and need not wait; `but` is a role that stays away."""
        now = time.monotonic()
        for child in self.present:
            if not child.pid and child.due_at <= now and child.role != but:
                self._start(child)

    def _start(self, child: Child) -> None:
        if child.is_worker and child.place is None:
            child.place = self.board.take()
        try:
            child.fork((*self.present, *self._leaving))
        except OSError as fault:
            # No memory, processes or descriptors left: those that serve go on serving.
            child.put_off()
            log.error(
                "start-failed",
                role=child.role,
                problem=fault.strerror,
                remedy="raise the limits on memory, processes or open files",
            )
        else:
            if child.place is not None:
                self.board.settle(child.place, child.pid)

    def await_workers(self, crew: Iterable[Child]) -> bool:
        """Whether every worker of `crew` reported ready in time."""
        deadline = time.monotonic() + _START_PATIENCE
        for child in crew:
            if not child.is_worker:
                continue
            if child.control is None:
                return False
            try:
                if not child.await_word(max(0.1, deadline - time.monotonic())):
                    return False
            except TimeoutError:
                return False
            self._note(child)
        return True

    def await_sight(self) -> None:
        """Until the page that `carbonseal status` shows is of this crew, or patience is over."""
        for child in self.present:
            if child.role == "status" and child.control is not None:
                try:
                    child.await_word(_SIGHT_PATIENCE)
                except OSError:
                    continue  # it looks all the same, or is started again

    def hear(self) -> None:
        """Note who serves now, of the workers for which nobody waited, and who leaves."""
        for child in self.workers:
            if child.control is None:
                continue
            if not child.is_ready:
                child.hear()
                self._note(child)
            elif child.is_leaving():
                self._succeed(child)

    def _succeed(self, leaver: Child) -> None:
        """Put another in the place of one that was ended by somebody else, and finishes."""
        log.event("worker-leaves", pid=leaver.pid, effect="another one is started")
        self.present = [one.successor() if one is leaver else one for one in self.present]
        self._see_off(leaver)

    def _note(self, child: Child) -> None:
        """Write on the board that a worker serves, once it has said so."""
        if child.place is not None and child.is_ready:
            self.board.serves(child.place)

    def count_placeless(self) -> None:
        """Write on the board how many serve without a place there."""
        self.board.beyond(sum(one.is_ready for one in self.workers if one.place is None))

    def patience(self) -> float:
        """Seconds until there is something to do here; infinite: until a child dies."""
        waits = [max(0.0, one.due_at - time.monotonic()) for one in self.present if not one.pid]
        if any(not child.is_ready for child in self.workers):
            waits.append(_HEAR_EVERY)
        return min(waits, default=math.inf)

    # --- ending -----------------------------------------------------------------------------------

    def reap(self) -> bool:
        """Bury the dead; whether one of them died that should have lived."""
        was_missed = False
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return was_missed
            if pid == 0:
                return was_missed
            was_missed |= self._bury(pid, os.waitstatus_to_exitcode(status))

    def _bury(self, pid: int, status: int) -> bool:
        for child in (*self.present, *self._leaving):
            if child.pid == pid:
                break
        else:
            return False
        child.is_gone()
        if child in self._leaving:
            self._leaving.remove(child)
            self._give_back(child)
            return False
        if self._is_the_end:
            return False  # it left before it was told to
        if child.place is not None:
            self.board.rests(child.place)
        self.board.restarted(child.role)
        delay = child.died()
        log.error("child-died", role=child.role, pid=pid, status=status, restart_in=delay)
        if status == _UNSUPPORTED:
            log.error("libmilter-unfit", remedy="install Debian's libmilter, which takes fd:N")
        return True

    def dismiss(self, children: Iterable[Child], word: bytes = DRAIN) -> None:
        """Tell children to leave; those that hang are killed when their time is over."""
        for child in children:
            if not child.pid:
                self._give_back(child)
            elif child.control is not None:
                self._see_off(child)
                child.tell(word)

    def _see_off(self, child: Child) -> None:
        child.leave_by = time.monotonic() + child.patience
        self._leaving.append(child)

    def kill_overdue(self) -> None:
        """Kill those that should have left by now."""
        now = time.monotonic()
        for child in self._leaving:
            if child.leave_by <= now:
                log.warning("child-killed", role=child.role, pid=child.pid)
                os.kill(child.pid, signal.SIGKILL)
                child.leave_by = now + _KILL_AGAIN

    def end(self) -> None:
        """Let all of them leave, and wait for it."""
        self._is_the_end = True
        # The workers first: what they still seal must find its writer.
        self.dismiss(self.workers)
        self._wait_for_leavers()
        self.dismiss([child for child in self.present if not child.is_worker])
        self._wait_for_leavers()

    def _wait_for_leavers(self) -> None:
        while self._leaving:
            self.reap()
            self.kill_overdue()
            if self._leaving:
                signal.sigtimedwait((signal.SIGCHLD,), 0.5)

    def _give_back(self, child: Child) -> None:
        if child.place is not None:
            self.board.leave(child.place)
            child.place = None
