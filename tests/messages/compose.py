"""How the corpus writes messages and cases: a standard letter, and envelopes by crossing.

Promises: `letter` keeps the octets of every field it is given; `case` fills in what is usual for
the crossing, so that a case shows only what is odd about it.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from functools import partial

from messages.case import Case, Crossing, Expect, Smtp, Via

CRLF = b"\r\n"
ARCHIVE = b"archive@archive.example.net"
TEXT = b"Dear Bob,\r\n\r\nthe figures are ready.\r\n\r\n-- \r\nAlice\r\n"

_STANDARD = (
    b"From: Alice Archer <alice@example.com>",
    b"To: Bob <bob@partner.example>",
    b"Subject: Figures of the third quarter",
    b"Date: Fri, 20 Nov 2026 09:15:00 +0100",
    b"Message-ID: <20261120.091500.4711@example.com>",
    b"MIME-Version: 1.0",
    b"Content-Type: text/plain; charset=us-ascii",
)
_ENDS: dict[Crossing, tuple[bytes, bytes]] = {
    "internal": (b"alice@example.com", b"bob@example.com"),
    "outbound": (b"alice@example.com", b"bob@partner.example"),
    "inbound": (b"carol@partner.example", b"bob@example.com"),
    "transit": (b"carol@partner.example", b"dave@remote.test"),
}


def letter(*own: bytes, without: str = "", body: bytes = TEXT) -> bytes:
    """The standard letter; fields of `own` take the place of those of the same name.

    A field of `own` is 'Name: value' without its last CRLF.  `without`: names left out.
    """
    replaced = {_name(one): [] for one in own}  # type: dict[bytes, list[bytes]]
    for one in own:
        replaced[_name(one)].append(one)
    left_out = {name.encode() for name in without.lower().split()}
    fields: list[bytes] = []
    for standard in _STANDARD:
        name = _name(standard)
        if name not in left_out:
            fields += replaced.pop(name, [standard])
    fields += [one for several in replaced.values() for one in several]
    return section(*fields, body=body)


def section(*fields: bytes, body: bytes = TEXT) -> bytes:
    """A message of exactly these fields, an empty line and the body."""
    return b"".join(one + CRLF for one in fields) + CRLF + body


def _name(one: bytes) -> bytes:
    return one.partition(b":")[0].strip().lower()


def mime(content_type: bytes, encoding: bytes = b"") -> tuple[bytes, ...]:
    """Content-Type, and Content-Transfer-Encoding when there is one."""
    kind = b"Content-Type: " + content_type
    return (kind, b"Content-Transfer-Encoding: " + encoding) if encoding else (kind,)


def part(content_type: bytes, content: bytes, *fields: bytes) -> bytes:
    """One part of a multipart body."""
    return section(b"Content-Type: " + content_type, *fields, body=content)


def multipart(boundary: bytes, *parts: bytes, preamble: bytes = b"", end: bytes = b"--") -> bytes:
    """A multipart body; `end` b'' leaves the last delimiter open."""
    opened = b"".join(b"--" + boundary + CRLF + one + CRLF for one in parts)
    return preamble + opened + b"--" + boundary + end + CRLF


def base64_lines(octets: bytes) -> bytes:
    """Base64 in lines of 76 with CRLF."""
    return base64.encodebytes(octets).replace(b"\n", CRLF)


def numbered_lines(size: int, width: int = 72) -> bytes:
    """Text of at least `size` octets in different lines of `width` octets, CRLF included."""
    fill = b"the quick brown fox jumps over the lazy dog "
    line = (fill * (width // len(fill) + 1))[: width - 12]
    return b"".join(b"%09d %b\r\n" % (at, line) for at in range(size // width + 1))


def case(
    name: str,
    about: str,
    *,
    covers: str,
    build: Callable[[], bytes],
    why: str | None = None,
    crossing: Crossing = "outbound",
    via: Via | None = None,
    login: str | None = None,
    reverse_path: bytes | None = None,
    to: Sequence[bytes] = (),
    parameters: Sequence[bytes] = (),
    copy: bool | None = None,
    smtp: Smtp = "250",
    verifies: bool = True,
    reasons: str = "",
    note: str = "",
) -> Case:
    """A case that is signed unless `why` or `smtp` says otherwise, and copied when it crosses.

    Without `via` inbound mail comes from outside and all other mail from the inside network.
    """
    usual_path, usual_recipient = _ENDS[crossing]
    is_taken = smtp == "250"
    return Case(
        id=name,
        about=about,
        covers=tuple(covers.split()),
        via=via or ("outside" if crossing == "inbound" else "inside"),
        login=login,
        reverse_path=usual_path if reverse_path is None else reverse_path,
        recipients=tuple(to) or (usual_recipient,),
        mail_parameters=tuple(parameters),
        build=build,
        expect=Expect(
            signed=why is None and is_taken,
            why_unsigned=why,
            crossing=crossing,
            copy=(crossing != "internal" and is_taken) if copy is None else copy,
            smtp=smtp,
            verifies=verifies,
            reasons=tuple(reasons.split()),
            note=note,
        ),
    )


def subject(
    name: str,
    value: bytes,
    about: str,
    *,
    covers: str,
    why: str | None = None,
    note: str = "",
) -> Case:
    """A letter with this Subject value (after its colon)."""
    build = partial(letter, b"Subject:" + value)
    return case(name, about, covers=covers, build=build, why=why, note=note)
