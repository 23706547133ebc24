"""Who publishes for a signing domain, after the section `dns` of the configuration.

Promises: each publisher adds, changes and deletes one TXT record, only where what stands there is
what is expected, and says in one sentence what came of it; none of them decides that a record is
published, which only the authoritative servers can show.

Raises: `errors.ConfigurationError` for a rule that lacks something, or whose key file or
credentials cannot be used, with what to write; `errors.DataError` for a name that is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from carbonseal.keys.publication import provider, tsig_key, update
from carbonseal.keys.publication.outcome import Outcome, OutcomeKind
from carbonseal.keys.publication.settings import DnsSettings, PublishRule
from carbonseal.policies import errors

__all__ = ["ManualPublisher", "Outcome", "OutcomeKind", "Publisher", "problems", "publisher_for"]


class Publisher(Protocol):
    """Somebody who changes the DNS; names are absolute, without the last dot, TTLs in seconds."""

    @property
    def is_manual(self) -> bool:
        """Whether a person does it."""

    def add(self, name: str, text: str, ttl: int) -> Outcome:
        """Add a TXT record where nothing stands."""

    def change(self, name: str, old_text: str, new_text: str, ttl: int) -> Outcome:
        """Put another text in the place of the expected one."""

    def delete(self, name: str, old_text: str) -> Outcome:
        """Take the expected record away."""

    def explain(self) -> str:
        """How, in one phrase."""


@dataclass(frozen=True, slots=True)
class ManualPublisher:
    """A person, who is told what to do."""

    @property
    def is_manual(self) -> bool:
        """A person does it."""
        return True

    def add(self, name: str, text: str, ttl: int) -> Outcome:
        """Ask for a record to be added."""
        return _by_hand(f"add the TXT record at {name} (TTL {ttl})")

    def change(self, name: str, old_text: str, new_text: str, ttl: int) -> Outcome:
        """Ask for a record to be replaced."""
        return _by_hand(f"replace the TXT record at {name} (TTL {ttl})")

    def delete(self, name: str, old_text: str) -> Outcome:
        """Ask for a record to be taken away."""
        return _by_hand(f"take away the TXT record at {name}")

    def explain(self) -> str:
        """How, in one phrase."""
        return "by hand"


def publisher_for(settings: DnsSettings, sdid: str) -> Publisher:
    """The publisher for the records of a signing domain."""
    return _publisher(settings, settings.rule_for(sdid))


def problems(settings: DnsSettings) -> tuple[str, ...]:
    """What is wrong with the rules, a sentence each: `config check` without asking anybody."""
    return tuple(_problems(settings))


def _problems(settings: DnsSettings) -> Iterator[str]:
    for rule in settings.publish:
        try:
            _publisher(settings, rule)
            _check_delegate(rule)
        except errors.CarbonsealError as error:
            yield error.sentence


def _publisher(settings: DnsSettings, rule: PublishRule) -> Publisher:
    if rule.method == "rfc2136":
        return _by_update(settings, rule)
    if rule.method == "provider":
        return _by_provider(settings, rule)
    return ManualPublisher()


def _by_update(settings: DnsSettings, rule: PublishRule) -> Publisher:
    if rule.server is None:
        raise _lacks(rule, "server", "the address of the zone's primary, as 192.0.2.53@53")
    if rule.key_file is None:
        raise _lacks(rule, "key_file", "a file that `tsig-keygen NAME` has printed")
    key = tsig_key.read(rule.key_file)
    return update.Rfc2136Publisher(rule.server, key, rule.zone, settings.timeout)


def _by_provider(settings: DnsSettings, rule: PublishRule) -> Publisher:
    if not rule.provider:
        raise _lacks(rule, "provider", "its name in dns-lexicon, such as powerdns or cloudflare")
    if rule.credentials is None:
        raise _lacks(rule, "credentials", "a YAML file with the provider's options")
    options = provider.read_credentials(rule.credentials)
    return provider.ProviderPublisher(rule.provider, options, rule.zone, settings.resolvers)


def _check_delegate(rule: PublishRule) -> None:
    if rule.delegate is None:
        return
    try:
        update.absolute(rule.target("example.com", "s1"))
        names_selector = rule.target("example.com", "s1") != rule.target("example.com", "s2")
    except (errors.DataError, ValueError, LookupError, AttributeError):
        names_selector = False
    if not names_selector:
        raise errors.ConfigurationError(
            f"{_where(rule)}: `delegate` is no name with {{selector}} in it; write one in a zone of"
            " your own, such as {selector}.{sdid}.dkim.example.net."
        )


def _lacks(rule: PublishRule, key: str, what: str) -> errors.ConfigurationError:
    return errors.ConfigurationError(
        f"{_where(rule)}: `method: {rule.method}` needs `{key}`: {what}."
    )


def _where(rule: PublishRule) -> str:
    named = "all domains" if rule.domains is None else ", ".join(list(rule.domains)[:3])
    return f"dns.publish for {named}"


def _by_hand(what: str) -> Outcome:
    return Outcome(
        OutcomeKind.BY_HAND,
        f"a person has to {what}; it is taken up as soon as all its name servers show it.",
    )
