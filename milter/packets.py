"""Packets of the milter protocol, version 6, as they stand on the wire, and its numbers.

A packet is a 32-bit length in network order, one command octet and a payload; the length counts the
command octet.  Strings end in NUL.  Source: mfapi.h and mfdef.h of libmilter, and the protocol's
description in Postfix (README_FILES/MILTER_README).

Raises: ValueError for a text of ours that holds a NUL or is none in UTF-8: the MTA would read it
cut, and take what follows for the next.

Does not: know the order of packets (`conversation` does), read or write sockets.
"""

from __future__ import annotations

import struct
from typing import Final

VERSION: Final = 6
OLDEST: Final = 2
LENGTH: Final = struct.Struct(">I")
PREFIX: Final = 4  # octets of the length
HEAD: Final = 5  # octets before the payload
LONGEST: Final = 96 * 1024  # of the payload; a piece of the body has 65,535, Postfix's fields less
# Of one stage.  Postfix knows some forty macros, the longest of them names in certificates, and
# sendmail takes fifty.
MOST_MACROS: Final = 256
MOST_OF_MACROS: Final = 32 * 1024  # octets of the payload

# What the MTA tells.
ABORT, BODY, CONNECT, MACROS, END, HELO = b"ABCDEH"
QUIT_NC, FIELD, MAIL, END_OF_HEADER, OFFER, QUIT = b"KLMNOQ"
RCPT, DATA, UNKNOWN = b"RTU"
# What a callback of a session answers (SMFIS_*).
CONTINUE, REJECT, DISCARD, ACCEPT, TEMPFAIL, NOREPLY = 0, 1, 2, 3, 4, 7
# What is answered, by what a callback says.
_ANSWERS: Final = {CONTINUE: b"c", REJECT: b"r", DISCARD: b"d", ACCEPT: b"a", TEMPFAIL: b"t"}
_REPLIES: Final = {REJECT: b"5", TEMPFAIL: b"4"}  # the first digit that a text of one's own needs
# In the order in which a macro is looked for: what CONNECT told counts before what RCPT did.
STAGES: Final = {
    stage: at for at, stage in enumerate((CONNECT, HELO, MAIL, RCPT, DATA, END_OF_HEADER, END))
}
_OFFER = struct.Struct(">III")
_INSERT = struct.Struct(">IcI")
_POSITION = 5  # octets of the command and the position


def framed(command: bytes, payload: bytes = b"") -> bytes:
    """One packet."""
    return LENGTH.pack(len(payload) + 1) + command + payload


def _string(text: str) -> bytes:
    octets = text.encode()
    if 0 in octets:
        raise ValueError("a text for the MTA holds a NUL")
    return octets + b"\0"


def _both(one: str, other: str) -> bytes:
    """As `_string`, at one go: each message has such pairs."""
    octets = f"{one}\0{other}\0".encode()
    if octets.count(0) != 2:
        raise ValueError("a text for the MTA holds a NUL")
    return octets


def offer(payload: bytes) -> tuple[int, int, int] | None:
    """Version, actions and protocol of the MTA; None where it is none, or too old to serve."""
    if len(payload) < _OFFER.size:
        return None
    version, actions, protocol = _OFFER.unpack_from(payload)
    return None if version < OLDEST else (version, actions, protocol)


def agreed(version: int, actions: int, protocol: int, lists: list[tuple[int, str]]) -> bytes:
    """The answer to an offer; `lists` are the macros wanted at a stage, by SMFIM_* number."""
    wanted = b"".join(LENGTH.pack(stage) + _string(names) for stage, names in lists)
    return framed(b"O", _OFFER.pack(min(version, VERSION), actions, protocol) + wanted)


def inserted_field(name: str, value: str, position: int) -> bytes:
    """Insert a header field; `value` with its leading space."""
    field = _both(name, value)
    return _INSERT.pack(len(field) + _POSITION, b"i", position) + field


def added_recipient(address: str, parameters: str | None) -> bytes:
    """Add a recipient, in angle brackets, with ESMTP parameters where there are any."""
    if parameters is None:
        return framed(b"+", _string(address))
    return framed(b"2", _both(address, parameters))


def reply(code: str, enhanced: str, text: str) -> bytes:
    """What the client is told, as `answer` takes it."""
    return _string(f"{code} {enhanced} {text}")


def answer(said: int, told: bytes | None) -> bytes:
    """What a callback said, with a reply of its own where that fits (SMFIS_REJECT, TEMPFAIL)."""
    if told and told[:1] == _REPLIES.get(said):
        return framed(b"y", told)
    return framed(_ANSWERS[said])


def strings(payload: bytes) -> list[bytes] | None:
    """The strings of a payload; None where it does not end as it must, or has none."""
    return payload[:-1].split(b"\0") if payload[-1:] == b"\0" else None


def peer(payload: bytes) -> tuple[bytes, int, object] | None:
    """Name, family and address of CONNECT, as pymilter gives them; None where it is broken."""
    name, end, rest = payload.partition(b"\0")
    family = rest[:1]
    if end and family == b"U":
        return name, 0, None
    if len(rest) < 4 or rest[-1:] != b"\0" or family not in b"46L":
        return None
    port = int.from_bytes(rest[1:3])
    address = rest[3:-1].decode("utf-8", "surrogateescape")
    if family == b"L":
        return name, 1, address
    return (name, 2, (address, port)) if family == b"4" else (name, 10, (address, port, 0, 0))
