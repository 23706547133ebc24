"""The evidence of an event line: each fact is a part of its own, so that one can be taken out.

Parts, in this order: `line` (all but what follows), `event_id` (made from the facts, so it goes
with any of them), `fact/0` and so on.  The salt and the follower's `source` are no parts.  The
commitment of a part is that of `leaf`; its salt the 16 octets of its place in SHAKE128(salt of the
line).  The line is held to SHA-256 over the names in that order (canonical JSON of a list), 0x00
and the commitments; in seal.leaves MARK follows it, where records have the header section.

Promises: pure.  What `redact` leaves is enough for `entry` of what is left.

Does not: know SQL.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256, shake_128
from typing import Any

from carbonseal.milter.archive.evidence import leaf

MARK = sha256(b"carbonseal event line").digest()
LINE, EVENT_ID = "line", "event_id"
_NO_PARTS = frozenset(("facts", "event_id", "source", "salt"))
_REMEMBERED = 200  # facts


@dataclass(frozen=True, slots=True)
class Salts:
    """The salts that are left of a line, and commitments of parts that are gone."""

    line: bytes | None = field(default=None, repr=False)
    left: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    gone: Mapping[str, bytes] = field(default_factory=dict)


def is_marked(entry: bytes) -> bool:
    """Whether an entry of seal.leaves is that of an event line of ours."""
    return entry[leaf.DIGEST :] == MARK


def can_be_divided(content: Mapping[str, Any]) -> bool:
    """Whether it is an event line as the follower makes them."""
    return content.get("event") == "delivery" and type(content.get("facts")) is list


def evidence_of(line: bytes, content: Mapping[str, Any]) -> bytes:
    """The entry of seal.leaves for an intact event line."""
    if not can_be_divided(content):
        return sha256(line).digest() + leaf.NO_HEADER
    return entry(content, Salts(leaf.line_salt(content)))


def entry(content: Mapping[str, Any], salts: Salts) -> bytes:
    """The same for a line of which parts may be gone.  Raises: KeyError, TypeError, ValueError."""
    found = parts(content)
    known = _salts(salts.line, len(found))
    digests = []
    for place, (name, value) in enumerate(found.items()):
        if name in salts.gone:
            digests.append(salts.gone[name])
        else:
            salt = salts.left.get(name, known[place * leaf.SALT : (place + 1) * leaf.SALT])
            digests.append(leaf.commitment(name, value, salt))
    return sha256(_names(len(found) - 2) + b"".join(digests)).digest() + MARK


def _salts(salt: bytes | None, count: int) -> bytes:
    return b"" if salt is None else shake_128(salt).digest(count * leaf.SALT)


def parts(content: Mapping[str, Any]) -> dict[str, Any]:
    """The parts by their names, in order."""
    found: dict[str, Any] = {
        LINE: {key: value for key, value in content.items() if key not in _NO_PARTS},
        EVENT_ID: content.get("event_id"),
    }
    for number, one in enumerate(content["facts"]):
        found[f"fact/{number}"] = one
    return found


@lru_cache(maxsize=_REMEMBERED)
def _names(facts: int) -> bytes:
    names = [LINE, EVENT_ID, *(f"fact/{number}" for number in range(facts))]
    return leaf.canonical(names) + b"\x00"


def redact(
    content: Mapping[str, Any], salts: Salts, changed: Collection[str], event: int
) -> dict[str, Any]:
    """What delivery.redaction has to say once these parts are not what they were.

    Called with the content as it was before; `event`: number of the audit's.  The id goes always.
    """
    found = parts(content)
    known = _salts(salts.line, len(found))
    left, gone = {}, {name: digest.hex() for name, digest in salts.gone.items()}
    for place, (name, value) in enumerate(found.items()):
        if name in gone:
            continue
        salt = salts.left.get(name, known[place * leaf.SALT : (place + 1) * leaf.SALT])
        if name in changed or name == EVENT_ID:
            gone[name] = leaf.commitment(name, value, salt).hex()
        else:
            left[name] = salt.hex()
    return {"event": event, "salts": left, "gone": gone}


def stored(salt: bytes | None, redaction: str | None) -> tuple[Salts, int | None]:
    """The salts that SQL still has of a line, and the audit event of a redaction.

    Raises: ValueError for a redaction that nothing of ours has written.
    """
    if redaction is None:
        return Salts(salt), None
    try:
        said = json.loads(redaction)
        left = {str(name): bytes.fromhex(text) for name, text in said["salts"].items()}
        gone = {str(name): bytes.fromhex(text) for name, text in said["gone"].items()}
        return Salts(None, left, gone), int(said["event"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError("the redaction is not readable") from None
