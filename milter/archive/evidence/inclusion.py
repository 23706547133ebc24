"""Proofs that one leaf is in a Merkle tree (RFC 9162, section 2.1.3).

Promises: `check` accepts a path from `Levels.path` for its leaf, place, size and root, and nothing
else; a path has at most 17 hashes for a segment of 100,000 lines (16 for 43,000: 512 octets).

Does not: know what a leaf says (`leaf` does).
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


class Levels:
    """A tree in memory: 64 octets a leaf and Python's overhead."""

    def __init__(self, leaves: Sequence[bytes]) -> None:
        self._levels = [list(leaves)]
        while len(self._levels[-1]) > 1:
            below = self._levels[-1]
            pairs = [_node(below[at], below[at + 1]) for at in range(0, len(below) - 1, 2)]
            # A last one without neighbour goes up as it is: this makes the same tree as the RFC's.
            self._levels.append(pairs + below[len(pairs) * 2 :])

    @property
    def root(self) -> bytes:
        """SHA-256 of nothing for an empty tree."""
        top = self._levels[-1]
        return top[0] if top else sha256(b"").digest()

    def path(self, place: int) -> list[bytes]:
        """The hashes beside the way from that leaf to the root, lowest first.

        Raises: IndexError for a place that is not in the tree.
        """
        if not 0 <= place < len(self._levels[0]):
            raise IndexError(place)
        found = []
        for level in self._levels[:-1]:
            neighbour = place ^ 1
            if neighbour < len(level):
                found.append(level[neighbour])
            place >>= 1
        return found


def check(leaf: bytes, place: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether `leaf` is at `place` of the tree of `size` leaves with that root."""
    if not 0 <= place < size:
        return False
    last, node = size - 1, leaf
    for neighbour in path:
        if last == 0:
            return False
        if place & 1 or place == last:
            node = _node(neighbour, node)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            node = _node(node, neighbour)
        place, last = place >> 1, last >> 1
    return last == 0 and node == root
