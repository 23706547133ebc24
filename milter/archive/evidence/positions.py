"""Sets of places in a segment as compressed bits: what tombstone.positions holds.

Promises: `unpack(pack(places))` is the set of places; a run of half a million costs some hundred
octets.

Raises: ValueError from `unpack` for what `pack` did not make, and for more than a segment can have.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

# A segment is closed at 64 MiB, and no line is shorter than some 40 octets.
MOST = 1 << 24


def pack(places: Iterable[int]) -> bytes:
    """Bit p of octet p >> 3 (the lowest bit first) is set for each place p; then zlib."""
    ordered = sorted(places)
    bits = bytearray((ordered[-1] >> 3) + 1 if ordered else 0)
    for place in ordered:
        bits[place >> 3] |= 1 << (place & 7)
    return zlib.compress(bytes(bits), 9)


def unpack(packed: bytes) -> set[int]:
    """The places.  Raises: ValueError."""
    try:
        stream = zlib.decompressobj()
        bits = stream.decompress(packed, MOST >> 3)
    except zlib.error as fault:
        raise ValueError(f"places that cannot be read: {fault}") from None
    if not stream.eof:
        raise ValueError("places that cannot be read: cut short, or too many")
    return {
        (number << 3) + bit
        for number, octet in enumerate(bits)
        if octet
        for bit in range(8)
        if octet >> bit & 1
    }
