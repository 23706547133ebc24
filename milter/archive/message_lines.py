"""The lines that each message leaves, in the spool and in the log.

Promises: `RecordForm` writes what `record.encode` would write of the same facts, octet by octet,
from values in a fixed order; texts that come as octets are written as lossless text (see `record`),
reasons as their own `str`.  `log_line` gives one line of ASCII in which each value is the last word
of its key, quoted as JSON where it is not plain.  All of it is made by a small compiled helper, or
by its twin in plain Python where that could not be built.

Raises: TypeError for values that are not as many as the form has places.

Does not: know what the values mean (`milter.describe` does), or write to files.

Why two: in Python these lines cost each message 35 microseconds more in a loop, and twice that in
a worker that has just woken up and finds nothing of the encoders in the processor's caches.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from carbonseal.milter.archive import record
from carbonseal.policies.reason import Reason

try:
    from carbonseal.milter.archive import _message_lines as compiled
except ImportError:
    compiled = None  # type: ignore[assignment]

# What goes into a place of a form.
VALUE: Final = 0  # None, a truth, a number, a text, octets, or lists and dicts of these
REASON: Final = 1
REASONS: Final = 2
_EACH: Final = 3
_NOTHING: Final = 4  # the end

_PLAIN = re.compile(r"[!#-<>-\[\]-~]+")  # printable ASCII without space, quote, = and backslash


class RecordForm:
    """Records with the same keys."""

    def __init__(
        self, keys: Mapping[str, Any], *, is_compiled: bool = compiled is not None
    ) -> None:
        """`keys` maps each key to VALUE, REASON or REASONS, or to a dict of keys again.

        A list of one such dict stands for any number of objects, each given as a tuple of values.
        """
        self._keys = keys
        # The line, its end included, for values in the order of the keys.
        self.line: Callable[..., bytes] = self._plainly
        if is_compiled:
            *pieces, (fixed, *_) = _pieces(keys)
            # The checksum goes before the brace that ends the record.
            last = (fixed[:-1], _NOTHING, None)
            self.line = compiled.Form((*pieces, last), _CHECKSUM).record

    def _plainly(self, *values: object) -> bytes:
        return record.encode(_filled(self._keys, values))


def _filled(keys: Mapping[str, Any], values: Sequence[object]) -> dict[str, Any]:
    left = iter(values)
    try:
        content = _object(keys, left)
    except StopIteration:
        raise TypeError(f"{len(values)} values are too few") from None
    if next(left, left) is not left:
        raise TypeError(f"{len(values)} values are too many")
    return content


def _object(keys: Mapping[str, Any], values: Iterator[object]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, kind in keys.items():
        if isinstance(kind, Mapping):
            content[key] = _object(kind, values)
        else:
            value = next(values)
            content[key] = value if kind == VALUE else _placed(kind, value)
    return content


def _placed(kind: Any, value: Any) -> Any:
    if kind == REASON:
        return str(value)
    if kind == REASONS:
        return list(map(str, value))
    return [_filled(kind[0], one) for one in value]


_Piece = tuple[bytes, int, Any]  # what is fixed before a place, what goes there, the form of each


def _pieces(keys: Mapping[str, Any]) -> tuple[_Piece, ...]:
    pieces: list[_Piece] = []
    rest = _cut(keys, "", pieces)
    return (*pieces, (rest.encode(), _NOTHING, None))


def _cut(kind: Any, fixed: str, pieces: list[_Piece]) -> str:
    """Adds the pieces of what comes after `fixed`; returns what is fixed after the last of them."""
    if isinstance(kind, Mapping):
        for number, (key, inner) in enumerate(kind.items()):
            before = "," if number else "{"
            fixed = _cut(inner, f"{fixed}{before}{json.dumps(key)}:", pieces)
        return fixed + "}"
    if isinstance(kind, list):
        form = compiled.Form(_pieces(kind[0]), _CHECKSUM)
        pieces.append((fixed.encode(), _EACH, form))
    else:
        pieces.append((fixed.encode(), kind, None))
    return ""


# Where the processor cannot fold (see the helper), zlib is quicker than what it would do.
_CHECKSUM = None if compiled is not None and compiled.CAN_CHECK else zlib.crc32


def log_line_plainly(head: str, facts: Mapping[str, object], milliseconds: str) -> bytes:
    """One line of the log, its end included: the head as it is, then key=value.

    `facts` are texts, numbers and sequences of reasons; these are joined by commas, and a comma
    inside one, which comes from a stranger's address, must not look like the next: it is \\x2c.
    """
    words = [f"{key}={_word(value)}" for key, value in facts.items()]
    return " ".join([head, *words, f"ms={_word(milliseconds)}\n"]).encode("ascii")


def _word(value: object) -> str:
    text = joined(value) if isinstance(value, list | tuple) else str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def joined(reasons: Sequence[Reason]) -> str:
    """Reasons as one text."""
    return ",".join([str(reason).replace(",", "\\x2c") for reason in reasons])


def checksum_before_plainly(line: bytes, tail: int, /) -> int:
    """CRC-32 of a line but for its last `tail` octets."""
    return zlib.crc32(line[: max(len(line) - tail, 0)])


checksum_before: Callable[[bytes, int], int] = (
    checksum_before_plainly if _CHECKSUM is not None else compiled.checksum_before
)
log_line: Callable[[str, dict[str, object], str], bytes] = (
    log_line_plainly if compiled is None else compiled.log_line
)
