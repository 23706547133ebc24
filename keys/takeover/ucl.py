"""Read the part of UCL that rspamd's dkim_signing.conf is written in.

Sections `name { ... }` and `name sub { ... }`, lists `[ ... ]`, `key = value;` (also `key: value`
and `key value`), strings in double or single quotes, bare words, comments `#` and `/* */`, nested.
A line that begins with a dot (`.include` and other macros) is set aside as `skipped`.

Promises: linear in the text, nesting bounded; `${NAME}` and `$name` stay as they are.  All values
are text; every one knows its line.

Raises: `NotRead` with the line for whatever else UCL can do (here-documents, for example) and for
what is no UCL.  No content is quoted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from carbonseal.policies import errors

MAX_DEPTH: Final = 16
_BLANK = re.compile(r"[ \t\r\f\v\ufeff]*")
_COMMENT_EDGE = re.compile(r"/\*|\*/|\n")
_NAME = re.compile(r"[^\s={}\[\]:;,#\"'./][^\s={}\[\]:;,#\"']*")
_BARE = re.compile(r"(?:\$\{[A-Za-z0-9_]{1,40}\}|[^\s{}\[\];,\"'])+")
_QUOTED = re.compile(r'"((?:[^"\\\n]|\\.)*)"')
_SINGLE = re.compile(r"'([^'\\\n]*)'")
_ESCAPE = re.compile(r"\\(.)")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


class NotRead(errors.DataError):
    """The text goes beyond what is read here."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line = line


@dataclass(frozen=True, slots=True)
class Text:
    """A string, number or word."""

    line: int
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    line: int
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """Keys and values in the order they stand; a key may stand several times."""

    line: int
    pairs: tuple[tuple[str, Value], ...]
    skipped: tuple[int, ...] = ()  # lines with macros, of this section and those in it

    def all(self, name: str) -> list[Value]:
        """Each value of a key; a list counts as its members."""
        return [
            item
            for key, value in self.pairs
            if key == name
            for item in (value.values if isinstance(value, Items) else (value,))
        ]

    def one(self, name: str) -> Value | None:
        """The value of a key that may stand once."""
        found = [value for key, value in self.pairs if key == name]
        if len(found) > 1:
            raise NotRead(found[1].line, f"{name} stands there more than once; leave one.")
        return found[0] if found else None

    def text(self, name: str) -> Text | None:
        """The value of a key that must be a text."""
        value = self.one(name)
        if value is None or isinstance(value, Text):
            return value
        raise NotRead(value.line, f"{name} is no text; write one, or import its keys one by one.")


Value: TypeAlias = Text | Items | Section


def parse(text: str) -> Section:
    """The whole text as one section."""
    reader = _Reader(text)
    section = reader.section(0, "")
    return Section(section.line, section.pairs, tuple(reader.skipped))


class _Reader:
    """The text and how far it is read."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line = 1
        self.skipped: list[int] = []

    def section(self, depth: int, end: str) -> Section:
        """Pairs up to `end`, which is read, too; '' is the end of the text."""
        line = self._line
        if depth > MAX_DEPTH:
            raise NotRead(line, f"sections are nested more than {MAX_DEPTH} deep; simplify it.")
        return Section(line, tuple(self._pairs(depth, end)))

    def _pairs(self, depth: int, end: str) -> Iterator[tuple[str, Value]]:
        while True:
            self._space(";,")
            if self._at >= len(self._text):
                if end:
                    raise NotRead(self._line, f"the file ends where a {end} is missing; add it.")
                return
            if end and self._text[self._at] == end:
                self._at += 1
                return
            if self._text[self._at] == ".":
                self._skip_macro()
            else:
                yield self._pair(depth)

    def _pair(self, depth: int) -> tuple[str, Value]:
        name = self._name()
        self._space()
        if self._peek() in ("=", ":"):
            self._at += 1
            self._space()
            return name, self._value(depth)
        line = self._line
        if self._peek() in ("{", "["):
            return name, self._value(depth)
        word = self._text_value()
        if self._line == line:
            self._take(_BLANK)
        if self._peek() == "{":  # `name sub {`
            inner = self._value(depth + 1)
            return name, Section(line, ((word.text, inner),))
        return name, word

    def _value(self, depth: int) -> Value:
        line = self._line
        first = self._peek()
        if first == "{":
            self._at += 1
            return self.section(depth + 1, "}")
        if first == "[":
            self._at += 1
            return Items(line, tuple(self._members(depth + 1)))
        return self._text_value()

    def _members(self, depth: int) -> Iterator[Value]:
        if depth > MAX_DEPTH:
            raise NotRead(self._line, f"lists are nested more than {MAX_DEPTH} deep; simplify it.")
        while True:
            self._space(",;")
            if self._at >= len(self._text):
                raise NotRead(self._line, "the file ends where a ] is missing; add it.")
            if self._text[self._at] == "]":
                self._at += 1
                return
            yield self._value(depth)

    def _name(self) -> str:
        if self._peek() in ('"', "'"):
            return self._text_value().text
        name = self._take(_NAME)
        if not name:
            raise NotRead(self._line, "a name is expected there; correct the line.")
        return name

    def _text_value(self) -> Text:
        line = self._line
        first = self._peek()
        if first == '"':
            return Text(line, _ESCAPE.sub(_unescape, self._group(_QUOTED)))
        if first == "'":
            return Text(line, self._group(_SINGLE))
        if self._text.startswith("<<", self._at):
            raise NotRead(line, "a here-document is not read here; write a string in quotes.")
        word = self._take(_BARE)
        if not word:
            raise NotRead(line, "a value is expected there; correct the line.")
        rest = self._take(_BLANK)
        if rest and self._peek() not in ("", "\n", ";", ",", "}", "]", "{", "#", "/"):
            raise NotRead(line, "a value of several words needs quotes; write it in quotes.")
        return Text(line, word)

    def _group(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise NotRead(self._line, "a string does not end on its line; close the quotes.")
        self._at = match.end()
        return match[1]

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            return ""
        self._at = match.end()
        return match[0]

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _space(self, besides: str = "") -> None:
        """White space, line ends, comments and the characters `besides`."""
        while True:
            self._take(_BLANK)
            first = self._peek()
            if first == "#":
                end = self._text.find("\n", self._at)
                self._at = len(self._text) if end < 0 else end
            elif self._text.startswith("/*", self._at):
                self._comment()
            elif first == "\n":
                self._at += 1
                self._line += 1
            elif first and first in besides:
                self._at += 1
            else:
                return

    def _comment(self) -> None:
        begun = self._line
        depth = 0
        for edge in _COMMENT_EDGE.finditer(self._text, self._at):
            if edge[0] == "\n":
                self._line += 1
                continue
            depth += 1 if edge[0] == "/*" else -1
            if not depth:
                self._at = edge.end()
                return
        raise NotRead(begun, "a comment that begins there does not end; close it with */.")

    def _skip_macro(self) -> None:
        self.skipped.append(self._line)
        end = self._text.find("\n", self._at)
        self._at = len(self._text) if end < 0 else end


def _unescape(match: re.Match[str]) -> str:
    return _ESCAPES.get(match[1], match[1])
