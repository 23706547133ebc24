"""Publishing through a real HTTP interface, PowerDNS's, read back by DNS."""

from __future__ import annotations

import base64
import builtins
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import name_servers, ports
from support.name_servers import Bind, PowerDns, Zone

from carbonseal.keys.publication import provider
from carbonseal.keys.publication.outcome import OutcomeKind
from carbonseal.keys.publication.provider import ProviderPublisher
from carbonseal.keys.publication.settings import ServerAddress
from carbonseal.policies import errors

ZONE = "example.test"
NAME = f"s1._domainkey.{ZONE}"
# Slashes: lexicon's identifiers of PowerDNS records end at the first one.
VALUE = (
    "v=DKIM1; k=rsa; h=sha256; p=" + base64.b64encode((bytes(range(200, 256)) * 10)[:550]).decode()
)
REVOKED = "v=DKIM1; k=rsa; h=sha256; p="
TTL = 300


@pytest.fixture(scope="module")
def running() -> Iterator[PowerDns]:
    zone = Zone(
        ZONE,
        (
            f'xs1._domainkey IN TXT "{REVOKED}"',
            'foreign._domainkey IN TXT "v=spf1 -all"',
            "alias._domainkey IN CNAME s1.example.net.",
            f'two._domainkey IN TXT "{REVOKED}"',
            'two._domainkey IN TXT "v=spf1 -all"',
        ),
    )
    with PowerDns([zone]) as server:
        yield server


def publisher(server: PowerDns, **changes: Any) -> ProviderPublisher:
    """A publisher at a server."""
    options = {"auth_token": server.token, "pdns_server": server.api}
    return ProviderPublisher("powerdns", **{"options": options, "zone": ZONE, **changes})


def test_a_record_is_added_changed_and_deleted(running: PowerDns) -> None:
    """DNS shows it; the neighbour whose name ends alike stays."""
    by = publisher(running)
    assert by.add(NAME, VALUE, TTL).kind is OutcomeKind.SENT
    assert name_servers.txt_at(running.address, NAME) == [VALUE]
    assert name_servers.ask(running.address, NAME).answer[0].ttl == TTL
    assert by.add(NAME, VALUE, TTL).kind is OutcomeKind.CONFLICT
    assert by.change(NAME, VALUE, REVOKED, TTL).kind is OutcomeKind.SENT
    assert name_servers.txt_at(running.address, NAME) == [REVOKED]
    assert by.change(NAME, VALUE, REVOKED, TTL).kind is OutcomeKind.CONFLICT
    assert by.delete(NAME, REVOKED).kind is OutcomeKind.SENT
    assert name_servers.txt_at(running.address, NAME) == []
    assert by.delete(NAME, REVOKED).kind is OutcomeKind.CONFLICT
    assert name_servers.txt_at(running.address, f"xs1._domainkey.{ZONE}") == [REVOKED]


def test_a_long_record_is_deleted_although_its_identifier_is_broken(running: PowerDns) -> None:
    """Lexicon says True to a delete by identifier that does nothing."""
    name = f"long._domainkey.{ZONE}"
    by = publisher(running)
    assert by.add(name, VALUE, TTL).kind is OutcomeKind.SENT
    assert by.delete(name, VALUE).kind is OutcomeKind.SENT
    assert name_servers.txt_at(running.address, name) == []


@pytest.mark.parametrize("selector", ["foreign", "alias", "two"])
def test_foreign_data_stays(running: PowerDns, selector: str) -> None:
    """Nothing is added, changed or deleted where anything else stands."""
    name = f"{selector}._domainkey.{ZONE}"
    before = name_servers.ask(running.address, name).answer
    by = publisher(running)
    for got in (
        by.add(name, VALUE, TTL),
        by.change(name, REVOKED, VALUE, TTL),
        by.delete(name, REVOKED),
    ):
        assert got.kind is OutcomeKind.CONFLICT, got.sentence
    assert name_servers.ask(running.address, name).answer == before


def test_a_part_of_the_value_is_not_the_value(running: PowerDns) -> None:
    """Exact, never a substring: xs1 holds `v=DKIM1; ...; p=`."""
    by = publisher(running)
    for text in (REVOKED[:-1], REVOKED + "A", "p=", ""):
        assert by.delete(f"xs1._domainkey.{ZONE}", text).kind is OutcomeKind.CONFLICT
    assert name_servers.txt_at(running.address, f"xs1._domainkey.{ZONE}") == [REVOKED]


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        pytest.param(
            {"zone": "example.org"}, OutcomeKind.REFUSED, "is not in the zone", id="other-zone"
        ),
        pytest.param({"zone": "test"}, OutcomeKind.REFUSED, "answered 404", id="zone-not-there"),
        pytest.param({"token": "wrong"}, OutcomeKind.REFUSED, "answered 401", id="wrong-token"),
        pytest.param({"port": 1}, OutcomeKind.UNREACHABLE, "ConnectionError", id="not-running"),
    ],
)
def test_refusals_are_explained_without_the_token(
    running: PowerDns, changes: dict[str, Any], kind: OutcomeKind, said: str
) -> None:
    """What an HTTP client raises may hold headers and addresses: only its class is told."""
    token = changes.pop("token", running.token)
    api = f"http://127.0.0.1:{changes.pop('port')}" if "port" in changes else running.api
    options = {"auth_token": token, "pdns_server": api}
    by = publisher(running, options=options, **changes)
    got = by.add(NAME, VALUE, TTL)
    assert got.kind is kind
    assert said in got.sentence
    assert token not in got.sentence
    assert token not in repr(by)
    assert name_servers.txt_at(running.address, NAME) == []


@pytest.mark.timeout(15)
def test_a_provider_that_never_answers_is_given_up() -> None:
    """Lexicon sets no time limit, so we do."""
    with socket.create_server((ports.LOOPBACK, 0)) as door:
        options = {"auth_token": "t", "pdns_server": f"http://127.0.0.1:{door.getsockname()[1]}"}
        got = ProviderPublisher("powerdns", options, ZONE, timeout=0.3).add(NAME, VALUE, TTL)
    assert got.kind is OutcomeKind.UNREACHABLE
    assert "did not answer in time" in got.sentence


def test_the_zone_is_asked_of_the_resolvers_without_the_selector(running: PowerDns) -> None:
    """A cache must not learn that a new selector is not there."""
    with Bind([Zone(ZONE)]) as resolver:
        resolver.control("querylog", "on")
        by = publisher(running, zone=None, resolvers=(resolver.address,))
        assert by.delete(NAME, VALUE).kind is OutcomeKind.CONFLICT
        assert f"query: {ZONE} IN SOA" in resolver.log()
        assert "s1._domainkey" not in resolver.log()


def test_a_zone_that_cannot_be_found_is_said() -> None:
    """With what to write into the rule."""
    nobody = ServerAddress("127.0.0.1", name_servers.free_port())
    by = ProviderPublisher("powerdns", {"auth_token": "t"}, resolvers=(nobody,), timeout=0.5)
    got = by.add(NAME, VALUE, TTL)
    assert got.kind is OutcomeKind.UNREACHABLE
    assert "set `zone`" in got.sentence


def test_nothing_but_the_provider_is_contacted(
    running: PowerDns, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Lexicon would fetch the list of public suffixes."""
    looked_up = []
    look_up = socket.getaddrinfo

    def watch(host: Any, port: Any, *rest: Any, **named: Any) -> Any:
        looked_up.append(f"http://{host}:{port}")
        return look_up(host, port, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", watch)
    # No list of an earlier run may stand in.
    monkeypatch.setenv("TLDEXTRACT_CACHE_PATH", str(tmp_path))
    assert publisher(running).delete(NAME, VALUE).kind is OutcomeKind.CONFLICT
    assert set(looked_up) == {running.api}


def test_an_unknown_provider_is_a_matter_of_configuration(running: PowerDns) -> None:
    by = ProviderPublisher("powredns", {"auth_token": "t"}, ZONE)
    with pytest.raises(errors.ConfigurationError, match="no provider 'powredns'"):
        by.add(NAME, VALUE, TTL)


def test_without_the_extra_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """dns-lexicon is optional."""
    real = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name.startswith("lexicon"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    by = ProviderPublisher("powerdns", {"auth_token": "t"}, ZONE)
    with pytest.raises(errors.ConfigurationError, match=r"pip install 'carbonseal\[providers\]'"):
        by.add(NAME, VALUE, TTL)


def test_the_extra_is_not_imported_before_it_is_used() -> None:
    """It brings an HTTP client and more."""
    code = "import sys, carbonseal.keys.publication.publisher; print('lexicon' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(VALUE, id="bare"),
        pytest.param(f'"{VALUE}"', id="quoted"),
        pytest.param(f'"{VALUE[:255]}" "{VALUE[255:510]}" "{VALUE[510:]}"', id="strings"),
        pytest.param(f'{VALUE[:255]}" "{VALUE[255:]}', id="outer-quotes-lost"),
        pytest.param(VALUE.replace(";", "\\;"), id="semicolons-escaped"),
    ],
)
def test_a_value_is_recognised_however_a_provider_lists_it(content: str) -> None:
    """Quoting differs from provider to provider."""
    assert provider._is_only([{"content": content}], VALUE)
    assert not provider._is_only([{"content": content}], VALUE[:-1])
    assert not provider._is_only([{"content": content}] * 2, VALUE)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("", "no options", id="empty"),
        pytest.param("- a", "no options", id="list"),
        pytest.param("token: 'SECRET", ":1: it is no YAML", id="open-quote"),
        pytest.param("a: {SECRET: 1}", "no plain value", id="nested"),
        pytest.param("auth-token: SECRET", "not plain", id="hyphen"),
        pytest.param("SECRET: &a [*a]", "not plain", id="alias"),
        pytest.param("[" * 5000, "no YAML", id="deep"),
        pytest.param("a: 2026-13-45", "no YAML|plain", id="impossible-date"),
    ],
)
def test_credentials_that_cannot_be_used_are_not_told(tmp_path: Path, text: str, said: str) -> None:
    """PyYAML's own errors quote the line."""
    path = tmp_path / "credentials.yaml"
    path.touch(mode=0o600)
    path.write_text(text)
    if text == "a: 2026-13-45":
        with pytest.raises(errors.ConfigurationError):
            provider.read_credentials(path)
        return
    with pytest.raises(errors.ConfigurationError) as caught:
        provider.read_credentials(path)
    assert said in caught.value.sentence
    assert "SECRET" not in caught.value.sentence


def test_credentials_that_others_can_read_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "credentials.yaml"
    path.write_text("auth_token: t")
    path.chmod(0o644)
    with pytest.raises(errors.ConfigurationError, match="too many may use it"):
        provider.read_credentials(path)
