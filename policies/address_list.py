"""Address lists of header fields: RFC 5322 section 3.4 with obsolete forms, and RFC 6532.

Promises: linear time, never an error.  Two readings of the same tokens:

`read_strictly` is for deciding who may be signed for.  It answers only where no mail reader can
show another author than the one it returns; everything else is None.  Beyond what no grammar
allows (two angle addresses, trailing words, a lone phrase) it refuses what grammars allow and
readers disagree about: comments or white space around the dots of an address, an @ or angle
bracket inside a quoted local part, encoded words inside an address, empty list elements, control
characters, a domain that cannot be converted.  Display names may hold raw UTF-8, undecodable bytes,
a benign [tag], or the address itself ('a@b <a@b>').

`read_leniently` is for finding mail: it takes what looks like a mailbox and drops the rest.

Does not: decode encoded words, or keep display names.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from carbonseal.policies import address, domains
from carbonseal.policies.address import Address

MAX_COMMENT_DEPTH = 64

ATOM, QUOTED, LITERAL, BROKEN = "atom", "quoted", "literal", "broken"
_WORDS = (ATOM, QUOTED)

_FOLD = re.compile(r"\r?\n(?=[ \t])")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_TOKEN = re.compile(
    r"""(?P<gap>[ \t\r\n]++)
      | (?P<atom>[^ \t\r\n()<>\[\]:;@\\,"]++)
      | (?P<literal>\[[^][\\]*+\])
      | (?P<special>[<>,:;@])
      | (?P<opening>["(])
      | (?P<broken>.)""",
    re.VERBOSE | re.DOTALL,
)
_QUOTED_REST = re.compile(r'(?:[^"\\]|\\.)*+"', re.DOTALL)
_COMMENT_EDGE = re.compile(r"[()]|\\.", re.DOTALL)


class Token(NamedTuple):
    """A word or a special character."""

    kind: str  # ATOM (dots included), QUOTED, LITERAL, BROKEN, or the special character itself
    text: str
    is_joined: bool  # neither white space nor a comment before it


@dataclass(frozen=True, slots=True)
class Reading:
    """An address list that leaves no doubt."""

    mailboxes: tuple[Address, ...]
    has_group: bool


def unfold(value: bytes) -> str:
    """`value` as text without the line breaks of folding; undecodable bytes as surrogates."""
    return _FOLD.sub("", value.decode("utf-8", "surrogateescape").rstrip("\r\n"))


def tokens(text: str) -> Iterator[Token]:
    """Cut `text`; what is unbalanced becomes BROKEN.

    After the first quote (comment) without an end, quotes (parentheses) mean nothing any more:
    looking for each one's end again would take quadratic time.
    """
    position, is_joined, balanced = 0, False, {'"', "("}
    while position < len(text):
        found = _TOKEN.match(text, position)
        assert found is not None  # the last branch takes anything
        kind, piece, start, position = str(found.lastgroup), found[0], position, found.end()
        if kind == "opening":
            find_end = quoted_end if piece == '"' else comment_end
            end = find_end(text, position) if piece in balanced else -1
            if end < 0:
                balanced.discard(piece)
                kind = BROKEN
            else:
                kind = QUOTED if piece == '"' else "gap"
                piece, position = text[start:end], end
        if kind != "gap":
            yield Token(piece if kind == "special" else kind, piece, is_joined)
        is_joined = kind not in ("gap", BROKEN)


def quoted_end(text: str, position: int) -> int:
    """Where the quoted string ends whose first quote is just before `position`; -1 if nowhere."""
    found = _QUOTED_REST.match(text, position)
    return found.end() if found else -1


def comment_end(text: str, position: int) -> int:
    """Where the comment ends whose '(' is just before `position`; -1 if nowhere or too deep."""
    depth = 1
    for edge in _COMMENT_EDGE.finditer(text, position):
        depth += {"(": 1, ")": -1}.get(edge[0], 0)
        if depth == 0:
            return edge.end()
        if depth > MAX_COMMENT_DEPTH:
            break
    return -1


def read_strictly(text: str) -> Reading | None:
    """The mailboxes of an unfolded list, or None when there is any doubt."""
    if _CONTROL.search(text):
        return None
    reader = _StrictReader()
    if not all(reader.takes(token) for token in tokens(text)):
        return None
    return Reading(tuple(reader.mailboxes), reader.has_group) if reader.ends() else None


class _StrictReader:
    """Where in an address list we are."""

    def __init__(self) -> None:
        self.mailboxes: list[Address] = []
        self.has_group = False
        self._element: list[Token] = []  # tokens since the last separator
        self._last = ""  # kind of the last token
        self._is_angle = False  # between < and >
        self._is_group = False  # between : and ;
        self._after_group = False  # only a comma may follow

    def takes(self, token: Token) -> bool:
        """Read one more token; False when the list is refused."""
        kind, last = token.kind, self._last
        self._last = kind
        if self._is_angle:
            return self._takes_word(token)
        if kind == ",":
            after_group, self._after_group = self._after_group, False
            return after_group or self._takes_mailbox()
        if kind == ":":
            return self._opens_group()
        if kind == ";":
            was_group, self._is_group, self._after_group = self._is_group, False, True
            return was_group and (last == ":" or self._takes_mailbox())
        return not self._after_group and self._takes_word(token)

    def ends(self) -> bool:
        """Whether the list may end here."""
        if self._is_angle or self._is_group:
            return False
        return self._after_group or self._takes_mailbox()

    def _takes_word(self, token: Token) -> bool:
        if token.kind == BROKEN or token.kind == (">", "<")[self._is_angle]:
            return False
        self._is_angle = token.kind == "<" or (self._is_angle and token.kind != ">")
        self._element.append(token)
        return True

    def _opens_group(self) -> bool:
        name, self._element = self._element, []
        is_first = not self._is_group and not self._after_group
        self._is_group = self.has_group = True
        return is_first and bool(name) and _is_phrase(name)

    def _takes_mailbox(self) -> bool:
        found = _mailbox(self._element)
        self._element = []
        if found is not None:
            self.mailboxes.append(found)
        return found is not None


def _mailbox(element: list[Token]) -> Address | None:
    """RFC 5322 name-addr or addr-spec."""
    kinds = [token.kind for token in element]
    if "<" not in kinds:
        return _addr_spec(element)
    opening = kinds.index("<")
    if kinds.index(">") != len(kinds) - 1:
        return None
    found = _addr_spec(_without_route(element[opening + 1 : -1]))
    phrase = element[:opening]
    if found is None or _is_phrase(phrase):
        return found
    # 'a@b <a@b>' is no phrase, but common, and every reader shows the same.
    named = _addr_spec(phrase)
    same = named is not None and str(named).lower() == str(found).lower()
    return found if same else None


def _is_phrase(element: list[Token]) -> bool:
    """RFC 5322 phrase, and [tags] as issue trackers write them (nothing in them is an address)."""
    return all(
        token.kind in _WORDS
        or (token.kind == LITERAL and not any(sign in token.text for sign in '@<>"(),:;'))
        for token in element
    )


def _without_route(element: list[Token]) -> list[Token]:
    """Drop the obsolete source route '@a,@b:' (RFC 5322, section 4.4)."""
    kinds = [token.kind for token in element]
    if not kinds or kinds[0] != "@" or ":" not in kinds:
        return element
    end = kinds.index(":")
    hops = [kind for kind in kinds[:end] if kind != ","]
    is_route = hops[0::2] == ["@"] * (len(hops) // 2) and set(hops[1::2]) <= {ATOM, LITERAL}
    return element[end + 1 :] if is_route and len(hops) % 2 == 0 else element


def _addr_spec(element: list[Token]) -> Address | None:
    """RFC 5322 addr-spec; None for the forms that the module refuses."""
    if len(element) < 3 or element[-2].kind != "@":
        return None
    words, domain = element[:-2], element[-1]
    if any(word.kind not in _WORDS for word in words) or domain.kind not in (ATOM, LITERAL):
        return None
    if not all(after.is_joined and _is_dotted(before, after) for before, after in pairwise(words)):
        return None
    local_part = "".join(word.text for word in words)
    if any(word.kind == QUOTED and any(sign in word.text for sign in "@<>") for word in words):
        return None
    return _unambiguous(local_part, domain.text)


def _is_dotted(before: Token, after: Token) -> bool:
    return (before.kind == ATOM and before.text.endswith(".")) or (
        after.kind == ATOM and after.text.startswith(".")
    )


def _unambiguous(local_part: str, domain: str) -> Address | None:
    """The address, unless a reader could be shown another one by the same characters."""
    normal = domains.a_labels(domain)
    if normal is None or domain.endswith(".") or len(local_part) > address.MAX_LENGTH:
        return None
    # Readers that decode too much show what an encoded word says, not what it is.
    if "=?" in local_part and "?=" in local_part:
        return None
    # Invisible, reordering and undecodable characters (categories C*), odd spaces (Z*).
    foreign = (sign for sign in local_part + domain if sign > "\x7f")
    if any(unicodedata.category(sign)[0] in "CZ" for sign in foreign):
        return None
    return Address(local_part, normal)


def read_leniently(text: str) -> Iterator[Address]:
    """Everything in an unfolded list that looks like a mailbox; groups are flattened."""
    element: list[Token] = []
    is_angle = is_route = found_angle = False
    for token in (*tokens(text), Token(",", "", False)):
        kind = token.kind
        if kind == "<":
            is_angle, element, is_route = True, [], False
        elif kind == ">" and is_angle:
            yield from _plausible(element)
            is_angle, element, found_angle = False, [], True
        elif is_angle and not element and kind == "@":
            is_route = True
            element.append(token)
        elif is_route and kind == ":":
            is_route, element = False, []
        elif kind in (",", ";") and not (is_route and token.text and kind == ","):
            if not found_angle:
                yield from _plausible(element)
            is_angle, element, is_route, found_angle = False, [], False, False
        elif kind == ":" and not is_angle:
            element = []
        elif kind != BROKEN:
            element.append(token)


def _plausible(element: list[Token]) -> Iterator[Address]:
    kinds = [token.kind for token in element]
    if "@" not in kinds:
        if len(element) == 1 and kinds[0] in _WORDS and len(element[0].text) <= address.MAX_LENGTH:
            yield Address(element[0].text, "")
        return
    at = len(kinds) - 1 - kinds[::-1].index("@")
    local_part = "".join(token.text for token in reversed(_dotted(element[:at][::-1], -1)))
    after = element[at + 1 :]
    domain = after[0].text if after and after[0].kind == LITERAL else ""
    domain = domain or "".join(token.text for token in _dotted(after, 1))
    if local_part and domain and len(local_part) + len(domain) <= address.MAX_LENGTH:
        yield address.join(local_part, domain)[0]


def _dotted(words: list[Token], step: int) -> list[Token]:
    """The leading words that dots hold together; with `step` -1 they stand right to left."""
    kept: list[Token] = []
    for word in words:
        if word.kind not in _WORDS:
            break
        if kept and not _is_dotted(*((kept[-1], word) if step > 0 else (word, kept[-1]))):
            break
        kept.append(word)
    return kept
