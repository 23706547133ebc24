"""Postfix's lookup tables, as far as their contents alone decide: patterns and indexed keys.

Promises: `parse` gives a table that answers as Postfix's own would, or raises.  Patterns (pcre,
regexp) are compiled in the subset in which Python's `re` and theirs agree; what lies outside it is
refused rather than guessed: lookups must not be nearly right.  Indexed tables (hash, btree, cdb,
dbm, lmdb, texthash, inline) fold case on both sides, as Postfix does for mail addresses.

Raises: `errors.DataError` with the rule and the remedy.

See also: `table_pattern`, the subset.

Does not: read files (the caller brings the text), search an address in its several forms
(`bcc_maps` does), or know tables whose answers lie elsewhere (ldap, mysql, tcp and the like).

Source: pcre_table(5), regexp_table(5), DATABASE_README; compared with postmap(1) by a test.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from carbonseal.policies import errors, table_pattern

PATTERN_TYPES = frozenset(("pcre", "regexp"))
INDEXED_TYPES = frozenset(
    ("hash", "btree", "cdb", "dbm", "sdbm", "lmdb", "texthash", "inline", "static")
)


@dataclass(frozen=True, slots=True)
class Reference:
    """One `type:name` of a parameter's value."""

    type: str  # without `proxy:`, which asks the same table through another process
    name: str  # a path, or what stands inside the outermost braces
    is_inline: bool

    def __str__(self) -> str:
        shown = self.name if len(self.name) <= 60 else self.name[:57] + "..."
        return f"{self.type}:{{{shown}}}" if self.is_inline else f"{self.type}:{shown}"


class Table(Protocol):
    """Answers one key."""

    @property
    def is_pattern(self) -> bool:
        """Whether it is asked for the whole address only."""

    def find(self, key: str) -> str | None:
        """The result for `key`, None without one; '' is a result that Postfix refuses."""


def words(value: str) -> list[str]:
    """A parameter's value cut at commas and white space outside braces."""
    found: list[str] = []
    depth, word = 0, ""
    for sign in value:
        depth += (sign == "{") - (sign == "}" and depth > 0)
        if depth == 0 and sign in ", \t\r\n":
            if word:
                found.append(word)
            word = ""
        else:
            word += sign
    return [*found, word] if word else found


def references(value: str) -> list[Reference]:
    """The tables that a parameter names, in their order.  Raises: DataError."""
    return [reference(word) for word in words(value)]


def reference(word: str) -> Reference:
    """One table.  Raises: DataError for what is none."""
    kind, colon, name = word.removeprefix("proxy:").partition(":")
    if not colon or not name or not kind.isalnum():
        raise errors.DataError(f"{word[:60]!r} names no table; write type:name, like pcre:/path")
    is_inline = name.startswith("{") and name.endswith("}")
    return Reference(kind, name[1:-1].strip() if is_inline else name, is_inline)


def parse(about: Reference, contents: str | None = None) -> Table:
    """The table that `about` names; `contents` is the text of its source file.

    Inline and static tables need none.  Raises: DataError.
    """
    if about.type == "static":
        return StaticTable(about.name)
    if about.type in PATTERN_TYPES:
        lines = _inline_parts(about.name) if about.is_inline else logical_lines(contents or "")
        return PatternTable(tuple(_rules(lines, about)))
    if about.type in INDEXED_TYPES:
        pairs = _inline_pairs(about) if about.is_inline else _pairs(contents or "")
        return IndexedTable({key.casefold(): result for key, result in pairs})
    raise errors.DataError(
        f"{about}: only Postfix itself can look into a table of type {about.type}; write what it"
        f" holds as inline:{{...}}, or in a file as texthash:, pcre: or regexp:"
    )


@dataclass(frozen=True, slots=True, eq=False)
class StaticTable:
    """The same result for every key."""

    result: str
    is_pattern = False

    def find(self, key: str) -> str | None:
        """The result, whatever `key` is."""
        return self.result


@dataclass(frozen=True, slots=True, eq=False)
class IndexedTable:
    """Keys with one result each."""

    entries: Mapping[str, str]  # keys case-folded
    is_pattern = False

    def find(self, key: str) -> str | None:
        """The result of the key, case folded."""
        return self.entries.get(key.casefold())


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of a pattern table."""

    pattern: re.Pattern[str]
    is_negated: bool
    result: tuple[str | int, ...] | None  # texts and group numbers; None for an `if`
    end: int = 0  # of an `if`: the number of the rule after its `endif`


@dataclass(frozen=True, slots=True, eq=False)
class PatternTable:
    """Patterns tried in their order."""

    rules: tuple[Rule, ...]
    is_pattern = True

    def find(self, key: str) -> str | None:
        """The result of the first rule that holds for `key`."""
        number = 0
        while number < len(self.rules):
            rule = self.rules[number]
            found = rule.pattern.search(key)
            holds = (found is None) if rule.is_negated else (found is not None)
            if rule.result is None:
                number = number + 1 if holds else rule.end
                continue
            if holds:
                return "".join(
                    part if isinstance(part, str) else (found and found[part]) or ""
                    for part in rule.result
                )
            number += 1
        return None


# --- the text of tables ---------------------------------------------------------------------------


def logical_lines(text: str) -> Iterator[str]:
    """Lines of a table's file with their continuations; comments and empty lines fall away."""
    line = ""
    for physical in text.splitlines():
        if not physical.strip() or physical.lstrip().startswith("#"):
            continue
        if physical[0] in " \t" and line:
            line += physical
            continue
        if line:
            yield line.rstrip()
        line = physical
    if line:
        yield line.rstrip()


# White space inside quotes belongs to the key (postmap(1)).
_PAIR = re.compile(r'((?:[^\s"\\]|\\.|"(?:[^"\\]|\\.)*"?)+)(.*)', re.DOTALL)


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    for line in logical_lines(text):
        found = _PAIR.match(line.strip())
        if found is not None:
            yield found[1], found[2].strip()


def _inline_parts(text: str) -> Iterator[str]:
    for word in words(text):
        yield word[1:-1].strip() if word.startswith("{") and word.endswith("}") else word


def _inline_pairs(about: Reference) -> Iterator[tuple[str, str]]:
    for part in _inline_parts(about.name):
        key, equals, result = part.partition("=")
        if not equals or len(key.split()) != 1:
            raise errors.DataError(
                f"{about}: {part[:60]!r} is no entry; write key=result, the key without white space"
            )
        yield key.strip(), result.strip()


# --- patterns -------------------------------------------------------------------------------------


def _rules(lines: Iterator[str], about: Reference) -> list[Rule]:
    rules: list[Rule] = []
    open_ifs: list[int] = []
    for line in lines:
        try:
            if re.match(r"endif(?![A-Za-z0-9])", line, re.IGNORECASE):
                _close(rules, open_ifs)
            elif re.match(r"if(?![A-Za-z0-9])", line, re.IGNORECASE):
                pattern, is_negated, _ = _pattern(line[2:].strip(), about.type)
                open_ifs.append(len(rules))
                rules.append(Rule(pattern, is_negated, None))
            else:
                pattern, is_negated, rest = _pattern(line, about.type)
                result = _result(rest, pattern, is_negated)
                if about.type == "regexp" and "|" in line and not all(map(_is_text, result)):
                    # POSIX takes the longest branch, Perl and Python the first.
                    raise ValueError("fills $1 from a pattern with |; write two rules, or use pcre")
                rules.append(Rule(pattern, is_negated, result))
        except ValueError as fault:
            raise errors.DataError(f"{about}: the rule {line[:80]!r} {fault}") from None
    while open_ifs:
        _close(rules, open_ifs)
    return rules


def _is_text(part: str | int) -> bool:
    return isinstance(part, str)


def _close(rules: list[Rule], open_ifs: list[int]) -> None:
    if not open_ifs:
        raise ValueError("closes no if; remove it")
    start = open_ifs.pop()
    condition = rules[start]
    rules[start] = Rule(condition.pattern, condition.is_negated, None, len(rules))


def _pattern(text: str, kind: str) -> tuple[re.Pattern[str], bool, str]:
    """The pattern at the beginning of `text`, whether it is negated, and what follows it."""
    bare = text.lstrip("! \t")
    is_negated = text[: len(text) - len(bare)].count("!") % 2 == 1
    if not bare or bare[0].isalnum() or bare[0] == "\\":
        raise ValueError("has no pattern; write /pattern/ result")
    delimiter, position = bare[0], 1
    while position < len(bare) and bare[position] != delimiter:
        position += 2 if bare[position] == "\\" else 1
    if position >= len(bare):
        raise ValueError(f"has no closing {delimiter}; add it")
    body = bare[1:position]
    flags, rest = re.match(r"([^\s!]*)(.*)", bare[position + 1 :], re.DOTALL).groups()  # type: ignore[union-attr]
    if rest.lstrip().startswith("!"):
        raise ValueError("has a second pattern; write it as if ... endif")
    translated = table_pattern.translated(body, kind)
    try:
        return re.compile(translated, _flags(flags, kind)), is_negated, rest.strip()
    except (re.error, RecursionError, OverflowError) as fault:
        raise ValueError(f"cannot be read ({fault}); simplify it") from None


def _flags(letters: str, kind: str) -> re.RegexFlag:
    """Both types begin without regard to case, and `i` toggles that."""
    toggles = {"i": re.IGNORECASE, "m": re.MULTILINE}
    # POSIX knows nothing of Unicode: Postfix runs in the C locale, where only ASCII has case.
    flags = re.IGNORECASE | re.DOTALL | (re.ASCII if kind == "regexp" else re.NOFLAG)
    if kind == "pcre":
        toggles["s"] = re.DOTALL
    for letter in letters:
        if letter not in toggles:
            raise ValueError(f"has the flag {letter!r}, which only Postfix can follow; drop it")
        flags ^= toggles[letter]
    return flags


_MACRO = re.compile(r"\$(?:\$|([0-9A-Za-z_]+)|\{([^{}]*)\}|\(([^()]*)\))?")


def _result(text: str, pattern: re.Pattern[str], is_negated: bool) -> tuple[str | int, ...]:
    """The result with its $1, ${1} or $(1) as numbers."""
    parts: list[str | int] = []
    position = 0
    for found in _MACRO.finditer(text):
        parts.append(text[position : found.start()])
        position = found.end()
        if found[0] == "$$":
            parts.append("$")
            continue
        name = found[1] or found[2] or found[3] or ""
        if not re.fullmatch(r"[0-9]{1,3}", name, re.ASCII) or not 1 <= int(name) <= pattern.groups:
            raise ValueError(f"has {found[0]} in its result, which no group fills; remove it")
        if is_negated:
            raise ValueError("is negated, so nothing fills its $1; remove that")
        parts.append(int(name))
    return tuple(part for part in (*parts, text[position:]) if part != "")
