"""Which domains Postfix and the rule see differently.

Promises: a domain is reported where the lists say so; what cannot be read or listed is reported as
such and makes nobody guess.

Does not: ask DNS, or know where a domain's mail ends outside this Postfix.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from carbonseal.milter import postfix_settings
from carbonseal.milter.config import Configuration
from carbonseal.milter.postfix_finding import Finding
from carbonseal.milter.postfix_settings import Listing, Settings
from carbonseal.policies import domains, errors, lookup_table
from carbonseal.policies.domains import DomainSet

CLASSES: Mapping[str, str] = {
    "mydestination": "delivers {} itself",
    "virtual_mailbox_domains": "delivers {} itself",
    "virtual_alias_domains": "has {} for a virtual alias domain",
    "relay_domains": "relays mail to {}",
}
_OWN_NAMES = frozenset(("localhost", "localhost.localdomain"))


@dataclass(frozen=True, slots=True)
class Known:
    """The domains of Postfix by class."""

    by_class: Mapping[str, Listing]
    matches_subdomains: bool  # of relay_domains

    @property
    def names(self) -> frozenset[str]:
        """Every listed name in its one spelling."""
        texts = (name for listing in self.by_class.values() for name in listing.names)
        return frozenset(filter(None, (domains.a_labels(text.lstrip(".")) for text in texts)))

    @property
    def is_complete(self) -> bool:
        """Whether every list could be read."""
        return not any(listing.problems for listing in self.by_class.values())


def check(settings: Settings, configuration: Configuration) -> Iterator[Finding]:
    """Every finding about domains."""
    known = _known(settings)
    ours = configuration.ours.domains
    for parameter, listing in known.by_class.items():
        yield from _unreadable(parameter, listing)
        yield from _of_postfix(settings, parameter, listing, ours, known)
    yield from _spellings(settings, known, ours)
    yield from _of_the_rule(settings, known, ours)
    yield from _origin(settings, ours)


def _known(settings: Settings) -> Known:
    by_class = {}
    for parameter in CLASSES:
        found = postfix_settings.listing(settings, settings.value(parameter))
        if parameter.startswith("virtual_") and parameter not in settings.written:
            # By default the map of addresses is the list: only its keys without @ are domains.
            found = Listing(
                tuple(name for name in found.names if "@" not in name and "." in name),
                found.excluded,
                found.results,
                (),
                found.problems,
            )
        by_class[parameter] = found
    parents = lookup_table.words(settings.value("parent_domain_matches_subdomains"))
    return Known(by_class, "relay_domains" in parents)


def _unreadable(parameter: str, listing: Listing) -> Iterator[Finding]:
    for problem in listing.problems:
        yield Finding(
            "domain-table",
            parameter,
            f"its domains are unknown here: {problem}; run lint as a user who may read it",
        )
    for about in listing.patterns:
        yield Finding(
            "domain-patterns",
            parameter,
            f"{about} cannot be listed, so only the domains of the rule were asked for; compare it"
            " with ours.domains by hand",
        )


def _of_postfix(
    settings: Settings, parameter: str, listing: Listing, ours: DomainSet, known: Known
) -> Iterator[Finding]:
    own = _OWN_NAMES | {
        f"localhost.{settings.value('mydomain')}".lower(),
        settings.value("myhostname").lower(),
    }
    excluded = {domains.a_labels(name) for name in listing.excluded}
    for name in sorted(set(listing.names)):
        normal = domains.a_labels(name.lstrip("."))
        if normal is None or normal in excluded:
            continue
        does = CLASSES[parameter].format(name)
        if name.startswith("."):
            if parameter == "relay_domains" and not known.matches_subdomains:
                yield from _subdomains(parameter, normal, ours)
        elif not ours.match(normal):
            if parameter == "mydestination" and normal in own:
                yield Finding(
                    "domain-own-name",
                    parameter,
                    f"Postfix {does}, but ours.domains does not list it, so mail to it counts as"
                    " crossing; list it there if people write to it",
                )
                continue
            yield Finding(
                "domain-unlisted",
                parameter,
                f"Postfix {does}, but ours.domains does not list it, so its mail counts as crossing"
                " and is copied; list it there if it is yours",
            )
        else:
            if parameter == "virtual_alias_domains":
                yield Finding(
                    "domain-alias-only",
                    parameter,
                    f"Postfix {does}: where its addresses lead is unknown to the milter, so all"
                    " mail to them counts as crossing; leave it so, or make it a mailbox domain",
                )
            if parameter == "relay_domains" and known.matches_subdomains:
                yield from _subdomains(parameter, normal, ours)


def _subdomains(parameter: str, normal: str, ours: DomainSet) -> Iterator[Finding]:
    if not ours.match(f"any.{normal}"):
        yield Finding(
            "subdomain-unlisted",
            parameter,
            f"Postfix relays mail to every subdomain of {normal}, but ours.domains has no"
            f" .{normal}, so their mail counts as crossing; list .{normal} there, or take"
            " relay_domains out of parent_domain_matches_subdomains",
        )


def _spellings(settings: Settings, known: Known, ours: DomainSet) -> Iterator[Finding]:
    for parameter, listing in known.by_class.items():
        written = {name.lower() for name in listing.names}
        for name in sorted(written):
            normal = domains.a_labels(name)
            if normal is None or "xn--" not in normal or not ours.match(normal):
                continue
            if name != normal and normal not in written:
                lacking = normal
            elif settings.is_on("smtputf8_enable") and not any(
                other != normal and domains.a_labels(other) == normal for other in written
            ):
                lacking = "its U-label"
            else:
                continue
            yield Finding(
                "domain-u-label",
                parameter,
                f"it holds {name} but not {lacking}: to Postfix they are two domains, to the rule"
                " one, so mail in the other spelling leaves as if it were inside; list both",
            )


def _of_the_rule(settings: Settings, known: Known, ours: DomainSet) -> Iterator[Finding]:
    if not known.is_complete:
        return  # what is not seen may be there
    names = known.names
    transports = postfix_settings.listing(settings, settings.value("transport_maps"))
    routed = {name.lower().lstrip(".") for name in transports.names}
    for entry in ours:
        bare = entry.lstrip(".")
        if entry.startswith("["):
            continue
        is_known = (
            bare in routed
            or bare in names
            or any(name.endswith(f".{bare}") for name in names if entry.startswith("."))
            or (known.matches_subdomains and _has_parent(known, bare))
            or bool(transports.problems)
            or _answers(settings, known, transports, bare)
        )
        if is_known:
            continue
        if entry.startswith("."):
            yield Finding(
                "subdomain-unknown-here",
                "ours.domains",
                f"Postfix knows no subdomain of {bare}, so mail to one leaves through smtp(8) and"
                f" yet counts as inside; list them in relay_domains or transport_maps, or take"
                f" {entry} out",
            )
        else:
            yield Finding(
                "domain-unknown-here",
                "ours.domains",
                f"Postfix neither delivers nor relays {entry}, so mail to it leaves like foreign"
                " mail and yet counts as inside, without a copy; list it in relay_domains, give it"
                " an entry in transport_maps, or take it out of ours.domains",
            )


def _has_parent(known: Known, bare: str) -> bool:
    listed = {name.lower() for name in known.by_class["relay_domains"].names}
    labels = bare.split(".")
    return any(".".join(labels[start:]) in listed for start in range(1, len(labels)))


def _answers(settings: Settings, known: Known, transports: Listing, bare: str) -> bool:
    for listing in (*known.by_class.values(), transports):
        for about in listing.patterns:
            try:
                if postfix_settings.ask(settings, about, bare) is not None:
                    return True
            except errors.CarbonsealError:
                return True  # it cannot be asked: it may know
    return False


def _origin(settings: Settings, ours: DomainSet) -> Iterator[Finding]:
    origin = settings.value("myorigin")
    if origin.startswith("/"):
        try:
            origin = next(iter(postfix_settings.text_of(origin).split()), "")
        except errors.CarbonsealError:
            return
    if origin and not ours.match(origin):
        yield Finding(
            "origin-unlisted",
            "myorigin",
            f"unqualified addresses, such as those of cron, become user@{origin}, which"
            " ours.domains does not list, so their mail counts as crossing; list it there or change"
            " myorigin",
        )
