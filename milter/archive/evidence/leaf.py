"""The evidence of one line of the spool: what of a record is hashed, and under which salts.

A record is divided into named parts, so that one part can be taken out (a person erased, a subject
past its time) while the others stay provable.  The commitment of a part is
    SHA-256(salt of the part | name | 0x00 | canonical JSON of its value),
canonical JSON being ASCII with sorted keys and without white space (Python's `json.dumps` with
`sort_keys=True, separators=(",", ":")`).  Commitments of the rest, and those of the header section,
are each taken together as SHA-256 over (name | 0x00 | commitment) in the order of the names; the
leaf of the line is SHA-256(0x00 | rest | header).  A line that is no record has SHA-256(line) and
32 zeros instead.

Salts come from the line's salt S and cannot be reckoned backwards:
    rest salt     SHA-256("rest" | S)[:16], kept in message.salt
    fields salt   SHA-256("header" | S)[:16], reckoned from header_section.salt, which is S
    subject salt  SHA-256("subject" | S)[:16], likewise
    of one part   SHA-256(rest or fields or subject salt | name)[:16].
Once the subject has gone, header_section.salt is the fields salt and the commitment of the subject;
once the header section has gone, S has gone with it; once a person was erased, `redaction` holds
what is left, and S and message.salt are gone.

Does not: read the spool or SQL, or sign.  Raises nothing for any JSON object.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from typing import Any

import orjson

from carbonseal.milter.archive import merkle

SALT = 16  # octets
DIGEST = 32
ENTRY = 2 * DIGEST  # octets of one line in seal.leaves
NO_HEADER = bytes(DIGEST)

ADDRESSES, SUBJECT, FIELDS = "header/addresses", "header/subject", "header/fields"
HEADER_NAMES = frozenset((ADDRESSES, SUBJECT, FIELDS))
# Parts of their own because a person may have to be erased from them; lists have a part an element.
_OWN = frozenset(
    "client login origin reverse_path archive_recipients signatures reasons bcc_maps".split()
)
_LISTS = frozenset(("recipients",))
_HIDDEN = frozenset(("header_fields", "salt"))
_NAMING = frozenset(
    "from to cc bcc sender reply-to return-path delivered-to x-original-to resent-from resent-to "
    "resent-cc resent-bcc resent-sender resent-reply-to disposition-notification-to".split()
)
# What a message is about: the informational fields (RFC 5322 section 3.6.5) and what repeats them.
_ABOUT = frozenset(("subject", "comments", "keywords", "thread-topic"))
_SHORT = 100  # characters; no name that counts here is longer
_dump = json.JSONEncoder(sort_keys=True, separators=(",", ":"), check_circular=False).encode


@dataclass(frozen=True, slots=True)
class Commitments:
    """What a line is held to; the header's is None where it cannot be reckoned any more."""

    rest: bytes
    header: bytes | None

    @property
    def entry(self) -> bytes:
        """As in seal.leaves."""
        return self.rest + (NO_HEADER if self.header is None else self.header)


@dataclass(frozen=True, slots=True)
class Salts:
    """The salts of a record that are left, and the commitments of parts that are gone.

    No salt at all (None everywhere) is a record that never had one.
    """

    rest: bytes | None = field(default=None, repr=False)
    fields: bytes | None = field(default=None, repr=False)
    subject: bytes | None = field(default=None, repr=False)
    left: Mapping[str, bytes] = field(default_factory=dict, repr=False)  # salts by part
    gone: Mapping[str, bytes] = field(default_factory=dict)  # commitments by part

    def of(self, name: str) -> bytes:
        """The salt of a part; b"" where the record is unsalted."""
        if name in self.left:
            return self.left[name]
        base = self.subject if name == SUBJECT else self.fields
        if name not in HEADER_NAMES:
            base = self.rest
        return b"" if base is None else sha256(base + name.encode()).digest()[:SALT]


def canonical(value: Any) -> bytes:
    """Canonical JSON: ASCII, keys sorted, no white space."""
    # orjson is ten times as quick; it escapes neither DEL nor what is beyond ASCII.
    try:
        text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # lone surrogates and numbers beyond 64 bits
        return _dump(value).encode("ascii")
    return text if text.isascii() and b"\x7f" not in text else _dump(value).encode("ascii")


def line_salt(content: Mapping[str, Any]) -> bytes | None:
    """The salt that a record carries; None when it has none that we would have made."""
    text = content.get("salt")
    try:
        salt = bytes.fromhex(text) if isinstance(text, str) else b""
    except ValueError:
        return None
    return salt if len(salt) == SALT and salt.hex() == text else None


def salts(salt: bytes | None) -> Salts:
    """All salts of a record, from that of its line."""
    if salt is None:
        return Salts()
    return Salts(
        rest=sha256(b"rest" + salt).digest()[:SALT],
        fields=sha256(b"header" + salt).digest()[:SALT],
        subject=sha256(b"subject" + salt).digest()[:SALT],
    )


def stored_salts(
    message_salt: bytes | None, header_salt: bytes | None, redaction: str | None
) -> Salts:
    """What SQL still has: message.salt, header_section.salt, redaction.evidence (None: no row).

    Raises: ValueError for a redaction or a header salt that nothing of ours has written.
    """
    if redaction is not None:
        return _redacted(redaction)
    if header_salt is None:
        return Salts(rest=message_salt)
    if len(header_salt) == SALT:
        # From the row's own column, so that a change to either of the two shows.
        whole = salts(header_salt)
        return Salts(rest=message_salt, fields=whole.fields, subject=whole.subject)
    if len(header_salt) == SALT + DIGEST:
        gone = {SUBJECT: header_salt[SALT:]}
        return Salts(rest=message_salt, fields=header_salt[:SALT], gone=gone)
    raise ValueError(f"a header salt of {len(header_salt)} octets")


def _redacted(text: str) -> Salts:
    try:
        said = json.loads(text)
        left = {str(name): bytes.fromhex(salt) for name, salt in said["salts"].items()}
        gone = {str(name): bytes.fromhex(value) for name, value in said["gone"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError("the redaction is not readable") from None
    return Salts(left=left, gone=gone)


def parts(content: Mapping[str, Any]) -> dict[str, Any]:
    """All of a record but its header section, by name of the part."""
    found: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    for key, value in content.items():
        if key in _OWN:
            found[key] = value
        elif key in _LISTS and isinstance(value, list):
            for number, element in enumerate(value):
                found[f"{key}/{number}"] = element
        elif key not in _HIDDEN or (key == "salt" and _is_odd(content)):
            facts[key] = value
    found["facts"] = facts
    return found


def _is_odd(content: Mapping[str, Any]) -> bool:
    """Whether the salt is none, and so has to be kept as the fact that it is."""
    return content["salt"] is not None and line_salt(content) is None


def header_parts(header_fields: Any) -> dict[str, Any]:
    """A header section by name of the part; each field with its place among all of them."""
    found: dict[str, list[Any]] = {ADDRESSES: [], SUBJECT: [], FIELDS: []}
    if not isinstance(header_fields, list | tuple):
        return {FIELDS: header_fields}
    for place, one in enumerate(header_fields):
        is_plain = type(one) is list and len(one) == 2 and type(one[0]) is str
        group = _group_of(one[0]) if is_plain and len(one[0]) <= _SHORT else _group(one)
        found[group].append([place, one])
    return found


def _group(one: Any) -> str:
    name = one[0] if isinstance(one, list | tuple) and one else None
    if not isinstance(name, str):
        return FIELDS
    return _group_of(name) if len(name) <= _SHORT else FIELDS


@lru_cache(maxsize=1024)
def _group_of(name: str) -> str:
    if is_subject(name):
        return SUBJECT
    return ADDRESSES if name.strip().lower() in _NAMING else FIELDS


def is_subject(name: str) -> bool:
    """Whether a header field of that name is a Subject or repeats it, and so goes with it."""
    return len(name) <= _SHORT and name.strip().lower() in _ABOUT


def commitments(content: Mapping[str, Any]) -> Commitments:
    """Those of a complete record as its line says it."""
    return commitments_of(content, salts(line_salt(content)), has_header=True)


def commitments_of(content: Mapping[str, Any], known: Salts, *, has_header: bool) -> Commitments:
    """Those of a record of which parts may be gone; `header_fields` count if `has_header`."""
    header = None
    if has_header:
        header = together(header_parts(content.get("header_fields")), known, HEADER_NAMES)
    return Commitments(together(parts(content), known, None), header)


def commitment(name: str, value: Any, salt: bytes) -> bytes:
    """That of one part."""
    return sha256(b"%b%b\x00%b" % (salt, name.encode(), canonical(value))).digest()


def together(values: Mapping[str, Any], known: Salts, group: Collection[str] | None) -> bytes:
    """The commitments of one group of parts as one; what is gone stands with its own.

    `group` None means the rest: whatever does not belong to the header section.
    """
    found: list[tuple[str, bytes]] = []
    is_plain = not known.left and known.rest is not None and known.subject is not None
    for name, value in values.items():
        if name in known.gone:
            continue
        if is_plain:  # nearly always; the general way costs twice as much
            base = known.rest if group is None else known.fields
            base = known.subject if name == SUBJECT else base
            label = name.encode()
            salt = sha256(base + label).digest()[:SALT]  # type: ignore[operator]
            found.append((name, sha256(salt + label + b"\x00" + canonical(value)).digest()))
        else:
            found.append((name, commitment(name, value, known.of(name))))
    for name, digest in known.gone.items():
        if (name in group) if group is not None else (name not in HEADER_NAMES):
            found.append((name, digest))
    found.sort()
    return sha256(b"".join([b"%b\x00%b" % (name.encode(), one) for name, one in found])).digest()


def leaf(rest: bytes, header: bytes) -> bytes:
    """The leaf of a line in the tree of its segment."""
    return merkle.leaf_hash(rest + header)


def leaves_of(entries: bytes) -> Iterator[bytes]:
    """The leaves of seal.leaves, in order."""
    for start in range(0, len(entries), ENTRY):
        yield merkle.leaf_hash(entries[start : start + ENTRY])


def evidence_of(line: bytes, content: Mapping[str, Any] | None) -> bytes:
    """The entry of seal.leaves for a line (newline included); `content` None: it is no record."""
    if content is None:
        return sha256(line).digest() + NO_HEADER
    return commitments(content).entry


def redact(
    content: Mapping[str, Any], known: Salts, gone: Collection[str], *, has_header: bool
) -> str:
    """redaction.evidence for a record from which the parts named in `gone` are taken out.

    Called with the record as it was before and the salts known until then (of an earlier redaction,
    too); names of parts as `parts` and `header_parts` give them.  With this stored, message.salt
    and header_section.salt have to be emptied: they would give away the salts of what is gone.
    """
    values = parts(content)
    if has_header:
        values |= header_parts(content.get("header_fields"))
    kept = {name: digest.hex() for name, digest in known.gone.items()}
    left = {}
    for name, value in values.items():
        if name in known.gone:
            continue
        if name in gone:
            kept[name] = commitment(name, value, known.of(name)).hex()
        else:
            left[name] = known.of(name).hex()
    return canonical({"salts": left, "gone": kept}).decode("ascii")


def header_salt_without_subject(content: Mapping[str, Any], known: Salts) -> bytes | None:
    """What header_section.salt has to be once the Subject fields are taken out of the fields.

    Called with the record as it was before.  Each Subject field is to stay in its place, with
    an empty value: without it those behind it would move, and places are evidence.  None: the
    record has no salts of its own (an unsalted or redacted one); then `redact` instead.
    """
    if known.fields is None or SUBJECT in known.gone:
        return None
    value = header_parts(content.get("header_fields"))[SUBJECT]
    return known.fields + commitment(SUBJECT, value, known.of(SUBJECT))
