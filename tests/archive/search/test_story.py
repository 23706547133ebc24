"""What became of a message, as `show` and `trace` tell it: from event lines of the follower."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from support.archive import Archive, build_recipient, build_record
from support.command_context import call
from support.event_lines import active, attempt, build, change, client
from support.keeping import Keeper

from carbonseal.milter.archive.search import trace

ALICE, BOB, CAROL, COPY = (
    "alice@example.com",
    "bob@partner.example",
    "carol@example.com",
    "archive@archive.example.net",
)
AWAY = "carol@webmail.example"
EVIL = "\x1b]0;owned\x07\u202egnp.exe\u202c\r\nx: y"


def answer(archive: Archive, *arguments: str) -> str:
    result = call(archive, *arguments, archive_recipients=frozenset({COPY}))
    assert result.exit_code == 0, result.output
    return result.stdout


def json_lines(archive: Archive, *arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in answer(archive, *arguments, "--json").splitlines()]


def message(number: int, queue_id: str, **changes: Any) -> dict[str, Any]:
    """A record for Bob and for Carol, who is ours, with a copy."""
    recipients = [build_recipient(BOB), build_recipient(CAROL, place="inside")]
    return build_record(number, queue_id=queue_id, **({"recipients": recipients} | changes))


DELIVERED_LATE = [
    build("4STORY", client(-0.2, login="alice"), active(0.1, recipients=3)),
    build("4STORY", attempt(BOB, "deferred", 0.5), attempt(COPY, seconds=0.6)),
    build("4STORY", attempt(AWAY, seconds=0.7, orig_to=CAROL)),
    build(
        "4STORY",
        {
            "kind": "notified",
            "at": active(1)["at"],
            "queue_id": "4NOTICE",
            "reply": "sender delay notification",
        },
    ),
    build(
        "4NOTICE",
        active(1.1, reverse_path="", recipients=1),
        attempt(ALICE, seconds=1.2),
        change("removed", 1.3),
    ),
    build(
        "4STORY",
        active(300, recipients=3),
        attempt(BOB, "sent", 301.0, reply=f"250 {EVIL}"),
        change("removed", 301.1),
    ),
]
FORWARDED = [
    build(
        "4FORWD",
        client(9.8),
        active(10.1),
        attempt(
            CAROL, seconds=10.2, service="local", next_hop="local", reply="forwarded as 4CHILD"
        ),
    ),
    build(
        "4CHILD",
        active(10.3),
        attempt(AWAY, "bounced", seconds=10.4, orig_to=CAROL),
        change("removed", 10.5),
    ),
    build(
        "4FORWD",
        attempt(BOB, seconds=10.6),
        attempt(COPY, "bounced", 10.7),
        change("removed", 10.8),
    ),
]


PARTLY = [
    build(
        "4PART",
        client(14.8),
        attempt(CAROL, seconds=15.2, service="local", next_hop="local", reply="forwarded as 4KID"),
    ),
    build("4KID", attempt(AWAY, seconds=15.4, orig_to=CAROL), change("removed", 15.5)),
]


@pytest.fixture(scope="module")
def told(module_archive: Archive) -> Archive:
    """A message whose story is whole, one that was forwarded, and some that nobody told of."""
    module_archive.put(
        message(0, "4STORY"),
        message(10, "4FORWD"),
        message(15, "4PART"),
        message(20, "4SILENT"),
        message(30, "4HELD"),
        message(40, "4AFTER"),
        *DELIVERED_LATE,
        *FORWARDED,
        *PARTLY,
        build("4HELD", client(29.9), change("held", 30.1, reply="postsuper")),
    )
    module_archive.load()
    return module_archive


def story_of(archive: Archive, name: str) -> list[tuple[str, str]]:
    """Field and value of what `show` says before the record itself."""
    text = answer(archive, "show", name, "--format", "csv")
    lines = [(row[0], row[1]) for row in csv.reader(io.StringIO(text))]
    return lines[1 : lines.index(("v", "2"))]


def test_show_tells_the_whole_story(told: Archive) -> None:
    """How each end stands, then all that happened in order of time, whatever the log said."""
    to = "after 0.41 s: 2.0.0 250 2.0.0 Ok: queued as 4dG6nF2kz9z2pXq"
    way = "through smtp mx.{}[198.51.100.7]:25"
    assert story_of(told, "4STORY") == [
        ("state", "delivered"),
        (f"state of {BOB}", "delivered"),
        (f"state of {CAROL}", f"delivered, led outside to {AWAY}"),
        (f"state of copy to {COPY}", "delivered"),
        (
            "2026-11-21T04:59:59Z",
            "queued by smtpd from desk.example.com[192.0.2.7], logged in as alice, 1202 octets, "
            "recipients: 3",
        ),
        (
            "2026-11-21T05:00:00Z",
            f"deferred: {BOB} {way.format('partner.example')} after 0.41 s: 4.4.1 "
            "connect to mx.partner.example[198.51.100.7]:25: Connection timed out",
        ),
        ("2026-11-21T05:00:00Z", f"delivered: {COPY} {way.format('archive.example.net')} {to}"),
        (
            "2026-11-21T05:00:00Z",
            f"delivered: {AWAY} (given as {CAROL}) {way.format('webmail.example')} {to}; "
            "an alias led it outside",
        ),
        ("2026-11-21T05:00:01Z", "sender delay notification made: 4NOTICE"),
        (
            "2026-11-21T05:00:01Z",
            "4NOTICE: queued as a notification by qmgr, 1202 octets, recipients: 1",
        ),
        (
            "2026-11-21T05:00:01Z",
            f"4NOTICE: the notification: delivered: {ALICE} {way.format('example.com')} {to}",
        ),
        ("2026-11-21T05:00:01Z", "4NOTICE: the notification: left the queue"),
        ("2026-11-21T05:05:00Z", "taken up again"),
        (
            "2026-11-21T05:05:01Z",
            f"delivered: {BOB} {way.format('partner.example')} after 0.41 s: 2.0.0 250 "
            "\\x1b]0;owned\\x07\\u202egnp.exe\\u202c\\r\\nx: y",
        ),
        ("2026-11-21T05:05:01Z", "left the queue"),
    ]


def test_programs_get_every_fact(told: Archive) -> None:
    """JSON Lines have states, exits and all that each line said, and of which queue id."""
    for command in ("show", "trace"):
        [found] = json_lines(told, command, "4FORWD")
        told_of = found["delivery"]
        assert told_of["log"] == "told"
        assert told_of["state"] == "bounced"
        assert told_of["recipients"] == [
            {"address": BOB, "state": "delivered", "left_late": []},
            {"address": CAROL, "state": "bounced", "left_late": [AWAY]},
        ]
        assert told_of["copies"] == [{"address": COPY, "state": "bounced", "left_late": []}]
        expected = [
            {"queue_id": line["queue_id"], "of": kinship, **fact}
            for line, kinship in zip(FORWARDED, ("own", "forwarded", "own"), strict=True)
            for fact in line["facts"]
        ]
        assert told_of["facts"] == expected


def test_trace_mixes_records_and_log_in_order_of_time(told: Archive) -> None:
    """One story: what the milter decided stands where it was decided."""
    text = answer(told, "trace", "4FORWD", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["at"] for row in rows] == sorted(row["at"] for row in rows)
    assert [row["told"].partition(" ")[0] for row in rows[:3]] == ["queued", "handed", "delivered:"]
    assert {row["queue_id"] for row in rows} == {"4FORWD", "4CHILD"}
    table = answer(told, "trace", "4FORWD")
    assert table.index(f"bounced, led outside to {AWAY}") < table.index("handed over by")


def test_a_log_of_whole_seconds_tells_in_the_order_in_which_it_happened(archive: Archive) -> None:
    """Postfix's usual time stamps: all of it within the second in which the message was sealed."""
    archive.put(
        message(50, "4SECOND", seconds=50.69),
        build("4SECOND", client(50), active(50, recipients=1)),
        build("4SECOND", attempt(BOB, seconds=50), change("removed", 50)),
    )
    archive.load()
    text = answer(archive, "trace", "4SECOND", "--format", "csv")
    words = [row["told"].partition(" ")[0] for row in csv.DictReader(io.StringIO(text))]
    assert words == ["handed", "queued", "delivered:", "left"]


@pytest.mark.parametrize(
    ("name", "log", "said"),
    [
        pytest.param("4SILENT", "silent", "told of later messages", id="passed-over"),
        pytest.param("4AFTER", "behind", "not known yet", id="not-read-so-far"),
    ],
)
def test_what_the_log_did_not_say_is_not_claimed(
    told: Archive, name: str, log: str, said: str
) -> None:
    """A record of which nothing is known says why, in each form."""
    [(field, value)] = story_of(told, name)
    assert field == "state"
    assert said in value
    assert said in answer(told, "trace", name)
    [found] = json_lines(told, "trace", name)
    assert found["delivery"]["log"] == log
    assert found["delivery"]["facts"] == []


def test_without_a_follower_nothing_is_said_of_deliveries(archive: Archive) -> None:
    """Neither a state in results, nor a story."""
    archive.fill(message(0, "4XYZ"))
    [(_, why)] = story_of(archive, "4XYZ")
    assert "carbonseal follow" in why
    [found] = json_lines(archive, "search")
    assert (found["state"], found["copy_state"]) == (None, None)
    [step] = trace.trace(archive.engine, "4XYZ")
    assert step.telling.log == "unfollowed"


def test_results_say_how_messages_stand(told: Archive) -> None:
    """The worst of the recipients, and the worst of the copies."""
    found = {one["queue_id"]: one for one in json_lines(told, "search")}
    assert {name: (one["state"], one["copy_state"]) for name, one in found.items()} == {
        "4STORY": ("delivered", "delivered"),
        "4FORWD": ("bounced", "bounced"),
        "4PART": ("queued", "queued"),
        "4SILENT": ("offered", "offered"),
        "4HELD": ("held", "held"),
        "4AFTER": ("offered", "offered"),
    }
    [row] = csv.DictReader(io.StringIO(answer(told, "search", "queue:4FORWD", "--format", "csv")))
    assert (row["state"], row["copy_state"]) == ("bounced", "bounced")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param(["state:bounced"], {"4FORWD"}, id="bounced"),
        pytest.param(["--state", "held"], {"4HELD"}, id="option"),
        pytest.param(["state:deferred"], set(), id="deferred-then-delivered"),
        pytest.param(["--copy", "lost"], {"4FORWD"}, id="copy-lost"),
        pytest.param(["copy:deferred"], {"4HELD"}, id="copy-held"),
        pytest.param(["left:late"], {"4STORY", "4FORWD", "4PART"}, id="exits"),
        pytest.param(
            ["--left-late", "state:delivered"], {"4STORY", "4FORWD", "4PART"}, id="exits-option"
        ),
        pytest.param(["state:queued on:2026-11-21"], {"4PART"}, id="forwarded-for-one-of-two"),
        pytest.param(["state:offered on:2026-11-21"], {"4SILENT", "4AFTER"}, id="offered"),
        pytest.param(
            ["copy:missing", "--since", "2026-11-21"], {"4PART", "4SILENT", "4AFTER"}, id="missing"
        ),
    ],
)
def test_messages_are_found_by_how_they_stand(
    told: Archive, arguments: list[str], expected: set[str]
) -> None:
    """By query or option; as they are now, whatever they were before."""
    assert {one["queue_id"] for one in json_lines(told, "search", *arguments)} == expected


def test_a_dry_run_says_what_would_have_been_done(archive: Archive) -> None:
    """Nothing was signed or copied, which is not the same as: it would not have been."""
    whole = build_record(0)
    wanted = {name: whole[name] for name in ("signatures", "archive_recipients", "disposition")}
    archive.fill(whole | {"signatures": [], "archive_recipients": [], "dry_run": wanted})
    [step] = trace.trace(archive.engine, "4XYZ0")
    assert step.told.endswith(
        "dry run: would have been signed by example.com/s2026; "
        f"would have been copied to {COPY}; accepted"
    )
    assert "dry run   dry run" in answer(archive, "search")
    [found] = json_lines(archive, "search")
    assert found["dry_run"] == wanted


def test_an_erased_person_stays_erased(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The story goes on being told, without a name."""
    monkeypatch.chdir(tmp_path)  # where the certificate goes
    keeper = Keeper(archive)
    lines = [
        build("4STORY", attempt("Bob@partner.example", "bounced")),
        build("4STORY", attempt("fax@gateway.example", seconds=2.0, orig_to=BOB)),
    ]
    archive.put(message(0, "4STORY"), *lines)
    archive.load()
    keeper.run(f"erase {BOB} --apply --reason case-7")
    for command in ("show", "trace"):
        for form in ("table", "csv", "jsonl"):
            text = answer(archive, command, "4STORY", "--format", form)
            assert "bob" not in text.lower()
    [step] = trace.trace(archive.engine, "4STORY")
    assert [one.state.value for one in step.telling.story.passages] == [
        "bounced",
        "queued",
        "queued",
    ]
