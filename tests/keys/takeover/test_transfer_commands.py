"""`keys export` and `keys import-from`: other signers sign with what we write, nothing is lost."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dkim
import pytest
import yaml
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from carbonseal.keys import dns_record, generate, keyring, store, transfer_commands
from carbonseal.keys.key_record import Origin
from carbonseal.keys.takeover import hand_over
from carbonseal.policies import errors, signing

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
ACTIVATE = ("--activate", "--assume-published")


@dataclass
class Settings:
    """What `milter.cli` puts into the context."""

    keys_directory: Path


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path / "keys")


@pytest.fixture
def filled(
    settings: Settings, rsa_private: rsa.RSAPrivateKey, ed25519_private: ed25519.Ed25519PrivateKey
) -> Settings:
    """Two active keys of example.com: r and e."""
    shelf = store.Store(settings.keys_directory)
    for selector, private in (("r", rsa_private), ("e", ed25519_private)):
        record = generate.new_record(
            private, "example.com", selector, origin=Origin.GENERATED, at=NOW, why="test"
        )
        with shelf.writing("example.com") as writer:
            writer.add(record, generate.private_pem(private))
            writer.activate(record, at=NOW, why="test", assumed=True)
    return settings


def run(settings: Settings, command: Any, *arguments: str | Path) -> Result:
    return CliRunner().invoke(
        command,
        [str(one) for one in arguments],
        obj=settings,
        catch_exceptions=False,
        standalone_mode=False,
    )


def export(settings: Settings, *arguments: str | Path) -> Result:
    return run(settings, transfer_commands.export_keys, "example.com", *arguments)


def take_over(settings: Settings, *arguments: str | Path) -> Result:
    return run(settings, transfer_commands.import_tables, *arguments)


def fingerprints(settings: Settings) -> dict[str, str]:
    shelf = store.Store(settings.keys_directory)
    return {
        record.dns_name: record.fingerprint
        for lineage in shelf.lineages()
        for record in lineage.records
    }


def active(settings: Settings) -> list[str]:
    lineage = store.Store(settings.keys_directory).lineage("example.com")
    return [record.selector for record in store.active(lineage.records)]


def records(settings: Settings) -> dict[str, bytes]:
    lineage = store.Store(settings.keys_directory).lineage("example.com")
    return {key.dns_name: dns_record.value(key.public_key).encode() for key in lineage.records}


@pytest.mark.parametrize(
    ("form", "signer", "place", "selectors"),
    [
        pytest.param("opendkim", "opendkim", "opendkim.conf", ["r"], id="opendkim-conf"),
        pytest.param("opendkim", "opendkim", "KeyTable", ["r"], id="opendkim-table"),
        pytest.param("opendkim", "directory", ".", ["r"], id="opendkim-files"),
        pytest.param("rspamd", "rspamd", "dkim_signing.conf", ["r", "e"], id="rspamd-conf"),
        pytest.param("rspamd", "directory", ".", ["r", "e"], id="rspamd-files"),
        pytest.param("dkimpy", "dkimpy-milter", "dkimpy-milter.conf", ["r", "e"], id="dkimpy-conf"),
        pytest.param("dkimpy", "directory", ".", ["r", "e"], id="dkimpy-files"),
        pytest.param("pem", "directory", ".", ["r", "e"], id="pem-files"),
    ],
)
def test_what_is_exported_can_be_imported(
    filled: Settings, tmp_path: Path, form: str, signer: str, place: str, selectors: list[str]
) -> None:
    """The same keys under the same names, in every form and by every way in."""
    export(filled, "--to", tmp_path / "out", "--form", form, "--with-private-keys")
    other = Settings(tmp_path / "other")
    done = take_over(other, signer, tmp_path / "out" / place, *ACTIVATE)
    assert done.return_value == 0, done.stdout
    expected = fingerprints(filled)
    assert fingerprints(other) == {
        f"{name}._domainkey.example.com": expected[f"{name}._domainkey.example.com"]
        for name in selectors
    }
    assert active(other) == selectors


def test_opendkim_signs_with_the_exported_tables(
    filled: Settings,
    tmp_path: Path,
    sign_with_opendkim: Callable[..., bytes],
    passes: Callable[..., list[tuple[str, str, str]]],
) -> None:
    """The daemon reads our opendkim.conf lines, and an independent verifier accepts the result."""
    export(filled, "--to", tmp_path / "out", "--form", "opendkim", "--with-private-keys")
    signed = sign_with_opendkim((tmp_path / "out" / "opendkim.conf").read_text())
    assert passes(signed, records(filled)) == [("example.com", "r", "pass")]


def test_opendkim_signs_with_an_exported_ed25519_key(
    filled: Settings,
    tmp_path: Path,
    sign_with_opendkim: Callable[..., bytes],
    passes: Callable[..., list[tuple[str, str, str]]],
) -> None:
    """By itself, because OpenDKIM has one algorithm for all keys; the export says so."""
    both = export(filled, "--to", tmp_path / "both", "--form", "opendkim")
    assert "e._domainkey.example.com is left out" in both.stderr
    export(filled, "e", "--to", tmp_path / "out", "--form", "opendkim", "--with-private-keys")
    signed = sign_with_opendkim((tmp_path / "out" / "opendkim.conf").read_text())
    assert passes(signed, records(filled)) == [("example.com", "e", "pass")]


def test_rspamd_signs_with_the_exported_configuration(
    filled: Settings,
    tmp_path: Path,
    sign_with_rspamd: Callable[..., bytes],
    passes: Callable[..., list[tuple[str, str, str]]],
) -> None:
    """Both algorithms."""
    export(filled, "--to", tmp_path / "out", "--form", "rspamd", "--with-private-keys")
    signed = sign_with_rspamd((tmp_path / "out" / "dkim_signing.conf").read_text())
    assert sorted(passes(signed, records(filled))) == [
        ("example.com", "e", "pass"),
        ("example.com", "r", "pass"),
    ]


def test_dkimpy_signs_with_the_exported_keys(
    filled: Settings, tmp_path: Path, passes: Callable[..., list[tuple[str, str, str]]]
) -> None:
    """In the forms dkimpy and dkimpy-milter pass on as they stand in the file."""
    export(filled, "--to", tmp_path / "out", "--form", "dkimpy", "--with-private-keys")
    message = b"From: alice@example.com\r\nSubject: hello\r\n\r\nHello.\r\n"
    for selector, algorithm in (("r", b"rsa-sha256"), ("e", b"ed25519-sha256")):
        key = (tmp_path / "out" / f"example.com.{selector}.key").read_bytes()
        field = dkim.sign(
            message, selector.encode(), b"example.com", key, signature_algorithm=algorithm
        )
        assert passes(field + message, records(filled)) == [("example.com", selector, "pass")]


def test_private_keys_are_written_only_on_the_word(filled: Settings, tmp_path: Path) -> None:
    """And then 0600 in a directory of 0700; standard output has none either way."""
    for form in hand_over.FORMS:
        bare, full = tmp_path / f"{form}-bare", tmp_path / f"{form}-full"
        one = export(filled, "--to", bare, "--form", form)
        assert "--with-private-keys" in one.stderr
        assert not [path for path in bare.iterdir() if b"PRIVATE" in path.read_bytes()]
        assert {path.suffix for path in bare.iterdir()} <= {"", ".txt", ".conf"}
        two = export(filled, "--to", full, "--form", form, "--with-private-keys", "--json")
        private = [row for line in two.stdout.splitlines() if (row := json.loads(line))["private"]]
        assert private
        for row in private:
            path = Path(row["file"])
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert path.read_text().splitlines()[-2:][0][:30] not in one.output + two.output
        assert stat.S_IMODE(full.stat().st_mode) == 0o700


def test_an_export_overwrites_nothing(filled: Settings, tmp_path: Path) -> None:
    """The directory must be empty or missing, and is left as it was."""
    folder = tmp_path / "out"
    folder.mkdir()
    export(filled, "--to", folder, "--form", "pem")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(errors.DataError, match="not empty"):
        export(filled, "--to", folder, "--form", "pem", "--with-private-keys")
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    "place",
    [
        pytest.param("with space", id="space"),
        pytest.param("per%cent", id="percent-is-the-author-domain"),
        pytest.param("ha#sh", id="hash-is-a-comment"),
        pytest.param('quo"te', id="quote"),
        pytest.param("co:lon", id="colon"),
        pytest.param("dol$lar", id="dollar-is-a-variable"),
    ],
)
def test_a_path_that_tables_would_misread_is_refused(
    filled: Settings, tmp_path: Path, place: str
) -> None:
    """Before anything is written; --installed-in says where the files will be."""
    with pytest.raises(errors.DataError, match="--installed-in"):
        export(filled, "--to", tmp_path / place, "--form", "opendkim")
    assert not (tmp_path / place).exists()
    export(filled, "--to", tmp_path / place, "--form", "opendkim", "--installed-in", "/etc/dkim")
    assert "/etc/dkim/" in (tmp_path / place / "KeyTable").read_text()


def test_a_domain_without_active_keys_is_told(settings: Settings, tmp_path: Path) -> None:
    """Nothing is made."""
    settings.keys_directory.mkdir(mode=0o700)
    with pytest.raises(errors.NotFound, match="no key signs"):
        export(settings, "--to", tmp_path / "out", "--form", "pem")
    assert not (tmp_path / "out").exists()


def test_the_report_lists_what_was_taken_and_what_not(
    settings: Settings, genkey: Path, tmp_path: Path
) -> None:
    """Status 2, a sentence for what was refused, then the rules that are needed."""
    (tmp_path / "KeyTable").write_text(
        f"a example.com:mail:{genkey}\nb example.org:s:/nowhere/key\n"
    )
    (tmp_path / "SigningTable").write_text(
        "alice@example.com a\n*@*.example.com a\n*@example.org b\n"
    )
    done = take_over(
        settings,
        "opendkim",
        tmp_path / "KeyTable",
        "--signing-table",
        f"refile:{tmp_path}/SigningTable",
        *ACTIVATE,
    )
    assert done.return_value == 2
    assert "there is no such file" in done.stdout
    assert active(settings) == ["mail"]
    table, _, proposal = done.stdout.partition("# who is signed")
    assert "taken" in table
    section = yaml.safe_load("# " + proposal)["signing"]
    assert section["rules"] == [
        {"author": "alice@example.com", "sdid": "example.com"},
        {"author": "*@.example.com", "sdid": "example.com"},
        {"author": "*@example.org", "sdid": "example.org"},
        {"author": "*", "sdid": None},
    ]
    for rule in section["rules"]:
        signing.AuthorPattern.parse(rule["author"])


def test_a_second_import_is_all_here_already(settings: Settings, genkey_folder: Path) -> None:
    """Status 0 both times."""
    first = take_over(settings, "directory", genkey_folder, "--json")
    before = fingerprints(settings)
    second = take_over(settings, "directory", genkey_folder, "--json")
    assert [json.loads(done.stdout)["outcome"] for done in (first, second)] == [
        "taken",
        "already here",
    ]
    assert (first.return_value, second.return_value) == (0, 0)
    assert fingerprints(settings) == before


def test_data_for_programs_is_not_mixed_with_rules(
    settings: Settings, genkey: Path, tmp_path: Path
) -> None:
    """The proposal goes to standard error then."""
    conf = tmp_path / "opendkim.conf"
    conf.write_text(f"Domain example.com\nSelector mail\nKeyFile {genkey}\nSubDomains yes\n")
    done = take_over(settings, "opendkim", conf, "--json", "--dry-run")
    (row,) = map(json.loads, done.stdout.splitlines())
    assert row["outcome"] == "taken"
    assert "*@.example.com" in done.stderr
    assert not settings.keys_directory.exists()


@pytest.mark.parametrize("option", ["--activate", "--assume-published"])
def test_activation_needs_somebody_who_answers_for_the_records(
    settings: Settings, genkey_folder: Path, option: str
) -> None:
    """Both or neither."""
    with pytest.raises(errors.UsageError, match="go together"):
        take_over(settings, "directory", genkey_folder, option)


def test_a_place_without_keys_is_an_error(settings: Settings, tmp_path: Path) -> None:
    """Not an empty success."""
    with pytest.raises(errors.NotFound, match="no key in it"):
        take_over(settings, "directory", tmp_path)


@pytest.mark.parametrize("signer", ["opendkim", "rspamd", "dkimpy-milter", "directory"])
def test_a_place_that_is_not_there_is_an_error(
    settings: Settings, tmp_path: Path, signer: str
) -> None:
    """One sentence that names it, no table with one row."""
    with pytest.raises(errors.DataError, match=r"none\.conf: there is no such file"):
        take_over(settings, signer, tmp_path / "none.conf")


def test_keys_of_dknewkey_sign_after_the_import(settings: Settings, tmp_path: Path) -> None:
    """Ed25519 from its seed file to an active key of the keyring."""
    tool = Path(sys.executable).with_name("dknewkey")
    folder = tmp_path / "example.com"
    folder.mkdir()
    subprocess.run([tool, "--ktype", "ed25519", folder / "s1"], check=True, capture_output=True)
    done = take_over(settings, "directory", tmp_path, *ACTIVATE)
    assert done.return_value == 0, done.stdout
    assert set(keyring.load(settings.keys_directory).sdids) == {"example.com"}
