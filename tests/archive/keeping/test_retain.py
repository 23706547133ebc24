"""Retention: what is past its time goes, whole and in order; nothing else does."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.archive import START, Archive, build_recipient, headers
from support.keeping import Keeper, expiring, years

from carbonseal.milter.archive.keeping import retain, taking
from carbonseal.policies.errors import DataError, UsageError

APPLY = "retain --apply --now 0d"  # the clock of a test stands still
INDEXES = ("participant", "participant_domain", "header_term")


def record_ids(archive: Archive) -> list[str]:
    return archive.search()


def test_a_dry_run_says_what_would_go_and_changes_nothing(keeper: Keeper) -> None:
    """How many, of which class and part; the audit has it all the same."""
    keeper.archive.fill(
        expiring(1, seconds=years(2), keep=30),
        expiring(2, seconds=years(2), keep=3000, headers=300, subject=30, name="long"),
        expiring(3, seconds=0, keep=30),
    )
    said = keeper.run("retain --now 0d")
    assert "nothing was changed" in said
    for words in (["brief", "record", "1"], ["long", "header section", "1"]):
        assert any(all(word in line for word in words) for line in said.splitlines()), said
    assert len(record_ids(keeper.archive)) == 3
    assert keeper.archive.rows("tombstone") == 0
    assert [action for action, _ in keeper.events()] == ["retain", "answered"]


def test_what_is_past_its_time_goes_with_all_that_leads_to_it(keeper: Keeper) -> None:
    """Rows, index rows and the people in the dictionary whom nobody else names."""
    old = expiring(
        1,
        seconds=years(2),
        keep=30,
        recipients=[build_recipient("gone@vanished.example")],
        header_fields=headers(Subject="unheard of", To="<cc@elsewhere.example>", List_Id="<l.x>"),
    )
    young = expiring(2, seconds=0, keep=30)
    keeper.archive.fill(old, young)
    keeper.run(APPLY)
    assert record_ids(keeper.archive) == [young["record_id"]]
    assert keeper.archive.show(young["record_id"]) == young
    for text in ("to:gone@vanished.example", "domain:vanished.example", "subject:unheard"):
        assert keeper.archive.search(text) == []
    assert keeper.archive.rows("header_section") == 1
    names = dictionary_names(keeper.archive)
    assert "vanished.example" not in names
    assert "elsewhere.example" not in names
    assert {"example.com", "partner.example", "archive.example.net"} <= names
    assert keeper.findings() == []


def test_a_configured_archive_recipient_stays_in_the_dictionary(keeper: Keeper) -> None:
    """Whoever mail is archived at is not forgotten with the records that name nobody else."""
    spellings = ("Vault@kept.example", "vault@gone.example")
    old = expiring(
        1,
        seconds=years(2),
        keep=30,
        recipients=[build_recipient(one) for one in spellings],
        archive_recipients=[],
    )
    keeper.archive.fill(old, expiring(2, seconds=0, keep=30))
    keeper.context.archive_recipients = frozenset({"VAULT@kept.example"})
    keeper.run(APPLY)
    names = dictionary_names(keeper.archive)
    assert "kept.example" in names
    assert "gone.example" not in names


def dictionary_names(archive: Archive) -> set[str]:
    with archive.engine.connect() as connection:
        found = connection.exec_driver_sql(
            "SELECT name FROM domain WHERE domain_id IN (SELECT domain_id FROM address)"
        )
        return set(found.scalars())


def test_no_index_row_is_left_without_its_record(keeper: Keeper) -> None:
    """Where indexes are tables, no row of them leads nowhere."""
    if keeper.archive.database_url.startswith("postgresql"):
        pytest.skip("its indexes are in the rows")
    keeper.archive.fill(
        *(expiring(n, seconds=years(2) + n, keep=30) for n in range(7)),
        expiring(8, seconds=years(2) + 10, keep=9000, headers=30, name="long"),
    )
    keeper.run(APPLY)
    with keeper.archive.engine.connect() as connection:
        for table in INDEXES:
            count = connection.exec_driver_sql(
                f"SELECT count(*) FROM {table} WHERE record_id NOT IN "
                "(SELECT record_id FROM message)"
            ).scalar_one()
            assert count == 0, table
    assert keeper.archive.rows("header_term") == 0
    assert len(keeper.archive.search("from:alice@example.com")) == 1


def test_the_subject_goes_first_then_the_header_section(keeper: Keeper) -> None:
    """The envelope stays and is found; each step leaves the evidence whole."""
    fields = [
        ["Subject", " Quarterly report"],
        ["From", " Alice <alice@example.com>"],
        ["Thread-Topic", " Quarterly report"],
        ["To", " Bob <bob@partner.example>"],
        ["List-Id", " <news.example.com>"],
        ["Message-ID", " <1.report@example.com>"],
    ]
    kept = expiring(1, seconds=years(1), keep=3000, headers=400, subject=90, header_fields=fields)
    keeper.archive.fill(kept)
    name = kept["record_id"]
    keeper.run(APPLY)
    shown = keeper.archive.show(name)
    assert shown["header_fields"] == [
        [field, "" if field in ("Subject", "Thread-Topic") else value] for field, value in fields
    ]
    assert keeper.archive.search("subject:quarterly") == []
    assert keeper.archive.search("header.list-id:news.example.com") == [name]
    assert keeper.findings() == []
    again = keeper.run(APPLY)
    assert "nothing is past its time" in again


def test_the_header_section_goes_and_the_author_stays_known(keeper: Keeper) -> None:
    """Who wrote it and under which Message-ID are facts of the envelope; To and Cc are not."""
    kept = expiring(
        1,
        seconds=years(2),
        keep=3000,
        headers=400,
        header_fields=headers(
            From="Alice <alice@example.com>",
            To="<third@party.example>",
            Subject="Quarterly report",
            Message_ID="<1.report@example.com>",
        ),
    )
    keeper.archive.fill(kept)
    name = kept["record_id"]
    assert keeper.archive.search("participant:third@party.example") == [name]
    keeper.run(APPLY)
    assert keeper.archive.rows("header_section") == 0
    assert keeper.archive.search("subject:quarterly") == []
    assert keeper.archive.search("participant:third@party.example") == []
    assert keeper.archive.search("from:alice@example.com") == [name]
    assert keeper.archive.search("message-id:1.report@example.com") == [name]
    assert keeper.archive.search("to:bob@partner.example") == [name]
    assert keeper.findings() == []


def test_nothing_without_a_stamp_and_nothing_younger_than_it_goes(keeper: Keeper) -> None:
    """What is stamped is what counts, to the second."""
    edge = 30 * 86400
    before = expiring(1, seconds=0, keep=30)
    for_ever = expiring(2, seconds=years(20), keep=None)
    unstamped = expiring(3, seconds=years(20), keep=30) | {"retention": None}
    keeper.archive.fill(before, for_ever, unstamped)
    assert "nothing is past" in keeper.run(f"retain --now {_time(START + edge - 60)}")
    assert "brief" in keeper.run(f"retain --now {_time(START + edge + 60)}")
    keeper.run(APPLY)
    assert len(record_ids(keeper.archive)) == 3


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def test_a_time_that_is_not_yet_cannot_be_applied(keeper: Keeper) -> None:
    """It would shorten what was stamped."""
    keeper.archive.fill(expiring(1, seconds=0, keep=30))
    with pytest.raises(UsageError, match="shorten"):
        keeper.run("retain --apply --now 2099-01-01")


def test_a_clock_far_ahead_of_the_mail_is_doubted(keeper: Keeper) -> None:
    """Before it takes everything; whoever is sure says so."""
    keeper.archive.fill(expiring(1, seconds=years(3), keep=30))
    with pytest.raises(DataError, match="clock"):
        keeper.run("retain --apply")
    keeper.run("retain --apply --now 0d")
    assert record_ids(keeper.archive) == []


def test_a_month_that_is_not_over_loses_its_records_one_by_one(keeper: Keeper) -> None:
    """Beside one that stays, in the same month and the same segment."""
    stays = expiring(1, seconds=years(2), keep=9000, name="long")
    keeper.archive.fill(stays, *(expiring(n, seconds=years(2) + n, keep=30) for n in (2, 3)))
    said = keeper.run(APPLY)
    assert "2 x record" in said
    assert record_ids(keeper.archive) == [stays["record_id"]]
    assert keeper.archive.show(stays["record_id"]) == stays
    assert keeper.findings() == []


def test_evidence_tells_retention_from_loss(archive: Archive) -> None:
    """Without its tombstone, what is gone is missing."""
    keeper = Keeper(archive)
    archive.fill(expiring(1, seconds=years(2), keep=30), expiring(2, seconds=0, keep=3000))
    keeper.run(APPLY)
    assert keeper.findings() == []
    execute(archive, "DELETE FROM tombstone")
    [found] = keeper.findings()
    assert "missing" in found


def execute(archive: Archive, statement: str) -> None:
    with closing(sqlite3.connect(archive.file)) as connection, connection:
        connection.execute(statement)


@pytest.mark.parametrize("batches", range(4))
def test_whoever_is_interrupted_goes_on_next_time(
    archive: Archive, batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After any batch; in between the evidence is whole, and nothing is taken twice."""
    keeper = Keeper(archive)
    brief = [expiring(n, seconds=years(2) + n, keep=30) for n in range(4)]
    long = [
        expiring(n, seconds=years(2) + n, keep=9000, headers=60, subject=30, name="long")
        for n in range(4, 8)
    ]
    archive.fill(*brief, *long)
    monkeypatch.setitem(retain.Run.__init__.__kwdefaults__, "batch", 2)
    whole, left = taking.bury, iter(range(batches))

    def breaks(*given: object) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        whole(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(taking, "bury", breaks)
    keeper.run(APPLY, status=1)
    monkeypatch.setattr(taking, "bury", whole)
    assert len(record_ids(archive)) == 8 - 2 * min(batches, 2)
    assert keeper.findings() == []
    keeper.run(APPLY)
    assert record_ids(archive) == [one["record_id"] for one in long[::-1]]
    assert archive.rows("header_section") == 0
    assert keeper.findings() == []
    assert "nothing is past its time" in keeper.run(APPLY)


def test_a_record_that_cannot_be_read_stays_and_is_named(archive: Archive) -> None:
    """It may be the trace of a crime; the others go."""
    keeper = Keeper(archive)
    archive.fill(*(expiring(n, seconds=years(2) + n, keep=30) for n in range(3)))
    damaged = record_ids(archive)[1]
    statement = "UPDATE message SET recipients = x'07' WHERE position = 1"
    execute(archive, statement)
    said = keeper.run(APPLY)
    assert f"{damaged}: cannot be read" in said
    assert archive.rows("message") == 1


STAMPS = st.none() | st.tuples(*[st.none() | st.integers(1, 60)] * 3)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    mail=st.lists(st.tuples(st.integers(0, 90), STAMPS, st.booleans()), min_size=1, max_size=8),
    rounds=st.lists(st.integers(0, 90), min_size=1, max_size=3),
)
def test_no_more_and_no_less_goes_than_the_stamps_say(
    tmp_path_factory: pytest.TempPathFactory,
    mail: list[tuple[int, tuple[int | None, int | None, int | None] | None, bool]],
    rounds: list[int],
) -> None:
    """Against a model: held stays whole; the rest loses each part on its day, never before."""
    archive = Archive(tmp_path_factory.mktemp("model"))
    keeper = Keeper(archive)
    begin = START - 100 * 86400
    made = []
    for number, (day, stamp, is_held) in enumerate(mail):
        keep, headers_, subject = stamp or (None, None, None)
        content = expiring(
            number,
            seconds=begin - START + day * 86400,
            keep=keep,
            headers=headers_,
            subject=subject,
            name=f"{stamp}",
            recipients=[build_recipient("held@case.example" if is_held else "x@free.example")],
        )
        made.append(content | ({"retention": None} if stamp is None else {}))
    archive.fill(*made)
    keeper.run("hold case to:held@case.example --live")
    for day in sorted(rounds):
        # a few minutes later: the hold is looked up by when a record was made
        keeper.run(f"retain --apply --now {_time(begin + day * 86400 + 600)}")
        for content, (born, stamp, is_held) in zip(made, mail, strict=True):
            found = archive.search(f"record-id:{content['record_id']}")
            shown = archive.show(content["record_id"]) if found else None
            times = (None, None, None) if stamp is None or is_held else stamp
            keep, headers_, subject = (
                max_day if max_day is None else born + max_day <= day for max_day in times
            )
            if keep:
                assert shown is None
                continue
            assert shown is not None
            if headers_:
                assert shown["header_fields"] is None
            elif subject:
                assert ["Subject", ""] in shown["header_fields"]
            else:
                assert shown == content
    assert keeper.findings() == []
    archive.close()


def test_a_hold_set_after_the_batch_was_listed_is_seen(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was listed is asked again in the transaction that deletes it."""
    keeper = Keeper(archive)
    held = expiring(1, seconds=years(2), keep=30)
    archive.fill(held, expiring(2, seconds=years(2) + 1, keep=30, login="bob"))
    whole = retain.Run._take

    def late(self: retain.Run, *given: Any) -> None:
        monkeypatch.setattr(retain.Run, "_take", whole)
        keeper.run("hold case login:alice")
        whole(self, *given)

    monkeypatch.setattr(retain.Run, "_take", late)
    keeper.run(APPLY)
    assert record_ids(archive) == [held["record_id"]]


def test_what_was_recorded_counts_and_not_the_record_id(archive: Archive) -> None:
    """An id may be older than its record: made by a clock that was wrong, or by another program."""
    young = expiring(1, seconds=0, keep=30)
    young["record_id"] = expiring(2, seconds=years(2), keep=30)["record_id"]
    archive.fill(young)
    Keeper(archive).run(APPLY)
    assert record_ids(archive) == [young["record_id"]]
