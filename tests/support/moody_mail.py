"""A relay with mail of all kinds through a real Postfix to a sink of bad moods, and its follower.

Promises: what is sent depends on seed and number only; each message has a reverse-path of its own,
by which sink, record and log are compared.  While the mail flows the follower is killed (-9) and
the log rotated, both at once and apart.  At the end the queue is empty, everything is stopped, and
the spool holds what the writer has not loaded.

Does not: judge.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from carbonseal.milter.status import state_files
from support.background import Background
from support.carbonseal import COMMAND, Carbonseal
from support.postfix import PrivatePostfix, private_directory
from support.random_sink import RandomSink
from support.smtp_client import SmtpClient
from support.waiting import wait_until

SEED = 20261121
ALIASES = {"team": ("one@out1.example", "two@out2.example")}  # of local(8)
VIRTUAL = {"all@example.com": ("three@out3.example", "four@out4.example")}
EXPANSIONS = VIRTUAL | {f"{name}@example.com": to for name, to in ALIASES.items()}
CLIENTS = ("inside", "inside", "inside", "outside")
_IDENTITIES = {
    "inside": {"address": "192.0.2.10", "name": "desk.example.com"},
    "outside": {"address": "198.51.100.99", "name": "mx.partner.example"},
}


@dataclass(frozen=True, slots=True)
class Message:
    """One that is sent, or was."""

    number: int
    reverse_path: str
    recipients: tuple[str, ...]
    queue_id: str = ""


def message(number: int, who: str) -> Message:
    """Inbound, outbound, internal or mixed; some to aliases."""
    rng = random.Random(f"{SEED}|{number}")
    inside, outside = f"u{number}@example.com", f"r{number}@out{number % 7}.example"
    if who == "outside":
        return Message(number, f"s{number}@partner.example", (inside,))
    drawn = rng.random()
    if drawn < 0.2:
        recipients = [inside]
    elif drawn < 0.3:
        recipients = [rng.choice(sorted(EXPANSIONS))]
    else:
        recipients = [outside] + [f"x{number}.{one}@out{one}.example" for one in range(3)]
        recipients = recipients[: rng.choice((1, 1, 1, 2, 3, 4))]
        if drawn > 0.9:
            recipients.append(inside)
    return Message(number, f"s{number}@example.com", tuple(recipients))


@dataclass(slots=True)
class MoodyMail:
    """What was sent and how it went."""

    service: Carbonseal
    mta: PrivatePostfix
    sink: RandomSink
    sent: list[Message] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    follower: Background | None = None
    _rotations: int = 0
    _gate: threading.Lock = field(default_factory=threading.Lock)

    @property
    def log(self) -> Path:
        """Postfix's, as it is now."""
        return self.mta.directory / "log"

    # --- mail -----------------------------------------------------------------------------------

    def send(self, first: int, count: int, threads: int = len(CLIENTS)) -> None:
        """Messages `first` and on, over several connections at once."""
        begun = time.monotonic()
        numbers = iter(range(first, first + count))
        with ThreadPoolExecutor(threads) as pool:
            for done in [pool.submit(self._client, CLIENTS[k], numbers) for k in range(threads)]:
                done.result()
        self.figures.setdefault("sending, seconds", round(time.monotonic() - begun, 1))

    def _client(self, who: str, numbers: Iterator[int]) -> None:
        with self.mta.client(who, **_IDENTITIES[who]) as client:
            while True:
                with self._gate:
                    number = next(numbers, None)
                if number is None:
                    return
                self._send(client, message(number, who))

    def _send(self, client: SmtpClient, one: Message) -> None:
        content = (
            f"From: {one.reverse_path}\r\nTo: {one.recipients[0]}\r\nSubject: {one.number}\r\n"
            f"Message-ID: <{one.number}@test.example>\r\n"
            "Date: Sat, 21 Nov 2026 05:00:00 +0000\r\n\r\nhello\r\n"
        )
        said = client.send(one.reverse_path, list(one.recipients), content.encode())
        assert said.queue_id, said
        with self._gate:
            self.sent.append(Message(one.number, one.reverse_path, one.recipients, said.queue_id))

    def wait_until_sent(self, count: int) -> None:
        """So many are queued."""
        wait_until(lambda: len(self.sent) >= count, f"{count} messages", 600)

    def drain(self, timeout: float) -> None:
        """Until Postfix has nothing more to do; what is deferred comes to its end by itself."""
        begun = time.monotonic()
        while self.mta.queue():
            if time.monotonic() - begun > timeout:
                raise TimeoutError(f"{len(self.mta.queue())} are queued after {timeout} s")
            time.sleep(1)
            # What was active at a reload lies there with a time in the future until mail comes.
            self.mta.flush()
        self.figures.setdefault("draining, seconds", round(time.monotonic() - begun, 1))

    def load(self) -> None:
        """The writer takes what is there: half the events come before it, half after.

        The service begins anew, so that it closes its segments and leaves them alone.
        """
        self.service.stop()
        self.service.command("archive", "write", "--once", installed=True)
        self.service.start("--no-writer")

    # --- the follower ---------------------------------------------------------------------------

    def follow(self) -> None:
        """Start `carbonseal follow`, and wait until it knows where it begins."""
        self.follower = Background(
            [COMMAND, "--config", self.service.file, "follow"],
            self.service.directory / "follow.log",
            lambda: bool((state_files.read(self.service.spool, "follow") or {}).get("position")),
        )
        self.follower.start()

    def kill_follower(self) -> None:
        """kill -9."""
        assert self.follower is not None
        self.follower.wait_until(lambda: True, "a living follower")
        self.follower.kill()

    def finish_following(self) -> None:
        """Stop it cleanly, and read what is left of the log."""
        assert self.follower is not None
        assert self.follower.stop() == 0
        self.service.command("follow", "--once", installed=True)

    def rotate(self) -> None:
        """Rename the log and tell Postfix, as `postfix logrotate` does."""
        self._rotations += 1
        for number in range(self._rotations - 1, 0, -1):
            self.log.with_suffix(f".{number}").rename(self.log.with_suffix(f".{number + 1}"))
        self.log.rename(self.log.with_suffix(".1"))
        os.kill(self.mta.pid, signal.SIGHUP)
        wait_until(self.log.exists, "the new log")

    def log_lines(self) -> int:
        """Of all its files."""
        every = self.mta.directory.glob("log*")
        return sum(len(re.findall(rb"\n", one.read_bytes())) for one in every)

    def troubles(self, count: int) -> None:
        """Kill and rotate while mail flows, by how much of it was sent."""
        self.wait_until_sent(count // 5)
        self.kill_follower()
        self.follow()
        self.wait_until_sent(2 * count // 5)
        self.rotate()
        self.wait_until_sent(3 * count // 5)
        self.kill_follower()
        self.rotate()  # nobody follows
        self.wait_until_sent(4 * count // 5)
        self.follow()


@contextmanager
def moody_mail(lifetime: int) -> Iterator[MoodyMail]:
    """Everything but the writer runs; `lifetime`: seconds until Postfix gives up."""
    # Not on a disk: ten thousand messages are thousands of fsyncs, and crashes are not the point.
    with (
        private_directory("/dev/shm") as directory,
        RandomSink(SEED, directory) as sink,
    ):
        home = directory / "mta"
        home.mkdir(mode=0o755)
        service = Carbonseal(
            directory / "seal",
            {
                "follow": {"log": str(home / "log")},
                "record": {
                    "spool": "spool",
                    "database": "sqlite:///archive.db",
                    "relay": "mx1.example.com",
                },
            },
        )
        service.make_key("example.com")
        mta = PrivatePostfix(
            home,
            remote=sink.ports[0],
            archive=sink.ports[1],
            milters=[f"unix:{service.socket}"],
            maps={
                "virtual_alias_maps": {key: ",".join(to) for key, to in VIRTUAL.items()},
                "alias_maps": {key: ",".join(to) for key, to in ALIASES.items()},
            },
            parameters=_hurried(lifetime),
        )
        made = MoodyMail(service, mta, sink)
        service.start("--no-writer")
        try:
            with mta:
                made.follow()
                yield made
        finally:
            if made.follower is not None:
                made.follower.kill()
            service.stop()


def _hurried(lifetime: int) -> dict[str, str]:
    """A Postfix that tries again after a second or two and soon gives up."""
    return {
        "maximal_queue_lifetime": f"{lifetime}s",
        "bounce_queue_lifetime": f"{lifetime}s",
        "minimal_backoff_time": "1s",
        "maximal_backoff_time": "2s",
        "queue_run_delay": "1s",
        # A destination that hangs up is not given up for all of its mail.
        "default_destination_concurrency_failed_cohort_limit": "0",
    }


def copy_of(service: Carbonseal, directory: Path) -> Carbonseal:
    """The same relay's spool, archive and keys elsewhere."""
    shutil.copytree(service.directory, directory, ignore=shutil.ignore_patterns("*.sock", "*.yaml"))
    return Carbonseal(directory)
