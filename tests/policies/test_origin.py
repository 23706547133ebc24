"""Proof of origin: default deny."""

from __future__ import annotations

import ipaddress

import pytest

from carbonseal.policies import address, origin
from carbonseal.policies.domains import DomainSet
from carbonseal.policies.envelope import Client, Envelope, ReversePath
from carbonseal.policies.origin import OriginKind, Ours

NETWORKS = (ipaddress.ip_network("192.0.2.0/24"), ipaddress.ip_network("2001:db8::/32"))
OURS = Ours(
    domains=DomainSet(["example.com"]),
    networks=NETWORKS,
    listeners=frozenset(["submission"]),
    peers=(ipaddress.ip_network("203.0.113.25/32"),),
)
NOTHING_LISTED = Ours(domains=DomainSet(["example.com"]), authenticated=False)


def envelope(client: str, *, port: int = 4711, login: str = "", listener: str = "smtp") -> Envelope:
    path = ReversePath(address.parse_path("<a@example.com>"), "a@example.com", ())
    return Envelope(Client(client, port, "x", "x"), listener, login, "", path, ())


@pytest.mark.parametrize(
    ("told", "ours", "kind"),
    [
        pytest.param(envelope("198.51.100.7"), OURS, "none", id="stranger"),
        pytest.param(envelope("192.0.2.10"), OURS, "network", id="listed-network"),
        pytest.param(envelope("2001:db8::1"), OURS, "network", id="listed-ipv6-network"),
        pytest.param(envelope("::ffff:192.0.2.10"), OURS, "network", id="ipv4-mapped-ipv6"),
        pytest.param(envelope("127.0.0.1"), OURS, "none", id="loopback-proves-nothing"),
        pytest.param(envelope("::1"), OURS, "none", id="ipv6-loopback-proves-nothing"),
        pytest.param(envelope("198.51.100.7", login="alice"), OURS, "login", id="login"),
        pytest.param(
            envelope("198.51.100.7", login="alice"), NOTHING_LISTED, "none", id="logins-not-trusted"
        ),
        pytest.param(
            envelope("198.51.100.7", listener="submission"), OURS, "listener", id="named-listener"
        ),
        pytest.param(
            envelope("198.51.100.7", listener=""), NOTHING_LISTED, "none", id="nameless-listener"
        ),
        pytest.param(envelope("203.0.113.25"), OURS, "peer", id="peer"),
        pytest.param(
            envelope("203.0.113.25", login="alice"), OURS, "peer", id="peer-before-any-other-proof"
        ),
        pytest.param(envelope("127.0.0.1", port=0), OURS, "none", id="sendmail-is-not-trusted"),
        pytest.param(
            envelope("127.0.0.1", port=0),
            Ours(domains=DomainSet(["example.com"]), local_submission=True),
            "local-submission",
            id="sendmail-where-it-is-allowed",
        ),
        pytest.param(
            envelope("127.0.0.1"),
            Ours(domains=DomainSet(["example.com"]), local_submission=True),
            "none",
            id="loopback-smtp-is-not-sendmail",
        ),
        pytest.param(envelope(""), OURS, "none", id="unknown-client"),
        pytest.param(envelope("unknown"), OURS, "none", id="unreadable-client"),
    ],
)
def test_only_a_positive_proof_counts(told: Envelope, ours: Ours, kind: str) -> None:
    """Everything that is not listed is a stranger."""
    proof = origin.prove(told, ours)
    assert proof.kind == OriginKind(kind)
    assert proof.is_proven == (kind != "none")
