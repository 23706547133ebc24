"""The header section of one message on its way in: field by field, as the MTA hands it over.

Promises: fields stand in order, values exactly as received; beyond `MAX_FIELDS` or
`MAX_HEADER_OCTETS` none is kept, and the section says so.  `field` is libmilter's callback of every
field of every message: a fault in it reaches `Session.fail`, and the MTA its usual answer.
`fields` does for `conversation` what `field` does, for a run of packets at once.  Names are found
without regard to case, by the rules of `str.lower`.

The twin of `_header_section.c`, which runs wherever a compiler was at hand: a field costs a third
there, its packets a tenth, and letters have thirty.  This one can be read, works without, and is
what the compiled one is held against.

Does not: know what a name or a value means, judge what is not the protocol (`conversation` does).
"""

from __future__ import annotations

from typing import Any

from carbonseal.milter import packets

__all__ = ("MAX_FIELDS", "MAX_HEADER_OCTETS", "MAX_JOINED", "HeaderSection", "field", "fields")

# Far beyond any letter.  Without a bound one client could fill a worker's memory: a field of two
# octets costs some 275 here (measured with 400,000 of them).
MAX_FIELDS = 20_000
MAX_HEADER_OCTETS = 8 * 1024 * 1024
MAX_JOINED = 1024  # octets of names that are handed out as one piece of text
_FIELD = bytes((packets.FIELD,))


class PlainHeaderSection:
    """The fields so far."""

    __slots__ = ("fields", "is_oversized", "longest", "size")

    def __init__(self) -> None:
        self.fields: list[tuple[str, bytes]] = []  # in order, values exactly as received
        self.size = 0  # octets as it goes out
        self.longest = 0  # name and value of the longest field, without what stands around them
        self.is_oversized = False  # there were more fields than are kept

    def add(self, name: str, value: bytes, /) -> None:
        """One header field: the value with its leading space and LF folding."""
        if len(self.fields) >= MAX_FIELDS or self.size >= MAX_HEADER_OCTETS:
            self.is_oversized = True
            return
        self.fields.append((name, value))
        # Colon, CRLF, and one CR for every folding that the MTA shows as a bare LF.
        length = len(name) + len(value)
        self.longest = max(self.longest, length)
        self.size += length + 3 + value.count(b"\n")

    def values(self, name: str, /) -> list[bytes]:
        """Values of all fields called `name` (lower case), top to bottom."""
        return [value for given, value in self.fields if given.lower() == name]

    def joined_names(self) -> str | None:
        """The lower-case names of all fields, top to bottom, with a line end between two.

        None where that has no one reading, or is long or no ASCII: then take them one by one.
        """
        joined = "\n".join([name for name, _ in self.fields])
        is_one_to_one = joined.count("\n") == len(self.fields) - 1
        is_short = len(joined) <= MAX_JOINED and joined.isascii()
        return joined.lower() if is_short and is_one_to_one else None


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


def plain_fields(session: Any, octets: bytes, at: int, /) -> int:
    """Take header fields out of `octets`, from the packet at `at` on, into `session.header`.

    Returns where it stopped: at the end, or at the first packet that is incomplete, broken or
    tells something else.  Macros before a field are part of the run; nobody can ask for them.
    """
    size = len(octets)
    while size - at >= packets.HEAD:
        (length,) = packets.LENGTH.unpack_from(octets, at)
        end = at + packets.PREFIX + length
        if end > size or not length:
            break
        command, payload = octets[at + packets.PREFIX], octets[at + packets.HEAD : end]
        if command == packets.FIELD:
            name, _, value = payload.partition(b"\0")
            if value[-1:] != b"\0":
                break
            try:
                text = name.decode()
            except UnicodeDecodeError:
                break
            try:
                if session.header is not None:
                    session.header.add(text, value[:-1])
            except Exception as fault:
                session.fail("field", fault)
        elif command != packets.MACROS or payload[:1] != _FIELD:
            break
        at = end
    return at


try:
    from carbonseal.milter._header_section import HeaderSection, field, fields
except ImportError:
    HeaderSection, field = PlainHeaderSection, plain_field  # type: ignore[misc,assignment]
    fields = plain_fields
