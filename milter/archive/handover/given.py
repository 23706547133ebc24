"""Complete records out of SQL, for a bundle.

Promises: any number of records, a page at a time, each exactly as it was sealed or, where parts of
it are gone, what is left, with the proof that it was.

Raises: database.DatabaseUnusable, retrieve.DamagedRecord, DataError for a seal that is none.

Does not: choose records (`search.query` does), make proofs (`proving` does), or judge them
(`check` does).
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.exc import SQLAlchemyError

from carbonseal.milter.archive import database, retrieve, rows, schema
from carbonseal.milter.archive.evidence import leaf, rewriting
from carbonseal.milter.archive.evidence.rewriting import Rewritten
from carbonseal.milter.archive.evidence.seal import BadEntry, Sealed
from carbonseal.milter.archive.handover import proof as proofs
from carbonseal.milter.archive.handover import telling
from carbonseal.milter.archive.handover.proof import Proof
from carbonseal.milter.archive.handover.proving import Prover
from carbonseal.milter.archive.rows import Rows
from carbonseal.policies.errors import DataError

_PAGE = 500


@dataclass(frozen=True, slots=True)
class Given:
    """One record of a bundle."""

    content: Mapping[str, Any]  # what is gone set apart
    said: Mapping[str, Any]  # its line in proofs.jsonl
    proof: Proof  # the same
    told: Sequence[Mapping[str, Any]] = ()  # its lines in deliveries.jsonl


class Source:
    """Records with their proofs; one for each bundle."""

    def __init__(self, engine: Engine, rewritten: Rewritten = rewriting.NOTHING) -> None:
        self._engine = engine
        self._prover = Prover(rewritten)

    def records(self, pages: Iterable[Sequence[str]]) -> Iterator[Given]:
        """The records with these ids, in this order.  Raises: database.DatabaseUnusable."""
        for record_ids in pages:
            with self._reading() as connection:
                found = retrieve.retrieve(record_ids, connection, with_fields=True)
                said = self._prover.prove(found, connection)
                read = retrieve.each_of(found, _content, lambda one: one.record_id)
                contents = {
                    one.record_id: content for one, content in zip(found, read, strict=True)
                }
                told = telling.lines(contents, self._prover, connection)
            for one, proof_said in zip(found, said, strict=True):
                proof = proofs.read(proof_said)
                yield Given(
                    proofs.set_apart(contents[one.record_id], proof.gone),
                    proof_said,
                    proof,
                    told.get(one.record_id, ()),
                )

    def seals(self, heads: Iterable[Sealed]) -> Iterator[Sealed]:
        """The seals of the records given, those from there to the next stamp, and the heads."""
        last = {sealed.facts.relay: sealed for sealed in heads}
        for relay, numbers in self._prover.sealed().items():
            for first, end in _runs(numbers, self._stamped(relay)):
                for sealed in self._run(relay, first, end):
                    if sealed.digest == (last[relay].digest if relay in last else None):
                        del last[relay]
                    yield sealed
        yield from last.values()

    def stamps(self) -> Iterator[tuple[str, int, bytes]]:
        """Time stamps that may say something about the seals given: relay, number, token."""
        columns = schema.stamp.c
        for relay, numbers in self._prover.sealed().items():
            wanted = sorted({end for _, end in _runs(numbers, self._stamped(relay))})
            for number in wanted:
                query = select(columns.token).where(
                    columns.relay == relay, columns.number == number
                )
                with self._reading() as connection:
                    tokens = connection.execute(query).scalars().all()
                yield from ((relay, number, bytes(token)) for token in tokens)

    def _stamped(self, relay: str) -> list[int]:
        columns = schema.stamp.c
        query = select(columns.number).where(columns.relay == relay).order_by(columns.number)
        with self._reading() as connection:
            return list(connection.execute(query).scalars())

    def _run(self, relay: str, first: int, end: int) -> Iterator[Sealed]:
        """The seals from `first` to `end`, a page at a time."""
        columns = schema.seal.c
        while first <= end:
            query = (
                select(columns.entry, columns.signature)
                .where(columns.relay == relay, columns.number >= first, columns.number <= end)
                .order_by(columns.number)
                .limit(_PAGE)
            )
            with self._reading() as connection:
                found = connection.execute(query).all()
            yield from (_sealed(entry, signature) for entry, signature in found)
            first += _PAGE

    def heads(self) -> list[Sealed]:
        """The last seal of each relay.  Raises: database.DatabaseUnusable."""
        columns = schema.seal.c
        last = select(columns.relay, func.max(columns.number).label("number"))
        newest = last.group_by(columns.relay).subquery()
        query = (
            select(columns.entry, columns.signature)
            .join(newest, (columns.relay == newest.c.relay) & (columns.number == newest.c.number))
            .order_by(columns.relay)
        )
        with self._reading() as connection:
            found = connection.execute(query).all()
        return [_sealed(entry, signature) for entry, signature in found]

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection
        except SQLAlchemyError as fault:
            raise database.unusable(self._engine.url, fault) from fault


def _sealed(entry: str, signature: bytes) -> Sealed:
    found = Sealed(entry, bytes(signature))
    try:
        found.facts  # noqa: B018
    except BadEntry as fault:
        raise DataError(
            f"a seal in the archive is damaged ({fault}); run carbonseal archive verify, which "
            "says where"
        ) from None
    return found


def _runs(numbers: Sequence[int], stamped: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First and last of the seals that lead from each number to the stamp at or after it.

    A stamp is of one seal, and every seal says which one was before it: so it is a stamp of all
    those before, for whoever has those between.
    """
    done = 0
    for number in numbers:
        if number <= done:
            continue
        at = bisect.bisect_left(stamped, number)
        done = stamped[at] if at < len(stamped) else number
        yield number, done


def _content(one: Rows) -> dict[str, Any]:
    content = rows.join(one)
    salt = one.header_section.get("salt")
    if salt is not None and len(salt) != leaf.SALT:
        # Once the subject is gone it is no salt of a line any more; the proof has what it is now.
        content["salt"] = None
    return content
