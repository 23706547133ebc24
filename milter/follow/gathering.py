"""Facts about messages, gathered into event lines by queue id.

Promises: an event line is a spool line that is no record:
    {"event": "delivery", "v": 1, "relay": NAME, "queue_id": ID, "facts": [FACT, ...],
     "source": {"turn": N, ...}, "event_id": ULID, "salt": 32 hexadecimal digits}
with the facts as `postfix_line` gives them, in the order of the log.  `source` is a position from
which nothing is missed that is not in this line or in those before it: after a crash in the middle
of a flush some facts are written twice, and none is lost.  A fact depends on its log line only.

Memory is bounded: who gathers asks `is_full` and flushes.
"""

from __future__ import annotations

from typing import Any, Final

from carbonseal.milter.archive import event_id, record
from carbonseal.milter.follow.postfix_line import Fact, Said
from carbonseal.milter.follow.taken import Mark, Place

VERSION: Final = 1
EVENT: Final = "delivery"
_FACTS: Final = 2000  # in all
_LINE_FACTS: Final = 100  # of one line
_OCTETS: Final = 1 << 20  # of log lines that are held


class Gathering:
    """What was read and is not on disk yet."""

    def __init__(self, relay: str) -> None:
        self._relay = relay
        self._lines: list[tuple[Mark, str, list[Fact]]] = []  # in the order of their first mark
        self._by_id: dict[str, list[Fact]] = {}
        self._facts = 0
        self._octets = 0
        self.last_queue_id: str | None = None

    @property
    def is_full(self) -> bool:
        """Whether it is time to flush, however young the facts are."""
        return self._facts >= _FACTS or self._octets >= _OCTETS

    @property
    def facts(self) -> int:
        """How many wait."""
        return self._facts

    def add(self, mark: Mark, said: Said, octets: int) -> None:
        """Take in what the log line at `mark` said, which had so many octets."""
        for queue_id, fact in said:
            known = self._by_id.get(queue_id)
            if known is None or len(known) >= _LINE_FACTS:
                known = self._by_id[queue_id] = []
                self._lines.append((mark, queue_id, known))
            known.append(fact)
            if fact["kind"] == "removed":  # a short queue id may be another message's from here on
                del self._by_id[queue_id]
            self._facts += 1
            self.last_queue_id = queue_id
        self._octets += octets

    def lines(self, place: Place, end: Mark, turn: int) -> list[bytes]:
        """The event lines; `end`: the mark after all that was added.  `turn` counts flushes."""
        marks = [mark for mark, _, _ in self._lines[1:]]
        return [
            record.encode(self._content(queue_id, facts, {"turn": turn, **place.source(mark)}))
            for (_, queue_id, facts), mark in zip(self._lines, [*marks, end], strict=True)
        ]

    def _content(self, queue_id: str, facts: list[Fact], source: dict[str, Any]) -> dict[str, Any]:
        return {
            "event": EVENT,
            "v": VERSION,
            "relay": self._relay,
            "queue_id": queue_id,
            "facts": facts,
            "source": source,
            "event_id": event_id.event_id(self._relay, queue_id, facts),
            "salt": record.new_salt(),
        }

    def clear(self) -> None:
        """They are on disk."""
        self._lines = []
        self._by_id = {}
        self._facts = 0
        self._octets = 0
