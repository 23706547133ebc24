"""Log and archive held against each other: each hole, and nothing else, with its cause."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from support.archive import START, Archive, build_record
from support.event_lines import Fact, active, at, attempt, build, change, client

from carbonseal.milter.archive import database, record, schema, spool, terms
from carbonseal.milter.archive.completeness.finding import Period
from carbonseal.milter.archive.completeness.report import Asked, NothingFollowed, Report
from carbonseal.policies.errors import NotFound

BOB, COPY = "bob@partner.example", "archive@archive.example.net"
NOW = datetime.fromtimestamp(START + 7200, UTC)
DAY = Period(datetime.fromtimestamp(START - 3600, UTC), NOW)
Found = list[tuple[str, str]]


def look(archive: Archive, **asked: Any) -> tuple[Found, Report]:
    """Cause and queue id (or record id) of everything that is not explained, and the report."""
    values = {"spool": archive.spool_directory, "period": DAY, "now": NOW, **asked}
    report = Report(Asked(**values))
    found = list(report.findings(archive.engine))
    listed = [(one.cause.value, one.queue_id or one.record_id) for one in found]
    return sorted(one for one in listed if one[0] not in EXPLAINED), report


EXPLAINED = {"internal-mail", "before-records", "before-follower", "no-copy-by-rule"}


def mail(number: int, **changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A record, and a line of the log that says that all went well."""
    sealed = build_record(number, **changes)
    facts = logged(number, attempt(BOB, seconds=number), attempt(COPY, seconds=number))
    return sealed, build(sealed["queue_id"], *facts)


def logged(number: float, *more: Fact, **how: Any) -> list[Fact]:
    """What is logged of a message that is queued: how it came, and more."""
    came = client(number, listener="inside", **how)
    done = change("removed", number + 2)
    return [came, active(number), *more, done]


def fill(archive: Archive, *contents: dict[str, Any]) -> None:
    """Records, then lines, in segments of their own as milter and follower have them."""
    for suffix, is_event in (("", False), ("-follow", True)):
        some = [one for one in contents if ("event" in one) is is_event]
        segment = spool.Spool(archive.spool_directory, suffix=suffix, clock=lambda: START - 60)
        segment.put_all([record.encode(one) for one in some])
        segment.close()
    archive.load()


def ten() -> list[dict[str, Any]]:
    return [one for number in range(10) for one in mail(number)]


def test_all_is_on_record(any_archive: Archive) -> None:
    """Nothing is found where nothing is missing; figures say what was looked at."""
    fill(any_archive, *ten())
    found, report = look(any_archive)
    assert found == []
    figures = report.figures()
    assert (figures["messages"], figures["logged"], figures["delivered"]) == (10, 10, 10)
    assert figures["holes"] == figures["pending"] == 0


def test_without_a_log_there_is_nothing_to_look_at(archive: Archive) -> None:
    """Nobody may take that for completeness."""
    fill(archive, *(one for one in ten() if "event" not in one))
    with pytest.raises(NothingFollowed, match="carbonseal-follow"):
        look(archive)


@pytest.mark.parametrize("count", [1, 10])
def test_each_record_removed_by_hand_is_named(any_archive: Archive, count: int) -> None:
    """Its row is gone; what the log said of it is not."""
    contents = ten()
    fill(any_archive, *contents)
    gone = [one["record_id"] for one in contents if "record_id" in one][:count]
    remove(any_archive, "message", gone)
    assert look(any_archive)[0] == sorted(("record-removed", one) for one in gone)


def test_a_record_removed_with_its_lines_is_missing_from_the_count(any_archive: Archive) -> None:
    """What was sealed is known, and the archive has less of it."""
    contents = ten()
    fill(any_archive, *contents)
    gone = [one["record_id"] for one in contents if "record_id" in one][3:6]
    remove(any_archive, "message", gone)
    remove(any_archive, "delivery", gone[:2])
    found, report = look(any_archive)
    assert found == [("record-removed", gone[2]), ("records-uncounted", "")]
    assert report.figures()["records_uncounted"] == 2


def remove(archive: Archive, table: str, record_ids: list[str]) -> None:
    engine = database.writing_engine(archive.database_url)
    columns = schema.metadata.tables[table]
    with engine.begin() as connection:
        for one in record_ids:
            connection.execute(columns.delete().where(columns.c.record_id == one))
    engine.dispose()


LISTENERS = {
    "others-have-one": ({"listener": "inside"}, "record-missing"),
    "no_milters": ({"listener": "filter"}, "listener-without-milter"),
    "from-this-host": ({"client": "localhost[127.0.0.1]"}, "listener-without-milter"),
    "sendmail": ({"service": "pickup", "client": None}, "local-submission"),
}


@pytest.mark.parametrize("how", LISTENERS)
def test_mail_without_a_record_has_a_cause(archive: Archive, how: str) -> None:
    """By the way on which it came, and whether other mail of that way has records."""
    came, cause = LISTENERS[how]
    stray = build("4STRAY", *with_way(came))
    fill(archive, *ten(), stray)
    assert look(archive)[0] == [(cause, "4STRAY")]


def with_way(came: dict[str, Any]) -> list[Fact]:
    first, *rest = logged(20)
    told = {key: value for key, value in (first | came).items() if value is not None}
    return [told, *rest]


def test_what_is_no_hole_is_none(archive: Archive) -> None:
    """Refused mail, notifications, mail from before the first record."""
    came = client(20, listener="inside")
    fill(
        archive,
        *ten(),
        build("4REFUSED", came, change("rejected", 20)),
        build("4ABORTED", came),
        build(
            "4BOUNCE",
            {"kind": "queued", "at": at(21), "service": "cleanup", "message_id": "<x@mx1>"},
            active(21, reverse_path=""),
        ),
        build("4BEFORE", *logged(-600)),
    )
    found, report = look(archive)
    assert found == []
    assert report.figures()["internal_mail"] == 1
    assert report.figures()["before_records"] == 1


def test_mail_that_the_log_does_not_show(archive: Archive) -> None:
    """One by itself is a hole; several in a row are a gap; what was not accepted is none."""
    contents = ten()
    silent = {2, 5, 6, 7}
    lines = [one for one in contents if "event" in one]
    kept = [one for number, one in enumerate(lines) if number not in silent]
    refused = build_record(30, disposition="reject")
    fill(archive, *(one for one in contents if "event" not in one), *kept, refused)
    found, _ = look(archive)
    assert found == [("log-gap", f"4XYZ{one}") for one in (5, 6, 7)] + [("not-in-log", "4XYZ2")]


def test_what_waits_in_the_spool_is_no_hole_yet(archive: Archive) -> None:
    """Records and lines that are not loaded; a follower that is behind."""
    sealed, line = mail(20)
    fill(archive, *ten(), build("4STRAY", *logged(3000)))
    assert look(archive)[0] == [("record-missing", "4STRAY")]
    late = {"spool": None, "now": datetime.fromtimestamp(START + 3060, UTC)}
    assert look(archive, **late)[0] == [("record-waits", "4STRAY")]
    fill(archive, sealed)
    behind = {"at": START + 40, "lag": 30.0}
    assert ("not-in-log", "4XYZ20") in look(archive)[0]
    soon = datetime.fromtimestamp(START + 600, UTC)
    assert ("not-followed", "4XYZ20") in look(archive, follower=behind, now=soon)[0]
    assert ("follower-behind", "4XYZ20") in look(archive, follower=behind)[0]
    fill(archive, line)
    assert look(archive)[0] == [("record-missing", "4STRAY")]


def test_a_milter_out_of_reach_is_named(archive: Archive) -> None:
    """The follower saw Postfix's complaints of that time."""
    fill(archive, *ten(), build("4STRAY", *logged(20)))
    told = {"milter_faults": [{"since": at(15), "until": at(15), "count": 1}]}
    assert look(archive, follower=told)[0] == [("milter-unreachable", "4STRAY")]


def test_copies_that_do_not_arrive(archive: Archive) -> None:
    """Lost, waiting, overdue, never added, or not wanted by rule."""
    pairs = {number: build_record(number) for number in range(3)}
    lines = [
        build("4XYZ0", *logged(0, attempt(BOB), attempt(COPY, "bounced"))),
        build("4XYZ1", *logged(1, attempt(BOB), attempt(COPY, "deferred"))[:-1]),
        build("4XYZ2", *logged(2, attempt(BOB), attempt(COPY))),
    ]
    bare = [
        build_record(3, archive_recipients=[], reasons=["copies-switched-off"]),
        build_record(4, archive_recipients=[], reasons=["origin-login(alice)"]),
        build_record(5, archive_recipients=[], reasons=["purely-local"], crossing="internal"),
    ]
    lines += [build(one["queue_id"], *logged(7, attempt(BOB))) for one in bare]
    fill(archive, *pairs.values(), *bare, *lines)
    found, report = look(archive)
    assert found == [("copy-lost", "4XYZ0"), ("copy-missing", "4XYZ4"), ("copy-pending", "4XYZ1")]
    assert report.figures()["no_copy_by_rule"] == 1
    weeks = {"now": NOW + timedelta(days=7)}
    assert ("copy-overdue", "4XYZ1") in look(archive, **weeks)[0]


def test_a_relay_by_itself(archive: Archive) -> None:
    """What other relays lack is not looked at."""
    fill(archive, *ten())
    fill(archive, build("4STRAY", *logged(20), relay="mx2.example.com"))
    with pytest.raises(NotFound, match=r"mx1\.example\.com, mx2"):
        look(archive, relay="mx3.example.com")
    assert look(archive, relay="mx1.example.com")[0] == []
    assert look(archive, relay="mx2.example.com")[1].figures()["unrecorded"] == 1


def test_the_period_ends_where_it_ends(archive: Archive) -> None:
    """Mail belongs to the period in which it came, also where its lines do not."""
    split = datetime.fromtimestamp(START + 20.5, UTC)
    lines = [build("4STRAY", client(20, listener="inside")), build("4STRAY", *logged(21)[1:])]
    fill(archive, *ten(), *lines)
    assert look(archive, period=Period(DAY.since, split))[0] == [("record-missing", "4STRAY")]
    assert look(archive, period=Period(split, DAY.until))[0] == []


@pytest.mark.parametrize(
    ("since", "until"),
    [
        pytest.param(datetime.min.replace(tzinfo=UTC), NOW, id="from-the-first-day"),
        pytest.param(DAY.since, datetime.max.replace(tzinfo=UTC), id="to-the-last-day"),
    ],
)
def test_a_period_from_one_end_of_the_calendar(
    any_archive: Archive, since: datetime, until: datetime
) -> None:
    """Whoever means everything may say so."""
    fill(any_archive, *ten())
    found, report = look(any_archive, period=Period(since, until))
    assert (found, report.figures()["messages"]) == ([], 10)


def test_a_seal_that_is_gone(archive: Archive) -> None:
    """The numbers of a relay's seals have no gap."""
    for number in range(3):
        fill(archive, *mail(number))
    with archive.engine.connect() as connection:
        numbers = list(connection.scalars(text("SELECT number FROM seal ORDER BY number")))
    assert len(numbers) == 6
    with sqlite3.connect(archive.file) as writing:
        writing.execute("DROP TRIGGER IF EXISTS seal_stays")
        writing.execute("DELETE FROM seal WHERE number = 3")
    found, _ = look(archive)
    assert ("seal-missing", "") in found


def test_record_ids_bound_the_period() -> None:
    """By the millisecond."""
    assert terms.millisecond(DAY.first) == int((START - 3600) * 1000)
