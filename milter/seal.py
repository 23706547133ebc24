"""Seal one message.  Read this file first.

What happens to a message, in order: is it ours and does it cross the boundary; who may sign for it;
sign; which archive copy; record it durably; tell the MTA.

Promises: no message is accepted without a durable record, and no signature is inserted that did not
verify.  Safe direction: a message recorded twice is better than a message not recorded, so the
record comes last before the answer and is never taken back.  In a dry run (milter.dry_run) the
record says what would have been done, and the answer is always to go on.

Does not: talk to the MTA (`session` does), read the clock (but for how long its steps take), or
touch SQL.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from carbonseal.keys import signer
from carbonseal.keys.keyring import Keyring
from carbonseal.keys.signer import Signature, SignatureFailed
from carbonseal.milter.archive import record
from carbonseal.milter.archive.spool import SpoolUnwritable
from carbonseal.milter.config import Configuration
from carbonseal.milter.edits import AddRecipient, Edit, InsertField, Verdict
from carbonseal.milter.status import counters
from carbonseal.milter.status.counters import Tally
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
    survival,
)
from carbonseal.policies.address import Address
from carbonseal.policies.archive_outage import Outlook
from carbonseal.policies.archiving import ArchivePlan
from carbonseal.policies.boundary import Classification
from carbonseal.policies.disposition import ACCEPTED, Answer, FailureClass
from carbonseal.policies.origin import Origin
from carbonseal.policies.reason import Reason
from carbonseal.policies.retention import Stamp
from carbonseal.policies.signing import SigningPlan

_DRY_RUN = Reason("dry-run")
# What these say was done is not done in a dry run; its record says it under dry_run.
_DEEDS = frozenset(
    ("signed", "archive-copy", "archive-alternate", "archive-trial", "archive-all-fail")
)


class Spool(Protocol):
    """Where the record goes; returns only when it is durable."""

    def put(self, line: bytes) -> None:
        """Raises: SpoolUnwritable."""


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
    spool: Spool
    relay: str | None  # the name under which this relay records; None: what the MTA calls itself
    archive_addresses: frozenset[Address]
    tally: Tally = field(default_factory=counters.nowhere)
    outages: Outages = field(default_factory=NoOutages)


@dataclass(frozen=True, slots=True)
class Signing:
    """The outcome of the signing steps."""

    signatures: tuple[Signature, ...]
    reasons: tuple[Reason, ...]
    failure: FailureClass | None


@dataclass(frozen=True, slots=True)
class Decisions:
    """What the policies say about one message, before anything is done."""

    origin: Origin
    crossing: Classification
    signing: SigningPlan
    copy: ArchivePlan
    retention: Stamp | None  # None: kept for ever
    retention_reasons: tuple[Reason, ...]
    shadow: tuple[Reason, ...]  # how Postfix's BCC maps would differ; decides nothing


def seal(transaction: Transaction, services: Services, now: float) -> Verdict:
    """Decide, sign and record one complete message; `now` is Unix time in seconds."""
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
    signing = sign(decisions.signing, transaction, keyring, now)
    signed = time.perf_counter()
    disposition = configuration.failure.dispose(signing.failure)
    reasons = (
        decisions.origin.reason,
        *decisions.crossing.reasons,
        *signing.reasons,
        *decisions.copy.reasons,
        *decisions.retention_reasons,
        *decisions.shadow,
    )
    is_accepted = disposition.answer is Answer.ACCEPT
    signatures = signing.signatures if is_accepted else ()
    copies = decisions.copy.add if is_accepted else ()
    is_dry_run = configuration.file.milter.dry_run
    if is_dry_run:
        reasons = (_DRY_RUN, *(one for one in reasons if one.code not in _DEEDS))
    said = list(map(str, reasons))
    record_id = record.new_record_id(int(now * 1000))
    content = describe(transaction, decisions)
    content |= {
        "v": record.VERSION,
        "record_id": record_id,
        "salt": record.new_salt(),
        "retention": retention_facts(decisions.retention),
        "bcc_maps": bcc_maps.said(said) if decisions.shadow else None,
        "recorded_at": record.timestamp(now),
        "relay": services.relay or transaction.relay,
        "config_version": configuration.version,
        "header_fields": _recorded_fields(transaction, configuration.file.record.headers),
        "signatures": [_signature_facts(signature) for signature in signatures],
        "archive_recipients": copies,
        "archive_addressed": decisions.copy.was_addressed,
        "disposition": disposition.answer,
        "reasons": said,
    }
    if is_dry_run:
        content |= _not_done(content)
        disposition, signatures, copies = ACCEPTED, (), ()
    is_recorded = True
    try:
        services.spool.put(record.encode(content))
    except SpoolUnwritable as fault:
        is_recorded = False
        reasons = (*reasons, Reason("record-not-writable", str(fault)))
        said.append(str(reasons[-1]))
        if is_accepted and not is_dry_run:
            disposition = configuration.failure.dispose(FailureClass.RECORD_NOT_WRITABLE)
    laps = (began, decided, signed, time.perf_counter())
    edits: tuple[Edit, ...] = ()
    if disposition.answer is Answer.ACCEPT:
        # Inserted at the top one by one, so the last one inserted is the topmost: RSA, which every
        # verifier knows, is to be read first.
        fields = (InsertField("DKIM-Signature", one.field_value) for one in reversed(signatures))
        edits = (*fields, *map(AddRecipient, copies))
        services.outages.sent(copies, now)
    author = decisions.signing.author
    summary = _summary(content, author, disposition.answer, said)
    is_accepted = disposition.answer is Answer.ACCEPT
    counted = counters.facts(
        decisions.crossing.crossing,
        sdids=[one.request.sdid for one in signatures] if is_accepted else (),
        sdid=decisions.signing.sdid,
        reasons=(_DRY_RUN,) if is_dry_run else signing.reasons,
        is_accepted=is_accepted,
        is_recorded=is_recorded,
        laps=laps,
    )
    return Verdict(edits, disposition, reasons, summary, counted)


def _not_done(content: dict[str, Any]) -> dict[str, Any]:
    """What a record of a dry run says instead: nothing was done, and this would have been."""
    wanted = {name: content[name] for name in ("signatures", "archive_recipients", "disposition")}
    return {
        "signatures": [],
        "archive_recipients": (),
        "disposition": Answer.ACCEPT,
        "dry_run": wanted,
    }


def decide(
    transaction: Transaction,
    configuration: Configuration,
    keyring: Keyring,
    archive_addresses: frozenset[Address],
    *,
    key_complaint: Callable[[], str | None] = lambda: None,
    outlook: Outlook = archive_outage.WELL,
) -> Decisions:
    """Ask every policy; nothing is changed by asking."""

    def key_problem(sdid: str) -> str | None:
        # An empty keyring with a complaint was never readable: then nobody can say that a domain
        # has no key, and mail must not leave unsigned for that.
        unreadable = None if keyring.sdids else key_complaint()
        return keyring.problems.get(sdid) or unreadable

    envelope = transaction.envelope()
    proof = origin.prove(envelope, configuration.ours)
    crossing = boundary.classify(envelope, configuration.ours, proof, archive_addresses)
    plan = signing.plan(
        origin=proof,
        login=transaction.login,
        authors=header_fields.authors(transaction.values_of("from")),
        field_names=transaction.names(),
        policy=configuration.signing,
        active_keys=keyring.facts,
        key_problem=key_problem,
        key_refusal=keyring.refused.get,
    )
    copy = archiving.recipients(crossing, proof, configuration.archive, outlook)
    stamp, why = retention.stamp(
        crossing,
        author=plan.author,
        login=transaction.login or "",
        policy=configuration.retention,
    )
    maps = configuration.compare
    shadow = () if maps is None else bcc_maps.compare(maps, envelope, copy)
    return Decisions(proof, crossing, plan, copy, stamp, () if why is None else (why,), shadow)


def sign(plan: SigningPlan, transaction: Transaction, keyring: Keyring, now: float) -> Signing:
    """Make the planned signatures, unless the message would not carry them unbroken."""
    if transaction.is_header_oversized:
        # Fields beyond the bound were not kept, an author among them perhaps.
        refusal = Reason("header-too-large", str(len(transaction.fields)))
        return Signing((), (refusal,), FailureClass.HEADER_TOO_LARGE)
    if not plan.requests:
        return Signing((), plan.reasons, plan.failure)
    breaker = breaks_on_its_way(plan, transaction)
    if breaker is not None:
        return Signing((), (breaker,), FailureClass.TRANSFORMATION)
    reasons = survival.endangered_by(
        transaction.body.facts(), transaction.values_of("dkim-signature")
    )
    digest = transaction.body.digest()
    made: list[Signature] = []
    failure = None
    for request in plan.requests:
        try:
            key = keyring.find(request.key)
            assert key is not None  # planned from this very keyring
            made.append(signer.sign(transaction.fields, digest, request, key, now=int(now)))
            reasons.append(Reason("signed", f"{request.sdid}/{request.selector}"))
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
    signed = plan.requests[0].fields
    lines = (
        (name, survival.longest_field_line(name, value))
        for name, value in transaction.fields
        # Few fields are as long as one line may be, so their names are looked at last.
        if len(name) + len(value) >= survival.LINE_LIMIT and name.lower() in signed
    )
    return survival.broken_by(transaction.body.facts(), lines)


def describe(transaction: Transaction, decisions: Decisions) -> dict[str, Any]:
    """What is known about the message, in the shape of the record."""
    proof, crossing = decisions.origin, decisions.crossing
    client, reverse_path, body = transaction.client, transaction.reverse_path, transaction.body
    body_size = body.size
    return {
        "queue_id": transaction.queue_id,
        "listener": transaction.listener,
        "client": {
            "address": client.address,
            "port": client.port,
            "name": client.name,
            "helo": client.helo,
        },
        "login": transaction.login,
        "login_method": transaction.login_method,
        "tls": transaction.tls,
        "origin": {"kind": proof.kind, "about": proof.about},
        "reverse_path": {
            "raw": reverse_path.path.raw,
            "address": crossing.reverse_path.text,
            "resolved": reverse_path.resolved,
            "esmtp": reverse_path.esmtp,
            "place": crossing.reverse_path.place,
            "why": str(crossing.reverse_path.why),
        },
        "recipients": [
            {
                "raw": recipient.path.raw,
                "address": end.text,
                "resolved": recipient.resolved,
                "mailer": recipient.mailer,
                "host": recipient.host,
                "esmtp": recipient.esmtp,
                "place": end.place,
                "why": str(end.why),
            }
            for recipient, end in zip(transaction.recipients, crossing.recipients, strict=True)
        ],
        "crossing": crossing.crossing,
        "header_count": len(transaction.fields),
        "header_size": transaction.header_size,
        "body_size": body_size,
        "size": transaction.header_size + 2 + body_size,
        "body_hash": {
            "canonicalization": body.canonicalization,
            "sha256": base64.b64encode(body.digest()).decode("ascii"),
        },
    }


def _signature_facts(signature: Signature) -> dict[str, Any]:
    request = signature.request
    return {
        "sdid": request.sdid,
        "selector": request.selector,
        "auid": request.auid,
        "algorithm": request.algorithm,
        "canonicalization": f"{request.header_canonicalization}/{request.body_canonicalization}",
        "fields": ":".join(request.fields),
        "signed_at": signature.signed_at,
        "expires_at": signature.expires_at,
    }


def retention_facts(stamp: Stamp | None) -> dict[str, Any] | None:
    """The stamp as it stands in the record, times in seconds."""
    if stamp is None:
        return None
    terms = stamp.terms
    return {
        "class": stamp.name,
        "keep": terms.keep,
        "headers": terms.headers,
        "subject": terms.subject,
    }


def _recorded_fields(transaction: Transaction, wanted: str | list[str]) -> list[tuple[str, str]]:
    fields: Iterable[tuple[str, bytes]] = transaction.fields
    if wanted != "all":
        names = {name.lower() for name in wanted}
        fields = (field for field in fields if field[0].lower() in names)
    # As `transaction.text` does, without a call for each field.
    return [(name, value.decode("utf-8", "surrogateescape")) for name, value in fields]


def _summary(
    content: dict[str, Any], author: Address | None, answer: Answer, reasons: list[str]
) -> dict[str, object]:
    """The canonical log line: one per message, every decision on it."""
    # Of a message that was not accepted, nothing was signed and no copy sent.
    is_accepted = answer is Answer.ACCEPT
    signatures = content["signatures"] if is_accepted else ()
    copies = content["archive_recipients"] if is_accepted else ()
    wanted = content.get("dry_run")
    would = (
        {}
        if wanted is None
        else {
            "would_answer": wanted["disposition"],
            "would_sign": _named(wanted["signatures"]),
            "would_copy": ",".join(wanted["archive_recipients"]),
        }
    )
    return {
        "queue_id": content["queue_id"],
        "record_id": content["record_id"],
        "disposition": answer,
        "crossing": content["crossing"],
        "reverse_path": content["reverse_path"]["address"],
        "recipients": len(content["recipients"]),
        "author": str(author or ""),
        "client": content["client"]["address"],
        "login": content["login"],
        "signed": _named(signatures),
        "copy": ",".join(copies),
        **would,
        "size": content["size"],
        # A comma inside comes from a stranger's address, and must not look like the next reason.
        "reasons": ",".join([reason.replace(",", "\\x2c") for reason in reasons]),
    }


def _named(signatures: Iterable[Mapping[str, Any]]) -> str:
    return ",".join(f"{one['sdid']}/{one['selector']}" for one in signatures)
