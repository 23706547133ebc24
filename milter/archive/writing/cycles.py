"""When the writer looks for cycles: between batches, and rarely while there is one.

A batch is many objects and none of them is in a cycle; the collector would look at each of them,
again and again.  But each transaction leaves a few cycles with all they hold, and each fault of the
database leaves some that hold a batch.

Promises: what `COMMITS` transactions have left, or a fault, is gone after the next
`collect_if_due`.

Does not: look by itself; the writer says where it has no batch in hand.
"""

from __future__ import annotations

import gc
from typing import Final

# Objects between two looks for cycles that nobody asked for.  Each of those looks at the batches
# that are under way, object by object: at every hundred thousand they took a tenth of all the time.
_ALLOCATIONS: Final = 2_000_000
COMMITS: Final = 50  # between two looks for the cycles that transactions leave


def spare_the_collector() -> None:
    """Look for cycles rarely, and never at what was there before: for the process, once."""
    gc.freeze()
    gc.set_threshold(_ALLOCATIONS, 20, 20)


class Cycles:
    """Those that the transactions of one writer have left."""

    def __init__(self) -> None:
        self._commits = 0  # since the last look

    def committed(self) -> None:
        """A transaction has left its few."""
        self._commits += 1

    def failed(self) -> None:
        """A fault of the database.

        SQLAlchemy's faults are in cycles, with the frames that they came through, and with the
        batch that these hold: ten megabytes each time that 1,400 records were refused.
        """
        self._commits = COMMITS

    def collect_if_due(self) -> None:
        """Look for them if there may be many; where there is no batch to be looked at."""
        if self._commits >= COMMITS:
            self.collect()

    def collect(self) -> None:
        """Look for them; where there is no batch to be looked at.

        Far below the threshold they are many megabytes: without this 240,000 records took the
        writer from 95 to 129 MB.  They are young: those that lasted are left to the collector.
        """
        gc.collect(1)
        self._commits = 0
