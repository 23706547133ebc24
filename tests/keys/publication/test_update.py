"""Dynamic updates against real servers: what they do, and every refusal in words."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import re
import struct
import time as real_time
from collections.abc import Iterator
from types import SimpleNamespace

import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.zone
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import name_servers
from support.name_servers import Bind, Knot, NameServer, Nsd, TsigKey, Unbound, Zone
from support.strange_server import Answering, strange_server

from carbonseal.keys.publication import exchange, tsig_key, update
from carbonseal.keys.publication.outcome import Outcome, OutcomeKind
from carbonseal.keys.publication.settings import ServerAddress
from carbonseal.keys.publication.update import Rfc2136Publisher
from carbonseal.policies import errors

ZONE = "example.test"
OTHER = "other.test"
KEY = TsigKey()
STRANGER = TsigKey("stranger")  # known to the servers, allowed nothing that matters here
# As long as that of an RSA-4096 key, with the slashes that base64 brings.
VALUE = (
    "v=DKIM1; k=rsa; h=sha256; p=" + base64.b64encode((bytes(range(200, 256)) * 10)[:550]).decode()
)
REVOKED = "v=DKIM1; k=rsa; h=sha256; p="
TTL = 300
BESIDE = ('keep._domainkey IN TXT "v=DKIM1; p=keep"', 'www IN TXT "keep"', "www IN A 192.0.2.1")


def ours(key: TsigKey = KEY) -> tsig_key.TsigKey:
    """A test's key as the product holds it."""
    return tsig_key.TsigKey(key.name, key.algorithm, base64.b64decode(key.secret))


def publisher(
    server: NameServer | ServerAddress,
    key: TsigKey = KEY,
    *,
    zone: str | None = None,
    timeout: float = 10.0,
) -> Rfc2136Publisher:
    """A publisher at a server."""
    address = server.address if isinstance(server, NameServer) else server
    return Rfc2136Publisher(address, ours(key), zone, timeout)


@pytest.fixture(scope="module")
def bind() -> Iterator[Bind]:
    zones = [Zone(ZONE, BESIDE), Zone(OTHER), Zone(f"_domainkey.{OTHER}")]
    with Bind(zones, keys=[KEY]) as server:
        yield server


@pytest.fixture(scope="module")
def knot() -> Iterator[Knot]:
    with Knot([Zone(ZONE, BESIDE), Zone(OTHER)], keys=[KEY]) as server:
        yield server


@pytest.fixture(params=["bind", "knot"])
def server(request: pytest.FixtureRequest) -> Bind | Knot:
    """Each of the two that take updates."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Bind | Knot)
    return found


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A selector's name that no other test uses."""
    return f"s{abs(hash(request.node.name))}._domainkey.{ZONE}"


def everything(server: NameServer, zone: str = ZONE) -> set[str]:
    """All records of a zone but its SOA."""
    transfer = dns.query.xfr(server.address.host, zone, port=server.address.port, relativize=False)
    whole = dns.zone.from_xfr(transfer, relativize=False)
    return {
        f"{owner} {record}"
        for owner, rdataset in whole.iterate_rdatasets()
        if rdataset.rdtype != dns.rdatatype.SOA
        for record in rdataset
    }


# --- what is done -------------------------------------------------------------------------------


def test_a_record_is_added_changed_and_deleted_and_nothing_else(
    server: Bind | Knot, name: str
) -> None:
    """The whole life of a record; a value of an RSA-4096 key stands in three strings."""
    before = everything(server)
    by = publisher(server)
    assert by.add(name, VALUE, TTL).kind is OutcomeKind.SENT
    answer = name_servers.ask(server.address, name).answer[0]
    assert answer.ttl == TTL
    assert [len(part) for part in answer[0].strings] == [255, 255, len(VALUE) - 510]
    assert name_servers.txt_at(server.address, name) == [VALUE]
    assert by.change(name, VALUE, REVOKED, TTL).kind is OutcomeKind.SENT
    assert name_servers.txt_at(server.address, name) == [REVOKED]
    assert len(everything(server) - before) == 1
    assert by.delete(name, REVOKED).kind is OutcomeKind.SENT
    assert everything(server) == before


def test_a_second_attempt_of_the_same_step_changes_nothing(server: Bind | Knot, name: str) -> None:
    """A run that was killed after its update may be repeated."""
    by = publisher(server)
    assert by.add(name, VALUE, TTL).kind is OutcomeKind.SENT
    assert by.add(name, VALUE, TTL).kind is OutcomeKind.CONFLICT
    assert by.change(name, VALUE, REVOKED, TTL).kind is OutcomeKind.SENT
    assert by.change(name, VALUE, REVOKED, TTL).kind is OutcomeKind.CONFLICT
    assert by.delete(name, REVOKED).kind is OutcomeKind.SENT
    assert by.delete(name, REVOKED).kind is OutcomeKind.CONFLICT


@pytest.mark.parametrize(
    "standing",
    [
        pytest.param('IN TXT "v=spf1 -all"', id="another-txt"),
        pytest.param("IN CNAME s1.dkim.other.test.", id="alias"),
        pytest.param("IN A 192.0.2.1", id="address"),
    ],
)
def test_nothing_is_added_where_anything_stands(standing: str) -> None:
    """Foreign data stays as it is."""
    name = f"s1._domainkey.{ZONE}"
    with Bind([Zone(ZONE, (f"s1._domainkey {standing}",))], keys=[KEY]) as server:
        before = everything(server)
        got = publisher(server).add(name, VALUE, TTL)
        assert got.kind is OutcomeKind.CONFLICT
        assert "already" in got.sentence
        assert everything(server) == before


@pytest.mark.parametrize(
    "standing",
    [
        pytest.param([], id="nothing"),
        pytest.param(["v=DKIM1; p=other"], id="another-text"),
        pytest.param([VALUE[:-1]], id="text-cut-short"),
        pytest.param([VALUE, "v=spf1 -all"], id="second-txt"),
    ],
)
def test_nothing_is_changed_or_deleted_unless_the_expected_record_stands_alone(
    server: Bind | Knot, name: str, standing: list[str]
) -> None:
    """The value-dependent prerequisite covers the whole set of TXT records at the name."""
    name_servers.put_txt(server.address, ZONE, KEY, name, *standing)
    before = everything(server)
    by = publisher(server)
    for got in (by.change(name, VALUE, REVOKED, TTL), by.delete(name, VALUE)):
        assert got.kind is OutcomeKind.CONFLICT
        assert "expected" in got.sentence
    assert everything(server) == before


def test_a_record_that_a_person_split_at_other_places_can_be_revoked(
    server: Bind | Knot, name: str
) -> None:
    """Servers compare octets, string by string; OpenDKIM's files cut at 250."""
    parts = " ".join(f'"{VALUE[at : at + 250]}"' for at in range(0, len(VALUE), 250))
    by_hand = dns.update.UpdateMessage(ZONE, keyring=KEY.key)
    by_hand.add(f"{name}.", TTL, "TXT", parts)
    address = server.address
    dns.query.tcp(by_hand, address.host, timeout=10, port=address.port)
    assert publisher(server).change(name, VALUE, REVOKED, TTL).kind is OutcomeKind.SENT
    assert name_servers.txt_at(server.address, name) == [REVOKED]


# --- finding the zone ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "zone"),
    [
        pytest.param(f"s1._domainkey.{ZONE}", ZONE, id="above"),
        pytest.param(f"s1._domainkey.{OTHER}", f"_domainkey.{OTHER}", id="own-zone-for-keys"),
        pytest.param(f"s1._domainkey.mail.{ZONE}", ZONE, id="below-names-that-are-not-there"),
        pytest.param(ZONE, ZONE, id="apex"),
    ],
)
def test_the_zone_is_what_the_server_itself_says(bind: Bind, name: str, zone: str) -> None:
    """The longest zone it has that holds the name."""
    assert publisher(bind)._zone_of(update.absolute(name)) == update.absolute(zone)


def test_the_zone_of_a_name_with_an_alias_is_found() -> None:
    """The alias hides the SOA at the name, so its parent is asked."""
    zone = Zone(ZONE, ("s1._domainkey IN CNAME s1.example.net.",))
    with Bind([zone], keys=[KEY]) as server:
        found = publisher(server)._zone_of(update.absolute(f"s1._domainkey.{ZONE}"))
        assert found == update.absolute(ZONE)


def test_a_name_given_to_other_servers_is_not_written_beneath_the_cut() -> None:
    """The update would be taken, and nobody would see it."""
    zone = Zone(ZONE, ("_domainkey IN NS ns.example.net.",))
    with Bind([zone], keys=[KEY]) as server:
        got = publisher(server).add(f"s1._domainkey.{ZONE}", VALUE, TTL)
    assert got.kind is OutcomeKind.REFUSED
    assert f"primary of _domainkey.{ZONE}" in got.sentence


def test_a_server_without_the_zone_says_so(server: Bind | Knot) -> None:
    """Neither BIND's REFUSED nor Knot's is taken for a zone."""
    got = publisher(server).add("s1._domainkey.example.org", VALUE, TTL)
    assert got.kind is OutcomeKind.REFUSED
    assert "has no zone that holds s1._domainkey.example.org" in got.sentence


def test_a_resolver_has_no_zones() -> None:
    """It knows the SOA from its cache, but not with authority."""
    zone = Zone(ZONE, soa_ttl=300, minimum=300)
    with Bind([zone]) as server, Unbound({ZONE: [server.address]}, shows_cache=True) as resolver:
        assert name_servers.ask(resolver.address, ZONE, "SOA", recursive=True).answer
        assert name_servers.ask(resolver.address, ZONE, "SOA").answer
        got = publisher(resolver).add(f"s1._domainkey.{ZONE}", VALUE, TTL)
    assert got.kind is OutcomeKind.REFUSED
    assert f"knows {ZONE} without authority, as a resolver does" in got.sentence


# --- refusals -----------------------------------------------------------------------------------

NAME = f"s1._domainkey.{ZONE}"
WRONG_SECRET = TsigKey(KEY.name)
OTHER_ALGORITHM = dataclasses.replace(KEY, algorithm="hmac-sha512")


@pytest.mark.parametrize(
    ("key", "name", "zone", "of_bind", "of_knot"),
    [
        pytest.param(
            WRONG_SECRET, NAME, None, "another secret", "another secret", id="wrong-secret"
        ),
        pytest.param(
            OTHER_ALGORITHM, NAME, None, "(BADKEY)|secret or", "(BADKEY)", id="other-algorithm"
        ),
        pytest.param(STRANGER, NAME, None, "(BADKEY)", "(BADKEY)", id="unknown-key"),
        pytest.param(KEY, NAME, "example.org", "(NOTAUTH)", "(NOTAUTH)", id="zone-not-here"),
        pytest.param(KEY, NAME, OTHER, "(NOTZONE)", "(BADKEY)|(NOTZONE)", id="not-in-the-zone"),
        pytest.param(
            KEY, f"www2.{ZONE}", None, "(REFUSED)", "(BADKEY)", id="not-allowed-by-policy"
        ),
    ],
)
def test_each_refusal_is_explained(
    server: Bind | Knot,
    key: TsigKey,
    name: str,
    zone: str | None,
    of_bind: str,
    of_knot: str,
) -> None:
    """The dialects of BIND and Knot; the sentence names server and remedy, never the secret."""
    before = everything(server)
    got = publisher(server, key, zone=zone).add(name, VALUE, TTL)
    assert got.kind is OutcomeKind.REFUSED
    said = (of_bind if isinstance(server, Bind) else of_knot).split("|")
    assert any(word in got.sentence for word in said), got.sentence
    assert str(server.address) in got.sentence
    assert got.sentence.endswith((".", ");"))
    assert key.secret not in got.sentence
    assert everything(server) == before


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(f"s1._domainkey.{ZONE}", id="as-usual"),
        pytest.param(f"s1._domainkey.mail.{ZONE}", id="signing-domain-below-the-zone"),
        pytest.param(f"2026.s1._domainkey.{ZONE}", id="selector-with-a-dot"),
        pytest.param(f"s1.example.com.dkim.{ZONE}", id="delegated-to-us"),
    ],
)
def test_bind_says_what_its_policy_must_grant(name: str) -> None:
    """Whoever pastes the line into the zone may then publish."""
    with Bind([Zone(ZONE)], keys=[KEY], grant="name nothing.{zone}. TXT") as server:
        got = publisher(server).add(name, VALUE, TTL)
        found = re.search(r"grant dkim-key (.*?);", got.sentence)
        assert found is not None, got.sentence
        server.grant = found[1]
        server.reconfigure()
        assert publisher(server).add(name, VALUE, TTL).kind is OutcomeKind.SENT


@pytest.mark.parametrize("seconds", [-4000, 4000])
def test_clocks_that_differ_are_named_with_the_seconds(
    server: Bind | Knot, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    """Only our own signing is shifted; the server's clock is right."""
    shifted = SimpleNamespace(time=lambda: real_time.time() + seconds)
    monkeypatch.setattr(dns.message, "time", shifted)
    got = publisher(server).add(NAME, VALUE, TTL)
    assert got.kind is OutcomeKind.REFUSED
    assert "NTP" in got.sentence
    side = "ahead" if seconds < 0 else "behind"
    about = [f"by {abs(seconds) + slack} s (the server's is {side})" for slack in (-1, 0, 1)]
    assert any(text in got.sentence for text in about), got.sentence


def test_a_frozen_zone_is_told_apart_by_its_remedy(server: Bind | Knot) -> None:
    """REFUSED by both."""
    server.freeze(ZONE)
    got = publisher(server).add(NAME, VALUE, TTL)
    server.thaw(ZONE)
    assert got.kind is OutcomeKind.REFUSED
    command = "rndc thaw" if isinstance(server, Bind) else "knotc zone-thaw"
    assert f"{command} {ZONE}" in got.sentence


def test_nsd_takes_no_updates() -> None:
    """NOTIMP, which NSD does not sign; nothing but consent needs a signature."""
    with Nsd([Zone(ZONE)]) as server:
        got = publisher(server).add(NAME, VALUE, TTL)
    assert got.kind is OutcomeKind.REFUSED
    assert "(NOTIMP), as NSD does not" in got.sentence


def test_a_secondary_takes_no_updates() -> None:
    """BIND without forwarding; the primary is named as what helps."""
    primary = Bind([Zone(ZONE)], keys=[KEY])
    secondary = Bind(primary=primary)
    secondary.keys = (KEY,)
    with primary, secondary:
        got = publisher(secondary).add(NAME, VALUE, TTL)
        assert got.kind is OutcomeKind.REFUSED
        assert "primary" in got.sentence or "secondary" in got.sentence
        assert name_servers.txt_at(primary.address, NAME) == []


def test_a_server_that_cannot_write_says_servfail() -> None:
    """A directory stands where BIND's journal should be."""
    with Bind([Zone(ZONE)], keys=[KEY]) as server:
        (server.directory / f"{ZONE}.zone.jnl").mkdir()
        got = publisher(server).add(NAME, VALUE, TTL)
    assert got.kind is OutcomeKind.REFUSED
    assert "(SERVFAIL)" in got.sentence


# --- no answer, or one that is not to be believed -----------------------------------------------


def test_a_stopped_server_was_not_asked() -> None:
    """Refused connection: nothing can have happened."""
    with Bind([Zone(ZONE)], keys=[KEY]) as server:
        server.stop()
        got = publisher(server).add(NAME, VALUE, TTL)
    assert got.kind is OutcomeKind.UNREACHABLE
    assert "refuses connections" in got.sentence
    assert "was not changed" in got.sentence


def test_a_paused_server_may_have_made_the_change() -> None:
    """With the zone known, the update itself gets no answer; it is made when the server goes on."""
    with Bind([Zone(ZONE)], keys=[KEY]) as server:
        server.pause()
        got = publisher(server, zone=ZONE, timeout=0.3).add(NAME, VALUE, TTL)
        server.resume()
        assert got.kind is OutcomeKind.UNREACHABLE
        assert "may or may not have been made" in got.sentence
        name_servers.wait_for_txt(server.address, NAME, VALUE)


def mute(_: bytes) -> bytes | None:
    return None


def rubbish(_: bytes) -> bytes | None:
    return struct.pack("!H", 40) + b"\xff" * 40


def half(question: bytes) -> bytes | None:
    return struct.pack("!H", 400) + question[:30]


def hang_up(_: bytes) -> bytes | None:
    return b""


def another_question(question: bytes) -> bytes | None:
    reply = bytes([question[0] ^ 1, question[1], question[2] | 0x80]) + question[3:12]
    return framed(reply[:4] + bytes(8))


def echo(question: bytes) -> bytes | None:
    return framed(question)


def framed(message: bytes) -> bytes:
    return struct.pack("!H", len(message)) + message


def unsigned(code: dns.rcode.Rcode, question: bytes) -> bytes:
    """An answer without a signature."""
    reply = dns.message.make_response(dns.message.from_wire(question, keyring=False))
    reply.tsig = None
    reply.keyring = None
    reply.want_tsig_sign = False
    reply.set_rcode(code)
    return framed(reply.to_wire())


@pytest.mark.parametrize("answer", [mute, rubbish, half, hang_up, another_question, echo])
@pytest.mark.parametrize("zone", [None, ZONE])
def test_what_is_no_answer_leaves_it_open(answer: Answering, zone: str | None) -> None:
    """Bounded in time, and in words; with the zone known it is the update that was sent."""
    with strange_server(answer) as address:
        got = publisher(address, zone=zone, timeout=0.3).add(NAME, VALUE, TTL)
    assert got.kind is OutcomeKind.UNREACHABLE
    assert ("was not changed" if zone is None else "may or may not") in got.sentence


@pytest.mark.parametrize(
    "code", [dns.rcode.NOERROR, dns.rcode.YXDOMAIN, dns.rcode.NXRRSET], ids=dns.rcode.to_text
)
def test_unsigned_consent_is_not_believed(code: dns.rcode.Rcode) -> None:
    """Anybody on the way could have said it."""
    with strange_server(lambda question: unsigned(code, question)) as address:
        got = publisher(address, zone=ZONE).add(NAME, VALUE, TTL)
    assert got.kind is OutcomeKind.REFUSED
    assert "not believed" in got.sentence


def test_consent_signed_with_another_key_is_not_believed() -> None:
    """A signature is worth what its key is."""

    def answer(question: bytes) -> bytes:
        asked = dns.message.from_wire(question, keyring=False)
        reply = dns.message.make_response(asked)
        reply.use_tsig(WRONG_SECRET.key)
        reply.request_mac = asked.mac
        return framed(reply.to_wire())

    with strange_server(answer) as address:
        got = publisher(address, zone=ZONE).add(NAME, VALUE, TTL)
    assert got.kind is OutcomeKind.REFUSED
    assert "not believed" in got.sentence


@given(st.binary(max_size=200))
def test_any_octets_are_an_answer_or_none(reply: bytes) -> None:
    """Whatever comes over the wire, no other exception than NoAnswer leaves the reader."""
    with contextlib.suppress(exchange.NoAnswer):
        exchange._read_unverified(reply)


# --- values -------------------------------------------------------------------------------------


@given(st.text(st.characters(max_codepoint=0x2FFF, exclude_categories=["Cs"]), max_size=900))
def test_a_text_is_published_octet_for_octet(text: str) -> None:
    """No semicolon, quote or backslash means anything; strings hold at most 255 octets."""
    strings = update.txt(text).strings
    assert b"".join(strings).decode() == text
    assert all(len(part) <= 255 for part in strings)
    assert strings


@pytest.mark.parametrize("name", ["", "a..b", "x" * 64 + ".test", "a." * 130 + "test"])
def test_what_is_no_name_is_refused(name: str) -> None:
    """Before anything is sent."""
    nobody = ServerAddress("127.0.0.1", 1)
    with pytest.raises(errors.DataError, match="no domain name"):
        publisher(nobody).add(name, VALUE, TTL)


def test_the_secret_shows_nowhere(bind: Bind) -> None:
    """Neither in our values nor in those that we lend to dnspython."""
    by = publisher(bind)
    shown = f"{by!r} {by.key!r} {by.key.for_signing()!r} {by.explain()}"
    assert KEY.secret not in shown
    assert repr(base64.b64decode(KEY.secret))[2:-1] not in shown


def test_outcomes_are_values() -> None:
    """For the lifecycle to compare."""
    assert Outcome(OutcomeKind.SENT, "a") == Outcome(OutcomeKind.SENT, "a")
