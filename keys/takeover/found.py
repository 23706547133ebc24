"""What was found in another signer's tables: keys, signing rules, and what cannot be taken.

Promises: every entry that was read ends as a `Found`, a `Rule` or a `Refusal`, with the place it
stands at.  Names in a `Found` are right (A-label SDID, selector in lower case), and no text of a
private key is in a `repr`, a note or a sentence: values that might be one are never quoted.

Raises: `errors.DataError` from `names`.

Does not: read private keys (`private`) or keep them (`take`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from carbonseal.policies import domains, errors, signing_request


class Signs(StrEnum):
    """Whether the tables say that a key signs now."""

    YES = "yes"
    NO = "no"  # it is in the tables, but nothing is signed with it
    UNKNOWN = "unknown"  # there is no table that could say it


@dataclass(frozen=True, slots=True)
class Found:
    """One key another signer has; its private half is in a file or stood in the table."""

    sdid: str  # A-label
    selector: str
    source: str  # file:line
    path: Path | None = None  # the private key file
    inline: str = field(default="", repr=False)  # or the private key itself
    algorithm: str = ""  # signing_request.RSA or .ED25519 if the table says which
    signs: Signs = Signs.UNKNOWN
    public_key: bytes = b""  # DER SubjectPublicKeyInfo of a record kept beside the private key
    notes: tuple[str, ...] = ()  # sentences worth knowing, without the full stop


@dataclass(frozen=True, slots=True)
class Refusal:
    """One entry that could not be taken, and why."""

    source: str  # file:line
    sentence: str


@dataclass(frozen=True, slots=True)
class Rule:
    """A proposal for `signing.rules`; the first match counts."""

    author: str  # as signing.AuthorPattern reads it
    sdid: str
    source: str
    notes: tuple[str, ...] = ()

    @property
    def is_default(self) -> bool:
        """Whether the author's own domain signs, as it does without any rule."""
        return self.author == f"*@{self.sdid}"


@dataclass(frozen=True, slots=True)
class Findings:
    """All that was read from one signer's tables."""

    found: tuple[Found, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    rules: tuple[Rule, ...] = ()
    is_closed: bool = False  # nobody but the authors of the rules is signed

    @property
    def proposal(self) -> tuple[Rule, ...]:
        """The rules to write down, each author once; none if the authors' domains say it all."""
        first: dict[str, Rule] = {}
        for rule in self.rules:
            first.setdefault(rule.author, rule)
        return () if all(rule.is_default for rule in first.values()) else tuple(first.values())


def refused(source: object, sentence: str) -> Findings:
    """Nothing but a refusal."""
    return Findings(refusals=(Refusal(str(source), sentence),))


def joined(parts: Iterable[Findings]) -> Findings:
    """All findings in order."""
    whole = list(parts)
    return Findings(
        tuple(found for part in whole for found in part.found),
        tuple(refusal for part in whole for refusal in part.refusals),
        tuple(rule for part in whole for rule in part.rules),
        any(part.is_closed for part in whole),
    )


def names(domain: str, selector: str) -> tuple[str, str]:
    """SDID and selector in our spelling; what is none is not quoted, it may be part of a key."""
    return sdid_of(domain), _selector(domain, selector)


def sdid_of(domain: str) -> str:
    """The SDID in our spelling."""
    try:
        return signing_request.check_sdid(domains.normalize(domain.strip()))
    except errors.DataError:
        raise errors.DataError(
            "its domain is no signing domain (two labels or more, letters, digits and hyphens);"
            " correct the entry."
        ) from None


def _selector(domain: str, selector: str) -> str:
    try:
        return signing_request.check_selector(selector.strip().lower(), sdid_of(domain))
    except errors.DataError:
        raise errors.DataError(
            "its selector is none (letters, digits and hyphens, in labels divided by dots);"
            " correct the entry, or publish the key under another name and import it with"
            " `carbonseal keys import SDID SELECTOR --private-key FILE`."
        ) from None
