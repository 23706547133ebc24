"""Keys that rotate under mail: a relay, the name servers of two signing domains, and a judge.

Promises: `running` brings up a Postfix with the milter and everybody who could look a key up: for
the first domain a BIND primary that tells its secondary nothing (so that this one lags until it
asks), for the second a Knot with a BIND secondary, and an Unbound that caches for both, answers
that there is nothing included.  `Senders` never wait for more than the judge: mail flows until they
are stopped.  `Judge` verifies each delivery the moment it arrives, and once more before those who
verify late give up, with libopendkim and the key's text as each of these servers says it at that
moment.  `Poison` asks Unbound for keys that do not exist yet, again and again until they do.

Does not: know how a rotation goes; what it learns, it asks from outside.
"""

from __future__ import annotations

import abc
import itertools
import re
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import dns.exception

from carbonseal.keys import store
from carbonseal.keys.key_record import KeyRecord
from carbonseal.keys.publication.settings import ServerAddress
from carbonseal.keys.relays import acknowledgement
from support import libopendkim, name_servers, verifiers
from support.carbonseal import Carbonseal
from support.name_servers import Bind, Knot, TsigKey, Unbound, Zone
from support.postfix import PrivatePostfix, private_directory
from support.relay import Relay
from support.sink import Delivery, Sink
from support.waiting import wait_until

FIRST, SECOND = SDIDS = ("first.test", "second.test")
SAFETY = 1  # seconds: resolvers count in whole ones, and keep an answer for up to one more
QUEUE_LIFETIME = 4  # seconds, ours and Postfix's
SLACK = 2  # seconds in which those who verify late do so
TTL = 2  # seconds, of key records
DENIAL = 8  # seconds for which the resolver remembers that the second domain has no such key
WORKERS = 2
_BACKLOG = 12  # deliveries not judged yet, after which nobody sends more
_PACE = 0.05  # seconds between two messages of one client
_MARK = re.compile(rb"^Subject: (\S+)\r$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Place:
    """Somebody who is asked for keys."""

    name: str
    address: ServerAddress
    recursive: bool = False

    def key_text(self, name: str) -> str | None:
        """The one TXT value at a name as it is said now; None: there is none."""
        for _ in range(3):  # a datagram may be lost; what is judged is the answer
            try:
                found = name_servers.txt_at(self.address, name, recursive=self.recursive)
            except (OSError, dns.exception.DNSException):
                continue
            return found[0] if len(found) == 1 else None
        return None


@dataclass(frozen=True)
class World:
    """Everything that runs."""

    relay: Relay
    changes: dict[str, dict[str, Any]]  # to the configuration
    places: Mapping[str, tuple[Place, ...]]  # SDID -> who is asked, the resolver last
    primary: Bind  # of the first domain

    @property
    def shelf(self) -> store.Store:
        """The keys directory, to look at."""
        return store.Store(self.relay.service.directory / "keys")

    def keys(self, sdid: str) -> tuple[KeyRecord, ...]:
        """The records of the keys of an SDID."""
        return self.shelf.lineage(sdid).records

    def keys_command(self, *arguments: str) -> tuple[int, str]:
        """`carbonseal keys …`: its exit status, and all it said."""
        done = self.relay.service.command("keys", *arguments, check=False, installed=True)
        return done.returncode, f"$ keys {' '.join(arguments)}\n{done.stderr}{done.stdout}"


@contextmanager
def running() -> Iterator[World]:
    """The whole world, without keys."""
    secret = TsigKey()
    primary = Bind([Zone(FIRST)], keys=[secret], notify=False)
    knot = Knot([Zone(SECOND, soa_ttl=DENIAL, minimum=DENIAL)], keys=[secret])
    servers = {FIRST: (primary, Bind(primary=primary)), SECOND: (knot, Bind(primary=knot))}
    resolver = Unbound({sdid: [one.address for one in some] for sdid, some in servers.items()})
    with ExitStack() as stack:
        for server in (*servers[FIRST], *servers[SECOND], resolver):
            stack.enter_context(server)
        # /dev/shm spares Postfix its fsyncs: this is about keys.
        home = stack.enter_context(private_directory("/dev/shm"))
        sink = stack.enter_context(Sink())
        sink.reply_first("@grey.example", "450 4.2.0 greylisted, come again")
        mta = _postfix(home, sink)
        key_file = secret.write(home / "update.key")
        changes = _configuration(servers, key_file, mta.configuration)
        service = Carbonseal(home / "seal", changes)
        (service.directory / "keys").mkdir(mode=0o700)
        stack.enter_context(service)
        stack.enter_context(mta)
        places = {
            sdid: (
                *(Place(f"{type(one).__name__} {one}", one.address) for one in some),
                Place(f"Unbound {resolver}", resolver.address, recursive=True),
            )
            for sdid, some in servers.items()
        }
        yield World(Relay(service, mta, sink, sink), changes, places, primary)


def _postfix(home: Path, sink: Sink) -> PrivatePostfix:
    directory = home / "mta"
    directory.mkdir(mode=0o755)
    parameters = {
        "maximal_queue_lifetime": f"{QUEUE_LIFETIME}s",
        "bounce_queue_lifetime": f"{QUEUE_LIFETIME}s",
        "queue_run_delay": "1s",
        "minimal_backoff_time": "1s",
        "maximal_backoff_time": "1s",
    }
    milters = [f"unix:{home}/seal/milter.sock"]
    return PrivatePostfix(directory, remote=sink.port, milters=milters, parameters=parameters)


def _configuration(
    servers: Mapping[str, Sequence[name_servers.NameServer]], key_file: Path, postfix: Path
) -> dict[str, dict[str, Any]]:
    return {
        "milter": {
            "socket": f"unix:{postfix.parents[1]}/seal/milter.sock",
            "socket_mode": "0666",
            "workers": WORKERS,
            "drain": 5,
        },
        "ours": {"domains": [*SDIDS, "example.com"], "networks": ["192.0.2.0/24"]},
        "archive": {"recipients": []},
        "dns": {
            "servers": {sdid: list(map(str, some)) for sdid, some in servers.items()},
            "timeout": "1s",
            "ttl": f"{TTL}s",
            "publish": [
                {
                    "domains": [sdid],
                    "method": "rfc2136",
                    "server": str(some[0]),
                    "key_file": str(key_file),
                }
                for sdid, some in servers.items()
            ],
        },
        "rotation": {
            "safety": f"{SAFETY}s",
            "queue_lifetime": f"{QUEUE_LIFETIME}s",
            "downstream_queue": "0s",
            "verifier_slack": f"{SLACK}s",
            "keep_revoked": "1s",
            "postfix": str(postfix),
        },
    }


# --- mail -----------------------------------------------------------------------------------------


@dataclass
class Senders:
    """Clients who send without end, until they leave the with statement."""

    world: World
    judge: Judge
    count: int = 3
    accepted: dict[str, datetime] = field(default_factory=dict)  # mark -> before its end was heard
    refusals: Counter[int] = field(default_factory=Counter)
    broken: int = 0  # connections that ended without an answer
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._threads = [
            threading.Thread(target=self._run, args=(number,), daemon=True)
            for number in range(self.count)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Return when nobody sends any more."""
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self, number: int) -> None:
        marks = (f"m{number}-{count}" for count in itertools.count())
        mark = next(marks)
        while not self._stop.is_set():
            try:
                with self.world.relay.client("inside") as client:
                    while not self._stop.is_set():
                        self.judge.wait_for_room()
                        if self._send(client, mark):
                            mark = next(marks)
                            self._stop.wait(_PACE)  # the machine has other things to do as well
                        else:
                            break
            except Exception:
                # Postfix greets with 421 or hangs up while the milter cannot be reached.
                self.broken += 1
                self._stop.wait(0.05)

    def _send(self, client: Any, mark: str) -> bool:
        number = int(mark.partition("-")[2])
        sdid = SDIDS[number % 2]
        recipient = f"{mark}@{'grey' if number % 5 == 0 else 'partner'}.example"
        sending = client.send(f"alice@{sdid}", [recipient], content(mark, sdid))
        if sending.end.code == 250:
            self.accepted[mark] = datetime.now(UTC)
            return True
        self.refusals[sending.end.code] += 1
        return False


def content(mark: str, sdid: str) -> bytes:
    """A message of somebody at an SDID."""
    return (
        f"From: alice@{sdid}\r\nTo: bob@partner.example\r\nSubject: {mark}\r\n"
        f"Message-ID: <{mark}@{sdid}>\r\nDate: Sat, 21 Nov 2026 09:00:00 +0100\r\n\r\n"
        + f"{mark}\r\n"
        * 10
    ).encode()


# --- the judge ------------------------------------------------------------------------------------


@dataclass(slots=True)
class Message:
    """A delivery and what was found about it."""

    mark: str
    author: str  # the domain of the author
    content: bytes
    delivered_at: float  # monotonic; the sink's thread may have had it a little before
    came_at: datetime  # the same moment
    selector: str = ""
    texts: dict[str, str | None] = field(default_factory=dict)  # place -> key text at that moment


class Judge:
    """Verifies everything that arrives, at once and once more; a context manager."""

    def __init__(self, world: World, *, again_after: float = SLACK * 0.6) -> None:
        """`again_after`: seconds after its delivery until a message is verified once more."""
        self.world = world
        self.messages: list[Message] = []
        self.faults: list[str] = []
        self.compromised: set[tuple[str, str]] = set()  # keys whose failure is the purpose
        self.excused = 0
        self.verified: Counter[str] = Counter()  # place -> how many verifications at once
        self.verified_again: Counter[str] = Counter()
        self.too_late = 0  # for a second verification within the time that is promised
        self.longest_lag = 0.0  # seconds from delivery to judgement
        self._again_after = again_after
        self._taken = 0
        self._again = 0
        self._judged = threading.Condition()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,), daemon=True)
            for work in (self._judge_all, self._judge_again)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def wait_for_room(self) -> None:
        """Return when all but a few deliveries are judged."""
        sink = self.world.relay.sink
        with self._judged:
            self._judged.wait_for(lambda: sink.count - self._taken < _BACKLOG, timeout=30)

    def wait_until(self, is_so: Callable[[list[Message]], bool], timeout: float = 60) -> None:
        """Return when it is so of the messages judged at once; TimeoutError after a while."""
        with self._judged:
            if not self._judged.wait_for(lambda: is_so(self.messages), timeout):
                raise TimeoutError(f"not so after {timeout} s and {len(self.messages)} messages")

    def finish(self) -> None:
        """Return when everything that was delivered is judged twice."""
        wait_until(
            lambda: self._taken == self.world.relay.sink.count and self._again == self._taken,
            "the judge",
            120,
        )

    def signed_with(self, sdid: str, selector: str) -> list[Message]:
        """The messages that carry a signature with this key."""
        return [one for one in self.messages if (one.author, one.selector) == (sdid, selector)]

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            self.faults.append(f"the judge broke: {error!r}")
            raise

    def _judge_all(self) -> None:
        sink = self.world.relay.sink
        while not self._stop.is_set():
            try:
                sink.wait_for(self._taken + 1, timeout=0.2)
            except TimeoutError:
                continue
            for delivery in sink.deliveries[self._taken :]:
                arrived = time.monotonic()
                message = self._take(delivery, arrived)
                with self._judged:
                    self.longest_lag = max(self.longest_lag, time.monotonic() - arrived)
                    self.messages.append(message)
                    self._taken += 1
                    self._judged.notify_all()

    def _take(self, delivery: Delivery, arrived: float) -> Message:
        found = _MARK.search(delivery.header_section)
        mark = found[1].decode() if found else repr(delivery.header_section[:200])
        author = delivery.reverse_path.partition("@")[2]
        message = Message(mark, author, delivery.content, arrived, datetime.now(UTC))
        signatures = libopendkim.judge(delivery.content, lambda name: None)
        if [one.sdid for one in signatures] != [author]:
            self.faults.append(f"{mark} of {author}: signed by {[one.sdid for one in signatures]}")
            return message
        message.selector = signatures[0].selector
        for place, text, why in self._look(message):
            message.texts[place.name] = text
            self.verified[place.name] += 1
            if why:
                self._complain(message, place, why, "at once")
        return message

    def _look(self, message: Message) -> Iterator[tuple[Place, str | None, str]]:
        """Who was asked, the key text, and why the signature fails with it ('' if it does not)."""
        name = f"{message.selector}._domainkey.{message.author}"
        judged: dict[str | None, str] = {None: "no key"}
        for place in self.world.places[message.author]:
            text = place.key_text(name)
            if text not in judged:
                record = (text or "").encode()
                [word] = libopendkim.judge(message.content, lambda _, record=record: record)  # type: ignore[misc]
                judged[text] = "" if word.passed else f"{word.text or 'body hash'}: {text!r}"
            yield place, text, judged[text]

    def _complain(self, message: Message, place: Place, why: str, when: str) -> None:
        key = (message.author, message.selector)
        if key in self.compromised:
            self.excused += 1
            return
        self.faults.append(
            f"{datetime.now(UTC):%H:%M:%S.%f} {message.mark} with {message.selector} of"
            f" {message.author} {when} at {place.name}: {why}"
        )

    def _judge_again(self) -> None:
        while not self._stop.is_set():
            with self._judged:
                self._judged.wait_for(lambda: len(self.messages) > self._again, timeout=0.2)
                if len(self.messages) <= self._again:
                    continue
                message = self.messages[self._again]
            due = message.delivered_at + self._again_after
            if self._stop.wait(max(0.0, due - time.monotonic())):
                return
            if message.selector:
                self._verify_again(message)
            self._again += 1

    def _verify_again(self, message: Message) -> None:
        for place, _, why in self._look(message):
            in_time = time.monotonic() < message.delivered_at + SLACK
            if why and not in_time:
                self.too_late += 1
            elif why:
                self._complain(message, place, why, "a little later")
            else:
                self.verified_again[place.name] += 1


def second_opinion(messages: list[Message], per_key: int = 10) -> Counter[str]:
    """Let dkimpy and Mail::DKIM judge some messages of each key, with each text that was served.

    Returns how many verifications each made; raises AssertionError with those that fail.
    """
    chosen: dict[tuple[str, str], list[Message]] = defaultdict(list)
    for one in messages:
        some = chosen[one.author, one.selector]
        if len(some) < per_key and None not in one.texts.values():
            some.append(one)
    made: Counter[str] = Counter()
    for (sdid, selector), some in chosen.items():
        for text in {text for one in some for text in one.texts.values() if text is not None}:
            records = {f"{selector}._domainkey.{sdid}": text.encode()}
            for judge in (verifiers.DKIMPY, verifiers.MAIL_DKIM):
                words = verifiers.verify_many(judge, [one.content for one in some], records)
                made[judge] += len(words)
                bad = [word for said in words for word in said if word.result != "pass"]
                assert not bad, bad
    return made


# --- those who watch ------------------------------------------------------------------------------


class _Watching(abc.ABC):
    """A thread that looks again and again; a context manager."""

    def __init__(self, every: float) -> None:
        self._every = every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            self.look()

    @abc.abstractmethod
    def look(self) -> None:
        """One look."""


class Poison(_Watching):
    """Asks the resolver for keys before there are any, so that it remembers that there is none."""

    def __init__(self, world: World) -> None:
        super().__init__(0.1)
        self._world = world
        self.denials: Counter[str] = Counter()  # name -> times the resolver said there is none
        self.stale: Counter[str] = Counter()  # of these, while every authority had it already
        self._names: dict[str, str] = {}  # name -> SDID

    def prime(self) -> None:
        """Ask for the next key of each SDID, so that a fresh denial of it is in the cache."""
        for sdid in SDIDS:
            # Not the one after it: a denial that is renewed all the time may be about to end.
            number = len(self._world.keys(sdid)) + 1
            self._names[f"s{datetime.now(UTC):%Y%m%d}r{number}._domainkey.{sdid}"] = sdid
        self.look()

    def look(self) -> None:
        """Ask again for the names that are known."""
        for name, sdid in list(self._names.items()):
            *authorities, resolver = self._world.places[sdid]
            shown = all(one.key_text(name) for one in authorities)
            if resolver.key_text(name) is not None:
                self._names.pop(name, None)  # the cache has it; it is not denied any more
            else:
                self.denials[name] += 1
                self.stale[name] += shown


class Acknowledgements(_Watching):
    """When each worker first said that it may sign with a key."""

    def __init__(self, world: World) -> None:
        super().__init__(0.02)
        self._spool = world.relay.service.spool
        self.first: dict[tuple[int, str], datetime] = {}  # pid, 'sdid/selector'

    def look(self) -> None:
        """Read what the workers say."""
        for worker in acknowledgement.read(self._spool):
            for name in worker.signing:
                if worker.since is not None:
                    self.first.setdefault((worker.pid, name), worker.since)
