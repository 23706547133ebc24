"""Where the old signer's signatures and ours differ: one message or record at a time.

The old signer's signatures are those of a message whose domain is ours (ours.domains, or a domain
with a key here); in the record of a dry run only those made within minutes of it, so that mail of
ours that comes back through a list counts as what it is.  Our own are those that the record says
would have been made, or that are made now for a message in a file; then its origin is taken for
proven, because a file does not say who handed it over.

Promises: nothing is sent, changed or kept; signatures made here are forgotten.

Raises: `DataError` for what is no message and no record of a dry run.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from carbonseal.keys import keyring, store, verifier
from carbonseal.keys.body_hash import BodyHash
from carbonseal.keys.canonical_header import Field
from carbonseal.keys.key_record import KeyRecord
from carbonseal.keys.keyring import Keyring
from carbonseal.keys.verifier import Outcome
from carbonseal.milter import explain, seal
from carbonseal.milter.archive.record import BadLine
from carbonseal.milter.compare_sources import Line, Mail
from carbonseal.milter.config import Configuration
from carbonseal.milter.transaction import Connection, Transaction
from carbonseal.policies import header_fields, signature_comparison, signature_facts, signing
from carbonseal.policies.envelope import Client
from carbonseal.policies.errors import DataError
from carbonseal.policies.origin import Origin, OriginKind
from carbonseal.policies.signature_comparison import Difference
from carbonseal.policies.signature_facts import SignatureFacts

_MINUTES: Final = 15 * 60  # seconds between the old signer's clock and the record, at most
_ASSUMED: Final = Origin(OriginKind.NETWORK, "assumed")
_SIGNATURE: Final = "dkim-signature"
_BROKEN: Final = frozenset((Outcome.FAIL, Outcome.BODY_DIFFERS, Outcome.UNREADABLE))


@dataclass(frozen=True, slots=True)
class Compared:
    """One message and what was found."""

    place: str
    about: Mapping[str, str]  # record_id, queue_id, author
    old: tuple[SignatureFacts, ...]
    new: tuple[SignatureFacts, ...]
    verified: tuple[str, ...]  # outcome of each old one
    differences: tuple[Difference, ...]

    @property
    def verdict(self) -> str:
        """In one word."""
        if not self.differences:
            return "agree"
        is_explained = all(one.is_explained for one in self.differences)
        return "explained" if is_explained else "unexplained"


@dataclass(frozen=True, slots=True)
class _Seen:
    """One message, whatever it came from."""

    place: str
    about: Mapping[str, str]
    fields: Sequence[tuple[str, bytes]]
    digests: Mapping[str, bytes]  # of the body by canonicalization
    at: float | None  # Unix time of the record
    new: tuple[SignatureFacts, ...]
    reasons: Sequence[str]


@dataclass(slots=True)
class Comparison:
    """The configuration and keys that everything is compared with."""

    configuration: Configuration
    now: float
    _ring: Keyring | None = None
    _records: dict[str, dict[str, KeyRecord]] = field(default_factory=dict)

    def line(self, line: Line) -> Compared | None:
        """One line of records; None for one that is no record of a dry run."""
        try:
            content = json.loads(line.octets)
            if not isinstance(content, dict):
                raise TypeError
            wanted = content.get("dry_run")
            if wanted is None:
                _refuse_short(content, line.place)
                return None
            return self._compared(self._of_record(content, wanted, line.place))
        except (ValueError, KeyError, TypeError, RecursionError, BadLine):
            raise DataError(
                f"{line.place} is no record; give messages, or segments of record.spool"
            ) from None

    def mail(self, mail: Mail) -> Compared:
        """One message in a file."""
        transaction = self._transaction()
        explain.add_message(mail.octets, mail.place, transaction)
        body = mail.octets.replace(b"\r\n", b"\n").partition(b"\n\n")[2].replace(b"\n", b"\r\n")
        digests = {}
        for form in ("relaxed", "simple"):
            hashed = BodyHash(form)
            hashed.update(body)
            digests[form] = hashed.digest()
        plan = self._plan(transaction)
        signatures, reasons, _ = seal.sign(plan, transaction, self._keys(), self.now)
        new = tuple(
            one
            for signature in signatures
            if (one := signature_facts.parse(signature.field_value)) is not None
        )
        seen = _Seen(
            mail.place,
            {"author": str(plan.author or "")},
            transaction.fields,
            digests,
            None,
            new,
            list(map(str, reasons)),
        )
        return self._compared(seen)

    # --- one message ------------------------------------------------------------------------------

    def _compared(self, seen: _Seen) -> Compared:
        fields = [(name.encode("utf-8", "surrogateescape"), value) for name, value in seen.fields]
        old: list[SignatureFacts] = []
        verified: list[str] = []
        for name, value in fields:
            facts = self._old(name, value, seen.at)
            if facts is not None:
                old.append(facts)
                outcome = self._verified(facts, name, value, fields, seen.digests)
                verified.append(outcome)
        present = Counter(name.strip().lower() for name, _ in seen.fields)
        message = signature_comparison.Message(
            present,
            seen.reasons,
            self._stage,
            is_author_ascii=all(
                value.isascii() for name, value in fields if name.strip().lower() == b"from"
            ),
        )
        differences = signature_comparison.compare(old, seen.new, message)
        broken = tuple(
            Difference("old-signature-broken", f"{facts.name}: {outcome}", "")
            for facts, outcome in zip(old, verified, strict=True)
            if outcome in _BROKEN
        )
        return Compared(
            seen.place,
            seen.about,
            tuple(old),
            seen.new,
            tuple(verified),
            (*differences, *broken),
        )

    def _old(self, name: bytes, value: bytes, at: float | None) -> SignatureFacts | None:
        """The signature of the old signer in a field; None for another's, and other fields."""
        if name.strip().lower() != _SIGNATURE.encode():
            return None
        facts = signature_facts.parse(value.decode("utf-8", "surrogateescape"))
        if facts is None or not self._is_ours(facts.sdid):
            return None
        if at is None:
            return facts
        if facts.signed_at is None:  # whoever else it was, it was nobody with a key of ours
            return facts if self._stage(facts) is not None else None
        return facts if abs(at - facts.signed_at) <= _MINUTES else None

    def _is_ours(self, sdid: str) -> bool:
        return sdid in self.configuration.ours.domains or bool(self._lineage(sdid))

    def _verified(
        self,
        facts: SignatureFacts,
        name: bytes,
        value: bytes,
        fields: Sequence[Field],
        digests: Mapping[str, bytes],
    ) -> Outcome:
        record = self._lineage(facts.sdid).get(facts.selector)
        public = None if record is None else record.public_key
        return verifier.verify(fields, value, digests, public, name=name)

    def _stage(self, facts: SignatureFacts) -> str | None:
        record = self._lineage(facts.sdid).get(facts.selector)
        return None if record is None else record.stage.value

    def _lineage(self, sdid: str) -> dict[str, KeyRecord]:
        known = self._records.get(sdid)
        if known is None:
            shelf = store.Store(self.configuration.keys_directory)
            # A name from a stranger's signature becomes part of a path.
            named = sdid if signature_facts.is_domain(sdid) else ""
            records = shelf.lineage(named).records if named else ()
            known = {one.selector: one for one in records}
            if len(self._records) < 10_000:
                self._records[sdid] = known
        return known

    def _keys(self) -> Keyring:
        if self._ring is None:
            self._ring = keyring.load(self.configuration.keys_directory)
        return self._ring

    def _transaction(self) -> Transaction:
        return Transaction(
            Connection(Client("", 1, "unknown", ""), "", ""),
            (b"<>",),
            resolved=None,
            body_canonicalization=self.configuration.signing.body_canonicalization,
        )

    def _plan(self, transaction: Transaction) -> signing.SigningPlan:
        ring = self._keys()
        return signing.plan(
            origin=_ASSUMED,
            login="",
            authors=header_fields.authors(transaction.values_of("from")),
            field_names=transaction.names(),
            policy=self.configuration.signing,
            active_keys=ring.facts,
            key_problem=ring.problems.get,
            key_refusal=ring.refused.get,
        )

    def _of_record(self, content: dict[str, Any], wanted: Any, place: str) -> _Seen:
        fields = [
            (str(name), str(value).encode("utf-8", "surrogateescape"))
            for name, value in content["header_fields"]
        ]
        body = content["body_hash"]
        authors = [value for name, value in fields if name.lower() == "from"]
        known = header_fields.authors(authors).mailboxes
        return _Seen(
            place=place,
            about={
                "record_id": str(content["record_id"]),
                "queue_id": str(content["queue_id"]),
                "author": str(known[0]) if known else "",
            },
            fields=fields,
            digests={str(body["canonicalization"]): _octets(body["sha256"])},
            at=datetime.fromisoformat(content["recorded_at"]).timestamp(),
            new=tuple(map(_of_facts, wanted["signatures"])),
            reasons=[str(one) for one in content["reasons"]],
        )


def _refuse_short(content: dict[str, Any], place: str) -> None:
    """A line that no dry run left (sealed mail, say) is passed over, but not a part of one."""
    reasons = content.get("reasons")
    if isinstance(reasons, list) and reasons[:1] == ["dry-run"]:
        raise DataError(
            f"{place} is the record of a dry run without its header section; give the segments in"
            " record.spool (and its directory loaded), or what archive show --format jsonl prints"
        )


def _octets(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError("no base64") from None


def _of_facts(facts: Mapping[str, Any]) -> SignatureFacts:
    """As `seal` writes them."""
    return SignatureFacts(
        sdid=str(facts["sdid"]),
        selector=str(facts["selector"]),
        algorithm=str(facts["algorithm"]),
        canonicalization=str(facts["canonicalization"]),
        fields=tuple(str(facts["fields"]).split(":")),
        auid=str(facts["auid"]),
        signed_at=facts["signed_at"],
        expires_at=facts["expires_at"],
    )


def row(compared: Compared) -> dict[str, object]:
    """One message for a table or a program."""
    return {
        "verdict": compared.verdict,
        "place": compared.place,
        **compared.about,
        "old": [_shown(one) for one in compared.old],
        "new": [_shown(one) for one in compared.new],
        "verified": list(compared.verified),
        "differences": [
            {
                "code": one.code,
                "old": one.old,
                "new": one.new,
                "explained": one.is_explained,
                "why": one.why,
            }
            for one in compared.differences
        ],
    }


def _shown(signature: SignatureFacts) -> str:
    return f"{signature.name} {signature.algorithm} {signature.canonicalization}"


@dataclass(slots=True)
class Summary:
    """What all messages came to."""

    verdicts: Counter[str] = field(default_factory=Counter)
    kinds: Counter[tuple[str, str, str, str]] = field(default_factory=Counter)
    first: dict[tuple[str, str, str, str], str] = field(default_factory=dict)
    others: int = 0  # lines that are no records of a dry run

    def add(self, compared: Compared) -> None:
        """Count one message."""
        self.verdicts[compared.verdict] += 1
        for one in compared.differences:
            kind = (one.code, one.old, one.new, one.why)
            if kind not in self.first and len(self.first) >= 1000:
                kind = (one.code, "...", "...", one.why)
            self.kinds[kind] += 1
            self.first.setdefault(kind, compared.place)

    def rows(self) -> Iterator[dict[str, object]]:
        """One for each kind of difference, unexplained ones first, the most frequent first."""
        order = sorted(self.kinds.items(), key=lambda item: (bool(item[0][3]), -item[1], item[0]))
        for kind, count in order:
            code, old, new, why = kind
            yield {
                "difference": code,
                "messages": count,
                "old": old,
                "new": new,
                "why": why or "UNEXPLAINED",
                "first": self.first[kind],
            }
