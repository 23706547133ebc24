"""The body of one message on its way through: hashed and measured, never kept.

Promises: nothing depends on where the chunks end; memory is that of one chunk.

Does not: judge what was measured (`policies.survival` does).
"""

from __future__ import annotations

from carbonseal.keys.body_hash import BodyHash
from carbonseal.policies.survival import BodyFacts


class Body:
    """The body on its way through."""

    __slots__ = (
        "_bare",
        "_ends_in_cr",
        "_hash",
        "_open_line",
        "canonicalization",
        "is_eight_bit",
        "longest_line",
        "size",
    )

    def __init__(self, canonicalization: str) -> None:
        self.canonicalization = canonicalization
        self.size = 0
        self.longest_line = 0
        self.is_eight_bit = False
        self._open_line = 0  # octets of the line that the last chunk left unfinished
        self._bare = False  # a CR or LF that stands alone was seen
        self._ends_in_cr = False  # the last chunk did; the LF may be in the next one
        self._hash = BodyHash(canonicalization)

    def add(self, chunk: bytes) -> None:
        """One chunk; its borders mean nothing."""
        self._hash.update(chunk)
        self.size += len(chunk)
        if not self.is_eight_bit and not chunk.isascii():
            self.is_eight_bit = True
        self._look_for_bare_line_ends(chunk)
        lengths = [len(line) for line in chunk.split(b"\n")]
        lengths[0] += self._open_line
        self._open_line = lengths.pop()
        if lengths:
            # Each line still carries its CR here.
            self.longest_line = max(self.longest_line, max(lengths) - 1)

    def _look_for_bare_line_ends(self, chunk: bytes) -> None:
        if self._bare or not chunk:
            return
        pairs = chunk.count(b"\r\n")
        line_feeds = chunk.count(b"\n")
        returns = chunk.count(b"\r")
        if self._ends_in_cr:
            # Its LF opens this chunk, or it stands alone.
            returns += 1
            pairs += chunk[0] == 0x0A
        self._ends_in_cr = chunk[-1] == 0x0D
        self._bare = not pairs == line_feeds == returns - self._ends_in_cr

    def facts(self) -> BodyFacts:
        """What was measured so far."""
        longest = max(self.longest_line, self._open_line)
        bare = self._bare or self._ends_in_cr
        return BodyFacts(self.size, longest, self.is_eight_bit, bare)

    def digest(self) -> bytes:
        """SHA-256 of the canonical body (RFC 6376, section 3.4)."""
        return self._hash.digest()
