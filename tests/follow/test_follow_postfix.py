"""A real Postfix's log: what the follower says of each message is what became of it."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import ports
from support.postfix import INSIDE, Listener, PrivatePostfix, private_directory
from support.sink import Sink
from support.waiting import wait_until

from carbonseal.milter.archive import segments, spool
from carbonseal.milter.follow import follower, gathering
from carbonseal.milter.follow.log_file import LogFile
from carbonseal.milter.follow.log_line import Framing, Services
from carbonseal.policies import delivery
from carbonseal.policies.delivery import State

pytestmark = [pytest.mark.root, pytest.mark.postfix]

_OK = b"From: a@example.com\r\nTo: b@example.com\r\nMessage-ID: <m, to=<x>, status=sent (y)@x>\r\n"
_HOSTILE = (
    '"x>, relay=evil[192.0.2.66]:25, delay=1, delays=0/0/0/1, dsn=2.0.0, status=sent (ok) y"'
    "@bounce.example"
)
_REPLY = "550 5.1.1 >, relay=no, status=sent (250 ok), to=<z>, dsn=2.0.0"
_REJECTING = """
import sys, Milter
class Refuses(Milter.Base):
    def eom(self):
        self.setreply("550", "5.7.1", "refused, status=sent (ok)")
        return Milter.REJECT
Milter.factory = Refuses
Milter.runmilter("refuses", sys.argv[1], 30)
"""
_CHECKS = "/^X-Hold:/ HOLD please\n/^X-Reject:/ REJECT no\n/^X-Discard:/ DISCARD gone\n"

Facts = dict[str, list[dict[str, Any]]]


class Story:
    """Messages that were sent, and what was meant to become of them."""

    def __init__(self, mta: PrivatePostfix) -> None:
        self.mta = mta
        self.expected: dict[str, dict[str, State]] = {}
        self.ids: dict[str, str] = {}

    def send(
        self,
        name: str,
        recipients: dict[str, State],
        *,
        header: bytes = b"",
        listener: str = "inside",
        reverse_path: str = "a@example.com",
        **identity: Any,
    ) -> None:
        """One message under a name; its queue id is found by the name."""
        content = _OK + header + b"Subject: " + name.encode() + b"\r\n\r\nhi\r\n"
        with self.mta.client(listener, **identity) as client:
            said = client.send(reverse_path, list(recipients), content)
        self.expected[name] = recipients
        if "queued as " in said.end.lines[0]:
            self.ids[name] = said.end.lines[0].rpartition(" ")[2]


@pytest.fixture(scope="module")
def milter() -> Iterator[str]:
    """A milter that refuses every message at its end."""
    port = ports.free_port()
    process = subprocess.Popen([sys.executable, "-c", _REJECTING, f"inet:{port}@127.0.0.1"])

    def answers() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            return False
        return True

    wait_until(answers, "the milter")
    yield f"inet:127.0.0.1:{port}"
    process.kill()
    process.wait()


def _followed(log: Path, directory: Path) -> Facts:
    """Every fact of the log by queue id, through follower and spool."""
    directory.mkdir()
    made = follower.Follower(
        make_source=lambda where: LogFile(
            log,
            Framing(Services("postfix")),
            position=None if where is None else where.of_file(log),
            once=True,
        ),
        spool_directory=directory,
        spool=spool.Spool(directory, suffix="-follow"),
        gathering=gathering.Gathering("mx1.example.com"),
        once=True,
    )
    made.run(threading.Event())
    assert made.counts.unread == 0, made.counts.unread_example
    found: Facts = defaultdict(list)
    for segment in segments.pending(directory):
        for entry in segments.read(segment, 0):
            if not entry.is_footer:
                found[entry.content["queue_id"]] += entry.content["facts"]
    return found


def _states(facts: list[dict[str, Any]], recipients: dict[str, State]) -> dict[str, State]:
    story = delivery.told(map(delivery.fact, facts), list(recipients))
    return {one.address: one.state for one in story.passages}


@pytest.mark.parametrize("ids", ["yes", "no"], ids=["long-queue-ids", "short-queue-ids"])
def test_the_log_of_a_real_postfix(ids: str, milter: str, tmp_path: Path) -> None:
    """Sent, deferred, bounced, expired, held, deleted, requeued, refused, aliased, hostile."""
    with private_directory() as directory, Sink() as sink:
        sink.reply("@bounce.example", _REPLY)
        sink.reply("@defer.example", "451 4.3.0 later, status=sent (ok)")
        (directory / "etc").mkdir()
        (directory / "etc/checks").write_text(_CHECKS)
        mta = PrivatePostfix(
            directory,
            remote=sink.port,
            listeners=(
                INSIDE,
                Listener("submission"),
                Listener("refusing", {"smtpd_milters": milter}),
            ),
            maps={
                "virtual_alias_maps": {"team@example.com": "one@out.example,two@out.example"},
                "alias_maps": {"fwd": "three@out.example"},
                "transport_maps": {
                    "discard.example": "discard:silently",
                    "pipe.example": "true:",
                    "error.example": "error:5.1.2 no such place",
                },
            },
            parameters={
                "header_checks": f"regexp:{directory}/etc/checks",
                "enable_long_queue_ids": ids,
                "smtpd_recipient_restrictions": "permit",
                "smtpd_reject_unlisted_recipient": "no",
            },
            services=["true unix - n n - - pipe", "    flags=R user=nobody argv=/bin/true"],
        )
        with mta:
            story = Story(mta)
            _send_all(story)
            _handle_queue(story)
        facts = _followed(directory / "log", tmp_path / "spool")
        delivered = {address for one in sink.deliveries for address in one.addresses}
    _compare(story, facts, delivered)


def _send_all(story: Story) -> None:
    send = story.send
    send("sent", {"a@out.example": State.DELIVERED, "x@bounce.example": State.BOUNCED})
    send("alias", {"team@example.com": State.DELIVERED, "fwd@example.com": State.DELIVERED})
    send("login", {"b@out.example": State.DELIVERED}, listener="submission", login="al ice")
    send("hostile", {_HOSTILE: State.BOUNCED, '"to=<q>, "@out.example': State.DELIVERED})
    send("thrown", {"d@discard.example": State.DELETED, "p@pipe.example": State.DELIVERED})
    send("null", {"c@out.example": State.DELIVERED}, reverse_path="")
    send("held", {"h@out.example": State.HELD}, header=b"X-Hold: 1\r\n")
    send("released", {"r@out.example": State.DELIVERED}, header=b"X-Hold: 1\r\n")
    send("refused", {"n@out.example": State.REFUSED}, header=b"X-Reject: 1\r\n")
    send("dropped", {"o@out.example": State.DELETED}, header=b"X-Discard: 1\r\n")
    send("milter", {"m@out.example": State.REFUSED}, listener="refusing")
    for name, state in [
        ("deferred", State.DEFERRED),
        ("deleted", State.DELETED),
        ("expired", State.EXPIRED),
        ("requeued", State.DEFERRED),
    ]:
        send(name, {f"{name}@defer.example": state})


def _handle_queue(story: Story) -> None:
    mta, ids = story.mta, story.ids
    waiting = {ids[name] for name in ("deferred", "deleted", "expired", "requeued")}
    wait_until(
        lambda: waiting <= {q["queue_id"] for q in mta.queue() if q["queue_name"] == "deferred"},
        f"{len(waiting)} deferred messages",
        60,
    )
    mta.release(ids["released"])
    mta._command("postsuper", "-d", ids["deleted"])
    mta._command("postsuper", "-e", ids["expired"])
    mta._command("postsuper", "-r", ids["requeued"])
    mta.flush()
    # Its posting wakes pickup, which takes up the requeued one as well.
    mta.sendmail("s@example.com", ["s@out.example"], b"Subject: s\n\nhi\n")
    mta.wait_for_log(rf"{ids['released']}: removed")
    mta.wait_for_log(rf"{ids['expired']}: removed")
    mta.wait_for_log(rf"orig_id={ids['requeued']}")
    # Everything but what waits on purpose has gone.
    wait_until(lambda: len(mta.queue()) == 3, "all but three to go", 60)


def _compare(story: Story, facts: Facts, delivered: set[str]) -> None:
    for name in ("refused", "milter"):
        story.ids[name] = _refused_id(facts, "milter-reject" if name == "milter" else "reject: h")
    for name, recipients in story.expected.items():
        said = facts[story.ids[name]]
        assert _states(said, recipients) == recipients, (name, said)
        for address, state in recipients.items():
            if address.endswith(("@out.example", "@bounce.example")):
                assert (address in delivered) == (state is State.DELIVERED), (name, address)
    login = [one for one in facts[story.ids["login"]] if one.get("login")]
    assert [one["login"] for one in login] == ["al ice"]
    _compare_ids(story, facts)


def _compare_ids(story: Story, facts: Facts) -> None:
    """What leads from one queue id to another: an alias of local(8), a bounce, a new number."""
    aliased = {one.get("orig_to"): one["to"] for one in facts[story.ids["alias"]] if "to" in one}
    assert aliased["team@example.com"] in ("one@out.example", "two@out.example")
    forwarded = [one["reply"] for one in facts[story.ids["alias"]] if one.get("service") == "local"]
    new_id = forwarded[0].removeprefix("forwarded as ")
    [attempt] = [one for one in facts[new_id] if one["kind"] == "attempt"]
    assert (attempt["to"], attempt["orig_to"]) == ("three@out.example", "fwd@example.com")
    [bounce] = [one for one in facts[story.ids["sent"]] if one["kind"] == "notified"]
    assert facts[bounce["queue_id"]][-1]["kind"] == "removed"
    moved = [one for one in facts[story.ids["requeued"]] if one["kind"] == "requeued"]
    [new_id] = [one["queue_id"] for one in moved if "queue_id" in one]
    assert facts[new_id][0]["orig_queue_id"] == story.ids["requeued"]


def _refused_id(facts: Facts, how: str) -> str:
    """The queue id that Postfix logged and did not tell the client."""
    [queue_id] = [
        queue_id
        for queue_id, said in facts.items()
        if any(one["kind"] == "rejected" and one["reply"].startswith(how) for one in said)
    ]
    return queue_id
