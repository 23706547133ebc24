"""Which archive copy a message gets, or why none.

Promises: a message that crosses the boundary gets each archive recipient exactly once, however its
recipients are mixed; one that the sender addressed already is not added again.  Mail from a peer
was copied there.  While the copies for a mailbox do not arrive, the first alternate that is well
gets them; if none is, all of them do, the mailbox too: whichever is mended first has the copy.

Does not: send anything, or follow what becomes of the copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from carbonseal.policies import archive_outage, boundary
from carbonseal.policies.address import Address
from carbonseal.policies.archive_outage import Outlook
from carbonseal.policies.boundary import Classification, CrossingKind
from carbonseal.policies.domains import DomainSet
from carbonseal.policies.origin import Origin, OriginKind
from carbonseal.policies.reason import Reason


class When(StrEnum):
    """Which messages are copied."""

    CROSSING = "crossing"
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class ArchiveRule:
    """An exception to the general rule; empty conditions hold for every message."""

    crossing: CrossingKind | None = None
    domains: DomainSet | None = None  # of the reverse-path or of any recipient
    recipients: tuple[Address, ...] | None = None  # None: the general ones
    when: When | None = None  # None: the general one


_NO_RULE = ArchiveRule()


@dataclass(frozen=True, slots=True, eq=False)  # one per configuration; a key of caches
class ArchivePolicy:
    """The archive section of the configuration."""

    recipients: tuple[Address, ...] = ()
    when: When = When.CROSSING
    rules: tuple[ArchiveRule, ...] = ()  # first match
    alternates: tuple[Address, ...] = ()  # in order of preference

    def all_recipients(self) -> frozenset[Address]:
        """Every archive recipient there is, folded for comparison; alternates are among them."""
        named = [*self.recipients, *self.alternates]
        for rule in self.rules:
            named.extend(rule.recipients or ())
        return frozenset(map(boundary.comparable, named))


@dataclass(frozen=True, slots=True)
class ArchivePlan:
    """The archive recipients to add."""

    add: tuple[str, ...]
    was_addressed: bool  # the sender addressed an archive recipient
    reasons: tuple[Reason, ...]


def recipients(
    classification: Classification,
    origin: Origin,
    policy: ArchivePolicy,
    outlook: Outlook = archive_outage.WELL,
) -> ArchivePlan:
    """The archive recipients this message still needs."""
    addressed = [end.text.lower() for end in classification.recipients if end.is_archive]
    was_addressed = bool(addressed)
    if origin.kind is OriginKind.PEER:
        return ArchivePlan((), was_addressed, (Reason("copied-by-peer", origin.about),))
    if not was_addressed and not policy.rules and not outlook.diverted:
        return _usual(classification.crossing, policy)
    rule = _first_match(classification, policy)
    wanted = policy.recipients if rule.recipients is None else rule.recipients
    when = policy.when if rule.when is None else rule.when
    refusal = _refusal(classification.crossing, when, has_recipients=bool(wanted))
    if refusal is not None:
        return ArchivePlan((), was_addressed, (refusal,))
    if not was_addressed and not outlook.diverted:
        return _to_each(wanted)
    targets, why = _targets(wanted, policy.alternates, outlook)
    add = tuple(mailbox for mailbox in targets if mailbox.lower() not in addressed)
    if not add:
        return ArchivePlan(
            (), True, (Reason("archive-addressed", ", ".join(sorted({*addressed}))),)
        )
    return ArchivePlan(add, was_addressed, (Reason("archive-copy", ", ".join(add)), *why))


@lru_cache(maxsize=64)
def _usual(crossing: CrossingKind, policy: ArchivePolicy) -> ArchivePlan:
    """Where no rule is about the message and every mailbox is well."""
    refusal = _refusal(crossing, policy.when, has_recipients=bool(policy.recipients))
    if refusal is not None:
        return ArchivePlan((), False, (refusal,))
    return _to_each(policy.recipients)


@lru_cache(maxsize=256)  # who is wanted stands in the configuration
def _to_each(wanted: tuple[Address, ...]) -> ArchivePlan:
    """Where nothing speaks against it, which is nearly always."""
    add = tuple(dict.fromkeys(map(str, wanted)))
    return ArchivePlan(add, False, (Reason("archive-copy", ", ".join(add)),))


def _targets(
    wanted: tuple[Address, ...], alternates: tuple[Address, ...], outlook: Outlook
) -> tuple[list[str], list[Reason]]:
    """Who gets the copies that `wanted` should have, each once, and why not just those."""
    targets: dict[str, None] = {}
    why = []
    well = [str(one) for one in alternates if str(one).lower() not in outlook.failing]
    for mailbox in map(str, wanted):
        folded = mailbox.lower()
        if not alternates or folded not in outlook.diverted:
            targets[mailbox] = None
        elif not well:
            why.append(Reason("archive-all-fail", mailbox))
            targets |= dict.fromkeys((mailbox, *map(str, alternates)))
        else:
            why.append(Reason("archive-alternate", mailbox))
            targets[well[0]] = None
            if folded in outlook.tried:
                why.append(Reason("archive-trial", mailbox))
                targets[mailbox] = None
    return list(targets), why


def _refusal(crossing: CrossingKind, when: When, *, has_recipients: bool) -> Reason | None:
    if when is When.NEVER:
        return Reason("copies-switched-off")
    if not has_recipients:
        return Reason("no-archive-recipient")
    if when is When.CROSSING and crossing is CrossingKind.INTERNAL:
        return Reason("purely-local")
    return None


def _first_match(classification: Classification, policy: ArchivePolicy) -> ArchiveRule:
    for rule in policy.rules:
        if rule.crossing not in (None, classification.crossing):
            continue
        if rule.domains is not None and not _touches(classification, rule.domains):
            continue
        return rule
    return _NO_RULE


def _touches(classification: Classification, listed: DomainSet) -> bool:
    ends = (classification.reverse_path, *classification.recipients)
    return any(listed.match(end.text.rpartition("@")[2]) for end in ends)
