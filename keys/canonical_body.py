"""The canonical form of a body, and what can be measured on the way, in plain Python.

Promises: for any division of the body into chunks, what `take` and `finish` feed is the canonical
form of RFC 6376 section 3.4.3 (simple) or 3.4.4 (relaxed).  Time is linear in the octets seen (a
megabyte of spaces on one line included), memory is that of a few chunks, and there is no Python
loop over octets: chunks come from anybody who can send mail.

A body whose last line has no CRLF is treated as if it had one, white space before it ignored: that
is how it leaves, because SMTP ends each body with CRLF.  Bare CR and bare LF are octets like all
others; what to do about them is decided above.

The twin of `_body_hash.c`, which runs wherever a compiler was at hand.  This one can be read,
works without, and is what the compiled one is held against.
"""

from __future__ import annotations

from collections.abc import Callable

Feed = Callable[[bytes | memoryview], object]  # takes canonical octets; keeps no reference to them

_CRLF = b"\r\n"
_BLOCK = 8192  # pending empty lines are fed in blocks of this many, not all at once


class CanonicalBody:
    """One message body under one canonicalization."""

    __slots__ = (
        "_bare",
        "_eight_bit",
        "_empty_lines",
        "_ends_in_cr",
        "_held",
        "_longest",
        "_open_line",
        "_relaxed",
        "_size",
        "_started",
    )

    def __init__(self, *, relaxed: bool) -> None:
        self._relaxed = relaxed
        self._held = b""  # an end whose meaning the next chunk decides: SP, CR or SP CR
        self._empty_lines = 0  # CRLFs seen after the last octet that was fed
        self._started = False  # something but CRLFs was fed
        self._size = 0
        self._longest = 0  # octets of a line without CRLF
        self._open_line = 0  # octets of the line that the last chunk left unfinished
        self._eight_bit = False
        self._bare = False  # a CR or LF that stands alone was seen
        self._ends_in_cr = False  # the last chunk did; the LF may be in the next one

    def take(self, chunk: bytes, feed: Feed) -> None:
        """Take the next octets of the body, and feed what is now certain of its canonical form."""
        self._measure(chunk)
        data = self._held + chunk
        if self._relaxed:
            data = _reduce_white_space(data)
        data, self._held = _hold_back(data, self._relaxed)
        if data:
            self._feed(data, feed)

    def finish(self, feed: Feed) -> None:
        """Feed what ends the canonical form if nothing follows; more may be taken after."""
        started = self._started
        if self._held and not (self._relaxed and self._held == b" "):
            _repeat_crlf(feed, self._empty_lines)
            feed(self._held)
            started = True
        # 3.4.3: "If there is no body or no trailing CRLF on the message body, a CRLF is added";
        # 3.4.4 adds it only when the body is not empty.
        if started or not self._relaxed:
            feed(_CRLF)

    def facts(self) -> tuple[int, int, bool, bool]:
        """So far: octets, octets of the longest line, is it 8-bit, has it bare CR or LF."""
        longest = max(self._longest, self._open_line)
        return self._size, longest, self._eight_bit, self._bare or self._ends_in_cr

    def _measure(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if not self._eight_bit and not chunk.isascii():
            self._eight_bit = True
        self._look_for_bare_line_ends(chunk)
        lengths = [len(line) for line in chunk.split(b"\n")]
        lengths[0] += self._open_line
        self._open_line = lengths.pop()
        if lengths:
            # Each line still carries its CR here.
            self._longest = max(self._longest, max(lengths) - 1)

    def _look_for_bare_line_ends(self, chunk: bytes) -> None:
        if self._bare or not chunk:
            return
        pairs = chunk.count(_CRLF)
        line_feeds = chunk.count(b"\n")
        returns = chunk.count(b"\r")
        if self._ends_in_cr:
            # Its LF opens this chunk, or it stands alone.
            returns += 1
            pairs += chunk[0] == 0x0A
        self._ends_in_cr = chunk[-1] == 0x0D
        self._bare = not pairs == line_feeds == returns - self._ends_in_cr

    def _feed(self, data: bytes, feed: Feed) -> None:
        """Feed `data` but for the CRLFs at its end, which may turn out to end the body."""
        text = data.rstrip(_CRLF)
        # The stripped end may hold bare CR and LF too; only CRLF pairs at the very end are lines.
        marked = data[len(text) :].replace(_CRLF, b"$")
        stray = marked.rstrip(b"$")
        lines = len(marked) - len(stray)
        if not text and not stray:
            self._empty_lines += lines
            return
        _repeat_crlf(feed, self._empty_lines)
        feed(data[: len(data) - 2 * lines])
        self._empty_lines = lines
        self._started = True


def _reduce_white_space(data: bytes) -> bytes:
    """Runs of SP and HTAB become one SP, and none is left before CRLF."""
    data = data.replace(b"\t", b" ")
    while b"  " in data:  # each turn halves the runs: at most log2(len) turns
        data = data.replace(b"  ", b" ")
    return data.replace(b" \r\n", _CRLF)


def _hold_back(data: bytes, relaxed: bool) -> tuple[bytes, bytes]:
    if data.endswith(b"\r"):
        end = 2 if relaxed and data.endswith(b" \r") else 1
    else:
        end = 1 if relaxed and data.endswith(b" ") else 0
    return (data[:-end], data[-end:]) if end else (data, b"")


def _repeat_crlf(feed: Feed, count: int) -> None:
    blocks, rest = divmod(count, _BLOCK)
    for _ in range(blocks):
        feed(_CRLF * _BLOCK)
    if rest:
        feed(_CRLF * rest)
