"""rspamd's dkim_signing.conf and its maps, in the subset of UCL people write them in."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from carbonseal.keys import key_file, keyring
from carbonseal.keys.takeover import private, rspamd, ucl
from carbonseal.keys.takeover.found import Findings


def read(tmp_path: Path, text: str) -> Findings:
    folder = tmp_path / "local.d"
    folder.mkdir(exist_ok=True)
    (folder / "dkim_signing.conf").write_text(text.replace("HERE", str(tmp_path)))
    return rspamd.read(str(tmp_path))


def found(findings: Findings, tmp_path: Path) -> list[tuple[str, str, str]]:
    return [
        (one.sdid, one.selector, str(one.path).replace(str(tmp_path), "HERE"))
        for one in findings.found
    ]


BLOCK = """
# Debian's example
domain {
  example.com {
    selectors [
      { # Private key path
        path = "HERE/example.key";
        selector = "ds";
      },
      { path: 'HERE/eddsa.key', selector = eddsa }
    ]
  }
  example.org { selector = "old"; path = /keys/$domain.$selector.key; }
  /* example.net { selector = "none"; /* not yet */ } */
}
use_esld = false;
try_fallback = false;
"""


def test_domain_blocks_are_read_with_all_their_selectors(tmp_path: Path) -> None:
    """New style and old, comments of both kinds, quotes of both kinds and none."""
    findings = read(tmp_path, BLOCK)
    assert found(findings, tmp_path) == [
        ("example.com", "ds", "HERE/example.key"),
        ("example.com", "eddsa", "HERE/eddsa.key"),
        ("example.org", "old", "/keys/example.org.old.key"),
    ]
    assert not findings.refusals
    assert not findings.proposal
    assert findings.found[0].source.endswith("dkim_signing.conf:6")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("dkim_signing { %s }", id="whole-section"),
        pytest.param("dkim_signing\n{\n%s\n}\n", id="brace-on-its-own-line"),
        pytest.param("%s", id="inside-of-the-section"),
    ],
)
@pytest.mark.parametrize(
    "inner",
    [
        pytest.param("domain { example.com { selector = s; path = /k; } }", id="one-line"),
        pytest.param('domain "example.com" { selector "s"; path "/k" }', id="named-section"),
        pytest.param("domain example.com {\nselector s\npath /k\n}", id="no-semicolons"),
        pytest.param(
            "domain { example.com { selectors = [{selector=s, path=/k}] } }", id="equals-everywhere"
        ),
        pytest.param(
            'domain = { "example.com" = { "selector": "s", "path": "/k" } }', id="like-json"
        ),
        pytest.param("domain{example.com{selectors{selector=s;path=/k}}}", id="one-selector"),
    ],
)
def test_the_same_section_in_many_spellings(tmp_path: Path, text: str, inner: str) -> None:
    """UCL leaves much to taste."""
    findings = read(tmp_path, text % inner)
    assert found(findings, tmp_path) == [("example.com", "s", "/k")]


def test_maps_give_selectors_and_paths(tmp_path: Path) -> None:
    """A domain may be in one map or in both; what is missing comes from selector and path."""
    (tmp_path / "selectors.map").write_text("example.com a # now\n\nexample.org b\n")
    (tmp_path / "paths.map").write_text(
        "example.com /keys/x.key\nexample.net /keys/$selector.key\n"
    )
    text = """selector_map = "$LOCAL_CONFDIR/selectors.map"; path_map = "file://HERE/paths.map";
selector = "fall"; path = "/keys/$domain.$selector.key"; try_fallback = false;"""
    findings = read(tmp_path, text)
    assert found(findings, tmp_path) == [
        ("example.com", "a", "/keys/x.key"),
        ("example.org", "b", "/keys/example.org.b.key"),
        ("example.net", "fall", "/keys/fall.key"),
    ]
    assert not findings.refusals
    assert findings.found[1].source.endswith("selectors.map:3")


def test_a_map_may_be_written_in_place(tmp_path: Path) -> None:
    """A list of lines."""
    text = (
        'selector_map = ["example.com a", "example.org b"]; try_fallback = false; path = "/$domain"'
    )
    assert found(read(tmp_path, text), tmp_path) == [
        ("example.com", "a", "/example.com"),
        ("example.org", "b", "/example.org"),
    ]


@pytest.mark.parametrize(
    ("template", "file"),
    [
        pytest.param("$domain.$selector.key", "example.com.dkim.key", id="flat"),
        pytest.param("$domain/$selector.key", "example.com/dkim.key", id="directory-for-each"),
        pytest.param("keys/k-$domain/key", "keys/k-example.com/key", id="prefix"),
    ],
)
def test_other_domains_are_found_by_their_files(tmp_path: Path, template: str, file: str) -> None:
    """The commonest set-up: one path, no list of domains."""
    path = tmp_path / "dkim" / file
    path.parent.mkdir(parents=True)
    path.touch()
    (tmp_path / "dkim" / "README").touch()
    findings = read(tmp_path, f'path = "HERE/dkim/{template}";')
    assert found(findings, tmp_path) == [("example.com", "dkim", f"HERE/dkim/{file}")]
    # use_esld is on: subdomains are signed by the domain, which must be said.
    assert [(rule.author, rule.sdid) for rule in findings.proposal] == [
        ("*@example.com", "example.com"),
        ("*@.example.com", "example.com"),
    ]


def test_tables_of_opendkim_are_read_as_rspamd_does(tmp_path: Path) -> None:
    """Patterns in any file, and a key line without a selector."""
    (tmp_path / "k").write_text("a example.com:/keys/a\nb example.org:sel:/keys/%.key\n")
    (tmp_path / "s").write_text("*@example.com a\n*@example.org b\n")
    findings = read(tmp_path, 'key_table = "HERE/k"; signing_table = "glob;HERE/s";')
    assert found(findings, tmp_path) == [
        ("example.com", "dkim", "/keys/a"),
        ("example.org", "sel", "/keys/example.org.key"),
    ]


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        pytest.param(
            "use_redis = true; domain { example.com { selector = s } }", 1, "Redis", id="redis"
        ),
        pytest.param("\nuse_vault = yes;", 2, "Vault", id="vault"),
        pytest.param("use_domain = envelope;", 1, "From", id="envelope"),
        pytest.param('\n\n.include "more.conf"\n', 3, "included", id="include"),
        pytest.param("sign_condition = <<EOD\nreturn\nEOD\n", 1, "here-document", id="heredoc"),
        pytest.param("a {\n b {", 2, "missing", id="open-section"),
        pytest.param('a = "b\n"', 1, "close the quotes", id="open-string"),
        pytest.param("/* a\n", 1, "comment", id="open-comment"),
        pytest.param("\n]", 2, "name is expected", id="stray-bracket"),
        pytest.param("path = /a b;", 1, "several words", id="words-without-quotes"),
        pytest.param("path = [/a];", 1, "no text", id="list-for-a-path"),
        pytest.param("a{" * 40, 1, "nested", id="deep"),
        pytest.param("a=" + "[" * 40, 1, "nested", id="deep-lists"),
        pytest.param("selector_map = http://example.com/m;", 1, "no file", id="map-by-http"),
        pytest.param("selector_map = /nowhere/m;", 1, "no such file", id="missing-map"),
        pytest.param('path = "$HOME/k"; domain { example.com { } }', 1, "not known", id="variable"),
    ],
)
def test_what_goes_beyond_is_refused_with_its_line(
    tmp_path: Path, text: str, line: int, word: str
) -> None:
    """One sentence, and the line to look at."""
    findings = read(tmp_path, text)
    assert not findings.found
    refusals = [one for one in findings.refusals if word in one.sentence]
    assert refusals, findings.refusals
    assert refusals[0].source.endswith(f":{line}")


def test_escapes_in_strings_and_repeated_keys() -> None:
    """A repeated key is a list; a repeated one that may stand once is an error."""
    section = ucl.parse('a = "x\\"y\\n"; a = 2\n b { c = d } # end')
    assert [value.text for value in section.all("a") if isinstance(value, ucl.Text)] == [
        'x"y\n',
        "2",
    ]
    with pytest.raises(ucl.NotRead, match="more than once"):
        section.one("a")


@pytest.mark.parametrize("kind", ["rsa", "ed25519", "ed25519-seed"])
def test_keys_of_rspamadm_are_read_and_sign_alike(
    tmp_path: Path,
    kind: str,
    sign_with_rspamd: Callable[..., bytes],
    passes: Callable[..., list[tuple[str, str, str]]],
    records_of: Callable[..., dict[str, bytes]],
) -> None:
    """The public key we find is the one rspamd's own signature verifies with."""
    key = tmp_path / "example.com.dkim.key"
    command = ["rspamadm", "dkim_keygen", "-d", "example.com", "-s", "dkim", "-k", key, "-t", kind]
    subprocess.run([*command, "-b", "2048"], check=True, capture_output=True)
    key.chmod(0o644)
    text = 'path = "HERE/$domain.$selector.key";'
    findings = read(tmp_path, text)
    (one,) = findings.found
    assert keyring.fingerprint(private.read(one)) == keyring.fingerprint(key_file.read(key))
    signed = sign_with_rspamd(text.replace("HERE", str(tmp_path)))
    records = records_of({"dkim._domainkey.example.com": key})
    assert passes(signed, records) == [("example.com", "dkim", "pass")]
