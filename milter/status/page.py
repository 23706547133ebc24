"""All that is seen of a relay at one moment: the page that metrics, health and status are made of.

Promises: `Looker.look` never raises and changes nothing but one probe file in the spool, which it
removes; one that a killed process left is removed when the next `Looker` begins.  What cannot be
seen stands on the page as a sentence.  `as_json` holds no address of a person or mailbox.

Does not: decide what is well (`policies.readiness`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import secrets
import socket
import stat
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from carbonseal.milter.config import Configuration
from carbonseal.milter.status import state_files, times, writer_report
from carbonseal.milter.status.board import Board, Crew
from carbonseal.milter.status.counters import Totals
from carbonseal.milter.status.key_look import KeyFacts, KeyLook, KeysSeen
from carbonseal.milter.status.spool_depth import Depth, SpoolDepth
from carbonseal.policies import quantity, readiness
from carbonseal.policies.readiness import Check, Reporter, Seen

RATE_SECONDS: Final = 60.0
_PROBE_OCTETS: Final = 4096
_PROBE: Final = re.compile(r"\.status-probe-[0-9a-f]{8}")
_LEFT_SECONDS: Final = 60.0  # a probe that is older is nobody's any more
_SHOWN_KEYS: Final = 20
_NOTHING: Final = Depth(0, 0, 0, None)
_TIMES: Final = ("since", "until")


@dataclass(frozen=True, slots=True)
class Rates:
    """What went by in the last minute, or since the start if that is less."""

    seconds: float
    messages: float  # a second
    signed: float
    refused: float  # tempfail and reject
    octets: float
    phases: Mapping[str, times.Times]


@dataclass(frozen=True, slots=True)
class CopyTrouble:
    """What the follower says of the archive copies, beside how each mailbox stands."""

    covered: int = 0  # mailboxes that fail and without which every copy still has a place
    diverted: int = 0  # mailboxes whose copies an alternate gets
    waiting: int = 0  # copies in the queue
    lost: int = 0  # copies, since the state was begun


@dataclass(frozen=True, slots=True)
class Page:
    """One look."""

    at: float  # Unix time
    relay: str
    version: str
    config_version: str
    is_dry_run: bool
    crew: Crew
    totals: Totals
    rates: Rates
    depth: Depth
    spool_limit: int
    spool_problem: str
    keys: KeysSeen
    writer: Mapping[str, Any]
    follower: Mapping[str, Any] | None
    copies: Mapping[str, int]  # state -> archive mailboxes in it
    copy_trouble: CopyTrouble
    failing_since: float | None
    completeness: Mapping[str, Any] | None
    seen: Seen

    @property
    def lag(self) -> float:
        """Seconds for which the oldest record waits for the database."""
        return self.depth.lag(self.at)

    def checks(self, age: float) -> tuple[Check, ...]:
        """What is well and what is not; `age`: seconds since this look."""
        return readiness.checks(dataclasses.replace(self.seen, age=age))

    def as_json(self, age: float = 0.0) -> dict[str, Any]:
        """The page for programs: plain values only."""
        found = self.checks(age)
        totals, rates, depth = self.totals, self.rates, self.depth
        return {
            "v": 1,
            "at": self.at,
            "relay": self.relay,
            "version": self.version,
            "config_version": self.config_version,
            "dry_run": self.is_dry_run,
            "ready": readiness.is_ready(found),
            "checks": [spoken(check) for check in found],
            "workers": dataclasses.asdict(self.crew),
            "connections": {"open": totals.open, "total": totals.connections},
            "messages": {
                "total": totals.answered,
                "by_crossing": _by(totals.messages, 0),
                "by_disposition": _by(totals.messages, 1),
                "signed": dict(totals.signed),
                "unsigned": _by(totals.unsigned, 0),
                "octets": totals.octets,
                "records_refused": totals.records_refused,
            },
            "rates": dataclasses.asdict(rates),
            "spool": {
                "octets": depth.octets,
                "limit": self.spool_limit,
                "segments": depth.segments,
                "records": depth.records,
                "lag": round(self.lag, 1),
                "problem": self.spool_problem,
            },
            "writer": dict(self.writer),
            "follower": None if self.follower is None else dict(self.follower),
            "copies": dict(self.copies),
            "copy_trouble": dataclasses.asdict(self.copy_trouble),
            "failing_since": self.failing_since,
            "keys": _shown_keys(self.keys),
            "completeness": self.completeness,
        }


def _copy_trouble(about: Mapping[str, Any]) -> CopyTrouble:
    told = about.get("recipients")
    recipients = {
        mailbox: one
        for mailbox, one in (told if isinstance(told, dict) else {}).items()
        if isinstance(one, dict)
    }
    named = about.get("alternates")
    alternates = set(map(str, named)) & recipients.keys() if isinstance(named, list) else set()
    failing = {mailbox for mailbox, one in recipients.items() if one.get("state") == "failing"}
    diverted = {one for one in failing - alternates if recipients[one].get("is_diverted") is True}
    is_any_well = bool(alternates - failing)
    # A failing alternate hurts nobody while those that it is there for are well, or another is.
    has_place = not failing - alternates or (is_any_well and diverted == failing - alternates)
    return CopyTrouble(
        covered=len(failing) if has_place else 0,
        diverted=len(diverted) if alternates else 0,
        waiting=sum(_whole(one.get("waiting")) for one in recipients.values()),
        lost=_whole(about.get("lost_in_all")),
    )


def _whole(value: object) -> int:
    return value if type(value) is int and value >= 0 else 0


def spoken(check: Check) -> dict[str, Any]:
    """One check for programs."""
    return {
        "name": check.name,
        "ok": check.is_ok,
        "needed": check.is_needed,
        "why": check.why,
        "remedy": check.remedy,
    }


def _by(counts: Mapping[tuple[str, str], int], part: int) -> dict[str, int]:
    found: dict[str, int] = {}
    for pair, count in counts.items():
        found[pair[part]] = found.get(pair[part], 0) + count
    return found


def _shown_keys(seen: KeysSeen) -> dict[str, Any]:
    signing = sorted((one for one in seen.keys if one.due_at is not None), key=_due)
    return {
        "signing": len(signing),
        "next": [dataclasses.asdict(one) for one in signing[:_SHOWN_KEYS]],
    }


def _due(one: KeyFacts) -> float:
    return one.due_at or 0.0


class Looker:
    """Looks at one relay again and again."""

    def __init__(self, configuration: Configuration, board: Board) -> None:
        self._configuration = configuration
        self._board = board
        spool = configuration.spool_directory
        self._spool = spool
        self._depth = SpoolDepth(spool)
        rules = configuration.signing.rules
        self._keys = KeyLook(
            configuration.keys_directory,
            spool,
            by_rule=frozenset(rule.sdid for rule in rules if rule.sdid is not None),
            lifetime=configuration.rotation.lifetime,
        )
        self._history: deque[tuple[float, Totals]] = deque()
        self._last: Totals | None = None  # of the look before
        self._version = metadata.version("carbonseal")
        self._relay = configuration.file.record.relay or socket.gethostname()
        with contextlib.suppress(OSError):
            _sweep(spool)

    def look(self) -> Page:
        """What is seen now."""
        now = time.time()
        crew, totals = self._board.crew(), self._board.totals()
        writer = self._read(writer_report.NAME)
        follower = self._read("follow")
        problem = probe(self._spool)
        try:
            depth = self._depth.look(writer_report.said(writer))
        except OSError as fault:
            depth, problem = _NOTHING, problem or f"{self._spool}: {fault.strerror}"
        limit = self._configuration.file.record.spool_limit
        # Beyond the limit all are refused as well, and that is said as such.
        if depth.octets <= limit:
            problem = problem or self._refusals(totals)
        self._last = totals
        keys = self._keys.look()
        copies, since, unread = self._copies()
        trouble = _copy_trouble(self._read("copies"))
        unsigned, weakened = readiness.troubles(keys.signers)
        if keys.problem:
            unsigned = {"any domain": keys.problem}
        has_follower = state_files.exists(self._spool, "follow")
        seen = Seen(
            wanted=crew.wanted,
            serving=crew.serving,
            running=max(0.0, now - crew.started_at),
            stuck=crew.stuck,
            unsigned=unsigned,
            weakened=weakened,
            spool_problem=problem,
            spool_octets=depth.octets,
            spool_limit=limit,
            copies=sum(copies.values()),
            failing=copies.get("failing", 0),
            covered=trouble.covered,
            failing_for=0.0 if since is None else max(0.0, now - since),
            copies_problem=unread,
            evidence_problem=_text(writer.get("evidence_problem")),
            writer=_reporter(writer, "trouble", now),
            lag=depth.lag(now),
            follower=_reporter(follower, "problem", now) if has_follower else None,
        )
        return Page(
            at=now,
            relay=self._relay,
            version=self._version,
            config_version=self._configuration.version,
            is_dry_run=self._configuration.file.milter.dry_run,
            crew=crew,
            totals=totals,
            rates=self._rates(totals),
            depth=depth,
            spool_limit=limit,
            spool_problem=problem,
            keys=keys,
            writer={name: value for name, value in writer.items() if name != "progress"},
            follower=_without(follower, "position", "last_queue_id", "unread_example")
            if has_follower
            else None,
            copies=copies,
            copy_trouble=trouble,
            failing_since=since,
            completeness=_plain(state_files.read(self._spool, "completeness")),
            seen=seen,
        )

    def _refusals(self, totals: Totals) -> str:
        """Whether no message since the last look could be put on record, as a sentence.

        The workers may fail where a small file can still be written.
        """
        last = self._last
        if last is None:
            return ""
        refused = totals.records_refused - last.records_refused
        if not refused or refused < totals.answered - last.answered:
            return ""
        return f"{self._spool}: the last {quantity.of(refused, 'message')} could not be recorded"

    def _read(self, name: str) -> dict[str, Any]:
        return state_files.read(self._spool, name) or {}

    def _copies(self) -> tuple[dict[str, int], float | None, str]:
        """Archive mailboxes by state, since when the first fails, and why nothing is known."""
        if not state_files.exists(self._spool, "copies"):
            return {}, None, ""
        about = state_files.read(self._spool, "copies")
        recipients = None if about is None else about.get("recipients")
        if not isinstance(recipients, dict):
            path = self._spool / state_files.FOLDER / "copies.json"
            return {}, None, f"{path}: it cannot be read"
        found = {"ok": 0, "failing": 0}
        since: list[float] = []
        for one in recipients.values():
            is_failing = isinstance(one, dict) and one.get("state") == "failing"
            found["failing" if is_failing else "ok"] += 1
            if is_failing and isinstance(one.get("since"), int | float):
                since.append(float(one["since"]))
        return found, min(since, default=None), ""

    def _rates(self, totals: Totals) -> Rates:
        now = time.monotonic()
        self._history.append((now, totals))
        # One reading older than a minute is kept, so that the rate is always over one.
        while len(self._history) > 2 and now - self._history[1][0] >= RATE_SECONDS:
            self._history.popleft()
        then, before = self._history[0]
        seconds = now - then

        def rate(after: float, early: float) -> float:
            return round((after - early) / seconds, 3) if seconds > 0 else 0.0

        found = {
            name: times.between(before.phases[name], totals.phases[name]) for name in totals.phases
        }
        return Rates(
            round(seconds, 1),
            rate(totals.answered, before.answered),
            rate(sum(totals.signed.values()), sum(before.signed.values())),
            rate(_refused(totals), _refused(before)),
            rate(totals.octets, before.octets),
            {name: one for name, one in found.items() if one is not None},
        )


def _refused(totals: Totals) -> int:
    return sum(count for (_, answer), count in totals.messages.items() if answer != "accept")


def _reporter(about: Mapping[str, Any], trouble: str, now: float) -> Reporter:
    at = about.get("at")
    age = max(0.0, now - at) if isinstance(at, int | float) else None
    return Reporter(age, _text(about.get(trouble)))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _without(about: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in about.items() if name not in names}


def _plain(about: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The numbers of a report and the times it is about, none of what it lists."""
    if about is None:
        return None
    return {
        name: value
        for name, value in about.items()
        if isinstance(value, int | float) or (name in _TIMES and isinstance(value, str))
    }


def _sweep(spool: Path) -> None:
    """Remove the probes of processes that were killed meanwhile.  Raises: OSError."""
    before = time.time() - _LEFT_SECONDS
    with os.scandir(spool) as entries:
        found = [entry for entry in entries if _PROBE.fullmatch(entry.name)]
    for entry in found:
        about = entry.stat(follow_symlinks=False)
        if stat.S_ISREG(about.st_mode) and about.st_mtime < before:
            os.unlink(entry.path)


def probe(spool: Path) -> str:
    """Why nothing can be written in the spool; '' when it can."""
    path = spool / f".status-probe-{secrets.token_hex(4)}"
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            if os.write(handle, bytes(_PROBE_OCTETS)) < _PROBE_OCTETS:
                return f"{spool}: its file system is full"
        finally:
            os.close(handle)
            with contextlib.suppress(OSError):
                os.unlink(path)
    except OSError as fault:
        return f"{spool}: nothing can be written there ({fault.strerror})"
    return ""
