"""Work in a thread of its own, while the writer does other work.

For work that gives up the interpreter lock for long: a commit waits for the disk.  Work that takes
the lock again and again would be slower so.

Promises: what is given is done in order, one after the other, by one thread, and that thread is
gone when `wait` or the `with` block ends: nobody forks, or lets go of what the work uses, beside
it.  What could not be begun in a thread is done at once.

Raises: from `wait`, what the first work raised that failed; what came after that was not begun.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

Made = TypeVar("Made")


class Beside(Generic[Made]):
    """Pieces of work, and what they make."""

    def __init__(self) -> None:
        self._given: SimpleQueue[Callable[[], Made] | None] = SimpleQueue()
        self._made: list[Made] = []
        self._fault: BaseException | None = None
        self._thread: threading.Thread | None = None

    def do(self, work: Callable[[], Made]) -> None:
        """Begin this when what was given before is done."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="beside")
            try:
                thread.start()
            except RuntimeError:  # the system has no thread for us
                self._do(work)
                return
            self._thread = thread
        self._given.put(work)

    def wait(self) -> list[Made]:
        """What all of it made, in order, when it is done."""
        self._leave()
        if self._fault is not None:
            raise self._fault
        return self._made

    def __enter__(self) -> Beside[Made]:
        return self

    def __exit__(self, *_fault: object) -> None:
        self._leave()

    def _leave(self) -> None:
        if self._thread is not None:
            self._given.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while (work := self._given.get()) is not None:
            self._do(work)

    def _do(self, work: Callable[[], Made]) -> None:
        if self._fault is None:
            try:
                self._made.append(work())
            except BaseException as fault:
                self._fault = fault
