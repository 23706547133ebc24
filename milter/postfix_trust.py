"""Whom do Postfix and the rule trust: networks, logins and listeners.

Promises: a listener counts as closed only where one of its restriction lists ends in a refusal.

Does not: weigh what stands before that refusal, or know who can reach a port.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from carbonseal.milter import postfix_settings
from carbonseal.milter.config import Configuration
from carbonseal.milter.postfix_finding import Finding
from carbonseal.milter.postfix_settings import Service, Settings
from carbonseal.policies import lookup_table

_RESTRICTIONS = tuple(
    f"smtpd_{stage}_restrictions" for stage in ("client", "helo", "sender", "relay", "recipient")
)
_CLOSED = ("reject", "defer")


def check(settings: Settings, configuration: Configuration) -> Iterator[Finding]:
    """Every finding about trust."""
    yield from _networks(settings, configuration)
    yield from _listeners(settings, configuration)


def _networks(settings: Settings, configuration: Configuration) -> Iterator[Finding]:
    found = postfix_settings.listing(settings, settings.value("mynetworks"))
    for problem in found.problems:
        yield Finding(
            "networks-unreadable",
            "mynetworks",
            f"its networks are unknown here: {problem}; run lint as a user who may read it",
        )
    theirs = [network for text in found.names if (network := _network(text)) is not None]
    ours = [*configuration.ours.networks, *configuration.ours.peers]
    # Without a word in main.cf Postfix lists the relay's own addresses, from which nobody writes.
    is_chosen = bool({"mynetworks", "mynetworks_style"} & settings.written)
    for network in theirs if is_chosen else []:
        if not network.is_loopback and not any(_holds(one, network) for one in ours):
            yield Finding(
                "network-unlisted",
                "mynetworks",
                f"Postfix relays for {network}, but ours.networks does not hold it, so mail from"
                " there is not signed and counts as crossing; list it there if it is yours",
            )
    if found.problems or found.patterns:
        return
    for network in configuration.ours.networks:
        if not any(_holds(one, network) for one in theirs):
            yield Finding(
                "network-unknown-here",
                "ours.networks",
                f"{network} may speak for us, but mynetworks does not hold it; take it out if"
                " nobody there logs in",
            )


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    address, slash, length = text.partition("/")
    try:
        return ipaddress.ip_network(f"{address.strip('[]')}{slash}{length}", strict=False)
    except ValueError:
        return None


def _holds(
    wide: ipaddress.IPv4Network | ipaddress.IPv6Network,
    narrow: ipaddress.IPv4Network | ipaddress.IPv6Network,
) -> bool:
    if isinstance(wide, ipaddress.IPv4Network) and isinstance(narrow, ipaddress.IPv4Network):
        return narrow.subnet_of(wide)
    if isinstance(wide, ipaddress.IPv6Network) and isinstance(narrow, ipaddress.IPv6Network):
        return narrow.subnet_of(wide)
    return False


def _listeners(settings: Settings, configuration: Configuration) -> Iterator[Finding]:
    ours = configuration.ours
    called: dict[str, list[Service]] = {}
    for service in settings.running("smtpd"):
        called.setdefault(settings.value("milter_macro_daemon_name", service), []).append(service)
    for name, services in called.items():
        for service in services:
            takes_logins = settings.is_on("smtpd_sasl_auth_enable", service)
            if takes_logins and not ours.authenticated and name not in ours.listeners:
                yield Finding(
                    "login-unlisted",
                    service.place,
                    f"it takes logins, but ours.authenticated is false and ours.listeners has no"
                    f" {name}, so its mail is not signed; list it or set ours.authenticated",
                )
            if name in ours.listeners and not _is_closed(settings, service):
                yield Finding(
                    "listener-open",
                    service.place,
                    f"it is called {name}, which ours.listeners trusts, but none of its"
                    " restrictions ends in reject, so anybody who connects may speak for us; add"
                    " smtpd_client_restrictions=permit_sasl_authenticated,reject, or rename it",
                )
    for name in sorted(ours.listeners - called.keys()):
        yield Finding(
            "listener-unknown",
            "ours.listeners",
            f"no smtpd service is called {name}; set milter_macro_daemon_name={name} on the one"
            " that is meant",
        )


def _is_closed(settings: Settings, service: Service) -> bool:
    for parameter in _RESTRICTIONS:
        words = lookup_table.words(settings.value(parameter, service))
        permits = [word for word in words if word.startswith("permit")]
        if words and words[-1] in _CLOSED and "permit" not in permits:
            return True
    return False
