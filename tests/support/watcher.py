"""A process that ends another one when the test is killed, which can clean up no more.

Promises: it acts once its input ends without a line, which happens when the test process is gone,
however that went; `dismiss` sends the line.

The kernel's own signal for that (PR_SET_PDEATHSIG) is lost when a program changes its user.
"""

from __future__ import annotations

import subprocess


class Watcher:
    """Waits for the end of this process."""

    def __init__(self, ending: str, *arguments: object) -> None:
        """`ending` is what a shell does then; the arguments are its $0, $1 ..."""
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", f"read -r line || {{ {ending}; }}", *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def dismiss(self) -> None:
        """What it watched was waited for, or will be: its pid may be another's soon."""
        self._process.communicate(b"dismissed\n")
