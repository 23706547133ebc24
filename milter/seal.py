"""Seal one message.  Read this file first.

What happens to a message, in order: is it ours and does it cross the boundary; who may sign for it;
sign; which archive copy; record it durably; tell the MTA.

Promises: no message is accepted without a durable record, and no signature is inserted that did not
verify.  Safe direction: a message recorded twice is better than a message not recorded, so the
record comes last before the answer and is never taken back.  In a dry run (milter.dry_run) the
record says what would have been done, and the answer is always to go on.

Does not: talk to the MTA (`session` does), read the clock (but for how long its steps take), write
the record (it hands it out and waits, so that many messages share one sync: `spool.Steps`), or
touch SQL.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from carbonseal.keys import signer
from carbonseal.keys.keyring import Keyring
from carbonseal.keys.signer import Signature, SignatureFailed
from carbonseal.milter import describe
from carbonseal.milter.archive import record
from carbonseal.milter.archive.spool import SpoolUnwritable, Steps
from carbonseal.milter.config import Configuration
from carbonseal.milter.decisions import decide
from carbonseal.milter.describe import Deeds
from carbonseal.milter.edits import AddRecipient, Edit, InsertField, Verdict
from carbonseal.milter.status import counters
from carbonseal.milter.status.counters import Tally
from carbonseal.milter.transaction import Transaction
from carbonseal.policies import archive_outage, survival
from carbonseal.policies.address import Address
from carbonseal.policies.archive_outage import Outlook
from carbonseal.policies.disposition import ACCEPTED, Answer, FailureClass
from carbonseal.policies.reason import Reason
from carbonseal.policies.signing import SigningPlan

_DRY_RUN = Reason("dry-run")
# What these say was done is not done in a dry run; its record says it under dry_run.
_DEEDS = frozenset(
    ("signed", "archive-copy", "archive-alternate", "archive-trial", "archive-all-fail")
)


class Outages(Protocol):
    """What is known of archive mailboxes whose copies do not arrive."""

    def outlook(self, now: float) -> Outlook:
        """What to go by at this time."""

    def sent(self, copies: tuple[str, ...], now: float) -> None:
        """These mailboxes get a copy."""


class NoOutages:
    """Nothing is known, or there is no alternate: every copy goes where it belongs."""

    def outlook(self, now: float) -> Outlook:
        """All is well."""
        return archive_outage.WELL

    def sent(self, copies: tuple[str, ...], now: float) -> None:
        """Nobody counts."""


@dataclass(frozen=True, slots=True)
class Services:
    """What sealing needs from the process around it."""

    configuration: Configuration
    keyring: Callable[[], Keyring]
    key_complaint: Callable[[], str | None]  # why the keyring may be old or empty
    relay: str | None  # the name under which this relay records; None: what the MTA calls itself
    archive_addresses: frozenset[Address]
    tally: Tally = field(default_factory=counters.nowhere)
    outages: Outages = field(default_factory=NoOutages)
    # Out of the configuration, for each message: a value in a section of a section is as many
    # places in memory.
    is_dry_run: bool = field(init=False)
    headers: str | list[str] = field(init=False)  # names of the fields that are kept, or 'all'

    def __post_init__(self) -> None:
        file = self.configuration.file
        object.__setattr__(self, "is_dry_run", file.milter.dry_run)
        object.__setattr__(self, "headers", file.record.headers)


# A tuple: a frozen dataclass takes a microsecond more to make, on every message.
class Signing(NamedTuple):
    """The outcome of the signing steps."""

    signatures: tuple[Signature, ...]
    reasons: tuple[Reason, ...]
    failure: FailureClass | None


def seal(
    transaction: Transaction, services: Services, now: float, refusal: Signing | None = None
) -> Steps[Verdict]:
    """Decide, sign and record one complete message; `now` is Unix time in seconds.

    `refusal` stands for the signing steps where it is known before that they must not be taken.

    Yields the line of its record, and goes on when that is durable.
    """
    began = time.perf_counter()
    configuration, keyring = services.configuration, services.keyring()
    decisions = decide(
        transaction,
        configuration,
        keyring,
        services.archive_addresses,
        key_complaint=services.key_complaint,
        outlook=services.outages.outlook(now),
    )
    decided = time.perf_counter()
    # Taken apart, here and below: to ask a tuple for a field by its name costs as much as that.
    proof, crossing, plan, copy, _, retention_reasons, shadow = decisions
    signatures, signing_reasons, failure = refusal or sign(plan, transaction, keyring, now)
    signed = time.perf_counter()
    disposition = ACCEPTED if failure is None else configuration.failure.dispose(failure)
    reasons = (
        proof.reason,
        *crossing.reasons,
        *signing_reasons,
        *copy.reasons,
        *retention_reasons,
        *shadow,
    )
    answer = disposition.answer
    is_accepted = answer is Answer.ACCEPT
    done = Deeds(signatures, copy.add, answer) if is_accepted else Deeds((), (), answer)
    wanted = None
    is_dry_run = services.is_dry_run
    if is_dry_run:
        wanted, done, disposition = done, describe.NOTHING, ACCEPTED
        reasons = (_DRY_RUN, *(one for one in reasons if one.code not in _DEEDS))
    identity = record.new_identity(int(now * 1000))
    line = describe.record_line(
        transaction,
        decisions,
        done,
        wanted,
        identity=identity,
        now=now,
        relay=services.relay or transaction.relay,
        config_version=configuration.version,
        headers=services.headers,
        reasons=reasons,
    )
    # Ahead of the sync, though needed after it: now all that these look at is in the processor's
    # caches, and after the sync nothing is.
    size = transaction.size
    summary = describe.summary(
        transaction, decisions, done, wanted, record_id=identity[0], size=size, reasons=reasons
    )
    edits = _edits(done)
    counted = counters.facts(
        crossing.crossing,
        [one.request.sdid for one in done.signatures],
        plan.sdid,
        (_DRY_RUN,) if is_dry_run else signing_reasons,
        octets=size,
        laps=(began, decided, signed),
    )
    try:
        yield line
    except SpoolUnwritable as fault:
        reasons = (*reasons, Reason("record-not-writable", str(fault)))
        if is_accepted and not is_dry_run:
            disposition = configuration.failure.dispose(FailureClass.RECORD_NOT_WRITABLE)
            done = done._replace(answer=disposition.answer)
            edits = _edits(done)
        summary = describe.summary(
            transaction, decisions, done, wanted, record_id=identity[0], size=size, reasons=reasons
        )
        counted = counters.unrecorded(counted, is_accepted=done.answer is Answer.ACCEPT)
    if edits:
        services.outages.sent(done.copies, now)
    return Verdict(edits, disposition, reasons, summary, counted, time.perf_counter() - signed)


def _edits(done: Deeds) -> tuple[Edit, ...]:
    signatures, copies, answer = done
    if answer is not Answer.ACCEPT:
        return ()
    # Inserted at the top one by one, so the last one inserted is the topmost: RSA, which every
    # verifier knows, is to be read first.
    return (
        *[InsertField("DKIM-Signature", one.field_value) for one in reversed(signatures)],
        *map(AddRecipient, copies),
    )


def too_many_recipients(transaction: Transaction) -> Signing:
    """Of a message that has more recipients than were kept: nobody knows whether it crosses."""
    refusal = Reason("too-many-recipients", str(len(transaction.recipients)))
    return Signing((), (refusal,), FailureClass.TOO_MANY_RECIPIENTS)


def sign(plan: SigningPlan, transaction: Transaction, keyring: Keyring, now: float) -> Signing:
    """Make the planned signatures, unless the message would not carry them unbroken."""
    if transaction.header.is_oversized:
        # Fields beyond the bound were not kept, an author among them perhaps.
        refusal = Reason("header-too-large", str(len(transaction.fields)))
        return Signing((), (refusal,), FailureClass.HEADER_TOO_LARGE)
    if not plan.requests:
        return Signing((), plan.reasons, plan.failure)
    breaker = breaks_on_its_way(plan, transaction)
    if breaker is not None:
        return Signing((), (breaker,), FailureClass.TRANSFORMATION)
    body = transaction.body
    reasons = survival.endangered_by(body.facts(), transaction.values_of("dkim-signature"))
    digest = body.digest()
    made: list[Signature] = []
    failure = None
    for request in plan.requests:
        try:
            key = keyring.find(request.key)
            assert key is not None  # planned from this very keyring
            made.append(signer.sign(transaction.fields, digest, request, key, now=int(now)))
            reasons.append(request.signed)
        except SignatureFailed as fault:
            if fault.code == "disputed-octets":
                reasons.append(Reason("disputed-octets", fault.about))
                failure = FailureClass.TRANSFORMATION
            else:
                reasons.append(Reason("signature-failed", f"{request.sdid}: {fault}"))
                failure = FailureClass.SIGNATURE_FAILED
    return Signing(tuple(made), tuple(reasons), None if made else failure)


def breaks_on_its_way(plan: SigningPlan, transaction: Transaction) -> Reason | None:
    """Why the planned signatures would not survive Postfix; None when nothing speaks against."""
    if not plan.requests:
        return None
    lines: Iterable[tuple[str, int]] = ()
    # Few header sections have a field that is as long as one line may be.
    if transaction.header.longest >= survival.LINE_LIMIT:
        signed = plan.requests[0].fields
        lines = (
            (name, survival.longest_field_line(name, value))
            for name, value in transaction.fields
            if len(name) + len(value) >= survival.LINE_LIMIT and name.lower() in signed
        )
    return survival.broken_by(transaction.body.facts(), lines)
