"""The verdict of the classic BCC maps, as we predict it and as a real Postfix carries it out.

Our own copy is switched off, so what the archive's sink gets is the maps' doing alone; the record
of each message says what the running milter predicted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import boundary_cases
from support.boundary_cases import ARCHIVE, CASES, BoundaryCase
from support.postfix import private_directory
from support.relay import Relay, relay

pytestmark = [
    pytest.mark.postfix,
    pytest.mark.root,
    pytest.mark.skipif(
        os.geteuid() != 0, reason="a private Postfix needs root, because master(8) changes users"
    ),
]

# The trick of the mailing lists, in both maps; in main.cf a $ is written twice.
TRICK = f"pcre:{{{{!/@example\\.com$/ {ARCHIVE}}}}}"
OURS = {
    "domains": list(boundary_cases.OUR_DOMAINS),
    "networks": [boundary_cases.OUR_NETWORK],
    "peers": [boundary_cases.PEER_NETWORK],
    "listeners": [],
}
SENT = [case for case in CASES if case.in_postfix]


def escaped(value: str) -> str:
    return value.replace("$", "$$")


@pytest.fixture(scope="module")
def running() -> Iterator[Relay]:
    changes = {
        "ours": OURS,
        "archive": {
            "when": "never",
            "compare": "bcc_maps",
            "bcc_maps": {"sender": TRICK, "recipient": TRICK, "origin": "example.com"},
        },
    }
    with relay(
        changes,
        maps={
            "virtual_alias_maps": {
                "info@valias.example.com": "someone@gmail.test",
                "fw@example.com": "ext@remote.test",
            },
            "virtual_mailbox_domains": {"vmb.example.com": "x"},
            "relay_domains": {"relay.example.org": "x"},
            "canonical_maps": {"old-name@example.com": "new-name@example.com"},
        },
        parameters={
            "virtual_alias_domains": "valias.example.com",
            "myorigin": "example.com",
            "sender_bcc_maps": escaped(TRICK),
            "recipient_bcc_maps": escaped(TRICK),
        },
    ) as started:
        yield started


def content(mark: str) -> bytes:
    return f"From: <someone@elsewhere.example>\r\nMessage-ID: <{mark}@test>\r\n\r\nx\r\n".encode()


@pytest.fixture(scope="module")
def records(running: Relay) -> dict[str, dict[str, Any]]:
    """Send every case; its record by its Message-ID, once all is delivered."""
    for case in SENT:
        submit(running, case)
    running.mta.wait_until_empty(timeout=60)
    return {one["message_id"]: one for one in running.service.wait_for_records(len(SENT))}


def submit(running: Relay, case: BoundaryCase) -> None:
    mark = f"{case.number}-{case.id}"
    recipients = [to.raw for to in case.to]
    if case.client == "sendmail":
        text = content(mark).replace(b"\r\n", b"\n")
        running.mta.sendmail(case.reverse_path, recipients, text)
        return
    is_eai = not (case.reverse_path + "".join(recipients)).isascii()
    with running.client(case.client) as client:
        sending = client.send(
            case.reverse_path.encode(),
            [one.encode() for one in recipients],
            content(mark),
            parameters=["SMTPUTF8"] if is_eai else [],
        )
    assert sending.end.code == 250, sending


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=f"{case.number:02}-{case.id}") for case in SENT]
)
def test_postfix_does_what_the_record_predicts(
    running: Relay, records: dict[str, dict[str, Any]], case: BoundaryCase
) -> None:
    """As many copies as predicted; one more where the sender wrote to the archive himself."""
    mark = f"<{case.number}-{case.id}@test>"
    (said,) = [one for one in records[mark.strip("<>")]["reasons"] if one.startswith("bcc-maps-")]
    predicted = {
        "bcc-maps-agree(no copy)": 0,
        f"bcc-maps-would-add({ARCHIVE})": 1,
        f"bcc-maps-would-double({ARCHIVE})": 2,
    }[said]
    copies = running.copies(mark.encode())
    assert sum(one.addresses.count(ARCHIVE) for one in copies) == predicted


def test_the_record_carries_the_word(running: Relay, records: dict[str, dict[str, Any]]) -> None:
    """`archive show` has it beside the reasons."""
    words = set()
    for case in (CASES[0], CASES[1]):
        record_id = records[f"{case.number}-{case.id}@test"]["record_id"]
        shown = running.service.command("archive", "show", record_id, "--json").stdout
        words.add(json.loads(shown.splitlines()[0])["bcc_maps"])
    assert words == {"agree", "would-add"}


def test_the_differences_can_be_listed(running: Relay, records: dict[str, dict[str, Any]]) -> None:
    """`policy compare` over what the search prints, and anew over the spool."""
    found = running.service.command(
        *("archive", "search", "--format", "jsonl", "--limit", "100000")
    ).stdout
    file = running.service.directory / "found.jsonl"
    file.write_text(found)
    differing = {
        one["record_id"]
        for one in records.values()
        if "bcc-maps-agree(no copy)" not in one["reasons"]
    }
    done = running.service.command("policy", "compare", "--json", str(file))
    assert {one["record_id"] for one in map(json.loads, done.stdout.splitlines())} == differing
    assert f"{len(records)} records: " in done.stderr
    spooled = running.service.directory / "spooled.jsonl"
    lines = [
        line
        for segment in sorted(running.service.spool.rglob("*.jsonl*"))
        for line in segment.read_bytes().splitlines(keepends=True)
    ]
    spooled.write_bytes(b"".join(lines))
    done = running.service.command("policy", "compare", "--anew", "--json", str(spooled))
    assert {one["record_id"] for one in map(json.loads, done.stdout.splitlines())} == differing


KEYS = """\
user+ext@example.com 1@archive.example.net
user@example.com 2@archive.example.net
local+ext 3@archive.example.net
other 4@archive.example.net
@example.com 5@archive.example.net
@Remote.Test 6@archive.example.net
bare 7@archive.example.net
"john doe"@partner.example 8@archive.example.net
"""
ADDRESSES = (
    *("user+ext@example.com", "User+Other@Example.com", "local+ext@example.com"),
    *("other+ext@example.com", "nobody@example.com", "x@remote.test", "bare@remote.test"),
    *("bare@partner.example", '"john doe"@partner.example', '"jane doe"@partner.example'),
    *("owner-x@example.com", "nobody", "remote.test!joe", "joe%remote.test", "+ext@example.com"),
    *("a@sub.example.com", "postmaster", "@relay.test:x@remote.test", '"user"@example.com'),
)


@pytest.fixture(scope="module")
def indexed() -> Iterator[Relay]:
    with private_directory() as directory:
        yield from with_tables(directory / "table")


def with_tables(file: Path) -> Iterator[Relay]:
    file.write_text(KEYS)
    table = f"texthash:{file}, pcre:{{{{/^jane doe@/ 9@archive.example.net}}}}"
    changes = {
        "ours": OURS,
        "archive": {
            "recipients": ["archive@archive.example.net"],
            "compare": "bcc_maps",
            "bcc_maps": {
                "sender": table,
                "recipient": table,
                "always": "always@archive.example.net",
                "origin": "example.com",
                "delimiter": "+",
                "local": ["example.com", "mx1.example.com", "localhost"],
            },
        },
    }
    with relay(
        changes,
        parameters={
            "myorigin": "example.com",
            "recipient_delimiter": "+",
            "sender_bcc_maps": table,
            "recipient_bcc_maps": table,
            "always_bcc": "always@archive.example.net",
        },
    ) as started:
        yield started


@pytest.fixture(scope="module")
def looked_up(indexed: Relay) -> dict[str, dict[str, Any]]:
    for number, one in enumerate(ADDRESSES):
        for mark, reverse_path, to in (("from", one, "x@elsewhere.test"), ("to", "", one)):
            sending = indexed.send("inside", reverse_path, [to], content(f"{mark}-{number}"))
            assert sending.end.code == 250, (one, sending, indexed.mta.log()[-2000:])
    indexed.mta.wait_until_empty(timeout=60)
    found = indexed.service.wait_for_records(2 * len(ADDRESSES))
    return {one["message_id"]: one for one in found}


@pytest.mark.parametrize("role", ["from", "to"])
@pytest.mark.parametrize("number", range(len(ADDRESSES)), ids=ADDRESSES)
def test_indexed_tables_are_looked_up_in_postfix_s_order(
    indexed: Relay, looked_up: dict[str, dict[str, Any]], role: str, number: int
) -> None:
    """Extensions, local parts alone, @domain, quotes and rewriting, as reverse-path and recipient.

    Our own recipient is another mailbox here, so the prediction names each that the maps add.
    """
    mark = f"{role}-{number}@test"
    predicted: set[str] = set()
    for reason in looked_up[mark]["reasons"]:
        if reason.startswith(("bcc-maps-would-add(", "bcc-maps-would-double(")):
            predicted |= set(reason.partition("(")[2].rstrip(")").split(", "))
    copies = indexed.copies(f"<{mark}>".encode())
    seen = {address for one in copies for address in one.addresses}
    assert seen - {ARCHIVE} == predicted


def test_the_same_mailbox_in_map_and_milter_is_one_copy_unless_it_is_addressed(
    running: Relay, indexed: Relay
) -> None:
    """What `postfix lint` says of copy-doubled."""
    indexed.service.configure(
        {"ours": OURS, "archive": {"recipients": ["always@archive.example.net"]}}
    )
    mark = indexed.service.mark()
    indexed.service.reload()
    indexed.service.wait_for_log("ready", since=mark)
    mailbox = "always@archive.example.net"
    indexed.send("inside", "q@example.com", ["x@elsewhere.test"], content("merged"))
    indexed.send("inside", "q@example.com", [mailbox], content("addressed"))
    indexed.mta.wait_until_empty(timeout=60)
    for name, number in (("merged", 1), ("addressed", 2)):
        copies = indexed.copies(f"<{name}@test>".encode())
        assert sum(one.addresses.count(mailbox) for one in copies) == number
