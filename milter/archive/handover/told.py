"""Event lines in a bundle: what the mail log told of its records, each with its proof.

A line of deliveries.jsonl is canonical JSON of {"record_id", "kinship" (0 for the message's own
queue id), "line" (the event line, with its salt), "proof": {"relay", "number", "position", "rest",
"path"}}, the proof as in proofs.jsonl.  A line from which a person was erased has "redaction"
instead of a salt; what is gone of it is null, and what SQL still says stands under "unproven".  A
line whose segment was not sealed yet has null for its proof.  Lines come in the order of their
records.

Promises: `fault` accepts a line that was sealed, about that record, and no other.

Raises: ValueError, KeyError, TypeError for what is no such line.

Does not: read SQL (`telling` does) or files; need SQLAlchemy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from carbonseal.milter.archive.evidence import event_leaf, inclusion, leaf
from carbonseal.milter.archive.evidence.seal import Facts
from carbonseal.milter.archive.handover.proof import REWRITTEN, rewritten_by

UNPROVEN = "unproven"
_FACT = "fact/"
_MOST_HASHES = 64


def set_apart(content: Mapping[str, Any], gone: Mapping[str, Any]) -> dict[str, Any]:
    """An event line with the parts that are gone under "unproven"."""
    proven, unproven = dict(content), {}
    proven["facts"] = list(content["facts"])
    for name, value in event_leaf.parts(content).items():
        if name not in gone:
            continue
        unproven[name] = value
        if name.startswith(_FACT):
            proven["facts"][int(name[len(_FACT) :])] = None
        elif name == event_leaf.EVENT_ID:
            proven.pop(name, None)
        else:
            proven = {key: proven[key] for key in ("facts", "event_id") if key in proven}
    return {**proven, UNPROVEN: unproven} if unproven else proven


def is_whole(said: Mapping[str, Any]) -> bool:
    """Whether nothing of the line was taken out."""
    proof = said["proof"]
    return "redaction" not in said and (proof is None or "rewritten" not in proof)


def seal_of(said: Mapping[str, Any]) -> tuple[str, int] | None:
    """Relay and number of the seal that proves it; None when it was not sealed yet."""
    proof = said["proof"]
    return None if proof is None else (str(proof["relay"]), int(proof["number"]))


def fault(said: Mapping[str, Any], facts: Facts) -> str | None:
    """What keeps a line from being proven by that seal; None: nothing does."""
    line, proof = dict(said["line"]), said["proof"]
    unproven = line.pop(UNPROVEN, {})
    salts, _ = event_leaf.stored(leaf.line_salt(line), said.get("redaction"))
    if not set(unproven) <= set(salts.gone):
        return "it says that something is unproven that was not taken out"
    for name, value in event_leaf.parts(line).items():
        if name in salts.gone and value not in (None, {}):
            return f"it still says {name}, which was taken out and which nothing proves"
    is_sealed = event_leaf.entry(line, salts)[: leaf.DIGEST].hex() == proof["rest"]
    if (by := rewritten_by(proof)) is not None and not is_sealed:
        return f"{REWRITTEN}{by} has rewritten it"
    if not is_sealed:
        return "it is not the event line that was sealed"
    path = [bytes.fromhex(one) for one in proof["path"]]
    hashed = leaf.leaf(bytes.fromhex(proof["rest"]), event_leaf.MARK)
    if len(path) > _MOST_HASHES or not inclusion.check(
        hashed, int(proof["position"]), facts.lines, path, facts.root
    ):
        return f"its proof does not lead to what {facts.relay} has sealed"
    return None


def not_of(said: Mapping[str, Any], content: Mapping[str, Any]) -> str | None:
    """Why a line is not about the record beside it, as far as the two can tell."""
    line = said["line"]
    if "relay" not in line:
        return None  # that part was taken out
    if line["relay"] != content["relay"]:
        return "it is of another relay than its record"
    if said["kinship"] == 0 and line["queue_id"] != content["queue_id"]:
        return "it is of another queue id than its record"
    return None
