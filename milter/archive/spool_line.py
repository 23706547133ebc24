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

from collections.abc import Callable, Collection
from typing import Any, NamedTuple, Protocol

from carbonseal.milter.archive import message_lines
from carbonseal.milter.archive.evidence import leaf

_USUAL = 9  # place of `Apart.flat`
_TAIL = 21  # octets that the checksum does not cover: itself, and the newline


class Flat(NamedTuple):
    """A record that says each thing in the one usual way: `usual_rows` makes its rows.

    What recurs is a key: the octets of the line that say it, as JSON.
    """

    record_id: str
    recorded_at: int  # microseconds since 1970
    queue_id: str
    login: str | None
    # v, relay, config_version, listener, login_method, tls, retention, kind of origin, what the
    # origin is about (0: the login, 1: the client's address), body canonicalization
    common: bytes
    client: bytes  # address, name, helo
    reverse_path: bytes  # raw, address, resolved, place, why
    esmtp: str | bytes | None  # its ESMTP parameters as they are stored; octets: as they came
    # raw, address, resolved, place, why, mailer, host, esmtp
    recipients: list[bytes]  # empty: unusual
    copies: list[str]  # archive recipients
    # auid, sdid, selector, algorithm, canonicalization, fields; then signed_at, expires_at
    signatures: list[tuple[bytes, int, int | None] | None]  # null: unusual
    reasons: list[str]
    crossing: int  # place in schema.CROSSINGS
    disposition: int  # place in schema.DISPOSITIONS
    archive_addressed: bool
    size: int
    numbers: bytes  # see packed
    body_hash: bytes | None
    salt: bytes  # of the line
    evidence_salt: bytes  # of all but the header section


class Apart(NamedTuple):
    """A record's line, taken apart."""

    content: dict[str, Any]  # the record without its header section; with `flat` its id alone
    text: bytes  # the header section as `header_store` compresses it
    values: list[tuple[str, bytes]]  # of the fields that were wanted, in order
    evidence: bytes  # of the line; see `leaf.evidence_of`
    digest: bytes  # by which the line stands in the tree of its segment
    # What is derived from plain fields; None where there are none, or others that look the same.
    subject: str | None
    words: list[int] | None  # terms of the words of all subjects
    message_id: str | None
    message_id_hash: int | None
    flat: Flat | None = None  # if it is usual, and was wanted so


class _Compiled(Protocol):
    def take(self, line: bytes, checksum: int, /) -> tuple[Any, ...] | None: ...
    def run(
        self,
        lines: list[bytes],
        first: int,
        end: int,
        how: How,
        /,
    ) -> TakenRun: ...


class _MakeCompiled(Protocol):
    def __call__(
        self,
        wanted: Collection[str],
        naming: Collection[str],
        about: Collection[str],
        flat: bool = False,
    ) -> _Compiled: ...


COMPILED: _MakeCompiled | None = None  # None where it could not be built
try:
    from carbonseal.milter.archive import _spool_line
except ImportError:
    pass
else:
    COMPILED = _spool_line.Reader

Take = Callable[[bytes], Apart | None]
# What is made of a line whose rows alone are asked for, or None.
Make = Callable[[Apart, frozenset[str]], tuple[Any, ...] | None]
# How a run is taken: what finds checksums, what makes rows, and `indexed` for the latter.
How = tuple[Callable[[bytes, int], int], Make, frozenset[str]]
# What was made of each line, and their header sections; their evidence and digests, one behind
# the other; their octets.
TakenRun = tuple[list[tuple[Any, ...]], list[bytes], bytes, bytes, int]
TakeRun = Callable[[list[bytes], int, int], TakenRun]


def taking(wanted: Collection[str], *, flat: bool = False) -> Take | None:
    """What takes a line apart (newline included); None where everything is left to Python.

    `wanted`: names in lower case of the fields from which anything is derived.  `flat`: usual
    records are wanted so, and not as objects.
    """
    if COMPILED is None:
        return None
    try:
        compiled = COMPILED(wanted, leaf.NAMING, leaf.ABOUT, flat)
    except ValueError:
        return None  # a name that is longer than the helper can remember
    take_apart, checksum, new = compiled.take, message_lines.checksum_before, tuple.__new__

    def take(line: bytes) -> Apart | None:
        found = take_apart(line, checksum(line, _TAIL))
        if found is None:
            return None
        # What is left of `_make` but for its look at the length.
        usual = found[_USUAL]
        if usual is not None:
            found = (*found[:_USUAL], new(Flat, usual))
        return new(Apart, found)

    return take


def running(wanted: Collection[str], make: Make, indexed: frozenset[str]) -> TakeRun | None:
    """What takes usual lines apart and has `make` make rows of them, up to the first other.

    It is given lines, and the places of the first and behind the last.  None where everything is
    left to Python.
    """
    if COMPILED is None:
        return None
    try:
        run = COMPILED(wanted, leaf.NAMING, leaf.ABOUT, True).run
    except ValueError:
        return None
    how = (message_lines.checksum_before, make, indexed)
    return lambda lines, first, end: run(lines, first, end, how)
