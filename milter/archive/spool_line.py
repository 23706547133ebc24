"""Lines of the spool taken apart by a compiled helper, where that could be built.

Of a record as the milter writes it, one look at its line gives all that the writer makes of it:
what its evidence is, its header section as it is compressed, the values from which something is
derived, and the rest of it as objects.  In Python that is `record.parse`, `leaf.evidence_of`,
`merkle.quick_leaf_hash`, `header_store.text` and `derive.values`, one after the other; it is what
runs where the helper is missing, and for each line that the helper leaves to it.

Promises: what `Reader.take` answers is what those answer, octet by octet; None for a line that is
damaged, no record, or unusual in any way.

Does not: know SQL, or what the parts of a record mean.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection
from typing import Any, NamedTuple, Protocol

from carbonseal.milter.archive.evidence import leaf

_TAIL = 21  # octets that the checksum does not cover: itself, and the newline


class Apart(NamedTuple):
    """A record's line, taken apart."""

    content: dict[str, Any]  # the record without its header section
    text: bytes  # the header section as `header_store` compresses it
    values: list[tuple[str, bytes]]  # of the fields that were wanted, in order
    evidence: bytes  # of the line; see `leaf.evidence_of`
    digest: bytes  # by which the line stands in the tree of its segment
    # What is derived from plain fields; None where there are none, or others that look the same.
    subject: str | None
    words: list[int] | None  # terms of the words of all subjects
    message_id: str | None
    message_id_hash: int | None


class _Compiled(Protocol):
    def take(self, line: bytes, checksum: int, /) -> tuple[Any, ...] | None: ...


class _MakeCompiled(Protocol):
    def __call__(
        self, wanted: Collection[str], naming: Collection[str], about: Collection[str]
    ) -> _Compiled: ...


COMPILED: _MakeCompiled | None = None  # None where it could not be built
try:
    from carbonseal.milter.archive import _spool_line
except ImportError:
    pass
else:
    COMPILED = _spool_line.Reader

Take = Callable[[bytes], Apart | None]


def taking(wanted: Collection[str]) -> Take | None:
    """What takes a line apart (newline included); None where everything is left to Python.

    `wanted`: names in lower case of the fields from which anything is derived.
    """
    if COMPILED is None:
        return None
    try:
        compiled = COMPILED(wanted, leaf.NAMING, leaf.ABOUT)
    except ValueError:
        return None  # a name that is longer than the helper can remember
    take_apart, checksum, made = compiled.take, zlib.crc32, Apart._make

    def take(line: bytes) -> Apart | None:
        found = take_apart(line, checksum(line[:-_TAIL]))
        return None if found is None else made(found)

    return take
