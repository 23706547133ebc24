"""A count with its noun, as a person would write it: `1 record`, `2 records`.

Does not: know grammar.  Where more than an `s` differs, the caller says how both read.
"""

from __future__ import annotations


def of(count: int, one: str, several: str = "") -> str:
    """`count` with `one` where it is 1, else with `several` (left out: `one` and an s).

    A verb may come with the noun: of(count, "record waits", "records wait").
    """
    return f"{count} {one if count == 1 else several or one + 's'}"
