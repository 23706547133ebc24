"""What is written about one message: its record, and its line in the log.

Promises: what both say is what was decided and done, in the order of `_KEYS`; readers of records
know these keys, so that one is only ever added.  In a dry run nothing was done, and what would have
been stands beside it.

Does not: decide, write anything anywhere, or read the clock.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterable
from typing import Any, NamedTuple

from carbonseal.keys.signer import Signature
from carbonseal.milter.archive import record
from carbonseal.milter.archive.message_lines import REASON, REASONS, VALUE, RecordForm
from carbonseal.milter.decisions import Decisions
from carbonseal.milter.transaction import Transaction
from carbonseal.policies import bcc_maps
from carbonseal.policies.disposition import Answer
from carbonseal.policies.reason import Reason
from carbonseal.policies.retention import Stamp


class Deeds(NamedTuple):
    """What is done with a message, or would be."""

    signatures: tuple[Signature, ...]
    copies: tuple[str, ...]
    answer: Answer


NOTHING = Deeds((), (), Answer.ACCEPT)

_SIGNATURE = {
    "sdid": VALUE,
    "selector": VALUE,
    "auid": VALUE,
    "algorithm": VALUE,
    "canonicalization": VALUE,
    "fields": VALUE,
    "signed_at": VALUE,
    "expires_at": VALUE,
}
_RECIPIENT = {
    "raw": VALUE,
    "address": VALUE,
    "resolved": VALUE,
    "mailer": VALUE,
    "host": VALUE,
    "esmtp": VALUE,
    "place": VALUE,
    "why": REASON,
}
_KEYS = {
    "queue_id": VALUE,
    "listener": VALUE,
    "client": {"address": VALUE, "port": VALUE, "name": VALUE, "helo": VALUE},
    "login": VALUE,
    "login_method": VALUE,
    "tls": VALUE,
    "origin": {"kind": VALUE, "about": VALUE},
    "reverse_path": {
        "raw": VALUE,
        "address": VALUE,
        "resolved": VALUE,
        "esmtp": VALUE,
        "place": VALUE,
        "why": REASON,
    },
    "recipients": [_RECIPIENT],
    "crossing": VALUE,
    "header_count": VALUE,
    "header_size": VALUE,
    "body_size": VALUE,
    "size": VALUE,
    "body_hash": {"canonicalization": VALUE, "sha256": VALUE},
    "v": VALUE,
    "record_id": VALUE,
    "salt": VALUE,
    "retention": VALUE,
    "bcc_maps": VALUE,
    "recorded_at": VALUE,
    "relay": VALUE,
    "config_version": VALUE,
    "header_fields": VALUE,
    "signatures": [_SIGNATURE],
    "archive_recipients": VALUE,
    "archive_addressed": VALUE,
    "disposition": VALUE,
    "reasons": REASONS,
}
_WANTED = {"signatures": [_SIGNATURE], "archive_recipients": VALUE, "disposition": VALUE}
_FORM = RecordForm(_KEYS)
_DRY_RUN_FORM = RecordForm({**_KEYS, "dry_run": _WANTED})


def record_line(
    transaction: Transaction,
    decisions: Decisions,
    done: Deeds,
    wanted: Deeds | None,
    *,
    identity: tuple[str, str],
    now: float,
    relay: str,
    config_version: str,
    headers: str | list[str],
    reasons: tuple[Reason, ...],
) -> bytes:
    """The line of the record.

    `wanted` is what a dry run would have done, None in any other; `identity` the id and the salt,
    `now` Unix time in seconds, `headers` the names of the fields that are kept, or 'all'.
    """
    # Taken apart: to ask a tuple for a field by its name costs as much as that.
    proof, (kind, origin_end, ends, _), _, copy, stamp, _, shadow = decisions
    signatures, copies, answer = done
    path, resolved, esmtp = transaction.reverse_path
    client, body = transaction.client, transaction.body
    header_size, body_size = transaction.header.size, body.size
    values = (
        transaction.queue_id,
        transaction.listener,
        client.address,
        client.port,
        client.name,
        client.helo,
        transaction.login,
        transaction.login_method,
        transaction.tls,
        proof.kind,
        proof.about,
        path.raw,
        origin_end.text,
        resolved,
        esmtp,
        origin_end.place,
        origin_end.why,
        [
            (
                recipient.path.raw,
                end.text,
                recipient.resolved,
                recipient.mailer,
                recipient.host,
                recipient.esmtp,
                end.place,
                end.why,
            )
            for recipient, end in zip(transaction.recipients, ends, strict=True)
        ],
        kind,
        len(transaction.fields),
        header_size,
        body_size,
        header_size + 2 + body_size,
        body.canonicalization,
        binascii.b2a_base64(body.digest(), newline=False),
        record.VERSION,
        *identity,
        retention_facts(stamp),
        bcc_maps.said(map(str, reasons)) if shadow else None,
        record.timestamp(now),
        relay,
        config_version,
        _kept_fields(transaction, headers),
        [_signature_facts(one) for one in signatures],
        copies,
        copy.was_addressed,
        answer,
        reasons,
    )
    if wanted is None:
        return _FORM.line(*values)
    would_sign = [_signature_facts(one) for one in wanted.signatures]
    return _DRY_RUN_FORM.line(*values, would_sign, wanted.copies, wanted.answer)


def summary(
    transaction: Transaction,
    decisions: Decisions,
    done: Deeds,
    wanted: Deeds | None,
    *,
    record_id: str,
    size: int,
    reasons: tuple[Reason, ...],
) -> dict[str, object]:
    """The canonical log line: one per message, every decision on it."""
    # Of a message that was not accepted, nothing was signed and no copy sent.
    signatures, copies, answer = done
    is_accepted = answer is Answer.ACCEPT
    kind, origin_end, ends, _ = decisions.crossing
    said: dict[str, object] = {
        "queue_id": transaction.queue_id,
        "record_id": record_id,
        "disposition": answer,
        "crossing": kind,
        "reverse_path": origin_end.text,
        "recipients": len(ends),
        "author": str(decisions.signing.author or ""),
        "client": transaction.client.address,
        "login": transaction.login,
        "signed": _named(signatures) if is_accepted else "",
        "copy": ",".join(copies) if is_accepted else "",
    }
    if wanted is not None:
        said["would_answer"] = wanted.answer
        said["would_sign"] = _named(wanted.signatures)
        said["would_copy"] = ",".join(wanted.copies)
    said["size"] = size
    said["reasons"] = reasons
    return said


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


def _signature_facts(signature: Signature) -> tuple[object, ...]:
    _, request, _, signed_at, expires_at = signature
    return (*request.facts, signed_at, expires_at)


def _kept_fields(transaction: Transaction, headers: str | list[str]) -> list[tuple[str, bytes]]:
    if headers == "all":
        return transaction.fields
    names = {name.lower() for name in headers}
    return [field for field in transaction.fields if field[0].lower() in names]


def _named(signatures: Iterable[Signature]) -> str:
    return ",".join([one.request.name for one in signatures])
