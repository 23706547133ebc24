"""A Merkle root that grows line by line (the tree hash of RFC 9162, section 2.1.1).

Promises: `Tree.root()` after n `add`s equals the RFC's hash over those n leaves, with O(log n)
memory.  Leaves and nodes are hashed with different prefixes, so neither can be passed off as the
other.

A compiled helper makes a root over many lines at once; `root_by_python` is its twin, which runs
where the helper is missing.

Does not: make proofs or sign anything.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

COMPILED: Callable[[bytes, int], bytes] | None = None  # None where it could not be built
try:
    from carbonseal.milter.archive import _spool_line
except ImportError:
    pass
else:
    COMPILED = _spool_line.root

# hashlib gives up the interpreter lock for more than 2,047 octets, and between the threads of a
# worker getting it back costs more than hashing a record.
_PIECE = 2046
_LEAF = 32  # octets


def leaf_hash(line: bytes) -> bytes:
    """The leaf of one spool line, its newline included."""
    leaf = sha256(b"\x00")
    for start in range(0, len(line), _PIECE):
        leaf.update(line[start : start + _PIECE])
    return leaf.digest()


def quick_leaf_hash(line: bytes) -> bytes:
    """The same in one piece, for a process without other threads."""
    return sha256(b"\x00" + line).digest()


def _node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def root(lines: bytes, size: int) -> bytes:
    """The root over lines of `size` octets each that follow one another; 0: they are leaves."""
    return root_by_python(lines, size) if COMPILED is None else COMPILED(lines, size)


def root_by_python(lines: bytes, size: int) -> bytes:
    """The same without the helper.  Raises: ValueError where the last line is not whole."""
    each = size or _LEAF
    if len(lines) % each:
        raise ValueError(f"{len(lines)} octets are no lines of {each}")
    found = [lines[start : start + each] for start in range(0, len(lines), each)]
    return _root_of([quick_leaf_hash(one) for one in found] if size else found)


def _root_of(leaves: list[bytes]) -> bytes:
    """The root over leaves that are all at hand: that of a `Tree` in a third of the time."""
    if not leaves:
        return sha256(b"").digest()
    level = leaves
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=False)
        above = [sha256(b"\x01" + left + right).digest() for left, right in pairs]
        if len(level) % 2:
            above.append(level[-1])
        level = above
    return level[0]


class Tree:
    """The right edge of a growing Merkle tree."""

    def __init__(self) -> None:
        self.leaves = 0
        # Roots of the perfect subtrees, largest first; their sizes are the bits set in `leaves`.
        self._edge: list[bytes] = []

    def add(self, line: bytes) -> None:
        """Append the leaf of `line`."""
        self.add_leaf(leaf_hash(line))

    def add_leaf(self, leaf: bytes) -> None:
        """Append a leaf that was hashed before."""
        node = leaf
        count = self.leaves
        while count & 1:
            node = _node_hash(self._edge.pop(), node)
            count >>= 1
        self._edge.append(node)
        self.leaves += 1

    def root(self) -> bytes:
        """The root over all leaves so far; SHA-256 of nothing for an empty tree."""
        if not self._edge:
            return sha256(b"").digest()
        *rest, node = self._edge
        for left in reversed(rest):
            node = _node_hash(left, node)
        return node
