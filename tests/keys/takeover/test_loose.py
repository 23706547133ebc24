"""Loose key files: taken where their names or companions leave no doubt, else a command to type."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from carbonseal.keys.takeover import loose, private
from carbonseal.keys.takeover.found import Findings
from carbonseal.policies import errors

REMEDY = "keys import SDID SELECTOR --private-key FILE"


def names(findings: Findings) -> list[tuple[str, str]]:
    return [(one.sdid, one.selector) for one in findings.found]


@pytest.mark.parametrize(
    ("file", "sdid", "selector"),
    [
        pytest.param("example.com/mail.private", "example.com", "mail", id="directory-of-sdid"),
        pytest.param("example.com/2026.q1.pem", "example.com", "2026.q1", id="dotted-selector"),
        pytest.param("example.com/example.com.mail.key", "example.com", "mail", id="both"),
        pytest.param("example.co.uk/s1.key", "example.co.uk", "s1", id="three-labels"),
        pytest.param("mail._domainkey.example.com.pem", "example.com", "mail", id="dns-name"),
        pytest.param("example.com.s20261121r.pem", "example.com", "s20261121r", id="digits"),
        pytest.param("example.com.dkim.key", "example.com", "dkim", id="rspamds-default"),
        pytest.param("example.co.uk.mail.private", "example.co.uk", "mail", id="common-word"),
        pytest.param("known.example.odd.key", "known.example", "odd", id="sdid-is-known"),
        pytest.param("odd.known.example.key", "known.example", "odd", id="sdid-is-known-behind"),
    ],
)
def test_names_that_say_it(tmp_path: Path, file: str, sdid: str, selector: str) -> None:
    """Private key files are known by .pem, .key and .private."""
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.touch()
    findings = loose.read(str(tmp_path), known=["known.example"])
    assert names(findings) == [(sdid, selector)]
    assert names(loose.read(str(path), known=["known.example"])) == [(sdid, selector)]


@pytest.mark.parametrize(
    "file",
    [
        pytest.param("mail.private", id="selector-only"),
        pytest.param("example.com.key", id="domain-only"),
        pytest.param("mail.example.com.pem", id="selector-first-or-top-level-last"),
        pytest.param("example.com.berlin.pem", id="a-city-is-a-top-level-domain"),
        pytest.param("0123456789abcdef0123456789abcdef.pem", id="dkim-rotate"),
        pytest.param("keys.old/mail.private", id="directory-is-no-domain"),
        pytest.param("example.com/under_score.key", id="no-selector"),
    ],
)
def test_names_that_leave_a_doubt_are_refused(tmp_path: Path, file: str) -> None:
    """With the command that says it."""
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.touch()
    findings = loose.read(str(tmp_path))
    assert not findings.found
    (refusal,) = findings.refusals
    assert refusal.source == str(path)
    assert REMEDY in refusal.sentence


def test_the_companion_of_opendkim_genkey_says_it(genkey_folder: Path) -> None:
    """And which public key belongs to it."""
    (one,) = loose.read(str(genkey_folder)).found
    assert (one.sdid, one.selector) == ("example.com", "mail")
    assert one.public_key
    private.read(one)


def test_a_companion_with_another_public_key_stops_it(genkey_folder: Path, tmp_path: Path) -> None:
    """Which of the two is published, only a person can find out."""
    shutil.copy(genkey_folder / "mail.txt", tmp_path)
    other = tmp_path / "mail.private"
    command = ["openssl", "genpkey", "-algorithm", "RSA", "-out", other]
    subprocess.run(command, check=True, capture_output=True)
    (one,) = loose.read(str(tmp_path)).found
    with pytest.raises(errors.DataError, match="another public key"):
        private.read(one)


def test_a_companion_that_contradicts_the_directory_is_refused(
    genkey_folder: Path, tmp_path: Path
) -> None:
    """Save for example.com, which opendkim-genkey writes if it was told no domain."""
    for domain in ("example.org", "example.com"):
        folder = tmp_path / domain
        folder.mkdir()
        shutil.copy(genkey_folder / "mail.private", folder)
        text = (genkey_folder / "mail.txt").read_text()
        (folder / "mail.txt").write_text(text.replace("for example.com", "for example.net"))
    assert not loose.read(str(tmp_path)).found
    shutil.copy(genkey_folder / "mail.txt", tmp_path / "example.org")
    assert names(loose.read(str(tmp_path))) == [("example.org", "mail")]


def test_keys_of_dknewkey_are_checked_against_their_dns_file(tmp_path: Path) -> None:
    """NAME.key and NAME.dns, which holds the bare value."""
    tool = Path(sys.executable).with_name("dknewkey")
    base = tmp_path / "example.com.s1"
    subprocess.run([tool, "--ktype", "ed25519", base], check=True, capture_output=True)
    (one,) = loose.read(str(tmp_path)).found
    assert (one.sdid, one.selector) == ("example.com", "s1")
    assert one.public_key
    private.read(one)


def test_a_zone_line_of_rspamadm_completes_the_name(tmp_path: Path) -> None:
    """It names the selector; the file name the rest."""
    key = tmp_path / "example.com.berlin.key"
    command = [
        "rspamadm",
        "dkim_keygen",
        "-d",
        "example.com",
        "-s",
        "berlin",
        "-b",
        "2048",
        "-k",
        key,
    ]
    done = subprocess.run(command, check=True, capture_output=True)
    key.with_suffix(".txt").write_bytes(done.stdout)
    (one,) = loose.read(str(tmp_path)).found
    assert (one.sdid, one.selector) == ("example.com", "berlin")
    private.read(one)


def test_links_fifos_and_other_files(tmp_path: Path, genkey: Path) -> None:
    """Nothing waits, links are named, and a key with a strange name is not passed over."""
    (tmp_path / "example.com.s1.key").symlink_to(genkey)
    (tmp_path / "elsewhere").symlink_to(genkey.parent, target_is_directory=True)
    os.mkfifo(tmp_path / "queue")
    shutil.copy(genkey, tmp_path / "dkimkey")
    (tmp_path / "README").write_text("about keys")
    findings = loose.read(str(tmp_path))
    assert not findings.found
    assert {Path(one.source).name for one in findings.refusals} == {"dkimkey", "example.com.s1.key"}


def test_a_fifo_with_the_name_of_a_key_does_not_block(tmp_path: Path) -> None:
    """It is found, and refused when it is read."""
    os.mkfifo(tmp_path / "example.com.s1.key")
    (one,) = loose.read(str(tmp_path)).found
    with pytest.raises(errors.DataError, match="no regular file"):
        private.read(one)
