"""Every kind of question goes through an index, on every engine.

The plans are the engines' own, of the very statements that were sent, on tables large enough that a
missing index would be worth a scan.
"""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, event, text
from support.archive import (
    START,
    Archive,
    build_recipient,
    build_record,
    build_reverse_path,
    build_search,
)
from support.archive import headers as build_headers
from support.event_lines import active, attempt, build, change, client

from carbonseal.milter.archive import as_given, database
from carbonseal.milter.archive.completeness.finding import Period
from carbonseal.milter.archive.completeness.report import Asked, Report
from carbonseal.milter.archive.search import (
    conditions,
    networks,
    planning,
    query,
    statistics,
    trace,
    walk,
)
from carbonseal.milter.archive.search.wanted import Search

FACTS = (
    "message",
    "header_section",
    "participant",
    "participant_domain",
    "header_term",
    "seal",
    "hold_member",
    "delivery",
    "delivery_state",
)
RECORDS = 3000
SPREAD = 1200  # seconds between two records: 42 days in all


@pytest.fixture(scope="module")
def large(module_archive: Archive) -> Archive:
    rng = random.Random(5)
    sealed = [varied(number, rng) for number in range(RECORDS)]
    module_archive.fill(*sealed)
    module_archive.put(*(told(one, rng) for one in sealed[1::2]))
    module_archive.load()
    analyze(module_archive)
    list(query.search(module_archive.engine, Search(limit=1)))  # deliveries are known from here on
    return module_archive


def analyze(archive: Archive) -> None:
    """Statistics as the engines gather them by themselves sooner or later."""
    name = archive.engine.dialect.name
    if name == "postgresql":
        with archive.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("ANALYZE"))
    elif name in ("mysql", "mariadb"):
        with archive.engine.connect() as connection:
            for table in FACTS:
                connection.execute(text(f"ANALYZE TABLE {table}"))


def varied(number: int, rng: random.Random) -> dict[str, Any]:
    sender = f"user{rng.randrange(50)}@example.com"
    recipient = f"person{rng.randrange(400)}@dom{rng.randrange(100)}.example"
    return build_record(
        number,
        seconds=number * SPREAD,
        reverse_path=build_reverse_path(sender),
        recipients=[build_recipient(recipient)],
        header_fields=build_headers(
            From=sender,
            To=recipient,
            Subject=f"word{rng.randrange(30)} word{rng.randrange(300)}",
            Message_ID=f"<{number}@example.com>",
            List_Id=f"<list{rng.randrange(40)}.example.com>",
            X_Mailer="Outlook",
        ),
        client={**build_record()["client"], "address": f"192.0.2.{rng.randrange(200)}"},
        login=f"user{rng.randrange(50)}",
        crossing=rng.choice(["internal", "outbound", "inbound", "transit"]),
        size=rng.randrange(10_000),
        signatures=build_record()["signatures"] if rng.random() < 0.5 else [],
    )


def told(sealed: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """What the mail log says of every second of them."""
    [recipient], [copy] = sealed["recipients"], sealed["archive_recipients"]
    seconds = datetime.fromisoformat(sealed["recorded_at"]).timestamp() - START + 1
    attempts = (
        attempt(to, rng.choice(["sent", "deferred", "bounced"]), seconds)
        for to in (recipient["address"], copy)
    )
    return build(sealed["queue_id"], *attempts, change("removed", seconds + 1))


KINDS = [
    "",
    "from:user1@example.com",
    "sender:user1@example.com",
    "author:user1@example.com",
    "to:person1@dom1.example",
    "rcpt:person1@dom1.example",
    "cc:person1@dom1.example",
    "participant:user2+*@example.com",
    "domain:dom1.example",
    "domain:.dom1.example",
    "from:@.example.com",
    "message-id:17@example.com",
    "queue:4XYZ17",
    "queue:4XYZ17*",
    "word1",
    "word1 word200",
    '"word1 word200"',
    "client:192.0.2.17",
    "client:192.0.2.16/28",
    "login:user3",
    "crossing:transit",
    "NOT crossing:transit",
    "signed:no",
    "header.list-id:list3.example.com",
    "header.x-mailer:Outlook login:user3",
    "header.x-mailer:Outlook on:2026-11-22",
    "on:2026-11-22",
    "after:2026-11-22 size:>5K",
    "after:2026-11-22 NOT from:user1@example.com",
    "after:2026-12-20 relay:mx1.example.com",
    "after:2026-12-20 class:legal",
    "after:2026-12-20 sender:<>",
    "login:user3 size:>5K",
    "from:user1@example.com to:person1@dom1.example",
    "from:user1@example.com crossing:outbound after:2026-11-22",
    "domain:dom1.example word1",
    "domain:.dom1.example login:user3",
    "word1 signed:yes",
    "client:192.0.2.17 word1",
    "client:192.0.2.17 domain:dom1.example",
    "from:(user1@example.com OR user2@example.com) to:(@dom1.example OR @dom2.example)",
    "from:user1@example.com OR word200 OR client:192.0.2.17",
    "from:user1@example.com NOT word1",
    "from:user1@example.com NOT domain:dom1.example NOT login:user1",
    "(after:2026-12-20 login:user1) OR queue:4XYZ17",
    'login:user3 ("word1 word200" OR domain:dom1.example)',
    "state:bounced",
    "state:held",
    "state:delivered after:2026-12-20",
    "copy:lost",
    "copy:missing after:2026-12-20 before:2026-12-22",
    "left:late",
    "login:user3 NOT copy:lost",
    "state:bounced from:user1@example.com",
    "state:expired OR queue:4XYZ17",
]


def sent(archive: Archive, ask: Callable[[], object]) -> list[tuple[str, Any]]:
    """The SELECT statements that asking sends."""
    statements: list[tuple[str, Any]] = []

    def note(
        _connection: Connection, _cursor: Any, statement: str, parameters: Any, *_rest: Any
    ) -> None:
        if statement.lstrip().startswith(("SELECT", "WITH")):
            statements.append((statement, parameters))

    asked = as_given.sent

    def past_sqlalchemy(text: str, parameters: Any, connection: Connection) -> Any:
        statements.append((text, parameters))
        return asked(text, parameters, connection)

    event.listen(archive.engine, "before_cursor_execute", note)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(as_given, "sent", past_sqlalchemy)
            ask()
    finally:
        event.remove(archive.engine, "before_cursor_execute", note)
    return statements


def scans(archive: Archive, statements: list[tuple[str, Any]]) -> Iterator[str]:
    """Steps of plans that read a fact table, or an index of one, from end to end."""
    name = archive.engine.dialect.name
    with query.reading(archive.engine) as connection:
        small = small_months(connection)
        for statement, parameters in statements:
            if name == "sqlite":
                plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
                yield from (row.detail for row in plan if is_sqlite_scan(row.detail))
                continue
            form = "(FORMAT JSON)" if name == "postgresql" else "FORMAT=JSON"
            plan = connection.exec_driver_sql(f"EXPLAIN {form} {statement}", parameters)
            found = plan.scalar_one()
            steps = nodes(json.loads(found) if isinstance(found, str) else found)
            is_scan = is_postgresql_scan if name == "postgresql" else is_mariadb_scan
            yield from (
                str(step)
                for step in steps
                if is_scan(step) and step.get("Relation Name") not in small
            )


def small_months(connection: Connection) -> set[str]:
    """PostgreSQL's tables of so few records that to read them takes no longer than to look up the
    31 terms of an address.
    """
    if connection.dialect.name != "postgresql":
        return set()
    asked = text("SELECT relname FROM pg_class WHERE relispartition AND reltuples < 1000")
    return set(connection.scalars(asked))


def nodes(plan: Any) -> Iterator[dict[str, Any]]:
    if isinstance(plan, dict):
        yield plan
        for value in plan.values():
            yield from nodes(value)
    elif isinstance(plan, list):
        for value in plan:
            yield from nodes(value)


def is_sqlite_scan(step: str) -> bool:
    words = step.split()
    return words[0] == "SCAN" and (words[1] in FACTS or words[1] == "walked")


def is_postgresql_scan(step: dict[str, Any]) -> bool:
    relation = step.get("Relation Name", "")
    is_fact = any(relation == fact or relation.startswith(f"{fact}_") for fact in FACTS)
    if step.get("Plan Rows", 0) <= 1 and step.get("Node Type") == "Index Scan":
        return False  # a month without records
    return is_fact and (
        step.get("Node Type") == "Seq Scan"
        or (step.get("Node Type") == "Index Scan" and "Index Cond" not in step)
    )


def is_mariadb_scan(step: dict[str, Any]) -> bool:
    if step.get("table_name") in ("delivery", "participant_domain") and step.get("possible_keys"):
        return False  # hundreds of its rows are asked for by their keys: reading all is cheaper
    return step.get("table_name") in (*FACTS, "walked") and step.get("access_type") in (
        "ALL",
        "index",
    )


def found(archive: Archive, wanted: Search) -> Iterator[query.Found]:
    """Results, where every address is ours."""
    return query.search(archive.engine, wanted, is_ours=bool)


def outlined(archive: Archive, wanted: Search) -> Iterator[query.Outline]:
    """The same, for a table."""
    return query.outlines(archive.engine, wanted, is_ours=bool)


@pytest.mark.parametrize("kind", KINDS)
def test_every_search_goes_through_an_index(large: Archive, kind: str) -> None:
    """No statement of a search or of its count reads a whole table."""
    statements = sent(large, lambda: list(found(large, build_search(kind, limit=20))))
    statements += sent(large, lambda: list(outlined(large, build_search(kind, limit=20))))
    statements += sent(large, lambda: query.count(large.engine, build_search(kind), is_ours=bool))
    assert len(statements) > 1
    assert not list(scans(large, statements))


def walks_in_time(archive: Archive, statements: list[tuple[str, Any]]) -> Iterator[str]:
    """Steps that meet candidates by nothing but their time."""
    name = archive.engine.dialect.name
    with query.reading(archive.engine) as connection:
        for statement, parameters in statements:
            if name == "sqlite":
                plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
                ends = "(record_id>? AND record_id<?)"
                yield from (
                    row.detail for row in plan if " walked " in row.detail and ends in row.detail
                )
                continue
            plan = connection.exec_driver_sql(f"EXPLAIN FORMAT=JSON {statement}", parameters)
            for step in nodes(json.loads(plan.scalar_one())):
                if step.get("table_name") == "walked" and step["used_key_parts"] == ["record_id"]:
                    yield str(step)


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_leads_to_the_candidates(large: Archive, kind: str) -> None:
    """Unless only a period is asked for, or nothing: then the records themselves are walked."""
    if large.engine.dialect.name == "postgresql":
        pytest.skip("PostgreSQL may walk a window in time, because it is short")
    wanted = build_search(kind, limit=20)
    if None in plan_of(large, wanted).leads or kind.startswith("(after"):
        return
    assert not list(walks_in_time(large, sent(large, lambda: list(found(large, wanted)))))


@pytest.mark.parametrize("few", [0, 15_000])
@pytest.mark.parametrize(
    "kind", ["client:192.0.2.16/28", "client:192.0.2.0/25", "client:192.0.2.0/24 after:2026-12-01"]
)
def test_a_network_is_looked_up_in_the_index_of_clients(
    large: Archive, monkeypatch: pytest.MonkeyPatch, kind: str, few: int
) -> None:
    """Whether it has few messages or many: MariaDB would rather read all mail from the end."""
    if large.engine.dialect.name not in ("mysql", "mariadb"):
        pytest.skip("what others do is seen above")
    monkeypatch.setattr(networks, "_FEW", few)
    statements = sent(large, lambda: list(found(large, build_search(kind, limit=20))))
    statements += sent(large, lambda: query.count(large.engine, build_search(kind)))
    used = set(keys_of_candidates(large, statements))
    assert used == {"message_by_client"}
    has_windows = any(" IN (" in one and "walked" in one for one, _ in statements)
    assert has_windows == (not few)


def keys_of_candidates(archive: Archive, statements: list[tuple[str, Any]]) -> Iterator[str]:
    """The indexes by which MariaDB meets candidates."""
    with query.reading(archive.engine) as connection:
        for statement, parameters in statements:
            plan = connection.exec_driver_sql(f"EXPLAIN FORMAT=JSON {statement}", parameters)
            for step in nodes(json.loads(plan.scalar_one())):
                if step.get("table_name") == "walked":
                    yield step["key"]


@pytest.mark.parametrize("by", statistics.BY)
@pytest.mark.parametrize("kind", ["on:2026-11-22", "from:user1@example.com", '"word1 word200"'])
def test_every_count_goes_through_an_index(large: Archive, by: str, kind: str) -> None:
    """Whatever is counted, of a period or of a search."""
    ask = sent(large, lambda: statistics.count(large.engine, by, build_search(kind)))
    assert ask
    assert not list(scans(large, ask))


@pytest.mark.parametrize("name", ["4XYZ17", "<17@example.com>"])
def test_every_trace_and_view_goes_through_an_index(large: Archive, name: str) -> None:
    """One message costs one message."""
    statements = sent(large, lambda: trace.trace(large.engine, name))
    statements += sent(large, lambda: query.show(large.engine, "4XYZ17"))
    assert len(statements) > 2
    assert not list(scans(large, statements))


def test_the_tests_above_know_a_scan_when_they_see_one(large: Archive) -> None:
    """A condition without an index, asked directly, is told apart on each engine."""

    def ask() -> None:
        with large.engine.connect() as connection:
            connection.exec_driver_sql("SELECT record_id FROM message AS walked WHERE size > 5000")

    statements = sent(large, ask)
    assert list(scans(large, statements))


def plan_of(archive: Archive, wanted: Search) -> planning.Plan:
    with query.reading(archive.engine) as connection:
        return planning.planned(wanted, connection, query.INDEXED, bool)


def test_the_rarest_condition_leads(large: Archive) -> None:
    """Of several conditions the one with fewer records is walked, whatever their order."""
    [found] = query.search(large.engine, build_search("queue:4XYZ17"))
    rarest = f"rcpt:{found.recipients[0]}"
    for kind in (
        f"{rarest} domain:example.com signed:yes",
        f"signed:yes domain:example.com {rarest}",
    ):
        [lead] = plan_of(large, build_search(kind)).leads
        assert lead is not None
        [alone] = plan_of(large, build_search(rarest)).leads
        assert alone is not None
        assert (lead.table, lead.rank) == (alone.table, alone.rank)


def test_of_two_frequent_conditions_mariadb_follows_the_rarer(
    large: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It estimates where the others stop counting: both would be frequent to them."""
    if large.engine.dialect.name not in ("mysql", "mariadb"):
        pytest.skip("the others count")
    monkeypatch.setattr(planning, "RARE", 1)
    for kind in ("word1 word200", "word200 word1"):
        [lead] = plan_of(large, build_search(kind)).leads
        [alone] = plan_of(large, build_search("word200")).leads
        assert lead is not None
        assert alone is not None
        values = [
            one.holds(one.table.c).compile().params
            for one in (lead, alone)
            if one.table is not None
        ]
        assert values[0] == values[1]


def test_a_page_costs_the_page_not_the_archive(large: Archive) -> None:
    """The first page of a frequent condition reads about as many rows as it shows."""
    if large.engine.dialect.name != "sqlite":
        pytest.skip("only SQLite counts its steps")
    plan = plan_of(large, build_search("signed:yes"))
    with large.engine.connect() as connection:
        raw = connection.connection.driver_connection
        assert raw is not None
        steps = 0

        def tick() -> int:
            nonlocal steps
            steps += 1
            return 0

        raw.set_progress_handler(tick, 10)
        assert len(walk.Walk(plan).next(20, connection)) == 20
        raw.set_progress_handler(None, 0)
    assert steps * 10 < 20 * 50


def test_a_frequent_condition_fills_the_first_window(large: Archive) -> None:
    """PostgreSQL's arrays know no order: a first page must not sort the whole archive."""
    if large.engine.dialect.name != "postgresql":
        pytest.skip("only PostgreSQL walks through windows")
    wanted = build_search("signed:yes", limit=20)
    large.engine.dispose()
    told = sent(large, lambda: list(query.search(large.engine, wanted)))
    [window] = windows(told)
    first, last = (int(window[name], 16) for name in ("first", "last"))
    assert 0 < last - first < (RECORDS // 2 * SPREAD * 1000) << 80
    told = sent(large, lambda: list(query.search(large.engine, wanted)))
    [again] = windows(told)  # a connection remembers that window, but not that it had an end
    assert again["first"] == window["first"]
    assert again["last"] > window["last"]
    assert not any("OFFSET" in statement for statement, _ in told)
    assert conditions.is_true(plan_of(large, build_search("")).root)


def windows(statements: list[tuple[str, Any]]) -> list[Any]:
    """What was bound in statements that look for candidates in a window."""
    return [given for statement, given in statements if statement.startswith("WITH found")]


KEPT = "SELECT name, statement, parameter_types::text[] FROM pg_prepared_statements"


def test_a_plan_for_any_time_reads_no_record_ids(large: Archive) -> None:
    """Windows of many months have one plan, which must go through the index of terms alone."""
    if large.engine.dialect.name != "postgresql":
        pytest.skip("no other engine keeps plans for its windows")
    engine = database.reading_engine(large.database_url)
    try:
        for number in range(8):
            list(query.search(engine, build_search(f"login:user{number}")))
            list(query.search(engine, build_search(f"subject:word{200 + number}")))
        with query.reading(engine) as connection:
            connection.execute(text("SET plan_cache_mode = force_generic_plan"))
            far = [
                (name, types)
                for name, statement, types in connection.execute(text(KEPT)).all()
                if "< ANY (ARRAY[" in statement
            ]
            plans, narrow = (
                [explained(f"{name}({given(types, last)})", connection) for name, types in far]
                for last in ("f", "0")
            )
    finally:
        engine.dispose()
    assert plans
    for plan in plans:
        assert "_terms_idx" in plan
        assert "_pkey" not in plan
    assert all("Subplans Removed" in plan for plan in narrow)


def explained(statement: str, connection: Connection) -> str:
    return "\n".join(connection.execute(text(f"EXPLAIN EXECUTE {statement}")).scalars())


def given(types: list[str], last: str) -> str:
    """Values for a statement: of ids, the last begins with that digit."""
    ids = [f"'{digit}{'0' * 31}'::uuid" for digit in ("0", last)][-types.count("uuid") :]
    return ", ".join(
        ids.pop(0) if one == "uuid" else "'{1,2}'" if one.endswith("[]") else "20" for one in types
    )


MOST_STATEMENTS = {"sqlite": 9, "mariadb": 9, "mysql": 9, "postgresql": 13}


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_costs_a_few_statements(large: Archive, kind: str) -> None:
    """However many records are on it, and however far back they are."""
    statements = sent(large, lambda: list(found(large, build_search(kind, limit=50))))
    several = 5 if " OR " in kind or "NOT crossing" in kind else 0  # each has an index of its own
    decided = 6 if re.search("state:|copy:|left:", kind) else 0  # three for each hundred candidates
    most = MOST_STATEMENTS[large.engine.dialect.name] + several + decided
    assert len(statements) <= most


@pytest.mark.parametrize("kind", ["", "from:user1@example.com", "signed:yes", "word1 word200"])
def test_windows_leave_no_record_out(large: Archive, kind: str) -> None:
    """Pages of any size together are what one page would be."""
    whole = [one.record_id for one in query.search(large.engine, build_search(kind))]
    for size in (1, 7, 400):
        some = itertools.islice(query.pages(large.engine, build_search(kind), size=size), 40)
        found = [one for page in some for one in page]
        assert found == whole[: len(found)]
        assert found or not whole


@pytest.fixture(scope="module")
def strayed(large: Archive) -> Archive:
    """With mail in the log that has no record."""
    strays = range(0, RECORDS, 2)
    large.put(
        *(
            build(f"4STRAY{number}", client(number * SPREAD), active(number * SPREAD))
            for number in strays
        )
    )
    large.load()
    analyze(large)
    return large


def test_completeness_goes_through_indexes(strayed: Archive) -> None:
    """A day of the archive costs a day of it, whatever is held against what."""
    since = datetime.fromtimestamp(START, UTC) + timedelta(days=10)
    report = Report(Asked(Period(since, since + timedelta(days=1)), since + timedelta(days=60)))
    statements = sent(strayed, lambda: list(report.findings(strayed.engine)))
    assert report.seen.messages == 86_400 // SPREAD
    assert report.seen.unrecorded == report.seen.messages // 2
    # Whether a log is followed at all is asked without a condition, and takes one row.
    statements = [one for one in statements if "WHERE" in one[0]]
    assert len(statements) > 5
    assert not list(scans(strayed, statements))
