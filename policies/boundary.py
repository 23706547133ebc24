"""Does a message cross the boundary of our ADMD?  NOT (local AND local).

Promises: a message is INTERNAL only when its origin is proven, its reverse-path is ours and every
recipient is certainly inside; whatever cannot be decided counts as crossing.  Each end carries the
reason for its place, and the verdict names the addresses that prove it.

The answer of Postfix wins over the text the client typed: {rcpt_addr} is the address after source
routes, percent hack, bang path and inner quotes were resolved, and {rcpt_mailer} is `error` for an
accepted recipient that only an alias can deliver, so that nobody knows where it ends.

Does not: see what happens later (alias expansion, .forward), or look at header fields.
"""

from __future__ import annotations

import re
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from carbonseal.policies import address
from carbonseal.policies.address import Address, Path
from carbonseal.policies.envelope import RECURRING, Envelope, Recipient, ReversePath
from carbonseal.policies.origin import Origin, OriginKind, Ours
from carbonseal.policies.reason import Reason

_SRS = re.compile(r"SRS[01][=+-]", re.IGNORECASE)
# Without the macros nobody but Postfix can tell where such an address leads.
_ROUTED = frozenset(("percent-hack", "bang-path", "quoted-at"))
_PROOFS = 3  # how many addresses of one kind a verdict names
# The same addresses come again and again.  Long ones are placed anew each time, so that strangers
# cannot fill the memory, and so are the many of a mailing (`envelope.RECURRING`).
_REMEMBERED = 2048
_SHORT = 256


class CrossingKind(StrEnum):
    """How a message stands to the boundary."""

    INTERNAL = "internal"  # both ends inside
    OUTBOUND = "outbound"  # from inside, at least one recipient not inside
    INBOUND = "inbound"  # from outside, at least one recipient inside
    TRANSIT = "transit"  # no end inside


class Place(StrEnum):
    """On which side of the boundary one end lies."""

    INSIDE = "inside"
    OUTSIDE = "outside"
    UNKNOWN = "unknown"  # counts as outside


# Tuples: each message makes new ones, and a frozen dataclass takes twice as long.
class End(NamedTuple):
    """One end of the message with its place and why."""

    text: str  # the address that was judged; '' for the null reverse-path
    place: Place
    why: Reason
    is_archive: bool = False  # an archive recipient that the sender addressed


class Classification(NamedTuple):
    """The verdict on the boundary."""

    crossing: CrossingKind
    reverse_path: End
    recipients: tuple[End, ...]  # in the order of RCPT TO
    reasons: tuple[Reason, ...]

    @property
    def is_crossing(self) -> bool:
        """NOT (local AND local)."""
        return self.crossing is not CrossingKind.INTERNAL


def classify(
    envelope: Envelope, ours: Ours, origin: Origin, archive: frozenset[Address] = frozenset()
) -> Classification:
    """Place both ends of `envelope` and say whether it crosses.

    `archive` holds the archive recipients (see `comparable`); one that the sender addressed is
    ours and says nothing about where the message goes.
    """
    is_proven = origin.kind is not OriginKind.NONE
    reverse_path = _reverse_path_end(envelope.reverse_path, ours, is_proven=is_proven)
    given = envelope.recipients
    # As most mail has; the rest gives the same, for twice as much.
    if len(given) == 1:
        end = _recipient_end(given[0], ours, archive)
        crossing = _CROSSING[reverse_path.place is Place.INSIDE, end.place is Place.INSIDE]
        return Classification(crossing, reverse_path, (end,), (reverse_path.why, end.why))
    recipients = [_recipient_end(one, ours, archive) for one in given[:RECURRING]]
    recipients += [_fresh_end(one, ours, archive) for one in given[RECURRING:]]
    crossing = _crossing(reverse_path, recipients)
    reasons = _reasons(reverse_path, recipients)
    return Classification(crossing, reverse_path, tuple(recipients), reasons)


def comparable(mailbox: Address) -> Address:
    """`mailbox` for comparison: Postfix folds case where it merges recipients (been_here.c)."""
    return Address(mailbox.local_part.lower(), mailbox.domain)


# By whether the reverse-path is inside, and whether the recipient is.
_CROSSING = {
    (True, True): CrossingKind.INTERNAL,
    (True, False): CrossingKind.OUTBOUND,
    (False, True): CrossingKind.INBOUND,
    (False, False): CrossingKind.TRANSIT,
}


def _crossing(reverse_path: End, recipients: list[End]) -> CrossingKind:
    """What is outbound for one recipient is so for all; inbound, too."""
    is_from_inside = reverse_path.place is Place.INSIDE
    is_inside = [end.place is Place.INSIDE for end in recipients]
    return _CROSSING[is_from_inside, all(is_inside) if is_from_inside else any(is_inside)]


def _reasons(reverse_path: End, recipients: list[End]) -> tuple[Reason, ...]:
    proofs: dict[str, list[Reason]] = {}
    for end in recipients:
        kept = proofs.setdefault(end.why.code, [])
        if len(kept) < _PROOFS and end.why not in kept:
            kept.append(end.why)
    return (reverse_path.why, *(reason for kept in proofs.values() for reason in kept))


def _reverse_path_end(reverse_path: ReversePath, ours: Ours, *, is_proven: bool) -> End:
    path, resolved, _ = reverse_path
    raw = path.raw
    if len(raw) > _SHORT or (resolved is not None and len(resolved) > _SHORT):
        return _place_reverse_path.__wrapped__(raw, resolved, ours, is_proven)
    return _place_reverse_path(raw, resolved, ours, is_proven)


def _recipient_end(recipient: Recipient, ours: Ours, archive: frozenset[Address]) -> End:
    path, resolved, mailer, _, _ = recipient
    raw = path.raw
    if len(raw) > _SHORT or (resolved is not None and len(resolved) > _SHORT):
        return _fresh_end(recipient, ours, archive)
    return _place_recipient(raw, resolved, mailer == "error", ours, archive)


@lru_cache(_REMEMBERED)
def _place_reverse_path(raw: str, macro: str | None, ours: Ours, is_proven: bool) -> End:
    path = address.parse_path(raw)
    if path.is_null:
        place = Place.INSIDE if is_proven else Place.OUTSIDE
        return End("", place, Reason(f"null-reverse-path-{place}"))
    resolved = _resolved(macro, path)
    text = str(resolved) if resolved else path.raw
    if resolved is None or not ours.domains.match(resolved.domain):
        return End(text, Place.OUTSIDE, Reason("reverse-path-outside", text))
    if not is_proven:
        return End(text, Place.OUTSIDE, Reason("reverse-path-unproven", text))
    if _disagrees(path, resolved):
        return End(text, Place.OUTSIDE, Reason("reverse-path-rerouted", f"{path.raw} is {text}"))
    if _SRS.match(resolved.local_part):
        # A forwarder of ours rewrote it: the message began outside.
        return End(text, Place.OUTSIDE, Reason("reverse-path-srs", text))
    return End(text, Place.INSIDE, Reason("reverse-path-inside", text))


@lru_cache(_REMEMBERED)
def _place_recipient(
    raw: str, macro: str | None, is_alias_only: bool, ours: Ours, archive: frozenset[Address]
) -> End:
    return _place(address.parse_path(raw), macro, is_alias_only, ours, archive)


def _fresh_end(recipient: Recipient, ours: Ours, archive: frozenset[Address]) -> End:
    """As `_recipient_end`, without remembering it."""
    return _place(recipient.path, recipient.resolved, recipient.mailer == "error", ours, archive)


def _place(
    path: Path, macro: str | None, is_alias_only: bool, ours: Ours, archive: frozenset[Address]
) -> End:
    resolved = _resolved(macro, path)
    text = str(resolved) if resolved else path.raw
    if resolved is None:
        return End(text, Place.UNKNOWN, Reason("recipient-unreadable", text))
    if archive and comparable(resolved) in archive and not _disagrees(path, resolved):
        return End(text, Place.INSIDE, Reason("recipient-is-archive", text), is_archive=True)
    if is_alias_only:
        return End(text, Place.UNKNOWN, Reason("recipient-alias-only", text))
    if not ours.domains.match(resolved.domain):
        typed = path.address
        # Mostly they are one, and were asked about just now.
        if typed is not None and typed is not resolved and ours.domains.match(typed.domain):
            why = Reason("recipient-rerouted", f"{path.raw} is {text}")
            return End(text, Place.OUTSIDE, why)
        return End(text, Place.OUTSIDE, Reason("recipient-outside", text))
    if macro is None and not _ROUTED.isdisjoint(path.notes):
        return End(text, Place.UNKNOWN, Reason("recipient-routed", text))
    if _disagrees(path, resolved):
        return End(text, Place.OUTSIDE, Reason("recipient-rerouted", f"{path.raw} is {text}"))
    return End(text, Place.INSIDE, Reason("recipient-inside", text))


def _resolved(macro: str | None, path: Path) -> Address | None:
    """The address Postfix works with: its macro where it gives one, else our own reading.

    The macros are lower-cased, local part included (measured), so our reading stands where both
    agree on the domain and on the folded local part.
    """
    mine = path.address
    if macro is None or (mine is not None and macro == path.raw[1:-1].lower()):
        return mine
    theirs = address.read_path(macro).address
    if theirs is None or mine is None:
        return theirs
    if theirs.domain == mine.domain and theirs.local_part == mine.local_part.lower():
        return mine
    return theirs


def _disagrees(path: Path, resolved: Address) -> bool:
    """Whether the typed domain is another than the resolved one (unqualified addresses agree)."""
    typed = path.address
    return typed is not None and typed.domain not in ("", resolved.domain)
