"""A header section as one compact, lossless value.

Promises: `expand(compress(fields))` is `fields`, whatever octets they hold.  The first octet tells
the format, so that old values stay readable when a better format comes; a published dictionary is
never changed, only followed by another.  Format 1 is zlib with the dictionary that comes with the
program.  Format 2 is zstd with a dictionary of the archive's own (`header_learning` makes it), of
which four octets of its SHA-256 follow the format; then comes the frame without its magic number.

Raises: ValueError from `expand` for a value of unknown format, damaged content, or a dictionary
that no archive has that was opened.

Does not: interpret fields (`derive` does), or ask archives (`header_dictionaries` does).
"""

from __future__ import annotations

import functools
import json
import re
import threading
import zlib
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

import orjson
import zstandard

from carbonseal.milter.archive.header_phrases import DICTIONARY_1

Field = tuple[str, str]  # name and value, lossless text as in the record

_FORMAT_1, _FORMAT_2 = 1, 2
# A window of 16 KiB reaches the whole dictionary and is copied in half the time of one of 32.
_LEVEL, _WINDOW, _MEMORY = 6, -14, 7
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode
# Copying a packer that has read the dictionary takes half the time of reading it again.
_PACKER = zlib.compressobj(level=_LEVEL, wbits=_WINDOW, memLevel=_MEMORY, zdict=DICTIONARY_1)
# Of the generator's mail in octets and microseconds: 9 gives 566 in 56, 6 gives 574 in 46, 5 gives
# 623 in 28; zlib gives 631 in 65.
ZSTD_LEVEL = 6
_ID = 4  # octets of the digest by which a dictionary is known
_MAGIC = zstandard.FRAME_HEADER
_FOUR_OCTETS = b"\x80"  # a descriptor from here on announces as many, or eight, for the size
_MOST = 1 << 28  # octets; no header section that a relay took is as large

_dictionaries: dict[bytes, zstandard.ZstdCompressionDict] = {}
_readers = threading.local()  # one of zstd serves one thread


# Called with the id of a dictionary that is not known yet, to have it known.
_asked: list[Callable[[bytes], None]] = []


def compress(fields: Sequence[Sequence[str]]) -> bytes:
    """The stored form of header fields in order."""
    return compress_text(text(fields))


def compress_text(made: bytes) -> bytes:
    """The stored form of a header section whose `text` is at hand."""
    packer = _PACKER.copy()
    return b"%c%b%b" % (_FORMAT_1, packer.compress(made), packer.flush())


def compress_texts(made: Sequence[bytes]) -> list[bytes]:
    """The stored forms of many."""
    return [compress_text(one) for one in made]


class Packer:
    """Stores header sections with a dictionary of the archive's own; for one thread."""

    def __init__(self, content: bytes) -> None:
        known = zstandard.ZstdCompressionDict(content)
        known.precompute_compress(level=ZSTD_LEVEL)
        self._before = b"%c%b" % (_FORMAT_2, know(content))
        self._zstd = zstandard.ZstdCompressor(
            level=ZSTD_LEVEL, dict_data=known, write_dict_id=False, write_checksum=False
        )

    def compress(self, fields: Sequence[Sequence[str]]) -> bytes:
        """The stored form of header fields in order."""
        return self.compress_text(text(fields))

    def compress_text(self, made: bytes) -> bytes:
        """The stored form of a header section whose `text` is at hand."""
        return self._before + self._zstd.compress(made)[len(_MAGIC) :]

    def compress_texts(self, made: Sequence[bytes]) -> list[bytes]:
        """The stored forms of many, for half the time: the dictionary stays in the cache."""
        at_once = getattr(self._zstd, "multi_compress_to_buffer", None)
        if at_once is None or not made:  # not every build of the library has it
            return [self.compress_text(one) for one in made]
        before, start = self._before, len(_MAGIC)
        return [before + frame.tobytes()[start:] for frame in at_once(list(made))]


def know(content: bytes) -> bytes:
    """Have `expand` know a dictionary; returns its id."""
    identifier = dictionary_id(content)
    if identifier not in _dictionaries:
        _dictionaries[identifier] = zstandard.ZstdCompressionDict(content)
    return identifier


def dictionary_id(content: bytes) -> bytes:
    """By which stored values name a dictionary."""
    return sha256(content).digest()[:_ID]


def ask_for_unknown(asked: Callable[[bytes], None]) -> None:
    """Whom `expand` calls with the id of a dictionary that it does not know, to call `know`."""
    _asked[:] = [asked]


def text(fields: Sequence[Sequence[str]]) -> bytes:
    """Header fields in order as they are before they are compressed: JSON in UTF-8."""
    try:
        return orjson.dumps(fields)
    except TypeError:  # it knows no lone surrogates
        return _encode(fields).encode("utf-8", "surrogatepass")


def expand(stored: bytes) -> list[Field]:
    """The header fields in order.  Raises: ValueError."""
    return [(name, value) for name, value in parsed(_expanded(stored))]


def named(stored: bytes, names: frozenset[str]) -> list[Field]:
    """Those fields, in order, whose names hold one of `names` (lower case ASCII letters, hyphens).

    Misses none, and leaves to the caller whether a name is exactly one of them.  Nothing else is
    parsed.  Raises: ValueError.
    """
    found = _named(names).findall(_expanded(stored))
    return [(name, value) for name, value in parsed(b"[%b]" % b",".join(found))]


def first(stored: bytes, name: str) -> str | None:
    """The value of the first field of that name (lower case ASCII letters, hyphens).

    Nothing behind it is parsed.  Raises: ValueError.
    """
    pattern, usual = _first(name)
    for found in pattern.finditer(_expanded(stored)):
        octets = found[0]
        if octets.startswith(usual):  # its value is from the last octet of that to the bracket
            return str(parsed(octets[len(usual) - 1 : -1]))
        written, value = parsed(octets)
        if written.strip().lower() == name:
            return str(value)
    return None


@functools.lru_cache(maxsize=16)
def _first(name: str) -> tuple[re.Pattern[bytes], bytes]:
    """What finds fields of that name, and how one begins that is written as usual."""
    return _named(frozenset((name,))), b'["%b","' % name.title().encode("ascii")


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
    try:
        if stored[:1] == b"%c" % _FORMAT_2:
            return _with_own_dictionary(stored)
        if stored[:1] == b"%c" % _FORMAT_1:
            return zlib.decompressobj(wbits=-15, zdict=DICTIONARY_1).decompress(stored[1:])
    except (zlib.error, zstandard.ZstdError) as fault:
        raise ValueError(f"stored header section is damaged: {fault}") from None
    raise ValueError(f"stored header section of unknown format {stored[:1].hex()}")


def _with_own_dictionary(stored: bytes) -> bytes:
    frame = _MAGIC + stored[1 + _ID :]
    # Two octets of the frame can say no more than 65,791 (RFC 8878, section 3.1.1.1).
    is_short = stored[1 + _ID : 2 + _ID] < _FOUR_OCTETS
    if not is_short and zstandard.get_frame_parameters(frame).content_size > _MOST:
        raise ValueError("stored header section is damaged: it says to be too large")
    return _reader(bytes(stored[1 : 1 + _ID])).decompress(frame)


def _reader(identifier: bytes) -> zstandard.ZstdDecompressor:
    known: dict[str, zstandard.ZstdDecompressor] = _readers.__dict__
    found = known.get(identifier.hex())
    if found is None:
        if identifier not in _dictionaries:
            for ask in _asked:
                ask(identifier)
        content = _dictionaries.get(identifier)
        if content is None:
            raise ValueError(
                f"stored header section needs the dictionary {identifier.hex()}, which no archive "
                "has that was opened"
            )
        found = known[identifier.hex()] = zstandard.ZstdDecompressor(dict_data=content)
    return found


def parsed(text: bytes) -> Any:
    """The header fields of which `text` made this: lists of name and value."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:  # it knows no lone surrogates
        return json.loads(text.decode("utf-8", "surrogatepass"))
