"""What another signer's configuration comes to in ours, as values.

Promises: everything that stood in the old configuration is in a `Plan` or in one of its notes.

Does not: read or write files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from carbonseal.keys.takeover.found import Findings, Rule
from carbonseal.policies import domains, errors


class Fate(StrEnum):
    """What became of one thing in the old configuration."""

    TAKEN = "taken over"
    DIFFERENT = "means something else here"
    NO_EQUAL = "has no equal here"
    NOT_NEEDED = "not needed here"


@dataclass(frozen=True, slots=True)
class Note:
    """One thing, what became of it, and what to do."""

    source: str  # file:line, or the file where it is a default
    name: str
    fate: Fate
    sentence: str


@dataclass(frozen=True, slots=True)
class Clients:
    """Whose mail is signed without a login."""

    networks: tuple[str, ...] = ()
    local_submission: bool = False
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """Our configuration, as far as the old one decides it, and the keys that go with it."""

    signer: str  # for people: OpenDKIM, dkimpy-milter, rspamd
    source: Path
    findings: Findings
    signs: bool  # False: it only verifies
    canonicalization: str
    clients: Clients = Clients()
    listeners: tuple[str, ...] = ()
    authenticated: bool = True
    peers: tuple[str, ...] = ()
    exempt: tuple[Rule, ...] = ()  # authors that are never signed; their sdid means nothing
    oversign: tuple[str, ...] = ()  # besides the default
    oversign_absent: tuple[str, ...] = ()  # besides the default
    not_signed: tuple[str, ...] = ()  # fields of the default that are left out
    expires_after: int | None = None  # seconds
    failure: tuple[tuple[str, str], ...] = ()  # class and answer
    notes: tuple[Note, ...] = ()

    @property
    def domains(self) -> tuple[str, ...]:
        """For ours.domains: the signing domains, and the authors' domains at or under them.

        A domain that a stranger's domain signs for may be a customer's: it is not taken for ours,
        so that mail with an end there counts as crossing.
        """
        ours: dict[str, None] = {}
        for rule in self.findings.rules:
            ours.setdefault(rule.sdid)
            domain = rule.author.rpartition("@")[2] if "@" in rule.author else ""
            bare = domain.removeprefix(".")
            if bare == rule.sdid or bare.endswith("." + rule.sdid):
                ours.setdefault(domain)
        return tuple(ours)

    @property
    def others(self) -> tuple[str, ...]:
        """Domains of authors that are signed for by another domain, so that nobody knows whose."""
        known = domains.DomainSet(self.domains) if self.domains else None
        seen: dict[str, None] = {}
        for rule in self.findings.rules:
            domain = rule.author.rpartition("@")[2].removeprefix(".") if "@" in rule.author else ""
            if domain and (known is None or domain not in known):
                seen.setdefault(domain)
        return tuple(seen)


def rules(plan: Plan, *, explicit: bool) -> Iterator[tuple[str, str | None, tuple[str, ...]]]:
    """`signing.rules`: author, SDID and remarks, in the order in which they count.

    With `explicit` rules are written down even where the default says the same, so that
    `config check` misses the key of each.
    """
    if not plan.signs:
        yield "*", None, (f"{plan.signer} only verified",)
        return
    for rule in plan.exempt:
        yield rule.author, None, rule.notes
    proposal = plan.findings.proposal
    if not proposal and explicit:
        proposal = tuple({rule.author: rule for rule in reversed(plan.findings.rules)}.values())[
            ::-1
        ]
    for rule in proposal:
        yield rule.author, rule.sdid, rule.notes
    if proposal and plan.findings.is_closed and proposal[-1].author != "*":
        yield "*", None, ("nobody else was signed",)


def domain_list(names: tuple[str, ...]) -> tuple[str, ...]:
    """Domains as a person wrote them after --domain.  Raises: UsageError."""
    try:
        domains.DomainSet(names)
    except errors.DataError as error:
        raise errors.UsageError(f"--domain: {error.sentence}") from None
    return names
