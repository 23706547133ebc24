"""Postfix's tables in our words: whatever we accept, postmap(1) answers the same."""

from __future__ import annotations

import contextlib
import os
import shutil
import string
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carbonseal.policies import lookup_table
from carbonseal.policies.errors import DataError

POSTMAP = shutil.which("postmap", path="/usr/sbin:/usr/bin")
needs_postfix = pytest.mark.skipif(POSTMAP is None, reason="needs Debian's postfix")

# Table text, and keys that are asked of it.
TABLES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "the-classic-trick": (
        "pcre",
        "!/@example\\.com$/ archive@example.com\n",
        ("a@example.com", "A@EXAMPLE.COM", "a@sub.example.com", "a@evilexample.com", "x@y"),
    ),
    "the-careless-trick": (
        "regexp",
        "!/example\\.com$/ archive@example.com\n",
        ("a@example.com", "a@evilexample.com", "a@sub.example.com", "x@y"),
    ),
    "i-switches-case-on": ("pcre", "/^a@x$/i b@y\n", ("a@x", "A@x")),
    "i-in-posix": ("regexp", "/^a@x$/i b@y\n", ("a@x", "A@x")),
    "first-match-wins": ("pcre", "/a/ one@x\n/b/ two@x\n", ("a", "b", "ab", "ba", "c")),
    "comments-and-continuations": (
        "pcre",
        "# first\n\n/^a/\n   one@x\n# between\n  more\n/b/  two@x  \n",
        ("a", "b"),
    ),
    "if-and-endif": (
        "pcre",
        "if /@example\\.com$/\n/^boss@/ boss-archive@x\nif !/^b/\n/./ other@x\nendif\nendif\n"
        "/./ rest@x\n",
        ("boss@example.com", "bob@example.com", "al@example.com", "al@example.org"),
    ),
    "if-not": ("regexp", "if !/@x$/\n/a/ b@y\nendif\n", ("a@x", "a@y", "b@y")),
    "if-without-endif": ("pcre", "if /a/\n/b/ c@d\n", ("ab", "b")),
    "double-negation": ("pcre", "!!/a/ b@c\n! /z/ d@e\n", ("a", "z", "q")),
    "substitution": (
        "pcre",
        "/^(.*)\\+(.*)@(.*)$/ ${1}-$(2)@archive.$3\n/^(a)|b/ x$$1${1}y@z\n",
        ("joe+tag@example.com", "a", "b"),
    ),
    "substitution-in-posix": ("regexp", "/^([^@]+)@(x|y)/ $(2)\n", ()),
    "other-delimiters": ("pcre", "#never\n%^a/b@% c@d\n", ("a/b@c", "ab@c")),
    "escaped-delimiter": ("pcre", "/a\\/b/ c@d\n", ("a/b", "ab")),
    "character-classes": (
        "regexp",
        "/^[[:alpha:]][[:digit:]]+[]a^-]@x$/ y@z\n",
        ("a1]@x", "a12a@x", "a1-@x", "1a]@x", "a1b@x"),
    ),
    "backslash-in-posix-brackets": ("regexp", "/^[\\a]+@/ y@z\n", ("\\a@x", "b@x")),
    "perl-classes": (
        "pcre",
        "/^[\\w.-]+@\\d+\\.x$/ y@z\n/^\\S+@\\D/ w@z\n",
        ("a.b-c@12.x", "ä@12.x", "q@x", "q@1"),
    ),
    "look-around": ("pcre", "/^(?!owner-)(?:list)@(?=x)/ y@z\n", ("list@x", "owner-list@x")),
    "lazy-and-possessive": ("pcre", "/^(a+?)(a*+)@/ $1-$2@x\n", ("aaa@y", "@y")),
    "multi-line-flags": ("pcre", "/^a$/ms b@c\n", ("a", "b")),
    "counted": ("regexp", "/^a{2,3}@x$/ b@c\n", ("a@x", "aa@x", "aaaa@x")),
    "back-reference": ("regexp", "/^(.)\\1@x/ b@c\n", ("aa@x", "ab@x")),
    "word-boundary": ("pcre", "/\\bjoe\\b/ b@c\n", ("x.joe@y", "xjoe@y")),
    "texthash": (
        "texthash",
        '# keys\na@b  c@d\n@x.test\te@f\n"q r"@x.test g@h\n  i@j\nA@UPPER k@l\n',
        ("a@b", "A@B", "@x.test", "@X.TEST", '"q r"@x.test', "q", "a@upper"),
    ),
}
REFUSED = {
    "white-space-in-an-inline-key": ("inline", "jane doe@x=y@z"),
    "flag-x": ("pcre", "/a b/x c@d"),
    "flag-of-basic-syntax": ("regexp", "/a/x c@d"),
    "unknown-flag": ("regexp", "/a/s c@d"),
    "unicode-property": ("pcre", "/\\pL/ c@d"),
    "quoted-run": ("pcre", "/\\Qa.b\\E/ c@d"),
    "inline-flags": ("pcre", "/(?i)a/ c@d"),
    "named-group": ("pcre", "/(?<n>a)/ c@d"),
    "recursion": ("pcre", "/(?R)/ c@d"),
    "perl-in-posix": ("regexp", "/(?:a)/ c@d"),
    "lazy-in-posix": ("regexp", "/a+?/ c@d"),
    "open-count": ("pcre", "/a{,3}/ c@d"),
    "longest-branch": ("regexp", "/(a|ab)(c|bcd)/ $1@x"),
    "no-pattern": ("pcre", "example.com archive@x"),
    "no-end": ("pcre", "/abc archive@x"),
    "open-bracket": ("pcre", "/[abc/ archive@x"),
    "open-group": ("pcre", "/(abc/ archive@x"),
    "group-that-is-not-there": ("pcre", "/abc/ $1@x"),
    "group-of-a-negation": ("pcre", "!/(abc)/ $1@x"),
    "named-macro": ("pcre", "/(abc)/ $user@x"),
    "digit-in-posix": ("regexp", "/^\\d+@/ c@d"),
    "no-digit-in-posix": ("regexp", "/^\\D+@/ c@d"),
    "two-patterns": ("regexp", "/a/!/b/ c@d"),
    "endif-alone": ("pcre", "endif"),
}


def answers(kind: str, path: Path, keys: tuple[str, ...]) -> list[str | None]:
    """What postmap says, one question after the other."""
    assert POSTMAP is not None
    (path.parent / "main.cf").write_text("compatibility_level = 3.6\n")
    asked = "".join(f"{key}\n" for key in keys)
    # With -F nothing is folded: Postfix folds the keys of mail addresses in indexed tables only.
    done = subprocess.run(
        [POSTMAP, "-c", path.parent, "-q", "-", f"{kind}:{path}"],
        input=asked,
        capture_output=True,
        text=True,
        check=False,
    )
    said = dict(line.split("\t", 1) for line in done.stdout.splitlines())
    return [said.get(key) for key in keys]


@needs_postfix
@pytest.mark.parametrize("name", [name for name, table in TABLES.items() if table[2]])
def test_what_we_accept_postfix_answers_alike(tmp_path: Path, name: str) -> None:
    """Every key of every table, asked of both."""
    kind, text, keys = TABLES[name]
    path = tmp_path / "table"
    path.write_text(text)
    table = lookup_table.parse(lookup_table.reference(f"{kind}:{path}"), text)
    assert [table.find(key) for key in keys] == answers(kind, path, keys)


@pytest.mark.parametrize("name", REFUSED)
def test_what_might_mean_something_else_is_refused(name: str) -> None:
    """With the rule and the remedy, when the table is read and not when mail comes."""
    kind, text = REFUSED[name]
    name = f"{{{{{text}}}}}" if kind == "inline" else "/etc/postfix/table"
    with pytest.raises(DataError, match=";") as refused:
        lookup_table.parse(lookup_table.reference(f"{kind}:{name}"), text)
    assert text[:40] in refused.value.sentence.replace("\\\\", "\\")


@pytest.mark.parametrize(
    ("value", "key", "result"),
    [
        pytest.param("pcre:{{!/@x$/ a@b}, {/c/ d@e}}", "q@y", "a@b", id="inline-patterns"),
        pytest.param("inline:{A@b=c@d}", "a@B", "c@d", id="inline-folds-case"),
        pytest.param("inline:{ {a@b = c d} }", "a@b", "c d", id="inline-with-white-space"),
        pytest.param("static:all@x", "anything", "all@x", id="static"),
        pytest.param("proxy:inline:{a=b@c}", "a", "b@c", id="through-proxymap"),
    ],
)
def test_tables_can_stand_in_the_parameter(value: str, key: str, result: str) -> None:
    """As main.cf has them."""
    (about,) = lookup_table.references(value)
    assert lookup_table.parse(about).find(key) == result


def test_a_parameter_names_several_tables() -> None:
    """Cut at commas and white space, not inside braces."""
    found = lookup_table.references("hash:/a, pcre:{{/x y/ z}, {/q/ r}}\n regexp:/b")
    assert [(one.type, one.is_inline) for one in found] == [
        ("hash", False),
        ("pcre", True),
        ("regexp", False),
    ]


@pytest.mark.parametrize("word", ["archive", ":x", "hash:", "ldap:/x", "mysql:/x", "tcp:h:1"])
def test_tables_that_only_postfix_can_ask_are_refused(word: str) -> None:
    """What is no table, too."""
    with pytest.raises(DataError, match=";"):
        lookup_table.parse(lookup_table.reference(word), "")


@needs_postfix
def test_random_patterns_agree_with_postfix_or_are_refused(tmp_path: Path) -> None:
    """Patterns made of the signs that mean something: never another answer than Postfix's."""
    keys = ("a@b", "ab@b.c", "aab@", "A.b+c@x-y", "b", "aaaa", ".@[]", "a\\b@c", "{1}@b")
    seen: list[tuple[str, str, list[str | None]]] = []
    pattern = st.text("ab@.+*?()[]{}|^$\\-1,:dw", min_size=1, max_size=8)

    @settings(max_examples=int(os.environ.get("PATTERNS", "15")), deadline=None, database=None)
    @given(pattern, st.sampled_from(["pcre", "regexp"]), st.sampled_from(["", "i", "m"]))
    def collect(body: str, kind: str, flags: str) -> None:
        line = f"/{body}/{flags} yes@x"
        try:
            table = lookup_table.parse(lookup_table.reference(f"{kind}:/t"), line)
        except DataError:
            return
        seen.append((kind, line, [table.find(key) for key in keys]))

    collect()
    assert seen
    for number, (kind, line, ours) in enumerate(seen):
        path = tmp_path / f"table{number}"
        path.write_text(line + "\n")
        theirs = answers(kind, path, keys)
        assert ours == theirs, (kind, line)


@given(
    st.text(string.printable, max_size=200), st.sampled_from(["pcre", "regexp", "hash", "inline"])
)
def test_no_text_is_answered_by_anything_but_a_table_or_a_sentence(text: str, kind: str) -> None:
    """Bounded and without a traceback."""
    word = f"{kind}:{{{text}}}" if kind == "inline" else f"{kind}:/t"
    with contextlib.suppress(DataError):
        lookup_table.parse(lookup_table.reference(word), text).find("a@example.com")


def test_words_keep_what_they_hold() -> None:
    """Nothing is lost but separators."""

    def letters(texts: Iterator[str] | list[str]) -> str:
        return "".join("".join(text.split()) for text in texts).replace(",", "")

    value = "a, b {c, d{e}} f}g"
    assert letters(lookup_table.words(value)) == letters([value])
