"""The follower: reads the log for ever, and puts what it says of messages into the spool.

Promises: a fact that was read is in the spool, durable, before the position counts as read; who is
killed goes on exactly there.  Facts wait a second at most, and memory is bounded.  What it cannot
read is counted, the first example kept, and it goes on.  While the spool is half full of what waits
for the database, it waits as well: the log keeps what the spool has no room for, and the mail needs
the rest.  A log that goes away is waited for, said once, and said once more when it is back.

Raises: LogUnreadable at the start and with `once`; `FollowerRuns` when another one follows into
this spool.

Does not: know SQL (the writer loads event lines), or what is expected of a message.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Protocol

from carbonseal.milter import log
from carbonseal.milter.archive import spool
from carbonseal.milter.follow import milter_faults, position, postfix_line
from carbonseal.milter.follow.doubt import Doubt
from carbonseal.milter.follow.gathering import Gathering
from carbonseal.milter.follow.milter_faults import MilterFaults
from carbonseal.milter.follow.position import Position
from carbonseal.milter.follow.taken import LogUnreadable, Mark, Place, Source, Taken
from carbonseal.milter.status import state_files
from carbonseal.policies.errors import TryLater

_POLL: Final = 0.2  # seconds
_FLUSH_SECONDS: Final = 1.0
_TEND_SECONDS: Final = 1.0
_STATE_SECONDS: Final = 3.0
_RETRY_SECONDS: Final = 1.0
_PROVEN_SECONDS: Final = 3.0  # journalctl takes a moment until it complains
_LONGEST: Final = 16384  # octets of a line; Postfix cuts at 2,000, rsyslog at 8,192
_EXAMPLE: Final = 400  # characters of a line that is kept as an example
_LOCK: Final = "follow.lock"


class FollowerRuns(TryLater):
    """Another follower writes into this spool."""


class Stop(Protocol):
    """When to stop, as a threading.Event says it."""

    def is_set(self) -> bool:
        """Whether to stop."""


class Watch(Protocol):
    """Somebody who listens to what the log says (`copies.watching`)."""

    def take(self, said: postfix_line.Said) -> None:
        """One line's facts, in the order of the log."""

    def save(self) -> None:
        """What was taken must not be told again."""

    def tend(self, *, is_behind: bool) -> None:
        """To be called often; `is_behind`: there is more of the log than was read."""

    def close(self) -> None:
        """The follower leaves."""


MakeSource = Callable[[Position | None], Source]


@dataclass(slots=True)
class Counts:
    """What was read since the file of the position was begun."""

    lines: int = 0
    facts: int = 0
    unread: int = 0
    unread_example: str | None = None
    last_queue_id: str | None = None

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Counts:
        """As a state says it."""

        def count(name: str) -> int:
            value = state.get(name)
            return value if type(value) is int and value >= 0 else 0

        def text(name: str) -> str | None:
            value = state.get(name)
            return value if isinstance(value, str) else None

        return cls(
            lines=count("lines"),
            facts=count("facts"),
            unread=count("unread"),
            unread_example=text("unread_example"),
            last_queue_id=text("last_queue_id"),
        )


@dataclass(slots=True)
class Follower:
    """One log, one spool."""

    make_source: MakeSource
    spool_directory: Path
    spool: spool.Spool
    gathering: Gathering
    limit: int | None = None  # octets that may wait in the spool
    once: bool = False
    keeps_position: bool = True
    watch: Watch | None = None
    clock: Callable[[], float] = time.time
    counts: Counts = field(default_factory=Counts)
    milter_faults: MilterFaults = field(default_factory=MilterFaults)
    _source: Source | None = None
    _held: Taken | None = None  # lines that were taken and not taken in
    _place: Place | None = None
    _end: Mark = 0
    _turn: int = 0
    _position: Position | None = None
    _last_at: str | None = None
    _flush_at: float | None = None  # by the monotonic clock; None: nothing waits
    _tend_at: float = 0.0
    _state_at: float = 0.0
    _trouble: str | None = None
    _proven_at: float = (
        0.0  # by the monotonic clock: a log of which nothing comes is well from here
    )
    _doubt: Doubt = field(default_factory=Doubt)
    _doubted: str | None = None
    _unwritten: str = ""  # why the state could not be written
    _was_idle: bool = False  # the end of the log was reached: what comes next was written just now

    def run(self, stop: Stop) -> None:
        """Follow until `stop`, or with `once` to the end.  Raises: TryLater."""
        if self.keeps_position:
            self._position = position.newest(self.spool_directory)
            self._turn = 0 if self._position is None else self._position.turn
            state = position.read(self.spool_directory)
            self.counts = Counts.of(state)
            self.milter_faults = MilterFaults.of(state)
        self._source = self.make_source(self._position)
        where = self._source.where()
        if where is not None:
            # Written down at once: a rotation before the first line must not make us begin anew.
            self._place, self._end = where
            self._keep_position()
        try:
            while not (stop.is_set() or self._is_finished()):
                self._advance(stop)
            self._flush()
            self._note()
        finally:
            if self.watch is not None:
                self.watch.close()
            if self._source is not None:
                self._source.close()
            self.spool.close()

    def _is_finished(self) -> bool:
        return self._source is not None and self._source.is_finished

    def _advance(self, stop: Stop) -> None:
        """One look at the log, and what is due beside it."""
        try:
            self._tend()
            if self._is_due():
                self._flush()  # first: what cannot be written must not become more
            is_idle = not self._read_on()
        except (LogUnreadable, spool.SpoolUnwritable) as fault:
            if self.once:
                raise
            if isinstance(fault, LogUnreadable):
                self._lose_source()
            self._wait_after(fault, stop)
            return
        if not is_idle or time.monotonic() >= self._proven_at:
            self._say_well()
        if is_idle and self._source is not None and not self._source.is_finished:
            self._source.wait(_POLL)

    def _read_on(self) -> bool:
        """Take in the next lines; whether there were any."""
        if self._source is None:
            self._source = self.make_source(self._position)
            self._proven_at = time.monotonic() + _PROVEN_SECONDS
        if self._held is None:
            self._held = self._source.take()
        if self._held is None:
            self._was_idle = self._source is not None and not self.once
            return False
        self._digest(self._held)
        self._held = None
        self._was_idle = False
        return True

    def _digest(self, taken: Taken) -> None:
        if taken.place is not self._place:
            self._flush()  # marks are good for one place only
        self._place = taken.place
        read, add = postfix_line.read, self.gathering.add
        for mark, at, service, octets in taken.entries:
            text = octets.decode("utf-8", "surrogateescape")
            try:
                if len(octets) > _LONGEST:
                    raise postfix_line.Unread("it is longer than any line of Postfix")
                said = read(at, service, text)
            except postfix_line.Unread as fault:
                self._count_unread(service, text, fault)
            else:
                if said:
                    add(mark, said, len(octets))
                    if self.watch is not None:
                        self.watch.take(said)
                elif text.startswith(milter_faults.START):
                    self.milter_faults.take(at, service, text)
        self._end = taken.end
        self._account(taken)

    def _account(self, taken: Taken) -> None:
        self.counts.lines += taken.lines
        self._doubt.take(taken.lines, len(taken.entries))
        if taken.entries:
            self._last_at = taken.entries[-1][1]
            if self._was_idle and self._source is not None and not self._source.is_behind:
                self._doubt.is_fresh(self._last_at, self.clock())
        if self.gathering.facts == 0:
            self._keep_position()
        elif self._flush_at is None:
            self._flush_at = time.monotonic() + _FLUSH_SECONDS

    def _count_unread(self, service: str, text: str, fault: postfix_line.Unread) -> None:
        self.counts.unread += 1
        if self.counts.unread_example is None:
            self.counts.unread_example = f"{service}: {text[:_EXAMPLE]} ({fault})"
            log.warning("log-line-unread", service=service, line=text[:_EXAMPLE], why=str(fault))

    def _is_due(self) -> bool:
        if self.gathering.is_full:
            return True
        return self._flush_at is not None and time.monotonic() >= self._flush_at

    def _flush(self) -> None:
        """Let what was gathered be on disk.  Raises: SpoolUnwritable."""
        if self.gathering.facts == 0:
            return
        assert self._place is not None
        if self.watch is not None:
            self.watch.save()
        lines = self.gathering.lines(self._place, self._end, self._turn + 1)
        self.spool.put_all(lines)
        self._turn += 1
        self.counts.facts += self.gathering.facts
        self.counts.last_queue_id = self.gathering.last_queue_id
        self.gathering.clear()
        self._flush_at = None
        self._keep_position()

    def _keep_position(self) -> None:
        if self._place is not None:
            self._position = Position(self._turn, self._place.source(self._end))

    def _tend(self) -> None:
        """What is due once in a while.  Raises: SpoolUnwritable while it is half full."""
        now = time.monotonic()
        if self.watch is not None:
            self.watch.tend(is_behind=self._source is not None and self._source.is_behind)
        if now >= self._state_at:
            self._state_at = now + _STATE_SECONDS
            if self._source is not None:
                self._doubt.name(self._source.lost_name(), now)
            self._say_doubt()
            self._note()
        if now < self._tend_at:
            return
        self._tend_at = now + _TEND_SECONDS
        self.spool.tend()
        if self.limit is None or spool.waiting_bytes(self.spool_directory) <= self.limit // 2:
            return
        self._tend_at = 0.0
        raise spool.SpoolUnwritable(
            f"{self.spool_directory}: the spool is half full of what waits for the database; mend "
            "the writer or raise record.spool_limit"
        )

    def _note(self) -> None:
        """Write down how far we are, for the next start and for `status`."""
        if not self.keeps_position:
            return
        try:
            position.write(self.spool_directory, self._state())
        except OSError as fault:
            # Without the name that failed, which is a new one each time: one fault is said once.
            problem = f"{self.spool_directory / state_files.FOLDER}: {fault.strerror}"
            if problem != self._unwritten:
                log.warning("follow-state-unwritten", problem=problem)
            self._unwritten = problem
        else:
            self._unwritten = ""

    def _state(self) -> dict[str, Any]:
        where = self._position
        return {
            "at": self.clock(),
            "position": None if where is None else {"turn": where.turn, **where.source},
            "lag": self._lag(),
            "lines": self.counts.lines,
            "facts": self.counts.facts,
            "unread": self.counts.unread,
            "unread_example": self.counts.unread_example,
            "last_queue_id": self.counts.last_queue_id,
            "milter_faults": self.milter_faults.told(),
            "problem": self._trouble or self._doubted,
        }

    def _lag(self) -> float:
        """Seconds between now and the last line that was read; 0 when all were."""
        if self._source is not None and not self._source.is_behind and self._trouble is None:
            return 0.0
        if self._last_at is None:
            return 0.0
        return max(0.0, round(self.clock() - datetime.fromisoformat(self._last_at).timestamp(), 1))

    def _lose_source(self) -> None:
        """Give up the log for now.  Where it went for good, what was read of it must not go."""
        try:
            self._flush()
        except spool.SpoolUnwritable:
            pass  # what waits is read again, if it can be; twice changes nothing
        source, self._source = self._source, None
        self._was_idle = False
        if source is not None:
            source.close()

    def _wait_after(self, fault: TryLater, stop: Stop) -> None:
        if fault.sentence != self._trouble:
            log.warning("follow-waits", problem=fault.sentence)
            self._trouble = fault.sentence
        until = time.monotonic() + _RETRY_SECONDS
        while time.monotonic() < until and not stop.is_set():
            time.sleep(_POLL)

    def doubt(self) -> str | None:
        """What is wrong with a log of which all was read."""
        return self._doubt.sentence(self.counts.facts, least=1)

    def _say_doubt(self) -> None:
        """Once, until it is another or none; whoever looks at the state sees it all the time."""
        found = self._doubt.sentence(self.counts.facts)
        if found is not None and self._doubted is None:
            log.warning("log-doubtful", problem=found)
        self._doubted = found

    def _say_well(self) -> None:
        if self._trouble is not None:
            log.event("follow-goes-on", after=self._trouble)
            self._trouble = None


@contextmanager
def alone(spool_directory: Path) -> Iterator[None]:
    """One follower at a time.  Raises: FollowerRuns, TryLater."""
    try:
        path = spool_directory / _LOCK
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as fault:
        raise TryLater(
            f"{spool_directory}: cannot open the spool ({fault.strerror}); check record.spool and "
            "its permissions"
        ) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FollowerRuns(
                f"{spool_directory}: another follower writes into this spool; stop it first, or "
                "leave the log to it"
            ) from None
        yield
    finally:
        os.close(handle)
