"""Edits: what we ask the MTA to change, as data until the edge applies them.

Promises: values only, in the order in which they are to be applied.
Does not: talk to the MTA (`session` does).
"""

from __future__ import annotations

from typing import NamedTuple

from carbonseal.milter.status.counters import NOTHING, Facts
from carbonseal.policies.disposition import Disposition
from carbonseal.policies.reason import Reason


# Tuples, here and below: each message makes new ones, and a frozen dataclass takes twice as long.
class InsertField(NamedTuple):
    """A header field at the very top, above the relay's own Received (smfi_insheader index 0)."""

    name: str
    value: str  # with its leading space and LF folding: we negotiate SMFIP_HDR_LEADSPC


class AddRecipient(NamedTuple):
    """An envelope recipient."""

    address: str
    # NEVER: a copy that cannot be delivered must not bounce to the author and tell of the archive;
    # Postfix gives milter recipients the default otherwise (cleanup.h, DEF_DSN_NOTIFY).
    parameters: str = "NOTIFY=NEVER"


Edit = InsertField | AddRecipient


class Verdict(NamedTuple):
    """The outcome of sealing one message."""

    edits: tuple[Edit, ...]
    disposition: Disposition
    reasons: tuple[Reason, ...]
    summary: dict[str, object]  # the canonical log line
    counted: Facts = NOTHING  # what is counted of it
    recorded: float = 0.0  # seconds that its record took, until it was durable
