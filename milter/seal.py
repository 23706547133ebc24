"""Seal one message.  Read this file first.

What happens to a message, in order: is it ours and does it cross the boundary; who may sign for it;
sign; which archive copy; record it durably; tell the MTA.

Promises: no message is accepted without a durable record, and no signature is inserted that did not
verify (which may be done while the record is written; a message whose signature then turns out to
be none is on record twice, and the later record tells what was done).  Safe direction: a message
recorded twice is better than a message not recorded, so the record comes last before the answer and
is never taken back.  In a dry run (milter.dry_run) the record says what would have been done, and
the answer is always to go on.

Does not: talk to the MTA (`session` does), read the clock (but for how long its steps take), write
the record (it hands it out and waits, so that many messages share one sync: `spool.Steps`), or
touch SQL.
"""

from __future__ import annotations

import binascii
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar

from carbonseal.keys import signer
from carbonseal.keys.keyring import Keyring
from carbonseal.keys.proofs import Proofs
from carbonseal.keys.signer import Signature, SignatureFailed
from carbonseal.milter import describe
from carbonseal.milter.archive import record
from carbonseal.milter.archive.spool import SpoolUnwritable, Steps
from carbonseal.milter.config import Configuration
from carbonseal.milter.describe import Verdict
from carbonseal.milter.edits import NOTHING, Deeds
from carbonseal.milter.precedents import Precedents
from carbonseal.milter.status import counters
from carbonseal.milter.status.counters import Tally
from carbonseal.milter.transaction import Transaction
from carbonseal.policies import archive_outage, survival
from carbonseal.policies.address import Address
from carbonseal.policies.archive_outage import Outlook
from carbonseal.policies.disposition import ACCEPTED, Answer, FailureClass
from carbonseal.policies.reason import Reason
from carbonseal.policies.signing import SigningPlan
from carbonseal.policies.signing_request import SignatureRequest
from carbonseal.policies.survival import LINE_LIMIT

_DRY_RUN = Reason("dry-run")
# An enumeration's member is found by way of its class's class: seventy cache lines each time.
_ACCEPT: Final = Answer.ACCEPT
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
    # Where the process has time to verify signatures while records are written; None: at once.
    proofs: Proofs | None = None
    precedents: Precedents = field(init=False, repr=False)  # asks every policy
    # Out of the configuration, for each message: a value in a section of a section is as many
    # places in memory.
    is_dry_run: bool = field(init=False)
    headers: list[str] | None = field(init=False)  # names of the fields that are kept; None: all

    def __post_init__(self) -> None:
        file = self.configuration.file
        precedents = Precedents(self.configuration, self.archive_addresses, self.key_complaint)
        object.__setattr__(self, "precedents", precedents)
        object.__setattr__(self, "is_dry_run", file.milter.dry_run)
        headers = file.record.headers
        object.__setattr__(self, "headers", None if isinstance(headers, str) else headers)


# The outcome of the signing steps: signatures, reasons, failure.  Without names for them: each
# message makes one and takes it apart again.
Signing = tuple[tuple[Signature, ...], tuple[Reason, ...], FailureClass | None]


T = TypeVar("T")
_new: Final = tuple.__new__  # without the function that a named tuple has for it


def seal(
    transaction: Transaction,
    services: Services,
    now: float,
    refusal: Signing | None = None,
    *,
    prepared: Callable[[Verdict], T],
) -> Steps[T]:
    """Decide, sign and record one complete message; `now` is Unix time in seconds.

    `refusal` stands for the signing steps where it is known before that they must not be taken.
    `prepared` makes ready what the MTA and others are told, and is answered.

    Yields the line of its record, and goes on when that is durable; where a signature that was left
    to be verified is none, another line, and what is answered is what that one says.
    """
    began = time.perf_counter()
    configuration, keyring = services.configuration, services.keyring()
    decisions = services.precedents.decide(transaction, keyring, services.outages.outlook(now))
    decided = time.perf_counter()
    # Taken apart: to ask a tuple for a part by its name costs as much as that.
    _, _, plan, copy, _, _, _, _, reasons_before, reasons_after = decisions
    signatures, signing_reasons, failure = refusal or sign(
        plan, transaction, keyring, now, services.proofs
    )
    signed = time.perf_counter()
    # What the disk may have begun to write before it is verified.
    unproven = signatures[0].unproven if signatures else b""
    headers, body, proofs = services.headers, transaction.body, services.proofs
    body_hash = signatures[0].body_hash_b64 if signatures else _base64(body.digest())
    while True:
        reasons = reasons_before + signing_reasons + reasons_after
        if failure is None:
            disposition, done = ACCEPTED, _new(Deeds, (signatures, copy.add, _ACCEPT))
        else:
            disposition = configuration.failure.dispose(failure)
            answer = disposition.answer
            done = Deeds((), (), answer)
            if answer is _ACCEPT:
                done = Deeds(signatures, copy.add, answer)
        wanted = None
        if services.is_dry_run:
            wanted, done, disposition = done, NOTHING, ACCEPTED
            signing_reasons = (_DRY_RUN,)
            reasons = (_DRY_RUN, *(one for one in reasons if one.code not in _DEEDS))
        verdict = _new(
            Verdict,
            (
                transaction,
                decisions,
                done,
                wanted,
                disposition,
                reasons,
                record.new_identity(int(now * 1000)),
                now,
                services.relay or transaction.relay,
                configuration,
                transaction.fields
                if headers is None
                else describe.kept_fields(transaction, headers),
                transaction.header.size + 2 + body.size,
                body_hash,
                signing_reasons[-1].code if signing_reasons else "",
                (began, decided, signed),
                True,
            ),
        )
        line = describe.record_line(verdict)
        # Ahead of the sync, though needed after it: now all that this looks at is in the
        # processor's caches, and after the sync nothing is.
        farewell = prepared(verdict)
        try:
            yield line
        except SpoolUnwritable as fault:
            verdict = _unrecorded(verdict, fault, configuration)
            farewell = prepared(verdict)
            done = verdict.done
        if not unproven or proofs is None:
            break
        request = signatures[0].request
        if proofs.holds(unproven, keyring.by_facts[request.key]):
            break
        # Only on a machine that miscalculates: the message is on record again, without a signature.
        unproven = b""
        now += 0.002  # it sorts behind the first one; of one millisecond rounding may leave nothing
        refusing, failure = _failed(request, signer.refuted(request.sdid, request.selector))
        signatures, signing_reasons = (), (refusing,)
    if done.copies:
        services.outages.sent(done.copies, now)
    return farewell


def _base64(octets: bytes) -> str:
    return binascii.b2a_base64(octets, newline=False).decode("ascii")


def _unrecorded(verdict: Verdict, fault: SpoolUnwritable, configuration: Configuration) -> Verdict:
    """The same when its record could not be written."""
    done, disposition = verdict.done, verdict.disposition
    if done.answer is _ACCEPT and verdict.wanted is None:
        disposition = configuration.failure.dispose(FailureClass.RECORD_NOT_WRITABLE)
        if disposition.answer is not _ACCEPT:
            done = Deeds((), (), disposition.answer)
    refusal = Reason("record-not-writable", str(fault))
    return verdict._replace(
        done=done,
        disposition=disposition,
        reasons=(*verdict.reasons, refusal),
        unsigned=verdict.unsigned if done.answer is _ACCEPT else refusal.code,
        is_recorded=False,
    )


def too_many_recipients(transaction: Transaction) -> Signing:
    """Of a message that has more recipients than were kept: nobody knows whether it crosses."""
    refusal = Reason("too-many-recipients", str(len(transaction.recipients)))
    return (), (refusal,), FailureClass.TOO_MANY_RECIPIENTS


def sign(
    plan: SigningPlan,
    transaction: Transaction,
    keyring: Keyring,
    now: float,
    proofs: Proofs | None = None,
) -> Signing:
    """Make the planned signatures, unless the message would not carry them unbroken.

    `proofs` takes what may be verified later.
    """
    header, request = transaction.header, plan.lone_request
    digest = transaction.body.plain_digest(LINE_LIMIT)
    # Something may speak against a signature, or there is not just one to be made.
    if (
        request is None
        or digest is None
        or header.longest >= LINE_LIMIT
        or header.is_oversized
        or header.values("dkim-signature")
    ):
        return _sign_with_care(plan, transaction, keyring, now)
    try:
        key = keyring.by_facts[request.key]  # planned from this very keyring
        signature = signer.sign(
            transaction.fields, digest, request, key, now, is_left=proofs is not None
        )
        if signature.unproven and proofs is not None:
            proofs.leave(signature.unproven, key)
    except SignatureFailed as fault:
        refusal, failure = _failed(request, fault)
        return (), (refusal,), failure
    return (signature,), (request.signed,), None


def _sign_with_care(
    plan: SigningPlan, transaction: Transaction, keyring: Keyring, now: float
) -> Signing:
    """The same for any message."""
    header, body = transaction.header, transaction.body
    if header.is_oversized:
        # Fields beyond the bound were not kept, an author among them perhaps.
        refusal = Reason("header-too-large", str(len(transaction.fields)))
        return (), (refusal,), FailureClass.HEADER_TOO_LARGE
    if not plan.requests:
        return (), plan.reasons, plan.failure
    breaker = breaks_on_its_way(plan, transaction)
    if breaker is not None:
        return (), (breaker,), FailureClass.TRANSFORMATION
    reasons = tuple(survival.endangered_by(body.facts(), header.values("dkim-signature")))
    signatures: tuple[Signature, ...] = ()
    failure = None
    digest = body.digest()
    for request in plan.requests:
        try:
            key = keyring.by_facts[request.key]
            signatures += (signer.sign(transaction.fields, digest, request, key, now),)
            reasons += (request.signed,)
        except SignatureFailed as fault:
            refusal, failure = _failed(request, fault)
            reasons += (refusal,)
    return signatures, reasons, None if signatures else failure


def _failed(request: SignatureRequest, fault: SignatureFailed) -> tuple[Reason, FailureClass]:
    """Why one of the planned signatures was not made."""
    if fault.code == "disputed-octets":
        return Reason("disputed-octets", fault.about), FailureClass.TRANSFORMATION
    refusal = Reason("signature-failed", f"{request.sdid}: {fault}")
    return refusal, FailureClass.SIGNATURE_FAILED


def breaks_on_its_way(plan: SigningPlan, transaction: Transaction) -> Reason | None:
    """Why the planned signatures would not survive Postfix; None when nothing speaks against."""
    if not plan.requests:
        return None
    lines: Iterable[tuple[str, int]] = ()
    # Few header sections have a field that is as long as one line may be.
    if transaction.header.longest >= LINE_LIMIT:
        signed = plan.requests[0].fields
        lines = (
            (name, survival.longest_field_line(name, value))
            for name, value in transaction.fields
            if len(name) + len(value) >= LINE_LIMIT and name.lower() in signed
        )
    return survival.broken_by(transaction.body.facts(), lines)
