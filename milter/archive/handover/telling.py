"""Event lines out of SQL, for a bundle (see `told`).

Promises: the lines of any number of records, in the order of the records, each exactly as it was
sealed or what is left of it, with its proof.

Does not: judge (`told` does).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, select

from carbonseal.milter.archive import delivery_facts, event_line, retrieve, schema
from carbonseal.milter.archive.dictionary import chunks
from carbonseal.milter.archive.evidence import event_leaf
from carbonseal.milter.archive.handover import told
from carbonseal.milter.archive.handover.proving import Prover

_delivery = schema.delivery.c


def lines(
    contents: Mapping[str, Mapping[str, Any]], prover: Prover, connection: Connection
) -> dict[str, list[dict[str, Any]]]:
    """By record id, its lines of deliveries.jsonl; `contents`: the records by their ids."""
    found: dict[str, list[Any]] = {}
    query = select(schema.delivery).order_by(_delivery.segment_id, _delivery.position)
    for chunk in chunks(list(contents)):
        for row in connection.execute(query.where(_delivery.record_id.in_(chunk))):
            found.setdefault(row.record_id, []).append(row)
    rows = [row for some in found.values() for row in some]
    prover.learn({row.segment_id for row in rows}, connection)
    made = (
        _said(row, line, _proof(row, line, prover, connection))
        for row, line in zip(rows, _read(rows, contents, connection), strict=True)
    )
    return {record_id: [next(made) for _ in some] for record_id, some in found.items()}


def _read(
    rows: Sequence[Any], contents: Mapping[str, Mapping[str, Any]], connection: Connection
) -> Iterator[dict[str, Any]]:
    """The event lines of these rows."""
    read = [delivery_facts.unpack(bytes(row.facts)) for row in rows]
    names = retrieve.mailboxes({one for some in read for one in some.address_ids}, connection)
    for row, values in zip(rows, read, strict=True):
        content = contents[row.record_id]
        facts = delivery_facts.facts(values, names)
        queue_id = row.queue_id or content["queue_id"]
        yield event_line.content(content["relay"], queue_id, facts, values.rest)


def _proof(
    row: Any, line: dict[str, Any], prover: Prover, connection: Connection
) -> dict[str, Any] | None:
    proof = prover.prove_line(row.segment_id, row.position, connection)
    salt = None if row.salt is None else bytes(row.salt)

    def fits(entry: bytes) -> bool:
        return event_leaf.entry(line, event_leaf.stored(salt, row.redaction)[0]) == entry

    by = prover.erasure(row.segment_id, row.position, fits, connection)
    return proof if proof is None or by is None else {**proof, "rewritten": by.to_json()}


def _said(row: Any, line: dict[str, Any], proof: dict[str, Any] | None) -> dict[str, Any]:
    salts, _ = event_leaf.stored(None, row.redaction)
    said: dict[str, Any] = {
        "record_id": row.record_id,
        "kinship": row.kinship,
        "line": told.set_apart(line, salts.gone),
        "proof": proof,
    }
    if row.redaction is not None:
        said["redaction"] = row.redaction
    elif row.salt is not None:
        said["line"]["salt"] = bytes(row.salt).hex()
    return said
