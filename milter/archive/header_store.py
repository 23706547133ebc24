"""A header section as one compact, lossless value.

Promises: `expand(compress(fields))` is `fields`, whatever octets they hold.  The first octet tells
the format, so that old values stay readable when a better format comes; a published dictionary is
never changed, only followed by another.

Raises: ValueError from `expand` for a value of unknown format or damaged content.

Does not: interpret fields (`derive` does).
"""

from __future__ import annotations

import functools
import json
import re
import zlib
from collections.abc import Sequence
from typing import Any

import orjson

from carbonseal.milter.archive.header_phrases import DICTIONARY_1

Field = tuple[str, str]  # name and value, lossless text as in the record

_FORMAT_1 = 1
# A window of 16 KiB reaches the whole dictionary and is copied in half the time of one of 32.
_LEVEL, _WINDOW, _MEMORY = 6, -14, 7
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode
# Copying a packer that has read the dictionary takes half the time of reading it again.
_PACKER = zlib.compressobj(level=_LEVEL, wbits=_WINDOW, memLevel=_MEMORY, zdict=DICTIONARY_1)


def compress(fields: Sequence[Sequence[str]]) -> bytes:
    """The stored form of header fields in order."""
    packer = _PACKER.copy()
    return b"%c%b%b" % (_FORMAT_1, packer.compress(_text(fields)), packer.flush())


def _text(fields: Sequence[Sequence[str]]) -> bytes:
    try:
        return orjson.dumps(fields)
    except TypeError:  # it knows no lone surrogates
        return _encode(fields).encode("utf-8", "surrogatepass")


def expand(stored: bytes) -> list[Field]:
    """The header fields in order.  Raises: ValueError."""
    return [(name, value) for name, value in _fields(_expanded(stored))]


def named(stored: bytes, names: frozenset[str]) -> list[Field]:
    """Those fields, in order, whose names hold one of `names` (lower case ASCII letters, hyphens).

    Misses none, and leaves to the caller whether a name is exactly one of them.  Nothing else is
    parsed.  Raises: ValueError.
    """
    found = _named(names).findall(_expanded(stored))
    return [(name, value) for name, value in _fields(b"[%b]" % b",".join(found))]


@functools.lru_cache(maxsize=16)
def _named(names: frozenset[str]) -> re.Pattern[bytes]:
    """Finds fields in stored text.

    Quotation marks inside of texts are escaped there, and a text ends before a comma or a bracket:
    so `["` and a letter begin a field, and nothing else looks like it.
    """
    some = "|".join(
        "".join(f"[{letter.upper()}{letter}]" if letter.isalpha() else letter for letter in name)
        for name in sorted(names)
    )
    text = r'[^"\\]*(?:\\.[^"\\]*)*"'
    # White space, as badly written names have it.
    before = r'[^"\\A-Za-z]*(?:\\(?:u[0-9a-f]{4}|[a-z])[^"\\A-Za-z]*)*'
    return re.compile(rf'\["{before}(?:{some}){text},"{text}\]'.encode("ascii"))


def _expanded(stored: bytes) -> bytes:
    if stored[:1] != b"%c" % _FORMAT_1:
        raise ValueError(f"stored header section of unknown format {stored[:1].hex()}")
    try:
        return zlib.decompressobj(wbits=-15, zdict=DICTIONARY_1).decompress(stored[1:])
    except zlib.error as fault:
        raise ValueError(f"stored header section is damaged: {fault}") from None


def _fields(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:  # it knows no lone surrogates
        return json.loads(text.decode("utf-8", "surrogatepass"))
