"""One question to one server: the answer, or which trouble; nothing that comes back does harm."""

from __future__ import annotations

import struct
from collections.abc import Iterable

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import name_servers
from support.broken_server import BrokenServer, Script, framed, reply
from support.name_servers import Bind, Zone

from carbonseal.keys.publication import ask
from carbonseal.keys.publication.ask import Trouble
from carbonseal.keys.publication.settings import DnsSettings, ServerAddress

NAME = dns.name.from_text("s1._domainkey.example.test")
TXT = dns.rdatatype.TXT
RECORD = f'{NAME} 60 IN TXT "here"'
BRIEF = 0.2  # seconds; where the answer is silence


def put(address: ServerAddress, *, timeout: float = 5.0, tries: int = 1) -> ask.Answer:
    return ask.ask(NAME, TXT, address, timeout=timeout, tries=tries)


def right(question: dns.message.Message, over_tcp: bool) -> Iterable[bytes]:
    wire = reply(question, RECORD).to_wire()
    return [framed(wire) if over_tcp else wire]


def cut(question: dns.message.Message) -> bytes:
    return reply(question, flags=dns.flags.AA | dns.flags.TC).to_wire()


def other_id(question: dns.message.Message) -> bytes:
    wire = reply(question, RECORD).to_wire()
    return struct.pack("!H", question.id ^ 1) + wire[2:]


def other_question(question: dns.message.Message) -> bytes:
    other = dns.message.make_query("other.example.test", TXT, id=question.id)
    return reply(other).to_wire()


def test_the_question_is_for_authoritative_servers() -> None:
    """RD is clear and EDNS offers 1,232 octets; the answer is taken as it is."""
    with BrokenServer(right) as server:
        answer = put(server.address)
        ((question, _),) = server.asked
    assert not question.flags & dns.flags.RD
    assert (question.edns, question.payload) == (0, 1232)
    assert (answer.trouble, answer.rcode, answer.is_authoritative) == (None, "NOERROR", True)
    found = answer.at(NAME, TXT)
    assert found is not None
    assert found.ttl == 60


@pytest.mark.parametrize(
    ("script", "trouble"),
    [
        pytest.param(lambda q, t: [], Trouble.TIMEOUT, id="silence"),
        pytest.param(lambda q, t: [b""], Trouble.MALFORMED, id="nothing"),
        pytest.param(lambda q, t: [b"HTTP/1.1 400 Bad Request\r\n"], Trouble.WRONG_ID, id="http"),
        pytest.param(lambda q, t: [q.to_wire()], Trouble.MALFORMED, id="echo-of-the-question"),
        pytest.param(
            lambda q, t: [reply(q, RECORD).to_wire()[:-5]], Trouble.MALFORMED, id="broken-off"
        ),
        pytest.param(
            lambda q, t: [reply(q, RECORD).to_wire() + b"more"], Trouble.MALFORMED, id="too-long"
        ),
        pytest.param(lambda q, t: [other_id(q)], Trouble.WRONG_ID, id="wrong-id"),
        pytest.param(lambda q, t: [other_question(q)], Trouble.WRONG_QUESTION, id="wrong-question"),
        pytest.param(
            lambda q, t: [cut(q)], Trouble.TRUNCATED, id="cut-and-tcp-closes-without-answer"
        ),
        pytest.param(
            lambda q, t: [framed(cut(q)) if t else cut(q)], Trouble.TRUNCATED, id="cut-over-tcp-too"
        ),
        pytest.param(
            lambda q, t: [framed(b"x" * 40)[:20] if t else cut(q)],
            Trouble.TRUNCATED,
            id="tcp-breaks-off",
        ),
        pytest.param(
            lambda q, t: [framed(b"") if t else cut(q)], Trouble.TRUNCATED, id="tcp-sends-nothing"
        ),
        pytest.param(
            lambda q, t: [framed(other_id(q)) if t else cut(q)],
            Trouble.TRUNCATED,
            id="wrong-id-over-tcp",
        ),
    ],
)
def test_what_is_no_answer_is_named(script: Script, trouble: Trouble) -> None:
    """Every way to fail is told from the others, and none raises."""
    with BrokenServer(script) as server:
        assert put(server.address, timeout=BRIEF).trouble is trouble


def test_an_answer_that_is_cut_where_tcp_is_closed_is_trouble() -> None:
    """As behind a firewall that lets only UDP through."""
    with BrokenServer(lambda q, t: [cut(q)], tcp=False) as server:
        assert put(server.address).trouble is Trouble.TRUNCATED


def test_a_port_where_nobody_listens_is_told_from_silence() -> None:
    """The kernel says so at once."""
    nobody = ServerAddress("127.0.0.1", name_servers.free_port())
    assert put(nobody, timeout=60).trouble is Trouble.CLOSED


def test_an_address_without_a_way_is_unreachable() -> None:
    """A link-local address on an interface that does not exist."""
    assert put(ServerAddress("fe80::1%nosuch0")).trouble is Trouble.UNREACHABLE


def test_silence_is_asked_again_and_then_enough() -> None:
    """As often as the settings say."""
    with BrokenServer(lambda q, t: []) as server:
        assert put(server.address, timeout=BRIEF, tries=3).trouble is Trouble.TIMEOUT
        assert len(server.asked) == 3


def test_a_lost_answer_is_made_good_by_the_next_try() -> None:
    """One datagram lost is no trouble."""
    with BrokenServer(lambda q, t: [] if len(server.asked) < 2 else right(q, t)) as server:
        assert put(server.address, timeout=BRIEF, tries=2).rcode == "NOERROR"


def test_forged_answers_do_not_keep_the_real_one_out() -> None:
    """Who does not know the id cannot end the wait."""
    with BrokenServer(lambda q, t: [other_id(q), b"?", *right(q, t)]) as server:
        answer = put(server.address, tries=1)
    assert answer.at(NAME, TXT) is not None


@pytest.mark.parametrize("rcode", [dns.rcode.FORMERR, dns.rcode.NOTIMP, dns.rcode.BADVERS])
def test_a_server_without_edns_is_asked_without(rcode: dns.rcode.Rcode) -> None:
    """RFC 6891 section 7."""

    def old(question: dns.message.Message, over_tcp: bool) -> Iterable[bytes]:
        if question.edns >= 0:
            return [reply(question, rcode=rcode).to_wire()]
        return right(question, over_tcp)

    with BrokenServer(old) as server:
        assert put(server.address).rcode == "NOERROR"


def test_a_refusal_need_not_repeat_the_question() -> None:
    """Some servers send twelve octets."""
    with BrokenServer(lambda q, t: [struct.pack("!HHHHHH", q.id, 0x8005, 0, 0, 0, 0)]) as server:
        assert put(server.address).rcode == "REFUSED"


def test_bind_cuts_what_is_too_long_and_gives_all_over_tcp() -> None:
    """A real server, more TXT than 1,232 octets."""
    long = tuple(f'{NAME} IN TXT "{number:>250}"' for number in range(8))
    with Bind([Zone("example.test", long)]) as server:
        answer = put(server.address)
    found = answer.at(NAME, TXT)
    assert answer.over_tcp
    assert found is not None
    assert len(found.records) == 8


def test_an_address_that_is_silent_three_times_is_given_up_until_the_next_run() -> None:
    """The fourth question is not sent; others are not affected."""
    asker = ask.Asker(DnsSettings(timeout=BRIEF, tries=1))
    with BrokenServer(lambda q, t: []) as silent, BrokenServer(right) as other:
        troubles = [asker.ask(NAME, TXT, silent.address).trouble for _ in range(4)]
        assert troubles == [Trouble.TIMEOUT] * 3 + [Trouble.GIVEN_UP]
        assert len(silent.asked) == 3
        assert asker.ask(NAME, TXT, other.address).trouble is None
        asker.forget()
        silent.script = right
        assert asker.ask(NAME, TXT, silent.address).trouble is None


def test_an_answer_in_between_forgives_silence() -> None:
    """Three in a row, not three in all."""
    asker = ask.Asker(DnsSettings(timeout=BRIEF, tries=1))
    with BrokenServer(lambda q, t: right(q, t) if len(server.asked) % 3 == 0 else []) as server:
        troubles = [asker.ask(NAME, TXT, server.address).trouble for _ in range(7)]
    assert troubles == [Trouble.TIMEOUT, Trouble.TIMEOUT, None] * 2 + [Trouble.TIMEOUT]


@settings(max_examples=300, deadline=None)
@given(octets=st.binary(max_size=600), flags=st.integers(0, 0xFFFF), keep=st.booleans())
def test_hostile_octets_are_an_answer_or_trouble(octets: bytes, flags: int, keep: bool) -> None:
    """Whatever follows the right id, nothing is raised, and the real answer still counts."""

    def hostile(question: dns.message.Message, over_tcp: bool) -> Iterable[bytes]:
        head = question.to_wire()[4:] if keep else b""
        wire = struct.pack("!HH", question.id, flags) + head + octets
        refusal = reply(question, rcode=dns.rcode.REFUSED).to_wire()
        return [framed(wire)] if over_tcp else [wire, refusal]

    with BrokenServer(hostile) as server:
        answer = put(server.address, tries=1)
    assert answer.trouble is not None or answer.rcode
    assert answer.trouble is not Trouble.TIMEOUT
