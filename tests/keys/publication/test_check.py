"""What real servers show at a key's name, and what becomes of every kind of trouble."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import pytest
from support import name_servers
from support.broken_server import BrokenServer, Script, reply
from support.name_servers import Bind, Knot, Nsd, TsigKey, Unbound, Zone

from carbonseal.keys import dns_record, generate, keyring
from carbonseal.keys.publication.check import Checker
from carbonseal.keys.publication.settings import DnsSettings, ServerAddress
from carbonseal.policies.key_life import DnsView, ServerState

SHOWN, ABSENT, OTHER = ServerState.SHOWN, ServerState.ABSENT, ServerState.OTHER
REVOKED, UNKNOWN = ServerState.REVOKED, ServerState.UNKNOWN
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
ZONE, ELSEWHERE = "example.test", "elsewhere.test"
PUBLIC = keyring.public_octets(generate.generate("rsa-sha256", 2048))
STRANGER = keyring.public_octets(generate.generate("ed25519-sha256", 0))
RIGHT = dns_record.value(PUBLIC)
NAME = f"s1._domainkey.{ZONE}"


def line(label: str, *values: str, ttl: int = 60) -> str:
    """TXT records for a zone file, as they come from zone_text."""
    return "\n".join(
        dns_record.zone_text(f"{label}._domainkey.{ZONE}", value, ttl) for value in values
    )


def checker(servers: dict[str, Iterable[ServerAddress]], **more: Any) -> Checker:
    settings = {"timeout": 5.0, "tries": 1, **more}
    return Checker(
        DnsSettings(servers={zone: tuple(found) for zone, found in servers.items()}, **settings),
        lambda: NOW,
    )


def seen(view: DnsView) -> list[tuple[ServerState, str]]:
    return [(one.state, one.fault) for one in view.servers]


# --- what stands there


RECORDS = (
    line("right", RIGHT),
    line("revoked", dns_record.revocation(PUBLIC)),
    line("two", RIGHT, "v=spf1 -all"),
    "unquoted._domainkey 60 IN TXT v=DKIM1",
    line("first-string", RIGHT[:255]),
    line("quoted", f'"{RIGHT}"'),
    line("spaced", RIGHT.replace("sha256", "sha 256")),
    line("pieces", RIGHT[:255], RIGHT[255:]),
    line("testing", RIGHT + "; t=y"),
    line("stranger", dns_record.value(STRANGER)),
    line("spki", f"v=DKIM1; k=ed25519; p={base64.b64encode(STRANGER).decode()}"),
    line("spf", "v=spf1 -all"),
    "alias._domainkey 30 IN CNAME right._domainkey",
    "chain._domainkey 40 IN CNAME alias._domainkey",
    "away._domainkey 50 IN CNAME s1.elsewhere.test.",
    "broken._domainkey 50 IN CNAME nothing.elsewhere.test.",
    "circle._domainkey 50 IN CNAME back.elsewhere.test.",
    "self._domainkey 50 IN CNAME self._domainkey",
    *(f"long{number}._domainkey 1 IN CNAME long{number + 1}._domainkey" for number in range(12)),
    "a.empty._domainkey 60 IN TXT below",
)
OTHER_RECORDS = (
    *dns_record.zone_text("s1.elsewhere.test", RIGHT).splitlines(),
    f"back IN CNAME circle._domainkey.{ZONE}.",
)


@pytest.fixture(scope="module")
def world() -> Iterator[dict[str, Iterable[ServerAddress]]]:
    """Two zones at two makes of servers; one of them at two servers."""
    primary = Bind([Zone(ZONE, RECORDS, soa_ttl=300, minimum=120)])
    secondary = Nsd(primary=primary)
    other = Knot([Zone(ELSEWHERE, OTHER_RECORDS, soa_ttl=900, minimum=600)])
    with primary, secondary, other:
        yield {ZONE: [primary.address, secondary.address], ELSEWHERE: [other.address]}


@pytest.mark.parametrize(
    ("label", "state", "fault"),
    [
        pytest.param("right", SHOWN, "", id="right"),
        pytest.param("nothing", ABSENT, "missing", id="missing"),
        pytest.param("empty", ABSENT, "missing", id="only-a-name-below-exists"),
        pytest.param("revoked", REVOKED, "revoked", id="revoked"),
        pytest.param("two", OTHER, "two-records", id="two-records"),
        pytest.param("unquoted", OTHER, "truncated", id="unquoted-in-the-zone-file"),
        pytest.param("first-string", OTHER, "truncated", id="first-string-only"),
        pytest.param("quoted", OTHER, "quoted", id="quoted-twice"),
        pytest.param("spaced", OTHER, "no-sha256", id="space-in-sha256"),
        pytest.param("pieces", OTHER, "split", id="strings-as-records"),
        pytest.param("testing", OTHER, "testing", id="t-y"),
        pytest.param("stranger", OTHER, "mismatch", id="another-key"),
        pytest.param("spki", OTHER, "wrong-ed25519", id="ed25519-as-spki"),
        pytest.param("spf", OTHER, "not-a-key", id="something-else"),
        pytest.param("alias", SHOWN, "", id="cname"),
        pytest.param("chain", SHOWN, "", id="cname-chain"),
        pytest.param("self", OTHER, "cname-loop", id="cname-to-itself"),
        pytest.param("long0", OTHER, "cname-loop", id="cname-chain-of-twelve"),
    ],
)
def test_each_server_is_judged_by_what_it_shows(
    world: dict[str, Iterable[ServerAddress]], label: str, state: ServerState, fault: str
) -> None:
    """BIND and its secondary NSD; a fault comes with a sentence that names the server."""
    view = checker(world).look(f"{label}._domainkey.{ZONE}", PUBLIC)
    assert seen(view) == [(state, fault)] * 2
    assert view.is_everywhere(state)
    assert (view.zone, view.problem) == (ZONE, "")
    for one in view.servers:
        assert (one.address in one.about) == bool(fault)
        assert one.serial == 1


@pytest.mark.parametrize(
    ("label", "state", "fault"),
    [
        pytest.param("away", SHOWN, "", id="into-another-zone"),
        pytest.param("broken", ABSENT, "cname-broken", id="to-nothing"),
        pytest.param("circle", OTHER, "cname-loop", id="there-and-back"),
    ],
)
def test_aliases_are_followed_to_the_servers_of_the_other_zone(
    world: dict[str, Iterable[ServerAddress]], label: str, state: ServerState, fault: str
) -> None:
    """The end is what the servers there show; the waits are those of all zones crossed."""
    view = checker(world).look(f"{label}._domainkey.{ZONE}", PUBLIC)
    assert set(seen(view)) == {(state, fault)}
    assert view.negative_ttl == 600
    if fault != "cname-loop":
        assert view.zone == ELSEWHERE
        assert [one.address for one in view.servers] == [str(a) for a in world[ELSEWHERE]]
        assert view.alias_ttl == 50


def test_times_come_from_the_zone(world: dict[str, Iterable[ServerAddress]]) -> None:
    """min(SOA TTL, SOA minimum), refresh and retry, TTLs of TXT and of aliases."""
    view = checker(world).look(f"chain._domainkey.{ZONE}", PUBLIC)
    assert (view.negative_ttl, view.alias_ttl, view.wildcard_ttl) == (120, 70, 0)
    assert view.refresh == 2
    assert view.target == f"right._domainkey.{ZONE}"
    assert {one.ttl for one in view.servers} == {60}
    negative = checker(world).look(f"nothing._domainkey.{ZONE}", PUBLIC)
    assert negative.negative_ttl == 120


def test_a_stranger_is_judged_by_itself(world: dict[str, Iterable[ServerAddress]]) -> None:
    """Without a key to compare, a usable one is shown."""
    view = checker(world).look(f"stranger._domainkey.{ZONE}", None)
    assert view.is_everywhere(SHOWN)
    assert checker(world).look(f"testing._domainkey.{ZONE}", None).is_everywhere(OTHER)


def test_notes_tell_what_is_no_fault(world: dict[str, Iterable[ServerAddress]]) -> None:
    """An alias, and a zone without DNSSEC."""
    examination = checker(world).examine(f"alias._domainkey.{ZONE}", PUBLIC)
    assert examination.view.is_everywhere(SHOWN)
    assert examination.bits == 2048
    alias, unsigned = examination.notes
    assert f"alias of right._domainkey.{ZONE}" in alias
    assert "DNSSEC" in unsigned


def test_a_silent_server_says_nothing_about_dnssec() -> None:
    """Unknown is not absent, here either."""
    nobody = ServerAddress("127.0.0.1", name_servers.free_port())
    examination = checker({ZONE: [nobody]}).examine(NAME, PUBLIC)
    assert examination.view.states == {UNKNOWN}
    assert examination.notes == ()


def test_many_threads_may_look_at_once(world: dict[str, Iterable[ServerAddress]]) -> None:
    """One checker for all."""
    look = checker(world)
    labels = ["right", "alias", "away", "nothing", "two"] * 8
    with ThreadPoolExecutor(16) as pool:
        views = list(pool.map(lambda one: look.look(f"{one}._domainkey.{ZONE}", PUBLIC), labels))
    assert [view.servers for view in views[:5]] * 8 == [view.servers for view in views]


# --- wildcards


@pytest.mark.parametrize(
    ("wildcard", "about"),
    [
        pytest.param('*._domainkey 77 IN TXT "v=spf1 -all"', "spf", id="of-another-kind"),
        pytest.param('* 77 IN TXT "v=spf1 -all"', "spf", id="higher-up"),
        pytest.param(line("*", RIGHT, ttl=77), "key", id="with-our-own-key"),
        pytest.param("*._domainkey 77 IN CNAME s1.elsewhere.test.", "key", id="as-an-alias"),
    ],
)
def test_a_wildcard_is_not_our_record(
    wildcard: str, about: str, world: dict[str, Iterable[ServerAddress]]
) -> None:
    """Where only it answers, nothing of ours is there, and its TTL counts for the wait."""
    with Bind([Zone(ZONE, (wildcard,))]) as server:
        view = checker({**world, ZONE: [server.address]}).look(NAME, PUBLIC)
    assert seen(view) == [(ABSENT, "wildcard")]
    assert (view.wildcard_ttl, view.alias_ttl) == (77, 0)
    assert "wildcard" in view.complaints[0]


@pytest.mark.parametrize(
    "wildcard",
    [
        pytest.param('*._domainkey 77 IN TXT "v=spf1 -all"', id="of-another-kind"),
        pytest.param('* 77 IN TXT "v=spf1 -all"', id="higher-up"),
        pytest.param(line("*", RIGHT, ttl=77), id="word-for-word-the-same"),
    ],
)
def test_a_record_of_our_own_is_told_from_the_wildcard_beside_it(wildcard: str) -> None:
    """Even if both say the same; caches may hold the wildcard's answer, so its TTL counts."""
    with Bind([Zone(ZONE, (wildcard, line("s1", RIGHT)))]) as server:
        examination = checker({ZONE: [server.address]}).examine(NAME, PUBLIC)
    assert seen(examination.view) == [(SHOWN, "")]
    assert examination.view.wildcard_ttl == 77
    assert any("wildcard" in note for note in examination.notes)


def test_a_dname_is_followed_and_no_wildcard() -> None:
    """_domainkey as a whole delegated by DNAME: every selector leads to its own target."""
    records = ("_domainkey 90 IN DNAME dkim.elsewhere.test.",)
    target = dns_record.zone_text("s1.dkim.elsewhere.test", RIGHT)
    with Bind([Zone(ZONE, records)]) as here, Bind([Zone(ELSEWHERE, (target,))]) as there:
        view = checker({ZONE: [here.address], ELSEWHERE: [there.address]}).look(NAME, PUBLIC)
    assert seen(view) == [(SHOWN, "")]
    assert (view.target, view.zone) == ("s1.dkim.elsewhere.test", ELSEWHERE)
    assert (view.alias_ttl, view.wildcard_ttl) == (90, 0)


# --- servers that lag, fail or lie


def test_a_secondary_that_lags_is_named_with_both_serials() -> None:
    """Its answer is its own: absent; the key is not everywhere."""
    key = TsigKey()
    zone = Zone(ZONE, refresh=3600, retry=3600)
    with name_servers.primary_and_secondary([zone], keys=[key], notify=False) as (first, second):
        name_servers.put_txt(first.address, ZONE, key, NAME, RIGHT)
        view = checker({ZONE: [first.address, second.address]}).look(NAME, PUBLIC)
        assert seen(view) == [(SHOWN, ""), (ABSENT, "stale-server")]
        assert "serial 1" in view.servers[1].about
        assert not view.is_everywhere(SHOWN)
        second.control("retransfer", ZONE)
        name_servers.wait_for_txt(second.address, NAME, RIGHT)
        assert (
            checker({ZONE: [first.address, second.address]}).look(NAME, PUBLIC).is_everywhere(SHOWN)
        )


def test_servers_with_one_serial_and_two_contents_are_inconsistent() -> None:
    """As where people copy zone files by hand."""
    with Bind([Zone(ZONE, (line("s1", RIGHT),))]) as first, Bind([Zone(ZONE)]) as second:
        view = checker({ZONE: [first.address, second.address]}).look(NAME, PUBLIC)
    assert seen(view) == [(SHOWN, ""), (ABSENT, "inconsistent")]


def test_a_server_without_the_alias_speaks_for_itself() -> None:
    """All servers of every zone must agree."""
    alias = Zone(ZONE, ("s1._domainkey IN CNAME s1.elsewhere.test.",), serial=2)
    target = Zone(ELSEWHERE, (dns_record.zone_text("s1.elsewhere.test", RIGHT),))
    with Bind([alias, target]) as first, Bind([Zone(ZONE)]) as second:
        servers = {ZONE: [first.address, second.address], ELSEWHERE: [first.address]}
        view = checker(servers).look(NAME, PUBLIC)
    assert sorted(seen(view)) == [(ABSENT, "stale-server"), (SHOWN, "")]
    assert view.target == "s1.elsewhere.test"


def test_a_secondary_that_never_got_the_zone_is_unknown() -> None:
    """SERVFAIL is no word about the key."""
    primary = Bind([Zone(ZONE, (line("s1", RIGHT),))], allow_transfer=False)
    with primary, Bind(primary=primary) as secondary:
        view = checker({ZONE: [primary.address, secondary.address]}).look(NAME, PUBLIC)
    assert seen(view) == [(SHOWN, ""), (UNKNOWN, "servfail")]


def test_a_server_that_was_stopped_or_stands_still_is_unknown() -> None:
    """Unknown is not absent; a closed port is told from silence."""
    zone = Zone(ZONE, (line("s1", RIGHT),))
    with Bind([zone]) as first, Bind([zone]) as second, Nsd([zone]) as third:
        second.stop()
        third.pause()
        servers = [first.address, second.address, third.address]
        look = checker({ZONE: servers}, timeout=0.3)
        views = [look.look(NAME, PUBLIC) for _ in range(4)]
        third.resume()
        closed = (UNKNOWN, "connection-refused")
        assert seen(views[0]) == [(SHOWN, ""), closed, (UNKNOWN, "timeout")]
        assert seen(views[3]) == [(SHOWN, ""), closed, (UNKNOWN, "given-up")]
        look.forget()
        name_servers.wait_for_txt(third.address, NAME, RIGHT)
        assert seen(look.look(NAME, PUBLIC))[2] == (SHOWN, "")


def test_a_server_without_the_zone_refuses() -> None:
    """NSD and BIND say REFUSED."""
    zone = Zone(ZONE, (line("s1", RIGHT),))
    with Bind([zone]) as first, Nsd([Zone(ELSEWHERE)]) as second:
        view = checker({ZONE: [first.address, second.address]}).look(NAME, PUBLIC)
    assert seen(view) == [(SHOWN, ""), (UNKNOWN, "refused")]


def test_a_resolver_is_no_authoritative_server() -> None:
    """Even if it repeats the right record: its cache is not the zone."""
    zone = Zone(ZONE, (line("s1", RIGHT),))
    with Bind([zone]) as first, Unbound({ZONE: [first.address]}) as resolver:
        name_servers.txt_at(resolver.address, NAME, recursive=True)  # now it is in the cache
        view = checker({ZONE: [first.address, resolver.address]}).look(NAME, PUBLIC)
    state, fault = seen(view)[1]
    assert state is UNKNOWN
    assert fault in {"lame", "refused"}


SOA = f"{ZONE}. 60 IN SOA ns1.{ZONE}. hostmaster.{ZONE}. 7 1 1 600 30"


def answers(*records: str, **about: Any) -> Script:
    """A script that has the zone's SOA and gives `records` at the key's name."""

    def script(question: dns.message.Message, over_tcp: bool) -> Iterable[bytes]:
        asked = question.question[0]
        at_name = str(asked.name).rstrip(".") == NAME and asked.rdtype != dns.rdatatype.SOA
        if at_name:
            return [reply(question, *records, **about).to_wire()]
        if asked.rdtype == dns.rdatatype.SOA:
            authority = [] if str(asked.name) == f"{ZONE}." else [SOA]
            answer = [] if authority else [SOA]
            return [reply(question, *answer, authority=authority).to_wire()]
        return [reply(question, authority=[SOA], rcode=dns.rcode.NXDOMAIN).to_wire()]

    return script


KEY_LINE = dns_record.zone_text(f"{NAME}", dns_record.value(STRANGER), 60)
CNAME_LINE = f"{NAME}. 60 IN CNAME s1.elsewhere.test."


@pytest.mark.parametrize(
    ("script", "state", "fault"),
    [
        pytest.param(answers(KEY_LINE), SHOWN, "", id="right"),
        pytest.param(answers(KEY_LINE, flags=0), UNKNOWN, "lame", id="not-authoritative"),
        pytest.param(
            answers(authority=["test. 60 IN NS a.root.test."], flags=0),
            UNKNOWN,
            "lame",
            id="refers-upward",
        ),
        pytest.param(answers(KEY_LINE, flags=dns.flags.RA), UNKNOWN, "lame", id="resolver"),
        pytest.param(answers(rcode=dns.rcode.NOTIMP), UNKNOWN, "not-implemented", id="notimp"),
        pytest.param(answers(rcode=dns.rcode.SERVFAIL), UNKNOWN, "servfail", id="servfail"),
        pytest.param(answers(rcode=dns.rcode.REFUSED), UNKNOWN, "refused", id="refused"),
        pytest.param(answers(rcode=dns.rcode.YXRRSET), UNKNOWN, "bad-rcode", id="odd-rcode"),
        pytest.param(
            answers(CNAME_LINE, KEY_LINE), OTHER, "cname-beside-others", id="cname-and-txt"
        ),
        pytest.param(
            answers(CNAME_LINE, CNAME_LINE.replace("s1.else", "s2.else")),
            OTHER,
            "cname-beside-others",
            id="two-cnames",
        ),
        pytest.param(
            answers(flags=dns.flags.TC | dns.flags.AA), UNKNOWN, "truncated-udp", id="cut"
        ),
        pytest.param(answers(), ABSENT, "missing", id="nothing-without-soa"),
    ],
)
def test_what_no_real_server_says_is_named(script: Script, state: ServerState, fault: str) -> None:
    """Only an answer with authority counts."""
    with BrokenServer(script, tcp=False) as server:
        view = checker({ZONE: [server.address]}, timeout=0.5).look(NAME, STRANGER)
    assert seen(view) == [(state, fault)]


def test_without_an_soa_nothing_is_known() -> None:
    """A wait computed from nothing would be too short."""

    def script(question: dns.message.Message, over_tcp: bool) -> Iterable[bytes]:
        return [reply(question, KEY_LINE).to_wire()]

    with BrokenServer(script) as server:
        view = checker({ZONE: [server.address]}).look(NAME, STRANGER)
    assert seen(view) == [(UNKNOWN, "no-soa")]


def test_servers_that_lead_different_ways_are_all_followed() -> None:
    """A bounded number of steps, whatever they invent."""

    def maze(end: str) -> Callable[[dns.message.Message, bool], Iterable[bytes]]:
        def script(question: dns.message.Message, over_tcp: bool) -> Iterable[bytes]:
            asked = question.question[0]
            if asked.rdtype == dns.rdatatype.SOA:
                return answers()(question, over_tcp)
            lead = f"{asked.name} 1 IN CNAME {end}{len(server_a.asked)}.{asked.name}"
            return [reply(question, lead).to_wire()]

        return script

    with BrokenServer(maze("a")) as server_a, BrokenServer(maze("b")) as server_b:
        view = checker({ZONE: [server_a.address, server_b.address]}).look(NAME, PUBLIC)
        assert len(server_a.asked) < 200
    assert (OTHER, "cname-loop") in seen(view)


def test_a_name_that_is_none_is_a_problem_not_an_error() -> None:
    """Nothing is known then."""
    view = checker({}).look("a" * 70 + f"._domainkey.{ZONE}", PUBLIC)
    assert view.states == {UNKNOWN}
    assert view.problem


def test_a_text_is_kept_to_a_bound() -> None:
    """A stranger's record may have 64 KB."""
    long = dataclasses.replace(Zone(ZONE), records=(line("s1", "x" * 5000),))
    with Bind([long]) as server:
        view = checker({ZONE: [server.address]}).look(NAME, PUBLIC)
    assert len(view.servers[0].text) == 2048
