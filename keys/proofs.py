"""Signatures whose verification waits until there is time for it: while a disk writes, say.

To verify is a twelfth of what it takes to sign, and a relay waits for its disk anyway between the
signature and the answer.

Promises: `holds` says what the key says, whether `establish` came in time, for another message with
the same signature (two that are alike within a second), or not at all.  A fault while verifying is
a signature that does not hold.

Raises: nothing.

Does not: serve several threads; keep what is never asked about (it is forgotten sooner or later).
"""

from __future__ import annotations

import contextlib
from typing import Final, Protocol

DIGEST: Final = 32  # octets of an unproven signature before the signature itself
_MOST: Final = 8192  # left, or proven, and never asked about: those of connections that broke


class Key(Protocol):
    """What a signature is verified with: `keyring.SigningKey`."""

    def verifies(self, digest: bytes, signature: bytes) -> bool:
        """Whether the public half accepts this signature over this digest."""


class Proofs:
    """What is left to be verified, and what was."""

    __slots__ = ("_left", "_proven")

    def __init__(self) -> None:
        self._left: dict[bytes, Key] = {}
        self._proven: set[bytes] = set()

    def leave(self, unproven: bytes, key: Key) -> None:
        """Verify this later: a digest of 32 octets, and the signature over it."""
        if len(self._left) > _MOST:
            self._left.clear()
        self._left[unproven] = key

    def establish(self) -> None:
        """Verify all that is left."""
        left, self._left = self._left, {}
        if len(self._proven) > _MOST:
            self._proven.clear()
        for unproven, key in left.items():
            if _verifies(key, unproven):
                self._proven.add(unproven)

    def holds(self, unproven: bytes, key: Key) -> bool:
        """Whether this key accepts it."""
        if unproven in self._proven:
            self._proven.discard(unproven)
            return True
        # Not established yet, asked about by its twin before, or refuted, which bears repeating.
        self._left.pop(unproven, None)
        return _verifies(key, unproven)


def _verifies(key: Key, unproven: bytes) -> bool:
    # OpenSSL's errors have many classes, and none of them may stop the mail.
    with contextlib.suppress(Exception):
        return key.verifies(unproven[:DIGEST], unproven[DIGEST:])
    return False
