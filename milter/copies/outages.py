"""What a worker knows of archive mailboxes whose copies do not arrive.

Promises: the mail asks memory only.  A look costs one stat(2), to be made about once a second by
somebody who carries no mail; a file that changed is read.  What cannot be read leaves the mailboxes
well: then every copy goes where it belongs.  A file that is `STALE` no longer counts as knowledge:
mailboxes that were bad get their copies again, and the alternate keeps getting them as well.

Does not: follow the log; the follower writes the file.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from carbonseal.milter.copies import state
from carbonseal.policies import archive_outage
from carbonseal.policies.archive_outage import Outlook, Standing

STALE: Final = 300.0  # seconds


class Outages:
    """Read from the follower's file; see `seal.Outages`."""

    def __init__(
        self, spool: Path, *, retry: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._spool = spool
        self._path = state.path(spool)
        self._retry = retry
        self._clock = clock
        self._seen: tuple[int, int] | None = None
        self._known: tuple[float, Mapping[str, Standing]] = (0.0, {})
        self._sent: dict[str, float] = {}  # mailbox -> when we sent it one, by way of trial

    def look(self) -> None:
        """See whether there is news."""
        try:
            found = os.stat(self._path)
        except OSError:
            self._seen, self._known = None, (0.0, {})
            return
        if (found.st_ino, found.st_mtime_ns) == self._seen:
            return
        about = state.read(self._spool)
        bad = {name: one for name, one in state.standings(about).items() if one.is_failing}
        self._known = (float(about.get("at", 0.0)), bad)
        self._seen = (found.st_ino, found.st_mtime_ns)

    def outlook(self, now: float) -> Outlook:
        """What to go by."""
        said_at, bad = self._known
        if not bad:
            return archive_outage.WELL
        return archive_outage.outlook(
            bad,
            now,
            retry=self._retry,
            is_stale=abs(now - said_at) > STALE,
            tried_by_us=self._sent,
        )

    def sent(self, copies: tuple[str, ...], now: float) -> None:
        """These mailboxes get a copy: of those that are bad, it is a trial."""
        bad = self._known[1]
        if bad:
            self._sent.update((one.lower(), now) for one in copies if one.lower() in bad)
