"""dkimpy-milter.conf: two algorithms side by side, with key files or with tables."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from carbonseal.keys.takeover import dkimpy_milter, private
from carbonseal.keys.takeover.found import Findings, Signs
from carbonseal.policies import errors


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two keys as dkimpy's dknewkey makes them."""
    here = tmp_path_factory.mktemp("dknewkey")
    tool = Path(sys.executable).with_name("dknewkey")
    subprocess.run([tool, here / "r"], check=True, capture_output=True)
    subprocess.run([tool, "--ktype", "ed25519", here / "e"], check=True, capture_output=True)
    return here


def read(tmp_path: Path, text: str, signing_table: str | None = None) -> Findings:
    conf = tmp_path / "dkimpy-milter.conf"
    conf.write_text(text)
    return dkimpy_milter.read(str(conf), signing_table)


def test_two_key_files_are_two_keys(tmp_path: Path, folder: Path) -> None:
    """RSA as PEM, Ed25519 as the base64 of its seed."""
    findings = read(
        tmp_path,
        f"Domain example.com\nSelector r\nKeyFile {folder}/r.key # RSA\n"
        f"SelectorEd25519 e\nKeyFileEd25519 {folder}/e.key\nMode s\n",
    )
    one, other = findings.found
    assert (one.sdid, one.selector, other.selector) == ("example.com", "r", "e")
    assert isinstance(private.read(one), rsa.RSAPrivateKey)
    assert isinstance(private.read(other), ed25519.Ed25519PrivateKey)
    assert not findings.refusals
    assert not findings.proposal


def test_a_key_of_the_other_algorithm_is_not_taken(tmp_path: Path, folder: Path) -> None:
    """KeyFile with an Ed25519 seed would fail there, so it is not what signs."""
    (one,) = read(tmp_path, f"Domain example.com\nSelector r\nKeyFile {folder}/e.key\n").found
    with pytest.raises(errors.DataError, match="rsa-sha256"):
        private.read(one)


def test_both_tables_go_with_one_signing_table(tmp_path: Path) -> None:
    """Each line of it is reported once, and names the key last."""
    (tmp_path / "kt").write_text("a example.com:r:/r\nb example.org:r:/r2\n")
    (tmp_path / "ke").write_text("a example.com:e:/e\n")
    (tmp_path / "st").write_text("*@example.com @example.com:a\n*@example.org b\n% c\n")
    findings = read(
        tmp_path,
        f"KeyTable {tmp_path}/kt\nKeyTableEd25519 file:{tmp_path}/ke\nSigningTable {tmp_path}/st\n",
    )
    assert [(one.sdid, one.selector, one.signs) for one in findings.found] == [
        ("example.com", "r", Signs.YES),
        ("example.org", "r", Signs.YES),
        ("example.com", "e", Signs.YES),
    ]
    assert [rule.author for rule in findings.rules] == ["*@example.com", "*@example.org"]
    assert [one.source.rpartition("/")[2] for one in findings.refusals] == ["st:3"]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        pytest.param("Mode v\n", "names no key", id="verifier"),
        pytest.param("KeyTable csl:k\n", "no SigningTable", id="no-signing-table"),
        pytest.param("KeyTableEd25519 db:/x\nSigningTable csl:x\n", "Berkeley DB", id="db"),
        pytest.param("SelectorEd25519 e\nDomain example.com\n", "KeyFileEd25519", id="half"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path: Path, text: str, word: str) -> None:
    """One sentence."""
    findings = read(tmp_path, text)
    assert not findings.found
    assert word in findings.refusals[0].sentence
