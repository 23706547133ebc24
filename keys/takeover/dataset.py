"""OpenDKIM's data sets: flat files, files of patterns, lists in the configuration.

opendkim(8), DATA SETS: `file:PATH` or a path, `refile:PATH`, `csl:a b,c d` or a bare list; anything
after `#` is a comment, the first white space divides the name from its value.  Databases and
scripts are refused with what to do instead.

Raises: `errors.DataError`, naming the place.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from carbonseal.keys.takeover import lines
from carbonseal.policies import errors


class Kind(StrEnum):
    """How names in a data set are compared."""

    FLAT = "file"  # whole names, most specific first
    PATTERNS = "refile"  # with wildcards, in the order they stand


@dataclass(frozen=True, slots=True)
class Entry:
    """A name and what it stands for."""

    source: str
    name: str
    value: str = field(repr=False)  # may hold a private key


@dataclass(frozen=True, slots=True)
class Dataset:
    """The entries in the order they stand."""

    kind: Kind
    entries: tuple[Entry, ...]
    folder: Path | None = None  # of the file; None for a list


_FOREIGN = {
    "db": "a Berkeley DB",
    "dsn": "an SQL database",
    "ldap": "an LDAP directory",
    "ldaps": "an LDAP directory",
    "ldapi": "an LDAP directory",
    "lua": "a Lua script",
    "memcache": "a memcached server",
    "socket": "a socket map",
    "mdb": "an LMDB database",
    "erlang": "an Erlang function",
    "repute": "a reputation server",
    "redis": "a Redis server",
}


def read(specification: str, source: str, base: Path | None = None) -> Dataset:
    """The data set a parameter names; relative paths are under `base`."""
    prefix, colon, rest = specification.partition(":")
    kind = prefix.strip().lower() if colon else ""
    if kind in _FOREIGN or (not colon and specification.endswith(".db")):
        raise errors.DataError(
            f"{source}: the table is {_FOREIGN.get(kind, _FOREIGN['db'])}, which is not read here;"
            " write its entries into a text file, one a line as OpenDKIM's flat files have them,"
            " and import that."
        )
    if kind in ("file", "refile"):
        return _file(Path(rest.strip()), Kind(kind), base)
    if kind != "csl" and specification.startswith(("/", "./", "../")):
        return _file(Path(specification), Kind.FLAT, base)
    return _list(rest if kind == "csl" else specification, source)


def is_specification(text: str) -> bool:
    """Whether a text names a kind of data set before a colon."""
    prefix, colon, _ = text.partition(":")
    return bool(colon) and (prefix in ("file", "refile", "csl") or prefix in _FOREIGN)


def shown(text: str) -> str:
    """A data set from the command line as its own place: a list may hold keys, a DSN a password."""
    prefix, _, _ = text.partition(":")
    return f"{prefix}:..." if is_specification(text) and prefix not in tuple(Kind) else text


def _file(path: Path, kind: Kind, base: Path | None) -> Dataset:
    whole = path if path.is_absolute() or base is None else base / path
    entries = tuple(_entry(line.source, line.text) for line in lines.read(whole))
    return Dataset(kind, entries, whole.parent)


def _list(text: str, source: str) -> Dataset:
    parts = (part.strip() for part in text.split(","))
    return Dataset(Kind.FLAT, tuple(_item(source, part) for part in parts if part))


def _item(source: str, text: str) -> Entry:
    """An element of a list: its name and value stand as `name=value`, or as in a file."""
    name, equals, value = text.partition("=")
    if equals and name.strip() and not any(map(str.isspace, name.strip())):
        return Entry(source, name.strip(), value.strip())
    return _entry(source, text)


def _entry(source: str, text: str) -> Entry:
    name, *rest = text.split(None, 1)
    return Entry(source, name, rest[0].strip() if rest else "")
