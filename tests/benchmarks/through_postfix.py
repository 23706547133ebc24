"""The whole way: real clients, a real Postfix with each milter in turn, and a sink behind it.

One private Postfix has a listener for each contestant and one without a milter, so that all else is
the same.  smtp-source and smtp-sink, Postfix's own tools, send and take the messages.

Promises: before anything is measured, one message through each listener is delivered with a
signature that a verifier finds good, and one whole burst through each is sent that does not count:
the first finds a file system without deleted files, and is faster than the next by up to a fifth.
A message that Postfix refuses ends the run.  A turn ends when Postfix's queue is empty again and
the records are in the database; only then the next begins.  Each round begins with another
contestant.

What counts is mail that came through: without a milter Postfix accepts more than it delivers, and
leaves a third of a burst in its queue for afterwards, which no relay can do for long.

Raises: PathBroken when something was refused or did not arrive.

Does not: run without root (Postfix's master changes users).
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support import ports
from support.postfix import ARCHIVE_DOMAIN, Listener, PrivatePostfix, private_directory
from support.sink import Sink

from benchmarks import busy, processes, turns
from benchmarks.contestants import DOMAIN, Carbonseal, Contestant, Key

SESSIONS = 16
MESSAGES = 800  # of one burst
OCTETS = 4096
WITHOUT = "no milter"
APART = "Carbonseal, archive apart"
_CHECKED = "checked.example"  # delivered to a sink that keeps what it gets
_SOURCE, _SINK = Path("/usr/sbin/smtp-source"), Path("/usr/sbin/smtp-sink")
_PATIENCE = 60.0


class PathBroken(Exception):
    """A message was refused, or did not arrive."""


@dataclass(slots=True)
class _Times:
    """Seconds of each burst."""

    accepted: list[float] = field(default_factory=list)  # until smtp-source had its last 250
    delivered: list[float] = field(default_factory=list)  # until nothing was queued any more
    cpu: list[dict[str, float]] = field(default_factory=list)  # of whom, until then

    def summary(self) -> dict[str, Any]:
        """Medians, for the JSON."""
        middle = statistics.median
        return {
            "rate": round(MESSAGES / middle(self.accepted), 1),
            "delivered_rate": round(MESSAGES / middle(self.delivered), 1),
            "rates": [round(MESSAGES / seconds, 1) for seconds in self.accepted],
            "delivered_rates": [round(MESSAGES / seconds, 1) for seconds in self.delivered],
            "cpu_ms_per_message": {
                who: round(middle(one[who] for one in self.cpu) / MESSAGES * 1e3, 3)
                for who in self.cpu[0]
            },
        }


def measure(
    contestants: Sequence[Contestant], key: Key, *, rounds: int, is_late: Callable[[], bool]
) -> dict[str, Any]:
    """All rounds; rates per listener."""
    times = _turns(contestants, key, rounds=rounds, is_late=is_late, is_archive_apart=False)
    ours = [one for one in contestants if isinstance(one, Carbonseal)]
    if ours and not is_late():
        apart = _turns(ours, key, rounds=rounds, is_late=is_late, is_archive_apart=True)
        times[APART] = apart[ours[0].name]
    return {
        "sessions": SESSIONS,
        "octets": OCTETS,
        "messages": MESSAGES,
        "contestants": {name: one.summary() for name, one in times.items()},
    }


def _turns(
    contestants: Sequence[Contestant],
    key: Key,
    *,
    rounds: int,
    is_late: Callable[[], bool],
    is_archive_apart: bool,
) -> dict[str, _Times]:
    by_name: dict[str, Contestant | None] = {WITHOUT: None}
    by_name |= {one.name: one for one in contestants}
    times = {name: _Times() for name in by_name}
    with _relay(contestants, key, is_archive_apart=is_archive_apart) as mta:
        for name, contestant in by_name.items():
            _burst(mta, name, contestant, _Times())
        for number in range(rounds):
            for name in in_turn(list(by_name), number):
                _burst(mta, name, by_name[name], times[name])
            if is_late():
                break
    return times


def in_turn(names: Sequence[str], number: int) -> list[str]:
    """The order of a round: what a file system makes of many deleted files falls on all alike."""
    first = number % len(names)
    return [*names[first:], *names[:first]]


@contextlib.contextmanager
def _relay(
    contestants: Sequence[Contestant], key: Key, *, is_archive_apart: bool
) -> Iterator[PrivatePostfix]:
    """Postfix with its listeners, proved to sign.

    The archive is reached over the same next hop as everything else, so that its copy travels in
    the same delivery, or over a transport of its own: then each message is delivered twice.
    """
    with private_directory() as directory, Sink() as kept, _smtp_sink() as port:
        routes = {_CHECKED: f"smtp:[{ports.LOOPBACK}]:{kept.port}"}
        if not is_archive_apart:
            routes[ARCHIVE_DOMAIN] = f"smtp:[{ports.LOOPBACK}]:{port}"
        mta = PrivatePostfix(
            directory,
            remote=port,
            listeners=[Listener(_word(WITHOUT)), *(_listener(one) for one in contestants)],
            parameters={"smtpd_client_connection_count_limit": "0", "mydestination": ""},
            maps={"transport_maps": routes},
        )
        with mta:
            for one in contestants:
                _prove(mta, one, kept, key)
            yield mta


def _listener(one: Contestant) -> Listener:
    overrides = {"smtpd_milters": f"unix:{one.socket}", "milter_macro_daemon_name": "submission"}
    return Listener(_word(one.name), overrides)


def _word(name: str) -> str:
    """A contestant's name as a service of master.cf is called."""
    return name.lower().replace(" ", "-")


@contextlib.contextmanager
def _smtp_sink() -> Iterator[int]:
    """smtp-sink on a port of its own."""
    port = ports.free_port()
    user = ["-u", "postfix"] if os.geteuid() == 0 else []
    process = subprocess.Popen(
        [_SINK, *user, f"{ports.LOOPBACK}:{port}", "1024"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        yield port
    finally:
        process.terminate()
        process.wait()


def _prove(mta: PrivatePostfix, one: Contestant, kept: Sink, key: Key) -> None:
    kept.clear()
    author = f"user0001@{DOMAIN}"
    content = (
        f"From: {author}\r\nTo: reader@{_CHECKED}\r\nSubject: proof\r\n"
        f"Date: Thu, 15 Feb 2024 09:30:00 +0100\r\nMessage-ID: <proof@{DOMAIN}>\r\n\r\nYes.\r\n"
    )
    with mta.client(_word(one.name)) as client:
        sending = client.send(f"<{author}>", [f"<reader@{_CHECKED}>"], content.encode())
    if not sending.queue_id:
        raise PathBroken(f"Postfix refused the message for {one.name}: {sending}")
    turns.verify(one.name, kept.wait_for(1)[0].content, key)
    _note_accepted(one, 1)
    one.settle()


def _burst(
    mta: PrivatePostfix,
    name: str,
    contestant: Contestant | None,
    times: _Times,
) -> None:
    spent = _spent(mta, contestant)
    begun = time.monotonic()
    done = subprocess.run(
        [
            *(_SOURCE, "-d", "-s", str(SESSIONS), "-m", str(MESSAGES), "-l", str(OCTETS)),
            *("-f", f"user0001@{DOMAIN}", "-t", "reader@partner00.example"),
            f"{ports.LOOPBACK}:{mta.port(_word(name))}",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=_PATIENCE,
    )
    times.accepted.append(time.monotonic() - begun)
    if done.returncode or done.stderr:
        raise PathBroken(f"{name}: {done.stderr}")
    while _is_queued(mta):
        if time.monotonic() > begun + _PATIENCE:
            raise PathBroken(f"{name}: mail stays in the queue: {mta.queue()[:3]}")
        time.sleep(0.02)
    times.delivered.append(time.monotonic() - begun)
    after = _spent(mta, contestant)
    if contestant is not None:
        _note_accepted(contestant, MESSAGES)
        contestant.settle()
        after["milter"] = _milter_spent(contestant)  # what it puts off until then is its cost too
    times.cpu.append({who: seconds - spent[who] for who, seconds in after.items()})


def _spent(mta: PrivatePostfix, contestant: Contestant | None) -> dict[str, float]:
    """Seconds of CPU time so far: Postfix's, the milter's with its writer, and of all cores."""
    return {
        "postfix": processes.cpu_seconds(mta.pid),
        "milter": _milter_spent(contestant),
        "all": busy.used(),
    }


def _milter_spent(contestant: Contestant | None) -> float:
    return processes.cpu_seconds(contestant.pid) if contestant is not None else 0.0


def _note_accepted(one: Contestant, count: int) -> None:
    if isinstance(one, Carbonseal):
        one.accepted += count


def _is_queued(mta: PrivatePostfix) -> bool:
    """Whether Postfix still has mail; postqueue would ask its daemons, at their expense."""
    places = (mta.directory / "queue" / name for name in ("maildrop", "incoming", "active"))
    deferred = any((mta.directory / "queue/deferred").rglob("*[!0-9A-F]*"))
    return deferred or any(any(os.scandir(place)) for place in places)
