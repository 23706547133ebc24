"""The id of an event line: made from what it says, so that a log read twice gives the same ids.

A ULID: its time is that of the first fact, and its other 80 bits are the first of SHA-256 over the
canonical JSON of relay, queue id and facts.

Raises: ValueError where the first fact has no time.

Does not: need anything but the line (the follower makes ids without SQL).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from carbonseal.milter.archive import terms
from carbonseal.milter.archive.evidence import leaf

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def event_id(relay: str, queue_id: str, facts: Sequence[Mapping[str, Any]]) -> str:
    """The id of the event line that says these facts."""
    milliseconds = _milliseconds(facts[0].get("at") if facts else None)
    said = leaf.canonical([relay, queue_id, list(facts)])
    return terms.unpack_record_id(milliseconds.to_bytes(6, "big") + sha256(said).digest()[:10])


def _milliseconds(at: Any) -> int:
    if not isinstance(at, str):
        raise ValueError("its first fact has no time")
    moment = datetime.fromisoformat(at)
    if moment.tzinfo is None or moment < _EPOCH:
        raise ValueError(f"{at!r} is no time of a fact")
    return (moment - _EPOCH) // timedelta(milliseconds=1)
