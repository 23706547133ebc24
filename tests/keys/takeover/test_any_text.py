"""Whatever stands in a file: only our own errors, every line accounted for, no key shown."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carbonseal.keys import store
from carbonseal.keys.takeover import (
    dkimpy_milter,
    lines,
    loose,
    opendkim,
    private,
    rspamd,
    take,
    ucl,
)
from carbonseal.keys.takeover.found import Findings

NOW = datetime(2026, 11, 21, tzinfo=UTC)
SECRET = "MIIsecretPRIVATEoctets0123456789abcdefghijklmnop"
_NAMES = ["k", "example.com", "%", "*", "*@example.com", "a@b.example", ".example.com", "-", "é"]
_KEYS = ["/k", "./k", "/%/k", SECRET, f"/{SECRET}", f"-----BEGIN PRIVATE KEY-----{SECRET}", ""]
_word = st.sampled_from(_NAMES) | st.text(max_size=12)
_key_line = st.builds(
    lambda name, gap, parts, key: name + gap + ":".join([*parts, key]),
    _word,
    st.sampled_from([" ", "\t", "", "  # "]),
    st.lists(_word, max_size=3),
    st.sampled_from(_KEYS),
)
_signing_line = st.builds(
    lambda a, gap, b: a + gap + b, _word, st.sampled_from([" ", "\t", ""]), _word
)
_text = st.builds(
    lambda parts, end, mark: mark + end.join(parts),
    st.lists(_key_line | _signing_line | st.just("# comment") | st.just(""), max_size=12),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["", "\ufeff"]),
)


def numbers(text: str) -> set[int]:
    """The lines that say something, counted as we promise to."""
    said = text.removeprefix("\ufeff").split("\n")
    return {at for at, line in enumerate(said, 1) if line.partition("#")[0].strip()}


def places(findings: Findings, file: Path) -> tuple[set[int], set[int], set[int]]:
    def at(sources: list[str]) -> set[int]:
        head = f"{file}:"
        return {int(one.removeprefix(head)) for one in sources if one.startswith(head)}

    return (
        at([one.source for one in findings.found]),
        at([one.source for one in findings.refusals]),
        at([one.source for one in findings.rules]),
    )


def surely_hidden(findings: Findings) -> None:
    """No private text in what may be shown; a path that begins with a slash is one."""
    shown = repr([one for one in findings.found if one.path is None]) + repr(findings.refusals)
    assert SECRET not in shown + repr(findings.rules)


@settings(max_examples=300, deadline=None)
@given(keys=_text, signing=_text, kind=st.sampled_from(["refile:", "file:", ""]))
def test_each_line_of_opendkims_tables_ends_as_one_thing(
    keys: str, signing: str, kind: str
) -> None:
    """A key, a rule or a refusal; and never two of them."""
    with tempfile.TemporaryDirectory() as name:
        key_file, signing_file = Path(name, "KeyTable"), Path(name, "SigningTable")
        key_file.write_text(keys, "utf-8", newline="")
        signing_file.write_text(signing, "utf-8", newline="")
        alone = opendkim.read(f"file:{key_file}")
        both = opendkim.read(f"file:{key_file}", f"{kind}{signing_file}")
    for findings in (alone, both):
        found, refused, _ = places(findings, key_file)
        assert found | refused == numbers(keys)
        assert not found & refused
        surely_hidden(findings)
    _, refused, ruled = places(both, signing_file)
    assert refused | ruled == numbers(signing)
    assert not refused & ruled


_UCL_WORDS = (
    "domain example.com selector path { } [ ] = : ; , \" ' # /* */ .include <<EOD $domain ${DBDIR}"
    ' /k s selectors selector_map path_map use_redis true "/x/$domain" \\'
).split(" ")
_ucl_bits = st.sampled_from([*_UCL_WORDS, "\n", " ", "\r", "\ufeff", SECRET])
_ucl = st.lists(_ucl_bits | st.text(max_size=3), max_size=40).map("".join)


@settings(max_examples=500, deadline=None)
@given(text=_ucl)
def test_ucl_is_read_or_refused_with_a_line_that_is_there(text: str) -> None:
    """Nothing else is raised."""
    complaints = []
    try:
        ucl.parse(text)
    except ucl.NotRead as error:
        complaints.append(error)
    for error in complaints:
        assert 1 <= error.line <= text.count("\n") + 1
        assert SECRET not in error.sentence


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(opendkim.read, id="opendkim"),
        pytest.param(rspamd.read, id="rspamd"),
        pytest.param(dkimpy_milter.read, id="dkimpy-milter"),
        pytest.param(loose.read, id="loose"),
    ],
)
@settings(max_examples=150, deadline=None)
@given(content=st.binary(max_size=200) | (_text | _ucl).map(lambda t: t.encode("utf-8", "replace")))
def test_any_octets_end_as_findings(read: Callable[[str], Findings], content: bytes) -> None:
    """And taking them ends as rows; with nothing kept, as there is no key among them."""
    with tempfile.TemporaryDirectory() as name:
        for file in ("any.conf", "any.example.s1.key"):
            path = Path(name, file)
            path.write_bytes(content)
            findings = read(str(path))
            surely_hidden(findings)
            report = take.take(store.Store(Path(name, "keys")), findings, at=NOW, why="")
            hidden = [row for row in report.rows if f"/{SECRET}" not in repr(row)]
            assert SECRET not in repr(hidden)
            assert not report.rows or not report.is_complete


def test_a_seed_that_looks_like_a_path_is_not_shown() -> None:
    """One Ed25519 seed in 64 begins with a slash in base64; OpenDKIM would call it a file."""
    seed = "/" + "a" * 42 + "="
    (one,) = opendkim.read(f"csl:k example.com:s:{seed}").found
    assert one.path is None
    assert seed not in repr(one)
    private.read(one)


def test_a_private_key_given_as_a_table_is_not_shown(genkey: Path) -> None:
    """The wrong file on the command line."""
    secret = genkey.read_text().splitlines()[3]
    for read in (opendkim.read, rspamd.read, dkimpy_milter.read):
        findings = read(str(genkey))
        assert not findings.found
        assert findings.refusals
        assert secret not in repr(findings)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        pytest.param(b"x" * (lines.MAX_LINE + 1), "too long", id="long-line"),
        pytest.param(b"\n" * lines.MAX_LINES, "more than", id="many-lines"),
        pytest.param(b"#" * (lines.MAX_FILE + 1), "larger", id="large-file"),
    ],
)
def test_files_are_bounded(tmp_path: Path, content: bytes, word: str) -> None:
    """Each refusal is a sentence."""
    path = tmp_path / "KeyTable"
    path.write_bytes(content)
    assert word in opendkim.read(f"file:{path}").refusals[0].sentence


def test_a_device_or_fifo_is_no_table(tmp_path: Path) -> None:
    """And opening it does not wait."""
    for place in ("/dev/zero", str(tmp_path)):
        assert "no regular file" in opendkim.read(f"file:{place}").refusals[0].sentence


@pytest.mark.parametrize("size", [20_000])
def test_reading_is_linear(tmp_path: Path, size: int) -> None:
    """Twenty thousand keys and rules, in lines and in UCL: counted, and of bounded work."""
    keys = "".join(f"k{at} d{at}.example:s:/k\n" for at in range(size))
    signing = "".join(f"*@d{at}.example k{at}\n" for at in range(size))
    (tmp_path / "k").write_text(keys)
    (tmp_path / "s").write_text(signing)
    findings = opendkim.read(f"file:{tmp_path}/k", f"refile:{tmp_path}/s")
    assert len(findings.found) == len(findings.rules) == size
    section = ucl.parse(
        "domain {" + "".join(f"d{at}.example {{ selector = s; }}\n" for at in range(size)) + "}"
    )
    (inner,) = section.all("domain")
    assert isinstance(inner, ucl.Section)
    assert len(inner.pairs) == size


def test_ten_thousand_stars_cost_nothing(tmp_path: Path) -> None:
    """No pattern is ever run as a regular expression."""
    text = f"{'*' * 8000}@example.com k\n{'*.' * 4000}example.com k\n{'@' * 8000} k\n"
    (tmp_path / "s").write_text(text)
    before = time.process_time()
    findings = opendkim.read("csl:k example.com:s:/k", f"refile:{tmp_path}/s")
    assert len(findings.refusals) == 3
    assert time.process_time() - before < 5  # it was hours if it backtracked


def test_the_report_shows_no_key(tmp_path: Path) -> None:
    """Not in the rows either."""
    findings = opendkim.read(f"csl:k example.com:s:{SECRET}")
    report = take.take(store.Store(tmp_path / "keys"), findings, at=NOW, why="")
    assert not report.is_complete
    assert SECRET not in repr(report)
