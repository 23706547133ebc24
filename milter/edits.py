"""Edits: what is done with a message, and what we ask the MTA to change for it.

Promises: values only, in the order in which they are to be applied.

Raises: ValueError from `packed` for a text that the MTA would read cut (see `packets`).

Does not: talk to the MTA (`session` does).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from carbonseal.keys.signer import FIELD_NAME, Signature
from carbonseal.milter import packets
from carbonseal.policies.disposition import Answer

try:
    from carbonseal.milter import _edits as compiled
except ImportError:
    compiled = None  # type: ignore[assignment]

# A copy that cannot be delivered must not bounce to the author and tell of the archive; Postfix
# gives milter recipients the default otherwise (cleanup.h, DEF_DSN_NOTIFY).
_SILENT: Final = "NOTIFY=NEVER"


# Tuples, here and below: each message makes new ones, and a frozen dataclass takes twice as long.
class Deeds(NamedTuple):
    """What is done with a message, or would be: with one that is not accepted, nothing."""

    signatures: tuple[Signature, ...]
    copies: tuple[str, ...]
    answer: Answer


NOTHING: Final = Deeds((), (), Answer.ACCEPT)


class InsertField(NamedTuple):
    """A header field at the very top, above the relay's own Received (smfi_insheader index 0)."""

    name: str
    value: str  # with its leading space and LF folding: we negotiate SMFIP_HDR_LEADSPC


class AddRecipient(NamedTuple):
    """An envelope recipient."""

    address: str
    parameters: str = _SILENT


Edit = InsertField | AddRecipient


def asked(done: Deeds) -> tuple[Edit, ...]:
    """What the MTA is asked for."""
    # Inserted at the top one by one, so the last one inserted is the topmost: RSA, which every
    # verifier knows, is to be read first.
    return (
        *[InsertField(FIELD_NAME, one.field_value) for one in reversed(done.signatures)],
        *map(AddRecipient, done.copies),
    )


def packed_plainly(done: Deeds) -> bytes:
    """The same as packets, and behind them that the message is accepted."""
    said = [
        packets.inserted_field(*edit, 0)
        if isinstance(edit, InsertField)
        else packets.added_recipient(f"<{edit.address}>", edit.parameters)
        for edit in asked(done)
    ]
    return b"".join([*said, packets.answer(packets.CONTINUE, None)])


packed: Callable[[Deeds], bytes] = packed_plainly if compiled is None else compiled.packed
