"""What became of messages: event lines beside the records they are about."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import pytest
from sqlalchemy import Connection, Delete, Insert
from support import event_lines
from support.archive import Archive, build_recipient, build_record
from support.event_lines import active, attempt, build, change, client
from support.evidence import verified

from carbonseal.milter.archive import deliveries, schema
from carbonseal.policies.delivery import State, Story

BOB, CAROL, COPY = "bob@partner.example", "carol@other.example", "archive@archive.example.net"


def message(number: int = 0, queue_id: str = "4XYZ0", **changes: Any) -> dict[str, Any]:
    """A record for Bob and Carol, with a copy."""
    recipients = [build_recipient(BOB), build_recipient(CAROL)]
    return build_record(number, queue_id=queue_id, **({"recipients": recipients} | changes))


def story(archive: Archive, record_id: str) -> Story:
    with archive.engine.connect() as connection:
        return deliveries.told([record_id], connection)[record_id]


def states(archive: Archive, record_id: str) -> list[str]:
    return [one.state.value for one in story(archive, record_id).passages]


def put(archive: Archive, *contents: dict[str, Any]) -> None:
    """Each in a segment of its own, loaded before the next comes."""
    for content in contents:
        archive.put(content)
        archive.load()


def test_a_message_without_a_word_of_the_log_is_offered(any_archive: Archive) -> None:
    """The story is told of every record, and claims nothing that nobody saw."""
    sealed = message()
    any_archive.fill(sealed)
    assert states(any_archive, sealed["record_id"]) == ["offered"] * 3
    with any_archive.engine.connect() as connection:
        assert deliveries.facts([sealed["record_id"]], connection) == {}
        assert not deliveries.are_there(connection)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_any_order_of_record_and_lines_tells_the_same(
    archive: Archive, order: tuple[int, ...]
) -> None:
    """Lines that come first wait for their record, and are with it when it has come."""
    sealed = message()
    lines = event_lines.delivered("4XYZ0", BOB, CAROL, COPY)
    arriving = [sealed, *lines]
    put(archive, *(arriving[number] for number in order))
    assert states(archive, sealed["record_id"]) == ["delivered"] * 3
    assert len(story(archive, sealed["record_id"]).facts) == 7
    assert archive.rows("delivery_waiting") == 0
    assert archive.rows("delivery") == 2


def test_every_engine_tells_the_story(any_archive: Archive) -> None:
    """Record and lines, first and last, in one load and in several."""
    first, second = message(0, "4XYZ0"), message(60, "4XYZ1")
    any_archive.put(
        *event_lines.delivered("4XYZ0", BOB, CAROL, COPY),
        build("4XYZ1", active(60.5), attempt(BOB, "deferred", 61.0)),
    )
    any_archive.load()
    assert any_archive.rows("delivery_waiting") == 3
    any_archive.put(first, second)
    any_archive.load()
    any_archive.put(build("4XYZ1", attempt(CAROL, "bounced", 62.0), attempt(COPY, seconds=63.0)))
    any_archive.load()
    assert states(any_archive, first["record_id"]) == ["delivered"] * 3
    assert states(any_archive, second["record_id"]) == ["deferred", "bounced", "delivered"]
    with any_archive.engine.connect() as connection:
        assert deliveries.with_states(["deferred"], connection) == [second["record_id"]]
        assert deliveries.with_states(["bounced", "held"], connection) == [second["record_id"]]
        assert deliveries.with_states(["expired"], connection) == []
        assert list(deliveries.waiting(connection)) == []


def test_a_log_that_is_read_twice_tells_nothing_new(any_archive: Archive) -> None:
    """The same facts from another reading, and the very same lines from a copied segment."""
    sealed = message()
    lines = event_lines.delivered("4XYZ0", BOB, CAROL, COPY)
    again = event_lines.delivered("4XYZ0", BOB, CAROL, COPY)
    any_archive.put(sealed, *lines)
    any_archive.load()
    before = story(any_archive, sealed["record_id"])
    any_archive.put(*again)
    any_archive.put(*lines)
    any_archive.load()
    assert story(any_archive, sealed["record_id"]) == before
    assert any_archive.rows("repeated") == 2


def test_lines_of_another_relay_are_not_about_the_message(archive: Archive) -> None:
    """Queue ids are those of one relay."""
    sealed = message()
    put(archive, sealed, build("4XYZ0", active(), attempt(BOB), relay="mx2.example.com"))
    assert states(archive, sealed["record_id"]) == ["offered"] * 3
    assert archive.rows("delivery_waiting") == 1


@pytest.mark.parametrize("is_record_first", [True, False], ids=["record-first", "lines-first"])
def test_a_short_queue_id_is_used_again(archive: Archive, *, is_record_first: bool) -> None:
    """Each message gets its own lines, whichever order they come in."""
    early, late = message(0, "9F3A21B7C4"), message(7200, "9F3A21B7C4")
    first = event_lines.delivered("9F3A21B7C4", BOB, CAROL, COPY)
    second = [
        build("9F3A21B7C4", client(7199.0)),
        build("9F3A21B7C4", active(7200.1), attempt(BOB, "bounced", 7201.0)),
    ]
    contents = [early, *first, late, *second] if is_record_first else [early, *first, *second, late]
    put(archive, *contents)
    assert states(archive, early["record_id"]) == ["delivered"] * 3
    assert states(archive, late["record_id"]) == ["bounced", "queued", "queued"]
    assert len(story(archive, early["record_id"]).facts) == 7
    assert len(story(archive, late["record_id"]).facts) == 3
    assert archive.rows("delivery_waiting") == 0


def test_what_is_forwarded_requeued_or_notified_belongs_to_the_first_record(
    any_archive: Archive,
) -> None:
    """Lines under other queue ids, whichever come first, and theirs in turn."""
    sealed = message()
    fax = "fax@gateway.example"
    any_archive.put(
        build("4CHILD", client(0.9, service="cleanup")),
        build("4CHILD", attempt(fax, "deferred", 3.0, orig_to=BOB), change("removed", 3.1)),
        build("4NOTE", attempt("alice@example.com", seconds=4.0), change("removed", 4.1)),
        build("4AGAIN", client(8.0, service="pickup", orig_queue_id="4XYZ0")),
        build("4AGAIN", attempt(CAROL, seconds=9.0)),
        sealed,
        build("4XYZ0", active(0.1), attempt(CAROL, "deferred", 0.5)),
        build(
            "4XYZ0",
            attempt(BOB, seconds=1.0, service="local", reply="forwarded as 4CHILD"),
            change("notified", 3.5, queue_id="4NOTE"),
            change("requeued", 8.0, queue_id="4AGAIN"),
        ),
    )
    any_archive.load()
    assert any_archive.rows("delivery_waiting") == 0
    assert states(any_archive, sealed["record_id"]) == ["deferred", "delivered", "queued"]
    with any_archive.engine.connect() as connection:
        lines = deliveries.lines([sealed["record_id"]], connection)[sealed["record_id"]]
        found = deliveries.with_states(["redirected"], connection)
    assert found == [sealed["record_id"]]
    assert {line.queue_id: line.kinship for line in lines} == {
        "4XYZ0": schema.OWN,
        "4CHILD": schema.FORWARDED,
        "4NOTE": schema.NOTIFICATION,
        "4AGAIN": schema.REQUEUED,
    }


def test_a_poisoned_line_is_set_aside_with_a_sentence(any_archive: Archive) -> None:
    """Its neighbours are loaded."""
    sealed = message()
    any_archive.put(
        sealed,
        build("4XYZ0", active(), attempt(BOB)),
        build("4XYZ0", {**attempt(BOB), "kind": "telepathy"}, event_id="?"),
        build("4XYZ0\0", active()),
        build("4XYZ0", attempt(CAROL), facts="none"),
        build("4XYZ0", attempt(CAROL, seconds=2.0)),
    )
    any_archive.load()
    assert states(any_archive, sealed["record_id"]) == ["delivered", "delivered", "queued"]
    problems = [facts["problem"] for name, facts in any_archive.events if "aside" in name]
    assert len(problems) == 3
    assert all("event line" in one for one in problems)


def test_what_the_log_says_of_unknown_messages_waits(any_archive: Archive) -> None:
    """And is listed in order of time, for a span."""
    any_archive.put(*(build(f"4NONE{one}", active(one)) for one in (3, 1, 2)))
    any_archive.load()
    with any_archive.engine.connect() as connection:
        found = [one.queue_id for one in deliveries.waiting(connection)]
    assert found == ["4NONE1", "4NONE2", "4NONE3"]


def test_text_of_strangers_comes_back_as_it_was(any_archive: Archive) -> None:
    """NUL, octets that are no UTF-8, odd spellings, keys and values of later versions."""
    odd = attempt(
        "Bob@Partner.example",
        reply="\x00\udcff\u2603\x7f'\"\\",
        orig_to="",
        delays=[1, 2.5, 0, 1e-9],
        later={"a": [None]},
    )
    sealed = message()
    any_archive.put(sealed, build("4XYZ0", odd, {**active(), "login": None}, note=["x"]))
    any_archive.load()
    with any_archive.engine.connect() as connection:
        [line] = deliveries.lines([sealed["record_id"]], connection)[sealed["record_id"]]
    assert list(line.said) == [odd, {**active(), "login": None}]


class Killed(BaseException):
    """The writer dies here."""


@pytest.mark.parametrize("last", range(1, 14))
def test_a_writer_killed_anywhere_loses_and_doubles_nothing(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, last: int
) -> None:
    """Lines and records that move in one transaction, whichever statement is the last."""
    sealed = message()
    put(archive, event_lines.delivered("4XYZ0", BOB, CAROL, COPY)[0])
    archive.put(sealed, *event_lines.delivered("4XYZ0", BOB, CAROL, COPY)[1:])
    archive.put(build("4XYZ0", attempt("b@y.example", "bounced", 5.0, orig_to=BOB)))
    statements = itertools.count(1)
    execute = Connection.execute

    def counted(connection: Connection, statement: Any, *more: Any, **named: Any) -> Any:
        if isinstance(statement, (Insert, Delete)) and next(statements) == last:
            raise Killed
        return execute(connection, statement, *more, **named)

    with monkeypatch.context() as patched, contextlib.suppress(Killed):
        patched.setattr(Connection, "execute", counted)
        archive.load()
    archive.load()
    assert states(archive, sealed["record_id"]) == ["bounced", "delivered", "delivered"]
    assert archive.rows("delivery") == 3
    assert archive.rows("delivery_waiting") + archive.rows("waiting_address") == 0
    assert verified(archive) == []


def test_states_are_values_of_the_schema() -> None:
    """What the index calls a state is one."""
    assert set(schema.DELIVERY_STATES) - {schema.REDIRECTED} <= {one.value for one in State}
