"""Generated records as a spool's closed segments, as the milters of the relays leave them.

Promises: names, lines and footers are those of the product's own spool; nothing is synced, for
what is lost can be made again.  Each relay writes segments of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from carbonseal.milter.archive import merkle, open_segment, record
from traffic.generator import Record

_SEGMENT = 10_000  # records


class Segments:
    """Segments that are being written, one for each relay at a time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._open: dict[str, tuple[str, list[bytes], merkle.Tree]] = {}
        self.octets = 0

    def put(self, content: Record) -> None:
        """Append a record to the segment of its relay."""
        relay = content["relay"]
        if relay not in self._open:
            # The process number tells apart what several workers begin in one millisecond.
            number = sum(relay.encode()) % 1000
            self._open[relay] = (f"{content['record_id']}-{number}", [], merkle.Tree())
        _, lines, tree = self._open[relay]
        line = record.encode(content)
        tree.add(line)
        lines.append(line)
        if len(lines) == _SEGMENT:
            self._close(relay)

    def close(self) -> None:
        """Close all that are open."""
        for relay in list(self._open):
            self._close(relay)

    def _close(self, relay: str) -> None:
        name, lines, tree = self._open.pop(relay)
        data = b"".join([*lines, open_segment.footer(name, tree)])
        self.octets += len(data)
        (self._directory / (name + open_segment.CLOSED_SUFFIX)).write_bytes(data)


def fill(directory: Path, records: Iterable[Record]) -> int:
    """Write `records` into the spool `directory`; octets written."""
    segments = Segments(directory)
    for content in records:
        segments.put(content)
    segments.close()
    return segments.octets
