"""What a signature shall say, before any key is touched: `KeyFacts` and `SignatureRequest`.

Promises: a `SignatureRequest` that exists can be signed and gives a DKIM-Signature field that
follows RFC 6376; every field is checked when it is made, each check beside the sentence that
demands it.

Raises: `errors.DataError` with the tag, the value and the remedy.

Does not: choose the request for a message (`signing.plan`), hold keys (`keys.keyring`) or sign
(`keys.signer`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from carbonseal.policies import errors
from carbonseal.policies.reason import Reason

Canonicalization = Literal["relaxed", "simple"]

RSA: Final = "rsa-sha256"
ED25519: Final = "ed25519-sha256"
ALGORITHMS: Final = (RSA, ED25519)

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_SDID = re.compile(rf"(?=.{{3,253}}\Z){_LABEL}(?:\.{_LABEL})+\Z")
_SELECTOR = re.compile(rf"(?=.{{1,200}}\Z){_LABEL}(?:\.{_LABEL})*\Z")
# RFC 5322 would allow "=" and ";" in a field name; inside h= they could be read as another tag.
_FIELD_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,76}\Z")
_LOCAL_PART = re.compile(r"[^\x00-\x1f\x7f]*\Z")
_AUID_OCTETS = 254  # RFC 5321 section 4.5.3.1.3 without the brackets; OpenDKIM refuses longer ones
_DNS_NAME_OCTETS = 253


def check_sdid(sdid: str) -> str:
    """The SDID itself if it is an A-label domain in lower case, else `errors.DataError`.

    RFC 6376 section 3.5, d=: "Internationalized domain names MUST be encoded as A-Labels".
    """
    if not _SDID.match(sdid):
        raise errors.DataError(
            f"{sdid!r} is no signing domain; give a domain of two labels or more, in lower case,"
            " international names as A-labels (xn--...)."
        )
    return sdid


def check_selector(selector: str, sdid: str) -> str:
    """The selector itself if it is one or more DNS labels in lower case, else `errors.DataError`.

    RFC 6376 section 3.1: "selector = sub-domain *( "." sub-domain )".
    """
    if not _SELECTOR.match(selector):
        raise errors.DataError(
            f"{selector!r} is no selector; use letters, digits and hyphens in lower case,"
            " labels divided by dots, at most 63 octets each."
        )
    if len(f"{selector}._domainkey.{sdid}") > _DNS_NAME_OCTETS:
        raise errors.DataError(
            f"the name {selector}._domainkey.{sdid} is longer than the {_DNS_NAME_OCTETS} octets"
            " DNS allows; choose a shorter selector."
        )
    return selector


def check_algorithm(algorithm: str) -> str:
    """The algorithm itself if we sign with it, else `errors.DataError`.

    RFC 8301 section 3.1: "rsa-sha1 MUST NOT be used"; RFC 8463 adds ed25519-sha256.
    """
    if algorithm not in ALGORITHMS:
        raise errors.DataError(
            f"{algorithm!r} is no signing algorithm; use {' or '.join(ALGORITHMS)}."
        )
    return algorithm


# A tuple: it is compared with others for each message, and a dataclass does that in Python.
class KeyFacts(NamedTuple):
    """What may be known about a signing key outside the keys room."""

    sdid: str  # A-label, lower case
    selector: str
    algorithm: str  # RSA or ED25519


@dataclass(frozen=True, slots=True)
class SignatureRequest:
    """One signature to be made.

    `fields` is the h= list: lower-case names in order, a repeated name signing one more instance
    from the bottom up, or (oversigning) the absence of one.  `auid` '' means '@' + sdid.
    """

    sdid: str
    selector: str
    algorithm: str
    auid: str = ""
    header_canonicalization: Canonicalization = "relaxed"
    body_canonicalization: Canonicalization = "relaxed"
    fields: tuple[str, ...] = ("from", "from")
    expires_after: int | None = None  # seconds from t= to x=
    key: KeyFacts = field(init=False, compare=False)  # the one that must sign
    # Made once, as each message with this request says them.
    canonicalization: str = field(init=False, compare=False)  # the c= tag: 'relaxed/relaxed'
    name: str = field(init=False, compare=False)  # of the key: 'sdid/selector'
    signed: Reason = field(init=False, compare=False)
    # SDID, selector, AUID, algorithm, canonicalization and the h= list, for records.
    facts: tuple[str, ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", KeyFacts(self.sdid, self.selector, self.algorithm))
        check_sdid(self.sdid)
        check_selector(self.selector, self.sdid)
        check_algorithm(self.algorithm)
        if not self.auid:
            object.__setattr__(self, "auid", "@" + self.sdid)
        _check_auid(self.auid, self.sdid)
        _check_canonicalization(self.header_canonicalization)
        _check_canonicalization(self.body_canonicalization)
        _check_fields(self.fields)
        _check_expiry(self.expires_after)
        canonicalization = f"{self.header_canonicalization}/{self.body_canonicalization}"
        name = f"{self.sdid}/{self.selector}"
        object.__setattr__(self, "canonicalization", canonicalization)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "signed", Reason("signed", name))
        key = (self.sdid, self.selector, self.auid, self.algorithm)
        object.__setattr__(self, "facts", (*key, canonicalization, ":".join(self.fields)))


def _check_auid(auid: str, sdid: str) -> None:
    """RFC 6376 section 3.5, i=: "The domain part of the address MUST be the same as, or a

    subdomain of, the value of the "d=" tag."  A bare suffix test would let
    @evilexample.com pass for example.com, so the dot is part of the comparison.
    """
    local_part, at, domain = auid.rpartition("@")
    if not at or not (domain == sdid or domain.endswith("." + sdid)) or not _SDID.match(domain):
        raise errors.DataError(
            f"the AUID {auid!r} is not at or under the SDID {sdid}; use [local-part]@{sdid}"
            " or a subdomain of it."
        )
    octets = len(auid.encode("utf-8", "surrogateescape"))
    if octets > _AUID_OCTETS or not _LOCAL_PART.match(local_part):
        raise errors.DataError(
            f"the local part of the AUID {auid!r} has control characters or is too long."
        )


def _check_canonicalization(name: str) -> None:
    if name not in ("relaxed", "simple"):
        raise errors.DataError(f"{name!r} is no canonicalization; use relaxed or simple.")


def _check_fields(fields: tuple[str, ...]) -> None:
    """RFC 6376 section 5.4: "The From header field MUST be signed"."""
    for name in fields:
        if not _FIELD_NAME.match(name):
            raise errors.DataError(f"{name!r} is no header field name; use lower-case letters.")
    if "from" not in fields:
        raise errors.DataError("the From field must be signed; add it to the list of fields.")
    if "dkim-signature" in fields:
        # RFC 6376 section 3.5, h=: "The field MUST NOT include the DKIM-Signature header field
        # that is being created"; a name cannot tell that one from the others.
        raise errors.DataError("DKIM-Signature cannot sign itself; take it out of the fields.")


def _check_expiry(expires_after: int | None) -> None:
    """RFC 6376 section 3.5, x=: "The value ... MUST be greater than the value of the "t=" tag"."""
    if expires_after is not None and expires_after <= 0:
        raise errors.DataError(
            f"a signature cannot expire after {expires_after} seconds; give a number above zero."
        )
