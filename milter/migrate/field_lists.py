"""SignHeaders, OmitHeaders and OversignHeaders as `signing.oversign` and `oversign_absent`.

opendkim.conf(5): a list replaces the default, unless `*` stands in it; then `+name` and `-name` are
changes to the default.  The default signs what RFC 6376 section 5.4.1 recommends.

Promises: nothing that was signed there is left out here, but for fields that change on the way
(trace fields); nothing that is absent and added by Postfix later (Date, Message-ID) is oversigned.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from carbonseal.keys.takeover.dataset import Entry
from carbonseal.milter.migrate.plan import Fate, Note
from carbonseal.policies import signing

_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,76}\Z")
_ON_THE_WAY: Final = frozenset(
    "return-path received dkim-signature authentication-results arc-seal arc-message-signature"
    " arc-authentication-results delivered-to x-original-to bcc resent-bcc comments keywords"
    " received-spf".split()
)


@dataclass(frozen=True, slots=True)
class FieldLists:
    """What our configuration says about fields, where it differs from the default."""

    oversign: tuple[str, ...] = ()
    oversign_absent: tuple[str, ...] = ()
    not_signed: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()


def translated(
    *, sign: Sequence[Entry], omit: Sequence[Entry], oversign: Sequence[Entry], source: str
) -> FieldLists:
    """Our lists for theirs."""
    notes = [
        Note(
            source,
            "signed fields",
            Fate.DIFFERENT,
            "all recommended fields are signed, and the visible ones once more than they occur"
            " (signing.oversign), so h= is longer here than it was",
        )
    ]
    more = [name for name in _added(sign, notes, "SignHeaders") if name not in _signed()]
    wanted = _added(oversign, notes, "OversignHeaders")
    left_out = _omitted(omit, notes)
    late = [name for name in wanted if name in signing.LATE_ADDITIONS]
    if late:
        sentence = (
            f"{', '.join(late)} is not oversigned where it is absent, because Postfix adds it after"
            " the milter; list it in signing.oversign_absent with always_add_missing_headers = yes"
        )
        notes.append(Note(oversign[0].source, "OversignHeaders", Fate.DIFFERENT, sentence))
    if more:
        sentence = (
            f"{', '.join(more)}: in signing.oversign, so signed once more than it occurs, which"
            " stops others from adding one"
        )
        notes.append(Note(sign[0].source, "SignHeaders", Fate.DIFFERENT, sentence))
    fresh = [name for name in wanted if name not in signing.OVERSIGNED]
    return FieldLists(
        oversign=tuple(dict.fromkeys((*more, *fresh))),
        oversign_absent=tuple(fresh),
        not_signed=left_out,
        notes=tuple(notes),
    )


def _signed() -> frozenset[str]:
    return frozenset((*signing.OVERSIGNED, *signing.SIGNED_IF_PRESENT))


def _added(entries: Sequence[Entry], notes: list[Note], parameter: str) -> list[str]:
    """The names of a list, or those it adds to the default."""
    is_change = any(entry.name == "*" for entry in entries)
    names: list[str] = []
    for entry in entries:
        name = entry.name.lower()
        if is_change and not name.startswith("+"):
            continue
        name = name.removeprefix("+")
        if not _NAME.match(name) or name == ".":
            sentence = "an entry is no name of a header field; correct it in signing.oversign"
            notes.append(Note(entry.source, parameter, Fate.NO_EQUAL, sentence))
        elif name in _ON_THE_WAY:
            sentence = f"{name} changes on the way and is not signed here"
            notes.append(Note(entry.source, parameter, Fate.NO_EQUAL, sentence))
        elif name not in names:
            names.append(name)
    return names


def _omitted(entries: Sequence[Entry], notes: list[Note]) -> tuple[str, ...]:
    """The names that are not to be signed and can be left out."""
    names = []
    for entry in entries:
        name = entry.name.lower().removeprefix("+")
        if name in ("*", ".") or name.startswith("-") or name not in _signed():
            continue
        if name in signing.OVERSIGNED and name != "from":
            names.append(name)
            sentence = f"{name} is left out of signing.oversign, and so is not signed"
            notes.append(Note(entry.source, "OmitHeaders", Fate.TAKEN, sentence))
        else:
            sentence = f"{name} is signed here where it is present; nothing can leave it out"
            notes.append(Note(entry.source, "OmitHeaders", Fate.NO_EQUAL, sentence))
    return tuple(names)
