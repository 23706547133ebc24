"""The proofs of an exported bundle: what stands in its folder `evidence/`, made and checked.

    evidence/proofs.jsonl   one line for each line of records.jsonl, in the same order
    evidence/seals.jsonl    every seal that a proof names, once; lines as in chain.jsonl (`chain`)
    evidence/stamps.jsonl   {"relay","number","token"}: RFC 3161 time stamps of those, base64
    evidence/KEYID.pub      each public key that signed them, PEM

A proof is {"record_id", "relay", "number", "position", "rest", "header", "path", "salts"}: the leaf
of the record (`leaf`: rest and header, hex) is at `position` of the segment that the seal `number`
of the chain `relay` has sealed, and `path` (hashes, hex, lowest first; RFC 9162) leads from there
to the root in the seal.  `salts` stands only where the record is not complete any more: {"message",
"header"} (hex or null, the columns `salt`), or {"redaction"} (the text of redaction.evidence); a
complete record has its salt in itself.  A record whose segment was not sealed yet, or from before
there were seals, has {"record_id", "is_sealed": false}.

records.jsonl: one record a line as JSON as `rows.join` gives it, `header_fields` null where the
header section is gone; a `crc32` at the end of a line is no part of it.

Promises: making proofs reads each segment's leaves once as long as records come in order; checking
needs no database, and memory for the seals named.

Raises: from `check`, FileNotFoundError for a bundle without evidence.
"""

from __future__ import annotations

import base64
import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, BinaryIO

from sqlalchemy import Connection, select

from carbonseal.keys import evidence_key
from carbonseal.milter.archive import rows as record_rows
from carbonseal.milter.archive import schema
from carbonseal.milter.archive.evidence import chain, inclusion, leaf, seal
from carbonseal.milter.archive.evidence.finding import Finding
from carbonseal.milter.archive.evidence.seal import Sealed
from carbonseal.milter.archive.rows import Rows

RECORDS = "records.jsonl"
PROOFS, SEALS, STAMPS = "evidence/proofs.jsonl", "evidence/seals.jsonl", "evidence/stamps.jsonl"
_TREES = 4  # segments of 43,000 lines, some 10 MB each
_LONGEST = 64 * 1024 * 1024  # octets of one line

Open = Callable[[str], BinaryIO]


class Prover:
    """Makes the proofs of the records of one bundle."""

    def __init__(self) -> None:
        self._seals: dict[int, tuple[Sealed, seal.Facts] | None] = {}  # by segment
        self._trees: OrderedDict[int, tuple[inclusion.Levels, bytes]] = OrderedDict()

    def prove(self, batch: Sequence[Rows], connection: Connection) -> list[dict[str, Any]]:
        """The proofs of records as `retrieve` gave them (with fields), in their order."""
        redactions = redactions_of([one.record_id for one in batch], connection)
        return [self._proof(one, redactions.get(one.record_id), connection) for one in batch]

    def seal_lines(self) -> Iterator[bytes]:
        """The lines of seals.jsonl, once all records are proven."""
        for found in self._seals.values():
            if found is not None:
                yield chain.to_line(found[0])

    def stamp_lines(self, connection: Connection) -> Iterator[bytes]:
        """The lines of stamps.jsonl."""
        columns = schema.stamp.c
        for found in self._seals.values():
            if found is None:
                continue
            facts = found[1]
            query = select(columns.token).where(
                columns.relay == facts.relay, columns.number == facts.number
            )
            for (token,) in connection.execute(query):
                text = base64.b64encode(token).decode("ascii")
                said = {"relay": facts.relay, "number": facts.number, "token": text}
                yield leaf.canonical(said) + b"\n"

    def keys(self) -> dict[str, bytes]:
        """Public keys by the name of their file in the bundle, PEM."""
        used = {found[1].key for found in self._seals.values() if found is not None}
        return {
            f"evidence/{evidence_key.key_id(public)}.pub": evidence_key.to_pem(public)
            for public in used
        }

    def _proof(self, one: Rows, redaction: str | None, connection: Connection) -> dict[str, Any]:
        segment_id, position = one.message["segment_id"], one.message["position"]
        found = self._sealed(segment_id, connection)
        if found is None:
            return {"record_id": one.record_id, "is_sealed": False}
        tree, leaves = self._tree(segment_id, found[1], connection)
        entry = leaves[position * leaf.ENTRY : (position + 1) * leaf.ENTRY]
        proof: dict[str, Any] = {
            "record_id": one.record_id,
            "relay": found[1].relay,
            "number": found[1].number,
            "position": position,
            "rest": entry[: leaf.DIGEST].hex(),
            "header": entry[leaf.DIGEST :].hex(),
            "path": [digest.hex() for digest in tree.path(position)] if entry else [],
        }
        salts = _salts_said(one, redaction)
        return proof if salts is None else {**proof, "salts": salts}

    def _sealed(self, segment_id: int, connection: Connection) -> tuple[Sealed, seal.Facts] | None:
        if segment_id not in self._seals:
            columns = schema.seal.c
            query = select(columns.entry, columns.signature).where(columns.segment_id == segment_id)
            row = connection.execute(query.limit(1)).one_or_none()
            sealed = None if row is None else Sealed(row.entry, bytes(row.signature))
            self._seals[segment_id] = None if sealed is None else (sealed, sealed.facts)
        return self._seals[segment_id]

    def _tree(
        self, segment_id: int, facts: seal.Facts, connection: Connection
    ) -> tuple[inclusion.Levels, bytes]:
        found = self._trees.pop(segment_id, None)
        if found is None:
            columns = schema.seal.c
            query = select(columns.leaves).where(
                columns.relay == facts.relay, columns.number == facts.number
            )
            leaves = bytes(connection.execute(query).scalar_one())
            found = inclusion.Levels(list(leaf.leaves_of(leaves))), leaves
        self._trees[segment_id] = found
        if len(self._trees) > _TREES:
            self._trees.popitem(last=False)
        return found


def redactions_of(record_ids: Sequence[str], connection: Connection) -> dict[str, str]:
    """redaction.evidence by record id, for those that have one."""
    columns = schema.redaction.c
    query = select(columns.record_id, columns.evidence).where(columns.record_id.in_(record_ids))
    return {record_id: evidence for record_id, evidence in connection.execute(query)}


def _salts_said(one: Rows, redaction: str | None) -> dict[str, Any] | None:
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


def content_of(one: Rows) -> dict[str, Any]:
    """The record in these rows, as evidence sees it."""
    content = record_rows.join(one)
    header_salt = one.header_section.get("salt")
    if header_salt is not None and len(header_salt) != leaf.SALT:
        content.pop("salt", None)  # of a part only
    return content


def check(
    opened: Open, *, trusted: frozenset[bytes] = frozenset()
) -> Iterator[Finding | dict[str, Any]]:
    """What is not true of a bundle; at the end, a summary as a dict.

    `opened(name)` opens a file of the bundle.  `trusted`: public keys that may have signed; empty:
    any, and the summary says which.  Raises: FileNotFoundError.
    """
    with opened(SEALS) as stream:
        seals, findings = _checked_seals(stream, trusted)
    yield from findings
    records = proven = 0
    with opened(RECORDS) as told, opened(PROOFS) as proofs:
        for line, proof in zip_longest(told, proofs):
            if line is None or proof is None:
                missing = "a proof has no record" if line is None else "a record has no proof"
                yield Finding("bundle", f"{missing}, from line {records + 1} on")
                break
            records += 1
            finding = _checked_record(line, proof, seals, records)
            if finding is not None:
                yield finding
            elif not _is_unsealed(proof):
                proven += 1
    yield {
        "records": records,
        "proven": proven,
        "seals": len(seals),
        "keys": sorted({facts.key.hex() for facts in seals.values()}),
    }


def _is_unsealed(proof: bytes) -> bool:
    return b'"is_sealed":' in proof


def _checked_seals(
    lines: Iterable[bytes], trusted: frozenset[bytes]
) -> tuple[dict[tuple[str, int], seal.Facts], list[Finding]]:
    seals: dict[tuple[str, int], seal.Facts] = {}
    digests: dict[tuple[str, int], bytes] = {}
    findings = []
    for number, line in enumerate(lines, 1):
        try:
            sealed = chain.from_line(line)
            facts = sealed.facts
        except seal.BadEntry as fault:
            findings.append(Finding("seal", f"line {number} of {SEALS}: {fault}"))
            continue
        where: Any = {"relay": facts.relay, "number": facts.number, "segment": facts.segment}
        if not evidence_key.verify(facts.key, sealed.signature, sealed.entry.encode("ascii")):
            findings.append(Finding("seal", "its signature does not fit", **where))
            continue
        if trusted and facts.key not in trusted:
            name = evidence_key.key_id(facts.key)
            findings.append(Finding("key", f"signed by the foreign key {name}", **where))
            continue
        seals[facts.relay, facts.number] = facts
        digests[facts.relay, facts.number] = sealed.digest
    for (relay, number), facts in seals.items():
        before = digests.get((relay, number - 1))
        if before is not None and before != facts.previous:
            what = "does not follow from the seal before it"
            findings.append(Finding("chain", what, relay=relay, number=number))
    return seals, findings


def _checked_record(
    line: bytes, proof: bytes, seals: Mapping[tuple[str, int], seal.Facts], number: int
) -> Finding | None:
    try:
        content, said = json.loads(line), json.loads(proof)
        record_id = content["record_id"]
        content.pop("crc32", None)
        if said.get("record_id") != record_id:
            return Finding("moved", f"the proof of line {number} is for {said.get('record_id')}")
        if said.get("is_sealed") is False:
            return None
        facts = seals.get((said["relay"], said["number"]))
        rest, header = bytes.fromhex(said["rest"]), bytes.fromhex(said["header"])
        path = [bytes.fromhex(one) for one in said["path"]]
        position = int(said["position"])
        salts, has_header = _known(content, said)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Finding("bundle", f"line {number} or its proof cannot be read")
    if facts is None:
        return Finding("seal", "the seal of its segment is missing", record_id=record_id)
    where: Any = {
        "relay": facts.relay,
        "number": facts.number,
        "segment": facts.segment,
        "position": position,
        "record_id": record_id,
    }
    if not inclusion.check(leaf.leaf(rest, header), position, facts.lines, path, facts.root):
        return Finding("added", "its proof does not lead to the root of its segment", **where)
    found = leaf.commitments_of(content, salts, has_header=has_header)
    if found.rest != rest:
        return Finding("changed", "it is not the record that was sealed", **where)
    if found.header is not None and found.header != header:
        return Finding("changed", "its header section is not the one that was sealed", **where)
    return None


def _known(content: dict[str, Any], said: Mapping[str, Any]) -> tuple[leaf.Salts, bool]:
    """The salts of a record in a bundle, and whether its header section can be checked."""
    has_header = content.get("header_fields") is not None
    salts = said.get("salts")
    if salts is None:
        return leaf.salts(leaf.line_salt(content)), has_header
    if "redaction" in salts:
        content.pop("salt", None)
        return leaf.stored_salts(None, None, salts["redaction"]), has_header
    values = {
        name: None if salts[name] is None else bytes.fromhex(salts[name])
        for name in ("message", "header")
    }
    if values["header"] is None or len(values["header"]) != leaf.SALT:
        content.pop("salt", None)
    return leaf.stored_salts(values["message"], values["header"], None), has_header
