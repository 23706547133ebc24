"""Two signers on one message: where their signatures differ, and whether that is as configured.

Promises: every difference is named with both sides; it is explained only by something that the
configuration or a promise of ours says (`why`), and all others stay unexplained: whether the
message is signed, by whom, with which key, and which fields are covered.

Does not: verify, or know how the other signer is configured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from carbonseal.policies import signing
from carbonseal.policies.signature_facts import SignatureFacts

# Fields that change on the way, so that a signature over them breaks.
TRACE: Final = frozenset(
    "return-path received dkim-signature authentication-results arc-seal arc-message-signature"
    " arc-authentication-results delivered-to x-original-to received-spf bcc resent-bcc".split()
)
_BREAKS = "such a signature breaks on its way or is read differently; failure.transformation"
_AUTHOR = "mail that does not name exactly one author is not signed; failure.unusable_author"
# Why we do not sign, where that is meant.
_MEANT: Final = {
    "line-too-long": _BREAKS,
    "bare-line-ends": _BREAKS,
    "disputed-octets": _BREAKS,
    "too-many-fields": _BREAKS,
    "header-too-large": "the header section is beyond the bounds; failure.header_too_large",
    "too-many-recipients": "the recipients are beyond the bounds; failure.too_many_recipients",
    "no-author": _AUTHOR,
    "several-author-fields": _AUTHOR,
    "several-authors": _AUTHOR,
    "group-author": _AUTHOR,
    "unparsable-author": _AUTHOR,
    "peer-sealed": "the client is listed in ours.peers",
    "author-not-allowed": "the login may not use this author; signing.logins",
}
_INTERNATIONAL: Final = (
    "the author's domain is written in letters beyond ASCII, and signed for by its A-label here"
)
_LOCAL: Final = ("sendmail", "127.", "::1", "IPv6:::1")


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that the two signers did differently."""

    code: str
    old: str
    new: str
    why: str = ""  # what explains it; "" if nothing does

    @property
    def is_explained(self) -> bool:
        """Whether the configuration says so."""
        return bool(self.why)


@dataclass(frozen=True, slots=True)
class Message:
    """What is known of the message itself."""

    present: Counter[str]  # its header fields, lower-case names
    reasons: Sequence[str]  # ours, as in the record: code(about)
    stage_of: Callable[[SignatureFacts], str | None]  # of the key in our store, None: not there
    is_author_ascii: bool = True  # From holds no octet beyond ASCII


def compare(
    old: Sequence[SignatureFacts], new: Sequence[SignatureFacts], message: Message
) -> tuple[Difference, ...]:
    """All differences between the old signer's signatures and ours."""
    pairs, only_old, only_new = _paired(old, new)
    found = [one for pair in pairs for one in _pair(*pair, message)]
    for one in only_old:
        found.append(_not_here(one, message) if not new else _fewer(one, message))
    for one in only_new:
        if old:
            why = "it is one more signature, with another active key; signing.max_signatures"
            is_same = any(one.sdid == other.sdid for other in old)
            found.append(Difference("signature-added", "", one.name, why if is_same else ""))
        else:
            why = "" if message.is_author_ascii or not _is_international(one) else _INTERNATIONAL
            found.append(Difference("signed-only-here", "", one.name, why))
    return tuple(found)


def _is_international(signature: SignatureFacts) -> bool:
    return any(label.startswith("xn--") for label in signature.sdid.split("."))


def _paired(
    old: Sequence[SignatureFacts], new: Sequence[SignatureFacts]
) -> tuple[list[tuple[SignatureFacts, SignatureFacts]], list[SignatureFacts], list[SignatureFacts]]:
    """Signatures that belong together: by domain and selector, then by domain, then by kind."""
    left, right = list(old), list(new)
    pairs = []
    for key in (_name, _domain_and_kind, _kind):
        for one in list(left):
            partner = next((other for other in right if key(other) == key(one)), None)
            if partner is not None:
                pairs.append((one, partner))
                left.remove(one)
                right.remove(partner)
    return pairs, left, right


def _name(signature: SignatureFacts) -> str:
    return signature.name


def _domain_and_kind(signature: SignatureFacts) -> str:
    return f"{signature.sdid} {_kind(signature)}"


def _kind(signature: SignatureFacts) -> str:
    return signature.algorithm.partition("-")[0]


def _pair(old: SignatureFacts, new: SignatureFacts, message: Message) -> Iterator[Difference]:
    if old.sdid != new.sdid:
        yield Difference("domain", old.sdid, new.sdid)
    if old.selector != new.selector:
        yield Difference("selector", old.name, new.name, _key(old, message))
    if old.algorithm != new.algorithm:
        why = "rsa-sha1 is never used (RFC 8301)" if old.algorithm == "rsa-sha1" else ""
        yield Difference("algorithm", old.algorithm, new.algorithm, why)
    if old.canonicalization != new.canonicalization:
        why = f"signing.canonicalization is {new.canonicalization}"
        yield Difference("canonicalization", old.canonicalization, new.canonicalization, why)
    if old.auid != new.auid:
        why = "" if old.sdid != new.sdid else "i= is always @ and the signing domain"
        yield Difference("identity", old.auid, new.auid, why)
    if old.has_length:
        yield Difference("length", "l=", "", "the whole body is signed, without l=")
    if (old.expires_at is None) != (new.expires_at is None):
        what = ("no x=", "x=")
        why = "signing.expires_after decides it"
        sides = what[old.expires_at is not None], what[new.expires_at is not None]
        yield Difference("expiry", *sides, why)
    yield from _fields(old, new, message)


def _fields(old: SignatureFacts, new: SignatureFacts, message: Message) -> Iterator[Difference]:
    """What is covered, whatever its order: a name as often as it occurs, and once more."""
    before, after = _covered(old, message), _covered(new, message)
    lost = [name for name in before if name not in after]
    changing = [name for name in lost if name in TRACE]
    late = [name for name in lost if name.removeprefix("+") in signing.LATE_ADDITIONS]
    plain = [name for name in lost if name not in changing and name not in late]
    if changing:
        why = "these fields change on the way, and are not signed"
        yield Difference("fields-lost", ":".join(changing), "", why)
    if late:
        why = "Postfix adds these after the milter where they are missing; signing.oversign_absent"
        yield Difference("fields-lost", ":".join(late), "", why)
    if plain:
        yield Difference("fields-lost", ":".join(plain), "")
    gained = [name for name in after if name not in before]
    if gained:
        why = "more is covered; signing.oversign"
        yield Difference("fields-gained", "", ":".join(gained), why)


def _covered(signature: SignatureFacts, message: Message) -> dict[str, None]:
    """Names whose instances are signed, and `+name` where the absence of another one is."""
    listed = Counter(signature.fields)
    covered: dict[str, None] = {}
    for name, count in listed.items():
        if message.present[name]:
            covered[name] = None
        if count > message.present[name]:
            covered["+" + name] = None
    return covered


def _not_here(old: SignatureFacts, message: Message) -> Difference:
    reasons = [reason for reason in message.reasons if not reason.startswith(("origin-", "reci"))]
    for reason in reasons:
        code, _, about = reason.partition("(")
        if code in _MEANT:
            return Difference("signed-only-there", old.name, reason, _MEANT[code])
        if code == "no-origin-proof":
            is_local = about.startswith(_LOCAL)
            why = (
                "mail of the relay itself is signed only with ours.local_submission, or with"
                " loopback in ours.networks"
            )
            return Difference("signed-only-there", old.name, reason, why if is_local else "")
    said = [reason for reason in reasons if reason.partition("(")[0] in _UNSIGNED]
    return Difference("signed-only-there", old.name, ", ".join(said))


_UNSIGNED = frozenset(
    "author-exempt author-not-ours no-active-key key-unusable key-refused signature-failed".split()
)


def _fewer(old: SignatureFacts, message: Message) -> Difference:
    return Difference("signature-missing", old.name, "", _key(old, message))


def _key(old: SignatureFacts, message: Message) -> str:
    stage = message.stage_of(old)
    if stage is None or stage == "active":
        return ""
    return f"the key {old.name} is {stage} here, and another one is active"
