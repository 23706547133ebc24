"""`carbonseal keys`: what a person types and gets; errors change nothing."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from carbonseal.keys import commands, generate, key_size, keyring, orders, selector_names, store
from carbonseal.keys.publication.settings import DnsSettings
from carbonseal.policies import errors, rotation

PUBLISHED = "--assume-published"
READS_ONLY = ("list", "show", "check", "hosts", "plan", "status", "history", "export")


@dataclass
class Settings:
    """What `milter.cli` puts into the context."""

    keys_directory: Path
    dns: DnsSettings = field(default_factory=DnsSettings)
    rotation: rotation.Rules = field(default_factory=rotation.Rules)
    relay: str = "relay.example.com"
    postfix_directory: Path | None = None
    selectors: str = selector_names.SELECTOR_TEMPLATE
    bits: int = key_size.DEFAULT_BITS
    relay_commands: dict[str, list[str]] = field(default_factory=dict)
    domains: tuple[str, ...] = ("example.com",)

    def names_domain(self, sdid: str) -> bool:
        """As the configuration would."""
        return sdid in self.domains

    @property
    def spool_directory(self) -> Path:
        """Where no worker runs."""
        return self.keys_directory.with_name("spool")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """An empty place for keys."""
    return Settings(tmp_path / "keys")


def run(settings: Settings, *arguments: str) -> Result:
    return CliRunner().invoke(commands.keys, list(arguments), obj=settings, catch_exceptions=False)


def rows(settings: Settings, *arguments: str) -> list[dict[str, Any]]:
    done = run(settings, *arguments, "--format", "jsonl")
    return [json.loads(line) for line in done.stdout.splitlines()]


def tree(settings: Settings) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in settings.keys_directory.rglob("*") if p.is_file()}


def test_generate_prints_the_record_and_signs_nothing_yet(settings: Settings) -> None:
    """Create is not activate."""
    page = run(settings, "generate", "Example.COM").stdout
    (row,) = rows(settings, "list")
    assert re.fullmatch(r"s\d{8}r", row["selector"])
    assert (row["sdid"], row["stage"], row["bits"]) == ("example.com", "generated", 2048)
    assert f"{row['selector']}._domainkey.example.com. IN TXT (" in page
    assert '"v=DKIM1; k=rsa; h=sha256; p=' in page
    assert not keyring.load(settings.keys_directory).sdids


def test_generate_twice_on_one_day_gives_two_selectors(settings: Settings) -> None:
    """The second gets a number."""
    first, second = (
        rows(settings, "generate", "example.com", "--algorithm", "ed25519")[0]["selector"]
        for _ in range(2)
    )
    assert second == first + "2"


def test_generate_and_activate_rotates(settings: Settings) -> None:
    """The previous key of the algorithm is retired in the same step."""
    for selector in ("a", "b"):
        run(settings, "generate", "example.com", "--selector", selector, "--activate", PUBLISHED)
    stages = {row["selector"]: row["stage"] for row in rows(settings, "list", "example.com")}
    assert stages == {"a": "retiring", "b": "active"}


def test_import_puts_an_existing_key_to_work_at_once(
    settings: Settings, tmp_path: Path, rsa_private: Any
) -> None:
    """The migration in one command; the key in the store is the key in the file."""
    path = tmp_path / "mail.private"
    path.write_bytes(generate.private_pem(rsa_private))
    (row,) = rows(
        settings,
        "import",
        "example.com",
        "Mail",
        "--private-key",
        str(path),
        PUBLISHED,
        "--activate",
    )
    assert (row["selector"], row["stage"], row["origin"]) == ("mail", "active", "imported")
    assert row["assumed_published"] is True
    assert row["fingerprint"] == keyring.fingerprint(rsa_private)
    (key,) = keyring.load(settings.keys_directory).signing_keys("example.com")
    assert key.fingerprint == keyring.fingerprint(rsa_private)
    assert path.exists()


def test_show_gives_value_strings_and_zone_text(settings: Settings) -> None:
    """Programs get the pieces, people the page; no private key in either."""
    run(settings, "generate", "example.com", "--selector", "a", "--activate", PUBLISHED)
    (row,) = rows(settings, "show", "example.com")
    assert "".join(row["dns_strings"]) == row["dns_value"]
    assert row["dns_name"] == "a._domainkey.example.com"
    page = run(settings, "show", "example.com", "A").stdout
    assert row["dns_value"] in page
    assert row["zone_text"] in page
    assert "history:" in page
    assert "PRIVATE" not in page


def test_weak_and_unusual_keys_come_with_a_warning(settings: Settings, tmp_path: Path) -> None:
    """On standard error, so that data stays data."""
    from cryptography.hazmat.primitives.asymmetric import rsa  # noqa: PLC0415

    path = tmp_path / "weak.pem"
    path.write_bytes(generate.private_pem(rsa.generate_private_key(65537, 1024)))
    done = run(settings, "import", "example.com", "old", "--private-key", str(path))
    assert "1024 bits is weak" in done.stderr
    done = run(settings, "generate", "example.com", "--algorithm", "ed25519")
    assert "many receivers do not verify Ed25519" in done.stderr
    done = run(settings, "generate", "example.com", "--bits", "3072", "--dry-run")
    assert "DNS record long" in done.stderr


REFUSED = [
    pytest.param(
        ["generate", "example.com", "--activate"], errors.UsageError, PUBLISHED, id="gate"
    ),
    pytest.param(["revoke", "example.com", "a"], orders.Forbidden, "rotate first", id="active"),
    pytest.param(["remove", "example.com", "a"], orders.Forbidden, "activate another", id="signs"),
    pytest.param(["rollback", "example.com"], orders.Forbidden, "no key is retiring", id="no-way"),
    pytest.param(["rotate"], errors.UsageError, "--all", id="rotate-what"),
    pytest.param(
        ["remove", "example.com", "a", "--force"], errors.UsageError, "--reason", id="no-reason"
    ),
    pytest.param(
        ["generate", "example.com", "--bits", "1024"], errors.UsageError, "2048", id="1024"
    ),
    pytest.param(["generate", "localhost"], errors.DataError, "two labels", id="one-label"),
    pytest.param(["generate", "../etc"], errors.DataError, "", id="path-as-domain"),
    pytest.param(
        ["generate", "example.com", "--selector", "../x"],
        errors.DataError,
        "no selector",
        id="path",
    ),
    pytest.param(
        ["generate", "example.com", "--selector", "a"],
        errors.DataError,
        "never used again",
        id="again",
    ),
    pytest.param(
        ["generate", "example.com", "--selector-template", "{oops}"],
        errors.UsageError,
        "{date}",
        id="template",
    ),
    pytest.param(
        ["activate", "example.com", "zzz", PUBLISHED],
        errors.NotFound,
        "keys list",
        id="no-such-key",
    ),
    pytest.param(["show", "example.net"], errors.NotFound, "keys list example.net", id="no-keys"),
    pytest.param(["retire", "example.com", "a"], orders.Forbidden, "last key", id="last-key"),
    pytest.param(
        ["import", "example.com", "b", "--private-key", "/nonexistent"],
        errors.DataError,
        "no such file",
        id="no-file",
    ),
]


@pytest.mark.parametrize(("arguments", "kind", "says"), REFUSED)
def test_a_refused_command_changes_nothing(
    arguments: list[str], kind: type[errors.CarbonsealError], says: str, settings: Settings
) -> None:
    """One sentence, the class that owns the exit code, and not a byte on disk touched."""
    run(settings, "generate", "example.com", "--selector", "a", "--activate", PUBLISHED)
    before = tree(settings)
    with pytest.raises(kind) as refusal:
        run(settings, *arguments)
    assert says in refusal.value.sentence
    assert "\n" not in refusal.value.sentence
    assert tree(settings) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "example.com"],
        ["generate", "example.com", "--activate", PUBLISHED],
        ["activate", "example.com", "b", PUBLISHED],
        ["retire", "example.com", "a", "--leave-unsigned"],
    ],
    ids=lambda arguments: " ".join(arguments[:1]),
)
def test_a_dry_run_says_what_would_be_done_and_does_not(
    arguments: list[str], settings: Settings
) -> None:
    """All checks run; no byte changes; no record is printed that must not be published."""
    run(settings, "generate", "example.com", "--selector", "a", "--activate", PUBLISHED)
    run(settings, "generate", "example.com", "--selector", "b")
    before = tree(settings)
    done = run(settings, *arguments, "--dry-run")
    assert "dry run: " in done.stderr
    assert "v=DKIM1" not in done.stdout
    assert tree(settings) == before


NOT_OURS = "nor a signing rule of the configuration names exmaple.com"


@pytest.mark.parametrize("begin", [["generate"], ["rotate"]], ids=" ".join)
def test_a_domain_that_may_be_mistyped_is_warned_about_when_its_first_key_is_begun(
    begin: list[str], settings: Settings
) -> None:
    """It is no error: keys may be made before the configuration is written."""
    assert NOT_OURS in run(settings, *begin, "exmaple.com", "--dry-run").stderr
    assert "warning" not in run(settings, *begin, "example.com", "--dry-run").stderr
    run(settings, "generate", "exmaple.com")
    assert NOT_OURS not in run(settings, *begin, "exmaple.com", "--dry-run").stderr


@pytest.mark.parametrize("command", ["generate", "rotate", "import"])
def test_an_address_is_no_signing_domain(command: str, settings: Settings, tmp_path: Path) -> None:
    """Nobody asks for a key below it."""
    private = ["--private-key", str(tmp_path / "a.pem")]
    more = ["a", *private] if command == "import" else []
    with pytest.raises(errors.DataError, match=r"192\.0\.2\.1 is no signing domain"):
        run(settings, command, "192.0.2.1", *more)
    assert not settings.keys_directory.exists()


@pytest.mark.parametrize("command", ["plan", "status", "hosts", "history", "reconcile"])
def test_a_domain_that_never_had_a_key_is_said_to_be_unknown(
    command: str, settings: Settings
) -> None:
    """Silence and status 0 would say that all is well with it."""
    run(settings, "generate", "example.com")
    before = tree(settings)
    with pytest.raises(errors.NotFound, match=r"no key of typo\.example is known") as refusal:
        run(settings, command, "typo.example")
    assert refusal.value.exit_code == 65
    assert tree(settings) == before
    assert not (settings.keys_directory / "typo.example").exists()


def test_a_dry_run_does_not_even_make_the_directory(settings: Settings) -> None:
    """On a fresh machine."""
    run(settings, "generate", "example.com", "--dry-run")
    assert not settings.keys_directory.exists()


def test_a_broken_key_does_not_take_the_place_of_a_good_one(settings: Settings) -> None:
    """Activation looks at the private key first."""
    run(settings, "generate", "example.com", "--selector", "a", "--activate", PUBLISHED)
    run(settings, "generate", "example.com", "--selector", "b")
    store.Store(settings.keys_directory).private_path("example.com", "b").write_bytes(b"")
    with pytest.raises(errors.DataError, match="no private key"):
        run(settings, "activate", "example.com", "b", PUBLISHED)
    (key,) = keyring.load(settings.keys_directory).signing_keys("example.com")
    assert key.facts.selector == "a"


def test_list_shows_what_is_wrong(settings: Settings) -> None:
    """A key that should sign and cannot has its sentence in the table."""
    run(settings, "generate", "example.com", "--selector", "a", "--activate", PUBLISHED)
    path = store.Store(settings.keys_directory).private_path("example.com", "a")
    path.chmod(0o644)
    (row,) = rows(settings, "list")
    assert str(path) in row["problem"]
    assert "chmod 600" in row["problem"]
    assert str(path) in run(settings, "list").stdout


def test_activating_twice_and_going_back(settings: Settings) -> None:
    """Twice changes nothing; the retired key can sign again while its record stands."""
    for selector in ("a", "b"):
        run(settings, "generate", "example.com", "--selector", selector, "--activate", PUBLISHED)
    before = tree(settings)
    assert "already" in run(settings, "activate", "example.com", "b", PUBLISHED).stderr
    assert tree(settings) == before
    run(settings, "activate", "example.com", "a", PUBLISHED, "--reason", "b was not published")
    (key,) = keyring.load(settings.keys_directory).signing_keys("example.com")
    assert key.facts.selector == "a"
    assert "b was not published (by " in run(settings, "show", "example.com", "a").stdout


def test_international_domains_are_kept_as_a_labels(settings: Settings) -> None:
    """A U-label on the command line, the A-label on disk and in DNS."""
    (row,) = rows(settings, "generate", "Müller.example", "--algorithm", "ed25519")
    assert row["sdid"] == "xn--mller-kva.example"
    assert row["dns_name"].endswith("._domainkey.xn--mller-kva.example")


def test_every_command_has_help(settings: Settings) -> None:
    """And offers a dry run if it changes something, formats always."""
    for name, command in commands.keys.commands.items():
        page = run(settings, name, "--help").stdout
        assert command.help
        assert "--format" in page
        assert ("--dry-run" in page) == (name not in READS_ONLY)


def test_a_broken_key_does_not_count_as_one_that_signs(settings: Settings) -> None:
    """Retiring the only key that works would leave the domain's mail unsigned."""
    generate_both = (["--selector", "r"], ["--selector", "e", "--algorithm", "ed25519"])
    for options in generate_both:
        run(settings, "generate", "example.com", *options, "--activate", PUBLISHED)
    (settings.keys_directory / "example.com" / "r.pem").unlink()
    with pytest.raises(orders.Forbidden, match="last key"):
        run(settings, "retire", "example.com", "e")
    assert keyring.load(settings.keys_directory).sdids == {"example.com"}
