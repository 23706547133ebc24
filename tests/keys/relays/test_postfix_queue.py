"""What waits in a real Postfix's queue is counted, held mail and all; or it is said why not."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support import ports, postfix
from support.waiting import wait_until

from carbonseal.keys.relays import postfix_queue
from carbonseal.keys.relays.postfix_queue import QueueUnreadable

BODY = b"From: a@example.com\r\nSubject: x\r\n\r\ntext\r\n"
LOOPBACK = ports.LOOPBACK
HOSTILE = '"recipients": [{"address": "x\\'

real_postfix = [
    pytest.mark.postfix,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="a private Postfix needs root"),
]


@pytest.fixture(scope="module")
def mta() -> Iterator[postfix.PrivatePostfix]:
    """A Postfix whose mail nobody takes; slow.test connects and says nothing."""
    with postfix.private_directory() as directory, socket.create_server((LOOPBACK, 0)) as silent:
        one = postfix.PrivatePostfix(
            directory,
            remote=ports.free_port(),
            maps={"transport_maps": {"slow.test": f"smtp:[{LOOPBACK}]:{silent.getsockname()[1]}"}},
            parameters={
                "maximal_queue_lifetime": "36h",
                "bounce_queue_lifetime": "2",
                "smtpd_client_restrictions": "check_sender_access inline:{held@example.com=HOLD}",
                "smtpd_delay_reject": "yes",
            },
        )
        with one:
            yield one


def clear(mta: postfix.PrivatePostfix) -> None:
    mta._command("postsuper", "-d", "ALL")


def send(mta: postfix.PrivatePostfix, sender: str, *recipients: str) -> None:
    with mta.client("inside") as client:
        assert client.send(sender, list(recipients), BODY).end.is_positive


def hold(mta: postfix.PrivatePostfix, count: int) -> None:
    """Let so many messages stay where they are, once cleanup(8) has them."""

    def are_in() -> bool:
        return [one["queue_name"] == "deferred" for one in mta.queue()] == [True] * count

    wait_until(are_in, f"{count} in the queue")
    mta._command("postsuper", "-h", "ALL")


class TestRealPostfix:
    """One instance for all; each test begins with an empty queue."""

    pytestmark = real_postfix

    def test_an_empty_queue(self, mta: postfix.PrivatePostfix) -> None:
        """Nothing is the oldest; the lifetimes are those of this instance."""
        clear(mta)
        queue = postfix_queue.read(mta.configuration)
        assert (queue.count, queue.oldest) == (0, None)
        assert queue.queue_lifetime == 36 * 3600
        assert queue.bounce_lifetime == 2 * 86400

    def test_active_mail_counts(self, mta: postfix.PrivatePostfix) -> None:
        """It is being delivered just now, and may come back."""
        clear(mta)
        send(mta, "a@example.com", "b@slow.test")
        wait_until(lambda: [one["queue_name"] for one in mta.queue()] == ["active"], "activity")
        assert postfix_queue.read(mta.configuration).count == 1

    def test_deferred_and_held_mail_count(self, mta: postfix.PrivatePostfix) -> None:
        """Held mail waits without limit: that is why the queue is looked at."""
        clear(mta)
        before = datetime.now(UTC).replace(microsecond=0)
        send(mta, "held@example.com", "b@remote.test", "c@remote.test")
        send(mta, "a@example.com", "b@remote.test")
        send(mta, "", "b@remote.test")
        mta.wait_for_log(r"status=deferred")
        after = datetime.now(UTC)
        queue = postfix_queue.read(mta.configuration)
        assert queue.count == 3
        assert queue.oldest is not None
        assert before <= queue.oldest <= after
        found = {one.sender: one for one in postfix_queue.messages(mta.configuration)}
        assert set(found) == {"held@example.com", "a@example.com", "MAILER-DAEMON"}
        assert found["held@example.com"].queue == "hold"
        assert found["held@example.com"].recipients == 2
        assert all(before <= one.arrival <= after for one in found.values())

    def test_hostile_addresses_are_addresses(self, mta: postfix.PrivatePostfix) -> None:
        """Quotes, brackets and controls that look like the listing's own words."""
        clear(mta)
        for recipients in ([f"{HOSTILE}{n}@remote.test" for n in range(3)], ["plain@remote.test"]):
            mta.sendmail("a@example.com", recipients, b"Subject: x\n\ntext\n")
        hold(mta, 2)
        for shown, counted in zip(
            mta.queue(), postfix_queue.messages(mta.configuration), strict=True
        ):
            assert counted.queue_id == shown["queue_id"]
            assert counted.recipients == len(shown["recipients"])
            assert counted.sender.isprintable()

    def test_requeued_mail_keeps_its_time(self, mta: postfix.PrivatePostfix) -> None:
        """`postsuper -r` gives a message a new queue file; its signature stays as old as it was."""
        clear(mta)
        send(mta, "a@example.com", "b@remote.test")
        first = postfix_queue.read(mta.configuration)
        assert first.oldest is not None
        mark = len(mta.log())
        wait_until(lambda: datetime.now(UTC) - first.oldest > timedelta(seconds=2), "age")
        mta.requeue()
        mta.sendmail("z@example.com", ["y@remote.test"], BODY)  # wakes pickup(8) up
        wait_until(lambda: mta.log()[mark:].count("status=deferred") == 2, "two")
        again = {one.sender: one for one in postfix_queue.messages(mta.configuration)}
        assert again["a@example.com"].arrival == first.oldest

    def test_many_recipients_are_counted_in_pieces(self, mta: postfix.PrivatePostfix) -> None:
        """A line longer than what is looked at together."""
        clear(mta)
        recipients = [f"{'r' * 50}{number}@{'d' * 60}.test" for number in range(800)]
        send(mta, "held@example.com", *recipients)
        before = postfix_queue._LONGEST
        try:
            postfix_queue._LONGEST = 1000
            (message,) = postfix_queue.messages(mta.configuration)
        finally:
            postfix_queue._LONGEST = before
        assert message.recipients == 800


@pytest.mark.postfix
@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="a private Postfix needs root")
def test_the_queue_of_a_stopped_postfix_is_read_as_well() -> None:
    """Mail waits in it all the same; for root, postqueue looks into the directories itself."""
    with postfix.private_directory() as directory:
        mta = postfix.PrivatePostfix(directory, remote=ports.free_port())
        with mta:
            send(mta, "a@example.com", "b@remote.test")
        assert postfix_queue.read(mta.configuration).count == 1


# --- what is no queue -----------------------------------------------------------------------------


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory whose programs are found before Postfix's."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")
    script(
        directory, "postconf", "echo maximal_queue_lifetime = 5d; echo bounce_queue_lifetime = 1w"
    )
    return directory


def script(directory: Path, name: str, text: str) -> None:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


LINE = (
    '{"queue_name": "hold", "queue_id": "A1", "arrival_time": %s, "sender": "a", "recipients": []}'
)
NO_LISTINGS = [
    pytest.param("echo hello", "no queue listing", id="no-json"),
    pytest.param("printf '{\"queue_id\": '", "no queue listing", id="cut-short"),
    pytest.param(f"printf '%s' '{LINE % 1}'", "does not end", id="last-line-cut"),
    pytest.param(f"echo '{LINE % '-5'}'", "no queue listing", id="negative-time"),
    pytest.param(f"echo '{LINE % 'true'}'", "no queue listing", id="truth-for-time"),
    pytest.param(f"echo '{LINE % 10**12}'", "no queue listing", id="after-all-time"),
    pytest.param(f"echo '{LINE % 10**9}'; exit 1", "status 1", id="fails-after-a-message"),
    pytest.param(
        f"echo '{LINE % 10**9}'; echo 'postqueue: fatal: no \033[2J room' >&2; exit 75",
        "fatal: no",
        id="says-why",
    ),
    pytest.param("kill -9 $$", "status -9", id="killed"),
    pytest.param("exec sleep 60", "no complete answer", id="hangs"),
    pytest.param("sleep 60 & wait", "no complete answer", id="hangs-with-a-child"),
    pytest.param("exec 2>&- >&-; exec sleep 60", "no complete answer", id="silent"),
]


@pytest.mark.parametrize(("text", "says"), NO_LISTINGS)
def test_what_is_no_listing_is_one_sentence(text: str, says: str, programs: Path) -> None:
    """Never a smaller number: the caller must know that it knows nothing."""
    script(programs, "postqueue", text)
    with pytest.raises(QueueUnreadable, match=says) as caught:
        postfix_queue.read(None, timeout=1.0)
    assert "\n" not in caught.value.sentence


def test_no_postfix_is_one_sentence_with_the_setting(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The relay's host has none, or it stands elsewhere."""
    monkeypatch.setattr(postfix_queue, "_environment", lambda: {"PATH": str(programs)})
    with pytest.raises(QueueUnreadable, match=r"postqueue: it is not installed.*rotation\.postfix"):
        postfix_queue.read(None)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_a_configuration_that_is_not_there(tmp_path: Path) -> None:
    """Postfix's own sentence is passed on."""
    with pytest.raises(QueueUnreadable, match=r"nowhere/main\.cf: No such file"):
        postfix_queue.read(tmp_path / "nowhere")


LIFETIMES = [
    pytest.param("5d", 432000, id="days"),
    pytest.param("5", 432000, id="days-by-default"),
    pytest.param("90m", 5400, id="minutes"),
    pytest.param("2w", 1209600, id="weeks"),
    pytest.param("0", 0, id="at-once"),
    pytest.param("30 s", 30, id="with-a-space"),
    pytest.param("", None, id="empty"),
    pytest.param("5y", None, id="years"),
    pytest.param("${x}d", None, id="unexpanded"),
]


@pytest.mark.parametrize(("value", "seconds"), LIFETIMES)
def test_lifetimes_have_units(value: str, seconds: int | None, programs: Path) -> None:
    """As postconf(5) says; what is no time is no guess."""
    text = f"echo 'bounce_queue_lifetime = 1d'; echo 'maximal_queue_lifetime = {value}'"
    script(programs, "postconf", text)
    script(programs, "postqueue", "true")
    if seconds is None:
        with pytest.raises(QueueUnreadable, match="maximal_queue_lifetime"):
            postfix_queue.read(None)
    else:
        queue = postfix_queue.read(None)
        assert (queue.queue_lifetime, queue.bounce_lifetime) == (seconds, 86400)


def test_a_queue_of_a_hundred_thousand_messages(programs: Path) -> None:
    """Counted as it streams by."""
    one = (LINE % 10**9).replace("A1", "A%d").replace("[]", '[{"address": "b"}, {"address": "c"}]')
    script(programs, "postqueue", f"exec seq -f '{one.replace('%d', '%.0f')}' 100000")
    queue = postfix_queue.read(None, timeout=60)
    assert queue.count == 100_000
    assert queue.oldest == datetime.fromtimestamp(10**9, UTC)
    first = next(postfix_queue.messages(None))  # and whoever has read enough may go away
    assert (first.queue_id, first.recipients) == ("A1", 2)
