"""OpenDKIM's tables are read as OpenDKIM reads them, which is asked where the manual is unclear."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from carbonseal.keys import key_file, keyring
from carbonseal.keys.takeover import opendkim, private
from carbonseal.keys.takeover.found import Findings, Signs

HINT = "keys import SDID SELECTOR"


def key_table(tmp_path: Path, text: str | bytes) -> str:
    path = tmp_path / "KeyTable"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def read(tmp_path: Path, keys: str, signing: str | None = None, kind: str = "refile") -> Findings:
    place = key_table(tmp_path, keys)
    if signing is None:
        return opendkim.read(place)
    (tmp_path / "SigningTable").write_text(signing)
    return opendkim.read(
        place, f"{kind}:{tmp_path}/SigningTable" if kind else str(tmp_path / "SigningTable")
    )


def found(findings: Findings) -> list[tuple[str, str]]:
    return [(one.sdid, one.selector) for one in findings.found]


def rules(findings: Findings) -> list[tuple[str, str]]:
    return [(rule.author, rule.sdid) for rule in findings.rules]


@pytest.mark.parametrize(
    ("line", "names"),
    [
        pytest.param("k example.com:mail:/k", ("example.com", "mail"), id="plain"),
        pytest.param("k\texample.com:mail:/k\t\t", ("example.com", "mail"), id="tabs"),
        pytest.param("k example.com:mail:/k # old", ("example.com", "mail"), id="comment-behind"),
        pytest.param("k Example.COM:Mail:/k", ("example.com", "mail"), id="upper-case"),
        pytest.param("k example.com.:mail:/k", ("example.com", "mail"), id="root-dot"),
        pytest.param("k bücher.example:mail:/k", ("xn--bcher-kva.example", "mail"), id="u-label"),
        pytest.param("k example.com:a.b:/k", ("example.com", "a.b"), id="dotted-selector"),
        pytest.param("k example.com:mail:/a:b", ("example.com", "mail"), id="colon-in-the-path"),
    ],
)
@pytest.mark.parametrize(
    "end", ["", "\n", "\r\n", "\n\n# end\n"], ids=["bare", "lf", "crlf", "more"]
)
def test_a_key_table_line_names_a_key(
    tmp_path: Path, line: str, names: tuple[str, str], end: str
) -> None:
    """Whatever editor wrote it."""
    findings = read(tmp_path, "\ufeff" + line + end)
    assert found(findings) == [names]
    assert not findings.refusals
    assert findings.found[0].source.endswith("KeyTable:1")
    assert findings.found[0].signs is Signs.UNKNOWN


@pytest.mark.parametrize(
    ("line", "word"),
    [
        pytest.param("k", "no entry of a KeyTable", id="name-only"),
        pytest.param("k example.com:mail", "no entry of a KeyTable", id="two-fields"),
        pytest.param("k example.com:mail:", "names no key", id="empty-path"),
        pytest.param("k com:mail:/k", "no signing domain", id="one-label"),
        pytest.param("k exa mple.com:mail:/k", "no signing domain", id="space-in-domain"),
        pytest.param("k example.com:m_il:/k", "selector is none", id="underscore-selector"),
        pytest.param("k example.com::/k", "selector is none", id="no-selector"),
        pytest.param("k %:mail:/k", "that of the author", id="author-domain-without-table"),
        pytest.param("k example.com:mail:/%/k", "that of the author", id="path-of-the-author"),
        pytest.param("k example.com:mail:/k\0", "holds a NUL", id="nul-in-the-path"),
    ],
)
def test_a_key_table_line_is_refused_with_a_sentence(tmp_path: Path, line: str, word: str) -> None:
    """And the line beside it is taken."""
    findings = read(tmp_path, f"{line}\nother example.org:s:/k\n")
    assert found(findings) == [("example.org", "s")]
    (refusal,) = findings.refusals
    assert word in refusal.sentence
    assert refusal.source.endswith("KeyTable:1")


def test_of_two_keys_with_one_name_the_first_counts(tmp_path: Path) -> None:
    """As in OpenDKIM, where the second is never reached."""
    findings = read(tmp_path, "k example.com:a:/a\nk example.com:b:/b\n")
    assert found(findings) == [("example.com", "a")]
    assert "the same name" in findings.refusals[0].sentence


@pytest.mark.parametrize(
    "kind", ["dsn", "ldap", "ldaps", "db", "lua", "memcache", "socket", "mdb", "erlang"]
)
def test_tables_in_databases_are_refused_with_what_to_do(kind: str) -> None:
    """Nothing is asked over a network, and the sentence names the way."""
    (refusal,) = opendkim.read(f"{kind}:whatever").refusals
    assert "into a text file" in refusal.sentence


def test_a_berkeley_db_is_known_by_its_name(tmp_path: Path) -> None:
    """opendkim(8), DATA SETS, h."""
    (refusal,) = opendkim.read(str(tmp_path / "KeyTable.db")).refusals
    assert "Berkeley DB" in refusal.sentence


def test_a_list_of_keys_is_read(tmp_path: Path) -> None:
    """`csl:` in place of a file."""
    findings = opendkim.read("csl:k example.com:mail:/k, l example.org:s:/l")
    assert found(findings) == [("example.com", "mail"), ("example.org", "s")]


@pytest.mark.parametrize(
    ("pattern", "author"),
    [
        pytest.param("*@example.com", "*@example.com", id="domain"),
        pytest.param("Alice@Example.com", "alice@example.com", id="one-author"),
        pytest.param("news-*@example.com", "news-*@example.com", id="some-authors"),
        pytest.param("*@*.example.com", "*@.example.com", id="subdomains"),
        pytest.param("*.example.com", "*@.example.com", id="subdomains-without-at"),
        pytest.param("*", "*", id="everybody"),
        pytest.param("*@*", "*", id="everybody-with-at"),
    ],
)
def test_patterns_of_a_refile_become_rules(tmp_path: Path, pattern: str, author: str) -> None:
    """In the order they stand."""
    findings = read(tmp_path, "k example.com:mail:/k", f"{pattern} k\n")
    assert rules(findings) == [(author, "example.com")]
    assert not findings.refusals
    assert findings.is_closed


@pytest.mark.parametrize(
    ("pattern", "word"),
    [
        pytest.param("example.com", "has no @", id="bare-domain-matches-nothing"),
        pytest.param("*example.com", "has no @", id="end-of-a-name"),
        pytest.param("*@*example.com", "leaves a part", id="end-of-a-domain"),
        pytest.param("*@example.*", "leaves a part", id="open-top-level"),
        pytest.param("*@.example.com", "matches no address", id="leading-dot"),
        pytest.param("a?c@example.com", "characters", id="question-mark-is-no-wildcard-there"),
        pytest.param("a[bc]@example.com", "characters", id="brackets-are-none-either"),
    ],
)
def test_patterns_that_no_rule_can_say_are_refused(tmp_path: Path, pattern: str, word: str) -> None:
    """The key is taken all the same, but not as one that signs."""
    findings = read(tmp_path, "k example.com:mail:/k", f"{pattern} k\n")
    assert not findings.rules
    assert [word in refusal.sentence for refusal in findings.refusals] == [True]
    assert [one.signs for one in findings.found] == [Signs.NO]


def test_a_flat_signing_table_counts_by_how_exact_a_name_is(tmp_path: Path) -> None:
    """user@host, host, user@.domain, .domain, * whatever the order of the lines."""
    signing = (
        "* k\n.example.com k\na@.example.com k\nexample.com k\na@example.com k\n.b.example.com k"
    )
    findings = read(tmp_path, "k example.com:mail:/k", signing, kind="file")
    assert [rule.author for rule in findings.rules] == [
        "a@example.com",
        "*@example.com",
        "a@.example.com",
        "*@.b.example.com",
        "*@.example.com",
        "*",
    ]


def test_a_star_in_a_flat_file_is_a_letter(tmp_path: Path) -> None:
    """The commonest mistake with OpenDKIM, and the sentence names it."""
    findings = read(tmp_path, "k example.com:mail:/k", "*@example.com k\n", kind="file")
    assert "refile:" in findings.refusals[0].sentence


def test_without_a_prefix_wildcards_decide_what_kind_of_file_it_is(tmp_path: Path) -> None:
    """On the command line nobody wants to write prefixes."""
    for signing in ("*@example.com k\n", "example.com k\n"):
        findings = read(tmp_path, "k example.com:mail:/k", signing, kind="")
        assert rules(findings) == [("*@example.com", "example.com")]
        assert not findings.proposal  # the author's domain signs anyway


def test_the_author_domain_is_taken_from_the_signing_table(tmp_path: Path) -> None:
    """One line of the KeyTable, a key for each domain that names it, and `%` in the path."""
    signing = "*@example.com all\n*@example.org all\n*@*.example.net all\n"
    findings = read(tmp_path, f"all %:mail:{tmp_path}/%/mail.private\n", signing)
    assert found(findings) == [("example.com", "mail"), ("example.org", "mail")]
    assert findings.found[1].path == tmp_path / "example.org" / "mail.private"
    assert [one.signs for one in findings.found] == [Signs.YES, Signs.YES]
    assert [refusal.source.rpartition(":")[2] for refusal in findings.refusals] == ["3"]


def test_the_author_domain_is_taken_from_the_files_that_are_there(tmp_path: Path) -> None:
    """`* all` signs for every domain with a key file, so these are the domains."""
    for domain in ("example.com", "example.org"):
        (tmp_path / "keys" / domain).mkdir(parents=True)
        (tmp_path / "keys" / domain / "mail.private").touch()
    (tmp_path / "keys" / "example.net").mkdir()
    findings = read(tmp_path, f"all %:mail:{tmp_path}/keys/%/mail.private\n", "* all\n")
    assert found(findings) == [("example.com", "mail"), ("example.org", "mail")]
    assert rules(findings) == [
        ("*@example.com",) * 1 + ("example.com",),
        ("*@example.org", "example.org"),
    ]


def test_the_key_name_may_be_the_author_domain(tmp_path: Path) -> None:
    """`*@* %`: the KeyTable has a line named for each domain."""
    keys = "example.com example.com:a:/a\nexample.org example.org:b:/b\nodd example.net:c:/c\n"
    findings = read(tmp_path, keys, "*@* %\n")
    assert rules(findings) == [("*@example.com", "example.com"), ("*@example.org", "example.org")]
    assert [one.signs for one in findings.found] == [Signs.YES, Signs.YES, Signs.NO]


def test_a_key_for_some_authors_does_not_become_the_key_of_the_domain(tmp_path: Path) -> None:
    """An SDID has one active key here: the broadest line says which, and the others say so."""
    keys = "preskey example.com:foo:/p\ncomkey example.com:bar:/c\n"
    signing = "president@example.com preskey\n*@example.com comkey\n"
    findings = read(tmp_path, keys, signing)
    assert [(one.selector, one.signs) for one in findings.found] == [
        ("foo", Signs.NO),
        ("bar", Signs.YES),
    ]
    assert "selector foo" in findings.rules[0].notes[0]
    assert not findings.rules[1].notes


def test_an_identity_is_reported_because_rules_cannot_choose_one(tmp_path: Path) -> None:
    """The second field of the value."""
    findings = read(tmp_path, "k example.com:mail:/k", "*@example.com k:news@example.com\n")
    assert "i=" in findings.rules[0].notes[0]


def test_a_line_that_names_a_missing_key_is_refused(tmp_path: Path) -> None:
    """OpenDKIM would leave that mail unsigned or refuse to start."""
    findings = read(tmp_path, "k example.com:mail:/k", "*@example.com other\n")
    assert "does not have" in findings.refusals[0].sentence


def test_a_configuration_is_followed_to_its_tables(tmp_path: Path) -> None:
    """BaseDirectory, Include, any case of the names, comments behind values."""
    (tmp_path / "KeyTable").write_text("k example.com:mail:./mail.private\n")
    (tmp_path / "SigningTable").write_text("*@example.com k\n")
    (tmp_path / "more.conf").write_text(
        f"keytable file:KeyTable # here\nBaseDirectory {tmp_path}\n"
    )
    conf = tmp_path / "opendkim.conf"
    conf.write_text("Syslog yes\nInclude more.conf\nSigningTable refile:SigningTable\n")
    findings = opendkim.read(str(conf))
    assert found(findings) == [("example.com", "mail")]
    assert findings.found[0].path == tmp_path / "mail.private"
    assert not findings.refusals


@pytest.mark.parametrize("domains", ["csl:example.com, example.org", "example.com,example.org"])
def test_a_simple_configuration_has_one_key_for_its_domains(tmp_path: Path, domains: str) -> None:
    """Domain, Selector, KeyFile; SubDomains becomes rules."""
    conf = tmp_path / "opendkim.conf"
    conf.write_text(f"Domain {domains}\nSelector mail\nKeyFile /k\nSubDomains yes\n")
    findings = opendkim.read(str(conf))
    assert found(findings) == [("example.com", "mail"), ("example.org", "mail")]
    assert ("*@.example.org", "example.org") in rules(findings)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        pytest.param("Mode v\n", "does not say Domain or Selector or KeyFile", id="verifier"),
        pytest.param("Domain example.com\nKeyFile /k\n", "does not say Selector", id="no-selector"),
        pytest.param("KeyTable csl:k\n", "no SigningTable", id="no-signing-table"),
        pytest.param("KeyTable dsn:x\nSigningTable /x\n", "SQL database", id="sql"),
        pytest.param("KeyTable /a\nKeyTable /b\n", "more than once", id="twice"),
        pytest.param("KeyTable /nowhere/k\nSigningTable /x\n", "no such file", id="missing-table"),
    ],
)
def test_a_configuration_without_usable_keys_is_refused(
    tmp_path: Path, text: str, word: str
) -> None:
    """One sentence."""
    conf = tmp_path / "opendkim.conf"
    conf.write_text(text)
    findings = opendkim.read(str(conf))
    assert not findings.found
    assert word in findings.refusals[0].sentence


def test_an_include_of_itself_ends(tmp_path: Path) -> None:
    """Five levels, then it is refused."""
    conf = tmp_path / "opendkim.conf"
    conf.write_text("Include opendkim.conf\n" * 20)
    assert "levels deep" in opendkim.read(str(conf)).refusals[0].sentence


def _base64(path: Path) -> str:
    return "".join(path.read_text().splitlines()[1:-1])


def _one_line(between: str) -> Callable[[Path], str]:
    return lambda path: path.read_text().strip().replace("\n", between)


INLINE: list[Any] = [
    pytest.param(_base64, id="base64-der"),
    pytest.param(_one_line("\\n"), id="pem-with-backslash-n"),
    pytest.param(_one_line(" "), id="pem-with-spaces"),
    pytest.param(_one_line(""), id="pem-run-together"),
]


@pytest.mark.parametrize("text_of", INLINE)
def test_a_key_in_the_table_itself_is_read(
    tmp_path: Path, genkey: Path, text_of: Callable[[Path], str]
) -> None:
    """And never shown."""
    findings = read(tmp_path, f"k example.com:mail:{text_of(genkey)}\n", "*@example.com k\n")
    (one,) = findings.found
    assert keyring.fingerprint(private.read(one)) == keyring.fingerprint(key_file.read(genkey))
    assert _base64(genkey)[20:40] not in repr(findings)


def test_opendkim_takes_base64_in_the_table_as_we_do(
    tmp_path: Path,
    sign_with_opendkim: Callable[..., bytes],
    passes: Callable[..., list[tuple[str, str, str]]],
    records_of: Callable[..., dict[str, bytes]],
) -> None:
    """The daemon cuts longer lines, so its keys there are small; PEM in one line it cannot read."""
    small = tmp_path / "small.private"
    command = ["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"]
    small.write_bytes(subprocess.run(command, capture_output=True, check=True).stdout)
    key_table(tmp_path, f"k example.com:mail:{_base64(small)}\n")
    (tmp_path / "SigningTable").write_text("*@example.com k\n")
    signed = sign_with_opendkim(
        f"KeyTable {tmp_path}/KeyTable\nSigningTable refile:{tmp_path}/SigningTable"
    )
    records = records_of({"mail._domainkey.example.com": small})
    assert passes(signed, records) == [("example.com", "mail", "pass")]


def test_opendkim_and_we_agree_which_key_signs(
    tmp_path: Path,
    genkey: Path,
    sign_with_opendkim: Callable[..., bytes],
    passes: Callable[..., list[tuple[str, str, str]]],
    records_of: Callable[..., dict[str, bytes]],
) -> None:
    """The daemon with the same tables: comments, repeated names, upper case, `%`, first match."""
    keys = f"k %:Mail:{genkey} # comment\nk example.org:second:{genkey}\n"
    findings = read(tmp_path, keys, "*@example.com k\n*@example.com other\n")
    assert found(findings) == [("example.com", "mail")]
    tables = f"KeyTable {tmp_path}/KeyTable\nSigningTable refile:{tmp_path}/SigningTable"
    (tmp_path / "SigningTable").write_text("*@example.com k\n")
    signed = sign_with_opendkim(tables)
    records = records_of({"mail._domainkey.example.com": genkey})
    assert passes(signed, records) == [("example.com", "Mail", "pass")]
