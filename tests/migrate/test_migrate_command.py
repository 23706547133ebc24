"""`carbonseal migrate`: what it refuses, what it lists, and that it changes nothing unasked."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carbonseal.keys import keyring, store
from carbonseal.keys.takeover.dataset import Entry
from carbonseal.milter import cli, config
from carbonseal.milter.migrate import clients, opendkim
from carbonseal.policies import errors

EXAMPLES = Path("/usr/share/doc/opendkim/examples")
PACKAGED = Path("/etc/opendkim.conf")


def command(*arguments: str | Path) -> tuple[int, str, str]:
    """`carbonseal ...` in this process."""
    out, aside = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(aside):
        try:
            cli.main(list(map(str, arguments)))
        except SystemExit as leaving:
            status = int(leaving.code or 0)
    return status, out.getvalue(), aside.getvalue()


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private key as opendkim-genkey leaves it."""
    folder = tmp_path_factory.mktemp("genkey")
    subprocess.run(["opendkim-genkey", "-b", "2048", "-s", "mail", "-D", folder], check=True)
    return folder / "mail.private"


@pytest.fixture
def old(tmp_path: Path, key: Path) -> Callable[..., Path]:
    """A configuration file; @ stands for its directory, where the key is."""
    folder = tmp_path / "old"
    folder.mkdir()
    shutil.copy(key, folder / "mail.key")

    def write(text: str, **files: str) -> Path:
        for name, content in files.items():
            (folder / name).write_text(content.replace("@", str(folder)))
        path = folder / "opendkim.conf"
        path.write_text(text.replace("@", str(folder)))
        return path

    return write


SIMPLE = "Domain example.com\nSelector mail\nKeyFile @/mail.key\n"


def test_without_a_target_nothing_is_written(old: Callable[..., Path], tmp_path: Path) -> None:
    """The configuration is on standard output, ready to be read; the keys stay where they are."""
    status, out, aside = command(
        "migrate", "opendkim", "--from", old(SIMPLE), "--keys", tmp_path / "k"
    )
    assert status == 0, aside
    assert "nothing changed" in aside
    assert not (tmp_path / "k").exists()
    assert 'domains: ["example.com"]' in out


def test_a_dry_run_checks_everything_and_writes_nothing(
    old: Callable[..., Path], tmp_path: Path
) -> None:
    """Even with a target."""
    new = tmp_path / "new"
    status, _, aside = command(
        "migrate", "opendkim", "--from", old(SIMPLE), "--to", new, "--dry-run"
    )
    assert status == 0
    assert "dry run: nothing changed" in aside
    assert not new.exists()


def test_keys_are_copied_sign_at_once_and_are_closed_to_others(
    old: Callable[..., Path], tmp_path: Path
) -> None:
    """The file in use stays; ours is private; the history says where it came from."""
    conf = old(SIMPLE)
    new = tmp_path / "new"
    status, _, aside = command("migrate", "opendkim", "--from", conf, "--to", new)
    assert status == 0, aside
    ring = keyring.load(new / "keys")
    assert [(one.facts.sdid, one.facts.selector) for one in ring.signing_keys("example.com")] == [
        ("example.com", "mail")
    ]
    private = new / "keys" / "example.com" / "mail.pem"
    assert stat.S_IMODE(private.stat().st_mode) & 0o077 == 0
    assert (conf.parent / "mail.key").exists()
    record = store.Store(new / "keys").find("example.com", "mail")
    assert str(conf) in record.history[0].why


@pytest.mark.parametrize("way", ["--to", "--config", "before"])
def test_a_configuration_that_is_there_is_never_overwritten(
    old: Callable[..., Path], tmp_path: Path, way: str
) -> None:
    """It is complained of before a key is copied, whichever way it is named."""
    path = tmp_path / "carbonseal.yaml"
    path.write_text("mine\n")
    keys = tmp_path / "keys"
    ours = ["--from", old(SIMPLE), "--keys", keys]
    arguments = {
        "--to": ["migrate", "opendkim", *ours, "--to", tmp_path],
        "--config": ["migrate", "opendkim", *ours, "--config", path],
        "before": ["--config", path, "migrate", "opendkim", *ours],
    }[way]
    status, out, aside = command(*arguments)
    assert (status, out) == (64, "")
    assert "is not overwritten" in aside
    assert path.read_text() == "mine\n"
    assert not keys.exists()


def test_the_named_configuration_is_written_and_valid(
    old: Callable[..., Path], tmp_path: Path
) -> None:
    """--config before the command names the target, too."""
    path = tmp_path / "carbonseal.yaml"
    status, _, aside = command(
        "--config", path, "migrate", "opendkim", "--from", old(SIMPLE), "--keys", tmp_path / "k"
    )
    assert status == 0, aside
    assert config.load(path).keys_directory == tmp_path / "k"


def test_beside_begins_as_a_dry_run(old: Callable[..., Path], tmp_path: Path) -> None:
    """And config check says so."""
    new = tmp_path / "new"
    command("migrate", "opendkim", "--from", old(SIMPLE), "--to", new, "--beside")
    _, out, _ = command("--config", new / "carbonseal.yaml", "config", "check")
    assert "DRY RUN" in out


# --- Samples -------------------------------------------------------------------------------------


def test_the_packaged_configuration_migrates_once_a_domain_is_named() -> None:
    """It verifies only: there is no key, and nobody says whose domains are ours."""
    status, _, aside = command("migrate", "opendkim", "--from", PACKAGED)
    assert status == 65
    assert "--domain" in aside
    status, out, aside = command(
        "migrate", "opendkim", "--from", PACKAGED, "--domain", "example.com"
    )
    assert status == 0, aside
    assert "sdid: null" in out
    assert "TrustAnchorFile" in aside


@pytest.mark.parametrize("name", ["opendkim.conf.sample", "opendkim.conf.simple"])
def test_the_samples_migrate(
    old: Callable[..., Path], tmp_path: Path, key: Path, name: str
) -> None:
    """As they are, the key they name is missing, which is said; with it, they are taken over."""
    sample = EXAMPLES / name
    text = sample.read_text().replace("localhost\n", "localhost.example\n")
    conf = old(text)
    status, _, aside = command("migrate", "opendkim", "--from", conf, "--to", tmp_path / "a")
    assert status == 65
    assert "there is no such file" in aside
    assert not (tmp_path / "a").exists()
    lines = [f"KeyFile {key}" if line.startswith("KeyFile") else line for line in text.splitlines()]
    conf = old("\n".join(lines) + "\n")
    status, _, aside = command("migrate", "opendkim", "--from", conf, "--to", tmp_path / "b")
    assert status == 0, aside
    assert command("--config", tmp_path / "b" / "carbonseal.yaml", "config", "check")[0] == 0


# --- What cannot be taken over -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "word"),
    [
        pytest.param("KeyTable db:/k.db\nSigningTable file:/s\n", "Berkeley DB", id="db"),
        pytest.param("KeyTable dsn:x\nSigningTable /s\n", "SQL database", id="sql"),
        pytest.param("KeyTable ldap://x\nSigningTable /s\n", "LDAP directory", id="ldap"),
        pytest.param("KeyTable /k\n", "no such file", id="missing-table"),
        pytest.param(SIMPLE + "InternalHosts db:/h\n", "Berkeley DB", id="hosts-in-a-db"),
        pytest.param(SIMPLE + "InternalHosts /nowhere\n", "no such file", id="no-hosts"),
        pytest.param(SIMPLE + "Canonicalization loose\n", "none of relaxed", id="form"),
        pytest.param(SIMPLE + "SignatureTTL soon\n", "number of seconds", id="ttl"),
        pytest.param(SIMPLE + "Mode s\nMode v\n", "more than once", id="twice"),
        pytest.param(SIMPLE + "Include /etc\n", "no regular file", id="include-of-a-directory"),
        pytest.param("Domain example.com\nSelector m\nKeyFile /x\n", "no such file", id="no-key"),
        pytest.param("Mode v\n", "--domain", id="verifier"),
        pytest.param("\x00\xff{}[]\n", "--domain", id="octets"),
    ],
)
def test_bad_input_is_one_sentence_and_changes_nothing(
    old: Callable[..., Path], tmp_path: Path, text: str, word: str
) -> None:
    """With the place and what to do."""
    status, out, aside = command(
        "migrate", "opendkim", "--from", old(text), "--to", tmp_path / "new"
    )
    assert (status, out) == (65, "")
    assert word in aside
    assert aside.count("\n") == 1
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("place", ["/dev/zero", "fifo", "huge", "missing", "."])
def test_a_hostile_file_is_refused_at_once(tmp_path: Path, place: str) -> None:
    """No waiting, no memory without end."""
    os.mkfifo(tmp_path / "fifo")
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 40)
    status, _, aside = command("migrate", "opendkim", "--from", tmp_path / place)
    assert status == 65, aside


def test_what_has_no_equal_is_listed_with_what_to_do(
    old: Callable[..., Path], tmp_path: Path
) -> None:
    """Each with its line; what decides who signs comes with a remedy."""
    conf = old(
        SIMPLE + "DontSignMailTo lists@example.com\nMultipleSignatures yes\nSenderHeaders Sender\n"
        "SignatureTTL 3600\nStatistics /x\nFixCRLF no\nBogus parameter\n"
        "InternalHosts csl:10.1.2.3/8,desk.example.com,0.0.0.0/0,10.0.0.0/8,!10.9.0.0/16\n"
        "On-InternalError accept\nOn-SignatureError tempfail\nOversignHeaders From,X-Ours\n"
        "SignHeaders *,+X-More,+Received\nOmitHeaders Reply-To\n"
    )
    status, out, aside = command(
        "migrate", "opendkim", "--from", conf, "--to", tmp_path / "new", "--format", "jsonl"
    )
    assert status == 0, aside
    rows = {(row["what"], row["outcome"]) for row in map(json.loads, out.splitlines())}
    for name in ("DontSignMailTo", "MultipleSignatures", "SenderHeaders", "bogus", "InternalHosts"):
        assert (name, "has no equal here") in rows
    assert not [what for what, _ in rows if what == "FixCRLF"]
    made = config.load(tmp_path / "new" / "carbonseal.yaml").file
    assert "10.0.0.0/13" in made.ours.networks
    assert not any(one.startswith("10.9.") for one in made.ours.networks)
    assert made.signing.expires_after == 3600
    assert made.failure.internal_error == "tempfail"
    assert made.failure.signature_failed == "tempfail"
    assert {"x-ours", "x-more"} <= set(made.signing.oversign)
    assert "x-more" not in made.signing.oversign_absent
    assert "reply-to" not in made.signing.oversign


def test_one_bad_entry_does_not_stop_the_others_and_config_check_asks_for_it(
    old: Callable[..., Path], tmp_path: Path
) -> None:
    """Exit status 2, and a rule for the domain whose key is missing, so that nobody forgets it."""
    conf = old(
        "KeyTable @/keytable\nSigningTable refile:@/signing\n",
        keytable="a example.com:mail:@/mail.key\nb example.org:mail:@/gone.key\n",
        signing="*\x40example.com a\n*\x40example.org b\n".replace("\x40", "\x00"),
    )
    table = conf.parent / "signing"
    table.write_text(table.read_text().replace("\x00", "@"))
    new = tmp_path / "new"
    status, _, _ = command("migrate", "opendkim", "--from", conf, "--to", new)
    assert status == 2
    status, _, aside = command("--config", new / "carbonseal.yaml", "config", "check")
    assert status == 78
    assert "example.org has no active key" in aside


def test_nothing_of_the_old_files_breaks_out_of_a_comment(
    old: Callable[..., Path], tmp_path: Path
) -> None:
    """Whatever stands in them."""
    conf = old(SIMPLE + "InternalHosts csl:a\\nours:,\x1b[31m,x\u2028y:\n\u2028ours: {}\n")
    status, _, aside = command("migrate", "opendkim", "--from", conf, "--to", tmp_path / "new")
    assert status == 0, aside
    assert config.load(tmp_path / "new" / "carbonseal.yaml").file.ours.networks == []


# --- Lists of hosts ------------------------------------------------------------------------------


def networks(*names: str, trust: bool = False, strict: bool = True) -> tuple[str, ...]:
    entries = [Entry("hosts:1", name, "") for name in names]
    return clients.read(entries, "H", trust_loopback=trust, is_strict=strict).networks


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        pytest.param(
            ("192.0.2.1", "[2001:db8::1]"), ("192.0.2.1/32", "2001:db8::1/128"), id="hosts"
        ),
        pytest.param(("192.0.2.0/255.255.255.0",), ("192.0.2.0/24",), id="mask"),
        pytest.param(("127.0.0.1", "::1", "localhost", "127.0.0.0/8"), (), id="loopback"),
        pytest.param(("0.0.0.0/0", "::/0"), (), id="everybody"),
        pytest.param(("192.0.2", "mail.example.com", ".example.com", "x y"), (), id="names"),
        pytest.param(("192.0.2.5/24",), (), id="bits-behind-the-mask"),
        pytest.param(("192.0.2.0/31", "!192.0.2.1"), ("192.0.2.0/32",), id="exception"),
        pytest.param(("!192.0.2.0/24", "192.0.2.1"), ("192.0.2.1/32",), id="more-precise"),
        pytest.param(("!192.0.2.1", "192.0.2.1"), ("192.0.2.1/32",), id="the-same"),
    ],
)
def test_hosts_become_networks(names: tuple[str, ...], expected: tuple[str, ...]) -> None:
    """Addresses and networks; never a name, loopback or everybody."""
    assert networks(*names) == expected


def test_loopback_is_taken_over_on_the_explicit_word_only() -> None:
    """With it comes mail of sendmail(1)."""
    entries = [Entry("hosts:1", "127.0.0.1", "")]
    known = clients.read(entries, "H", trust_loopback=True)
    assert (known.networks, known.local_submission) == (("127.0.0.1/32",), True)


def test_a_list_without_end_is_refused() -> None:
    """And so are exceptions that would cut it into too many."""
    with pytest.raises(errors.DataError, match="more than"):
        networks(*["192.0.2.1"] * (clients.MAX_ENTRIES + 1))
    with pytest.raises(errors.DataError, match="exceptions"):
        networks(*[f"!10.0.0.{n}" for n in range(250)])


@given(st.lists(st.text(max_size=30), max_size=20))
def test_any_list_of_hosts_is_networks_or_notes(names: list[str]) -> None:
    """Nothing is lost in silence, and nothing else is raised."""
    entries = [Entry("hosts:1", name, "") for name in names]
    known = clients.read(entries, "H", trust_loopback=False)
    assert not any(one.startswith(("127.", "::1/")) for one in known.networks)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=300))
def test_any_text_is_a_plan_or_one_sentence(tmp_path: Path, text: str) -> None:
    """As opendkim.conf."""
    path = tmp_path / "opendkim.conf"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with contextlib.suppress(errors.CarbonsealError):
        opendkim.read(path, trust_loopback=False)
