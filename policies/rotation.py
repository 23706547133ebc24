"""What is due in the life of a key, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Rules:
    """The section `rotation` of the configuration; all times in seconds."""

    lifetime: int = 180 * 86400  # a key signs so long
    lead: int = 14 * 86400  # its successor is begun so long before
    standby: bool = False  # keep one more key ready, for an emergency
    safety: int = 600  # added to waits for DNS: anycast hides servers from us
    downstream_queue: int = 5 * 86400  # other people's queues, RFC 5321 section 4.5.4.1
    verifier_slack: int = 4 * 86400  # who verifies late, perhaps when the message is read
    queue_lifetime: int = 5 * 86400  # our own queue at least; the relays' own word if longer
    revoke: Literal["empty", "remove", "keep"] = "empty"
    keep_revoked: int = 30 * 86400  # an empty p= stands so long
    fresh: int = 3600  # an observation older than this is made again
