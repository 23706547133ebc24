"""The header section of one message on its way in: field by field, as the MTA hands it over.

Promises: fields stand in order, values exactly as received; beyond `MAX_FIELDS` or
`MAX_HEADER_OCTETS` none is kept, and the section says so.  `field` is libmilter's callback of every
field of every message: a fault in it reaches `Session.fail`, and the MTA its usual answer.

The twin of `_header_section.c`, which runs wherever a compiler was at hand: a field costs a third
there, and letters have thirty.  This one can be read, works without, and is what the compiled one
is held against.

Does not: look at names or values.
"""

from __future__ import annotations

from typing import Any

__all__ = ("MAX_FIELDS", "MAX_HEADER_OCTETS", "HeaderSection", "field")

# Far beyond any letter.  Without a bound one client could fill a worker's memory: a field of two
# octets costs some 275 here (measured with 400,000 of them).
MAX_FIELDS = 20_000
MAX_HEADER_OCTETS = 8 * 1024 * 1024


class PlainHeaderSection:
    """The fields so far."""

    __slots__ = ("fields", "is_oversized", "size")

    def __init__(self) -> None:
        self.fields: list[tuple[str, bytes]] = []  # in order, values exactly as received
        self.size = 0  # octets as it goes out
        self.is_oversized = False  # there were more fields than are kept

    def add(self, name: str, value: bytes, /) -> None:
        """One header field: the value with its leading space and LF folding."""
        if len(self.fields) >= MAX_FIELDS or self.size >= MAX_HEADER_OCTETS:
            self.is_oversized = True
            return
        self.fields.append((name, value))
        # Colon, CRLF, and one CR for every folding that the MTA shows as a bare LF.
        self.size += len(name) + len(value) + 3 + value.count(b"\n")


def plain_field(context: Any, name: str, value: bytes, /) -> int:
    """One header field of the message that the session in `context` is at, if it is at one."""
    session = context.getpriv()
    answer: int = session.field_answer
    try:
        if session.header is not None:
            session.header.add(name, value)
    except Exception as fault:
        session.fail("field", fault)
    return answer


try:
    from carbonseal.milter._header_section import HeaderSection, field
except ImportError:
    HeaderSection, field = PlainHeaderSection, plain_field  # type: ignore[misc,assignment]
