r"""A dictionary for header sections, made from the archive's own mail, with nobody in it.

What relays and filters write into every header section takes a fifth of its stored form: their own
names, in their own order.  A writer gathers the first header sections that it loads and makes a
zstd dictionary of them, in a child (`header_training`), so that nothing waits for it.  It is kept
if it makes other header sections, those that come next, smaller by a twentieth at least.

Promises: no dictionary holds anything of a person, because a person who is erased could not be
taken out of it.  Before the dictionary is made, each gathered section loses its subject, what comes
before any @, display names, encoded words, and each word (an IP address is one word) that fewer
than AUTHORS authors have in their mail, or that is part of anybody's name or local part and is none
that programs write (`header_phrases`).  What is left over is what programs write.

Raises: what the database raises from `recall` and `learn`.  A dictionary that cannot be made, or
is not worth it, is none: header sections are stored as before.

Does not: store or find dictionaries (`header_dictionaries` does).
"""

from __future__ import annotations

import functools
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager

import orjson
import zstandard
from sqlalchemy import Connection

from carbonseal.milter import log
from carbonseal.milter.archive import header_dictionaries, header_store, header_training
from carbonseal.milter.archive.header_phrases import DICTIONARY_1

AUTHORS = 50
SAMPLE = 4000  # header sections; three seconds of work, once
HELD_OUT = 400  # those that come next, on which the dictionary is tried
_WORTH = 0.95  # of what they take without it
_SIZE = 32_768  # octets; twice as many find nothing more
_LONGEST = 16_384  # octets; longer header sections teach nothing
_COLONS = 3  # of an address in `_WORD`, at least
_RECURRING = 4096  # texts of which is remembered what was made of them
_YEAR = 365 * 86_400 * 1_000_000  # microseconds; filters and relays change
_NAMING = frozenset(
    "from to cc bcc sender reply-to resent-from resent-to resent-cc resent-bcc resent-sender "
    "resent-reply-to return-path delivered-to x-original-to envelope-to apparently-to errors-to "
    "disposition-notification-to return-receipt-to mail-followup-to mail-reply-to x-sender "
    "x-from x-to x-envelope-from x-envelope-to x-authenticated-sender x-authenticated-user".split()
)
_IDENTIFYING = frozenset(("message-id", "in-reply-to", "references"))  # what programs count
_SAYING = re.compile(r"subject|topic|comment|keyword|organi[sz]ation|description|title|name")
_WORD = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}|(?:[0-9A-Fa-f]{0,4}:){3,}[0-9A-Fa-f]{0,4}|[^\W_]+")
_WORD_WITHOUT_COLON = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}|[^\W_]+")
# It begins only where a text begins: from anywhere in it, long texts would take their square.
_LOCAL_PART = re.compile(r'(?<![^\s<>"(),:;=\[\]])[^\s<>"(),:;=\[\]]+(?=@)')
_ENCODED = re.compile(r"=\?[^?\s]*\?[A-Za-z]\?[^?\s]*\?=")
_AFTER_AT = re.compile(r"@[\w.-]+>?|,\s*")
_PUBLIC = frozenset(_WORD.findall(DICTIONARY_1.decode("ascii")))

Fields = Sequence[Sequence[str]]
CompressTexts = Callable[[Sequence[bytes]], list[bytes]]
Transaction = Callable[[], AbstractContextManager[Connection]]


class Learning:
    """How one writer stores header sections, and what it gathers to store them better."""

    def __init__(self) -> None:
        self._compress: CompressTexts = header_store.compress_texts
        self._gathered: list[bytes] | None = None  # None: nothing to learn
        self._child: header_training.Child | None = None

    def recall(self, connection: Connection) -> None:
        """Use the dictionary that the archive has; gather for one if it has none of this year."""
        content = header_dictionaries.newest(connection, since=_now() - _YEAR)
        if content is None:
            self._gathered = []
        else:
            self._compress = header_store.Packer(content).compress_texts

    def compress_text(self, text: bytes) -> bytes:
        """The stored form of a header section; `text`: see `header_store.text`."""
        [stored] = self.compress_texts([text])
        return stored

    def compress_texts(self, texts: Sequence[bytes]) -> list[bytes]:
        """The stored forms of many."""
        stored = self._compress(texts)
        gathered = self._gathered
        if gathered is not None:
            short = [one for text, one in zip(texts, stored, strict=True) if len(text) <= _LONGEST]
            gathered += short[: max(SAMPLE + HELD_OUT - len(gathered), 0)]
        return stored

    def learn(self, transaction: Transaction, *, wait: float = 0.0) -> None:
        """Have a dictionary made once enough is gathered, and use it once it is made.

        `wait`: at most so many seconds for one that is being made.
        """
        gathered = self._gathered
        if gathered is not None and len(gathered) >= SAMPLE + HELD_OUT:
            self._gathered = None
            if not self._take(transaction):  # another relay's writer may have been first
                self._begin(gathered)
        if self._child is not None and self._child.is_done(wait):
            answer, self._child = self._child.answer, None
            if not answer:
                _say_none("it would save too little" if answer == b"" else "its maker died")
            elif not self._take(transaction):
                with transaction() as connection:
                    header_dictionaries.keep(answer, connection, made_at=_now())
                self._compress = header_store.Packer(answer).compress_texts

    def close(self) -> None:
        """End what is being made; it is begun again by who writes next."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def _take(self, transaction: Transaction) -> bool:
        """Whether the archive has a dictionary, which is then used."""
        with transaction() as connection:
            content = header_dictionaries.newest(connection, since=_now() - _YEAR)
        if content is None:
            return False
        self._compress = header_store.Packer(content).compress_texts
        return True

    def _begin(self, gathered: list[bytes]) -> None:
        try:
            self._child = header_training.Child(lambda: _made_of(gathered))
        except OSError as fault:
            _say_none(str(fault))


def _say_none(problem: str) -> None:
    log.warning("header-dictionary-not-made", problem=problem)


def _made_of(gathered: Sequence[bytes]) -> bytes:
    """A dictionary made of the first and worth it for the others; empty if there is none."""
    content = made(header_store.expand(one) for one in gathered[:SAMPLE])
    return content if content and is_worth(content, gathered[SAMPLE:]) else b""


def is_worth(content: bytes, stored: Sequence[bytes]) -> bool:
    """Whether header sections that were stored without it are a good deal smaller with it."""
    packer = header_store.Packer(content)
    ours = sum(len(packer.compress(header_store.expand(one))) for one in stored)
    return ours <= _WORTH * sum(map(len, stored))


def _now() -> int:
    return time.time_ns() // 1000


def made(sections: Iterable[Fields], *, authors: int = AUTHORS) -> bytes | None:
    """A dictionary for header sections like these; None where there is too little in common."""
    try:
        made_of: list[bytes | bytearray | memoryview[int]] = [
            orjson.dumps(one) for one in impersonal(sections, authors=authors)
        ]
        return zstandard.train_dictionary(_SIZE, made_of, level=header_store.ZSTD_LEVEL).as_bytes()
    except (zstandard.ZstdError, ValueError, TypeError) as fault:
        _say_none(str(fault))
        return None


def impersonal(
    sections: Iterable[Fields], *, authors: int = AUTHORS
) -> list[list[tuple[str, str]]]:
    """These header sections without anything of anybody; see above."""
    names: set[str] = set()
    users: defaultdict[str, set[str]] = defaultdict(set)  # of each word: authors, as many as count
    cut = []

    # Most of what programs write is the same again and again.
    @functools.lru_cache(maxsize=_RECURRING)
    def words_of(text: str) -> frozenset[str]:
        return frozenset(_words(text).findall(text))

    @functools.lru_cache(maxsize=_RECURRING)
    def cut_once(name: str, value: str) -> str:
        return _cut(name, value, names)

    for fields in sections:
        author = next((value for name, value in fields if name.strip().lower() == "from"), "")
        cut.append([(name, cut_once(name, value)) for name, value in fields])
        for word in frozenset().union(*[words_of(text) for one in cut[-1] for text in one]):
            known = users[word]
            if len(known) < authors:
                known.add(author)
    common = {
        word
        for word, known in users.items()
        if len(known) >= authors and (word in _PUBLIC or word.lower() not in names)
    }

    def if_common(found: re.Match[str]) -> str:
        return found[0] if found[0] in common else ""

    @functools.lru_cache(maxsize=_RECURRING)
    def in_common(text: str) -> str:
        return text if words_of(text) <= common else _words(text).sub(if_common, text)

    return [[(in_common(name), in_common(value)) for name, value in fields] for fields in cut]


def _words(text: str) -> re.Pattern[str]:
    """What finds words in this text: looking for IPv6 addresses, too, takes twice as long."""
    return _WORD if text.count(":") >= _COLONS else _WORD_WITHOUT_COLON


def _cut(name: str, value: str, names: set[str]) -> str:
    """A field's value without what names a person or is a person's text; adds to `names`."""
    known = name.strip().lower()
    value = _storable(value)
    if _SAYING.search(known):
        return " "
    value_without = _ENCODED.sub("", value) if "=?" in value else value
    if known not in _NAMING:
        if known not in _IDENTIFYING:
            for local_part in _LOCAL_PART.findall(value_without):
                names.update(word.lower() for word in _WORD.findall(local_part))
        return _LOCAL_PART.sub("", value_without)
    names.update(word.lower() for word in _WORD.findall(_AFTER_AT.sub(" ", value_without)))
    return " " + "".join(_AFTER_AT.findall(value_without))


def _storable(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
