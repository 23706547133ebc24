"""Making the proofs of a bundle, out of SQL.

A line of evidence/proofs.jsonl is {"record_id", "relay", "number", "position", "rest", "header",
"path", "salts"}: the leaf of the record (`evidence.leaf`: rest and header, hex) is at `position` of
the segment that the seal `number` of the chain `relay` has sealed, and `path` (hashes, hex, lowest
first; RFC 9162) leads from there to the root in the seal.  `salts` stands only where the record is
not complete any more: {"message", "header"} (hex or null, the columns `salt`), or {"redaction"}
(the text of redaction.evidence); a complete record has its salt in itself.  A record whose segment
was not sealed yet, or from before there were seals, has {"record_id", "is_sealed": false}.  Where
a record came back as an erasure had left it in loaded/ (`evidence.rewriting`), `rewritten` says
which: {"event", "day"}; the proof is that of the record as it was sealed.

Promises: each segment's leaves are read once as long as records come in order; memory for the
seals, and for the hashes of some segments.

Does not: judge (`proof` does).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, select

from carbonseal.milter.archive import schema
from carbonseal.milter.archive.evidence import leaf, reckoning, rewriting, seal
from carbonseal.milter.archive.evidence.inclusion import Levels
from carbonseal.milter.archive.evidence.rewriting import Erasure, Left, Rewritten
from carbonseal.milter.archive.evidence.seal import BadEntry
from carbonseal.milter.archive.rows import Rows

_MOST_LEAVES = 150_000  # of the segments that are kept; some 40 MB


class Prover:
    """Makes the proofs of the records of one bundle."""

    def __init__(self, rewritten: Rewritten = rewriting.NOTHING) -> None:
        self._rewritten = rewritten
        self._left: dict[tuple[str, int], Left] = {}
        self._segments: dict[int, tuple[str, int]] = {}  # relay and number of the seal
        self._trees: OrderedDict[tuple[str, int], tuple[Levels, bytes]] = OrderedDict()
        self._kept = 0  # leaves of them

    def prove(self, batch: Sequence[Rows], connection: Connection) -> list[dict[str, Any]]:
        """The proofs of records as `retrieve` gave them (with fields), in their order."""
        redactions = _redactions([one.record_id for one in batch], connection)
        self.learn({one.message["segment_id"] for one in batch}, connection)
        return [self._proof(one, redactions.get(one.record_id), connection) for one in batch]

    def sealed(self) -> dict[str, list[int]]:
        """The seals that the proofs name: their numbers in order, by relay."""
        found: dict[str, list[int]] = {}
        for relay, number in self._segments.values():
            found.setdefault(relay, []).append(number)
        return {relay: sorted(numbers) for relay, numbers in sorted(found.items())}

    def prove_line(
        self, segment_id: int, position: int, connection: Connection
    ) -> dict[str, Any] | None:
        """The proof of an event line; None where its segment was not sealed yet.  After `learn`."""
        found = self._segments.get(segment_id)
        if found is None:
            return None
        proof = self._place(*found, position, connection)
        del proof["header"]
        return proof

    def learn(self, segment_ids: set[int], connection: Connection) -> None:
        """Look up the seals of these segments."""
        columns = schema.seal.c
        query = select(columns.segment_id, columns.relay, columns.number).where(
            columns.segment_id.in_(segment_ids.difference(self._segments))
        )
        for segment_id, relay, number in connection.execute(query):
            self._segments[segment_id] = relay, number

    def _proof(self, one: Rows, redaction: str | None, connection: Connection) -> dict[str, Any]:
        segment_id, position = one.message["segment_id"], one.message["position"]
        found = self._segments.get(segment_id)
        if found is None:
            return {"record_id": one.record_id, "is_sealed": False}
        place = self._place(*found, position, connection)
        proof: dict[str, Any] = {"record_id": one.record_id, **place}
        salts = _salts(one, redaction)
        if salts is not None:
            proof["salts"] = salts

        def fits(entry: bytes) -> bool:
            known = None if redaction is None else (redaction, 0)
            held = reckoning.evidence_of(one, known)[1]
            return held is not None and reckoning.fits(held, entry)

        by = self.erasure(segment_id, position, fits, connection)
        return proof if by is None else {**proof, "rewritten": by.to_json()}

    def erasure(
        self, segment_id: int, position: int, fits: Callable[[bytes], bool], connection: Connection
    ) -> Erasure | None:
        """The erasure that has left a line as it is; `fits`: whether it has a leaf.  After `learn`.

        None where it is as it was sealed, or where nobody knows why it is not.
        """
        found = self._segments.get(segment_id)
        if found is None or not self._rewritten:
            return None
        known = self._left_of(*found, connection).line(position)
        if not known:
            return None
        _, leaves = self._tree(*found, connection)
        if fits(leaves[position * leaf.ENTRY : (position + 1) * leaf.ENTRY]):
            return None
        return next((by for entry, by in known.items() if fits(entry)), None)

    def _left_of(self, relay: str, number: int, connection: Connection) -> Left:
        found = self._left.get((relay, number))
        if found is None:
            columns = schema.seal.c
            query = select(columns.entry).where(columns.relay == relay, columns.number == number)
            try:
                facts = seal.read(connection.execute(query).scalar_one())
                found = self._rewritten.of(facts.segment, facts.root)
            except BadEntry:
                found = Left()  # the check says so
            self._left[relay, number] = found
        return found

    def _place(
        self, relay: str, number: int, position: int, connection: Connection
    ) -> dict[str, Any]:
        """Where a line is in a sealed segment, and the way to the root."""
        tree, leaves = self._tree(relay, number, connection)
        entry = leaves[position * leaf.ENTRY : (position + 1) * leaf.ENTRY]
        # A place that the segment has not: the check says so.
        path = [digest.hex() for digest in tree.path(position)] if entry else []
        entry = entry or bytes(leaf.ENTRY)
        return {
            "relay": relay,
            "number": number,
            "position": position,
            "rest": entry[: leaf.DIGEST].hex(),
            "header": entry[leaf.DIGEST :].hex(),
            "path": path,
        }

    def _tree(self, relay: str, number: int, connection: Connection) -> tuple[Levels, bytes]:
        found = self._trees.get((relay, number))
        if found is not None:
            self._trees.move_to_end((relay, number))
            return found
        columns = schema.seal.c
        query = select(columns.leaves).where(columns.relay == relay, columns.number == number)
        leaves = bytes(connection.execute(query).scalar_one())
        found = Levels(_hashed(leaves)), leaves
        self._trees[relay, number] = found
        self._kept += len(leaves) // leaf.ENTRY
        while self._kept > _MOST_LEAVES and len(self._trees) > 1:
            _, (_, old) = self._trees.popitem(last=False)
            self._kept -= len(old) // leaf.ENTRY
        return found


def _hashed(leaves: bytes) -> list[bytes]:
    half = leaf.DIGEST
    return [
        leaf.leaf(leaves[at : at + half], leaves[at + half : at + leaf.ENTRY])
        for at in range(0, len(leaves), leaf.ENTRY)
    ]


def _redactions(record_ids: Sequence[str], connection: Connection) -> dict[str, str]:
    columns = schema.redaction.c
    query = select(columns.record_id, columns.evidence).where(columns.record_id.in_(record_ids))
    return {row.record_id: row.evidence for row in connection.execute(query)}


def _salts(one: Rows, redaction: str | None) -> Mapping[str, Any] | None:
    """What a proof has to say about salts; None where the record says it all."""
    if redaction is not None:
        return {"redaction": redaction}
    section = one.header_section
    message_salt, header_salt = one.message["salt"], section.get("salt")
    if "fields" in section and (header_salt is None or len(header_salt) == leaf.SALT):
        return None
    return {
        "message": None if message_salt is None else bytes(message_salt).hex(),
        "header": None if header_salt is None else bytes(header_salt).hex(),
    }
