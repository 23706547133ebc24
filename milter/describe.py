"""What is written about one message: its record, and its line in the log.

Promises: what both say is what was decided and done, in the order of `_KEYS` and `_WORDS`; readers
of records know these keys, so that one is only ever added.  In a dry run nothing was done, and what
would have been stands beside it.

Does not: decide, write anything anywhere, or read the clock.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from carbonseal.keys.body_hash import BodyHash
from carbonseal.keys.signer import Signature
from carbonseal.milter.archive import record
from carbonseal.milter.archive.message_lines import (
    COUNT,
    MOMENT,
    REASON,
    REASONS,
    RecordForm,
    WordForm,
    each,
    of,
    texts,
)
from carbonseal.milter.config import Configuration
from carbonseal.milter.decisions import Decisions
from carbonseal.milter.edits import Deeds
from carbonseal.milter.header_section import HeaderSection
from carbonseal.milter.transaction import Transaction
from carbonseal.policies.address import Path
from carbonseal.policies.archiving import ArchivePlan
from carbonseal.policies.boundary import Classification, End
from carbonseal.policies.disposition import Answer, Disposition
from carbonseal.policies.envelope import Client, Recipient, ReversePath
from carbonseal.policies.origin import Origin
from carbonseal.policies.reason import Reason
from carbonseal.policies.signing_request import SignatureRequest


class Verdict(NamedTuple):
    """The outcome of sealing one message: all that is said of it, and to whomever."""

    transaction: Transaction
    decisions: Decisions
    done: Deeds
    wanted: Deeds | None  # what a dry run would have done, None in any other
    disposition: Disposition
    reasons: tuple[Reason, ...]
    # The record's id, and its salt: what hides the record's parts behind their evidence.
    identity: tuple[str, str]
    now: float  # Unix time in seconds
    relay: str
    configuration: Configuration
    kept: list[tuple[str, bytes]]  # header fields
    size: int  # octets of the message as it goes out
    digest: str  # of the body, in base64
    unsigned: str  # why nobody signed, a code of a reason; '' where there was none
    laps: tuple[float, float, float]  # by the clock of performance: begun, decided, signed
    is_recorded: bool = True


# What these classes have under a name, which type checkers take for a mistake; a name that is none
# fails at the import.
_TRANSACTION: Any = Transaction
_HEADER: Any = HeaderSection
_BODY: Any = BodyHash
_CLIENT: Any = Client
_CONFIGURATION: Any = Configuration
_ORIGIN: Any = Origin
_COPY: Any = ArchivePlan
_REQUEST: Any = SignatureRequest


class _Identity(NamedTuple):
    """Where in `Verdict.identity` what is."""

    record_id: str
    salt: str


class _Named(NamedTuple):
    """Where in `SignatureRequest.facts` what is."""

    sdid: str
    selector: str
    auid: str
    algorithm: str
    canonicalization: str
    fields: str


def _of_request(fact: str) -> Any:
    return of(Signature.request, _REQUEST.facts, getattr(_Named, fact))


_SIGNATURE = {
    **{fact: _of_request(fact) for fact in _Named._fields},
    "signed_at": of(Signature.signed_at),
    "expires_at": of(Signature.expires_at),
}
_RECIPIENT = {
    "raw": of(Recipient.path, Path.raw),
    "address": of(End.text, beside=1),
    "resolved": of(Recipient.resolved),
    "mailer": of(Recipient.mailer),
    "host": of(Recipient.host),
    "esmtp": of(Recipient.esmtp),
    "place": of(End.place, beside=1),
    "why": of(End.why, kind=REASON, beside=1),
}
_THE_CLIENT = (Verdict.transaction, _TRANSACTION.client)
_PATH = (Verdict.transaction, _TRANSACTION.reverse_path)
_BODY_OF = (Verdict.transaction, _TRANSACTION.body)
_ORIGIN_OF = (Verdict.decisions, Decisions.origin)
_CROSSING = (Verdict.decisions, Decisions.crossing)
_ORIGIN_END = (*_CROSSING, Classification.reverse_path)
_ENDS = of(*_CROSSING, Classification.recipients)
_RECORD_ID = of(Verdict.identity, _Identity.record_id)
_KEYS = {
    "queue_id": of(Verdict.transaction, _TRANSACTION.queue_id),
    "listener": of(Verdict.transaction, _TRANSACTION.listener),
    "client": {
        "address": of(*_THE_CLIENT, _CLIENT.address),
        "port": of(*_THE_CLIENT, _CLIENT.port),
        "name": of(*_THE_CLIENT, _CLIENT.name),
        "helo": of(*_THE_CLIENT, _CLIENT.helo),
    },
    "login": of(Verdict.transaction, _TRANSACTION.login),
    "login_method": of(Verdict.transaction, _TRANSACTION.login_method),
    "tls": of(Verdict.transaction, _TRANSACTION.tls),
    "origin": {
        "kind": of(*_ORIGIN_OF, _ORIGIN.kind),
        "about": of(*_ORIGIN_OF, _ORIGIN.about),
    },
    "reverse_path": {
        "raw": of(*_PATH, ReversePath.path, Path.raw),
        "address": of(*_ORIGIN_END, End.text),
        "resolved": of(*_PATH, ReversePath.resolved),
        "esmtp": of(*_PATH, ReversePath.esmtp),
        "place": of(*_ORIGIN_END, End.place),
        "why": of(*_ORIGIN_END, End.why, kind=REASON),
    },
    "recipients": each(_RECIPIENT, of(Verdict.transaction, _TRANSACTION.recipients), _ENDS),
    "crossing": of(*_CROSSING, Classification.crossing),
    "header_count": of(Verdict.transaction, _TRANSACTION.fields, kind=COUNT),
    "header_size": of(Verdict.transaction, _TRANSACTION.header, _HEADER.size),
    "body_size": of(*_BODY_OF, _BODY.size),
    "size": of(Verdict.size),
    "body_hash": {
        "canonicalization": of(*_BODY_OF, _BODY.canonicalization),
        "sha256": of(Verdict.digest),
    },
    "v": record.VERSION,
    "record_id": _RECORD_ID,
    "salt": of(Verdict.identity, _Identity.salt),
    "retention": of(Verdict.decisions, Decisions.kept),
    "bcc_maps": of(Verdict.decisions, Decisions.bcc_maps),
    "recorded_at": of(Verdict.now, kind=MOMENT),
    "relay": of(Verdict.relay),
    "config_version": of(Verdict.configuration, _CONFIGURATION.version),
    "header_fields": of(Verdict.kept),
    "signatures": each(_SIGNATURE, of(Verdict.done, Deeds.signatures)),
    "archive_recipients": of(Verdict.done, Deeds.copies),
    "archive_addressed": of(Verdict.decisions, Decisions.copy, _COPY.was_addressed),
    "disposition": of(Verdict.done, Deeds.answer),
    "reasons": of(Verdict.reasons, kind=REASONS),
}
_WANTED = {
    "signatures": each(_SIGNATURE, of(Verdict.wanted, Deeds.signatures)),
    "archive_recipients": of(Verdict.wanted, Deeds.copies),
    "disposition": of(Verdict.wanted, Deeds.answer),
}
_FORM = RecordForm(_KEYS)
_DRY_RUN_FORM = RecordForm({**_KEYS, "dry_run": _WANTED})

_NAME = (Signature.request, _REQUEST.name)
_WORDS = {
    "queue_id": of(Verdict.transaction, _TRANSACTION.queue_id),
    "record_id": _RECORD_ID,
    "disposition": of(Verdict.done, Deeds.answer),
    "crossing": of(*_CROSSING, Classification.crossing),
    "reverse_path": of(*_ORIGIN_END, End.text),
    "recipients": of(*_CROSSING, Classification.recipients, kind=COUNT),
    "author": of(Verdict.decisions, Decisions.author),
    "client": of(*_THE_CLIENT, _CLIENT.address),
    "login": of(Verdict.transaction, _TRANSACTION.login),
    "signed": texts(of(Verdict.done, Deeds.signatures), *_NAME),
    "copy": texts(of(Verdict.done, Deeds.copies)),
}
_WOULD = {
    "would_answer": of(Verdict.wanted, Deeds.answer),
    "would_sign": texts(of(Verdict.wanted, Deeds.signatures), *_NAME),
    "would_copy": texts(of(Verdict.wanted, Deeds.copies)),
}
_LAST_WORDS = {"size": of(Verdict.size), "reasons": of(Verdict.reasons, kind=REASONS)}
_SEALED = WordForm("sealed", "info", _WORDS | _LAST_WORDS)
_REFUSED = WordForm("refused", "error", _WORDS | _LAST_WORDS)
_ACCEPT: Final = Answer.ACCEPT  # see `seal`
_DRY_RUN = WordForm("dry-run", "info", _WORDS | _WOULD | _LAST_WORDS)


def record_line(verdict: Verdict) -> bytes:
    """The line of the record."""
    return (_FORM if verdict.wanted is None else _DRY_RUN_FORM).line(verdict)


def log_form(verdict: Verdict) -> WordForm:
    """The canonical log line, of which there is one for each message: every decision on it."""
    if verdict.wanted is not None:
        return _DRY_RUN
    return _SEALED if verdict.done.answer is _ACCEPT else _REFUSED


def kept_fields(transaction: Transaction, headers: list[str]) -> list[tuple[str, bytes]]:
    """The header fields for the record, where that keeps only those of these names."""
    names = {name.lower() for name in headers}
    return [field for field in transaction.fields if field[0].lower() in names]
