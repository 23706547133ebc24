"""Recipients, signatures and numbers of one message as compact octets, and back.

A row of its own for each recipient and signature would cost some sixty octets and a place in two
trees; here a usual recipient takes seventeen and a signature ten.

Promises: lossless.  The first octet is the format, so that values written today stay readable when
a better format comes.  Addresses and routes stand as ids of their dictionaries: when a person is
erased from the dictionary, nothing here has to change but the spelling, if there is one.

Format 1 of recipients: number of envelope recipients (varint), then each of them, then the archive
recipients until the end.  A recipient is one octet of flags, the address id, the route id (absent
where it is the one before, and of archive recipients), and the texts that the flags announce, each
with its length (varint).  Format 1 of signatures: one octet of flags, the form id, the time of
signing (zigzag varint, against the second of the record), and what the flags announce.  Formats 1
and 2 of numbers, which nobody looks for: varints, in the order of `Numbers`; in format 1 without
the octets of the body, which are then those of the message without header section and empty line.

Raises: ValueError for an unknown format or damaged octets.

Does not: know what an address or a route is (`parts` does), or ask dictionaries.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from carbonseal.milter.archive import schema

_FORMAT_1 = 1
_TWO_IDS = struct.Struct(">Bqq")
_ONE_ID = struct.Struct(">Bq")
_HAS_ADDRESS, _SPELLING, _RAW, _RESOLVED_AS_KNOWN = 1, 2, 4, 8
_RESOLVED, _ESMTP, _ABOUT, _SAME_ROUTE = 16, 32, 64, 128
_TEXTS = _SPELLING | _RAW | _RESOLVED | _ESMTP | _ABOUT
_AUID, _EXPIRES = 1, 2
_USUAL = 2 + _TWO_IDS.size  # octets that there are where the first one is of the usual form
_EMPTY_LINE = 2  # octets between header section and body


class Recipient(NamedTuple):
    """One envelope or archive recipient."""

    kind: int  # schema.ENVELOPE or schema.COPY
    address_id: int | None  # null where there is no address
    spelling: bytes | None  # where it differs from the dictionary
    raw: bytes | None  # argument of RCPT TO unless <address>
    resolved: bytes | None  # {rcpt_addr}; empty: the dictionary's; null: not given
    esmtp: str | None  # ESMTP parameters as JSON; null: none
    route_id: int | None  # null for archive recipients
    about: str | None  # what the reason for its place is about, unless the address


class Signature(NamedTuple):
    """One DKIM signature."""

    form_id: int
    auid: str | None  # i= unless @ and the SDID
    signed_at: int  # t=
    expires_at: int | None  # x=


class Numbers(NamedTuple):
    """What is counted of one message, besides its size."""

    client_port: int
    header_count: int  # header fields
    header_size: int  # octets of the header section
    body_size: int  # octets of the body


def pack_numbers(numbers: Numbers, size: int) -> bytes:
    """The octets of numbers; `size`: octets of the message."""
    *few, body_size = numbers
    if body_size == size - numbers.header_size - _EMPTY_LINE:
        return b"\1" + b"".join(map(_varint, few))
    return b"\2" + b"".join(map(_varint, numbers))


def unpack_numbers(octets: bytes, size: int) -> Numbers:
    """What was packed.  Raises: ValueError."""
    has_body_size = octets[:1] == b"\2"
    reader = _Reader(octets, "numbers", b"\2" if has_body_size else b"\1")
    client_port, header_count, header_size = (reader.varint() for _ in range(3))
    body_size = reader.varint() if has_body_size else size - header_size - _EMPTY_LINE
    return Numbers(client_port, header_count, header_size, body_size)


def pack_recipients(recipients: Iterable[Recipient]) -> bytes:
    """The octets of recipients in order: those of the envelope, then those of the archive."""
    packed, count, last = [b""], 0, None
    for one in recipients:
        known = one.address_id is not None
        flags, texts = _tail(known, (one.spelling, one.raw, one.resolved, one.esmtp, one.about))
        if one.kind == schema.ENVELOPE:
            if len(packed) - 1 > count or one.route_id is None:
                raise ValueError("envelope recipients have routes and come first")
            count += 1
        if one.kind == schema.COPY or one.route_id == last:
            flags |= _SAME_ROUTE
            packed.append(
                bytes((flags,)) if one.address_id is None else _ONE_ID.pack(flags, one.address_id)
            )
        elif one.address_id is None:
            packed.append(_ONE_ID.pack(flags, one.route_id or 0))
        else:
            packed.append(_TWO_IDS.pack(flags, one.address_id, one.route_id or 0))
        last = one.route_id
        if texts:
            packed[-1] += texts
    packed[0] = bytes((_FORMAT_1, count)) if count < 128 else b"\1" + _varint(count)
    return b"".join(packed)


@functools.lru_cache(maxsize=4096)
def _tail(
    has_address: bool,
    given: tuple[bytes | None, bytes | None, bytes | None, str | None, str | None],
) -> tuple[int, bytes]:
    """Flags and texts of a recipient: what recurs, whatever its ids are."""
    spelling, raw, resolved, esmtp, about = given
    flags, texts = int(has_address), []
    for flag, text in (
        (_SPELLING, spelling),
        (_RAW, raw),
        (_RESOLVED, resolved or None),
        (_ESMTP, None if esmtp is None else esmtp.encode("utf-8")),
        (_ABOUT, None if about is None else about.encode("utf-8")),
    ):
        if text is not None:
            flags |= flag
            texts.append(_varint(len(text)) + text)
    if resolved == b"":
        flags |= _RESOLVED_AS_KNOWN
    return flags, b"".join(texts)


def first_recipient(octets: bytes) -> tuple[int, int | None, bytes | None]:
    """How many recipients of the envelope there are; of the first one of all, address id and
    spelling, which are None where there is no recipient.  Raises: ValueError.
    """
    is_usual = len(octets) >= _USUAL and octets[0] == _FORMAT_1 and octets[1] < 128
    if is_usual and octets[2] & (_HAS_ADDRESS | _SPELLING | _SAME_ROUTE) == _HAS_ADDRESS:
        return octets[1], _TWO_IDS.unpack_from(octets, 2)[1], None
    count = _Reader(octets, "recipients").varint()
    found = unpack_recipients(octets, most=1)
    return (count, found[0].address_id, found[0].spelling) if found else (count, None, None)


def unpack_recipients(octets: bytes, *, most: int | None = None) -> list[Recipient]:
    """What was packed, or the first so many of them.  Raises: ValueError."""
    reader = _Reader(octets, "recipients")
    left, route_id = reader.varint(), None
    found: list[Recipient] = []
    while not reader.is_at_end:
        if len(found) == most:
            return found
        is_copy = left == 0
        left -= not is_copy
        flags, address_id, route_id = reader.beginning(route_id)
        spelling = raw = resolved = esmtp = about = None
        if flags & _TEXTS:
            spelling = reader.text(flags & _SPELLING)
            raw = reader.text(flags & _RAW)
            resolved = reader.text(flags & _RESOLVED)
            esmtp = reader.text(flags & _ESMTP)
            about = reader.text(flags & _ABOUT)
        found.append(
            Recipient(
                schema.COPY if is_copy else schema.ENVELOPE,
                address_id,
                spelling,
                raw,
                b"" if flags & _RESOLVED_AS_KNOWN else resolved,
                None if esmtp is None else esmtp.decode("utf-8"),
                None if is_copy else route_id,
                None if about is None else about.decode("utf-8"),
            )
        )
    if left:
        raise ValueError("stored recipients are damaged: some are missing")
    return found


def pack_signatures(signatures: Sequence[Signature], second: int) -> bytes | None:
    """The octets of signatures in order; None for none.  `second`: when the record was made."""
    if not signatures:
        return None
    packed = [b"\1"]
    for form_id, auid, signed_at, expires_at in signatures:
        flags = (auid is not None) | (expires_at is not None) << 1
        packed += (_ONE_ID.pack(flags, form_id), _zigzag(signed_at - second))
        if auid is not None:
            text = auid.encode("utf-8")
            packed += (_varint(len(text)), text)
        if expires_at is not None:
            packed.append(_zigzag(expires_at - signed_at))
    return b"".join(packed)


def unpack_signatures(octets: bytes | None, second: int) -> list[Signature]:
    """What was packed.  Raises: ValueError."""
    found: list[Signature] = []
    if octets is None:
        return found
    reader = _Reader(octets, "signatures")
    while not reader.is_at_end:
        flags, form_id = reader.flags_and_identifier()
        signed_at = second + reader.zigzag()
        auid = reader.text(flags & _AUID)
        found.append(
            Signature(
                form_id,
                None if auid is None else auid.decode("utf-8"),
                signed_at,
                signed_at + reader.zigzag() if flags & _EXPIRES else None,
            )
        )
    return found


@functools.lru_cache(maxsize=4096)  # small numbers come again and again
def _varint(number: int) -> bytes:
    """Seven bits an octet, the lowest first; the highest bit says that more come."""
    octets = bytearray()
    while number > 127:
        octets.append(number & 127 | 128)
        number >>= 7
    octets.append(number)
    return bytes(octets)


def _zigzag(number: int) -> bytes:
    return _varint(number << 1 if number >= 0 else (-number << 1) - 1)


class _Reader:
    """Octets from the first to the last."""

    def __init__(self, octets: bytes, what: str, form: bytes = b"\1") -> None:
        if octets[:1] != form:
            raise ValueError(f"stored {what} of unknown format {octets[:1].hex()}")
        self._octets, self._what, self._at = octets, what, 1

    @property
    def is_at_end(self) -> bool:
        return self._at >= len(self._octets)

    def flags_and_identifier(self) -> tuple[int, int]:
        flags, identifier = _ONE_ID.unpack(self._taken(9))
        return flags, identifier

    def beginning(self, route_id: int | None) -> tuple[int, int | None, int | None]:
        """Flags, address id and route id of a recipient; `route_id`: of the one before."""
        octets, at = self._octets, self._at
        flags, address_id = octets[at], None
        try:
            match flags & (_HAS_ADDRESS | _SAME_ROUTE):
                case 1:  # most are so, or as the next
                    _, address_id, route_id = _TWO_IDS.unpack_from(octets, at)
                    self._at = at + 17
                case 129:
                    _, address_id = _ONE_ID.unpack_from(octets, at)
                    self._at = at + 9
                case 0:
                    _, route_id = _ONE_ID.unpack_from(octets, at)
                    self._at = at + 9
                case _:
                    self._at = at + 1
        except struct.error:
            raise self._damage() from None
        return flags, address_id, route_id

    def varint(self) -> int:
        octets, at, number, shift = self._octets, self._at, 0, 0
        try:
            while (octet := octets[at]) > 127:
                number |= (octet & 127) << shift
                shift += 7
                at += 1
        except IndexError:
            raise self._damage() from None
        self._at = at + 1
        return number | octet << shift

    def zigzag(self) -> int:
        number = self.varint()
        return -(number + 1 >> 1) if number & 1 else number >> 1

    def text(self, is_there: int) -> bytes | None:
        return self._taken(self.varint()) if is_there else None

    def _taken(self, count: int) -> bytes:
        taken = self._octets[self._at : self._at + count]
        self._at += count
        if len(taken) < count:
            raise self._damage()
        return taken

    def _damage(self) -> ValueError:
        return ValueError(f"stored {self._what} are damaged: they end too early")
