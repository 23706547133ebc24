"""The archive copy: once, to whom it belongs, and never when it was there already."""

from __future__ import annotations

import pytest

from carbonseal.policies import address, archiving
from carbonseal.policies.archiving import ArchivePolicy, ArchiveRule, When
from carbonseal.policies.boundary import Classification, CrossingKind, End, Place
from carbonseal.policies.domains import DomainSet
from carbonseal.policies.origin import Origin, OriginKind
from carbonseal.policies.reason import Reason

FIRST = address.parse_address("archive@archive.example.net")
SECOND = address.parse_address("second@archive.example.net")
INSIDE = Origin(OriginKind.NETWORK, "192.0.2.0/24")


def crossing(kind: str, *recipients: str, archived: tuple[str, ...] = ()) -> Classification:
    why = Reason("recipient-outside")
    ends = [End(one, Place.OUTSIDE, why) for one in recipients]
    ends += [End(one, Place.INSIDE, why, is_archive=True) for one in archived]
    sender = End("a@example.com", Place.INSIDE, why)
    return Classification(CrossingKind(kind), sender, tuple(ends), ())


@pytest.mark.parametrize(
    ("policy", "message", "added", "code"),
    [
        pytest.param(
            ArchivePolicy((FIRST,)),
            crossing("outbound", "x@remote.test"),
            ("archive@archive.example.net",),
            "archive-copy",
            id="crossing",
        ),
        pytest.param(
            ArchivePolicy((FIRST,)), crossing("internal"), (), "purely-local", id="internal"
        ),
        pytest.param(
            ArchivePolicy((FIRST,), When.ALWAYS),
            crossing("internal"),
            ("archive@archive.example.net",),
            "archive-copy",
            id="always",
        ),
        pytest.param(
            ArchivePolicy((FIRST,), When.NEVER),
            crossing("outbound", "x@remote.test"),
            (),
            "copies-switched-off",
            id="never",
        ),
        pytest.param(
            ArchivePolicy(),
            crossing("outbound", "x@remote.test"),
            (),
            "no-archive-recipient",
            id="nobody-configured",
        ),
        pytest.param(
            ArchivePolicy((FIRST, SECOND)),
            crossing("outbound", "x@remote.test", archived=("Archive@archive.example.net",)),
            ("second@archive.example.net",),
            "archive-copy",
            id="one-of-two-was-addressed",
        ),
        pytest.param(
            ArchivePolicy((FIRST,)),
            crossing("outbound", "x@remote.test", archived=("archive@archive.example.net",)),
            (),
            "archive-addressed",
            id="addressed-already",
        ),
        pytest.param(
            ArchivePolicy(
                (FIRST,), rules=(ArchiveRule(CrossingKind.INBOUND, recipients=(SECOND,)),)
            ),
            crossing("inbound", "x@remote.test"),
            ("second@archive.example.net",),
            "archive-copy",
            id="rule-by-direction",
        ),
        pytest.param(
            ArchivePolicy(
                (FIRST,),
                rules=(ArchiveRule(domains=DomainSet(["remote.test"]), when=When.NEVER),),
            ),
            crossing("outbound", "x@remote.test"),
            (),
            "copies-switched-off",
            id="rule-by-domain",
        ),
        pytest.param(
            ArchivePolicy(
                (FIRST,),
                rules=(ArchiveRule(domains=DomainSet(["remote.test"]), when=When.NEVER),),
            ),
            crossing("outbound", "x@other.test"),
            ("archive@archive.example.net",),
            "archive-copy",
            id="rule-for-another-domain",
        ),
    ],
)
def test_the_copy_goes_where_the_policy_says(
    policy: ArchivePolicy, message: Classification, added: tuple[str, ...], code: str
) -> None:
    """First matching rule, else the general one; never to an address that has it already."""
    plan = archiving.recipients(message, INSIDE, policy)
    assert plan.add == added
    assert [one.code for one in plan.reasons] == [code]


def test_mail_of_a_peer_is_not_copied_again() -> None:
    """Two relays in series make one copy."""
    peer = Origin(OriginKind.PEER, "203.0.113.25")
    plan = archiving.recipients(crossing("outbound", "x@r.test"), peer, ArchivePolicy((FIRST,)))
    assert plan.add == ()
