"""The record of one sealed message: one checksummed JSON line.

Promises: `encode` gives one line of ASCII JSON that ends in a CRC-32 of everything before it, and
`parse` gives back exactly what went in.  Text is UTF-8 decoded with `surrogateescape`, so octets
that were no UTF-8 survive as lone surrogates and come back byte for byte.  The line is the unit of
durability (spool) and of evidence (Merkle leaf).

Raises: `BadLine` from `parse` when the checksum does not fit or the line is no record.

Does not: write files (`spool` does), know SQL, or interpret header fields: what can be derived from
them later (decoded Subject, addresses, date) is derived by the writer, away from the mail path.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson

try:
    from carbonseal.milter.archive import _message_lines as compiled
except ImportError:
    compiled = None  # type: ignore[assignment]

VERSION = 2
TORN_MARK = b"~"  # ends a line whose write was cut short; no record ends so

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
# Ten bits at a time halves the work.
_PAIRS = tuple(high + low for high in _CROCKFORD for low in _CROCKFORD)
_SHIFTS = range(120, -1, -10)
_RANDOM = 10  # octets of an id
_SALT = 16
_IDENTITY = _RANDOM + _SALT
_IDENTITIES = struct.Struct(f"{_IDENTITY}s" * 150)  # a page of randomness
_SEAL = b',"crc32":"'
_TAIL = len(_SEAL) + 8 + 2  # the checksum and the closing quote and brace
_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_LONG_NUMBER = b"0" * 19


def _lossless(octets: object) -> str:
    if not isinstance(octets, bytes):
        raise TypeError(f"no value of a record: {type(octets).__name__}")
    return octets.decode("utf-8", "surrogateescape")


_compact = json.JSONEncoder(
    ensure_ascii=True, separators=(",", ":"), check_circular=False, default=_lossless
).encode


class BadLine(ValueError):
    """A spool line that is no intact record; `torn` when its write was cut short."""

    def __init__(self, why: str, *, torn: bool) -> None:
        super().__init__(why)
        self.torn = torn


def new_record_id(milliseconds: int) -> str:
    """A ULID: 48 bits of Unix time in milliseconds, 80 bits of randomness, 26 characters.

    Made by the milter and not by the database, so that a repeated load cannot double a record.
    """
    return record_id(milliseconds, os.urandom(_RANDOM))


def new_identity(milliseconds: int) -> tuple[str, str]:
    """The id of a new record, and its salt: what hides the record's parts behind their evidence.

    From the kernel's generator: who could guess the salt could try out names after a person was
    erased.
    """
    try:
        octets = _unused.pop()
    except IndexError:
        octets = _replenished()
    return identity(milliseconds, octets)


# Randomness for identities, each piece taken out by one thread only.  The kernel is asked for many
# at once: each time costs a system call, and the interpreter lock, which another thread may keep.
_unused: list[bytes] = []
os.register_at_fork(after_in_child=_unused.clear)  # two processes must not use the same


def _replenished() -> bytes:
    """A piece, and more for those who come after."""
    pieces: tuple[bytes, ...] = _IDENTITIES.unpack(os.urandom(_IDENTITIES.size))
    _unused.extend(pieces[1:])
    return pieces[0]


def new_salt() -> str:
    """128 random bits in hexadecimal, as `new_identity` gives them."""
    return os.urandom(_SALT).hex()


def record_id_plainly(milliseconds: int, randomness: bytes) -> str:
    """The ULID of that time and these ten octets."""
    value = (milliseconds << 80) | int.from_bytes(randomness)
    return "".join([_PAIRS[(value >> shift) & 0x3FF] for shift in _SHIFTS])


record_id = record_id_plainly if compiled is None else compiled.record_id


def identity_plainly(milliseconds: int, randomness: bytes) -> tuple[str, str]:
    """Id and salt of that time and these octets."""
    return record_id(milliseconds, randomness[:_RANDOM]), randomness[_RANDOM:].hex()


identity = identity_plainly if compiled is None else compiled.identity


def timestamp(seconds: float) -> str:
    """Unix time as RFC 3339 text in UTC with microseconds, as records carry it."""
    whole = int(seconds)
    return f"{_second(whole)}.{int((seconds - whole) * 1_000_000):06d}Z"


@lru_cache(maxsize=4)  # thousands of messages share a second
def _second(whole: int) -> str:
    return datetime.fromtimestamp(whole, UTC).isoformat()[:19]


def encode(content: Mapping[str, Any]) -> bytes:
    """The line for `content`, newline included."""
    body = ascii_json(content)[:-1]
    return b'%b,"crc32":"%08x"}\n' % (body, zlib.crc32(body))


def ascii_json(content: Any) -> bytes:
    """Compact JSON in ASCII, exact for lossless text: what is no ASCII stands as escapes.

    Octets are written as the lossless text they are.
    """
    # orjson takes 1.4 microseconds for a usual record where json takes 14, on every message.  It
    # writes UTF-8 and knows no lone surrogates; where either shows, json writes its escapes.
    try:
        line = orjson.dumps(content, default=_lossless)
    except TypeError:
        return _compact(content).encode("ascii")
    return line if line.isascii() else _compact(content).encode("ascii")


def parse(line: bytes) -> dict[str, Any]:
    """The content of one line (with or without its newline), checksum verified and removed.

    Raises: BadLine.
    """
    line = line.rstrip(b"\n")
    body, seal = line[:-_TAIL], line[-_TAIL:]
    if not (seal.startswith(_SEAL) and seal.endswith(b'"}')):
        # Only what the spool has marked was never acknowledged: anything else may be evidence.
        raise BadLine("the line has no checksum at its end", torn=line.endswith(TORN_MARK))
    if seal[len(_SEAL) : -2] != b"%08x" % zlib.crc32(body):
        raise BadLine("the checksum does not fit the line", torn=False)
    content = _loaded(body + b"}")
    if not isinstance(content, dict):
        raise BadLine("the line is no JSON object", torn=False)
    return content


def is_event(content: Mapping[str, Any]) -> bool:
    """Whether an intact line is an event (what became of a message), and so no record."""
    return "event" in content


def _loaded(text: bytes) -> Any:
    if _LONG_NUMBER not in text.translate(_ZEROS):  # orjson rounds what 64 bits cannot hold
        try:
            return orjson.loads(text)
        except ValueError:
            pass  # a lone surrogate, or no JSON at all
    try:
        return json.loads(text)
    except RecursionError:
        raise BadLine("the line is nested too deeply", torn=False) from None
