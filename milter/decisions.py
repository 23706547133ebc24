"""What the policies say about one message, before anything is done.

Promises: every policy is asked, in the one order there is, and nothing is changed by asking; the
mail path (`seal`) and `policy explain` ask here.

Does not: sign, record, or read the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from carbonseal.keys.keyring import Keyring
from carbonseal.milter.config import Configuration
from carbonseal.milter.transaction import Transaction
from carbonseal.policies import (
    archive_outage,
    archiving,
    bcc_maps,
    boundary,
    header_fields,
    origin,
    retention,
    signing,
)
from carbonseal.policies.address import Address
from carbonseal.policies.archive_outage import Outlook
from carbonseal.policies.archiving import ArchivePlan
from carbonseal.policies.boundary import Classification
from carbonseal.policies.envelope import Envelope
from carbonseal.policies.origin import Origin
from carbonseal.policies.reason import Reason
from carbonseal.policies.retention import Stamp
from carbonseal.policies.signing import SigningPlan


# A tuple: a frozen dataclass takes a microsecond more to make, on every message.
class Decisions(NamedTuple):
    """The answers of all policies."""

    origin: Origin
    crossing: Classification
    signing: SigningPlan
    copy: ArchivePlan
    retention: Stamp | None  # None: kept for ever
    kept: dict[str, Any] | None  # the same as records say it
    author: str  # '' where there is no one author
    bcc_maps: str | None  # how Postfix's would differ, in one word; decides nothing
    # What records say of it, in their order: before the reasons of the signing steps, and after.
    reasons_before: tuple[Reason, ...]
    reasons_after: tuple[Reason, ...]


class Said(NamedTuple):
    """What policies look at of a message."""

    envelope: Envelope
    from_values: Sequence[bytes]  # of all From fields
    field_names: tuple[str, ...]  # of the header section, in order, in lower case

    @classmethod
    def by(cls, transaction: Transaction) -> Said:
        """What was told of this one."""
        return cls(transaction.envelope(), transaction.values_of("from"), transaction.names())


def decide(
    said: Said,
    configuration: Configuration,
    keyring: Keyring,
    archive_addresses: frozenset[Address],
    *,
    key_complaint: Callable[[], str | None] = lambda: None,
    outlook: Outlook = archive_outage.WELL,
) -> Decisions:
    """Ask every policy; nothing is changed by asking."""
    envelope, from_values, field_names = said

    def key_problem(sdid: str) -> str | None:
        # An empty keyring with a complaint was never readable: then nobody can say that a domain
        # has no key, and mail must not leave unsigned for that.
        unreadable = None if keyring.sdids else key_complaint()
        return keyring.problems.get(sdid) or unreadable

    proof = origin.prove(envelope, configuration.ours)
    crossing = boundary.classify(envelope, configuration.ours, proof, archive_addresses)
    plan = signing.plan(
        origin=proof,
        login=envelope.login,
        authors=header_fields.authors(from_values),
        field_names=field_names,
        policy=configuration.signing,
        active_keys=keyring.facts,
        key_problem=key_problem,
        key_refusal=keyring.refused.get,
    )
    copy = archiving.recipients(crossing, proof, configuration.archive, outlook)
    stamp, why = retention.stamp(
        crossing,
        author=plan.author,
        login=envelope.login,
        policy=configuration.retention,
    )
    maps = configuration.compare
    shadow = () if maps is None else bcc_maps.compare(maps, envelope, copy)
    return Decisions(
        proof,
        crossing,
        plan,
        copy,
        stamp,
        None if stamp is None else stamp.facts(),
        "" if plan.author is None else str(plan.author),
        bcc_maps.said(map(str, shadow)),
        reasons_before=(proof.reason, *crossing.reasons),
        reasons_after=(*copy.reasons, *(() if why is None else (why,)), *shadow),
    )
