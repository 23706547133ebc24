"""Wait until a descriptor may be read.

By poll(2): select(2) refuses descriptors from 1,024 on, and a busy relay, or a process that embeds
one of its loops, has that many.  End of file and errors count as readable, so that whoever reads
next learns of them.
"""

from __future__ import annotations

import select
from typing import Protocol


class Descriptor(Protocol):
    """What the kernel knows by a number: a socket, a pipe, a file."""

    def fileno(self) -> int:
        """The number."""


def wait(what: Descriptor | int, seconds: float | None = None) -> bool:
    """Whether `what` may be read within so many seconds; None: wait without end.

    Raises OSError as poll(2) does; a signal whose handler returns does not end the wait.
    """
    poll = select.poll()
    poll.register(what, select.POLLIN)
    return bool(poll.poll(None if seconds is None else max(0.0, seconds) * 1000))
