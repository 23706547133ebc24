"""Is the relay ready for mail, and if not, why and what is to be done.

Promises: `checks` names every check, the good ones too, always in the same order.  A check that is
needed and not good makes the relay unready; any other only degrades it: mail flows, and somebody
should look.  The database is of the second kind, because records wait in the spool while it is
down; the copy for the archive is of the first, because copies are lost with every message, unless
an alternate takes them.

`why` and `remedy` name files, domains and numbers, never an address of a person or a mailbox.

Does not: look at anything; it is told.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from carbonseal.policies import quantity

SILENT = 30.0  # seconds after which a process that writes down how it is counts as gone
SIGHT = 15.0  # seconds after which what was seen is too old to go by
TAKE_UP = 5.0  # seconds in which workers surely sign with a key that was activated
_NAMED = 3  # domains spelled out in a sentence


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    is_ok: bool = True
    why: str = ""
    remedy: str = ""
    is_needed: bool = True  # for the relay to be ready


@dataclass(frozen=True, slots=True)
class Reporter:
    """Another process that writes down how it is."""

    age: float | None = None  # seconds since it last did; None: it never did
    trouble: str = ""  # what it waits for


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was looked at."""

    age: float = 0.0  # seconds since
    wanted: int
    serving: int
    running: float = math.inf  # seconds since the service was started
    stuck: int = 0  # of those that serve, those whose mail does not go on
    unsigned: Mapping[str, str] = field(default_factory=dict)  # domain -> why it cannot sign
    weakened: Mapping[str, str] = field(default_factory=dict)  # domain -> what is wrong beside
    spool_problem: str = ""  # why nothing can be written there
    spool_octets: int = 0
    spool_limit: int
    copies: int = 0  # mailboxes of the archive whose copies are followed
    failing: int = 0  # of these, those whose copies do not arrive
    covered: int = 0  # of these, those without which every copy still has a place: an alternate's
    failing_for: float = 0.0  # seconds, the longest
    copies_problem: str = ""  # why nothing is known about them
    evidence_problem: str = ""
    writer: Reporter = Reporter()
    lag: float = 0.0  # seconds: the age of the oldest record that waits
    follower: Reporter | None = None  # None: none is configured, none ever ran


def is_ready(found: Collection[Check]) -> bool:
    """Whether nothing that is needed is wrong."""
    return all(check.is_ok or not check.is_needed for check in found)


def checks(seen: Seen) -> tuple[Check, ...]:
    """Every check, in a fixed order."""
    return (
        sight(seen.age),
        _workers(seen),
        _signing(seen),
        _spool(seen),
        _spool_limit(seen),
        _copy(seen),
        _evidence(seen),
        _keys(seen),
        _writer(seen),
        _database(seen),
        _follower(seen),
    )


def sight(age: float, *, has_left: bool = False) -> Check:
    """Whether what was seen that many seconds ago is still worth something."""
    if has_left:
        return Check("sight", is_ok=False, why="the service has stopped", remedy="start it")
    if age <= SIGHT:
        return Check("sight")
    return Check(
        "sight",
        is_ok=False,
        why=f"nobody has looked for {age:.0f} s, so nothing below is certain",
        remedy="see whether the service runs and whether the spool's disk answers and has room",
    )


def _unless(name: str, problem: str, remedy: str, *, is_needed: bool = True) -> Check:
    """Well, as long as there is no problem."""
    if not problem:
        return Check(name, is_needed=is_needed)
    return Check(name, is_ok=False, why=problem, remedy=remedy, is_needed=is_needed)


def _workers(seen: Seen) -> Check:
    living = seen.serving - seen.stuck
    if living > 0:
        return Check("workers")
    workers = quantity.of(seen.wanted, "worker")
    why, remedy = f"none of {workers} serves", "the log says why they die; see child-died there"
    if seen.stuck:
        why = f"{seen.stuck} of {workers} hang, and no other serves"
        remedy = "see whether the spool's disk answers; mail-held-up in the log says where they are"
    return Check("workers", is_ok=False, why=why, remedy=remedy)


def _signing(seen: Seen) -> Check:
    if not seen.unsigned:
        return Check("signing")
    return Check(
        "signing",
        is_ok=False,
        why=f"no usable key for {_spelled(seen.unsigned)}",
        remedy="restore the key file, or make a key with carbonseal keys generate",
    )


def _keys(seen: Seen) -> Check:
    remedy = "carbonseal keys status names every key"
    return _unless("keys", _spelled(seen.weakened), remedy, is_needed=False)


def _spelled(about: Mapping[str, str]) -> str:
    first = [f"{sdid} ({why})" for sdid, why in sorted(about.items())[:_NAMED]]
    more = len(about) - len(first)
    return ", ".join(first) + (f" and {more} more" if more > 0 else "")


def _spool(seen: Seen) -> Check:
    remedy = "see that the directory is there, writable for the service, and has room"
    return _unless("spool", seen.spool_problem, remedy)


def _spool_limit(seen: Seen) -> Check:
    if seen.spool_octets <= seen.spool_limit:
        return Check("spool-limit")
    return Check(
        "spool-limit",
        is_ok=False,
        why=(
            f"{seen.spool_octets} octets of records wait for the database,"
            f" the limit is {seen.spool_limit}"
        ),
        remedy="mend the writer or its database, or raise record.spool_limit",
    )


def _copy(seen: Seen) -> Check:
    if seen.copies_problem:
        return Check(
            "archive-copy",
            is_ok=False,
            why=seen.copies_problem,
            remedy="remove the file; whoever follows the copies writes it anew",
            is_needed=False,
        )
    if not seen.failing:
        return Check("archive-copy")
    is_covered = seen.covered >= seen.failing
    return Check(
        "archive-copy",
        is_ok=False,
        why=(
            f"copies to {seen.failing} of"
            f" {quantity.of(seen.copies, 'archive mailbox', 'archive mailboxes')} fail, for"
            f" {seen.failing_for:.0f} s now"
            + ("; new ones go to others that are well" if is_covered else "")
        ),
        remedy=(
            "carbonseal archive copies lists what waits or is lost; see Postfix's log and the"
            " archive's host"
        ),
        is_needed=not is_covered,
    )


def _evidence(seen: Seen) -> Check:
    remedy = "restore the evidence key from its backup; see docs/archive.md"
    return _unless("evidence", seen.evidence_problem, remedy)


def _is_silent(reporter: Reporter, seen: Seen) -> bool:
    """Whether it should have spoken by now; what starts with the service may take its time."""
    age = math.inf if reporter.age is None else reporter.age
    return min(age, seen.running) > SILENT


def _writer(seen: Seen) -> Check:
    age = seen.writer.age
    if not _is_silent(seen.writer, seen):
        return Check("writer", is_needed=False)
    heard = "has never been heard of" if age is None else f"was last heard of {age:.0f} s ago"
    return Check(
        "writer",
        is_ok=False,
        why=f"the writer {heard}; records wait in the spool, the oldest for {seen.lag:.0f} s",
        remedy="start carbonseal-writer, or see its log",
        is_needed=False,
    )


def _database(seen: Seen) -> Check:
    if not seen.writer.trouble:
        return Check("database", is_needed=False)
    return Check(
        "database",
        is_ok=False,
        why=f"{seen.writer.trouble} (the oldest record waits for {seen.lag:.0f} s)",
        remedy="mail flows and nothing is lost; mend the database before the spool is full",
        is_needed=False,
    )


def _follower(seen: Seen) -> Check:
    follower = seen.follower
    if follower is None:
        return Check("follower", is_needed=False)
    remedy = "start carbonseal-follow, or see its log; it goes on where it stopped"
    if _is_silent(follower, seen):
        age = follower.age
        heard = "has never been heard of" if age is None else f"was last heard of {age:.0f} s ago"
        why = f"the follower of Postfix's log {heard}"
    elif follower.trouble:
        why = follower.trouble
        remedy = "it goes on by itself where it stopped, once that is mended"
    else:
        return Check("follower", is_needed=False)
    return Check(
        "follower",
        is_ok=False,
        why=why,
        remedy=remedy,
        is_needed=False,
    )


@dataclass(frozen=True, slots=True)
class Signers:
    """What is known of the keys, by signing domain."""

    by_rule: frozenset[str]  # domains that signing.rules names
    active: Mapping[str, tuple[str, ...]]  # domain -> selectors of its active keys
    held: frozenset[str]  # 'sdid/selector' of the keys that the workers sign with
    problems: Mapping[str, str] = field(default_factory=dict)  # 'sdid/selector' -> of its file
    refused: Mapping[str, str] = field(default_factory=dict)  # 'sdid/selector' -> wrong in DNS
    records: Mapping[str, str] = field(default_factory=dict)  # domain -> an unreadable record
    fresh: frozenset[str] = frozenset()  # 'sdid/selector' of the active ones newer than `TAKE_UP`


def troubles(known: Signers) -> tuple[dict[str, str], dict[str, str]]:
    """Domains that must sign and cannot, and those that can with a part of their keys only.

    A key is usable if the workers hold it and its file is still there to be read by those that
    start after them: else the next restart would be the end of it.  One that was activated moments
    ago is well without being held while they sign with another of its domain, its predecessor:
    they take it up within a second, and no mail goes unsigned until then.
    """
    unsigned: dict[str, str] = {}
    weakened: dict[str, str] = {}
    signing = {name.rpartition("/")[0] for name in known.held}
    for sdid in sorted(known.by_rule | known.active.keys() | known.records.keys()):
        selectors = known.active.get(sdid, ())
        awaited = known.fresh if sdid in signing else frozenset[str]()
        wrong = list(_wrong(sdid, selectors, known, awaited))
        if sdid in known.records:
            wrong.append(known.records[sdid])
        if len(wrong) - (sdid in known.records) >= len(selectors):
            unsigned[sdid] = "; ".join(wrong) or "it has no active key"
        elif wrong:
            weakened[sdid] = "; ".join(wrong)
    return unsigned, weakened


def _wrong(
    sdid: str, selectors: tuple[str, ...], known: Signers, awaited: frozenset[str]
) -> Iterator[str]:
    for selector in selectors:
        name = f"{sdid}/{selector}"
        if name in known.refused:
            yield f"{selector} may not sign: {known.refused[name]}"
        elif name in known.problems:
            yield known.problems[name]
        elif name not in known.held and name not in awaited:
            yield f"no worker holds {selector}"
