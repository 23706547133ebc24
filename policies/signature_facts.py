"""What a DKIM-Signature field says, as far as two signers can be compared by it.

Promises: `parse` is linear in the field, takes what RFC 6376 section 3.2 allows around tags, and
returns None for what is no signature; names and domains come in lower case.

Does not: verify (`keys.verifier` does).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_SPACE = re.compile(r"[ \t\r\n]+")
_TAG = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,30}\Z")
_NUMBER = re.compile(r"[0-9]{1,12}\Z")
MAX_FIELD = 64 * 1024  # characters; h= of many fields and a 4096 bit key have not a tenth of it


@dataclass(frozen=True, slots=True)
class SignatureFacts:
    """One signature."""

    sdid: str
    selector: str
    algorithm: str
    canonicalization: str  # with both parts
    fields: tuple[str, ...]  # h=
    auid: str  # i=, or its default
    signed_at: int | None = None  # t=
    expires_at: int | None = None  # x=
    has_length: bool = False  # l=

    @property
    def name(self) -> str:
        """For people: domain and selector."""
        return f"{self.sdid}/{self.selector}"


def tags(value: str) -> dict[str, str]:
    """The tags of a field, white space within values taken out; {} if it is no tag list."""
    if len(value) > MAX_FIELD:
        return {}
    found: dict[str, str] = {}
    for part in value.split(";"):
        name, equals, content = part.partition("=")
        name = name.strip(" \t\r\n")
        if not name and not equals and not content:
            continue  # after the last semicolon
        if not equals or not _TAG.match(name) or name in found:
            return {}
        found[name] = _SPACE.sub("", content)
    return found


def parse(value: str) -> SignatureFacts | None:
    """The signature in a field's value; None if it is none."""
    known = tags(value)
    if not all(known.get(name) for name in ("d", "s", "a", "h", "b", "bh")):
        return None
    header, _, body = known.get("c", "simple/simple").lower().partition("/")
    sdid = known["d"].lower()
    return SignatureFacts(
        sdid=sdid,
        selector=known["s"].lower(),
        algorithm=known["a"].lower(),
        canonicalization=f"{header}/{body or 'simple'}",
        fields=tuple(name for name in known["h"].lower().split(":") if name),
        auid=known.get("i", "") or "@" + sdid,
        signed_at=_number(known.get("t")),
        expires_at=_number(known.get("x")),
        has_length="l" in known,
    )


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and _NUMBER.match(text) else None


_DOMAIN = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]{0,251}[a-z0-9_])?\Z")


def is_domain(text: str) -> bool:
    """Whether a d= is fit to be looked up by name: nothing that could lead elsewhere."""
    return bool(_DOMAIN.match(text)) and ".." not in text
