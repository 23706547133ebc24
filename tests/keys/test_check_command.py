"""`carbonseal keys check`: what a person types and gets; nothing is ever changed."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support.broken_server import BrokenServer
from support.name_servers import Bind, Nsd, Zone

from carbonseal.keys import check_command, dns_record, generate, keyring, store
from carbonseal.keys.key_record import Origin
from carbonseal.keys.publication.settings import DnsSettings, ServerAddress
from carbonseal.policies import errors
from carbonseal.policies.key_life import Stage

ZONE = "example.com"
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
RIGHT, NOT_YET, WRONG, UNREACHABLE = range(4)
PRIVATE = {
    name: generate.generate("ed25519-sha256", 0) for name in ("good", "gone", "other", "revoked")
}


@dataclass
class Settings:
    """What `milter.cli` puts into the context."""

    keys_directory: Path
    dns: DnsSettings


@dataclass
class Outcome:
    status: int
    stdout: str
    stderr: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(one) for one in self.stdout.splitlines()]


def run(settings: Settings, *arguments: str) -> Outcome:
    done = CliRunner().invoke(
        check_command.check_key,
        list(arguments),
        obj=settings,
        standalone_mode=False,
        catch_exceptions=False,
    )
    return Outcome(done.return_value, done.stdout, done.stderr)


def line(label: str, value: str) -> str:
    return dns_record.zone_text(f"{label}._domainkey.{ZONE}", value, 60)


def value(name: str) -> str:
    return dns_record.value(keyring.public_octets(PRIVATE[name]))


@pytest.fixture(scope="module")
def server() -> Iterator[Bind]:
    """What is published: a good key, another key than ours, a revoked one, a stranger's."""
    public = keyring.public_octets(PRIVATE["revoked"])
    records = (
        line("good", value("good")),
        line("other", value("good")),
        line("revoked", dns_record.revocation(public)),
        line("stranger", value("gone")),
        line("testing", value("gone") + "; t=y"),
    )
    with Bind([Zone(ZONE, records, serial=7)]) as running:
        yield running


@pytest.fixture
def settings(server: Bind, tmp_path: Path) -> Settings:
    """An empty keys directory, and the server that answers for the zone."""
    dns = DnsSettings({ZONE: (server.address,)}, timeout=2.0, tries=1)
    return Settings(tmp_path / "keys", dns)


def keep(settings: Settings, selector: str, stage: Stage = Stage.ACTIVE) -> None:
    private = PRIVATE[selector]
    record = generate.new_record(
        private, ZONE, selector, origin=Origin.GENERATED, at=NOW, why="test"
    )
    with store.Store(settings.keys_directory).writing(ZONE) as writer:
        writer.add(record, generate.private_pem(private))
        writer.put(record.moved(stage, at=NOW, why="test"))


def tree(settings: Settings) -> dict[str, tuple[bytes, int]]:
    return {
        str(path): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in settings.keys_directory.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("selector", "stage", "status", "fault"),
    [
        pytest.param("good", Stage.ACTIVE, RIGHT, "", id="right"),
        pytest.param("good", Stage.RETIRING, RIGHT, "", id="its-record-must-stay"),
        pytest.param("gone", Stage.PUBLISHING, NOT_YET, "missing", id="not-yet"),
        pytest.param("other", Stage.ACTIVE, WRONG, "mismatch", id="another-key"),
        pytest.param("revoked", Stage.ACTIVE, WRONG, "revoked", id="revoked-while-it-signs"),
        pytest.param("revoked", Stage.REVOKED, RIGHT, "revoked", id="revoked-as-it-should"),
        pytest.param("good", Stage.REVOKING, NOT_YET, "", id="still-shown"),
        pytest.param("gone", Stage.REMOVED, RIGHT, "missing", id="removed-as-it-should"),
    ],
)
def test_a_key_of_ours_is_compared_with_what_should_be_there(
    settings: Settings, selector: str, stage: Stage, status: int, fault: str
) -> None:
    """By its stage: shown, revoked or gone; the exit status says which, nothing is changed."""
    keep(settings, selector, stage)
    before = tree(settings)
    done = run(settings, ZONE, selector, "--json")
    (row,) = done.rows
    assert (done.status, row["fault"], row["serial"]) == (status, fault, 7)
    assert row["name"] == f"{selector}._domainkey.{ZONE}"
    assert tree(settings) == before


def test_the_table_has_a_line_for_each_server_and_sentences_below(settings: Settings) -> None:
    """A person reads where, what and the remedy."""
    keep(settings, "other")
    done = run(settings, ZONE, "other")
    table, _, below = done.stdout.partition(f"other._domainkey.{ZONE} at ")
    assert "mismatch" in table
    assert "another key is published there" in below
    assert "choose a new selector" in below
    assert "note: " in below


def test_what_is_right_gets_no_complaint(settings: Settings) -> None:
    """The state that is wanted is no fault."""
    keep(settings, "revoked", Stage.REVOKED)
    assert "sign with another" not in run(settings, ZONE, "revoked").stdout


def test_without_arguments_all_that_should_be_published_are_checked(settings: Settings) -> None:
    """Generated and removed keys are not; the worst decides the exit status."""
    keep(settings, "good")
    keep(settings, "gone", Stage.GENERATED)
    done = run(settings, "--json")
    assert [row["name"] for row in done.rows] == [f"good._domainkey.{ZONE}"]
    assert done.status == RIGHT
    keep(settings, "other", Stage.PUBLISHED)
    done = run(settings)
    assert done.status == WRONG
    assert "2 keys: 1 right, 1 wrong" in done.stderr
    assert run(settings, ZONE).status == WRONG


def test_nothing_published_is_said(settings: Settings) -> None:
    """An empty keys directory is no fault."""
    settings.keys_directory.mkdir(mode=0o700)
    done = run(settings)
    assert done.status == RIGHT
    assert "no key is published" in done.stderr
    with pytest.raises(errors.NotFound, match="give a SELECTOR"):
        run(settings, ZONE)


@pytest.mark.parametrize(
    ("arguments", "status", "fault"),
    [
        pytest.param((ZONE, "stranger"), RIGHT, "", id="apart"),
        pytest.param((f"stranger._domainkey.{ZONE}",), RIGHT, "", id="as-a-name"),
        pytest.param((f"Stranger._DomainKey.{ZONE.upper()}.",), RIGHT, "", id="any-case"),
        pytest.param((ZONE, "testing"), WRONG, "testing", id="with-a-fault"),
        pytest.param((ZONE, "revoked"), WRONG, "revoked", id="revoked"),
        pytest.param((ZONE, "nothing"), NOT_YET, "missing", id="nothing-there"),
        pytest.param((ZONE, "under_score"), NOT_YET, "missing", id="odd-selector"),
    ],
)
def test_any_record_is_judged_by_itself(
    settings: Settings, arguments: tuple[str, ...], status: int, fault: str
) -> None:
    """Ours or not; no keys directory is needed."""
    done = run(settings, *arguments, "--json")
    assert (done.status, done.rows[0]["fault"]) == (status, fault)


def test_foreign_ignores_the_key_we_hold(settings: Settings) -> None:
    """The published one is another, but usable."""
    keep(settings, "other")
    assert run(settings, ZONE, "other").status == WRONG
    assert run(settings, ZONE, "other", "--foreign").status == RIGHT
    assert run(settings, ZONE, "other", "--any").status == RIGHT


def test_who_cannot_be_asked_is_unreachable(settings: Settings, server: Bind) -> None:
    """A silent server and a zone that is not found; what is wrong elsewhere counts more."""
    with BrokenServer(lambda q, t: []) as silent:
        settings.dns = DnsSettings({ZONE: (server.address, silent.address)}, timeout=0.2, tries=1)
        assert run(settings, ZONE, "stranger").status == UNREACHABLE
        assert run(settings, ZONE, "nothing").status == UNREACHABLE
        assert run(settings, ZONE, "testing").status == WRONG
        settings.dns = DnsSettings(resolvers=(silent.address,), timeout=0.2, tries=1)
        done = run(settings, ZONE, "stranger")
    assert done.status == UNREACHABLE
    assert "dns.servers" in done.stdout


def test_a_lagging_server_is_not_yet(settings: Settings, server: Bind) -> None:
    """It shows nothing wrong, only the past."""
    with Nsd([Zone(ZONE, serial=6)]) as behind:
        settings.dns = DnsSettings({ZONE: (server.address, behind.address)}, timeout=2.0)
        done = run(settings, ZONE, "stranger", "--json")
    assert done.status == NOT_YET
    assert [row["fault"] for row in done.rows] == ["", "stale-server"]


def test_rows_are_for_programs(settings: Settings) -> None:
    """JSON Lines and CSV carry the same, and nothing else is on standard output."""
    keep(settings, "good")
    (row,) = run(settings, ZONE, "good", "--json").rows
    assert row["text"] == value("good")
    assert row["target"] == row["name"]
    (line_,) = csv.DictReader(io.StringIO(run(settings, ZONE, "good", "--format", "csv").stdout))
    assert line_["state"] == "shown"


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("--foreign",), id="foreign-without-name"),
        pytest.param((ZONE, "--foreign"), id="foreign-without-selector"),
        pytest.param((f"s1._domainkey.{ZONE}", "s2"), id="two-selectors"),
        pytest.param((ZONE, "../../etc"), id="no-selector"),
        pytest.param((ZONE, "a" * 300), id="too-long"),
        pytest.param(("not a domain", "s1"), id="no-domain"),
    ],
)
def test_what_makes_no_sense_is_refused(settings: Settings, arguments: tuple[str, ...]) -> None:
    """A sentence, no traceback."""
    with pytest.raises((errors.UsageError, errors.DataError)):
        run(settings, *arguments)


def test_a_broken_key_record_is_a_fault_and_does_not_stop_the_others(settings: Settings) -> None:
    """Each key for itself."""
    keep(settings, "good")
    store.Store(settings.keys_directory).record_path(ZONE, "bad").write_text("{")
    done = run(settings)
    assert done.status == WRONG
    assert "good._domainkey" in done.stdout
    assert "bad.json" in done.stdout


def test_one_dead_server_of_many_domains_is_asked_three_times(tmp_path: Path) -> None:
    """A run over many keys does not wait for it each time."""
    names = [f"d{number}.test" for number in range(60)]
    private = PRIVATE["good"]
    records = (
        dns_record.zone_text("s1._domainkey", value("good")).replace("domainkey.", "domainkey"),
    )
    with (
        Bind([Zone(name, records) for name in names]) as alive,
        BrokenServer(lambda q, t: []) as dead,
    ):
        servers: dict[str, tuple[ServerAddress, ...]] = dict.fromkeys(
            names, (alive.address, dead.address)
        )
        settings = Settings(tmp_path / "keys", DnsSettings(servers, timeout=0.3, tries=1))
        for name in names:
            record = generate.new_record(
                private, name, "s1", origin=Origin.GENERATED, at=NOW, why="test"
            )
            with store.Store(settings.keys_directory).writing(name) as writer:
                writer.add(record, generate.private_pem(private))
                writer.put(record.moved(Stage.ACTIVE, at=NOW, why="test"))
        done = run(settings, "--json")
        questions = len(dead.asked)
    faults = [row["fault"] for row in done.rows if row["address"] == str(dead.address)]
    assert done.status == UNREACHABLE
    assert len(faults) == len(names)
    assert faults.count("given-up") >= len(names) - 32
    assert questions <= 32 + 3  # those that were under way when it was given up
