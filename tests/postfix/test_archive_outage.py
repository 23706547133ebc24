"""The archive's host goes down and comes back while mail flows: nobody waits, no copy is lost.

`make test-outage` lets it be down for five minutes (OUTAGE=300); here it is some seconds.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.carbonseal import ARCHIVE
from support.follower import FollowerProcess
from support.ports import LOOPBACK, free_port
from support.postfix import INSIDE, private_directory
from support.relay import Relay, relay
from support.sink import Delivery, Sink
from support.waiting import wait_until

pytestmark = [pytest.mark.root, pytest.mark.postfix]

SPARE = "spare@archive.example.org"
POSTMASTER = "postmaster@example.com"
SECONDS = float(os.environ.get("OUTAGE", "4"))
RATE = float(os.environ.get("RATE", "0"))  # messages a second; 0: as many as it takes
CLIENTS = 4
_BODY = b"From: a@example.com\r\nSubject: outage\r\nMessage-ID: <%s@example.com>\r\n\r\nhi\r\n"
_NOTE = "import sys; open(sys.argv[1], 'a').write(sys.stdin.read())"


@dataclass
class Flow:
    """Clients that send until they are told to stop."""

    made: Relay
    stop: threading.Event = field(default_factory=threading.Event)
    sent: list[tuple[str, float]] = field(default_factory=list)  # mark, seconds it took
    faults: list[str] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Flow:
        for number in range(CLIENTS):
            thread = threading.Thread(target=self._send, args=(number,), daemon=True)
            thread.start()
            self.threads.append(thread)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def _send(self, number: int) -> None:
        count = 0
        with self.made.client("inside") as client:
            while not self.stop.is_set():
                mark = f"m{number}-{count}"
                began = time.monotonic()
                reply = client.send("a@example.com", [f"{mark}@out.example"], _BODY % mark.encode())
                took = time.monotonic() - began
                if not reply.end.is_positive:
                    self.faults.append(f"{mark}: {reply.end}")
                self.sent.append((mark, took))
                count += 1
                if RATE:
                    self.stop.wait(max(0.0, CLIENTS / RATE - took))


@dataclass(frozen=True)
class World:
    made: Relay
    spare: Sink
    follower: FollowerProcess
    notes: Path

    def notices(self) -> list[dict[str, Any]]:
        """What the alarm's command was given."""
        try:
            return [json.loads(line) for line in self.notes.read_text().splitlines()]
        except FileNotFoundError:
            return []

    def events(self) -> list[str]:
        return [one["event"] for one in self.notices()]

    def standing(self) -> dict[str, Any]:
        content = json.loads((self.made.service.spool / "state/copies.json").read_bytes())
        found: dict[str, Any] = content["recipients"][ARCHIVE]
        return found

    def check(self) -> tuple[bool, bool]:
        """Whether the check of readiness is well, and whether it is needed."""
        page = self.made.service.command("status", "--json", check=False, installed=True).stdout
        [found] = [one for one in json.loads(page)["checks"] if one["name"] == "archive-copy"]
        return found["ok"], found["needed"]

    def listed(self, name: str) -> list[dict[str, Any]]:
        """Copies that wait or are lost, as the follower lists them."""
        content = json.loads((self.made.service.spool / "state/copy-list.json").read_bytes())
        found: list[dict[str, Any]] = content[name]
        return found


@contextmanager
def world(*, retry: str = "2s", mails: bool = False, **postfix: Any) -> Iterator[World]:
    """A relay with an alternate on a host of its own, and a follower beside it."""
    with Sink() as spare, private_directory() as directory:
        port = free_port()
        notes = directory / "notes"
        notes.touch(mode=0o600)
        shutil.chown(notes, "nobody")  # as whom the command runs
        changes = {
            "archive": {
                "recipients": [ARCHIVE],
                "alternate": [SPARE],
                "retry": retry,
                "alarm": {
                    "command": [sys.executable, "-c", _NOTE, str(notes)],
                    "mail": POSTMASTER if mails else None,
                    "smtp": f"inet:{port}@{LOOPBACK}",
                },
            },
            "follow": {"log": "../mta/log"},
            "record": {"relay": "mx1"},
        }
        maps = {"transport_maps": {"archive.example.org": f"archive:[{LOOPBACK}]:{spare.port}"}}
        parameters = {
            "minimal_backoff_time": "2s",
            "maximal_backoff_time": "4s",
            "queue_run_delay": "2s",
            "archive_transport_rate_delay": "0s",
            "transport_retry_time": "2s",
            **postfix.pop("parameters", {}),
        }
        listeners = [dataclasses.replace(INSIDE, port=port)]
        with relay(
            changes,
            base="/dev/shm",
            maps=maps,
            parameters=parameters,
            listeners=listeners,
            **postfix,
        ) as made:
            made.mta.wait_for_log("daemon started")
            with FollowerProcess(made.service) as follower:
                yield World(made, spare, follower, notes)


def marks(deliveries: list[Delivery]) -> Counter[str]:
    """How often each message arrived."""
    found: Counter[str] = Counter()
    for one in deliveries:
        line = one.content.partition(b"Message-ID: <")[2]
        found[line.partition(b"@")[0].decode()] += 1
    return found


def test_the_archive_goes_down_and_comes_back_under_load() -> None:
    """Alarm at once, the alternate takes over, hands back, and every copy is where it should be."""
    with world() as here:
        made = here.made
        with Flow(made) as flow:
            made.archive.wait_for(20)
            port = made.archive.port
            made.archive.close()
            down_at = time.time()
            wait_until(lambda: here.events() == ["archive-copy-failing"], "the alarm")
            alarm_after = time.time() - down_at
            here.spare.wait_for(20)
            assert here.standing()["is_diverted"]
            flow.stop.wait(SECONDS)
            assert here.events() == ["archive-copy-failing"], "one for the incident"
            with Sink(port=port) as again:
                again.wait_for(1)
                wait_until(lambda: not here.standing()["is_diverted"], "the alternate's return")
                before = len(marks(again.deliveries))
                again.wait_for(lambda found: len(found) >= before + 20)
                wait_until(
                    lambda: here.events()[-1:] == ["archive-copy-recovered"], "the notice", 60
                )
                flow.__exit__()
                made.mta.wait_until_empty(60)
                _account(here, flow, marks(again.deliveries))
        delays = _delays(made)
        took = sorted(seconds for _, seconds in flow.sent)
        print(
            f"{len(flow.sent)} messages, half in {took[len(took) // 2] * 1000:.0f} ms, slowest"
            f" {took[-1] * 1000:.0f} ms; alarm after {alarm_after:.2f} s;"
            f" {len(made.archive.deliveries)} + {len(again.deliveries)} copies at the archive,"
            f" {len(here.spare.deliveries)} at the alternate; ordinary mail was delivered after"
            f" {delays[len(delays) // 2]:.2f} s (half), {delays[-1]:.2f} s (slowest)"
        )


def _recorded(made: Relay) -> int:
    counted = made.service.command(
        "archive", "stats", "--by", "crossing", "--format", "jsonl", installed=True
    ).stdout
    return sum(json.loads(line)["messages"] for line in counted.splitlines())


def _records(made: Relay, count: int) -> list[dict[str, Any]]:
    arguments = ("archive", "search", "--format", "jsonl", "--limit", str(count))
    found = made.service.command(*arguments, installed=True).stdout
    return [json.loads(line) for line in found.splitlines()]


def _delays(made: Relay) -> list[float]:
    """Seconds from a client to the next hop, of mail for everybody but the archive."""
    found = re.findall(
        r"to=<m[0-9-]+@out\.example>, relay=\S+, (?:conn_use=\d+, )?delay=([0-9.]+),.*status=(\w+)",
        made.mta.log(),
    )
    assert {status for _, status in found} == {"sent"}
    return sorted(float(delay) for delay, _ in found)


def _account(here: World, flow: Flow, after: Counter[str]) -> None:
    made = here.made
    assert not flow.faults
    sent = {mark for mark, _ in flow.sent}
    ordinary = marks(made.sink.deliveries)
    assert ordinary.keys() == sent
    before, spare = marks(made.archive.deliveries), marks(here.spare.deliveries)
    main = before + after
    # Nothing twice at one place, but for what was on its way when the host went: it was kept there,
    # and the answer that said so got lost.  Whoever is at neither place was lost.
    assert {*before.values(), *after.values(), *spare.values()} == {1}
    assert len(before.keys() & after.keys()) <= 20
    assert main.keys() | spare.keys() == sent
    # What both have was sent to both on purpose: a trial now and then, no more.
    wait_until(lambda: _recorded(made) == len(sent), "the records", 300)
    to_both = [one for one in _records(made, len(sent)) if len(one["archive_recipients"]) > 1]
    assert len(main.keys() & spare.keys()) == len(to_both)
    assert len(to_both) < len(sent) / 10
    wait_until(lambda: not here.listed("waiting"), "the last copies to be seen")
    assert not here.listed("lost")


def test_a_mailbox_that_refuses_everything_gets_its_copies_back_by_trial() -> None:
    """Nothing waits in the queue that could tell; and what was lost is listed, each copy of it."""
    with world() as here:
        made = here.made
        refused = marks_of_refusals(made)
        with Flow(made) as flow:
            made.archive.wait_for(5)
            made.archive.reply(ARCHIVE, "550 5.2.2 mailbox full")
            wait_until(lambda: here.events() == ["archive-copy-failing"], "the alarm")
            here.spare.wait_for(10)
            wait_until(lambda: "archive-trial" in made.service.log(), "a trial")
            # New mail has another place: worth a look, and no reason to send mail elsewhere.
            wait_until(lambda: here.check() == (False, False), "the page to say so")
            made.archive.reply(ARCHIVE, "")
            wait_until(lambda: here.events()[-1:] == ["archive-copy-recovered"], "the notice", 60)
        made.mta.wait_until_empty(60)
        sent = {mark for mark, _ in flow.sent}
        wait_until(lambda: _recorded(made) == len(sent), "the records", 60)
        main, spare = marks(made.archive.deliveries), marks(here.spare.deliveries)
        lost = sent - main.keys()
        assert lost
        wait_until(lambda: len(here.listed("lost")) == len(refused()), "the last loss to be seen")
        assert refused() == {
            one["message_id"].removeprefix("<").partition("@")[0] for one in here.listed("lost")
        }
        # Before the alternate took over, and a little longer, until the workers knew.
        assert lost - spare.keys() == refused() - spare.keys()
        notice = here.notices()[-1]
        assert notice["lost"] == len(here.listed("lost"))


def marks_of_refusals(made: Relay) -> Callable[[], set[str]]:
    """Messages of which Postfix says that the archive refused their copy."""

    def refused() -> set[str]:
        log = made.mta.log()
        names = dict(re.findall(r" (\w+): message-id=<([\w-]+)@example\.com>", log))
        bounced = re.findall(rf" (\w+): to=<{ARCHIVE}>, .*status=bounced", log)
        return {names[queue_id] for queue_id in bounced}

    return refused


def test_when_the_alternate_fails_as_well_all_of_them_get_the_copy() -> None:
    """Whichever is mended first has it; nothing is lost as long as Postfix keeps it."""
    with world() as here:
        made = here.made
        port, spare_port = made.archive.port, here.spare.port
        made.archive.close()
        here.spare.close()
        with Flow(made) as flow:
            wait_until(lambda: "archive-all-fail" in made.service.log(), "both to fail")
            flow.stop.wait(1)
            wait_until(lambda: len(here.events()) == 2, "an alarm for each")
        with Sink(port=spare_port) as spare, Sink(port=port) as main:
            made.mta.wait_until_empty(60)
            sent = {mark for mark, _ in flow.sent}
            arrived = [marks(one.deliveries) for one in (main, spare)]
        assert arrived[0].keys() | arrived[1].keys() == sent
        assert not flow.faults
        wait_until(lambda: not here.listed("waiting"), "the last copies to be seen")
        assert not here.listed("lost")
        assert not any(here.made.mta.queue())


def test_while_nobody_follows_the_log_no_copy_is_lost() -> None:
    """What was bad gets its copies again, and the alternate keeps getting them as well."""
    with world(retry="1h", mails=True) as here:
        made = here.made
        made.archive.reply(ARCHIVE, "550 5.2.2 mailbox full")
        # The workers look once a second; until then they go by what they knew.
        _send_until(made, lambda: here.spare.count > 0)
        made.sink.wait_for(lambda found: bool(told(found)))
        here.follower.kill()
        made.archive.reply(ARCHIVE, "")
        path = made.service.spool / "state/copies.json"
        content = json.loads(path.read_bytes())
        content["at"] -= 400
        (path.parent / "aged").write_text(json.dumps(content))
        (path.parent / "aged").replace(path)
        _send_until(
            made,
            lambda: bool(
                marks(made.archive.deliveries).keys() & marks(here.spare.deliveries).keys()
            ),
        )
        [alarm] = told(made.sink.deliveries)
        assert alarm.reverse_path == ""


def told(deliveries: list[Delivery]) -> list[Delivery]:
    """The alarms that came by mail."""
    return [one for one in deliveries if one.addresses == (POSTMASTER,)]


def _send_until(made: Relay, is_done: Callable[[], bool]) -> None:
    """One message after the other."""

    def send() -> bool:
        mark = f"m9-{next(_counter)}"
        made.send("inside", "a@example.com", [f"{mark}@out.example"], _BODY % mark.encode())
        return is_done()

    wait_until(send, "a message to make the difference")


_counter = itertools.count()
