"""Which archive copy a message gets, or why none.

Promises: a message that crosses the boundary gets each archive recipient exactly once, however its
recipients are mixed; one that the sender addressed already is not added again.  Mail from a peer
was copied there.

Does not: send anything, or follow what becomes of the copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from carbonseal.policies import boundary
from carbonseal.policies.address import Address
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


@dataclass(frozen=True, slots=True)
class ArchivePolicy:
    """The archive section of the configuration."""

    recipients: tuple[Address, ...] = ()
    when: When = When.CROSSING
    rules: tuple[ArchiveRule, ...] = ()  # first match

    def all_recipients(self) -> frozenset[Address]:
        """Every archive recipient there is, folded for comparison."""
        named = [*self.recipients]
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
    classification: Classification, origin: Origin, policy: ArchivePolicy
) -> ArchivePlan:
    """The archive recipients this message still needs."""
    addressed = {end.text.lower() for end in classification.recipients if end.is_archive}
    was_addressed = bool(addressed)
    if origin.kind is OriginKind.PEER:
        return ArchivePlan((), was_addressed, (Reason("copied-by-peer", origin.about),))
    rule = _first_match(classification, policy)
    wanted = policy.recipients if rule.recipients is None else rule.recipients
    when = policy.when if rule.when is None else rule.when
    refusal = _refusal(classification, when, has_recipients=bool(wanted))
    if refusal is not None:
        return ArchivePlan((), was_addressed, (refusal,))
    add = tuple(str(mailbox) for mailbox in wanted if str(mailbox).lower() not in addressed)
    if not add:
        return ArchivePlan((), True, (Reason("archive-addressed", ", ".join(sorted(addressed))),))
    return ArchivePlan(add, was_addressed, (Reason("archive-copy", ", ".join(add)),))


def _refusal(classification: Classification, when: When, *, has_recipients: bool) -> Reason | None:
    if when is When.NEVER:
        return Reason("copies-switched-off")
    if not has_recipients:
        return Reason("no-archive-recipient")
    if when is When.CROSSING and not classification.is_crossing:
        return Reason("purely-local")
    return None


def _first_match(classification: Classification, policy: ArchivePolicy) -> ArchiveRule:
    for rule in policy.rules:
        if rule.crossing not in (None, classification.crossing):
            continue
        if rule.domains is not None and not _touches(classification, rule.domains):
            continue
        return rule
    return ArchiveRule()


def _touches(classification: Classification, listed: DomainSet) -> bool:
    ends = (classification.reverse_path, *classification.recipients)
    return any(listed.match(end.text.rpartition("@")[2]) for end in ends)
