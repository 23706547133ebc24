"""A mail sink of bad moods: refuses, defers, hangs up and vanishes, and writes down what it did.

Promises: what happens to a recipient depends on the seed, the reverse-path, the recipient and how
often it was tried, and on nothing else; a hang-up takes those with it that share the transaction.
Every few hundred connections nothing listens for a second.  The journal has one line for each end
of each attempt, written before the client can know of it: reverse-path, recipient, port and what
became of it:
    taken       250 after the data
    refused     a 5yz reply        deferred    a 4yz reply
    lost        the connection went away and nobody has the message
    unanswered  taken, and the connection went away before the reply

Runs in a process of its own: `python -m support.random_sink SEED JOURNAL PORT ...`; TERM ends it.

Does not: treat notifications badly (null reverse-path): they are always taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from support import ports
from support.background import Background

TAKEN, REFUSED, DEFERRED, LOST, UNANSWERED = "taken", "refused", "deferred", "lost", "unanswered"

# What a recipient meets, how often of a thousand, and for how many attempts before it is taken.
_FATES = (
    ("take", 700, 0),
    ("refuse", 80, 99),
    ("refuse data", 30, 99),
    ("defer", 60, 1),
    ("defer", 20, 99),
    ("defer data", 40, 1),
    ("hang up", 30, 1),
    ("hang up in data", 20, 1),
    ("hang up after data", 20, 1),
)
_REPLIES = {
    "refuse": "550 5.1.1 nobody, status=sent (ok)",
    "defer": "451 4.3.0 later, to=<x>, status=sent",
    "refuse data": "554 5.7.1 not such mail",
    "defer data": "452 4.3.1 no room",
}
_VANISH_AFTER = (300, 700)  # connections
_VANISH_FOR = (0.3, 1.5)  # seconds
_PATIENCE = 5.0  # seconds for the client to see that we hang up


class RandomSink:
    """The sink's process; a context manager."""

    def __init__(self, seed: int, directory: Path, *, count: int = 2) -> None:
        self.ports = tuple(ports.free_port() for _ in range(count))
        self._journal = directory / "sink.journal"
        command = [sys.executable, "-m", "support.random_sink", str(seed), self._journal]
        self._process = Background(
            [*command, *map(str, self.ports)],
            directory / "sink.log",
            lambda: "listening\n" in self._process.log(),
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        )

    def __enter__(self) -> Self:
        self._process.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._process.__exit__(kind, error, at)

    def journal(self) -> dict[tuple[str, str], list[str]]:
        """What became of each (reverse-path, recipient), attempt by attempt."""
        found: dict[tuple[str, str], list[str]] = {}
        for line in self._journal.read_text().splitlines():
            reverse_path, recipient, _, outcome = json.loads(line)
            found.setdefault((reverse_path, recipient), []).append(outcome)
        return found


def fate(seed: int, reverse_path: str, recipient: str, attempt: int) -> str:
    """What this attempt, the first being 0, meets."""
    if not reverse_path:
        return "take"
    drawn = random.Random(f"{seed}|{reverse_path}|{recipient}".lower()).randrange(1000)
    for name, share, attempts in _FATES:
        if drawn < share:
            return name if attempt < attempts else "take"
        drawn -= share
    return "take"


class _HangUp(Exception):
    """Without a further word."""


@dataclass(slots=True)
class _Process:
    """All ports."""

    seed: int
    journal: TextIO
    attempts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def note(self, reverse_path: str, recipient: str, port: int, outcome: str) -> None:
        self.journal.write(json.dumps([reverse_path, recipient, port, outcome]) + "\n")
        self.journal.flush()

    def draw(self, reverse_path: str, recipient: str) -> str:
        key = reverse_path, recipient
        drawn = fate(self.seed, reverse_path, recipient, self.attempts[key])
        self.attempts[key] += 1
        return drawn

    async def serve(self, port: int) -> None:
        rng = random.Random(f"{self.seed}|{port}")
        while True:
            left = rng.randint(*_VANISH_AFTER)
            gone = asyncio.Event()

            async def serve(
                reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gone: Any = gone
            ) -> None:
                nonlocal left
                left -= 1
                if left <= 0:
                    gone.set()
                await _Dialogue(self, port, reader, writer).run()

            server = await asyncio.start_server(serve, ports.LOOPBACK, port, backlog=512)
            await gone.wait()
            server.close()
            await asyncio.sleep(rng.uniform(*_VANISH_FOR))


@dataclass(slots=True)
class _Dialogue:
    """One connection."""

    process: _Process
    port: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    reverse_path: str = ""
    recipients: dict[str, str] = field(default_factory=dict)  # accepted ones and their fates

    async def run(self) -> None:
        try:
            self._say("220 sink.example ESMTP")
            while line := await self.reader.readline():
                await self._obey(line.decode("utf-8", "surrogateescape").rstrip("\r\n"))
        except (_HangUp, ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._end(LOST)
            await self._close()

    async def _close(self) -> None:
        # Closed with octets unread, the kernel would throw away the replies that were given before.
        with contextlib.suppress(OSError, TimeoutError):
            self.writer.write_eof()
            async with asyncio.timeout(_PATIENCE):
                while await self.reader.read(65_536):
                    pass
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    async def _obey(self, line: str) -> None:
        verb = line[:4].upper()
        if verb in ("EHLO", "HELO"):
            self._say("250-sink.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 DSN")
        elif verb == "MAIL":
            self.reverse_path = _path(line)
            self.recipients = {}
            self._say("250 2.1.0 Ok")
        elif verb == "RCPT":
            self._rcpt(_path(line))
        elif verb == "DATA":
            await self._data()
        elif verb == "QUIT":
            self._say("221 2.0.0 Bye")
            raise _HangUp
        else:
            self._end(LOST)
            self._say("250 2.0.0 Ok")

    def _rcpt(self, recipient: str) -> None:
        drawn = self.process.draw(self.reverse_path, recipient)
        if drawn in ("refuse", "defer"):
            self._note(recipient, REFUSED if drawn == "refuse" else DEFERRED)
            self._say(_REPLIES[drawn])
            return
        self.recipients[recipient] = drawn
        if drawn == "hang up":
            raise _HangUp
        self._say("250 2.1.5 Ok")

    async def _data(self) -> None:
        if not self.recipients:
            self._say("554 5.5.1 No valid recipients")
            return
        self._say("354 End data with <CR><LF>.<CR><LF>")
        fates = set(self.recipients.values())
        if "hang up in data" in fates:
            raise _HangUp
        await self.reader.readuntil(b"\r\n.\r\n")
        if "hang up after data" in fates:
            self._end(UNANSWERED)
            raise _HangUp
        for drawn, outcome in (("refuse data", REFUSED), ("defer data", DEFERRED)):
            if drawn in fates:
                self._end(outcome)
                self._say(_REPLIES[drawn])
                return
        self._end(TAKEN)
        self._say("250 2.0.0 Ok")

    def _end(self, outcome: str) -> None:
        for recipient in self.recipients:
            self._note(recipient, outcome)
        self.recipients = {}

    def _note(self, recipient: str, outcome: str) -> None:
        self.process.note(self.reverse_path, recipient, self.port, outcome)

    def _say(self, text: str) -> None:
        self.writer.write(f"{text}\r\n".encode())


def _path(line: str) -> str:
    return line[line.index("<") + 1 : line.rindex(">")]


async def _main(seed: int, journal: Path, numbers: list[int]) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    with journal.open("a") as stream:
        process = _Process(seed, stream)
        tasks = [asyncio.create_task(process.serve(number)) for number in numbers]
        await asyncio.sleep(0)
        print("listening", flush=True)
        await stop.wait()
        for task in tasks:
            task.cancel()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), Path(sys.argv[2]), list(map(int, sys.argv[3:]))))
