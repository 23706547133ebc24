"""Which hosts take the mail of a domain: its MX records, else its addresses (RFC 5321, 5.1).

Promises: bounded in time and number; hosts in the order in which they are to be tried, each with
one address.  `dns.resolvers` is asked where it is configured, else the system's.

Raises: NoMailHost, a sentence.

Does not: know transports or relay hosts of an MTA, which may send the mail elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import dns.exception
import dns.name
import dns.rdatatype
import dns.resolver

from carbonseal.keys.publication.settings import DnsSettings
from carbonseal.policies import errors

_MOST: Final = 5  # hosts
_SECONDS: Final = 10.0  # for one question


class NoMailHost(errors.TryLater):
    """No host is known for the domain."""


@dataclass(frozen=True, slots=True)
class MailHost:
    """One host that takes mail."""

    name: str
    address: str  # IPv4 or IPv6


def of(domain: str, settings: DnsSettings) -> list[MailHost]:
    """The hosts for a domain in A-labels, or for an address literal such as [192.0.2.1]."""
    if domain.startswith("["):
        address = domain.strip("[]").removeprefix("IPv6:")
        return [MailHost(address, address)]
    resolver = _resolver(settings)
    names = list(_exchanges(resolver, domain))
    found = [(name, _address(resolver, name)) for name in names[:_MOST]]
    hosts = [MailHost(name, host) for name, host in found if host is not None]
    if not hosts:
        raise NoMailHost(
            f"{domain}: none of {', '.join(names[:_MOST])} has an address; set archive.next_hop, or"
            " mend the DNS"
        )
    return hosts


def _resolver(settings: DnsSettings) -> dns.resolver.Resolver:
    try:
        made = dns.resolver.Resolver(configure=not settings.resolvers)
    except (dns.exception.DNSException, OSError) as fault:
        raise NoMailHost(f"no resolver is configured ({fault}); set dns.resolvers") from None
    if settings.resolvers:
        made.nameservers = [one.host for one in settings.resolvers]
        made.nameserver_ports = {one.host: one.port for one in settings.resolvers}
    made.timeout, made.lifetime = settings.timeout, _SECONDS
    return made


def _exchanges(resolver: dns.resolver.Resolver, domain: str) -> Iterator[str]:
    try:
        answer: Any = resolver.resolve(f"{domain}.", "MX")
    except dns.resolver.NoAnswer:
        yield domain
        return
    except dns.resolver.NXDOMAIN:
        raise NoMailHost(
            f"{domain}: the DNS knows no such domain; set archive.next_hop, or correct"
            " archive.recipients"
        ) from None
    except dns.exception.DNSException as fault:
        raise NoMailHost(
            f"{domain}: its MX records cannot be asked for ({type(fault).__name__}); try again, or"
            " set archive.next_hop"
        ) from None
    found = sorted((one.preference, one.exchange) for one in answer)
    if [name for _, name in found] == [dns.name.root]:
        raise NoMailHost(
            f"{domain}: its MX record says that it takes no mail (RFC 7505); correct"
            " archive.recipients, or set archive.next_hop"
        )
    yield from (name.to_text(omit_final_dot=True) for _, name in found)


def _address(resolver: dns.resolver.Resolver, name: str) -> str | None:
    for kind in ("A", "AAAA"):
        try:
            answer: Any = resolver.resolve(f"{name}.", kind)
        except dns.exception.DNSException:
            continue
        return str(answer[0].address)
    return None
