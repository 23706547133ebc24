"""Is the archive what the relays have sealed?  All checks together.

In this order: the seals to themselves, to the relay's own chain and to what people noted
(`chain_check`); the audit; time stamps; every record (`record_check`) and every event line
(`delivery_check`); the segments that are still
in loaded/ (`copy_check`).

Promises: says nothing for what was written, expired, erased and loaded again as it should be.
Without anything from outside the database (chain.jsonl, loaded/, a noted head, a time stamp) it
cannot tell that the newest segments were deleted with all their traces; `Report.held_against` says
what there was.

Raises: AuditUnusable, and what the database raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, select

from carbonseal.milter.archive import audit, schema
from carbonseal.milter.archive.dictionary import chunks
from carbonseal.milter.archive.evidence import absence, chain_check, copy_check, rewriting, stamp
from carbonseal.milter.archive.evidence.chain_check import Chain, Expected, Known
from carbonseal.milter.archive.evidence.delivery_check import DeliveryCheck
from carbonseal.milter.archive.evidence.finding import Finding
from carbonseal.milter.archive.evidence.record_check import Counts, RecordCheck
from carbonseal.milter.archive.evidence.record_scan import Span
from carbonseal.milter.archive.evidence.rewriting import Erasure, Rewritten
from carbonseal.milter.archive.evidence.seal import Sealed
from carbonseal.policies import quantity

_TAKING = frozenset(("retain", "erase"))  # actions that may take something out
Progress = Callable[[str, int, int], None]  # what is done, how many more of them, of how many


@dataclass(frozen=True, slots=True)
class Question:
    """What the archive is held against."""

    span: Span = field(default_factory=Span)
    relay: str | None = None  # records and seals of this chain only
    evidence: Path | None = None  # a relay's evidence directory
    keys: frozenset[bytes] = frozenset()
    expected: tuple[Expected, ...] = ()
    expected_audit: tuple[audit.Head, ...] = ()
    segments: Path | None = None  # a relay's loaded/
    certificate: Path | None = None  # of the time stamp authority


@dataclass(slots=True)
class Report:
    """What was seen, besides findings."""

    chains: list[Chain] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    stamps: int = 0
    copies: dict[Erasure, int] = field(default_factory=dict)  # rewritten segments in loaded/
    audit_head: str = ""
    held_against: list[str] = field(default_factory=list)


def verify(
    engine: Engine, audit_engine: Engine, question: Question, report: Report, progress: Progress
) -> Iterator[Finding]:
    """What is not true; fills `report`."""
    copies, names = _copies(question.segments)
    seen = chain_check.Seen(chains=report.chains)
    known = Known(question.evidence, question.keys, list(question.expected))
    yield from chain_check.check(engine, known, seen)
    report.held_against = _held_against(question, seen, copies, names)
    yield from _check_audit(audit_engine, (*seen.heads(), *question.expected_audit), report)
    yield from _check_stamps(engine, question.certificate, report)
    rewritten = _noted(audit_engine)
    checking = RecordCheck(
        engine,
        report.counts,
        span=question.span,
        relay=question.relay,
        explain=_no_explanation if copies is None else copies.explain,
        rewritten=rewritten,
    )
    yield from _counted(checking.run(), "segments", checking.total(), progress)
    deliveries = DeliveryCheck(
        engine,
        report.counts,
        checking.with_events,
        span=question.span,
        relay=question.relay,
        rewritten=rewritten,
    )
    yield from _counted(
        deliveries.run(), "segments of deliveries", len(checking.with_events), progress
    )
    yield from _check_events(audit_engine, report.counts)
    if copies is not None:
        wanted = [name for name in names if _is_in(name, question.span)]
        found = copy_check.check(engine, copies, wanted, lambda: _noted(audit_engine))
        yield from _counted(_without_erasures(found, report), "files", len(wanted), progress)


def _noted(engine: Engine) -> Rewritten:
    with engine.connect() as connection:
        return rewriting.noted(connection)


def _without_erasures(
    found: Iterator[Finding | Erasure | int], report: Report
) -> Iterator[Finding | int]:
    for one in found:
        if isinstance(one, Erasure):
            report.copies[one] = report.copies.get(one, 0) + 1
        else:
            yield one


def _check_audit(engine: Engine, known: Iterable[audit.Head], report: Report) -> Iterator[Finding]:
    """Each event, and those that were sealed or noted.

    What came after the newest seal only a noted head covers.
    """
    with engine.connect() as connection:
        report.audit_head = str(audit.head(connection))
    for one in audit.check(engine, known):
        yield Finding("audit", f"event {one.number} {one.what}")


def _no_explanation(_segment: str, _position: int, _one: object) -> None:
    return None


def _copies(directory: Path | None) -> tuple[copy_check.Segments | None, list[str]]:
    if directory is None:
        return None, []
    copies = copy_check.Segments(directory)
    try:
        return copies, copies.names()
    except OSError:
        return None, []


def _is_in(segment: str, span: Span) -> bool:
    """Whether a segment was begun in the span, as its name says."""
    begun = segment[:26]
    return (span.first is None or begun >= span.first) and (span.last is None or begun <= span.last)


def _held_against(
    question: Question,
    seen: chain_check.Seen,
    copies: copy_check.Segments | None,
    names: list[str],
) -> list[str]:
    found = []
    if seen.own_copy:
        found.append(f"the chain of {seen.own_copy} in {question.evidence}")
    if copies is not None and names:
        found.append(f"{quantity.of(len(names), 'segment')} in {question.segments}")
    if question.expected:
        found.append("the heads given with --expect")
    if question.expected_audit:
        found.append("the heads given with --expect-audit")
    if question.keys:
        found.append("the keys given with --public-key")
    return found


def _counted(
    items: Iterator[Finding | int], what: str, total: int, progress: Progress
) -> Iterator[Finding]:
    for item in items:
        if isinstance(item, Finding):
            yield item
        else:
            progress(what, item, total)


def _check_stamps(engine: Engine, certificate: Path | None, report: Report) -> Iterator[Finding]:
    stamps, seals = schema.stamp.c, schema.seal.c
    query = (
        select(stamps.relay, stamps.number, stamps.token, seals.entry, seals.signature)
        .select_from(
            schema.stamp.outerjoin(
                schema.seal, (seals.relay == stamps.relay) & (seals.number == stamps.number)
            )
        )
        .order_by(stamps.relay, stamps.number)
    )
    with engine.connect() as connection:
        found = connection.execute(query).all()
    for relay, number, token, entry, signature in found:
        report.stamps += 1
        if entry is None:
            what = "the seal that was stamped is missing: deleted, or an old backup was restored"
            yield Finding("lost", what, relay=relay, number=number)
            continue
        problem = stamp.check(bytes(token), Sealed(entry, bytes(signature)), certificate)
        if problem is not None:
            what = f"the time stamp does not hold: {problem}"
            yield Finding("stamp", what, relay=relay, number=number)


def _check_events(audit_engine: Engine, counts: Counts) -> Iterator[Finding]:
    """Whatever is said to have been taken out needs its event in the audit, which says how much.

    What an event took that was interrupted is not known.
    """
    columns, events = schema.audit.c, counts.events
    found: dict[int, str] = {}
    for chunk in chunks(sorted(events)):
        query = select(columns.number, columns.action).where(columns.number.in_(chunk))
        with audit_engine.connect() as connection:
            found |= {row.number: row.action for row in connection.execute(query)}
    for number in sorted(events):
        action = found.get(number)
        if action is None:
            what = f"event {number}, by which records were taken out, is not in the audit"
            yield Finding("audit", what)
        elif action not in _TAKING:
            what = f"event {number}, by which records were taken out, is a {action}"
            yield Finding("audit", what)
    answers = audit.answers(audit_engine, {one for one in events if found.get(one) in _TAKING})
    for (number, part), count in sorted(counts.taken.items()):
        most = _most(part, answers.get(number, {}))
        if most is not None and count > most:
            what = (
                f"event {number} took out {most} x {part}, and {count} are said to have gone with "
                "it: somebody else took out the others"
            )
            yield Finding("removed", what)


def _most(part: str, answer: Mapping[str, Any]) -> int | None:
    """In how many records an event took out a part, by its own answer; None: it does not say."""
    if part == absence.LINE:
        lines = answer.get("lines")
        return lines if isinstance(lines, int) else None
    taken = answer.get("taken")
    if isinstance(taken, Mapping):
        wanted = absence.IN_PART if part == absence.REDACTION else (part,)
        return sum(
            int(count) for name, count in taken.items() if name.rpartition(": ")[2] in wanted
        )
    erased = answer.get("records")
    if isinstance(erased, int):
        return erased if part == absence.REDACTION else 0
    return None
