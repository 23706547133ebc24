"""Subjects, and how programs write text that is no ASCII (RFC 2047).

Promises: words come as often as words do (the k-th about 1/k as often as the first); names of
projects and numbers of documents make a tail that grows with the mail.
"""

from __future__ import annotations

import binascii
import functools
import random

from traffic.languages import CHEERS, SYLLABLES, Language

_LONGEST = 75  # octets of an encoded word
_MOST = 45  # characters that may fit in
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+-/")
_QUOTED = tuple(
    chr(one) if one in _PLAIN else "_" if one == 0x20 else f"={one:02X}" for one in range(256)
)


class Subjects:
    """What people write about."""

    def __init__(self, count: int, rng: random.Random) -> None:
        size = int(100 + 20 * count**0.5)
        self._rng = rng
        self.tail = ["".join(rng.choices(SYLLABLES, k=rng.randint(2, 4))) for _ in range(size)]

    def make(self, language: Language, rng: random.Random, now: float) -> str:
        """A new subject."""
        chance, words, tail = rng.random, language.words, self.tail
        made = []
        for _ in range(2 + int(4 * chance())):
            what = chance()
            if what < 0.72:
                made.append(words[int(len(words) ** chance()) - 1])
            elif what < 0.9:
                made.append(tail[int(len(tail) ** chance()) - 1].title())
            elif what < 0.95:
                made.append(f"{1970 + int(now / 31_556_952)}-{int(chance() * 1e6):06d}")
            else:
                made.append(str(int(chance() * 10_000)))
        if chance() < 0.02:
            made.append(CHEERS[int(chance() * len(CHEERS))])
        return " ".join(made)

    def advertise(self, language: Language, rng: random.Random, now: float) -> str:
        """The subject of a newsletter."""
        chance = rng.random
        text = self.make(language, rng, now)
        if chance() < 0.5:
            text = f"{CHEERS[int(chance() * len(CHEERS))]} {text}"
        return f"{text} -{5 * int(1 + chance() * 14)}%" if chance() < 0.3 else text


@functools.lru_cache(maxsize=20_000)
def written(text: str, charset: str = "utf-8", encoding: str = "B") -> str:
    """`text` as it stands in a header field: as it is, or in encoded words, folded."""
    if text.isascii():
        return text if len(text) <= 68 else _folded(text)
    try:
        text.encode(charset)
    except UnicodeEncodeError:
        charset = "utf-8"
    return "\n ".join(_words(text, charset, "B" if charset == "iso-2022-jp" else encoding))


def _folded(text: str) -> str:
    middle = text.rfind(" ", 0, 68)
    return text if middle < 1 else f"{text[:middle]}\n{text[middle:]}"


def _encoded_word(text: str, charset: str, encoding: str) -> str:
    octets = text.encode(charset)
    if encoding == "B":
        return f"=?{charset}?B?{binascii.b2a_base64(octets, newline=False).decode()}?="
    return f"=?{charset}?Q?{''.join(map(_QUOTED.__getitem__, octets))}?="


def _words(text: str, charset: str, encoding: str) -> list[str]:
    """Encoded words that each hold whole characters and are short enough."""
    made, start = [], 0
    while start < len(text):
        end = min(start + _MOST, len(text))
        while len(word := _encoded_word(text[start:end], charset, encoding)) > _LONGEST:
            end -= 1
        made.append(word)
        start = end
    return made


def phrase(name: str, charset: str, encoding: str) -> str:
    """A display name as it stands before an address."""
    if not name.isascii():
        return written(name, charset, encoding).replace("\n ", " ")
    return f'"{name}"' if "," in name or "'" in name or "." in name else name
