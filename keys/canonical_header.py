"""The signed header fields in canonical form (RFC 6376, sections 3.4.1, 3.4.2 and 5.4.2).

Promises: `canonical` selects as h= says (a repeated name takes one more instance, from the bottom
up; a name without an instance left adds nothing) and canonicalizes in time linear in the octets of
the header section.  What it returns is what dkimpy makes of the same fields, byte for byte;
`by_dkimpy` is that other answer, so that a caller can compare.

Raises: `Disputed` for a signed field that verifiers are known to read differently, `NoFrom`.

Does not: know tags, keys, or our own field.

dkimpy's own functions cost 150 microseconds for fifteen fields and look at each field once per name
in h=; in plain Python here it is 12, compiled 2.  The compiled half (`_canonical_header.c`, where a
compiler was at hand; `_held_key.c` does the same for itself) answers for fields in which nothing is
odd, `plainly` for all, and it alone refuses.  `split` and `join` there do what dkimpy's two regular
expressions do, once NUL, VT, FF and CR are known to be absent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import dkim
from dkim import canonicalization

try:
    from carbonseal.keys import _canonical_header
except ImportError:
    _canonical_header = None  # type: ignore[assignment]

Field = tuple[bytes, bytes]  # name and value, the value with its leading space and folding
# The same, the name perhaps as the MTA hands it over: UTF-8 with surrogates for what is none.
Given = tuple[str | bytes, bytes]

# NUL, bare CR and a fold without white space do not survive transport in one piece.  VT and FF do,
# but under relaxed OpenDKIM takes them for white space anywhere, dkimpy at the end of a field, and
# Mail::DKIM nowhere; all agree under simple (tests/keys/test_signer_judges.py has the table).
_BROKEN: Final = re.compile(rb"\x00|\r(?!\n)|\n(?![ \t])")
_DISPUTED: Final = re.compile(rb"[\x0b\x0c]|" + _BROKEN.pattern)
_SUSPECT: Final = b"\x00\x0b\x0c\r"
_MOST: Final = 255  # names, and octets of one, that the compiled half is asked about


def _no_answer(*_: object) -> None:
    """For the compiled half where there is none."""


# Asked with the fields and `places`, `order` and `is_relaxed` of a selection; None: `plainly` must.
compiled: Callable[[object, bytes, bytes, bool], bytes | None] = (
    _no_answer if _canonical_header is None else _canonical_header.canonical
)


class Disputed(ValueError):
    """A signed field that verifiers read differently; the text is its name."""


class NoFrom(ValueError):
    """There is no From field, which must be signed."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The h= list and the header canonicalization of a signature."""

    names: tuple[bytes, ...]  # lower case
    wanted: frozenset[bytes]  # the same, each once
    is_relaxed: bool
    # For the compiled half: each name once with its length before it, From, which must be there,
    # first; and the numbers of `names` among them.  Empty where it must not answer.
    places: bytes
    order: bytes

    @classmethod
    def of(cls, names: Sequence[str], form: str) -> Selection:
        """`form` is 'relaxed' or 'simple'."""
        encoded = tuple(name.encode() for name in names)
        wanted = frozenset(encoded)
        places = order = b""
        if b"from" in wanted and max(len(wanted), *map(len, wanted)) <= _MOST:
            numbered = list(dict.fromkeys((b"from", *encoded)))
            places = b"".join(bytes([len(name)]) + name for name in numbered)
            order = bytes(map(numbered.index, encoded))
        return cls(encoded, wanted, form == "relaxed", places, order)


def octets(fields: Sequence[Given]) -> list[Field]:
    """`fields` with their names as on the wire."""
    return [
        (name.encode("utf-8", "surrogateescape") if isinstance(name, str) else name, value)
        for name, value in fields
    ]


def canonical(fields: Sequence[Given], selection: Selection) -> bytes:
    """The octets that are hashed for these header fields, given top to bottom."""
    made = compiled(fields, selection.places, selection.order, selection.is_relaxed)
    return plainly(fields, selection) if made is None else made


def plainly(fields: Sequence[Given], selection: Selection) -> bytes:
    """The same, without the compiled half."""
    instances = _instances(octets(fields), selection)
    if b"from" not in instances:
        raise NoFrom
    chosen = []
    for name in selection.names:
        left = instances.get(name)
        if left:
            chosen.append((name, left.pop()))
    if selection.is_relaxed:
        return b"".join([b"%b:%b\r\n" % (name, relaxed(field[1])) for name, field in chosen])
    return b"".join([b"%b:%b\r\n" % (field[0], crlf(field[1])) for _, field in chosen])


def relaxed(value: bytes) -> bytes:
    """The relaxed form of a value that holds no disputed octet."""
    return b" ".join(value.split())


def crlf(value: bytes) -> bytes:
    """`value` with its folding, LF or CRLF, as it is on the wire."""
    return value.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def by_dkimpy(fields: Sequence[Given], selection: Selection) -> bytes:
    """What `canonical` must return, made by dkimpy alone."""
    form = "relaxed" if selection.is_relaxed else "simple"
    rules = canonicalization.CanonicalizationPolicy.from_c_value(f"{form}/simple".encode())
    whole = [(name, crlf(value) + b"\r\n") for name, value in octets(fields)]
    chosen = dkim.select_headers(whole, selection.names)
    return b"".join(b"%b:%b" % field for field in rules.canonicalize_headers(chosen))


def _instances(fields: Sequence[Field], selection: Selection) -> dict[bytes, list[Field]]:
    """The fields that are signed, by lower-case name, each list top to bottom."""
    found: dict[bytes, list[Field]] = {}
    wanted = selection.wanted
    for field in fields:
        name = field[0].lower()
        if name in wanted:
            if name in found:
                found[name].append(field)
            else:
                found[name] = [field]
        elif name[-1:] in b" \t" and name.rstrip(b" \t") in wanted:
            # Obsolete syntax (RFC 5322, section 4.5.8): not all verifiers strip the name.
            raise Disputed(_shown(field[0]))
    _refuse_disputed(found, selection)
    return found


def _refuse_disputed(found: dict[bytes, list[Field]], selection: Selection) -> None:
    # All values in one go: a search in each of them costs as much as all the rest of this module.
    octets = b":".join([field[1] for same in found.values() for field in same])
    is_suspect = len(octets.translate(None, _SUSPECT)) != len(octets)
    folds = octets.count(b"\n ") + octets.count(b"\n\t")
    if not is_suspect and octets.count(b"\n") == folds and not octets.endswith(b"\n"):
        return
    pattern = _DISPUTED if selection.is_relaxed else _BROKEN
    for same in found.values():
        for name, value in same:
            if pattern.search(value):
                raise Disputed(_shown(name))


def _shown(name: bytes) -> str:
    return name.decode("ascii", "replace").strip()
