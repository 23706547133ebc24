"""Zones and servers are found without telling a caching resolver about a name that is to come."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import pytest
from support import name_servers
from support.broken_server import BrokenServer, Script, reply
from support.name_servers import Bind, Knot, Nsd, TsigKey, Unbound, Zone

from carbonseal.keys import dns_record, generate, keyring
from carbonseal.keys.publication import ask, servers
from carbonseal.keys.publication.check import Checker
from carbonseal.keys.publication.settings import DnsSettings, ServerAddress
from carbonseal.policies.key_life import ServerState

ZONE = "example.test"
NAME = dns.name.from_text(f"s1._domainkey.{ZONE}")
PUBLIC = keyring.public_octets(generate.generate("ed25519-sha256", 0))
RIGHT = dns_record.value(PUBLIC)
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def finder(
    configured: dict[str, Iterable[ServerAddress]] | None = None,
    resolvers: Iterable[ServerAddress] = (),
) -> servers.Finder:
    settings = DnsSettings(
        servers={zone: tuple(found) for zone, found in (configured or {}).items()},
        resolvers=tuple(resolvers),
        timeout=2.0,
        tries=1,
    )
    return servers.Finder(settings, ask.Asker(settings))


def found(zone: servers.Zone) -> list[tuple[str, str]]:
    return [(server.name, str(server.address)) for server in zone.servers]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        pytest.param("s1._domainkey.example.com", "example.com", id="selector"),
        pytest.param("a.b._DomainKey.mail.example.com", "mail.example.com", id="any-case"),
        pytest.param("_domainkey.example.com", "example.com", id="the-mark-itself"),
        pytest.param("x._domainkey.y._domainkey.example.com", "example.com", id="twice"),
        pytest.param("s1.example.com.dkim.example.net", "example.net", id="target-of-an-alias"),
        pytest.param("net", "net", id="one-label"),
    ],
)
def test_only_the_part_above_the_mark_is_harmless(name: str, part: str) -> None:
    """The rest may be what is to be published."""
    assert servers.text(servers.harmless_part(dns.name.from_text(name))) == part


# --- the settings


def test_the_longest_configured_zone_is_taken_and_nothing_looked_up() -> None:
    """No resolver is there to be asked."""
    child, parent = ServerAddress("192.0.2.1", 1), ServerAddress("192.0.2.2", 2)
    nowhere = {"test": [parent], "_domainkey.example.test": [child], "other.test": [parent]}
    with BrokenServer(lambda q, t: []) as resolver, Bind([Zone(f"_domainkey.{ZONE}")]) as server:
        here = {**nowhere, f"_domainkey.{ZONE}": [server.address]}
        zone = finder(here, [resolver.address]).zone_of(NAME)
        assert found(zone) == [("", str(server.address))]
        assert servers.text(zone.top) == f"_domainkey.{ZONE}"
        assert resolver.asked == []


def test_a_configured_child_is_not_reached_by_its_parents_glue() -> None:
    """Its own servers are in the settings."""
    delegation = ("deep NS ns1.deep", "ns1.deep A 127.0.0.1")
    child = Zone(f"deep.{ZONE}")
    with Bind([Zone(ZONE, delegation)]) as parent, Knot([child]) as server:
        configured = {ZONE: [parent.address], f"deep.{ZONE}": [server.address]}
        zone = finder(configured).zone_of(dns.name.from_text(f"s1._domainkey.deep.{ZONE}"))
        assert found(zone) == [("", str(server.address))]


def test_a_referral_to_a_zone_that_is_not_configured_leads_to_port_53() -> None:
    """With the glue that comes with it."""
    delegation = ("_domainkey NS ns1._domainkey", "ns1._domainkey A 127.0.0.9")
    with Bind([Zone(ZONE, delegation)]) as parent:
        zone = finder({ZONE: [parent.address]}).zone_of(NAME)
    assert servers.text(zone.top) == f"_domainkey.{ZONE}"
    assert found(zone) == [(f"ns1._domainkey.{ZONE}", "127.0.0.9@53")]


def test_a_zone_below_at_the_same_configured_servers_is_found() -> None:
    """Parent and child at one server: its SOA tells them apart."""
    delegation = ("_domainkey NS ns1",)
    child = Zone(f"_domainkey.{ZONE}", (f"s1 TXT {RIGHT.replace('; ', ';').join(chr(34) * 2)}",))
    with Bind([Zone(ZONE, delegation), child]) as server:
        zone = finder({ZONE: [server.address]}).zone_of(NAME)
        assert servers.text(zone.top) == f"_domainkey.{ZONE}"
        assert found(zone) == [("", str(server.address))]
        view = Checker(DnsSettings({ZONE: (server.address,)}), lambda: NOW).look(
            servers.text(NAME), PUBLIC
        )
    assert view.is_everywhere(ServerState.SHOWN)
    assert view.zone == f"_domainkey.{ZONE}"


def test_an_alias_at_the_name_does_not_hide_its_zone() -> None:
    """A CNAME answers a question for SOA too."""
    with Nsd([Zone(ZONE, ("s1._domainkey CNAME elsewhere.invalid.",))]) as server:
        zone = finder({ZONE: [server.address]}).zone_of(NAME)
    assert servers.text(zone.top) == ZONE


# --- resolvers


def test_the_resolver_does_not_remember_that_nothing_was_there() -> None:
    """The record is seen through it the moment it is published, although it was looked for before.

    This is the mistake of every tool that polls a resolver; `test_name_servers` shows it.
    """
    key = TsigKey()
    zone = Zone(ZONE, soa_ttl=300, minimum=300)
    deep = Zone("deep.test", soa_ttl=300, minimum=300)
    with (
        Bind([zone, deep], keys=[key], grant="subdomain {zone}. TXT") as server,
        Unbound({ZONE: [server.address], "deep.test": [server.address]}) as resolver,
    ):
        checker = Checker(DnsSettings(resolvers=(resolver.address,), timeout=1.0), lambda: NOW)
        for name in (f"s1._domainkey.{ZONE}", "s1._domainkey.not.yet.deep.test"):
            assert checker.look(name, PUBLIC).states == {ServerState.UNKNOWN}
            top = ".".join(name.rsplit(".", 2)[1:])
            name_servers.put_txt(server.address, top, key, name, RIGHT)
            assert name_servers.txt_at(resolver.address, name, recursive=True) == [RIGHT]


def test_servers_come_from_the_resolver_with_all_their_addresses() -> None:
    """Unbound is asked about the domain and its servers; they have port 53."""
    records = ("ns2 A 127.0.0.8", "ns2 AAAA ::1")
    zone = Zone(ZONE, records, servers=("ns1", "ns2"))
    with Bind([zone]) as server, Unbound({ZONE: [server.address]}) as resolver:
        there = finder(resolvers=[resolver.address]).zone_of(NAME)
    assert servers.text(there.top) == ZONE
    assert sorted(found(there)) == [
        (f"ns1.{ZONE}", "127.0.0.1@53"),
        (f"ns2.{ZONE}", "127.0.0.1@53"),
        (f"ns2.{ZONE}", "127.0.0.8@53"),
        (f"ns2.{ZONE}", "::1@53"),
    ]


SOA = f"{ZONE}. 60 IN SOA ns1.{ZONE}. hostmaster.{ZONE}. 7 1 1 600 30"
NS_LINES = (f"{ZONE}. 60 IN NS ns1.{ZONE}.", f"{ZONE}. 60 IN NS ns2.{ZONE}.")


def resolver_with(addresses: dict[str, list[str]], *ns_lines: str) -> Script:
    """A resolver that knows the zone, its NS records and the servers' addresses."""

    def script(question: dns.message.Message, over_tcp: bool) -> Iterable[bytes]:
        asked = question.question[0]
        name, kind = str(asked.name).rstrip("."), dns.rdatatype.to_text(asked.rdtype)
        lines = {(ZONE, "SOA"): [SOA], (ZONE, "NS"): list(ns_lines or NS_LINES)}.get((name, kind))
        if lines is None:
            wanted = {"A": ".", "AAAA": ":"}.get(kind, "?")
            lines = [
                f"{name}. 60 IN {kind} {host}" for host in addresses.get(name, []) if wanted in host
            ]
        authority = [] if lines else [SOA]
        flags = dns.flags.RA
        return [reply(question, *lines, authority=authority, flags=flags).to_wire()]

    return script


@pytest.fixture
def no_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host without a way to any IPv6 address; ours has one or not, as it comes."""
    real = ask.has_route
    monkeypatch.setattr(ask, "has_route", lambda one: ":" not in one.host and real(one))


@pytest.mark.usefixtures("no_ipv6")
def test_without_ipv6_a_servers_other_address_is_enough_and_said_so() -> None:
    """Nobody waits for what cannot come."""
    script = resolver_with(
        {f"ns1.{ZONE}": ["127.0.0.8", "2001:db8::8"], f"ns2.{ZONE}": ["127.0.0.9"]}
    )
    with BrokenServer(script) as resolver:
        zone = finder(resolvers=[resolver.address]).zone_of(NAME)
    assert [str(server.address) for server in zone.servers] == ["127.0.0.8@53", "127.0.0.9@53"]
    (note,) = zone.notes
    assert "2001:db8::8 was not asked" in note


@pytest.mark.usefixtures("no_ipv6")
def test_without_ipv6_a_server_that_has_nothing_else_is_unknown() -> None:
    """It may show something else: unknown is not absent."""
    script = resolver_with({f"ns1.{ZONE}": ["2001:db8::8"], f"ns2.{ZONE}": ["127.0.0.9"]})
    with BrokenServer(script) as resolver:
        settings = DnsSettings(resolvers=(resolver.address,), timeout=0.5, tries=1)
        view = Checker(settings, lambda: NOW).look(servers.text(NAME), PUBLIC)
    assert [one.fault for one in view.servers if not one.address] == ["no-route"]
    assert view.states == {ServerState.UNKNOWN}


def test_a_server_name_without_address_is_left_out_with_a_note() -> None:
    """No receiver can ask it either."""
    with BrokenServer(resolver_with({f"ns1.{ZONE}": ["127.0.0.8"]})) as resolver:
        zone = finder(resolvers=[resolver.address]).zone_of(NAME)
    assert found(zone) == [(f"ns1.{ZONE}", "127.0.0.8@53")]
    assert f"ns2.{ZONE}" in zone.notes[0]


def test_a_server_whose_address_cannot_be_looked_up_is_unknown() -> None:
    """SERVFAIL for its name is not the same as no address."""
    plain = resolver_with({f"ns1.{ZONE}": ["127.0.0.8"]})

    def script(question: dns.message.Message, over_tcp: bool) -> Iterable[bytes]:
        if str(question.question[0].name) == f"ns2.{ZONE}.":
            return [reply(question, rcode=dns.rcode.SERVFAIL, flags=0).to_wire()]
        return plain(question, over_tcp)

    with BrokenServer(script) as resolver:
        zone = finder(resolvers=[resolver.address]).zone_of(NAME)
    assert [(server.name, server.fault) for server in zone.servers] == [
        (f"ns1.{ZONE}", ""),
        (f"ns2.{ZONE}", "no-address"),
    ]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(f"s1._domainkey.{ZONE}", id="key"),
        pytest.param(f"s1._domainkey.not.yet.{ZONE}", id="key-of-a-domain-that-may-not-exist-yet"),
        pytest.param(f"s1.example.com.dkim.{ZONE}", id="target-of-an-alias"),
    ],
)
def test_no_question_to_the_resolver_names_what_may_be_new(name: str) -> None:
    """RFC 8020: that a name is not there may be remembered for all that is below it."""
    with BrokenServer(resolver_with({f"ns1.{ZONE}": ["127.0.0.8"]})) as resolver:
        finder(resolvers=[resolver.address]).zone_of(dns.name.from_text(name))
        asked = {str(question.question[0].name) for question, _ in resolver.asked}
        flags = {bool(question.flags & dns.flags.RD) for question, _ in resolver.asked}
    assert asked == {f"{ZONE}.", f"ns1.{ZONE}.", f"ns2.{ZONE}."}
    assert flags == {True}


def refusing(question: dns.message.Message, over_tcp: bool) -> Iterable[bytes]:
    return [reply(question, rcode=dns.rcode.REFUSED, flags=0).to_wire()]


def test_the_next_resolver_is_asked_where_one_fails() -> None:
    """In the order of the settings."""
    script = resolver_with({f"ns1.{ZONE}": ["127.0.0.8"]})
    with BrokenServer(refusing) as first, BrokenServer(script) as second:
        zone = finder(resolvers=[first.address, second.address]).zone_of(NAME)
    assert servers.text(zone.top) == ZONE


@pytest.mark.parametrize(
    ("script", "says"),
    [
        pytest.param(refusing, "the resolvers said REFUSED", id="resolver-refuses"),
        pytest.param(lambda q, t: [], "the resolvers said timeout", id="resolver-silent"),
        pytest.param(
            lambda q, t: [
                reply(
                    q,
                    authority=[". 60 IN SOA a.root. x.root. 1 1 1 1 1"],
                    rcode=dns.rcode.NXDOMAIN,
                    flags=dns.flags.RA,
                ).to_wire()
            ],
            "no zone was found",
            id="no-such-top-level-domain",
        ),
        pytest.param(resolver_with({}), "none of its name servers", id="servers-without-address"),
        pytest.param(
            resolver_with({}, *(f"{ZONE}. 60 IN NS ns{n}.{ZONE}." for n in range(40))),
            "40 name servers",
            id="endless-servers",
        ),
    ],
)
def test_what_cannot_be_found_is_a_sentence(script: Script, says: str) -> None:
    """Nothing is known then; the view says so and why."""
    with BrokenServer(script) as resolver:
        settings = DnsSettings(resolvers=(resolver.address,), timeout=0.2, tries=1)
        view = Checker(settings, lambda: NOW).look(servers.text(NAME), PUBLIC)
    assert says in view.problem
    assert view.states == {ServerState.UNKNOWN}


def test_findings_are_kept_for_the_run() -> None:
    """A second key of the domain costs no question to the resolver; a new run asks again."""
    with BrokenServer(resolver_with({f"ns1.{ZONE}": ["127.0.0.8"]})) as resolver:
        look = finder(resolvers=[resolver.address])
        counts: list[Any] = []
        for label in ("s1", "s2"):
            look.zone_of(dns.name.from_text(f"{label}._domainkey.{ZONE}"))
            counts.append(len(resolver.asked))
        look.forget()
        look.zone_of(NAME)
    assert counts[1] == counts[0]
    assert len(resolver.asked) == 2 * counts[0]
