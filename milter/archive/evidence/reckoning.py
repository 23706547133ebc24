"""What a record in SQL is held to now, from its rows and what is left of its salts.

Does not: know what it was held to when it was sealed (`sealed_segment` does).
"""

from __future__ import annotations

import zlib
from typing import Any

from carbonseal.milter.archive import rows
from carbonseal.milter.archive.evidence import leaf
from carbonseal.milter.archive.rows import Rows

BROKEN = (zlib.error, ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError)


def evidence_of(
    one: Rows, redaction: tuple[str, int] | None
) -> tuple[str | None, leaf.Commitments | None]:
    """What the row is held to now; or why that cannot be reckoned."""
    problem, found, _ = reckoned(one, redaction)
    return problem, found


def reckoned(
    one: Rows, redaction: tuple[str, int] | None
) -> tuple[str | None, leaf.Commitments | None, dict[str, Any]]:
    """As `evidence_of`, with the record."""
    section = one.header_section
    try:
        content = rows.join(one)
        header_salt = section.get("salt")
        known = leaf.stored_salts(
            _octets(one.message["salt"]),
            _octets(header_salt),
            None if redaction is None else redaction[0],
        )
        if is_subject_gone(one):
            content.pop("salt", None)  # no salt of a line, but what is left of one
        return None, leaf.commitments_of(content, known, has_header="fields" in section), content
    except BROKEN as fault:
        return f"the row cannot be read back ({type(fault).__name__})", None, {}


def is_subject_gone(one: Rows) -> bool:
    """Whether the subject was taken out and the other header fields have been left."""
    salt = one.header_section.get("salt")
    return salt is not None and len(salt) != leaf.SALT


def _octets(value: Any) -> bytes | None:
    return None if value is None else bytes(value)


def fits(found: leaf.Commitments, entry: bytes) -> bool:
    """Whether that is what was sealed, as far as it is there."""
    return found.rest == entry[: leaf.DIGEST] and found.header in (None, entry[leaf.DIGEST :])
