"""What Postfix's own pair of BCC maps would have done: the verdict to compare ours with.

Promises: `verdict` is what cleanup(8) computes from sender_bcc_maps, recipient_bcc_maps and
always_bcc for one envelope: addresses rewritten as trivial-rewrite(8) does for local clients, then
looked up in the order of mail_addr_find(3), the sender maps never for a null reverse-path.
`compare` says in reasons how our own decision differs, and decides nothing.

Does not: follow canonical maps, masquerading or `no_address_mappings`, which the milter cannot see;
or know what becomes of a copy.

Source: canonical(5) and postconf(5); the order was measured with Postfix 3.7, see the tests.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from carbonseal.policies import address
from carbonseal.policies.archiving import ArchivePlan
from carbonseal.policies.envelope import RECURRING, Envelope
from carbonseal.policies.lookup_table import Table
from carbonseal.policies.reason import Reason

_REMEMBERED = 2048
_SHORT = 256
_ATOMS = re.compile(r"[^\x00-\x20\x7f()<>@,;:\\\".\[\]]+(?:\.[^\x00-\x20\x7f()<>@,;:\\\".\[\]]+)*")
# Names whose extension Postfix never takes off.
_WHOLE = frozenset(("postmaster", "mailer-daemon", "double-bounce"))


@dataclass(frozen=True, slots=True, eq=False)  # one per configuration; a key of caches
class BccMaps:
    """The maps, and what of main.cf decides how an address is looked up."""

    sender: tuple[Table, ...] = ()
    recipient: tuple[Table, ...] = ()
    always: str = ""
    origin: str = ""  # $myorigin
    dot_domain: str = ""  # $mydomain, if append_dot_mydomain is on
    delimiter: str = ""  # $recipient_delimiter
    local: frozenset[str] = frozenset()  # $mydestination, lower case: also looked up without domain
    replaced: frozenset[str] = frozenset()  # results, lower case, that ours stand in the place of


@dataclass(frozen=True, slots=True)
class BccVerdict:
    """Whom the maps would have added."""

    adds: tuple[str, ...]
    problem: str = ""  # why it is unknown


def verdict(maps: BccMaps, envelope: Envelope) -> BccVerdict:
    """What the maps would have added to the message of `envelope`."""
    results = [_of_reverse_path(maps, envelope.reverse_path.path.raw)]
    paths = [one.path.raw for one in envelope.recipients]
    results += [_of_recipient(maps, raw) for raw in paths[:RECURRING]]
    if maps.recipient:
        results += [_looked_up.__wrapped__(maps, raw, False) for raw in paths[RECURRING:]]
    if maps.always:
        results.append(BccVerdict((_rewritten(maps, maps.always) or maps.always,)))
    return _together(results)


def compare(maps: BccMaps, envelope: Envelope, plan: ArchivePlan) -> tuple[Reason, ...]:
    """How the maps' verdict differs from ours."""
    theirs = verdict(maps, envelope)
    if theirs.problem:
        return (Reason("bcc-maps-unknown", theirs.problem),)
    mapped = {one.lower(): one for one in theirs.adds}
    own = {one.lower() for one in plan.add}
    is_replaced = bool(own) and not maps.replaced.isdisjoint(mapped)
    extra = [
        one
        for folded, one in mapped.items()
        if folded not in own and not (is_replaced and folded in maps.replaced)
    ]
    # A recipient that the sender wrote is not merged with a map's: they differ in NOTIFY.
    typed = {_typed(maps, one.path.raw) for one in envelope.recipients} if extra else set()
    missed = [] if is_replaced else [one for one in plan.add if one.lower() not in mapped]
    doubled = [one for one in extra if one.lower() in typed]
    added = [one for one in extra if one.lower() not in typed]
    found: list[Reason] = []
    if missed:
        found.append(Reason("bcc-maps-would-miss", ", ".join(missed)))
    if doubled:
        found.append(Reason("bcc-maps-would-double", ", ".join(doubled)))
    if added:
        found.append(Reason("bcc-maps-would-add", ", ".join(added)))
    return tuple(found) or (Reason("bcc-maps-agree", ", ".join(theirs.adds) or "no copy"),)


def said(reasons: Iterable[str]) -> str | None:
    """The comparison in one word, from the reasons of a record; None when none was made.

    'agree', 'unknown', 'would-miss', 'would-add', 'would-double', or several joined by commas.
    """
    codes = (reason.partition("(")[0] for reason in reasons)
    words = [code.removeprefix("bcc-maps-") for code in codes if code.startswith("bcc-maps-")]
    return ",".join(dict.fromkeys(words)) or None


def _together(results: Iterable[BccVerdict]) -> BccVerdict:
    adds: dict[str, str] = {}
    for one in results:
        if one.problem:
            return one
        for text in one.adds:
            adds.setdefault(text.lower(), text)
    return BccVerdict(tuple(adds.values()))


def _typed(maps: BccMaps, raw: str) -> str:
    return (_rewritten(maps, raw) or raw).lower()


def _of_reverse_path(maps: BccMaps, raw: str) -> BccVerdict:
    if not maps.sender or raw in ("", "<>"):
        return BccVerdict(())
    return _cached(maps, raw, is_sender=True)


def _of_recipient(maps: BccMaps, raw: str) -> BccVerdict:
    return _cached(maps, raw, is_sender=False) if maps.recipient else BccVerdict(())


def _cached(maps: BccMaps, raw: str, *, is_sender: bool) -> BccVerdict:
    # As in `boundary`: the same people write to the same people, and strangers fill no memory.
    look = _looked_up if len(raw) <= _SHORT else _looked_up.__wrapped__
    return look(maps, raw, is_sender)


@lru_cache(_REMEMBERED)
def _looked_up(maps: BccMaps, raw: str, is_sender: bool) -> BccVerdict:
    internal = _rewritten(maps, raw)
    if internal is None:
        return BccVerdict((), f"{raw[:_SHORT]} cannot be read")
    if is_sender and internal.lower() == f"mailer-daemon@{maps.origin}".lower():
        return BccVerdict(())  # Postfix takes it for the null reverse-path
    result = _find(maps.sender if is_sender else maps.recipient, internal, maps)
    if result is None:
        return BccVerdict(())
    if not result:
        return BccVerdict((), f"the result for {raw[:_SHORT]} is empty, so Postfix would refuse it")
    return BccVerdict((_rewritten(maps, result) or result,))


def _find(tables: Sequence[Table], internal: str, maps: BccMaps) -> str | None:
    """user+ext@domain, user@domain, user+ext and user where the domain is local, @domain."""
    local_part, _, domain = internal.rpartition("@")
    bare = _without_extension(local_part, maps.delimiter)
    keys = [] if bare is None else [f"{bare}@{domain}"]
    if domain.lower() in maps.local or domain.lower() == maps.origin.lower():
        keys += [local_part] if bare is None else [local_part, bare]
    result = _ask(tables, internal, is_whole=True)
    for key in keys:
        if result is not None:
            return result
        result = _ask(tables, key, is_whole=False)
    return _first(tables, f"@{domain}", is_whole=False) if result is None else result


def _ask(tables: Sequence[Table], key: str, *, is_whole: bool) -> str | None:
    """First quoted as RFC 5322 has it, then plain."""
    quoted = _quoted(key)
    result = _first(tables, quoted, is_whole=is_whole)
    return _first(tables, key, is_whole=is_whole) if result is None and quoted != key else result


def _first(tables: Sequence[Table], key: str, *, is_whole: bool) -> str | None:
    for table in tables:
        # Patterns are never shown a part of an address.
        if is_whole or not table.is_pattern:
            result = table.find(key)
            if result is not None:
                return result
    return None


def _without_extension(local_part: str, delimiters: str) -> str | None:
    """The local part before its extension; None when it has none."""
    folded = local_part.lower()
    if not delimiters or folded in _WHOLE:
        return None
    if "-" in delimiters and (folded.startswith("owner-") or folded.endswith("-request")):
        return None
    positions = [position for sign in delimiters if (position := local_part.find(sign)) >= 0]
    return local_part[: min(positions)] if positions and min(positions) > 0 else None


def _rewritten(maps: BccMaps, raw: str) -> str | None:
    """The address in the form the tables see, quotes taken off; None when it cannot be read."""
    parts = address.as_typed(raw)
    if parts is None:
        return None
    local_part, domain = parts
    if domain is None:
        local_part, domain = _qualified(maps, local_part)
    if maps.dot_domain and "." not in domain and not domain.startswith("["):
        domain = f"{domain}.{maps.dot_domain}"
    return f"{_unquoted(local_part)}@{domain.removesuffix('.')}"


def _qualified(maps: BccMaps, local_part: str) -> tuple[str, str]:
    if '"' not in local_part:
        site, bang, user = local_part.partition("!")
        if bang and site and user:
            return user, site
        user, percent, site = local_part.rpartition("%")
        if percent and site and user:
            return user, site
    return local_part, maps.origin


def _unquoted(local_part: str) -> str:
    if '"' not in local_part and "\\" not in local_part:
        return local_part
    return re.sub(r'\\(.)|"', lambda found: found[1] or "", local_part, flags=re.DOTALL)


def _quoted(internal: str) -> str:
    """The local part in quotes where RFC 5322 wants them."""
    local_part, at, domain = internal.rpartition("@") if "@" in internal else (internal, "", "")
    if _ATOMS.fullmatch(local_part):
        return internal
    escaped = re.sub(r'(["\\\r])', r"\\\1", local_part)
    return f'"{escaped}"{at}{domain}'
