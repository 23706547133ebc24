"""What the configuration says about DNS: whom to ask, and who publishes for which domain.

Promises: values only; `ServerAddress.parse` takes what a person writes, `address` or
`address@port`.

Raises: `errors.DataError` from `ServerAddress.parse` and `PublishRule.target`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from carbonseal.policies import domains, errors

DNS_PORT: Final = 53
Method = Literal["manual", "rfc2136", "provider"]


@dataclass(frozen=True, slots=True, order=True)
class ServerAddress:
    """An address of a name server."""

    host: str  # IPv4 or IPv6, in its usual spelling
    port: int = DNS_PORT

    @classmethod
    def parse(cls, text: str) -> ServerAddress:
        """Read `192.0.2.53`, `192.0.2.53@5353` or `2001:db8::53@5353`."""
        host, at, port = text.partition("@")
        try:
            number = int(port) if at else DNS_PORT
            if not 0 < number < 65536 or (at and not port.isascii()):
                raise ValueError
            return cls(str(ipaddress.ip_address(host)), number)
        except ValueError:
            raise errors.DataError(
                f"name server {text!r}: write an address, or address@port, such as 192.0.2.53@5353."
            ) from None

    def __str__(self) -> str:
        return f"{self.host}@{self.port}"


@dataclass(frozen=True, slots=True)
class PublishRule:
    """Who publishes the key records of some domains."""

    domains: domains.DomainSet | None  # None: all
    method: Method = "manual"
    server: ServerAddress | None = None  # rfc2136: where updates go
    zone: str | None = None  # rfc2136, provider: the zone, where it is not found by asking
    key_file: Path | None = None  # rfc2136: the TSIG key, as tsig-keygen prints it
    provider: str = ""  # provider: its name in dns-lexicon
    credentials: Path | None = None  # provider: YAML with its options
    # The name in a zone of our own to which the domain's owner points a CNAME; with {selector} and
    # {sdid}.  None: the record stands at the selector's own name.
    delegate: str | None = None

    def target(self, sdid: str, selector: str) -> str:
        """The name at which the TXT record is written."""
        if self.delegate is None:
            return f"{selector}._domainkey.{sdid}"
        return self.delegate.format(selector=selector, sdid=sdid).rstrip(".").lower()


@dataclass(frozen=True, slots=True)
class DnsSettings:
    """The section `dns` of the configuration."""

    servers: Mapping[str, tuple[ServerAddress, ...]] = field(default_factory=dict)  # by zone
    resolvers: tuple[ServerAddress, ...] = ()  # to find zones and servers; empty: the system's
    timeout: float = 3.0  # seconds for one try
    tries: int = 2  # for each server
    ttl: int = 3600  # seconds, of the records we publish
    publish: tuple[PublishRule, ...] = ()  # the first that fits

    def rule_for(self, sdid: str) -> PublishRule:
        """Who publishes for a signing domain; by hand if nobody is named."""
        for rule in self.publish:
            if rule.domains is None or sdid in rule.domains:
                return rule
        return PublishRule(None)
