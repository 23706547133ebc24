"""The evidence of one line of the spool: what of a record is hashed, and under which salts.

A record is divided into named parts, so that one part can be taken out (a person erased, a subject
past its time) while the others stay provable.  The commitment of a part is
    SHA-256(salt of the part | name | 0x00 | canonical JSON of its value),
canonical JSON being ASCII with sorted keys and without white space (Python's `json.dumps` with
`sort_keys=True, separators=(",", ":")`).  Commitments of the rest, and those of the header section,
are each taken together as SHA-256 over the names in their order (canonical JSON of a list), 0x00
and the commitments in the same order; the leaf of the line is SHA-256(0x00 | rest | header).  A
line that is no record has SHA-256(line) and 32 zeros instead; event lines have what `event_leaf`
says.

Salts come from the line's salt S and cannot be reckoned backwards:
    rest salt, fields salt, subject salt   the first 48 octets of SHAKE128(S), 16 each; the rest
                  salt is kept in message.salt, the others are reckoned from header_section.salt
    of one part   its 16 octets in a row of SHAKE128(rest or fields salt | number of the row), ten
                  parts a row (`_FIRST`, then recipients/0 and so on); of the subject: subject salt.
Once the subject has gone, header_section.salt is the fields salt and the commitment of the subject;
once the header section has gone, S has gone with it; once a person was erased, `redaction` holds
what is left, and S and message.salt are gone.

Does not: read the spool or SQL, or sign.  Raises nothing for any JSON object.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256, shake_128
from operator import itemgetter
from typing import Any, NamedTuple

import orjson

from carbonseal.milter.archive import merkle, record

SALT = 16  # octets
DIGEST = 32
ENTRY = 2 * DIGEST  # octets of one line in seal.leaves
NO_HEADER = bytes(DIGEST)

ADDRESSES, SUBJECT, FIELDS = "header/addresses", "header/subject", "header/fields"
HEADER_NAMES = frozenset((ADDRESSES, SUBJECT, FIELDS))
# Parts of their own because a person may have to be erased from them; lists have a part an element.
_FIRST = (
    "facts client login origin reverse_path archive_recipients signatures reasons bcc_maps".split()
)
_OWN = frozenset(_FIRST[1:])
_LISTS = frozenset(("recipients",))
_HIDDEN = frozenset(("header_fields", "salt"))
_APART = _OWN | _LISTS | _HIDDEN
_own_values = itemgetter(*_FIRST[1:])
_ROW = 10  # salts
NAMING = frozenset(
    "from to cc bcc sender reply-to return-path delivered-to x-original-to resent-from resent-to "
    "resent-cc resent-bcc resent-sender resent-reply-to disposition-notification-to".split()
)
# What a message is about: the informational fields (RFC 5322 section 3.6.5) and what repeats them.
ABOUT = frozenset(("subject", "comments", "keywords", "thread-topic"))
_sorted_json, _SORTED = orjson.dumps, orjson.OPT_SORT_KEYS
_SHORT = 100  # characters; no name that counts here is longer
_REMEMBERED = 2000  # characters of names, and recipients: what has more does not come again
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
        if name == SUBJECT:
            return self.subject or b""
        base = self.fields if name in HEADER_NAMES else self.rest
        if base is None:
            return b""
        row, place = divmod(_place(name), _ROW)
        return _row(base, row)[place * SALT : (place + 1) * SALT]


def _place(name: str) -> int:
    """Which salt is that of a part, from 0."""
    if name in HEADER_NAMES:
        return int(name == FIELDS)
    if name in _FIRST:
        return _FIRST.index(name)
    return len(_FIRST) + int(name.partition("/")[2])


@lru_cache(maxsize=64)
def _row(base: bytes, number: int) -> bytes:
    return shake_128(b"%b%d" % (base, number)).digest(_ROW * SALT)


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
    three = shake_128(salt).digest(3 * SALT)
    return Salts(rest=three[:SALT], fields=three[SALT : 2 * SALT], subject=three[2 * SALT :])


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
    """A header section by name of the part; each field keeps its place among all of them.

    Of the addresses and the subject a list of (place, field); of all others the header section
    itself, with null in the places of those.
    """
    found: dict[str, list[Any]] = {ADDRESSES: [], SUBJECT: [], FIELDS: []}
    if not isinstance(header_fields, list | tuple):
        return {FIELDS: header_fields}
    for place, one in enumerate(header_fields):
        group = _group(one)
        if group == FIELDS:
            found[FIELDS].append(one)
        else:
            found[FIELDS].append(None)
            found[group].append([place, one])
    return found


def placed(name: str, value: Any) -> list[tuple[int, Any]]:
    """The fields of one part of a header section, each with its place."""
    if name != FIELDS:
        return [(place, one) for place, one in value]
    return [(place, one) for place, one in enumerate(value) if one is not None]


def _group(one: Any) -> str:
    name = one[0] if isinstance(one, list | tuple) and one else None
    if not isinstance(name, str):
        return FIELDS
    return _group_of(name) if len(name) <= _SHORT else FIELDS


@lru_cache(maxsize=1024)
def _group_of(name: str) -> str:
    if is_subject(name):
        return SUBJECT
    return ADDRESSES if name.strip().lower() in NAMING else FIELDS


def is_subject(name: str) -> bool:
    """Whether a header field of that name is a Subject or repeats it, and so goes with it."""
    return len(name) <= _SHORT and name.strip().lower() in ABOUT


def commitments(content: Mapping[str, Any]) -> Commitments:
    """Those of a complete record as its line says it."""
    salt = line_salt(content)
    if salt is not None:
        try:
            return _usual(content, salt)
        except (KeyError, TypeError, ValueError):
            pass  # it has not the shape that all records of ours have
    return commitments_of(content, salts(salt), has_header=True)


def _usual(content: Mapping[str, Any], salt: bytes) -> Commitments:
    """What `commitments_of` gives, for records as the milter makes them, in half the time.

    Raises: KeyError, TypeError, ValueError for any other.
    """
    three = shake_128(salt).digest(3 * SALT)
    recipients, fields = content["recipients"], content["header_fields"]
    if type(recipients) is not list:
        raise TypeError
    facts = {key: value for key, value in content.items() if key not in _APART}
    names = _names(fields)
    outline = _outline(names) if len("".join(names)) <= _REMEMBERED else _grouped(names)
    left = fields.copy()
    for place in outline.apart:
        left[place] = None
    return Commitments(
        _together(
            three[:SALT],
            (facts, *_own_values(content), *recipients),
            _form(len(recipients)) if len(recipients) < _REMEMBERED else _form_of(len(recipients)),
        ),
        _header_together(
            three[SALT:],
            (
                [[place, fields[place]] for place in outline.addresses],
                left,
                [[place, fields[place]] for place in outline.subject],
            ),
        ),
    )


class _Form(NamedTuple):
    """What the parts of a record with so many recipients have in common."""

    names: bytes  # in the order of the names, as they are hashed
    labels: tuple[bytes, ...]  # in the order of the salts
    salts: tuple[slice, ...]
    in_order: Callable[[Sequence[bytes]], Sequence[bytes]]
    rows: int


def _form_of(recipients: int) -> _Form:
    names = [*_FIRST, *(f"recipients/{number}" for number in range(recipients))]
    return _Form(
        names=_joined_names(sorted(names)),
        labels=tuple(name.encode() + b"\x00" for name in names),
        salts=tuple(slice(place * SALT, (place + 1) * SALT) for place in range(len(names))),
        in_order=itemgetter(*sorted(range(len(names)), key=names.__getitem__)),
        rows=(len(names) + _ROW - 1) // _ROW,
    )


_form = lru_cache(maxsize=64)(_form_of)


def _together(base: bytes, values: Sequence[Any], form: _Form) -> bytes:
    if form.rows == 1:
        salts = shake_128(base + b"0").digest(_ROW * SALT)
    else:
        salts = b"".join(
            [shake_128(b"%b%d" % (base, row)).digest(_ROW * SALT) for row in range(form.rows)]
        )
    digests = [
        sha256(salts[where] + label + text).digest()
        for where, label, text in zip(form.salts, form.labels, _texts(values), strict=True)
    ]
    return sha256(form.names + b"".join(form.in_order(digests))).digest()


def _texts(values: Sequence[Any]) -> list[bytes]:
    """All of `values` as canonical JSON."""
    try:
        texts = [_sorted_json(value, None, _SORTED) for value in values]
    except TypeError:
        return [canonical(value) for value in values]
    whole = b"".join(texts)
    if whole.isascii() and b"\x7f" not in whole:
        return texts
    return [canonical(value) for value in values]


def _header_together(base: bytes, values: Sequence[Any]) -> bytes:
    """`base`: the fields salt and the subject salt."""
    row = shake_128(base[:SALT] + b"0").digest(2 * SALT)
    salts = (row[:SALT], row[SALT:], base[SALT:])
    digests = [
        sha256(salt + label + text).digest()
        for salt, label, text in zip(salts, _HEADER_LABELS, _texts(values), strict=True)
    ]
    return sha256(_HEADER_JOINED + b"".join(digests)).digest()


class _Outline(NamedTuple):
    """Places of header fields, by part."""

    addresses: tuple[int, ...]
    subject: tuple[int, ...]
    apart: tuple[int, ...]  # both


def _names(fields: list[Any]) -> tuple[str, ...]:
    """The names of usual header fields.  Raises: TypeError, ValueError for others."""
    if set(map(type, fields)) != {list}:
        raise TypeError
    names = tuple([name for name, _ in fields])
    if set(map(type, names)) != {str}:
        raise TypeError
    return names


def _grouped(names: Sequence[str]) -> _Outline:
    groups = [_group_of(name) if len(name) <= _SHORT else FIELDS for name in names]
    addresses = tuple(place for place, group in enumerate(groups) if group == ADDRESSES)
    subject = tuple(place for place, group in enumerate(groups) if group == SUBJECT)
    return _Outline(addresses, subject, (*addresses, *subject))


_outline = lru_cache(maxsize=512)(_grouped)


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
    found: list[tuple[str, bytes]] = [
        (name, commitment(name, value, known.of(name)))
        for name, value in values.items()
        if name not in known.gone
    ]
    for name, digest in known.gone.items():
        if (name in group) if group is not None else (name not in HEADER_NAMES):
            found.append((name, digest))
    found.sort()
    names = _joined_names([name for name, _ in found])
    return sha256(names + b"".join([digest for _, digest in found])).digest()


def _joined_names(names: list[str]) -> bytes:
    return canonical(names) + b"\x00"


_HEADER_ORDER = [ADDRESSES, FIELDS, SUBJECT]
_HEADER_LABELS = [name.encode() + b"\x00" for name in _HEADER_ORDER]
_HEADER_JOINED = _joined_names(_HEADER_ORDER)


def leaf(rest: bytes, header: bytes) -> bytes:
    """The leaf of a line in the tree of its segment."""
    return merkle.leaf_hash(rest + header)


def evidence_of(line: bytes, content: Mapping[str, Any] | None) -> bytes:
    """The entry of seal.leaves for a line (newline included); `content` None: nothing is intact."""
    if content is None or record.is_event(content):
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
