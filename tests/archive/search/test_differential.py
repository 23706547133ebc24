"""Random searches over random records: SQL says what a plain reading of the records says.

The reading below knows nothing of indexes: it looks at the records as `seal` made them.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.archive import (
    START,
    Archive,
    build_recipient,
    build_record,
    build_reverse_path,
    headers,
)

from carbonseal.milter.archive import derive, terms
from carbonseal.milter.archive.search import fields, query, wanted
from carbonseal.milter.archive.search.wanted import All, Condition, Either, Is, Not, Search
from carbonseal.policies import header_fields
from carbonseal.policies.errors import DataError

T0 = datetime.fromtimestamp(START, UTC)
DAY = 86_400
PEOPLE = [
    "alice@example.com", "bob@example.com", "bob+news@example.com", "carol@partner.org",
    "dave@eu.partner.org", "erin@other.test", "dave@other.test", "Bob+x@partner.org",
]  # fmt: skip
WORDS = ["annual", "report", "Résumé", "meeting", "re", "Straße", "№5", "plan"]
LISTS = ["Dev <dev.example.com>", "ops.example.com"]
MAILERS = ["Outlook 16", "Thunderbird"]
LOGINS = ["alice", "Bob", None]
CLIENTS = ["192.0.2.1", "192.0.2.200", "2001:db8::5", ""]
QUEUE_IDS = [f"4Q{number:02d}" for number in range(40)]
RELAYS = ["mx1.example.com", "mx2.example.com"]
CLASSES = ["legal", "short", None]
SIZES = [100, 5000, 3_000_000]
SECONDS = [0, 60, 3600, DAY, 40 * DAY, 400 * DAY]


def random_record(number: int, rng: random.Random) -> dict[str, Any]:
    sender, author, *others = (rng.choice(PEOPLE) for _ in range(6))
    header: list[list[str]] = headers(From=author, To=others[0])
    for _ in range(rng.choice([0, 1, 1, 1, 2])):
        header += headers(Subject=" ".join(rng.choices(WORDS, k=rng.randrange(6))))
    if rng.random() < 0.5:
        header += headers(Cc=f"{others[1]}, {others[2]}")
    if rng.random() < 0.5:
        header += headers(Message_ID=f"<{rng.randrange(30)}@example.com>")
    if rng.random() < 0.3:
        header += headers(List_Id=rng.choice(LISTS))
    if rng.random() < 0.5:
        header += headers(X_Mailer=rng.choice(MAILERS))
    name = rng.choice(CLASSES)
    return build_record(
        number,
        seconds=number * 0.5 + rng.choice(SECONDS),
        queue_id=rng.choice(QUEUE_IDS),
        relay=rng.choice(RELAYS),
        reverse_path=build_reverse_path("" if rng.random() < 0.1 else sender),
        recipients=[
            build_recipient(one) for one in dict.fromkeys(rng.choices(PEOPLE, k=rng.choice([1, 3])))
        ],
        header_fields=header,
        login=rng.choice(LOGINS),
        client={**build_record()["client"], "address": rng.choice(CLIENTS)},
        crossing=rng.choice(["internal", "outbound", "inbound", "transit"]),
        signatures=build_record()["signatures"] if rng.random() < 0.5 else [],
        size=rng.choice(SIZES),
        disposition=rng.choice(["accept", "accept", "tempfail"]),
        retention=name and {"class": name, "keep": None, "headers": None, "subject": None},
    )


DERIVED: dict[str, derive.Derived] = {}


# --- a plain reading -----------------------------------------------------------------------------


def is_met(content: dict[str, Any], condition: Condition) -> bool:
    return wanted.holds(condition, lambda one: _is(content, one.field, one.value))


def derived_of(content: dict[str, Any]) -> derive.Derived:
    name = content["record_id"]
    if name not in DERIVED:
        DERIVED[name] = derive.derive(content["header_fields"])
    return DERIVED[name]


def _is(content: dict[str, Any], field: str, value: str) -> bool:
    derived = derived_of(content)
    if field.startswith(fields.HEADER):
        return _has_header(content, field.removeprefix(fields.HEADER), value)
    reverse_path = content["reverse_path"]["address"]
    recipients = [one["address"] for one in content["recipients"]]
    people: dict[str, list[str]] = {
        "sender": [reverse_path],
        "author": list(derived.authors),
        "from": [reverse_path, *derived.authors],
        "rcpt": recipients,
        "cc": list(derived.cc),
        "to": [*recipients, *derived.to, *derived.cc],
        "participant": [reverse_path, *derived.authors, *recipients, *derived.to, *derived.cc],
    }
    if field in people:
        if value == "<>":
            return reverse_path == ""
        return any(_is_person(one.lower(), value) for one in people[field] if one)
    if field == "domain":
        return any(_is_person(one.lower(), "@" + value) for one in people["participant"] if one)
    recorded_at = datetime.fromisoformat(content["recorded_at"])
    plain: dict[str, Callable[[], bool]] = {
        "subject": lambda: _says(content, value),
        "message-id": lambda: derived.message_id == value,
        "queue-id": lambda: (
            content["queue_id"].startswith(value[:-1])
            if value.endswith("*")
            else content["queue_id"] == value
        ),
        "record-id": lambda: content["record_id"] == value,
        "client": lambda: _is_client(content["client"]["address"], value),
        "login": lambda: (content["login"] or "").lower() == value.lower(),
        "crossing": lambda: content["crossing"] == value,
        "signed": lambda: bool(content["signatures"]) is (value == "yes"),
        "after": lambda: recorded_at >= datetime.fromisoformat(value),
        "before": lambda: recorded_at < datetime.fromisoformat(value),
        "relay": lambda: content["relay"] == value,
        "size": lambda: _is_size(content["size"], value),
        "class": lambda: (content["retention"] or {}).get("class") == value,
        "disposition": lambda: content["disposition"] == value,
    }
    return plain[field]()


def _is_person(mailbox: str, value: str) -> bool:
    local_part, _, domain = mailbox.partition("@")
    if value.startswith("@."):
        return f".{domain}".endswith(value[1:])
    if value.startswith("@"):
        return domain == value[1:]
    if "+*@" in value:
        return f"{local_part.partition('+')[0]}@{domain}" == value.replace("+*@", "@")
    return mailbox == value


def _values(content: dict[str, Any], name: str) -> list[str]:
    return [
        header_fields.decode_text(value.encode()).strip()
        for one, value in content["header_fields"]
        if one.lower() == name
    ]


def _says(content: dict[str, Any], value: str) -> bool:
    phrase = value.split(" ")
    for subject in _values(content, "subject"):
        words = terms.sequence(subject)
        if any(words[at : at + len(phrase)] == phrase for at in range(len(words))):
            return True
    return False


def _has_header(content: dict[str, Any], name: str, value: str) -> bool:
    for found in _values(content, name):
        forms = [found.lower()]
        if "<" in found:
            forms.append(found.lower().partition("<")[2].rstrip(">"))
        if value.endswith("*") and any(form.startswith(value[:-1].lower()) for form in forms):
            return True
        if value.lower() in forms:
            return True
    return False


def _is_client(text: str, value: str) -> bool:
    if not text:
        return False
    client, network = ipaddress.ip_address(text), ipaddress.ip_network(value)
    return client.version == network.version and client in network


def _is_size(size: int, value: str) -> bool:
    first, dots, last = value.partition("..")
    if dots:
        return int(first) <= size <= int(last)
    number = int(value.lstrip("<>="))
    return {">": size > number, ">=": size >= number, "<": size < number, "<=": size <= number}[
        value.rstrip("0123456789")
    ]


# --- searches ------------------------------------------------------------------------------------

ADDRESSES = [
    *(one.lower() for one in PEOPLE), "nobody@never.test", "bob+*@example.com", "bob+*@partner.org",
    "@example.com", "@partner.org", "@.partner.org", "@.eu.partner.org", "@.partner.test",
    "@never.test",
]  # fmt: skip
FIRST_MOMENTS = [T0 + timedelta(seconds=second) for second in (-5, 0, 100, DAY, 50 * DAY)]


def leaf(field: str, *values: str) -> st.SearchStrategy[Condition]:
    return st.sampled_from([Is(field, fields.canonical(field, value)) for value in values])


def texts(moments: list[datetime]) -> list[str]:
    return [fields.moment_text(one) for one in moments]


LEAVES = st.one_of(
    *(
        leaf(field, *ADDRESSES)
        for field in ("from", "to", "rcpt", "cc", "author", "sender", "participant")
    ),
    leaf("from", "<>"),
    leaf("domain", "example.com", ".partner.org", ".eu.partner.org", "eu.partner.org"),
    leaf("subject", "annual", "RESUME", "strasse", "no5", "never", "annual report", "re re"),
    leaf("message-id", *(f"<{number}@example.com>" for number in range(5))),
    leaf("queue-id", "4Q07", "4Q1*", "4Q*", "5*"),
    leaf("client", "192.0.2.1", "192.0.2.0/24", "2001:db8::/32", "198.51.100.0/24"),
    leaf("login", "alice", "BOB", "nobody"),
    leaf("crossing", "internal", "outbound", "inbound", "transit"),
    leaf("signed", "yes", "no"),
    leaf("after", *texts(FIRST_MOMENTS)),
    leaf("before", *texts(FIRST_MOMENTS)),
    leaf("relay", *RELAYS, "mx9.example.com"),
    leaf("size", ">1M", ">=5000", "<5000", "<=100", "1K..1M"),
    leaf("class", "legal", "short", "never"),
    leaf("disposition", "accept", "tempfail", "reject"),
    leaf("header.list-id", "dev.example.com", "OPS.example.com", "Dev <dev.example.com>", "dev*"),
    leaf("header.x-mailer", "outlook 16", "thunder*", "outlook"),
)
CONDITIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4).map(lambda some: All(tuple(some))),
        st.lists(inner, min_size=1, max_size=4).map(lambda some: Either(tuple(some))),
        inner.map(Not),
    ),
    max_leaves=8,
)
MOMENTS = st.sampled_from([None, *FIRST_MOMENTS])


@pytest.fixture(scope="module")
def records() -> list[dict[str, Any]]:
    rng = random.Random(20261121)
    return [random_record(number, rng) for number in range(300)]


@pytest.fixture(scope="module")
def filled(module_archive: Archive, records: list[dict[str, Any]]) -> Archive:
    module_archive.fill(*records)
    return module_archive


@settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(where=CONDITIONS, since=MOMENTS, until=MOMENTS, size=st.sampled_from([3, 40, 1000]))
def test_sql_says_what_a_plain_reading_says(
    filled: Archive,
    records: list[dict[str, Any]],
    where: Condition,
    since: datetime | None,
    until: datetime | None,
    size: int,
) -> None:
    """Whatever the conditions: the same records, in the same order, in pages of any size."""
    search = Search(where=where, since=since, until=until, limit=None)
    assert wanted.from_json(search.to_json()) == search
    expected = sorted(
        (
            one["record_id"]
            for one in records
            if (since is None or datetime.fromisoformat(one["recorded_at"]) >= since)
            and (until is None or datetime.fromisoformat(one["recorded_at"]) < until)
            and is_met(one, where)
        ),
        reverse=True,
    )
    try:
        found = [one for page in query.pages(filled.engine, search, size=size) for one in page]
    except DataError:
        assert since is None  # no index answers it, and no period bounds it
        return
    assert found == expected
    assert query.count(filled.engine, search) == len(expected)
