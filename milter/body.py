"""The body of one message on its way through: hashed and measured, never kept.

Promises: nothing depends on where the chunks end; memory is that of a few chunks.

Does not: judge what was measured (`policies.survival` does).
"""

from __future__ import annotations

from carbonseal.keys.body_hash import BodyHash
from carbonseal.policies.survival import BodyFacts


class Body:
    """The body on its way through."""

    __slots__ = ("_facts", "_hash", "canonicalization")

    def __init__(self, canonicalization: str) -> None:
        self.canonicalization = canonicalization
        self._hash = BodyHash(canonicalization)
        self._facts: BodyFacts | None = None  # of what was taken so far, when it was asked

    def add(self, chunk: bytes) -> None:
        """One chunk; its borders mean nothing."""
        self._facts = None
        self._hash.update(chunk)

    @property
    def size(self) -> int:
        """Octets so far."""
        return self.facts().size

    def facts(self) -> BodyFacts:
        """What was measured so far."""
        facts = self._facts
        if facts is None:
            facts = self._facts = BodyFacts(*self._hash.facts())
        return facts

    def digest(self) -> bytes:
        """SHA-256 of the canonical body (RFC 6376, section 3.4)."""
        return self._hash.digest()
