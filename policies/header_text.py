"""Header values for people: encoded words (RFC 2047), unfolding, dates.

Promises: never raises; linear time.  Text comes back without lone surrogates, with U+FFFD for what
no charset explains; it may hold NUL and other control characters, which are the reader's to escape.
An encoded word in an unknown charset stays as it was written.

Only charsets that Python ships as text encodings are looked up, and never by a name from the
message as such: a look-up imports modules and remembers every miss for ever.

Does not: decode words inside addresses or identifiers.
"""

from __future__ import annotations

import binascii
import functools
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from encodings.aliases import aliases

from carbonseal.policies import address_list

_MAX_DATE = 998  # octets; RFC 5322 section 2.1.1 allows no longer line

_FOLD = re.compile(r"\r?\n(?=[ \t])")
_LINE_WHITE = re.compile(r"[\t\r\n]")
_LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")

# Without any of these a value stands for itself.
_UNUSUAL = re.compile(rb"=\?|[\t\n\r\x80-\xff]")
# Q text should hold no space (RFC 2047, section 2), but broken composers write some.
_ENCODED_WORD = re.compile(r"=\?([!->@-~]{1,60})\?([bBqQ])\?([^?\r\n]*)\?=")
_Q_OCTET = re.compile(rb"=([0-9A-Fa-f]{2})")
_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/]+")

_NOT_TEXT = (
    "base64_codec bz2_codec hex_codec mbcs quopri_codec rot_13 uu_codec zlib_codec"
).split()
# In `encodings`, but without an alias to find them by.
_WITHOUT_ALIAS = "koi8_t koi8_u cp720 cp737 cp856 cp874 cp1006 mac_arabic mac_croatian".split()
# Composers label supersets with the name of the standard (Encoding Standard, section 4.2).
_SUPERSETS = {"gb2312": "gb18030", "gbk": "gb18030", "euc_kr": "cp949", "shift_jis": "cp932"}
_CHARSETS: dict[str, str] = {
    **{name: name for name in _WITHOUT_ALIAS},
    "windows_874": "cp874",
    **{name: name for name in aliases.values() if name not in _NOT_TEXT},
    **{alias: name for alias, name in aliases.items() if name not in _NOT_TEXT},
}


def decode_text(value: bytes) -> str:
    """An unstructured value such as Subject, unfolded and decoded, without white space around."""
    if not _UNUSUAL.search(value):
        return value.decode("ascii").strip(" ")
    text = _FOLD.sub("", value.decode("utf-8", "surrogateescape"))
    text = _LINE_WHITE.sub(" ", text).strip(" ")
    return _LONE_SURROGATE.sub("\ufffd", "".join(_pieces(text)))


def _pieces(text: str) -> Iterator[str]:
    """Plain text and decoded runs of encoded words.

    Neighbours in one charset are joined before they are decoded, because many composers cut
    between the octets of a character; white space between encoded words is not text (RFC 2047,
    section 6.2).
    """
    position, charset, octets = 0, "", bytearray()
    for word in _ENCODED_WORD.finditer(text):
        between, position = text[position : word.start()], word.end()
        last, charset = charset, _charset(word[1])
        # A word that stays as written is text, and so is the white space beside it.
        is_neighbour = bool(last and charset) and not between.strip(" ")
        if charset != last or not is_neighbour:
            yield _decoded(octets, last)
            octets.clear()
        if not is_neighbour:
            yield between
        if charset:
            octets += _octets(word[2], word[3])
        else:
            yield word[0]
    yield _decoded(octets, charset)
    yield text[position:]


def _decoded(octets: bytearray, charset: str) -> str:
    try:
        return octets.decode(charset, "replace") if octets else ""
    except (UnicodeError, LookupError, ValueError):
        return octets.decode("ascii", "replace")


def _charset(name: str) -> str:
    """Python's name of a charset, without the language of RFC 2231; '' when unknown."""
    key = name.partition("*")[0].lower().replace("-", "_").replace(".", "_")
    known = _CHARSETS.get(key, "")
    return _SUPERSETS.get(known, known)


def _octets(encoding: str, text: str) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")
    if encoding in "qQ":
        return _Q_OCTET.sub(lambda found: bytes((int(found[1], 16),)), raw.replace(b"_", b" "))
    # Padding inside: a composer encoded piece by piece.
    return b"".join(_base64(_NOT_BASE64.sub(b"", piece)) for piece in raw.split(b"="))


def _base64(piece: bytes) -> bytes:
    if len(piece) % 4 == 1:
        piece = piece[:-1]  # six bits make no octet
    return binascii.a2b_base64(piece + b"=" * (-len(piece) % 4))


_DATE = re.compile(
    r"(?:[A-Za-z]{3,9} ?,? ?)?([0-9]{1,2}) ?([A-Za-z]{3})[a-z]{0,6} ?([0-9]{2,5})"
    r" ([0-9]{1,2}) ?: ?([0-9]{1,2})(?: ?: ?([0-9]{1,2}))?(?: ?([+-][0-9]{4}|[A-Za-z]{1,5}))?"
)
# What nearly all mail writes, but for leap seconds.
_USUAL_DATE = re.compile(
    rb" ?(?:[A-Z][a-z]{2}, )?([0-9]{1,2}) ([A-Z][a-z]{2}) ([0-9]{4}) "
    rb"([0-9]{2}):([0-9]{2}):([0-5][0-9]) ([+-][0-9]{4})(?: \([A-Z]{1,5}\))?"
)
_MONTHS = {
    name: number
    for number, name in enumerate("jan feb mar apr may jun jul aug sep oct nov dec".split(), 1)
}
_MONTHS_AS_WRITTEN = {name.title().encode(): number for name, number in _MONTHS.items()}
# RFC 5322, section 4.3; single letters and unknown names mean that the zone is unknown.
_ZONES = {"edt": -4, "est": -5, "cdt": -5, "cst": -6, "mdt": -6, "mst": -7, "pdt": -7, "pst": -8}


def date(value: bytes) -> datetime | None:
    """The moment of a Date field in UTC, or None (RFC 5322, sections 3.3 and 4.3).

    An unknown or missing zone is read as UTC.  A leap second is the second after :59.
    """
    usual = _USUAL_DATE.fullmatch(value)
    if usual is not None:
        year, month, day, hour, minute, second, zone = usual.group(3, 2, 1, 4, 5, 6, 7)
        number = _MONTHS_AS_WRITTEN.get(month)
        if number is not None:
            try:
                return datetime(
                    int(year), number, int(day), int(hour), int(minute), int(second), 0, UTC
                ) - _numeric(zone)
            except (ValueError, OverflowError):
                return None
    if len(value) > _MAX_DATE:
        return None
    found = _DATE.fullmatch(" ".join(_without_comments(value.decode("latin-1")).split()))
    if found is None:
        return None
    day, month, year, hour, minute, second, zone = found.groups()
    try:
        local = datetime(
            _year(year), _MONTHS[month.lower()], int(day), int(hour), int(minute), tzinfo=UTC
        )
        seconds = int(second or 0)
        return local + timedelta(seconds=seconds) - _offset(zone) if seconds <= 60 else None
    except (KeyError, ValueError, OverflowError):
        return None


@functools.lru_cache(maxsize=128)
def _numeric(zone: bytes) -> timedelta:
    return _offset(zone.decode("ascii"))


def _year(text: str) -> int:
    year = int(text)
    if len(text) == 2:
        return year + (2000 if year < 50 else 1900)
    return year + 1900 if len(text) == 3 else year


def _offset(zone: str | None) -> timedelta:
    if zone is None or zone[0] not in "+-":
        return timedelta(hours=_ZONES.get((zone or "").lower(), 0))
    minutes = int(zone[1:3]) * 60 + int(zone[3:])
    return timedelta(minutes=-minutes if zone[0] == "-" else minutes)


def _without_comments(text: str) -> str:
    kept, position = [], 0
    while (opening := text.find("(", position)) >= 0:
        kept.append(text[position:opening])
        position = address_list.comment_end(text, opening + 1)
        if position < 0:
            return " ".join(kept)
    return " ".join((*kept, text[position:]))
