"""Whether a proof of a bundle (see `proving`) proves the record beside it.

What is gone from a record cannot be proven, and so must not look proven: in records.jsonl such a
part is null (a header field has an empty value), and what SQL still says of it stands beside the
record, under "unproven".

Promises: `fault` accepts a record whose parts are those that were sealed, and no other.

Raises: ValueError from `read`.

Does not: read SQL or files, or make proofs (`proving` does).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from carbonseal.milter.archive.evidence import inclusion, leaf
from carbonseal.milter.archive.evidence.leaf import Salts
from carbonseal.milter.archive.evidence.seal import Facts

UNPROVEN = "unproven"
# The bundle has nothing that proves it.
REWRITTEN = "it is not what was sealed: as the archive says, "
_MOST_HASHES = 64


@dataclass(frozen=True, slots=True)
class Proof:
    """How one record is part of a sealed segment."""

    record_id: str
    relay: str | None = None  # None: not sealed yet
    number: int = 0  # of the seal
    position: int = 0  # among the lines of the segment
    rest: bytes = b""  # commitments: of all but the header section,
    header: bytes = b""  # and of that
    path: tuple[bytes, ...] = ()  # hashes beside the way to the root
    salts: Salts | None = field(default=None, repr=False)  # None: those of the line's own salt
    rewritten: str | None = None  # by which erasure, as the archive says

    @property
    def is_whole(self) -> bool:
        """Whether nothing was taken out."""
        return self.salts is None

    @property
    def gone(self) -> Collection[str]:
        """Names of the parts that nothing proves."""
        return () if self.salts is None else self.salts.gone


def read(said: Any) -> Proof:
    """A line of proofs.jsonl as values.  Raises: ValueError."""
    try:
        record_id = said["record_id"]
        if said.get("is_sealed") is False:
            return Proof(record_id)
        path = tuple(map(_digest, said["path"]))
        if len(path) > _MOST_HASHES:
            raise ValueError("its path is too long")
        return Proof(
            record_id=record_id,
            relay=str(said["relay"]),
            number=int(said["number"]),
            position=int(said["position"]),
            rest=_digest(said["rest"]),
            header=_digest(said["header"]),
            path=path,
            salts=_salts(said["salts"]) if "salts" in said else None,
            rewritten=rewritten_by(said),
        )
    except (KeyError, TypeError, AttributeError, OverflowError) as fault:
        raise ValueError(f"it is no proof ({fault})") from None


def rewritten_by(said: Mapping[str, Any]) -> str | None:
    """The erasure that a proof names.  Raises: KeyError, TypeError, ValueError."""
    if "rewritten" not in said:
        return None
    one = said["rewritten"]
    day = date.fromisoformat(one["day"]).isoformat()
    return f"the erasure of {day}, certificate {int(one['event'])}"


def _digest(text: str) -> bytes:
    digest = bytes.fromhex(text)
    if len(digest) != leaf.DIGEST:
        raise ValueError("a digest has another length")
    return digest


def _salts(said: Mapping[str, Any]) -> Salts:
    if "redaction" in said:
        return leaf.stored_salts(None, None, said["redaction"])
    message, header = (
        None if said[name] is None else bytes.fromhex(said[name]) for name in ("message", "header")
    )
    return leaf.stored_salts(message, header, None)


def fault(content: Mapping[str, Any], proof: Proof, facts: Facts) -> str | None:
    """What keeps `proof` from proving that the record is in that segment; None: nothing does."""
    if UNPROVEN in content:
        if not isinstance(content[UNPROVEN], dict) or not set(content[UNPROVEN]) <= set(proof.gone):
            return "it says that something is unproven that was not taken out"
        content = {key: value for key, value in content.items() if key != UNPROVEN}
    has_header = content.get("header_fields") is not None
    if proof.is_whole and not has_header:
        return "its header section was removed"
    if claimed := _claimed(content, proof.gone):
        return f"it still says {claimed}, which was taken out and which nothing proves"
    known = leaf.salts(leaf.line_salt(content)) if proof.salts is None else proof.salts
    found = leaf.commitments_of(content, known, has_header=has_header)
    is_whole = found.rest == proof.rest and found.header in (None, proof.header)
    if proof.rewritten is not None and not is_whole:
        return f"{REWRITTEN}{proof.rewritten} has rewritten it"
    if found.rest != proof.rest:
        return "it is not the record that was sealed"
    if found.header is not None and found.header != proof.header:
        return "its header section is not the one that was sealed"
    hashed = leaf.leaf(proof.rest, proof.header)
    if not inclusion.check(hashed, proof.position, facts.lines, proof.path, facts.root):
        return f"its proof does not lead to what {facts.relay} has sealed"
    return None


def _claimed(content: Mapping[str, Any], gone: Collection[str]) -> str | None:
    """The first part that is gone and yet says something."""
    if not gone:
        return None
    values = leaf.parts(content)
    if content.get("header_fields") is not None:
        values |= leaf.header_parts(content["header_fields"])
    for name in gone:
        value = values.get(name)
        if name in leaf.HEADER_NAMES:
            value = [one for _, one in leaf.placed(name, value or ()) if one[1]] or None
        if value is not None:
            return name
    return None


def set_apart(content: Mapping[str, Any], gone: Collection[str]) -> dict[str, Any]:
    """The record with what is gone under "unproven"; `gone` are names of parts."""
    if not gone:
        return dict(content)
    proven, unproven = dict(content), {}
    for name, value in leaf.parts(content).items():
        if name not in gone:
            continue
        unproven[name] = value
        key, slash, number = name.partition("/")
        if slash:
            proven[key] = [*proven[key]]
            proven[key][int(number)] = None
        else:
            proven[key] = None
    if content.get("header_fields") is not None:
        proven["header_fields"] = [list(one) for one in content["header_fields"]]
        for name, value in leaf.header_parts(content["header_fields"]).items():
            placed = leaf.placed(name, value) if name in gone else []
            said = [[place, one] for place, one in placed if one[1]]
            for place, _ in said:
                proven["header_fields"][place][1] = ""
            if said:
                unproven[name] = said
    return proven | ({UNPROVEN: unproven} if unproven else {})


def put_together(content: Mapping[str, Any]) -> dict[str, Any]:
    """The record as SQL said it: `set_apart` undone."""
    found = {key: value for key, value in content.items() if key != UNPROVEN}
    for name, value in content.get(UNPROVEN, {}).items():
        key, slash, number = name.partition("/")
        if name in leaf.HEADER_NAMES:
            found["header_fields"] = [*found["header_fields"]]
            for place, one in value:
                found["header_fields"][place] = one
        elif slash:
            found[key] = [*found[key]]
            found[key][int(number)] = value
        else:
            found[key] = value
    return found
