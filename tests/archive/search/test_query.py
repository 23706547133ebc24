"""Questions and answers: what is found, in which order, through which index."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.archive import (
    START,
    Archive,
    build_recipient,
    build_record,
    build_reverse_path,
    build_search,
    headers,
)

from carbonseal.milter.archive import database, record, retrieve
from carbonseal.milter.archive.handover import given
from carbonseal.milter.archive.search import networks, query, statistics
from carbonseal.milter.archive.search.statistics import Count
from carbonseal.milter.archive.search.wanted import Is, Search
from carbonseal.policies.errors import DataError, NotFound

T0 = datetime.fromtimestamp(START, UTC)


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
    "two-subjects": {"header_fields": [["Subject", " visible"], ["Subject", " other concealed"]]},
    "list": {
        "relay": "mx2.example.com",
        "size": 5000,
        "retention": {"class": "legal", "keep": None, "headers": None, "subject": None},
        "header_fields": headers(
            Subject="List for Dev", List_Id="Dev List <dev.lists.example>", X_Mailer="Outlook"
        ),
    },
    "refused": {"disposition": "tempfail", "client": {**build_record()["client"], "address": ""}},
}
NUMBERS = {name: number for number, name in enumerate(MESSAGES)}


@pytest.fixture(scope="module")
def filled(module_archive: Archive) -> Archive:
    module_archive.fill(*(build_record(NUMBERS[name], **MESSAGES[name]) for name in MESSAGES))
    return module_archive


def moment(name: str) -> str:
    """When that message was sealed, for a query."""
    return (T0 + timedelta(seconds=NUMBERS[name])).isoformat()


def names(archive: Archive, text: str) -> list[str]:
    by_queue_id = {f"4XYZ{number}": name for name, number in NUMBERS.items()}
    found = query.search(archive.engine, build_search(text))
    return [by_queue_id[one.queue_id] for one in found]


SEARCHES = [
    pytest.param("rcpt:secret@hidden.example", {"bcc"}, id="bcc-recipient"),
    pytest.param("participant:secret@hidden.example", {"bcc"}, id="bcc-participant"),
    pytest.param("to:secret@hidden.example", {"bcc"}, id="to-means-the-envelope-too"),
    pytest.param("secret@hidden.example", {"bcc"}, id="a-bare-address-takes-part"),
    pytest.param("from:secret@hidden.example", set(), id="recipient-is-no-sender"),
    pytest.param("rcpt:SECRET@hidden.example", {"bcc"}, id="case-of-local-part"),
    pytest.param("from:heidi@example.com", {"two-authors"}, id="second-author"),
    pytest.param("author:heidi@example.com", {"two-authors"}, id="author"),
    pytest.param("sender:heidi@example.com", set(), id="author-is-no-reverse-path"),
    pytest.param("sender:erin@a.corp.example.com", {"subdomain"}, id="reverse-path"),
    pytest.param("from:mailer-daemon@partner.example", {"bounce"}, id="author-of-bounce"),
    pytest.param("rcpt:alice@example.com", {"bounce"}, id="recipient-not-sender"),
    pytest.param("participant:grace@elsewhere.example", {"subdomain"}, id="cc"),
    pytest.param("cc:grace@elsewhere.example", {"subdomain"}, id="only-cc"),
    pytest.param("to:grace@elsewhere.example", {"subdomain"}, id="to-means-cc-too"),
    pytest.param("rcpt:grace@elsewhere.example", set(), id="cc-is-no-recipient"),
    pytest.param("rcpt:carol+news@partner.example", {"extension"}, id="extension"),
    pytest.param("rcpt:carol@partner.example", set(), id="extension-not-asked-for"),
    pytest.param("rcpt:carol+*@partner.example", {"extension"}, id="extension-left-out"),
    pytest.param("rcpt:bob+*@hidden.example", set(), id="extensions-of-nobody"),
    pytest.param(
        "rcpt:bob@partner.example from:heidi@example.com",
        {"two-authors"},
        id="sender-and-recipient",
    ),
    pytest.param("rcpt:dave@remote.test", {"rerouted"}, id="as-postfix-resolved-it"),
    pytest.param("rcpt:nobody@nowhere.example", set(), id="address-never-seen"),
    pytest.param("NOT rcpt:nobody@nowhere.example on:2026", set(MESSAGES), id="not-never-seen"),
    pytest.param("NOT from:nobody@nowhere.example", set(MESSAGES), id="not-of-nobody"),
    pytest.param("NOT from:no+*@nowhere.example", set(MESSAGES), id="not-of-nobodys-extensions"),
    pytest.param("NOT from:@nowhere.example", set(MESSAGES), id="not-of-an-unknown-domain"),
    pytest.param("NOT from:@.nowhere.example", set(MESSAGES), id="not-below-an-unknown-domain"),
    pytest.param("NOT domain:nowhere.example", set(MESSAGES), id="not-with-an-unknown-domain"),
    pytest.param("NOT relay:mx9.example.com", set(MESSAGES), id="not-of-an-unknown-relay"),
    pytest.param("NOT class:never", set(MESSAGES), id="not-of-an-unknown-class"),
    pytest.param(
        "NOT (from:nobody@nowhere.example OR domain:nowhere.example)",
        set(MESSAGES),
        id="not-of-anybody-unknown",
    ),
    pytest.param("NOT (domain:nowhere.example size:>1)", set(MESSAGES), id="not-of-what-cannot-be"),
    pytest.param(
        "domain:nowhere.example OR from:heidi@example.com", {"two-authors"}, id="or-unknown"
    ),
    pytest.param(
        "NOT domain:nowhere.example OR from:heidi@example.com", set(MESSAGES), id="or-all"
    ),
    pytest.param("domain:nowhere.example relay:mx1.example.com", set(), id="and-unknown"),
    pytest.param(
        "from:heidi@example.com NOT domain:nowhere.example", {"two-authors"}, id="and-not-unknown"
    ),
    pytest.param("domain:hidden.example", {"bcc"}, id="domain"),
    pytest.param("rcpt:@hidden.example", {"bcc"}, id="domain-of-a-recipient"),
    pytest.param("from:@hidden.example", set(), id="domain-of-no-sender"),
    pytest.param("from:@partner.example", {"bounce"}, id="domain-of-the-author"),
    pytest.param("domain:elsewhere.example", {"subdomain"}, id="domain-in-cc"),
    pytest.param("domain:corp.example.com", set(), id="domain-is-exact"),
    pytest.param("domain:.corp.example.com", {"subdomain"}, id="subdomains"),
    pytest.param("from:@.corp.example.com", {"subdomain"}, id="subdomains-of-a-sender"),
    pytest.param("cc:@.corp.example.com", set(), id="subdomains-of-another-role"),
    pytest.param("domain:.hidden.example", {"bcc"}, id="dot-includes-the-domain"),
    pytest.param("domain:never.example", set(), id="domain-never-seen"),
    pytest.param("message-id:<0.report@example.com>", {"report"}, id="message-id"),
    pytest.param(f"message-id:{'x' * 12_000}@example.com", {"long-id"}, id="12-kb-message-id"),
    pytest.param(f"message-id:{'x' * 200}", set(), id="not-by-prefix"),
    pytest.param("queue:4XYZ0", {"report"}, id="queue-id"),
    pytest.param("queue:4xyz0", set(), id="queue-id-is-exact"),
    pytest.param("queue:4XYZ*", set(MESSAGES), id="queue-ids-that-begin"),
    pytest.param("muller", {"umlaut"}, id="accents"),
    pytest.param("subject:(JAHRESBERICHT Müller)", {"umlaut"}, id="case-any-order"),
    pytest.param('subject:"Jahresbericht Müller"', set(), id="a-phrase-is-in-order"),
    pytest.param('"müller JAHRESBERICHT"', {"umlaut"}, id="a-phrase-without-case-and-accents"),
    pytest.param("jahresbericht absent", set(), id="all-words"),
    pytest.param("jahresbericht OR concealed", {"umlaut", "two-subjects"}, id="any-word"),
    pytest.param("jahres", set(), id="whole-words"),
    pytest.param("concealed", {"two-subjects"}, id="second-subject"),
    pytest.param('subject:"other concealed"', {"two-subjects"}, id="phrase-in-a-second-subject"),
    pytest.param('subject:"visible other"', set(), id="phrase-across-two-subjects"),
    pytest.param("after", {"nul"}, id="beyond-a-nul"),
    pytest.param("\u05e9\u05dc\u05d5\u05dd", {"hebrew"}, id="right-to-left"),
    pytest.param("pr sentation", {"latin-1"}, id="latin-1-subject"),
    pytest.param("rcpt:\u05d3\u05d5\u05d0\u05e8@partner.example", {"hebrew"}, id="hebrew-mailbox"),
    pytest.param("rcpt:caf\udce9@partner.example", {"no-utf-8"}, id="latin-1-mailbox"),
    pytest.param("from:\udcff\udcfe@example.com", {"no-utf-8"}, id="octets-mailbox"),
    pytest.param("client:2001:db8::25", {"bounce"}, id="client"),
    pytest.param("client:2001:db8::/32", {"bounce"}, id="ipv6-network"),
    pytest.param("client:192.0.2.0/24", MESSAGES.keys() - {"bounce", "refused"}, id="ipv4-network"),
    pytest.param("client:192.0.2.8/29", set(), id="other-network"),
    pytest.param("client:::/0", MESSAGES.keys() - {"refused"}, id="every-known-client"),
    pytest.param("login:ERIN", {"subdomain"}, id="login-without-case"),
    pytest.param("crossing:internal", {"subdomain"}, id="crossing"),
    pytest.param("crossing:transit", set(), id="crossing-never-seen"),
    pytest.param("NOT crossing:outbound", {"subdomain", "bounce"}, id="other-crossings"),
    pytest.param("signed:no", {"bounce"}, id="unsigned"),
    pytest.param("NOT signed:yes", {"bounce"}, id="not-signed"),
    pytest.param("signed:yes", MESSAGES.keys() - {"bounce"}, id="signed"),
    pytest.param("signed:no login:alice", set(), id="two-message-columns"),
    pytest.param("signed:no NOT login:alice", {"bounce"}, id="not-of-a-column-that-is-null"),
    pytest.param("on:2026 NOT login:alice", {"bounce", "subdomain"}, id="not-in-a-period"),
    pytest.param(f"before:{moment('bounce')}", {"report", "bcc"}, id="before"),
    pytest.param(f"after:{moment('refused')}", {"refused"}, id="after"),
    pytest.param("after:2025-11-21 before:2026-11-21", set(), id="before-all"),
    pytest.param("on:2026-11-21", set(MESSAGES), id="on-a-day"),
    pytest.param(
        f"(after:{moment('refused')} login:alice) OR queue:4XYZ0",
        {"refused", "report"},
        id="a-period-as-one-of-two",
    ),
    pytest.param("header.list-id:dev.lists.example", {"list"}, id="indexed-header-in-brackets"),
    pytest.param('header.list-id:"Dev  LIST <dev.lists.example>"', {"list"}, id="indexed-header"),
    pytest.param("header.list-id:lists.example", set(), id="headers-are-whole-values"),
    pytest.param("header.list-id:dev.* on:2026", {"list"}, id="how-a-header-begins"),
    pytest.param('header.x-field-7:"v7 w" on:2026', {"many-fields"}, id="header-in-a-period"),
    pytest.param('header.x-field-7:"v7 w" signed:yes', {"many-fields"}, id="header-beside"),
    pytest.param('header.x-field-7:"v8 w" on:2026', set(), id="header-with-another-value"),
    pytest.param("header.x-mailer:* on:2026".replace("*", "ou*"), {"list"}, id="header-begins"),
    pytest.param(
        "rcpt:bob@partner.example NOT header.x-mailer:Outlook queue:(4XYZ0 OR 4XYZ1)",
        {"report", "bcc"},
        id="not-a-header",
    ),
    pytest.param(
        'list AND NOT "for dev" OR rcpt:secret@hidden.example',
        {"bcc"},
        id="not-a-phrase",
    ),
    pytest.param(
        '"list for dev" OR "dev list" OR login:erin', {"list", "subdomain"}, id="phrase-or-login"
    ),
    pytest.param("sender:<> on:2026", {"bounce"}, id="null-reverse-path"),
    pytest.param("size:>2K on:2026", {"list"}, id="larger"),
    pytest.param("size:<=1202 signed:no", {"bounce"}, id="smaller"),
    pytest.param("size:[2K TO 1M] on:2026", {"list"}, id="sizes"),
    pytest.param("relay:mx2.example.com on:2026", {"list"}, id="relay"),
    pytest.param("relay:mx9.example.com on:2026", set(), id="no-such-relay"),
    pytest.param("class:legal on:2026", {"list"}, id="retention-class"),
    pytest.param("disposition:tempfail on:2026", {"refused"}, id="disposition"),
    pytest.param(
        "rcpt:(secret@hidden.example OR frank@example.com) NOT crossing:internal",
        {"bcc"},
        id="or-within-a-field",
    ),
    pytest.param(
        "(login:erin OR subject:jahresbericht) AND (domain:.corp.example.com OR muller)",
        {"subdomain", "umlaut"},
        id="or-across-fields",
    ),
    pytest.param("-login:alice crossing:internal", {"subdomain"}, id="minus"),
    pytest.param("NOT (login:alice OR signed:no) on:2026", {"subdomain"}, id="not-of-a-group"),
    pytest.param("", set(MESSAGES), id="everything"),
]


@pytest.mark.parametrize(("wanted", "expected"), SEARCHES)
def test_found_is_what_was_asked_for(filled: Archive, wanted: str, expected: set[str]) -> None:
    """Each condition finds its messages and no others, newest first, on each engine."""
    found = names(filled, wanted)
    assert set(found) == expected
    assert found == sorted(found, key=NUMBERS.__getitem__, reverse=True)
    assert query.count(filled.engine, build_search(wanted)) == len(expected)


NOT_ANSWERED = [
    pytest.param("size:>1M", id="no-index"),
    pytest.param("NOT from:alice@example.com", id="only-not"),
    pytest.param("NOT subject:never", id="only-not-a-word-whether-it-occurs-or-not"),
    pytest.param("NOT login:nobody", id="only-not-a-login-whether-it-occurs-or-not"),
    pytest.param(
        "from:nobody@nowhere.example OR relay:mx1.example.com", id="the-half-that-may-be-found"
    ),
    pytest.param(
        "relay:mx1.example.com NOT domain:nowhere.example", id="what-is-left-has-no-index"
    ),
    pytest.param("from:alice@example.com OR relay:mx1.example.com", id="one-half-without-an-index"),
    pytest.param(
        'from:alice@example.com OR header.x-mailer:"Outlook"', id="header-as-an-alternative"
    ),
    pytest.param("header.x-mailer:Outlook before:2027-01-01", id="no-beginning"),
    pytest.param("sender:<>", id="null-reverse-path"),
]


@pytest.mark.parametrize("wanted", NOT_ANSWERED)
def test_what_no_index_answers_is_refused(filled: Archive, wanted: str) -> None:
    """A sentence says what to add; nothing is read from end to end."""
    with pytest.raises(DataError, match="no index answers"):
        names(filled, wanted)


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
    [found] = query.search(filled.engine, build_search("queue:4XYZ0"))
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
        state=None,
        copy_state=None,
        dry_run=None,
    )
    assert found.signatures == (build_record()["signatures"][0],)


def test_an_outline_says_what_is_said_in_short(filled: Archive) -> None:
    """The table that people read and the JSON that programs read tell the same of every record."""
    everything = Search()
    in_short = list(query.search(filled.engine, everything))
    assert len(in_short) >= len(MESSAGES)
    outlines = list(query.outlines(filled.engine, everything))
    assert outlines == [outline_of(one) for one in in_short]


def outline_of(found: query.Found) -> query.Outline:
    return query.Outline(
        record_id=found.record_id,
        recorded_at=found.recorded_at,
        queue_id=found.queue_id,
        crossing=found.crossing,
        reverse_path=found.reverse_path,
        recipient=next(iter(found.recipients), None),
        recipient_count=len(found.recipients),
        subject=found.subject,
        is_signed=bool(found.signatures),
        is_copied=bool(found.archive_recipients),
        state=found.state,
        copy_state=found.copy_state,
        dry_run=found.dry_run,
    )


@pytest.mark.parametrize(("few", "most"), [(0, 0), (0, 1), (0, 256), (15_000, 0), (15_000, 256)])
@pytest.mark.parametrize(
    "text", ["client:192.0.2.0/24", "client:0.0.0.0/0", "client:2001:db8::/32"]
)
def test_a_network_is_found_however_many_clients_it_has(
    filled: Archive, monkeypatch: pytest.MonkeyPatch, few: int, most: int, text: str
) -> None:
    """Few clients are looked up one by one, and many at once; so are few messages on MariaDB."""
    monkeypatch.setattr(networks, "_FEW", few)
    monkeypatch.setattr(networks, "_MOST_CLIENTS", most)
    network = ipaddress.ip_network(text.removeprefix("client:"))
    everything = query.search(filled.engine, Search())
    wanted = [
        one.record_id
        for one in everything
        if one.client_address and ipaddress.ip_address(one.client_address) in network
    ]
    assert wanted
    found = [one.record_id for one in query.search(filled.engine, build_search(text))]
    assert found == wanted
    some = query.search(filled.engine, build_search(text, limit=1, before=wanted[0]))
    assert [one.record_id for one in some] == wanted[1:2]


def test_several_authors_are_all_named(filled: Archive) -> None:
    """The first author is not passed off as the only one."""
    [found] = query.search(filled.engine, build_search("from:heidi@example.com"))
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
    monkeypatch.setattr(query, "PAGE", 7)
    archive.fill(*(build_record(number) for number in range(50)))
    assert len(archive.search(limit=None)) == 50
    assert len(archive.search(limit=20)) == 20
    assert len(archive.search("report", limit=None)) == 50


@pytest.mark.parametrize("size", [1, 3, 7])
def test_pages_of_a_phrase_leave_nothing_out(any_archive: Archive, size: int) -> None:
    """More candidates are looked at than a page holds: the next one begins after the last given."""
    any_archive.fill(*(build_record(number) for number in range(60)))
    wanted = build_search('"quarterly report"', limit=None)
    found = [one for page in query.pages(any_archive.engine, wanted, size=size) for one in page]
    assert found == sorted(set(found), reverse=True)
    assert len(found) == 60


def test_records_of_one_millisecond_are_told_apart(archive: Archive) -> None:
    """Equal times do not confuse the pages."""
    archive.fill(*(build_record(number, seconds=5) for number in range(30)))
    assert len(set(archive.search(limit=10)) | set(archive.search(limit=None))) == 30
    pages: list[str] = []
    while page := archive.search(limit=7, before=pages[-1] if pages else None):
        pages += page
    assert len(pages) == len(set(pages)) == 30


def test_counts_by_day_crossing_and_domain(any_archive: Archive) -> None:
    """Counts agree with what was recorded, by UTC days, newest first."""
    day = 86_400
    any_archive.fill(
        build_record(0, seconds=0),
        build_record(1, seconds=day, crossing="inbound", signatures=[], archive_recipients=[]),
        build_record(2, seconds=day + 1, archive_recipients=[], archive_addressed=True),
    )

    def count(by: str, text: str = "") -> list[Count]:
        return statistics.count(any_archive.engine, by, build_search(text))

    assert count("day") == [
        Count("2026-11-22", 2, 2404, 1, 1),
        Count("2026-11-21", 1, 1202, 1, 1),
    ]
    assert count("crossing") == [
        Count("outbound", 2, 2404, 2, 2),
        Count("inbound", 1, 1202, 0, 0),
    ]
    assert count("domain", "after:2026-11-22") == [
        Count("example.com", 2, 2404, 1, 1),
        Count("partner.example", 2, 2404, 1, 1),
    ]
    assert count("month", "crossing:inbound") == [Count("2026-11", 1, 1202, 0, 0)]
    assert count("author") == [Count("alice@example.com", 3, 3606, 2, 2)]
    assert count("sender", '"quarterly report"') == [Count("alice@example.com", 3, 3606, 2, 2)]
    assert count("login", "rcpt:nobody@never.example") == []
    for by in ("relay", "login", "class", "disposition", "hour", "year"):
        assert sum(one.messages for one in count(by)) == 3
    assert count("day", "before:2026-11-21") == []


def test_hostile_text_is_only_text(archive: Archive) -> None:
    """SQL in any place of a record or a question is stored and looked up as text."""
    evil = "'; DROP TABLE message; --@x.example"
    content = build_record(
        1, queue_id="%' OR '1'='1", login="' OR 1=1 --", recipients=[build_recipient(evil)]
    )
    archive.fill(content)
    [found] = query.search(archive.engine, Search(where=Is("rcpt", evil)))
    assert found.record_id == content["record_id"]
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
    [found] = query.search(archive.engine, Search(where=Is("rcpt", address)))
    assert (found.reverse_path, found.recipients) == (address, (address,))
    assert statistics.count(archive.engine, "domain", Search()) == []


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


def test_a_record_that_cannot_be_read_back_is_named(archive: Archive) -> None:
    """Rows that lack what they refer to are damage, said with the record id; no other suffers."""
    archive.fill(build_record(1), build_record(2, reasons=["origin-listener(submission)"]))
    damaged, whole = archive.search()
    writing = database.writing_engine(archive.database_url)
    with writing.begin() as connection:
        connection.exec_driver_sql("DELETE FROM verdict WHERE reasons LIKE '%origin-listener%'")
    writing.dispose()
    questions = [
        lambda: list(query.search(archive.engine, Search())),
        lambda: query.show(archive.engine, damaged),
        lambda: list(given.Source(archive.engine).records([[whole, damaged]])),
    ]
    for ask in questions:
        with pytest.raises(retrieve.DamagedRecord, match=f"record {damaged}: .* archive verify"):
            ask()
    assert query.show(archive.engine, whole)
    assert len(list(query.outlines(archive.engine, Search()))) == 2  # shows nothing of it
