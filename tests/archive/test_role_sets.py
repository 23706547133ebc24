"""No search misses a record because of the sets of roles that it asks for; see `role_sets`."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, delete, select
from support import postgresql
from support.archive import Archive, build_recipient, build_record, build_reverse_path, headers
from support.keeping import Keeper, expiring, years

from carbonseal.milter.archive import (
    database,
    loader,
    postings,
    role_sets,
    rows,
    schema,
    terms,
)
from carbonseal.milter.archive.dictionary import Dictionary
from carbonseal.milter.archive.loader import Arrival

MAILBOXES = [
    "alice@example.com",
    "bob@example.com",
    "bob+lists@example.com",
    "bob@mx.example.com",
    "carol@partner.example",
    "postmaster",
]
# What meets several roles is what meets one of them.
SINGLE_ROLES = [
    one << shift
    for one in (schema.REVERSE_PATH, schema.RECIPIENT, schema.AUTHOR, schema.TO, schema.CC)
    for shift in (0, schema.INDIRECT)
]
FIELDS = ("participant", "sender", "from", "recipient", "to", "cc")
QUESTIONS = [
    f"{field}:{who}"
    for field in FIELDS
    for who in (
        *MAILBOXES[:-1],
        "bob+*@example.com",
        "@example.com",
        "@.example.com",
        "@.partner.example",
    )
] + ["domain:example.com", "domain:.example.com", "domain:.mx.example.com"]

some = st.lists(st.sampled_from(MAILBOXES), max_size=3)
mails = st.lists(st.tuples(st.sampled_from(MAILBOXES), some, some, some, some), max_size=4)


@given(mails)
def test_each_role_that_is_held_is_asked_for(given_mails: list[Any]) -> None:
    """Of the sets that the records brought, and of all sets, a search meets the same terms."""
    ids = {text: number for number, text in enumerate(MAILBOXES, start=1)}
    stored: set[int] = set()
    held: set[tuple[int, int]] = set()
    for sender, *ends in given_mails:
        made = rows.split(mail(1, sender, *ends), frozenset())
        participants = {ids[text]: roles for text, roles in made.participants.items()}
        domains = {terms.term(name): roles for name, roles in made.domains.items()}
        stored |= set(
            postings.of_message(
                participants=participants, domains=domains, login=None, crossing=1, is_signed=True
            )
        )
        held |= set(role_sets.of_record(participants, domains))
    told = role_sets.told(role_sets.rows(held))
    for text, identifier in ids.items():
        _, at, name = text.rpartition("@")
        of_address = told.of_address(terms.term(name) if at else None)
        of_domain = told.of_domain(terms.term(name))
        for wanted in SINGLE_ROLES:
            meets = stored.intersection(postings.with_address(identifier, wanted))
            assert meets == stored.intersection(
                postings.with_address(identifier, wanted, of_address)
            )
            meets = stored.intersection(postings.with_domain(terms.term(name), wanted))
            assert meets == stored.intersection(
                postings.with_domain(terms.term(name), wanted, of_domain)
            )


def mail(
    number: int, sender: str, authors: list[str], to: list[str], cc: list[str], rcpt: list[str]
) -> dict[str, Any]:
    """A record of a message with these ends."""
    named = {"From": authors, "To": to, "Cc": cc}
    return build_record(
        number,
        reverse_path=build_reverse_path(sender),
        recipients=[build_recipient(one) for one in rcpt],
        header_fields=headers(**{name: ", ".join(some) for name, some in named.items() if some}),
    )


MAILS = [
    mail(
        1, "alice@example.com", ["alice@example.com"], ["bob@example.com"], [], ["bob@example.com"]
    ),
    mail(2, "bob+lists@example.com", ["bob@example.com"], [], ["alice@example.com"], []),
    mail(3, "carol@partner.example", [], [], [], ["bob@mx.example.com", "alice@example.com"]),
    mail(
        4, "postmaster", ["carol@partner.example"], ["postmaster"], ["postmaster"], ["postmaster"]
    ),
    mail(5, "alice@example.com", [], MAILBOXES, [], MAILBOXES[:3]),
]


def answers(archive: Archive) -> dict[str, list[str]]:
    return {text: archive.search(text) for text in QUESTIONS}


@pytest.fixture
def expected(tmp_path: Path) -> Iterator[dict[str, list[str]]]:
    """What SQLite answers, which has the roles in a column."""
    (tmp_path / "reference").mkdir()
    made = Archive(tmp_path / "reference")
    made.fill(*MAILS)
    found = answers(made)
    assert sum(map(len, found.values())) > 100
    yield found
    made.close()


def test_what_is_loaded_is_found(any_archive: Archive, expected: dict[str, list[str]]) -> None:
    """On each engine, whatever role is asked for, whether all came together or one by one."""
    for one in MAILS:
        any_archive.fill(one)
    assert answers(any_archive) == expected


def without_role_sets(connection: Connection) -> None:
    """As the version before left it."""
    if connection.dialect.name == "postgresql":
        schema.role_set.drop(connection)
    connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'archive_4'")


def test_an_archive_of_before_is_asked_for_any_set(
    any_archive: Archive, expected: dict[str, list[str]]
) -> None:
    """After the upgrade it answers as ever, also for what writers of before that stay connected
    bring, which write no sets down.
    """
    any_archive.fill(*MAILS[:2])
    engine = database.writing_engine(any_archive.database_url)
    with engine.begin() as connection:
        without_role_sets(connection)
    database.upgrade(engine)
    any_archive.fill(*MAILS[2:])
    if engine.dialect.name == "postgresql":
        with engine.begin() as connection:
            written = schema.role_set.c.holder_id != role_sets.ANY_ADDRESS
            connection.execute(delete(schema.role_set).where(written))
            connection.execute(delete(schema.role_set).where(schema.role_set.c.roles != 0))
    engine.dispose()
    assert answers(any_archive) == expected


@pytest.fixture
def engine() -> Iterator[Engine]:
    """An empty archive on PostgreSQL, for writers."""
    server = postgresql.shared()
    name = server.create_database()
    made = database.writing_engine(server.url(name))
    database.upgrade(made)
    yield made
    made.dispose()
    server.drop_database(name)


def arrival(number: int) -> Arrival:
    return Arrival(1, number, rows.split(MAILS[number], frozenset()))


def held(engine: Engine) -> set[tuple[int, int]]:
    with engine.connect() as connection:
        return {(one.holder_id, one.roles) for one in connection.execute(select(schema.role_set))}


def written(engine: Engine, *numbers: int) -> set[tuple[int, int]]:
    """What ought to be there when these records are."""
    made = [arrival(number).rows for number in numbers]
    return {
        one
        for each in made
        for one in role_sets.rows(
            role_sets.of_record(
                dict(enumerate(each.participants.values())),
                {terms.term(name): roles for name, roles in each.domains.items()},
            )
        )
    }


def test_a_new_archive_has_the_sets_of_its_records(engine: Engine) -> None:
    """And no others: that is what they are for."""
    assert held(engine) == set()
    known = Dictionary()
    for number in range(3):
        with engine.begin() as connection:
            loader.load([arrival(number)], connection, known)
        known.keep()
        assert held(engine) == written(engine, *range(number + 1))


def test_what_was_rolled_back_is_written_again(engine: Engine) -> None:
    """A batch that failed leaves nothing, in the table or in the writer's memory."""
    known = Dictionary()
    with engine.connect() as connection:
        loader.load([arrival(0)], connection, known)
        connection.rollback()
    known.forget()
    assert held(engine) == set()
    with engine.begin() as connection:
        loader.load([arrival(0)], connection, known)
    assert held(engine) == written(engine, 0)


@pytest.mark.parametrize("first_commits", [True, False])
def test_two_writers_may_bring_the_same_set(engine: Engine, *, first_commits: bool) -> None:
    """The second waits for the first, and writes it down when the first gives up."""
    sets = [(7, schema.TO), (7, schema.CC)]

    def second() -> None:
        with engine.begin() as connection:
            Dictionary().ids("role_set", sets, connection)

    with engine.connect() as connection, ThreadPoolExecutor() as threads:
        Dictionary().ids("role_set", sets, connection)
        other = threads.submit(second)
        (connection.commit if first_commits else connection.rollback)()
        other.result()
    assert held(engine) == set(sets)


def test_sets_go_with_their_domain_and_come_again(any_archive: Archive) -> None:
    """No trace of it stays, and a writer that remembered the domain writes down its sets anew."""
    keeper = Keeper(any_archive)
    any_archive.fill(expiring(1, seconds=years(8), keep=365 * 7), build_record(2, salt="02" * 16))
    engine = database.writing_engine(any_archive.database_url)
    known = Dictionary()
    old, name = "gone.example", "someone@gone.example"
    content = expiring(3, seconds=years(8), keep=365 * 7, recipients=[build_recipient(name)])
    any_archive.fill(content)
    with engine.begin() as connection:  # that writer has it in mind
        loader.load([Arrival(1, 9, rows.split(content, frozenset()))], connection, known)
        known.ids("domain", {old}, connection)
    known.keep()
    keeper.run("retain --apply")
    assert any_archive.search(f"to:{name}") == any_archive.search(f"@{old}") == []
    if engine.dialect.name == "postgresql":
        assert terms.term(old) not in {holder_id for holder_id, _ in held(engine)}
    again = build_record(4, recipients=[build_recipient(name)])
    with engine.begin() as connection:
        loader.load([Arrival(2, 0, rows.split(again, frozenset()))], connection, known)
    engine.dispose()
    assert len(any_archive.search(f"recipient:{name}")) == 1
    assert len(any_archive.search(f"domain:{old}")) == 1
