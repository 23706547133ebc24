"""NOT (local AND local), on every known edge case."""

from __future__ import annotations

import ipaddress

import pytest
from support import boundary_cases
from support.boundary_cases import CASES, BoundaryCase

from carbonseal.policies import address, archiving, boundary, origin
from carbonseal.policies.archiving import ArchivePolicy
from carbonseal.policies.domains import DomainSet
from carbonseal.policies.envelope import RECURRING, Client, Envelope, Recipient, ReversePath

OURS = origin.Ours(
    domains=DomainSet(boundary_cases.OUR_DOMAINS),
    networks=(ipaddress.ip_network(boundary_cases.OUR_NETWORK),),
    peers=(ipaddress.ip_network(boundary_cases.PEER_NETWORK),),
)
POLICY = ArchivePolicy(recipients=(address.parse_address(boundary_cases.ARCHIVE),))


def envelope_of(case: BoundaryCase) -> Envelope:
    macro = case.reverse_path.lower() if case.mail_macro == "" else case.mail_macro
    return Envelope(
        client=Client(
            boundary_cases.CLIENTS[case.client], 0 if case.client == "sendmail" else 4711, "x", "x"
        ),
        listener="",
        login="alice" if case.client == "login" else "",
        login_method="",
        reverse_path=ReversePath(address.parse_path(f"<{case.reverse_path}>"), macro, ()),
        recipients=tuple(
            Recipient(address.parse_path(f"<{to.raw}>"), to.macro, to.mailer, None, ())
            for to in case.to
        ),
    )


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=f"{case.number:02}-{case.id}") for case in CASES]
)
def test_each_edge_case_is_classified_and_copied_as_it_must_be(case: BoundaryCase) -> None:
    """The crossing, the copy and the deciding reason of every known edge case."""
    envelope = envelope_of(case)
    proof = origin.prove(envelope, OURS)
    verdict = boundary.classify(envelope, OURS, proof, POLICY.all_recipients())
    plan = archiving.recipients(verdict, proof, POLICY)
    assert verdict.crossing == case.crossing
    assert plan.add == ((boundary_cases.ARCHIVE,) if case.copy else ())
    codes = {reason.code for reason in (*verdict.reasons, *plan.reasons)}
    assert case.reason in codes


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=f"{case.number:02}-{case.id}") for case in CASES]
)
def test_a_recipient_of_a_mailing_is_placed_like_any_other(case: BoundaryCase) -> None:
    """Whoever comes after those that are remembered has the same place for the same reason."""
    envelope = envelope_of(case)
    proof = origin.prove(envelope, OURS)
    few = boundary.classify(envelope, OURS, proof, POLICY.all_recipients())
    times = RECURRING + 1
    mailing = envelope._replace(recipients=envelope.recipients * times)
    many = boundary.classify(mailing, OURS, proof, POLICY.all_recipients())
    assert many == few._replace(recipients=few.recipients * times)


def test_all_forty_nine_numbers_are_in_the_table() -> None:
    """No known edge case is left out."""
    assert {case.number for case in CASES} == set(range(1, 50))


def test_a_verdict_names_a_few_proofs_and_not_thousands() -> None:
    """Reasons stay short however many recipients a message has."""
    case = next(case for case in CASES if case.number == 3)
    envelope = envelope_of(case)
    verdict = boundary.classify(envelope, OURS, origin.prove(envelope, OURS))
    assert len(verdict.reasons) == 4
    assert len(verdict.recipients) == 1000
