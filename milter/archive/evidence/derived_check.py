"""Are the columns that follow from a record those that follow from it?

They are no evidence themselves, but searches go by them: a changed login hash hides a message as
well as a deleted row.

Promises: checks whatever `rows.split` derives, for records that are complete; of those that have
lost a part the columns may rightly say more than what is left.

Does not: look at the indexes (`index_check`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from carbonseal.milter.archive import rows
from carbonseal.milter.archive.evidence.leaf import SALT
from carbonseal.milter.archive.rows import Rows


def wrong_columns(one: Rows, made: Rows) -> list[str]:
    """Columns of a stored record that say otherwise than those made of it anew."""
    pairs = (
        ("message", one.message, made.message),
        ("header_section", one.header_section, made.header_section),
    )
    wrong = [
        name for name in ("recipients", "signatures") if getattr(one, name) != getattr(made, name)
    ]
    return wrong + [
        f"{table}.{name}"
        for table, stored, anew in pairs
        for name, value in anew.items()
        if name in stored and stored[name] != value
    ]


def made_anew(one: Rows, content: Mapping[str, Any], *, is_redacted: bool) -> Rows | None:
    """The rows that would be made of a stored record now; None where it is not complete.

    `content`: the record as `rows.join` gives it.
    """
    section = one.header_section
    salt = section.get("salt")
    if is_redacted or "fields" not in section or (salt is not None and len(salt) != SALT):
        return None
    try:
        return rows.split(content, frozenset())
    except rows.Unloadable:
        return None  # then it was changed, and that is said anyway
