"""The whole corpus through a real Postfix: the delivered bytes verify, or the reason is on record.

Every message is sent once for each pair of canonicalizations, signed with RSA and with Ed25519, and
what the next hop received is judged by dkimpy, libopendkim and Perl's Mail::DKIM.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from messages import corpus
from messages.case import CLIENTS, Case, Conversation
from support import verifiers
from support.postfix import INSIDE, OUTSIDE, SUBMISSION, Listener
from support.relay import Relay, copy_parameters, relay
from support.sink import Delivery
from support.smtp_client import Reply, SmtpClient

pytestmark = [
    pytest.mark.postfix,
    pytest.mark.root,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        os.geteuid() != 0, reason="a private Postfix needs root, because master(8) changes users"
    ),
]

CANONICALIZATIONS = ("relaxed/relaxed", "relaxed/simple", "simple/relaxed", "simple/simple")
SDIDS = ("example.com", "mail.corp.example.com", "xn--bcher-kva.example")
# Mail::DKIM of Debian 12 has no Ed25519.
EXPECTED = {"rsa-sha256": {"pass"}, "ed25519-sha256": {"pass", "unsupported"}}
POSTFIX = {
    "message_size_limit": "62914560",
    "mailbox_size_limit": "0",
    "virtual_mailbox_limit": "0",
    # Nothing is added to a message or completed in it: what the client forgot stays forgotten.
    "local_header_rewrite_clients": "",
    "always_add_missing_headers": "no",
    "myorigin": "example.com",
    "mynetworks": "192.0.2.0/24 127.0.0.0/8",
    "mydestination": "example.com, mx1.example.com",
    "relay_domains": "corp.example.com, mail.corp.example.com, bücher.example, "
    "xn--bcher-kva.example",
    "smtpd_relay_restrictions": "permit_mynetworks, permit_sasl_authenticated, "
    "reject_unauth_destination",
    "smtpd_recipient_restrictions": (
        "check_recipient_access inline:{refused@partner.example=REJECT}"
    ),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one message."""

    reply: Reply | None  # None for sendmail(1)
    record: dict[str, Any] | None
    delivered: tuple[Delivery, ...]
    copies: tuple[Delivery, ...]
    judgements: tuple[verifiers.Judgement, ...]


@pytest.fixture(scope="module")
def running() -> Iterator[Relay]:
    keys = tuple(
        (sdid, "--algorithm", algorithm) for sdid in SDIDS for algorithm in ("rsa", "ed25519")
    )
    submission = Listener(
        SUBMISSION.name,
        {
            **SUBMISSION.overrides,
            "smtpd_relay_restrictions": "check_client_access,static:OK,reject",
        },
    )
    listeners = (INSIDE, OUTSIDE, submission)
    with relay(keys=keys, parameters=POSTFIX, listeners=listeners, base="/dev/shm") as started:
        yield started


def connect(running: Relay, first: Case) -> SmtpClient:
    listener = {"loopback": "inside"}.get(first.via, first.via)
    identity = {} if first.via == "loopback" else {"address": CLIENTS[first.via]}
    if first.login:
        identity["login"] = first.login
    return running.mta.client(listener, **identity)


def hand_over(client: SmtpClient, case: Case) -> Reply:
    return client.send(
        case.reverse_path, case.recipients, case.build(), parameters=case.mail_parameters
    ).end


def submit(running: Relay, case: Case) -> tuple[str, Reply | None]:
    """Send one case; its queue id ('' when refused) and the reply."""
    if case.via == "sendmail":
        mark = len(running.mta.log())
        running.mta.sendmail(
            case.reverse_path.decode(),
            [one.decode() for one in case.recipients],
            case.build().replace(b"\r\n", b"\n"),
        )
        pattern = re.compile(r"postfix/pickup\[\d+\]: (\w+): uid=")
        running.mta.wait_for_log(pattern.pattern)
        found: list[str] = []
        while not found:
            found = pattern.findall(running.mta.log()[mark:])
        return found[0], None
    with connect(running, case) as client:
        reply = hand_over(client, case)
    return reply.queue_id, reply


def queue_id_of(delivery: Delivery) -> str:
    """The id under which our Postfix had the message, from its own Received field."""
    found = re.search(
        rb"^Received: (?:(?!^Received:).)*?by mx1\.example\.com (?:(?!^Received:).)*?\bid (\w+)",
        delivery.content,
        re.DOTALL | re.MULTILINE,
    )
    return found[1].decode() if found else ""


@pytest.fixture(scope="module", params=CANONICALIZATIONS)
def canonicalization(request: pytest.FixtureRequest) -> str:
    pair: str = request.param
    return pair


@pytest.fixture(scope="module")
def outcomes(canonicalization: str, running: Relay) -> dict[str, Outcome]:
    """Send everything with one pair of canonicalizations and have it judged."""
    running.sink.clear()
    running.archive.clear()
    mark = running.service.mark()
    running.service.configure({"signing": {"keys": "keys", "canonicalization": canonicalization}})
    running.service.reload()
    running.service.wait_for_log(" ready ", since=mark)
    sent = {case.id: submit(running, case) for case in corpus.CASES}
    running.mta.wait_until_empty(timeout=120)
    accepted = [queue_id for queue_id, _ in sent.values() if queue_id]
    recorded: dict[str, dict[str, Any]] = {}
    running.service.wait_for_log(rf"queue_id={accepted[-1]} ", since=mark)
    while not set(accepted) <= set(recorded):
        recorded = {one["queue_id"]: one for one in running.service.search("--all")}
    records = running.service.dns_records()
    delivered: dict[str, list[Delivery]] = {}
    copies: dict[str, list[Delivery]] = {}
    for delivery in running.sink.deliveries:
        delivered.setdefault(queue_id_of(delivery), []).append(delivery)
    for delivery in running.archive.deliveries:
        copies.setdefault(queue_id_of(delivery), []).append(delivery)
    judged = judge(
        {
            queue_id: (delivered.get(queue_id) or copies[queue_id])[0].content
            for queue_id in accepted
            if recorded[queue_id]["signatures"]
        },
        records,
    )
    return {
        case_id: Outcome(
            reply,
            recorded.get(queue_id),
            tuple(delivered.get(queue_id, ())),
            tuple(copies.get(queue_id, ())),
            judged.get(queue_id, ()),
        )
        for case_id, (queue_id, reply) in sent.items()
    }


def judge(
    messages: dict[str, bytes], records: dict[str, bytes]
) -> dict[str, tuple[verifiers.Judgement, ...]]:
    """All judges on all messages, in batches; only signatures with our keys."""
    contents = list(messages.values())
    found: dict[str, tuple[verifiers.Judgement, ...]] = dict.fromkeys(messages, ())
    for judge in verifiers.JUDGES:
        for queue_id, judgements in zip(
            messages, verifiers.verify_many(judge, contents, records), strict=True
        ):
            ours = [one for one in judgements if f"{one.selector}._domainkey.{one.sdid}" in records]
            found[queue_id] += tuple(ours)
    return found


@pytest.mark.parametrize("case_id", [case.id for case in corpus.CASES])
def test_each_message_fares_as_it_must(
    outcomes: dict[str, Outcome], canonicalization: str, case_id: str
) -> None:
    """Reply, crossing, copy and signature, or the reason why there is none."""
    case, outcome = corpus.BY_ID[case_id], outcomes[case_id]
    expect = case.expect
    if expect.smtp != "250":
        assert outcome.reply is not None
        assert outcome.record is None
        first = str(outcome.reply.code)[0]
        assert first in ("4", "5") if expect.smtp == "postfix" else first == expect.smtp
        return
    assert outcome.reply is None or outcome.reply.code == 250, outcome.reply
    record = outcome.record
    assert record is not None
    assert record["crossing"] == expect.crossing
    assert bool(record["archive_recipients"]) == expect.copy
    check_copy(outcome, expected=expect.copy)
    codes = {reason.partition("(")[0] for reason in record["reasons"]}
    assert set(expect.reasons) <= codes
    # Control characters in a field are read alike by every verifier under `simple` only.
    is_settled = expect.why_unsigned == "disputed-octets" and canonicalization.startswith("simple")
    assert bool(record["signatures"]) == (expect.signed or is_settled), record["reasons"]
    if not record["signatures"]:
        assert expect.why_unsigned in codes
        return
    check_signatures(outcome, verifies=expect.verifies)


def check_copy(outcome: Outcome, *, expected: bool) -> None:
    if not expected:
        return
    assert len(outcome.copies) == 1
    (parameters,) = copy_parameters(outcome.copies[0])
    assert "NOTIFY=NEVER" in parameters


def check_signatures(outcome: Outcome, *, verifies: bool) -> None:
    """Two signatures, three judges; each supports what it supports, and nothing fails."""
    assert outcome.record is not None
    assert len(outcome.record["signatures"]) == 2
    assert len(outcome.judgements) == 2 * len(verifiers.JUDGES)
    passed = set()
    for judgement in outcome.judgements:
        if verifies:
            assert judgement.result in EXPECTED[judgement.algorithm], judgement
        if judgement.result == "pass":
            passed.add((judgement.judge, judgement.algorithm))
    if verifies:
        assert {judge for judge, algorithm in passed if algorithm == "rsa-sha256"} == set(
            verifiers.JUDGES
        )
        assert ("dkimpy", "ed25519-sha256") in passed


@pytest.mark.parametrize("conversation", [pytest.param(c, id=c.id) for c in corpus.CONVERSATIONS])
def test_nothing_is_carried_over_on_one_connection(
    running: Relay, conversation: Conversation
) -> None:
    """Each message fares as it would alone."""
    cases = [corpus.BY_ID[case_id] for case_id in conversation.cases]
    queue_ids = []
    with connect(running, cases[0]) as client:
        for number, case in enumerate(cases):
            if number:
                interrupt(client, conversation)
            reply = hand_over(client, case)
            assert reply.code == 250
            queue_ids.append(reply.queue_id)
    found: dict[str, dict[str, Any]] = {}
    while not set(queue_ids) <= set(found):
        found = {one["queue_id"]: one for one in running.service.search("--limit", "100")}
    for case, queue_id in zip(cases, queue_ids, strict=True):
        record = found[queue_id]
        assert bool(record["signatures"]) == case.expect.signed, case.id
        assert record["crossing"] == case.expect.crossing, case.id
        assert bool(record["archive_recipients"]) == case.expect.copy, case.id


def interrupt(client: SmtpClient, conversation: Conversation) -> None:
    """The half transaction of another author before a message."""
    if conversation.between == "nothing":
        return
    client.mail("other@example.com")
    if conversation.between == "rset-after-recipient":
        client.rcpt("elsewhere@partner.example")
    if conversation.between == "refused-recipient":
        assert client.rcpt("refused@partner.example").code // 100 == 5
    client.rset()


@pytest.mark.parametrize("case_id", [case.id for case in corpus.LARGE])
def test_large_messages_pass_without_growing_a_worker(running: Relay, case_id: str) -> None:
    """The body is never kept: 50 MB add next to nothing to a worker's memory."""
    case = corpus.BY_ID[case_id]

    def resident() -> int:
        total = 0
        for pid in running.service.children():
            status = open(f"/proc/{pid}/status").read()
            total = max(total, int(re.search(r"VmHWM:\s+(\d+)", status)[1]))  # type: ignore[index]
        return total

    submit(running, corpus.CASES[0])
    before = resident()
    _, reply = submit(running, case)
    assert reply is not None
    assert reply.code == 250
    running.mta.wait_until_empty(timeout=120)
    # Postfix hands over 64 KiB at a time; a worker that kept the body would grow by all of it.
    assert resident() - before < 8 * 1024
