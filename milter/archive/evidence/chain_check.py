"""Is the chain of seals in SQL true: to itself, to the relay's own copy, to what people noted?

Promises: every seal is looked at once, in the order of its chain, without its leaves; memory does
not grow with their number.

Does not: look at records (`record_check`) or time stamps (`stamp_check`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, select

from carbonseal.keys import evidence_key
from carbonseal.milter.archive import schema, terms
from carbonseal.milter.archive.audit import Head
from carbonseal.milter.archive.evidence import chain, seal
from carbonseal.milter.archive.evidence.finding import Finding
from carbonseal.milter.archive.evidence.seal import BadEntry, Facts, Sealed
from carbonseal.policies.errors import DataError

_PAGE = 500
_columns = schema.seal.c


@dataclass(slots=True)
class Chain:
    """One chain as SQL has it."""

    name: str
    number: int = 0
    digest: bytes = seal.BEGINNING
    lines: int = 0
    key: bytes | None = None
    sealed_at: str = ""

    @property
    def head(self) -> str:
        """As people note it and `--expect` takes it."""
        return f"{self.number}:{self.digest.hex()}"


@dataclass(frozen=True, slots=True)
class Expected:
    """A head that somebody has noted."""

    relay: str | None  # None: of the only chain
    number: int
    digest: bytes

    @classmethod
    def parse(cls, text: str) -> Expected:
        """NUMBER:HASH or RELAY=NUMBER:HASH.  Raises: DataError."""
        relay, _, head = text.rpartition("=")
        number, _, digest = head.partition(":")
        try:
            found = cls(relay or None, int(number), bytes.fromhex(digest))
        except ValueError:
            found = None
        if found is None or len(found.digest) != 32 or found.number < 1:
            raise DataError(
                f"--expect {text!r} is no head of a chain; write NUMBER:HASH or RELAY=NUMBER:HASH, "
                "as verify prints it"
            )
        return found


@dataclass(slots=True)
class Known:
    """What the chains are held against."""

    directory: Path | None = None  # evidence directory of a relay, where it can be read
    keys: frozenset[bytes] = frozenset()  # public keys that may have signed; none: any
    expected: list[Expected] = field(default_factory=list)


@dataclass(slots=True)
class Seen:
    """What was learned on the way, for the checks after."""

    chains: list[Chain] = field(default_factory=list)
    audit_heads: dict[int, bytes] = field(default_factory=dict)
    own_copy: str | None = None  # the chain that was held against the relay's own file

    def heads(self) -> Iterator[Head]:
        """Audit events that the relays have signed."""
        return (Head(number, digest) for number, digest in self.audit_heads.items())


def check(engine: Engine, known: Known, seen: Seen) -> Iterator[Finding]:
    """What is not true of the seals; fills `seen`."""
    own = _own_copy(known.directory)
    own_name = None
    if isinstance(own, _Own):
        own_name = seen.own_copy = own.name
    elif isinstance(own, Finding):
        yield own
    for relay, rows in groupby(_seals(engine), key=lambda row: str(row["relay"])):
        current = Chain(relay)
        seen.chains.append(current)
        keys = known.keys
        copy = own.lines() if isinstance(own, _Own) and own_name == relay else None
        if copy is not None and not keys:
            keys = own.keys  # type: ignore[union-attr]
        yield from _check_chain(current, rows, keys, copy, seen)
    if own_name is not None and own_name not in {one.name for one in seen.chains}:
        yield from _only_in_copy(own.lines(), Chain(own_name))  # type: ignore[union-attr]
    yield from _unmet(known.expected, seen.chains, engine)


def _check_chain(
    current: Chain,
    rows: Iterator[Mapping[str, Any]],
    keys: frozenset[bytes],
    copy: Iterator[tuple[int, Sealed | BadEntry]] | None,
    seen: Seen,
) -> Iterator[Finding]:
    relay = current.name
    told_key: bytes | None = None
    for row in rows:
        number = row["number"]
        sealed = Sealed(row["entry"], bytes(row["signature"]))
        if number != current.number + 1:
            which = f"{current.number + 1}" + (
                f" to {number - 1}" if number > current.number + 2 else ""
            )
            what = f"seal {which} of the chain is missing"
            yield Finding("removed", what, relay=relay, number=current.number + 1)
        try:
            facts = sealed.facts
        except BadEntry as fault:
            yield Finding("seal", f"the entry was changed: {fault}", relay=relay, number=number)
            current.number, current.digest = number, b""
            continue
        where: Any = {"relay": relay, "number": number, "segment": facts.segment}
        if problem := _disagrees(row, facts):
            yield Finding("seal", problem, **where)
        if not evidence_key.verify(facts.key, sealed.signature, sealed.entry.encode("ascii")):
            yield Finding("seal", "the signature does not fit the entry", **where)
        if facts.key != told_key and (
            (keys and facts.key not in keys) or (told_key is not None and not keys)
        ):
            name = evidence_key.key_id(facts.key)
            yield Finding("key", f"signed by the foreign key {name} from here on", **where)
        told_key = facts.key
        if number == current.number + 1 and current.digest:
            if facts.previous != current.digest:
                yield Finding("chain", "does not follow from the seal before it", **where)
            elif facts.first != current.lines + 1:
                yield Finding("chain", "does not count on from the seal before it", **where)
        if copy is not None:
            yield from _against_copy(copy, sealed, facts, current.number)
        current.number, current.digest = number, sealed.digest
        current.lines, current.key = facts.first + facts.lines - 1, facts.key
        current.sealed_at = facts.sealed_at
        if facts.audit_number:
            first = seen.audit_heads.setdefault(facts.audit_number, facts.audit_digest)
            if first != facts.audit_digest:
                what = (
                    f"says otherwise than an earlier seal what audit event {facts.audit_number} was"
                )
                yield Finding("audit", what, **where)
    if copy is not None:
        yield from _only_in_copy(copy, current)


def _disagrees(row: Mapping[str, Any], facts: Facts) -> str | None:
    """Which column of the row says otherwise than its entry."""
    said = {
        "relay": facts.relay,
        "number": facts.number,
        "segment_id": terms.term(facts.segment),
        "first_record_id": facts.first_record_id,
        "last_record_id": facts.last_record_id,
    }
    wrong = [name for name, value in said.items() if row[name] != value]
    return f"its entry says otherwise than the column {wrong[0]}" if wrong else None


def _seals(engine: Engine) -> Iterator[dict[str, Any]]:
    """All seals without leaves, chain by chain, in order."""
    names = [column for column in _columns if column.name != "leaves"]
    relay, number = "", 0
    while True:
        query = (
            select(*names)
            .where(
                (_columns.relay > relay) | ((_columns.relay == relay) & (_columns.number > number))
            )
            .order_by(_columns.relay, _columns.number)
            .limit(_PAGE)
        )
        with engine.connect() as connection:
            page = [dict(row) for row in connection.execute(query).mappings()]
        yield from page
        if len(page) < _PAGE:
            return
        relay, number = page[-1]["relay"], page[-1]["number"]


@dataclass(frozen=True, slots=True)
class _Own:
    """The relay's own chain file."""

    directory: Path
    name: str
    keys: frozenset[bytes]

    def lines(self) -> Iterator[tuple[int, Sealed | BadEntry]]:
        return chain.entries(self.directory)


def _own_copy(directory: Path | None) -> _Own | Finding | None:
    """The chain file, if it can be read; nothing is said where it cannot."""
    if directory is None:
        return None
    try:
        first = next(iter(chain.entries(directory)), None)
    except OSError:
        return None
    if first is None:
        return None
    if isinstance(first[1], BadEntry):
        return Finding("chain", f"line 1 of {directory / chain.FILE} is damaged")
    try:
        name = first[1].facts.relay
    except BadEntry as fault:
        return Finding("chain", f"line 1 of {directory / chain.FILE} is damaged: {fault}")
    try:
        keys = frozenset((evidence_key.read_public(directory / evidence_key.PUBLIC),))
    except DataError:
        keys = frozenset()
    return _Own(directory, name, keys)


def _against_copy(
    copy: Iterator[tuple[int, Sealed | BadEntry]], sealed: Sealed, facts: Facts, before: int
) -> Iterator[Finding]:
    """Compare one seal with the line of the relay's own file that has its number."""
    relay, number = facts.relay, facts.number
    for _ in range(before, number):
        line, found = next(copy, (0, None))
        if found is None:
            if before + 1 == number:
                what = f"the relay's own {chain.FILE} ends before this seal"
                yield Finding("chain", what, relay=relay, number=number)
            return
        if isinstance(found, BadEntry):
            yield Finding("chain", f"line {line} of {chain.FILE} is damaged: {found}", relay=relay)
    if isinstance(found, Sealed) and found != sealed:
        what = f"is not the seal that the relay's own {chain.FILE} has there"
        yield Finding("seal", what, relay=relay, number=number, segment=facts.segment)


def _only_in_copy(
    copy: Iterator[tuple[int, Sealed | BadEntry]], current: Chain
) -> Iterator[Finding]:
    """What the relay has sealed and SQL has not at its end."""
    first = last = None
    for _, found in copy:
        if isinstance(found, Sealed):
            first, last = first or found, found
    if first is None or last is None:
        return
    try:
        start, end = first.facts, last.facts
    except BadEntry:
        return
    if start.number <= current.number:
        return
    span = f"{start.number}" if start.number == end.number else f"{start.number} to {end.number}"
    what = (
        f"the database ends with seal {current.number} and the relay has sealed {span}: segments "
        "were deleted, or an old backup was restored"
    )
    yield Finding("lost", what, relay=current.name, number=start.number, segment=start.segment)


def _unmet(expected: list[Expected], chains: list[Chain], engine: Engine) -> Iterator[Finding]:
    for one in expected:
        names = [found.name for found in chains if one.relay in (None, found.name)]
        if one.relay is None and len(names) > 1:
            names = sorted(names)
            yield Finding("chain", f"--expect has to name one of the chains {', '.join(names)}")
            continue
        if not names:
            what = "the expected chain is not in the database"
            yield Finding("lost", what, relay=one.relay, number=one.number)
            continue
        digest = _digest(engine, names[0], one.number)
        if digest is None:
            what = "the expected seal is not in the database: deleted, or an old backup"
            yield Finding("lost", what, relay=names[0], number=one.number)
        elif digest != one.digest:
            what = "is not the seal that was expected"
            yield Finding("chain", what, relay=names[0], number=one.number)


def _digest(engine: Engine, relay: str, number: int) -> bytes | None:
    query = select(_columns.entry, _columns.signature).where(
        _columns.relay == relay, _columns.number == number
    )
    with engine.connect() as connection:
        row = connection.execute(query).one_or_none()
    return None if row is None else Sealed(row.entry, bytes(row.signature)).digest
