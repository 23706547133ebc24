"""The audit: who asked for, saw, exported, held and deleted what, and why.

Promises: `append` returns when the event is durable; numbers go from 1 without a gap, whoever else
adds at the same moment.  Rows are only ever added: each holds the digest of the one before, so that
a change, a removal and an insertion show (`check`); a tail that was cut off shows by a `Head` that
somebody else remembers, such as a signed seal.  `asking` puts an event in the audit before anything
is answered, and a second one, "answered", with what was given.  When the first cannot be written
there is no answer.

Safe direction: rows are counted as given before they are handed out.  An "asked" without its
"answered" is a process that was killed: anything may have been given.

Raises: AuditUnusable; UsageError where a reason is demanded; DataError for one that is no line.

Does not: choose where it is kept (`audit_place` does), or know what commands do.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pwd
import random
import socket
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sqlalchemy import ColumnElement, Connection, Engine, insert, select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from carbonseal.milter.archive import audit_place, faults, record, schema, terms
from carbonseal.milter.archive.audit_place import AuditUnusable, audit_file, opened
from carbonseal.milter.archive.faults import Kind
from carbonseal.policies.errors import DataError, UsageError

__all__ = ["AuditUnusable", "audit_file", "opened"]

ANSWERED = "answered"
REWRITTEN = "rewritten"  # copies of records, by an erasure; see `evidence.rewriting`
COMPLETE, CUT_SHORT, FAILED = "complete", "cut short", "failed"

_BEGINNING = bytes(32)  # stands for the digest before the first event
_MAX_REASON = 500
_PATIENCE = 30.0  # seconds of losing the race for the next number
_PAGE = 500
_NO_LOGIN = 2**32 - 1  # the kernel's word for a process that nobody logged in for
_COLUMNS = schema.audit.c

Item = TypeVar("Item")


class Context(Protocol):
    """What the audit needs from the command line."""

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the archive."""

    @property
    def require_reason(self) -> bool:
        """Whether a reason must be given."""


@dataclass(frozen=True, slots=True)
class Head:
    """One event by number and digest: whoever keeps it can tell a cut or rewritten audit."""

    number: int  # 0 before the first event
    digest: bytes

    @classmethod
    def parse(cls, text: str) -> Head:
        """NUMBER:HASH, as `str` writes it.  Raises: DataError."""
        number, _, digest = text.partition(":")
        try:
            found = cls(int(number), bytes.fromhex(digest))
        except ValueError:
            found = None
        if found is None or len(found.digest) != len(_BEGINNING) or found.number < 1:
            raise DataError(
                f"{text[:80]!r} is no head of the audit; write NUMBER:HASH, as verify prints it"
            )
        return found

    def __str__(self) -> str:
        """As people note it."""
        return f"{self.number}:{self.digest.hex()}"


@dataclass(frozen=True, slots=True)
class Event:
    """One row of the audit."""

    number: int
    at: int  # microseconds UTC since 1970
    actor: str
    action: str
    reason: str
    detail: str  # JSON, exactly as stored
    previous: bytes
    digest: bytes

    @property
    def head(self) -> Head:
        """What to remember of it."""
        return Head(self.number, self.digest)

    @property
    def facts(self) -> dict[str, Any]:
        """The detail as values; a detail that is no JSON object stands under `text`."""
        try:
            found = json.loads(self.detail)
        except (ValueError, RecursionError):
            found = None
        return found if isinstance(found, dict) else {"text": self.detail}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something in the audit that is not true."""

    number: int
    what: str


class Asked:
    """A question that is in the audit, and what is given in answer."""

    def __init__(self, event: Event) -> None:
        self.event = event
        self.given = 0  # rows handed out
        self._facts: dict[str, Any] = {}

    def counted(self, rows: Iterable[Item]) -> Iterator[Item]:
        """The rows, each counted before it is handed out."""
        for row in rows:
            self.given += 1
            yield row

    def note(self, **facts: Any) -> None:
        """Say more about the answer: a manifest's hash, the number of records dropped."""
        self._facts |= facts

    def answer(self, outcome: str) -> dict[str, Any]:
        """The detail of the event that follows."""
        return {"of": self.event.number, "outcome": outcome, "given": self.given, **self._facts}


@contextmanager
def asking(
    context: Context, action: str, query: Mapping[str, Any], reason: str = ""
) -> Iterator[Asked]:
    """Put what is asked into the audit before it is answered, and afterwards what was given.

    `query` is what was asked for, in values that JSON knows.
    Raises: AuditUnusable, UsageError, DataError; then nothing was answered.
    """
    checked = _checked(reason, is_required=context.require_reason)
    with opened(context.database_url) as engine:
        asked = Asked(append(engine, action=action, reason=checked, detail=query))
        outcome = FAILED
        try:
            yield asked
            outcome = COMPLETE
        except (BrokenPipeError, KeyboardInterrupt, GeneratorExit):
            outcome = CUT_SHORT  # whoever read it has enough
            raise
        finally:
            append(engine, action=ANSWERED, reason=checked, detail=asked.answer(outcome))


def append(
    engine: Engine,
    *,
    action: str,
    reason: str,
    detail: Mapping[str, Any],
    actor: str | None = None,
) -> Event:
    """Add one event, by the person who runs this; returns when it is durable.

    Raises: AuditUnusable.
    """
    text = record.ascii_json(dict(detail)).decode("ascii")
    who = actor or _person_at(engine)
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            with engine.begin() as connection:
                return _add(connection, who, action, reason, text)
        except SQLAlchemyError as fault:
            # Somebody else has just taken the number, in one of the ways in which engines say so.
            is_taken = isinstance(fault, IntegrityError) or faults.kind(fault) is Kind.COLLISION
            if not is_taken or time.monotonic() > deadline:
                raise audit_place.unusable(engine, fault) from fault
            time.sleep(random.uniform(0.001, 0.05))  # noqa: S311


def _add(connection: Connection, actor: str, action: str, reason: str, detail: str) -> Event:
    last = head(connection)
    at = time.time_ns() // 1000
    digest = _digest(last.digest, last.number + 1, at, actor, action, reason, detail)
    event = Event(last.number + 1, at, actor, action, reason, detail, last.digest, digest)
    connection.execute(
        insert(schema.audit).values(
            {name: getattr(event, name) for name in schema.audit.c.keys()}  # noqa: SIM118
        )
    )
    return event


def _digest(previous: bytes, *columns: int | str) -> bytes:
    return hashlib.sha256(previous + record.ascii_json(columns)).digest()


def head(connection: Connection) -> Head:
    """The last event; number 0 where there is none."""
    query = select(_COLUMNS.number, _COLUMNS.digest).order_by(_COLUMNS.number.desc()).limit(1)
    found = connection.execute(query).one_or_none()
    return Head(0, _BEGINNING) if found is None else Head(found[0], bytes(found[1]))


def events(
    engine: Engine,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    actor: str | None = None,
    action: str | None = None,
) -> Iterator[Event]:
    """Events that meet every condition, newest first.  Raises: AuditUnusable.

    `actor` also finds that person under other accounts and on other machines.
    """
    # As it is stored; what is none of that would be refused by the driver.
    actor = actor and terms.storable(actor)
    action = action and terms.storable(action)
    query = select(schema.audit)
    for condition, value in (
        (_COLUMNS.at >= _microseconds(since), since),
        (_COLUMNS.at < _microseconds(until), until),
        (_is_by(actor or ""), actor),
        (_COLUMNS.action == action, action),
    ):
        if value is not None:
            query = query.where(condition)
    below: int | None = None
    while True:
        page = query.order_by(_COLUMNS.number.desc()).limit(_PAGE)
        if below is not None:
            page = page.where(_COLUMNS.number < below)
        found = _fetched(engine, page)
        yield from found
        if len(found) < _PAGE:
            return
        below = found[-1].number


def answers(engine: Engine, numbers: Collection[int]) -> dict[int, dict[str, Any]]:
    """What was given in answer to these events, for those that were answered completely.

    Raises: AuditUnusable.
    """
    if not numbers:
        return {}
    query = select(schema.audit).where(_COLUMNS.action == ANSWERED)
    above, found = min(numbers), {}
    while True:
        page = _fetched(
            engine, query.where(_COLUMNS.number > above).order_by(_COLUMNS.number).limit(_PAGE)
        )
        for one in page:
            said = one.facts
            if said.get("outcome") == COMPLETE and said.get("of") in numbers:
                found[said["of"]] = said
        if len(page) < _PAGE:
            return found
        above = page[-1].number


def _is_by(name: str) -> ColumnElement[bool]:
    return (_COLUMNS.actor == name) | _COLUMNS.actor.startswith(f"{name} ", autoescape=True)


def _microseconds(moment: datetime | None) -> int:
    return 0 if moment is None else int(moment.timestamp() * 1_000_000)


def _fetched(engine: Engine, query: Any) -> list[Event]:
    try:
        with engine.connect() as connection:
            return [_event(dict(row)) for row in connection.execute(query).mappings()]
    except SQLAlchemyError as fault:
        raise audit_place.unusable(engine, fault) from fault


def _event(columns: dict[str, Any]) -> Event:
    for name in ("previous", "digest"):
        columns[name] = bytes(columns[name])
    return Event(**columns)


def check(engine: Engine, known: Iterable[Head] = ()) -> Iterator[Finding]:
    """What is not true of the audit, in its order; nothing when all is well.

    `known` are heads that others have kept: each must be there with that digest.
    Raises: AuditUnusable.
    """
    left: dict[int, set[bytes]] = {}
    for one in known:
        if one.number:
            left.setdefault(one.number, set()).add(one.digest)
    last = Head(0, _BEGINNING)
    for event in _all(engine):
        if event.number != last.number + 1:
            yield Finding(last.number + 1, f"events are missing up to number {event.number - 1}")
        elif event.previous != last.digest:
            yield Finding(event.number, "does not follow from the event before")
        given = (event.at, event.actor, event.action, event.reason, event.detail)
        if event.digest != _digest(event.previous, event.number, *given):
            yield Finding(event.number, "was changed")
        if left.pop(event.number, set()) - {event.digest}:
            what = "is not the event that was there when it was sealed or noted"
            yield Finding(event.number, what)
        last = event.head
    for number in sorted(left):
        yield Finding(number, f"is missing: the audit ends with number {last.number}")


def _all(engine: Engine) -> Iterator[Event]:
    above = 0
    while True:
        query = select(schema.audit).where(_COLUMNS.number > above).order_by(_COLUMNS.number)
        found = _fetched(engine, query.limit(_PAGE))
        yield from found
        if len(found) < _PAGE:
            return
        above = found[-1].number


def _checked(reason: str, *, is_required: bool) -> str:
    if is_required and not reason.strip():
        raise UsageError(
            "--reason is missing, and audit.require_reason demands one; write the case or why"
        )
    if len(reason) > _MAX_REASON or not reason.isprintable():
        raise DataError(
            f"--reason {reason[:40]!r}: write one line of at most {_MAX_REASON} characters"
        )
    return reason.strip()


def _person_at(engine: Engine) -> str:
    """Who runs this, and on which machine, where that may be one of several."""
    is_here = engine.url.get_backend_name() == "sqlite"
    return person() if is_here else f"{person()} on {socket.gethostname()}"


def person() -> str:
    """Who runs this: the login as the kernel knows it, and the account where that is another.

    What only the environment says (SUDO_USER) is marked as such: anybody can set it.
    """
    account = _account(os.getuid())
    login = _login()
    if login is not None:
        return account if login == account else f"{login} as {account}"
    claimed = os.environ.get("SUDO_USER", "")
    if claimed and claimed != account and claimed.isprintable() and len(claimed) < 256:
        return f"{claimed} (says SUDO_USER) as {account}"
    return account


def _login() -> str | None:
    with contextlib.suppress(OSError, ValueError):
        uid = int(Path("/proc/self/loginuid").read_text(encoding="ascii"))
        if uid != _NO_LOGIN:
            return _account(uid)
    return None


def _account(uid: int) -> str:
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = ""
    return name if name and name.isprintable() else f"uid {uid}"
