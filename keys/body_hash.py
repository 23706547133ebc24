"""The body hash of a signature (bh=), computed while the body streams by.

Promises: for any division of the body into chunks, `digest` is SHA-256 over the canonical form of
RFC 6376 section 3.4.3 (simple) or 3.4.4 (relaxed), and `facts` are those of the body as it came.
Time is linear in the octets seen, memory is that of a few chunks.

It is compiled (`_body_hash.c`), or plain Python where that could not be built; both give the same.
Why two: a megabyte costs SHA-256 0.7 ms here.  Plain Python adds 4 ms on text and 13 to 17 on white
space, which anybody can send; compiled it is 0.2 and 0.1 to 0.6.  A compiler is needed anyway, for
pymilter.

See also: `canonical_body` for the rules, `signer`, which puts the digest into the signature.
"""

from __future__ import annotations

import hashlib
from typing import Final

from carbonseal.keys.canonical_body import CanonicalBody
from carbonseal.policies.survival import BodyFacts

__all__ = ("IMPLEMENTATION", "IMPLEMENTATIONS", "BodyHash")

_EMPTY = hashlib.sha256()  # to be copied: OpenSSL looks its algorithm up for each that is made anew


class PlainBodyHash:
    """SHA-256 of one message body under one canonicalization ('relaxed' or 'simple')."""

    __slots__ = ("_body", "_digest", "_facts", "_hash", "canonicalization")

    def __init__(self, canonicalization: str, /) -> None:
        if canonicalization not in ("relaxed", "simple"):
            raise ValueError(f"no canonicalization: {canonicalization!r}")
        self.canonicalization = canonicalization
        self._body = CanonicalBody(relaxed=canonicalization == "relaxed")
        self._hash = _EMPTY.copy()
        # Of what was taken so far, when it was asked.
        self._digest = b""
        self._facts: BodyFacts | None = None

    def update(self, chunk: bytes, /) -> None:
        """Take the next octets of the body; where they end means nothing."""
        self._digest = b""
        self._facts = None
        self._body.take(chunk, self._hash.update)

    def update_part(self, octets: bytes, begin: int, end: int, /) -> None:
        """Take these of the octets.  Raises: ValueError where they are none of them."""
        if not 0 <= begin <= end <= len(octets):
            raise ValueError("not a part of the octets")
        self.update(octets[begin:end])

    def digest(self) -> bytes:
        """The 32 octets of the hash over what was taken so far; more may follow."""
        if not self._digest:
            whole = self._hash.copy()
            self._body.finish(whole.update)
            self._digest = whole.digest()
        return self._digest

    def plain_digest(self, limit: int, /) -> bytes | None:
        """`digest` of 7-bit lines of `limit` octets at most, all CR and LF in pairs.

        None for any other body: one look at it, where it is nearly always this one.
        """
        _, longest_line, is_eight_bit, has_bare_line_ends = self.facts()
        is_plain = longest_line <= limit and not is_eight_bit and not has_bare_line_ends
        return self.digest() if is_plain else None

    @property
    def size(self) -> int:
        """Octets so far."""
        return self.facts().size

    def facts(self) -> BodyFacts:
        """What was measured so far."""
        if self._facts is None:
            self._facts = BodyFacts(*self._body.facts())
        return self._facts


# By name, the one to use last.
IMPLEMENTATIONS: dict[str, type[BodyHash] | type[PlainBodyHash]] = {"python": PlainBodyHash}
try:
    from carbonseal.keys._body_hash import BodyHash
except ImportError:
    BodyHash = PlainBodyHash  # type: ignore[misc,assignment]
else:
    IMPLEMENTATIONS["compiled"] = BodyHash
IMPLEMENTATION: Final = list(IMPLEMENTATIONS)[-1]
