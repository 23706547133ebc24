"""The BCC maps that are compared with our own decision, read from the files they stand in.

Promises: `read` gives a value with which every envelope can be judged, or raises; a table that only
Postfix can look into is refused when the configuration is loaded, not when mail comes.  Of hash and
other indexed types the source file is read, the one that postmap(1) was told of.

Raises: `UnusableMap`, which names the key of the configuration and the remedy.

Does not: ask Postfix; `carbonseal postfix bcc-maps` prints what belongs into the section.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from carbonseal.policies import bcc_maps, lookup_table
from carbonseal.policies.bcc_maps import BccMaps
from carbonseal.policies.errors import ConfigurationError, DataError
from carbonseal.policies.lookup_table import Reference, Table

_MAX_SIZE = 16 * 1024 * 1024  # octets of one table


class UnusableMap(ConfigurationError):
    """A table cannot be read or modelled; `key` is where it is named, below archive.bcc_maps."""

    def __init__(self, key: str, sentence: str) -> None:
        self.key = key
        super().__init__(sentence)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What the section says, in main.cf's words."""

    sender: str  # sender_bcc_maps as `postconf -xh` prints it
    recipient: str
    always: str
    origin: str
    dot_domain: str
    delimiter: str
    local: Sequence[str]
    replaced: Sequence[str]
    base: Path  # where relative paths begin


def read(sources: Sources) -> BccMaps:
    """The maps with their contents of this moment."""
    return bcc_maps.BccMaps(
        sender=_tables("sender", sources.sender, sources.base),
        recipient=_tables("recipient", sources.recipient, sources.base),
        always=sources.always,
        origin=sources.origin,
        dot_domain=sources.dot_domain,
        delimiter=sources.delimiter,
        local=frozenset(domain.lower() for domain in sources.local),
        replaced=frozenset(one.lower() for one in sources.replaced),
    )


def _tables(key: str, value: str, base: Path) -> tuple[Table, ...]:
    try:
        return tuple(_table(about, base) for about in lookup_table.references(value))
    except DataError as fault:
        raise UnusableMap(key, fault.sentence) from None


def _table(about: Reference, base: Path) -> Table:
    known = lookup_table.PATTERN_TYPES | lookup_table.INDEXED_TYPES
    if about.is_inline or about.type == "static" or about.type not in known:
        return lookup_table.parse(about)
    return lookup_table.parse(about, contents(base / about.name, str(about)))


def contents(path: Path, shown: str) -> str:
    """The text of a table's file.  Raises: DataError."""
    try:
        with open(path, "rb") as stream:
            raw = stream.read(_MAX_SIZE + 1)
    except OSError as fault:
        raise DataError(
            f"{shown}: cannot be read ({fault.strerror}); let this user read it, or write what it"
            f" holds as inline:{{...}}"
        ) from None
    if len(raw) > _MAX_SIZE:
        raise DataError(f"{shown}: larger than {_MAX_SIZE} octets; is it a table?")
    return raw.decode("utf-8", "surrogateescape")
