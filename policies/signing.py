"""Which signatures a message gets, or why none.

Promises: nobody signs who may not.  A signature needs a proven origin, exactly one author mailbox,
an author the login may use, and an active key for the domain that the rules name.  Every refusal is
a reason; those that an operator may want to treat otherwise carry a failure class.

Does not: hold keys (it is told which are active), read a clock, or look at the body.
"""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from carbonseal.policies import domains
from carbonseal.policies.address import Address
from carbonseal.policies.disposition import FailureClass
from carbonseal.policies.errors import DataError
from carbonseal.policies.header_fields import Authors, AuthorState
from carbonseal.policies.origin import Origin, OriginKind
from carbonseal.policies.reason import Reason
from carbonseal.policies.signing_request import Canonicalization, KeyFacts, SignatureRequest

# Oversigning stops anybody from adding a second one that a reader would show (RFC 6376 section
# 8.15 calls for it with From).
OVERSIGNED = (
    "from to cc subject date message-id reply-to mime-version content-type "
    "content-transfer-encoding in-reply-to references"
).split()
# Postfix or the next hop adds these where they are missing, after us: an absent one that was
# oversigned would break there.
LATE_ADDITIONS = frozenset(("date", "message-id"))
# Signed where present (RFC 6376 section 5.4.1), free to be added by those who forward.
SIGNED_IF_PRESENT = (
    "sender resent-date resent-from resent-sender resent-to resent-cc resent-message-id "
    "list-id list-help list-unsubscribe list-unsubscribe-post list-subscribe list-post "
    "list-owner list-archive autocrypt"
).split()
# Local parts of authors who are remembered, so that nobody can fill the memory with long ones.
_SHORT = 256
_USUAL_FIELDS = 64  # of a header section whose plan is remembered, likewise
MAX_SIGNED_FIELDS = 400  # h= beyond this is longer than verifiers are asked to read
_UNUSABLE = {
    AuthorState.NONE: "no-author",
    AuthorState.SEVERAL_FIELDS: "several-author-fields",
    AuthorState.SEVERAL_MAILBOXES: "several-authors",
    AuthorState.GROUP: "group-author",
    AuthorState.UNPARSABLE: "unparsable-author",
}


@dataclass(frozen=True, slots=True)
class AuthorPattern:
    """`alice@example.com`, `*@example.com`, `*@.example.com` (every subdomain) or `*`."""

    local_part: str  # '*' for any; compared without regard to case
    domain: str  # '' for any; a leading dot means every true subdomain

    @classmethod
    def parse(cls, text: str) -> AuthorPattern:
        """Raises: DataError with the forms that are allowed."""
        if text == "*":
            return cls("*", "")
        local_part, at, domain = text.rpartition("@")
        if not at or not local_part or not domain:
            raise DataError(
                f"author pattern {text!r}: write *, alice@example.com, *@example.com "
                f"or *@.example.com"
            )
        dot = "." if domain.startswith(".") else ""
        return cls(local_part.lower(), dot + domains.normalize(domain.removeprefix(".")))

    def matches(self, author: Address) -> bool:
        """Whether the rule speaks about `author`."""
        if self.domain.startswith("."):
            if not author.domain.endswith(self.domain):
                return False
        elif self.domain and author.domain != self.domain:
            return False
        return self.local_part == "*" or fnmatch.fnmatchcase(
            author.local_part.lower(), self.local_part
        )


@dataclass(frozen=True, slots=True)
class SigningRule:
    """Authors and the domain that takes responsibility for them."""

    author: AuthorPattern
    sdid: str | None  # None: never sign for these authors


@dataclass(frozen=True, slots=True, eq=False)  # one per configuration; a key of caches
class SigningPolicy:
    """The signing section of the configuration."""

    rules: tuple[SigningRule, ...] = ()
    logins: Mapping[str, tuple[AuthorPattern, ...]] = field(default_factory=dict)
    header_canonicalization: Canonicalization = "relaxed"
    body_canonicalization: Canonicalization = "relaxed"
    oversigned: tuple[str, ...] = tuple(OVERSIGNED)
    oversign_absent: frozenset[str] = frozenset(OVERSIGNED) - LATE_ADDITIONS
    signed_if_present: tuple[str, ...] = tuple(SIGNED_IF_PRESENT)
    expires_after: int | None = None  # seconds
    max_signatures: int = 2
    listed: frozenset[str] = field(init=False)  # every name that may be in h=

    def __post_init__(self) -> None:
        object.__setattr__(self, "listed", frozenset((*self.oversigned, *self.signed_if_present)))


@dataclass(frozen=True, slots=True)
class SigningPlan:
    """What to sign with, or why not."""

    requests: tuple[SignatureRequest, ...]
    reasons: tuple[Reason, ...]
    author: Address | None
    failure: FailureClass | None = None  # set when the operator's failure policy decides
    sdid: str = ""  # the domain that was to sign, if a rule or a key of ours makes it one of ours
    # The one of the requests where there is one only, as nearly every message has it.
    lone_request: SignatureRequest | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        lone = self.requests[0] if len(self.requests) == 1 else None
        object.__setattr__(self, "lone_request", lone)


def plan(
    *,
    origin: Origin,
    login: str,
    authors: Authors,
    field_names: Sequence[str],
    policy: SigningPolicy,
    active_keys: Callable[[str], Sequence[KeyFacts]],
    key_problem: Callable[[str], str | None],
    key_refusal: Callable[[str], str | None] = lambda sdid: None,
) -> SigningPlan:
    """Decide the signatures of one message.

    `field_names` are those of the header section in order, in lower case.  `active_keys`,
    `key_problem` and `key_refusal` (its record is wrong in DNS) answer from memory for one SDID.
    """
    named = authors.mailboxes[0] if authors.state is AuthorState.ONE else None
    if origin.kind is OriginKind.PEER:
        return _unsigned(Reason("peer-sealed", origin.about), author=named)
    if origin.kind is OriginKind.NONE:
        return _unsigned(Reason("no-origin-proof", origin.about), author=named)
    if named is None:
        refusal = Reason(_UNUSABLE[authors.state], ", ".join(map(str, authors.mailboxes[:3])))
        return _unsigned(refusal, failure=FailureClass.UNUSABLE_AUTHOR)
    author = named
    if origin.kind is OriginKind.LOGIN and not _login_may_use(login, author, policy):
        return _unsigned(Reason("author-not-allowed", f"{login} as {author}"), author=author)
    is_short = len(author.local_part) <= _SHORT  # its domain is a domain's length at most
    sdid, is_by_rule = (_sdid if is_short else _sdid.__wrapped__)(author, policy)
    if sdid is None:
        return _unsigned(Reason("author-exempt", str(author)), author=author)
    keys = tuple(active_keys(sdid)[: policy.max_signatures])
    if not keys:
        refused = key_refusal(sdid)
        if refused is not None and key_problem(sdid) is None:
            refusal = Reason("key-refused", refused)
            failure = FailureClass.KEY_NOT_PUBLISHED
            return _unsigned(refusal, author=author, failure=failure, sdid=sdid)
        return _keyless(sdid, author, is_by_rule=is_by_rule, problem=key_problem(sdid))
    relevant = tuple(filter(policy.listed.__contains__, field_names))
    if len(relevant) > MAX_SIGNED_FIELDS:
        refusal = Reason("too-many-fields", str(len(relevant)))
        return _unsigned(refusal, author=author, sdid=sdid)
    is_usual = is_short and len(relevant) <= _USUAL_FIELDS
    return (_signed if is_usual else _signed.__wrapped__)(keys, relevant, author, sdid, policy)


# The same authors write the same kind of mail again and again, see `_requests`.
@lru_cache(maxsize=2048)
def _signed(
    keys: tuple[KeyFacts, ...],
    names: tuple[str, ...],
    author: Address,
    sdid: str,
    policy: SigningPolicy,
) -> SigningPlan:
    requests = _requests(keys, names, policy)
    if len(requests[0].fields) > MAX_SIGNED_FIELDS:
        refusal = Reason("too-many-fields", str(len(requests[0].fields)))
        return _unsigned(refusal, author=author, sdid=sdid)
    return SigningPlan(requests, (Reason("signing", sdid),), author, sdid=sdid)


def signed_fields(field_names: Sequence[str], policy: SigningPolicy) -> tuple[str, ...]:
    """The h= list: each occurrence once, and once more where the name is oversigned."""
    present = Counter(map(str.lower, field_names))
    listed: list[str] = []
    for name in policy.oversigned:
        if name in present:
            listed += [name] * (present[name] + 1)
        elif name in policy.oversign_absent:
            listed.append(name)
    for name in policy.signed_if_present:
        if name in present:
            listed += [name] * present[name]
    return tuple(listed)


def _login_may_use(login: str, author: Address, policy: SigningPolicy) -> bool:
    """Once logins are listed, an unlisted one may sign only what the entry '*' allows."""
    if not policy.logins:
        return True
    allowed = policy.logins.get(login, policy.logins.get("*", ()))
    return any(pattern.matches(author) for pattern in allowed)


@lru_cache(maxsize=2048)  # there may be a rule for each of a thousand domains
def _sdid(author: Address, policy: SigningPolicy) -> tuple[str | None, bool]:
    for rule in policy.rules:
        if rule.author.matches(author):
            return rule.sdid, True
    return author.domain, False


def _keyless(sdid: str, author: Address, *, is_by_rule: bool, problem: str | None) -> SigningPlan:
    if problem is not None:
        refusal = Reason("key-unusable", f"{sdid}: {problem}")
        return _unsigned(refusal, author=author, failure=FailureClass.UNREADABLE_KEY, sdid=sdid)
    if is_by_rule:
        refusal = Reason("no-active-key", sdid)
        return _unsigned(refusal, author=author, failure=FailureClass.NO_USABLE_KEY, sdid=sdid)
    return _unsigned(Reason("author-not-ours", str(author)), author=author)


def _unsigned(
    reason: Reason,
    *,
    author: Address | None = None,
    failure: FailureClass | None = None,
    sdid: str = "",
) -> SigningPlan:
    return SigningPlan((), (reason,), author, failure, sdid)


# The same kind of mail asks for the same h= list again and again; a request is checked once.  The
# names are those of the policy, so a stranger cannot make the keys of this cache long.
@lru_cache(maxsize=256)
def _requests(
    keys: tuple[KeyFacts, ...], names: tuple[str, ...], policy: SigningPolicy
) -> tuple[SignatureRequest, ...]:
    fields = signed_fields(names, policy)
    return tuple(
        SignatureRequest(
            sdid=key.sdid,
            selector=key.selector,
            algorithm=key.algorithm,
            auid="@" + key.sdid,
            header_canonicalization=policy.header_canonicalization,
            body_canonicalization=policy.body_canonicalization,
            fields=fields,
            expires_after=policy.expires_after,
        )
        for key in keys
    )
