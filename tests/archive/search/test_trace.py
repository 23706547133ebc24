"""One message over relays, queue ids and time."""

from __future__ import annotations

import pytest
from support.archive import Archive, build_record, headers

from carbonseal.milter.archive.search import trace
from carbonseal.policies.errors import NotFound

SAME = {"Message_ID": "<one@example.com>", "From": "alice@example.com", "Subject": "way"}


@pytest.fixture
def travelled(any_archive: Archive) -> Archive:
    """One message on two relays, sent again a day later; and another message."""
    hop = "from mx1.example.com by mx2.example.com (Postfix) with ESMTPS id 4FIRST for <x@y>"
    any_archive.fill(
        build_record(0, queue_id="4FIRST", relay="mx1.example.com", header_fields=headers(**SAME)),
        build_record(
            3,
            queue_id="4SECOND",
            relay="mx2.example.com",
            login=None,
            signatures=[],
            archive_recipients=[],
            header_fields=[["Received", f" {hop}"], *headers(**SAME)],
        ),
        build_record(
            4,
            seconds=90_000,
            queue_id="4THIRD",
            disposition="tempfail",
            header_fields=headers(Resent_From="Carol <carol@example.com>", **SAME),
        ),
        build_record(5, queue_id="4FIRST", header_fields=headers(Message_ID="<two@example.com>")),
        build_record(6, queue_id="4ALONE", header_fields=headers(Subject="without")),
    )
    return any_archive


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("<one@example.com>", id="message-id"),
        pytest.param("one@example.com", id="message-id-bare"),
        pytest.param("4SECOND", id="queue-id"),
    ],
)
def test_a_message_is_followed_in_order_of_time(travelled: Archive, name: str) -> None:
    """From any of its names, with the relay that handed it on, and who sent it again."""
    steps = trace.trace(travelled.engine, name)
    assert [one.found.queue_id for one in steps] == ["4FIRST", "4SECOND", "4THIRD"]
    first, second, third = steps
    assert (first.came_from, second.came_from, third.came_from) == (
        None,
        first.found.record_id,
        None,
    )
    assert third.resent_by == "Carol <carol@example.com>"
    assert first.told == (
        "handed over by 192.0.2.7, logged in as alice; "
        "from <alice@example.com> to bob@partner.example: outbound; "
        "signed by example.com/s2026; copied to archive@archive.example.net; accepted"
    )
    assert second.told.startswith("3 s later; came from mx1.example.com, where it was 4FIRST;")
    assert second.told.endswith("not signed; not copied; accepted")
    assert third.told.startswith("24 h later; sent again by Carol <carol@example.com>;")
    assert third.told.endswith("the client was told to try later")


def test_a_queue_id_that_came_back_brings_both_messages(travelled: Archive) -> None:
    """Postfix uses short queue ids again; nobody can tell which one was meant."""
    found = [one.found.message_id for one in trace.trace(travelled.engine, "4FIRST")]
    assert set(found) == {"one@example.com", "two@example.com"}


def test_a_message_without_message_id_is_its_own_story(travelled: Archive) -> None:
    """By record id as well."""
    [step] = trace.trace(travelled.engine, "4ALONE")
    assert trace.trace(travelled.engine, step.found.record_id.lower()) == [step]


@pytest.mark.parametrize("name", ["", "*", "<>", "4NEVER", "7" + "Z" * 25, "' OR 1=1 --", "\udcff"])
def test_what_is_not_there_cannot_be_followed(travelled: Archive, name: str) -> None:
    """One sentence."""
    with pytest.raises(NotFound, match="no record has"):
        trace.trace(travelled.engine, name)
