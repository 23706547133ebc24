"""The lines that each message leaves, in the spool and in the log.

Promises: `RecordForm` writes what `record.encode` would write of the same facts, octet by octet;
texts that come as octets are written as lossless text (see `record`), reasons as their own `str`.
`WordForm` and `log_line` give one line of ASCII in which each value is the last word of its key,
quoted as JSON where it is not plain.  Each takes the values out of one object, by the paths that it
was made with.  All of it is done by a small compiled helper, or by its twin in plain Python where
that could not be built.

Raises: TypeError for a value that has no place there, ValueError for lists side by side that are
not of one length, and whatever a path comes upon.

Does not: know what the values mean (`milter.describe` does), or write to files.

Why two: in Python these lines cost each message 35 microseconds more in a loop, and twice that in
a worker that has just woken up and finds nothing of the encoders in the processor's caches.
"""

from __future__ import annotations

import json
import logging
import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from carbonseal.milter.archive import record

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
COUNT: Final = 5  # how many there are
MOMENT: Final = 6  # Unix time in seconds, said as `record.timestamp` says it

_PLAIN = re.compile(r"[!#-<>-\[\]-~]+")  # printable ASCII without space, quote, = and backslash

Path = tuple[Any, ...]  # the number of the object where it begins, and descriptors


class Place(NamedTuple):
    """Where in a form what is to be found by which path."""

    kind: int
    paths: tuple[Path, ...]
    each: Mapping[str, Any] | None = None  # the keys of each object of a list


def of(*descriptors: Any, kind: int = VALUE, beside: int = 0) -> Place:
    """What is found by asking one after the other.

    They are what a class has under a name: `Transaction.client`, then `Client.address`.  `beside`
    is 1 for what is taken from the second of two lists side by side.
    """
    return Place(kind, ((beside, *descriptors),))


def each(keys: Mapping[str, Any], *lists: Place) -> Place:
    """An object with these keys for each element of a list, or of two lists side by side."""
    return Place(_EACH, tuple(one.paths[0] for one in lists), keys)


def texts(several: Place, *descriptors: Any) -> Place:
    """For a log line: what is found in each element of a list, joined by commas."""
    return each({"": of(*descriptors)}, several)


class RecordForm:
    """Records with the same keys."""

    def __init__(
        self, keys: Mapping[str, Any], *, is_compiled: bool = compiled is not None
    ) -> None:
        """`keys` maps each key to a place, a dict of keys again, or a fixed number or word."""
        self._keys = keys
        # The line, its end included, of what is taken from an object.
        self.line: Callable[[object], bytes] = self._plainly
        if is_compiled:
            *pieces, (fixed, *_) = _pieces(keys)
            # The checksum goes before the brace that ends the record.
            self.line = compiled.Form((*pieces, _end(fixed[:-1])), _CHECKSUM).record

    def _plainly(self, root: object) -> bytes:
        return record.encode(_object(self._keys, (root,)))


def _object(keys: Mapping[str, Any], roots: tuple[object, ...]) -> dict[str, Any]:
    return {
        key: _object(place, roots) if isinstance(place, Mapping) else _placed(place, roots)
        for key, place in keys.items()
    }


def _placed(place: Any, roots: tuple[object, ...]) -> Any:
    if not isinstance(place, Place):
        return place
    values = _values(place, roots)
    if place.kind == _EACH:
        assert place.each is not None
        return [_object(place.each, beside) for beside in zip(*values, strict=True)]
    [value] = values
    if place.kind == REASON:
        return str(value)
    if place.kind == REASONS:
        return list(map(str, value))
    if place.kind == COUNT:
        return len(value)
    if place.kind == MOMENT:
        return record.timestamp(value)
    if place.kind != VALUE:
        raise TypeError("no place of a record")
    return value


def _values(place: Place, roots: tuple[object, ...]) -> list[Any]:
    found = []
    for beside, *descriptors in place.paths:
        value: Any = roots[beside]
        for one in descriptors:
            value = one.__get__(value)
        found.append(value)
    return found


# What is fixed before a place, what goes there, by which paths, and the form of each element.
_Piece = tuple[bytes, int, tuple[Path, ...], Any]


def _end(fixed: bytes) -> _Piece:
    return fixed, _NOTHING, (), None


def _pieces(keys: Mapping[str, Any]) -> tuple[_Piece, ...]:
    pieces: list[_Piece] = []
    rest = _cut(keys, "", pieces)
    return (*pieces, _end(rest.encode()))


def _cut(place: Any, fixed: str, pieces: list[_Piece]) -> str:
    """Adds the pieces of what comes after `fixed`; returns what is fixed after the last of them."""
    if isinstance(place, Mapping):
        for number, (key, inner) in enumerate(place.items()):
            before = "," if number else "{"
            fixed = _cut(inner, f"{fixed}{before}{json.dumps(key)}:", pieces)
        return fixed + "}"
    if not isinstance(place, Place):
        return fixed + record.ascii_json(place).decode("ascii")
    form = None if place.each is None else compiled.Form(_pieces(place.each), _CHECKSUM)
    pieces.append((fixed.encode(), place.kind, place.paths, form))
    return ""


class WordForm:
    """Log lines with the same keys, but for when it was and how long it took."""

    def __init__(
        self,
        name: str,
        level: str,
        keys: Mapping[str, Place],
        *,
        is_compiled: bool = compiled is not None,
    ) -> None:
        """`name` and `level` are those of the line, words without spaces."""
        self.level = level
        self.name = name
        self.severity: int = logging.getLevelName(level.upper())
        self._keys = keys
        # Level, name, and key=value for each key, of what is taken from an object.
        self.words: Callable[[object], bytes] = self._plainly
        if is_compiled:
            pieces: list[_Piece] = []
            fixed = f" {level} {name}"
            for key, place in keys.items():
                _cut(place, f"{fixed} {key}=", pieces)
                fixed = ""
            self.words = compiled.Form((*pieces, _end(fixed.encode())), _CHECKSUM).words

    def facts(self, root: object) -> dict[str, object]:
        """The values by their keys, as texts and numbers.

        Reasons and texts are joined by commas; a comma inside a reason, which comes from a
        stranger's address, must not look like the next one: it is \\x2c.
        """
        return {key: _fact(place, (root,)) for key, place in self._keys.items()}

    def _plainly(self, root: object) -> bytes:
        words = [f"{key}={_word(value)}" for key, value in self.facts(root).items()]
        return " ".join(["", self.level, self.name, *words]).encode("ascii")


def _fact(place: Place, roots: tuple[object, ...]) -> object:
    if place.kind == REASONS:
        [reasons] = _values(place, roots)
        return ",".join([str(reason).replace(",", "\\x2c") for reason in reasons])
    if place.kind == _EACH:
        return ",".join([one for each in _placed(place, roots) for one in each.values()])
    [value] = _values(place, roots)
    if place.kind == COUNT:
        return len(value)
    if place.kind != VALUE or not isinstance(value, str | int):
        raise TypeError("no place of a log line")
    return value


def _word(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def milliseconds(seconds: float) -> float:
    """As log lines say them: of two digits behind the point."""
    return round(seconds * 1000, 2)


def log_line_plainly(at: float, words: bytes, seconds: float) -> bytes:
    """One line of the log, its end included: when it was, the words, how long it took.

    `at` is Unix time in seconds.
    """
    return b"%b%b ms=%b\n" % (
        record.timestamp(at).encode("ascii"),
        words,
        str(milliseconds(seconds)).encode("ascii"),
    )


# Where the processor cannot fold (see the helper), zlib is quicker than what it would do.
_CHECKSUM = None if compiled is not None and compiled.CAN_CHECK else zlib.crc32


def checksum_before_plainly(line: bytes, tail: int, /) -> int:
    """CRC-32 of a line but for its last `tail` octets."""
    return zlib.crc32(line[: max(len(line) - tail, 0)])


checksum_before: Callable[[bytes, int], int] = (
    checksum_before_plainly if _CHECKSUM is not None else compiled.checksum_before
)
log_line: Callable[[float, bytes, float], bytes] = (
    log_line_plainly if compiled is None else compiled.log_line
)
