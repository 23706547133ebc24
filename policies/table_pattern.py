"""Patterns of Postfix's pcre and regexp tables in the words of Python's `re`.

Promises: `translated` gives a pattern that matches exactly what Postfix's would, or raises.  It
takes the part of both languages that is written the same way and means the same; white space and
digits are ASCII, as they are there.

Raises: ValueError that says what the pattern holds and what to do; the caller names the rule.

Does not: compile, or know flags (`lookup_table` does).

Source: pcre_table(5), regexp_table(5); a test compares random patterns with postmap(1).
"""

from __future__ import annotations

import re

_CLASSES = {
    "alnum": "A-Za-z0-9",
    "alpha": "A-Za-z",
    "blank": r" \t",
    "digit": "0-9",
    "lower": "a-z",
    "punct": r"!-/:-@\[-`{-~",
    "space": r" \t\n\r\f\v",
    "upper": "A-Z",
    "xdigit": "0-9A-Fa-f",
}
_SHORT = {"d": "0-9", "w": "A-Za-z0-9_", "s": r" \t\n\r\f\v"}


# What may stand behind one that can be repeated: POSIX has no lazy and no possessive form.
_QUANTIFIERS = {
    "pcre": re.compile(r"(?:[*+?]|\{\d{1,3}(?:,\d{0,3})?\})[+?]?"),
    "regexp": re.compile(r"[*+?]|\{\d{1,3}(?:,\d{0,3})?\}"),
}
_GROUP = {"pcre": re.compile(r"\((?:\?(?:[:=!>]|<[=!]))?"), "regexp": re.compile(r"\(")}


def translated(body: str, kind: str) -> str:
    """The pattern in Python's words.  Raises: ValueError for what might mean something else."""
    out: list[str] = []
    position = 0
    is_repeatable = False  # what stands before this place
    while position < len(body):
        sign = body[position]
        if sign in "*+?{":
            found = _QUANTIFIERS[kind].match(body, position)
            if found is None or not is_repeatable:
                raise ValueError(f"holds {body[position : position + 3]!r}; simplify it")
            out.append(found[0])
            position, is_repeatable = found.end(), False
            continue
        is_repeatable = sign not in "^$(|"
        if sign == "\\":
            if position + 1 >= len(body):
                raise ValueError("ends in a backslash; remove it")
            is_repeatable = body[position + 1] not in "bB"
            out.append(_escape(body[position + 1], kind))
            position += 2
        elif sign == "[":
            bracket, position = _bracket(body, position, kind)
            out.append(bracket)
        elif sign == "(":
            found = _GROUP[kind].match(body, position)
            assert found is not None
            if body.startswith("?", found.end()):
                raise ValueError(f"holds {body[position : position + 4]!r}; simplify it")
            out.append(found[0])
            position = found.end()
        elif sign in "}" or (sign == ")" and body[position - 1 : position] in ("(", "|")):
            raise ValueError(f"holds {body[max(0, position - 1) : position + 1]!r}; simplify it")
        else:
            out.append(sign)
            position += 1
    return "".join(out)


def _escape(sign: str, kind: str) -> str:
    if sign in "dD" and kind == "regexp":
        # The letter itself, to glibc's regcomp; somebody who wrote it meant digits.
        raise ValueError(f"holds \\{sign}, which is no digit in POSIX; write [0-9] or [^0-9]")
    if sign in _SHORT:
        return f"[{_SHORT[sign]}]"
    if sign.lower() in _SHORT:
        return f"[^{_SHORT[sign.lower()]}]"
    if sign in "bB":
        return rf"(?a:\{sign})"
    if sign in "tnrf" and kind == "pcre":
        return f"\\{sign}"
    if sign in "123456789":
        return f"(?:\\{sign})"
    if sign.isalnum() or not sign.isascii():
        raise ValueError(f"holds \\{sign}, which only Postfix can follow; write it otherwise")
    return re.escape(sign)


def _bracket(body: str, start: int, kind: str) -> tuple[str, int]:
    """A bracket expression from `start`, and where it ends."""
    position = start + 1
    out = ["["]
    if body.startswith("^", position):
        out.append("^")
        position += 1
    first = position
    while position < len(body):
        sign = body[position]
        if sign == "]" and position > first:
            return "".join([*out, "]"]), position + 1
        if named := re.match(r"\[:(\^?)([a-z]+):\]", body[position:]):
            if named[1] or named[2] not in _CLASSES:
                raise ValueError(f"holds {named[0]}; write the characters out")
            out.append(_CLASSES[named[2]])
            position += named.end()
        elif body[position : position + 2] in ("[=", "[."):
            raise ValueError(f"holds {body[position : position + 2]}; write the characters out")
        elif sign == "\\" and kind == "pcre":
            if position + 1 >= len(body):
                break
            out.append(_inside(body[position + 1]))
            position += 2
        else:
            # In POSIX a backslash in brackets is itself.
            out.append("\\" + sign if sign in "\\[]&~|" else sign)
            position += 1
    raise ValueError("has a [ without ]; add it")


def _inside(sign: str) -> str:
    if sign in _SHORT:
        return _SHORT[sign]
    if sign in "tnrf":
        return f"\\{sign}"
    if sign.isalnum() or not sign.isascii():
        raise ValueError(f"holds [\\{sign}], which only Postfix can follow; write it otherwise")
    return re.escape(sign) if sign in "\\[]^-&~|" else sign
