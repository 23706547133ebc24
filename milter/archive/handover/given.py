"""Complete records out of SQL, for a bundle.

Promises: any number of records, a page at a time, each exactly as it was sealed or, where parts of
it are gone, what is left, with the proof that it was.

Raises: database.DatabaseUnusable.

Does not: choose records (`search.query` does), make proofs (`proving` does), or judge them
(`check` does).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.exc import SQLAlchemyError

from carbonseal.milter.archive import database, retrieve, rows, schema
from carbonseal.milter.archive.evidence import leaf
from carbonseal.milter.archive.evidence.seal import Sealed
from carbonseal.milter.archive.handover import proof as proofs
from carbonseal.milter.archive.handover.proof import Proof
from carbonseal.milter.archive.handover.proving import Prover
from carbonseal.milter.archive.rows import Rows


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
        self._prover = Prover()

    def records(self, pages: Iterable[Sequence[str]]) -> Iterator[Given]:
        """The records with these ids, in this order.  Raises: database.DatabaseUnusable."""
        for record_ids in pages:
            with self._reading() as connection:
                found = retrieve.retrieve(record_ids, connection, with_fields=True)
                said = self._prover.prove(found, connection)
            for one, proof_said in zip(found, said, strict=True):
                proof = proofs.read(proof_said)
                yield Given(proofs.set_apart(_content(one), proof.gone), proof_said, proof)

    def seals(self, heads: Iterable[Sealed]) -> Iterator[Sealed]:
        """The seals of the records given, and those heads that are not among them."""
        given = self._prover.seals()
        known = {sealed.digest for sealed in given}
        yield from given
        yield from (sealed for sealed in heads if sealed.digest not in known)

    def stamp_lines(self) -> list[bytes]:
        """Lines of stamps.jsonl: what others say of the time of the seals."""
        with self._reading() as connection:
            return list(self._prover.stamp_lines(connection))

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
        return [Sealed(entry, bytes(signature)) for entry, signature in found]

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection
        except SQLAlchemyError as fault:
            raise database.unusable(self._engine.url, fault) from fault


def _content(one: Rows) -> dict[str, Any]:
    content = rows.join(one)
    salt = one.header_section.get("salt")
    if salt is not None and len(salt) != leaf.SALT:
        # Once the subject is gone it is no salt of a line any more; the proof has what it is now.
        content["salt"] = None
    return content
