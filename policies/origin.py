"""Proof of origin: may this client speak for us?

Promises: default deny.  Only a positive proof counts: a SASL login, a listed listener, a listed
client network, or (when allowed) the relay's own sendmail(1).  Loopback proves nothing unless it is
listed, because content filters hand foreign mail back from there.  A listed peer has sealed the
message already and is told apart from every other proof.

Does not: look at the reverse-path or the author; those are claims, not proofs.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache

from carbonseal.policies.domains import DomainSet
from carbonseal.policies.envelope import Envelope
from carbonseal.policies.reason import Reason

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
# The same clients come again and again.  Whoever says more than this of itself is asked anew each
# time, so that strangers cannot fill the memory.
_REMEMBERED = 4096
_SHORT = 256


class OriginKind(StrEnum):
    """What proves the origin of a message."""

    LOGIN = "login"
    LISTENER = "listener"
    NETWORK = "network"
    LOCAL_SUBMISSION = "local-submission"
    PEER = "peer"
    NONE = "none"


@dataclass(frozen=True, slots=True, eq=False)  # one per configuration; a key of caches
class Ours:
    """Our administrative management domain (RFC 5598): which names and clients are ours."""

    domains: DomainSet
    networks: tuple[Network, ...] = ()
    listeners: frozenset[str] = frozenset()
    authenticated: bool = True  # a SASL login is a proof
    local_submission: bool = False  # mail handed to sendmail(1) on the relay is a proof
    peers: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True)
class Origin:
    """The proof that was found, and the reason in words."""

    kind: OriginKind
    about: str  # the login, listener or network that proves it; the client when nothing does
    reason: Reason = field(init=False, compare=False)  # for the record and the log line

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", Reason(f"origin-{self.kind}", self.about))

    @property
    def is_proven(self) -> bool:
        """Whether the client may speak for our domains."""
        return self.kind is not OriginKind.NONE


def prove(envelope: Envelope, ours: Ours) -> Origin:
    """The strongest proof of origin for the client of `envelope`.

    A peer is asked for first: what it hands over was sealed before, whoever logged in there.
    """
    client, listener, login, *_ = envelope
    address = client.address
    is_short = len(address) + len(login) + len(listener) <= _SHORT
    known = _prove if is_short else _prove.__wrapped__
    return known(address, client.port == 0, login, listener, ours)


@lru_cache(_REMEMBERED)
def _prove(address: str, is_portless: bool, login: str, listener: str, ours: Ours) -> Origin:
    # Postfix shows mail that did not come through SMTP as localhost with port 0 (measured).
    is_submission = is_portless and address in ("127.0.0.1", "::1")
    if not is_submission:
        peer = _peer(address, ours)
        if peer:
            return Origin(OriginKind.PEER, peer)
    if login and ours.authenticated:
        return Origin(OriginKind.LOGIN, login)
    if listener and listener in ours.listeners:
        return Origin(OriginKind.LISTENER, listener)
    if is_submission:
        if ours.local_submission:
            return Origin(OriginKind.LOCAL_SUBMISSION, "sendmail")
        return Origin(OriginKind.NONE, "sendmail")
    network = _network(address, ours)
    if network:
        return Origin(OriginKind.NETWORK, network)
    return Origin(OriginKind.NONE, address or "unknown")


# Beside what is remembered above: one client sends with many logins.
@lru_cache(_REMEMBERED)
def _peer(address: str, ours: Ours) -> str:
    return _containing(address, ours.peers)


@lru_cache(_REMEMBERED)
def _network(address: str, ours: Ours) -> str:
    return _containing(address, ours.networks)


def _containing(address: str, networks: tuple[Network, ...]) -> str:
    """The first listed network that holds `address`, as text; '' when none does."""
    try:
        parsed = ipaddress.ip_address(address.removeprefix("IPv6:"))
    except ValueError:
        return ""
    mapped = getattr(parsed, "ipv4_mapped", None)
    candidate = mapped or parsed
    for network in networks:
        if candidate.version == network.version and candidate in network:
            return str(network)
    return ""
