"""What comes over a connection, packet by packet: macros are kept, the other packets handed out.

Promises: macros belong to the stage that they were told at; those of a stage take the place of what
it had, and what an earlier stage told counts before what a later one did.  Octets that are no
packets, and macros without end, are refused before anything of them is kept.

The twin of `_incoming.c`, which runs wherever a compiler was at hand: half the packets of a message
are macros, and they took a seventh of what a message costs in Python.  This one can be read, works
without, and is what the compiled one is held against.

Raises: ValueError, with what is wrong, for what is not the protocol; UnicodeDecodeError for a value
that is no text.

Does not: know what a packet means, or in which order they come (`conversation` does).
"""

from __future__ import annotations

from typing import Final

from carbonseal.milter import packets

__all__ = ("NOTHING", "Incoming")

NOTHING: Final = -1  # no command: the next packet is not whole yet


class PlainIncoming:
    """One connection's."""

    __slots__ = ("_is_open", "_stages")

    def __init__(self) -> None:
        self._is_open = False
        self._stages: list[dict[bytes, bytes]] = [{} for _ in packets.STAGES]

    def open(self) -> None:
        """From now on macros are kept; before, they are packets like others."""
        self._is_open = True

    def next(self, octets: bytes, at: int, /) -> tuple[int, int, bytes]:
        """The next packet of `octets` from `at` on: its command, where it ends, its payload.

        Macros before it are kept.  `NOTHING`, and where the part of a packet begins, at the end.
        """
        size = len(octets)
        while size - at >= packets.HEAD:
            (length,) = packets.LENGTH.unpack_from(octets, at)
            if not 0 < length <= packets.LONGEST + 1:
                raise ValueError(f"a packet of {length} octets")
            end = at + packets.PREFIX + length
            if end > size:
                break
            command, payload = octets[at + packets.PREFIX], octets[at + packets.HEAD : end]
            at = end
            if command != packets.MACROS or not self._is_open:
                return command, at, payload
            self.keep(payload)
        return NOTHING, at, b""

    def keep(self, payload: bytes) -> None:
        """The payload of a packet of macros.  Raises: ValueError, and then nothing of it is."""
        stage = packets.STAGES.get(payload[0]) if payload else None
        if stage is None:
            return
        if len(payload) > packets.MOST_OF_MACROS or payload.count(b"\0") > 2 * packets.MOST_MACROS:
            # They decide, so none is dropped: without the login or the resolved address the message
            # would be judged as another.
            raise ValueError("more macros than an MTA has")
        pieces = payload[1:].split(b"\0")
        self._stages[stage] = dict(zip(pieces[::2], pieces[1::2], strict=False))

    def macro(self, name: str, /) -> str | None:
        """A macro's value, None where the MTA gave none.  Raises: UnicodeDecodeError."""
        sought = name.encode()
        # `i` and `{i}` are one macro (MILTER_README).
        other = b"{%b}" % sought if len(sought) == 1 else sought
        for stage in self._stages:
            value = stage.get(sought, stage.get(other))
            if value is not None:
                return value.decode()
        return None

    def forget_after(self, command: int, /) -> None:
        """What stages after that of `command` told belongs to an earlier message."""
        for stage in self._stages[packets.STAGES[command] + 1 :]:
            stage.clear()

    def forget_all(self) -> None:
        """Another client comes over the same connection."""
        for stage in self._stages:
            stage.clear()


try:
    from carbonseal.milter._incoming import Incoming
except ImportError:
    Incoming = PlainIncoming  # type: ignore[misc,assignment]
