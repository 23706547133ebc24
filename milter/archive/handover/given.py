"""Complete records out of SQL with what proves them, for a bundle.

Promises: any number of records, a page at a time, each exactly as it was sealed or, where parts of
it are gone, what is left.

Raises: database.DatabaseUnusable.

Does not: choose records (`search.query` does), make proofs (`evidence.proof` does), or judge them
(`check` does).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, func, select
from sqlalchemy.exc import SQLAlchemyError

from carbonseal.milter.archive import database, retrieve, schema
from carbonseal.milter.archive.evidence import proof as evidence
from carbonseal.milter.archive.evidence.seal import Sealed
from carbonseal.milter.archive.handover import proof as proofs
from carbonseal.milter.archive.handover.proof import Proof


@dataclass(frozen=True, slots=True)
class Given:
    """One record of a bundle."""

    content: Mapping[str, Any]  # what is gone set apart
    said: Mapping[str, Any]  # its line in proofs.jsonl
    proof: Proof  # the same


class Source:
    """Records with their proofs; one for each bundle."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._prover = evidence.Prover()

    def records(self, pages: Iterable[Sequence[str]]) -> Iterator[Given]:
        """The records with these ids, in this order.  Raises: database.DatabaseUnusable."""
        for record_ids in pages:
            try:
                with self._engine.connect() as connection:
                    found = retrieve.retrieve(record_ids, connection, with_fields=True)
                    said = self._prover.prove(found, connection)
            except SQLAlchemyError as fault:
                raise database.unusable(self._engine.url, fault) from fault
            for rows, one in zip(found, said, strict=True):
                proof = proofs.read(one)
                content = proofs.set_apart(evidence.content_of(rows), proof.gone)
                yield Given(content, one, proof)

    def seal_lines(self) -> Iterator[bytes]:
        """Lines of seals.jsonl: the seals of the records given."""
        return self._prover.seal_lines()

    def stamp_lines(self) -> list[bytes]:
        """Lines of stamps.jsonl: what others say of the time of those."""
        try:
            with self._engine.connect() as connection:
                return list(self._prover.stamp_lines(connection))
        except SQLAlchemyError as fault:
            raise database.unusable(self._engine.url, fault) from fault

    def keys(self) -> dict[str, bytes]:
        """Public keys by name of file."""
        return self._prover.keys()

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
        try:
            with self._engine.connect() as connection:
                found = connection.execute(query).all()
        except SQLAlchemyError as fault:
            raise database.unusable(self._engine.url, fault) from fault
        return [Sealed(entry, bytes(signature)) for entry, signature in found]
