"""Questions and answers: what is found, in which order, through which index."""

from __future__ import annotations

import ipaddress
import itertools
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event
from support.archive import (
    START,
    Archive,
    build_recipient,
    build_record,
    build_reverse_path,
    headers,
)

from carbonseal.milter.archive import record
from carbonseal.milter.archive.search import query
from carbonseal.policies.errors import NotFound

T0 = datetime.fromtimestamp(START, UTC)


def network(text: str) -> query.Network:
    return ipaddress.ip_network(text)


# One message of each kind; the searches below name them by their key.
MESSAGES: dict[str, dict[str, Any]] = {
    "report": {},
    "bcc": {
        "recipients": [
            build_recipient("bob@partner.example"),
            build_recipient("secret@hidden.example"),
        ],
    },
    "bounce": {
        "reverse_path": build_reverse_path(""),
        "recipients": [build_recipient("alice@example.com", place="inside")],
        "header_fields": headers(
            From="MAILER-DAEMON@partner.example", To="alice@example.com", Subject="Undelivered"
        ),
        "crossing": "inbound",
        "signatures": [],
        "login": None,
        "origin": {"kind": "none", "about": ""},
        "client": {
            "address": "2001:db8::25",
            "port": 25,
            "name": "mx.partner.example",
            "helo": "x",
        },
    },
    "extension": {
        "recipients": [build_recipient("Carol+News@Partner.example")],
        "header_fields": headers(From="alice@example.com", To="carol+news@partner.example"),
    },
    "rerouted": {
        "recipients": [
            build_recipient(
                "dave@remote.test",
                raw="<dave%remote.test@example.com>",
                resolved="dave@remote.test",
            )
        ],
    },
    "subdomain": {
        "reverse_path": build_reverse_path("erin@a.corp.example.com"),
        "recipients": [build_recipient("frank@example.com", place="inside")],
        "header_fields": headers(From="erin@a.corp.example.com", Cc="grace@elsewhere.example"),
        "crossing": "internal",
        "login": "Erin",
    },
    "two-authors": {
        "header_fields": headers(
            From="alice@example.com, heidi@example.com", Sender="alice@example.com"
        ),
    },
    "latin-1": {
        "header_fields": [
            ["From", " alice@example.com"],
            ["Subject", b" Pr\xe9sentation na\xefve".decode("utf-8", "surrogateescape")],
        ],
    },
    "umlaut": {"header_fields": headers(Subject="=?utf-8?q?M=C3=BCller_Jahresbericht?=")},
    "nul": {"header_fields": headers(Subject="=?utf-8?q?before=00after?=", From="a@example.com")},
    "hebrew": {
        "header_fields": [["Subject", " \u202e\u05e9\u05dc\u05d5\u05dd\u202c"]],
        "recipients": [build_recipient("\u05d3\u05d5\u05d0\u05e8@partner.example")],
    },
    "no-utf-8": {
        "recipients": [build_recipient("caf\udce9@partner.example")],
        "reverse_path": build_reverse_path("\udcff\udcfe@example.com"),
    },
    "long-id": {"header_fields": headers(Message_ID=f"<{'x' * 12_000}@example.com>")},
    "many-fields": {
        "header_fields": [[f"X-Field-{number}", f" v{number}\n\tw"] for number in range(1000)],
    },
    "two-subjects": {"header_fields": [["Subject", " visible"], ["Subject", " concealed"]]},
    "refused": {"disposition": "tempfail", "client": {**build_record()["client"], "address": ""}},
}
NUMBERS = {name: number for number, name in enumerate(MESSAGES)}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    archive = Archive(tmp_path_factory.mktemp("filled"))
    archive.fill(*(build_record(NUMBERS[name], **MESSAGES[name]) for name in MESSAGES))
    yield archive
    archive.close()


def names(archive: Archive, wanted: dict[str, Any]) -> list[str]:
    by_queue_id = {f"4XYZ{number}": name for name, number in NUMBERS.items()}
    found = query.search(archive.engine, query.Search(**wanted))
    return [by_queue_id[one.queue_id] for one in found]


ALICE_SENT = {"report", "bcc", "extension", "rerouted", "two-authors", "latin-1"}
SEARCHES = [
    pytest.param({"recipient": "secret@hidden.example"}, {"bcc"}, id="bcc-recipient"),
    pytest.param({"participant": "secret@hidden.example"}, {"bcc"}, id="bcc-participant"),
    pytest.param({"sender": "secret@hidden.example"}, set(), id="recipient-is-no-sender"),
    pytest.param({"recipient": "SECRET@hidden.example"}, {"bcc"}, id="case-of-local-part"),
    pytest.param({"sender": "heidi@example.com"}, {"two-authors"}, id="second-author"),
    pytest.param({"sender": "mailer-daemon@partner.example"}, {"bounce"}, id="author-of-bounce"),
    pytest.param({"recipient": "alice@example.com"}, {"bounce"}, id="recipient-not-sender"),
    pytest.param({"participant": "grace@elsewhere.example"}, {"subdomain"}, id="cc"),
    pytest.param({"recipient": "grace@elsewhere.example"}, set(), id="cc-is-no-recipient"),
    pytest.param({"recipient": "carol+news@partner.example"}, {"extension"}, id="extension"),
    pytest.param({"recipient": "carol@partner.example"}, set(), id="extension-not-asked-for"),
    pytest.param(
        {"recipient": "carol@partner.example", "with_extensions": True},
        {"extension"},
        id="extension-left-out",
    ),
    pytest.param(
        {"recipient": "bob@partner.example", "sender": "heidi@example.com"},
        {"two-authors"},
        id="sender-and-recipient",
    ),
    pytest.param({"recipient": "dave@remote.test"}, {"rerouted"}, id="as-postfix-resolved-it"),
    pytest.param({"recipient": "nobody@nowhere.example"}, set(), id="address-never-seen"),
    pytest.param({"domain": "hidden.example"}, {"bcc"}, id="domain"),
    pytest.param({"domain": "elsewhere.example"}, {"subdomain"}, id="domain-in-cc"),
    pytest.param({"domain": "corp.example.com"}, set(), id="domain-is-exact"),
    pytest.param({"domain": ".corp.example.com"}, {"subdomain"}, id="subdomains"),
    pytest.param({"domain": ".hidden.example"}, {"bcc"}, id="dot-includes-the-domain"),
    pytest.param({"domain": ".test"}, {"rerouted"}, id="top-level"),
    pytest.param({"domain": "never.example"}, set(), id="domain-never-seen"),
    pytest.param({"message_id": "0.report@example.com"}, {"report"}, id="message-id"),
    pytest.param({"message_id": f"{'x' * 12_000}@example.com"}, {"long-id"}, id="12-kb-message-id"),
    pytest.param({"message_id": "x" * 200}, set(), id="not-by-prefix"),
    pytest.param({"queue_id": "4XYZ0"}, {"report"}, id="queue-id"),
    pytest.param({"queue_id": "4xyz0"}, set(), id="queue-id-is-exact"),
    pytest.param({"words": ("muller",)}, {"umlaut"}, id="accents"),
    pytest.param({"words": ("JAHRESBERICHT", "Müller")}, {"umlaut"}, id="case-any-order"),
    pytest.param({"words": ("jahresbericht", "absent")}, set(), id="all-words"),
    pytest.param({"words": ("jahres",)}, set(), id="whole-words"),
    pytest.param({"words": ("concealed",)}, {"two-subjects"}, id="second-subject"),
    pytest.param({"words": ("after",)}, {"nul"}, id="beyond-a-nul"),
    pytest.param({"words": ("\u05e9\u05dc\u05d5\u05dd",)}, {"hebrew"}, id="right-to-left"),
    pytest.param({"words": ("pr", "sentation")}, {"latin-1"}, id="latin-1-subject"),
    pytest.param(
        {"recipient": "\u05d3\u05d5\u05d0\u05e8@partner.example"}, {"hebrew"}, id="hebrew-mailbox"
    ),
    pytest.param({"recipient": "caf\udce9@partner.example"}, {"no-utf-8"}, id="latin-1-mailbox"),
    pytest.param({"sender": "\udcff\udcfe@example.com"}, {"no-utf-8"}, id="octets-mailbox"),
    pytest.param({"client": network("2001:db8::25")}, {"bounce"}, id="client"),
    pytest.param({"client": network("2001:db8::/32")}, {"bounce"}, id="ipv6-network"),
    pytest.param(
        {"client": network("192.0.2.0/24")},
        MESSAGES.keys() - {"bounce", "refused"},
        id="ipv4-network",
    ),
    pytest.param({"client": network("192.0.2.8/29")}, set(), id="other-network"),
    pytest.param(
        {"client": network("::/0")}, MESSAGES.keys() - {"refused"}, id="every-known-client"
    ),
    pytest.param({"login": "ERIN"}, {"subdomain"}, id="login-without-case"),
    pytest.param({"crossing": "internal"}, {"subdomain"}, id="crossing"),
    pytest.param({"crossing": "transit"}, set(), id="crossing-never-seen"),
    pytest.param({"signed": False}, {"bounce"}, id="unsigned"),
    pytest.param({"signed": True}, MESSAGES.keys() - {"bounce"}, id="signed"),
    pytest.param({"signed": False, "login": "alice"}, set(), id="two-message-columns"),
    pytest.param(
        {"until": T0 + timedelta(seconds=NUMBERS["bounce"])}, {"report", "bcc"}, id="until"
    ),
    pytest.param({"since": T0 + timedelta(seconds=len(MESSAGES) - 1)}, {"refused"}, id="since"),
    pytest.param({"since": T0 - timedelta(days=365), "until": T0}, set(), id="before-all"),
    pytest.param({}, set(MESSAGES), id="everything"),
]


@pytest.mark.parametrize(("wanted", "expected"), SEARCHES)
def test_found_is_what_was_asked_for(
    filled: Archive, wanted: dict[str, Any], expected: set[str]
) -> None:
    """Each condition finds its messages and no others, newest first."""
    found = names(filled, wanted)
    assert set(found) == expected
    assert found == sorted(found, key=NUMBERS.__getitem__, reverse=True)


@pytest.mark.parametrize("name", MESSAGES)
def test_the_whole_record_comes_back(filled: Archive, name: str) -> None:
    """By queue id and by record id alike, header section octet for octet."""
    number = NUMBERS[name]
    shown = filled.show(f"4XYZ{number}")
    expected = build_record(number, **MESSAGES[name]) | {"record_id": shown["record_id"]}
    assert shown == expected
    assert filled.show(shown["record_id"].lower()) == expected


def test_what_is_not_there_is_not_found(filled: Archive) -> None:
    """Showing an unknown record is an error that says so."""
    for name in ("4XYZ9999", "7" + "Z" * 25, "", "' OR 1=1 --"):
        with pytest.raises(NotFound, match="no record has"):
            query.show(filled.engine, name)


def test_in_short_everything_people_ask_for_first(filled: Archive) -> None:
    """A found record carries what the officer's table and JSON Lines promise."""
    [found] = query.search(filled.engine, query.Search(queue_id="4XYZ0"))
    assert found == query.Found(
        record_id=found.record_id,
        recorded_at="2026-11-21T05:00:00.000000Z",
        relay="mx1.example.com",
        queue_id="4XYZ0",
        crossing="outbound",
        disposition="accept",
        reverse_path="alice@example.com",
        author="alice@example.com",
        recipients=("bob@partner.example",),
        archive_recipients=("archive@archive.example.net",),
        archive_addressed=False,
        signatures=found.signatures,
        message_id="0.report@example.com",
        subject="Quarterly report 0",
        client_address="192.0.2.7",
        login="alice",
        size=1202,
        reasons=("origin-login(alice)", "recipient-outside(bob@partner.example)"),
    )
    assert found.signatures == (build_record()["signatures"][0],)


def test_several_authors_are_all_named(filled: Archive) -> None:
    """The first author is not passed off as the only one."""
    [found] = query.search(filled.engine, query.Search(sender="heidi@example.com"))
    assert found.author == "alice@example.com, heidi@example.com"


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_pages_join_without_gap_or_overlap(filled: Archive, size: int) -> None:
    """Going on after the last record id of a page gives the whole, page by page."""
    everything = filled.search(limit=None)
    pages: list[str] = []
    while page := filled.search(limit=size, before=pages[-1] if pages else None):
        assert len(page) <= size
        pages += page
    assert pages == everything


def test_pages_stay_put_while_records_arrive(archive: Archive) -> None:
    """A record that arrives between two pages neither repeats nor hides another."""
    archive.fill(*(build_record(number) for number in range(10)))
    first = archive.search(limit=5)
    archive.fill(build_record(11))
    second = archive.search(limit=5, before=first[-1])
    assert len({*first, *second}) == 10


def test_a_long_result_streams_in_pages(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search without limit goes through pages of its own."""
    monkeypatch.setattr(query, "_PAGE", 7)
    archive.fill(*(build_record(number) for number in range(50)))
    assert len(archive.search(limit=None)) == 50
    assert len(archive.search(limit=20)) == 20
    assert len(archive.search(limit=None, words=("report",))) == 50


def test_records_of_one_millisecond_are_told_apart(archive: Archive) -> None:
    """Equal times do not confuse the pages."""
    archive.fill(*(build_record(number, seconds=5) for number in range(30)))
    assert len(set(archive.search(limit=10)) | set(archive.search(limit=None))) == 30
    pages: list[str] = []
    while page := archive.search(limit=7, before=pages[-1] if pages else None):
        pages += page
    assert len(pages) == len(set(pages)) == 30


def test_counts_by_day_crossing_and_domain(archive: Archive) -> None:
    """Counts agree with what was recorded, by UTC days, newest first."""
    day = 86_400
    archive.fill(
        build_record(0, seconds=0),
        build_record(1, seconds=day, crossing="inbound", signatures=[], archive_recipients=[]),
        build_record(2, seconds=day + 1, archive_recipients=[], archive_addressed=True),
    )
    assert query.count(archive.engine, "day") == [
        query.Count("2026-11-22", 2, 2404, 1, 1),
        query.Count("2026-11-21", 1, 1202, 1, 1),
    ]
    assert query.count(archive.engine, "crossing") == [
        query.Count("inbound", 1, 1202, 0, 0),
        query.Count("outbound", 2, 2404, 2, 2),
    ]
    assert query.count(archive.engine, "domain", since=T0 + timedelta(days=1)) == [
        query.Count("example.com", 2, 2404, 1, 1),
        query.Count("partner.example", 2, 2404, 1, 1),
    ]
    assert query.count(archive.engine, "day", until=T0) == []


# --- plans ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    """Enough messages that a missing index would be worth a scan to the planner."""
    archive = Archive(tmp_path_factory.mktemp("large"))
    rng = random.Random(5)
    archive.fill(*(varied(number, rng) for number in range(3000)))
    yield archive
    archive.close()


def varied(number: int, rng: random.Random) -> dict[str, Any]:
    sender = f"user{rng.randrange(50)}@example.com"
    domain = f"dom{rng.randrange(100)}.example"
    recipient = f"person{rng.randrange(400)}@{domain}"
    return build_record(
        number,
        reverse_path=build_reverse_path(sender),
        recipients=[build_recipient(recipient)],
        header_fields=headers(
            From=sender,
            To=recipient,
            Subject=f"word{rng.randrange(30)} word{rng.randrange(300)}",
            Message_ID=f"<{number}@example.com>",
        ),
        client={**build_record()["client"], "address": f"192.0.2.{rng.randrange(200)}"},
        login=f"user{rng.randrange(50)}",
        crossing=rng.choice(["internal", "outbound", "inbound", "transit"]),
    )


SINGLE: dict[str, dict[str, Any]] = {
    "sender": {"sender": "user1@example.com"},
    "recipient": {"recipient": "person1@dom1.example"},
    "participant": {"participant": "user2@example.com", "with_extensions": True},
    "domain": {"domain": "dom1.example"},
    "subdomains": {"domain": ".example"},
    "message-id": {"message_id": "17@example.com"},
    "queue-id": {"queue_id": "4XYZ17"},
    "word": {"words": ("word1",)},
    "words": {"words": ("word1", "word200")},
    "client": {"client": network("192.0.2.17")},
    "network": {"client": network("192.0.2.16/28")},
    "login": {"login": "user3"},
    "crossing": {"crossing": "transit"},
    "signed": {"signed": True},
    "since": {"since": T0 + timedelta(seconds=100), "until": T0 + timedelta(seconds=2000)},
}
PAIRS = list(itertools.combinations(SINGLE, 2))


def plans(archive: Archive, wanted: dict[str, Any]) -> list[str]:
    """The plan of every statement that a search sends."""
    statements: list[tuple[str, Any]] = []

    def note(
        _connection: Connection, _cursor: Any, statement: str, parameters: Any, *_rest: Any
    ) -> None:
        if statement.startswith("SELECT"):
            statements.append((statement, parameters))

    event.listen(archive.engine, "before_cursor_execute", note)
    try:
        list(query.search(archive.engine, query.Search(**wanted, limit=20)))
    finally:
        event.remove(archive.engine, "before_cursor_execute", note)
    steps = []
    with archive.engine.connect() as connection:
        for statement, parameters in statements:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            steps += [row.detail for row in plan]
    return steps


@pytest.mark.parametrize(
    "wanted",
    [pytest.param(SINGLE[name], id=name) for name in SINGLE]
    + [pytest.param({**SINGLE[one], **SINGLE[two]}, id=f"{one}-and-{two}") for one, two in PAIRS],
)
def test_every_search_goes_through_an_index(large: Archive, wanted: dict[str, Any]) -> None:
    """No statement of a search, alone or in pairs, reads a whole table or sorts a result."""
    steps = plans(large, wanted)
    assert steps
    for step in steps:
        assert not step.startswith("SCAN") or step == "SCAN anon_1", step
    sorts = [step for step in steps if "TEMP B-TREE" in step]
    # A network is a range of clients, each in order of time: its page is sorted.
    assert not sorts or "client" in wanted, sorts


def test_the_rarest_condition_leads(large: Archive) -> None:
    """Of two conditions the one with fewer records is walked, whatever their order."""
    [found] = query.search(large.engine, query.Search(queue_id="4XYZ17"))
    wanted = query.Search(recipient=found.recipients[0], domain=".example", signed=True)
    bounds = query._bounds(wanted)
    with large.engine.connect() as connection:
        conditions = query._conditions(wanted, connection)
        [rarest, *_] = query._lead_first(conditions[::-1], bounds, connection)
    assert rarest is conditions[0]


def test_a_page_costs_the_page_not_the_archive(large: Archive) -> None:
    """The first page of a frequent condition reads about as many rows as it shows."""
    with large.engine.connect() as connection:
        raw = connection.connection.driver_connection
        assert raw is not None
        steps = 0

        def tick() -> int:
            nonlocal steps
            steps += 1
            return 0

        raw.set_progress_handler(tick, 10)
        condition = query._conditions(query.Search(signed=True), connection)
        page = query.page_query(condition, query._bounds(query.Search()), 20)
        assert len(list(connection.execute(page))) == 20
        raw.set_progress_handler(None, 0)
    assert steps * 10 < 20 * 50


def test_hostile_text_is_only_text(archive: Archive, tmp_path: Path) -> None:
    """SQL in any place of a record or a question is stored and looked up as text."""
    evil = "'; DROP TABLE message; --@x.example"
    content = build_record(
        1, queue_id="%' OR '1'='1", login="' OR 1=1 --", recipients=[build_recipient(evil)]
    )
    archive.fill(content)
    assert archive.search(recipient=evil) == [content["record_id"]]
    assert archive.search(login="' OR 1=1 --") == [content["record_id"]]
    assert archive.search(queue_id="%") == []
    assert archive.search(login="%") == []
    assert record.parse(record.encode(archive.show(content["record_id"]))) == content


UNQUALIFIED = [
    pytest.param("postmaster", id="plain"),
    pytest.param("Postmaster", id="capital"),
    pytest.param("caf\udce9", id="undecodable"),
    pytest.param("nul\0", id="nul"),
    pytest.param("odd@", id="empty-domain"),
]


@pytest.mark.parametrize("address", UNQUALIFIED)
def test_an_unqualified_address_comes_back(archive: Archive, address: str) -> None:
    """It has no domain, not itself as domain; whatever its octets, the database takes it."""
    content = build_record(
        reverse_path=build_reverse_path(address, resolved=None),
        recipients=[build_recipient(address, resolved=None)],
        header_fields=headers(From=address, To=address, Cc=address),
        archive_recipients=[address],
    )
    archive.fill(content)
    assert archive.show(content["record_id"]) == content
    [found] = query.search(archive.engine, query.Search(recipient=address))
    assert (found.reverse_path, found.recipients) == (address, (address,))
    assert [one.what for one in query.count(archive.engine, "domain")] == []


UNUSUAL = [
    pytest.param(
        {"recipients": [build_recipient('"Bob"@hidden.example', resolved=None)]},
        id="needless-quotes-in-the-envelope",
    ),
    pytest.param({"header_fields": headers(Cc='"bob"@hidden.example')}, id="and-in-a-field"),
    pytest.param(
        {
            "recipients": [
                build_recipient("", raw="<bob (x)@hidden.example>", resolved="bob@hidden.example")
            ]
        },
        id="only-resolved",
    ),
]


@pytest.mark.parametrize("changes", UNUSUAL)
def test_an_unusual_spelling_does_not_hide_a_mailbox(
    archive: Archive, changes: dict[str, Any]
) -> None:
    """A person who writes the plain address finds it, and the spelling is still on record."""
    content = build_record(**changes)
    archive.fill(content)
    assert archive.search(participant="bob@hidden.example") == [content["record_id"]]
    assert archive.show(content["record_id"]) == content


def test_a_resolved_domain_is_found_by_its_a_label(archive: Archive) -> None:
    """The MTA may give it as U-label (SMTPUTF8); people's input is always converted."""
    path = build_recipient(
        "", raw="<bob (x)@b\u00fccher.example>", resolved="bob@b\u00fccher.example"
    )
    content = build_record(recipients=[path])
    archive.fill(content)
    wanted = "bob@xn--bcher-kva.example"
    assert archive.search(recipient=wanted) == [content["record_id"]]
    assert archive.search(domain="xn--bcher-kva.example") == [content["record_id"]]
