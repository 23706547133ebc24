"""The private name servers do what the other tests rely on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import dns.exception
import dns.tsig
import pytest
from support import name_servers, postfix
from support.name_servers import Bind, Knot, Nsd, TsigKey, Unbound, Zone
from support.waiting import wait_until

ZONE = "example.test"
NAME = f"s1._domainkey.{ZONE}"
VALUE = "v=DKIM1; k=rsa; p=" + "A" * 700


def test_a_secondary_follows_its_primary() -> None:
    """An update with TSIG reaches the secondary, its strings whole."""
    key = TsigKey()
    with name_servers.primary_and_secondary([Zone(ZONE)], keys=[key]) as (primary, secondary):
        assert primary.serial(ZONE) == secondary.serial(ZONE) == 1
        name_servers.put_txt(primary.address, ZONE, key, NAME, VALUE)
        assert name_servers.txt_at(primary.address, NAME) == [VALUE]
        name_servers.wait_for_txt(secondary.address, NAME, VALUE)
        assert secondary.serial(ZONE) == primary.serial(ZONE) > 1


def test_a_primary_that_gives_no_transfer_leaves_its_secondary_empty() -> None:
    """The secondary runs and says SERVFAIL; once allowed, it follows."""
    primary = Bind([Zone(ZONE)], allow_transfer=False)
    with primary, Bind(primary=primary) as secondary:
        assert name_servers.rcode_at(secondary.address, NAME) == "SERVFAIL"
        primary.allow_transfer = True
        primary.reconfigure()
        secondary.control("retransfer", ZONE)
        wait_until(lambda: name_servers.rcode_at(secondary.address, NAME) == "NXDOMAIN", "transfer")


def test_a_paused_secondary_lags_and_follows_when_it_goes_on() -> None:
    """Pause and resume; without notification it follows after the refresh time."""
    key = TsigKey()
    with name_servers.primary_and_secondary([Zone(ZONE)], keys=[key], notify=False) as (
        primary,
        secondary,
    ):
        secondary.pause()
        name_servers.put_txt(primary.address, ZONE, key, NAME, VALUE)
        secondary.resume()
        name_servers.wait_for_txt(secondary.address, NAME, VALUE)


def test_a_zone_is_frozen_replaced_and_survives_a_restart() -> None:
    """What a test needs to put anything into a zone."""
    key = TsigKey()
    with Bind([Zone(ZONE)], keys=[key]) as server:
        server.freeze(ZONE)
        with pytest.raises(name_servers.NameServerFailed, match="REFUSED"):
            name_servers.put_txt(server.address, ZONE, key, NAME, VALUE)
        server.thaw(ZONE)
        name_servers.put_txt(server.address, ZONE, key, NAME, VALUE)
        server.stop()
        server.start()
        assert name_servers.txt_at(server.address, NAME) == [VALUE]
        server.replace(Zone(ZONE, ("s1._domainkey IN CNAME elsewhere.test.",)))
        assert name_servers.ask(server.address, NAME, "CNAME").answer


def test_knot_takes_updates_below_domainkey_only() -> None:
    """Its refusal is NOTAUTH with BADKEY."""
    key = TsigKey()
    with Knot([Zone(ZONE)], keys=[key]) as server:
        name_servers.put_txt(server.address, ZONE, key, NAME, VALUE)
        assert name_servers.txt_at(server.address, NAME) == [VALUE]
        with pytest.raises(dns.tsig.PeerBadKey):
            name_servers.put_txt(server.address, ZONE, key, f"www.{ZONE}", VALUE)


@pytest.mark.parametrize("follower", [Bind, Nsd])
def test_knot_notifies_secondaries_of_other_makes(follower: type[Bind] | type[Nsd]) -> None:
    """Transfers between implementations."""
    key = TsigKey()
    primary = Knot([Zone(ZONE)], keys=[key])
    secondary = follower(primary=primary)
    with primary, secondary:
        name_servers.put_txt(primary.address, ZONE, key, NAME, VALUE)
        name_servers.wait_for_txt(secondary.address, NAME, VALUE)


def test_nsd_serves_a_zone_and_takes_no_update() -> None:
    """NOTIMP."""
    with Nsd([Zone(ZONE, (f'{NAME}. IN TXT "there"',))]) as server:
        assert name_servers.txt_at(server.address, NAME) == ["there"]
        # The refusal is not signed, so dnspython shows only that.
        with pytest.raises(dns.exception.FormError, match="requires a TSIG"):
            name_servers.put_txt(server.address, ZONE, TsigKey(), NAME, VALUE)


def test_unbound_keeps_what_was_not_there_until_it_runs_out() -> None:
    """Negative answers: the reason why a new name is never asked for through a resolver."""
    key = TsigKey()
    zone = Zone(ZONE, soa_ttl=300, minimum=300)
    short = Zone("short.test")
    with (
        Bind([zone, short], keys=[key]) as server,
        Unbound({ZONE: [server.address], short.name: [server.address]}) as resolver,
    ):
        for name in (zone.name, short.name):
            selector = f"s1._domainkey.{name}"
            assert name_servers.rcode_at(resolver.address, selector, recursive=True) == "NXDOMAIN"
            name_servers.put_txt(server.address, name, key, selector, VALUE)
        assert name_servers.txt_at(resolver.address, NAME, recursive=True) == []
        wait_until(
            lambda: bool(
                name_servers.txt_at(resolver.address, "s1._domainkey.short.test", recursive=True)
            ),
            "the negative answer to run out",
        )
        assert name_servers.txt_at(resolver.address, NAME, recursive=True) == []


def test_a_thousand_zones_are_one_server() -> None:
    """For tests of many domains."""
    key = TsigKey()
    with Bind([Zone(f"d{number}.test") for number in range(1000)], keys=[key]) as server:
        name_servers.put_txt(server.address, "d999.test", key, "s1._domainkey.d999.test", VALUE)
        assert name_servers.txt_at(server.address, "s1._domainkey.d999.test") == [VALUE]


@pytest.mark.parametrize("kind", ["Bind", "Nsd"])
def test_a_killed_test_process_takes_its_name_server_along(kind: str) -> None:
    """SIGKILL to whoever started it leaves no process, paused or not, and no directory."""
    program = (
        "import sys\n"
        "from support.name_servers import *\n"
        f"with {kind}([Zone('example.test')]) as server:\n"
        "    server.pause()\n"
        "    print(server.pid, server.directory, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(Path(name_servers.__file__).parents[1]), "PATH": os.defpath},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as starter:
        assert starter.stdout is not None
        pid, directory = starter.stdout.readline().decode().split()
        starter.kill()
    wait_until(lambda: not postfix.is_running(int(pid)), "the end of the server")
    wait_until(lambda: not Path(directory).exists(), "the end of its directory")


def test_a_failure_carries_the_log_and_leaves_nothing_running() -> None:
    """The note names the server; its processes and its directory are gone."""
    server = Bind([Zone(ZONE)])
    seen: list[tuple[int, Path]] = []

    def fail() -> None:
        with server:
            seen.append((server.pid, server.directory))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        fail()
    [(pid, directory)] = seen
    assert f"Bind at {server.address}" in caught.value.__notes__[0]
    assert "all zones loaded" in caught.value.__notes__[0]
    assert not directory.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
