"""The journal export format (systemd's), as `journalctl --output=export` prints it.

An entry is lines NAME=VALUE, ended by an empty line; a value that is no plain text comes as NAME, a
line end, its length in 64 bits (little endian), the octets, and a line end.

Promises: lengths are obeyed, so that a value which looks like fields or like the end of an entry
stays a value.  What is not whole yet is left for later.  A field that occurs twice counts once, as
it came first.

Raises: TooLong for a value that no service of Postfix writes (any user may send one to journald),
BadExport for what the format does not allow.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Final

_NAME: Final = rb"[A-Z0-9_]{1,64}"
# Nearly every entry is text throughout; it ends with the first empty line.
_TEXT = re.compile(rb"(?:%b=[^\n]*\n)+\n" % _NAME)
_FIELD = re.compile(rb"(%b)=([^\n]*)\n" % _NAME)
_BINARY = re.compile(rb"(%b)\n(.{8})" % _NAME, re.DOTALL)
_PARTIAL = re.compile(rb"%b(?:=[^\n]*|\n.{0,7})?" % _NAME, re.DOTALL)
_CURSOR = re.compile(rb"\n*__CURSOR=([!-~]+)\n")
LONGEST: Final = 1 << 20  # octets of a value; Postfix writes 2,000

Fields = dict[bytes, bytes]


class BadExport(ValueError):
    """Octets that journalctl does not print."""


class TooLong(BadExport):
    """An entry with a value of more than `LONGEST` octets."""


def cursor(data: bytes) -> str | None:
    """The cursor of the entry that begins `data`, which is the first thing of an entry."""
    found = _CURSOR.match(data)
    return None if found is None else found[1].decode("ascii")


def entries(data: bytes) -> Iterator[tuple[Fields, int]]:
    """Each whole entry of `data`, and where the next one begins."""
    at = 0
    while at < len(data):
        if data.startswith(b"\n", at):  # between entries
            at += 1
            continue
        text = _TEXT.match(data, at)
        if text is not None:
            at = text.end()
            yield _plain(text[0]), at
            continue
        found = _mixed(data, at)
        if found is None:
            return
        at = found[1]
        yield found


def _plain(entry: bytes) -> Fields:
    fields: Fields = {}
    for line in entry.split(b"\n"):
        name, _, value = line.partition(b"=")
        fields.setdefault(name, value)
    return fields


def _mixed(data: bytes, at: int) -> tuple[Fields, int] | None:
    """An entry with values that are no text; None when it is not all there."""
    fields: Fields = {}
    while at < len(data):
        if data.startswith(b"\n", at):
            return fields, at + 1
        plain = _FIELD.match(data, at)
        if plain is not None:
            fields.setdefault(plain[1], plain[2])
            at = plain.end()
            continue
        binary = _BINARY.match(data, at)
        if binary is None:
            if _PARTIAL.fullmatch(data, at) is None:
                raise BadExport("it is no field")
            return None
        [length] = struct.unpack("<Q", binary[2])
        if length > LONGEST:
            raise TooLong(f"a value of {length} octets")
        end = binary.end() + length
        if len(data) <= end:
            return None
        if data[end : end + 1] != b"\n":
            raise BadExport("a value does not end where it should")
        fields.setdefault(binary[1], data[binary.end() : end])
        at = end + 1
    return None
