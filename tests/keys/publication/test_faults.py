"""The catalogue of faults: complete, and every entry tells place and remedy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from carbonseal.keys.publication import ask, faults

SOURCES = Path(faults.__file__).parent
CODE = re.compile(r'"([a-z][a-z0-9]*(?:-[a-z0-9]+)*)"')


def used() -> set[str]:
    """Every text in our modules that looks like a code and is one."""
    found = {trouble.value for trouble in ask.Trouble}
    for name in ("check", "comparison", "judgement", "reading", "servers"):
        found |= set(CODE.findall((SOURCES / f"{name}.py").read_text()))
    return found


@pytest.mark.parametrize("code", sorted(faults.SENTENCES))
def test_each_code_is_used_and_says_where_and_what_to_do(code: str) -> None:
    """One sentence: place first, a remedy after the semicolon (notes may do without)."""
    assert code in used()
    sentence = faults.sentence(code, place="s1._domainkey.example.com at ns1", about="7")
    assert sentence.startswith("s1._domainkey.example.com at ns1: ")
    assert sentence.endswith(".")
    assert ". " not in sentence
    assert "{" not in sentence


def test_what_strangers_write_stays_short_and_plain() -> None:
    """A record may hold anything, a terminal must not obey it."""
    sentence = faults.sentence("damaged", place="x", about="\x1b[2J" + "a" * 9000)
    assert sentence.isprintable()
    assert len(sentence) < 600
