"""The milter protocol end to end: what the MTA tells, what it is told, and what is on record.

Each test speaks to the real service, once as it speaks the protocol itself and once through real
libmilter, and reads the records in the spool.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from support import milter_protocol as wire
from support.carbonseal import ARCHIVE, Carbonseal
from support.milter_client import (
    CLIENT,
    Answer,
    Channel,
    Client,
    Conversation,
    Envelope,
    MilterGone,
    Outcome,
    Recipient,
)
from support.milter_protocol import ALL_ACTIONS, ALL_PROTOCOL, Actions, Protocol, Stage
from support.waiting import wait_until

Fields = list[tuple[str | bytes, bytes]]
FIELDS: Fields = [
    ("From", b" Alice <alice@example.com>"),
    ("To", b" bob@example.org"),
    ("Subject", b" hello"),
]
BODY = b"text\r\n"
STRANGER = Client("mx.example.net", "198.51.100.7", 25_000, "mx.example.net")
COPY = [(f"<{ARCHIVE}>", "NOTIFY=NEVER")]


KNOWN: set[str] = set()  # record ids of the tests before


@pytest.fixture(scope="module", params=["own", "libmilter"])
def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Carbonseal]:
    """One service for all tests that leave it whole."""
    sections = {"milter": {"workers": 1, "protocol": request.param}}
    one = Carbonseal(tmp_path_factory.mktemp("wire") / "seal", sections)
    one.make_key("example.com")
    with one:
        yield one


@pytest.fixture
def service(shared: Carbonseal) -> Carbonseal:
    """The shared one; `records` gives only what this test leaves."""
    KNOWN.clear()
    KNOWN.update(one["record_id"] for one in records(shared))
    return shared


def send(
    service: Carbonseal,
    envelope: Envelope | None = None,
    fields: Fields | None = None,
    body: bytes = BODY,
    *,
    client: Client = CLIENT,
    macros: Mapping[Stage, Mapping[str, str]] | None = None,
    chunk_size: int = wire.CHUNK_SIZE,
    **conversation: Any,
) -> Outcome:
    """One message on a connection of its own."""
    with Conversation(service.socket, **conversation) as talk:
        talk.open(client)
        return talk.send_message(
            envelope or Envelope(),
            FIELDS if fields is None else fields,
            body,
            macros,
            chunk_size=chunk_size,
        )


def records(service: Carbonseal) -> list[dict[str, Any]]:
    """This test's records in the spool, in order; a line that is none fails the test."""
    places = [*service.spool.glob("*.jsonl"), *service.spool.glob("loaded/*.jsonl")]
    lines = [
        json.loads(line)
        for place in sorted(places, key=lambda one: one.name)
        for line in place.read_text().rstrip("\0").splitlines()
    ]
    return [line for line in lines if "footer" not in line and line["record_id"] not in KNOWN]


def is_sealed(outcome: Outcome) -> bool:
    """Accepted, signed at the very top and copied once."""
    places = [(position, name) for position, name, _ in outcome.inserted]
    return (
        outcome.final == Answer.ACCEPT
        and places == [(0, "DKIM-Signature")]
        and outcome.added_recipients == COPY
    )


# --- negotiation ----------------------------------------------------------------------------------


def test_what_is_asked_of_postfix(service: Carbonseal) -> None:
    """No answers but the last, values as they are, the macros we live by, and only our edits."""
    with Conversation(service.socket) as talk:
        asked = talk.negotiated
    assert asked.actions == (
        Actions.ADDHDRS | Actions.ADDRCPT | Actions.ADDRCPT_PAR | Actions.SETSYMLIST
    )
    expected = Protocol.HDR_LEADSPC | Protocol.NODATA | Protocol.NOEOH | Protocol.NOUNKNOWN
    for name in ("CONN", "HELO", "MAIL", "RCPT", "HDR", "BODY"):
        expected |= Protocol[f"NR_{name}"]
    assert asked.protocol == expected
    assert "{daemon_name}" in asked.macro_lists[Stage.CONNECT]
    assert {"{auth_authen}", "{mail_addr}"} <= set(asked.macro_lists[Stage.MAIL])
    assert {"{rcpt_addr}", "{rcpt_mailer}"} <= set(asked.macro_lists[Stage.RCPT])


@pytest.mark.parametrize(
    "offer",
    [
        pytest.param({"offered_actions": ALL_ACTIONS & ~Actions.SETSYMLIST}, id="no-symlist"),
        pytest.param({"offered_protocol": Protocol.HDR_LEADSPC}, id="no-silence"),
        pytest.param({"version": 4}, id="version-4"),
        pytest.param(
            {"offered_actions": ALL_ACTIONS & ~Actions.CHGHDRS & ~Actions.CHGBODY}, id="no-others"
        ),
    ],
)
def test_an_mta_that_offers_enough_is_served(offer: dict[str, Any], service: Carbonseal) -> None:
    """What we can do without does not matter."""
    assert is_sealed(send(service, **offer))


@pytest.mark.parametrize(
    "offer",
    [
        pytest.param({"offered_protocol": ALL_PROTOCOL & ~Protocol.HDR_LEADSPC}, id="no-leadspc"),
        pytest.param({"offered_actions": ALL_ACTIONS & ~Actions.ADDRCPT_PAR}, id="no-addrcpt-par"),
        pytest.param({"offered_actions": ALL_ACTIONS & ~Actions.ADDHDRS}, id="no-addhdrs"),
        pytest.param(
            {"version": 2, "offered_actions": Actions(0x1F), "offered_protocol": Protocol(0x7F)},
            id="version-2",
        ),
    ],
)
def test_an_mta_that_offers_too_little_is_turned_away(
    offer: dict[str, Any], service: Carbonseal
) -> None:
    """Better no milter at all (Postfix answers 4yz then) than one that does half."""
    mark = service.mark()
    with pytest.raises(MilterGone):
        send(service, **offer)
    service.wait_for_log("mta-unfit", since=mark)
    assert records(service) == []


# --- what is told to the MTA ----------------------------------------------------------------------


def test_the_signature_goes_to_the_top_with_space_and_lf_folding(service: Carbonseal) -> None:
    """As Postfix with HDR_LEADSPC wants it; CRLF inside would be doubled."""
    outcome = send(service)
    assert is_sealed(outcome)
    ((_, _, value),) = outcome.inserted
    assert value.startswith(b" v=1;")
    assert b"\r" not in value
    assert value.count(b"\n") == value.count(b"\n ")
    assert max(map(len, value.split(b"\n"))) <= 78


def test_of_two_signatures_rsa_is_the_topmost(made: Carbonseal) -> None:
    """Each is inserted at the top, so the last one inserted is read first."""
    made.make_key("example.com", "--algorithm", "ed25519")
    with made:
        outcome = send(made)
    *_, topmost = outcome.inserted
    algorithms = [value.split(b"a=")[1].split(b";")[0] for _, _, value in outcome.inserted]
    assert algorithms == [b"ed25519-sha256", b"rsa-sha256"]
    assert b"a=rsa-sha256" in topmost[2]


@pytest.mark.parametrize(
    ("recipients", "added"),
    [
        pytest.param(["<bob@example.org>"], COPY, id="outside"),
        pytest.param(["<bob@example.org>"] * 3 + ["<c@example.com>"], COPY, id="many"),
        pytest.param(["<bob@example.com>"], [], id="inside"),
        pytest.param(["<bob@example.org>", f"<{ARCHIVE}>"], [], id="addressed-already"),
        pytest.param(["<bob@example.org>", f"<{ARCHIVE.upper()}>"], [], id="in-capitals"),
        pytest.param(["<bob@example.org>", f"<x{ARCHIVE}>"], COPY, id="almost-the-same"),
        pytest.param(
            ["<bob@example.org>", Recipient(f"<{ARCHIVE}>", resolved="void@example.com")],
            COPY,
            id="archive-rerouted",
        ),
        pytest.param([Recipient("<bob@example.com>", mailer="error")], COPY, id="alias-only"),
        pytest.param(
            [Recipient("<bob%example.org@example.com>", resolved="bob@example.org")],
            COPY,
            id="percent-hack",
        ),
        pytest.param(["<@example.com:bob@example.org>"], COPY, id="source-route"),
        pytest.param(["<bob@EXAMPLE.com.>"], [], id="capitals-and-dot"),
        pytest.param(["<bob@evilexample.com>"], COPY, id="longer-name"),
        pytest.param(["<bob@sub.example.com>"], COPY, id="subdomain-not-ours"),
        pytest.param(["<bob@bücher.example>"], [], id="u-label"),
        pytest.param(["<bob@[192.0.2.1]>"], COPY, id="domain-literal"),
    ],
)
def test_the_copy_is_added_once_or_not_at_all(
    recipients: list[str | Recipient], added: list[tuple[str, str]], service: Carbonseal
) -> None:
    """NOT (local AND local), however the addresses are written."""
    assert send(service, Envelope(recipients=recipients)).added_recipients == added


# --- what is on record ----------------------------------------------------------------------------

FIELD_VALUES = [
    pytest.param(b"x", id="no-space"),
    pytest.param(b"  x", id="two-spaces"),
    pytest.param(b"\tx", id="tab"),
    pytest.param(b"\n x", id="first-line-empty"),
    pytest.param(b" a\n\tb\n  c", id="folded"),
    pytest.param(b" gr\xfc\xdfe \xff", id="no-utf-8"),
    pytest.param("  grüße".encode(), id="utf-8"),
    pytest.param(b"", id="empty"),
    pytest.param(b" ", id="one-space"),
    pytest.param(b" trailing \t ", id="trailing"),
    pytest.param(b" " + b"a" * 65_000, id="as-long-as-libmilter-takes"),
]


@pytest.mark.parametrize("value", FIELD_VALUES)
def test_field_values_are_recorded_octet_by_octet(value: bytes, service: Carbonseal) -> None:
    """Leading space, folding and octets that are no text."""
    assert send(service, fields=[*FIELDS, ("X-It", value)]).final == Answer.ACCEPT
    (one,) = records(service)
    name, text = one["header_fields"][-1]
    assert (name, text.encode("utf-8", "surrogateescape")) == ("X-It", value)


def test_a_field_longer_than_libmilter_takes_is_never_accepted(service: Carbonseal) -> None:
    """Over 64 KiB libmilter hangs up; Postfix cuts fields at 60,000 octets before."""
    with pytest.raises(MilterGone):
        send(service, fields=[*FIELDS, ("X-It", b" " + b"a" * 100 * 1024)])
    assert records(service) == []


def test_a_field_name_that_is_no_text_is_never_accepted(service: Carbonseal) -> None:
    """pymilter cannot hand it over; Postfix takes such a line for the body's first."""
    with pytest.raises((TimeoutError, MilterGone)):
        send(service, fields=[*FIELDS, (b"X-\xff", b" x")], timeout=1)
    assert records(service) == []
    assert is_sealed(send(service))


def test_five_thousand_fields_and_recipients(service: Carbonseal) -> None:
    """Long lists are ordinary work."""
    fields: Fields = [*FIELDS, *((f"X-{number}", b" x") for number in range(5_000))]
    people = [f"<u{number}@example.org>" for number in range(5_000)]
    assert is_sealed(send(service, Envelope(recipients=people), fields))
    (one,) = records(service)
    assert one["header_count"] == len(one["header_fields"]) == 5_003
    assert [person["raw"] for person in one["recipients"]] == people


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 7, 65_535])
def test_chunk_borders_do_not_change_the_body_hash(chunk_size: int, service: Carbonseal) -> None:
    """CR and LF, runs of spaces and empty lines at the end may come in pieces."""
    body = b"a  b \t\r\n\r\n c\t\r\n \r\n\r\n\r\n"
    send(service, body=body, chunk_size=chunk_size)
    send(service, body=body)
    first, second = records(service)
    assert first["body_hash"] == second["body_hash"]
    assert first["body_size"] == len(body)


@pytest.mark.parametrize(
    ("login", "recorded"),
    [
        pytest.param({"{auth_authen}": "alice"}, "alice", id="given"),
        pytest.param({"{auth_authen}": ""}, "", id="empty"),
        pytest.param({}, "", id="absent"),
        pytest.param({"{auth_authen}": "al\udcffice"}, "", id="no-utf-8"),
    ],
)
def test_a_login_is_a_proof_only_where_it_can_be_read(
    login: dict[str, str], recorded: str, service: Carbonseal
) -> None:
    """Absent, empty and unreadable macros prove nothing."""
    outcome = send(service, client=STRANGER, macros={Stage.MAIL: login})
    assert bool(outcome.inserted) == bool(recorded)
    (one,) = records(service)
    assert (one["login"], one["origin"]["kind"]) == (recorded, "login" if recorded else "none")


def test_recipients_without_macros_are_judged_by_what_was_typed(service: Carbonseal) -> None:
    """And what only Postfix could read counts as outside."""
    with Conversation(service.socket) as talk:
        talk.open()
        nothing = {"{rcpt_addr}": "b\udcff@example.com", "{rcpt_mailer}": "", "{rcpt_host}": ""}
        talk.mail("<alice@example.com>")
        talk.rcpt("<bob@example.com>", nothing)
        talk.rcpt("<x%example.org@example.com>", nothing)
        talk.header("From", b" alice@example.com")
        _, edits = talk.end_of_message()
    (one,) = records(service)
    assert [person["place"] for person in one["recipients"]] == ["inside", "unknown"]
    assert edits.added_recipients == COPY


def test_a_helo_that_is_no_text_stays_unknown(service: Carbonseal) -> None:
    """It proves nothing, and mail is not held up for it."""
    assert is_sealed(send(service, client=Client(helo="h\udcff")))
    (one,) = records(service)
    assert one["client"]["helo"] == ""
    assert "Traceback" not in service.log()


@pytest.mark.parametrize("form", ["text", "json"])
def test_nothing_in_a_message_breaks_out_of_its_log_line(form: str, made: Carbonseal) -> None:
    """Line ends, escapes and quotes of a stranger reach the log escaped."""
    evil = 'a\x1b[31m\nsealed queue_id="x" \r\u2028\x7fb'
    made.configure({"milter": {"workers": 1}, "log": {"format": form}})
    with made:
        mark = made.mark()
        envelope = Envelope(f"<{evil}@example.com>", [f"<{evil}@example.org>"], queue_id=evil)
        client = Client(evil, "192.0.2.9", 1, evil)
        send(made, envelope, client=client, macros={Stage.MAIL: {"{auth_authen}": evil}})
        send(made)
        made.wait_for_log("4TESTQ1", since=mark)
        lines = made.log().splitlines()[mark:]
    assert len(lines) == 2
    assert lines[0].isascii()
    assert lines[0].isprintable()


# --- one connection, many messages ----------------------------------------------------------------


def test_nothing_of_one_message_reaches_the_next(service: Carbonseal) -> None:
    """Login, recipients, fields and body end with their message, or with its abort."""
    with Conversation(service.socket) as talk:
        talk.open(STRANGER)
        proven = {Stage.MAIL: {"{auth_authen}": "alice"}}
        first = talk.send_message(Envelope(queue_id="Q1"), FIELDS, BODY, proven)
        second = talk.send_message(Envelope(queue_id="Q2"), FIELDS[:1], b"other\r\n")
        talk.mail("<alice@example.com>", macros={"{auth_authen}": "alice"})
        talk.rcpt("<lost@example.org>")
        talk.header("Subject", b" lost")
        talk.abort()
        third = talk.send_message(Envelope(queue_id="Q3"), FIELDS, BODY)
    assert [bool(one.inserted) for one in (first, second, third)] == [True, False, False]
    kept = [(one["queue_id"], one["login"], one["header_count"]) for one in records(service)]
    assert kept == [("Q1", "alice", 3), ("Q2", "", 1), ("Q3", "", 3)]
    assert {len(one["recipients"]) for one in records(service)} == {1}


def test_mail_begins_a_new_message_even_without_an_abort(service: Carbonseal) -> None:
    """An MTA that forgets to say abort."""
    with Conversation(service.socket) as talk:
        talk.open()
        talk.mail("<first@example.com>")
        talk.rcpt("<first@example.org>")
        talk.header("Subject", b" first")
        talk.send_message(Envelope("<second@example.com>"), FIELDS, BODY)
    (one,) = records(service)
    assert one["reverse_path"]["address"] == "second@example.com"
    assert [person["address"] for person in one["recipients"]] == ["bob@example.org"]
    assert one["header_count"] == 3


def test_aborts_in_every_place_do_no_harm(service: Carbonseal) -> None:
    """Before MAIL, twice, and after the end of a message, as Postfix does at QUIT."""
    with Conversation(service.socket) as talk:
        talk.open()
        talk.abort()
        talk.abort()
        assert is_sealed(talk.send_message(Envelope(), FIELDS, BODY))
        talk.abort()
        assert is_sealed(talk.send_message(Envelope(), FIELDS, BODY))
    assert len(records(service)) == 2


@pytest.mark.parametrize("steps", range(6))
def test_a_client_may_leave_in_every_state(steps: int, service: Carbonseal) -> None:
    """The service goes on, and nothing is on record that nobody finished."""
    with Conversation(service.socket) as talk:
        for step in (
            talk.open,
            lambda: talk.mail("<a@example.com>"),
            lambda: talk.rcpt("<b@example.org>"),
            lambda: talk.header("From", b" a@example.com"),
            lambda: talk.body(b"x"),
        )[:steps]:
            step()
        talk.quit()
        talk.wait_for_end()
    assert is_sealed(send(service))
    assert len(records(service)) == 1


def speak(service: Carbonseal, events: str) -> None:
    """These events, the last of which is the end of the message."""
    with Conversation(service.socket, timeout=0.5) as talk:
        talk.open()
        for event in events[:-1]:
            match event:
                case "M":
                    talk.mail("<alice@example.com>")
                case "R":
                    talk.rcpt("<bob@example.com>")
                case "L":
                    talk.header("From", b" alice@example.com")
        talk.end_of_message()


@pytest.mark.parametrize(
    "events",
    [
        pytest.param("E", id="end-without-mail"),
        pytest.param("RE", id="recipient-without-mail"),
        pytest.param("ME", id="end-without-recipient"),
        pytest.param("MLE", id="fields-without-recipient"),
        pytest.param("LE", id="field-without-mail"),
    ],
)
def test_events_out_of_order_are_never_accepted(events: str, service: Carbonseal) -> None:
    """No answer comes of them, and no record; the next client is served.

    Postfix does not do this.
    """
    with pytest.raises((TimeoutError, MilterGone)):
        speak(service, events)
    assert records(service) == []
    assert is_sealed(send(service))


OFFER = wire.framed(b"O", b"".join(n.to_bytes(4) for n in (6, 0x1FF, 0x1F_FFFF)))


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(b"EHLO desk.example.com\r\n", id="smtp"),
        pytest.param(b"\xff\xff\xff\xff" + b"a" * 1000, id="endless-packet"),
        pytest.param(b"\0\0\0\1X", id="unknown-command-first"),
        pytest.param(b"\0\0\0\2O\0", id="short-offer"),
        pytest.param(OFFER + b"\0\0\0\1C", id="connect-without-anything"),
        pytest.param(OFFER + b"\0\0\0\2Ma", id="mail-without-nul"),
        pytest.param(OFFER + b"\0\0\0\2La", id="field-without-nul"),
        pytest.param(OFFER + b"\0\0\0\4DMi\0", id="macro-without-value"),
        pytest.param(OFFER + wire.framed(b"C", b"x\0004\0\1no address\0"), id="no-address"),
        pytest.param(OFFER + OFFER, id="two-offers"),
        pytest.param(OFFER + wire.framed(b"E"), id="end-first"),
    ],
)
def test_garbage_hurts_nobody_else(octets: bytes, service: Carbonseal) -> None:
    """The worker lives on and serves the next client."""
    before = service.children()
    with Channel(service.socket, timeout=5) as channel:
        channel.send(octets)
    assert is_sealed(send(service))
    assert service.children() == before


def test_two_hundred_clients_at_once(service: Carbonseal) -> None:
    """All connected before the first one speaks; each gets its own answer and record."""
    talks = [Conversation(service.socket, timeout=60) for _ in range(200)]
    outcomes: dict[int, Outcome] = {}

    def speak(number: int) -> None:
        talk = talks[number]
        talk.open()
        outcomes[number] = talk.send_message(Envelope(queue_id=f"Q{number}"), FIELDS, BODY)
        talk.quit()

    threads = [threading.Thread(target=speak, args=(number,)) for number in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(map(is_sealed, outcomes.values())) == 200
    assert sorted(one["queue_id"] for one in records(service)) == sorted(
        f"Q{number}" for number in range(200)
    )


# --- trouble --------------------------------------------------------------------------------------


@pytest.fixture
def own(made: Carbonseal) -> Iterator[Carbonseal]:
    """A service to break."""
    KNOWN.clear()
    with made:
        yield made


def test_what_is_refused_for_its_record_is_not_called_signed(own: Carbonseal) -> None:
    """The log line of a refused message names no signature and no copy: there are none."""
    service = own
    # In one step: workers write there what keys they hold, between any two steps of a removal.
    service.spool.rename(service.spool.with_name("taken-away"))
    mark = service.mark()
    outcome = send(service)
    assert outcome.final == Answer.TEMPFAIL
    assert outcome.reply_text.startswith("451 4.3.0")
    assert (outcome.inserted, outcome.added_recipients) == ([], [])
    line = service.wait_for_log(" refused ", since=mark)  # its own name stands in paths
    assert ' signed="" copy="" ' in line
    assert "record-not-writable" in line


def test_a_spool_beyond_its_limit_takes_no_more_mail(made: Carbonseal, protocol: str) -> None:
    """What no database takes does not fill the disk, whoever speaks the protocol."""
    milter = {"workers": 1, "protocol": protocol}
    made.configure({"milter": milter, "record": {"spool": "spool", "spool_limit": "1MiB"}})
    with made, (made.spool / "another.open.jsonl").open("wb") as much:
        fcntl.flock(much, fcntl.LOCK_EX)  # its owner seems to live, so that nobody closes it
        much.truncate(2 * 1024 * 1024)
        wait_until(lambda: send(made).final == Answer.TEMPFAIL, "the first look at the spool")
        assert "record.spool_limit" in made.wait_for_log(" refused ")
        much.truncate(0)
        wait_until(lambda: send(made).final == Answer.ACCEPT, "the next look")


def test_a_worker_killed_at_the_end_of_a_message_leaves_a_whole_record_or_none(
    own: Carbonseal,
) -> None:
    """The client sees the connection end; never half a record, and never an acceptance without."""
    service = own
    answered, stop = [], threading.Event()

    def keep_sending(number: int) -> None:
        count = 0
        while not stop.is_set():
            count += 1
            mark = f"K{number}-{count}"
            try:
                if send(service, Envelope(queue_id=mark)).final == Answer.ACCEPT:
                    answered.append(mark)
            except (MilterGone, OSError):
                continue

    threads = [threading.Thread(target=keep_sending, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(8):
            accepted = len(answered)
            wait_until(lambda least=accepted: len(answered) > least + 3, "messages")  # type: ignore[misc]
            for pid in service.children():
                if "/milter.cpython" in Path(f"/proc/{pid}/maps").read_text():
                    os.kill(pid, signal.SIGKILL)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    service.stop()
    kept = [one["queue_id"] for one in records(service)]
    assert len(kept) == len(set(kept))
    assert set(answered) <= set(kept)
