"""Seal loaded segments: what the writer does before a segment goes to loaded/.

Promises: the entry is in the relay's chain, on disk, before it is in SQL; a crash anywhere between
is made good by sealing again, which finds the entry.  A segment whose seal is in SQL is not sealed
again.  One that an erasure has rewritten since it was sealed, as the audit has it, is said to be
that; any other that is not what was sealed is said to be damaged.  What the relay's chain has lost
(an old backup of it) it gets back from SQL, as far as its own key has signed it.

The chain is named after the relay of its first records; if the archive holds a chain of that name
from another key (two relays of one name, a lost evidence directory), the name gets the key's id.

Raises: ChainUnusable, AuditUnusable, OSError, and what the database raises.

See also: `chain`, `seal`; `stamping` for time stamps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from sqlalchemy import Connection, func, insert, select

from carbonseal.keys import evidence_key
from carbonseal.milter.archive import audit, audit_place, record, schema, terms
from carbonseal.milter.archive.evidence import absence, rewriting, seal, stamp
from carbonseal.milter.archive.evidence.chain import Chain, ChainUnusable
from carbonseal.milter.archive.evidence.rewriting import Left, Rewritten
from carbonseal.milter.archive.evidence.seal import Sealed, Surveying
from carbonseal.milter.archive.evidence.settings import Settings
from carbonseal.milter.archive.segments import Segment

_NAMELESS = "relay"  # a segment in which no line is a record
_PAGE = 500
_columns = schema.seal.c
Transaction = Callable[[], AbstractContextManager[Connection]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one segment."""

    number: int
    digest: bytes
    findings: tuple[str, ...]
    is_new: bool
    rewritten: str | None = None  # by which erasure, where it was sealed before that

    @property
    def head(self) -> str:
        """As people note it and `verify --expect` takes it."""
        return f"{self.number}:{self.digest.hex()}"


class Sealer:
    """The chain of this relay and the archive that copies it."""

    def __init__(self, settings: Settings, database_url: str) -> None:
        self._directory = settings.directory
        self._authority = settings.authority
        self._stamp_at = 0.0  # by the monotonic clock
        self._stamped = 0  # number of the last seal that was stamped
        self._database_url = database_url
        self._chain: Chain | None = None
        self._name = _NAMELESS

    def seal(
        self, segment: Segment, relay: str, transaction: Transaction, seen: Surveying | None = None
    ) -> Outcome | None:
        """Seal a closed, loaded segment; None when its seal is in SQL already.

        `seen`: all of its lines, if they have come by; the segment is read otherwise.
        """
        chain = self._opened(relay, transaction)
        with transaction() as connection:
            if _is_sealed(segment.name, connection):
                return None
        survey = seal.survey(segment) if seen is None else seen.survey(segment)
        sealed = chain.find(segment.name)
        findings, leaves, erasure = survey.findings, survey.leaves, None
        if sealed is None:
            sealed = chain.append(
                survey,
                relay=self._name,
                aside=self._aside(segment, transaction),
                audit=self._audit_head(transaction),
                sealed_at=record.timestamp(time.time()),
            )
        elif (sealed.facts.root, sealed.facts.lines) != (survey.root, survey.lines):
            left = self._rewritten(transaction).of(segment.name, sealed.facts.root)
            was = rewriting.leaves_as_sealed(survey, sealed.facts.root)
            # Who has fitted them together can have changed those lines only, and `verify` has
            # something to hold all others against.
            leaves = was or leaves
            erasure = None if was is None else left.roots.get(survey.root)
            if erasure is None:
                findings = (*findings, _damage(left, is_rewritten=was is not None))
        with transaction() as connection:
            is_new = _store(sealed, leaves, connection)
        told = None if erasure is None else str(erasure)
        return Outcome(sealed.facts.number, sealed.digest, findings, is_new, told)

    def stamp_if_due(self, transaction: Transaction) -> str | None:
        """Have the head stamped, unless it is, or was not long ago; the head if it was now.

        Blocks for as long as the authority takes, ten seconds at most.  Raises: StampFailed.
        """
        chain, authority = self._chain, self._authority
        if chain is None or chain.head is None or authority is None:
            return None
        if chain.number == self._stamped or time.monotonic() < self._stamp_at:
            return None
        self._stamp_at = time.monotonic() + authority.every
        sealed, number = chain.head, chain.number
        token = stamp.ask(authority, sealed)
        with transaction() as connection:
            columns = schema.stamp.c
            query = select(columns.number).where(
                columns.relay == self._name, columns.number == number
            )
            if connection.execute(query).first() is None:
                row = {"relay": self._name, "number": number, "token": token}
                connection.execute(insert(schema.stamp), row)
        self._stamped = number
        return f"{number}:{sealed.digest.hex()}"

    def _opened(self, relay: str, transaction: Transaction) -> Chain:
        if self._chain is not None:
            return self._chain
        chain = Chain(self._directory)
        with transaction() as connection:
            if chain.name is None:
                self._name = _free_name(relay or _NAMELESS, chain, connection)
            else:
                self._name = chain.name
            _catch_up(chain, self._name, connection)
        self._chain = chain
        return chain

    def _aside(self, segment: Segment, transaction: Transaction) -> int:
        with transaction() as connection:
            return len(absence.aside(terms.term(segment.name), connection))

    def _audit_head(self, transaction: Transaction) -> tuple[int, bytes]:
        with self._audit(transaction) as connection:
            head = audit.head(connection)
        return head.number, head.digest

    def _rewritten(self, transaction: Transaction) -> Rewritten:
        with self._audit(transaction) as connection:
            return rewriting.noted(connection)

    @contextmanager
    def _audit(self, transaction: Transaction) -> Iterator[Connection]:
        if audit_place.file_of_archive(self._database_url) is None:
            with transaction() as connection:
                yield connection
        else:
            with audit.opened(self._database_url) as engine, engine.connect() as connection:
                yield connection


def _damage(left: Left, *, is_rewritten: bool) -> str:
    """What is wrong with a segment that is not what was sealed, nor what an erasure has left."""
    if left:
        return f"the segment is neither what was sealed nor what {left.last} has left of it"
    if is_rewritten:
        return "the segment says that an erasure has rewritten it, and the audit knows of none"
    return "the segment is not what it was when it was sealed"


def _is_sealed(segment: str, connection: Connection) -> bool:
    query = select(_columns.number).where(_columns.segment_id == terms.term(segment)).limit(1)
    return connection.execute(query).first() is not None


def _free_name(relay: str, chain: Chain, connection: Connection) -> str:
    """The relay's name, unless a chain that another key has begun has it."""
    public = chain.key.public
    mine = f"{relay}#{evidence_key.key_id(public)}"
    query = select(_columns.entry).where(_columns.relay == relay, _columns.number == 1)
    found = connection.execute(query).scalar_one_or_none()
    if found is None:
        return relay
    try:
        return relay if seal.read(found).key == public else mine
    except seal.BadEntry:
        return mine


def _catch_up(chain: Chain, name: str, connection: Connection) -> None:
    """Let the chain have what SQL has beyond its end."""
    newest = connection.execute(
        select(func.max(_columns.number)).where(_columns.relay == name)
    ).scalar_one()
    while chain.number < (newest or 0):
        query = (
            select(_columns.entry, _columns.signature)
            .where(_columns.relay == name, _columns.number > chain.number)
            .order_by(_columns.number)
            .limit(_PAGE)
        )
        for entry, signature in connection.execute(query).all():
            chain.adopt(Sealed(entry, bytes(signature)))


def _store(sealed: Sealed, leaves: bytes, connection: Connection) -> bool:
    """Put a seal into SQL; whether it was not there."""
    facts = sealed.facts
    there = connection.execute(
        select(_columns.entry).where(_columns.relay == facts.relay, _columns.number == facts.number)
    ).scalar_one_or_none()
    if there is not None:
        if there != sealed.entry:
            raise ChainUnusable(
                f"number {facts.number} of the chain {facts.relay} is another segment in the "
                "archive than in this relay's chain; run carbonseal archive verify, then move the "
                "evidence directory away to begin a new chain"
            )
        return False
    connection.execute(
        insert(schema.seal),
        {
            "relay": facts.relay,
            "number": facts.number,
            "segment_id": terms.term(facts.segment),
            "first_record_id": facts.first_record_id,
            "last_record_id": facts.last_record_id,
            "entry": sealed.entry,
            "signature": sealed.signature,
            "leaves": leaves,
        },
    )
    return True
