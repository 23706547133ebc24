"""The milter client speaks the protocol as a real libmilter understands it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import milter_client, ports
from support import milter_protocol as wire
from support.milter_client import Answer, Client, Conversation, Envelope, Outcome, Recipient
from support.milter_protocol import ALL_ACTIONS, ALL_PROTOCOL, Actions, Protocol, Stage

PROGRAM = Path(__file__).with_name("tiny_milter.py")
FIELDS: list[tuple[str | bytes, bytes]] = [
    ("From", b" Alice <alice@example.com>"),
    ("Subject", b"  two spaces\r\n\tfolded \xff"),
    ("X-Bare", b"none"),
]
BODY = b"Hello\r\n"
ARCHIVE = ("<archive@archive.example.net>", "NOTIFY=NEVER")

Start = Callable[..., Path]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start tiny milters with options; gives the socket of each."""
    with contextlib.ExitStack() as running:

        def one(*options: str, address: str = "") -> Path:
            path = tmp_path / f"{'-'.join(options) or 'plain'}.sock"
            command = [sys.executable, str(PROGRAM), address or f"unix:{path}", *options]
            process = running.enter_context(
                subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            )
            running.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            return path

        yield one


def seen(outcome: Outcome) -> dict[str, Any]:
    """The tiny milter's report."""
    ((position, name, value),) = outcome.inserted
    assert (position, name) == (0, "X-Seen")
    report: dict[str, Any] = json.loads(value)
    return report


def with_subject(text: bytes) -> list[tuple[str | bytes, bytes]]:
    return [("From", b" alice@example.com"), ("Subject", text)]


@pytest.mark.parametrize("options", [(), ("noreply",)], ids=["replies", "no-replies"])
def test_a_message_arrives_whole_and_its_edits_come_back(
    options: tuple[str, ...], start: Start
) -> None:
    """The same events, the same edits, whether or not the milter answers each event."""
    with Conversation(start(*options)) as talk:
        asked = talk.negotiated.protocol
        assert bool(asked & Protocol.NR_HDR) == ("noreply" in options)
        assert talk.open().answer == Answer.CONTINUE
        envelope = Envelope("<alice@example.com>", ["<bob@example.org>"], ("SIZE=100",))
        outcome = talk.send_message(envelope, FIELDS, BODY)
    assert (outcome.final, outcome.ended_at) == (Answer.ACCEPT, "eom")
    assert outcome.added_recipients == [ARCHIVE]
    report = seen(outcome)
    assert report["calls"] == ["mail", "rcpt", "data", *["header"] * 3, "eoh", "body", "eom"]
    assert report["envelope"] == [["<alice@example.com>", "SIZE=100"], ["<bob@example.org>"]]
    assert report["connection"][0] == "desk.example.com"
    assert report["connection"][2:] == [["192.0.2.10", 40000], "desk.example.com"]
    assert report["body"] == hashlib.sha256(BODY).hexdigest()


@pytest.mark.parametrize(
    ("options", "values"),
    [
        pytest.param(
            ("leading-space",),
            [b" Alice <alice@example.com>", b"  two spaces\n\tfolded \xff", b"none"],
            id="as-they-are",
        ),
        pytest.param(
            (),
            [b"Alice <alice@example.com>", b" two spaces\n\tfolded \xff", b"none"],
            id="without-one-space",
        ),
    ],
)
def test_header_values_keep_their_octets(
    options: tuple[str, ...], values: list[bytes], start: Start
) -> None:
    """Folding is LF, 8-bit octets stay, the leading space depends on HDR_LEADSPC."""
    with Conversation(start(*options)) as talk:
        talk.open()
        report = seen(talk.send_message(Envelope(), FIELDS, BODY))
    assert [bytes.fromhex(value) for _, value in report["fields"]] == values


@pytest.mark.parametrize("options", [(), ("noreply",)], ids=["replies", "no-replies"])
@pytest.mark.parametrize(
    "size", [0, 1, 65_534, 65_535, 65_536, 200_000], ids=lambda size: f"{size}-octets"
)
def test_bodies_of_any_size_arrive(size: int, options: tuple[str, ...], start: Start) -> None:
    """Chunks hold 65,535 octets at most."""
    body = bytes(range(256)) * (size // 256 + 1)
    body = body[:size]
    with Conversation(start(*options)) as talk:
        talk.open()
        report = seen(talk.send_message(Envelope(), FIELDS, body))
    assert report["body"] == hashlib.sha256(body).hexdigest()
    assert sum(report["chunks"]) == size
    assert max(report["chunks"], default=0) <= wire.CHUNK_SIZE


def test_a_declined_body_is_not_sent(start: Start) -> None:
    """NOBODY: the milter sees none, and nobody waits."""
    with Conversation(start("no-body")) as talk:
        talk.open()
        report = seen(talk.send_message(Envelope(), FIELDS, b"x" * 200_000))
    assert "body" not in report["calls"]


def test_a_skipped_body_ends_after_the_first_chunk(start: Start) -> None:
    """SKIP spares the rest of the body, not the end of the message."""
    with Conversation(start("skip")) as talk:
        talk.open()
        report = seen(talk.send_message(Envelope(), FIELDS, b"x" * 200_000))
    assert report["chunks"] == [wire.CHUNK_SIZE]


def test_temporary_failure_on_demand_comes_with_its_words(start: Start) -> None:
    """setreply's text arrives with single per cent signs, and asks for nothing else."""
    with Conversation(start("noreply")) as talk:
        talk.open()
        outcome = talk.send_message(Envelope(), with_subject(b" tempfail"), BODY)
        assert (outcome.final, outcome.reply_text) == (Answer.TEMPFAIL, "451 4.3.0 come % back")
        assert outcome.inserted == []
        assert outcome.added_recipients == []
        again = talk.send_message(Envelope(), with_subject(b" hi"), BODY)
    assert again.final == Answer.ACCEPT, "the connection goes on"


def test_final_answers_end_the_message_where_they_come(start: Start) -> None:
    """A discard within the header section, a rejection at the end."""
    with Conversation(start()) as talk:
        talk.open()
        discarded = talk.send_message(Envelope(), with_subject(b" discard"), BODY)
        rejected = talk.send_message(Envelope(), with_subject(b" reject"), BODY)
    assert (discarded.final, discarded.ended_at) == (Answer.DISCARD, "header")
    assert (rejected.final, rejected.ended_at) == (Answer.REJECT, "eom")


def test_refused_recipients_leave_the_others(start: Start) -> None:
    """A refusal at RCPT is about one recipient; without any other the message ends there."""
    with Conversation(start()) as talk:
        talk.open()
        mixed = talk.send_message(
            Envelope(recipients=["<refuse@example.org>", "<bob@example.org>"]), FIELDS, BODY
        )
        alone = talk.send_message(Envelope(recipients=["<refuse@example.org>"]), FIELDS, BODY)
    assert mixed.final == Answer.ACCEPT
    ((argument, reply),) = mixed.refused
    assert (argument, reply.text) == ("<refuse@example.org>", "550 5.1.1 not % here")
    assert (alone.final, alone.ended_at) == (Answer.REJECT, "rcpt")


def test_all_kinds_of_edits_are_read(start: Start) -> None:
    """One of each; the new body came in two packets."""
    with Conversation(start("all-edits")) as talk:
        talk.open()
        edits = talk.send_message(Envelope(), FIELDS, BODY).edits
    assert edits.added == [("X-Last", b" at the end")]
    assert edits.changed == [(1, "Subject", b" other")]
    assert edits.added_recipients == [ARCHIVE, ("<plain@example.org>", "")]
    assert edits.deleted_recipients == ["<bob@example.org>"]
    assert edits.reverse_paths == [("<other@example.com>", "SIZE=1")]
    assert edits.body == b"a" * 70_000
    assert (edits.quarantine, edits.progress) == ("why not", 1)


def test_macros_come_as_postfix_sends_them(start: Start) -> None:
    """Default lists; no queue id before a recipient was accepted; no {client_addr}."""
    macros = {"{daemon_name}": "submission", "{client_addr}": "192.0.2.10"}
    with Conversation(start(), macros=macros) as talk:
        talk.open()
        report = seen(
            talk.send_message(
                Envelope("<alice@example.com>", ["<bob@example.org>", "<eve@example.org>"]),
                FIELDS,
                BODY,
                {Stage.MAIL: {"{auth_type}": "PLAIN"}},
            )
        )
        alone = seen(talk.send_message(Envelope(), FIELDS, BODY))
    values = report["macros"]
    assert values["mail"]["{daemon_name}"] == "submission"
    assert values["mail"]["{mail_addr}"] == "alice@example.com"
    assert values["mail"]["{auth_type}"] == "PLAIN"
    assert "i" not in values["mail"]
    assert (values["rcpt"]["{rcpt_addr}"], values["rcpt"]["i"]) == ("eve@example.org", "4TESTQ1")
    assert values["eom"]["i"] == "4TESTQ1"
    assert "{client_addr}" not in values["mail"]
    assert "i" not in alone["macros"]["rcpt"], "one recipient only: none was accepted before it"
    assert "{auth_type}" not in alone["macros"]["mail"]


def test_a_list_of_the_milter_replaces_the_default_of_its_stage(start: Start) -> None:
    """SETSYMLIST: the milter's lists are read back and obeyed, other stages keep theirs."""
    path = start("lists")
    macros = {"{client_addr}": "192.0.2.10", "{auth_type}": "PLAIN"}
    with Conversation(path, macros=macros) as talk:
        assert talk.negotiated.macro_lists == {
            Stage.CONNECT: ("{client_addr}",),
            Stage.EOM: ("i", "{auth_type}"),
        }
        talk.open()
        values = seen(talk.send_message(Envelope(), FIELDS, BODY))["macros"]
    assert values["mail"]["{client_addr}"] == "192.0.2.10"
    assert "{daemon_name}" not in values["mail"]
    assert (values["eom"]["i"], values["eom"]["{auth_type}"]) == ("4TESTQ1", "PLAIN")
    with Conversation(path, offered_actions=ALL_ACTIONS & ~Actions.SETSYMLIST) as talk:
        assert talk.negotiated.macro_lists == {}


@pytest.mark.parametrize("withheld", [Protocol.NR_HDR, Protocol.NR_RCPT, wire.NO_REPLIES])
def test_the_milter_asks_only_for_what_is_offered(withheld: Protocol, start: Start) -> None:
    """An older MTA waits for some answers; the message arrives all the same."""
    path = start("noreply", "leading-space")
    with Conversation(path, offered_protocol=ALL_PROTOCOL & ~withheld) as talk:
        assert not talk.negotiated.protocol & withheld
        talk.open()
        assert talk.send_message(Envelope(), FIELDS, BODY).final == Answer.ACCEPT


def test_each_message_of_a_connection_ends_with_abort(start: Start) -> None:
    """As Postfix does, also after a message that was accepted; and the milter closes after QUIT."""
    with Conversation(start("noreply")) as talk:
        talk.open()
        reports = [seen(talk.send_message(Envelope(), FIELDS, BODY)) for _ in range(3)]
        talk.quit()
        talk.wait_for_end()
    assert [report["calls"][0] for report in reports] == ["mail"] * 3
    assert [len(report["envelope"]) for report in reports] == [2, 2, 2]


def test_the_socket_stays_after_quit_nc(start: Start) -> None:
    """QUIT_NC keeps the socket and what was negotiated.

    Debian's libmilter (8.17.1, worker pool) drops a CONNECT that follows without an answer, so the
    next client can only be told by its HELO.  Postfix opens a new connection instead.
    """
    with Conversation(start()) as talk:
        talk.open(Client("one.example", "192.0.2.1", 1))
        talk.send_message(Envelope(), FIELDS, BODY)
        talk.quit_nc()
        assert talk.helo("two.example").answer == Answer.CONTINUE
        assert talk.send_message(Envelope(), FIELDS, BODY).final == Answer.ACCEPT


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        pytest.param(Client(address="2001:db8::1"), ["2001:db8::1", 40000, 0, 0], id="ipv6"),
        pytest.param(Client(address=""), None, id="unknown"),
        pytest.param(Client(address="/run/x"), "/run/x", id="unix-socket"),
    ],
)
def test_clients_of_every_family_are_told(client: Client, expected: object, start: Start) -> None:
    """libmilter reads what we write."""
    with Conversation(start()) as talk:
        talk.open(client)
        report = seen(talk.send_message(Envelope(), FIELDS, BODY))
    assert report["connection"][2] == expected


def test_tcp_sockets_work_as_well(start: Start) -> None:
    """libmilter's inet:port@host."""
    port = ports.free_port()
    start(address=f"inet:{port}@127.0.0.1")
    with Conversation(("127.0.0.1", port)) as talk:
        talk.open()
        envelope = Envelope("<>", [Recipient("<bob@example.org>", ("NOTIFY=NEVER",))])
        report = seen(talk.send_message(envelope, FIELDS, BODY))
    assert report["envelope"] == [["<>"], ["<bob@example.org>", "NOTIFY=NEVER"]]


def test_a_milter_that_hangs_is_noticed(start: Start) -> None:
    """No read waits for ever."""
    with Conversation(start("noreply"), timeout=0.5) as talk:
        talk.open()
        with pytest.raises(TimeoutError):
            talk.send_message(Envelope(), with_subject(b" sleep"), BODY)


def test_a_socket_that_nobody_serves_is_named(tmp_path: Path) -> None:
    """The message carries the address."""
    with pytest.raises(milter_client.MilterGone, match="nothing"):
        Conversation(tmp_path / "nothing.sock")


RECORDED = [
    # What Postfix 3.7.11 sent for one message of two chunks to two recipients, to a milter that
    # declines DATA and answers nothing but the last event: command, macro names.
    ("O", None),
    ("D", "C j {daemon_name} {daemon_addr} v _"),
    ("C", None),
    ("D", "H"),
    ("H", None),
    ("D", "M {mail_addr} {mail_host} {mail_mailer}"),
    ("M", None),
    ("D", "R {rcpt_addr} {rcpt_host} {rcpt_mailer}"),
    ("R", None),
    ("D", "R i {rcpt_addr} {rcpt_host} {rcpt_mailer}"),
    ("R", None),
    ("D", "T i"),
    ("D", "L i"),
    ("L", None),
    ("D", "N i"),
    ("N", None),
    ("D", "B i"),
    ("B", None),
    ("D", "B i"),
    ("B", None),
    ("D", "E i"),
    ("E", None),
    ("A", None),
    ("A", None),
    ("Q", None),
]


def test_packets_come_in_the_order_recorded_from_postfix() -> None:
    """Macros before each event, an empty end of message, ABORT after the message and at QUIT."""
    heard: list[tuple[str, str | None]] = []
    answers = {
        b"O": negotiation(0, int(wire.NO_REPLIES | Protocol.NODATA | Protocol.HDR_LEADSPC)),
        b"E": packet(b"c"),
    }

    def listen(connection: socket.socket) -> None:
        stream = connection.makefile("rb")
        while octets := stream.read(4):
            content = stream.read(int.from_bytes(octets))
            command, payload = content[:1], content[1:]
            names = [payload[:1], *payload[1:].split(b"\0")[:-1:2]] if command == b"D" else None
            heard.append((command.decode(), b" ".join(names).decode() if names else None))
            if command == b"E":
                assert not payload
            connection.sendall(answers.get(command, b""))

    with served(listen) as address, Conversation(address) as talk:
        talk.open()
        envelope = Envelope(recipients=["<b@example.org>", "<c@example.org>"])
        talk.send_message(envelope, [("From", b" alice@example.com")], b"x" * 70_000)
    assert heard == RECORDED


def packet(command: bytes, payload: bytes = b"") -> bytes:
    return wire.framed(command, payload)


def negotiation(actions: int, protocol: int, rest: bytes = b"") -> bytes:
    numbers = b"".join(number.to_bytes(4) for number in (6, actions, protocol))
    return packet(b"O", numbers + rest)


@contextlib.contextmanager
def served(behave: Callable[[socket.socket], None]) -> Iterator[tuple[str, int]]:
    """A peer on loopback that takes one connection; it is done when the block is left."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                behave(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        address = listener.getsockname()
        yield address[0], address[1]
        thread.join()


@contextlib.contextmanager
def scripted(*answers: bytes) -> Iterator[tuple[str, int]]:
    """A peer that says one prepared thing after each thing it hears, then closes."""

    def speak(connection: socket.socket) -> None:
        for answer in answers:
            if not connection.recv(65_536):
                return
            connection.sendall(answer)

    with served(speak) as address:
        yield address


@pytest.mark.parametrize(
    ("answer", "offered"),
    [
        pytest.param(negotiation(0x100, 0), Actions.ADDHDRS, id="action-not-offered"),
        pytest.param(negotiation(1, 1 << 29), ALL_ACTIONS, id="flag-not-offered"),
        pytest.param(packet(b"c"), ALL_ACTIONS, id="another-packet"),
        pytest.param(packet(b"O", b"\0\0"), ALL_ACTIONS, id="too-short"),
        pytest.param(b"\xff\xff\xff\xff", ALL_ACTIONS, id="length-out-of-step"),
    ],
)
def test_a_broken_negotiation_is_refused(answer: bytes, offered: Actions) -> None:
    """A milter that takes what was not offered would make Postfix give up, so do we."""
    with scripted(answer) as address, pytest.raises(milter_client.ProtocolBroken):
        Conversation(address, offered_actions=offered)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(packet(b"h", b"X\0 y\0"), id="edit-before-the-end"),
        pytest.param(packet(b"?"), id="unknown-answer"),
        pytest.param(packet(b"c", b"more"), id="answer-with-data"),
        pytest.param(packet(b"y", b"250 2.0.0 fine\0"), id="reply-of-success"),
    ],
)
def test_a_broken_answer_is_refused(answer: bytes) -> None:
    """At CONNECT only decisions are due."""
    with (
        scripted(negotiation(1, 0), answer) as address,
        pytest.raises(milter_client.ProtocolBroken),
        Conversation(address) as talk,
    ):
        talk.connect()


def test_an_edit_that_was_not_asked_for_is_refused() -> None:
    """Asked for header fields, adds a recipient."""
    with (
        scripted(negotiation(1, 0), packet(b"+", b"<x@example.org>\0")) as address,
        pytest.raises(milter_client.ProtocolBroken, match="ADDRCPT"),
        Conversation(address) as talk,
    ):
        talk.end_of_message()


def test_words_out_of_turn_are_refused() -> None:
    """A milter that promised silence and answers all the same would put us out of step."""
    chatter = negotiation(1, int(wire.NO_REPLIES)) + packet(b"c")
    with (
        scripted(chatter) as address,
        pytest.raises(milter_client.ProtocolBroken, match="unasked"),
        Conversation(address) as talk,
    ):
        talk.connect()


def test_a_milter_that_closes_is_gone() -> None:
    """Not a timeout: the caller learns it at once."""
    with (
        scripted(negotiation(1, 0), b"") as address,
        pytest.raises(milter_client.MilterGone),
        Conversation(address) as talk,
    ):
        talk.connect()
