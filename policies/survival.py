"""Will a signature survive what Postfix does after the milter?

Promises: from facts counted while the message streamed by, says whether smtp(8) is sure to break a
signature (a signed line over 998 octets is cut with CRLF SPACE, smtp_proto.c, measured; verifiers
read CR and LF that stand alone differently, measured with three of them) or only might (8-bit
content that a next hop without 8BITMIME has re-encoded).

Does not: know the next hop, or change the message.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from carbonseal.policies.reason import Reason

_EIGHT_BIT = Reason("eight-bit-content")  # made once, as much mail has it
LINE_LIMIT = 998  # octets without CRLF: RFC 5321 section 4.5.3.1.6, smtp_line_length_limit


class BodyFacts(NamedTuple):
    """What was counted in the body."""

    size: int  # octets as the MTA will send them
    longest_line: int  # octets without CRLF
    is_eight_bit: bool
    has_bare_line_ends: bool = False  # CR or LF that are not CRLF


def longest_field_line(name: str, value: bytes) -> int:
    """Octets of the longest line of one header field as it goes out (value folded with LF)."""
    first, _, rest = value.partition(b"\n")
    longest = len(name) + 1 + len(first)
    if rest:
        longest = max(longest, max(map(len, rest.split(b"\n"))))
    return longest


def broken_by(body: BodyFacts, field_lines: Iterable[tuple[str, int]]) -> Reason | None:
    """Why a signature over these signed fields and body is sure to break; None when it is not."""
    if body.longest_line > LINE_LIMIT:
        return Reason("line-too-long", f"body, {body.longest_line} octets")
    if body.has_bare_line_ends:
        return Reason("bare-line-ends")
    for name, length in field_lines:
        if length > LINE_LIMIT:
            return Reason("line-too-long", f"{name}, {length} octets")
    return None


def endangered_by(body: BodyFacts, other_signatures: Sequence[bytes]) -> list[Reason]:
    """Why a signature might break on its way or not be read; empty when nothing speaks against it.

    `other_signatures` are the values of the DKIM-Signature fields that are there already: OpenDKIM
    gives up on a message with a malformed one and never reads ours (measured on 2.11).
    """
    dangers = [_EIGHT_BIT] if body.is_eight_bit else []
    if other_signatures and not all(map(_is_signature, other_signatures)):
        dangers.append(Reason("malformed-signature-present"))
    return dangers


def _is_signature(value: bytes) -> bool:
    tags = {part.partition(b"=")[0].strip() for part in value.split(b";")}
    return {b"v", b"a", b"b", b"bh", b"d", b"h", b"s"} <= tags
