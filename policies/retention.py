"""How long a record is kept, and parts of it shorter: what is stamped on it when it is made.

Promises: the stamp is decided once, from the rules in force when the message was sealed, and stands
in the record with its own numbers; no later configuration can shorten it.  A part never outlives
what it is a part of (subject, header section, record).  No class, however written, leaves the floor
or the ceiling; where both a class and a limit are written down and contradict each other, that is
an error when the configuration is read, not a surprise years later.  Without classes nothing is
stamped, and what has no stamp never expires.

Raises: ConfigurationError where classes, limits and rules contradict each other.

Does not: know the clock, delete anything (`milter.archive.keeping` does), or know legal holds,
which win over every stamp.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from carbonseal.policies import quantity
from carbonseal.policies.address import Address
from carbonseal.policies.boundary import Classification, CrossingKind
from carbonseal.policies.domains import DomainSet
from carbonseal.policies.errors import ConfigurationError
from carbonseal.policies.reason import Reason
from carbonseal.policies.signing import AuthorPattern

DAY: Final = 86400  # seconds
# As long as the longest there is: "seven years" must not end two days early because of leap days.
YEAR: Final = 366 * DAY
PARTS: Final = ("keep", "headers", "subject")  # each a part of the one before


@dataclass(frozen=True, slots=True)
class Terms:
    """Seconds for the record, its header section and its subject."""

    keep: int | None = None  # None: for ever (or, of a limit: none)
    headers: int | None = None  # None: as long as the record
    subject: int | None = None  # None: as long as the header section


@dataclass(frozen=True, slots=True)
class Stamp:
    """What is written into the record."""

    name: str  # retention class
    terms: Terms

    def facts(self) -> dict[str, Any]:
        """As it stands in the record, times in seconds."""
        terms = self.terms
        return {
            "class": self.name,
            "keep": terms.keep,
            "headers": terms.headers,
            "subject": terms.subject,
        }


@dataclass(frozen=True, slots=True)
class RetentionRule:
    """Messages that belong to a class; empty conditions hold for every message."""

    name: str  # the class
    crossing: CrossingKind | None = None
    domains: DomainSet | None = None  # of the reverse-path or of any recipient
    author: AuthorPattern | None = None  # a message with several authors has none here
    logins: frozenset[str] | None = None  # folded


@dataclass(frozen=True, slots=True, eq=False)  # one per configuration
class RetentionPolicy:
    """The section `retention` of the configuration.  Raises: ConfigurationError."""

    classes: Mapping[str, Terms] = field(default_factory=dict)
    rules: tuple[RetentionRule, ...] = ()  # first match
    default: str | None = None  # class of messages that no rule is about; None: kept for ever
    floor: Terms = Terms()  # never shorter
    ceiling: Terms = Terms()  # never longer
    stamps: Mapping[str, Stamp] = field(init=False)  # of each class, within floor and ceiling

    def __post_init__(self) -> None:
        for problem in _problems(self):
            raise ConfigurationError(problem)
        floor, ceiling = _raised(self.floor), _lowered(self.ceiling)
        stamps = {
            name: Stamp(name, limited(terms, floor=floor, ceiling=ceiling))
            for name, terms in self.classes.items()
        }
        object.__setattr__(self, "stamps", stamps)


def stamp(
    classification: Classification, *, author: Address | None, login: str, policy: RetentionPolicy
) -> tuple[Stamp | None, Reason | None]:
    """The stamp for a message and why; two times None where the policy says nothing."""
    for rule in policy.rules:
        if _is_about(rule, classification, author, login):
            return policy.stamps[rule.name], Reason("retention-rule", rule.name)
    if policy.default is None:
        return None, None
    return policy.stamps[policy.default], Reason("retention-default", policy.default)


def _is_about(
    rule: RetentionRule, classification: Classification, author: Address | None, login: str
) -> bool:
    if rule.crossing not in (None, classification.crossing):
        return False
    if rule.logins is not None and login.casefold() not in rule.logins:
        return False
    if rule.author is not None and (author is None or not rule.author.matches(author)):
        return False
    if rule.domains is None:
        return True
    ends = (classification.reverse_path, *classification.recipients)
    return any(rule.domains.match(end.text.rpartition("@")[2]) for end in ends)


def limited(terms: Terms, *, floor: Terms, ceiling: Terms) -> Terms:
    """`terms` within the limits, said in the shortest way: a part as long as its whole is None."""
    keep = _shorter(_longer(terms.keep, floor.keep), ceiling.keep)
    headers = _part(terms.headers, keep, floor.headers, ceiling.headers)
    subject = _part(terms.subject, headers, floor.subject, ceiling.subject)
    return Terms(
        keep,
        None if headers == keep else headers,
        None if subject == headers else subject,
    )


def _part(
    wanted: int | None, whole: int | None, floor: int | None, ceiling: int | None
) -> int | None:
    found = whole if wanted is None else wanted
    return _shorter(_shorter(_longer(found, floor), ceiling), whole)


def _longer(one: int | None, least: int | None) -> int | None:
    """At least `least`; None is for ever."""
    return one if one is None or least is None else max(one, least)


def _shorter(one: int | None, most: int | None) -> int | None:
    """At most `most`; None is for ever."""
    return one if most is None else most if one is None else min(one, most)


def _raised(floor: Terms) -> Terms:
    """The floor of a part is one of its whole, too."""
    subject = floor.subject or 0
    headers = max(floor.headers or 0, subject)
    return Terms(max(floor.keep or 0, headers), headers, subject)


def _lowered(ceiling: Terms) -> Terms:
    """The ceiling of a whole is one of its parts, too."""
    headers = _shorter(ceiling.headers, ceiling.keep)
    return replace(ceiling, headers=headers, subject=_shorter(ceiling.subject, headers))


def _problems(policy: RetentionPolicy) -> Iterator[str]:
    """What contradicts itself, in sentences."""
    floor, ceiling = _raised(policy.floor), _lowered(policy.ceiling)
    for part in PARTS:
        least, most = getattr(floor, part), getattr(ceiling, part)
        if most is not None and least > most:
            yield (
                f"retention.floor asks for {part} of at least {days(least)} and "
                f"retention.ceiling for at most {days(most)}; lower the floor or raise the ceiling"
            )
            return
    for name, terms in policy.classes.items():
        yield from _class_problems(name, terms, floor, ceiling)
    named = [*(rule.name for rule in policy.rules), *([policy.default] if policy.default else [])]
    for name in named:
        if name not in policy.classes:
            known = ", ".join(policy.classes) or "none"
            yield f"retention names the class {name!r}, which is not defined; known are {known}"


def _class_problems(name: str, terms: Terms, floor: Terms, ceiling: Terms) -> Iterator[str]:
    whole: tuple[str, int] | None = None
    for part in PARTS:
        wanted = getattr(terms, part)
        if wanted is None:
            continue  # not written down: the limits see to it
        least, most = getattr(floor, part), getattr(ceiling, part)
        if wanted < least:
            yield (
                f"retention.classes.{name}.{part} is {days(wanted)}, less than the "
                f"{days(least)} of retention.floor; raise it or lower the floor"
            )
        if most is not None and wanted > most:
            yield (
                f"retention.classes.{name}.{part} is {days(wanted)}, more than the "
                f"{days(most)} of retention.ceiling; lower it or raise the ceiling"
            )
        if whole is not None and wanted > whole[1]:
            yield (
                f"retention.classes.{name}.{part} is {days(wanted)}, longer than {whole[0]} "
                f"({days(whole[1])}), which it is a part of; make it shorter or leave it out"
            )
        whole = (part, wanted)


def days(seconds: int) -> str:
    """A time to keep for people, exact."""
    whole, rest = divmod(seconds, DAY)
    if not rest:
        return quantity.of(whole, "day")
    return quantity.of(seconds, "second")
